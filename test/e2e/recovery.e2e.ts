/**
 * The crash matrix: the daemon dies at any instruction, and the next one finds the truth and leaves nothing
 * (docs/RELIABILITY.md).
 */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { readdir, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, type Pod, podConfig, waitFor } from './cri-client.ts';
import { BERTH, IMAGE, logLines, mountsBelow, processes, TestNode } from './harness.ts';
import { cgroupOfKubelet } from './node-cgroups.ts';

const WRITER = 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done';

describe('a daemon that is killed', function () {
  this.timeout(120_000);
  let node: TestNode;
  beforeEach(async () => {
    node = await TestNode.boot();
  });
  afterEach(async function () {
    await node.closeAfter(this.currentTest);
  });

  it('costs no container, no log line and no exit code (K6, K8)', async () => {
    const { cri } = node;
    const pods: Pod[] = await Promise.all(Array.from({ length: 5 }, () => cri.runPod()));
    const writers: string[] = [];
    for (const pod of pods)
      for (let i = 0; i < 2; i++) writers.push(await cri.runContainer(pod, IMAGE, { command: ['sh', '-c', WRITER] }));
    const ending: { id: string; code: number }[] = [];
    for (const [code, pod] of pods.entries()) {
      const id = await cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', `while [ ! -e /go ]; do sleep 0.02; done; exit ${code + 40}`],
      });
      ending.push({ id, code: code + 40 });
    }
    await node.kill();
    // The containers that are to end while nobody watches are told so from outside: their upper directories are ours.
    for (const { id } of ending) await writeFile(join(node.dir, 'root/rootfs', id, 'merged/go'), '');
    await waitFor(
      () => readdir(join(node.dir, 'run/exits')),
      (exits) => ending.every(({ id }) => exits.includes(id)),
      'the exit files',
    );
    await node.start();
    for (const id of writers) assert.strictEqual((await cri.container(id)).state, 'CONTAINER_RUNNING');
    for (const { id, code } of ending) assert.strictEqual((await cri.container(id)).exitCode, code);
    for (const id of writers) {
      const { logPath } = await cri.container(id);
      const before = (await logLines(logPath)).length;
      await waitFor(
        () => logLines(logPath),
        (lines) => lines.length > before + 5,
        'the log to go on',
      );
      await cri.rpc.stopContainer({ containerId: id, timeout: 0n });
      const lines = await logLines(logPath);
      assert.deepEqual(
        lines,
        lines.map((_, i) => `stdout F line ${i}`),
      );
    }
  });

  it('loses no line of a log that is rotated while it is down, and reopens it after the start (K9)', async () => {
    const { cri } = node;
    const id = await cri.runContainer(await cri.runPod(), IMAGE, { command: ['sh', '-c', WRITER] });
    const { logPath } = await cri.container(id);
    const grows = async (path: string): Promise<void> => {
      const before = (await logLines(path)).length;
      await waitFor(
        () => logLines(path),
        (lines) => lines.length > before + 5,
        `${path} to grow`,
      );
    };
    await grows(logPath);
    await node.kill();
    // As the kubelet: it renames, asks for a new file, and is refused; this one dies before it could rename back.
    await rename(logPath, `${logPath}.1`);
    const refused = await cri.rpc.reopenContainerLog({ containerId: id }).catch((error: unknown) => error);
    assert.instanceOf(refused, CriError);
    assert.strictEqual((refused as CriError).codeName, 'Unavailable');
    assert.isFalse(existsSync(logPath), 'nobody makes the new file meanwhile');
    await grows(`${logPath}.1`);
    await node.start();
    await grows(`${logPath}.1`);
    await cri.rpc.reopenContainerLog({ containerId: id });
    await grows(logPath);
    await cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    const lines = [...(await logLines(`${logPath}.1`)), ...(await logLines(logPath))];
    assert.deepEqual(
      lines,
      lines.map((_, i) => `stdout F line ${i}`),
    );
  });

  it('leaves commands in containers running, and the next ends those that have had their time', async () => {
    const { cri } = node;
    const id = await cri.runContainer(await cri.runPod(), IMAGE, { command: ['sleep', '100000'] });
    const [limited, unlimited] = [`1${process.pid}1`, `1${process.pid}2`];
    const running = (seconds: string): number => processes(`sleep ${seconds}`).length;
    const began = performance.now();
    const lost = [cri.exec(id, ['sleep', limited], { timeoutSeconds: 3 }), cri.exec(id, ['sleep', unlimited])].map(
      (each) => each.then(() => 'answered', String),
    );
    await waitFor(
      () => running(limited) + running(unlimited),
      (count) => count === 2,
      'both to run',
    );
    await node.kill();
    assert.notInclude(await Promise.all(lost), 'answered');
    assert.deepEqual([running(limited), running(unlimited)], [1, 1]);
    await node.start();
    await waitFor(
      () => running(limited),
      (count) => count === 0,
      'the time of the one to be over',
    );
    assert.isAtLeast(performance.now() - began, 3_000);
    assert.strictEqual(running(unlimited), 1);
    assert.strictEqual((await cri.exec(id, ['echo', 'alive'])).stdout, 'alive\n');
    await cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    assert.strictEqual(running(unlimited), 0);
  });

  it('whose run root is wiped is followed by one that ends what ran, and leaves no cgroup (K22)', async () => {
    const { cri } = node;
    const foreign = cgroupOfKubelet(node.driver, `berth_e2e${process.pid}`);
    const namespaceOptions = { network: 'NODE', pid: 'POD', ipc: 'POD' } as const;
    const pods = [
      await cri.runPod({ linux: { securityContext: { namespaceOptions } } }),
      await cri.runPod({ linux: { cgroupParent: foreign.parent } }),
    ];
    const mark = `1000.${process.pid}`;
    const ids: string[] = pods.map(({ id }) => id);
    for (const pod of pods) ids.push(await cri.runContainer(pod, IMAGE, { command: ['sleep', mark] }));
    await waitFor(
      () => processes(`sleep ${mark}`),
      (found) => found.length === 2,
      'both to run',
    );
    const named = ids.flatMap((id) => ['-o', '-name', `*${id}*`]).slice(1);
    const cgroups = (): string[] =>
      execFileSync('find', ['/sys/fs/cgroup', '-type', 'd', ...named], { encoding: 'utf8' })
        .split('\n')
        .filter((line) => line !== '');
    assert.isNotEmpty(cgroups());
    await node.kill();
    for (const mount of mountsBelow(join(node.dir, 'run')).reverse()) execFileSync('umount', ['-l', mount]);
    await rm(join(node.dir, 'run'), { recursive: true });
    await node.start();
    assert.lengthOf((await cri.rpc.listPodSandbox()).items, 0);
    assert.lengthOf(processes(`sleep ${mark}`), 0);
    assert.deepEqual(cgroups(), []);
    foreign.remove();
  });

  it('keeps serving what was stopped, and removes what it had begun to remove', async () => {
    const pod = await node.cri.runPod();
    const id = await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'exit 9'] });
    await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
    await node.kill();
    await node.start();
    const status = await node.cri.container(id);
    assert.deepEqual([status.exitCode, status.reason], [9, 'Error']);
    assert.strictEqual((await node.cri.pod(pod.id)).state, 'SANDBOX_READY');
    const again = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    assert.deepEqual((await node.cri.exec(again, ['echo', 'alive'])).stdout, 'alive\n');
  });

  const points = [
    'sandbox.record.after',
    'sandbox.pin.after',
    'cni.add.before',
    'cni.intent.after',
    'cni.add.after',
    'cni.result.after',
    'sandbox.infra.created',
    'sandbox.infra.after',
    'container.record.after',
    'container.rootfs.after',
    'container.create.after',
    'container.starting.after',
    'container.start.after',
    'container.stopping.after',
    'container.exited.after',
    'sandbox.stopping.after',
    'cni.del.after',
    'sandbox.released.after',
    'container.removing.after',
    'container.destroy.before-record',
    'container.destroy.after-record',
    'sandbox.destroy.before-record',
    'sandbox.destroy.after-record',
  ];
  for (const point of points) {
    it(`leaves nothing when it dies at ${point}`, async () => {
      await node.restart({ BERTH_FAILPOINTS: `${point}=kill` });
      // Only a shared PID namespace has an infra container.
      const pid = point.startsWith('sandbox.infra') ? 'POD' : 'CONTAINER';
      const config = podConfig({
        linux: { securityContext: { namespaceOptions: { network: 'POD', pid, ipc: 'POD' } } },
      });
      const life = (async () => {
        const { podSandboxId } = await node.cri.rpc.runPodSandbox({ config });
        const id = await node.cri.runContainer({ id: podSandboxId, config }, IMAGE, { command: ['sleep', '1000'] });
        await node.cri.rpc.stopContainer({ containerId: id, timeout: 5n });
        await node.cri.rpc.removeContainer({ containerId: id });
        await node.cri.removePod(podSandboxId);
        throw new Error(`the failpoint ${point} was never reached`);
      })();
      const [outcome] = await Promise.all([
        life.then(
          () => undefined,
          (error: unknown) => error,
        ),
        node.died(),
      ]);
      assert.notInclude(String(outcome), 'never reached');
      await node.start();
      // The kubelet tries again with the same metadata, and gets a pod that works, whatever state the first one was in.
      for (const each of (await node.cri.rpc.listPodSandbox()).items)
        if (each.state === 'SANDBOX_NOTREADY') await node.cri.removePod(each.id);
      const { podSandboxId } = await node.cri.rpc.runPodSandbox({ config });
      const id = await node.cri.runContainer({ id: podSandboxId, config }, IMAGE, {
        metadata: { name: 'second', attempt: 1 },
        command: ['sleep', '1000'],
      });
      assert.strictEqual((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
    });
  }

  it('leaves no log of a container that it died making, by which a kubelet would count a restart', async () => {
    await node.restart({ BERTH_FAILPOINTS: 'container.create.after=kill' });
    const logs = join(node.dir, 'pod-logs');
    const pod = await node.cri.runPod({ logDirectory: logs });
    const made = node.cri.createContainer(pod, IMAGE).catch(() => 'died');
    await node.died();
    assert.strictEqual(await made, 'died');
    assert.lengthOf(await readdir(logs), 1);
    await node.start();
    assert.isEmpty(await readdir(logs));
    const refused = node.cri.createContainer(pod, IMAGE, { command: ['/is/not/there'] }).catch(() => 'refused');
    assert.strictEqual(await refused, 'refused');
    assert.isEmpty(await readdir(logs), 'nor of one that cannot be made');
    const id = await node.cri.runContainer(pod, IMAGE, { command: ['echo', 'said'] });
    const { logPath } = await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
    await node.cri.rpc.removeContainer({ containerId: id });
    assert.deepEqual(await logLines(logPath), ['stdout F said'], 'the log of one that ran stays');
  });

  it('loses only the object whose record is damaged (K19)', async () => {
    const pod = await node.cri.runPod();
    const kept = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const lost = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    await node.kill();
    await writeFile(join(node.dir, 'run/containers', lost, 'record.json'), '{"version":1,');
    await node.start();
    const { containers } = await node.cri.rpc.listContainers();
    assert.deepEqual(
      containers.map((each) => each.id),
      [kept],
    );
    assert.include(node.log, 'damaged');
    const { rm } = await import('node:fs/promises');
    await rm(join(node.dir, 'run/damaged'), { recursive: true });
  });

  it('can remove a pod whose network namespace was unmounted under it (K21)', async () => {
    const pod = await node.cri.runPod();
    await node.kill();
    const { execFileSync } = await import('node:child_process');
    execFileSync('umount', [join(node.dir, 'run/ns', pod.id, 'net')]);
    await node.start();
    assert.strictEqual((await node.cri.pod(pod.id)).state, 'SANDBOX_NOTREADY');
    await node.cri.removePod(pod.id);
  });

  it('says that a monitor has died whose container runs on, in its status and in its log (K7)', async () => {
    const pod = await node.cri.runPod();
    const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const { info } = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
    const { monitor } = JSON.parse(info['info'] ?? '{}') as { monitor: { pid: number } };
    process.kill(monitor.pid, 'SIGKILL');
    const status = await waitFor(
      () => node.cri.container(id),
      ({ reason }) => reason !== '',
      'the status to say so',
    );
    assert.deepEqual([status.state, status.reason], ['CONTAINER_RUNNING', 'MonitorLost']);
    const after = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
    assert.include(after.info['info'], `process ${monitor.pid}) is gone`);
    assert.include(node.log, 'a container has lost its monitor');
    const lines = await waitFor(
      () => logLines(status.logPath),
      (found) => found.length > 0,
      'the gap in the log',
    );
    assert.match(lines.at(-1) ?? '', /^stderr F berth: its monitor/);
    assert.strictEqual((await node.cri.exec(id, ['echo', 'alive'])).stdout, 'alive\n');
    await node.kill();
    await node.start();
    assert.strictEqual((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
    await node.cri.rpc.stopContainer({ containerId: id, timeout: 0n });
    assert.strictEqual((await node.cri.container(id)).exitCode, 255);
  });

  it('finishes when its monitor dies: exit code 255, never 0 (K7)', async () => {
    const pod = await node.cri.runPod();
    const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const { info } = await node.cri.rpc.containerStatus({ containerId: id, verbose: true });
    const { monitor, pid } = JSON.parse(info['info'] ?? '{}') as { monitor: { pid: number }; pid: number };
    process.kill(monitor.pid, 'SIGKILL');
    process.kill(pid, 'SIGKILL');
    const status = await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
    assert.deepEqual([status.exitCode, status.reason], [255, 'ContainerStatusUnknown']);
  });

  it('does not let a second daemon in', async () => {
    const second = spawn(BERTH, node.flags(), {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let said = '';
    second.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()));
    const [code] = (await once(second, 'exit')) as [number];
    assert.notStrictEqual(code, 0);
    assert.match(said, /another berth serves/);
    assert.strictEqual((await node.cri.rpc.version()).runtimeName, 'berth');
  });
});

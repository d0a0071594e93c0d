/**
 * The crash matrix: the daemon dies at any instruction, and the next one finds the truth and leaves nothing
 * (docs/RELIABILITY.md).
 */
import { assert } from 'chai';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { type Pod, podConfig, waitFor } from './cri-client.ts';
import { IMAGE, logLines, TestNode } from './harness.ts';

const WRITER = 'i=0; while :; do echo line $i; i=$((i+1)); sleep 0.01; done';

describe('a daemon that is killed', function () {
  this.timeout(120_000);
  let node: TestNode;
  beforeEach(async () => {
    node = await TestNode.boot();
  });
  afterEach(async function () {
    if (this.currentTest?.state === 'failed') await node.discard();
    else await node.close();
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
    'container.record.after',
    'container.rootfs.after',
    'container.create.after',
    'container.starting.after',
    'container.start.after',
    'container.stopping.after',
    'sandbox.stopping.after',
    'cni.del.after',
    'container.removing.after',
    'container.destroy.before-record',
    'sandbox.destroy.before-record',
  ];
  for (const point of points) {
    it(`leaves nothing when it dies at ${point}`, async () => {
      await node.restart({ BERTH_FAILPOINTS: `${point}=kill` });
      const config = podConfig();
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
    const second = spawn(new URL('../../build/bin/berth', import.meta.url).pathname, node.flags(), {
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

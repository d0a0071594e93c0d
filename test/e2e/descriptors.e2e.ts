/** A daemon that runs out of descriptors: calls fail and say so, the daemon lives, and later all is as it was (K17). */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { orphans } from '../../pkg/sys/index.ts';
import { CriError, podConfig, waitFor } from './cri-client.ts';
import { descriptorsOf, IMAGE, TestNode } from './harness.ts';

/** How many descriptors are free, from none to enough for everything. */
const FREE = [0, 1, 2, 3, 4, 5, 7, 9, 12, 18, 30];

describe('a daemon that runs out of descriptors (K17)', function () {
  this.timeout(180_000);
  let node: TestNode;
  beforeEach(async () => {
    node = await TestNode.boot();
  });
  afterEach(async function () {
    await node.closeAfter(this.currentTest);
  });

  const limit = (count: number | string, pid: number): void => {
    execFileSync('prlimit', ['--pid', `${pid}`, `--nofile=${count}:`], { stdio: 'ignore' });
  };
  const softLimit = (pid: number): string =>
    /^Max open files\s+(\d+)/m.exec(readFileSync(`/proc/${pid}/limits`, 'utf8'))?.[1] ?? '';

  it('cannot look for strays, and looks again instead of throwing from a timer (K17)', () => {
    const fill: number[] = [];
    orphans.reap(); // The addon is loaded when it is first used.
    const child = spawn('true');
    // Node takes its child only when we let go.
    while (!/^State:\s+Z/m.test(readFileSync(`/proc/${child.pid}/status`, 'utf8')));
    const soft = softLimit(process.pid);
    limit(readdirSync('/proc/self/fd').length + 32, process.pid);
    let left: number;
    try {
      for (;;) fill.push(openSync('/dev/null', 'r'));
    } catch {
      left = orphans.reap();
    } finally {
      for (const fd of fill) closeSync(fd);
      limit(soft, process.pid);
    }
    assert.isAtLeast(left, 1);
  });

  it('fails calls with the reason, lives, and leaves nothing of them (K17)', async () => {
    const { rpc } = node.cri;
    const soft = softLimit(node.pid);
    const pod = await node.cri.runPod();
    const running = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
    const config = podConfig();
    const outcomes = new Set<string>();
    const calls: Readonly<Record<string, () => Promise<unknown>>> = {
      RunPodSandbox: () => rpc.runPodSandbox({ config }),
      CreateContainer: () => node.cri.createContainer(pod, IMAGE, { metadata: { name: 'tight' }, command: ['true'] }),
      ExecSync: () => node.cri.exec(running, ['true']),
      Exec: () => rpc.exec({ containerId: running, cmd: ['true'], stdout: true }),
      ListContainerStats: () => rpc.listContainerStats(),
      ContainerStatus: () => rpc.containerStatus({ containerId: running, verbose: true }),
      ImageFsInfo: () => rpc.imageFsInfo(),
    };
    const tidy = async (): Promise<void> => {
      const { items } = await rpc.listPodSandbox();
      for (const { id } of items) if (id !== pod.id) await node.cri.removePod(id);
      const { containers } = await rpc.listContainers();
      for (const { id } of containers) if (id !== running) await rpc.removeContainer({ containerId: id });
    };
    const { pid } = node;
    // Statistics keep files of what runs, the client its connection.
    for (const call of Object.values(calls)) await call();
    await tidy();
    const before = await descriptorsOf(pid);
    for (const free of FREE) {
      limit((await descriptorsOf(pid)) + free, pid);
      for (const [name, call] of Object.entries(calls)) {
        const outcome = await call().then(
          () => 'ok',
          (error: unknown) => error,
        );
        outcomes.add(`${name} ${outcome === 'ok' ? 'ok' : 'fails'}`);
        if (outcome === 'ok') continue;
        assert.instanceOf(outcome, CriError, `${name} with ${free} free`);
        const { codeName, message } = outcome as CriError;
        assert.strictEqual(codeName, 'ResourceExhausted', `${name} with ${free} free: ${message}`);
        assert.include(message, 'raise LimitNOFILE', `${name} with ${free} free`);
      }
      assert.strictEqual((await rpc.version()).runtimeName, 'berth');
      limit(soft, pid);
      await tidy();
      assert.strictEqual((await node.cri.exec(running, ['echo', 'alive'])).stdout, 'alive\n', `after ${free}`);
    }
    assert.strictEqual(node.pid, pid);
    assert.strictEqual((await node.cri.container(running)).state, 'CONTAINER_RUNNING');
    await tidy();
    await waitFor(
      () => descriptorsOf(pid),
      (count) => count <= before + 3,
      'descriptors to be given back',
    );
    for (const name of ['RunPodSandbox', 'CreateContainer', 'ExecSync'])
      assert.includeMembers([...outcomes], [`${name} fails`, `${name} ok`]);
  });
});

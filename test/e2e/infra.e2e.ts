/** A pod with a PID namespace of its own: joined by descriptor, and not ready without the process that it lives by. */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { descriptorsOf, IMAGE, TestNode } from './harness.ts';

const SHARED = {
  linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'POD', ipc: 'POD' } } },
} as const;

for (const runtime of ['runc', 'crun'] as const) {
  describe(`a pod that shares its PID namespace (${runtime})`, function () {
    this.timeout(60_000);
    let node: TestNode;
    beforeEach(async () => {
      node = await TestNode.boot({ runtime });
    });
    afterEach(async function () {
      await node.closeAfter(this.currentTest);
    });

    async function infraOf(pod: string): Promise<number> {
      const { info } = await node.cri.rpc.podSandboxStatus({ podSandboxId: pod, verbose: true });
      return (JSON.parse(info['info'] ?? '{}') as { readonly pid: number }).pid;
    }

    it('has its containers in it, as has one whose client asks for no namespaces; no descriptor stays', async () => {
      const before = await descriptorsOf(node.pid);
      const pods = [await node.cri.runPod(SHARED), await node.cri.runPod({ linux: { securityContext: {} } })];
      for (const pod of pods) {
        const overrides = pod === pods[0] ? SHARED : {};
        const id = await node.cri.runContainer(pod, IMAGE, { ...overrides, command: ['sleep', '1000'] });
        assert.include((await node.cri.exec(id, ['cat', '/proc/1/cmdline'])).stdout, 'pause');
        await node.cri.removePod(pod.id);
      }
      await waitFor(
        () => descriptorsOf(node.pid),
        (now) => now <= before + 4,
        'its descriptors to be closed',
      );
    });

    for (const how of ['killed from outside', 'ended by root inside', 'dead while the daemon was']) {
      it(`is not ready when its infra process is ${how}, says why, and joins nobody else's namespace`, async () => {
        const pod = await node.cri.runPod(SHARED);
        const id = await node.cri.runContainer(pod, IMAGE, { ...SHARED, command: ['sleep', '1000'] });
        const infra = await infraOf(pod.id);
        if (how === 'ended by root inside') await node.cri.exec(id, ['sh', '-c', 'kill -TERM 1']).catch(() => {});
        else {
          if (how.startsWith('dead')) await node.kill();
          process.kill(infra, 'SIGKILL');
          if (how.startsWith('dead')) await node.start();
        }
        await node.cri.waitForPod(pod.id, 'SANDBOX_NOTREADY', { timeoutMs: 10_000 });
        const { info } = await node.cri.rpc.podSandboxStatus({ podSandboxId: pod.id, verbose: true });
        assert.include(info['info'], 'infra process has ended');
        const error = await node.cri.createContainer(pod, IMAGE, SHARED).catch((cause: unknown) => cause);
        assert.match(String(error), /is stopping|is gone/);
        await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
      });
    }
  });
}

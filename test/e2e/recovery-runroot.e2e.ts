/**
 * The run root is wiped while containers live (K22): somebody empties /run, or unmounts it. Nothing crashes, and what
 * still runs is ended, though what described it is gone.
 */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { type Pod, podConfig, waitFor } from './cri-client.ts';
import { commandLines } from './crash-node.ts';
import { IMAGE, mountsBelow, TestNode } from './harness.ts';

for (const runtime of ['runc', 'crun'] as const) {
  describe(`a node whose run root is wiped while containers live (${runtime})`, function () {
    this.timeout(120_000);
    let node: TestNode;
    let pods: Pod[];
    const mark = `berth-wiped-${process.pid}-${runtime}`;
    beforeEach(async () => {
      node = await TestNode.boot({ runtime });
      pods = [
        await node.cri.runPod(),
        await node.cri.runPod({
          linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'POD', ipc: 'POD' } } },
        }),
      ];
      for (const pod of pods) {
        await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', 'while :; do sleep 1; done', mark] });
        await node.cri.createContainer(pod, IMAGE, { command: ['sh', '-c', 'exit', mark] });
      }
    });
    afterEach(async function () {
      await node.closeAfter(this.currentTest);
      for (const { pid } of living()) process.kill(Number(pid), 'SIGKILL');
    });

    const living = () => commandLines().filter(({ words }) => words.includes(mark));

    /** Everything below the run root but the socket, mounts first. */
    async function wipe(): Promise<void> {
      const run = join(node.dir, 'run');
      for (const path of mountsBelow(run).reverse()) execFileSync('umount', ['--lazy', path]);
      for (const name of await readdir(run)) await rm(join(run, name), { recursive: true });
    }

    /** Nothing of before is there, and the node can be used. */
    async function isNew(): Promise<void> {
      await waitFor(
        () => living().map(({ words }) => words.join(' ')),
        (found) => found.length === 0,
        'what ran to be ended',
      );
      await waitFor(
        () => node.leaks().filter((each) => !each.startsWith(`process ${node.pid} `)),
        (found) => found.length === 0,
        'nothing to be left of the pods',
      );
      const config = podConfig({ metadata: pods[0]?.config.metadata ?? {} });
      const { podSandboxId } = await node.cri.rpc.runPodSandbox({ config });
      const again = await node.cri.runContainer({ id: podSandboxId, config }, IMAGE, { command: ['sleep', '1000'] });
      assert.strictEqual((await node.cri.exec(again, ['echo', 'alive'])).stdout, 'alive\n');
    }

    it('and the daemon is down: the next one ends what runs (K22)', async () => {
      await node.kill();
      await wipe();
      await node.start();
      assert.deepEqual((await node.cri.rpc.listPodSandbox()).items, []);
      await isNew();
    });

    it('and the daemon lives: it answers, and removes what it knows (K22)', async () => {
      await wipe();
      assert.lengthOf((await node.cri.rpc.listPodSandbox()).items, 2);
      assert.lengthOf((await node.cri.rpc.listContainers()).containers, 4);
      await node.cri.removeAllPods();
      await isNew();
    });
  });
}

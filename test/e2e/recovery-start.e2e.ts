/**
 * A daemon that dies while it starts a container: the next one asks the runtime what is true. The container runs or
 * does not, is there once, and has its own exit code (K3).
 */
import { assert } from 'chai';
import { chmod, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { CriError, type Pod, waitFor } from './cri-client.ts';
import { IMAGE, processes, processesOf, TestNode } from './harness.ts';

/** Ends with 7 once it is told to, and forks nothing meanwhile; `mark` finds it in the process table. */
const script = (mark: string): string[] => ['sh', '-c', 'mkfifo /go; read line < /go; exit 7', mark];

for (const runtime of ['runc', 'crun'] as const) {
  describe(`a daemon that is killed while it starts a container (${runtime})`, function () {
    this.timeout(60_000);
    let node: TestNode;
    let pod: Pod;
    let marks = 0;
    beforeEach(async () => {
      node = await TestNode.boot({ runtime });
    });
    afterEach(async function () {
      await node.closeAfter(this.currentTest);
    });

    /** A pod with a created container, and the daemon dead at `failpoint` while it started that. */
    async function killedAt(failpoint: string): Promise<{ readonly id: string; readonly mark: string }> {
      await node.restart({ BERTH_FAILPOINTS: `${failpoint}=kill` });
      const mark = `berth-start-${process.pid}-${marks++}`;
      pod = await node.cri.runPod();
      const id = await node.cri.createContainer(pod, IMAGE, { metadata: { name: 'app' }, command: script(mark) });
      const started = node.cri.rpc.startContainer({ containerId: id }).then(
        () => 'it was started',
        () => 'died',
      );
      await node.died();
      assert.strictEqual(await started, 'died');
      await node.start();
      return { id, mark };
    }

    /** It runs, once, whatever a kubelet does next; then it ends with its own exit code. */
    async function runsOnce(id: string, mark: string): Promise<void> {
      const status = await node.cri.container(id);
      assert.strictEqual(status.state, 'CONTAINER_RUNNING');
      assert.isTrue(status.startedAt > 0n);
      assert.strictEqual((await node.cri.exec(id, ['echo', 'hi'])).stdout, 'hi\n');
      const again = await node.cri.rpc.startContainer({ containerId: id }).catch((error: unknown) => error);
      assert.instanceOf(again, CriError);
      assert.strictEqual(again.codeName, 'FailedPrecondition');
      const twin = await node.cri.createContainer(pod, IMAGE, { metadata: { name: 'app' }, command: script(mark) });
      assert.strictEqual(twin, id, 'the same request again finds it');
      assert.strictEqual((await node.cri.container(id)).state, 'CONTAINER_RUNNING');
      // A shell that forks is there twice for a moment; a second instance would stay.
      await waitFor(
        () => processes(script(mark).join(' ')),
        (found) => found.length === 1,
        'it to run once',
      );
      await writeFile(join(node.dir, 'root/rootfs', id, 'merged/go'), '\n');
      const ended = await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
      assert.deepEqual([ended.exitCode, ended.reason], [7, 'Error']);
    }

    it('finds it running after runtime start (container.start.after)', async () => {
      const { id, mark } = await killedAt('container.start.after');
      await runsOnce(id, mark);
    });

    it('finds it created before runtime start (container.starting.after), and starts it when asked', async () => {
      const { id, mark } = await killedAt('container.starting.after');
      assert.strictEqual((await node.cri.container(id)).state, 'CONTAINER_CREATED');
      assert.lengthOf(processes(script(mark).join(' ')), 0);
      await node.cri.rpc.startContainer({ containerId: id });
      await runsOnce(id, mark);
    });

    it('waits for a runtime that goes on with the start without it', async () => {
      const slow = join(node.dir, 'slow');
      await writeFile(slow, `#!/bin/sh\ncase " $* " in *" start "*) sleep 2;; esac\nexec ${runtime} "$@"\n`);
      await chmod(slow, 0o755);
      node.moreFlags = ['--runtimes', `slow:${slow}`];
      await node.restart();
      const mark = `berth-start-${process.pid}-${marks++}`;
      pod = await node.cri.runPod({}, { handler: 'slow' });
      const id = await node.cri.createContainer(pod, IMAGE, { metadata: { name: 'app' }, command: script(mark) });
      const started = node.cri.rpc.startContainer({ containerId: id }).catch(() => {});
      await waitFor(
        () => processesOf(slow).filter((each) => each.endsWith(' slow')),
        (found) => found.length > 0,
        'the runtime to start it',
      );
      await node.kill();
      await started;
      await node.start();
      await runsOnce(id, mark);
    });
  });
}

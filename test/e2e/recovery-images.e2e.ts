/**
 * A daemon that dies while an image comes or goes: the next one has the image whole or not at all, nothing that belongs
 * to nobody is left, and the same request again succeeds (K4).
 */
import { assert } from 'chai';
import { join } from 'node:path';
import { waitFor } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { buildImage, busybox, file, hardlink } from './images.ts';

const POINTS = [
  'rootfs.unpack.written',
  'rootfs.unpack.synced',
  'rootfs.unpack.renamed',
  'rootfs.settle.synced',
  'image.pull.commit',
  'image.remove.record',
] as const;

describe('a daemon that is killed while an image comes or goes', function () {
  this.timeout(60_000);
  let node: TestNode;
  let layout: { readonly path: string; readonly name: string };
  beforeEach(async () => {
    node = await TestNode.boot();
    const name = 'localhost/berth/crash:1';
    const built = await buildImage({
      directory: join(node.dir, 'built'),
      name,
      // The second layer wants a file of the first: it has to be settled on that.
      layers: [{ files: await busybox() }, { files: [file('/etc/own', 'x'), hardlink('/bin/other', '/bin/busybox')] }],
    });
    layout = { path: built.layout, name };
  });
  afterEach(async function () {
    if (this.currentTest?.state === 'failed') await node.discard();
    else await node.close();
  });

  const bring = (): Promise<unknown> => node.cri.rpc.import({ path: layout.path, reference: layout.name });
  const find = async (): Promise<'here' | 'gone'> =>
    (await node.cri.rpc.imageStatus({ image: { image: layout.name } })).image === undefined ? 'gone' : 'here';

  for (const point of POINTS) {
    it(`has it whole or not at all after it died at ${point}`, async () => {
      if (point.startsWith('image.remove')) await bring();
      await node.restart({ BERTH_FAILPOINTS: `${point}=kill` });
      const request = point.startsWith('image.remove')
        ? node.cri.rpc.removeImage({ image: { image: layout.name } })
        : bring();
      const [outcome] = await Promise.allSettled([request, node.died()]);
      assert.strictEqual(outcome.status, 'rejected', 'the failpoint was reached');
      await node.start();
      assert.strictEqual(await find(), 'gone');
      await waitFor(
        async () => (await node.cri.rpc.check({ repair: false })).problems,
        (problems) => problems.length === 0,
        'the store to be whole',
      );
      await bring();
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, layout.name, { command: ['sleep', '1000'] });
      assert.strictEqual((await node.cri.exec(id, ['sh', '-c', 'test -s /bin/other && cat /etc/own'])).stdout, 'x');
      await node.cri.removePod(pod.id);
      await node.cri.rpc.removeImage({ image: { image: layout.name } });
      assert.strictEqual(await find(), 'gone');
      assert.deepEqual((await node.cri.rpc.check({ repair: false })).problems, []);
    });
  }
});

/**
 * A daemon that dies while an image comes or goes: the next one has the image whole or not at all, nothing that belongs
 * to nobody is left, and the same request again succeeds (K4).
 */
import { assert } from 'chai';
import { mkdir, readdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { buildImage, busybox, file, hardlink, sha256 } from './images.ts';
import { artifactOf } from './raw-push.ts';

const POINTS = [
  'rootfs.unpack.written',
  'rootfs.unpack.synced',
  'rootfs.unpack.renamed',
  'rootfs.settle.synced',
  'image.pull.commit',
  'image.remove.record',
] as const;

/** Of an artifact nothing is unpacked. */
const ARTIFACT_POINTS = POINTS.filter((point) => point.startsWith('image.'));

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
    await node.closeAfter(this.currentTest);
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

  for (const point of ARTIFACT_POINTS) {
    it(`has an artifact whole or not at all after it died at ${point}`, async () => {
      const name = 'localhost/berth/model:1';
      const { path, digest } = await layArtifact(join(node.dir, 'artifact'), name);
      const bringIt = (): Promise<unknown> => node.cri.rpc.import({ path, reference: name });
      const isRemoval = point.startsWith('image.remove');
      if (isRemoval) await bringIt();
      await node.restart({ BERTH_FAILPOINTS: `${point}=kill` });
      const request = isRemoval ? node.cri.rpc.removeImage({ image: { image: name } }) : bringIt();
      const [outcome] = await Promise.allSettled([request, node.died()]);
      assert.strictEqual(outcome.status, 'rejected', 'the failpoint was reached');
      await node.start();
      const status = (): Promise<{ readonly image?: { readonly id: string } | undefined }> =>
        node.cri.rpc.imageStatus({ image: { image: name } });
      assert.isUndefined((await status()).image);
      await bringIt();
      assert.strictEqual((await status()).image?.id, digest);
      assert.deepEqual((await node.cri.rpc.check({ repair: false })).problems, []);
      const pod = await node.cri.runPod();
      const mounts = [{ containerPath: '/model', readonly: true, image: { image: name } }];
      const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'], mounts });
      assert.strictEqual((await node.cri.exec(id, ['cat', '/model/w'])).stdout, 'weights');
      await node.cri.removePod(pod.id);
      await node.cri.rpc.removeImage({ image: { image: name } });
      const left = await readdir(join(node.dir, 'root/blobs/sha256'));
      assert.notInclude(left, digest.slice('sha256:'.length));
    });
  }
});

/** An OCI layout with an artifact in it. */
async function layArtifact(
  directory: string,
  name: string,
): Promise<{ readonly path: string; readonly digest: string }> {
  const { manifest, blobs } = artifactOf([['w', 'weights']]);
  const bytes = Buffer.from(JSON.stringify(manifest));
  await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
  for (const each of [bytes, ...blobs]) await writeFile(join(directory, 'blobs', sha256(each).replace(':', '/')), each);
  const mediaType = 'application/vnd.oci.image.manifest.v1+json';
  const annotations = { 'org.opencontainers.image.ref.name': name };
  const entry = { mediaType, digest: sha256(bytes), size: bytes.length, annotations };
  await writeFile(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests: [entry] }));
  await writeFile(join(directory, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  return { path: directory, digest: entry.digest };
}

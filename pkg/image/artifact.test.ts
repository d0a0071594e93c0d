import { expect } from 'chai';
import { cp, mkdir, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../base/ids.ts';
import type { Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import type { Image } from '../ports/image.ts';
import { EMPTY_CONFIG, fakeArtifact, offer } from './fake-artifact.ts';
import type { FakeArtifact } from './fake-artifact.ts';
import { broken, fakeImage, failure, RecordingLog, testOp } from './fakes.ts';
import { image, manifestOf, StoreGround } from './fake-store.ts';

const model = fakeArtifact({ 'model/weights.bin': 'weights', README: 'read me' });
const NAME = 'reg.example/models/a:1';
const hexes = (of: FakeArtifact): string[] => [of.digest, ...of.blobs.map((each) => digestOf(each))].map(hexOf).sort();

describe('image: artifacts', () => {
  let ground: StoreGround;
  beforeEach(async () => {
    ground = await StoreGround.make();
    offer(ground.registry, 'models/a', '1', model);
  });
  afterEach(() => ground.remove());
  const blobPath = (digest: Digest): string => join(ground.root, 'store/blobs/sha256', hexOf(digest));

  it('are pulled, kept as they are, and listed under their names, by the digest of their manifest', async () => {
    const pulled = await ground.pull(NAME);
    expect(pulled).to.deep.include({
      id: model.digest,
      repoTags: [NAME],
      repoDigests: [`reg.example/models/a@${model.digest}`],
      layers: [],
      top: null,
      pinned: false,
      sizeBytes: BigInt(model.manifest.length + 'weights'.length + 'read me'.length + 2),
    });
    expect(pulled.artifact?.type).to.equal('application/vnd.example.model');
    expect(pulled.artifact?.files.map(({ name }) => name)).to.deep.equal(['model/weights.bin', 'README']);
    for (const { path } of pulled.artifact?.files ?? []) expect((await stat(path)).mode & 0o777).to.equal(0o444);
    expect(await readFile(pulled.artifact?.files[0]?.path ?? '', 'utf8')).to.equal('weights');
    expect((await ground.blobsOnDisk()).sort()).to.deep.equal(hexes(model));
    for (const text of [NAME, `reg.example/models/a@${model.digest}`, model.digest, hexOf(model.digest).slice(0, 12)])
      expect(ground.store.find(text), text).to.equal(pulled);
    // A restart, and a sweep, change nothing.
    const next = await ground.open();
    expect(next.list()).to.deep.equal([pulled]);
    await next.sweep(testOp());
    expect((await ground.blobsOnDisk()).sort()).to.deep.equal(hexes(model));
    expect((await ground.open({ pinnedImages: ['*models*'] })).find(NAME)?.pinned).to.equal(true);
    // The next pull asks whether there is something new, and nothing else.
    ground.network.requests.length = 0;
    await ground.pull(NAME);
    expect(ground.network.lines.map((line) => line.split(' ')[0])).to.deep.equal(['HEAD']);
  });

  it('are removed with their blobs, but for those of others', async () => {
    const other = fakeArtifact({ README: 'read me', more: 'more' });
    offer(ground.registry, 'models/b', '1', other);
    await ground.pull(NAME);
    await ground.pull('reg.example/models/b:1');
    await ground.store.remove(testOp(), NAME);
    expect((await ground.blobsOnDisk()).sort()).to.deep.equal(hexes(other));
    const used = await ground.open({ inUse: (id) => (id === (other.digest as string) ? ['c1'] : []) });
    expect((await failure(used.remove(testOp(), other.digest))).message).to.match(/is used by 1 container/);
    await ground.store.remove(testOp(), other.digest);
    expect(await ground.blobsOnDisk()).to.deep.equal([]);
  });

  it('come by way of an index, and with unnamed files, and with the names of models', async () => {
    const named = (annotations: object, text: string): object => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      digest: digestOf(text),
      size: text.length,
      annotations,
    });
    const odd = fakeArtifact(
      {},
      {
        layers: [
          named({}, 'a'),
          named({ 'org.cncf.model.filepath': 'x/y' }, 'b'),
          named({ 'org.cncf.model.filepath': 'x/z' }, 'b'),
        ],
        config: { mediaType: 'a/b', digest: digestOf(EMPTY_CONFIG), size: 2 },
      },
    );
    const blobs = [EMPTY_CONFIG, Buffer.from('a'), Buffer.from('b')];
    offer(ground.registry, 'models/c', 'by-digest', { ...odd, blobs });
    const entry = { mediaType: mediaTypes.ociManifest, digest: odd.digest, size: odd.manifest.length };
    const platform = { os: 'linux', architecture: 'amd64' };
    const index = Buffer.from(JSON.stringify({ schemaVersion: 2, manifests: [{ ...entry, platform }] }));
    ground.registry.put('/v2/models/c/manifests/1', index, mediaTypes.ociIndex);
    const pulled = await ground.pull('reg.example/models/c:1');
    expect(pulled.id).to.equal(odd.digest);
    expect(pulled.repoDigests).to.deep.equal([`reg.example/models/c@${digestOf(index)}`]);
    expect(pulled.artifact?.files.map(({ name }) => name)).to.deep.equal([undefined, 'x/y', 'x/z']);
    expect(pulled.artifact?.blobs).to.have.length(3);
  });

  it('are rebuilt when their record is damaged, and absent when a file of theirs is gone', async () => {
    const pulled = await ground.pull(NAME);
    const record = join(ground.root, 'store/images', `${hexOf(model.digest)}.json`);
    await writeFile(record, '{');
    const rebuilt = await ground.open();
    expect(rebuilt.list()).to.deep.equal([{ ...pulled, repoTags: [], repoDigests: [], pulledAt: 0n }]);
    await ground.pull(NAME, rebuilt);
    await rm(blobPath(digestOf('weights')));
    expect((await failure(rebuilt.confirm(testOp(), pulled.id))).message).to.match(/blob sha256:.* is gone; pull it/);
    expect(rebuilt.find(NAME)).to.equal(undefined);
    expect((await ground.pull(NAME, rebuilt)).artifact?.files).to.have.length(2);
    // The same at a start.
    await rm(blobPath(digestOf('read me')));
    const log = new RecordingLog();
    expect((await ground.open({}, testOp(log))).list()).to.deep.equal([]);
    expect(log.lines).to.include(
      'error a part of an image is gone from the disk, the image counts as absent until it is pulled again',
    );
  });

  it('are checked to the last byte, and a repair drops what is bad, unless somebody uses it', async () => {
    const pulled = await ground.pull(NAME);
    await rm(blobPath(digestOf('weights')));
    await writeFile(blobPath(digestOf('weights')), 'weighty');
    const used = await ground.open({ inUse: (id) => (id === pulled.id ? ['c1'] : []) });
    const [problem, ...more] = await used.check(testOp(), 'repair');
    expect(more).to.deep.equal([]);
    expect(problem?.what).to.match(/content has digest/);
    expect(problem?.keptBy).to.deep.equal(['c1']);
    expect(used.list()).to.have.length(1);
    await ground.store.check(testOp(), 'repair');
    expect(ground.store.list()).to.deep.equal([]);
    expect(await readFile((await ground.pull(NAME)).artifact?.files[0]?.path ?? '', 'utf8')).to.equal('weights');
  });

  it('are never half there, and the next try brings the rest only', async () => {
    ground.registry.special.set(`/v2/models/a/blobs/${digestOf('weights')}`, (request) =>
      request.headers['range'] === undefined ? { body: broken(Buffer.from('wei')) } : { error: new Error('reset') },
    );
    expect((await failure(ground.pull(NAME))).code).to.equal('Unavailable');
    expect(ground.store.list()).to.deep.equal([]);
    ground.registry.special.clear();
    const next = await ground.open();
    ground.network.requests.length = 0;
    await ground.pull(NAME, next);
    const ranges = ground.network.requests.map(({ headers }) => headers['range']).filter((each) => each !== undefined);
    expect(ranges).to.deep.equal(['bytes=3-']);
    expect(await readdir(join(ground.root, 'store/blobs/.partial'))).to.deep.equal([]);
  });

  describe('give nothing to who only names it', () => {
    const evil = (): Promise<Image> => ground.pull('reg.example/evil:1');
    const pretending = (text: string, digest: Digest): FakeArtifact => {
      const layer = {
        mediaType: 'a/b',
        digest,
        size: text.length,
        annotations: { 'org.opencontainers.image.title': 'x' },
      };
      return { ...fakeArtifact({}, { layers: [layer] }), blobs: [EMPTY_CONFIG] };
    };

    it('a file of another artifact', async () => {
      await ground.pull(NAME);
      offer(ground.registry, 'evil', '1', pretending('weights', digestOf('weights')));
      expect((await failure(evil())).code).to.equal('NotFound');
      ground.registry.put(`/v2/evil/blobs/${digestOf('weights')}`, Buffer.from('weighty'));
      expect((await failure(evil())).code).to.equal('DataLoss');
      expect(ground.store.list()).to.have.length(1);
      ground.registry.put(`/v2/evil/blobs/${digestOf('weights')}`, Buffer.from('weights'));
      await evil();
    });

    it('but what is too large for an id is shared as layers are, by the digest in a manifest', async () => {
      const text = 'x'.repeat(limits.manifestBytes + 1);
      const large = fakeArtifact({ large: text });
      offer(ground.registry, 'models/large', '1', large);
      await ground.pull('reg.example/models/large:1');
      offer(ground.registry, 'evil', '1', pretending(text, digestOf(text)));
      ground.network.requests.length = 0;
      expect((await evil()).artifact?.files).to.have.length(1);
      expect(ground.network.lines.filter((line) => line.includes(digestOf(text)))).to.deep.equal([]);
      offer(ground.registry, 'evil', '1', pretending(`${text}x`, digestOf(text)));
      expect((await failure(evil())).code).to.equal('DataLoss');
    });

    it('the config of an image, with its secrets', async () => {
      ground.registry.add('victim', '1', image);
      await ground.pull('reg.example/victim:1');
      offer(ground.registry, 'evil', '1', pretending(image.config.toString(), image.id));
      expect((await failure(evil())).code).to.equal('NotFound');
      expect(ground.store.find('reg.example/evil:1')).to.equal(undefined);
    });
  });

  it('and images never stand for each other, though one document is both', async () => {
    // A manifest of files that is a config, too, and a manifest of an image that has it for its config.
    const both = fakeArtifact({ a: 'b' }, { os: 'linux', rootfs: { type: 'layers', diff_ids: [] } });
    offer(ground.registry, 'both', 'files', both);
    const config = { digest: both.digest, size: both.manifest.length };
    ground.registry.put('/v2/both/manifests/image', manifestOf(config, []), mediaTypes.ociManifest);
    ground.registry.put(`/v2/both/blobs/${both.digest}`, both.manifest);
    for (const [first, second] of [
      ['files', 'image'],
      ['image', 'files'],
    ]) {
      await ground.pull(`reg.example/both:${first}`);
      expect((await failure(ground.pull(`reg.example/both:${second}`))).message).to.match(
        /an image and of an artifact/,
      );
      expect(ground.store.list()).to.have.length(1);
      await ground.store.remove(testOp(), both.digest);
    }
  });

  it('are bounded, and must be what they promise', async () => {
    const layer = { mediaType: 'a/b', digest: digestOf('x'), size: limits.artifactBytes };
    const rows: readonly (readonly [FakeArtifact, string, RegExp])[] = [
      [fakeArtifact({}, { layers: [layer] }), 'ResourceExhausted', /the artifact has 1099511627778 bytes, at most/],
      [
        fakeArtifact({}, { layers: Array.from({ length: 5_000 }, () => layer) }),
        'ResourceExhausted',
        /has 5000 layers; .* an artifact 4096 files/,
      ],
      [fakeArtifact({}, { layers: [{ ...layer, digest: 'sha256:..' }] }), 'InvalidArgument', /for a digest/],
      [{ ...model, blobs: [EMPTY_CONFIG, Buffer.from('weights')] }, 'NotFound', /read me|blob/],
    ];
    for (const [index, [artifact, code, why]] of rows.entries()) {
      offer(ground.registry, 'odd', String(index), artifact);
      const error = await failure(ground.pull(`reg.example/odd:${index}`));
      expect([error.code, why.test(error.message)], error.message).to.deep.equal([code, true]);
    }
    expect(ground.store.list()).to.deep.equal([]);
  });

  it('must be signed where images must', async () => {
    await writeFile(
      join(ground.root, 'policy.json'),
      JSON.stringify({ default: [{ type: 'sigstoreSigned', keyPath: '/none' }] }),
    );
    expect((await failure(ground.pull(NAME))).reason).to.equal('SignatureValidationFailed');
    expect(await ground.blobsOnDisk()).to.deep.equal([]);
    await rm(join(ground.root, 'policy.json'));
    const pulled = await ground.pull(NAME);
    await mkdir(join(ground.root, 'policies'));
    await writeFile(join(ground.root, 'policies/prod.json'), JSON.stringify({ default: [{ type: 'reject' }] }));
    const use = { name: NAME, namespace: 'prod' };
    expect((await failure(ground.store.checkUse(testOp(), pulled.id, use))).message).to.match(/reject/);
  });

  /** A layout of the model, with a name for it. */
  const lay = async (name: string): Promise<string> => {
    const of = {
      ...fakeImage([]),
      id: digestOf(EMPTY_CONFIG),
      config: EMPTY_CONFIG,
      manifest: { bytes: model.manifest, digest: model.digest, type: mediaTypes.ociManifest },
      layers: model.blobs.slice(1).map((bytes) => ({ bytes, digest: digestOf(bytes), diffId: digestOf(bytes) })),
    };
    return await ground.layoutOf(of, [{ 'org.opencontainers.image.ref.name': name }]);
  };

  it('are imported from a layout', async () => {
    const [imported] = await ground.store.import(testOp(), await lay(NAME));
    expect(imported).to.deep.include({ id: model.digest, repoTags: [NAME] });
  });

  describe('in additional stores', () => {
    /** The parent of a directory `artifacts`. */
    const storeAt = async (name: string): Promise<string> => {
      await cp(await lay(name), join(ground.root, 'extra/artifacts'), { recursive: true });
      return join(ground.root, 'extra');
    };

    it('are there, pinned, before those of the node, and are neither pulled nor removed', async () => {
      const store = await ground.open({ artifactStores: [join(ground.root, 'none'), await storeAt(NAME)] });
      const [found] = store.list();
      expect(found).to.deep.include({ id: model.digest, repoTags: [NAME], pinned: true });
      expect(found?.artifact?.files[0]?.path).to.equal(
        join(ground.root, 'extra/artifacts/blobs/sha256', hexOf(digestOf('weights'))),
      );
      expect(await ground.pull(NAME, store)).to.equal(found);
      expect(ground.network.requests).to.deep.equal([]);
      await store.remove(testOp(), NAME);
      expect(store.find(NAME)).to.equal(found);
      expect(store.called(model.digest as string as ImageId, NAME).ref).to.equal(
        `reg.example/models/a@${model.digest}`,
      );
      await store.confirm(testOp(), model.digest as string as ImageId);
      await rm(found?.artifact?.files[0]?.path ?? '');
      expect((await failure(store.confirm(testOp(), model.digest as string as ImageId))).message).to.match(/not whole/);
    });

    it('hide a pulled artifact of the same tag in lists, as CRI-O does, and leave it under its others', async () => {
      const other = fakeArtifact({ README: 'pulled' });
      offer(ground.registry, 'models/a', '1', other);
      offer(ground.registry, 'models/a', '2', other);
      await ground.pull(NAME);
      const store = await ground.open({ artifactStores: [await storeAt(NAME)] });
      const listed = (): unknown => store.list().map(({ id, repoTags }) => [id, repoTags]);
      expect(listed()).to.deep.equal([[model.digest, [NAME]]]);
      expect(store.find(NAME)?.id).to.equal(model.digest);
      expect(store.find(other.digest)?.id, 'who asks by the digest').to.equal(other.digest);
      await ground.pull('reg.example/models/a:2', store);
      expect(listed()).to.deep.equal([
        [model.digest, [NAME]],
        [other.digest, ['reg.example/models/a:2']],
      ]);
      await rm(join(ground.root, 'extra'), { recursive: true });
      await store.sweep(testOp());
      expect(listed()).to.deep.equal([[other.digest, [NAME, 'reg.example/models/a:2']]]);
    });

    it('are pulled by no start of their id: that may be the name of an image', async () => {
      const start = hexOf(model.digest).slice(0, 8);
      const store = await ground.open({ artifactStores: [await storeAt(NAME)] });
      expect(store.find(start)?.id).to.equal(model.digest);
      const name = `reg.example/library/${start}`;
      await writeFile(join(ground.root, 'registries.conf'), `[aliases]\n"${start}" = "${name}"\n`);
      ground.registry.add(`library/${start}`, 'latest', image);
      expect((await ground.pull(start, store)).id).to.equal(image.id);
    });

    it('ask the policies of namespaces, too', async () => {
      const store = await ground.open({ artifactStores: [await storeAt(NAME)] });
      await mkdir(join(ground.root, 'policies'));
      const policy = {
        default: [{ type: 'sigstoreSigned', keyPath: '/none', signedIdentity: { type: 'matchExact' } }],
      };
      await writeFile(join(ground.root, 'policies/prod.json'), JSON.stringify(policy));
      const use = { name: NAME, namespace: 'prod' };
      const error = await failure(store.checkUse(testOp(), model.digest as string as ImageId, use));
      expect(error.reason).to.equal('SignatureValidationFailed');
    });

    it('are seen when the index changes, and are left out when it cannot be read', async () => {
      const directory = await storeAt('bare-tag');
      const store = await ground.open({ artifactStores: [directory] });
      expect(store.list().map(({ repoTags, repoDigests }) => [repoTags, repoDigests])).to.deep.equal([[[], []]]);
      await writeFile(join(directory, 'artifacts/index.json'), '{');
      const log = new RecordingLog();
      await store.sweep(testOp(log));
      expect(store.list()).to.deep.equal([]);
      expect(log.lines).to.deep.equal(['warn an additional artifact store is left out']);
    });
  });
});

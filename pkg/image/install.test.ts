import { expect } from 'chai';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../base/ids.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import { broken, failure, fakeImage, stalled, testOp } from './fakes.ts';
import type { FakeImage, FakeNetwork, FakeRegistry, FakeUnpacker } from './fakes.ts';
import { id, image, ORIGIN, sibling, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/install', () => {
  let ground: StoreGround;
  let root: string;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ root, network, registry, unpacker, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);
  const blobsOnDisk = (): Promise<string[]> => ground.blobsOnDisk();

  it('brings manifest, config and layers, bottom first, and writes the record', async () => {
    registry.add('team/app', 'v1', image);
    const pulled = await pull('reg.example/team/app:v1');
    expect(pulled).to.deep.include({
      id: id(image),
      repoTags: ['reg.example/team/app:v1'],
      repoDigests: [`reg.example/team/app@${image.manifest.digest}`],
      manifestDigest: image.manifest.digest,
      top: image.chain.at(-1),
      pinned: false,
    });
    expect(pulled.config).to.deep.include({ user: '1000', env: ['A=b'] });
    expect(pulled.sizeBytes).to.equal(
      BigInt(
        image.manifest.bytes.length +
          image.config.length +
          image.layers.reduce((sum, { bytes }) => sum + bytes.length, 0),
      ),
    );
    expect(pulled.layers.map(({ chainId }) => chainId)).to.deep.equal(image.chain);
    expect([...unpacker.layers].sort()).to.deep.equal([...image.chain].sort());
    // Layer blobs went when they were unpacked.
    expect((await blobsOnDisk()).sort()).to.deep.equal([hexOf(image.id), hexOf(image.manifest.digest)].sort());
    expect(store.progress()).to.deep.equal([]);
    expect(await store.usage(testOp())).to.deep.equal({
      usedBytes: 3000n + BigInt(image.config.length + image.manifest.bytes.length),
      inodesUsed: 5n,
    });
    expect(store.counters()).to.deep.include({ pullsSucceeded: 1, pullsFailed: 0 });
  });

  describe('of a manifest that leaves something out', () => {
    type Part = Record<string, unknown>;
    const offer = (edit: (manifest: { config: Part; layers: Part[] }) => void): void => {
      const manifest = JSON.parse(image.manifest.bytes.toString()) as { config: Part; layers: Part[] };
      edit(manifest);
      registry.add('x', 'v1', image);
      registry.put('/v2/x/manifests/v1', Buffer.from(JSON.stringify(manifest)), mediaTypes.ociManifest);
    };
    const counted = (): void => {
      for (const { digest, bytes } of [...image.layers, { digest: image.id, bytes: image.config }])
        registry.special.set(`/v2/x/blobs/${digest}`, (request) => {
          const normal = registry.normal(request);
          return normal === undefined ? normal : { ...normal, headers: { 'content-length': String(bytes.length) } };
        });
    };

    it('takes sizes from the registry, where they are 0, null or not there', async () => {
      counted();
      offer(({ config, layers: [first, second, ...rest] }) => {
        delete config['size'];
        Object.assign(first ?? {}, { size: 0 });
        Object.assign(second ?? {}, { size: null });
        for (const each of rest) each['size'] = '';
      });
      const pulled = await pull('reg.example/x:v1');
      expect(pulled.layers.map(({ sizeBytes }) => Number(sizeBytes))).to.deep.equal(
        image.layers.map(({ bytes }) => bytes.length),
      );
      expect(unpacker.unpacked).to.have.length(image.layers.length);
    });

    it('says so where the registry does not say either', async () => {
      offer(({ layers }) => Object.assign(layers[0] ?? {}, { size: 0 }));
      expect((await failure(pull('reg.example/x:v1'))).message).to.match(
        /^size of blob sha256:.* of reg\.example\/x: neither the manifest nor reg\.example says how large it is/,
      );
    });

    it('takes a foreign layer from the registry, and never from where the image says (CVE-2020-15157)', async () => {
      const foreign = 'application/vnd.docker.image.rootfs.foreign.diff.tar.gzip';
      offer(({ layers }) => Object.assign(layers[1] ?? {}, { mediaType: foreign, urls: ['https://evil.example/l'] }));
      expect((await pull('reg.example/x:v1')).id).to.equal(id(image));
      const other = await StoreGround.make();
      try {
        ({ network, registry } = other);
        offer(({ layers }) => Object.assign(layers[1] ?? {}, { mediaType: foreign, urls: ['https://evil.example/l'] }));
        registry.special.set(`/v2/x/blobs/${image.layers[1]?.digest}`, () => ({ status: 404 }));
        const error = await failure(other.pull('reg.example/x:v1', other.store));
        expect(error.code).to.equal('Unimplemented');
        expect(error.message).to.match(/is foreign .* is not asked/);
        expect(network.requests.map(({ url }) => url.host)).to.not.include('evil.example');
      } finally {
        await other.remove();
      }
    });

    it('takes an image that says it is for another system, unless that is windows', async () => {
      for (const [index, os] of ['darwin', 'freebsd', 'Linux'].entries()) {
        const { config, manifest } = fakeImage([`a layer for ${os}`]);
        const saying = Buffer.from(JSON.stringify({ ...(JSON.parse(config.toString()) as object), os }));
        const named = JSON.parse(manifest.bytes.toString()) as { config: object; layers: { digest: string }[] };
        Object.assign(named.config, { digest: digestOf(saying), size: saying.length });
        const name = `os${index}`;
        registry.add(name, 'v0', fakeImage([`a layer for ${os}`]));
        registry.put(`/v2/${name}/blobs/${digestOf(saying)}`, saying);
        registry.put(`/v2/${name}/manifests/v1`, Buffer.from(JSON.stringify(named)), mediaTypes.ociManifest);
        expect((await pull(`reg.example/${name}:v1`)).id).to.equal(digestOf(saying));
      }
    });
  });

  it('takes an index by platform, and names the image after the index', async () => {
    registry.add('x', 'a', image).add('x', 'b', sibling);
    const entry = (each: FakeImage, architecture: string): object => ({
      mediaType: each.manifest.type,
      digest: each.manifest.digest,
      size: each.manifest.bytes.length,
      platform: { os: 'linux', architecture },
    });
    const index = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociIndex,
        manifests: [entry(sibling, 'arm64'), entry(image, 'amd64')],
      }),
    );
    registry.put('/v2/x/manifests/v1', index, mediaTypes.ociIndex);
    const pulled = await pull('reg.example/x:v1');
    expect(pulled).to.deep.include({
      id: id(image),
      manifestDigest: image.manifest.digest,
      repoDigests: [`reg.example/x@${digestOf(index)}`],
    });
    expect(store.find(`reg.example/x@${digestOf(index)}`)?.id).to.equal(id(image));
    expect(store.find(`reg.example/x@${image.manifest.digest}`)?.id).to.equal(id(image));
    expect(store.find(`reg.example/x@${sibling.manifest.digest}`)).to.equal(undefined);
  });

  it('by digest gives a digest and no tag', async () => {
    registry.add('x', 'v1', image);
    for (const reference of [
      `reg.example/x@${image.manifest.digest}`,
      `reg.example/x:ignored@${image.manifest.digest}`,
    ]) {
      expect(await pull(reference)).to.deep.include({
        repoTags: [],
        repoDigests: [`reg.example/x@${image.manifest.digest}`],
      });
    }
  });

  it('downloads only what is new', async () => {
    registry.add('a', 'latest', image).add('b', 'latest', sibling);
    await pull('reg.example/a');
    network.requests.length = 0;
    await pull('reg.example/b');
    const asked = network.lines.filter((line) => line.includes('/blobs/'));
    expect(asked.some((line) => line.includes(image.layers[0]?.digest ?? '?'))).to.equal(false);
    expect(asked).to.have.length(2);
    network.requests.length = 0;
    await pull('reg.example/b');
    expect(network.lines).to.deep.equal([`HEAD ${ORIGIN}/v2/b/manifests/latest`]);
  });

  it(
    'pulled again, unchanged, costs one HEAD that checks credentials; changed or not whole, it ' + 'is pulled',
    async () => {
      registry.add('x', 'latest', image);
      const first = await pull('reg.example/x');
      const asked = async (reference = 'reg.example/x'): Promise<string[]> => {
        network.requests.length = 0;
        await pull(reference);
        return network.lines.map((line) => `${line.split(' ')[0]} ${line.split('/').at(-2)}`);
      };
      expect(await asked()).to.deep.equal(['HEAD manifests']);
      expect(await asked(`reg.example/x@${image.manifest.digest}`)).to.deep.equal(['HEAD manifests']);
      expect(store.find('reg.example/x')).to.deep.include({
        id: first.id,
        repoTags: first.repoTags,
        repoDigests: first.repoDigests,
      });
      unpacker.layers.delete(image.chain[2]!);
      expect(await asked()).to.deep.equal(['HEAD manifests', 'GET manifests', 'GET blobs']);
      registry.special.set('/v2/x/manifests/latest', (request) =>
        request.method === 'HEAD' ? { status: 405 } : undefined,
      );
      expect(await asked()).to.deep.equal(['HEAD manifests', 'GET manifests']);
      registry.special.set('/v2/x/manifests/latest', () => ({
        status: 401,
        headers: { 'www-authenticate': 'Basic realm="x"' },
      }));
      expect((await failure(pull('reg.example/x'))).code).to.equal('Unauthenticated');
      registry.special.clear();
      registry.add('x', 'latest', sibling);
      expect((await pull('reg.example/x')).id).to.equal(sibling.id);
      registry.add('x', 'latest', image);
      expect(await asked()).to.deep.equal(['HEAD manifests']);
      expect(store.find('reg.example/x')?.id).to.equal(image.id);
      expect(store.find(sibling.id)?.repoTags).to.deep.equal([]);
    },
  );

  it('an image may have the same layer twice, or none', async () => {
    const twice = fakeImage(['same', 'same', 'end']);
    const empty = fakeImage([]);
    registry.add('twice', 'latest', twice).add('empty', 'latest', empty);
    expect((await pull('reg.example/twice')).layers).to.have.length(3);
    expect(await blobsOnDisk()).to.have.length(2);
    const nothing = await pull('reg.example/empty');
    expect(nothing.top).to.equal(null);
    expect(nothing.sizeBytes > 0n).to.equal(true);
  });

  it('refuses what does not fit together', async () => {
    const config = Buffer.from(JSON.stringify({ os: 'linux', rootfs: { type: 'layers', diff_ids: [] } }));
    const windows = Buffer.from(JSON.stringify({ os: 'windows', rootfs: { type: 'layers', diff_ids: [] } }));
    const manifestWith = (bytes: Buffer, layers: object[]): Buffer =>
      Buffer.from(
        JSON.stringify({
          schemaVersion: 2,
          config: { mediaType: mediaTypes.ociConfig, digest: digestOf(bytes), size: bytes.length },
          layers,
        }),
      );
    registry.put(`/v2/x/blobs/${digestOf(config)}`, config).put(`/v2/x/blobs/${digestOf(windows)}`, windows);
    registry.put(
      '/v2/x/manifests/few',
      manifestWith(config, [{ mediaType: mediaTypes.ociLayerGzip, digest: digestOf('x'), size: 1 }]),
      mediaTypes.ociManifest,
    );
    registry.put('/v2/x/manifests/windows', manifestWith(windows, []), mediaTypes.ociManifest);
    registry.put(
      '/v2/x/manifests/both',
      Buffer.from('{"schemaVersion":2,"manifests":[],"layers":[]}'),
      mediaTypes.ociManifest,
    );
    expect((await failure(pull('reg.example/x:few'))).message).to.contain('has 1 layers, but its config promises 0');
    expect((await failure(pull('reg.example/x:windows'))).message).to.contain('an image for "windows"');
    expect((await failure(pull('reg.example/x:both'))).message).to.contain('CVE-2021-41190');
    expect(store.list()).to.deep.equal([]);
    expect(await blobsOnDisk()).to.deep.equal([]);
    expect(await readdir(join(root, 'store/images/unfinished'))).to.deep.equal([]);
  });

  it('keeps nothing of an image whose content is wrong, everything of one whose line broke', async () => {
    registry.add('x', 'latest', image);
    const [base, middle] = image.layers;
    const path = `/v2/x/blobs/${middle?.digest}`;
    registry.special.set(path, () => ({ body: Buffer.alloc(middle?.bytes.length ?? 0) }));
    expect((await failure(pull('reg.example/x'))).code).to.equal('DataLoss');
    expect([await blobsOnDisk(), [...unpacker.layers], store.list()]).to.deep.equal([[], [], []]);

    registry.special.set(path, () => ({ status: 403 }));
    expect((await failure(pull('reg.example/x'))).code).to.equal('PermissionDenied');
    expect([...unpacker.layers]).to.deep.equal([]);

    const { promise: baseIsThere, resolve } = Promise.withResolvers<void>();
    unpacker.onUnpack = (_op, layer) => (layer.digest === base?.digest ? resolve() : undefined);
    registry.special.set(path, async () => {
      await baseIsThere;
      return { body: broken(Buffer.alloc(0)) };
    });
    expect((await failure(pull('reg.example/x'))).reason).to.equal('RegistryUnavailable');
    expect([...unpacker.layers]).to.include(image.chain[0]);
    registry.special.clear();
    const again = await open();
    await again.sweep(testOp());
    network.requests.length = 0;
    await pull('reg.example/x', again);
    expect(network.lines.some((line) => line.includes(base?.digest ?? '?'))).to.equal(false);
    expect(await readdir(join(root, 'store/images/unfinished'))).to.deep.equal([]);
  });

  it('one layer that cannot be had stops the others at once', async () => {
    registry.add('x', 'latest', image);
    registry.special.set(`/v2/x/blobs/${image.layers[0]?.digest}`, () => ({
      body: stalled(image.layers[0]?.bytes.subarray(0, 5) ?? Buffer.alloc(0)),
    }));
    registry.special.set(`/v2/x/blobs/${image.layers[1]?.digest}`, () => ({ status: 403 }));
    expect((await failure(pull('reg.example/x'))).code).to.equal('PermissionDenied');
  });

  it('a layer that two pulls want is there until both have unpacked it', async () => {
    const [one, two] = [fakeImage(['first', 'shared']), fakeImage(['second', 'shared'])];
    registry.add('one', 'latest', one).add('two', 'latest', two);
    const slow = Promise.withResolvers<void>();
    let unpacking = 0;
    unpacker.onUnpack = async (_op, layer) => {
      if (layer.digest !== one.layers[1]?.digest) return;
      if (++unpacking === 2) slow.resolve();
      // The first one waits for the second to begin, the second one outlives the first.
      await slow.promise;
      if (layer.chainId === two.chain[1])
        for (let i = 0; i < 20; i++) await new Promise((resolve) => setImmediate(resolve));
    };
    await Promise.all([pull('reg.example/one'), pull('reg.example/two')]);
    expect(await blobsOnDisk()).to.have.length(4);
  });

  it('shows what it is doing', async () => {
    registry.add('x', 'latest', image);
    const seen: unknown[] = [];
    const stages: string[] = [];
    unpacker.onUnpack = () =>
      void seen.push(
        store
          .progress()
          .map(({ reference, layers }) => [
            reference,
            layers.length,
            layers.some(({ stage }) => stage === 'unpacking'),
          ]),
      );
    await store.pull({ ...testOp(), stage: (what) => void stages.push(what) }, 'reg.example/x', {});
    expect(seen[0]).to.deep.equal([['reg.example/x', 3, true]]);
    expect(stages.slice(0, 2)).to.deep.equal(['starting', 'image: resolving']);
    expect(stages.at(-1)).to.equal('image: committing');
  });
});

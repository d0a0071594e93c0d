import { expect } from 'chai';
import { mock } from 'node:test';
import { mkdtemp, mkdir, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuthConfig } from '../cri-api/types.ts';
import { hexOf } from '../base/ids.ts';
import type { ImageId } from '../base/ids.ts';
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import { NodeCredentials } from './registry/credentials.ts';
import {
  broken,
  cancellable,
  failure,
  fakeImage,
  FakeNetwork,
  FakeRegistry,
  FakeUnpacker,
  RecordingLog,
  stalled,
  testOp,
} from './fakes.ts';
import type { FakeImage } from './fakes.ts';
import { RegistryPolicy } from './policy/policy.ts';
import { ImageTrust } from './signature/index.ts';
import { FileImageStore } from './store.ts';
import type { FileImageStoreOptions } from './options.ts';

const noAuth: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};
const ORIGIN = 'https://reg.example';

describe('image/store', () => {
  let root: string;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'images-'));
    network = new FakeNetwork();
    registry = new FakeRegistry();
    network.hosts.set(ORIGIN, registry.host);
    unpacker = new FakeUnpacker();
    store = await open();
  });
  afterEach(() => rm(root, { recursive: true }));

  async function open(options: Partial<FileImageStoreOptions> = {}): Promise<FileImageStore> {
    const made = new FileImageStore({
      root: join(root, 'store'),
      unpacker,
      transport: network,
      pause: async () => {},
      platform: { os: 'linux', architecture: 'amd64' },
      policy: new RegistryPolicy({
        registriesConf: join(root, 'registries.conf'),
        registriesConfDir: '',
        certsDirs: [],
        hostsDirs: [],
      }),
      trust: new ImageTrust({
        defaultPolicies: [join(root, 'policy.json')],
        signaturePolicyDir: join(root, 'policies'),
        registriesDirs: [join(root, 'registries.d')],
      }),
      ...options,
    });
    await made.load(testOp());
    return made;
  }
  /** An OCI layout whose index names the image once for each of these annotations. */
  async function layoutOf(image: FakeImage, entries: readonly Readonly<Record<string, string>>[]): Promise<string> {
    const directory = join(root, 'layout');
    await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
    await writeFile(join(directory, 'oci-layout'), '{}');
    await writeFile(
      join(directory, 'index.json'),
      JSON.stringify({
        schemaVersion: 2,
        manifests: entries.map((annotations) => ({
          mediaType: image.manifest.type,
          digest: image.manifest.digest,
          size: 1,
          annotations,
        })),
      }),
    );
    for (const [digest, bytes] of [
      [image.manifest.digest, image.manifest.bytes],
      [image.id, image.config],
      ...image.layers.map((each) => [each.digest, each.bytes] as const),
    ] as const)
      await writeFile(join(directory, 'blobs', digest.replace(':', '/')), bytes);
    return directory;
  }
  const named = (names: readonly string[]): Promise<string> =>
    layoutOf(
      image,
      names.map((name) => ({ 'io.containerd.image.name': name })),
    );
  const pull = (reference: string, using = store): ReturnType<FileImageStore['pull']> =>
    using.pull(testOp(), reference, {});
  const names = (using = store): string[] =>
    using
      .list()
      .flatMap(({ repoTags, repoDigests }) => [...repoTags, ...repoDigests])
      .sort();
  const blobsOnDisk = (): Promise<string[]> => readdir(join(root, 'store/blobs/sha256'));
  const id = (image: FakeImage): string => image.id;

  const image = fakeImage(['base', 'middle', 'top'], { User: '1000', Env: ['A=b'] });
  const sibling = fakeImage(['base', 'other']);

  describe('pull', () => {
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

    it('keeps layer blobs when told to', async () => {
      registry.add('x', 'latest', image);
      await pull('reg.example/x', await open({ keepBlobs: 'all' }));
      expect(await blobsOnDisk()).to.have.length(5);
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
      expect((await failure(pull('reg.example/x:windows'))).message).to.contain('an image for windows');
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

  describe('shared flights', () => {
    it('equal pulls are one; other credentials or another namespace are another', async () => {
      registry.add('x', 'latest', image);
      await Promise.all([
        pull('reg.example/x'),
        pull('reg.example/x:latest'),
        store.pull(testOp(), 'reg.example/x', { auth: noAuth }),
      ]);
      expect(network.lines.filter((line) => line.includes('/manifests/'))).to.have.length(1);
      network.requests.length = 0;
      await Promise.all([
        pull('reg.example/x'),
        store.pull(testOp(), 'reg.example/x', { auth: { ...noAuth, username: 'u', password: 'p' } }),
        store.pull(testOp(), 'reg.example/x', { namespace: 'prod' }),
      ]);
      expect(network.lines.filter((line) => line.includes('/manifests/'))).to.have.length(3);
    });

    it(
      'one caller’s cancel fails nobody else, the last one’s ends the work, and the next one ' + 'starts anew',
      async () => {
        registry.add('x', 'latest', image);
        const entered = Promise.withResolvers<void>();
        const go = Promise.withResolvers<void>();
        unpacker.onUnpack = async () => {
          entered.resolve();
          await go.promise;
        };
        const [a, b] = [cancellable(), cancellable()];
        const first = failure(store.pull(a.op, 'reg.example/x', {}));
        const second = failure(store.pull(b.op, 'reg.example/x', {}));
        await entered.promise;
        a.cancel();
        expect((await first).code).to.equal('Cancelled');
        expect(store.progress()).to.have.length(1);
        b.cancel();
        expect((await second).code).to.equal('Cancelled');
        const third = pull('reg.example/x');
        go.resolve();
        expect((await third).id).to.equal(id(image));
        expect(store.progress()).to.deep.equal([]);
      },
    );

    it('two different images with one layer unpack it once', async () => {
      registry.add('a', 'latest', image).add('b', 'latest', sibling);
      await Promise.all([pull('reg.example/a'), pull('reg.example/b')]);
      expect(unpacker.unpacked.filter(({ chainId }) => chainId === image.chain[0])).to.have.length(1);
    });
  });

  describe('bounds', () => {
    it('so many pulls at once and no more, whoever asks; the others wait and say so', async () => {
      const gates = Array.from({ length: limits.pullsCount + 2 }, (_, i) => {
        const gate = Promise.withResolvers<void>();
        registry.add(`app${i}`, '1', fakeImage([`layer ${i}`]));
        registry.special.set(`/v2/app${i}/manifests/1`, async () => {
          await gate.promise;
          return undefined;
        });
        return gate;
      });
      const pulls = gates.map((_, i) => pull(`reg.example/app${i}:1`));
      while (network.requests.length < limits.pullsCount) await new Promise(setImmediate);
      for (let i = 0; i < 100; i++) await new Promise(setImmediate);
      expect(network.requests.length).to.equal(limits.pullsCount);
      expect(store.progress()).to.have.length(limits.pullsCount);
      for (const gate of gates) gate.resolve();
      expect(await Promise.all(pulls)).to.have.length(limits.pullsCount + 2);
    });

    it('a disk on which nothing moves ends the pull, and says what it may be', async () => {
      registry.add('x', '1', image);
      const impatient = await open({ pullSilentMs: 50 });
      unpacker.onUnpack = (own) =>
        new Promise((_resolve, reject) =>
          own.signal.addEventListener('abort', () => reject(own.signal.reason as Error), { once: true }),
        );
      const error = await failure(pull('reg.example/x:1', impatient));
      expect([error.code, error.message]).to.deep.equal([
        'DeadlineExceeded',
        'pulling reg.example/x:1: nothing was downloaded or unpacked for 0.05 s; is the disk stuck?',
      ]);
      unpacker.onUnpack = () => {};
      expect((await pull('reg.example/x:1', impatient)).id).to.equal(image.id);
    });

    it('a pull is not silent while its layer is unpacked slowly, nor while it waits for another pull’s', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      const patient = await open({ pullSilentMs: 600_000 });
      const [entered, waiting] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      unpacker.onUnpack = async (_op, layer) => {
        // Layers of an image are begun in order: the other pull has come to the one that both have.
        if (layer.chainId === sibling.chain[1]) waiting.resolve();
        if (layer.chainId !== image.chain[0]) return;
        entered.resolve();
        await waiting.promise;
        for (let read = 1; read <= 5; read++) {
          mock.timers.tick(400_000);
          layer.onProgress(read, read);
        }
      };
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const first = pull('reg.example/x:1', patient);
        await entered.promise;
        expect((await Promise.all([first, pull('reg.example/y:1', patient)])).map((each) => each.id)).to.deep.equal([
          image.id,
          sibling.id,
        ]);
      } finally {
        mock.timers.reset();
      }
    });
  });

  describe('names', () => {
    it('a tag moves to the image that was pulled last; the old image stays, by id', async () => {
      registry.add('x', 'latest', image);
      await pull('reg.example/x');
      registry.add('x', 'latest', sibling);
      await pull('reg.example/x');
      const check = (using: FileImageStore): void => {
        expect(using.find('reg.example/x')?.id).to.equal(id(sibling));
        expect(using.find(image.id)).to.deep.include({
          repoTags: [],
          repoDigests: [`reg.example/x@${image.manifest.digest}`],
        });
      };
      check(store);
      check(await open());
      await store.remove(testOp(), 'reg.example/x');
      expect(store.find('reg.example/x')).to.equal(undefined);
      expect((await open()).find('reg.example/x')).to.equal(undefined);
    });

    it('one image collects all its names', async () => {
      registry.add('x', '1', image).add('x', '2', image).add('y', 'latest', image);
      for (const each of ['x:1', 'x:2', 'y']) await pull(`reg.example/${each}`);
      expect(store.list()).to.have.length(1);
      expect(names()).to.deep.equal([
        'reg.example/x:1',
        'reg.example/x:2',
        `reg.example/x@${image.manifest.digest}`,
        'reg.example/y:latest',
        `reg.example/y@${image.manifest.digest}`,
      ]);
    });

    it('finds an image by all of them, and nothing by odd text', async () => {
      network.hosts.set('https://registry-1.docker.io', registry.host);
      registry.add('library/busybox', '1', image);
      await pull('busybox:1');
      const { id: own } = image;
      for (const good of [
        own,
        hexOf(own),
        hexOf(own).slice(0, 13),
        own.slice(0, 12),
        'busybox:1',
        'docker.io/busybox:1',
        'docker.io/library/busybox:1',
        `busybox@${image.manifest.digest}`,
        `busybox:x@${image.manifest.digest}`,
      ]) {
        expect(store.find(good)?.id, good).to.equal(own);
      }
      for (const odd of [
        '',
        'busybox',
        'busybox:2',
        hexOf(own).slice(0, 3),
        'sha256:',
        'SHA256:ABCD',
        '../..',
        'x'.repeat(1 << 20),
        '\0',
        `busybox@${digestOf('y')}`,
        '__proto__',
        'localhost/busybox:1',
      ])
        expect(store.find(odd), odd.slice(0, 30)).to.equal(undefined);
    });

    it('an id prefix must be the only one', async () => {
      const ids = new Map<string, FakeImage>();
      for (let i = 0; ; i++) {
        const one = fakeImage([], { Cmd: [String(i)] });
        const prefix = hexOf(one.id).slice(0, 4);
        const other = ids.get(prefix);
        ids.set(prefix, one);
        if (other === undefined) continue;
        registry.add('a', 'latest', one).add('b', 'latest', other);
        await pull('reg.example/a');
        await pull('reg.example/b');
        expect(store.find(prefix)).to.equal(undefined);
        expect(store.find(hexOf(one.id).slice(0, 12))?.id).to.equal(one.id);
        return;
      }
    });

    it('pins by exact name, prefix and keyword', async () => {
      registry.add('pause', '3.10', image).add('team/tool', 'v1', sibling);
      const pinning = await open({ pinnedImages: ['reg.example/pause:3.10'] });
      await pull('reg.example/pause:3.10', pinning);
      await pull('reg.example/team/tool:v1', pinning);
      const pinned = (...patterns: string[]): string[] => {
        pinning.setPinnedImages(patterns);
        return pinning
          .list()
          .filter((each) => each.pinned)
          .map((each) => each.repoTags[0] ?? '');
      };
      expect(pinning.find('reg.example/pause:3.10')?.pinned).to.equal(true);
      expect(pinned('reg.example/pause')).to.deep.equal([]);
      expect(pinned('reg.example/team/*')).to.deep.equal(['reg.example/team/tool:v1']);
      expect(pinned('*tool*')).to.deep.equal(['reg.example/team/tool:v1']);
      expect(pinned('*', '**', '', 'tool')).to.deep.equal([]);
      expect(pinned('reg.example/*')).to.have.length(2);
    });
  });

  describe('remove', () => {
    it('by one name removes the image with all of them, and what only it used', async () => {
      registry.add('x', '1', image).add('y', '2', image).add('z', 'latest', sibling);
      for (const each of ['x:1', 'y:2', 'z']) await pull(`reg.example/${each}`);
      await store.remove(testOp(), 'reg.example/y:2');
      expect(names()).to.deep.equal(['reg.example/z:latest', `reg.example/z@${sibling.manifest.digest}`]);
      expect([...unpacker.layers].sort()).to.deep.equal([...sibling.chain].sort());
      expect((await blobsOnDisk()).sort()).to.deep.equal([hexOf(sibling.id), hexOf(sibling.manifest.digest)].sort());
      expect((await open()).list()).to.have.length(1);
    });

    it('is content when there is nothing, and when many remove at once', async () => {
      registry.add('x', 'latest', image);
      await store.remove(testOp(), 'reg.example/x');
      await pull('reg.example/x');
      await Promise.all(Array.from({ length: 5 }, () => store.remove(testOp(), 'reg.example/x')));
      expect(store.list()).to.deep.equal([]);
    });

    it('refuses while it is in use, and says by whom', async () => {
      registry.add('x', 'latest', image);
      const using = await open({ inUse: (own: ImageId) => (own === id(image) ? ['c1', 'c2'] : []) });
      await pull('reg.example/x', using);
      const error = await failure(using.remove(testOp(), 'reg.example/x'));
      expect(error.code).to.equal('FailedPrecondition');
      expect(error.message).to.contain('2 container(s): c1, c2');
      expect(using.list()).to.have.length(1);
    });

    it('leaves the layers that a pull in flight has found', async () => {
      registry.add('a', 'latest', image).add('b', 'latest', sibling);
      await pull('reg.example/a');
      const entered = Promise.withResolvers<void>();
      const go = Promise.withResolvers<void>();
      unpacker.onUnpack = async () => {
        entered.resolve();
        await go.promise;
      };
      const pulling = pull('reg.example/b');
      await entered.promise;
      await store.remove(testOp(), 'reg.example/a');
      await store.sweep(testOp());
      go.resolve();
      await pulling;
      expect([...unpacker.layers].sort()).to.deep.equal([...sibling.chain].sort());
    });
  });

  describe('restart', () => {
    it('finds everything again', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      const before = [await pull('reg.example/x:1'), await pull('reg.example/y:1')];
      const after = await open();
      expect(after.list()).to.have.deep.members(before);
      await after.sweep(testOp());
      expect(after.list()).to.have.length(2);
      expect(unpacker.layers.size).to.equal(4);
    });

    it('sets a damaged record aside and rebuilds the image without its names', async () => {
      registry.add('x', '1', image);
      await pull('reg.example/x:1');
      const file = join(root, 'store/images', `${hexOf(image.id)}.json`);
      for (const damage of [
        '',
        '{',
        '{"version":1}',
        '{"version":2}',
        (await readFile(file, 'utf8')).replace(/"sizeBytes": "\d+"/, '"sizeBytes": -1'),
      ]) {
        await writeFile(file, damage);
        const log = new RecordingLog();
        const after = new FileImageStore({
          root: join(root, 'store'),
          unpacker,
          transport: network,
          policy: new RegistryPolicy({ registriesConf: '', registriesConfDir: '', hostsDirs: [], certsDirs: [] }),
          trust: new ImageTrust({ defaultPolicies: [], signaturePolicyDir: '', registriesDirs: [] }),
        });
        await after.load(testOp(log));
        expect(log.lines.filter((line) => line.startsWith('error'))).to.have.length(1);
        expect(after.find(image.id)).to.deep.include({ repoTags: [], top: image.chain.at(-1) });
        await after.sweep(testOp());
        expect(unpacker.layers.size).to.equal(3);
        await pull('reg.example/x:1', after);
        expect(names(after)).to.include('reg.example/x:1');
      }
      expect(await readdir(join(root, 'store/images/damaged'))).to.have.length(1);
    });

    it('a record whose config is gone is no image', async () => {
      registry.add('x', '1', image);
      await pull('reg.example/x:1');
      await rm(join(root, 'store/blobs/sha256', hexOf(image.id)));
      const after = await open();
      expect(after.list()).to.deep.equal([]);
      await after.sweep(testOp());
      expect([await blobsOnDisk(), unpacker.layers.size]).to.deep.equal([[], 0]);
    });

    it('sweeps what nobody needs, but not layers under containers', async () => {
      registry.add('x', '1', image);
      await pull('reg.example/x:1');
      await writeFile(join(root, 'store/blobs/sha256', hexOf(digestOf('stray'))), 'stray');
      const [stray, used] = [digestOf('l1'), digestOf('l2')].map(
        (each) => each as unknown as (typeof image.chain)[number],
      );
      unpacker.layers.add(stray!).add(used!);
      const after = await open({ layersInUse: () => [used!] });
      await after.sweep(testOp());
      expect(await blobsOnDisk()).to.have.length(2);
      expect(unpacker.layers.has(used!)).to.equal(true);
      expect(unpacker.layers.has(stray!)).to.equal(false);
    });

    it('two records that claim one tag: the later one has it', async () => {
      registry.add('x', 'latest', image).add('y', 'latest', sibling);
      await pull('reg.example/x');
      await pull('reg.example/y');
      const file = join(root, 'store/images', `${hexOf(sibling.id)}.json`);
      await writeFile(file, (await readFile(file, 'utf8')).replace('reg.example/y:latest', 'reg.example/x:latest'));
      const after = await open();
      expect(after.find('reg.example/x')?.id).to.equal(id(sibling));
      expect(after.find(image.id)?.repoTags).to.deep.equal([]);
    });

    it('checks, reports and repairs', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      await pull('reg.example/x:1');
      await pull('reg.example/y:1');
      expect(await store.check(testOp(), 'report')).to.deep.equal([]);
      unpacker.layers.delete(image.chain[1]!);
      const [problem] = await store.check(testOp(), 'report');
      expect(problem).to.deep.equal({ image: image.id, what: `layer ${image.chain[1]} is missing`, keptBy: [] });
      expect(store.list()).to.have.length(2);
      await store.check(testOp(), 'repair');
      expect(store.list().map((each) => each.id)).to.deep.equal([id(sibling)]);
      await store.sweep(testOp());
      unpacker.unpacked.length = 0;
      await pull('reg.example/x:1');
      expect(unpacker.unpacked.map(({ chainId }) => chainId)).to.deep.equal([image.chain[1]]);
    });
  });

  describe('repair', () => {
    it('takes no layer away from under a container, nor the images that it belongs to', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      const users = new Map<string, readonly string[]>([[image.id, ['c1']]]);
      const used = await open({
        inUse: (imageId) => users.get(imageId) ?? [],
        layersInUse: () => (users.size > 0 ? image.chain : []),
      });
      for (const name of ['x:1', 'y:1']) await pull(`reg.example/${name}`, used);
      unpacker.damaged.add(image.chain[0]!);
      const problems = await used.check(testOp(), 'repair');
      expect(problems.map((each) => [each.image, each.keptBy])).to.have.deep.members([
        [image.id, ['c1']],
        [sibling.id, ['a container of another image']],
      ]);
      expect(used.list()).to.have.length(2);
      expect(unpacker.layers.has(image.chain[0]!)).to.equal(true);
      users.clear();
      await used.check(testOp(), 'repair');
      expect(used.list()).to.deep.equal([]);
      expect([...unpacker.layers].sort()).to.deep.equal([...image.chain.slice(1), sibling.chain[1]!].sort());
    });

    it('of a manifest or a config goes on under a container: its layers stay', async () => {
      registry.add('x', '1', image);
      const used = await open({ inUse: () => ['c1'], layersInUse: () => image.chain });
      await pull('reg.example/x:1', used);
      await writeFile(join(root, 'store/blobs/sha256', hexOf(image.id)), 'bit rot');
      expect((await used.check(testOp(), 'repair')).map(({ keptBy }) => keptBy)).to.deep.equal([[]]);
      expect(used.list()).to.deep.equal([]);
      expect(unpacker.layers.size).to.equal(3);
      expect((await pull('reg.example/x:1', used)).id).to.equal(image.id);
      expect(await used.check(testOp(), 'report')).to.deep.equal([]);
    });

    it('leaves a bad layer that a pull in flight counts on; the next repair gets it', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      await pull('reg.example/x:1');
      const [entered, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      unpacker.onUnpack = async () => {
        entered.resolve();
        await go.promise;
      };
      const pulling = pull('reg.example/y:1');
      await entered.promise;
      unpacker.damaged.add(image.chain[0]!);
      await store.check(testOp(), 'repair');
      expect([store.list(), unpacker.layers.has(image.chain[0]!)]).to.deep.equal([[], true]);
      go.resolve();
      await pulling;
      expect(await store.check(testOp(), 'repair')).to.have.length(1);
      expect([store.list(), unpacker.layers.has(image.chain[0]!)]).to.deep.equal([[], false]);
    });

    it('forgets every image with the bad layer, also one that came while it was looked at', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      await pull('reg.example/x:1');
      unpacker.verifyLayer = async (_op, chainId) => {
        if (chainId !== image.chain[0]) return [];
        await pull('reg.example/y:1');
        return ['damaged'];
      };
      const problems = await store.check(testOp(), 'repair');
      expect(problems).to.deep.equal([{ image: image.id, what: `layer ${image.chain[0]}: damaged`, keptBy: [] }]);
      expect([store.list(), unpacker.layers.has(image.chain[0]!)]).to.deep.equal([[], false]);
      unpacker.unpacked.length = 0;
      for (const name of ['x:1', 'y:1']) await pull(`reg.example/${name}`);
      expect(unpacker.unpacked.map(({ chainId }) => chainId)).to.deep.equal([image.chain[0]]);
    });

    it('protects what is whole only until the image is here again', async () => {
      registry.add('x', '1', image);
      await pull('reg.example/x:1');
      unpacker.damaged.add(image.chain[0]!);
      await store.check(testOp(), 'repair');
      await pull('reg.example/x:1');
      await store.remove(testOp(), image.id);
      expect([...unpacker.layers]).to.deep.equal([]);
    });
  });

  describe('what a record may hold', () => {
    it('names: as many as are allowed, the newest', async () => {
      registry.add('x', 'latest', image);
      const [imported, ...more] = await store.import(
        testOp(),
        await named(Array.from({ length: 10_000 }, (_, i) => `reg.example/x:t${i}`)),
      );
      expect([imported?.id, more]).to.deep.equal([image.id, []]);
      await pull('reg.example/x:latest');
      const check = (using: FileImageStore): void => {
        const [only] = using.list();
        expect(only?.repoTags.length).to.equal(limits.imageNamesCount);
        expect(only?.repoTags).to.include('reg.example/x:latest');
        for (const name of only?.repoTags ?? []) expect(using.find(name)?.id, name).to.equal(image.id);
        const found = Array.from({ length: 10_000 }, (_, i) => using.find(`reg.example/x:t${i}`)).filter(
          (each) => each !== undefined,
        );
        expect(found.length).to.equal(limits.imageNamesCount - 1);
      };
      check(store);
      check(await open());
    });

    it('long names: no more than can be read again', async () => {
      for (const half of [0, 1]) {
        await store.import(
          testOp(),
          await named(
            Array.from({ length: 1_000 }, (_, i) => `reg.example/${'long/'.repeat(40)}${half}/${i}:${'t'.repeat(128)}`),
          ),
        );
      }
      const again = await open();
      expect(again.list()[0]?.repoTags.length).to.be.above(100);
      expect(again.list()).to.deep.equal(store.list());
    });

    it('annotations: no more than an object of Kubernetes may have', async () => {
      const document = JSON.parse(image.manifest.bytes.toString()) as object;
      const manifest = Buffer.from(JSON.stringify({ ...document, annotations: { large: '\0'.repeat(50_000) } }));
      registry.add('x', '1', image).put('/v2/x/manifests/1', manifest, image.manifest.type);
      expect((await failure(pull('reg.example/x:1'))).code).to.equal('ResourceExhausted');
      expect(store.list()).to.deep.equal([]);
    });
  });

  describe('registries', () => {
    const configure = (text: string): Promise<void> => writeFile(join(root, 'registries.conf'), text);
    const mirrors = (...hosts: string[]): Promise<void> =>
      configure(
        `[[registry]]\nprefix = "reg.example"\n${hosts.map((host) => `[[registry.mirror]]\nlocation = "${host}"\n`).join('')}`,
      );

    it('goes through mirrors to the registry itself, and keeps the name', async () => {
      await mirrors('m1.example', 'm2.example');
      network.hosts.set('https://m2.example', new FakeRegistry().add('x', 'latest', image).host);
      const pulled = await pull('reg.example/x');
      expect(pulled.repoTags).to.deep.equal(['reg.example/x:latest']);
      expect(network.lines.some((line) => line.includes('reg.example'))).to.equal(false);
      network.hosts.delete('https://m2.example');
      registry.add('y', 'latest', sibling);
      expect((await pull('reg.example/y')).id).to.equal(id(sibling));
    });

    it('asks the next one for a blob that a mirror has wrong or stops sending, from where it stopped', async () => {
      await mirrors('m1.example');
      const mirror = new FakeRegistry().add('x', 'latest', image);
      network.hosts.set('https://m1.example', mirror.host);
      registry.add('x', 'latest', image);
      const [base, middle] = image.layers;
      mirror.special.set(`/v2/x/blobs/${base?.digest}`, () => ({ body: Buffer.alloc(base?.bytes.length ?? 0) }));
      mirror.special.set(`/v2/x/blobs/${middle?.digest}`, (request) =>
        request.headers['range'] === undefined
          ? { body: broken(middle?.bytes.subarray(0, 10) ?? Buffer.alloc(0)) }
          : { status: 403 },
      );
      await pull('reg.example/x');
      const own = network.requests
        .filter(({ url }) => url.origin === ORIGIN)
        .map(({ url, headers }) => `${url.pathname} ${headers['range'] ?? 'whole'}`);
      expect(own.sort()).to.deep.equal(
        [`/v2/x/blobs/${base?.digest} whole`, `/v2/x/blobs/${middle?.digest} bytes=10-`].sort(),
      );
    });

    it('blames the mirror that began a wrong blob, not the registry that ended it', async () => {
      await mirrors('m1.example');
      const mirror = new FakeRegistry().add('x', 'latest', image);
      network.hosts.set('https://m1.example', mirror.host);
      registry.add('x', 'latest', image);
      const path = `/v2/x/blobs/${image.layers[0]?.digest}`;
      mirror.special.set(path, (request) =>
        request.headers['range'] === undefined ? { body: Buffer.alloc(10) } : { status: 403 },
      );
      expect((await pull('reg.example/x')).id).to.equal(image.id);
      const asked = network.requests
        .filter(({ url }) => url.pathname === path)
        .map(({ url, headers }) => `${url.host} ${headers['range'] ?? 'whole'}`);
      expect(asked).to.deep.equal([
        'm1.example whole',
        'm1.example bytes=10-',
        'reg.example bytes=10-',
        'reg.example whole',
      ]);
    });

    it('tells how the mirrors failed when all did', async () => {
      await mirrors('m1.example');
      network.hosts.set('https://m1.example', () => ({ status: 403 }));
      const error = await failure(pull('reg.example/none'));
      expect(error.code).to.equal('NotFound');
      expect(error.message).to.match(/manifests?.*reg\.example.*404.*mirrors before it: .*m1\.example answers 403/);
    });

    it('sends the request’s credentials to the registry that they are for, and to no mirror', async () => {
      await mirrors('m1.example');
      const seen: string[] = [];
      const guarded =
        (registryHere: FakeRegistry) =>
        (
          request: Parameters<FakeRegistry['host']>[0],
          route: Parameters<FakeRegistry['host']>[1],
        ): ReturnType<FakeRegistry['host']> => {
          const authorization = request.headers['authorization'];
          if (authorization === undefined) return { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } };
          seen.push(`${request.url.host} ${Buffer.from(authorization.slice(6), 'base64').toString()}`);
          return registryHere.host(request, route);
        };
      network.hosts.set('https://m1.example', guarded(new FakeRegistry()));
      network.hosts.set(ORIGIN, guarded(registry.add('x', 'latest', image)));
      const auth = { ...noAuth, username: 'u', password: 'p' };
      await store.pull(testOp(), 'reg.example/x', { auth });
      expect(new Set(seen)).to.deep.equal(new Set(['reg.example u:p']));
      expect(
        (
          await failure(
            store.pull(testOp(), 'reg.example/x', { auth: { ...auth, serverAddress: 'https://other.example/v1/' } }),
          )
        ).code,
      ).to.equal('Unauthenticated');
      seen.length = 0;
      await store.pull(testOp(), 'reg.example/x', { auth: { ...auth, serverAddress: 'm1.example' } }).catch(() => {});
      expect(new Set(seen)).to.deep.equal(new Set(['m1.example u:p']));
    });

    it('takes the namespace’s own credentials from its one-time file', async () => {
      await mkdir(join(root, 'auth'));
      const { createHash } = await import('node:crypto');
      const file = join(root, 'auth', `prod-${createHash('sha256').update('reg.example/x').digest('hex')}.json`);
      await writeFile(
        file,
        JSON.stringify({ auths: { 'reg.example': { auth: Buffer.from('ns:pw').toString('base64') } } }),
      );
      registry.add('x', 'latest', image);
      network.hosts.set(ORIGIN, (request, route) =>
        request.headers['authorization'] === `Basic ${Buffer.from('ns:pw').toString('base64')}`
          ? registry.host(request, route)
          : { status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } },
      );
      const own = await open({
        credentials: new NodeCredentials({ authFiles: [], namespacedAuthDir: join(root, 'auth') }),
      });
      expect((await failure(own.pull(testOp(), 'reg.example/x', { namespace: 'dev' }))).code).to.equal(
        'Unauthenticated',
      );
      await own.pull(testOp(), 'reg.example/x', { namespace: 'prod' });
      expect(await readdir(join(root, 'auth/in-use'))).to.deep.equal([]);
      await writeFile(join(root, 'auth/in-use/dev-x.json'), 'of a daemon that died');
      await open({ credentials: new NodeCredentials({ authFiles: [], namespacedAuthDir: join(root, 'auth') }) });
      expect(await readdir(join(root, 'auth/in-use'))).to.deep.equal([]);
    });

    it('refuses blocked registries and rejected images before it asks anybody', async () => {
      await configure('[[registry]]\nlocation = "reg.example"\nblocked = true\n');
      expect((await failure(pull('reg.example/x'))).code).to.equal('PermissionDenied');
      await configure('');
      await writeFile(
        join(root, 'policy.json'),
        JSON.stringify({
          default: [{ type: 'insecureAcceptAnything' }],
          transports: { docker: { 'reg.example/bad': [{ type: 'reject' }] } },
        }),
      );
      expect((await failure(pull('reg.example/bad/x'))).reason).to.equal('SignatureValidationFailed');
      expect(network.requests).to.have.length(0);
    });

    it('tries what a short name may mean', async () => {
      await configure(
        'unqualified-search-registries = ["nowhere.example", "reg.example"]\nshort-name-mode = "permissive"\n',
      );
      network.hosts.set('https://nowhere.example', () => ({ status: 404 }));
      registry.add('app', 'latest', image);
      expect((await pull('app')).repoTags).to.deep.equal(['reg.example/app:latest']);
      expect(store.find('app')?.id).to.equal(id(image));
      expect((await failure(pull('none'))).code).to.equal('NotFound');
      expect((await failure(pull('BAD NAME'))).code).to.equal('InvalidArgument');
    });

    it('never says a secret', async () => {
      const log = new RecordingLog();
      network.hosts.set(ORIGIN, () => ({ status: 401, headers: { 'www-authenticate': 'Basic realm="x"' } }));
      const error = await failure(
        store.pull(testOp(log), 'reg.example/x', { auth: { ...noAuth, username: 'u', password: 's3cret' } }),
      );
      expect(`${explain(error)} ${log.lines.join()}`).to.not.match(/s3cret|czNjcmV0/);
    });
  });

  describe('import', () => {
    const layout = async (image: FakeImage, annotations: Record<string, string>): Promise<string> =>
      layoutOf(image, [annotations]);

    it('goes the way of a pull, under the name given', async () => {
      const [imported] = await store.import(
        testOp(),
        await layout(image, { 'org.opencontainers.image.ref.name': 'v1' }),
        'reg.example/app:9',
      );
      expect(imported).to.deep.include({
        id: id(image),
        repoTags: ['reg.example/app:9'],
        repoDigests: [`reg.example/app@${image.manifest.digest}`],
      });
      expect(unpacker.unpacked).to.have.length(3);
      expect(network.requests).to.have.length(0);
    });

    it('takes full names from the layout; a bare tag is none', async () => {
      await store.import(testOp(), await layout(image, { 'org.opencontainers.image.ref.name': 'v1' }));
      expect(names()).to.deep.equal([]);
      await store.import(testOp(), await layout(image, { 'io.containerd.image.name': 'reg.example/x:2' }));
      expect(names()).to.include('reg.example/x:2');
    });

    it('refuses a damaged layer, and changes nothing', async () => {
      const path = await layout(image, {});
      await writeFile(
        join(path, 'blobs', image.layers[1]!.digest.replace(':', '/')),
        Buffer.alloc(image.layers[1]!.bytes.length),
      );
      expect((await failure(store.import(testOp(), path))).code).to.equal('DataLoss');
      expect([store.list(), [...unpacker.layers], await blobsOnDisk()]).to.deep.equal([[], [], []]);
    });
  });
});

import { expect } from 'chai';
import { gzipSync } from 'node:zlib';
import { hexOf } from '../base/ids.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import { fakeImage, failure, testOp } from './fakes.ts';
import type { FakeImage, FakeNetwork, FakeRegistry, FakeUnpacker } from './fakes.ts';
import { image, manifestOf, StoreGround } from './fake-store.ts';
import type { Named } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

const TEXTS = ['base', 'middle', 'top'];
const named = (bytes: Buffer): Named => ({ digest: digestOf(bytes), size: bytes.length });
const config = named(image.config);
const layers = image.layers.map(({ bytes }) => named(bytes));
/** Another image on the layers of the victim, or what says so. */
const other = fakeImage(TEXTS, { Cmd: ['other'] });

describe('image: what is shared, and with whom', () => {
  let ground: StoreGround;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  let victim: Image;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ network, registry, unpacker, store } = ground);
    registry.add('victim', '1', image);
    victim = await ground.pull('reg.example/victim:1');
    network.requests.length = 0;
  });
  afterEach(() => ground.remove());

  /** A stranger's repository with this manifest and these blobs. */
  const offer = (manifest: Buffer, blobs: readonly Buffer[] = []): void => {
    registry.put('/v2/evil/manifests/1', manifest, mediaTypes.ociManifest);
    for (const bytes of blobs) registry.put(`/v2/evil/blobs/${digestOf(bytes)}`, bytes);
  };
  const evil = (): Promise<Image> => ground.pull('reg.example/evil:1');
  const askedFor = (): string[] =>
    network.lines.filter((line) => line.includes('/blobs/')).map((line) => line.split('/').at(-1) ?? '');
  const refused = async (code: string): Promise<void> => {
    expect((await failure(evil())).code).to.equal(code);
    expect(store.list()).to.deep.equal([victim]);
    expect(store.find('reg.example/evil:1')).to.equal(undefined);
    expect((await ground.open()).list()).to.deep.equal([victim]);
    expect([...unpacker.layers].sort()).to.deep.equal([...image.chain].sort());
  };
  const strange = TEXTS.map((text) => named(Buffer.from(`no ${text}`)));

  describe('nothing with who only names it', () => {
    it('the id of an image, and any layers', async () => {
      offer(manifestOf(config, strange));
      await refused('NotFound');
    });

    it('the id of an image whose config is known, and any layers', async () => {
      offer(manifestOf(config, strange), [image.config]);
      await refused('NotFound');
      // The first layer that cannot be had stops the others.
      expect(askedFor()[0]).to.equal(config.digest);
      expect(strange.map(({ digest }) => digest)).to.include(askedFor()[1]);
    });

    it('the id of an image, and layers that are something else', async () => {
      const own = TEXTS.map((text) => gzipSync(`not ${text}`));
      offer(manifestOf(config, own.map(named)), [image.config, ...own]);
      await refused('DataLoss');
    });

    it('the id of an image, and its layers but one', async () => {
      offer(manifestOf(config, [...layers.slice(0, 2), strange[2]!]), [image.config]);
      await refused('NotFound');
    });

    it('a config of one’s own over the layers of another', async () => {
      offer(manifestOf(named(other.config), strange), [other.config]);
      await refused('NotFound');
      const own = TEXTS.map((text) => gzipSync(`not ${text}`));
      offer(manifestOf(named(other.config), own.map(named)), [other.config, ...own]);
      await refused('DataLoss');
    });

    it('an image without layers', async () => {
      const bare = fakeImage([], { Env: ['TOKEN=secret'] });
      registry.add('bare', '1', bare);
      const second = await ground.pull('reg.example/bare:1');
      const manifest = Buffer.from(`${manifestOf(named(bare.config), []).toString()} `);
      offer(manifest);
      expect((await failure(evil())).code).to.equal('NotFound');
      expect(store.find(bare.id)).to.equal(second);
    });

    it('a layer of which the size is not known', async () => {
      const { bytes } = image.layers[1]!;
      for (const [size, code] of [
        [bytes.length - 1, 'DataLoss'],
        [2 ** 52, 'Unavailable'],
      ] as const) {
        const lied = [layers[0]!, { ...layers[1]!, size }, layers[2]!];
        offer(manifestOf(named(other.config), lied), [other.config, bytes]);
        await refused(code);
      }
    });
  });

  describe('all of it with who has it', () => {
    it('layers that come in the same blobs are not asked for', async () => {
      offer(manifestOf(named(other.config), layers), [other.config]);
      expect((await evil()).id).to.equal(other.id);
      expect(askedFor()).to.deep.equal([other.id]);
      expect(unpacker.unpacked).to.have.length(3);
    });

    it('the manifest that it came by is all that is asked for, under whatever name', async () => {
      registry.add('copy', 'x', image);
      const pulled = await ground.pull('reg.example/copy:x');
      expect(pulled.repoTags).to.deep.equal(['reg.example/copy:x', 'reg.example/victim:1']);
      expect(askedFor()).to.deep.equal([]);
    });

    /** The same content, packed otherwise. */
    const repacked = (of: FakeImage): { readonly manifest: Buffer; readonly blobs: readonly Buffer[] } => {
      const blobs = TEXTS.map((text) => gzipSync(text, { level: 0 }));
      return { manifest: manifestOf(named(of.config), blobs.map(named)), blobs: [of.config, ...blobs] };
    };

    it('layers in other blobs are read, and not unpacked again', async () => {
      const { manifest, blobs } = repacked(other);
      offer(manifest, blobs);
      const pulled = await evil();
      expect(pulled.layers.map(({ chainId }) => chainId)).to.deep.equal(image.chain);
      expect(unpacker.unpacked).to.have.length(3);
      expect(unpacker.proven.map(({ chainId }) => chainId)).to.have.deep.members(image.chain);
      expect(await ground.blobsOnDisk()).to.have.length(4);
      // It has been shown now: the next image in these blobs need not show it again.
      const third = fakeImage(TEXTS, { Cmd: ['third'] });
      offer(manifestOf(named(third.config), blobs.slice(1).map(named)), [third.config]);
      network.requests.length = 0;
      await evil();
      expect(askedFor()).to.deep.equal([third.id]);
    });

    it('a name more changes nothing but the names', async () => {
      const { manifest, blobs } = repacked(image);
      offer(manifest, blobs);
      const pulled = await evil();
      const repoTags = ['reg.example/evil:1', 'reg.example/victim:1'];
      const repoDigests = [`reg.example/evil@${digestOf(manifest)}`, `reg.example/victim@${image.manifest.digest}`];
      expect(pulled).to.deep.equal({ ...victim, repoTags, repoDigests });
      expect((await ground.open()).list()).to.deep.equal([pulled]);
      expect((await ground.blobsOnDisk()).sort()).to.deep.equal([hexOf(image.id), hexOf(image.manifest.digest)].sort());
      network.requests.length = 0;
      await evil();
      expect(network.lines.map((line) => line.split(' ')[0])).to.deep.equal(['HEAD']);
    });

    it('what came from an archive, too', async () => {
      await store.remove(testOp(), victim.id);
      const path = await ground.layoutOf(image, [{ 'io.containerd.image.name': 'reg.example/victim:1' }]);
      const [imported] = await store.import(testOp(), path);
      offer(manifestOf(config, strange), [image.config]);
      expect((await failure(evil())).code).to.equal('NotFound');
      expect(store.list()).to.deep.equal([imported]);
    });
  });
});

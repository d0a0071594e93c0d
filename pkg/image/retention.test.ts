import { expect } from 'chai';
import { readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../base/ids.ts';
import type { ImageId } from '../base/ids.ts';
import { digestOf } from '../oci/digest.ts';
import { failure, RecordingLog, testOp } from './fakes.ts';
import type { FakeNetwork, FakeRegistry, FakeUnpacker } from './fakes.ts';
import { id, image, sibling, StoreGround } from './fake-store.ts';
import { RegistryPolicy } from './policy/policy.ts';
import { ImageTrust } from './signature/index.ts';
import { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/retention', () => {
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
  const names: StoreGround['names'] = (...args) => ground.names(...args);
  const blobsOnDisk = (): Promise<string[]> => ground.blobsOnDisk();

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
      expect([after.list(), after.counters().imagesLost]).to.deep.equal([[], 1]);
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
  });

  describe('a layer that is gone', () => {
    const [base, middle] = image.chain;
    beforeEach(async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      await pull('reg.example/x:1');
    });

    it('at the start: the image is absent, pinned or not, and the next pull brings just that layer', async () => {
      await pull('reg.example/y:1');
      unpacker.layers.delete(middle!);
      const log = new RecordingLog();
      const next = await open({ pinnedImages: ['*example*'] }, testOp(log));
      expect(next.list().map((each) => each.id)).to.deep.equal([id(sibling)]);
      expect(next.find('reg.example/x:1')).to.equal(undefined);
      expect(log.lines.filter((line) => line.startsWith('error'))).to.deep.equal([
        'error a part of an image is gone from the disk, the image counts as absent until it is pulled again',
      ]);
      expect(next.counters().imagesLost).to.equal(1);
      await next.sweep(testOp());
      unpacker.unpacked.length = 0;
      expect((await pull('reg.example/x:1', next)).id).to.equal(image.id);
      expect(unpacker.unpacked.map(({ chainId }) => chainId)).to.deep.equal([middle]);
      expect(await readdir(join(root, 'store/images/unfinished'))).to.deep.equal([]);
    });

    it('when it cannot be used: the image is absent, and so are others that have that layer', async () => {
      await pull('reg.example/y:1');
      await store.confirm(testOp(), image.id as string as ImageId);
      expect(store.list()).to.have.length(2);
      unpacker.layers.delete(base!);
      const log = new RecordingLog();
      const error = await failure(store.confirm(testOp(log), image.id as string as ImageId));
      expect([error.code, error.message]).to.deep.equal([
        'NotFound',
        `image ${image.id} is not whole any more, layer ${base} is gone; pull it again`,
      ]);
      expect([store.list(), store.counters().imagesLost, log.lines.length]).to.deep.equal([[], 2, 2]);
      expect((await failure(store.confirm(testOp(), image.id as string as ImageId))).code).to.equal('NotFound');
      expect((await open()).list()).to.deep.equal([]);
      await pull('reg.example/y:1');
      expect(store.list().map((each) => each.id)).to.deep.equal([id(sibling)]);
    });

    it('when a pull of another image meets it', async () => {
      unpacker.layers.delete(base!);
      await pull('reg.example/y:1');
      expect(store.list().map((each) => each.id)).to.deep.equal([id(image), id(sibling)].slice(1));
      expect(store.counters().imagesLost).to.equal(1);
    });

    it('under containers: they keep what is left of it', async () => {
      unpacker.layers.delete(middle!);
      const next = await open({ inUse: () => ['c1'], layersInUse: () => image.chain, keepUnfinishedMs: 0 });
      expect(next.list()).to.deep.equal([]);
      await next.sweep(testOp());
      expect([...unpacker.layers].sort()).to.deep.equal([image.chain[0], image.chain[2]].sort());
    });
  });
});

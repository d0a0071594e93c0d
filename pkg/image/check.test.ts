import { expect } from 'chai';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../base/ids.ts';
import { testOp } from './fakes.ts';
import type { FakeRegistry, FakeUnpacker } from './fakes.ts';
import { id, image, sibling, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/check', () => {
  let ground: StoreGround;
  let root: string;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ root, registry, unpacker, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);

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

  it('leaves a bad blob that a pull in flight counts on; the next repair gets it', async () => {
    registry.add('x', '1', image);
    await pull('reg.example/x:1');
    const document = JSON.parse(image.manifest.bytes.toString()) as object;
    const again = Buffer.from(JSON.stringify({ ...document, annotations: { copy: 'yes' } }));
    registry.put('/v2/x/manifests/2', again, image.manifest.type);
    const [entered, go] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    unpacker.settle = async () => {
      entered.resolve();
      await go.promise;
    };
    const pulling = pull('reg.example/x:2');
    await entered.promise;
    await writeFile(join(root, 'store/blobs/sha256', hexOf(image.id)), 'bit rot');
    await store.check(testOp(), 'repair');
    expect([store.list(), (await ground.blobsOnDisk()).includes(hexOf(image.id))]).to.deep.equal([[], true]);
    go.resolve();
    await pulling;
    expect(await store.check(testOp(), 'repair')).to.have.length(1);
    expect([store.list(), (await ground.blobsOnDisk()).includes(hexOf(image.id))]).to.deep.equal([[], false]);
    await pull('reg.example/x:2');
    expect(await store.check(testOp(), 'report')).to.deep.equal([]);
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

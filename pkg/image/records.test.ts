import { expect } from 'chai';
import { limits } from '../base/limits.ts';
import { failure, testOp } from './fakes.ts';
import type { FakeRegistry } from './fakes.ts';
import { image, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image/records', () => {
  let ground: StoreGround;
  let registry: FakeRegistry;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ registry, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);
  const named = (all: readonly string[]): Promise<string> =>
    ground.layoutOf(
      image,
      all.map((name) => ({ 'io.containerd.image.name': name })),
    );

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

import { expect } from 'chai';
import { mock } from 'node:test';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { limits } from '../base/limits.ts';
import { cancellable, failure, fakeImage, testOp } from './fakes.ts';
import type { FakeImage, FakeNetwork, FakeRegistry, FakeUnpacker } from './fakes.ts';
import { id, image, noAuth, sibling, StoreGround } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image, PullProgress } from '../ports/image.ts';

describe('image/pulls', () => {
  let ground: StoreGround;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ network, registry, unpacker, store } = ground);
  });
  afterEach(() => ground.remove());
  const pull = (reference: string, using = ground.store): Promise<Image> => ground.pull(reference, using);
  const open: StoreGround['open'] = (...args) => ground.open(...args);
  const names: StoreGround['names'] = (...args) => ground.names(...args);
  const blobsOnDisk = (): Promise<string[]> => ground.blobsOnDisk();

  describe('equal pulls', () => {
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

  describe('one that waits for another’s download', () => {
    it('is not silent while that one moves, and shows how far it is', async () => {
      registry.add('x', '1', image).add('y', '1', sibling);
      const [base] = image.layers;
      const [begun, waiting] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
      registry.special.set(`/v2/x/blobs/${base?.digest}`, () => ({ body: slowly() }));
      const patient = await open({ pullSilentMs: 600_000, pullProgressTimeoutMs: 0 });
      const shown = (at: number): PullProgress['layers'][number] | undefined =>
        patient.progress().find(({ reference }) => reference.includes('y'))?.layers[at];
      const seen: (bigint | undefined)[] = [];
      async function* slowly(): AsyncGenerator<Uint8Array> {
        begun.resolve();
        await waiting.promise;
        for (let at = 0; at < (base?.bytes.length ?? 0); at += 5) {
          yield base!.bytes.subarray(at, at + 5);
          seen.push(shown(0)?.bytesDone);
          mock.timers.tick(400_000);
        }
      }
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const first = pull('reg.example/x:1', patient);
        await begun.promise;
        const second = pull('reg.example/y:1', patient);
        // Its layers are begun in order: the first one waits when the second is done.
        while (shown(1)?.stage !== 'done') await new Promise(setImmediate);
        waiting.resolve();
        expect((await Promise.all([first, second])).map((each) => each.id)).to.deep.equal([image.id, sibling.id]);
        expect(seen.slice(0, 3)).to.deep.equal([5n, 10n, 15n]);
        // What another one has downloaded is counted once.
        const bytes = [...image.layers, sibling.layers[1]!].reduce((sum, layer) => sum + layer.bytes.length, 0);
        expect(patient.counters().downloadedBytes).to.equal(BigInt(bytes));
      } finally {
        mock.timers.reset();
      }
    });
  });

  describe('import', () => {
    const layout = async (image: FakeImage, annotations: Record<string, string>): Promise<string> =>
      ground.layoutOf(image, [annotations]);

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

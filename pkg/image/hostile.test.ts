import { expect } from 'chai';
import { readFile, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { RuntimeError } from '../base/errors.ts';
import { digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import { broken, failure, RecordingLog, testOp } from './fakes.ts';
import type { FakeRegistry, FakeUnpacker } from './fakes.ts';
import { image, manifestOf, StoreGround } from './fake-store.ts';
import type { Named } from './fake-store.ts';
import type { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

describe('image: what a stranger’s manifest says of content that is here', () => {
  let ground: StoreGround;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  let store: FileImageStore;
  let victim: Image;
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ registry, unpacker, store } = ground);
    registry.add('victim', '1', image);
    victim = await ground.pull('reg.example/victim:1');
  });
  afterEach(() => ground.remove());

  const offer = (bytes: Buffer): void => void registry.put('/v2/evil/manifests/1', bytes, mediaTypes.ociManifest);
  const evil = (using = store): Promise<Image> => ground.pull('reg.example/evil:1', using);
  const blob = (digest: Digest): string => join(ground.root, 'store/blobs/sha256', hexOf(digest));
  /** The victim is as it was, now and in the next life, and there is nothing but it. */
  const unharmed = async (): Promise<void> => {
    expect(store.list()).to.deep.equal([victim]);
    expect(await store.check(testOp(), 'report')).to.deep.equal([]);
    await store.sweep(testOp());
    const next = await ground.open();
    expect(next.list()).to.deep.equal([victim]);
    expect(await next.check(testOp(), 'report')).to.deep.equal([]);
    store = next;
  };

  const config: Named = { digest: image.id, size: image.config.length };
  const manifest: Named = { digest: image.manifest.digest, size: image.manifest.bytes.length };
  const layers: readonly Named[] = image.layers.map(({ digest, bytes }) => ({ digest, size: bytes.length }));

  for (const [what, manifestWith] of [
    ['a config of one byte', () => manifestOf({ ...config, size: 1 }, [])],
    ['a config that is longer', () => manifestOf({ ...config, size: config.size + 1 }, layers)],
    ['its config as a layer of one byte', (own: Named) => manifestOf(own, [{ ...config, size: 1 }])],
    ['its config as a layer', (own: Named) => manifestOf(own, [config])],
    ['its manifest as a config of one byte', () => manifestOf({ ...manifest, size: 1 }, [])],
    ['its manifest as a config', () => manifestOf(manifest, [])],
    ['its manifest as a layer of one byte', (own: Named) => manifestOf(own, [{ ...manifest, size: 1 }])],
    ['its manifest as a layer', (own: Named) => manifestOf(own, [manifest])],
  ] as const) {
    it(`${what}: nothing of it is lost`, async () => {
      const own = Buffer.from(JSON.stringify({ os: 'linux', rootfs: { type: 'layers', diff_ids: [digestOf('x')] } }));
      registry.put(`/v2/evil/blobs/${digestOf(own)}`, own);
      offer(manifestWith({ digest: digestOf(own), size: own.length }));
      unpacker.onUnpack = (_op, layer) => {
        if (layer.diffId === digestOf('x')) throw new RuntimeError('DataLoss', 'this is no tar');
      };
      for (let again = 0; again < 2; again++) {
        expect(['DataLoss', 'InvalidArgument', 'NotFound']).to.include((await failure(evil())).code);
        await unharmed();
      }
    });
  }

  it('a layer blob of another size, which waits for the next try of its pull', async () => {
    await store.remove(testOp(), victim.id);
    const [base, middle] = image.layers;
    const isHere = Promise.withResolvers<void>();
    unpacker.onUnpack = (op, layer) => {
      if (layer.digest !== base?.digest) return;
      isHere.resolve();
      return new Promise((_resolve, reject) =>
        op.signal.addEventListener('abort', () => reject(op.signal.reason as Error), { once: true }),
      );
    };
    registry.special.set(`/v2/victim/blobs/${middle?.digest}`, async () => {
      await isHere.promise;
      return { status: 503 };
    });
    await failure(ground.pull('reg.example/victim:1'));
    expect(await readFile(blob(base!.digest))).to.deep.equal(base?.bytes);
    const own = Buffer.from(JSON.stringify({ rootfs: { type: 'layers', diff_ids: [base?.diffId] } }));
    registry.put(`/v2/evil/blobs/${digestOf(own)}`, own);
    offer(manifestOf({ digest: digestOf(own), size: own.length }, [{ digest: base!.digest, size: 1 }]));
    expect((await failure(evil())).code).to.equal('DataLoss');
    expect(await readFile(blob(base!.digest))).to.deep.equal(base?.bytes);
  });

  describe('content that is here and was damaged', () => {
    for (const [how, damage] of [
      ['cut short', (bytes: Buffer) => bytes.subarray(1)],
      ['changed', (bytes: Buffer) => Buffer.from(bytes.map((byte, at) => (at === 3 ? byte ^ 1 : byte)))],
    ] as const) {
      it(`is brought again by the next pull: a config that is ${how}`, async () => {
        const log = new RecordingLog();
        await writeFile(blob(image.id), damage(image.config));
        unpacker.layers.delete(image.chain[0]!);
        const next = await ground.open();
        await next.pull(testOp(log), 'reg.example/victim:1', {});
        expect(await readFile(blob(image.id))).to.deep.equal(image.config);
        unpacker.layers.delete(image.chain[0]!);
        await writeFile(blob(image.id), damage(image.config));
        await next.pull(testOp(log), 'reg.example/victim:1', {});
        expect(await readFile(blob(image.id))).to.deep.equal(image.config);
      });
    }
  });

  it('a manifest that was left behind is not taken for the lost record of its image', async () => {
    const strange = { ...layers[0]!, digest: digestOf('strange') };
    for (let at = 0; at < 8; at++) {
      const left = manifestOf(config, at % 2 === 0 ? [strange] : [strange, ...layers.slice(1)])
        .toString()
        .padEnd(1000 + at);
      await writeFile(blob(digestOf(left)), left);
    }
    await writeFile(join(ground.root, 'store/images', `${hexOf(image.id)}.json`), '{');
    const next = await ground.open();
    expect(next.list().map((each) => each.manifestDigest)).to.deep.equal([image.manifest.digest]);
  });

  describe('the start of a download', () => {
    const [base] = image.layers;
    const partial = (): string => join(ground.root, 'store/blobs/.partial', (base?.digest ?? '').replace(':', '-'));
    const own = Buffer.from(
      JSON.stringify({ os: 'linux', rootfs: { type: 'layers', diff_ids: [image.layers[0]!.diffId] } }),
    );
    beforeEach(async () => {
      await store.remove(testOp(), victim.id);
      registry.special.set(`/v2/victim/blobs/${base?.digest}`, (request) =>
        request.headers['range'] === undefined ? { body: broken(base!.bytes.subarray(0, 10)) } : { status: 503 },
      );
      await failure(ground.pull('reg.example/victim:1'));
      expect(await readFile(partial())).to.deep.equal(base?.bytes.subarray(0, 10));
      registry.put(`/v2/evil/blobs/${digestOf(own)}`, own);
    });
    /** The pull of the victim asks only for the rest. */
    const goesOn = async (): Promise<void> => {
      expect(await readFile(partial())).to.deep.equal(base?.bytes.subarray(0, 10));
      registry.special.clear();
      ground.network.requests.length = 0;
      await ground.pull('reg.example/victim:1');
      const asked = ground.network.requests.filter(({ url }) => url.pathname.endsWith(base?.digest ?? '?'));
      expect(asked.map(({ headers }) => headers['range'])).to.deep.equal(['bytes=10-']);
    };

    for (const size of [1, 9, 12, 1000]) {
      it(`is not lost to a manifest that promises ${size} bytes of it`, async () => {
        offer(manifestOf({ digest: digestOf(own), size: own.length }, [{ digest: base!.digest, size }]));
        registry.put(`/v2/evil/blobs/${base?.digest}`, Buffer.alloc(size));
        expect((await failure(evil())).code).to.equal('DataLoss');
        await goesOn();
      });
    }

    it('is not lost to a server that ends it with something else', async () => {
      offer(
        manifestOf({ digest: digestOf(own), size: own.length }, [{ digest: base!.digest, size: base!.bytes.length }]),
      );
      registry.put(`/v2/evil/blobs/${base?.digest}`, Buffer.alloc(base!.bytes.length));
      expect((await failure(evil())).code).to.equal('DataLoss');
      await goesOn();
    });

    it('is no hindrance where it is what is wrong', async () => {
      await writeFile(partial(), Buffer.alloc(10));
      registry.special.clear();
      await ground.pull('reg.example/victim:1');
      expect(await stat(partial()).catch(() => 'gone')).to.equal('gone');
    });
  });
});

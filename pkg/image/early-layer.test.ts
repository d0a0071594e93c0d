/** Layers that are unpacked while their blobs arrive: what counts, and what becomes of the rest. */
import { expect } from 'chai';
import { gunzipSync } from 'node:zlib';
import { readFile } from 'node:fs/promises';
import { RuntimeError } from '../base/errors.ts';
import { cancellable, failure } from './fakes.ts';
import type { FakeRegistry, FakeUnpacker } from './fakes.ts';
import { image, StoreGround } from './fake-store.ts';
import type { ArrivingBlob, LayerSource, StagedLayer } from '../ports/image.ts';

const [base] = image.layers;
const PATH = `/v2/x/blobs/${base!.digest}`;

describe('image/early-layer', () => {
  let ground: StoreGround;
  let registry: FakeRegistry;
  let unpacker: FakeUnpacker;
  /** What became of early layers, in order. */
  let seen: string[];
  beforeEach(async () => {
    ground = await StoreGround.make();
    ({ registry, unpacker } = ground);
    registry.add('x', '1', image);
    seen = [];
  });
  afterEach(() => ground.remove());

  /** Reads the base layer while it arrives; `read` says what comes of it. */
  const reading = (read: (blob: ArrivingBlob, op: AbortSignal) => Promise<void>): void => {
    unpacker.unpackEarly = async (op, layer, blob): Promise<StagedLayer | undefined> => {
      if (layer.digest !== base?.digest) return undefined;
      await read(blob, op.signal);
      seen.push('staged');
      return stagedBy(layer);
    };
  };
  const stagedBy = (layer: LayerSource): StagedLayer => {
    let isKept = false;
    return {
      keep: async () => {
        isKept = true;
        seen.push('kept');
        unpacker.layers.add(layer.chainId);
      },
      drop: async () => void (isKept || seen.push('dropped')),
    };
  };
  const reached = (blob: ArrivingBlob, bytes: bigint): Promise<void> =>
    new Promise((resolve) => blob.follow((present) => void (present >= bytes && resolve())));
  const pull = (): Promise<unknown> => ground.pull('reg.example/x:1');

  it('reads what is there before the rest has come, and is kept when the blob has its digest', async () => {
    const half = Promise.withResolvers<void>();
    const bytes = base!.bytes;
    registry.special.set(PATH, () => ({
      body: (async function* () {
        yield bytes.subarray(0, 10);
        await half.promise;
        yield bytes.subarray(10);
      })(),
    }));
    reading(async (blob) => {
      await reached(blob, 10n);
      expect(await readFile(blob.path)).to.deep.equal(bytes.subarray(0, 10));
      half.resolve();
      await reached(blob, BigInt(bytes.length));
      expect(gunzipSync(await readFile(blob.path)).toString()).to.equal('base');
    });
    await pull();
    expect(seen).to.deep.equal(['staged', 'kept']);
    expect(unpacker.unpacked.map(({ digest }) => digest)).to.not.include(base?.digest);
  });

  it('goes on from what an earlier try left', async () => {
    reading((blob) => reached(blob, BigInt(base!.bytes.length)));
    let asked = 0;
    registry.special.set(PATH, (request) => {
      if (asked++ > 0 && request.headers['range'] === undefined) return { status: 500 };
      if (asked > 1) return registry.normal(request);
      return {
        body: (async function* () {
          yield base!.bytes.subarray(0, 10);
          throw Object.assign(new Error('other side closed'), { code: 'UND_ERR_SOCKET' });
        })(),
      };
    });
    await pull();
    expect(seen).to.deep.equal(['staged', 'kept']);
  });

  it('is never kept of a blob with another digest, which is what the error says', async () => {
    reading((blob) => reached(blob, BigInt(base!.bytes.length)));
    registry.special.set(PATH, () => ({ body: Buffer.from(base!.bytes).fill('?', 10, 11) }));
    const error = await failure(pull());
    expect(error.code).to.equal('DataLoss');
    expect(error.message).to.include(base?.digest);
    expect(seen).to.not.include('kept');
    expect(seen.filter((each) => each === 'dropped')).to.have.length(seen.filter((each) => each === 'staged').length);
    expect(await ground.blobsOnDisk()).to.deep.equal([]);
  });

  it('says nothing about the layer as long as the bytes may be somebody else’s', async () => {
    reading(async () => {
      throw new RuntimeError('PermissionDenied', 'this climbs out');
    });
    registry.special.set(PATH, () => ({ body: Buffer.from(base!.bytes).fill('?', 10, 11) }));
    expect((await failure(pull())).message)
      .to.include(base?.digest)
      .and.not.include('climbs');
    registry.special.delete(PATH);
    expect((await failure(pull())).message).to.include('this climbs out');
    expect(unpacker.layers.size).to.be.lessThan(image.layers.length);
  });

  it('begins anew when the blob does, and forgets what it made before', async () => {
    // A start that leads elsewhere: the blob is brought again beside it.
    registry.special.set(PATH, (request) =>
      request.headers['range'] === undefined
        ? {
            body: (async function* () {
              yield Buffer.alloc(10);
              throw Object.assign(new Error('other side closed'), { code: 'UND_ERR_SOCKET' });
            })(),
          }
        : { status: 503 },
    );
    await failure(pull());
    registry.special.delete(PATH);
    seen = [];
    const files: string[] = [];
    reading(async (blob) => {
      files.push(blob.path);
      await reached(blob, BigInt(base!.bytes.length));
    });
    await pull();
    expect(files).to.have.length(2);
    expect(files[0]).to.not.equal(files[1]);
    expect(seen).to.deep.equal(['staged', 'dropped', 'staged', 'kept']);
  });

  it('of a pull that is given up: nothing moves any more when it ends', async () => {
    const { op, cancel } = cancellable();
    const begun = Promise.withResolvers<void>();
    registry.special.set(PATH, () => ({
      body: (async function* () {
        yield base!.bytes.subarray(0, 10);
        await new Promise<never>(() => {});
      })(),
    }));
    reading(async (_blob, signal) => {
      begun.resolve();
      await new Promise<void>((resolve) => signal.addEventListener('abort', () => setImmediate(resolve)));
    });
    const pulling = failure(ground.store.pull(op, 'reg.example/x:1', {}));
    await begun.promise;
    cancel();
    expect((await pulling).code).to.equal('Cancelled');
    while (seen.length < 2) await new Promise((resolve) => setImmediate(resolve));
    expect(seen).to.deep.equal(['staged', 'dropped']);
  });
});

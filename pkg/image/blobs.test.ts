import { expect } from 'chai';
import { mkdtemp, readdir, readFile, rm, stat, truncate, utimes, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { digestOf } from '../oci/digest.ts';
import { BlobStore } from './blobs.ts';
import { storageError } from '../base/errors.ts';
import type { BlobSource } from './partials.ts';
import { cancellable, failure, RecordingLog, testOp } from './fakes.ts';

const content = Buffer.alloc(1_300_000, 'abcdefghij');
const blob = { digest: digestOf(content), size: BigInt(content.length) };

describe('image/blobs', () => {
  let root: string;
  let blobs: BlobStore;
  const now = Date.now();
  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'blobs-'));
    blobs = new BlobStore(root, () => now);
    await blobs.load();
  });
  afterEach(() => rm(root, { recursive: true }));

  const partial = (): string => join(root, '.partial', blob.digest.replace(':', '-'));
  /** Gives `bytes` from the offset, in chunks, and notes the offset. */
  const from = (bytes: Buffer, offsets: bigint[] = [], end?: Error): BlobSource =>
    async function* (offset) {
      offsets.push(offset);
      for (let at = Number(offset); at < bytes.length; at += 60_000)
        yield bytes.subarray(at, Math.min(at + 60_000, bytes.length));
      if (end !== undefined) throw end;
    };
  const cut = new RuntimeError('Unavailable', 'cut');

  it('keeps verified content under its digest', async () => {
    const heard: bigint[] = [];
    expect(await blobs.sizeOf(blob.digest)).to.equal(undefined);
    await blobs.write(testOp(), blob, from(content), {
      onBytes: (present) => heard.push(present),
      onOthers() {},
      onFile() {},
    });
    expect(await readFile(blobs.path(blob.digest))).to.deep.equal(content);
    expect(await blobs.read(blob.digest, content.length)).to.deep.equal(content);
    expect(await blobs.list()).to.deep.equal([blob.digest]);
    expect(blobs.usage).to.deep.equal({ usedBytes: blob.size, inodesUsed: 1n });
    expect(heard[0]).to.equal(0n);
    expect(heard.at(-1)).to.equal(blob.size);
    expect(heard).to.deep.equal([...heard].sort((a, b) => Number(a - b)));
    expect((await stat(root)).mode & 0o777).to.equal(0o700);
    await blobs.write(testOp(), blob, () => {
      throw new Error('asked again');
    });
  });

  it('counts what is there when it starts, and sha512 as well', async () => {
    const long = digestOf(content, 'sha512');
    await blobs.write(testOp(), { digest: long, size: blob.size }, from(content));
    await writeFile(join(root, 'sha256', 'not-a-digest'), 'x');
    const again = new BlobStore(root);
    await again.load();
    expect(again.usage).to.deep.equal({ usedBytes: blob.size, inodesUsed: 1n });
    expect(await again.list()).to.deep.equal([long]);
  });

  it('refuses what is wrong, short or long, and keeps nothing of it', async () => {
    for (const bytes of [
      Buffer.alloc(content.length),
      content.subarray(1),
      Buffer.concat([content, Buffer.from('x')]),
    ]) {
      expect((await failure(blobs.write(testOp(), blob, from(bytes)))).code).to.equal('DataLoss');
      expect(await blobs.list()).to.deep.equal([]);
      expect((await stat(partial())).size).to.equal(0);
    }
  });

  it('stops reading a source that never ends', async () => {
    let sent = 0;
    const endless: BlobSource = async function* () {
      for (;;) {
        sent += 100_000;
        yield content.subarray(0, 100_000);
      }
    };
    await failure(blobs.write(testOp(), blob, endless));
    expect(sent).to.be.below(content.length + 200_001);
  });

  it('goes on after a cut, also in another life of the daemon, and asks only for the rest', async () => {
    const offsets: bigint[] = [];
    expect(
      (await failure(blobs.write(testOp(), blob, from(content.subarray(0, 700_000), offsets, cut)))).message,
    ).to.equal('cut');
    const next = new BlobStore(root);
    await next.load();
    const heard: bigint[] = [];
    await next.write(testOp(), blob, from(content, offsets), {
      onBytes: (present) => heard.push(present),
      onOthers() {},
      onFile() {},
    });
    expect(offsets).to.deep.equal([0n, 700_000n]);
    expect(heard[0]).to.equal(700_000n);
    expect(await readdir(join(root, '.partial'))).to.deep.equal([]);
    await next.verify(blob.digest);
    expect(next.usage).to.deep.equal({ usedBytes: blob.size, inodesUsed: 1n });
  });

  it('starts over when the kept start was damaged', async () => {
    await failure(blobs.write(testOp(), blob, from(content.subarray(0, 700_000), [], cut)));
    await writeFile(partial(), Buffer.alloc(700_000));
    const offsets: bigint[] = [];
    const log = new RecordingLog();
    await blobs.write(testOp(log), blob, from(content, offsets));
    expect(offsets).to.deep.equal([700_000n, 0n]);
    expect(log.lines).to.have.length(1);
    await blobs.verify(blob.digest);
  });

  it('takes a start that is already whole, and ignores one that is too long', async () => {
    await writeFile(partial(), content);
    await blobs.write(testOp(), blob, () => {
      throw new Error('asked');
    });
    await blobs.remove(blob.digest);
    await writeFile(partial(), Buffer.concat([content, content]));
    const offsets: bigint[] = [];
    await blobs.write(testOp(), blob, from(content, offsets));
    expect(offsets).to.deep.equal([0n]);
  });

  it('equal downloads at once become one', async () => {
    const offsets: bigint[] = [];
    await Promise.all([1, 2, 3].map(() => blobs.write(testOp(), blob, from(content, offsets))));
    expect(offsets).to.deep.equal([0n]);
    expect(blobs.usage.usedBytes).to.equal(blob.size);
  });

  it('one who leaves the queue does not disturb the others; the next one takes over what was fetched', async () => {
    const first = cancellable();
    const { promise: waiting, resolve: go } = Promise.withResolvers<void>();
    const slow: BlobSource = async function* (offset) {
      yield content.subarray(Number(offset), 600_000);
      first.cancel();
      await waiting;
      throw cut;
    };
    const offsets: bigint[] = [];
    const leaver = failure(blobs.write(first.op, blob, slow));
    const queued = cancellable();
    const impatient = failure(blobs.write(queued.op, blob, from(content, offsets)));
    const stayer = blobs.write(testOp(), blob, from(content, offsets));
    queued.cancel();
    expect((await impatient).code).to.equal('Cancelled');
    go();
    expect((await leaver).code).to.equal('Cancelled');
    await stayer;
    expect(offsets).to.deep.equal([600_000n]);
  });

  it('finds damage on reading, on verifying and on writing, which mends it', async () => {
    await blobs.write(testOp(), blob, from(content));
    const damaged = Buffer.from(content);
    damaged[5] = (damaged[5] ?? 0) ^ 1;
    await writeFile(blobs.path(blob.digest), damaged);
    expect((await failure(blobs.read(blob.digest, content.length))).code).to.equal('DataLoss');
    expect((await failure(blobs.verify(blob.digest))).code).to.equal('DataLoss');
    await truncate(blobs.path(blob.digest), 10);
    await blobs.write(testOp(), blob, from(content));
    await blobs.verify(blob.digest);
    await writeFile(blobs.path(blob.digest), damaged);
    const next = new BlobStore(root);
    await next.load();
    await next.write(testOp(), blob, from(content));
    await next.verify(blob.digest);
    await blobs.remove(blob.digest);
    expect((await failure(blobs.verify(blob.digest))).code).to.equal('NotFound');
    expect(await blobs.read(blob.digest, 10)).to.equal(undefined);
  });

  it('removes unless it is needed when its turn comes', async () => {
    await blobs.write(testOp(), blob, from(content));
    await blobs.remove(blob.digest, () => true);
    expect(await blobs.sizeOf(blob.digest)).to.equal(blob.size);
    await blobs.remove(blob.digest);
    await blobs.remove(blob.digest);
    expect(blobs.usage).to.deep.equal({ usedBytes: 0n, inodesUsed: 0n });
  });

  it('sweeps old starts and strangers, keeps fresh ones', async () => {
    const old = join(root, '.partial', digestOf('old').replace(':', '-'));
    await writeFile(old, 'x');
    await utimes(old, 1, 1);
    await writeFile(join(root, '.partial', 'stranger'), 'x');
    await writeFile(partial(), 'x');
    await utimes(partial(), now / 1_000, now / 1_000);
    expect(await blobs.sweepPartials(60_000)).to.equal(2);
    expect(await readdir(join(root, '.partial'))).to.deep.equal([blob.digest.replace(':', '-')]);
    expect(await new BlobStore(root, () => now + 120_000).sweepPartials(60_000)).to.equal(1);
  });

  it('says what a full or read-only disk means', () => {
    const code = (errno: string): unknown =>
      (storageError(Object.assign(new Error('x'), { code: errno }), 'blob') as RuntimeError).code;
    expect(['ENOSPC', 'EDQUOT', 'EMFILE', 'EROFS', 'EIO'].map(code)).to.deep.equal([
      'ResourceExhausted',
      'ResourceExhausted',
      'ResourceExhausted',
      'FailedPrecondition',
      'Internal',
    ]);
    expect(storageError(cut, 'x')).to.equal(cut);
  });
});

/**
 * Blobs on disk, named by what they are.
 *
 *     blobs/sha256/<hex>            verified, fsynced, immutable: whoever sees the name has the content
 *     blobs/.partial/<alg>-<hex>    the start of a download, maybe; worth nothing until the whole has the digest
 *
 * A blob is written under its partial name, hashed on the way, fsynced and renamed. What a crash or a cut leaves behind
 * is taken up by the next download of the same digest; if the content is then wrong, the old start is thrown away and
 * the download begins again at zero, so that damage never sticks.
 */
import { open, rename, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDir, readBounded, readDirSorted, removeFile, syncDirectory } from '../base/files.ts';
import { errnoOf, isCode, RuntimeError, storageError } from '../base/errors.ts';
import { hexOf, isDigest } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { abortable, KeyedMutex } from '../base/sync.ts';
import { algorithmOf, checkDigest, verified, Verifier } from '../oci/digest.ts';
import { giveBack } from './blocks.ts';

/** What is promised about a blob. */
export interface BlobPromise {
  readonly digest: Digest;
  readonly size: bigint;
}

/** The bytes of the blob from `offset` to its end; a piece is used up before the next one is asked for. */
export type BlobSource = (offset: bigint) => AsyncIterable<Uint8Array>;

const ALGORITHMS = ['sha256', 'sha512'] as const;

/** The directory of blobs. */
export class BlobStore {
  readonly #root: string;
  readonly #now: () => number;
  /** One writer (or remover) per digest; equal downloads of different pulls wait here and then find the blob. */
  readonly #writing = new KeyedMutex<Digest>();
  #usedBytes = 0n;
  #count = 0n;

  /** `root` is the directory `blobs`. */
  constructor(root: string, now: () => number = Date.now) {
    this.#root = root;
    this.#now = now;
  }

  /** Makes the directories and counts what is there. Call once. */
  async load(): Promise<void> {
    for (const name of [...ALGORITHMS, '.partial']) await ensureDir(join(this.#root, name));
    for (const digest of await this.list()) {
      const size = await this.sizeOf(digest);
      if (size !== undefined) this.#account(size, 1n);
    }
  }

  /** Bytes and files of all blobs; a running count. */
  get usage(): { readonly usedBytes: bigint; readonly inodesUsed: bigint } {
    return { usedBytes: this.#usedBytes, inodesUsed: this.#count };
  }

  /** Where the blob is, if it is here. */
  path(digest: Digest): string {
    return join(this.#root, algorithmOf(digest), hexOf(digest));
  }

  async sizeOf(digest: Digest): Promise<bigint | undefined> {
    try {
      return (await stat(this.path(digest), { bigint: true })).size;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw storageError(error, `blob ${digest}`);
    }
  }

  /**
   * True if the blob is here with its promised size; one of another size was damaged after it was written, and is
   * dropped.
   */
  async has(blob: BlobPromise): Promise<boolean> {
    const size = await this.sizeOf(blob.digest);
    if (size === undefined || size === blob.size) return size !== undefined;
    await this.#drop(blob.digest);
    return false;
  }

  /**
   * The content of a small blob, checked again: disks rot. undefined if absent.
   * @throws DataLoss if it is damaged.
   */
  async read(digest: Digest, max: number): Promise<Buffer | undefined> {
    let bytes: Buffer;
    try {
      bytes = await readBounded(this.path(digest), max);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw storageError(error, `blob ${digest}`);
    }
    checkDigest(bytes, digest, `blob ${digest} on disk`);
    return bytes;
  }

  /** Keeps bytes that are in memory and have this digest already. */
  async put(op: Op, digest: Digest, bytes: Uint8Array): Promise<void> {
    await this.write(op, { digest, size: BigInt(bytes.length) }, async function* (offset) {
      yield bytes.subarray(Number(offset));
    });
  }

  /**
   * Makes the blob present: content if it is. `source` is asked for the rest when an earlier try left a start behind.
   * `onBytes` hears how many bytes are here so far (from this download or from before), not more often than per write.
   * @throws DataLoss when the content is not what was promised; nothing of it is kept then. What `source` throws passes
   * through, and the start is kept.
   */
  async write(
    op: Op,
    blob: BlobPromise,
    source: BlobSource,
    onBytes: (present: bigint) => void = () => {},
  ): Promise<void> {
    const doing = `storing blob ${blob.digest}`;
    const begun = Promise.withResolvers<void>();
    const turn = this.#writing.run(blob.digest, async () => {
      begun.resolve();
      if (op.signal.aborted) throw abortError(op, doing);
      try {
        if (await this.has(blob)) onBytes(blob.size);
        else await this.#writeOnceMore(op, blob, source, onBytes);
      } catch (error) {
        throw op.signal.aborted ? abortError(op, doing) : error;
      }
    });
    turn.catch(() => {});
    // One may leave the queue at any time, but not a write that has begun: who gets our answer may count on it that
    // nothing moves any more.
    await abortable(begun.promise, op.signal, () => abortError(op, doing));
    return turn;
  }

  async #writeOnceMore(
    op: Op,
    blob: BlobPromise,
    source: BlobSource,
    onBytes: (present: bigint) => void,
  ): Promise<void> {
    try {
      await this.#writePartial(op, blob, source, onBytes);
    } catch (error) {
      // The start that was lying here may be what is wrong; without it the peer gets one more chance.
      if (!(error instanceof StaleStart)) throw error;
      op.log.warn('the kept start of a download was damaged, starting over', { digest: blob.digest });
      await this.#writePartial(op, blob, source, onBytes);
    }
  }

  /**
   * A hard link or copy of a verified file is not trusted either: the file at `path` is read, hashed and kept under
   * `blob`.
   */
  async adopt(op: Op, blob: BlobPromise, path: string, start = 0n): Promise<void> {
    await this.write(op, blob, (offset) => fileRange(path, start + offset, start + blob.size));
  }

  /** Reads the whole blob again. @throws DataLoss if it is damaged, NotFound if it is gone. */
  async verify(digest: Digest): Promise<void> {
    const size = await this.sizeOf(digest);
    if (size === undefined) throw new RuntimeError('NotFound', `blob ${digest} is not here`);
    for await (const _chunk of verified(fileRange(this.path(digest), 0n, size), digest, size, `blob ${digest} on disk`))
      continue;
  }

  /** Removes a blob unless `isNeeded` says otherwise when its turn comes; content if absent. */
  async remove(digest: Digest, isNeeded: () => boolean = () => false): Promise<void> {
    await this.#writing.run(digest, async () => {
      if (!isNeeded()) await this.#drop(digest);
    });
  }

  async list(): Promise<Digest[]> {
    const digests: Digest[] = [];
    for (const algorithm of ALGORITHMS) {
      for (const name of await readDirSorted(join(this.#root, algorithm))) {
        const digest = `${algorithm}:${name}`;
        if (isDigest(digest)) digests.push(digest);
      }
    }
    return digests;
  }

  /** Removes starts of downloads that nobody came back for, and names that are not ours to keep. */
  async sweepPartials(maxAgeMs: number): Promise<number> {
    let dropped = 0;
    for (const name of await readDirSorted(join(this.#root, '.partial'))) {
      const path = join(this.#root, '.partial', name);
      const digest = name.replace('-', ':');
      if (isDigest(digest) && this.#writing.busy(digest)) continue;
      const age = await stat(path).then(
        (info) => this.#now() - info.mtimeMs,
        () => 0,
      );
      if (isDigest(digest) && age <= maxAgeMs) continue;
      await removeFile(path);
      dropped++;
    }
    return dropped;
  }

  async #drop(digest: Digest): Promise<void> {
    const size = await this.sizeOf(digest);
    if (size === undefined) return;
    await removeFile(this.path(digest));
    this.#account(-size, -1n);
  }

  async #writePartial(
    op: Op,
    blob: BlobPromise,
    source: BlobSource,
    onBytes: (present: bigint) => void,
  ): Promise<void> {
    const partial = join(this.#root, '.partial', `${algorithmOf(blob.digest)}-${hexOf(blob.digest)}`);
    const file = await open(partial, 'a+', 0o600).catch((error: unknown) =>
      Promise.reject(storageError(error, partial)),
    );
    try {
      const verifier = new Verifier(blob.digest, blob.size, `blob ${blob.digest}`);
      const start = await hashStart(file, blob, verifier);
      onBytes(start);
      try {
        if (start < blob.size) await append(op, file, source(start), verifier, onBytes);
        verifier.finish();
      } catch (error) {
        const noSpace = errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT';
        if (!noSpace && !isCode(error, 'DataLoss')) throw error;
        // Wrong bytes are worth nothing, and on a full disk the start of a blob is what others lack.
        await file.truncate(0);
        if (noSpace) throw error;
        throw start > 0n ? new StaleStart(error) : error;
      }
      await file.sync();
    } catch (error) {
      throw storageError(error, `blob ${blob.digest}`);
    } finally {
      await file.close();
    }
    await this.#publish(partial, blob);
  }

  async #publish(partial: string, blob: BlobPromise): Promise<void> {
    const path = this.path(blob.digest);
    try {
      await rename(partial, path);
      await syncDirectory(join(path, '..'));
    } catch (error) {
      throw storageError(error, `blob ${blob.digest}`);
    }
    this.#account(blob.size, 1n);
  }

  #account(bytes: bigint, count: bigint): void {
    this.#usedBytes += bytes;
    this.#count += count;
  }
}

/** Wrong content that began with bytes of an earlier try. */
class StaleStart extends RuntimeError {
  constructor(cause: unknown) {
    super('DataLoss', cause instanceof Error ? cause.message : String(cause), { cause });
  }
}

/**
 * Hashes what an earlier try left; returns how much of it there is. A start longer than the blob is nonsense and is
 * emptied.
 */
async function hashStart(file: FileHandle, blob: BlobPromise, verifier: Verifier): Promise<bigint> {
  const { size } = await file.stat({ bigint: true });
  if (size > blob.size) await file.truncate(0);
  if (size === 0n || size > blob.size) return 0n;
  for await (const block of blocksOf(file, 0n, size)) verifier.update(block);
  return verifier.seenBytes;
}

/** One trip through the thread pool for so much. */
const READ_BYTES = 256 * 1024;

/** Appends `source`. What has arrived is kept for the next try, whatever ended this one. */
async function append(
  op: Op,
  file: FileHandle,
  source: AsyncIterable<Uint8Array>,
  verifier: Verifier,
  onBytes: (present: bigint) => void,
): Promise<void> {
  for await (const chunk of source) {
    if (op.signal.aborted) throw abortError(op, 'downloading');
    verifier.update(chunk);
    await writeAll(file, chunk);
    onBytes(verifier.seenBytes);
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let at = 0; at < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, at);
    if (bytesWritten === 0) throw new RuntimeError('ResourceExhausted', 'the disk takes no more bytes');
    at += bytesWritten;
  }
}

/**
 * The bytes of a file from `from` up to but not including `to`, or to its end; a piece is valid until the next one is
 * asked for.
 */
export async function* fileRange(path: string, from: bigint, to: bigint): AsyncGenerator<Uint8Array, void, void> {
  if (from >= to) return;
  const file = await open(path, 'r');
  try {
    yield* blocksOf(file, from, to);
  } finally {
    await file.close();
  }
}

async function* blocksOf(file: FileHandle, from: bigint, to: bigint): AsyncGenerator<Uint8Array, void, void> {
  const block = Buffer.allocUnsafeSlow(Number(to - from < READ_BYTES ? to - from : READ_BYTES));
  try {
    for (let at = from; at < to; ) {
      const { bytesRead } = await file.read(
        block,
        0,
        Number(to - at < block.length ? to - at : block.length),
        Number(at),
      );
      if (bytesRead === 0) return;
      yield block.subarray(0, bytesRead);
      at += BigInt(bytesRead);
    }
  } finally {
    giveBack(block);
  }
}

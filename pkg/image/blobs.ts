/**
 * Blobs on disk, named by what they are.
 *
 *     blobs/sha256/<hex>   verified, fsynced, immutable: whoever sees the name has the content
 *     blobs/.partial/      see partials.ts: downloads on their way
 *
 * A blob is written under another name, hashed on the way, fsynced and renamed. What is here is judged by its own
 * digest alone: a manifest that promises something else about it is wrong, and takes nothing away. Content of earlier
 * lives is read again before anybody counts on it; where it is damaged, the same way brings it anew.
 */
import { chmod, rename, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDir, readBounded, readDirSorted, removeFile, syncDirectory } from '../base/files.ts';
import { errnoOf, isCode, RuntimeError, storageError } from '../base/errors.ts';
import { hexOf, isDigest } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { abortable, KeyedMutex } from '../base/sync.ts';
import { algorithmOf, checkDigest, verified } from '../oci/digest.ts';
import { fileRange } from './file-range.ts';
import { Partials } from './partials.ts';
import type { BlobPromise, BlobSource, Bringing } from './partials.ts';
import type { ArrivingBlob } from '../ports/image.ts';

const ALGORITHMS = ['sha256', 'sha512'] as const;

/** Who hears how a blob gets on: how many bytes of it are here, not more often than per write. */
export interface BlobWatch {
  /** Of this download, or of one before. */
  readonly onBytes: (present: bigint) => void;
  /** Of the download of somebody else who brings the same blob, and whom this one waits for. */
  readonly onOthers: (present: bigint) => void;
  /** The file in which it arrives, for whoever reads it meanwhile; never called for a blob that is here. */
  readonly onFile: (file: ArrivingBlob) => void;
}

const UNWATCHED: BlobWatch = { onBytes() {}, onOthers() {}, onFile() {} };

/** The directory of blobs. */
export class BlobStore {
  readonly #root: string;
  readonly #partials: Partials;
  /** One writer (or remover) per digest; equal downloads of different pulls wait here and then find the blob. */
  readonly #writing = new KeyedMutex<Digest>();
  /** Those who wait for somebody's download of a blob, to hear how it gets on. */
  readonly #waiting = new Map<Digest, Set<(present: bigint) => void>>();
  /** Bytes of the blobs that this life of the daemon has seen whole. */
  readonly #whole = new Map<Digest, bigint>();
  #usedBytes = 0n;
  #count = 0n;

  /** `root` is the directory `blobs`; `now` is in milliseconds since the epoch. */
  constructor(root: string, now: () => number = Date.now) {
    this.#root = root;
    this.#partials = new Partials(join(root, '.partial'), now);
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

  /** Bytes that it takes; undefined if it is not here. */
  async sizeOf(digest: Digest): Promise<bigint | undefined> {
    try {
      return (await stat(this.path(digest), { bigint: true })).size;
    } catch (error) {
      if (errnoOf(error) === 'ENOENT') return undefined;
      throw storageError(error, `blob ${digest}`);
    }
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
    this.#whole.delete(digest);
    checkDigest(bytes, digest, `blob ${digest} on disk`);
    this.#whole.set(digest, BigInt(bytes.length));
    return bytes;
  }

  /** Keeps bytes that are in memory and have this digest already; what is on disk is compared with them. */
  async put(op: Op, digest: Digest, bytes: Uint8Array): Promise<void> {
    this.#whole.delete(digest);
    await this.write(op, { digest, size: BigInt(bytes.length) }, async function* (offset) {
      yield bytes.subarray(Number(offset));
    });
  }

  /**
   * Makes the blob present: content if it is, and whole. `source` is asked for the rest when an earlier try left a
   * start behind, and nobody else is bringing it.
   * @throws DataLoss when the content, or what is here already, is not what was promised. What `source` throws passes
   * through, and what it gave is kept for the next try.
   */
  async write(op: Op, blob: BlobPromise, source: BlobSource, watch: BlobWatch = UNWATCHED): Promise<void> {
    const doing = `storing blob ${blob.digest}`;
    const waiting = this.#waiting.get(blob.digest) ?? new Set();
    this.#waiting.set(blob.digest, waiting.add(watch.onOthers));
    const begun = Promise.withResolvers<void>();
    const turn = this.#writing.run(blob.digest, async () => {
      this.#leave(blob.digest, watch);
      begun.resolve();
      if (op.signal.aborted) throw abortError(op, doing);
      try {
        if (await this.#isHere(op, blob)) watch.onBytes(blob.size);
        else {
          const onBytes = (present: bigint): void => this.#tell(blob.digest, present, watch);
          await this.#bring(op, { blob, source, onBytes, onFile: watch.onFile });
        }
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

  /** Lets everybody read a blob whom its directory lets in: a container that has it as a file. It is here. */
  async open(digest: Digest): Promise<void> {
    await chmod(this.path(digest), 0o444).catch((error: unknown) => {
      throw storageError(error, `blob ${digest}`);
    });
  }

  /** Reads the whole blob again. @throws DataLoss if it is damaged, NotFound if it is gone. */
  async verify(digest: Digest): Promise<void> {
    const size = await this.sizeOf(digest);
    this.#whole.delete(digest);
    if (size === undefined) throw new RuntimeError('NotFound', `blob ${digest} is not here`);
    for await (const _chunk of verified(fileRange(this.path(digest), 0n, size), digest, size, `blob ${digest} on disk`))
      continue;
    this.#whole.set(digest, size);
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

  /** Removes starts of downloads that nobody came back for, and names that are not ours to keep; how many. */
  async sweepPartials(maxAgeMs: number): Promise<number> {
    return await this.#partials.sweep(maxAgeMs, (digest) => this.#writing.busy(digest));
  }

  #tell(digest: Digest, present: bigint, watch: BlobWatch): void {
    watch.onBytes(present);
    for (const onOthers of this.#waiting.get(digest) ?? []) onOthers(present);
  }

  #leave(digest: Digest, { onOthers }: BlobWatch): void {
    const waiting = this.#waiting.get(digest);
    waiting?.delete(onOthers);
    if (waiting?.size === 0) this.#waiting.delete(digest);
  }

  /** @throws DataLoss if what is here is whole, but not as large as promised: then the promise is wrong. */
  async #isHere(op: Op, { digest, size: promised }: BlobPromise): Promise<boolean> {
    const size = await this.sizeOf(digest);
    if (size === undefined) return false;
    if (this.#whole.get(digest) !== size) {
      try {
        await this.verify(digest);
      } catch (error) {
        if (!isCode(error, 'DataLoss')) throw error;
        op.log.warn('blob on disk is damaged, it is brought again', { digest });
        return false;
      }
    }
    if (size !== promised)
      throw new RuntimeError(
        'DataLoss',
        `blob ${digest} has ${size} bytes, the manifest promises ${promised}; the image must be pushed again`,
      );
    return true;
  }

  /** Takes the place of a damaged one, if there is one. */
  async #bring(op: Op, bringing: Bringing): Promise<void> {
    const { digest, size } = bringing.blob;
    const brought = await this.#partials.bring(op, bringing);
    const before = await this.sizeOf(digest);
    const path = this.path(digest);
    try {
      await rename(brought, path);
      await syncDirectory(join(path, '..'));
      await this.#partials.forget(digest);
    } catch (error) {
      throw storageError(error, `blob ${digest}`);
    }
    this.#whole.set(digest, size);
    this.#account(size - (before ?? 0n), before === undefined ? 1n : 0n);
  }

  async #drop(digest: Digest): Promise<void> {
    const size = await this.sizeOf(digest);
    if (size === undefined) return;
    this.#whole.delete(digest);
    await removeFile(this.path(digest));
    this.#account(-size, -1n);
  }

  #account(bytes: bigint, count: bigint): void {
    this.#usedBytes += bytes;
    this.#count += count;
  }
}

/**
 * Downloads on their way to a blob, and the starts that broken ones leave.
 *
 *     blobs/.partial/<alg>-<hex>       the start of a download, maybe; worth nothing until the whole has the digest
 *     blobs/.partial/<alg>-<hex>.new   the same from its beginning, where the start does not lead to the blob
 *
 * A start is taken up by the next download of the same digest. Whose it was is not known, and neither is who is wrong
 * when the whole has another digest: then what this try added is cut off again, and the blob is brought once more from
 * its beginning beside it. So neither a damaged start nor a server that ends it with something else does harm, and no
 * promise about the size of a blob takes a start away from those to whom another one was made.
 */
import { open, stat } from 'node:fs/promises';
import type { FileHandle } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, isCode, RuntimeError, storageError } from '../base/errors.ts';
import { readDirSorted, removeFile } from '../base/files.ts';
import { hexOf, isDigest } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { algorithmOf, Verifier } from '../oci/digest.ts';
import { blocksOf } from './file-range.ts';
import { GrowingFile } from './growing-file.ts';
import type { ArrivingBlob } from '../ports/image.ts';

/** What is promised about a blob. */
export interface BlobPromise {
  readonly digest: Digest;
  readonly size: bigint;
}

/** The bytes of the blob from `offset` to its end; a piece is used up before the next one is asked for. */
export type BlobSource = (offset: bigint) => AsyncIterable<Uint8Array>;

/** A blob that is to be brought, and who hears how much of it is here, and in which file it arrives. */
export interface Bringing {
  readonly blob: BlobPromise;
  readonly source: BlobSource;
  readonly onBytes: (present: bigint) => void;
  /** Again where it is begun anew in another file. */
  readonly onFile: (file: ArrivingBlob) => void;
}

const ASIDE = '.new';

/** The directory of downloads. Callers see to it that there is one at a time for each digest. */
export class Partials {
  readonly #directory: string;
  readonly #now: () => number;

  /** `now` is in milliseconds since the epoch. */
  constructor(directory: string, now: () => number) {
    this.#directory = directory;
    this.#now = now;
  }

  /**
   * Brings a blob, going on from what an earlier try left; the path of a file that has its content, verified and
   * fsynced.
   * @throws DataLoss when the content is not what was promised; nothing of it is kept then. What the source throws
   * passes through, and what it gave is kept.
   */
  async bring(op: Op, bringing: Bringing): Promise<string> {
    const { blob } = bringing;
    const start = this.#path(blob.digest);
    const startBytes = await sizeOf(start);
    if (startBytes <= blob.size) {
      try {
        await fill(op, start, bringing);
        return start;
      } catch (error) {
        if (startBytes === 0n || !isCode(error, 'DataLoss')) throw error;
        op.log.warn('the kept start of a download does not lead to the blob, starting over', { digest: blob.digest });
      }
    }
    return await this.#bringAside(op, bringing);
  }

  /** Forgets what is kept of a blob; content if nothing is. */
  async forget(digest: Digest): Promise<void> {
    for (const path of [this.#path(digest), `${this.#path(digest)}${ASIDE}`]) await removeFile(path);
  }

  /** Removes starts that nobody came back for, and names that are not ours to keep; how many. */
  async sweep(maxAgeMs: number, isBusy: (digest: Digest) => boolean): Promise<number> {
    let dropped = 0;
    for (const name of await readDirSorted(this.#directory)) {
      const path = join(this.#directory, name);
      const digest = name.replace(ASIDE, '').replace('-', ':');
      if (isDigest(digest) && isBusy(digest)) continue;
      const age = await stat(path).then(
        (info) => this.#now() - info.mtimeMs,
        () => 0,
      );
      if (isDigest(digest) && !name.endsWith(ASIDE) && age <= maxAgeMs) continue;
      await removeFile(path);
      dropped++;
    }
    return dropped;
  }

  async #bringAside(op: Op, bringing: Bringing): Promise<string> {
    const { digest } = bringing.blob;
    const aside = `${this.#path(digest)}${ASIDE}`;
    await removeFile(aside);
    try {
      await fill(op, aside, bringing);
      return aside;
    } catch (error) {
      await removeFile(aside);
      // On a full disk the start of a blob is what others lack.
      if (isCode(error, 'ResourceExhausted')) await this.forget(digest);
      throw error;
    }
  }

  #path(digest: Digest): string {
    return join(this.#directory, `${algorithmOf(digest)}-${hexOf(digest)}`);
  }
}

/** Makes the file at `path` the whole blob: what is in it is its start. */
async function fill(op: Op, path: string, { blob, source, onBytes, onFile }: Bringing): Promise<void> {
  const growing = new GrowingFile(path);
  const onGrowth = (present: bigint): void => {
    growing.grow(present);
    onBytes(present);
  };
  const file = await open(path, 'a+', 0o600).catch((error: unknown) => Promise.reject(storageError(error, path)));
  try {
    const verifier = new Verifier(blob.digest, blob.size, `blob ${blob.digest}`);
    const { size: start } = await file.stat({ bigint: true });
    if (start > 0n) for await (const block of blocksOf(file, 0n, start)) verifier.update(block);
    onFile(growing);
    onGrowth(start);
    try {
      if (start < blob.size) await append(op, file, source(start), verifier, onGrowth);
      verifier.finish();
      growing.pass();
    } catch (error) {
      const noSpace = errnoOf(error) === 'ENOSPC' || errnoOf(error) === 'EDQUOT';
      if (noSpace) await file.truncate(0);
      else if (isCode(error, 'DataLoss')) await file.truncate(Number(start));
      throw error;
    }
    await file.sync();
  } catch (error) {
    growing.fail(error);
    throw storageError(error, `blob ${blob.digest}`);
  } finally {
    await file.close();
  }
}

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

async function sizeOf(path: string): Promise<bigint> {
  try {
    return (await stat(path, { bigint: true })).size;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 0n;
    throw storageError(error, path);
  }
}

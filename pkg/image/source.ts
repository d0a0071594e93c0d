/** Where the bytes of an image come from: a registry with its mirrors, or an archive. */
import { isCode } from '../base/errors.ts';
import type { Digest } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { BlobPromise, BlobStore } from './blobs.ts';
import type { ManifestAnswer } from './registry/repository.ts';

/** Where the bytes of one image come from. Nothing it gives is trusted. */
export interface PullSource {
  /** For messages. */
  readonly describe: string;
  manifest(op: Op, digest: string): Promise<ManifestAnswer>;
  /** The bytes from `offset` to the end. */
  blob(op: Op, want: BlobPromise, offset: bigint): AsyncIterable<Uint8Array>;
  /** The content of this blob was wrong: whoever gave it is not asked for it again. False if there is nobody else. */
  discredit(digest: Digest): boolean;
}

/** One blob that is wanted. */
export interface Wanted {
  readonly source: PullSource;
  readonly want: BlobPromise;
  /** Hears how many bytes of it are here. */
  readonly onBytes: (present: bigint) => void;
}

/** Brings one blob to disk, from whoever has it right. @throws what the last one asked ends with. */
export async function download(op: Op, blobs: BlobStore, { source, want, onBytes }: Wanted): Promise<void> {
  for (;;) {
    try {
      return await blobs.write(op, want, (offset) => source.blob(op, want, offset), onBytes);
    } catch (error) {
      if (!isCode(error, 'DataLoss') || !source.discredit(want.digest)) throw error;
      op.log.warn('blob was wrong, will ask another endpoint', { digest: want.digest });
    }
  }
}

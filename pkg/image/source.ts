/** Where the bytes of an image come from: a registry with its mirrors, or an archive. */
import { explain, isCode, RuntimeError, wrap } from '../base/errors.ts';
import type { Digest } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { digestOf, verified } from '../oci/digest.ts';
import type { ArtifactManifest, ImageManifest } from '../oci/manifest.ts';
import type { Descriptor } from '../oci/spec-types.ts';
import type { BlobStore, BlobWatch } from './blobs.ts';
import type { BlobPromise } from './partials.ts';
import type { ManifestAnswer } from './registry/repository.ts';

/** Where the bytes of one image come from. Nothing it gives is trusted. */
export interface PullSource {
  /** For messages. */
  readonly describe: string;
  manifest(op: Op, digest: string): Promise<ManifestAnswer>;
  /** How many bytes a blob has, for a manifest that does not say so. @throws FailedPrecondition if nobody says. */
  sizeOf(op: Op, digest: Digest): Promise<bigint>;
  /** The bytes from `offset` to the end. */
  blob(op: Op, want: BlobPromise, offset: bigint): AsyncIterable<Uint8Array>;
  /** The content of this blob was wrong: whoever gave it is not asked for it again. False if there is nobody else. */
  discredit(digest: Digest): boolean;
}

/**
 * A small blob in memory, asked for also if it is here: the source shows that it has it. @throws ResourceExhausted for
 * one of more than `maxBytes`; what the last one asked ends with.
 */
export async function fetchSmall(op: Op, source: PullSource, want: BlobPromise, maxBytes: number): Promise<Buffer> {
  const what = `blob ${want.digest} of ${source.describe}`;
  if (want.size > BigInt(maxBytes))
    throw new RuntimeError('ResourceExhausted', `${what} has ${want.size} bytes, at most ${maxBytes} are read`);
  return await fromWhoeverIsRight(op, source, want, async () => {
    const parts: Uint8Array[] = [];
    for await (const part of verified(source.blob(op, want, 0n), want.digest, want.size, what))
      parts.push(Buffer.from(part));
    return Buffer.concat(parts);
  });
}

/** The digest of nothing: a size of 0 is meant so. */
const EMPTY = digestOf(Buffer.alloc(0));

/**
 * The manifest with every size in it. One without, or with 0, which is what Go writes of a size that nobody set, is
 * pulled by others, who do not count bytes; here the source is asked.
 */
export async function measured<T extends ImageManifest | ArtifactManifest>(
  op: Op,
  source: PullSource,
  manifest: T,
): Promise<T> {
  const sized = async (blob: Descriptor): Promise<Descriptor> =>
    blob.size > 0n || blob.digest === EMPTY ? blob : { ...blob, size: await source.sizeOf(op, blob.digest) };
  const layers: Descriptor[] = [];
  for (const layer of manifest.layers) layers.push(await sized(layer));
  return { ...manifest, config: await sized(manifest.config), layers };
}

/** One blob that is wanted. */
export interface Wanted {
  readonly source: PullSource;
  readonly want: BlobPromise;
  readonly watch: BlobWatch;
}

/** Brings one blob to disk, from whoever has it right. @throws what the last one asked ends with. */
export async function download(op: Op, blobs: BlobStore, { source, want, watch }: Wanted): Promise<void> {
  await fromWhoeverIsRight(op, source, want, () =>
    blobs.write(op, want, (offset) => source.blob(op, want, offset), watch),
  );
}

async function fromWhoeverIsRight<T>(op: Op, source: PullSource, want: BlobPromise, ask: () => Promise<T>): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!isCode(error, 'DataLoss')) throw error;
      if (!source.discredit(want.digest)) throw wrap(`${source.describe}: ${explain(error)}`, error);
      op.log.warn('blob was wrong, will ask another endpoint', { digest: want.digest });
    }
  }
}

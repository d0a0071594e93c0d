/** The blobs of one artifact: several at a time are downloaded, and stay as they are. */
import { limits } from '../base/limits.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import type { LayersOf, LayersWorld } from './install-layers.ts';
import type { BlobPromise } from './partials.ts';
import { allOrNone, SilenceWatch } from './silence.ts';
import { download, fetchSmall } from './source.ts';

/** What has an id of its own is no larger. */
const NAMED_BY_IDS_BYTES = Math.max(limits.imageConfigBytes, limits.manifestBytes);

/** Whose blobs they are. As with layers, `proof` says whether the source has still to show what is here already. */
export type FilesOf = Pick<LayersOf, 'source' | 'track' | 'proof'>;

/** Every blob is on disk, verified and readable in containers when this returns. */
export async function installFiles(
  op: Op,
  { kept, silentMs }: LayersWorld,
  { source, track, proof }: FilesOf,
  wanted: readonly BlobPromise[],
): Promise<void> {
  const watch = new SilenceWatch(silentMs);
  const downloads = new Gate(limits.pullLayersCount);
  const bring = async (inner: Op, want: BlobPromise, index: number): Promise<void> => {
    if (inner.signal.aborted) throw abortError(inner, `downloading ${want.digest}`);
    const here = await kept.blobs.sizeOf(want.digest);
    // An id is the digest of a config or a manifest, and no secret: who names one shows that he has what it is of. What
    // is larger than any of these is named in manifests only, by which layers are shared, too.
    if (here !== undefined && proof === 'wanted' && want.size <= BigInt(NAMED_BY_IDS_BYTES))
      await fetchSmall(inner, source, want, NAMED_BY_IDS_BYTES);
    if (here !== undefined) track.reused(index);
    const moved = (present: bigint): void => {
      watch.heard();
      if (here === undefined) track.layer(index, 'downloading', present);
    };
    let before: bigint | undefined;
    const onBytes = (present: bigint): void => {
      track.downloadedBytes += present > (before ?? present) ? present - (before ?? present) : 0n;
      before = present;
      moved(present);
    };
    await download(inner, kept.blobs, { source, want, watch: { onBytes, onOthers: moved, onFile() {} } });
    await kept.blobs.open(want.digest);
    track.layer(index, 'done');
  };
  await allOrNone(op, watch, source.describe, {
    parts: wanted.map((want, index) => (inner) => downloads.run(() => bring(inner, want, index))),
    last: async () => {},
  });
}

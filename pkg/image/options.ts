/** What the image store is told when it is made. */
import type { ChainId, ImageId } from '../base/ids.ts';
import type { Freeing } from '../base/reserve.ts';
import type { Platform } from '../oci/spec-types.ts';
import type { NodeCredentials } from './registry/credentials.ts';
import type { Transport } from './registry/http.ts';
import type { RegistryOptions } from './registry/repository.ts';
import type { RegistryPolicy } from './policy/policy.ts';
import type { ImageTrust } from './signature/index.ts';
import type { LayerUnpacker, PullListener } from '../ports/image.ts';

/** Where images are kept and how they are brought; what is left out has a default. */
export interface FileImageStoreOptions {
  /** Directory that is ours alone: `blobs/` and `images/` are made in it. */
  readonly root: string;
  readonly unpacker: LayerUnpacker;
  /**
   * Of the disk that `root` is on; whatever frees space takes it when the disk is full. Default: nothing is reserved.
   */
  readonly reserve?: Freeing | undefined;
  /** Default: registries.conf and certs.d in their customary places, no proxy. */
  readonly policy?: RegistryPolicy | undefined;
  /** Default: none but those of the request. */
  readonly credentials?: NodeCredentials | undefined;
  /** For tests. */
  readonly transport?: Transport | undefined;
  /** How patient requests are, and how large the parts of layers; for tests. */
  readonly registry?: Partial<RegistryOptions> | undefined;
  /** Exact names, `part*`, `*part*` (CRI-O's pinned_images); change them with `setPinnedImages`. */
  readonly pinnedImages?: readonly string[] | undefined;
  /** Directories with artifacts of the administrator's in `artifacts` below each; first come first. */
  readonly artifactStores?: readonly string[] | undefined;
  /** Who uses an image now (container ids, for the message); it is not removed then. */
  readonly inUse?: ((id: ImageId) => readonly string[]) | undefined;
  /** Layers under running containers, whatever the records say; a sweep leaves them alone. */
  readonly layersInUse?: (() => Iterable<ChainId>) | undefined;
  /** A download that moves less than 64 KiB in this time fails over or fails; 0 = never. Default one minute. */
  readonly pullProgressTimeoutMs?: number | undefined;
  /** A pull in which nothing at all is downloaded or unpacked for so long fails. Default ten minutes. */
  readonly pullSilentMs?: number | undefined;
  readonly platform?: Platform | undefined;
  /** Who must have signed what. Default: policy.json and registries.d in their customary places, without OpenPGP. */
  readonly trust?: ImageTrust | undefined;
  /** Hears of pulls; default nobody. */
  readonly listener?: PullListener | undefined;
  /** How long what a broken pull left behind is kept. Default a day. */
  readonly keepUnfinishedMs?: number | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: (() => number) | undefined;
  /** Waits between tries; for tests. */
  readonly pause?: ((ms: number, signal: AbortSignal) => Promise<void>) | undefined;
}

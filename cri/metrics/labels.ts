/** PURE. Values of labels, which must be few: words of CRI-O for sizes, failures and stages. */
import { codeOf, explain } from '../../pkg/base/errors.ts';
import { isConfigType, isGeneric, isLayerType } from '../../pkg/oci/media-types.ts';

/** As CRI-O has them, in thousands under names of powers of two (GetSizeBucket). */
const SIZES: readonly (readonly [number, string])[] = [
  [10e9, '>10 GiB'],
  [1e9, '>1 GiB'],
  [500e6, '>500 MiB'],
  [400e6, '>400 MiB'],
  [300e6, '>300 MiB'],
  [200e6, '>200 MiB'],
  [100e6, '>100 MiB'],
  [50e6, '>50 MiB'],
  [10e6, '>10 MiB'],
  [1e6, '>1 MiB'],
  [1e3, '>1 KiB'],
];

/** The class of a size in bytes. */
export function sizeLabel(bytes: number): string {
  return SIZES.find(([above]) => bytes > above)?.[1] ?? '>0 B';
}

/** The media type of a layer; what a manifest makes up is `other`. */
export function mediaTypeLabel(mediaType: string): string {
  const known = !isGeneric(mediaType) && (isLayerType(mediaType) || isConfigType(mediaType));
  return known ? mediaType : 'other';
}

/** Texts of failed pulls, and CRI-O's words for them (tryIncrementImagePullFailureMetric): registries' errors first. */
const FAILURES: readonly (readonly [RegExp, string])[] = [
  [/UNAUTHORIZED|authentication required/i, 'UNAUTHORIZED'],
  [/DENIED|access to the resource is denied/i, 'DENIED'],
  [/MANIFEST_UNKNOWN|manifest unknown/i, 'MANIFEST_UNKNOWN'],
  [/NAME_UNKNOWN|repository name not known/i, 'NAME_UNKNOWN'],
  [/BLOB_UNKNOWN|blob unknown/i, 'BLOB_UNKNOWN'],
  [/TOOMANYREQUESTS|too many requests/i, 'TOOMANYREQUESTS'],
  [/ECONNREFUSED|connection refused/i, 'CONNECTION_REFUSED'],
  [/ETIMEDOUT|timed? ?out/i, 'CONNECTION_TIMEOUT'],
];

/** What a pull failed of. */
export function pullFailureLabel(error: unknown): string {
  const text = explain(error);
  const named = FAILURES.find(([pattern]) => pattern.test(text))?.[1];
  if (named !== undefined) return named;
  const code = codeOf(error);
  if (code === 'Unauthenticated') return 'UNAUTHORIZED';
  if (code === 'PermissionDenied') return 'DENIED';
  return code === 'NotFound' ? 'NOT_FOUND' : 'UNKNOWN';
}

/** Our stages by how they begin, and what CRI-O calls them (SetStageForResource); the first that fits. */
const CRIO_STAGES: readonly (readonly [RegExp, string])[] = [
  [/^(cni |host ports|wait for a turn of network)/, 'network creation'],
  [/^(namespaces|pin namespaces)/, 'namespace creation'],
  [/^mount \/dev\/shm/, 'shm creation'],
  [/^infra container|create, run by/, 'container runtime creation'],
  [/^(prepare rootfs|mount rootfs|relabel)/, 'storage creation'],
  [/^(volume|stat mount source)/, 'volume configuration'],
  [/^read (CDI|OCI)/, 'device creation'],
];

/** The stage at which the making of a pod or a container stalls, in CRI-O's words. */
export function stalledLabel(rpc: string, stage: string): string {
  const what = rpc === 'RunPodSandbox' ? 'sandbox' : 'container';
  const found = CRIO_STAGES.find(([begins]) => begins.test(stage))?.[1];
  return found?.startsWith('container') === true && what === 'container' ? found : `${what} ${found ?? 'creating'}`;
}

/** A word of a stage that names an object rather than what is done: a path, a digest, an id, a quotation, a number. */
const NAMES_SOMETHING = /[/"']|[0-9a-f]{12}|^\d+$/;

/** A stage without the objects that it is about. */
export function stageLabel(stage: string): string {
  return stage
    .split(' ')
    .filter((word) => !NAMES_SOMETHING.test(word))
    .join(' ');
}

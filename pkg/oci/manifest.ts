/**
 * Manifests, indexes and image configs, from bytes to types.
 *
 * Reads OCI image-spec 1.1 and docker schema 2. Everything here is hostile until it has passed a guard: each digest is
 * validated before anybody can use it as a name (CVE-2024-3727), each size is a non-negative integer, a document that
 * could be read as both an index and a manifest is refused (CVE-2021-41190), and lists have limits.
 */
import { isObject } from '../base/go.ts';
import { isDigest, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { RuntimeError } from '../base/errors.ts';
import type { Descriptor, ImageConfig, Platform } from './spec-types.ts';

export const mediaTypes = {
  ociManifest: 'application/vnd.oci.image.manifest.v1+json',
  ociIndex: 'application/vnd.oci.image.index.v1+json',
  ociConfig: 'application/vnd.oci.image.config.v1+json',
  ociLayer: 'application/vnd.oci.image.layer.v1.tar',
  ociLayerGzip: 'application/vnd.oci.image.layer.v1.tar+gzip',
  ociLayerZstd: 'application/vnd.oci.image.layer.v1.tar+zstd',
  dockerManifest: 'application/vnd.docker.distribution.manifest.v2+json',
  dockerList: 'application/vnd.docker.distribution.manifest.list.v2+json',
  dockerConfig: 'application/vnd.docker.container.image.v1+json',
  dockerLayerGzip: 'application/vnd.docker.image.rootfs.diff.tar.gzip',
} as const;

/** What to ask a registry for, in one Accept header. */
export const manifestAccept = [
  mediaTypes.ociManifest,
  mediaTypes.ociIndex,
  mediaTypes.dockerManifest,
  mediaTypes.dockerList,
].join(', ');

export interface ImageManifest {
  readonly kind: 'manifest';
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Bottom first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}
export interface ImageIndex {
  readonly kind: 'index';
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}
export type ManifestDocument = ImageManifest | ImageIndex;

const INDEX_TYPES: ReadonlySet<string> = new Set([mediaTypes.ociIndex, mediaTypes.dockerList]);
const MANIFEST_TYPES: ReadonlySet<string> = new Set([mediaTypes.ociManifest, mediaTypes.dockerManifest]);
/** Schema 1 has no config blob and no diff ids; nothing in it can be verified the way the rest is. */
const SCHEMA1_TYPES: ReadonlySet<string> = new Set([
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
]);
/** Old docker registries stored configs as octet-stream; docker itself still reads those as images. */
const CONFIG_TYPES: ReadonlySet<string> = new Set([
  mediaTypes.ociConfig,
  mediaTypes.dockerConfig,
  'application/octet-stream',
]);
const LAYER_BASES: readonly string[] = [mediaTypes.ociLayer, 'application/vnd.docker.image.rootfs.diff.tar'];
const LAYER_SUFFIXES: ReadonlySet<string> = new Set(['', '+gzip', '.gzip', '+zstd', '.zstd', '+xz', '.xz', '+bzip2']);
/** image-spec: an index may hold indexes; nobody needs more of them inside each other. */
export const INDEX_DEPTH_MAX = 3;

/**
 * Reads a manifest or an index. `contentType` is what the registry said it is, '' if nothing did.
 * @throws InvalidArgument for a damaged or ambiguous document; Unimplemented for one that is valid but not for us
 * (schema 1, artifacts, foreign or encrypted layers); ResourceExhausted above a limit.
 */
export function parseManifest(bytes: Uint8Array, contentType: string): ManifestDocument {
  const document = parseObject(bytes, limits.manifestBytes, 'the manifest');
  const said = bareType(contentType);
  const own = optionalString(document, 'mediaType', 'the manifest') ?? '';
  if (SCHEMA1_TYPES.has(said) || SCHEMA1_TYPES.has(own) || document['schemaVersion'] === 1) {
    throw new RuntimeError(
      'Unimplemented',
      'the image has a docker schema 1 manifest, which cannot be verified; push it again with a client of this decade',
    );
  }
  if (document['schemaVersion'] !== 2)
    throw bad(`the manifest has schemaVersion ${quote(String(document['schemaVersion']))}, want 2`);
  const hasManifests = Object.hasOwn(document, 'manifests');
  if (hasManifests && (Object.hasOwn(document, 'layers') || Object.hasOwn(document, 'config'))) {
    throw bad('the manifest is an index and an image at once (CVE-2021-41190)');
  }
  if (own !== '' && isKnown(said) && own !== said)
    throw bad(`the manifest says it is ${quote(own)}, but was served as ${quote(said)} (CVE-2021-41190)`);
  const type = own !== '' ? own : isKnown(said) ? said : hasManifests ? mediaTypes.ociIndex : mediaTypes.ociManifest;
  if (!isKnown(type)) throw new RuntimeError('Unimplemented', `manifests of type ${quote(type)} are not images`);
  if (INDEX_TYPES.has(type) !== hasManifests)
    throw bad(`the manifest is of type ${quote(type)}, but its content is not`);
  return hasManifests ? readIndex(document, type) : readManifest(document, type);
}

/** True for a media type of a manifest or index that `parseManifest` reads. */
export function isKnown(mediaType: string): boolean {
  return INDEX_TYPES.has(mediaType) || MANIFEST_TYPES.has(mediaType);
}

/** True for a media type of an index. */
export function isIndexType(mediaType: string): boolean {
  return INDEX_TYPES.has(mediaType);
}

/**
 * Reads an image config (image-spec config.md). `null` and absent mean empty, as docker writes them.
 * @throws InvalidArgument for a damaged one; ResourceExhausted above a limit.
 */
export function parseImageConfig(bytes: Uint8Array): ImageConfig {
  const what = 'the image config';
  const document = parseObject(bytes, limits.imageConfigBytes, what);
  const config = optionalObject(document, 'config', what) ?? {};
  const rootfs = optionalObject(document, 'rootfs', what);
  if (rootfs === undefined || (rootfs['type'] !== 'layers' && rootfs['type'] !== undefined))
    throw bad(`${what} has no rootfs of type "layers"`);
  const diffIds = stringList(rootfs, 'diff_ids', what);
  const user = optionalString(config, 'User', what) ?? '';
  if (Buffer.byteLength(user) > limits.imageUserBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `${what} has a User of ${Buffer.byteLength(user)} bytes, at most ${limits.imageUserBytes} ` +
        'are taken; the image must be built with a shorter one',
    );
  return {
    architecture: optionalString(document, 'architecture', what) ?? '',
    os: optionalString(document, 'os', what) ?? '',
    user,
    env: stringList(config, 'Env', what),
    entrypoint: stringList(config, 'Entrypoint', what),
    cmd: stringList(config, 'Cmd', what),
    volumes: Object.keys(optionalObject(config, 'Volumes', what) ?? {}),
    workingDir: optionalString(config, 'WorkingDir', what) ?? '',
    labels: stringMap(config, 'Labels', what),
    stopSignal: optionalString(config, 'StopSignal', what) ?? '',
    exposedPorts: Object.keys(optionalObject(config, 'ExposedPorts', what) ?? {}),
    diffIds: diffIds.map((text) => {
      if (!isDigest(text)) throw bad(`${what} has a diff id that is no digest: ${quote(text)}`);
      return text;
    }),
  };
}

/**
 * What to look for in an index on a node of `architecture` (GOARCH name), best first: compatible variants, then none.
 */
export function platformCandidates(platform: Platform): readonly Platform[] {
  const { os, architecture } = platform;
  const variants = variantsOf(architecture, platform.variant);
  return variants.map((variant) => ({ os, architecture, variant }));
}

/**
 * The platform of a node by Node's `process.arch`; `armVersion` is the value of process.config.variables.arm_version.
 */
export function nodePlatform(arch: string, armVersion?: string): Platform {
  const names: Readonly<Record<string, string>> = { x64: 'amd64', ia32: '386', ppc64: 'ppc64le' };
  const architecture = names[arch] ?? arch;
  if (architecture === 'arm') return { os: 'linux', architecture, variant: `v${armVersion ?? '7'}` };
  return { os: 'linux', architecture };
}

/**
 * The entry of `index` for `platform`. An entry that names no platform is taken last.
 * @throws NotFound that lists what the index has.
 */
export function selectPlatform(index: ImageIndex, platform: Platform): Descriptor {
  for (const wanted of platformCandidates(platform)) {
    const found = index.manifests.find(
      ({ platform: has }) =>
        has !== undefined &&
        has.os === wanted.os &&
        has.architecture === wanted.architecture &&
        (has.variant ?? '') === (wanted.variant ?? ''),
    );
    if (found !== undefined) return found;
  }
  const anywhere = index.manifests.find((each) => each.platform === undefined && isKnown(each.mediaType));
  if (anywhere !== undefined) return anywhere;
  const has = index.manifests.map((each) => (each.platform === undefined ? '?' : platformName(each.platform)));
  throw new RuntimeError(
    'NotFound',
    `the image has no variant for ${platformName(platform)}; it has ` +
      `${quote([...new Set(has)].join(', ') || 'none at all', 512)}`,
  );
}

/** `linux/arm64/v8` */
export function platformName(platform: Platform): string {
  return [platform.os, platform.architecture, platform.variant]
    .filter((part) => part !== undefined && part !== '')
    .join('/');
}

function variantsOf(architecture: string, variant: string | undefined): readonly (string | undefined)[] {
  // An ARM core runs code for every older one; images without a variant are for the lowest common one.
  if (architecture === 'arm') {
    const level = Number((variant ?? 'v7').slice(1));
    return [...[8, 7, 6, 5].filter((each) => each <= level).map((each) => `v${each}`), undefined];
  }
  if (architecture === 'arm64') return [...new Set([variant, 'v8', undefined])];
  if (architecture === 'amd64') {
    const level = Number((variant ?? 'v1').slice(1));
    return [...[4, 3, 2].filter((each) => each <= level).map((each) => `v${each}`), undefined, 'v1'];
  }
  return [...new Set([variant, undefined])];
}

function readIndex(document: JsonObject, mediaType: string): ImageIndex {
  const list = document['manifests'];
  if (!Array.isArray(list)) throw bad('the index has "manifests" that is not a list');
  return {
    kind: 'index',
    mediaType,
    manifests: list.map((each) => descriptor(each, 'the index')),
    annotations: stringMap(document, 'annotations', 'the index'),
  };
}

function readManifest(document: JsonObject, mediaType: string): ImageManifest {
  const artifactType = optionalString(document, 'artifactType', 'the manifest');
  const config = descriptor(document['config'], 'the manifest');
  if (!CONFIG_TYPES.has(config.mediaType)) {
    throw new RuntimeError(
      'Unimplemented',
      `this is an OCI artifact of type ${quote(artifactType ?? config.mediaType)}, not a container image`,
    );
  }
  const list = document['layers'];
  if (!Array.isArray(list)) throw bad('the manifest has no list "layers"');
  if (list.length > limits.layersCount)
    throw new RuntimeError(
      'ResourceExhausted',
      `the image has ${list.length} layers, at most ${limits.layersCount} can be mounted`,
    );
  const layers = list.map((each) => descriptor(each, 'the manifest'));
  for (const layer of layers) checkLayerType(layer);
  if (config.size > BigInt(limits.imageConfigBytes))
    throw new RuntimeError(
      'ResourceExhausted',
      `the image config has ${config.size} bytes, at most ${limits.imageConfigBytes} are read`,
    );
  const annotations = stringMap(document, 'annotations', 'the manifest');
  const annotated = Buffer.byteLength(JSON.stringify(annotations));
  // They are kept in the image's record and go into every list of images.
  if (annotated > limits.annotationsBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `the manifest has ${annotated} bytes of annotations, at most ${limits.annotationsBytes} are kept`,
    );
  return { kind: 'manifest', mediaType, config, layers, annotations };
}

function checkLayerType(layer: Descriptor): void {
  const type = layer.mediaType;
  if (type.includes('.foreign.') || type.includes('.nondistributable.')) {
    throw new RuntimeError(
      'Unimplemented',
      `layer ${layer.digest} is foreign (${quote(type)}): its content is on a server that the ` +
        'image names, which is not asked (CVE-2020-15157); rebuild the image with distributable ' +
        'layers',
    );
  }
  if (type.endsWith('+encrypted'))
    throw new RuntimeError('Unimplemented', `layer ${layer.digest} is encrypted (${quote(type)})`);
  const known = LAYER_BASES.some((base) => type.startsWith(base) && LAYER_SUFFIXES.has(type.slice(base.length)));
  if (!known)
    throw new RuntimeError(
      'Unimplemented',
      `layer ${layer.digest} has type ${quote(type)}, which is not a file system layer`,
    );
}

function descriptor(value: unknown, what: string): Descriptor {
  if (!isObject(value)) throw bad(`${what} has a descriptor that is not an object`);
  const digest = optionalString(value, 'digest', what) ?? '';
  if (!isDigest(digest)) throw bad(`${what} has a descriptor with ${quote(digest)} for a digest (CVE-2024-3727)`);
  const size = value['size'];
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw bad(`${what}: the size of ${digest} is not a number of bytes`);
  const platform = optionalObject(value, 'platform', what);
  return {
    mediaType: bareType(optionalString(value, 'mediaType', what) ?? ''),
    digest,
    size: BigInt(size),
    annotations: stringMap(value, 'annotations', what),
    platform: platform === undefined ? undefined : readPlatform(platform, what),
  };
}

function readPlatform(value: JsonObject, what: string): Platform {
  const variant = optionalString(value, 'variant', what);
  return {
    architecture: optionalString(value, 'architecture', what) ?? '',
    os: optionalString(value, 'os', what) ?? '',
    ...(variant === undefined || variant === '' ? {} : { variant }),
  };
}

type JsonObject = Readonly<Record<string, unknown>>;

/** An object from at most `max` bytes of JSON. @throws InvalidArgument or ResourceExhausted that names `what`. */
export function parseObject(bytes: Uint8Array, max: number, what: string): JsonObject {
  if (bytes.length > max)
    throw new RuntimeError('ResourceExhausted', `${what} has ${bytes.length} bytes, at most ${max} are read`);
  let value: unknown;
  try {
    value = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(bytes)) as unknown;
  } catch (cause) {
    throw new RuntimeError('InvalidArgument', `${what} is not valid JSON`, { cause });
  }
  if (!isObject(value)) throw bad(`${what} is not a JSON object`);
  return value;
}

function optionalString(from: JsonObject, key: string, what: string): string | undefined {
  const value = own(from, key);
  if (value === undefined || value === null) return undefined;
  if (typeof value !== 'string') throw bad(`${what} has ${quote(key)} that is not text`);
  return value;
}

function optionalObject(from: JsonObject, key: string, what: string): JsonObject | undefined {
  const value = own(from, key);
  if (value === undefined || value === null) return undefined;
  if (!isObject(value)) throw bad(`${what} has ${quote(key)} that is not an object`);
  return value;
}

function stringList(from: JsonObject, key: string, what: string): string[] {
  const value = own(from, key);
  if (value === undefined || value === null) return [];
  if (!Array.isArray(value) || !value.every((each) => typeof each === 'string'))
    throw bad(`${what} has ${quote(key)} that is not a list of text`);
  return value;
}

/** A null-prototype map: `__proto__` is an ordinary label. */
function stringMap(from: JsonObject, key: string, what: string): Record<string, string> {
  const map = Object.create(null) as Record<string, string>;
  for (const [name, value] of Object.entries(optionalObject(from, key, what) ?? {})) {
    if (typeof value !== 'string') throw bad(`${what} has ${quote(key)} with a value that is not text`);
    map[name] = value;
  }
  return map;
}

function own(from: JsonObject, key: string): unknown {
  return Object.hasOwn(from, key) ? from[key] : undefined;
}

function bareType(contentType: string): string {
  const semicolon = contentType.indexOf(';');
  return (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase();
}

function bad(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${message}; the image must be built or pushed again`);
}

/** Media types of images, and what kind of thing each names. */

/** The types that Berth reads, and writes where it makes images. */
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

const INDEX_TYPES: ReadonlySet<string> = new Set([mediaTypes.ociIndex, mediaTypes.dockerList]);
const MANIFEST_TYPES: ReadonlySet<string> = new Set([mediaTypes.ociManifest, mediaTypes.dockerManifest]);
/** Schema 1 has no config blob and no diff ids; nothing in it can be verified the way the rest is. */
const SCHEMA1_TYPES: ReadonlySet<string> = new Set([
  'application/vnd.docker.distribution.manifest.v1+json',
  'application/vnd.docker.distribution.manifest.v1+prettyjws',
]);
const CONFIG_TYPES: ReadonlySet<string> = new Set([mediaTypes.ociConfig, mediaTypes.dockerConfig]);
const FOREIGN_BASES: readonly string[] = [
  'application/vnd.oci.image.layer.nondistributable.v1.tar',
  'application/vnd.docker.image.rootfs.foreign.diff.tar',
];
const LAYER_BASES: readonly string[] = [
  mediaTypes.ociLayer,
  'application/vnd.docker.image.rootfs.diff.tar',
  ...FOREIGN_BASES,
];
const LAYER_SUFFIXES: ReadonlySet<string> = new Set(['', '+gzip', '.gzip', '+zstd', '.zstd', '+xz', '.xz', '+bzip2']);

const GENERIC_TYPES: ReadonlySet<string> = new Set([
  '',
  'application/json',
  'application/octet-stream',
  'binary/octet-stream',
  'application/gzip',
  'application/x-gzip',
  'application/x-tar',
]);

/** True for a media type of a manifest or index that `parseManifest` reads. */
export function isKnown(mediaType: string): boolean {
  return INDEX_TYPES.has(mediaType) || MANIFEST_TYPES.has(mediaType);
}

/** True for a media type of an index. */
export function isIndexType(mediaType: string): boolean {
  return INDEX_TYPES.has(mediaType);
}

/** True for docker's old manifests. */
export function isSchema1Type(mediaType: string): boolean {
  return SCHEMA1_TYPES.has(mediaType);
}

/**
 * True for types that name no format: none at all, or what web servers and old clients say of any bytes.
 */
export function isGeneric(mediaType: string): boolean {
  return GENERIC_TYPES.has(mediaType) || mediaType.startsWith('text/');
}

/**
 * True for what may be an image config. Old registries and clients stored configs under any type, and docker still
 * takes those for images (moby#22378, moby#30083); an artifact says by a name of its own what it is.
 */
export function isConfigType(mediaType: string): boolean {
  return CONFIG_TYPES.has(mediaType) || isGeneric(mediaType);
}

/** True for what may be a file system layer; whether it is compressed, its content says. */
export function isLayerType(mediaType: string): boolean {
  if (isGeneric(mediaType)) return true;
  return LAYER_BASES.some((base) => mediaType.startsWith(base) && LAYER_SUFFIXES.has(mediaType.slice(base.length)));
}

/**
 * True for a layer that need not be in its registry, but may. Where else it is its descriptor says, and nobody is sent
 * there by that (CVE-2020-15157).
 */
export function isForeignType(mediaType: string): boolean {
  return FOREIGN_BASES.some((base) => mediaType.startsWith(base));
}

/** A media type without its parameters, in lower case. */
export function bareType(contentType: string): string {
  const semicolon = contentType.indexOf(';');
  return (semicolon < 0 ? contentType : contentType.slice(0, semicolon)).trim().toLowerCase();
}

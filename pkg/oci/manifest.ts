/**
 * Manifests and indexes, from bytes to types.
 *
 * Reads OCI image-spec 1.1 and docker schema 2. Everything here is hostile until it has passed a guard: each digest is
 * validated before anybody can use it as a name (CVE-2024-3727), each size is a non-negative integer, a document that
 * could be read as both an index and a manifest is refused (CVE-2021-41190), and lists have limits.
 *
 * What a document is, its structure decides: registries and the tools that copy between them mix up OCI's and docker's
 * names of the same thing, and no reader of theirs minds.
 */
import { RuntimeError } from '../base/errors.ts';
import { GoObject } from '../base/go.ts';
import { isDigest, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { algorithmOf } from './digest.ts';
import { bad, listOf, objectOf, parseObject, textMapOf, textOf } from './document.ts';
import {
  bareType,
  isConfigType,
  isGeneric,
  isIndexType,
  isKnown,
  isLayerType,
  isSchema1Type,
  mediaTypes,
} from './media-types.ts';
import { normalizePlatform } from './platform.ts';
import type { Descriptor, Platform } from './spec-types.ts';

/** One image for one platform. */
export interface ImageManifest {
  readonly kind: 'manifest';
  readonly mediaType: string;
  readonly config: Descriptor;
  /** Bottom first. */
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** A choice of images for several platforms. */
export interface ImageIndex {
  readonly kind: 'index';
  readonly mediaType: string;
  readonly manifests: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** What is no container image, and says so: files that are kept as they are. */
export interface ArtifactManifest {
  readonly kind: 'artifact';
  readonly mediaType: string;
  /** What it says that it is: `artifactType`, else the type of its config. */
  readonly type: string;
  readonly config: Descriptor;
  /** Its files, of any type. */
  readonly layers: readonly Descriptor[];
  readonly annotations: Readonly<Record<string, string>>;
}

/** What is behind a tag or a digest. */
export type ManifestDocument = ImageManifest | ImageIndex | ArtifactManifest;

/** image-spec: an index may hold indexes; nobody needs more of them inside each other. */
export const INDEX_DEPTH_MAX = 3;

/**
 * Reads a manifest or an index. `contentType` is what the registry said it is, '' if nothing did.
 * @throws InvalidArgument for a damaged or ambiguous document; Unimplemented for one that is valid but not for us
 * (schema 1, encrypted layers); ResourceExhausted above a limit.
 */
export function parseManifest(bytes: Uint8Array, contentType: string): ManifestDocument {
  const document = parseObject(bytes, limits.manifestBytes, 'the manifest');
  const type = manifestType(document, contentType);
  return isIndexType(type) ? readIndex(document, type) : readManifest(document, type);
}

/**
 * The media type that fits the structure of a manifest or an index, as the document or else the registry calls it.
 * @throws InvalidArgument where structure and names say that it is two things; Unimplemented for other documents.
 */
export function manifestType(document: GoObject, contentType: string): string {
  const said = bareType(contentType);
  if (document.twin !== undefined)
    throw bad(`the manifest has ${quote(document.twin)} in two spellings (CVE-2021-41190)`);
  const own = bareType(textOf(document, 'mediaType', 'the manifest'));
  checkSchema(document, said, own);
  const hasManifests = document.has('manifests');
  const hasImage = document.has('layers') || document.has('config');
  if (hasManifests && hasImage) throw bad('the manifest is an index and an image at once (CVE-2021-41190)');
  if (!isKnown(own) && !isGeneric(own))
    throw new RuntimeError('Unimplemented', `manifests of type ${quote(own)} are not images; name an image`);
  const told = [own, said].filter(isKnown);
  // Go writes an empty index without its list.
  const isIndex = hasManifests || (!hasImage && told[0] !== undefined && isIndexType(told[0]));
  for (const type of told)
    if (isIndexType(type) !== isIndex)
      throw bad(
        `the manifest ${type === own ? 'says it is' : 'was served as'} ${quote(type)}, but its content is ` +
          `${isIndex ? 'an index' : 'an image'} (CVE-2021-41190)`,
      );
  return told[0] ?? (isIndex ? mediaTypes.ociIndex : mediaTypes.ociManifest);
}

const NOTHING = new GoObject({});

function checkSchema(document: GoObject, said: string, own: string): void {
  const version = document.get('schemaVersion');
  if (isSchema1Type(said) || isSchema1Type(own) || version === 1 || document.has('fsLayers'))
    throw new RuntimeError(
      'Unimplemented',
      'the image has a docker schema 1 manifest, which cannot be verified; push it again with a client of this decade',
    );
  // 0 is what Go reads where nothing is said.
  if (version !== undefined && version !== 0 && version !== 2)
    throw bad(`the manifest has schemaVersion ${quote(JSON.stringify(version))}, want 2`);
}

/**
 * An entry whose digest cannot be computed here (image-spec has registered more than two algorithms) costs itself: the
 * node's platform may be another one. @throws InvalidArgument if it is so with all of them.
 */
function readIndex(document: GoObject, mediaType: string): ImageIndex {
  const entries = listOf(document, 'manifests', 'the index');
  const usable = entries.filter((each) => isDigest(textOf(GoObject.of(each) ?? NOTHING, 'digest', 'the index')));
  return {
    kind: 'index',
    mediaType,
    manifests: (usable.length > 0 ? usable : entries).map((each) => descriptor(each, 'the index')),
    annotations: textMapOf(document, 'annotations', 'the index'),
  };
}

/**
 * An artifact has a config of a type of its own, or an `artifactType` and something else than file systems in it: what
 * could be a container image is one, as with CRI-O, which tries that first.
 */
function readManifest(document: GoObject, mediaType: string): ImageManifest | ArtifactManifest {
  const artifactType = textOf(document, 'artifactType', 'the manifest');
  const config = descriptor(document.get('config'), 'the manifest');
  const list = listOf(document, 'layers', 'the manifest');
  if (list.length > limits.artifactFilesCount)
    throw new RuntimeError(
      'ResourceExhausted',
      `the manifest has ${list.length} layers; an image has at most ${limits.layersCount}, an artifact ` +
        `${limits.artifactFilesCount} files`,
    );
  const layers = list.map((each) => descriptor(each, 'the manifest'));
  const annotations = readAnnotations(document);
  const isImage = isConfigType(config.mediaType) && (artifactType === '' || layers.every(isLayer));
  if (!isImage)
    return { kind: 'artifact', mediaType, type: artifactType || config.mediaType, config, layers, annotations };
  if (layers.length > limits.layersCount)
    throw new RuntimeError(
      'ResourceExhausted',
      `the image has ${layers.length} layers, at most ${limits.layersCount} can be mounted; rebuild it with fewer`,
    );
  for (const layer of layers) checkLayerType(layer);
  if (algorithmOf(config.digest) !== 'sha256')
    throw new RuntimeError(
      'Unimplemented',
      `the config has the digest ${quote(config.digest, 64)}; the ID of an image is a sha256 digest: push it again ` +
        'with that',
    );
  if (config.size > BigInt(limits.imageConfigBytes))
    throw new RuntimeError(
      'ResourceExhausted',
      `the image config has ${config.size} bytes, at most ${limits.imageConfigBytes} are read; rebuild the image`,
    );
  return { kind: 'manifest', mediaType, config, layers, annotations };
}

/** They are kept in the image's record and go into every list of images. */
function readAnnotations(document: GoObject): Readonly<Record<string, string>> {
  const annotations = textMapOf(document, 'annotations', 'the manifest');
  const annotated = Buffer.byteLength(JSON.stringify(annotations));
  if (annotated > limits.annotationsBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `the manifest has ${annotated} bytes of annotations, at most ${limits.annotationsBytes} are kept; ` +
        'rebuild the image with fewer',
    );
  return annotations;
}

function isLayer({ mediaType }: Descriptor): boolean {
  return isLayerType(mediaType) || mediaType.endsWith('+encrypted');
}

function checkLayerType(layer: Descriptor): void {
  const type = layer.mediaType;
  if (type.endsWith('+encrypted'))
    throw new RuntimeError('Unimplemented', `layer ${layer.digest} is encrypted (${quote(type)}); push it in clear`);
  if (!isLayerType(type))
    throw new RuntimeError(
      'Unimplemented',
      `layer ${layer.digest} has type ${quote(type)}, which is not a file system layer; name an image`,
    );
}

function descriptor(value: unknown, what: string): Descriptor {
  const object = GoObject.of(value);
  if (object === undefined) throw bad(`${what} has a descriptor that is not an object`);
  const digest = textOf(object, 'digest', what);
  if (!isDigest(digest)) throw bad(`${what} has a descriptor with ${quote(digest)} for a digest (CVE-2024-3727)`);
  const size = object.get('size') ?? 0;
  if (typeof size !== 'number' || !Number.isSafeInteger(size) || size < 0)
    throw bad(`${what}: the size of ${digest} is not a number of bytes`);
  return {
    mediaType: bareType(textOf(object, 'mediaType', what)),
    digest,
    size: BigInt(size),
    annotations: textMapOf(object, 'annotations', what),
    platform: readPlatform(object, what),
  };
}

/** undefined where nothing is said; all empty is nothing. */
function readPlatform(owner: GoObject, what: string): Platform | undefined {
  const platform = GoObject.of(objectOf(owner, 'platform', what));
  if (platform === undefined) return undefined;
  const [os, architecture] = [textOf(platform, 'os', what), textOf(platform, 'architecture', what)];
  const variant = textOf(platform, 'variant', what);
  return os === '' && architecture === '' ? undefined : normalizePlatform(os, architecture, variant);
}

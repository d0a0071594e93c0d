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

/** What is behind a tag or a digest. */
export type ManifestDocument = ImageManifest | ImageIndex;

/** image-spec: an index may hold indexes; nobody needs more of them inside each other. */
export const INDEX_DEPTH_MAX = 3;

/**
 * Reads a manifest or an index. `contentType` is what the registry said it is, '' if nothing did.
 * @throws InvalidArgument for a damaged or ambiguous document; Unimplemented for one that is valid but not for us
 * (schema 1, artifacts, foreign or encrypted layers); ResourceExhausted above a limit.
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

function checkSchema(document: GoObject, said: string, own: string): void {
  const version = document.get('schemaVersion');
  if (isSchema1Type(said) || isSchema1Type(own) || version === 1 || document.has('fsLayers'))
    throw new RuntimeError(
      'Unimplemented',
      'the image has a docker schema 1 manifest, which cannot be verified; push it again with a client of this decade',
    );
  if (version !== undefined && version !== 2)
    throw bad(`the manifest has schemaVersion ${quote(JSON.stringify(version))}, want 2`);
}

function readIndex(document: GoObject, mediaType: string): ImageIndex {
  return {
    kind: 'index',
    mediaType,
    manifests: listOf(document, 'manifests', 'the index').map((each) => descriptor(each, 'the index')),
    annotations: textMapOf(document, 'annotations', 'the index'),
  };
}

function readManifest(document: GoObject, mediaType: string): ImageManifest {
  const artifactType = textOf(document, 'artifactType', 'the manifest');
  const config = descriptor(document.get('config'), 'the manifest');
  if (!isConfigType(config.mediaType)) {
    throw new RuntimeError(
      'Unimplemented',
      `this is an OCI artifact of type ${quote(artifactType || config.mediaType)}, not a container image; ` +
        'name an image',
    );
  }
  const list = listOf(document, 'layers', 'the manifest');
  if (list.length > limits.layersCount)
    throw new RuntimeError(
      'ResourceExhausted',
      `the image has ${list.length} layers, at most ${limits.layersCount} can be mounted; rebuild it with fewer`,
    );
  const layers = list.map((each) => descriptor(each, 'the manifest'));
  for (const layer of layers) checkLayerType(layer);
  if (config.size > BigInt(limits.imageConfigBytes))
    throw new RuntimeError(
      'ResourceExhausted',
      `the image config has ${config.size} bytes, at most ${limits.imageConfigBytes} are read; rebuild the image`,
    );
  const annotations = textMapOf(document, 'annotations', 'the manifest');
  const annotated = Buffer.byteLength(JSON.stringify(annotations));
  // They are kept in the image's record and go into every list of images.
  if (annotated > limits.annotationsBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `the manifest has ${annotated} bytes of annotations, at most ${limits.annotationsBytes} are kept; ` +
        'rebuild the image with fewer',
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
  const size = object.get('size');
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

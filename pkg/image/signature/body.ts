/**
 * What is signed: a JSON text that names a manifest by its digest and calls the image by a name
 * (containers-signature(5); cosign's simple signing payload is the same but for its type). It is read only after the
 * signature over its bytes was found good. Pure.
 */
import { RuntimeError } from '../../base/errors.ts';
import { isDigest, quote } from '../../base/ids.ts';
import type { Digest } from '../../base/ids.ts';
import { algorithmOf, digestOf } from '../../oci/digest.ts';
import type { Reference } from '../../oci/reference.ts';
import { describeIdentity, identityMatches } from './requirements.ts';
import type { SignedIdentity } from './requirements.ts';
import { members, parseStrictJson, textOf } from './strict-json.ts';

/** The image that a signature has to vouch for. */
export interface SignedImage {
  /** As the user asked for it. */
  readonly reference: Reference;
  /** Of the manifest for this platform: of an index, the entry that is pulled. */
  readonly digest: Digest;
  /** The manifest itself, for signatures that name it by another algorithm; undefined where it is not at hand. */
  readonly manifest: Uint8Array | undefined;
}

/** How a signed text calls itself: what podman makes with OpenPGP, and what cosign makes. */
export type BodyType = 'atomic container signature' | 'cosign container image signature';

/**
 * Checks an authentic body against the image. @throws FailedPrecondition that says why it does not vouch for it;
 * InvalidArgument for a body that is not of the format: whatever is not known in its critical part refuses it.
 */
export function checkBody(bytes: Uint8Array, type: BodyType, image: SignedImage, identity: SignedIdentity): void {
  const { digest, reference } = readBody(bytes, type);
  if (!isManifest(image, digest)) throw refusal(`it is for the manifest ${digest}, not for ${image.digest}`);
  if (identityMatches(identity, image.reference, reference)) return;
  const onlyRepository = !reference.includes('@') && reference.lastIndexOf(':') <= reference.lastIndexOf('/');
  const hint =
    onlyRepository && identity.type !== 'matchRepository' && identity.type !== 'exactRepository'
      ? '; cosign signs a repository without a tag, which "signedIdentity": {"type": "matchRepository"} accepts'
      : '';
  throw refusal(
    `it calls the image ${quote(reference, 300)}, and the policy wants ` +
      `${describeIdentity(identity, image.reference)}${hint}`,
  );
}

function readBody(bytes: Uint8Array, type: BodyType): { readonly digest: Digest; readonly reference: string } {
  const body = members(parseStrictJson(bytes, 'the signed text'), 'the signed text', ['critical', 'optional']);
  checkOptional(body['optional'], type);
  const critical = members(body['critical'], '"critical"', ['type', 'image', 'identity']);
  const actual = textOf(critical, 'type', '"critical"');
  if (actual !== type) throw malformed(`the signed text is of type ${quote(actual)}, not ${quote(type)}`);
  const digest = textOf(
    members(critical['image'], '"image"', ['docker-manifest-digest']),
    'docker-manifest-digest',
    '"image"',
  );
  if (!isDigest(digest)) throw malformed(`docker-manifest-digest ${quote(digest)} is not a digest`);
  return {
    digest,
    reference: textOf(
      members(critical['identity'], '"identity"', ['docker-reference']),
      'docker-reference',
      '"identity"',
    ),
  };
}

/** Anything may stand there, but what is known must be right. cosign writes null. */
function checkOptional(value: unknown, type: BodyType): void {
  if (value === null && type === 'cosign container image signature') return;
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    throw malformed('"optional" is not an object');
  const { creator, timestamp } = value as { readonly creator?: unknown; readonly timestamp?: unknown };
  if (creator !== undefined && typeof creator !== 'string') throw malformed('"creator" is not text');
  if (timestamp !== undefined && !Number.isSafeInteger(timestamp))
    throw malformed('"timestamp" is not a whole number of seconds');
}

function isManifest(image: SignedImage, digest: Digest): boolean {
  if (digest === image.digest) return true;
  return image.manifest !== undefined && digestOf(image.manifest, algorithmOf(digest)) === digest;
}

function refusal(message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', message);
}

function malformed(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}

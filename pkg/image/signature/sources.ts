/**
 * Where signatures are, as registries.d says: sigstore attachments beside the image (a tag `sha256-<hex>.sig` in its
 * repository, as cosign writes it), and OpenPGP signatures at a "lookaside" address
 * (`<lookaside>/<repository>@sha256=<hex>/signature-1`, `-2`, …).
 *
 * What is found is not trusted; it is only bounded. What is left out is noted, for the message of a refusal.
 */
import { readBounded } from '../../base/files.ts';
import { errnoOf, explain, isCode, RuntimeError } from '../../base/errors.ts';
import { hexOf, isDigest, quote } from '../../base/ids.ts';
import type { Digest } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import { withoutEnd } from '../../base/text.ts';
import { algorithmOf, checkDigest } from '../../oci/digest.ts';
import { GoObject, isObject } from '../../base/go.ts';
import { parseObject } from '../../oci/document.ts';
import { manifestType } from '../../oci/manifest.ts';
import { isIndexType } from '../../oci/media-types.ts';
import { repositoryName } from '../../oci/reference.ts';
import type { Reference } from '../../oci/reference.ts';
import { shortUrl } from '../registry/http.ts';
import type { ManifestAnswer } from '../registry/repository.ts';
import { RegistriesDirectory } from './registries-d.ts';

/** One signature, as it was found. */
export type Signature =
  | {
      readonly kind: 'sigstore';
      readonly from: string;
      readonly payload: Buffer;
      /** Base64, as it was found. */
      readonly signature: string;
      /** What came with it where no key is known beforehand, as it was found. */
      readonly proof?: Proof;
    }
  | { readonly kind: 'openpgp'; readonly from: string; readonly message: Buffer };

/** What cosign puts beside a signature (its `bundle`, `certificate` and `chain`); '' for what is not there. */
export interface Proof {
  /** The entry of a transparency log. */
  readonly entry: string;
  /** In PEM: of whoever signed, and of those between him and an authority, the authority last. */
  readonly certificate: string;
  readonly chain: string;
}

/** What was found for one manifest. */
export interface FoundSignatures {
  readonly signatures: readonly Signature[];
  /** What was looked for where and not found or not taken, for the message of a refusal. */
  readonly notes: readonly string[];
}

/** The repository that gave the manifest, and the world for lookaside servers. */
export interface SignatureSource {
  /**
   * The image as that repository calls it: on a mirror, by the mirror's name (this is what registries.d is asked
   * about).
   */
  readonly reference: Reference;
  /** @throws NotFound if there is no such tag; as Repository otherwise. */
  manifest(op: Op, tag: string): Promise<ManifestAnswer>;
  /** The whole blob of that size; not verified. */
  blob(op: Op, digest: Digest, size: number): Promise<Buffer>;
  /**
   * The body at an http or https address; undefined if the server says 404. @throws ResourceExhausted above `max`
   * bytes; as the transport.
   */
  download(op: Op, url: URL, max: number): Promise<Buffer | undefined>;
}

/** Where root's signatures lie if nobody says otherwise. */
const DEFAULT_LOOKASIDE = 'file:///var/lib/containers/sigstore';
/** cosign's payloads; other attachments (attestations, SBOMs) are no signatures of the image. */
const PAYLOAD_TYPE = 'application/vnd.dev.cosign.simplesigning.v1+json';
const SIGNATURE_ANNOTATION = 'dev.cosignproject.cosign/signature';
const PROOF_ANNOTATIONS = {
  entry: 'dev.sigstore.cosign/bundle',
  certificate: 'dev.sigstore.cosign/certificate',
  chain: 'dev.sigstore.cosign/chain',
} as const;

/** Finds signatures by what registries.d says. */
export class SignatureSources {
  readonly #registriesD: RegistriesDirectory;

  /** The first of `directories` that exists counts. */
  constructor(directories: readonly string[]) {
    this.#registriesD = new RegistriesDirectory(directories);
  }

  /**
   * Every signature that can be found for the manifest `digest`, at most `limits.signaturesCount`.
   * @throws FailedPrecondition for a lookaside address that is none; the network's error if a server cannot be asked:
   * that does not mean "not signed".
   */
  async find(op: Op, digest: Digest, source: SignatureSource): Promise<FoundSignatures> {
    await this.#registriesD.read(op);
    const where = this.#registriesD.sectionFor(source.reference);
    const basket = new Basket();
    for (const why of this.#registriesD.damaged) basket.note(`left out: ${why}`);
    await fromLookaside(op, where.lookaside ?? DEFAULT_LOOKASIDE, digest, source, basket);
    if (where.attachments === true) await fromAttachments(op, digest, source, basket);
    else
      basket.note(
        'sigstore attachments were not looked for, since registries.d does not say ' +
          `"use-sigstore-attachments: true" for ${repositoryName(source.reference)}`,
      );
    return basket;
  }
}

/** Takes signatures as long as they are few and small enough. */
class Basket implements FoundSignatures {
  readonly signatures: Signature[] = [];
  readonly notes: string[] = [];
  #bytes = 0;
  #tries = 0;

  /** Asks for room for one more try; whatever comes of it, it counts. */
  hasRoom(): boolean {
    return ++this.#tries <= limits.signaturesCount && this.#bytes < limits.signaturesBytes;
  }

  add(signature: Signature): void {
    this.#bytes +=
      signature.kind === 'sigstore'
        ? signature.payload.length + signature.signature.length + lengthOf(signature.proof)
        : signature.message.length;
    this.signatures.push(signature);
  }

  note(text: string): void {
    if (this.notes.length < limits.signatureNotesCount) this.notes.push(text);
  }
}

async function fromLookaside(
  op: Op,
  lookaside: string,
  digest: Digest,
  source: SignatureSource,
  basket: Basket,
): Promise<void> {
  const base = URL.canParse(lookaside) ? new URL(lookaside) : undefined;
  if (
    base === undefined ||
    !['file:', 'http:', 'https:'].includes(base.protocol) ||
    (base.protocol === 'file:' && base.host !== '')
  ) {
    throw new RuntimeError(
      'FailedPrecondition',
      `registries.d has the lookaside ${quote(lookaside, 300)} for ` +
        `${repositoryName(source.reference)}, which is no file:///, http:// or https:// address`,
    );
  }
  // A repository's path has lower-case letters, digits, inner dots and hyphens only, and no empty component: it cannot
  // lead elsewhere.
  const below = `${source.reference.path}@${algorithmOf(digest)}=${hexOf(digest)}`;
  base.pathname = `${withoutEnd(base.pathname, '/')}/${below}/`;
  for (let number = 1; ; number++) {
    const url = new URL(`signature-${number}`, base);
    if (!basket.hasRoom())
      return basket.note(`of the signatures in ${shortUrl(base)} the first ${number - 1} were looked at`);
    const message = await readOne(op, url, source, basket);
    if (message === 'none') return number === 1 ? basket.note(`there is no ${shortUrl(url)}`) : undefined;
    if (message !== 'too large') basket.add({ kind: 'openpgp', from: shortUrl(url), message });
  }
}

async function readOne(
  op: Op,
  url: URL,
  source: SignatureSource,
  basket: Basket,
): Promise<Buffer | 'none' | 'too large'> {
  op.stage(`image: signatures: ${shortUrl(url)}`);
  try {
    if (url.protocol !== 'file:') return (await source.download(op, url, limits.signatureBytes)) ?? 'none';
    return await readBounded(decodeURIComponent(url.pathname), limits.signatureBytes);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return 'none';
    if (!isCode(error, 'ResourceExhausted') && !(url.protocol === 'file:' && isCode(error, 'FailedPrecondition')))
      throw error;
    basket.note(`${shortUrl(url)} is not taken: ${explain(error)}`);
    return 'too large';
  }
}

async function fromAttachments(op: Op, digest: Digest, source: SignatureSource, basket: Basket): Promise<void> {
  const tag = `${digest.replace(':', '-')}.sig`;
  const name = `${repositoryName(source.reference)}:${tag}`;
  op.stage(`image: signatures: ${name}`);
  const answer = await source.manifest(op, tag).catch((error: unknown) => {
    if (isCode(error, 'NotFound')) return undefined;
    throw error;
  });
  if (answer === undefined)
    return basket.note(`there is no ${name}; "cosign sign" makes it, for the manifests in an index with --recursive`);
  const layers = readAttachments(answer, name);
  for (const [index, layer] of layers.entries()) {
    if (!basket.hasRoom())
      return basket.note(`of the ${layers.length} attachments of ${name} the first ${index} were looked at`);
    const from = `attachment ${index + 1} of ${name}`;
    const attachment = readAttachment(layer);
    if (typeof attachment === 'string') {
      basket.note(`${from} is not taken: ${attachment}`);
      continue;
    }
    const payload = await fetchPayload(op, source, attachment, from, basket);
    const { signature, proof } = attachment;
    if (payload !== undefined)
      basket.add({ kind: 'sigstore', from, payload, signature, ...(proof === undefined ? {} : { proof }) });
  }
}

/** The layers of an image manifest, whichever of its names the registry and the document give it. */
function readAttachments(answer: ManifestAnswer, name: string): readonly unknown[] {
  const refused = (cause?: unknown): RuntimeError =>
    new RuntimeError('FailedPrecondition', `${name} is not an image manifest with signatures`, {
      reason: 'SignatureValidationFailed',
      cause,
    });
  let layers: unknown;
  try {
    const document = parseObject(answer.bytes, limits.manifestBytes, name);
    if (isIndexType(manifestType(document, answer.contentType))) throw refused();
    layers = document.get('layers') ?? [];
  } catch (error) {
    throw refused(error);
  }
  if (!Array.isArray(layers)) throw refused();
  return layers;
}

interface Attachment {
  readonly digest: Digest;
  readonly size: number;
  readonly signature: string;
  readonly proof: Proof | undefined;
}

/** Why not, as text, for what is no signature within the limits. */
function readAttachment(layer: unknown): Attachment | string {
  const descriptor = GoObject.of(layer);
  if (descriptor === undefined) return 'it is not a descriptor';
  const [mediaType, digest, size] = [descriptor.get('mediaType'), descriptor.get('digest'), descriptor.get('size')];
  if (mediaType !== PAYLOAD_TYPE) return `its type is ${quote(String(mediaType))}, which is no signature`;
  if (
    typeof digest !== 'string' ||
    !isDigest(digest) ||
    typeof size !== 'number' ||
    !Number.isSafeInteger(size) ||
    size <= 0
  )
    return 'it is not a descriptor';
  // The annotation's name is no member of Go's, but a key of a map: its case counts.
  const annotations = descriptor.get('annotations');
  const annotation = (name: string): string => {
    const value = isObject(annotations) && Object.hasOwn(annotations, name) ? annotations[name] : undefined;
    return typeof value === 'string' ? value : '';
  };
  const signature = annotation(SIGNATURE_ANNOTATION);
  if (signature === '') return `it has no annotation ${SIGNATURE_ANNOTATION}`;
  const { entry, certificate, chain } = PROOF_ANNOTATIONS;
  const proof = { entry: annotation(entry), certificate: annotation(certificate), chain: annotation(chain) };
  const bytes = size + signature.length + lengthOf(proof);
  if (bytes > limits.signatureBytes) return `it has ${bytes} bytes, at most ${limits.signatureBytes} are read`;
  return { digest, size, signature, proof: lengthOf(proof) === 0 ? undefined : proof };
}

function lengthOf(proof: Proof | undefined): number {
  return proof === undefined ? 0 : Buffer.byteLength(proof.entry + proof.certificate + proof.chain);
}

/** undefined, and a note, if the registry does not have it or has something else there. */
async function fetchPayload(
  op: Op,
  source: SignatureSource,
  { digest, size }: Attachment,
  from: string,
  basket: Basket,
): Promise<Buffer | undefined> {
  try {
    const payload = await source.blob(op, digest, size);
    checkDigest(payload, digest, from);
    return payload;
  } catch (error) {
    if (!isCode(error, 'NotFound') && !isCode(error, 'DataLoss')) throw error;
    basket.note(`${from} is not taken: ${explain(error)}`);
    return undefined;
  }
}

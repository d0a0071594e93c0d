/**
 * X.509 certificates (RFC 5280) as signatures need them: who is called what, for how long, with which key, and what
 * else the authority says. Node's own class has no bytes of extensions and gives names as one text; reading all of a
 * certificate here leaves one reader, and so nothing for two to disagree about. Pure.
 */
import { createPublicKey, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { RuntimeError, wrap } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { childrenOf, contentOf, oidOf, onlyElement, tags, timeOf, wholeBits } from './der.ts';
import type { Element } from './der.ts';
import { checkKind } from './keys.ts';

/** What is read of a certificate. Nothing of it is true before a chain leads from it to somebody who is trusted. */
export interface Certificate {
  /** Its DER. */
  readonly bytes: Buffer;
  /** Names of issuer and subject in DER, to be compared byte by byte. */
  readonly issuer: Buffer;
  readonly subject: Buffer;
  readonly notBeforeMs: number;
  readonly notAfterMs: number;
  readonly key: KeyObject;
  readonly emails: readonly string[];
  readonly hostnames: readonly string[];
  /** Four bytes, or sixteen. */
  readonly addresses: readonly Buffer[];
  /** It may issue certificates, and how many may come between it and the one that is asked about. */
  readonly isAuthority: boolean;
  readonly maxBetween: number;
  /** Extended key usages; undefined = for anything. */
  readonly purposes: readonly string[] | undefined;
  /** Values of all extensions, by object identifier. */
  readonly extensions: ReadonlyMap<string, Buffer>;
  /** True if the key of `issuer` made the signature of this one. */
  isSignedBy(issuer: Certificate): boolean;
}

const KEY_USAGE = '2.5.29.15';
const ALTERNATIVE_NAMES = '2.5.29.17';
const BASIC_CONSTRAINTS = '2.5.29.19';
const EXTENDED_KEY_USAGE = '2.5.29.37';
/**
 * Extensions that may be critical: those above, and identifiers of keys, lists of the revoked and policies, which
 * change nothing here. Name constraints are not among them, so an authority that has them vouches for nobody.
 */
const UNDERSTOOD: ReadonlySet<string> = new Set([
  KEY_USAGE,
  ALTERNATIVE_NAMES,
  BASIC_CONSTRAINTS,
  EXTENDED_KEY_USAGE,
  '2.5.29.14',
  '2.5.29.31',
  '2.5.29.32',
  '2.5.29.35',
]);
const NAME_CONSTRAINTS = '2.5.29.30';

/** Hashes that are still good; keys of the kind that a signature is by. (RFC 5758, RFC 4055, RFC 8410) */
const ALGORITHMS: Readonly<Record<string, { readonly hash: string | null; readonly key: string }>> = {
  '1.2.840.10045.4.3.2': { hash: 'sha256', key: 'ec' },
  '1.2.840.10045.4.3.3': { hash: 'sha384', key: 'ec' },
  '1.2.840.10045.4.3.4': { hash: 'sha512', key: 'ec' },
  '1.2.840.113549.1.1.11': { hash: 'sha256', key: 'rsa' },
  '1.2.840.113549.1.1.12': { hash: 'sha384', key: 'rsa' },
  '1.2.840.113549.1.1.13': { hash: 'sha512', key: 'rsa' },
  '1.3.101.112': { hash: null, key: 'ed25519' },
};

/** One certificate in DER. @throws InvalidArgument that says what is wrong with it. */
export function readCertificate(bytes: Buffer): Certificate {
  const [body, algorithm, signature, ...more] = childrenOf(onlyElement(bytes));
  if (more.length > 0) throw malformed('it has more than a body and a signature');
  const fields = [...childrenOf(body)];
  const isThird = fields[0]?.tag === 0xa0;
  if (isThird) fields.shift();
  const [, inner, issuer, validity, subject, keyInfo, ...rest] = fields;
  if (inner === undefined || algorithm === undefined || !inner.whole.equals(algorithm.whole))
    throw malformed('it names two algorithms for one signature');
  const [notBefore, notAfter, ...other] = childrenOf(validity);
  if (other.length > 0 || subject === undefined) throw malformed('its validity is not two times');
  const made = wholeBits(signature);
  const extensions = readExtensions(rest);
  const oid = oidOf(childrenOf(algorithm)[0]);
  return {
    bytes,
    issuer: bytesOf(issuer),
    subject: bytesOf(subject),
    notBeforeMs: timeOf(notBefore),
    notAfterMs: timeOf(notAfter),
    key: readKey(bytesOf(keyInfo)),
    ...readNames(extensions.get(ALTERNATIVE_NAMES)),
    ...readAuthority(extensions),
    purposes: readPurposes(extensions.get(EXTENDED_KEY_USAGE)),
    extensions,
    isSignedBy({ key }) {
      const how = Object.hasOwn(ALGORITHMS, oid) ? ALGORITHMS[oid] : undefined;
      return how?.key === key.asymmetricKeyType && verify(how?.hash ?? null, bytesOf(body), key, made);
    },
  };
}

/**
 * The certificates of a text in PEM, in its order; other blocks are passed over. A damaged one ends it
 * (`'refuse'`), or is passed over (`'skip'`), as in a list of authorities of which only one is needed.
 * @throws InvalidArgument for a damaged one, and for more than `limits.trustedCertificatesCount`.
 */
export function readCertificates(pem: Buffer, damaged: 'refuse' | 'skip'): readonly Certificate[] {
  const found: Certificate[] = [];
  for (const { label, bytes } of pemBlocks(pem.toString('latin1'))) {
    if (label !== 'CERTIFICATE') continue;
    if (found.length >= limits.trustedCertificatesCount)
      throw malformed(`there are more than ${limits.trustedCertificatesCount} certificates`);
    try {
      found.push(readCertificate(bytes));
    } catch (error) {
      if (damaged === 'refuse') throw wrap(`certificate ${found.length + 1} is damaged`, error);
    }
  }
  return found;
}

/** The block that a text in PEM is, with nothing before or behind it. @throws InvalidArgument for other texts. */
export function onlyBlock(pem: string): Buffer {
  const [block, ...more] = pemBlocks(pem);
  const text = pem.trim();
  if (block === undefined || more.length > 0 || !text.startsWith('-----BEGIN ') || !text.endsWith('-----'))
    throw malformed('it is not one block of PEM');
  return block.bytes;
}

function pemBlocks(text: string): readonly { readonly label: string; readonly bytes: Buffer }[] {
  const blocks: { label: string; bytes: Buffer }[] = [];
  for (const [, label = '', base64 = ''] of text.matchAll(
    /-----BEGIN ([A-Z0-9 ]{1,40})-----([A-Za-z0-9+/=\s]*)-----END \1-----/g,
  ))
    blocks.push({ label, bytes: Buffer.from(base64, 'base64') });
  return blocks;
}

function readExtensions(fields: readonly Element[]): ReadonlyMap<string, Buffer> {
  const found = new Map<string, Buffer>();
  const list = fields.find(({ tag }) => tag === 0xa3);
  if (list === undefined) return found;
  for (const each of childrenOf(onlyElement(list.content))) {
    const [name, ...rest] = childrenOf(each);
    const oid = oidOf(name);
    const isCritical = rest[0]?.tag === tags.boolean && contentOf(rest.shift(), tags.boolean)[0] !== 0;
    const [value, ...more] = rest;
    if (more.length > 0) throw malformed(`its extension ${oid} has too many parts`);
    if (found.has(oid)) throw malformed(`it has the extension ${oid} twice`);
    if (oid === NAME_CONSTRAINTS) throw malformed('it has name constraints, which are not checked here');
    if (isCritical && !UNDERSTOOD.has(oid)) throw malformed(`its extension ${oid} is critical, and not known here`);
    found.set(oid, contentOf(value, tags.octets));
  }
  return found;
}

/** General names (RFC 5280, 4.2.1.6), by their bytes: a zero in the middle of one is a difference, not an end. */
function readNames(value: Buffer | undefined): Pick<Certificate, 'emails' | 'hostnames' | 'addresses'> {
  const names = value === undefined ? [] : childrenOf(onlyElement(value));
  const of = (tag: number): Buffer[] => names.filter((each) => each.tag === tag).map(({ content }) => content);
  const texts = (tag: number): string[] => of(tag).map((content) => content.toString('latin1'));
  return { emails: texts(0x81), hostnames: texts(0x82), addresses: of(0x87) };
}

function readAuthority(extensions: ReadonlyMap<string, Buffer>): Pick<Certificate, 'isAuthority' | 'maxBetween'> {
  const constraints = extensions.get(BASIC_CONSTRAINTS);
  if (constraints === undefined) return { isAuthority: false, maxBetween: 0 };
  const parts = [...childrenOf(onlyElement(constraints))];
  const is = parts[0]?.tag === tags.boolean && contentOf(parts.shift(), tags.boolean)[0] === 0xff;
  const between = parts[0] === undefined ? undefined : contentOf(parts[0], tags.integer);
  // Whole paths have fewer than 127 certificates; a larger number is as good as none, a negative one is a mistake.
  if (between !== undefined && (between[0] ?? 0x80) > 0x7f) throw malformed('its path length is none');
  const usage = extensions.get(KEY_USAGE);
  // Bit 5 is keyCertSign (RFC 5280, 4.2.1.3); bits count from the highest.
  const maySign = usage === undefined || ((contentOf(onlyElement(usage), tags.bits)[1] ?? 0) & 0x04) !== 0;
  return {
    isAuthority: is && maySign,
    maxBetween: between === undefined ? Infinity : between.length > 1 ? Infinity : (between[0] ?? 0),
  };
}

function readPurposes(value: Buffer | undefined): readonly string[] | undefined {
  return value === undefined ? undefined : childrenOf(onlyElement(value)).map(oidOf);
}

function readKey(bytes: Buffer): KeyObject {
  let key: KeyObject;
  try {
    key = createPublicKey({ key: bytes, format: 'der', type: 'spki' });
  } catch (cause) {
    throw new RuntimeError('InvalidArgument', 'its key is damaged', { cause });
  }
  checkKind(key, 'its key');
  return key;
}

function bytesOf(element: Element | undefined): Buffer {
  if (element === undefined) throw malformed('something is missing');
  return element.whole;
}

function malformed(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}

/** The text that the value of an extension is, in one of ASN.1's kinds. @throws InvalidArgument for other values. */
export function textInside(value: Buffer): string {
  const { tag, content } = onlyElement(value);
  if (tag !== tags.utf8 && tag !== tags.printable && tag !== tags.ia5) throw malformed('an extension is not a text');
  return content.toString('utf8');
}

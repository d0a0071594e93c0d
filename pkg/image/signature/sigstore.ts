/**
 * Whether a sigstore signature counts: made by a key that the policy names, or by the key of a certificate that an
 * authority of the policy gave to whom the policy names. In the second case nobody keeps a key: Fulcio's certificates
 * live for ten minutes, and the entry of a transparency log says that the signature was made within them.
 */
import type { KeyObject } from 'node:crypto';
import { isIP } from 'node:net';
import { RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { checkBody } from './body.ts';
import type { SignedImage } from './body.ts';
import { onlyBlock, readCertificate, readCertificates, textInside } from './certificate.ts';
import type { Certificate } from './certificate.ts';
import { checkChain } from './chain.ts';
import { isSignedBy, readKeys, readPublicKey } from './keys.ts';
import type { KeyFile } from './keys.ts';
import type { Keys, Requirement, Signer } from './requirements.ts';
import type { Proof, Signature } from './sources.ts';
import { checkEntry } from './transparency.ts';

type SigstoreSigned = Extract<Requirement, { type: 'sigstoreSigned' }>;
type SigstoreSignature = Extract<Signature, { kind: 'sigstore' }>;

/** What makes one signature count. */
export interface SigstoreCheck {
  readonly kind: 'sigstore';
  /** @throws FailedPrecondition or InvalidArgument that says why it does not. */
  check(op: unknown, signature: Signature): Promise<void>;
}

/**
 * What `requirement` wants of signatures of `image`. All keys and certificates are read first: a spare one that is
 * damaged should be found before it is needed. @throws FailedPrecondition that names one that cannot be used.
 */
export async function sigstoreCheck(requirement: SigstoreSigned, image: SignedImage): Promise<SigstoreCheck> {
  const log = requirement.log === undefined ? undefined : await readLogKeys(requirement.log);
  const signers = await signersOf(requirement.signer);
  return {
    kind: 'sigstore',
    async check(_op, signature) {
      if (signature.kind !== 'sigstore') return;
      const made = Buffer.from(signature.signature, 'base64');
      if (!isSignedBy(signers(signature, made, log), signature.payload, made))
        throw refusal('it was made by another key, or changed');
      checkBody(signature.payload, 'cosign container image signature', image, requirement.identity);
    },
  };
}

/** The keys of which one must have made a signature. @throws as SigstoreCheck */
type Signers = (signature: SigstoreSignature, made: Buffer, log: LogKeys | undefined) => readonly KeyObject[];
type LogKeys = readonly KeyObject[];

async function signersOf(signer: Signer): Promise<Signers> {
  if (signer.by === 'key') {
    const keys = (await readKeys(signer.keys)).map(readPublicKey);
    return (signature, made, log) => (log === undefined ? keys : keysInLog(keys, signature, made, log));
  }
  if (signer.by === 'fulcio') {
    const roots = await readRoots(signer.roots, 'caData');
    return (signature, made, log = []) => {
      const certificate = certificateOf(signature.proof);
      // Since the log has the certificate, too, nobody can have put another into the signature.
      const atMs = checkEntry(entryOf(signature.proof), log, { ...signature, signature: made, by: certificate.bytes });
      checkChain(certificate, { roots, between: chainOf(signature.proof) }, atMs);
      checkIssuer(certificate, signer.issuer);
      checkEmail(certificate, signer.email);
      return [certificate.key];
    };
  }
  const roots = await readRoots(signer.roots, 'caRootsData');
  const between = signer.between === undefined ? [] : await readBetween(signer.between);
  return ({ proof }) => {
    const certificate = certificateOf(proof);
    checkChain(certificate, { roots, between: [...between, ...chainOf(proof)] }, Date.now());
    if (signer.email !== undefined) checkEmail(certificate, signer.email);
    if (signer.hostname !== undefined) checkHostname(certificate, signer.hostname);
    return [certificate.key];
  };
}

/** That of `keys` whose signature the log has; it says of one only. */
function keysInLog(
  keys: readonly KeyObject[],
  { payload, proof }: SigstoreSignature,
  made: Buffer,
  log: LogKeys,
): readonly KeyObject[] {
  let first: unknown;
  for (const key of keys) {
    try {
      checkEntry(entryOf(proof), log, { payload, signature: made, by: key.export({ type: 'spki', format: 'der' }) });
      return [key];
    } catch (error) {
      first ??= error;
    }
  }
  throw first;
}

async function readLogKeys(keys: Keys): Promise<LogKeys> {
  return (await readKeys(keys, { member: 'rekorPublicKeyData', what: 'key' })).map((file) => {
    const key = readPublicKey(file);
    if (key.asymmetricKeyType !== 'ec')
      throw refusal(`the key ${quote(file.name, 300)} of a transparency log is not an ECDSA key, as Rekor's are`);
    return key;
  });
}

async function readRoots(keys: Keys, member: string): Promise<readonly Certificate[]> {
  const files = await readKeys(keys, { member, what: 'certificate' });
  return files.flatMap((file) => {
    const found = readCertificates(file.bytes, 'skip');
    if (found.length > 0) return found;
    throw refusal(`${quote(file.name, 300)} has no certificate in PEM that can be used; it should have an authority's`);
  });
}

async function readBetween(keys: Keys): Promise<readonly Certificate[]> {
  const files = await readKeys(keys, { member: 'caIntermediatesData', what: 'certificate' });
  return files.flatMap(({ name, bytes }: KeyFile) => {
    try {
      return readCertificates(bytes, 'refuse');
    } catch (cause) {
      throw new RuntimeError('FailedPrecondition', `${quote(name, 300)} is not certificates in PEM`, { cause });
    }
  });
}

function entryOf(proof: Proof | undefined): string {
  if (proof === undefined || proof.entry === '')
    throw refusal(
      'no entry of a transparency log came with it (annotation dev.sigstore.cosign/bundle); ' +
        '"cosign sign" adds it unless it is told --tlog-upload=false',
    );
  return proof.entry;
}

function certificateOf(proof: Proof | undefined): Certificate {
  if (proof === undefined || proof.certificate === '')
    throw refusal('no certificate came with it (annotation dev.sigstore.cosign/certificate): it was made with a key');
  return readCertificate(onlyBlock(proof.certificate));
}

/** The last one is the authority itself, as cosign writes it; it is trusted if the policy names it, and only then. */
function chainOf(proof: Proof | undefined): readonly Certificate[] {
  return readCertificates(Buffer.from(proof?.chain ?? ''), 'refuse').slice(0, -1);
}

/** Who told Fulcio whose certificate it is: the plain text of before 2023, and the one of today. */
const ISSUER_EXTENSIONS = { plain: '1.3.6.1.4.1.57264.1.1', encoded: '1.3.6.1.4.1.57264.1.8' } as const;

function checkIssuer({ extensions }: Certificate, issuer: string): void {
  const [plain, encoded] = [extensions.get(ISSUER_EXTENSIONS.plain), extensions.get(ISSUER_EXTENSIONS.encoded)];
  const named = [
    ...(plain === undefined ? [] : [plain.toString('utf8')]),
    ...(encoded === undefined ? [] : [textInside(encoded)]),
  ];
  if (named.length === 0) throw refusal('its certificate does not say by whom its owner was known');
  const other = named.find((each) => each !== issuer);
  if (other !== undefined)
    throw refusal(
      `its certificate is of somebody whom ${quote(other, 200)} knows; want oidcIssuer ${quote(issuer, 200)}`,
    );
}

function checkEmail({ emails }: Certificate, email: string): void {
  if (!emails.includes(email))
    throw refusal(`its certificate is of ${listed(emails)}; want subjectEmail ${quote(email, 200)}`);
}

/** RFC 6125, 6.4: a star may stand for the whole first label. An address matches as an address only. */
function checkHostname({ hostnames, addresses }: Certificate, hostname: string): void {
  const plain = (name: string): string => name.toLowerCase().replace(/\.$/, '');
  const wanted = plain(hostname);
  const isThere =
    isIP(hostname) === 0
      ? hostnames
          .map(plain)
          .some((each) => each === wanted || (each.startsWith('*.') && each.slice(1) === tail(wanted)))
      : addresses.some((each) => each.equals(addressBytes(hostname)));
  if (!isThere)
    throw refusal(`its certificate is of ${listed(hostnames)}; want subjectHostname ${quote(hostname, 200)}`);
}

function tail(hostname: string): string {
  const dot = hostname.indexOf('.');
  return dot <= 0 ? '' : hostname.slice(dot);
}

function addressBytes(address: string): Buffer {
  if (isIP(address) === 4) return Buffer.from(address.split('.').map(Number));
  const bytes = Buffer.alloc(16);
  const [head = '', back] = new URL(`http://[${address}]`).hostname.slice(1, -1).split('::');
  const groups = (text: string): number[] => (text === '' ? [] : text.split(':').map((each) => Number(`0x${each}`)));
  for (const [index, group] of groups(head).entries()) bytes.writeUInt16BE(group, 2 * index);
  for (const [index, group] of groups(back ?? '')
    .toReversed()
    .entries())
    bytes.writeUInt16BE(group, 14 - 2 * index);
  return bytes;
}

function listed(names: readonly string[]): string {
  return names.length === 0 ? 'nobody by that kind of name' : quote(names.join(', '), 200);
}

function refusal(message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', message);
}

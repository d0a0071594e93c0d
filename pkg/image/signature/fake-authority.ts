/** For tests: certificates, authorities and a transparency log made on the spot, as Fulcio and Rekor make them. */
import { createPublicKey, randomBytes, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { digestOf } from '../../oci/digest.ts';
import { makeKey } from './fakes.ts';
import type { TestKey } from './fakes.ts';

/** One element of DER: `der(0x30, a, b)` is a sequence of two. */
export function der(tag: number, ...parts: readonly Uint8Array[]): Buffer {
  const content = Buffer.concat(parts);
  const { length } = content;
  const size = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...size]), content]);
}

/** An object identifier. */
export function oid(dotted: string): Buffer {
  const [first = 0, second = 0, ...rest] = dotted.split('.').map(Number);
  const bytes = [40 * first + second, ...rest].flatMap((number) => {
    const low: number[] = [number & 0x7f];
    for (let left = Math.floor(number / 128); left > 0; left = Math.floor(left / 128))
      low.unshift((left & 0x7f) | 0x80);
    return low;
  });
  return der(0x06, Buffer.from(bytes));
}

/** An extension with a value in DER. */
export function extension(name: string, value: Uint8Array, critical: 'critical' | '' = ''): Buffer {
  return der(0x30, oid(name), ...(critical === '' ? [] : [der(0x01, Buffer.from([0xff]))]), der(0x04, value));
}

export const codeSigning = extension('2.5.29.37', der(0x30, oid('1.3.6.1.5.5.7.3.3')));
/** General names: emails are of tag 0x81, hosts 0x82, addresses 0x87. */
export function alternativeNames(...names: readonly (readonly [tag: number, name: string | Buffer])[]): Buffer {
  return extension('2.5.29.17', der(0x30, ...names.map(([tag, name]) => der(tag, Buffer.from(name)))), 'critical');
}
/** Both spellings that Fulcio knows for who vouched for its client. */
export const issuerPlain = (url: string): Buffer => extension('1.3.6.1.4.1.57264.1.1', Buffer.from(url));
export const issuerEncoded = (url: string): Buffer => extension('1.3.6.1.4.1.57264.1.8', der(0x0c, Buffer.from(url)));
/** What makes an authority; `between` is its path length. */
export function authorityExtension(between?: number): Buffer {
  const length = between === undefined ? [] : [der(0x02, Buffer.from([between]))];
  return extension('2.5.29.19', der(0x30, der(0x01, Buffer.from([0xff])), ...length), 'critical');
}

/** A certificate with its key. */
export interface TestCertificate {
  readonly name: string;
  readonly key: TestKey;
  readonly pem: string;
}

export interface CertificateWishes {
  readonly name?: string;
  readonly by?: TestCertificate;
  readonly key?: TestKey;
  readonly from?: Date;
  readonly until?: Date;
  readonly extensions?: readonly Buffer[];
  /** Of the signature: its identifier, and its hash; ECDSA with SHA-256 unless the key says otherwise. */
  readonly algorithm?: readonly [oid: string, hash: string | null];
}

/** Makes a certificate; without `by` it signs itself. */
export function makeCertificate(wishes: CertificateWishes = {}): TestCertificate {
  const { name = 'leaf', key = makeKey(), extensions = [] } = wishes;
  const { from = new Date(Date.now() - 3_600_000), until = new Date(Date.now() + 3_600_000) } = wishes;
  const issuer = wishes.by ?? { name, key };
  const [algorithm, hash] = wishes.algorithm ?? algorithmOf(issuer.key.privateKey);
  const info = der(0x30, oid(algorithm));
  const body = der(
    0x30,
    der(0xa0, der(0x02, Buffer.from([2]))),
    der(0x02, Buffer.concat([Buffer.from([1]), randomBytes(7)])),
    info,
    distinguishedName(issuer.name),
    der(0x30, time(from), time(until)),
    distinguishedName(name),
    createPublicKey(key.pem).export({ type: 'spki', format: 'der' }),
    ...(extensions.length === 0 ? [] : [der(0xa3, der(0x30, ...extensions))]),
  );
  const signature = sign(hash, body, issuer.key.privateKey);
  return { name, key, pem: pemOf(der(0x30, body, info, der(0x03, Buffer.from([0]), signature))) };
}

export function pemOf(bytes: Uint8Array, label = 'CERTIFICATE'): string {
  const lines = Buffer.from(bytes)
    .toString('base64')
    .replace(/.{64}(?=.)/g, '$&\n');
  return `-----BEGIN ${label}-----\n${lines}\n-----END ${label}-----\n`;
}

function algorithmOf(key: KeyObject): readonly [string, string | null] {
  if (key.asymmetricKeyType === 'rsa') return ['1.2.840.113549.1.1.11', 'sha256'];
  return key.asymmetricKeyType === 'ed25519' ? ['1.3.101.112', null] : ['1.2.840.10045.4.3.2', 'sha256'];
}

function distinguishedName(name: string): Buffer {
  return der(0x30, der(0x31, der(0x30, oid('2.5.4.3'), der(0x0c, Buffer.from(name)))));
}

function time(at: Date): Buffer {
  const digits = at.toISOString().replace(/[-:T]|\..*/g, '');
  return at.getUTCFullYear() < 2050
    ? der(0x17, Buffer.from(`${digits.slice(2)}Z`))
    : der(0x18, Buffer.from(`${digits}Z`));
}

export interface EntryWishes {
  readonly payload: Buffer;
  /** Base64. */
  readonly signature: string;
  /** PEM of the key or certificate. */
  readonly by: string;
  readonly log: TestKey;
  readonly at?: Date;
  /** Replaces members of the entry, or of what the log signed, before it signs. */
  readonly body?: (body: Record<string, unknown>) => unknown;
  readonly changed?: (payload: Record<string, unknown>) => Record<string, unknown>;
}

/** What cosign keeps of a log's answer (its "bundle"). */
export function entryOf({ payload, signature, by, log, at = new Date(), body, changed }: EntryWishes): string {
  const entry = {
    apiVersion: '0.0.1',
    kind: 'hashedrekord',
    spec: {
      data: { hash: { algorithm: 'sha256', value: digestOf(payload).slice('sha256:'.length) } },
      signature: { content: signature, publicKey: { content: Buffer.from(by).toString('base64') } },
    },
  };
  const logged = {
    body: Buffer.from(JSON.stringify(body?.(entry) ?? entry)).toString('base64'),
    integratedTime: Math.floor(at.getTime() / 1000),
    logID: 'c0d23d6ad406973f9559f3ba2d1ca01f84147d8ffc5b8445c224f98b9591801d',
    logIndex: 12_345,
  };
  // In the order in which canonical JSON has them.
  const vouched = changed?.(logged) ?? logged;
  const made = sign('sha256', Buffer.from(JSON.stringify(vouched)), log.privateKey).toString('base64');
  return JSON.stringify({ SignedEntryTimestamp: made, Payload: vouched });
}

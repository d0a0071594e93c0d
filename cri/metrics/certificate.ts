/**
 * A certificate that a server signs itself, as CRI-O makes one for its metrics. Node makes keys and signatures but no
 * certificates, so the few fields of one (RFC 5280) are written here, in DER (X.690).
 */
import { generateKeyPairSync, randomBytes, sign } from 'node:crypto';

/** A certificate and its key, both PEM. */
export interface SelfSigned {
  readonly cert: string;
  readonly key: string;
}

/** Tags of X.690 that are needed here. */
const SEQUENCE = 0x30;
const SET = 0x31;
const INTEGER = 0x02;
const BIT_STRING = 0x03;
const OCTET_STRING = 0x04;
const OID = 0x06;
const UTF8_STRING = 0x0c;
const UTC_TIME = 0x17;
const BOOLEAN_TRUE = Buffer.from([0x01, 1, 0xff]);
/** [0] and [3], constructed: version and extensions of a certificate. */
const VERSION = 0xa0;
const EXTENSIONS = 0xa3;
/** [2] and [7], primitive: a DNS name and an address in a subjectAltName. */
const DNS_NAME = 0x82;
const IP_ADDRESS = 0x87;

/** Object identifiers, in DER. */
const ECDSA_WITH_SHA256 = [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
const COMMON_NAME = [0x55, 4, 3];
const SUBJECT_ALT_NAME = [0x55, 0x1d, 17];
const BASIC_CONSTRAINTS = [0x55, 0x1d, 19];
const EXT_KEY_USAGE = [0x55, 0x1d, 37];
const SERVER_AUTH = [0x2b, 6, 1, 5, 5, 7, 3, 1];

/** As long as CRI-O's. */
const VALID_MS = 365 * 24 * 3_600_000;
/** Clocks of scrapers may be behind ours. */
const EARLIER_MS = 3_600_000;
/** 20 bytes are the most that RFC 5280 allows; this is plenty not to be used twice. */
const SERIAL_BYTES = 16;
/** What X.520 allows a common name. */
const COMMON_NAME_CHARS = 64;

/** A certificate for `host` and for loopback, of a new key on P-256, valid for a year from `now` (since the epoch). */
export function selfSigned(host: string, now: number): SelfSigned {
  const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'prime256v1' });
  const algorithm = der(SEQUENCE, oid(ECDSA_WITH_SHA256));
  const serial = randomBytes(SERIAL_BYTES);
  // Positive, and with no needless zero in front.
  serial[0] = ((serial[0] ?? 0) & 0x3f) | 0x40;
  const name = der(
    SEQUENCE,
    der(SET, der(SEQUENCE, oid(COMMON_NAME), der(UTF8_STRING, Buffer.from(host.slice(0, COMMON_NAME_CHARS))))),
  );
  const content = der(
    SEQUENCE,
    der(VERSION, der(INTEGER, Buffer.from([2]))),
    der(INTEGER, serial),
    algorithm,
    name,
    der(SEQUENCE, time(now - EARLIER_MS), time(now + VALID_MS)),
    name,
    publicKey.export({ type: 'spki', format: 'der' }),
    der(EXTENSIONS, der(SEQUENCE, ...extensions(host))),
  );
  const cert = der(SEQUENCE, content, algorithm, bits(sign('sha256', content, privateKey)));
  return {
    cert: pem('CERTIFICATE', cert),
    key: String(privateKey.export({ type: 'pkcs8', format: 'pem' })),
  };
}

function extensions(host: string): Buffer[] {
  const loopback = [
    [127, 0, 0, 1],
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1],
  ];
  const names = der(
    SEQUENCE,
    der(DNS_NAME, Buffer.from(host)),
    der(DNS_NAME, Buffer.from('localhost')),
    ...loopback.map((address) => der(IP_ADDRESS, Buffer.from(address))),
  );
  return [
    extension(SUBJECT_ALT_NAME, names),
    extension(EXT_KEY_USAGE, der(SEQUENCE, oid(SERVER_AUTH))),
    // Its own issuer, so that who trusts it by hand can check it.
    extension(BASIC_CONSTRAINTS, der(SEQUENCE, BOOLEAN_TRUE)),
  ];
}

function extension(id: readonly number[], value: Buffer): Buffer {
  return der(SEQUENCE, oid(id), der(OCTET_STRING, value));
}

function oid(id: readonly number[]): Buffer {
  return der(OID, Buffer.from(id));
}

function bits(value: Buffer): Buffer {
  return der(BIT_STRING, Buffer.from([0]), value);
}

/** UTCTime ends in 2049, and so does this; RFC 5280 wants another form from then on. */
function time(at: number): Buffer {
  const text = new Date(at).toISOString().replace(/[-:T]|\.\d+/g, '');
  return der(UTC_TIME, Buffer.from(text.slice(2)));
}

/** A value with its tag and length. */
function der(tag: number, ...parts: readonly Buffer[]): Buffer {
  const value = Buffer.concat(parts);
  const { length } = value;
  const head = length < 0x80 ? [length] : length < 0x100 ? [0x81, length] : [0x82, length >> 8, length & 0xff];
  return Buffer.concat([Buffer.from([tag, ...head]), value]);
}

function pem(label: string, bytes: Buffer): string {
  const lines = bytes.toString('base64').match(/.{1,64}/g) ?? [];
  return `-----BEGIN ${label}-----\n${lines.join('\n')}\n-----END ${label}-----\n`;
}

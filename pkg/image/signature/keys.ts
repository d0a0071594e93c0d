/**
 * Signatures proper: was this made by one of these keys? Sigstore's are checked here with node:crypto, OpenPGP's by
 * `gpgv`, a program of the node that does nothing else, run by whoever may start processes.
 */
import { createPublicKey, verify } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { readBounded } from '../../base/files.ts';
import { RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import type { Keys } from './requirements.ts';

/**
 * Runs `gpgv` over an OpenPGP message. @throws Unimplemented if there is no gpgv on this node; DeadlineExceeded or
 * Cancelled.
 */
export type RunGpgv = (op: Op, request: GpgvRequest) => Promise<GpgvAnswer>;
export interface GpgvRequest {
  /** Binary keyrings or keyboxes; no other key counts. */
  readonly keyrings: readonly Uint8Array[];
  readonly message: Uint8Array;
  /** Most bytes of `content` and of `status` that are kept. */
  readonly maxBytes: number;
}
export interface GpgvAnswer {
  readonly exitCode: number;
  /** What it wrote to --status-fd (GnuPG's doc/DETAILS). */
  readonly status: string;
  /** The signed text. */
  readonly content: Buffer;
  /** One of the two was longer than `maxBytes`. */
  readonly isCut: boolean;
}

/** A key or keyring as it was read; `name` is for messages. */
export interface KeyFile {
  readonly name: string;
  readonly bytes: Buffer;
}

/** How keys are called in messages: the member of policy.json that has their bytes, and what they are. */
export interface KeyWords {
  readonly member: string;
  readonly what: 'key' | 'certificate';
}

/** The bytes of all keys. @throws FailedPrecondition that names the file that cannot be read. */
export async function readKeys(
  keys: Keys,
  { member, what }: KeyWords = { member: 'keyData', what: 'key' },
): Promise<readonly KeyFile[]> {
  if (keys.from === 'policy')
    return keys.datas.map((bytes, index) => ({
      name: keys.datas.length === 1 ? member : `${member}s[${index}]`,
      bytes,
    }));
  return await Promise.all(
    keys.paths.map(async (path) => {
      try {
        return { name: path, bytes: await readBounded(path, limits.configFileBytes) };
      } catch (cause) {
        throw new RuntimeError('FailedPrecondition', `the ${what} ${quote(path, 300)} cannot be read`, { cause });
      }
    }),
  );
}

const CURVES: ReadonlySet<string> = new Set(['prime256v1', 'secp384r1', 'secp521r1']);

/** A public key in PEM. @throws FailedPrecondition that names it and says which kinds are taken. */
export function readPublicKey({ name, bytes }: KeyFile): KeyObject {
  const text = bytes.toString('latin1');
  const label = /-----BEGIN ([A-Z0-9 ]{1,40})-----/.exec(text)?.[1];
  if (label !== 'PUBLIC KEY' && label !== 'RSA PUBLIC KEY' && label !== 'CERTIFICATE') {
    throw new RuntimeError(
      'FailedPrecondition',
      `the key ${quote(name, 300)} is not a public key in PEM${label === undefined ? '' : ` but ${quote(label)}`}; ` +
        'write what "cosign public-key" or "openssl pkey -pubout" prints',
    );
  }
  let key: KeyObject;
  try {
    key = createPublicKey(text.slice(text.indexOf('-----BEGIN')));
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `the key ${quote(name, 300)} is damaged`, { cause });
  }
  checkKind(key, `the key ${quote(name, 300)}`);
  return key;
}

/** Content with kinds of keys that can be trusted. @throws FailedPrecondition that says which these are. */
export function checkKind(key: KeyObject, what: string): void {
  const { namedCurve = '', modulusLength = 0 } = key.asymmetricKeyDetails ?? {};
  const { asymmetricKeyType: kind } = key;
  const isTaken =
    kind === 'ed25519' ||
    (kind === 'ec' && CURVES.has(namedCurve)) ||
    (kind === 'rsa' && modulusLength >= limits.rsaMinBits && modulusLength <= limits.rsaMaxBits);
  if (isTaken) return;
  throw new RuntimeError(
    'FailedPrecondition',
    `${what} is of a kind that is not taken ` +
      `(${[kind, namedCurve, modulusLength || ''].join(' ').trim()}); want ECDSA P-256, P-384 or ` +
      `P-521, Ed25519, or RSA of ${limits.rsaMinBits} to ${limits.rsaMaxBits} bits`,
  );
}

/**
 * True if one of `keys` made `signature` over `payload`, the way sigstore signs: always over SHA-256, RSA with PKCS #1
 * v1.5; Ed25519 over the text itself.
 */
export function isSignedBy(keys: readonly KeyObject[], payload: Uint8Array, signature: Uint8Array): boolean {
  return keys.some((key) => verify(key.asymmetricKeyType === 'ed25519' ? null : 'sha256', payload, key, signature));
}

/**
 * The text in an OpenPGP message that one of the keys in `keyrings` signed.
 * @throws FailedPrecondition that says why it does not count: another key, expired, revoked, changed, signed twice, not
 * a signature at all.
 */
export async function openMessage(
  op: Op,
  runGpgv: RunGpgv,
  keyrings: readonly Uint8Array[],
  message: Uint8Array,
): Promise<Buffer> {
  checkIsSignedMessage(message);
  const answer = await runGpgv(op, { keyrings, message, maxBytes: limits.signatureBytes });
  const why = problemOf(answer);
  if (why !== undefined) throw refusal(why);
  return answer.content;
}

/**
 * Only the binary form of a signed message is taken, by the first packet: signature, one-pass signature, or compressed
 * data around these. gpgv would also take cleartext signatures and armor, which containers-signature(5) rules out.
 */
function checkIsSignedMessage(message: Uint8Array): void {
  const [first = 0] = message;
  const tag = (first & 0x40) !== 0 ? first & 0x3f : (first >> 2) & 0x0f;
  if ((first & 0x80) === 0 || ![2, 4, 8].includes(tag)) throw refusal('it is not an OpenPGP signed message');
}

/** Each signature in a message ends in exactly one of these. */
const OUTCOMES: Readonly<Record<string, string>> = {
  GOODSIG: '',
  BADSIG: 'the text or the signature was changed',
  EXPSIG: 'the signature has expired',
  EXPKEYSIG: 'the key has expired',
  REVKEYSIG: 'the key is revoked',
  ERRSIG: 'it was made by a key that the policy does not name, or cannot be checked',
};

function problemOf({ exitCode, status, isCut }: GpgvAnswer): string | undefined {
  if (isCut) return `the signed text has more than ${limits.signatureBytes} bytes`;
  const lines = status
    .split('\n')
    .filter((line) => line.startsWith('[GNUPG:] '))
    .map((line) => line.split(' ').slice(1));
  const outcomes = lines.filter(([word = '']) => Object.hasOwn(OUTCOMES, word));
  if (outcomes.length === 0) return 'it is not an OpenPGP signed message';
  if (outcomes.length > 1) return `it has ${outcomes.length} signatures in one, which is ambiguous`;
  const [word = '', key = ''] = outcomes[0] ?? [];
  if (word !== 'GOODSIG') return `${OUTCOMES[word] ?? ''} (key ${quote(key, 64)})`;
  const count = (wanted: string): number => lines.filter(([each]) => each === wanted).length;
  // One text, one signature over it, and gpgv content: an unsigned text beside the signed one would come out, too.
  if (exitCode !== 0 || count('VALIDSIG') !== 1 || count('PLAINTEXT') !== 1)
    return `gpgv does not vouch for it (exit code ${exitCode})`;
  return undefined;
}

/**
 * A keyring as gpgv reads it: binary. People keep them in ASCII armor (RFC 4880, 6.2), several blocks in a file.
 * @throws FailedPrecondition that names it, for something else.
 */
export function readKeyring({ name, bytes }: KeyFile): Uint8Array {
  const [first = 0] = bytes;
  const isKeybox = bytes.subarray(8, 12).toString('latin1') === 'KBXf';
  if ((first & 0x80) !== 0 || isKeybox) return bytes;
  const keys = blocksIn(bytes.toString('latin1'));
  if (keys.length === 0)
    throw new RuntimeError(
      'FailedPrecondition',
      `the keyring ${quote(name, 300)} has no OpenPGP public key; write what "gpg --export" prints`,
    );
  return Buffer.concat(keys);
}

/** Each block: its first line, headers, an empty line, base64, a checksum behind `=`, its last line. */
function blocksIn(text: string): Buffer[] {
  const blocks: Buffer[] = [];
  let block: string[] | undefined;
  for (const line of text.split('\n').map((each) => each.trim())) {
    if (line === '-----BEGIN PGP PUBLIC KEY BLOCK-----') block = [];
    else if (line === '-----END PGP PUBLIC KEY BLOCK-----' && block !== undefined) {
      const body = block.slice(block.indexOf('') + 1);
      blocks.push(Buffer.from(body.filter((each) => !each.startsWith('=')).join(''), 'base64'));
      block = undefined;
    } else block?.push(line);
  }
  return blocks;
}

function refusal(message: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', message);
}

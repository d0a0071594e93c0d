/** For tests: signatures made on the spot, as cosign and podman make them. */
import { generateKeyPairSync, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import type { Digest } from '../../base/ids.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import type { GpgvAnswer, RunGpgv } from './keys.ts';

export interface TestKey {
  readonly privateKey: KeyObject;
  /** PEM. */
  readonly pem: string;
}

/** A fresh key pair: P-256, P-384, P-521, RSA of 2048 bits, Ed25519, or one that is not taken. */
export function makeKey(
  kind: 'P-256' | 'P-384' | 'P-521' | 'rsa' | 'ed25519' | 'rsa-1024' | 'secp256k1' | 'x25519' = 'P-256',
): TestKey {
  const { publicKey, privateKey } = pairOf(kind);
  return { privateKey, pem: publicKey.export({ type: 'spki', format: 'pem' }) as string };
}

function pairOf(kind: Parameters<typeof makeKey>[0]): {
  readonly publicKey: KeyObject;
  readonly privateKey: KeyObject;
} {
  if (kind === 'rsa' || kind === 'rsa-1024')
    return generateKeyPairSync('rsa', { modulusLength: kind === 'rsa' ? 2048 : 1024 });
  if (kind === 'ed25519') return generateKeyPairSync('ed25519');
  if (kind === 'x25519') return generateKeyPairSync('x25519');
  return generateKeyPairSync('ec', { namedCurve: kind ?? 'P-256' });
}

/** The text that is signed. `changes` replace members of the whole. */
export function bodyOf(
  type: 'atomic container signature' | 'cosign container image signature',
  digest: string,
  reference: string,
  changes: Readonly<Record<string, unknown>> = {},
): Buffer {
  return Buffer.from(
    JSON.stringify({
      critical: { identity: { 'docker-reference': reference }, image: { 'docker-manifest-digest': digest }, type },
      optional: null,
      ...changes,
    }),
  );
}

/** cosign's payload for a manifest. */
export function payloadOf(digest: string, reference: string): Buffer {
  return bodyOf('cosign container image signature', digest, reference);
}

/** A signature over `payload`, in base64, as sigstore's clients make it. */
export function signatureOver(payload: Uint8Array, { privateKey }: TestKey): string {
  return sign(privateKey.asymmetricKeyType === 'ed25519' ? null : 'sha256', payload, privateKey).toString('base64');
}

export interface TestAttachment {
  readonly payload: Buffer;
  readonly signature: string | undefined;
  readonly mediaType?: string;
  /** More annotations. */
  readonly beside?: Readonly<Record<string, unknown>>;
}

/** What cosign pushes as `sha256-<hex>.sig`: a manifest with one layer for each signature. */
export function attachmentManifest(attachments: readonly TestAttachment[]): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: digestOf('{}'), size: 2 },
      layers: attachments.map(({ payload, signature, mediaType, beside = {} }) => ({
        mediaType: mediaType ?? 'application/vnd.dev.cosign.simplesigning.v1+json',
        digest: digestOf(payload),
        size: payload.length,
        ...(signature === undefined
          ? {}
          : { annotations: { 'dev.cosignproject.cosign/signature': signature, ...beside } }),
      })),
    }),
  );
}

/** The tag under which the signatures of a manifest are. */
export function signatureTag(digest: Digest): string {
  return `${digest.replace(':', '-')}.sig`;
}

/** A message for `fakeGpgv`: it says itself by which key it is, and what gpgv is to say of it. */
export function fakeMessage(
  key: string,
  text: Uint8Array | string,
  status: readonly string[] = goodStatus(key),
  exitCode = 0,
): Buffer {
  return Buffer.concat([
    Buffer.from([0xa3]),
    Buffer.from(JSON.stringify({ key, text: Buffer.from(text).toString('base64'), status, exitCode })),
  ]);
}

/** What gpgv writes about one good signature. */
export function goodStatus(key: string): string[] {
  return [
    'PLAINTEXT 62 0 x',
    'PLAINTEXT_LENGTH 1',
    'NEWSIG',
    `KEY_CONSIDERED ${key} 0`,
    `GOODSIG ${key} Somebody <s@example.invalid>`,
    `VALIDSIG ${key} 2026-11-22 1 0 4 0 22 8 00 ${key}`,
  ];
}

/** Keyrings are texts (with the first bit set, as OpenPGP packets have it) that contain the names of their keys. */
export const fakeGpgv: RunGpgv = async (_op, { keyrings, message, maxBytes }): Promise<GpgvAnswer> => {
  const { key, text, status, exitCode } = JSON.parse(Buffer.from(message.subarray(1)).toString()) as {
    readonly key: string;
    readonly text: string;
    readonly status: readonly string[];
    readonly exitCode: number;
  };
  const content = Buffer.from(text, 'base64');
  const isKnown = keyrings.some((each) => Buffer.from(each).includes(key));
  const said = isKnown ? status : ['NEWSIG', `ERRSIG ${key} 22 8 00 1 9 ${key}`, `NO_PUBKEY ${key}`];
  return {
    exitCode: isKnown ? exitCode : 2,
    status: said.map((line) => `[GNUPG:] ${line}\n`).join(''),
    content: content.subarray(0, maxBytes),
    isCut: content.length > maxBytes,
  };
};

/** A keyring for `fakeGpgv`. */
export function fakeKeyring(...keys: readonly string[]): Buffer {
  return Buffer.concat([Buffer.from([0x98]), Buffer.from(keys.join(' '))]);
}

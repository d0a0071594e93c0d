/**
 * Digests: computed, compared while bytes pass by, and chained into layer names.
 *
 * Bytes from outside mean nothing until a `Verifier` has seen the last of them.
 */
import { createHash } from 'node:crypto';
import type { Hash } from 'node:crypto';
import { parseChainId, parseDigest } from '../base/ids.ts';
import type { ChainId, Digest } from '../base/ids.ts';
import { RuntimeError } from '../base/errors.ts';

/** What image-spec has registered and everybody can compute; any other algorithm is refused where digests are read. */
export type DigestAlgorithm = 'sha256' | 'sha512';

/** The algorithm that a digest names; parseDigest allows only these two. */
export function algorithmOf(digest: Digest): DigestAlgorithm {
  return digest.startsWith('sha512:') ? 'sha512' : 'sha256';
}

/** The digest of bytes, or of text in UTF-8. */
export function digestOf(bytes: Uint8Array | string, algorithm: DigestAlgorithm = 'sha256'): Digest {
  return parseDigest(`${algorithm}:${createHash(algorithm).update(bytes).digest('hex')}`);
}

/** @throws DataLoss unless `bytes` have this digest; `what` names them in the message. */
export function checkDigest(bytes: Uint8Array, expected: Digest, what: string): void {
  const actual = digestOf(bytes, algorithmOf(expected));
  if (actual !== expected) throw mismatch(what, expected, actual);
}

/**
 * Watches content pass by. `update` refuses the first byte too many, so a peer that never stops sending is caught at
 * once; `finish` refuses what is short or different.
 */
export class Verifier {
  readonly #hash: Hash;
  readonly #digest: Digest;
  readonly #sizeBytes: bigint | undefined;
  readonly #what: string;
  #seen = 0n;

  /** `sizeBytes` undefined means that the size is not known beforehand. */
  constructor(digest: Digest, sizeBytes: bigint | undefined, what: string) {
    this.#hash = createHash(algorithmOf(digest));
    this.#digest = digest;
    this.#sizeBytes = sizeBytes;
    this.#what = what;
  }

  get seenBytes(): bigint {
    return this.#seen;
  }

  /** @throws DataLoss when more bytes come than promised. */
  update(chunk: Uint8Array): void {
    this.#seen += BigInt(chunk.length);
    if (this.#sizeBytes !== undefined && this.#seen > this.#sizeBytes) {
      throw new RuntimeError(
        'DataLoss',
        `${this.#what}: the peer sent more than the ${this.#sizeBytes} bytes that the manifest promises`,
      );
    }
    this.#hash.update(chunk);
  }

  /** @throws DataLoss when the content is short or its digest is another. Call once. */
  finish(): void {
    if (this.#sizeBytes !== undefined && this.#seen !== this.#sizeBytes) {
      throw new RuntimeError(
        'DataLoss',
        `${this.#what}: got ${this.#seen} bytes of the ${this.#sizeBytes} that the manifest promises`,
      );
    }
    const actual = `${algorithmOf(this.#digest)}:${this.#hash.digest('hex')}`;
    if (actual !== this.#digest) throw mismatch(this.#what, this.#digest, actual);
  }
}

/** Passes `source` on unchanged and fails at its end unless digest and size are as promised. */
export async function* verified(
  source: AsyncIterable<Uint8Array>,
  digest: Digest,
  sizeBytes: bigint | undefined,
  what: string,
): AsyncGenerator<Uint8Array, void, void> {
  const verifier = new Verifier(digest, sizeBytes, what);
  for await (const chunk of source) {
    verifier.update(chunk);
    yield chunk;
  }
  verifier.finish();
}

/**
 * The chain ids of a stack of layers, bottom first (image-spec config.md, "Layer ChainID"): the first is the diff id
 * itself, each next the sha256 of "<chain below> <diff id>".
 * @throws InvalidArgument for a diff id that is not sha256: chain ids are, and the first one is a diff id.
 */
export function chainIds(diffIds: readonly Digest[]): ChainId[] {
  const chain: ChainId[] = [];
  let below: string | undefined;
  for (const diffId of diffIds) {
    below = below === undefined ? diffId : digestOf(`${below} ${diffId}`);
    chain.push(parseChainId(below));
  }
  return chain;
}

function mismatch(what: string, expected: string, actual: string): RuntimeError {
  return new RuntimeError(
    'DataLoss',
    `${what}: content has digest ${actual}, not ${expected}; it was damaged or replaced on the ` +
      'way, nothing of it is kept; pull again',
  );
}

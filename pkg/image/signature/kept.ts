/**
 * The signatures that came with an image, kept beside its record (`images/signatures/<hex of the id>.json`), so that a
 * namespace with a policy of its own can be asked about an image that is here already, without the registry.
 *
 * Written before the record and removed with it; what no record owns, the sweep takes. Nothing in here is trusted:
 * signatures are verified whenever they are used.
 */
import { join } from 'node:path';
import { ensureDir, readDirSorted, readJson, removeFile, replaceFile } from '../../base/files.ts';
import { errnoOf, explain, RuntimeError } from '../../base/errors.ts';
import { hexOf, isDigest } from '../../base/ids.ts';
import type { Digest, ImageId } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import { isObject } from '../../base/go.ts';
import type { Proof, Signature } from './sources.ts';

/** Signatures of one manifest. An image (one config) may have been pulled by several manifests. */
export interface KeptManifest {
  readonly manifest: Digest;
  readonly signatures: readonly Signature[];
}

/** The directory of kept signatures. */
export class KeptSignatures {
  readonly #directory: string;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /**
   * Remembers what a pull found, in place of what an earlier one found for the same manifest; on disk when it returns.
   * Manifests of strangers never push out those of `first`, by which the image came. Callers serialise.
   */
  async put(op: Op, id: ImageId, found: KeptManifest, first: Digest | undefined): Promise<void> {
    const others = (await this.#readOrForget(op, id)).filter(({ manifest }) => manifest !== found.manifest);
    const all = [...(found.signatures.length === 0 ? [] : [found]), ...others];
    const last = all.findIndex(({ manifest }, at) => manifest === first && at >= limits.signedManifestsCount);
    const kept =
      last < 0
        ? all.slice(0, limits.signedManifestsCount)
        : [...all.slice(0, limits.signedManifestsCount - 1), ...all.slice(last, last + 1)];
    if (kept.length === 0) return await this.remove(id);
    await ensureDir(this.#directory);
    await replaceFile(this.#path(id), `${JSON.stringify({ version: 1, manifests: kept.map(encode) })}\n`, 'durable');
  }

  /** What is known of an image, latest first; nothing if nothing came with it. @throws DataLoss for a damaged file. */
  async read(id: ImageId): Promise<readonly KeptManifest[]> {
    try {
      return decode(await readJson(this.#path(id), limits.signaturesKeptBytes));
    } catch (cause) {
      if (errnoOf(cause) === 'ENOENT') return [];
      throw new RuntimeError(
        'DataLoss',
        `the signatures kept of image ${id} are damaged (${this.#path(id)}); pull it again`,
        { cause },
      );
    }
  }

  async remove(id: ImageId): Promise<void> {
    await removeFile(this.#path(id));
  }

  /** Removes what belongs to no image. */
  async sweep(isNeeded: (id: ImageId) => boolean): Promise<void> {
    for (const name of await readDirSorted(this.#directory)) {
      const id = `sha256:${name.slice(0, -'.json'.length)}`;
      if (!name.endsWith('.json') || !isDigest(id) || !isNeeded(id as unknown as ImageId))
        await removeFile(join(this.#directory, name));
    }
  }

  async #readOrForget(op: Op, id: ImageId): Promise<readonly KeptManifest[]> {
    try {
      return await this.read(id);
    } catch (error) {
      op.log.warn('kept signatures are damaged, those of this pull replace them', { image: id, error: explain(error) });
      return [];
    }
  }

  #path(id: ImageId): string {
    return join(this.#directory, `${hexOf(id)}.json`);
  }
}

function encode({ manifest, signatures }: KeptManifest): Readonly<Record<string, unknown>> {
  return {
    manifest,
    signatures: signatures.map((each) =>
      each.kind === 'sigstore'
        ? {
            kind: each.kind,
            from: each.from,
            payload: each.payload.toString('base64'),
            signature: each.signature,
            ...(each.proof === undefined ? {} : { proof: encodeProof(each.proof) }),
          }
        : { kind: each.kind, from: each.from, message: each.message.toString('base64') },
    ),
  };
}

function decode(value: unknown): readonly KeptManifest[] {
  if (!isObject(value) || value['version'] !== 1 || !Array.isArray(value['manifests']))
    throw new Error('not of version 1');
  return value['manifests'].map((each: unknown) => {
    if (!isObject(each) || !Array.isArray(each['signatures'])) throw new Error('a manifest is not what it should be');
    const manifest = text(each, 'manifest');
    if (!isDigest(manifest)) throw new Error('a manifest is not named by its digest');
    return { manifest, signatures: each['signatures'].map(decodeSignature) };
  });
}

function decodeSignature(value: unknown): Signature {
  if (!isObject(value)) throw new Error('a signature is not what it should be');
  const from = text(value, 'from');
  if (value['kind'] === 'sigstore')
    return {
      kind: 'sigstore',
      from,
      payload: Buffer.from(text(value, 'payload'), 'base64'),
      signature: text(value, 'signature'),
      ...(value['proof'] === undefined ? {} : { proof: decodeProof(value['proof']) }),
    };
  if (value['kind'] === 'openpgp')
    return { kind: 'openpgp', from, message: Buffer.from(text(value, 'message'), 'base64') };
  throw new Error('a signature is of an unknown kind');
}

/** In base64, since a text from a stranger may be six times as long in JSON. */
function encodeProof({ entry, certificate, chain }: Proof): Proof {
  const encoded = (value: string): string => Buffer.from(value).toString('base64');
  return { entry: encoded(entry), certificate: encoded(certificate), chain: encoded(chain) };
}

function decodeProof(value: unknown): Proof {
  if (!isObject(value)) throw new Error('what came with a signature is not what it should be');
  const decoded = (key: string): string => Buffer.from(text(value, key), 'base64').toString();
  return { entry: decoded('entry'), certificate: decoded('certificate'), chain: decoded('chain') };
}

function text(from: Readonly<Record<string, unknown>>, key: string): string {
  const value = from[key];
  if (typeof value !== 'string') throw new Error(`${key} is not text`);
  return value;
}

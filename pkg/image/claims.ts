/**
 * What pulls need that no image refers to yet.
 *
 * A pull claims its blobs and layers before it looks whether they are here; nothing removes what is claimed, so a
 * removal of one image cannot take a layer away that a pull of another has just found. The claim is also on disk
 * (`images/unfinished/<hash>.json`): after a crash or a cut the sweep leaves these things alone for a while, and the
 * next try goes on from there.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { storageError } from '../base/errors.ts';
import { ensureDir, readDirSorted, readJson, removeFile, replaceFile } from '../base/files.ts';
import { isDigest } from '../base/ids.ts';
import type { ChainId, Digest } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { isObject } from '../base/go.ts';

export interface Claimed {
  readonly blobs: readonly Digest[];
  readonly layers: readonly ChainId[];
}

interface Remembered extends Claimed {
  readonly sinceMs: number;
}

export class Claims {
  readonly #directory: string;
  readonly #now: () => number;
  readonly #keepMs: number;
  readonly #active = new Set<Claimed>();
  /** Of pulls that did not finish, by file name. */
  readonly #remembered = new Map<string, Remembered>();

  constructor(directory: string, keepMs: number, now: () => number) {
    this.#directory = directory;
    this.#keepMs = keepMs;
    this.#now = now;
  }

  async load(): Promise<void> {
    await ensureDir(this.#directory);
    for (const name of await readDirSorted(this.#directory)) {
      const claim = name.endsWith('.json') ? await readClaim(join(this.#directory, name)) : undefined;
      if (claim === undefined) await removeFile(join(this.#directory, name));
      else this.#remembered.set(name, claim);
    }
    await this.expire();
  }

  /**
   * Claims for the pull `key`, in memory at once and then on disk; a claim of an earlier try of the same pull is
   * replaced. End it with `finish` (the image record refers to everything now, or nothing of it is wanted) or `abandon`
   * (the next try may go on).
   */
  async take(key: string, what: Claimed): Promise<Claim> {
    this.#active.add(what);
    const name = fileName(key);
    const remembered: Remembered = { ...what, sinceMs: this.#now() };
    this.#remembered.set(name, remembered);
    await replaceFile(join(this.#directory, name), JSON.stringify(remembered), 'volatile').catch((error: unknown) => {
      this.#active.delete(what);
      this.#remembered.delete(name);
      throw storageError(error, 'the memory of this pull');
    });
    return {
      finish: async () => {
        this.#active.delete(what);
        if (this.#remembered.get(name) === remembered) await this.#forget(name);
      },
      abandon: () => void this.#active.delete(what),
      isShared: (digest) => [...this.#active].some((other) => other !== what && other.blobs.includes(digest)),
    };
  }

  /** Forgets what an earlier try of `key` left; content if it left nothing. */
  async forget(key: string): Promise<void> {
    if (this.#remembered.has(fileName(key))) await this.#forget(fileName(key));
  }

  hasBlob(digest: Digest): boolean {
    return this.#all().some(({ blobs }) => blobs.includes(digest));
  }

  hasLayer(chainId: ChainId): boolean {
    return this.#all().some(({ layers }) => layers.includes(chainId));
  }

  /** True if a pull that is under way counts on the layer; what is only kept for a later try does not say so. */
  isInFlight(chainId: ChainId): boolean {
    return [...this.#active].some(({ layers }) => layers.includes(chainId));
  }

  /** Forgets unfinished pulls that nobody took up in time. */
  async expire(): Promise<void> {
    for (const [name, { sinceMs }] of this.#remembered) {
      const age = this.#now() - sinceMs;
      // A clock that was set back must not keep them for ever.
      if (age >= this.#keepMs || age < -this.#keepMs) await this.#forget(name);
    }
  }

  #all(): readonly Claimed[] {
    return [...this.#active, ...this.#remembered.values()];
  }

  async #forget(name: string): Promise<void> {
    this.#remembered.delete(name);
    await removeFile(join(this.#directory, name));
  }
}

export interface Claim {
  finish(): Promise<void>;
  abandon(): void;
  /** True if another pull in flight wants this blob too. */
  isShared(digest: Digest): boolean;
}

function fileName(key: string): string {
  return `${createHash('sha256').update(key).digest('hex')}.json`;
}

async function readClaim(path: string): Promise<Remembered | undefined> {
  const value = await readJson(path, limits.recordBytes).catch(() => undefined);
  if (!isObject(value) || typeof value['sinceMs'] !== 'number') return undefined;
  const digests = (list: unknown): Digest[] =>
    Array.isArray(list) ? list.filter((each): each is Digest => typeof each === 'string' && isDigest(each)) : [];
  return {
    blobs: digests(value['blobs']),
    layers: digests(value['layers']) as readonly string[] as readonly ChainId[],
    sinceMs: value['sinceMs'],
  };
}

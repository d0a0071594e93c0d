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

/** Blobs and layers that somebody counts on. */
export interface Claimed {
  readonly blobs: readonly Digest[];
  readonly layers: readonly ChainId[];
}

interface Remembered extends Claimed {
  readonly sinceMs: number;
}

/** What one pull counts on. It ends once, in one of two ways. */
export interface Claim {
  /** The image record refers to everything now, or nothing of it is wanted. */
  finish(): Promise<void>;
  /** The next try may go on from what is here. */
  abandon(): void;
}

/** The claims of pulls under way, and of those that ended in the middle. */
export class Claims {
  readonly #directory: string;
  readonly #now: () => number;
  readonly #keepMs: number;
  readonly #active = new Map<Claim, Remembered>();
  /** Of pulls that did not finish, and of those under way, by file name. */
  readonly #remembered = new Map<string, Remembered>();

  /** What a broken pull left is protected for `keepMs`; `now` is in milliseconds since the epoch. */
  constructor(directory: string, keepMs: number, now: () => number) {
    this.#directory = directory;
    this.#keepMs = keepMs;
    this.#now = now;
  }

  /** Reads what earlier lives left. Call once. */
  async load(): Promise<void> {
    await ensureDir(this.#directory);
    for (const name of await readDirSorted(this.#directory)) {
      const claim = name.endsWith('.json') ? await readClaim(join(this.#directory, name)) : undefined;
      if (claim === undefined) await removeFile(join(this.#directory, name));
      else this.#remembered.set(name, claim);
    }
    await this.expire();
  }

  /** Claims for the pull `key`, in memory at once and then on disk; replaces the claim of an earlier try of it. */
  async take(key: string, what: Claimed): Promise<Claim> {
    const name = fileName(key);
    const remembered: Remembered = { ...what, sinceMs: this.#now() };
    const claim: Claim = {
      finish: async () => {
        this.#active.delete(claim);
        if (this.#remembered.get(name) === remembered) await this.#forget(name);
      },
      abandon: () => void this.#active.delete(claim),
    };
    this.#active.set(claim, remembered);
    this.#remembered.set(name, remembered);
    await replaceFile(join(this.#directory, name), JSON.stringify(remembered), 'volatile').catch((error: unknown) => {
      this.#active.delete(claim);
      this.#remembered.delete(name);
      throw storageError(error, 'the memory of this pull');
    });
    return claim;
  }

  /** Forgets what an earlier try of `key` left; content if it left nothing. */
  async forget(key: string): Promise<void> {
    if (this.#remembered.has(fileName(key))) await this.#forget(fileName(key));
  }

  /** Who claims what `matches` says, beside `asking`: a pull under way, or one that ended in the middle. */
  on(matches: (what: Claimed) => boolean, asking?: Claim): readonly ('pull' | 'unfinished')[] {
    const own = asking === undefined ? undefined : this.#active.get(asking);
    const active = [...this.#active.values()];
    return [
      ...(active.some((each) => each !== own && matches(each)) ? (['pull'] as const) : []),
      ...([...this.#remembered.values()].some((each) => !active.includes(each) && matches(each))
        ? (['unfinished'] as const)
        : []),
    ];
  }

  /** Forgets unfinished pulls that nobody took up in time. */
  async expire(): Promise<void> {
    for (const [name, { sinceMs }] of this.#remembered) {
      const age = this.#now() - sinceMs;
      // A clock that was set back must not keep them for ever.
      if (age >= this.#keepMs || age < -this.#keepMs) await this.#forget(name);
    }
  }

  async #forget(name: string): Promise<void> {
    this.#remembered.delete(name);
    await removeFile(join(this.#directory, name));
  }
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

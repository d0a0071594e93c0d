/**
 * What is remembered of a layer while it is written: its directories, and what can be done to them only at the end.
 * Everything is counted in the layer's account, and every string is a copy: a part of a longer one would keep that.
 */
import type { MemoryAccount } from './memory-account.ts';

/** What the engine needs for an entry of a table, beside the characters of its strings. */
const ENTRY_BYTES = 128;
const WHAT = 'remembering the directories and links of the layer';

/** Whether an entry of the layer described a directory. */
export type Described = 'described' | 'implicit';

/** The tables. Paths are byte strings inside the layer; '' is its root. */
export class LayerNames {
  readonly #account: MemoryAccount;
  readonly #directories = new Map<string, Described>([['', 'implicit']]);
  /** Set last, since each new name in a directory changes its time. */
  readonly #times = new Map<string, readonly [seconds: number, nanos: number]>();
  readonly #opaque = new Set<string>();
  /** Set last as well: what is made in a directory inherits this. */
  readonly #defaultAcls = new Map<string, Uint8Array>();
  /** Hard links whose target has not been seen. */
  readonly #links = new Map<string, string>();

  constructor(account: MemoryAccount) {
    this.#account = account;
  }

  /** undefined for what is no directory of this layer, or has been reached by another path. */
  directory(path: string): Described | undefined {
    return this.#directories.get(path);
  }

  setDirectory(path: string, by: Described): void {
    if (this.#directories.has(path)) this.#directories.set(path, by);
    else this.#directories.set(this.#keep(path), by);
  }

  /** Directories that no entry described, parents before children. */
  *implicit(): Generator<string> {
    for (const [path, by] of this.#directories)
      if (by === 'implicit' && path !== '' && !this.isHidden(path)) yield path;
  }

  setTime(path: string, seconds: number, nanos: number): void {
    // The last that is said comes first in the end.
    if (this.#times.delete(path)) this.#drop(path);
    this.#times.set(this.#keep(path), [seconds, nanos]);
  }

  /** Latest first. */
  *times(): Generator<readonly [path: string, seconds: number, nanos: number]> {
    for (const path of [...this.#times.keys()].reverse()) {
      const [seconds = 0, nanos = 0] = this.#times.get(path) ?? [];
      yield [path, seconds, nanos];
    }
  }

  isOpaque(path: string): boolean {
    return this.#opaque.has(path);
  }

  setOpaque(path: string): void {
    if (!this.#opaque.has(path)) this.#opaque.add(this.#keep(path));
  }

  /** True if nothing of the lower layers shows at `path` because a directory above it is opaque. */
  isHidden(path: string): boolean {
    if (this.#opaque.size === 0) return false;
    for (let at = path; at !== ''; ) {
      at = parentOf(at);
      if (this.#opaque.has(at)) return true;
    }
    return false;
  }

  /** undefined takes it back. */
  setDefaultAcl(path: string, acl: Uint8Array | undefined): void {
    const before = this.#defaultAcls.get(path);
    if (before !== undefined) {
      this.#defaultAcls.delete(path);
      this.#account.give(before.length);
      this.#drop(path);
    }
    if (acl === undefined) return;
    this.#account.take(acl.length, WHAT);
    this.#defaultAcls.set(this.#keep(path), Uint8Array.prototype.slice.call(acl));
  }

  defaultAcls(): Iterable<readonly [path: string, acl: Uint8Array]> {
    return this.#defaultAcls;
  }

  /** The target that the hard link at `path` waits for. */
  link(path: string): string | undefined {
    return this.#links.get(path);
  }

  setLink(path: string, target: string): void {
    this.dropLink(path);
    this.#links.set(this.#keep(path), this.#keep(target));
  }

  dropLink(path: string): void {
    const target = this.#links.get(path);
    if (target === undefined) return;
    this.#links.delete(path);
    this.#drop(path);
    this.#drop(target);
  }

  links(): Iterable<readonly [path: string, target: string]> {
    return this.#links;
  }

  /** A directory gives way to something else, with all that is in it. Costs a walk over everything. */
  forget(path: string): void {
    const below = `${path}/`;
    const isGone = (each: string): boolean => each === path || each.startsWith(below);
    for (const each of this.#links.keys()) if (isGone(each)) this.dropLink(each);
    for (const each of this.#defaultAcls.keys()) if (isGone(each)) this.setDefaultAcl(each, undefined);
    for (const known of [this.#directories, this.#times, this.#opaque])
      for (const each of known.keys()) if (isGone(each) && known.delete(each)) this.#drop(each);
  }

  #keep(text: string): string {
    this.#account.take(ENTRY_BYTES + text.length, WHAT);
    return Buffer.from(text, 'latin1').toString('latin1');
  }

  #drop(text: string): void {
    this.#account.give(ENTRY_BYTES + text.length);
  }
}

/** The directory that a path is in; the root is in none. */
export function parentOf(path: string): string {
  const slash = path.lastIndexOf('/');
  return slash < 0 ? '' : path.slice(0, slash);
}

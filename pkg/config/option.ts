/**
 * What a row of a table says: `Option` for a key that Berth reads, `Ignored` for one that crio.conf has and Berth does
 * nothing with. PURE.
 */
import type { Kind } from './kinds.ts';

/**
 * What a daemon takes over as one on SIGHUP: all keys of a part, or none of them. The daemon has a way to take each
 * (cri/reload.ts), or it does not compile.
 */
export type ReloadPart = 'log' | 'runtimes' | 'seccomp' | 'apparmor' | 'cdi' | 'pinned' | 'images';

/** How a key is spelled outside files. */
interface Spelling {
  /** CRI-O's flag where it is not the key with dashes; '' = no flag. */
  readonly flag: string;
  /** Other flags for the same. */
  readonly flagAliases: readonly string[];
  /** CRI-O's one-letter flag. */
  readonly short: string;
  /** Environment variables beside CONTAINER_<FLAG>: where CRI-O calls one otherwise. */
  readonly variables: readonly string[];
}

/** One key that Berth reads. The name of the row is the name of the field in `Config`, with the unit at its end. */
export interface Option<T> extends Spelling {
  /** The key in the file. */
  readonly key: string;
  readonly kind: Kind<T>;
  readonly fallback: T;
  /** One or two sentences for berth.conf and --help. */
  readonly doc: string;
  /** Taken over on SIGHUP, as a part of this; undefined: on restart. */
  readonly reload: ReloadPart | undefined;
  /** What "" in a later file does: back to the default, or nothing, as CRI-O has it for the storage. */
  readonly empty: 'default' | 'earlier';
}

/** A key of crio.conf that has no effect here: the reason, and the type it would have. */
export interface Ignored extends Spelling {
  readonly kind: Kind<unknown>;
  /** Completes "<key> …", and says what to do instead where there is something. */
  readonly why: string;
  /** CRI-O's default. Who sets it, as `crio config --default` does, has asked for nothing. */
  readonly usual: unknown;
  /**
   * `refused`: whoever set it counts on containers being better isolated than they would be without. The daemon does
   * not start.
   */
  readonly answer: 'warning' | 'refused';
}

/** What most options do without. */
export interface Extra {
  readonly reload?: ReloadPart;
  readonly flag?: string;
  readonly flagAliases?: readonly string[];
  readonly short?: string;
  readonly variables?: readonly string[];
  readonly empty?: Option<unknown>['empty'];
}

/** The value types of a table of options. */
export type Values<T> = { readonly [K in keyof T]: T[K] extends Option<infer V> ? V : never };

/** A row of a table of options. */
export function option<T>(key: string, kind: Kind<T>, fallback: T, doc: string, extra: Extra = {}): Option<T> {
  return {
    key,
    kind,
    fallback,
    doc,
    reload: extra.reload,
    empty: extra.empty ?? 'default',
    ...spelling(key, extra),
  };
}

/** A row of a table of keys without effect, without its reason: `ignored` gives that to several at once. */
export interface IgnoredRow extends Pick<Ignored, 'kind' | 'usual'> {
  readonly spelled: Partial<Spelling>;
}

/** The type of a key without effect, CRI-O's default for it, and how it is spelled where it is not as usual. */
export function row(kind: Kind<unknown>, usual: unknown, spelled: Partial<Spelling> = {}): IgnoredRow {
  return { kind, usual, spelled };
}

/** Keys that have no effect for one reason. */
export function ignored(
  why: string,
  rows: Readonly<Record<string, IgnoredRow>>,
  answer: Ignored['answer'] = 'warning',
): ReadonlyMap<string, Ignored> {
  return new Map(
    Object.entries(rows).map(([key, { kind, usual, spelled }]) => [
      key,
      { kind, why, usual, answer, ...spelling(key, spelled) },
    ]),
  );
}

function spelling(key: string, given: Partial<Spelling>): Spelling {
  return {
    flag: given.flag ?? key.replaceAll('_', '-'),
    flagAliases: given.flagAliases ?? [],
    short: given.short ?? '',
    variables: given.variables ?? [],
  };
}

/** Some tables as one. */
export function merge(...maps: readonly ReadonlyMap<string, Ignored>[]): ReadonlyMap<string, Ignored> {
  return new Map(maps.flatMap((map) => [...map]));
}

/** What a table may contain. */
export interface Table {
  /** `crio.runtime` */
  readonly name: string;
  /** One sentence for berth.conf. */
  readonly doc: string;
  readonly options: Readonly<Record<string, Option<unknown>>>;
  readonly ignored: ReadonlyMap<string, Ignored>;
}

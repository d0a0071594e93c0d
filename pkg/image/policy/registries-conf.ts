/**
 * registries.conf (containers-registries.conf(5)), version 2 and the old version 1, with its drop-ins: from text to
 * what it says. Pure but for reading the files.
 */
import { explain, RuntimeError } from '../../base/errors.ts';
import { readBounded } from '../../base/files.ts';
import { GoObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import type { Op } from '../../base/op.ts';
import { withoutEnd } from '../../base/text.ts';
import { DOCKER_DOMAIN, isDomain } from '../../oci/reference.ts';
import { choiceOf, flag, namedTables, readToml, tablesOf, textOf, texts } from './toml.ts';
import type { Fail } from './toml.ts';

/** `short-name-mode`: whether a short name that several registries might mean is refused. */
export type ShortNameMode = (typeof SHORT_NAME_MODES)[number];
const SHORT_NAME_MODES = ['enforcing', 'permissive', 'disabled'] as const;
const MIRROR_USES = ['all', 'digest-only', 'tag-only'] as const;

interface Mirror {
  readonly location: string;
  readonly insecure: boolean;
  readonly pulls: (typeof MIRROR_USES)[number];
}
/** One [[registry]]. */
export interface Registry {
  readonly prefix: string;
  readonly location: string;
  readonly insecure: boolean;
  readonly blocked: boolean;
  readonly mirrors: readonly Mirror[];
}
/** registries.conf with its drop-ins, merged. */
export interface RegistriesConfig {
  readonly search: readonly string[];
  readonly shortNames: ShortNameMode | undefined;
  readonly credentialHelpers: readonly string[];
  /** By prefix. */
  readonly registries: ReadonlyMap<string, Registry>;
  readonly aliases: ReadonlyMap<string, string>;
}

/** Docker's meaning of short names, where nobody configured one. */
export const NO_CONFIG: RegistriesConfig = {
  search: [DOCKER_DOMAIN],
  shortNames: undefined,
  credentialHelpers: [],
  registries: new Map(),
  aliases: new Map(),
};

/** A file of the configuration, and what of it is in force. */
interface KeptFile {
  readonly stamp: string;
  readonly content: Partly | undefined;
  /** Why a file that was never right is left out, and its text. */
  readonly damage: { readonly text: string; readonly why: string } | undefined;
}

/**
 * Reads registries.conf and its drop-ins, and keeps what each of them said last without a mistake: one that is damaged
 * later stays in force as it was. A drop-in that was never right is left out.
 */
export class RegistriesFiles {
  readonly #files = new Map<string, KeptFile>();

  /**
   * All files merged, `main` first. `stamp` tells that a file changed; one that did not is not read again.
   * @throws FailedPrecondition that names file, line and column, for a main file that was never right; as the file
   * system for one that cannot be read at all.
   */
  async read(
    op: Op,
    main: string,
    files: readonly (readonly [path: string, stamp: string])[],
  ): Promise<RegistriesConfig> {
    let merged = NO_CONFIG;
    for (const [path, stamp] of files) {
      const content = await this.#readOne(op, path, stamp, path === main ? 'main' : 'drop-in');
      if (content !== undefined) merged = mergeRegistries(merged, content);
    }
    const there = new Set(files.map(([path]) => path));
    for (const path of this.#files.keys()) if (!there.has(path)) this.#files.delete(path);
    return merged;
  }

  /**
   * Why images of `domain` must not be pulled by what was read last: a drop-in that is left out might block them, or
   * lead their names elsewhere. undefined if nothing is in the way.
   */
  doubtAbout(domain: string): string | undefined {
    for (const { damage } of this.#files.values())
      if (damage !== undefined && /block|prefix/i.test(damage.text) && mentions(damage.text, domain)) return damage.why;
    return undefined;
  }

  async #readOne(op: Op, path: string, stamp: string, role: 'main' | 'drop-in'): Promise<Partly | undefined> {
    const known = this.#files.get(path);
    if (known?.stamp === stamp) return known.content;
    const text = (await readBounded(path, limits.configFileBytes)).toString('utf8');
    try {
      const content = parseRegistries(text, path);
      this.#files.set(path, { stamp, content, damage: undefined });
      return content;
    } catch (error) {
      const why = explain(error);
      if (known?.content !== undefined)
        op.log.error('registries configuration cannot be read, the last good one stays in force', { error: why });
      else if (role === 'main') throw error;
      else op.log.warn('a file of the registries configuration cannot be read, it is left out', { error: why });
      const damage = known?.content === undefined ? { text, why } : undefined;
      this.#files.set(path, { stamp, content: known?.content, damage });
      return known?.content;
    }
  }
}

/** True if a text names a registry host, or a wildcard above it. */
function mentions(text: string, domain: string): boolean {
  const labels = domain.replace(/:\d+$/, '').split('.');
  const wildcards = labels.slice(1).map((_label, index) => `*.${labels.slice(index + 1).join('.')}`);
  return [domain, ...wildcards].some((each) => text.toLowerCase().includes(each.toLowerCase()));
}

interface Partly extends Omit<RegistriesConfig, 'search' | 'credentialHelpers'> {
  readonly search: readonly string[] | undefined;
  readonly credentialHelpers: readonly string[] | undefined;
}

function mergeRegistries(base: RegistriesConfig, over: Partly): RegistriesConfig {
  // containers-registries.conf.d(5): scalars replace, tables with the same prefix replace, aliases merge; an empty
  // alias removes one.
  const aliases = new Map([...base.aliases, ...over.aliases]);
  for (const [name, target] of aliases) if (target === '') aliases.delete(name);
  return {
    search: over.search ?? base.search,
    shortNames: over.shortNames ?? base.shortNames,
    credentialHelpers: over.credentialHelpers ?? base.credentialHelpers,
    registries: new Map([...base.registries, ...over.registries]),
    aliases,
  };
}

/**
 * Reads one file of registries.conf, version 2 or the old version 1. @throws FailedPrecondition that names the file and
 * the place in it.
 */
export function parseRegistries(text: string, path: string): Partly {
  const document = readToml(text, path);
  const fail = (what: string): RuntimeError => new RuntimeError('FailedPrecondition', `${path}: ${what}`);
  const old = GoObject.of(document.get('registries'));
  if (old !== undefined) return parseVersion1(old, fail);
  const registries = new Map<string, Registry>();
  for (const table of tablesOf(document, 'registry', '[[registry]]', fail)) {
    const registry = parseRegistryTable(table, fail);
    const first = registries.get(registry.prefix);
    if (first === undefined) registries.set(registry.prefix, registry);
    // Of several the first one counts, as in the container tools, which refuse what is at odds about trust.
    else if (first.blocked !== registry.blocked || first.insecure !== registry.insecure)
      throw fail(`prefix ${quote(registry.prefix)} is given twice, with different "blocked" or "insecure"`);
  }
  const aliases = new Map<string, string>();
  for (const [name, target] of namedTables(document, 'aliases', fail)) {
    if (typeof target !== 'string') throw fail(`alias ${quote(name)} is not text`);
    aliases.set(name, target);
  }
  const key = 'unqualified-search-registries';
  return {
    search: texts(document.get(key), key, fail)?.map((each) => searchedOf(each, key, fail)),
    shortNames: choiceOf(document, 'short-name-mode', SHORT_NAME_MODES, fail),
    credentialHelpers: texts(document.get('credential-helpers'), 'credential-helpers', fail),
    registries,
    aliases,
  };
}

function parseRegistryTable(table: GoObject, fail: Fail): Registry {
  const location = locationOf(textOf(table, 'location', fail), 'location', fail);
  const prefix = withoutEnd(textOf(table, 'prefix', fail), '/') || location;
  if (prefix === '') throw fail('a [[registry]] has neither prefix nor location');
  // "" is not set everywhere else; but whoever wrote this word meant to keep something out.
  if (table.has('blocked') && table.get('blocked') === undefined) throw fail('blocked must be true or false');
  const mirrors = flag(table, 'mirror-by-digest-only', fail) ? 'digest-only' : undefined;
  return {
    prefix,
    location,
    insecure: flag(table, 'insecure', fail),
    blocked: flag(table, 'blocked', fail),
    mirrors: tablesOf(table, 'mirror', '[[registry.mirror]]', fail).map((each) => parseMirror(each, mirrors, fail)),
  };
}

/** `forAll`: what the registry says of all its mirrors. */
function parseMirror(table: GoObject, forAll: 'digest-only' | undefined, fail: Fail): Mirror {
  const location = locationOf(textOf(table, 'location', fail), 'location', fail);
  if (location === '') throw fail('a [[registry.mirror]] has no location');
  const own = choiceOf(table, 'pull-from-mirror', MIRROR_USES, fail);
  if (forAll !== undefined && own !== undefined)
    throw fail('mirror-by-digest-only and pull-from-mirror exclude each other');
  return { location, insecure: flag(table, 'insecure', fail), pulls: own ?? forAll ?? 'all' };
}

function parseVersion1(table: GoObject, fail: Fail): Partly {
  const list = (key: string): readonly string[] =>
    texts(GoObject.of(table.get(key))?.get('registries'), `registries.${key}`, fail) ?? [];
  const insecure = new Set(list('insecure'));
  const blocked = new Set(list('block'));
  const registries = new Map<string, Registry>();
  for (const prefix of new Set([...insecure, ...blocked])) {
    registries.set(prefix, {
      prefix,
      location: prefix,
      insecure: insecure.has(prefix),
      blocked: blocked.has(prefix),
      mirrors: [],
    });
  }
  return {
    search: list('search'),
    shortNames: undefined,
    credentialHelpers: undefined,
    registries,
    aliases: new Map(),
  };
}

/**
 * `value` without slashes at its end. Whether it is host[:port][/path] is for whoever is led there: one that is not
 * costs no other registry its images.
 */
function locationOf(value: string, key: string, fail: Fail): string {
  if (value.includes('://'))
    throw fail(`${key} ${quote(value)} must not have a scheme; write host[:port][/path], and insecure = true for http`);
  return withoutEnd(value, '/');
}

/** The same of a place to search, which every short name is led to. */
function searchedOf(value: string, key: string, fail: Fail): string {
  const place = locationOf(value, key, fail);
  if (!isDomain(place.split('/', 1)[0] ?? '')) throw fail(`${key} ${quote(value)} does not start with a registry host`);
  return place;
}

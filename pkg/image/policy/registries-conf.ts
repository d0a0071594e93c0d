/**
 * registries.conf (containers-registries.conf(5)), version 2 and the old version 1, with its drop-ins: from text to what
 * it says. Pure but for reading the files.
 */
import { RuntimeError } from '../../base/errors.ts';
import { readBounded } from '../../base/files.ts';
import { isObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { DOCKER_DOMAIN, isDomain } from '../../oci/reference.ts';
import { flag, readToml, texts } from './toml.ts';
import type { Fail } from './toml.ts';

/** `short-name-mode`: whether a short name that several registries might mean is refused. */
export type ShortNameMode = 'enforcing' | 'permissive' | 'disabled';

interface Mirror {
  readonly location: string;
  readonly insecure: boolean;
  readonly pulls: 'all' | 'digest-only' | 'tag-only';
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

/** Reads these files one after the other, later ones over earlier ones. */
export async function readRegistries(paths: readonly string[]): Promise<RegistriesConfig> {
  let merged = NO_CONFIG;
  for (const path of paths) {
    const text = (await readBounded(path, limits.configFileBytes)).toString('utf8');
    merged = mergeRegistries(merged, parseRegistries(text, path));
  }
  return merged;
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
  if (isObject(document['registries'])) return parseVersion1(document['registries'], fail);
  const tables = document['registry'];
  if (tables !== undefined && !Array.isArray(tables)) throw fail('"registry" must be written as [[registry]]');
  const registries = new Map<string, Registry>();
  for (const table of (tables ?? []) as unknown[]) {
    const registry = parseRegistryTable(table, fail);
    if (registries.has(registry.prefix)) throw fail(`prefix ${quote(registry.prefix)} is given twice`);
    registries.set(registry.prefix, registry);
  }
  const mode = document['short-name-mode'];
  if (mode !== undefined && mode !== 'enforcing' && mode !== 'permissive' && mode !== 'disabled')
    throw fail('short-name-mode must be enforcing, permissive or disabled');
  const aliases = new Map<string, string>();
  for (const [name, target] of Object.entries(isObject(document['aliases']) ? document['aliases'] : {})) {
    if (typeof target !== 'string') throw fail(`alias ${quote(name)} is not text`);
    aliases.set(name, target);
  }
  return {
    search: texts(document['unqualified-search-registries'], 'unqualified-search-registries', fail),
    shortNames: mode,
    credentialHelpers: texts(document['credential-helpers'], 'credential-helpers', fail),
    registries,
    aliases,
  };
}

function parseRegistryTable(table: unknown, fail: Fail): Registry {
  if (!isObject(table)) throw fail('a [[registry]] is not a table');
  const location = locationOf(table, 'location', fail);
  const prefix =
    typeof table['prefix'] === 'string' && table['prefix'] !== '' ? table['prefix'].replace(/\/+$/, '') : location;
  if (prefix === '') throw fail('a [[registry]] has neither prefix nor location');
  const digestOnly = flag(table, 'mirror-by-digest-only', fail);
  const mirrors = table['mirror'] ?? [];
  if (!Array.isArray(mirrors)) throw fail('"mirror" must be written as [[registry.mirror]]');
  return {
    prefix,
    location,
    insecure: flag(table, 'insecure', fail),
    blocked: flag(table, 'blocked', fail),
    mirrors: mirrors.map((each: unknown) => parseMirror(each, digestOnly, fail)),
  };
}

function parseMirror(table: unknown, digestOnly: boolean, fail: Fail): Mirror {
  if (!isObject(table)) throw fail('a [[registry.mirror]] is not a table');
  const location = locationOf(table, 'location', fail);
  if (location === '') throw fail('a [[registry.mirror]] has no location');
  const pulls = table['pull-from-mirror'] ?? (digestOnly ? 'digest-only' : 'all');
  if (pulls === '') return { location, insecure: flag(table, 'insecure', fail), pulls: 'all' };
  if (pulls !== 'all' && pulls !== 'digest-only' && pulls !== 'tag-only')
    throw fail('pull-from-mirror must be all, digest-only or tag-only');
  if (digestOnly && table['pull-from-mirror'] !== undefined)
    throw fail('mirror-by-digest-only and pull-from-mirror exclude each other');
  return { location, insecure: flag(table, 'insecure', fail), pulls };
}

function parseVersion1(table: Readonly<Record<string, unknown>>, fail: Fail): Partly {
  const list = (key: string): readonly string[] =>
    isObject(table[key]) ? (texts(table[key]['registries'], `registries.${key}`, fail) ?? []) : [];
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

function locationOf(table: Readonly<Record<string, unknown>>, key: string, fail: Fail): string {
  const value = table[key] ?? '';
  if (typeof value !== 'string') throw fail(`${key} is not text`);
  if (value === '') return '';
  const clean = value.replace(/\/+$/, '');
  const host = clean.split('/', 1)[0] ?? '';
  if (value.includes('://'))
    throw fail(`${key} ${quote(value)} must not have a scheme; write host[:port][/path], and insecure = true for http`);
  if (!isDomain(host)) throw fail(`${key} ${quote(value)} does not start with a registry host`);
  return clean;
}

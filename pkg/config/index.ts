/**
 * The configuration: a file shaped like crio.conf, a directory of drop-ins, environment variables and flags, the
 * later ones winning, made into one immutable `Config`.
 *
 *   built-in defaults < berth.conf < berth.conf.d/** in lexical order < CONTAINER_* environment < flags
 *
 * What is misspelt or without effect here is a warning that names it with its place; what has the wrong type is an
 * error with file, line and column. Arrays are replaced, never appended to; tables of runtime handlers are merged by
 * key. Nothing here looks at the kernel: facts about the node are passed in.
 */
import { freezeConfig, Loader } from './load.ts';
import { everyOption, handler } from './schema.ts';
import type { Option, tables, Values } from './schema.ts';

export type { AdditionalDevice, Ulimit } from './kinds.ts';
export { diskFiles, noFiles } from './load.ts';
export { renderConfig } from './render.ts';
export type { RenderOptions } from './render.ts';
export { DEFAULT_CONFIG_DIR, DEFAULT_CONFIG_FILE, flags, reloadableKeys } from './schema.ts';
export type { Flag } from './schema.ts';

/** One `[crio.runtime.runtimes.<name>]`, with what it inherits filled in. */
export type HandlerConfig = Values<typeof handler> & {
  readonly name: string;
  /** A table or `--runtimes` names it; false for the built-in runc, crun and runsc. */
  readonly configured: boolean;
};

/** The whole configuration; one member per table of crio.conf, one field per key. Deeply frozen. */
export type Config = { readonly [K in keyof typeof tables]: Values<(typeof tables)[K]['options']> } & {
  /** Usable handlers by name: paths are absolute where `findExecutable` was given; bad ones are not in here. */
  readonly runtimes: ReadonlyMap<string, HandlerConfig>;
};

/** What a flag or a whole configuration was given on the command line: commander's `opts()`. */
export type FlagValues = Readonly<Record<string, string | boolean | readonly string[] | undefined>>;

/** What the configuration cannot know by itself. */
export interface NodeDefaults {
  /** systemd is PID 1 and the cgroup layout lets it manage containers: the default of cgroup_manager. */
  readonly systemdCgroups: boolean;
  /** Absolute path of an executable, by path or by name in PATH; undefined if there is none. Left out: not checked. */
  readonly findExecutable?: (nameOrPath: string) => string | undefined;
}

/** Where files come from; tests give a Map-like one. */
export interface ConfigFiles {
  /** undefined if absent. */
  read(path: string): Promise<string | undefined>;
  /** Entries of a directory in any order, links followed; undefined if absent. */
  list(
    path: string,
  ): Promise<readonly { readonly name: string; readonly kind: 'file' | 'directory' | 'other' }[] | undefined>;
}

export interface LoadOptions {
  /** `opts()` of a commander program that has `flags`; `config` and `configDir` are among them. */
  readonly flags?: FlagValues;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly node: NodeDefaults;
  /** Asked for, so that nobody reads the node's files who means to have the defaults. */
  readonly files: ConfigFiles;
}

export interface LoadedConfig {
  readonly config: Config;
  /** One line each, ready for the log. */
  readonly warnings: readonly string[];
  /** Files that were read, in order. */
  readonly sources: readonly string[];
}

/**
 * Reads everything and decides.
 * @throws InvalidArgument `<place>: <key> …` for wrong types and values, for text that is not TOML, and for a bad
 * default handler; NotFound when a file that was asked for is absent.
 */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const loader = new Loader(options);
  await loader.readFiles();
  loader.readEnvironment();
  loader.readFlags();
  return loader.finish();
}

/** What SIGHUP makes of a freshly loaded configuration. */
export interface Reload {
  /** `current` with the reloadable keys of `fresh`. */
  readonly config: Config;
  /** Keys that changed and apply now. */
  readonly applied: readonly string[];
  /** Keys that changed and wait for a restart. */
  readonly needRestart: readonly string[];
}

/** Pure; `current` is left as it is, so that a caller may still refuse. */
export function reload(current: Config, fresh: Config): Reload {
  const applied: string[] = [];
  const needRestart: string[] = [];
  const sections = new Map<string, Record<string, unknown>>();
  for (const { section, field, table, option } of everyOption) {
    const before = fieldOf(current, section, field);
    const after = fieldOf(fresh, section, field);
    const same = option.kind.show(before) === option.kind.show(after);
    if (!same) (option.reload ? applied : needRestart).push(`${table.name}.${option.key}`);
    const target = sections.get(section) ?? {};
    target[field] = option.reload ? after : before;
    sections.set(section, target);
  }
  if (showHandlers(current) !== showHandlers(fresh)) applied.push('crio.runtime.runtimes');
  return { config: freezeConfig(sections, fresh.runtimes), applied, needRestart };
}

function fieldOf(config: Config, section: string, field: string): unknown {
  return (config as unknown as Record<string, Record<string, unknown>>)[section]?.[field];
}

function showHandlers(config: Config): string {
  const show = (each: HandlerConfig): string =>
    Object.entries<Option<unknown>>(handler)
      .map(([field, option]) => option.kind.show((each as unknown as Record<string, unknown>)[field]))
      .join();
  return [...config.runtimes]
    .map(([name, each]) => `${name}:${show(each)}`)
    .sort()
    .join('\n');
}

/**
 * What a configuration is made of, where it is read from, and what a reload may change.
 */
import type { Values, handler, tables } from './schema.ts';

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

/** What SIGHUP makes of a freshly loaded configuration. */
export interface Reload {
  /** `current` with the reloadable keys of `fresh`. */
  readonly config: Config;
  /** Keys that changed and apply now. */
  readonly applied: readonly string[];
  /** Keys that changed and wait for a restart. */
  readonly needRestart: readonly string[];
}

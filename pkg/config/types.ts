/**
 * What a configuration is made of, and where it is read from.
 */
import type { Values } from './option.ts';
import type { handler, tables } from './schema.ts';

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

/** An entry of a directory, links followed. */
export interface ConfigEntry {
  readonly name: string;
  readonly kind: 'file' | 'directory' | 'other';
}

/** Where files come from; tests give a Map-like one. */
export interface ConfigFiles {
  /** undefined if absent. */
  read(path: string): Promise<string | undefined>;
  /** Entries of a directory in any order; undefined if absent. */
  list(path: string): Promise<readonly ConfigEntry[] | undefined>;
}

/** All that a configuration is read from. */
export interface LoadOptions {
  /** `opts()` of a commander program that has `flags`; `config` and `configDir` are among them. */
  readonly flags?: FlagValues;
  readonly env?: Readonly<Record<string, string | undefined>>;
  readonly node: NodeDefaults;
  /** Asked for, so that nobody reads the node's files who means to have the defaults. */
  readonly files: ConfigFiles;
}

/** A configuration, and how it came to be. */
export interface LoadedConfig {
  readonly config: Config;
  /** What is wrong and taken all the same, one line each, ready for the log. */
  readonly warnings: readonly string[];
  /** What an operator should know, and nothing is wrong with, one line each. */
  readonly notes: readonly string[];
  /** Files that were read, in order. */
  readonly sources: readonly string[];
  /**
   * Who set a key, by its full name (`crio.runtime.runtimes.runc.seccomp_profile`): `/etc/berth/berth.conf:3:1`,
   * `--seccomp-profile`, `CONTAINER_SECCOMP_PROFILE`. Keys at their default are not in here.
   */
  readonly places: ReadonlyMap<string, string>;
}

/**
 * Reads the sources of the configuration one after the other, remembers for every key who set it last, and decides at
 * the end.
 */
import { readdirSync, statSync } from 'node:fs';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { readInMemory } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import { BadValue } from './kinds.ts';
import type { Kind } from './kinds.ts';
import {
  DEFAULT_CONFIG_DIR,
  DEFAULT_CONFIG_FILE,
  everyOption,
  flags,
  handlerTable,
  tables,
  unsupportedTables,
} from './schema.ts';
import type { Flag, handler, Table, Values } from './schema.ts';
import { parseToml } from './toml.ts';
import type { TomlDocument } from './toml.ts';
import type { Config, ConfigFiles, HandlerConfig, LoadOptions, LoadedConfig } from './types.ts';

/** Files in the drop-in directory and its depth; a loop of links ends here. */
const DROP_IN_FILES_MAX = 1000;
const DROP_IN_DEPTH_MAX = 8;
const CREATE_TIMEOUT_MIN_MS = 30_000;
const BUILT_IN_HANDLERS = ['crun', 'runc', 'runsc'] as const;

/** Where a value was given, for messages. */
interface Source {
  /** `/etc/berth/berth.conf:3:1`, `--log-level`, `CONTAINER_LOG_LEVEL`. */
  readonly place: string;
  readonly raw: unknown;
}

export class Loader {
  readonly #options: LoadOptions;
  readonly #files: ConfigFiles;
  readonly #warnings: string[] = [];
  readonly #sources: string[] = [];
  /** By full key, `crio.runtime.log_level`. */
  readonly #given = new Map<string, Source>();
  /** By handler name, then key. */
  readonly #handlers = new Map<string, Map<string, Source>>();

  constructor(options: LoadOptions) {
    this.#options = options;
    this.#files = options.files;
  }

  async readFiles(): Promise<void> {
    const file = this.#asked('config');
    await this.#readFile(file ?? DEFAULT_CONFIG_FILE, file !== undefined);
    const directory = this.#asked('config-dir') ?? DEFAULT_CONFIG_DIR;
    if (directory === '') return;
    for (const each of await this.#dropIns(directory, 0)) await this.#readFile(each, true);
  }

  readEnvironment(): void {
    for (const flag of flags) {
      const given = this.#options.env?.[flag.env];
      if (given !== undefined) this.#giveFlag(flag, flag.env, given);
    }
  }

  readFlags(): void {
    for (const flag of flags) {
      const given = this.#options.flags?.[flag.attribute];
      if (given !== undefined) this.#giveFlag(flag, `--${flag.name}`, given);
    }
  }

  finish(): LoadedConfig {
    const sections = new Map<string, Record<string, unknown>>();
    for (const [section, table] of Object.entries<Table>(tables))
      sections.set(section, this.#values(table, this.#given, table.name));
    const values = sections.get('runtime') ?? {};
    if (this.#options.node.systemdCgroups && !this.#given.has('crio.runtime.cgroup_manager'))
      values['cgroupManager'] = 'systemd';
    this.#checkStorageOptions();
    const runroot = String(sections.get('storage')?.['runroot']);
    const runtimes = this.#runtimes(String(values['defaultRuntime']), runroot);
    return { config: freezeConfig(sections, runtimes), warnings: this.#warnings, sources: this.#sources };
  }

  #asked(name: 'config' | 'config-dir'): string | undefined {
    const flag = flags.find((each) => each.name === name);
    const value = this.#options.flags?.[flag?.attribute ?? ''] ?? this.#options.env?.[flag?.env ?? ''];
    return typeof value === 'string' ? value : undefined;
  }

  async #readFile(file: string, required: boolean): Promise<void> {
    const text = await this.#files.read(file);
    if (text === undefined) {
      if (required)
        throw new RuntimeError(
          'NotFound',
          `configuration file ${file} does not exist; check --config, or run without it`,
        );
      return;
    }
    this.#sources.push(file);
    const document = parseToml(text, file);
    for (const key of Object.keys(document.root)) {
      if (key === 'crio') this.#readTable(document, file, ['crio'], document.root[key]);
      else this.#warn(document, file, [key], `unknown key ${key}, ignoring: all keys of crio.conf are under [crio]`);
    }
  }

  /**
   * Files below `directory`, depth first in the order of their names, as crio walks it. Hidden files and editors'
   * backups are skipped.
   */
  async #dropIns(directory: string, depth: number): Promise<string[]> {
    if (depth > DROP_IN_DEPTH_MAX)
      throw new RuntimeError(
        'InvalidArgument',
        `${directory} is more than ${DROP_IN_DEPTH_MAX} directories deep; is there a loop of links?`,
      );
    const entries = [...((await this.#files.list(directory)) ?? [])].sort((a, b) => (a.name < b.name ? -1 : 1));
    const found: string[] = [];
    for (const entry of entries) {
      if (entry.name.startsWith('.') || entry.name.endsWith('~')) continue;
      if (entry.kind === 'file') found.push(`${directory}/${entry.name}`);
      if (entry.kind === 'directory') found.push(...(await this.#dropIns(`${directory}/${entry.name}`, depth + 1)));
      if (found.length > DROP_IN_FILES_MAX)
        throw new RuntimeError('InvalidArgument', `${directory} has more than ${DROP_IN_FILES_MAX} files`);
    }
    return found;
  }

  #readTable(document: TomlDocument, file: string, path: readonly string[], raw: unknown): void {
    const name = path.join('.');
    const content = tableOf(raw, () => place(document, file, path), name);
    const ignored = unsupportedTables.get(name);
    if (ignored !== undefined) {
      for (const key of Object.keys(content))
        this.#readUnsupported(document, file, [...path, key], content[key], ignored);
      return;
    }
    const table = Object.values<Table>(tables).find((each) => each.name === name);
    for (const key of Object.keys(content)) {
      const inner = [...path, key];
      if (isTableName(inner.join('.'))) this.#readTable(document, file, inner, content[key]);
      else if (inner.join('.') === handlerTable.name) this.#readHandlers(document, file, inner, content[key]);
      else if (isKey(table, key))
        give(this.#given, table, inner.join('.'), key, { place: place(document, file, inner), raw: content[key] });
      else this.#readUnsupported(document, file, inner, content[key], table?.unsupported ?? new Map());
    }
  }

  #readHandlers(document: TomlDocument, file: string, path: readonly string[], raw: unknown): void {
    const content = tableOf(raw, () => place(document, file, path), path.join('.'));
    for (const name of Object.keys(content)) {
      const here = [...path, name];
      const inner = tableOf(content[name], () => place(document, file, here), here.join('.'));
      if (!isHandlerName(name))
        throw new RuntimeError(
          'InvalidArgument',
          `${place(document, file, here)}: ${JSON.stringify(name)} cannot be the name of a runtime ` +
            'handler (want letters, digits, "-", "_" and ".")',
        );
      const given = this.#handlers.get(name) ?? new Map<string, Source>();
      this.#handlers.set(name, given);
      for (const key of Object.keys(inner)) {
        if (isKey(handlerTable, key))
          give(given, handlerTable, key, key, { place: place(document, file, [...here, key]), raw: inner[key] });
        else this.#readUnsupported(document, file, [...here, key], inner[key], handlerTable.unsupported);
      }
    }
  }

  #readUnsupported(
    document: TomlDocument,
    file: string,
    path: readonly string[],
    raw: unknown,
    known: Table['unsupported'],
  ): void {
    const key = path.at(-1) ?? '';
    const row = known.get(key);
    if (row !== undefined) {
      parseAt(row.kind, { place: place(document, file, path), raw }, path.join('.'));
      this.#warn(document, file, path, `${path.join('.')} ${row.why}`);
      return;
    }
    const near = nearest(key, [...known.keys(), ...keysUnder(path.slice(0, -1).join('.'))]);
    this.#warn(
      document,
      file,
      path,
      `unknown key ${path.join('.')}, ignoring${near === undefined ? '' : ` (did you mean ${near}?)`}`,
    );
  }

  #giveFlag(flag: Flag, where: string, given: string | boolean | readonly string[]): void {
    if (flag.name === 'config' || flag.name === 'config-dir') return;
    const texts = typeof given === 'object' ? given : [String(given)];
    if (flag.name === 'runtimes') {
      for (const text of texts.flatMap((each) => each.split(','))) if (text !== '') this.#giveRuntime(where, text);
      return;
    }
    const row = everyOption.find(({ option }) => option.flag === flag.name);
    if (row === undefined) return;
    const parts = texts.map((text) => attempt(where, flag.name, () => row.option.kind.fromText(text)));
    const raw = flag.argument === 'list' ? parts.flat() : parts.at(-1);
    this.#given.set(`${row.table.name}.${row.option.key}`, { place: where, raw });
  }

  /** `name:path[:root[:type[:privileged_without_host_devices]]]` */
  #giveRuntime(where: string, text: string): void {
    const [name = '', path, root, type, privileged, ...more] = text.split(':');
    if (!isHandlerName(name) || path === undefined || more.length > 1 || (more[0] ?? '') !== '') {
      throw new RuntimeError(
        'InvalidArgument',
        `${where}: ${JSON.stringify(text)} is not name:path[:root[:type[:privileged_without_host_devices]]]`,
      );
    }
    const given = this.#handlers.get(name) ?? new Map<string, Source>();
    this.#handlers.set(name, given);
    const parts: readonly (readonly [key: string, value: unknown])[] = [
      ['runtime_path', path],
      ['runtime_root', root],
      ['runtime_type', type],
      ['privileged_without_host_devices', privileged === undefined ? undefined : privileged === 'true'],
    ];
    for (const [key, raw] of parts) if (raw !== undefined && raw !== '') given.set(key, { place: where, raw });
  }

  #values(table: Table, given: ReadonlyMap<string, Source>, prefix: string): Record<string, unknown> {
    const values: Record<string, unknown> = {};
    for (const [field, option] of Object.entries(table.options)) {
      const name = `${prefix}.${option.key}`;
      const source = given.get(name);
      values[field] = source === undefined ? option.fallback : parseAt(option.kind, source, name);
      const matters = option.pending && option.kind.show(values[field]) !== option.kind.show(option.fallback);
      if (source !== undefined && matters) this.#say(`${source.place}: ${name} is not implemented yet`);
    }
    return values;
  }

  #runtimes(defaultName: string, runroot: string): ReadonlyMap<string, HandlerConfig> {
    const usable = new Map<string, HandlerConfig>();
    const names = [...new Set([...this.#handlers.keys(), ...BUILT_IN_HANDLERS])];
    if (defaultName !== '' && !names.includes(defaultName)) {
      throw new RuntimeError(
        'InvalidArgument',
        `crio.runtime.default_runtime is ${JSON.stringify(defaultName)}, but there is no ` +
          `[crio.runtime.runtimes.${defaultName}]; there are ${names.join(', ')}`,
      );
    }
    const parent = defaultName === '' ? undefined : this.#handler(defaultName, runroot, undefined);
    for (const name of names.sort()) {
      const made = this.#handler(name, runroot, parent);
      const bad = this.#whyBad(made, parent);
      const found = bad === undefined ? this.#locate(made) : undefined;
      const why =
        bad ??
        (found === undefined
          ? `runtime_path ${made.runtimePath === '' ? `is not set and there is no ${name} in PATH` : `${made.runtimePath} is not an executable file`}`
          : undefined);
      if (found !== undefined) usable.set(name, found);
      else if (name === defaultName)
        throw new RuntimeError('InvalidArgument', `the default runtime handler ${name} cannot be used: ${why}`);
      else if (made.configured) this.#warnings.push(`runtime handler ${name} is left out: ${why}`);
    }
    return usable;
  }

  #handler(name: string, runroot: string, parent: HandlerConfig | undefined): HandlerConfig {
    const given = this.#handlers.get(name);
    const prefixed = new Map(
      [...(given ?? [])].map(([key, source]) => [`${handlerTable.name}.${name}.${key}`, source]),
    );
    const own = this.#values(handlerTable, prefixed, `${handlerTable.name}.${name}`) as Values<typeof handler>;
    const inherited = own.inheritDefaultRuntime && parent !== undefined ? pickInherited(parent) : {};
    const made: HandlerConfig = { ...own, ...inherited, name, configured: given !== undefined };
    const runtimeRoot = made.runtimeRoot === '' ? `${runroot}/runtimes/${name}` : made.runtimeRoot;
    if (made.createTimeoutMs >= CREATE_TIMEOUT_MIN_MS) return { ...made, runtimeRoot };
    const source = given?.get('container_create_timeout');
    const warning =
      `${source?.place ?? name}: container_create_timeout of runtime handler ${name} is below 30 ` +
      'seconds, using 30';
    this.#say(warning);
    return { ...made, runtimeRoot, createTimeoutMs: CREATE_TIMEOUT_MIN_MS };
  }

  #whyBad(made: HandlerConfig, parent: HandlerConfig | undefined): string | undefined {
    if (made.inheritDefaultRuntime && parent === undefined)
      return 'inherit_default_runtime needs default_runtime to be set';
    if (made.runtimeType !== 'oci' && made.runtimeType !== '')
      return `runtime_type ${JSON.stringify(made.runtimeType)} is not supported, only "oci"`;
    if (!/^(|pod|[^/]+\.slice)$/.test(made.monitorCgroup))
      return `monitor_cgroup ${JSON.stringify(made.monitorCgroup)} is neither a *.slice nor "pod"`;
    const find = this.#options.node.findExecutable;
    if (made.monitorPath !== '' && find !== undefined && find(made.monitorPath) === undefined)
      return `monitor_path ${made.monitorPath} is not an executable file`;
    return undefined;
  }

  /** The handler with the absolute path of its runtime; undefined if there is no such program. */
  #locate(made: HandlerConfig): HandlerConfig | undefined {
    const find = this.#options.node.findExecutable;
    if (find === undefined) return made;
    const runtimePath = find(made.runtimePath === '' ? made.name : made.runtimePath);
    return runtimePath === undefined ? undefined : { ...made, runtimePath };
  }

  #checkStorageOptions(): void {
    const source = this.#given.get('crio.storage_option');
    if (source === undefined || !Array.isArray(source.raw)) return;
    for (const each of source.raw as readonly unknown[]) {
      if (!/^(overlay)?\.?mountopt=/.test(String(each)))
        this.#warnings.push(
          `${source.place}: crio.storage_option ${JSON.stringify(each)} is not implemented, only overlay.mountopt is`,
        );
    }
  }

  /** Once, however often it is found. */
  #say(warning: string): void {
    if (!this.#warnings.includes(warning)) this.#warnings.push(warning);
  }

  #warn(document: TomlDocument, file: string, path: readonly string[], what: string): void {
    this.#warnings.push(`${place(document, file, path)}: ${what}`);
  }
}

/**
 * The files of the node. Read on the spot: nobody is served yet, and the thread pool would first have to be started.
 * Hidden names are left out.
 */
export const diskFiles: ConfigFiles = {
  async read(path) {
    // What people give who want no file at all.
    if (path === '/dev/null') return '';
    return ifPresent(() => readInMemory(path, limits.configFileBytes).toString('utf8'));
  },
  async list(path) {
    const names = ifPresent(() => readdirSync(path))?.filter((name) => !name.startsWith('.'));
    return names?.map((name) => ({ name, kind: kindOfEntry(ifPresent(() => statSync(`${path}/${name}`))) }));
  },
};

/** No files at all: what is left are the built-in defaults. */
export const noFiles: ConfigFiles = { read: async () => undefined, list: async () => undefined };

function ifPresent<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
}

function kindOfEntry(found: { isFile(): boolean; isDirectory(): boolean } | undefined): 'file' | 'directory' | 'other' {
  return found?.isFile() === true ? 'file' : found?.isDirectory() === true ? 'directory' : 'other';
}

/** Puts the parts together; nothing can be changed afterwards. */
export function freezeConfig(
  sections: ReadonlyMap<string, Record<string, unknown>>,
  runtimes: ReadonlyMap<string, HandlerConfig>,
): Config {
  const config: Record<string, unknown> = { runtimes };
  for (const [section, values] of sections) {
    for (const value of Object.values(values)) if (Array.isArray(value)) Object.freeze(value);
    config[section] = Object.freeze(values);
  }
  for (const each of runtimes.values()) Object.freeze(each);
  return Object.freeze(config) as unknown as Config;
}

function pickInherited(
  parent: HandlerConfig,
): Pick<HandlerConfig, 'runtimePath' | 'runtimeRoot' | 'runtimeType' | 'runtimeArgs'> {
  return {
    runtimePath: parent.runtimePath === '' ? parent.name : parent.runtimePath,
    runtimeRoot: parent.runtimeRoot,
    runtimeType: parent.runtimeType,
    runtimeArgs: parent.runtimeArgs,
  };
}

function isTableName(name: string): boolean {
  return unsupportedTables.has(name) || Object.values<Table>(tables).some((each) => each.name === name);
}

/** Takes a value over what an earlier source gave, or puts both together where their kind says how. */
function give(given: Map<string, Source>, table: Table | undefined, name: string, key: string, source: Source): void {
  const kind = Object.values(table?.options ?? {}).find((option) => option.key === key)?.kind;
  const before = given.get(name);
  const raw =
    before === undefined || kind?.combine === undefined
      ? source.raw
      : attempt(source.place, name, () => kind.combine?.(before.raw, source.raw));
  given.set(name, { place: source.place, raw });
}

function isKey(table: Table | undefined, key: string): boolean {
  return table !== undefined && Object.values(table.options).some((each) => each.key === key);
}

/** Also an argument of the monitor and part of a path below runroot. */
function isHandlerName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name);
}

function place(document: TomlDocument, file: string, path: readonly string[]): string {
  const at = document.where(path);
  return at === undefined ? file : `${file}:${at.line}:${at.column}`;
}

function tableOf(raw: unknown, where: () => string, name: string): Readonly<Record<string, unknown>> {
  if (typeof raw === 'object' && raw !== null && !Array.isArray(raw) && !(raw instanceof Date))
    return raw as Record<string, unknown>;
  throw new RuntimeError('InvalidArgument', `${where()}: ${name} wants a table [${name}]`);
}

function parseAt<T>(kind: Kind<T>, source: Source, name: string): T {
  return attempt(source.place, name, () => kind.parse(source.raw));
}

function attempt<T>(where: string, name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    throw new RuntimeError('InvalidArgument', `${where}: ${name} ${error.message}`);
  }
}

function keysUnder(name: string): string[] {
  const under = name.startsWith(`${handlerTable.name}.`)
    ? handlerTable
    : Object.values<Table>(tables).find((each) => each.name === name);
  const children = [
    ...Object.values<Table>(tables).map((each) => each.name),
    ...unsupportedTables.keys(),
    handlerTable.name,
  ]
    .filter((each) => each.startsWith(`${name}.`) && !each.slice(name.length + 1).includes('.'))
    .map((each) => each.slice(name.length + 1));
  return [...Object.values(under?.options ?? {}).map((each) => each.key), ...children];
}

/** The known word with the fewest edits, if few enough to be a slip. */
function nearest(word: string, known: readonly string[]): string | undefined {
  let best: string | undefined;
  let bestDistance = Math.min(3, Math.floor(word.length / 3)) + 1;
  for (const each of known) {
    const distance = edits(word.slice(0, 64), each);
    if (distance < bestDistance) [best, bestDistance] = [each, distance];
  }
  return best;
}

function edits(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      next.push(
        Math.min((row[j] ?? 0) + 1, (next[j - 1] ?? 0) + 1, (row[j - 1] ?? 0) + (a[i - 1] === b[j - 1] ? 0 : 1)),
      );
    }
    row = next;
  }
  return row[b.length] ?? 0;
}

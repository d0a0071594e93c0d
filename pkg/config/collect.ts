/**
 * Who says what: takes the sources of the configuration one after the other, and remembers for every key who set it
 * last. PURE; nothing is decided here, see load.ts.
 *
 * `""` is "not set", wherever it stands: in a file it takes the key back to its default, as a Go program reads it, in a
 * variable or a flag it says nothing.
 */
import { RuntimeError } from '../base/errors.ts';
import { type Flag, flags } from './flags.ts';
import { BadValue, type Kind } from './kinds.ts';
import type { Ignored, Option, Table } from './option.ts';
import { handlerTable, ignoredTables, isTableName, tableCalled } from './schema.ts';
import { canonical, keysOf, nearest } from './spelling.ts';
import { parseToml, type TomlDocument } from './toml.ts';
import type { FlagValues } from './types.ts';

/** Where a value was given, for messages. */
export interface Source {
  /** `/etc/berth/berth.conf:3:1`, `--log-level`, `CONTAINER_LOG_LEVEL`. */
  readonly place: string;
  /** What TOML gave; never "". */
  readonly raw: unknown;
}

type TomlTable = Readonly<Record<string, unknown>>;
type Environment = Readonly<Record<string, string | undefined>>;

/** Variables that begin with CONTAINER_ and are others': podman's, crictl's, and of whoever runs us in a container. */
const FOREIGN_VARIABLES = /^CONTAINER_(HOST|SSHKEY|CONNECTION|PROXY|RUNTIME_ENDPOINT|TLS_VERIFY|NAME|ID)$/;

/** What all sources say together. */
export class Collected {
  readonly warnings: string[] = [];
  /** By full key, `crio.runtime.log_level`. */
  readonly given = new Map<string, Source>();
  /** By handler name, then key, as its last table has it; a handler that is named has an entry. */
  readonly handlers = new Map<string, ReadonlyMap<string, Source>>();

  /** A file. @throws InvalidArgument with its place for what is not TOML, and for a value where a table belongs. */
  addFile(file: string, text: string): void {
    const document = parseToml(text, file);
    for (const key of Object.keys(document.root)) {
      const at = new Place(document, file, [key]);
      if (canonical(key, ['crio'], document.root) === 'crio') this.#addTable(at, 'crio', document.root[key]);
      else this.warn(`${at.text}: unknown key ${key}, ignoring: all keys of crio.conf are under [crio]`);
    }
  }

  /** The environment: the first spelling that is not "" counts. @throws InvalidArgument naming the variable */
  addEnvironment(env: Environment): void {
    const known = new Set<string>();
    for (const flag of flags) {
      for (const name of flag.variables) known.add(name);
      const name = flag.variables.find((each) => (env[each] ?? '') !== '');
      if (name !== undefined) this.#addFlag(flag, name, env[name] ?? '');
    }
    for (const name of Object.keys(env).sort()) {
      if (!name.startsWith('CONTAINER_') || known.has(name) || FOREIGN_VARIABLES.test(name)) continue;
      const near = nearest(name, [...known]);
      this.warn(`unknown variable ${name}, ignoring${near === undefined ? '' : ` (did you mean ${near}?)`}`);
    }
  }

  /** commander's `opts()`. @throws InvalidArgument naming the flag */
  addFlags(values: FlagValues): void {
    for (const flag of flags) {
      const given = values[flag.attribute];
      if (given !== undefined && given !== '') this.#addFlag(flag, `--${flag.name}`, given);
    }
  }

  /** Once, however often it is found. */
  warn(warning: string): void {
    if (!this.warnings.includes(warning)) this.warnings.push(warning);
  }

  #addTable(at: Place, name: string, raw: unknown): void {
    if (raw === '') return;
    const content = tableOf(raw, at, name);
    const table = tableCalled(name);
    for (const written of Object.keys(content)) {
      const key = canonical(written, keysOf(name), content);
      const inner = `${name}.${key}`;
      const here = at.below(written);
      const option = optionCalled(table, key);
      if (inner === handlerTable.name) this.#addHandlers(here, content[written]);
      else if (isTableName(inner)) this.#addTable(here, inner, content[written]);
      else if (option !== undefined) give(this.given, option, inner, { place: here.text, raw: content[written] });
      else this.#addIgnored(here, name, key, content[written], table?.ignored ?? ignoredTables.get(name));
    }
  }

  #addHandlers(at: Place, raw: unknown): void {
    if (raw === '') return;
    const content = tableOf(raw, at, handlerTable.name);
    for (const name of Object.keys(content)) {
      if (content[name] === '') continue;
      const here = at.below(name);
      const inner = tableOf(content[name], here, `${handlerTable.name}.${name}`);
      if (!isHandlerName(name)) {
        const why = 'its name wants letters, digits, "-", "_" and "."';
        this.warn(`${here.text}: runtime handler ${JSON.stringify(name)} is left out: ${why}`);
        continue;
      }
      const given = new Map<string, Source>();
      for (const written of Object.keys(inner)) {
        const key = canonical(written, keysOf(handlerTable.name), inner);
        const option = optionCalled(handlerTable, key);
        const place = here.below(written);
        if (option !== undefined) give(given, option, key, { place: place.text, raw: inner[written] });
        else this.#addIgnored(place, `${handlerTable.name}.${name}`, key, inner[written], handlerTable.ignored);
      }
      this.#setHandler(here.text, name, given);
    }
  }

  /**
   * A table takes the place of an earlier one whole, as with CRI-O: who writes it anew without `allowed_annotations`
   * takes them away, and would not be heard if the keys of both were put together.
   */
  #setHandler(place: string, name: string, given: ReadonlyMap<string, Source>): void {
    const gone = [...(this.handlers.get(name)?.keys() ?? [])].filter((key) => !given.has(key));
    if (gone.length > 0)
      this.warn(
        `${place}: ${handlerTable.name}.${name} takes the place of the whole earlier table, which also had ` +
          `${gone.join(', ')}; write here what is to stay`,
      );
    this.handlers.set(name, given);
  }

  #addIgnored(
    at: Place,
    table: string,
    key: string,
    raw: unknown,
    known: ReadonlyMap<string, Ignored> | undefined,
  ): void {
    const row = known?.get(key);
    if (row !== undefined) return this.#ignore(at.text, `${table}.${key}`, row, raw);
    const sample = table.startsWith(`${handlerTable.name}.`) ? handlerTable.name : table;
    const near = nearest(key, keysOf(sample));
    this.warn(
      `${at.text}: unknown key ${table}.${key}, ignoring${near === undefined ? '' : ` (did you mean ${near}?)`}`,
    );
  }

  #ignore(place: string, name: string, { kind, usual, why, answer }: Ignored, raw: unknown): void {
    if (raw === '') return;
    const value = parseAt(kind, { place, raw }, name);
    if (usual !== undefined && kind.show(value) === kind.show(usual)) return;
    if (answer === 'refused') throw new RuntimeError('InvalidArgument', `${place}: ${name} ${why}`);
    this.warn(`${place}: ${name} ${why}`);
  }

  #addFlag(flag: Flag, where: string, given: string | boolean | readonly string[]): void {
    const { sets } = flag;
    const texts = (typeof given === 'object' ? given : [String(given)]).filter((each) => each !== '');
    if (sets.kind === 'files' || texts.length === 0) return;
    if (sets.kind === 'runtimes') {
      for (const text of texts.flatMap((each) => each.split(','))) if (text !== '') this.#addRuntime(where, text);
      return;
    }
    const kind = sets.kind === 'option' ? sets.option.kind : sets.ignored.kind;
    const parts = texts.map((text) => attempt(where, flag.name, () => kind.fromText(text)));
    const raw = flag.argument === 'list' ? parts.flat() : parts.at(-1);
    if (sets.kind === 'option') this.given.set(sets.name, { place: where, raw });
    else this.#ignore(where, sets.name, sets.ignored, raw);
  }

  /** `name:path[:root[:type[:privileged_without_host_devices[:runtime_config_path[:container_min_memory]]]]]` */
  #addRuntime(where: string, text: string): void {
    const [name = '', path, root, type, privileged, config, memory, ...more] = text.split(':');
    if (!isHandlerName(name) || path === undefined || more.length > 0)
      throw new RuntimeError(
        'InvalidArgument',
        `${where}: ${JSON.stringify(text)} is not name:path[:root[:type[:privileged_without_host_devices` +
          '[:runtime_config_path[:container_min_memory]]]]]',
      );
    const given = new Map<string, Source>();
    const parts: readonly (readonly [key: string, value: unknown])[] = [
      ['runtime_path', path],
      ['runtime_root', root],
      ['runtime_type', type],
      ['privileged_without_host_devices', privileged === undefined ? undefined : privileged === 'true'],
      ['container_min_memory', memory],
    ];
    for (const [key, raw] of parts) if (raw !== undefined && raw !== '') given.set(key, { place: where, raw });
    this.#setHandler(where, name, given);
    const row = handlerTable.ignored.get('runtime_config_path');
    if (row !== undefined) this.#ignore(where, `${handlerTable.name}.${name}.runtime_config_path`, row, config ?? '');
  }
}

/** Somewhere in a file; its text has line and column. */
class Place {
  readonly #document: TomlDocument;
  readonly #file: string;
  readonly #path: readonly string[];

  constructor(document: TomlDocument, file: string, path: readonly string[]) {
    this.#document = document;
    this.#file = file;
    this.#path = path;
  }

  below(key: string): Place {
    return new Place(this.#document, this.#file, [...this.#path, key]);
  }

  get text(): string {
    const at = this.#document.where(this.#path);
    return at === undefined ? this.#file : `${this.#file}:${at.line}:${at.column}`;
  }
}

/** Takes a value over what an earlier source gave, or puts both together where their kind says how. */
function give(given: Map<string, Source>, option: Option<unknown>, name: string, source: Source): void {
  const before = given.get(name);
  if (source.raw === '') {
    if (option.empty === 'default') given.delete(name);
    return;
  }
  const { kind } = option;
  const raw =
    before === undefined || kind.combine === undefined
      ? source.raw
      : attempt(source.place, name, () => kind.combine?.(before.raw, source.raw));
  given.set(name, { place: source.place, raw });
}

function optionCalled(table: Table | undefined, key: string): Option<unknown> | undefined {
  return Object.values(table?.options ?? {}).find((each) => each.key === key);
}

/** Also an argument of the monitor and part of a path below runroot. */
function isHandlerName(name: string): boolean {
  return /^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$/.test(name);
}

function tableOf(raw: unknown, at: Place, name: string): TomlTable {
  if (typeof raw === 'object' && raw !== null && !Array.isArray(raw) && !(raw instanceof Date)) return raw as TomlTable;
  throw new RuntimeError('InvalidArgument', `${at.text}: ${name} wants a table [${name}]`);
}

/** The value of a source; what is merely odd goes to `warn`. @throws InvalidArgument `<place>: <name> …` */
export function parseAt<T>(kind: Kind<T>, source: Source, name: string, warn?: (warning: string) => void): T {
  const { place, raw } = source;
  return attempt(place, name, () => kind.parse(raw, (what) => warn?.(`${place}: ${name} ${what}`)));
}

function attempt<T>(where: string, name: string, work: () => T): T {
  try {
    return work();
  } catch (error) {
    if (!(error instanceof BadValue)) throw error;
    throw new RuntimeError('InvalidArgument', `${where}: ${name} ${error.message}`);
  }
}

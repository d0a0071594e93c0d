/**
 * Reads the sources of the configuration, and decides: values from what was given, defaults for the rest, and the
 * usable runtime handlers.
 */
import { Collected, parseAt, type Source } from './collect.ts';
import { type Flag, flags } from './flags.ts';
import { usableHandlers } from './handlers.ts';
import type { Table } from './option.ts';
import { handlerTable, tables } from './schema.ts';
import { readSources } from './sources.ts';
import type { Config, HandlerConfig, LoadOptions, LoadedConfig } from './types.ts';

/**
 * Reads everything and decides.
 * @throws InvalidArgument `<place>: <key> …` for wrong types and values, for text that is not TOML, for a bad default
 * handler, and for a key that would weaken the isolation of containers if it were ignored; NotFound when a file that
 * was asked for is absent.
 */
export async function loadConfig(options: LoadOptions): Promise<LoadedConfig> {
  const asked = { file: askedFor(options, 'config'), directory: askedFor(options, 'config-dir') };
  const { texts, notes } = await readSources(options.files, asked);
  const collected = new Collected();
  for (const { file, text } of texts) collected.addFile(file, text);
  collected.addEnvironment(options.env ?? {});
  collected.addFlags(options.flags ?? {});
  return {
    config: decide(collected, options),
    warnings: collected.warnings,
    notes,
    sources: texts.map(({ file }) => file),
    places: placesOf(collected),
  };
}

/** A flag that is "" asks for no file; a variable that is "" asks for nothing. */
function askedFor({ flags: given, env }: LoadOptions, name: 'config' | 'config-dir'): string | undefined {
  const flag = flags.find((each) => each.name === name) as Flag;
  const value = given?.[flag.attribute];
  return typeof value === 'string' ? value : env?.[flag.variables[0] ?? ''] || undefined;
}

function decide(collected: Collected, { node }: LoadOptions): Config {
  const valuesOf = (table: Table, given: ReadonlyMap<string, Source>, prefix: string): Record<string, unknown> =>
    values(collected, table, given, prefix);
  const sections = new Map<string, Record<string, unknown>>();
  for (const [section, table] of Object.entries<Table>(tables))
    sections.set(section, valuesOf(table, collected.given, table.name));
  const { given } = collected;
  const runtime = sections.get('runtime') ?? {};
  if (node.systemdCgroups && !given.has('crio.runtime.cgroup_manager')) runtime['cgroupManager'] = 'systemd';
  for (const field of ['conmon', 'pinnsPath']) runtime[field] = inPath(String(runtime[field]), node.findExecutable);
  const network = sections.get('network') ?? {};
  if (network['pluginDir'] !== '')
    network['pluginDirs'] = [...new Set([...(network['pluginDirs'] as readonly string[]), network['pluginDir']])];
  network['pluginDir'] = '';
  sayOddStorageOptions(collected);
  const runtimes = usableHandlers({
    collected,
    node,
    defaultName: String(runtime['defaultRuntime']),
    defaultPlace: given.get('crio.runtime.default_runtime')?.place ?? 'the built-in default',
    runroot: String(sections.get('storage')?.['runroot']),
    valuesOf,
  });
  return freezeConfig(sections, runtimes);
}

function inPath(program: string, find: LoadOptions['node']['findExecutable']): string {
  return program === '' || program.startsWith('/') ? program : (find?.(program) ?? program);
}

function values(
  collected: Collected,
  table: Table,
  given: ReadonlyMap<string, Source>,
  prefix: string,
): Record<string, unknown> {
  const found: Record<string, unknown> = {};
  for (const [field, option] of Object.entries(table.options)) {
    const name = `${prefix}.${option.key}`;
    const source = given.get(name);
    found[field] =
      source === undefined ? option.fallback : parseAt(option.kind, source, name, (warning) => collected.warn(warning));
  }
  return found;
}

function sayOddStorageOptions(collected: Collected): void {
  const source = collected.given.get('crio.storage_option');
  if (source === undefined || !Array.isArray(source.raw)) return;
  for (const each of source.raw as readonly unknown[]) {
    if (each !== '' && !/^(overlay)?\.?mountopt=/.test(String(each)))
      collected.warn(
        `${source.place}: crio.storage_option ${JSON.stringify(each)} is not implemented, only overlay.mountopt is`,
      );
  }
}

function placesOf({ given, handlers }: Collected): ReadonlyMap<string, string> {
  const ofHandlers = [...handlers].flatMap(([name, keys]) =>
    [...keys].map(([key, { place }]) => [`${handlerTable.name}.${name}.${key}`, place] as const),
  );
  return new Map([...[...given].map(([name, { place }]) => [name, place] as const), ...ofHandlers]);
}

/** Puts the parts together; nothing can be changed afterwards. */
export function freezeConfig(
  sections: ReadonlyMap<string, Record<string, unknown>>,
  runtimes: ReadonlyMap<string, HandlerConfig>,
): Config {
  const config: Record<string, unknown> = { runtimes };
  for (const [section, each] of sections) {
    for (const value of Object.values(each)) if (Array.isArray(value)) Object.freeze(value);
    config[section] = Object.freeze(each);
  }
  for (const each of runtimes.values()) Object.freeze(each);
  return Object.freeze(config) as unknown as Config;
}

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
import type { Option } from './schema.ts';
import type { Config, HandlerConfig, LoadOptions, LoadedConfig, Reload } from './types.ts';

export type { AdditionalDevice, Ulimit } from './kinds.ts';
export { diskFiles, noFiles } from './load.ts';
export { renderConfig } from './render.ts';
export type { RenderOptions } from './render.ts';
export { DEFAULT_CONFIG_DIR, DEFAULT_CONFIG_FILE, flags, reloadableKeys } from './schema.ts';
export type { Flag } from './schema.ts';

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
export type * from './types.ts';

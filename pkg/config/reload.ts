/**
 * What a freshly read configuration changes in a daemon that runs: by parts, each of which is taken whole or not at
 * all, and what has to wait for a restart. Decided against what is in force, not against what was read last: what
 * waits is found again each time. PURE.
 */
import { freezeConfig } from './load.ts';
import type { Option, ReloadPart } from './option.ts';
import { everyOption, handler, HANDLERS_RELOAD, handlerTable } from './schema.ts';
import type { Config, HandlerConfig } from './types.ts';

/** A key whose value is another than the one in force; both as TOML text. */
export interface Change {
  /** `crio.runtime.log_level`; a handler's whole table is one key. */
  readonly key: string;
  readonly before: string;
  readonly after: string;
}

/** What to do with a fresh configuration. */
export interface ReloadPlan {
  /** What changes in each part; a part without changes is not in here. */
  readonly parts: ReadonlyMap<ReloadPart, readonly Change[]>;
  /** What differs, and waits for a restart. */
  readonly waiting: readonly Change[];
}

/** What `fresh` changes against what is in force. */
export function planReload(inForce: Config, fresh: Config): ReloadPlan {
  const parts = new Map<ReloadPart, Change[]>();
  const waiting: Change[] = [];
  for (const { section, field, table, option } of everyOption) {
    const before = option.kind.show(fieldOf(inForce, section, field));
    const after = option.kind.show(fieldOf(fresh, section, field));
    if (before === after) continue;
    const change = { key: `${table.name}.${option.key}`, before, after };
    if (option.reload === undefined) waiting.push(change);
    else parts.set(option.reload, [...(parts.get(option.reload) ?? []), change]);
  }
  const handlers = changedHandlers(inForce.runtimes, handlersUnder(inForce, fresh));
  if (handlers.length > 0) parts.set(HANDLERS_RELOAD, [...(parts.get(HANDLERS_RELOAD) ?? []), ...handlers]);
  return { parts, waiting };
}

/** `inForce` with all keys of one part from `fresh`; both are left as they are. */
export function withPart(inForce: Config, fresh: Config, part: ReloadPart): Config {
  const sections = new Map<string, Record<string, unknown>>();
  for (const { section, field, option } of everyOption) {
    const target = sections.get(section) ?? {};
    target[field] = fieldOf(option.reload === part ? fresh : inForce, section, field);
    sections.set(section, target);
  }
  return freezeConfig(sections, part === HANDLERS_RELOAD ? handlersUnder(inForce, fresh) : inForce.runtimes);
}

/** Every key that SIGHUP takes; `crio.runtime.runtimes` stands for all handlers. @fortests of what is printed. */
export const reloadableKeys: readonly string[] = [
  ...everyOption
    .filter(({ option }) => option.reload !== undefined)
    .map(({ table, option }) => `${table.name}.${option.key}`),
  handlerTable.name,
];

function fieldOf(config: Config, section: string, field: string): unknown {
  return (config as unknown as Record<string, Record<string, unknown>>)[section]?.[field];
}

/** The fresh handlers. A runroot that waits for a restart does not move what lies under the one in force. */
function handlersUnder(inForce: Config, fresh: Config): ReadonlyMap<string, HandlerConfig> {
  const [from, to] = [fresh.storage.runroot, inForce.storage.runroot];
  return new Map(
    [...fresh.runtimes].map(([name, each]) => [
      name,
      each.runtimeRoot === `${from}/runtimes/${name}` ? { ...each, runtimeRoot: `${to}/runtimes/${name}` } : each,
    ]),
  );
}

function changedHandlers(
  before: ReadonlyMap<string, HandlerConfig>,
  after: ReadonlyMap<string, HandlerConfig>,
): Change[] {
  return [...new Set([...before.keys(), ...after.keys()])].sort().flatMap((name) => {
    const [old, fresh] = [rowsOf(before.get(name)), rowsOf(after.get(name))];
    const differing = new Set([...old.keys(), ...fresh.keys()].filter((key) => old.get(key) !== fresh.get(key)));
    if (differing.size === 0) return [];
    return [{ key: `${handlerTable.name}.${name}`, before: shown(old, differing), after: shown(fresh, differing) }];
  });
}

/** The keys of a handler as text; none if there is no such handler. */
function rowsOf(each: HandlerConfig | undefined): ReadonlyMap<string, string> {
  if (each === undefined) return new Map();
  const values = each as unknown as Record<string, unknown>;
  return new Map(
    Object.entries<Option<unknown>>(handler).map(([field, { key, kind }]) => [key, kind.show(values[field])]),
  );
}

function shown(rows: ReadonlyMap<string, string>, keys: ReadonlySet<string>): string {
  if (rows.size === 0) return 'none';
  return `{ ${[...rows].flatMap(([key, value]) => (keys.has(key) ? [`${key} = ${value}`] : [])).join(', ')} }`;
}

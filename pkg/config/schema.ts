/**
 * Every table and key of a crio.conf, in one place: what Berth reads (`Option`), and what it knows but does not do
 * (`Ignored`: its type is checked, setting it is a warning). The types of `Config`, the flags, the environment
 * variables, what reloads, and the rendered berth.conf all follow from these tables. PURE.
 *
 * To make Berth do what an ignored row asks for, move the row to the options of its table.
 */
import type { Option, ReloadPart, Table } from './option.ts';
import { handler, handlerIgnored } from './tables/handler.ts';
import { image, imageIgnored } from './tables/image.ts';
import { metrics, tracing } from './tables/operations.ts';
import { ignoredTables, network, stats, statsIgnored } from './tables/rest.ts';
import { runtime } from './tables/runtime.ts';
import { runtimeIgnored } from './tables/runtime-ignored.ts';
import { api, apiIgnored, storage, storageIgnored } from './tables/storage.ts';

export { handler, ignoredTables };

/** The tables by the name of their field in `Config`, in the order of crio.conf. */
export const tables = {
  storage: { name: 'crio', doc: 'Where things are kept.', options: storage, ignored: storageIgnored },
  api: { name: 'crio.api', doc: 'The sockets.', options: api, ignored: apiIgnored },
  runtime: { name: 'crio.runtime', doc: 'How containers are run.', options: runtime, ignored: runtimeIgnored },
  image: { name: 'crio.image', doc: 'Pulling images.', options: image, ignored: imageIgnored },
  network: { name: 'crio.network', doc: 'Pod networks (CNI).', options: network, ignored: new Map() },
  stats: { name: 'crio.stats', doc: 'Resource statistics.', options: stats, ignored: statsIgnored },
  metrics: { name: 'crio.metrics', doc: 'Metrics of the daemon for Prometheus.', options: metrics, ignored: new Map() },
  tracing: { name: 'crio.tracing', doc: 'Traces of calls by OTLP.', options: tracing, ignored: new Map() },
} as const satisfies Readonly<Record<string, Table>>;

/** `[crio.runtime.runtimes.<name>]` */
export const handlerTable: Table = {
  name: 'crio.runtime.runtimes',
  doc: 'A runtime handler.',
  options: handler,
  ignored: handlerIgnored,
};

/** The part of a reload that all tables of handlers belong to, whole. */
export const HANDLERS_RELOAD: ReloadPart = 'runtimes';

/** An option with where it belongs. */
export interface OptionRow {
  /** Its table's member of `Config`. */
  readonly section: string;
  readonly field: string;
  readonly table: Table;
  readonly option: Option<unknown>;
}

/** Every option of every table, in the order of the file. */
export const everyOption: readonly OptionRow[] = Object.entries<Table>(tables).flatMap(([section, table]) =>
  Object.entries(table.options).map(([field, option]) => ({ section, field, table, option })),
);

/** A name such as `crio.runtime` that is a table's, of which anything or nothing has an effect. */
export function isTableName(name: string): boolean {
  return ignoredTables.has(name) || tableCalled(name) !== undefined;
}

/** The table whose name is `name`. */
export function tableCalled(name: string): Table | undefined {
  return Object.values<Table>(tables).find((each) => each.name === name);
}

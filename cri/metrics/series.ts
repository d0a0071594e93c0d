/**
 * Every series that a daemon gives, in one place. Those of CRI-O have its names, types, labels, buckets and quantiles
 * (server/metrics/metrics.go of 1.36), so that dashboards and alerts made for it go on. PURE.
 */
import type { Collector } from '../../pkg/config/index.ts';

/** One series, as it is declared to Prometheus. */
export interface Series {
  readonly name: string;
  readonly type: 'counter' | 'gauge' | 'histogram' | 'summary';
  readonly labels: readonly string[];
  readonly help: string;
  /** Upper bounds of a histogram. */
  readonly buckets?: readonly number[];
  /** Quantiles of a summary. */
  readonly quantiles?: readonly number[];
}

/** CRI-O calls these KiB, MiB and GiB, and counts in thousands. */
const KB = 1000;
const MB = 1000 * KB;
const GB = 1000 * MB;

/** CRI-O's, by the names of their collectors. */
const CRIO: Readonly<Record<Collector, Omit<Series, 'name'>>> = {
  image_pulls_layer_size: {
    type: 'histogram',
    labels: [],
    help: 'Sizes of the layers that were downloaded, in bytes.',
    buckets: [KB, MB, 10 * MB, 50 * MB, 100 * MB, 200 * MB, 300 * MB, 400 * MB, 500 * MB, GB, 10 * GB],
  },
  containers_events_dropped_total: counter([], 'Container events that slow clients have missed.'),
  containers_oom_total: counter([], 'Containers that were killed because they ran out of memory.'),
  processes_defunct: gauge([], 'Zombies on the node.'),
  operations_total: counter(['operation'], 'Calls of CRI that have ended.'),
  operations_latency_seconds: gauge(['operation'], 'How long the last call took.'),
  operations_latency_seconds_total: {
    type: 'summary',
    labels: ['operation'],
    help: 'How long calls take; quantiles are of the last ten minutes.',
    quantiles: [0.5, 0.9, 0.99],
  },
  operations_errors_total: counter(['operation'], 'Calls of CRI that have failed.'),
  image_pulls_bytes_total: counter(['mediatype', 'size'], 'Bytes of layers that were downloaded.'),
  image_pulls_skipped_bytes_total: counter(['size'], 'Bytes of layers that were here already.'),
  image_pulls_failure_total: counter(['error'], 'Pulls that have failed.'),
  image_pulls_success_total: counter([], 'Pulls that went well.'),
  image_layer_reuse_total: counter(['name'], 'Layers of pulls that were here already.'),
  containers_oom_count_total: counter(['name'], 'Containers that were killed because they ran out of memory, by name.'),
  containers_seccomp_notifier_count_total: counter(
    ['name', 'syscall'],
    'System calls that were forbidden to containers with a notifier.',
  ),
  resources_stalled_at_stage: counter(['stage'], 'Pods and containers whose client gave up while they were made.'),
  containers_stopped_monitor_count: counter(['name'], 'Containers that have lost their monitors.'),
  default_runtime: gauge(['runtime'], 'The default runtime handler; always 1.'),
};

/** Our own, and what programs in Go tell of themselves as CRI-O does. */
const OWN = {
  operationsInFlight: { name: 'berth_operations_in_flight', ...gauge(['operation', 'stage'], 'What goes on now.') },
  eventLoopDelay: {
    name: 'berth_event_loop_delay_seconds',
    ...gauge(['quantile'], 'How late the event loop was since the last scrape; 1 is the longest delay.'),
  },
  networkTurns: { name: 'berth_network_turns_waiting', ...gauge([], 'Pods that wait for a turn of CNI plugins.') },
  cleanUps: { name: 'berth_clean_ups_pending', ...gauge([], 'Clean-ups that have failed and are tried again.') },
  spansDropped: { name: 'berth_spans_dropped_total', ...counter([], 'Spans of traces that could not be sent.') },
  heap: { name: 'berth_heap_used_bytes', ...gauge([], 'What of the heap is in use.') },
  buildInfo: { name: 'berth_build_info', ...gauge(['version'], 'The version; always 1.') },
  memory: { name: 'process_resident_memory_bytes', ...gauge([], 'Resident memory of the daemon.') },
  cpu: { name: 'process_cpu_seconds_total', ...counter([], 'Processor time of the daemon.') },
  started: { name: 'process_start_time_seconds', ...gauge([], 'When the daemon was started, since the epoch.') },
  openFiles: { name: 'process_open_fds', ...gauge([], 'Descriptors that the daemon has open.') },
} as const satisfies Readonly<Record<string, Series>>;

/** What a series is called in the sources. */
export type SeriesKey = Collector | keyof typeof OWN;

/** All of them. */
export const SERIES: Readonly<Record<SeriesKey, Series>> = {
  ...(Object.fromEntries(
    Object.entries(CRIO).map(([collector, series]) => [
      collector,
      { name: `container_runtime_crio_${collector}`, ...series },
    ]),
  ) as Record<Collector, Series>),
  ...OWN,
};

/** Those that a configuration asks for: of CRI-O's the named ones, and all of our own. */
export function seriesOf(collectors: readonly Collector[]): ReadonlySet<SeriesKey> {
  return new Set([...collectors, ...(Object.keys(OWN) as (keyof typeof OWN)[])]);
}

function counter(labels: readonly string[], help: string): Omit<Series, 'name'> {
  return { type: 'counter', labels, help };
}

function gauge(labels: readonly string[], help: string): Omit<Series, 'name'> {
  return { type: 'gauge', labels, help };
}

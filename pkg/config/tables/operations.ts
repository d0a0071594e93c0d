/** `[crio.metrics]` and `[crio.tracing]`. Nothing of them is without effect. PURE. */
import { type Item, file, flag, integer, list, string, text } from '../kinds.ts';
import { option } from '../option.ts';

/** CRI-O's collectors, of which each is a series `container_runtime_crio_<name>` (server/metrics/collectors). */
export const COLLECTORS = [
  'image_pulls_layer_size',
  'containers_events_dropped_total',
  'containers_oom_total',
  'processes_defunct',
  'operations_total',
  'operations_latency_seconds',
  'operations_latency_seconds_total',
  'operations_errors_total',
  'image_pulls_bytes_total',
  'image_pulls_skipped_bytes_total',
  'image_pulls_failure_total',
  'image_pulls_success_total',
  'image_layer_reuse_total',
  'containers_oom_count_total',
  'containers_seccomp_notifier_count_total',
  'resources_stalled_at_stage',
  'containers_stopped_monitor_count',
  'default_runtime',
] as const;

/** The name of one. */
export type Collector = (typeof COLLECTORS)[number];

/** A collector by its name, with or without the prefixes of its series. One that nobody knows is left out. */
const collector: Item<Collector> = {
  parse(raw, remark) {
    const name = string(raw)
      .replace(/^container_runtime_/, '')
      .replace(/^crio_/, '');
    const known = COLLECTORS.find((each) => each === name);
    if (known === undefined) remark?.(`has no collector ${JSON.stringify(raw)}, which is left out`);
    return known;
  },
  show: (value) => JSON.stringify(value),
};

const HIGHEST_PORT = 65_535;
const MILLION = 1_000_000;

/** Calls of a million. CRI-O takes any number, of which more than all are all. */
const perMillion = {
  ...integer(-Number.MAX_SAFE_INTEGER),
  parse: (raw: unknown) => Math.min(MILLION, Math.max(0, integer(-Number.MAX_SAFE_INTEGER).parse(raw))),
};

/** `[crio.metrics]` */
export const metrics = {
  enableMetrics: option('enable_metrics', flag, false, 'Serve metrics for Prometheus at /metrics.'),
  metricsCollectors: option(
    'metrics_collectors',
    list(collector),
    COLLECTORS,
    'The series of CRI-O that are given; crio_ and container_runtime_crio_ may stand before a name.',
  ),
  metricsHost: option('metrics_host', text, '127.0.0.1', 'Address on which they are served.'),
  metricsPort: option('metrics_port', integer(0, HIGHEST_PORT), 9090, 'Port on which they are served.'),
  metricsSocket: option('metrics_socket', file, '', 'A unix socket on which they are served as well.'),
  metricsCert: option(
    'metrics_cert',
    file,
    '',
    'Certificate (PEM) with which they are served by TLS. Read again when it changes; if neither it nor the key is ' +
      'there, both are made.',
  ),
  metricsKey: option('metrics_key', file, '', 'Private key (PEM) of that certificate.'),
} as const;

/** `[crio.tracing]` */
export const tracing = {
  enableTracing: option('enable_tracing', flag, false, 'Send a trace of each call that is sampled, by OTLP over gRPC.'),
  tracingEndpoint: option('tracing_endpoint', text, '127.0.0.1:4317', 'Host and port of the collector; no TLS.'),
  tracingSamplingPerMillion: option(
    'tracing_sampling_rate_per_million',
    perMillion,
    0,
    'How many of a million calls are sampled whose callers say nothing about it; what callers say is followed.',
  ),
} as const;

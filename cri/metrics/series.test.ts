import { assert } from 'chai';
import { SERIES } from './series.ts';

/** What CRI-O 1.36 registers (server/metrics/metrics.go): type, labels. */
const CRIO: Readonly<Record<string, string>> = {
  image_pulls_layer_size: 'histogram',
  containers_events_dropped_total: 'counter',
  containers_oom_total: 'counter',
  processes_defunct: 'gauge',
  operations_total: 'counter operation',
  operations_latency_seconds: 'gauge operation',
  operations_latency_seconds_total: 'summary operation',
  operations_errors_total: 'counter operation',
  image_pulls_bytes_total: 'counter mediatype size',
  image_pulls_skipped_bytes_total: 'counter size',
  image_pulls_failure_total: 'counter error',
  image_pulls_success_total: 'counter',
  image_layer_reuse_total: 'counter name',
  containers_oom_count_total: 'counter name',
  containers_seccomp_notifier_count_total: 'counter name syscall',
  resources_stalled_at_stage: 'counter stage',
  containers_stopped_monitor_count: 'counter name',
  default_runtime: 'gauge runtime',
};

describe('cri/metrics/series', () => {
  it('are those of CRI-O, with its types, labels, buckets and quantiles', () => {
    const ours = Object.values(SERIES).filter(({ name }) => name.startsWith('container_runtime_crio_'));
    assert.deepEqual(
      Object.fromEntries(
        ours.map(({ name, type, labels }) => [
          name.replace('container_runtime_crio_', ''),
          [type, ...labels].join(' '),
        ]),
      ),
      CRIO,
    );
    assert.deepEqual(SERIES.image_pulls_layer_size.buckets, [1e3, 1e6, 1e7, 5e7, 1e8, 2e8, 3e8, 4e8, 5e8, 1e9, 1e10]);
    assert.deepEqual(SERIES.operations_latency_seconds_total.quantiles, [0.5, 0.9, 0.99]);
  });

  it('have names and labels that Prometheus takes, each name once', () => {
    const all = Object.values(SERIES);
    assert.equal(new Set(all.map(({ name }) => name)).size, all.length);
    for (const { name, labels, help } of all) {
      assert.match(name, /^[a-z_]+$/);
      for (const label of labels) assert.match(label, /^[a-z]+$/);
      assert.notMatch(help, /[\\\n]/);
    }
  });
});

import { assert } from 'chai';
import { limits } from '../../pkg/base/limits.ts';
import { Registry } from './registry.ts';
import { SERIES, type SeriesKey, seriesOf } from './series.ts';

const with_ = (...keys: readonly SeriesKey[]): Registry => new Registry(new Set(keys));

/** Lines of values, without what declares them. */
function values(registry: Registry): string[] {
  return registry
    .text()
    .split('\n')
    .filter((line) => line !== '' && !line.startsWith('#'));
}

describe('cri/metrics/registry', () => {
  it('declares a series, and gives what has no labels from the start, as clients in Go do', () => {
    assert.equal(
      with_('containers_oom_total', 'operations_total').text(),
      `# HELP container_runtime_crio_containers_oom_total ${SERIES.containers_oom_total.help}\n` +
        '# TYPE container_runtime_crio_containers_oom_total counter\n' +
        'container_runtime_crio_containers_oom_total 0\n',
    );
  });

  it('counts by labels, sets gauges, and forgets', () => {
    const it = with_('operations_total', 'operations_latency_seconds');
    it.add('operations_total', ['Version']);
    it.add('operations_total', ['Version'], 2);
    it.add('operations_total', ['Status']);
    it.set('operations_latency_seconds', ['Version'], 0.25);
    it.forget('operations_total', ['Status']);
    assert.deepEqual(values(it), [
      'container_runtime_crio_operations_total{operation="Version"} 3',
      'container_runtime_crio_operations_latency_seconds{operation="Version"} 0.25',
    ]);
  });

  it('writes bounds of histograms as Go does, which queries match by their text', () => {
    const it = with_('image_pulls_layer_size');
    for (const bytes of [1000, 5e6, 2e10]) it.observe('image_pulls_layer_size', [], bytes);
    const name = 'container_runtime_crio_image_pulls_layer_size';
    const bounds = [
      ['1000', 1],
      ['1e+06', 1],
      ['1e+07', 2],
      ['5e+07', 2],
      ['1e+08', 2],
      ['2e+08', 2],
      ['3e+08', 2],
      ['4e+08', 2],
      ['5e+08', 2],
      ['1e+09', 2],
      ['1e+10', 2],
      ['+Inf', 3],
    ] as const;
    assert.deepEqual(values(it), [
      ...bounds.map(([bound, count]) => `${name}_bucket{le="${bound}"} ${count}`),
      `${name}_sum 20005001000`,
      `${name}_count 3`,
    ]);
  });

  it('gives quantiles of the last ten minutes, and sums of all time', () => {
    let now = 0;
    const it = new Registry(new Set(['operations_latency_seconds_total']), () => now);
    it.observe('operations_latency_seconds_total', ['Version'], 100);
    now += limits.metricSamplesMs + 1;
    for (let each = 1; each <= 100; each++) it.observe('operations_latency_seconds_total', ['Version'], each / 100);
    const name = 'container_runtime_crio_operations_latency_seconds_total';
    assert.deepEqual(values(it).slice(0, 3), [
      `${name}{operation="Version",quantile="0.5"} 0.5`,
      `${name}{operation="Version",quantile="0.9"} 0.9`,
      `${name}{operation="Version",quantile="0.99"} 0.99`,
    ]);
    assert.match(values(it)[3] ?? '', /_sum\{operation="Version"\} 150\.5/);
    assert.equal(values(it)[4], `${name}_count{operation="Version"} 101`);
    now += limits.metricSamplesMs + 1;
    assert.equal(values(it)[0], `${name}{operation="Version",quantile="0.5"} NaN`);
  });

  it('escapes what strangers put into labels, and cuts it', () => {
    const it = with_('image_layer_reuse_total');
    it.add('image_layer_reuse_total', ['a"\\\n\ud800']);
    it.add('image_layer_reuse_total', ['a"\\\n\ud801']);
    it.add('image_layer_reuse_total', ['x'.repeat(10_000)]);
    it.add('image_layer_reuse_total', ['x'.repeat(20_000)]);
    assert.deepEqual(values(it), [
      'container_runtime_crio_image_layer_reuse_total{name="a\\"\\\\\\n\ufffd"} 2',
      `container_runtime_crio_image_layer_reuse_total{name="${'x'.repeat(limits.metricLabelChars)}"} 2`,
    ]);
  });

  it('does not grow without end: what comes after the first thousand is counted as other', () => {
    const it = with_('image_layer_reuse_total');
    for (let each = 0; each < limits.metricSeriesCount + 50; each++) it.add('image_layer_reuse_total', [`i${each}`]);
    it.add('image_layer_reuse_total', ['i0']);
    const lines = values(it);
    assert.lengthOf(lines, limits.metricSeriesCount + 1);
    assert.include(lines[0], '{name="i0"} 2');
    assert.equal(lines.at(-1), 'container_runtime_crio_image_layer_reuse_total{name="other"} 50');
  });

  it('keeps so many durations of an RPC and no more', () => {
    const it = with_('operations_latency_seconds_total');
    for (let each = 0; each < limits.metricSamplesCount; each++)
      it.observe('operations_latency_seconds_total', ['Version'], 9);
    for (let each = 0; each < limits.metricSamplesCount; each++)
      it.observe('operations_latency_seconds_total', ['Version'], 1);
    assert.match(values(it)[2] ?? '', /quantile="0\.99"\} 1$/);
  });

  it('leaves out what was not asked for', () => {
    const it = new Registry(seriesOf(['operations_total']));
    it.add('operations_errors_total', ['Version']);
    it.observe('image_pulls_layer_size', [], 1);
    assert.notInclude(it.text(), 'operations_errors_total');
    assert.notInclude(it.text(), 'image_pulls_layer_size');
    assert.isTrue(it.has('operations_total'));
    assert.include(it.text(), 'berth_clean_ups_pending 0');
  });
});

import { assert } from 'chai';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { ground, op, until } from '../../pkg/pod/fake-ground.ts';
import type { ImageLayer } from '../../pkg/ports/image.ts';
import type { NetworkPlugin, PodNetworkRequest } from '../../pkg/ports/network.ts';
import { methods } from '../codec.ts';
import type { CallFailure, CallListener, WatchedCall } from '../watch.ts';
import { countCalls, countEnds, countPulls, timeNetwork } from './counting.ts';
import { Registry } from './registry.ts';
import { scrape, type ScrapeSources } from './scrape.ts';
import { SERIES, type SeriesKey } from './series.ts';

const all = (): Registry => new Registry(new Set(Object.keys(SERIES) as SeriesKey[]));

/** Values of CRI-O's series and of ours that begin so, without what they have in common. */
function values(text: string, begins: string): string[] {
  return text
    .split('\n')
    .filter((line) => line.replace('container_runtime_crio_', '').startsWith(begins))
    .map((line) => line.replace('container_runtime_crio_', ''));
}

describe('cri/metrics/counting', () => {
  const called = (method: WatchedCall['method'], registry: Registry): CallListener | undefined =>
    countCalls(registry)({ method, id: '1', ids: {}, metadata: { get: () => [] } });
  const failure = (more: Partial<CallFailure> = {}): CallFailure => ({
    error: new RuntimeError('DeadlineExceeded', 'late'),
    code: 'DeadlineExceeded',
    stage: 'cni add: bridge',
    ...more,
  });

  it('counts calls and failures by RPC, and how long they took; streams are none of CRI-O’s operations', () => {
    const registry = all();
    called(methods.version as WatchedCall['method'], registry)?.ended(undefined);
    called(methods.version as WatchedCall['method'], registry)?.ended(failure());
    assert.isUndefined(called(methods.getContainerEvents as WatchedCall['method'], registry));
    const text = registry.text();
    assert.deepEqual(values(text, 'operations_total'), ['operations_total{operation="Version"} 2']);
    assert.deepEqual(values(text, 'operations_errors_total'), ['operations_errors_total{operation="Version"} 1']);
    assert.match(values(text, 'operations_latency_seconds{')[0] ?? '', /^.*\{operation="Version"\} [0-9.e-]+$/);
    assert.include(values(text, 'operations_latency_seconds_total').at(-1), '_count{operation="Version"} 2');
  });

  it('counts what its client has waited for long enough as stalled, at its stage, each time', () => {
    const registry = all();
    called(methods.runPodSandbox as WatchedCall['method'], registry)?.ended(failure());
    called(methods.runPodSandbox as WatchedCall['method'], registry)?.ended(failure({ code: 'Cancelled' }));
    called(methods.runPodSandbox as WatchedCall['method'], registry)?.ended(failure({ code: 'Internal' }));
    called(methods.stopPodSandbox as WatchedCall['method'], registry)?.ended(failure());
    assert.deepEqual(values(registry.text(), 'resources_stalled'), [
      'resources_stalled_at_stage{stage="sandbox network creation"} 2',
    ]);
  });

  it('counts pulls, and layers by size and type', () => {
    const registry = all();
    const pulls = countPulls(registry);
    const mediaType = 'application/vnd.oci.image.layer.v1.tar+gzip';
    const layer = { digest: 'sha256:ab', mediaType, sizeBytes: 2_000_000n } as ImageLayer;
    pulls.layer(layer, 'downloaded', 'r/a:1');
    pulls.layer(layer, 'reused', 'r/a:1');
    pulls.ended();
    pulls.ended(new RuntimeError('NotFound', 'x'));
    const text = registry.text();
    assert.deepEqual(
      ['image_pulls_b', 'image_pulls_sk', 'image_layer_reuse', 'image_pulls_su', 'image_pulls_f'].flatMap((each) =>
        values(text, each),
      ),
      [
        `image_pulls_bytes_total{mediatype="${mediaType}",size=">1 MiB"} 2e+06`,
        'image_pulls_skipped_bytes_total{size=">1 MiB"} 2e+06',
        'image_layer_reuse_total{name="r/a:1@sha256:ab"} 1',
        'image_pulls_success_total 1',
        'image_pulls_failure_total{error="NOT_FOUND"} 1',
      ],
    );
    assert.include(values(text, 'image_pulls_layer_size_count')[0], ' 1');
  });

  it('tells how long plugins, and the whole network, took; and hides nothing of the network', async () => {
    const registry = all();
    const seen: string[] = [];
    const network = {
      inUse: undefined,
      ready: { ok: true, why: '' },
      async add(own: { stage(what: string): void }) {
        own.stage('cni add: bridge');
        own.stage('host ports: map');
        return { ips: ['10.0.0.1'], interfaceName: 'eth0' };
      },
    } as unknown as NetworkPlugin;
    const timed = timeNetwork(network, registry);
    const made = await timed.add({ ...op(), stage: (what) => seen.push(what) }, {} as PodNetworkRequest);
    assert.deepEqual([made.ips, seen, timed.ready.ok], [['10.0.0.1'], ['cni add: bridge', 'host ports: map'], true]);
    assert.deepEqual(
      values(registry.text(), 'operations_latency_seconds{').map((line) => line.replace(/ .*/, '')),
      ['network_setup_pod', 'network_setup_overall'].map((each) => `operations_latency_seconds{operation="${each}"}`),
    );
  });

  describe('of containers', () => {
    const at = ground();
    const name = 'k8s_app_web_default_uid-web_0';
    const sources = (more: Partial<ScrapeSources> = {}): ScrapeSources => ({
      version: '1.2.3',
      operations: () => [],
      containers: () => at.mind.containers.list(),
      podOf: (id) => at.mind.pods.find(id),
      eventsDropped: () => 0,
      networkTurns: () => 0,
      cleanUps: () => at.mind.cleanUpsPending(),
      spansDropped: () => 0,
      defaultRuntime: () => 'crun',
      defunctProcesses: async () => 0,
      loopDelay: () => ({ p50Ms: null, p99Ms: null, maxMs: null, busyMaxMs: null }),
      ...more,
    });

    it('counts those that ran out of memory, by name until they are removed', async () => {
      const registry = all();
      at.mind.subscribe(countEnds(registry, sources().podOf));
      const { id } = await at.running();
      await at.node.node.exit(id, 137, { oomKilled: true });
      await until(() => at.mind.containers.get(id).state.phase === 'exited');
      assert.deepEqual(values(registry.text(), 'containers_oom'), [
        'containers_oom_total 1',
        `containers_oom_count_total{name="${name}"} 1`,
      ]);
      await at.mind.containers.remove(op(), id);
      await until(() => values(registry.text(), 'containers_oom').length === 1);
      assert.deepEqual(values(registry.text(), 'containers_oom'), ['containers_oom_total 1']);
    });

    it('tells of those that have lost their monitor, as long as they are there', async () => {
      const registry = all();
      const { id } = await at.running();
      await at.node.node.killMonitor(id);
      await until(() => at.mind.containers.get(id).monitorLost !== null);
      assert.deepEqual(values(await scrape(registry, sources()), 'containers_stopped'), [
        `containers_stopped_monitor_count{name="${name}"} 1`,
      ]);
      await at.mind.containers.remove(op(), id);
      await until(() => at.mind.containers.find(id) === undefined);
      assert.deepEqual(values(await scrape(registry, sources()), 'containers_stopped'), []);
    });

    it('tells what goes on now, by stage, and what was looked up', async () => {
      const registry = all();
      const row = { ids: {}, ageNanos: 0n, stageAgeNanos: 0n, clientGone: false, stage: 'cni add: bridge' };
      const operations = [
        { ...row, rpc: 'RunPodSandbox', requestId: '1' },
        { ...row, rpc: 'RunPodSandbox', requestId: '2' },
        { ...row, rpc: `clean-up of ${'0'.repeat(64)}, again`, requestId: '', stage: '' },
      ];
      const loopDelay = (): ReturnType<ScrapeSources['loopDelay']> => ({
        p50Ms: 1,
        p99Ms: 20,
        maxMs: 40,
        busyMaxMs: 3,
      });
      const looked = {
        networkTurns: () => 2,
        cleanUps: () => 3,
        spansDropped: () => 4,
        defunctProcesses: async () => 5,
      };
      const text = await scrape(registry, sources({ operations: () => operations, loopDelay, ...looked }));
      assert.deepEqual(values(text, 'berth_'), [
        'berth_operations_in_flight{operation="RunPodSandbox",stage="cni add: bridge"} 2',
        'berth_operations_in_flight{operation="clean-up of again",stage=""} 1',
        'berth_event_loop_delay_seconds{quantile="0.5"} 0.001',
        'berth_event_loop_delay_seconds{quantile="0.99"} 0.02',
        'berth_event_loop_delay_seconds{quantile="1"} 0.04',
        'berth_network_turns_waiting 2',
        'berth_clean_ups_pending 3',
        'berth_spans_dropped_total 4',
        values(text, 'berth_heap_used')[0],
        'berth_build_info{version="1.2.3"} 1',
      ]);
      assert.deepEqual(values(text, 'default_runtime'), ['default_runtime{runtime="crun"} 1']);
      assert.deepEqual(values(text, 'processes_defunct'), ['processes_defunct 5']);
      const after = await scrape(registry, sources({ defaultRuntime: () => 'runc' }));
      assert.deepEqual(values(after, 'berth_operations'), []);
      assert.deepEqual(values(after, 'default_runtime'), ['default_runtime{runtime="runc"} 1']);
    });
  });
});

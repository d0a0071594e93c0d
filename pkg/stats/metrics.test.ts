import { assert } from 'chai';
import { recordedTree } from './fake-kernel.ts';
import { type ContainerFacts, metricTable } from './metrics.ts';
import { fileSet, FilesRead } from './files.ts';

/** The names that critest wants (cri-tools, pkg/validate/pod.go). */
const WANTED =
  `blkio_device_usage_total cpu_cfs_periods_total cpu_cfs_throttled_periods_total cpu_cfs_throttled_seconds_total
  cpu_system_seconds_total cpu_usage_seconds_total cpu_user_seconds_total file_descriptors fs_inodes_free
  fs_inodes_total fs_limit_bytes fs_reads_bytes_total fs_reads_total fs_usage_bytes fs_writes_bytes_total
  fs_writes_total hugetlb_max_usage_bytes hugetlb_usage_bytes last_seen memory_cache memory_failcnt
  memory_failures_total memory_kernel_usage memory_mapped_file memory_max_usage_bytes memory_rss memory_swap
  memory_usage_bytes memory_working_set_bytes network_receive_bytes_total network_receive_errors_total
  network_receive_packets_dropped_total network_receive_packets_total network_transmit_bytes_total
  network_transmit_errors_total network_transmit_packets_dropped_total network_transmit_packets_total
  oom_events_total pressure_cpu_stalled_seconds_total pressure_cpu_waiting_seconds_total
  pressure_io_stalled_seconds_total pressure_io_waiting_seconds_total pressure_memory_stalled_seconds_total
  pressure_memory_waiting_seconds_total processes sockets spec_cpu_period spec_cpu_quota spec_cpu_shares
  spec_memory_limit_bytes spec_memory_reservation_limit_bytes spec_memory_swap_limit_bytes start_time_seconds
  threads threads_max ulimits_soft`
    .split(/\s+/)
    .map((name) => `container_${name}`);

const LABELS = { id: '/pod/c', name: 'c0ffee', image: 'busybox', namespace: 'default', pod: 'web', container: 'main' };
const SECOND = 1_000_000_000n;

async function facts(name: 'hybrid' | 'v2'): Promise<ContainerFacts> {
  const tree = recordedTree(name);
  const set = fileSet(tree.layout, 'metrics', ['2MB']);
  const reading = set.parse(new FilesRead(await tree.read(set.files(tree))), tree, 5n * SECOND);
  if (reading === undefined) throw new Error('the tree is empty');
  return {
    now: 100n * SECOND,
    startedAt: 40n * SECOND,
    sample: { ...reading, nanoCores: undefined },
    layer: { usedBytes: 4_096n, inodesUsed: 2n, at: 1n },
    resources: {
      cpuPeriod: 100_000n,
      cpuQuota: 20_000n,
      cpuShares: 512n,
      memoryLimitInBytes: 67_108_864n,
      memorySwapLimitInBytes: -1n,
      oomScoreAdj: 0n,
      cpusetCpus: '',
      cpusetMems: '',
      hugepageLimits: [],
      unified: { 'memory.min': '1024' },
    },
    fileSystem: { bytes: 10n, inodes: 9n, inodesFree: 8n },
    descriptors: 12,
    sockets: 3,
    openFilesMax: 1_024n,
    deviceName: (device) => `/dev/${device}`,
  };
}

describe('CRI metrics', () => {
  const { descriptors, container: containerMetrics, pod: podMetrics } = metricTable([]);

  it('are the 56 of critest, each described, with labels', () => {
    assert.deepEqual(
      descriptors.map((each) => each.name),
      WANTED.toSorted(),
    );
    assert.lengthOf(descriptors, 56);
    for (const { name, help, labelKeys } of descriptors) {
      assert.isNotEmpty(help, name);
      assert.deepEqual(labelKeys.slice(0, 6), ['id', 'name', 'image', 'namespace', 'pod', 'container'], name);
    }
  });

  it('are those of the groups that included_pod_metrics has, beside what is of none', () => {
    const names = (...groups: readonly string[]): string[] =>
      metricTable(groups).descriptors.map(({ name }) => name.replace('container_', ''));
    assert.deepEqual(names('oom', 'disk'), [
      ...['fs_inodes_free', 'fs_inodes_total', 'fs_limit_bytes', 'fs_usage_bytes'],
      ...['last_seen', 'oom_events_total'],
    ]);
    assert.deepEqual(names('all'), names());
    const parts = ['cpu', 'hugetlb', 'memory', 'network', 'oom', 'process', 'spec', 'disk', 'diskIO', 'pressure'];
    assert.deepEqual([...new Set(parts.flatMap((each) => names(each)))].sort(), names());
    const interfaces = [
      {
        name: 'e',
        rxBytes: 1n,
        rxPackets: 1n,
        rxErrors: 1n,
        rxDropped: 1n,
        txBytes: 1n,
        txPackets: 1n,
        txErrors: 1n,
        txDropped: 1n,
      },
    ];
    assert.deepEqual(metricTable(['cpu']).pod(LABELS, { interfaces }), []);
    assert.lengthOf(metricTable(['network']).pod(LABELS, { interfaces }), 8);
  });

  for (const name of ['hybrid', 'v2'] as const) {
    it(`have a value for every label that was described, and only described ones (${name})`, async () => {
      const keys = new Map(descriptors.map((each) => [each.name, each.labelKeys.length]));
      const link = {
        name: 'eth0',
        rxBytes: 1n,
        rxPackets: 2n,
        rxErrors: 3n,
        rxDropped: 4n,
        txBytes: 5n,
        txPackets: 6n,
        txErrors: 7n,
        txDropped: 8n,
      };
      const all = [...containerMetrics(LABELS, await facts(name)), ...podMetrics(LABELS, { interfaces: [link] })];
      for (const each of all) assert.equal(each.labelValues.length, keys.get(each.name), each.name);
      const silent = WANTED.filter((each) => !all.some((metric) => metric.name === each));
      // v1 tells no device without input or output, v2 no maximum of huge pages.
      const devices = [
        'container_blkio_device_usage_total',
        'container_fs_reads_bytes_total',
        'container_fs_reads_total',
        'container_fs_writes_bytes_total',
        'container_fs_writes_total',
      ];
      assert.deepEqual(silent, name === 'hybrid' ? devices : ['container_hugetlb_max_usage_bytes']);
    });
  }

  it('say what was read', async () => {
    const all = containerMetrics(LABELS, await facts('v2'));
    const shown = (name: string): string[] =>
      all
        .filter((each) => each.name === `container_${name}`)
        .map((each) => [...each.labelValues.slice(6), `${each.metricType} ${each.value?.value}`].join(' '));
    assert.deepEqual(shown('cpu_usage_seconds_total'), ['total COUNTER 1']);
    assert.deepEqual(shown('memory_working_set_bytes'), ['GAUGE 1089536']);
    assert.deepEqual(shown('memory_failures_total'), [
      'pgfault container COUNTER 1256',
      'pgmajfault container COUNTER 1',
      'pgfault hierarchy COUNTER 1256',
      'pgmajfault hierarchy COUNTER 1',
    ]);
    assert.deepEqual(shown('fs_writes_bytes_total'), ['/dev/8:16 COUNTER 8388608', '/dev/8:0 COUNTER 0']);
    assert.deepEqual(shown('blkio_device_usage_total').slice(0, 2), [
      '/dev/8:16 8 16 Read COUNTER 1024',
      '/dev/8:16 8 16 Write COUNTER 8388608',
    ]);
    assert.deepEqual(shown('pressure_cpu_waiting_seconds_total'), ['COUNTER 2']);
    assert.deepEqual(shown('spec_cpu_quota'), ['GAUGE 20000']);
    assert.deepEqual(shown('spec_memory_swap_limit_bytes'), ['GAUGE 0']);
    assert.deepEqual(shown('spec_memory_reservation_limit_bytes'), ['GAUGE 1024']);
    assert.deepEqual(shown('start_time_seconds'), ['GAUGE 40']);
    assert.deepEqual(shown('last_seen'), ['GAUGE 100']);
    assert.deepEqual(shown('threads_max'), ['GAUGE 0']);
    assert.deepEqual(shown('ulimits_soft'), ['max_open_files GAUGE 1024']);
    assert.deepEqual(shown('oom_events_total'), ['COUNTER 1']);
    assert.isTrue(all.every((each) => each.timestamp === 0n));
    assert.deepEqual(all[0]?.labelValues.slice(0, 6), ['/pod/c', 'c0ffee', 'busybox', 'default', 'web', 'main']);
  });

  it('have no point for what is not there', async () => {
    const all = containerMetrics(LABELS, {
      ...(await facts('v2')),
      openFilesMax: -1n,
      resources: undefined,
      fileSystem: undefined,
    });
    const names = all.map((each) => each.name);
    for (const name of ['container_ulimits_soft', 'container_spec_cpu_quota', 'container_fs_limit_bytes'])
      assert.notInclude(names, name);
    assert.deepEqual(all.find((each) => each.name === 'container_spec_memory_limit_bytes')?.value, { value: 0n });
  });
});

/**
 * PURE. The metrics of CRI: the names that cAdvisor made customary, so that dashboards and alerts work without it. One
 * table; a row is a descriptor and where its value comes from.
 *
 * Values are unsigned whole numbers by the API, also those called seconds. Labels are cAdvisor's: `id` is the cgroup,
 * `name` the id of the container. What belongs to the pod, its network, is told once, for a container called POD.
 */
import type { LinuxContainerResources, Metric, MetricDescriptor, MetricType } from '../cri-api/types.ts';
import type { MeasuredLayer } from './layers.ts';
import { workingSetOf } from './messages.ts';
import type { DeviceIo, InterfaceCounters, Pressure } from './reading.ts';
import type { Sample } from './sampler.ts';

/** Labels that every metric has. */
export interface MetricLabels {
  /** The cgroup's path. */
  readonly id: string;
  readonly name: string;
  readonly image: string;
  readonly namespace: string;
  readonly pod: string;
  readonly container: string;
}

/** All that a container's metrics are made of. */
export interface ContainerFacts {
  /** Nanoseconds since the epoch. */
  readonly now: bigint;
  readonly startedAt: bigint;
  readonly sample: Sample;
  readonly resources: LinuxContainerResources | undefined;
  readonly layer: MeasuredLayer | undefined;
  /** The file system that the writable layer is on; undefined if it does not answer. */
  readonly fileSystem: { readonly bytes: bigint; readonly inodes: bigint; readonly inodesFree: bigint } | undefined;
  readonly descriptors: number;
  readonly sockets: number;
  /** Soft limit of open files of the first process; -1n for unlimited. */
  readonly openFilesMax: bigint | undefined;
  /** `/dev/sda` for `8:0`. */
  readonly deviceName: (device: string) => string;
}

/** All that a pod's own metrics are made of. */
export interface PodFacts {
  readonly interfaces: readonly InterfaceCounters[];
}

/** A value with those of its additional labels; undefined is no point at all. */
type Point = readonly [value: bigint | undefined, ...labels: string[]];

interface Row<Facts> {
  readonly descriptor: MetricDescriptor;
  readonly type: MetricType;
  readonly points: (facts: Facts) => readonly Point[];
}

const BASE_KEYS = [
  'id',
  'name',
  'image',
  'namespace',
  'pod',
  'container',
] as const satisfies readonly (keyof MetricLabels)[];
const NO_LABELS: readonly string[] = [];
const SECOND = 1_000_000_000n;

function counter<F = ContainerFacts>(name: string, help: string, points: Row<F>['points'], labels = NO_LABELS): Row<F> {
  return { descriptor: { name, help, labelKeys: [...BASE_KEYS, ...labels] }, type: 'COUNTER', points };
}
function gauge(
  name: string,
  help: string,
  points: Row<ContainerFacts>['points'],
  labels = NO_LABELS,
): Row<ContainerFacts> {
  return { descriptor: { name, help, labelKeys: [...BASE_KEYS, ...labels] }, type: 'GAUGE', points };
}

const CONTAINER_ROWS: readonly Row<ContainerFacts>[] = [
  counter(
    'container_blkio_device_usage_total',
    'Bytes moved to and from a block device.',
    ({ sample, deviceName }) =>
      (sample.devices ?? []).flatMap((each): Point[] => {
        const [major = '', minor = ''] = each.device.split(':');
        return [
          [each.readBytes, deviceName(each.device), major, minor, 'Read'],
          [each.writeBytes, deviceName(each.device), major, minor, 'Write'],
        ];
      }),
    ['device', 'major', 'minor', 'operation'],
  ),

  counter('container_cpu_cfs_periods_total', 'Periods in which a processor quota was in force.', ({ sample }) => [
    [sample.periods],
  ]),
  counter(
    'container_cpu_cfs_throttled_periods_total',
    'Periods in which the processor quota was used up.',
    ({ sample }) => [[sample.throttledPeriods]],
  ),
  counter(
    'container_cpu_cfs_throttled_seconds_total',
    'Seconds for which a used-up processor quota kept tasks waiting.',
    ({ sample }) => [[seconds(sample.throttledNanos)]],
  ),
  counter('container_cpu_system_seconds_total', 'Processor seconds spent in the kernel.', ({ sample }) => [
    [seconds(sample.systemNanos)],
  ]),
  counter(
    'container_cpu_usage_seconds_total',
    'Processor seconds spent.',
    ({ sample }) => [[seconds(sample.cpuNanos), 'total']],
    ['cpu'],
  ),
  counter('container_cpu_user_seconds_total', 'Processor seconds spent outside the kernel.', ({ sample }) => [
    [seconds(sample.userNanos)],
  ]),

  gauge('container_file_descriptors', 'Open file descriptors of all processes together.', ({ descriptors }) => [
    [BigInt(descriptors)],
  ]),
  gauge('container_fs_inodes_free', 'Free inodes of the file system under the writable layer.', ({ fileSystem }) => [
    [fileSystem?.inodesFree],
  ]),
  gauge('container_fs_inodes_total', 'Inodes of the file system under the writable layer.', ({ fileSystem }) => [
    [fileSystem?.inodes],
  ]),
  gauge('container_fs_limit_bytes', 'Size of the file system under the writable layer.', ({ fileSystem }) => [
    [fileSystem?.bytes],
  ]),
  counter(
    'container_fs_reads_bytes_total',
    'Bytes read from a block device.',
    perDevice((each) => each.readBytes),
    ['device'],
  ),
  counter(
    'container_fs_reads_total',
    'Reads from a block device.',
    perDevice((each) => each.reads),
    ['device'],
  ),
  gauge('container_fs_usage_bytes', 'Bytes in the writable layer.', ({ layer }) => [[layer?.usedBytes]]),
  counter(
    'container_fs_writes_bytes_total',
    'Bytes written to a block device.',
    perDevice((each) => each.writeBytes),
    ['device'],
  ),
  counter(
    'container_fs_writes_total',
    'Writes to a block device.',
    perDevice((each) => each.writes),
    ['device'],
  ),

  gauge(
    'container_hugetlb_max_usage_bytes',
    'Most bytes in huge pages so far.',
    ({ sample }) => (sample.hugepages ?? []).map((each) => [each.maxBytes, each.size]),
    ['pagesize'],
  ),
  gauge(
    'container_hugetlb_usage_bytes',
    'Bytes in huge pages.',
    ({ sample }) => (sample.hugepages ?? []).map((each) => [each.bytes, each.size]),
    ['pagesize'],
  ),

  gauge('container_last_seen', 'When the container was last seen, in seconds since the epoch.', ({ now }) => [
    [now / SECOND],
  ]),

  gauge('container_memory_cache', 'Bytes in the page cache.', ({ sample }) => [[sample.cache]]),
  counter('container_memory_failcnt', 'How often the memory limit was in the way.', ({ sample }) => [
    [sample.limitHits],
  ]),
  counter(
    'container_memory_failures_total',
    'Page faults.',
    ({ sample }) =>
      ['container', 'hierarchy'].flatMap((scope): Point[] => [
        [sample.pageFaults, 'pgfault', scope],
        [sample.majorPageFaults, 'pgmajfault', scope],
      ]),
    ['failure_type', 'scope'],
  ),
  gauge('container_memory_kernel_usage', 'Bytes that the kernel uses for it.', ({ sample }) => [[sample.kernelMemory]]),
  gauge('container_memory_mapped_file', 'Bytes of files that are mapped.', ({ sample }) => [[sample.mappedFile]]),
  gauge('container_memory_max_usage_bytes', 'Most bytes of memory in use so far.', ({ sample }) => [
    [sample.memoryPeak],
  ]),
  gauge('container_memory_rss', 'Bytes of anonymous memory.', ({ sample }) => [[sample.rss]]),
  gauge('container_memory_swap', 'Bytes in swap.', ({ sample }) => [[sample.swapBytes ?? 0n]]),
  gauge('container_memory_usage_bytes', 'Bytes of memory in use, whenever they were last touched.', ({ sample }) => [
    [sample.memoryBytes],
  ]),
  gauge('container_memory_working_set_bytes', 'Bytes of memory in use and not easily given up.', ({ sample }) => [
    [sample.memoryBytes === undefined ? undefined : workingSetOf(sample)],
  ]),

  counter('container_oom_events_total', 'Processes killed for lack of memory.', ({ sample }) => [[sample.oomKills]]),

  counter(
    'container_pressure_cpu_stalled_seconds_total',
    'Seconds in which no task went on for lack of a processor.',
    ({ sample }) => [[stalled(sample.cpuPressure)]],
  ),
  counter(
    'container_pressure_cpu_waiting_seconds_total',
    'Seconds in which a task waited for a processor.',
    ({ sample }) => [[waiting(sample.cpuPressure)]],
  ),
  counter(
    'container_pressure_io_stalled_seconds_total',
    'Seconds in which no task went on for lack of input or output.',
    ({ sample }) => [[stalled(sample.ioPressure)]],
  ),
  counter(
    'container_pressure_io_waiting_seconds_total',
    'Seconds in which a task waited for input or output.',
    ({ sample }) => [[waiting(sample.ioPressure)]],
  ),
  counter(
    'container_pressure_memory_stalled_seconds_total',
    'Seconds in which no task went on for lack of memory.',
    ({ sample }) => [[stalled(sample.memoryPressure)]],
  ),
  counter(
    'container_pressure_memory_waiting_seconds_total',
    'Seconds in which a task waited for memory.',
    ({ sample }) => [[waiting(sample.memoryPressure)]],
  ),

  gauge('container_processes', 'Processes.', ({ sample }) => [
    [sample.pids === undefined ? undefined : BigInt(sample.pids.length)],
  ]),
  gauge('container_sockets', 'Open sockets of all processes together.', ({ sockets }) => [[BigInt(sockets)]]),

  gauge('container_spec_cpu_period', 'Length of a quota period, in microseconds.', ({ resources }) => [
    [amount(resources?.cpuPeriod)],
  ]),
  gauge(
    'container_spec_cpu_quota',
    'Processor quota in a period, in microseconds; absent without one.',
    ({ resources }) => [[(resources?.cpuQuota ?? 0n) > 0n ? resources?.cpuQuota : undefined]],
  ),
  gauge('container_spec_cpu_shares', 'Processor shares.', ({ resources }) => [[amount(resources?.cpuShares)]]),
  gauge('container_spec_memory_limit_bytes', 'Memory limit; 0 for none.', ({ resources }) => [
    [amount(resources?.memoryLimitInBytes)],
  ]),
  gauge('container_spec_memory_reservation_limit_bytes', 'Memory that is kept for it; 0 for none.', ({ resources }) => [
    [reservation(resources)],
  ]),
  gauge('container_spec_memory_swap_limit_bytes', 'Limit of memory and swap together; 0 for none.', ({ resources }) => [
    [amount(resources?.memorySwapLimitInBytes)],
  ]),

  gauge(
    'container_start_time_seconds',
    'When the container was started, in seconds since the epoch.',
    ({ startedAt }) => [[startedAt / SECOND]],
  ),
  gauge('container_threads', 'Threads and processes together.', ({ sample }) => [[sample.tasks]]),
  gauge('container_threads_max', 'Limit of threads and processes together; 0 for none.', ({ sample }) => [
    [sample.tasksMax ?? 0n],
  ]),
  // The API has no sign: what cAdvisor calls -1, unlimited, is left out.
  gauge(
    'container_ulimits_soft',
    'Soft limits of the first process.',
    ({ openFilesMax = -1n }) => [[openFilesMax < 0n ? undefined : openFilesMax, 'max_open_files']],
    ['ulimit'],
  ),
];

const POD_ROWS: readonly Row<PodFacts>[] = [
  network('container_network_receive_bytes_total', 'Bytes received.', (each) => each.rxBytes),
  network('container_network_receive_errors_total', 'Errors while receiving.', (each) => each.rxErrors),
  network(
    'container_network_receive_packets_dropped_total',
    'Packets dropped while receiving.',
    (each) => each.rxDropped,
  ),
  network('container_network_receive_packets_total', 'Packets received.', (each) => each.rxPackets),
  network('container_network_transmit_bytes_total', 'Bytes sent.', (each) => each.txBytes),
  network('container_network_transmit_errors_total', 'Errors while sending.', (each) => each.txErrors),
  network(
    'container_network_transmit_packets_dropped_total',
    'Packets dropped while sending.',
    (each) => each.txDropped,
  ),
  network('container_network_transmit_packets_total', 'Packets sent.', (each) => each.txPackets),
];

/** What of a name tells its group, by the names that CRI-O's `included_pod_metrics` has for groups. */
const GROUPS: Readonly<Record<string, RegExp>> = {
  cpu: /^container_cpu_/,
  hugetlb: /^container_hugetlb_/,
  memory: /^container_memory_/,
  network: /^container_network_/,
  oom: /^container_oom_/,
  process: /^container_(file_descriptors|processes|sockets|threads|ulimits)/,
  spec: /^container_(spec_|start_time_)/,
  disk: /^container_fs_(inodes|limit|usage)/,
  diskIO: /^container_(fs_(reads|writes|io|sector)|blkio)/,
  pressure: /^container_pressure_/,
};

/** The metrics of a node: all, or some groups of them. */
export interface MetricTable {
  /** What there is, in the order of the names; the same for the life of the process. */
  readonly descriptors: readonly MetricDescriptor[];
  /** The metrics of one container, in the order of the table. */
  container(labels: MetricLabels, facts: ContainerFacts): Metric[];
  /** The metrics of what all containers of a pod share. */
  pod(labels: MetricLabels, facts: PodFacts): Metric[];
}

/**
 * The metrics of these groups (`included_pod_metrics`); none and `all` are all. What is of no group, such as when a
 * container was seen last, is always there, as with CRI-O.
 */
export function metricTable(groups: readonly string[]): MetricTable {
  const wanted = ({ descriptor: { name } }: { readonly descriptor: MetricDescriptor }): boolean => {
    const group = Object.entries(GROUPS).find(([, pattern]) => pattern.test(name))?.[0];
    return group === undefined || groups.length === 0 || groups.includes('all') || groups.includes(group);
  };
  const containerRows = CONTAINER_ROWS.filter(wanted);
  const podRows = POD_ROWS.filter(wanted);
  return {
    descriptors: [...containerRows, ...podRows].map((row) => row.descriptor).sort((a, b) => (a.name < b.name ? -1 : 1)),
    container: (labels, facts) => metricsOf(containerRows, labels, facts),
    pod: (labels, facts) => metricsOf(podRows, labels, facts),
  };
}

/** Read for this request: the timestamp is 0 by the API. */
function metricsOf<F>(rows: readonly Row<F>[], labels: MetricLabels, facts: F): Metric[] {
  const base = BASE_KEYS.map((key) => labels[key]);
  return rows.flatMap(({ descriptor: { name }, type, points }) =>
    points(facts).flatMap(([value, ...more]) => {
      return value === undefined
        ? []
        : [
            {
              name,
              timestamp: 0n,
              metricType: type,
              labelValues: more.length === 0 ? base : [...base, ...more],
              value: { value },
            },
          ];
    }),
  );
}

function perDevice(value: (device: DeviceIo) => bigint): Row<ContainerFacts>['points'] {
  return ({ sample, deviceName }) => (sample.devices ?? []).map((each) => [value(each), deviceName(each.device)]);
}

function network(name: string, help: string, value: (counters: InterfaceCounters) => bigint): Row<PodFacts> {
  return counter<PodFacts>(name, help, ({ interfaces }) => interfaces.map((each) => [value(each), each.name]), [
    'interface',
  ]);
}

function seconds(nanos: bigint | undefined): bigint | undefined {
  return nanos === undefined ? undefined : nanos / SECOND;
}
function stalled(pressure: Pressure | undefined): bigint | undefined {
  return seconds(pressure?.full?.totalNanos);
}
function waiting(pressure: Pressure | undefined): bigint | undefined {
  return seconds(pressure?.some?.totalNanos);
}

/** CRI's -1 is "no limit", which is 0 in a metric. */
function amount(value: bigint | undefined): bigint {
  return value === undefined || value < 0n ? 0n : value;
}

/** What cAdvisor calls the reservation: memory.min, which CRI can only ask for in `unified`. */
function reservation(resources: LinuxContainerResources | undefined): bigint {
  const text = resources?.unified['memory.min'] ?? '';
  return /^\d{1,19}$/.test(text) ? BigInt(text) : 0n;
}

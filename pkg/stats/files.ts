/**
 * PURE. Which kernel files say what a cgroup uses, and what they say: one table for cgroup v1 and v2 alike. On a hybrid
 * node each controller is asked where it is, and pressure in the v2 hierarchy, which has it without any controller.
 *
 * Sources: Documentation/admin-guide/cgroup-v1/*.rst, cgroup-v2.rst, accounting/psi.rst, filesystems/proc.rst of the
 * kernel.
 */
import type { CgroupHierarchy, CgroupLayout, FilesIn, KernelFiles } from '../ports/kernel.ts';
import { cgroups } from '../sys/index.ts';
import {
  blkio,
  field,
  fields,
  ioStat,
  least,
  limit,
  micros,
  most,
  number,
  parseNetDev,
  pressure,
  type Span,
} from './parse.ts';
import { type Detail, type HugepageUse, includes, type InterfaceCounters, type Reading } from './reading.ts';

type Draft = { -readonly [K in keyof Reading]: Reading[K] };

interface Source {
  readonly version: 1 | 2;
  /** '' = any hierarchy of this version. */
  readonly controller: string;
  readonly file: string;
  readonly detail: Detail;
  /** The inner cgroup is asked as well. */
  readonly inner?: true;
  readonly take: (draft: Draft, file: Span) => void;
}

/**
 * What is read together: a cgroup (`/kubepods/pod1`) and a network namespace, by its path; one of them may be missing.
 */
export interface Place {
  readonly cgroup: string | undefined;
  /**
   * The cgroup below, without a slash, that the processes are in: crun leaves a scope to systemd and writes limits that
   * systemd has no property for into `container` below it. Undefined where they are in the cgroup itself.
   */
  readonly inner?: string | undefined;
  readonly netns?: string | undefined;
}

/** The files of every cgroup on this node, and how to read them. */
export interface FileSet {
  /** What to read. @throws InvalidArgument for a path that is none. */
  files(place: Place): FilesIn[];
  /** How many files those are. */
  count(place: Place): number;
  /** What the next of these files say; undefined if none of them is there. */
  parse(next: FilesRead, place: Place, at: bigint): Reading | undefined;
}

/** Files that were read, given out one after the other. */
export class FilesRead {
  readonly #files: KernelFiles;
  readonly #span: { text: string; from: number; to: number };
  #index = 0;

  constructor(files: KernelFiles) {
    this.#files = files;
    this.#span = { text: files.text, from: 0, to: 0 };
  }

  /** Where the next file lies, until the one after it is asked for; undefined for one that is not there. */
  next(): Span | undefined {
    const length = this.#files.lengths[this.#index++] ?? -1;
    if (length < 0) return undefined;
    this.#span.from = this.#span.to;
    this.#span.to += length;
    return this.#span;
  }
}

/** What to read on a node of this layout. `hugepageSizes` are `2MB` and the like. */
export function fileSet(layout: CgroupLayout, detail: Detail, hugepageSizes: readonly string[]): FileSet {
  const wanted = [...V1, ...V2, ...hugepageSizes.flatMap(hugepageSources)].filter((source) =>
    includes(detail, source.detail),
  );
  const groups = layout.hierarchies
    .map((hierarchy) => ({ hierarchy, sources: wanted.filter((source) => hierarchyFor(layout, source) === hierarchy) }))
    .filter(({ sources }) => sources.length > 0);
  const inner = groups
    .map(({ hierarchy, sources }) => ({ hierarchy, sources: sources.filter((source) => source.inner === true) }))
    .filter(({ sources }) => sources.length > 0);
  const takesOf = (all: typeof groups): Source['take'][] =>
    all.flatMap(({ sources }) => sources.map(({ take }) => take));
  const parts = [takesOf(groups), takesOf(inner), [takeInterfaces]];
  /** By which of the parts there are, a bit each: put together once, since every reading asks. */
  const combined = Array.from({ length: 1 << parts.length }, (_, bits) =>
    parts.flatMap((part, index) => ((bits >> index) & 1 ? part : [])),
  );
  const takes = (place: Place): readonly Source['take'][] =>
    combined[
      [place.cgroup, place.inner, place.netns].reduce((bits, part, index) => bits | (+(part !== undefined) << index), 0)
    ] ?? [];
  const filesIn = (all: typeof groups, cgroup: string): FilesIn[] =>
    all.map(({ hierarchy, sources }) => ({
      directory: cgroups.directoryOf(hierarchy, cgroup),
      names: sources.map(({ file }) => file).join('\n'),
    }));
  return {
    files: ({ cgroup, inner: below, netns }) => [
      ...(cgroup === undefined ? [] : filesIn(groups, cgroup)),
      ...(cgroup === undefined || below === undefined ? [] : filesIn(inner, `${cgroup}/${below}`)),
      ...(netns === undefined ? [] : [{ ...NET_DEV, netns }]),
    ],
    count: (place) => takes(place).length,
    parse(next, place, at) {
      const draft: Draft = { at };
      let found = false;
      for (const take of takes(place)) {
        const file = next.next();
        if (file === undefined) continue;
        take(draft, file);
        found = true;
      }
      return found ? draft : undefined;
    },
  };
}

/** Not /proc/net, which shows the namespace of the first thread. */
export const NET_DEV = { directory: '/proc/thread-self/net', names: 'dev' };

function takeInterfaces(draft: Draft, file: Span): void {
  draft.interfaces = parseNetDev(file);
}

/** The interfaces in the next file, a NET_DEV; none if it is not there. */
export function interfacesIn(next: FilesRead): InterfaceCounters[] {
  const file = next.next();
  return file === undefined ? [] : parseNetDev(file);
}

function hierarchyFor(layout: CgroupLayout, { version, controller }: Source): CgroupHierarchy | undefined {
  return layout.hierarchies.find(
    (each) => each.version === version && (controller === '' || each.controllers.includes(controller)),
  );
}

const V1: readonly Source[] = [
  v1('cpuacct', 'cpuacct.usage', 'container', (draft, file) => (draft.cpuNanos = number(file))),
  v1('cpuacct', 'cpuacct.usage_user', 'metrics', (draft, file) => (draft.userNanos = number(file))),
  v1('cpuacct', 'cpuacct.usage_sys', 'metrics', (draft, file) => (draft.systemNanos = number(file))),
  v1('cpu', 'cpu.stat', 'metrics', (draft, file) => {
    draft.periods = field(file, 'nr_periods');
    draft.throttledPeriods = field(file, 'nr_throttled');
    draft.throttledNanos = field(file, 'throttled_time');
  }),
  v1('memory', 'memory.usage_in_bytes', 'container', (draft, file) => (draft.memoryBytes = number(file))),
  v1('memory', 'memory.limit_in_bytes', 'container', (draft, file) => (draft.memoryLimit = limit(number(file)))),
  v1('memory', 'memory.stat', 'container', takeMemoryStatV1),
  v1('memory', 'memory.max_usage_in_bytes', 'metrics', (draft, file) => (draft.memoryPeak = number(file))),
  v1('memory', 'memory.kmem.usage_in_bytes', 'metrics', (draft, file) => (draft.kernelMemory = number(file))),
  v1('memory', 'memory.failcnt', 'metrics', (draft, file) => (draft.limitHits = number(file))),
  v1('memory', 'memory.oom_control', 'metrics', (draft, file) => (draft.oomKills = field(file, 'oom_kill'))),
  v1('pids', 'pids.current', 'pod', (draft, file) => (draft.tasks = number(file))),
  v1('pids', 'pids.max', 'metrics', (draft, file) => (draft.tasksMax = number(file))),
  v1(
    'pids',
    'cgroup.procs',
    'metrics',
    (draft, file) => (draft.pids = cgroups.parsePids(file.text.slice(file.from, file.to))),
  ),
  v1(
    'blkio',
    'blkio.throttle.io_service_bytes_recursive',
    'metrics',
    (draft, file) => (draft.devices = blkio(draft.devices, file, 'readBytes', 'writeBytes')),
  ),
  v1(
    'blkio',
    'blkio.throttle.io_serviced_recursive',
    'metrics',
    (draft, file) => (draft.devices = blkio(draft.devices, file, 'reads', 'writes')),
  ),
];

const V2: readonly Source[] = [
  v2('cpu', 'cpu.stat', 'container', (draft, file) => {
    draft.cpuNanos = micros(field(file, 'usage_usec'));
    draft.userNanos = micros(field(file, 'user_usec'));
    draft.systemNanos = micros(field(file, 'system_usec'));
    draft.periods = field(file, 'nr_periods');
    draft.throttledPeriods = field(file, 'nr_throttled');
    draft.throttledNanos = micros(field(file, 'throttled_usec'));
  }),
  v2('memory', 'memory.current', 'container', (draft, file) => (draft.memoryBytes = number(file))),
  inner(
    v2(
      'memory',
      'memory.max',
      'container',
      (draft, file) => (draft.memoryLimit = least(draft.memoryLimit, number(file))),
    ),
  ),
  v2('memory', 'memory.stat', 'container', takeMemoryStatV2),
  v2('memory', 'memory.swap.current', 'container', (draft, file) => (draft.swapBytes = number(file))),
  inner(
    v2(
      'memory',
      'memory.swap.max',
      'container',
      (draft, file) => (draft.swapLimit = least(draft.swapLimit, number(file))),
    ),
  ),
  v2('memory', 'memory.peak', 'metrics', (draft, file) => (draft.memoryPeak = number(file))),
  v2('memory', 'memory.events', 'metrics', (draft, file) => {
    draft.limitHits = field(file, 'max');
    draft.oomKills = field(file, 'oom_kill');
  }),
  v2('pids', 'pids.current', 'pod', (draft, file) => (draft.tasks = number(file))),
  inner(v2('pids', 'pids.max', 'metrics', (draft, file) => (draft.tasksMax = least(draft.tasksMax, number(file))))),
  inner(
    v2(
      'pids',
      'cgroup.procs',
      'metrics',
      (draft, file) =>
        (draft.pids = [...(draft.pids ?? []), ...cgroups.parsePids(file.text.slice(file.from, file.to))]),
    ),
  ),
  v2('io', 'io.stat', 'metrics', (draft, file) => (draft.devices = ioStat(file))),
  v2('', 'cpu.pressure', 'container', (draft, file) => (draft.cpuPressure = pressure(file))),
  v2('', 'memory.pressure', 'container', (draft, file) => (draft.memoryPressure = pressure(file))),
  v2('', 'io.pressure', 'container', (draft, file) => (draft.ioPressure = pressure(file))),
];

function v1(controller: string, file: string, detail: Detail, take: Source['take']): Source {
  return { version: 1, controller, file, detail, take };
}
function v2(controller: string, file: string, detail: Detail, take: Source['take']): Source {
  return { version: 2, controller, file, detail, take };
}

function inner(source: Source): Source {
  return { ...source, inner: true };
}

function hugepageSources(size: string): Source[] {
  const use = (draft: Draft, found: Partial<HugepageUse>): void => {
    const others = draft.hugepages ?? [];
    const known = others.find((each) => each.size === size) ?? { size, bytes: 0n, maxBytes: undefined };
    draft.hugepages = [...others.filter((each) => each.size !== size), { ...known, ...found }];
  };
  return [
    v1('hugetlb', `hugetlb.${size}.usage_in_bytes`, 'metrics', (draft, file) =>
      use(draft, { bytes: number(file) ?? 0n }),
    ),
    v1('hugetlb', `hugetlb.${size}.max_usage_in_bytes`, 'metrics', (draft, file) =>
      use(draft, { maxBytes: number(file) }),
    ),
    v2('hugetlb', `hugetlb.${size}.current`, 'metrics', (draft, file) => use(draft, { bytes: number(file) ?? 0n })),
  ];
}

/** `total_` fields count the cgroups below as well; those without it do not. */
function takeMemoryStatV1(draft: Draft, file: Span): void {
  const value = fields(file);
  // v1 limits memory and swap together.
  const memory = limit(value('hierarchical_memory_limit'));
  const both = limit(value('hierarchical_memsw_limit'));
  draft.swapLimit = both === undefined || memory === undefined ? undefined : most(0n, both - memory);
  draft.cache = value('total_cache');
  draft.rss = value('total_rss');
  draft.mappedFile = value('total_mapped_file');
  draft.swapBytes = value('total_swap');
  draft.pageFaults = value('total_pgfault');
  draft.majorPageFaults = value('total_pgmajfault');
  draft.inactiveFile = value('total_inactive_file');
}

function takeMemoryStatV2(draft: Draft, file: Span): void {
  const value = fields(file);
  draft.rss = value('anon');
  draft.cache = value('file');
  // Kernels before 5.18 name only the parts.
  draft.kernelMemory =
    value('kernel') ??
    ['kernel_stack', 'pagetables', 'percpu', 'sock', 'slab'].reduce((sum, name) => sum + (value(name) ?? 0n), 0n);
  draft.mappedFile = value('file_mapped');
  draft.inactiveFile = value('inactive_file');
  draft.pageFaults = value('pgfault');
  draft.majorPageFaults = value('pgmajfault');
}

/**
 * PURE. Which kernel files say what a cgroup uses, and what they say: one table for cgroup v1 and v2 alike. On a hybrid node each
 * controller is asked where it is, and pressure in the v2 hierarchy, which has it without any controller.
 *
 * Sources: Documentation/admin-guide/cgroup-v1/*.rst, cgroup-v2.rst, accounting/psi.rst, filesystems/proc.rst of the kernel.
 */
import { type CgroupHierarchy, type CgroupLayout, cgroupDirectory } from '../sys/index.ts';

/** `usage` is what statistics are made of; `all` adds what only metrics ask for. */
export type Detail = 'usage' | 'all';

/** What a cgroup and everything below it used; counters since it was made. What the kernel does not tell is undefined. */
export interface Reading {
  /** When it was read, in nanoseconds since the epoch. */
  readonly at: bigint;
  /** Processor time, in nanoseconds. */
  readonly cpuNanos?: bigint | undefined;
  readonly userNanos?: bigint | undefined;
  readonly systemNanos?: bigint | undefined;
  /** Periods in which a quota was in force, those in which it was used up, and for how long tasks waited then. */
  readonly periods?: bigint | undefined;
  readonly throttledPeriods?: bigint | undefined;
  readonly throttledNanos?: bigint | undefined;
  readonly memoryBytes?: bigint | undefined;
  /** The cgroup's own; undefined if there is none. */
  readonly memoryLimit?: bigint | undefined;
  readonly memoryPeak?: bigint | undefined;
  /** File pages that nobody has used lately: what working set leaves out. */
  readonly inactiveFile?: bigint | undefined;
  readonly rss?: bigint | undefined;
  readonly cache?: bigint | undefined;
  readonly mappedFile?: bigint | undefined;
  readonly kernelMemory?: bigint | undefined;
  readonly pageFaults?: bigint | undefined;
  readonly majorPageFaults?: bigint | undefined;
  /** How often the limit was in the way. */
  readonly limitHits?: bigint | undefined;
  readonly oomKills?: bigint | undefined;
  readonly swapBytes?: bigint | undefined;
  /** Of swap alone, without memory; undefined if there is none. */
  readonly swapLimit?: bigint | undefined;
  /** Threads and processes together, and their limit (undefined if there is none). */
  readonly tasks?: bigint | undefined;
  readonly tasksMax?: bigint | undefined;
  /** Processes in the cgroup itself. */
  readonly pids?: readonly number[] | undefined;
  readonly devices?: readonly DeviceIo[] | undefined;
  readonly hugepages?: readonly HugepageUse[] | undefined;
  readonly cpuPressure?: Pressure | undefined;
  readonly memoryPressure?: Pressure | undefined;
  readonly ioPressure?: Pressure | undefined;
}

export interface DeviceIo {
  /** `major:minor`. */
  readonly device: string;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

export interface HugepageUse {
  /** `2MB`, as the kernel names the files. */
  readonly size: string;
  readonly bytes: bigint;
  /** v1 only. */
  readonly maxBytes: bigint | undefined;
}

export interface PressureLine {
  readonly totalNanos: bigint;
  /** Per cent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

/** Some tasks were stalled; all of them were. */
export interface Pressure {
  readonly some?: PressureLine | undefined;
  readonly full?: PressureLine | undefined;
}

/** One interface of /proc/net/dev. */
export interface InterfaceCounters {
  readonly name: string;
  readonly rxBytes: bigint;
  readonly rxPackets: bigint;
  readonly rxErrors: bigint;
  readonly rxDropped: bigint;
  readonly txBytes: bigint;
  readonly txPackets: bigint;
  readonly txErrors: bigint;
  readonly txDropped: bigint;
}

type Draft = { -readonly [K in keyof Reading]: Reading[K] };

interface Source {
  readonly version: 1 | 2;
  /** '' = any hierarchy of this version. */
  readonly controller: string;
  readonly file: string;
  readonly detail: Detail;
  readonly take: (draft: Draft, text: string) => void;
}

/** The files of every cgroup on this node, and how to read them. */
export interface FileSet {
  /** Absolute paths for a cgroup (`/kubepods/pod1`), always the same number in the same order. @throws InvalidArgument for a path that is none. */
  paths(cgroup: string): string[];
  /** Their contents, in that order. undefined if there is none at all: the cgroup is gone. */
  parse(contents: readonly (Buffer | undefined)[], at: bigint): Reading | undefined;
}

/** What to read on a node of this layout. `hugepageSizes` are `2MB` and the like. */
export function fileSet(layout: CgroupLayout, detail: Detail, hugepageSizes: readonly string[]): FileSet {
  const sources = [...V1, ...V2, ...hugepageSizes.flatMap(hugepageSources)].flatMap((source) => {
    const hierarchy = detail === 'all' || source.detail === 'usage' ? hierarchyFor(layout, source) : undefined;
    return hierarchy === undefined ? [] : [{ ...source, hierarchy }];
  });
  const hierarchies = [...new Set(sources.map((source) => source.hierarchy))];
  return {
    paths(cgroup) {
      const directories = new Map(hierarchies.map((hierarchy) => [hierarchy, cgroupDirectory(hierarchy, cgroup)]));
      return sources.map(({ hierarchy, file }) => `${directories.get(hierarchy)}/${file}`);
    },
    parse(contents, at) {
      if (contents.every((each) => each === undefined)) return undefined;
      const draft: Draft = { at };
      sources.forEach(({ take }, index) => {
        const content = contents[index];
        if (content !== undefined) take(draft, content.toString('latin1'));
      });
      return draft;
    },
  };
}

function hierarchyFor(layout: CgroupLayout, { version, controller }: Source): CgroupHierarchy | undefined {
  return layout.hierarchies.find((each) => each.version === version && (controller === '' || each.controllers.includes(controller)));
}

const V1: readonly Source[] = [
  v1('cpuacct', 'cpuacct.usage', 'usage', (draft, text) => (draft.cpuNanos = number(text))),
  v1('cpuacct', 'cpuacct.usage_user', 'all', (draft, text) => (draft.userNanos = number(text))),
  v1('cpuacct', 'cpuacct.usage_sys', 'all', (draft, text) => (draft.systemNanos = number(text))),
  v1('cpu', 'cpu.stat', 'all', (draft, text) => {
    draft.periods = field(text, 'nr_periods');
    draft.throttledPeriods = field(text, 'nr_throttled');
    draft.throttledNanos = field(text, 'throttled_time');
  }),
  v1('memory', 'memory.usage_in_bytes', 'usage', (draft, text) => (draft.memoryBytes = number(text))),
  v1('memory', 'memory.limit_in_bytes', 'usage', (draft, text) => (draft.memoryLimit = limit(number(text)))),
  v1('memory', 'memory.stat', 'usage', takeMemoryStatV1),
  v1('memory', 'memory.max_usage_in_bytes', 'all', (draft, text) => (draft.memoryPeak = number(text))),
  v1('memory', 'memory.kmem.usage_in_bytes', 'all', (draft, text) => (draft.kernelMemory = number(text))),
  v1('memory', 'memory.failcnt', 'all', (draft, text) => (draft.limitHits = number(text))),
  v1('memory', 'memory.oom_control', 'all', (draft, text) => (draft.oomKills = field(text, 'oom_kill'))),
  v1('pids', 'pids.current', 'usage', (draft, text) => (draft.tasks = number(text))),
  v1('pids', 'pids.max', 'all', (draft, text) => (draft.tasksMax = number(text))),
  v1('pids', 'cgroup.procs', 'all', (draft, text) => (draft.pids = pidList(text))),
  v1('blkio', 'blkio.throttle.io_service_bytes_recursive', 'all', (draft, text) => (draft.devices = blkio(draft.devices, text, 'readBytes', 'writeBytes'))),
  v1('blkio', 'blkio.throttle.io_serviced_recursive', 'all', (draft, text) => (draft.devices = blkio(draft.devices, text, 'reads', 'writes'))),
];

const V2: readonly Source[] = [
  v2('cpu', 'cpu.stat', 'usage', (draft, text) => {
    draft.cpuNanos = micros(field(text, 'usage_usec'));
    draft.userNanos = micros(field(text, 'user_usec'));
    draft.systemNanos = micros(field(text, 'system_usec'));
    draft.periods = field(text, 'nr_periods');
    draft.throttledPeriods = field(text, 'nr_throttled');
    draft.throttledNanos = micros(field(text, 'throttled_usec'));
  }),
  v2('memory', 'memory.current', 'usage', (draft, text) => (draft.memoryBytes = number(text))),
  v2('memory', 'memory.max', 'usage', (draft, text) => (draft.memoryLimit = number(text))),
  v2('memory', 'memory.stat', 'usage', takeMemoryStatV2),
  v2('memory', 'memory.swap.current', 'usage', (draft, text) => (draft.swapBytes = number(text))),
  v2('memory', 'memory.swap.max', 'usage', (draft, text) => (draft.swapLimit = number(text))),
  v2('memory', 'memory.peak', 'all', (draft, text) => (draft.memoryPeak = number(text))),
  v2('memory', 'memory.events', 'all', (draft, text) => {
    draft.limitHits = field(text, 'max');
    draft.oomKills = field(text, 'oom_kill');
  }),
  v2('pids', 'pids.current', 'usage', (draft, text) => (draft.tasks = number(text))),
  v2('pids', 'pids.max', 'all', (draft, text) => (draft.tasksMax = number(text))),
  v2('pids', 'cgroup.procs', 'all', (draft, text) => (draft.pids = pidList(text))),
  v2('io', 'io.stat', 'all', (draft, text) => (draft.devices = ioStat(text))),
  v2('', 'cpu.pressure', 'usage', (draft, text) => (draft.cpuPressure = pressure(text))),
  v2('', 'memory.pressure', 'usage', (draft, text) => (draft.memoryPressure = pressure(text))),
  v2('', 'io.pressure', 'usage', (draft, text) => (draft.ioPressure = pressure(text))),
];

function v1(controller: string, file: string, detail: Detail, take: Source['take']): Source {
  return { version: 1, controller, file, detail, take };
}
function v2(controller: string, file: string, detail: Detail, take: Source['take']): Source {
  return { version: 2, controller, file, detail, take };
}

function hugepageSources(size: string): Source[] {
  const use = (draft: Draft, found: Partial<HugepageUse>): void => {
    const others = draft.hugepages ?? [];
    const known = others.find((each) => each.size === size) ?? { size, bytes: 0n, maxBytes: undefined };
    draft.hugepages = [...others.filter((each) => each.size !== size), { ...known, ...found }];
  };
  return [
    v1('hugetlb', `hugetlb.${size}.usage_in_bytes`, 'all', (draft, text) => use(draft, { bytes: number(text) ?? 0n })),
    v1('hugetlb', `hugetlb.${size}.max_usage_in_bytes`, 'all', (draft, text) => use(draft, { maxBytes: number(text) })),
    v2('hugetlb', `hugetlb.${size}.current`, 'all', (draft, text) => use(draft, { bytes: number(text) ?? 0n })),
  ];
}

/** `total_` fields count the cgroups below as well; those without it do not. */
function takeMemoryStatV1(draft: Draft, text: string): void {
  draft.inactiveFile = field(text, 'total_inactive_file');
  draft.rss = field(text, 'total_rss');
  draft.cache = field(text, 'total_cache');
  draft.mappedFile = field(text, 'total_mapped_file');
  draft.pageFaults = field(text, 'total_pgfault');
  draft.majorPageFaults = field(text, 'total_pgmajfault');
  draft.swapBytes = field(text, 'total_swap');
  // v1 limits memory and swap together.
  const both = limit(field(text, 'hierarchical_memsw_limit'));
  const memory = limit(field(text, 'hierarchical_memory_limit'));
  draft.swapLimit = both === undefined || memory === undefined ? undefined : most(0n, both - memory);
}

function takeMemoryStatV2(draft: Draft, text: string): void {
  draft.inactiveFile = field(text, 'inactive_file');
  draft.rss = field(text, 'anon');
  draft.cache = field(text, 'file');
  draft.mappedFile = field(text, 'file_mapped');
  draft.pageFaults = field(text, 'pgfault');
  draft.majorPageFaults = field(text, 'pgmajfault');
  // Kernels before 5.18 name only the parts.
  draft.kernelMemory = field(text, 'kernel') ?? ['kernel_stack', 'pagetables', 'percpu', 'sock', 'slab'].reduce((sum, name) => sum + (field(text, name) ?? 0n), 0n);
}

/** A file that holds one number; undefined for `max` and anything else. */
function number(text: string): bigint | undefined {
  const end = text.endsWith('\n') ? text.length - 1 : text.length;
  return digits(text, 0, end);
}

/** The value of `name` in a file of `name value` lines. */
function field(text: string, name: string): bigint | undefined {
  let at = text.startsWith(`${name} `) ? 0 : text.indexOf(`\n${name} `);
  if (at < 0) return undefined;
  at += text[at] === '\n' ? name.length + 2 : name.length + 1;
  const end = text.indexOf('\n', at);
  return digits(text, at, end < 0 ? text.length : end);
}

/** A whole number made of digits alone. Most have few, and a double is exact for those and several times as fast to make. */
function digits(text: string, from: number, to: number): bigint | undefined {
  const length = to - from;
  if (length === 0 || length > 20) return undefined;
  let value = 0;
  for (let i = from; i < to; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return undefined;
    value = value * 10 + digit;
  }
  return length < 16 ? BigInt(value) : BigInt(text.slice(from, to));
}

/** v1 says "no limit" with the largest number of whole pages, which depends on the page size. */
function limit(value: bigint | undefined): bigint | undefined {
  return value === undefined || value >= UNLIMITED ? undefined : value;
}
const UNLIMITED = 1n << 62n;

function micros(value: bigint | undefined): bigint | undefined {
  return value === undefined ? undefined : value * 1000n;
}

function most(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

/** Pids of another pid namespace read as 0. */
function pidList(text: string): number[] {
  return text.split('\n').map(Number).filter((pid) => pid > 0);
}

const NO_IO = { readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };
type IoField = keyof typeof NO_IO;

/** `8:0 Read 4096` lines; Sync, Async, Discard and Total are other views of the same. */
function blkio(known: readonly DeviceIo[] | undefined, text: string, read: IoField, write: IoField): DeviceIo[] {
  const devices = new Map((known ?? []).map((each) => [each.device, each]));
  for (const [, device = '', operation, value = '0'] of text.matchAll(/^(\d+:\d+) (Read|Write) (\d+)$/gm)) {
    devices.set(device, { device, ...NO_IO, ...devices.get(device), [operation === 'Read' ? read : write]: BigInt(value) });
  }
  return [...devices.values()];
}

/** `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` lines; a device without a word yet has only its number. */
function ioStat(text: string): DeviceIo[] {
  const names: Readonly<Record<string, IoField>> = { rbytes: 'readBytes', wbytes: 'writeBytes', rios: 'reads', wios: 'writes' };
  return Array.from(text.matchAll(/^(\d+:\d+)((?: \w+=\d+)+)$/gm), ([, device = '', words = '']) => {
    const found: { [K in IoField]: bigint } = { ...NO_IO };
    for (const [, name = '', value = '0'] of words.matchAll(/(\w+)=(\d+)/g)) {
      const to = Object.hasOwn(names, name) ? names[name] : undefined;
      if (to !== undefined) found[to] = BigInt(value);
    }
    return { device, ...found };
  });
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`; microseconds become nanoseconds. */
export function pressure(text: string): Pressure | undefined {
  const found: { some?: PressureLine; full?: PressureLine } = {};
  for (const [, which, avg10, avg60, avg300, total = '0'] of text.matchAll(/^(some|full) avg10=([\d.]+) avg60=([\d.]+) avg300=([\d.]+) total=(\d+)$/gm)) {
    found[which as 'some' | 'full'] = { totalNanos: BigInt(total) * 1000n, avg10: Number(avg10), avg60: Number(avg60), avg300: Number(avg300) };
  }
  return found.some === undefined && found.full === undefined ? undefined : found;
}

/** /proc/net/dev without the loopback, in the kernel's order. A name may touch its first counter (`eth0:1234`). */
export function parseNetDev(text: string): InterfaceCounters[] {
  return text.split('\n').slice(2).flatMap((line) => {
    const colon = line.lastIndexOf(':');
    const name = line.slice(0, colon).trim();
    const counters = line.slice(colon + 1).trim().split(/\s+/);
    if (colon < 0 || name === 'lo' || counters.length < 12 || !counters.every((each) => /^\d+$/.test(each))) return [];
    const [rxBytes = 0n, rxPackets = 0n, rxErrors = 0n, rxDropped = 0n, , , , , txBytes = 0n, txPackets = 0n, txErrors = 0n, txDropped = 0n] = counters.map(BigInt);
    return [{ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped }];
  });
}

/** The soft limit of open files in /proc/<pid>/limits; -1n for unlimited. */
export function softFileLimit(limits: string): bigint | undefined {
  const soft = /^Max open files\s+(\d+|unlimited)\s/m.exec(limits)?.[1];
  if (soft === undefined) return undefined;
  return soft === 'unlimited' ? -1n : BigInt(soft);
}

/**
 * PURE. Which kernel files say what a cgroup uses, and what they say: one table for cgroup v1 and v2 alike. On a hybrid
 * node each controller is asked where it is, and pressure in the v2 hierarchy, which has it without any controller.
 *
 * Sources: Documentation/admin-guide/cgroup-v1/*.rst, cgroup-v2.rst, accounting/psi.rst, filesystems/proc.rst of the
 * kernel.
 */
import type { CgroupHierarchy, CgroupLayout, FilesIn, KernelFiles } from '../ports/kernel.ts';
import { cgroups } from '../sys/index.ts';

/**
 * What statistics of containers are made of; what those of pods have beside that; and what only metrics ask for. Each
 * includes those before it.
 */
export type Detail = 'container' | 'pod' | 'metrics';
export const DETAILS: readonly Detail[] = ['container', 'pod', 'metrics'];

/** True if what was read for `have` serves for `want`. */
export function includes(have: Detail, want: Detail): boolean {
  return DETAILS.indexOf(have) >= DETAILS.indexOf(want);
}

/**
 * What a cgroup and everything below it used; counters since it was made. What the kernel does not tell is undefined.
 */
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
  /** Of the network namespace that was read with it. */
  readonly interfaces?: readonly InterfaceCounters[] | undefined;
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

/** Where a file lies in the text of all. */
export interface Span {
  readonly text: string;
  readonly from: number;
  readonly to: number;
}

interface Source {
  readonly version: 1 | 2;
  /** '' = any hierarchy of this version. */
  readonly controller: string;
  readonly file: string;
  readonly detail: Detail;
  readonly take: (draft: Draft, file: Span) => void;
}

/**
 * What is read together: a cgroup (`/kubepods/pod1`) and a network namespace, by its path; one of them may be missing.
 */
export interface Place {
  readonly cgroup: string | undefined;
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
  const ofCgroup = groups.flatMap(({ sources }) => sources.map(({ take }) => take));
  const ofBoth = [...ofCgroup, takeInterfaces];
  const takes = ({ cgroup, netns }: Place): readonly Source['take'][] =>
    cgroup === undefined ? (netns === undefined ? [] : [takeInterfaces]) : netns === undefined ? ofCgroup : ofBoth;
  return {
    files: ({ cgroup, netns }) => [
      ...(cgroup === undefined
        ? []
        : groups.map(({ hierarchy, sources }) => ({
            directory: cgroups.directoryOf(hierarchy, cgroup),
            names: sources.map(({ file }) => file).join('\n'),
          }))),
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
  v2('memory', 'memory.max', 'container', (draft, file) => (draft.memoryLimit = number(file))),
  v2('memory', 'memory.stat', 'container', takeMemoryStatV2),
  v2('memory', 'memory.swap.current', 'container', (draft, file) => (draft.swapBytes = number(file))),
  v2('memory', 'memory.swap.max', 'container', (draft, file) => (draft.swapLimit = number(file))),
  v2('memory', 'memory.peak', 'metrics', (draft, file) => (draft.memoryPeak = number(file))),
  v2('memory', 'memory.events', 'metrics', (draft, file) => {
    draft.limitHits = field(file, 'max');
    draft.oomKills = field(file, 'oom_kill');
  }),
  v2('pids', 'pids.current', 'pod', (draft, file) => (draft.tasks = number(file))),
  v2('pids', 'pids.max', 'metrics', (draft, file) => (draft.tasksMax = number(file))),
  v2(
    'pids',
    'cgroup.procs',
    'metrics',
    (draft, file) => (draft.pids = cgroups.parsePids(file.text.slice(file.from, file.to))),
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

/** A file that holds one number; undefined for `max` and anything else. */
function number({ text, from, to }: Span): bigint | undefined {
  return digits(text, from, text[to - 1] === '\n' ? to - 1 : to);
}

/** The value of `name` in a file of `name value` lines. */
function field(file: Span, name: string): bigint | undefined {
  return fields(file)(name);
}

/**
 * Values by name in a file of `name value` lines, looked for from where the last one was: quickest in the order of the
 * file, which may change.
 */
function fields({ text, from, to }: Span): (name: string) => bigint | undefined {
  // Cut out, so that what is not there is not looked for in what follows.
  const file = `\n${text.slice(from, to)}`;
  let last = 0;
  return (name) => {
    const word = `\n${name} `;
    let line = file.indexOf(word, last);
    if (line < 0 && last > 0) line = file.indexOf(word);
    if (line < 0) return undefined;
    last = line;
    const at = line + word.length;
    const end = file.indexOf('\n', at);
    return digits(file, at, end < 0 ? file.length : end);
  };
}

/**
 * A whole number made of digits alone. Most have few, and a double is exact for those and several times as fast to
 * make.
 */
function digits(text: string, from: number, to: number): bigint | undefined {
  const length = to - from;
  if (length <= 0 || length > 20) return undefined;
  let value = 0;
  for (let i = from; i < to; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return undefined;
    value = value * 10 + digit;
  }
  if (value === 0) return 0n;
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

const NO_IO = { readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };
type IoField = keyof typeof NO_IO;

/** `8:0 Read 4096` lines; Sync, Async, Discard and Total are other views of the same. */
function blkio(
  known: readonly DeviceIo[] | undefined,
  { text, from, to }: Span,
  read: IoField,
  write: IoField,
): DeviceIo[] {
  const devices = new Map((known ?? []).map((each) => [each.device, each]));
  for (const [, device = '', operation, value = '0'] of text
    .slice(from, to)
    .matchAll(/^(\d+:\d+) (Read|Write) (\d+)$/gm)) {
    devices.set(device, {
      device,
      ...NO_IO,
      ...devices.get(device),
      [operation === 'Read' ? read : write]: BigInt(value),
    });
  }
  return [...devices.values()];
}

/** `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` lines; a device without a word yet has only its number. */
function ioStat({ text, from, to }: Span): DeviceIo[] {
  const names: Readonly<Record<string, IoField>> = {
    rbytes: 'readBytes',
    wbytes: 'writeBytes',
    rios: 'reads',
    wios: 'writes',
  };
  return Array.from(text.slice(from, to).matchAll(/^(\d+:\d+)((?: \w+=\d+)+)$/gm), ([, device = '', words = '']) => {
    const found: { [K in IoField]: bigint } = { ...NO_IO };
    for (const [, name = '', value = '0'] of words.matchAll(/(\w+)=(\d+)/g)) {
      const to = Object.hasOwn(names, name) ? names[name] : undefined;
      if (to !== undefined) found[to] = BigInt(value);
    }
    return { device, ...found };
  });
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`; microseconds become nanoseconds. */
function pressure({ text, from, to }: Span): Pressure | undefined {
  const some = from < to ? pressureLine(text, from, 'some ') : undefined;
  const second = some === undefined ? from : lineAfter(text, from);
  const full = second < to ? pressureLine(text, second, 'full ') : undefined;
  return some === undefined && full === undefined ? undefined : { some, full };
}

function pressureLine(text: string, from: number, word: string): PressureLine | undefined {
  if (!text.startsWith(word, from)) return undefined;
  let at = from + word.length;
  if (text.startsWith(CALM, at)) return line(0, 0, 0, text, at + CALM.length);
  /** What follows `name` here, up to the next space or line feed. */
  const next = (name: string): string => {
    if (!text.startsWith(name, at)) return '';
    const start = at + name.length;
    at = start;
    for (let char = text.charCodeAt(at); char > SPACE; char = text.charCodeAt(at)) at++;
    const value = text.slice(start, at);
    if (text.charCodeAt(at) === SPACE) at++;
    return value;
  };
  const [avg10, avg60, avg300] = [Number(next('avg10=')), Number(next('avg60=')), Number(next('avg300='))];
  return text.startsWith('total=', at) ? line(avg10, avg60, avg300, text, at + 'total='.length) : undefined;
}

function line(avg10: number, avg60: number, avg300: number, text: string, totalAt: number): PressureLine | undefined {
  const end = text.indexOf('\n', totalAt);
  const micros = digits(text, totalAt, end < 0 ? text.length : end);
  return micros === undefined ? undefined : { totalNanos: micros * 1000n, avg10, avg60, avg300 };
}

const SPACE = 32;
/** Most cgroups wait for nothing. */
const CALM = 'avg10=0.00 avg60=0.00 avg300=0.00 total=';

/**
 * PURE. /proc/net/dev without the loopback, in the kernel's order. A name may touch its first counter (`eth0:1234`).
 */
export function parseNetDev({ text, from, to }: Span): InterfaceCounters[] {
  const found: InterfaceCounters[] = [];
  // Two lines of titles come first.
  for (let start = lineAfter(text, lineAfter(text, from)); start < to; start = lineAfter(text, start)) {
    const end = Math.min(lineAfter(text, start), to);
    const colon = text.lastIndexOf(':', end - 1);
    if (colon < start) continue;
    const name = text.slice(start, colon).trim();
    const counters = name === 'lo' ? undefined : numbersIn(text, colon + 1, end);
    if (counters === undefined || counters.length < 12) continue;
    const [
      rxBytes = 0n,
      rxPackets = 0n,
      rxErrors = 0n,
      rxDropped = 0n,
      ,
      ,
      ,
      ,
      txBytes = 0n,
      txPackets = 0n,
      txErrors = 0n,
      txDropped = 0n,
    ] = counters;
    found.push({ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped });
  }
  return found;
}

/** Where the next line begins. */
function lineAfter(text: string, from: number): number {
  const end = text.indexOf('\n', from);
  return end < 0 ? text.length : end + 1;
}

/** Numbers with white space between them; undefined if there is anything else. */
function numbersIn(text: string, from: number, to: number): bigint[] | undefined {
  const found: bigint[] = [];
  for (let at = from; at < to; at++) {
    if (text.charCodeAt(at) <= SPACE) continue;
    const start = at;
    while (at < to && text.charCodeAt(at) > SPACE) at++;
    const value = digits(text, start, at);
    if (value === undefined) return undefined;
    found.push(value);
  }
  return found;
}

/** The soft limit of open files in /proc/<pid>/limits; -1n for unlimited. */
export function softFileLimit(limits: string): bigint | undefined {
  const soft = /^Max open files\s+(\d+|unlimited)\s/m.exec(limits)?.[1];
  if (soft === undefined) return undefined;
  return soft === 'unlimited' ? -1n : BigInt(soft);
}

/** What a cgroup and a network namespace say, whatever version of cgroups they are of. Types. */

/**
 * What statistics of containers are made of; what those of pods have beside that; and what only metrics ask for. Each
 * includes those before it.
 */
export type Detail = 'container' | 'pod' | 'metrics';
/** From the least to the most. */
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

/** What a block device did for a cgroup; counters. */
export interface DeviceIo {
  /** `major:minor`. */
  readonly device: string;
  readonly readBytes: bigint;
  readonly writeBytes: bigint;
  readonly reads: bigint;
  readonly writes: bigint;
}

/** Bytes in huge pages of one size. */
export interface HugepageUse {
  /** `2MB`, as the kernel names the files. */
  readonly size: string;
  readonly bytes: bigint;
  /** v1 only. */
  readonly maxBytes: bigint | undefined;
}

/** How long tasks were stalled. */
export interface PressureLine {
  readonly totalNanos: bigint;
  /** Per cent of the last 10, 60 and 300 seconds. */
  readonly avg10: number;
  readonly avg60: number;
  readonly avg300: number;
}

/** `some`: a task was stalled; `full`: all of them were. */
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

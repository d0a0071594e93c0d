/** PURE. Samples as CRI's messages: what the kubelet, its eviction manager and `kubectl top` read. */
import type {
  CpuUsage,
  FilesystemUsage,
  Input,
  IoUsage,
  MemoryUsage,
  NetworkInterfaceUsage,
  NetworkUsage,
  ProcessUsage,
  PsiStats,
  SwapUsage,
  UInt64Value,
} from '../cri-api/types.ts';
import type { MeasuredLayer } from './layers.ts';
import type { InterfaceCounters, Pressure, PressureLine } from './reading.ts';
import type { Sample } from './sampler.ts';

/** Parts that containers and pods have in common; what the kernel does not tell is left out. */
export interface Usages {
  readonly cpu: Input<CpuUsage> | undefined;
  readonly memory: Input<MemoryUsage> | undefined;
  readonly swap: Input<SwapUsage> | undefined;
  readonly io: Input<IoUsage> | undefined;
}

/** A sample as CRI's usages. */
export function usages(sample: Sample): Usages {
  const { at: timestamp } = sample;
  const io = psi(sample.ioPressure);
  return {
    cpu:
      sample.cpuNanos === undefined
        ? undefined
        : {
            timestamp,
            usageCoreNanoSeconds: value(sample.cpuNanos),
            usageNanoCores: value(sample.nanoCores),
            psi: psi(sample.cpuPressure),
          },
    memory: memory(sample),
    swap:
      sample.swapBytes === undefined
        ? undefined
        : {
            timestamp,
            swapUsageBytes: value(sample.swapBytes),
            swapAvailableBytes: value(left(sample.swapLimit, sample.swapBytes)),
          },
    io: io === undefined ? undefined : { timestamp, psi: io },
  };
}

function memory(sample: Sample): Input<MemoryUsage> | undefined {
  if (sample.memoryBytes === undefined) return undefined;
  const workingSet = workingSetOf(sample);
  return {
    timestamp: sample.at,
    workingSetBytes: value(workingSet),
    availableBytes: value(left(sample.memoryLimit, workingSet)),
    usageBytes: value(sample.memoryBytes),
    rssBytes: value(sample.rss),
    pageFaults: value(sample.pageFaults),
    majorPageFaults: value(sample.majorPageFaults),
    psi: psi(sample.memoryPressure),
  };
}

/**
 * Usage without inactive file pages, as the kubelet and cAdvisor count it. Not below 0: the two are not read at the
 * same instant.
 */
export function workingSetOf({ memoryBytes = 0n, inactiveFile = 0n }: Sample): bigint {
  return memoryBytes > inactiveFile ? memoryBytes - inactiveFile : 0n;
}

/** What is left of a limit; undefined without one. */
function left(limit: bigint | undefined, used: bigint): bigint | undefined {
  if (limit === undefined) return undefined;
  return limit > used ? limit - used : 0n;
}

/** What only pods have beside that. */
export function podUsages(sample: Sample): Pick<Usages, 'cpu' | 'memory' | 'io'> & {
  readonly network: Input<NetworkUsage> | undefined;
  readonly process: Input<ProcessUsage> | undefined;
} {
  const { cpu, memory, io } = usages(sample);
  return { cpu, memory, io, network: networkUsage(sample.at, sample.interfaces ?? []), process: processUsage(sample) };
}

function processUsage(sample: Sample): Input<ProcessUsage> | undefined {
  return sample.tasks === undefined ? undefined : { timestamp: sample.at, processCount: value(sample.tasks) };
}

/** eth0 by the custom of CNI, else the first. undefined for a network without interfaces. */
function networkUsage(timestamp: bigint, interfaces: readonly InterfaceCounters[]): Input<NetworkUsage> | undefined {
  const first = interfaces.find((each) => each.name === 'eth0') ?? interfaces[0];
  if (first === undefined) return undefined;
  return {
    timestamp,
    defaultInterface: interfaceUsage(first),
    interfaces: interfaces.filter((each) => each !== first).map(interfaceUsage),
  };
}

function interfaceUsage({
  name,
  rxBytes,
  rxErrors,
  txBytes,
  txErrors,
}: InterfaceCounters): Input<NetworkInterfaceUsage> {
  return {
    name,
    rxBytes: { value: rxBytes },
    rxErrors: { value: rxErrors },
    txBytes: { value: txBytes },
    txErrors: { value: txErrors },
  };
}

/** `mountpoint` is a path on the file system, by which the kubelet finds its device. */
export function layerUsage(layer: MeasuredLayer, mountpoint: string): Input<FilesystemUsage> {
  return {
    timestamp: layer.at,
    fsId: { mountpoint },
    usedBytes: { value: layer.usedBytes },
    inodesUsed: { value: layer.inodesUsed },
  };
}

function psi(pressure: Pressure | undefined): Input<PsiStats> | undefined {
  return pressure === undefined ? undefined : { some: psiData(pressure.some), full: psiData(pressure.full) };
}

function psiData(line: PressureLine | undefined): PsiStats['some'] {
  return line === undefined
    ? undefined
    : { total: line.totalNanos, avg10: line.avg10, avg60: line.avg60, avg300: line.avg300 };
}

function value(number: bigint | undefined): UInt64Value | undefined {
  return number === undefined ? undefined : { value: number };
}

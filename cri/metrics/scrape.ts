/** What is looked up when somebody asks: states rather than events. */
import { readdir } from 'node:fs/promises';
import type { Operation } from '../../pkg/cri-api/types.ts';
import { containerName } from '../../pkg/pod/index.ts';
import type { ContainerRecord, SandboxRecord } from '../../pkg/ports/state.ts';
import type { LoopDelayReading } from '../loop-delay.ts';
import { stageLabel } from './labels.ts';
import type { Registry } from './registry.ts';

const MS_PER_S = 1000;
/** process.cpuUsage counts microseconds. */
const US_PER_S = 1e6;

/** Where states are looked up. */
export interface ScrapeSources {
  readonly version: string;
  readonly operations: () => readonly Operation[];
  readonly containers: () => readonly ContainerRecord[];
  readonly podOf: (id: SandboxRecord['id']) => SandboxRecord | undefined;
  readonly eventsDropped: () => number;
  readonly networkTurns: () => number;
  readonly cleanUps: () => number;
  readonly spansDropped: () => number;
  /** The name of the handler; undefined if there is none. */
  readonly defaultRuntime: () => string | undefined;
  readonly defunctProcesses: () => Promise<number>;
  /** What was seen since the last question. */
  readonly loopDelay: () => LoopDelayReading;
}

/** Brings everything in the registry up to date, and gives the text that Prometheus reads. */
export async function scrape(registry: Registry, sources: ScrapeSources): Promise<string> {
  tellOperations(registry, sources.operations());
  tellLostMonitors(registry, sources);
  registry.set('containers_events_dropped_total', [], sources.eventsDropped());
  if (registry.has('processes_defunct')) registry.set('processes_defunct', [], await sources.defunctProcesses());
  registry.clear('default_runtime');
  const runtime = sources.defaultRuntime();
  if (runtime !== undefined) registry.set('default_runtime', [runtime], 1);
  registry.set('networkTurns', [], sources.networkTurns());
  registry.set('cleanUps', [], sources.cleanUps());
  registry.set('spansDropped', [], sources.spansDropped());
  tellLoop(registry, sources.loopDelay());
  await tellProcess(registry, sources.version);
  return registry.text();
}

function tellOperations(registry: Registry, operations: readonly Operation[]): void {
  registry.clear('operationsInFlight');
  for (const { rpc, requestId, stage } of operations) {
    // What is no call is named in words, with the object that it is about.
    const operation = requestId === '' ? stageLabel(rpc) : rpc;
    registry.add('operationsInFlight', [operation, stageLabel(stage)]);
  }
}

/** Known of the containers that are there; those that are gone take their series along. */
function tellLostMonitors(registry: Registry, { containers, podOf }: ScrapeSources): void {
  registry.clear('containers_stopped_monitor_count');
  for (const record of containers()) {
    const pod = record.monitorLost === null ? undefined : podOf(record.sandboxId);
    if (pod !== undefined)
      registry.set('containers_stopped_monitor_count', [containerName(record.config, pod.config)], 1);
  }
}

function tellLoop(registry: Registry, { p50Ms, p99Ms, maxMs }: LoopDelayReading): void {
  registry.clear('eventLoopDelay');
  for (const [quantile, ms] of [
    ['0.5', p50Ms],
    ['0.99', p99Ms],
    ['1', maxMs],
  ] as const)
    if (ms !== null) registry.set('eventLoopDelay', [quantile], ms / MS_PER_S);
}

async function tellProcess(registry: Registry, version: string): Promise<void> {
  const { user, system } = process.cpuUsage();
  const { rss, heapUsed } = process.memoryUsage();
  registry.set('buildInfo', [version], 1);
  registry.set('cpu', [], (user + system) / US_PER_S);
  registry.set('memory', [], rss);
  registry.set('heap', [], heapUsed);
  registry.set('started', [], Math.round(performance.timeOrigin) / MS_PER_S);
  registry.set('openFiles', [], (await readdir('/proc/self/fd')).length);
}

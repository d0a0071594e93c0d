/**
 * What is read for one request is asked for together: cgroups, interfaces and writable layers of all that it names. A
 * container or pod that vanishes meanwhile is one entry less.
 */
import { explain } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Logger } from '../base/op.ts';
import { remembered } from '../base/remembered.ts';
import type {
  ContainerAttributes,
  ContainerMetrics,
  ContainerStats,
  Input,
  PodSandboxAttributes,
  PodSandboxMetrics,
  PodSandboxStats,
} from '../cri-api/types.ts';
import type { CgroupLayout } from '../ports/kernel.ts';
import type { Containers, PodEvent, Pods } from '../ports/pods.ts';
import type { RootfsDriver } from '../ports/rootfs.ts';
import type { NodeFacts } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { cgroups, fileSystems, processes, readFiles, readKernelFiles } from '../sys/index.ts';
import { FilesRead, interfacesIn, NET_DEV, type Place } from './files.ts';
import { type LayerSize, type MeasuredLayer, WritableLayers } from './layers.ts';
import { layerUsage, podUsages, usages } from './messages.ts';
import { type MetricLabels, type MetricTable, metricTable } from './metrics.ts';
import { softFileLimit } from './parse.ts';
import type { Detail, InterfaceCounters } from './reading.ts';
import { type Group, type Sample, Sampler } from './sampler.ts';

/** Who is measured, and what it takes. */
export interface StatsOptions {
  readonly pods: Pick<Pods, 'find' | 'list'>;
  readonly containers: Pick<Containers, 'find' | 'list'>;
  /** Calls `listener` for every event from now on. */
  readonly subscribe: (listener: (event: PodEvent) => void) => void;
  readonly rootfs: Pick<RootfsDriver, 'containerRoot'>;
  /** Walks a writable layer. May fail, also for one that is gone. */
  readonly measureLayer: (id: ContainerId) => Promise<LayerSize>;
  /** What a request may be held up for by layers that were never measured, in milliseconds. */
  readonly layersPatienceMs: number;
  readonly layout: CgroupLayout;
  readonly facts: NodeFacts;
  /** For how long a sample is kept, in milliseconds (`collection_period`); 0 = every request reads. */
  readonly periodMs: number;
  /** Groups of metrics that are given (`included_pod_metrics`); none = all. */
  readonly metricGroups: readonly string[];
  /** Nanoseconds since the epoch. */
  readonly clock: () => bigint;
  readonly log: Logger;
  /** Names and labels as the replies have them; whoever encodes may keep them encoded. */
  readonly attributes: {
    readonly pod: (record: SandboxRecord) => Input<PodSandboxAttributes>;
    readonly container: (record: ContainerRecord) => Input<ContainerAttributes>;
  };
}

/** Statistics and metrics of what lives. */
export class StatsReader {
  readonly #options: StatsOptions;
  readonly #sampler: Sampler;
  readonly #layers: WritableLayers<ContainerId>;
  readonly #table: MetricTable;
  readonly #deviceNames = new Map<string, string>();
  readonly #placeOf: (record: ContainerRecord | SandboxRecord) => Place;

  constructor(options: StatsOptions) {
    const { layout, facts, periodMs, clock } = options;
    this.#options = options;
    this.#table = metricTable(options.metricGroups);
    this.#placeOf = remembered((record) => {
      const cgroup = cgroupOf(record, facts);
      return { cgroup, inner: cgroup === undefined ? undefined : cgroups.innerOf(layout, cgroup) };
    });
    this.#sampler = new Sampler({
      layout,
      hugepageSizes: facts.hugepageSizes,
      clock,
      periodMs,
      keptFilesCount: keptFilesCount(),
    });
    this.#layers = new WritableLayers({ measure: options.measureLayer, clock, patienceMs: options.layersPatienceMs });
    options.subscribe(({ type, record }) => {
      // Before the network of a pod is torn down: an open file of its namespace would keep it alive.
      if (type === 'stopped' || type === 'deleted') this.#sampler.forget(record.id);
      if (type === 'deleted' && record.kind === 'container') this.#layers.forget(record.id);
    });
  }

  /**
   * Still: a list is begun with all of them, and its last slices come later. What is read of one that has ended since
   * would be kept for ever.
   */
  readonly lives = ({ id }: ContainerRecord): boolean => {
    const record = this.#options.containers.find(id);
    return record !== undefined && isLive(record);
  };
  readonly isReady = ({ id }: SandboxRecord): boolean => this.#options.pods.find(id)?.state.phase === 'ready';

  /** What metrics there are. */
  get descriptors(): MetricTable['descriptors'] {
    return this.#table.descriptors;
  }

  /** Containers that have a cgroup. */
  live(): ContainerRecord[] {
    return this.#options.containers.list().filter(isLive);
  }

  /** Pods that have a cgroup and a network. */
  ready(): SandboxRecord[] {
    return this.#options.pods.list().filter(({ state }) => state.phase === 'ready');
  }

  /** Sizes of writable layers, as far as they are known or soon will be. */
  layerSizes(ids: readonly ContainerId[]): Promise<ReadonlyMap<ContainerId, MeasuredLayer>> {
    return this.#layers.sizes(ids);
  }

  /**
   * Statistics of these containers, in order; one that has lost its cgroup since is left out, one that has ended has
   * only its writable layer.
   */
  async containers(records: readonly ContainerRecord[]): Promise<Input<ContainerStats>[]> {
    // A list is many walks, and none of them is worth waiting for.
    const which = records.length === 1 && this.#options.periodMs === 0 ? 'now' : 'last known';
    const ids = records.map(({ id }) => id);
    const [samples, layers] = await Promise.all([
      this.#sampler.sample(this.#groups(records.filter(isLive), 'container')),
      this.#layers.sizes(ids, which),
    ]);
    return records.flatMap((record) => this.#containerStats(record, samples, layers) ?? []);
  }

  /** Statistics of these pods with their live containers, in order. */
  async pods(records: readonly SandboxRecord[]): Promise<Input<PodSandboxStats>[]> {
    const containers = this.#containersOf(records);
    const all = [...containers.values()].flat();
    const [samples, layers] = await Promise.all([
      this.#sampler.sample([...this.#groups(records, 'pod'), ...this.#groups(all, 'container')]),
      this.#layers.sizes(all.map(({ id }) => id)),
    ]);
    return records.map((record) => {
      const sample = samples.get(record.id);
      return {
        attributes: this.#options.attributes.pod(record),
        linux: {
          ...(sample === undefined ? {} : podUsages(sample)),
          containers: (containers.get(record.id) ?? []).flatMap(
            (each) => this.#containerStats(each, samples, layers) ?? [],
          ),
        },
      };
    });
  }

  /** Metrics of these pods and their live containers, in order. */
  async metrics(records: readonly SandboxRecord[]): Promise<Input<PodSandboxMetrics>[]> {
    const containers = this.#containersOf(records);
    const all = [...containers.values()].flat();
    const [samples, layers, networks, fileSystem] = await Promise.all([
      this.#sampler.sample(this.#groups(all, 'metrics')),
      this.#layers.sizes(all.map(({ id }) => id)),
      this.#networks(records),
      this.#fileSystem(),
    ]);
    return await Promise.all(
      records.map(async (record) => ({
        podSandboxId: record.id,
        metrics: this.#table.pod(podLabels(record), { interfaces: networks.get(record.id) ?? [] }),
        containerMetrics: (
          await Promise.all(
            (containers.get(record.id) ?? []).map(async (each): Promise<ContainerMetrics[]> => {
              const sample = samples.get(each.id);
              if (sample === undefined) return [];
              const facts = {
                now: this.#options.clock(),
                startedAt: startOf(each),
                sample,
                resources: each.resources,
                layer: layers.get(each.id),
                fileSystem,
                deviceName: (device: string) => this.#deviceName(device),
              };
              return [
                {
                  containerId: each.id,
                  metrics: this.#table.container(containerLabels(record, each), {
                    ...facts,
                    ...(await openFiles(each, sample)),
                  }),
                },
              ];
            }),
          )
        ).flat(),
      })),
    );
  }

  #containerStats(
    record: ContainerRecord,
    samples: ReadonlyMap<string, Sample>,
    layers: ReadonlyMap<ContainerId, MeasuredLayer>,
  ): Input<ContainerStats> | undefined {
    const sample = samples.get(record.id);
    if (sample === undefined && isLive(record)) return undefined;
    const layer = layers.get(record.id);
    return {
      attributes: this.#options.attributes.container(record),
      ...(sample === undefined ? NOTHING : usages(sample)),
      writableLayer: layer === undefined ? undefined : layerUsage(layer, this.#options.rootfs.containerRoot),
    };
  }

  /** Live containers by sandbox, in one pass. */
  #containersOf(records: readonly SandboxRecord[]): Map<string, ContainerRecord[]> {
    const found = new Map(records.map(({ id }) => [id as string, [] as ContainerRecord[]]));
    for (const record of this.#options.containers.list()) if (isLive(record)) found.get(record.sandboxId)?.push(record);
    return found;
  }

  #groups(records: readonly (ContainerRecord | SandboxRecord)[], detail: Detail): Group[] {
    return records.map((record) => ({
      id: record.id,
      ...this.#placeOf(record),
      detail,
      netns: record.kind === 'sandbox' ? record.namespaces['net'] : undefined,
    }));
  }

  /**
   * Interfaces by sandbox, through the pinned namespaces: right also where a process has moved to a namespace of its
   * own, and without any process.
   */
  async #networks(records: readonly SandboxRecord[]): Promise<ReadonlyMap<string, readonly InterfaceCounters[]>> {
    const own = records.flatMap(({ id, namespaces }) =>
      namespaces['net'] === undefined ? [] : [{ id, netns: namespaces['net'] }],
    );
    const next = new FilesRead(await readKernelFiles(own.map(({ netns }) => ({ ...NET_DEV, netns }))));
    return new Map(own.map(({ id }) => [id, interfacesIn(next)]));
  }

  async #fileSystem(): Promise<
    { readonly bytes: bigint; readonly inodes: bigint; readonly inodesFree: bigint } | undefined
  > {
    try {
      const found = await fileSystems.stat(this.#options.rootfs.containerRoot);
      return { bytes: found.totalBytes, inodes: found.inodes, inodesFree: found.inodesFree };
    } catch (cause) {
      this.#options.log.debug('the file system of writable layers does not answer', { cause: explain(cause) });
      return undefined;
    }
  }

  /** `/dev/sda` for `8:0`; the number itself for a device that the kernel has no name for. */
  #deviceName(device: string): string {
    const known = this.#deviceNames.get(device);
    if (known !== undefined) return known;
    const name = /^DEVNAME=(.+)$/m.exec(readFiles([`/sys/dev/block/${device}/uevent`])[0]?.toString() ?? '')?.[1];
    const found = name === undefined ? device : `/dev/${name}`;
    this.#deviceNames.set(device, found);
    return found;
  }
}

/** At most half of the descriptors that we may have: containers' streams need a few for each, and these sixteen. */
function keptFilesCount(): number {
  const own = softFileLimit(readFiles(['/proc/self/limits'])[0]?.toString('latin1') ?? '') ?? 0n;
  return own < 0n ? limits.statsFilesCount : Math.min(limits.statsFilesCount, Math.floor(Number(own) / 2));
}

const NOTHING = { cpu: undefined, memory: undefined, swap: undefined, io: undefined };
function isLive({ state }: ContainerRecord): boolean {
  return state.phase === 'running' || state.phase === 'starting' || state.phase === 'created';
}

/** The cgroup's path; undefined where the record names none of its own. */
function cgroupOf(record: ContainerRecord | SandboxRecord, { cgroupManager }: NodeFacts): string | undefined {
  try {
    if (record.kind === 'container') return cgroups.pathOf(record.cgroupsPath);
    const parent = record.cgroupParent;
    return cgroups.checkPath(
      cgroupManager === 'systemd' ? cgroups.slicePath(parent.slice(parent.lastIndexOf('/') + 1)) : parent,
    );
  } catch {
    // The root, which is not the pod's; or a record of an older version. There are no statistics of it then.
    return undefined;
  }
}

function startOf({ state, createdAt }: ContainerRecord): bigint {
  return 'startedAt' in state ? (state.startedAt ?? createdAt) : createdAt;
}

/** What the processes of a container have open. */
async function openFiles(
  { state }: ContainerRecord,
  { pids = [] }: Sample,
): Promise<{ readonly descriptors: number; readonly sockets: number; readonly openFilesMax: bigint | undefined }> {
  const [counts, text] = await Promise.all([
    processes.countDescriptors(pids),
    'process' in state ? processes.limitsOf(state.process) : '',
  ]);
  return { ...counts, openFilesMax: softFileLimit(text) };
}

function podLabels({ id, cgroupParent, config }: SandboxRecord): MetricLabels {
  return {
    id: cgroupParent,
    name: id,
    image: '',
    namespace: config.metadata.namespace,
    pod: config.metadata.name,
    container: 'POD',
  };
}

function containerLabels(pod: SandboxRecord, { id, cgroupsPath, imageName, config }: ContainerRecord): MetricLabels {
  return { ...podLabels(pod), id: cgroupsPath, name: id, image: imageName, container: config.metadata.name };
}

/**
 * Statistics and metrics of containers and pods. A list is made in slices: all that one has, cgroups and interfaces, is
 * read in one native call, while another is parsed and encoded. A container or pod that vanishes meanwhile is one entry
 * less.
 */
import { explain } from '../pkg/base/errors.ts';
import type { ContainerId } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Logger } from '../pkg/base/op.ts';
import { Gate, together } from '../pkg/base/sync.ts';
import type {
  ContainerMetrics,
  ContainerStats,
  Input,
  PodSandboxMetrics,
  PodSandboxStats,
} from '../pkg/cri-api/types.ts';
import { matchesContainer, matchesSandbox, type OpenPods } from '../pkg/pod/index.ts';
import {
  containerMetrics,
  type Detail,
  FilesRead,
  type Group,
  type InterfaceCounters,
  interfacesIn,
  layerUsage,
  type MeasuredLayer,
  metricDescriptors,
  type MetricLabels,
  NET_DEV,
  podMetrics,
  podUsages,
  type Sample,
  Sampler,
  softFileLimit,
  usages,
  type WritableLayers,
} from '../pkg/stats/index.ts';
import type { CgroupLayout } from '../pkg/ports/kernel.ts';
import { cgroups, fileSystems, processes, readFiles, readKernelFiles } from '../pkg/sys/index.ts';
import { chunksOf, codecs, concatenate, type Encoded, preencoded, remembered } from './codec.ts';
import type { Handlers } from './handler.ts';
import { narrowId } from './validate.ts';
import type { RootfsDriver } from '../pkg/ports/rootfs.ts';
import type { NodeFacts } from '../pkg/ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';

export interface StatsServiceOptions {
  readonly mind: OpenPods;
  readonly rootfs: RootfsDriver;
  readonly writableLayers: WritableLayers<ContainerId>;
  readonly layout: CgroupLayout;
  readonly facts: NodeFacts;
  /** For how long a sample is kept, in milliseconds (`collection_period`); 0 = every request reads. */
  readonly periodMs: number;
  readonly clock: () => bigint;
  readonly log: Logger;
}

/** Handlers of statistics and metrics. */
export type StatsService = ReturnType<typeof statsService>;

/** Answers slice by slice, so that a list of many holds up nobody else. */
export function statsService(options: StatsServiceOptions) {
  const desk = new StatsDesk(options);
  const { mind } = options;
  return {
    async containerStats(_op, request) {
      const record = mind.containers.get(narrowId(request.containerId, 'container_id'));
      return { stats: (await desk.containers([record]))[0] };
    },
    async listContainerStats(_op, { filter }) {
      return await bySlices(desk.live(filter), async (some) =>
        codecs.ListContainerStatsResponse.encode({ stats: await desk.containers(some.filter(desk.lives)) }),
      );
    },
    async *streamContainerStats(_op, { filter }) {
      for (const some of slices(desk.live(filter)))
        yield* chunksOf((await desk.containers(some.filter(desk.lives))).map(codecs.ContainerStats.item));
    },
    async podSandboxStats(_op, request) {
      const record = mind.pods.get(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      return { stats: (await desk.pods([record]))[0] };
    },
    async listPodSandboxStats(_op, { filter }) {
      return await bySlices(desk.ready(filter), async (some) =>
        codecs.ListPodSandboxStatsResponse.encode({ stats: await desk.pods(some.filter(desk.isReady)) }),
      );
    },
    async *streamPodSandboxStats(_op, { filter }) {
      for (const some of slices(desk.ready(filter)))
        yield* chunksOf((await desk.pods(some.filter(desk.isReady))).map(codecs.PodSandboxStats.item));
    },
    listMetricDescriptors: () => ({ descriptors: metricDescriptors }),
    async listPodSandboxMetrics() {
      return await bySlices(desk.ready(undefined), async (some) =>
        codecs.ListPodSandboxMetricsResponse.encode({ podMetrics: await desk.metrics(some) }),
      );
    },
    async *streamPodSandboxMetrics() {
      for (const some of slices(desk.ready(undefined)))
        yield* chunksOf((await desk.metrics(some)).map(codecs.PodSandboxMetrics.item));
    },
  } satisfies Handlers;
}

/** What may be missing in a filter is everything. */
type Filter =
  | { readonly id: string; readonly podSandboxId?: string; readonly labelSelector: Readonly<Record<string, string>> }
  | undefined;

/** Asked for together, all that is read for one request. */
class StatsDesk {
  readonly #options: StatsServiceOptions;
  readonly #sampler: Sampler;
  readonly #layers: WritableLayers<ContainerId>;
  readonly #deviceNames = new Map<string, string>();
  readonly #cgroupOf: (record: ContainerRecord | SandboxRecord) => string | undefined;

  constructor(options: StatsServiceOptions) {
    const { mind, layout, facts, periodMs, clock, writableLayers } = options;
    this.#options = options;
    this.#cgroupOf = remembered((record) => cgroupOf(record, facts));
    this.#sampler = new Sampler({
      layout,
      hugepageSizes: facts.hugepageSizes,
      clock,
      periodMs,
      keptFilesCount: keptFilesCount(),
    });
    this.#layers = writableLayers;
    mind.subscribe(({ type, record }) => {
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
    const record = this.#options.mind.containers.find(id);
    return record !== undefined && isLive(record);
  };
  readonly isReady = ({ id }: SandboxRecord): boolean => this.#options.mind.pods.find(id)?.state.phase === 'ready';

  /** Containers that have a cgroup, as far as the filter lets them through. */
  live(filter: Filter): ContainerRecord[] {
    const full = filter === undefined ? undefined : { podSandboxId: '', ...filter, state: undefined };
    return this.#options.mind.containers.list().filter((record) => isLive(record) && matchesContainer(record, full));
  }

  ready(filter: Filter): SandboxRecord[] {
    const full = filter === undefined ? undefined : { ...filter, state: undefined };
    return this.#options.mind.pods
      .list()
      .filter((record) => record.state.phase === 'ready' && matchesSandbox(record, full));
  }

  /**
   * Statistics of these containers, in order; one that has lost its cgroup since is left out, one that has ended has
   * only its writable layer.
   */
  async containers(records: readonly ContainerRecord[]): Promise<Input<ContainerStats>[]> {
    const [samples, layers] = await Promise.all([
      this.#sampler.sample(this.#groups(records.filter(isLive), 'container')),
      this.#layers.sizes(records.map(({ id }) => id)),
    ]);
    return records.flatMap((record) => this.#containerStats(record, samples, layers) ?? []);
  }

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
        attributes: podAttributes(record),
        linux: {
          ...(sample === undefined ? {} : podUsages(sample)),
          containers: (containers.get(record.id) ?? []).flatMap(
            (each) => this.#containerStats(each, samples, layers) ?? [],
          ),
        },
      };
    });
  }

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
        metrics: podMetrics(podLabels(record), { interfaces: networks.get(record.id) ?? [] }),
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
                  metrics: containerMetrics(containerLabels(record, each), {
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
      attributes: containerAttributes(record),
      ...(sample === undefined ? NOTHING : usages(sample)),
      writableLayer: layer === undefined ? undefined : layerUsage(layer, this.#options.rootfs.containerRoot),
    };
  }

  /** Live containers by sandbox, in one pass. */
  #containersOf(records: readonly SandboxRecord[]): Map<string, ContainerRecord[]> {
    const found = new Map(records.map(({ id }) => [id as string, [] as ContainerRecord[]]));
    for (const record of this.#options.mind.containers.list())
      if (isLive(record)) found.get(record.sandboxId)?.push(record);
    return found;
  }

  #groups(records: readonly (ContainerRecord | SandboxRecord)[], detail: Detail): Group[] {
    return records.map((record) => ({
      id: record.id,
      cgroup: this.#cgroupOf(record),
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

/** A small part of the descriptors that we may have: containers' streams come first. */
function keptFilesCount(): number {
  const own = softFileLimit(readFiles(['/proc/self/limits'])[0]?.toString('latin1') ?? '') ?? 0n;
  return own < 0n ? limits.statsFilesCount : Math.min(limits.statsFilesCount, Math.floor(Number(own) / 8));
}

/** Labels and annotations are most of what there is to write, and never change. */
const podAttributes = remembered(({ id, config: { metadata, labels, annotations } }: SandboxRecord) =>
  preencoded<'PodSandboxAttributes'>(codecs.PodSandboxAttributes.encode({ id, metadata, labels, annotations })),
);
const containerAttributes = remembered(({ id, config: { metadata, labels, annotations } }: ContainerRecord) =>
  preencoded<'ContainerAttributes'>(codecs.ContainerAttributes.encode({ id, metadata, labels, annotations })),
);

const NOTHING = { cpu: undefined, memory: undefined, swap: undefined, io: undefined };
/**
 * What is read together: enough to share a native call, few enough that parsing and encoding them does not hold up
 * other requests.
 */
const SLICE = 32;
/**
 * Slices under way at once: one is read while another is parsed and encoded. More would only take the processors away
 * from containers.
 */
const LANES = 4;

function* slices<T>(records: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < records.length; at += SLICE) yield records.slice(at, at + SLICE);
}

/** A list reply, slice by slice: protobuf joins the items of messages that follow each other. */
async function bySlices<T>(records: readonly T[], encode: (some: readonly T[]) => Promise<Buffer>): Promise<Encoded> {
  const gate = new Gate(LANES);
  return concatenate(await together(Array.from(slices(records), (some) => gate.run(() => encode(some)))));
}

function isLive({ state }: ContainerRecord): boolean {
  return state.phase === 'running' || state.phase === 'created';
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
  const pid = 'process' in state ? state.process.pid : undefined;
  const [counts, text] = await Promise.all([
    processes.countDescriptors(pids),
    pid === undefined ? undefined : readKernelFiles([{ directory: `/proc/${pid}`, names: 'limits' }]),
  ]);
  return { ...counts, openFilesMax: softFileLimit(text?.text ?? '') };
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

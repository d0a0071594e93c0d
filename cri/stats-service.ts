/** Statistics and metrics. A list is made in slices: one is read while another is parsed and encoded. */
import { remembered } from '../pkg/base/remembered.ts';
import { Gate, together } from '../pkg/base/sync.ts';
import { limits } from '../pkg/base/limits.ts';
import type { ContainerStatsFilter, PodSandboxStatsFilter } from '../pkg/cri-api/types.ts';
import { matchesContainer, matchesSandbox, type OpenPods } from '../pkg/pod/index.ts';
import type { Stats, StatsOptions } from '../pkg/stats/index.ts';
import { chunksOf, codecs, concatenate, type Encoded, preencoded } from './codec.ts';
import type { Handlers } from './handler.ts';
import { narrowId } from './validate.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';

/** Handlers of statistics and metrics. */
export type StatsService = ReturnType<typeof statsService>;

/** Answers slice by slice, so that a list of many holds up nobody else. */
export function statsService({ pods, containers }: Pick<OpenPods, 'pods' | 'containers'>, stats: Stats) {
  const live = (filter: ContainerStatsFilter | undefined): readonly ContainerRecord[] => {
    const full = filter === undefined ? undefined : { ...filter, state: undefined };
    return stats.live().filter((record) => matchesContainer(record, full));
  };
  const ready = (filter: PodSandboxStatsFilter | undefined): readonly SandboxRecord[] => {
    const full = filter === undefined ? undefined : { ...filter, state: undefined };
    return stats.ready().filter((record) => matchesSandbox(record, full));
  };
  return {
    async containerStats(_op, request) {
      const record = containers.get(narrowId(request.containerId, 'container_id'));
      return { stats: (await stats.containers([record]))[0] };
    },
    async listContainerStats(_op, { filter }) {
      return await bySlices(live(filter), async (some) =>
        codecs.ListContainerStatsResponse.encode({ stats: await stats.containers(some.filter(stats.lives)) }),
      );
    },
    async *streamContainerStats(_op, { filter }) {
      for (const some of slices(live(filter)))
        yield* chunksOf((await stats.containers(some.filter(stats.lives))).map(codecs.ContainerStats.item));
    },
    async podSandboxStats(_op, request) {
      const record = pods.get(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      return { stats: (await stats.pods([record]))[0] };
    },
    async listPodSandboxStats(_op, { filter }) {
      return await bySlices(ready(filter), async (some) =>
        codecs.ListPodSandboxStatsResponse.encode({ stats: await stats.pods(some.filter(stats.isReady)) }),
      );
    },
    async *streamPodSandboxStats(_op, { filter }) {
      for (const some of slices(ready(filter)))
        yield* chunksOf((await stats.pods(some.filter(stats.isReady))).map(codecs.PodSandboxStats.item));
    },
    listMetricDescriptors: () => ({ descriptors: stats.descriptors }),
    async listPodSandboxMetrics() {
      return await bySlices(stats.ready(), async (some) =>
        codecs.ListPodSandboxMetricsResponse.encode({ podMetrics: await stats.metrics(some) }),
      );
    },
    async *streamPodSandboxMetrics() {
      for (const some of slices(stats.ready()))
        yield* chunksOf((await stats.metrics(some)).map(codecs.PodSandboxMetrics.item));
    },
  } satisfies Handlers;
}

/** Attributes of records as bytes: labels and annotations are most of what there is to write, and never change. */
export function encodedAttributes(): StatsOptions['attributes'] {
  return {
    pod: remembered(({ id, config: { metadata, labels, annotations } }) =>
      preencoded<'PodSandboxAttributes'>(codecs.PodSandboxAttributes.encode({ id, metadata, labels, annotations })),
    ),
    container: remembered(({ id, config: { metadata, labels, annotations } }) =>
      preencoded<'ContainerAttributes'>(codecs.ContainerAttributes.encode({ id, metadata, labels, annotations })),
    ),
  };
}

function* slices<T>(records: readonly T[]): Generator<readonly T[]> {
  for (let at = 0; at < records.length; at += limits.statsSliceCount)
    yield records.slice(at, at + limits.statsSliceCount);
}

/** A list reply, slice by slice: protobuf joins the items of messages that follow each other. */
async function bySlices<T>(records: readonly T[], encode: (some: readonly T[]) => Promise<Buffer>): Promise<Encoded> {
  const gate = new Gate(limits.statsLanesCount);
  return concatenate(await together(Array.from(slices(records), (some) => gate.run(() => encode(some)))));
}

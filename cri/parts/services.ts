/** The services behind the socket, each with what it needs of the parts, and the server in front of them. */
import { join } from 'node:path';
import { getHeapSnapshot } from 'node:v8';
import { ensureDir } from '../../pkg/base/files.ts';
import type { SandboxId } from '../../pkg/base/ids.ts';
import { backgroundOp, type Logger } from '../../pkg/base/op.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type Config, renderConfig, runtimeAsCrio } from '../../pkg/config/index.ts';
import type { Operation } from '../../pkg/cri-api/types.ts';
import type { FileImageStore } from '../../pkg/image/index.ts';
import type { OpenPods, World } from '../../pkg/pod/index.ts';
import { openStats } from '../../pkg/stats/index.ts';
import { cgroups } from '../../pkg/sys/index.ts';
import { Calls } from '../calls.ts';
import type { Disks } from '../disks.ts';
import { type EventsService, eventsService } from '../events-service.ts';
import { imageService } from '../image-service.ts';
import { inspectPages } from '../inspect.ts';
import { toJson } from '../json.ts';
import { LoopDelay } from '../loop-delay.ts';
import { cpuProfile } from '../cpu-profile.ts';
import { nodeService } from '../node-service.ts';
import { observeService } from '../observe-service.ts';
import { runtimeService } from '../runtime-service.ts';
import { answersOf, type Services } from '../rpcs.ts';
import { type RunningServer, serve } from '../server.ts';
import { encodedAttributes, statsService } from '../stats-service.ts';
import { streamService } from '../stream-service.ts';
import { listenAsCrio } from './crio-socket.ts';
import type { Runtimes } from './runtimes.ts';
import type { Streams } from './streams.ts';
import type { Telemetry } from './telemetry.ts';

/** Everything that services speak for. */
export interface ServiceParts {
  /** As it was at the start. */
  readonly config: Config;
  /** As it is, after what was reloaded. */
  readonly inForce: () => Config;
  readonly log: Logger;
  readonly version: string;
  readonly world: World;
  readonly mind: OpenPods;
  readonly runtimes: Runtimes;
  readonly images: FileImageStore;
  readonly disks: Disks;
  readonly streams: Streams;
  readonly telemetry: Telemetry;
}

/** Opens the socket, and CRI-O's where that is free, and serves metrics. @throws as serve, and Telemetry.serve. */
export async function openSocket(parts: ServiceParts): Promise<RunningServer> {
  const { config, inForce, log, world, mind, streams, disks, telemetry, runtimes } = parts;
  const { listen, crioSocket } = config.api;
  const calls = new Calls(() => [...mind.operations(), ...streams.operations()]);
  const operations = (): readonly Operation[] => calls.operations();
  const events = eventsService({ mind, enabled: config.runtime.enablePodEvents, clock: world.clock, log });
  const answers = answersOf(makeServices(parts, events, operations));
  const pages = inspectPages({
    inspect: mind.inspect,
    rootfs: world.rootfs,
    cgroupManager: world.facts.cgroupManager,
    config: () => renderConfig(inForce(), { comment: 'none', docs: 'without' }),
    operations,
    heap: getHeapSnapshot,
    cpu: cpuProfile,
    freeze: (what, id) => mind.containers[what](backgroundOp(log, limits.httpAnswerMs), id),
  });
  await telemetry.serve({ mind, runtimes, operations, eventsDropped: () => events.counts().dropped });
  const { watch } = telemetry;
  await ensureDir(join(listen, '..'), 0o755);
  const server = await disks.run.reserve.freeing(() => serve({ socket: listen, log, answers, calls, pages, watch }));
  if (crioSocket !== 'none') await listenAsCrio(server, { listen, crioSocket, log });
  return server;
}

function makeServices(parts: ServiceParts, events: EventsService, operations: () => readonly Operation[]): Services {
  const { config, log, world, mind, images, disks, streams, runtimes } = parts;
  const { clock, rootfs, network, facts, whyNoUserNamespaces } = world;
  const stats = openStats({
    pods: mind.pods,
    containers: mind.containers,
    subscribe: mind.subscribe,
    rootfs,
    measureLayer: (id) => rootfs.usage(backgroundOp(log), id),
    layersPatienceMs: limits.layerSizesMs,
    layout: cgroups.readLayoutSync(),
    facts,
    periodMs: config.stats.collectionPeriodMs,
    metricGroups: config.stats.includedPodMetrics,
    clock,
    log,
    attributes: encodedAttributes(),
  });
  return {
    runtime: runtimeService(mind, network),
    stream: streamService(mind, () => streams.open()),
    observe: observeService({
      mind,
      network,
      version: parts.version,
      cgroupManager: facts.cgroupManager,
      runtimes,
      userNamespaces: whyNoUserNamespaces === undefined,
      info: statusInfo(parts, events, operations),
      operations,
      podEvents: config.runtime.enablePodEvents,
      clock,
    }),
    events,
    image: imageService({ images, rootfs, stats, clock }),
    node: nodeService({
      images,
      operations,
      disks: () => disks.survey(),
      facts,
      network,
      networkedPods: () => networkedPods(mind),
      runtimes,
      whyNoUserNamespaces,
    }),
    stats: statsService(mind, stats),
  };
}

/** What a verbose Status tells beyond CRI, JSON each. */
function statusInfo(
  { inForce, world, images }: ServiceParts,
  events: { counts(): unknown },
  operations: () => readonly Operation[],
): () => Readonly<Record<string, string>> {
  const loop = new LoopDelay();
  return () => ({
    config: configAsJson(inForce()),
    network: JSON.stringify(world.network.inUse ?? null),
    pulls: toJson(images.progress()),
    images: toJson(images.counters()),
    operations: toJson(operations()),
    eventLoop: JSON.stringify(loop.read()),
    events: JSON.stringify(events.counts()),
  });
}

/** CRI-O has two members there, which scripts read; Berth's own tables stay beside them. */
function configAsJson(config: Config): string {
  return toJson({ ...config, sandboxImage: config.image.pauseImage, crio: runtimeAsCrio(config) });
}

function networkedPods(mind: OpenPods): { readonly id: SandboxId; readonly name: string }[] {
  const ready = mind.pods
    .list()
    .filter(({ state, namespaces }) => state.phase === 'ready' && namespaces['net'] !== undefined);
  return ready.map(({ id, config }) => ({ id, name: `${config.metadata.namespace}/${config.metadata.name}` }));
}

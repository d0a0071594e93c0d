/** The services behind the socket, each with what it needs of the parts, and the server in front of them. */
import { join } from 'node:path';
import { ensureDir } from '../../pkg/base/files.ts';
import type { SandboxId } from '../../pkg/base/ids.ts';
import { backgroundOp, type Logger } from '../../pkg/base/op.ts';
import { limits } from '../../pkg/base/limits.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { Operation } from '../../pkg/cri-api/types.ts';
import type { FileImageStore } from '../../pkg/image/index.ts';
import type { OpenPods, World } from '../../pkg/pod/index.ts';
import { openStats } from '../../pkg/stats/index.ts';
import { cgroups } from '../../pkg/sys/index.ts';
import { Calls } from '../calls.ts';
import type { Disks } from '../disks.ts';
import { eventsService } from '../events-service.ts';
import { imageService } from '../image-service.ts';
import { toJson } from '../json.ts';
import { LoopDelay } from '../loop-delay.ts';
import { nodeService } from '../node-service.ts';
import { observeService } from '../observe-service.ts';
import { runtimeService } from '../runtime-service.ts';
import { answersOf, type Services } from '../rpcs.ts';
import { type RunningServer, serve } from '../server.ts';
import { encodedAttributes, statsService } from '../stats-service.ts';
import { streamService } from '../stream-service.ts';
import type { Runtimes } from './runtimes.ts';
import type { Streams } from './streams.ts';

/** Everything that services speak for. */
export interface ServiceParts {
  readonly config: Config;
  readonly log: Logger;
  readonly version: string;
  readonly world: World;
  readonly mind: OpenPods;
  readonly runtimes: Runtimes;
  readonly images: FileImageStore;
  readonly disks: Disks;
  readonly streams: Streams;
}

/** Opens the socket. @throws as serve. */
export async function openSocket(parts: ServiceParts): Promise<RunningServer> {
  const { config, log, mind, streams, disks } = parts;
  const calls = new Calls(() => [...mind.operations(), ...streams.operations()]);
  const answers = answersOf(makeServices(parts, () => calls.operations()));
  await ensureDir(join(config.api.listen, '..'), 0o755);
  return await disks.run.reserve.freeing(() => serve({ socket: config.api.listen, log, answers, calls }));
}

function makeServices(parts: ServiceParts, operations: () => readonly Operation[]): Services {
  const { config, log, world, mind, images, disks, streams, runtimes } = parts;
  const { clock, rootfs, network, facts, whyNoUserNamespaces } = world;
  const events = eventsService({ mind, enabled: config.runtime.enablePodEvents, clock, log });
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
  { config, world, images }: ServiceParts,
  events: { counts(): unknown },
  operations: () => readonly Operation[],
): () => Readonly<Record<string, string>> {
  const loop = new LoopDelay();
  return () => ({
    config: toJson(config),
    network: JSON.stringify(world.network.inUse ?? null),
    pulls: toJson(images.progress()),
    images: toJson(images.counters()),
    operations: toJson(operations()),
    eventLoop: JSON.stringify(loop.read()),
    events: JSON.stringify(events.counts()),
  });
}

function networkedPods(mind: OpenPods): { readonly id: SandboxId; readonly name: string }[] {
  const ready = mind.pods
    .list()
    .filter(({ state, namespaces }) => state.phase === 'ready' && namespaces['net'] !== undefined);
  return ready.map(({ id, config }) => ({ id, name: `${config.metadata.namespace}/${config.metadata.name}` }));
}

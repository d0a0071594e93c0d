/** Puts the mind together and brings it up to date with the world. */
import { explain } from '../base/errors.ts';
import type { ChainId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { Operation } from '../cri-api/types.ts';
import { Background } from './background.ts';
import { type BlockedListener, BlockedCallsWatch } from './blocked-calls.ts';
import { Books } from './books.ts';
import { CleanUps } from './clean-ups.ts';
import { ContainerKeeper } from './containers.ts';
import { ExecKeeper } from './exec.ts';
import { OomWitness } from './oom-witness.ts';
import { SandboxKeeper } from './pods.ts';
import { recover } from './recover.ts';
import { shownSpec } from './shown-spec.ts';
import type { Surroundings } from './life-core.ts';
import type { Containers, Execs, PodEvent, Pods } from '../ports/pods.ts';
import type { OciRuntime } from '../ports/runtime.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { World } from './world.ts';

/** The records of a pod, and which of them was asked for. */
export interface Inspected {
  readonly asked: ContainerRecord | SandboxRecord;
  readonly pod: SandboxRecord;
  readonly containers: readonly ContainerRecord[];
}

/** The mind, open: what is asked of it by requests, and what others of the daemon need to know. */
export interface OpenPods {
  readonly pods: Pods;
  readonly containers: Containers;
  readonly execs: Execs;
  /** Calls `listener` for every event from now on; returns the way to stop. */
  subscribe(listener: (event: PodEvent) => void): () => void;
  /** Calls `listener` for each system call that a seccomp profile blocked and tells of. */
  followBlockedCalls(listener: BlockedListener): void;
  /**
   * A container or a pod, one in the making too, with all of its pod; by id or unambiguous prefix. @throws
   * InvalidArgument if several match.
   */
  inspect(idOrPrefix: string): Inspected | undefined;
  /** The OCI spec of a container or pod as JSON, as its runtime was given it; undefined if there is none. */
  runtimeSpec(record: ContainerRecord | SandboxRecord): Promise<string | undefined>;
  /** What goes on in the background. */
  operations(): readonly Operation[];
  /** Clean-ups that have failed and are tried again. */
  cleanUpsPending(): number;
  /** Ids of the containers that use the image, as their root or as a volume. */
  imageUsers(imageId: string): readonly string[];
  /** Layers under containers, whatever has become of their image. */
  layersInUse(): Iterable<ChainId>;
  /** Stops watching; nothing that runs is touched. */
  close(): void;
}

/** Recovers (see recover.ts) and returns the mind, ready for requests. */
export async function openPods(op: Op, world: World): Promise<OpenPods> {
  const books = new Books(world.state, world.clock);
  const background = new Background(world.log);
  const closing = new AbortController();
  const cleanUps = new CleanUps(world, background, closing.signal);
  const oom = new OomWitness(world, books);
  const blocked = new BlockedCallsWatch(world, books, background, closing.signal);
  const around = { world, books, background, cleanUps, oom, blocked, closing: closing.signal };
  const containers = new ContainerKeeper(around);
  blocked.killBy((own, id, calls) => containers.killFor(own, id, calls));
  await recover(op, around, containers);
  void containers
    .followExits()
    .catch((cause: unknown) =>
      world.log.error('exits can no longer be followed; restart the daemon', { cause: explain(cause) }),
    );
  for (const runtime of world.runtimes) endLeftExecs(around, runtime);
  const pods = new SandboxKeeper(around, containers);
  pods.resume();
  return {
    pods,
    containers,
    execs: new ExecKeeper(world, books),
    subscribe: (listener) => books.subscribe(listener),
    followBlockedCalls: (listener) => blocked.subscribe(listener),
    inspect: (id) => inspect(books, id),
    runtimeSpec: (record) => shownSpec(world, record),
    operations: () => background.operations(),
    cleanUpsPending: () => cleanUps.pendingCount,
    imageUsers: (imageId) =>
      [...books.containers()]
        .filter(
          (record) => record.imageId === imageId || record.imageVolumes.some((volume) => volume.imageId === imageId),
        )
        .map((record) => record.id),
    layersInUse: () => [...books.containers()].flatMap((record) => record.layers),
    close: () => closing.abort(),
  };
}

/** In the background: the deadlines are those of callers who are gone. */
function endLeftExecs({ world, background, closing }: Surroundings, runtime: OciRuntime): void {
  const { name } = runtime.handler;
  const op = { ...background.begin('end of commands from before the restart', { runtime: name }), signal: closing };
  const work = runtime
    .endLeftExecs(op)
    .catch((cause: unknown) =>
      world.log.warn('commands from before the restart are not ended when they should', { cause: explain(cause) }),
    );
  op.goesOn?.(work);
}

function inspect(books: Books, id: string): Inspected | undefined {
  const asked = books.findContainer(id) ?? books.findSandbox(id);
  if (asked === undefined) return undefined;
  const pod = asked.kind === 'sandbox' ? asked : books.sandbox(asked.sandboxId);
  return pod === undefined ? undefined : { asked, pod, containers: books.containersOf(pod.id) };
}

/** Puts the mind together and brings it up to date with the world. */
import { explain } from '../base/errors.ts';
import type { ChainId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { Operation } from '../cri-api/types.ts';
import { Background } from './background.ts';
import { Books } from './books.ts';
import { ContainerKeeper } from './containers.ts';
import { ExecKeeper } from './exec.ts';
import { SandboxKeeper } from './pods.ts';
import { recover } from './recover.ts';
import type { Containers, Execs, PodEvent, Pods } from '../ports/pods.ts';
import type { World } from './world.ts';

/** The mind, open: what is asked of it by requests, and what others of the daemon need to know. */
export interface OpenPods {
  readonly pods: Pods;
  readonly containers: Containers;
  readonly execs: Execs;
  /** Calls `listener` for every event from now on; returns the way to stop. */
  subscribe(listener: (event: PodEvent) => void): () => void;
  /** What goes on in the background. */
  operations(): readonly Operation[];
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
  const around = { world, books, background, closing: closing.signal };
  const containers = new ContainerKeeper(around);
  await recover(op, world, books, containers);
  void containers
    .followExits()
    .catch((cause: unknown) =>
      world.log.error('exits can no longer be followed; restart the daemon', { cause: explain(cause) }),
    );
  const pods = new SandboxKeeper(around, containers);
  pods.resume();
  return {
    pods,
    containers,
    execs: new ExecKeeper(world, books),
    subscribe: (listener) => books.subscribe(listener),
    operations: () => background.operations(),
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

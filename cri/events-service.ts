/**
 * GetContainerEvents: what happens to pods and containers, with the statuses of the whole pod right after it (evented
 * PLEG).
 *
 * A new subscriber first gets the state of everything there is, one event per object, so that one who comes back has
 * missed nothing that still matters. Nobody's slowness is anybody else's trouble: events wait in a ring per subscriber,
 * and when that is full the oldest go and are counted. The bytes of an event are made once for all.
 */
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Logger } from '../pkg/base/op.ts';
import type { ContainerEventResponse, ContainerEventType } from '../pkg/cri-api/types.ts';
import { containerStatus, type OpenPods, podSandboxStatus } from '../pkg/pod/index.ts';
import { codecs, Encoded } from './codec.ts';
import type { Handler } from './handler.ts';
import { containersOf } from './pod-containers.ts';
import type { PodEvent } from '../pkg/ports/pods.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';

/** Where events come from. */
export interface EventsOptions {
  readonly mind: Pick<OpenPods, 'pods' | 'containers' | 'subscribe'>;
  /** False: the RPC is not implemented, and the kubelet goes on to list (`enable_pod_events`). */
  readonly enabled: boolean;
  readonly clock: () => bigint;
  readonly log: Logger;
}

/** The handler of GetContainerEvents, and what it had to drop. */
export interface EventsService {
  readonly getContainerEvents: Handler<'getContainerEvents'>;
  /** Clients that read events now, and the events that slow ones have missed since the start. */
  counts(): { readonly subscribers: number; readonly dropped: number };
}

const TYPES: Readonly<Record<PodEvent['type'], ContainerEventType>> = {
  created: 'CONTAINER_CREATED_EVENT',
  started: 'CONTAINER_STARTED_EVENT',
  stopped: 'CONTAINER_STOPPED_EVENT',
  deleted: 'CONTAINER_DELETED_EVENT',
};

/** Answers with what happens, to as many clients as there may be. */
export function eventsService({ mind, enabled, clock, log }: EventsOptions): EventsService {
  const subscribers = new Set<Ring>();
  let dropped = 0;
  if (enabled) {
    mind.subscribe((event) => {
      if (subscribers.size === 0) return;
      const bytes = encode(event, partsOf(mind, event.record));
      for (const each of subscribers) {
        if (each.push(bytes)) continue;
        dropped++;
        if (each.dropped === 1)
          log.warn('a client does not read container events as fast as they come; the oldest are dropped', {
            rpc: 'GetContainerEvents',
            kept: limits.eventQueueCount,
          });
      }
    });
  }
  return {
    counts: () => ({ subscribers: subscribers.size, dropped }),
    async *getContainerEvents(op) {
      if (!enabled)
        throw new RuntimeError(
          'Unimplemented',
          'container events are switched off; set enable_pod_events = true in [crio.runtime]',
        );
      if (subscribers.size >= limits.eventSubscribersCount)
        throw new RuntimeError(
          'ResourceExhausted',
          `${subscribers.size} clients read container events already; end one of them`,
        );
      const ring = new Ring(limits.eventQueueCount);
      subscribers.add(ring);
      // Records are immutable: what is collected in this instant goes out before anything that happens from now on.
      const present = snapshot(mind, clock());
      try {
        for (const { event, parts } of present) yield new Encoded(encode(event, parts));
        while (!op.signal.aborted) {
          const next = await ring.take(op.signal);
          if (next !== undefined) yield new Encoded(next);
        }
      } finally {
        subscribers.delete(ring);
      }
    },
  };
}

/** Events that wait for one subscriber. */
export class Ring {
  readonly #events: Buffer[] = [];
  readonly #max: number;
  #wake: (() => void) | undefined;
  dropped = 0;

  constructor(max: number) {
    this.#max = max;
  }

  /** False if the oldest had to go to make room. */
  push(event: Buffer): boolean {
    const full = this.#events.length >= this.#max;
    if (full) {
      this.#events.shift();
      this.dropped++;
    }
    this.#events.push(event);
    this.#wake?.();
    return !full;
  }

  /** The oldest, once there is one; undefined if `signal` fires first. */
  async take(signal: AbortSignal): Promise<Buffer | undefined> {
    if (this.#events.length === 0 && !signal.aborted) {
      const { promise, resolve } = Promise.withResolvers<void>();
      const wake = (): void => resolve();
      this.#wake = wake;
      signal.addEventListener('abort', wake, { once: true });
      await promise;
      signal.removeEventListener('abort', wake);
      this.#wake = undefined;
    }
    return this.#events.shift();
  }
}

/** A pod as an event shows it. The pod is missing when its container outlived its record, which only a crash can do. */
interface Parts {
  readonly pod: SandboxRecord | undefined;
  readonly containers: readonly ContainerRecord[];
}

function partsOf({ pods, containers }: EventsOptions['mind'], record: SandboxRecord | ContainerRecord): Parts {
  const id = record.kind === 'sandbox' ? record.id : record.sandboxId;
  return {
    pod: record.kind === 'sandbox' ? record : pods.find(id),
    containers: containersOf(containers.list(), id),
  };
}

function encode({ type, record, at }: PodEvent, { pod, containers }: Parts): Buffer {
  return codecs.ContainerEventResponse.encode({
    containerId: record.id,
    containerEventType: TYPES[type],
    createdAt: at,
    podSandboxStatus: pod === undefined ? undefined : podSandboxStatus(pod),
    containersStatuses: containers.map(containerStatus),
  } satisfies ContainerEventResponse);
}

/** What is there now, as if it had just come to be as it is: each pod, then its containers. */
function snapshot(
  { pods, containers }: EventsOptions['mind'],
  at: bigint,
): { readonly event: PodEvent; readonly parts: Parts }[] {
  const byPod = Map.groupBy(containers.list(), ({ sandboxId }) => sandboxId);
  return pods.list().flatMap((pod) => {
    const own = byPod.get(pod.id) ?? [];
    const parts = { pod, containers: containersOf(own, pod.id) };
    return [pod, ...own].map((record) => ({ event: { type: lastEventOf(record), record, at }, parts }));
  });
}

function lastEventOf(record: SandboxRecord | ContainerRecord): PodEvent['type'] {
  if (record.kind === 'sandbox') return record.state.phase === 'ready' ? 'started' : 'stopped';
  switch (record.state.phase) {
    case 'creating':
    case 'created':
    case 'starting':
      return 'created';
    // Nobody saw an unknown one end.
    case 'running':
    case 'unknown':
      return 'started';
    case 'exited':
    case 'removing':
      return 'stopped';
  }
}

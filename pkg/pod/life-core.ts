/**
 * What the parts of a container's life share: who it is, its lock, and its record with the changes of it.
 */
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { KeyedMutex } from '../base/sync.ts';
import { next } from '../state/index.ts';
import type { ContainerEvent, ContainerRecord } from '../ports/state.ts';
import type { Background } from './background.ts';
import type { BlockedCallsWatch } from './blocked-calls.ts';
import type { Books } from './books.ts';
import type { CleanUps } from './clean-ups.ts';
import type { ContainerRemains } from './destroy.ts';
import type { OomWitness } from './oom-witness.ts';
import type { World } from './world.ts';

/** Where lives are lived: what all of them have in common. */
export interface Surroundings {
  readonly world: World;
  readonly books: Books;
  readonly background: Background;
  readonly cleanUps: CleanUps;
  readonly oom: OomWitness;
  readonly blocked: BlockedCallsWatch;
  /** Fires when the daemon stops watching. */
  readonly closing: AbortSignal;
}

/** One container, for the parts of its life: its record changes only under its lock. */
export class LifeCore {
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  readonly around: Surroundings;
  readonly #lock = new KeyedMutex<'record'>();

  constructor(around: Surroundings, id: ContainerId, sandboxId: SandboxId) {
    this.around = around;
    this.id = id;
    this.sandboxId = sandboxId;
  }

  /** As it is now; undefined when nobody may see it any more. */
  get record(): ContainerRecord | undefined {
    return this.around.books.container(this.id);
  }

  /** Its end is on record, or it is gone. */
  get hasEnded(): boolean {
    const { record } = this;
    return record === undefined || hasEnded(record);
  }

  /** Somebody holds the lock, or waits for it. */
  get isBusy(): boolean {
    return this.#lock.busy('record');
  }

  /** Serialises whatever reads the record to change it. */
  async locked<T>(work: () => Promise<T>): Promise<T> {
    return await this.#lock.run('record', work);
  }

  /** Saves the record after `event`; a no-op if that changes nothing. @throws FailedPrecondition as `next`. */
  async apply(
    record: ContainerRecord,
    event: ContainerEvent,
    changes: Partial<ContainerRecord> = {},
  ): Promise<ContainerRecord> {
    const state = next(record.state, event);
    if (state === record.state) return record;
    const after = { ...record, ...changes, state };
    await this.around.books.save(after);
    return after;
  }

  /** Resolves at the next change of the record, or when `signal` fires. */
  async changed(signal: AbortSignal): Promise<void> {
    await this.around.books.changed(this.id, signal);
  }
}

/** True of a container whose end is on record. */
export function hasEnded(record: ContainerRecord): boolean {
  return record.state.phase === 'exited' || record.state.phase === 'removing';
}

/** What destroyContainer needs to know of a container that has a record. */
export function containerRemains(record: ContainerRecord): ContainerRemains {
  const { state } = record;
  const isCut = state.phase === 'creating' || (state.phase === 'removing' && state.last === null);
  return {
    id: record.id,
    made: record,
    cgroupsPath: record.cgroupsPath,
    process: isCut ? 'cut' : 'made',
    log: isCut ? record.logPath : '',
  };
}

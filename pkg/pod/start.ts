/**
 * A container being started. The record says `starting` before the runtime is told; when the call fails, or the daemon
 * died meanwhile, it is asked what is true before anything is put on record: a program that runs is RUNNING, whatever
 * the call said of it.
 */
import { explain, RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { detached, type Op } from '../base/op.ts';
import { next } from '../state/index.ts';
import type { ExitRecord, OciStatus } from '../ports/runtime.ts';
import type { ContainerEvent, ContainerRecord, StartingState } from '../ports/state.ts';
import type { LifeCore } from './life-core.ts';
import { readySandbox } from './ready.ts';
import { tuneCpus } from './wishes.ts';

/** What is true of a container that is being started. Asked in this order, so that what is alive was so after all. */
export interface StartFacts {
  /** What the runtime says; undefined if it could not be asked. */
  readonly status: OciStatus['state'] | undefined;
  readonly hasExecuted: boolean;
  readonly processAlive: boolean;
  readonly exit: ExitRecord | undefined;
}

/**
 * PURE. What has become of a start; undefined when that is not known yet: the end of a dead process is for whoever
 * watches it to record, and of a living one it is to be asked again.
 */
export function decideStart(state: StartingState, facts: StartFacts): ContainerEvent | undefined {
  const { exit, status } = facts;
  if (exit !== undefined)
    return { type: 'exited', exitCode: exit.exitCode, oomKilled: exit.oomKilled, at: exit.finishedAt };
  if (!facts.processAlive) return undefined;
  // Also against the runtime's word: one that was killed half way, after it had let the program go, calls it created.
  if (facts.hasExecuted && !state.executed) return { type: 'started' };
  switch (status) {
    case 'running':
    case 'paused':
      return { type: 'started' };
    case 'creating':
    case 'created':
      return { type: 'notStarted' };
    case 'absent':
      return {
        type: 'lost',
        why: 'its process lives, but the runtime does not know it: nobody can tell whether it was started',
      };
    case 'stopped':
    case undefined:
      return undefined;
  }
}

/** The starts of one container. */
export class Start {
  readonly #core: LifeCore;
  /** Told when an end has been put on record here. */
  readonly #ended: (record: ContainerRecord) => void;
  #isAsking = false;

  constructor(core: LifeCore, ended: (record: ContainerRecord) => void) {
    this.#core = core;
    this.#ended = ended;
  }

  /**
   * Starts it, carried through whatever becomes of the caller: one that leaves half way must not leave a process
   * without a record. @throws with the runtime's words when the program does not run.
   */
  async carryOut(op: Op): Promise<void> {
    const own = detached(op, limits.containerStartMs);
    const failure = await this.#core.locked(() => this.#start(own));
    if (failure === undefined) return;
    await this.#untilSettled(own);
    throw failure;
  }

  /**
   * Finds out what has become of a start, and puts it on record. Under the lock. `failure` is what the runtime said.
   * Returns the record as it is then: `starting` still if nobody can tell yet.
   */
  async settle(op: Op, record: ContainerRecord, failure = ''): Promise<ContainerRecord> {
    if (record.state.phase !== 'starting') return record;
    const facts = await this.#observe(op, record, record.state);
    const state = failure === '' ? record.state : (next(record.state, startFailed(failure)) as StartingState);
    const event = decideStart(state, facts);
    if (event !== undefined) {
      const after = await this.#core.apply({ ...record, state }, event);
      if (after.state.phase === 'exited') this.#ended(after);
      return after;
    }
    if (facts.processAlive) this.#askLater();
    // Whoever watches the process puts its end on record; what the runtime said goes with it.
    if (facts.processAlive || failure === '') return record;
    return await this.#core.apply(record, startFailed(failure));
  }

  /** As `settle`; what cannot be put on record is tried again in the background. */
  async settleOrAskLater(op: Op, record: ContainerRecord): Promise<ContainerRecord> {
    try {
      return await this.settle(op, record);
    } catch (cause) {
      op.log.warn('what became of a start could not be put on record, will retry', {
        container: record.id,
        cause: explain(cause),
      });
      this.#askLater();
      return record;
    }
  }

  async #start(op: Op): Promise<RuntimeError | undefined> {
    const { world } = this.#core.around;
    let record = this.#present();
    if (record.state.phase === 'starting') {
      record = await this.settle(op, record);
      // What is asked for now has been done by the start before.
      if (record.state.phase === 'running') return undefined;
    }
    this.#check(record);
    const { process } = record.state as { readonly process: StartingState['process'] };
    const runtime = world.runtimeOf(record);
    await tuneCpus(op, world, readySandbox(this.#core.around.books, record.sandboxId), record);
    op.stage('save record');
    const starting = await this.#core.apply(record, {
      type: 'starting',
      at: world.clock(),
      executed: world.processes.hasExecuted(process),
    });
    await failpoint('container.starting.after');
    op.stage('runtime start');
    try {
      await runtime.start(op, this.#core.id);
    } catch (cause) {
      return await this.#failed(op, starting, cause);
    }
    await failpoint('container.start.after');
    await this.#core.apply(starting, { type: 'started' }).catch((cause: unknown) => {
      this.#askLater();
      throw wrap(`container ${this.#core.id} runs, but its record could not be saved`, cause);
    });
    return undefined;
  }

  /** What the call of the runtime that failed comes to: nothing, if the program runs. */
  async #failed(op: Op, starting: ContainerRecord, cause: unknown): Promise<RuntimeError | undefined> {
    op.stage('ask what the failed start has done');
    const after = await this.settle(op, starting, explain(cause)).catch((failure: unknown) => {
      this.#askLater();
      throw failure;
    });
    op.log.warn('the runtime says that a start failed', {
      container: this.#core.id,
      cause: explain(cause),
      found: after.state.phase,
    });
    if (after.state.phase === 'running') return undefined;
    return wrap(`start container ${this.#core.id}`, cause);
  }

  /** @throws as the client of StartContainer is to hear it. */
  #check(record: ContainerRecord): void {
    const { phase } = record.state;
    if (phase !== 'created')
      throw new RuntimeError(
        'FailedPrecondition',
        phase === 'starting'
          ? `whether container ${record.id} was started is being found out; ask for its status`
          : `container ${record.id} is ${phase}; only a created one can be started`,
      );
    if (record.monitorLost !== null)
      throw new RuntimeError(
        'FailedPrecondition',
        `container ${record.id} cannot be started: ${record.monitorLost.message}`,
      );
    if (record.stopping !== null)
      throw new RuntimeError('FailedPrecondition', `container ${record.id} is being stopped; make another one`);
    readySandbox(this.#core.around.books, record.sandboxId);
  }

  #present(): ContainerRecord {
    const { record, id } = this.#core;
    if (record === undefined) throw new RuntimeError('NotFound', `no container has the id ${quote(id)}`);
    return record;
  }

  async #observe(op: Op, record: ContainerRecord, { process }: StartingState): Promise<StartFacts> {
    const { world } = this.#core.around;
    const status = await this.#status(op, record);
    const hasExecuted = world.processes.hasExecuted(process);
    return {
      status,
      hasExecuted,
      processAlive: world.processes.alive(process),
      exit: await world.monitor.exitOf(record.id),
    };
  }

  async #status(op: Op, record: ContainerRecord): Promise<OciStatus['state'] | undefined> {
    try {
      const runtime = this.#core.around.world.runtimeOf(record);
      await runtime.startsEnded(op, record.id);
      return (await runtime.status(op, record.id)).state;
    } catch (cause) {
      op.log.warn('the runtime cannot be asked whether a container was started, will retry', {
        container: record.id,
        cause: explain(cause),
      });
      return undefined;
    }
  }

  /** Waits until the end of a start that failed is on record, so that whoever asks next sees what became of it. */
  async #untilSettled(op: Op): Promise<void> {
    const bound = AbortSignal.any([op.signal, AbortSignal.timeout(limits.exitFileMs)]);
    while (this.#isEnding() && !bound.aborted) await this.#core.changed(bound);
  }

  #isEnding(): boolean {
    const state = this.#core.record?.state;
    return state?.phase === 'starting' && state.failure !== '';
  }

  /** Asks again, with growing pauses, until it is known what has become of the start. */
  #askLater(): void {
    if (this.#isAsking) return;
    this.#isAsking = true;
    const { id, sandboxId, around } = this.#core;
    const op = around.background.begin('find out whether a container was started', {
      container: id,
      sandbox: sandboxId,
    });
    const work = this.#askUntilKnown(op).finally(() => {
      this.#isAsking = false;
    });
    op.goesOn?.(work);
  }

  async #askUntilKnown(op: Op): Promise<void> {
    const { closing } = this.#core.around;
    for (let pauseMs = 1_000; ; pauseMs = Math.min(limits.askRuntimeAgainMs, pauseMs * 2)) {
      await this.#core.changed(AbortSignal.any([closing, AbortSignal.timeout(pauseMs)]));
      if (closing.aborted) return;
      try {
        const known = await this.#core.locked(async () => {
          const { record } = this.#core;
          return record === undefined || (await this.settle(op, record)).state.phase !== 'starting';
        });
        if (known) return;
      } catch (cause) {
        op.log.warn('what became of a start could not be put on record, will retry', {
          container: this.#core.id,
          cause: explain(cause),
        });
      }
    }
  }
}

function startFailed(message: string): ContainerEvent {
  return { type: 'startFailed', message };
}

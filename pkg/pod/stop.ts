/**
 * A container being stopped: its stop signal, the grace, then SIGKILL until it is gone.
 *
 * All that is due is due by the monotonic clock: nobody's grace is longer or shorter because somebody set the time.
 */
import { explain, RuntimeError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import type { ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import type { StopUnderWay } from '../ports/state.ts';
import type { LifeCore } from './life-core.ts';

const SIGKILL = 9;
const SIGCONT = 18;

/** One stop under way. A later call can only bring its kill forward. */
export class Stop {
  readonly #core: LifeCore;
  readonly #process: ProcessRef;
  readonly #graceMs: number;
  readonly #forbiddenCalls: string | undefined;
  #killAtMs: number;
  #hurry = new AbortController();
  /** The program has not been told yet. */
  #untold = false;

  /** `forbiddenCalls`: the system calls that it is stopped for, unless somebody asked. */
  constructor(core: LifeCore, process: ProcessRef, graceMs: number, forbiddenCalls?: string) {
    this.#core = core;
    this.#process = process;
    this.#graceMs = graceMs;
    this.#forbiddenCalls = forbiddenCalls;
    this.#killAtMs = core.around.world.monotonicMs() + graceMs;
  }

  /** Brings the kill forward; a longer grace than what is left changes nothing. */
  hasten(graceMs: number): void {
    const killAtMs = this.#now() + graceMs;
    if (killAtMs >= this.#killAtMs) return;
    this.#killAtMs = killAtMs;
    this.#hurry.abort();
  }

  /** @throws DeadlineExceeded when the process, or the record of its end, outlives SIGKILL for too long. */
  async carryOut(op: Op): Promise<void> {
    // A start or an update that hangs holds the lock: a kill that is due does not wait for it.
    const isHeldUp = this.#core.isBusy;
    // The lock is held only for the bookkeeping: nobody waits for a grace period.
    const noted = this.#core.locked(() => this.#note());
    if (!isHeldUp) await noted;
    else
      noted.catch((cause: unknown) =>
        op.log.warn('a stop could not be put on record; it goes on', { cause: explain(cause) }),
      );
    await this.#thaw(op);
    await failpoint('container.stopping.after');
    await this.#grant();
    await this.#kill(op);
  }

  /** A program that is paused cannot end: on cgroup v1 not even by SIGKILL. */
  async #thaw(op: Op): Promise<void> {
    const { record, around } = this.#core;
    if (record === undefined || this.#core.hasEnded || !around.world.host.isFrozen(record.cgroupsPath)) return;
    await around.world
      .runtimeOf(record)
      .resume(op, record.id)
      .catch((cause: unknown) =>
        op.log.warn('a container that is paused could not be let go on, and may not end', { cause: explain(cause) }),
      );
  }

  #now(): number {
    return this.#core.around.world.monotonicMs();
  }

  /**
   * Puts the stop on record, then tells the program, then puts that on record: once, unless the daemon dies in between,
   * since a program that is told twice is better off than one that never is.
   */
  async #note(): Promise<void> {
    const { record } = this.#core;
    if (record === undefined || this.#core.hasEnded) return;
    // Never started: there is no program to use the time. Whoever starts it holds this lock.
    if (record.state.phase === 'created') this.hasten(0);
    const forbiddenCalls = record.stopping?.forbiddenCalls ?? this.#forbiddenCalls;
    const stopping: StopUnderWay = {
      begunAt: record.stopping?.begunAt ?? this.#core.around.world.clock(),
      signalled: record.stopping?.signalled ?? false,
      graceMs: this.#graceMs,
      killAtMs: this.#killAtMs,
      ...(forbiddenCalls === undefined ? {} : { forbiddenCalls }),
    };
    await this.#core.around.books.save({ ...record, stopping });
    this.#untold = !stopping.signalled;
    if (this.#untold && this.#now() < this.#killAtMs && this.#tell(record.stopSignal.number)) await this.#noteTold();
  }

  /** Under the lock. If it fails, a restart of the daemon tells the program once more. */
  async #noteTold(): Promise<void> {
    const { record, around } = this.#core;
    if (record === undefined || record.stopping === null || this.#core.hasEnded) return;
    const stopping = { ...record.stopping, signalled: true };
    await around.books.save({ ...record, stopping }).catch((cause: unknown) => {
      around.world.log.debug('that a program was told to stop could not be put on record, ignoring', {
        container: record.id,
        cause: explain(cause),
      });
    });
  }

  /** Waits until it has ended or the kill is due. */
  async #grant(): Promise<void> {
    for (let pauseMs = 1; !this.#core.hasEnded; pauseMs = Math.min(1_000, pauseMs * 2)) {
      const leftMs = this.#killAtMs - this.#now();
      if (leftMs <= 0) return;
      const signal = this.#core.record?.stopSignal.number;
      if (this.#untold && signal !== undefined && this.#tell(signal)) await this.#core.locked(() => this.#noteTold());
      const waitMs = Math.ceil(this.#untold ? Math.min(pauseMs, leftMs) : leftMs);
      await this.#core.changed(AbortSignal.any([AbortSignal.timeout(waitMs), this.#hurry.signal]));
      if (this.#hurry.signal.aborted) this.#hurry = new AbortController();
    }
  }

  /**
   * Sends the stop signal, unless it would be lost: a program that has just been started may not handle it yet, and no
   * event says when it does. One that never will costs a look a second until it is killed.
   */
  #tell(signal: number): boolean {
    const { processes } = this.#core.around.world;
    if (!processes.heeds(this.#process, signal)) return false;
    processes.signal(this.#process, signal);
    this.#untold = false;
    return true;
  }

  /**
   * SIGKILL until it is gone: again after 100 ms, 200 ms, … up to the bound, since a task may be in an uninterruptible
   * wait. Then until its end is on record: the monitor may have output to drain.
   */
  async #kill(op: Op): Promise<void> {
    const { processes } = this.#core.around.world;
    const begunAtMs = this.#now();
    for (let pauseMs = 100; !this.#core.hasEnded; pauseMs = Math.min(2_000, pauseMs * 2)) {
      const elapsedMs = this.#now() - begunAtMs;
      if (elapsedMs > limits.killGraceMs && processes.alive(this.#process)) throw this.#survives();
      if (elapsedMs > limits.killGraceMs + limits.exitFileMs) throw this.#unrecorded();
      processes.signal(this.#process, SIGKILL);
      processes.signal(this.#process, SIGCONT);
      await this.#core.changed(AbortSignal.timeout(pauseMs));
    }
    op.stage('stopped');
  }

  #survives(): RuntimeError {
    return new RuntimeError(
      'DeadlineExceeded',
      `container ${this.#core.id}: process ${this.#process.pid} does not end after SIGKILL (it may wait in the ` +
        'kernel for a device or a network file system); the stop can be asked for again',
    );
  }

  #unrecorded(): RuntimeError {
    return new RuntimeError(
      'DeadlineExceeded',
      `container ${this.#core.id}: process ${this.#process.pid} has ended, but its end is not on record (is the ` +
        'disk of the records full?); the stop can be asked for again',
    );
  }
}

/** What is left of the grace of a stop that an earlier daemon began: never more than was granted. */
export function graceLeft({ graceMs, killAtMs }: StopUnderWay, nowMs: number): number {
  return Math.max(0, Math.min(graceMs, killAtMs - nowMs));
}

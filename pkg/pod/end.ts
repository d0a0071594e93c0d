/**
 * How a container's end comes to its record. Two witnesses: the exit file of its monitor, and a pidfd on its process
 * (level-triggered: an event may be lost, a pidfd cannot).
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import type { ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerEvent, ContainerRecord } from '../ports/state.ts';
import { hasEnded, type LifeCore } from './life-core.ts';

type Ending = Extract<ContainerEvent, { type: 'exited' | 'vanished' }>;

/** Whoever waits for one container to end. */
export class End {
  readonly #core: LifeCore;
  /** Told when the end is on record. */
  readonly #ended: (record: ContainerRecord) => void;
  #isRetrying = false;

  constructor(core: LifeCore, ended: (record: ContainerRecord) => void) {
    this.#core = core;
    this.#ended = ended;
  }

  /**
   * Watches the process of a container, so that its end is noticed also when no exit file will ever come, and its
   * monitor, so that it is said when none will. The latter after `waitMs`: whoever waits for a start does not wait
   * for that.
   */
  watch(process: ProcessRef, monitor: ProcessRef | null, waitMs: number): void {
    const alone = new AbortController();
    this.#core.around.oom.watch(this.#core.id);
    this.#core.around.blocked.watch(this.#core.id);
    if (monitor !== null)
      void this.#awaitMonitor(process, monitor, alone, waitMs).catch((cause: unknown) => {
        this.#core.around.world.log.error('that a monitor is gone could not be recorded', {
          container: this.#core.id,
          pid: monitor.pid,
          cause: explain(cause),
        });
      });
    void this.#awaitEnd(process, alone.signal).catch((cause: unknown) => {
      this.#core.around.world.log.error('the end of a process could not be recorded', {
        container: this.#core.id,
        pid: process.pid,
        cause: explain(cause),
      });
    });
  }

  /** Puts what the monitor wrote down on record; content if the end is there already. Goes on trying if that fails. */
  async note(exit: ExitRecord): Promise<void> {
    const { exitCode, oomKilled, finishedAt: at } = this.#core.around.oom.completed(this.#core.id, exit);
    await this.#keep({ type: 'exited', exitCode, oomKilled, at });
  }

  /** Fires `alone` when the monitor is gone; says so if it has left its container behind. */
  async #awaitMonitor(process: ProcessRef, monitor: ProcessRef, alone: AbortController, waitMs: number): Promise<void> {
    const { world, closing } = this.#core.around;
    if (waitMs > 0) await sleep(waitMs, undefined, { ref: false });
    await world.processes.gone(monitor, closing);
    alone.abort();
    if (closing.aborted || this.#core.hasEnded || !world.processes.alive(process)) return;
    // Asked after the process: a monitor that has written the file has done its work.
    if ((await world.monitor.exitOf(this.#core.id)) !== undefined) return;
    const message =
      `its monitor (process ${monitor.pid}) is gone: what it prints from here on is lost, writing may fail or end ` +
      'it, and its exit code will not be known; make it anew';
    const logPath = await this.#core.locked(async () => {
      const { record } = this.#core;
      if (record === undefined || hasEnded(record) || record.monitorLost !== null) return undefined;
      await this.#core.around.books.save({ ...record, monitorLost: { at: world.clock(), message } });
      return record.logPath;
    });
    if (logPath === undefined) return;
    const { id: container, sandboxId: sandbox } = this.#core;
    world.log.error('a container has lost its monitor', { container, sandbox, pid: monitor.pid, cause: message });
    await world.monitor.noteInLog(logPath, `berth: ${message}`).catch((cause: unknown) => {
      world.log.debug('the gap could not be noted in the log of the container', { container, cause: explain(cause) });
    });
  }

  async #awaitEnd(process: ProcessRef, alone: AbortSignal): Promise<void> {
    const { world, closing } = this.#core.around;
    await world.processes.gone(process, closing);
    if (closing.aborted || this.#core.hasEnded) return;
    // The monitor drains the output before it writes the exit file; only when it lives no more, or takes for ever, will
    // none come.
    const patience = AbortSignal.any([closing, AbortSignal.timeout(limits.exitFileMs)]);
    for (;;) {
      // Asked first: a monitor that writes the file and ends between the two questions must not look like one that
      // wrote none.
      const monitor = this.#core.record?.monitor ?? null;
      const monitorGone = monitor !== null && !world.processes.alive(monitor);
      const exit = await world.monitor.exitOf(this.#core.id);
      if (exit !== undefined) return await this.note(exit);
      if (monitorGone || patience.aborted) break;
      // Any change of the record wakes us, also the one from created to running; and so does the monitor's end.
      await this.#core.changed(AbortSignal.any([patience, alone]));
      if (closing.aborted || this.#core.hasEnded) return;
    }
    await this.#keep({
      type: 'vanished',
      message: 'the process ended and its monitor wrote no exit code',
      at: world.clock(),
    });
  }

  /** An end that cannot be saved (a full disk) is not forgotten: nobody would tell of it again. */
  async #keep(event: Ending): Promise<void> {
    try {
      await this.#record(event);
    } catch (cause) {
      this.#core.around.world.log.error('the end of a container could not be recorded, will retry', {
        container: this.#core.id,
        cause: explain(cause),
      });
      if (!this.#isRetrying) void this.#retry(event);
    }
  }

  async #retry(event: Ending): Promise<void> {
    const { closing } = this.#core.around;
    this.#isRetrying = true;
    for (let pauseMs = 100; !closing.aborted && !this.#core.hasEnded; pauseMs = Math.min(60_000, pauseMs * 2)) {
      await this.#core.changed(AbortSignal.any([closing, AbortSignal.timeout(pauseMs)]));
      await this.#record(event).catch(() => {});
    }
    this.#isRetrying = false;
  }

  async #record(event: Ending): Promise<void> {
    if (this.#core.record === undefined) return;
    await this.#core.locked(async () => {
      const { record } = this.#core;
      // Still `creating`: the create that is under way will see the dead process and clean up.
      if (record === undefined || record.state.phase === 'creating') return;
      const forbiddenCalls = record.stopping?.forbiddenCalls;
      const ending = event.type === 'exited' && forbiddenCalls !== undefined ? { ...event, forbiddenCalls } : event;
      const after = await this.#core.apply(record, ending, { stopping: null });
      if (after === record || after.state.phase !== 'exited') return;
      await failpoint('container.exited.after');
      const { exitCode: exit, reason } = after.state;
      this.#core.around.world.log.info('container ended', {
        container: after.id,
        sandbox: after.sandboxId,
        exit,
        reason,
      });
      this.#ended(after);
    });
  }
}

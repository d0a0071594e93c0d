/**
 * One container's life, from its first record to its last trace: its lock, its start, its stop under way, its end, the
 * giving back of what the runtime has of it, and its removal. What is true of a container beside its record is here.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { explain, RuntimeError } from '../base/errors.ts';
import type { ContainerId, ProcessRef, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import { abortable } from '../base/sync.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerRecord } from '../ports/state.ts';
import { End } from './end.ts';
import { LifeCore, type Surroundings } from './life-core.ts';
import { Removal } from './removal.ts';
import { Retirement } from './retirement.ts';
import { Start } from './start.ts';
import { graceLeft, Stop } from './stop.ts';
import { applyUpdate } from './update.ts';

/** All that goes on with one container. */
export class Life {
  readonly sandboxId: SandboxId;
  readonly #core: LifeCore;
  readonly #start: Start;
  readonly #end: End;
  readonly #removal: Removal;
  readonly #makingGivenUp = new AbortController();
  /** The stop under way, if one is, and how it ends. */
  #stop: { readonly stop: Stop; readonly done: Promise<void> } | undefined;

  /** `gone` is called when nothing is left of the container. */
  constructor(around: Surroundings, id: ContainerId, sandboxId: SandboxId, gone: () => void) {
    this.sandboxId = sandboxId;
    this.#core = new LifeCore(around, id, sandboxId);
    const retirement = new Retirement(this.#core);
    const ended = (record: ContainerRecord): void => retirement.begin(record);
    this.#start = new Start(this.#core, ended);
    this.#end = new End(this.#core, ended);
    this.#removal = new Removal(this.#core, { retirement, stop: (op) => this.stop(op, 0), gone });
  }

  /** Fires when whoever makes the container is to give that up. */
  get makingGivenUp(): AbortSignal {
    return this.#makingGivenUp.signal;
  }

  /** Its pod is being stopped: what is being made is not wanted any more. */
  giveUpMaking(): void {
    this.#makingGivenUp.abort();
  }

  /**
   * Watches the process of a container that has just been created, or that was found, and its monitor, the latter after
   * `waitMs`.
   */
  watch(process: ProcessRef, monitor: ProcessRef | null, waitMs = 0): void {
    this.#end.watch(process, monitor, waitMs);
  }

  /** Puts an end on record that its monitor wrote down. */
  async note(exit: ExitRecord): Promise<void> {
    await this.#end.note(exit);
  }

  /** @throws with the runtime's words when its program does not run. */
  async start(op: Op): Promise<void> {
    // Once begun, a start is carried through: a client that leaves half way must not leave a process without a record.
    op.stage('wait for what else is done to the container');
    const work = this.#start.carryOut(op);
    op.goesOn?.(work);
    await abortable(
      work,
      op.signal,
      () =>
        new RuntimeError('DeadlineExceeded', `container ${this.#core.id} is still being started; ask for its status`),
    );
  }

  /** Finds out, for recovery, whether a container was started whose start a daemon before us began. */
  async settleStart(op: Op, record: ContainerRecord): Promise<ContainerRecord> {
    return await this.#core.locked(() => this.#start.settleOrAskLater(op, record));
  }

  /**
   * Stop signal, then SIGKILL after `graceMs`. Content if it runs no more, or is still being made. `forbiddenCalls`:
   * the system calls that it is stopped for.
   */
  async stop(op: Op, graceMs: number, forbiddenCalls?: string): Promise<void> {
    const { record, id } = this.#core;
    if (record === undefined || !('process' in record.state)) return;
    const done = this.#stopping(op, record.state.process, graceMs, forbiddenCalls);
    op.stage(`wait for container ${id} to end`);
    await abortable(
      done,
      op.signal,
      () =>
        new RuntimeError(
          'DeadlineExceeded',
          `stop of container ${id} goes on, but its process has not ended yet; ask again`,
        ),
    );
  }

  /** Goes on with a stop that was under way when the daemon died (K5). */
  resumeStop(): void {
    const { record, around } = this.#core;
    if (record === undefined || record.stopping === null || !('process' in record.state)) return;
    const op = around.background.begin('stop begun before the restart', { container: record.id });
    const graceMs = graceLeft(record.stopping, around.world.monotonicMs());
    this.#stopping(op, record.state.process, graceMs).catch((cause: unknown) => {
      around.world.log.warn('a stop that was under way before the restart failed', {
        container: record.id,
        cause: explain(cause),
      });
    });
  }

  /** All or nothing. @throws FailedPrecondition for a container that does not run and is not about to. */
  async update(op: Op, update: LinuxContainerResources): Promise<void> {
    op.stage('wait for what else is done to the container');
    await this.#core.locked(async () => {
      const { record, around, id } = this.#core;
      const phase = record?.state.phase ?? 'removing';
      if (record === undefined || (phase !== 'created' && phase !== 'starting' && phase !== 'running'))
        throw new RuntimeError(
          'FailedPrecondition',
          `container ${id} is ${phase}; only a created or running one can be updated`,
        );
      const resources = await applyUpdate(op, around.world, record, update);
      const latest = this.#core.record;
      if (latest !== undefined) await around.books.save({ ...latest, resources });
    });
  }

  /** Keeps its processes from running, or lets them. @throws FailedPrecondition in words of CRI-O's inspect.go. */
  async freeze(op: Op, what: 'pause' | 'unpause'): Promise<void> {
    op.stage('wait for what else is done to the container');
    await this.#core.locked(async () => {
      const { record, around, id } = this.#core;
      const phase = record?.state.phase ?? 'removing';
      const runtime = record === undefined ? undefined : around.world.runtimeOf(record);
      const asked = phase === 'created' || phase === 'running' ? await runtime?.status(op, id) : undefined;
      const state = asked?.state ?? (phase === 'exited' ? 'stopped' : phase);
      const isFit = what === 'pause' ? state === 'running' || state === 'created' : state === 'paused';
      if (runtime === undefined || !isFit)
        throw new RuntimeError(
          'FailedPrecondition',
          `container is not in ${what === 'pause' ? 'running or created' : 'paused'} state, now is ${state}`,
        );
      await runtime[what === 'pause' ? 'pause' : 'resume'](op, id);
      around.world.log.info(what === 'pause' ? 'container paused' : 'container goes on', { container: id });
    });
  }

  /** Kills it if it runs, then gives everything back; content if it is gone. */
  async remove(op: Op): Promise<void> {
    await this.#removal.run(op);
  }

  /** Gives back everything that `record` may hold: of a create that failed, or of what recovery gives up. */
  async destroy(op: Op, record: ContainerRecord): Promise<void> {
    await this.#removal.destroy(op, record);
  }

  /** Resolves when a container that was removed holds nothing any more. @throws as destroyContainer. */
  async left(op: Op): Promise<void> {
    await this.#removal.left(op);
  }

  /** The stop under way, begun or brought forward. */
  #stopping(op: Op, process: ProcessRef, graceMs: number, forbiddenCalls?: string): Promise<void> {
    if (this.#stop !== undefined) {
      this.#stop.stop.hasten(graceMs);
      return this.#stop.done;
    }
    const stop = new Stop(this.#core, process, graceMs, forbiddenCalls);
    const done = stop.carryOut(op).finally(() => {
      this.#stop = undefined;
    });
    this.#stop = { stop, done };
    done.catch(() => {});
    op.goesOn?.(done);
    return done;
  }
}

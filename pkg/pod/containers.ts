/**
 * Containers: create, start, stop, remove, and how an exit is noticed. How a container is put together is in create.ts.
 */
import type { ContainerStatus, LinuxContainerResources } from '../cri-api/types.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import { codeOf, explain, RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { Flights } from '../base/flights.ts';
import { type ContainerId, newContainerId, type ProcessRef, quote, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { type Op, withLog } from '../base/op.ts';
import { abortable, KeyedMutex } from '../base/sync.ts';
import { next } from '../state/index.ts';
import type { Background } from './background.ts';
import { type Books, containerKey, isVisible } from './books.ts';
import { draftContainer, launchContainer } from './create.ts';
import { type ContainerRemains, destroyContainer, retireContainer } from './destroy.ts';
import { containerStatus } from './query.ts';
import { same } from './same.ts';
import { applyUpdate } from './update.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerEvent, ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { Containers } from '../ports/pods.ts';
import type { World } from './world.ts';

const SIGKILL = 9;
const SIGCONT = 18;

/** One container being stopped: when the kill is due. A later call can only bring it forward. */
interface Stop {
  killAtMs: number;
  readonly hurry: AbortController;
  readonly done: Promise<void>;
}

export class ContainerKeeper implements Containers {
  readonly #world: World;
  readonly #books: Books;
  readonly #creates = new Flights<string, ContainerId>('goes on', limits.containerCreateMs);
  readonly #removes = new Flights<ContainerId, void>('goes on', limits.podStopMs);
  readonly #locks = new KeyedMutex<ContainerId>();
  readonly #stops = new Map<ContainerId, { stop: Stop }>();
  readonly #retiring = new Map<ContainerId, Promise<void>>();
  /** Ended containers whose runtime side is gone already; forgotten by a restart, which only costs a call. */
  readonly #retired = new Set<ContainerId>();
  /** Removed containers that hold something yet: nobody sees them, but their pod goes after them. */
  readonly #leaving = new Map<ContainerId, { readonly record: ContainerRecord; readonly work: Promise<void> }>();
  readonly #shutdown = new AbortController();
  readonly #background: Background;

  constructor(world: World, books: Books, background: Background) {
    this.#world = world;
    this.#books = books;
    this.#background = background;
  }

  async create(op: Op, pod: SandboxId, config: NamedContainerConfig): Promise<ContainerId> {
    const key = containerKey(pod, config.metadata);
    const id = await this.#creates.run(op, key, (own) => this.#createOrAdopt(own, key, pod, config));
    const record = this.#books.container(id);
    if (record !== undefined && !same(record.config, config)) throw taken(record);
    return id;
  }

  async start(op: Op, id: ContainerId): Promise<void> {
    this.get(id);
    // Once begun, a start is carried through: a client that leaves half way must not leave a process without a record.
    op.stage('wait for what else is done to the container');
    const work = this.#locks.run(id, () => this.#start(op, id));
    op.goesOn?.(work);
    await abortable(
      work,
      op.signal,
      () => new RuntimeError('DeadlineExceeded', `container ${id} is still being started; ask for its status`),
    );
  }

  async stop(op: Op, id: ContainerId, graceMs: number): Promise<void> {
    for (;;) {
      const record = this.#books.container(id);
      if (record === undefined) return;
      const { phase } = record.state;
      if (phase === 'exited' || phase === 'removing') return;
      if (phase === 'creating') {
        await abortable(this.#creates.settled(containerKey(record.sandboxId, record.config.metadata)), op.signal, () =>
          impatient(id, 'it is still being created'),
        );
        if (this.#books.container(id)?.state.phase === 'creating') return;
        continue;
      }
      const stop = this.#stopping(op, record, record.state.process, graceMs);
      op.stage(`wait for container ${id} to end`);
      await abortable(stop.done, op.signal, () => impatient(id, 'its process has not ended yet'));
      return;
    }
  }

  async remove(op: Op, id: ContainerId): Promise<void> {
    await this.#removes.run(op, id, (own) => this.#remove(own, id));
  }

  find(idOrPrefix: string): ContainerRecord | undefined {
    const record = this.#books.findContainer(idOrPrefix);
    return record !== undefined && isVisible(record) ? record : undefined;
  }

  get(idOrPrefix: string): ContainerRecord {
    const record = this.find(idOrPrefix);
    if (record === undefined) throw new RuntimeError('NotFound', `no container has the id ${quote(idOrPrefix)}`);
    return record;
  }

  list(): readonly ContainerRecord[] {
    return [...this.#books.containers()].filter(isVisible);
  }

  status(record: ContainerRecord): ContainerStatus {
    return containerStatus(record);
  }

  async update(op: Op, id: ContainerId, update: LinuxContainerResources): Promise<void> {
    this.get(id);
    op.stage('wait for what else is done to the container');
    await this.#locks.run(id, async () => {
      const record = this.get(id);
      const { phase } = record.state;
      if (phase !== 'created' && phase !== 'running')
        throw new RuntimeError(
          'FailedPrecondition',
          `container ${id} is ${phase}; only a created or running one can be updated`,
        );
      const resources = await applyUpdate(op, this.#world, record, update);
      const latest = this.#books.container(id);
      if (latest !== undefined) await this.#books.save({ ...latest, resources });
    });
  }

  async reopenLog(op: Op, id: ContainerId): Promise<void> {
    const record = this.get(id);
    if (record.state.phase !== 'running')
      throw new RuntimeError(
        'FailedPrecondition',
        `container ${id} is ${record.state.phase}; its log is reopened only while it runs`,
      );
    await this.#world.monitor.reopenLog(op, record.bundle, record.logPath);
  }

  /** Resolves when no container of `pod` is being made any more. */
  async settle(pod: SandboxId): Promise<void> {
    const making = this.#books.containersOf(pod).filter((record) => record.state.phase === 'creating');
    await Promise.all(making.map((record) => this.#creates.settled(containerKey(pod, record.config.metadata))));
  }

  /**
   * Resolves when the removed containers of `pod` hold nothing any more. @throws as destroyContainer, for one that
   * failed before and fails again.
   */
  async left(op: Op, pod: SandboxId): Promise<void> {
    for (const [id, { record, work }] of this.#leaving) {
      if (record.sandboxId !== pod) continue;
      op.stage(`wait until container ${id} has left`);
      await work;
      if (this.#leaving.has(id)) await this.#locks.run(id, () => this.#finish(op, record));
    }
  }

  /** Follows the exit directory until `close`. Call once, after recovery has taken the records in. */
  async followExits(): Promise<void> {
    for await (const exit of this.#world.monitor.exits(this.#shutdown.signal)) {
      await this.#noteExit(exit).catch((cause: unknown) => {
        this.#world.log.error('an exit could not be recorded, will retry', {
          container: exit.id,
          cause: explain(cause),
        });
      });
    }
  }

  /**
   * Watches the process of a created or running container, so that its end is noticed even when the monitor is gone and
   * no exit file will ever come (level-triggered: an event may be lost, a pidfd cannot).
   */
  watch(id: ContainerId, process: ProcessRef): void {
    void this.#awaitEnd(id, process).catch((cause: unknown) => {
      this.#world.log.error('the end of a process could not be recorded', {
        container: id,
        pid: process.pid,
        cause: explain(cause),
      });
    });
  }

  /** Goes on with a stop that was under way when the daemon died (reliability K5). */
  resumeStop(record: ContainerRecord): void {
    const { state, stopping } = record;
    if (stopping === null || !('process' in state)) return;
    const leftMs = Number((stopping.killAt - this.#world.clock()) / 1_000_000n);
    const op = this.#background.begin('stop begun before the restart', { container: record.id });
    void this.#stopping(op, record, state.process, Math.max(0, leftMs)).done.catch((cause: unknown) => {
      this.#world.log.warn('a stop that was under way before the restart failed', {
        container: record.id,
        cause: explain(cause),
      });
    });
  }

  close(): void {
    this.#shutdown.abort();
  }

  async #createOrAdopt(op: Op, key: string, pod: SandboxId, config: NamedContainerConfig): Promise<ContainerId> {
    const twin = this.#books.byKey(key);
    const record = twin === undefined ? undefined : this.#books.container(twin as ContainerId);
    if (record?.state.phase === 'created' || record?.state.phase === 'running') return record.id;
    if (record?.state.phase === 'creating' || record?.state.phase === 'removing') await this.#destroy(op, record);
    else if (record !== undefined) throw taken(record);
    const sandbox = this.#readySandbox(pod);
    return await this.#make(op, sandbox, config);
  }

  async #make(op: Op, sandbox: SandboxRecord, config: NamedContainerConfig): Promise<ContainerId> {
    const id = newContainerId();
    const own = withLog(op, { container: id, sandbox: sandbox.id });
    const draft = draftContainer(this.#world, id, sandbox, config);
    own.stage('save record');
    await this.#books.save(draft);
    try {
      await failpoint('container.record.after');
      const launched = await launchContainer(own, this.#world, this.#books, draft, sandbox);
      // The sandbox may have been stopped meanwhile; a container must not outlive that.
      this.#readySandbox(sandbox.id);
      await this.#books.save({
        ...launched.record,
        state: next(draft.state, { type: 'created', process: launched.process }),
        monitor: launched.monitor,
      });
      this.watch(id, launched.process);
    } catch (cause) {
      await this.#destroy(own, draft).catch((failure: unknown) => {
        own.log.warn('a failed container could not be cleaned up, will retry', { cause: explain(failure) });
      });
      throw wrap(`create container ${quote(config.metadata.name)}`, cause);
    }
    return id;
  }

  #readySandbox(pod: SandboxId): SandboxRecord {
    const sandbox = this.#books.sandbox(pod);
    if (sandbox === undefined) throw new RuntimeError('NotFound', `no pod sandbox has the id ${quote(pod)}`);
    if (sandbox.state.phase !== 'ready')
      throw new RuntimeError(
        'FailedPrecondition',
        `pod sandbox ${pod} is ${sandbox.state.phase}; containers are made only in a ready one`,
      );
    return sandbox;
  }

  async #start(op: Op, id: ContainerId): Promise<void> {
    const record = this.get(id);
    if (record.state.phase !== 'created')
      throw new RuntimeError(
        'FailedPrecondition',
        `container ${id} is ${record.state.phase}; only a created one can be started`,
      );
    this.#readySandbox(record.sandboxId);
    const startedAt = this.#world.clock();
    op.stage('runtime start');
    try {
      await this.#world.runtimeFor(record.runtimeHandler).start(op, id);
    } catch (cause) {
      await this.#failStart(op, record, cause);
      throw wrap(`start container ${id}`, cause);
    }
    await failpoint('container.start.after');
    await this.#books.save({ ...record, state: next(record.state, { type: 'started', at: startedAt }) });
  }

  /** A start that failed leaves an EXITED container with the reason, not a vanished one. */
  async #failStart(op: Op, record: ContainerRecord, cause: unknown): Promise<void> {
    op.log.debug('start failed', { code: codeOf(cause) });
    await this.#books.save({
      ...record,
      state: next(record.state, { type: 'startFailed', message: explain(cause), at: this.#world.clock() }),
    });
    this.#retire(record);
  }

  /** The stop under way for a container, begun or brought forward. */
  #stopping(op: Op, record: ContainerRecord, process: ProcessRef, graceMs: number): Stop {
    const killAtMs = Date.now() + graceMs;
    const running = this.#stops.get(record.id)?.stop;
    if (running !== undefined) {
      if (killAtMs < running.killAtMs) {
        running.killAtMs = killAtMs;
        running.hurry.abort();
      }
      return running;
    }
    const hurry = new AbortController();
    const slot = {} as { stop: Stop };
    this.#stops.set(record.id, slot);
    const done = this.#carryOutStop(op, record, process, slot).finally(() => this.#stops.delete(record.id));
    slot.stop = { killAtMs, hurry, done };
    done.catch(() => {});
    op.goesOn?.(done);
    return slot.stop;
  }

  async #carryOutStop(op: Op, record: ContainerRecord, process: ProcessRef, slot: { stop: Stop }): Promise<void> {
    const { id } = record;
    await Promise.resolve();
    // The lock is held only for the bookkeeping: nobody waits for a grace period.
    let unheard = await this.#locks.run(id, async () => {
      const latest = this.#books.container(id);
      if (latest === undefined || hasEnded(latest)) return false;
      // Never started: there is no program to use the time. Whoever starts it holds this lock.
      if (latest.state.phase === 'created') slot.stop.killAtMs = Date.now();
      const now = this.#world.clock();
      const killAt = now + BigInt(Math.max(0, Math.round(slot.stop.killAtMs - Date.now()))) * 1_000_000n;
      // The signal is sent once, also across a restart of the daemon.
      const first = latest.stopping === null;
      await this.#books.save({ ...latest, stopping: { signalledAt: latest.stopping?.signalledAt ?? now, killAt } });
      return first && slot.stop.killAtMs > Date.now() && !this.#tell(process, record.stopSignal.number);
    });
    await failpoint('container.stopping.after');
    for (let pauseMs = 1; Date.now() < slot.stop.killAtMs && !this.#ended(id); pauseMs = Math.min(1_000, pauseMs * 2)) {
      if (unheard) unheard = !this.#tell(process, record.stopSignal.number);
      const leftMs = Math.max(1, slot.stop.killAtMs - Date.now());
      const wait = AbortSignal.any([
        AbortSignal.timeout(unheard ? Math.min(pauseMs, leftMs) : leftMs),
        slot.stop.hurry.signal,
      ]);
      await this.#books.changed(id, wait);
      if (slot.stop.hurry.signal.aborted) slot.stop = { ...slot.stop, hurry: new AbortController() };
    }
    await this.#kill(op, id, process);
  }

  /**
   * Sends the stop signal, unless it would be lost: a program that has just been started may not handle it yet, and no
   * event says when it does. One that never will costs a look a second until it is killed.
   */
  #tell(process: ProcessRef, signal: number): boolean {
    const { processes } = this.#world;
    if (!processes.heeds(process, signal)) return false;
    processes.signal(process, signal);
    return true;
  }

  /**
   * SIGKILL until it is gone: again after 100 ms, 200 ms, … up to the bound, since a task may be in an uninterruptible
   * wait. Then until its end is on record: the monitor may have output to drain.
   */
  async #kill(op: Op, id: ContainerId, process: ProcessRef): Promise<void> {
    const begunAt = Date.now();
    for (let pauseMs = 100; !this.#ended(id); pauseMs = Math.min(2_000, pauseMs * 2)) {
      const elapsedMs = Date.now() - begunAt;
      if (elapsedMs > limits.killGraceMs && this.#world.processes.alive(process)) {
        throw new RuntimeError(
          'DeadlineExceeded',
          `container ${id}: process ${process.pid} does not end after SIGKILL (it may wait in the ` +
            'kernel for a device or a network file system); the stop can be asked for again',
        );
      }
      if (elapsedMs > limits.killGraceMs + limits.exitFileMs) {
        throw new RuntimeError(
          'DeadlineExceeded',
          `container ${id}: process ${process.pid} has ended, but its end is not on record (is the ` +
            'disk of the records full?); the stop can be asked for again',
        );
      }
      this.#world.processes.signal(process, SIGKILL);
      this.#world.processes.signal(process, SIGCONT);
      await this.#books.changed(id, AbortSignal.timeout(pauseMs));
    }
    op.stage('stopped');
  }

  #ended(id: ContainerId): boolean {
    const record = this.#books.container(id);
    return record === undefined || hasEnded(record);
  }

  async #remove(op: Op, id: ContainerId): Promise<void> {
    await this.stop(op, id, 0);
    const record = this.#books.container(id);
    if (record === undefined) return;
    await this.#locks.run(id, async () => {
      const latest = this.#books.container(id);
      if (latest === undefined) return;
      const removing = { ...latest, state: next(latest.state, { type: 'remove' }) };
      if (latest.state.phase !== 'removing') await this.#books.save(removing);
      await failpoint('container.removing.after');
      const retiring = this.#retiring.get(id);
      if (retiring === undefined) await this.#destroy(op, removing);
      else await this.#leave(op, removing, retiring);
    });
  }

  /**
   * Removes a container that has ended just now, without waiting for the runtime to clean up after it: what is on disk
   * is given back before the client is told, the rest follows. The record says `removing` until then, so a crash on the
   * way costs nothing.
   */
  async #leave(op: Op, record: ContainerRecord, retiring: Promise<void>): Promise<void> {
    const { id, sandboxId } = record;
    op.stage('give back rootfs');
    await this.#world.rootfs.destroy(op, id);
    const own = this.#background.begin('clean-up after the removal', { container: id, sandbox: sandboxId });
    const work = retiring
      .then(() => this.#locks.run(id, () => this.#finish(own, record)))
      .catch((cause: unknown) => {
        this.#world.log.warn(
          'a removed container still holds something; will retry when its pod is removed, or at the next start',
          { container: id, sandbox: sandboxId, cause: explain(cause) },
        );
      });
    this.#leaving.set(id, { record, work });
    this.#books.forget(record);
    own.goesOn?.(work);
  }

  async #destroy(op: Op, record: ContainerRecord): Promise<void> {
    await this.#finish(op, record);
    this.#books.forget(record);
  }

  async #finish(op: Op, record: ContainerRecord): Promise<void> {
    const remains = containerRemains(record);
    await destroyContainer(
      op,
      this.#world,
      this.#retired.has(record.id) ? { ...remains, process: 'retired' } : remains,
    );
    this.#retired.delete(record.id);
    this.#leaving.delete(record.id);
  }

  async #awaitEnd(id: ContainerId, process: ProcessRef): Promise<void> {
    await this.#world.processes.gone(process, this.#shutdown.signal);
    if (this.#shutdown.signal.aborted || this.#ended(id)) return;
    // The monitor drains the output before it writes the exit file; only when it lives no more, or takes for ever, will
    // none come.
    const patience = AbortSignal.any([this.#shutdown.signal, AbortSignal.timeout(limits.exitFileMs)]);
    for (;;) {
      // Asked first: a monitor that writes the file and ends between the two questions must not look like one that
      // wrote none.
      const monitor = this.#books.container(id)?.monitor ?? null;
      const monitorGone = monitor !== null && !this.#world.processes.alive(monitor);
      const exit = await this.#world.monitor.exitOf(id);
      if (exit !== undefined) return await this.#noteExit(exit);
      if (monitorGone || patience.aborted) break;
      // Any change of the record wakes us, also the one from created to running.
      await this.#books.changed(id, patience);
      if (this.#shutdown.signal.aborted || this.#ended(id)) return;
    }
    await this.#end(id, {
      type: 'vanished',
      message: 'the process ended and its monitor wrote no exit code',
      at: this.#world.clock(),
    });
  }

  async #noteExit(exit: ExitRecord): Promise<void> {
    await this.#end(exit.id, {
      type: 'exited',
      exitCode: exit.exitCode,
      oomKilled: exit.oomKilled,
      at: exit.finishedAt,
    });
  }

  async #end(id: ContainerId, event: Extract<ContainerEvent, { type: 'exited' | 'vanished' }>): Promise<void> {
    if (this.#books.container(id) === undefined) return;
    await this.#locks.run(id, async () => {
      const record = this.#books.container(id);
      // Still `creating`: the create that is under way will see the dead process and clean up.
      if (record === undefined || record.state.phase === 'creating') return;
      const state = next(record.state, event);
      if (state === record.state) return;
      const after = { ...record, state, stopping: null };
      await this.#books.save(after);
      this.#world.log.info('container ended', {
        container: id,
        sandbox: record.sandboxId,
        exit: state.phase === 'exited' ? state.exitCode : undefined,
        reason: state.phase === 'exited' ? state.reason : undefined,
      });
      this.#retire(after);
    });
  }

  /** Gives back the runtime's side as soon as the exit is on record, so that RemoveContainer has little left to do. */
  #retire(record: ContainerRecord): void {
    const op = this.#background.begin(
      'clean-up after the end',
      { container: record.id, sandbox: record.sandboxId },
      limits.runtimeCommandMs,
    );
    const work = retireContainer(op, this.#world, containerRemains(record))
      .then(() => void this.#retired.add(record.id))
      .catch((cause: unknown) => {
        this.#world.log.debug('clean-up after an exit failed, RemoveContainer will retry', {
          container: record.id,
          cause: explain(cause),
        });
      })
      .finally(() => this.#retiring.delete(record.id));
    this.#retiring.set(record.id, work);
    op.goesOn?.(work);
  }
}

/** What destroyContainer needs to know of a container that has a record. */
export function containerRemains(record: ContainerRecord): ContainerRemains {
  return {
    id: record.id,
    runtimeHandler: record.runtimeHandler,
    cgroupsPath: record.cgroupsPath,
    process: record.state.phase === 'creating' ? 'cut' : 'made',
  };
}

function hasEnded(record: ContainerRecord): boolean {
  return record.state.phase === 'exited' || record.state.phase === 'removing';
}

function impatient(id: ContainerId, why: string): RuntimeError {
  return new RuntimeError('DeadlineExceeded', `stop of container ${id} goes on, but ${why}; ask again`);
}

function taken(record: ContainerRecord): RuntimeError {
  const { metadata } = record.config;
  const why = hasEnded(record) ? 'and has exited' : 'with another config';
  return new RuntimeError(
    'AlreadyExists',
    `container ${quote(metadata.name)} attempt ${metadata.attempt} exists in this ` +
      `pod ${why} (${record.id}); remove it, or ask with a higher attempt`,
  );
}

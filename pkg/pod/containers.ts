/**
 * Containers: who there is, and how one is made. How a container is put together is in create.ts; all that goes on with
 * it from then on is its Life.
 */
import type { ContainerStatus, LinuxContainerResources } from '../cri-api/types.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import { explain, RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { Flights } from '../base/flights.ts';
import { type ContainerId, newContainerId, quote, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { detached, type Op, withLog } from '../base/op.ts';
import { abortable } from '../base/sync.ts';
import { next } from '../state/index.ts';
import { containerKey, isVisible } from './books.ts';
import { draftContainer, launchContainer } from './create.ts';
import { hasEnded, type Surroundings } from './life-core.ts';
import { Life } from './life.ts';
import { containerStatus } from './query.ts';
import { readySandbox } from './ready.ts';
import { same } from './same.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { Containers } from '../ports/pods.ts';

/** Every container of the node, each with its Life. */
export class ContainerKeeper implements Containers {
  readonly #around: Surroundings;
  /** By name and attempt, since identical requests have no id in common until the first has one. */
  readonly #creates = new Flights<string, ContainerId>('goes on', limits.containerCreateMs);
  /** As long as a container holds anything, whether or not anybody sees it. */
  readonly #lives = new Map<ContainerId, Life>();

  constructor(around: Surroundings) {
    this.#around = around;
  }

  async create(op: Op, pod: SandboxId, config: NamedContainerConfig): Promise<ContainerId> {
    const key = containerKey(pod, config.metadata);
    const id = await this.#creates.run(op, key, (own) => this.#createOrAdopt(own, key, pod, config));
    const record = this.#around.books.container(id);
    if (record !== undefined && !same(record.config, config)) throw taken(record);
    return id;
  }

  async start(op: Op, id: ContainerId): Promise<void> {
    await this.#live(id).start(op);
  }

  async stop(op: Op, id: ContainerId, graceMs: number): Promise<void> {
    const record = this.#around.books.container(id);
    // One in the making belongs to its flight: it will either be created, or destroyed.
    if (record?.state.phase === 'creating') {
      await abortable(
        this.#creates.settled(containerKey(record.sandboxId, record.config.metadata)),
        op.signal,
        () =>
          new RuntimeError(
            'DeadlineExceeded',
            `stop of container ${id} goes on, but it is still being created; ask again`,
          ),
      );
    }
    await this.#lives.get(id)?.stop(op, graceMs);
  }

  /** Kills one that makes system calls which it must not (`seccomp-notifier-action`). */
  async killFor(op: Op, id: ContainerId, forbiddenCalls: string): Promise<void> {
    await this.#lives.get(id)?.stop(op, 0, forbiddenCalls);
  }

  async remove(op: Op, id: ContainerId): Promise<void> {
    const record = this.#around.books.container(id);
    if (record?.state.phase === 'creating') await this.stop(op, id, 0);
    await this.#lives.get(id)?.remove(op);
  }

  find(idOrPrefix: string): ContainerRecord | undefined {
    const record = this.#around.books.findContainer(idOrPrefix);
    return record !== undefined && isVisible(record) ? record : undefined;
  }

  get(idOrPrefix: string): ContainerRecord {
    const record = this.find(idOrPrefix);
    if (record === undefined) throw new RuntimeError('NotFound', `no container has the id ${quote(idOrPrefix)}`);
    return record;
  }

  list(): readonly ContainerRecord[] {
    return [...this.#around.books.containers()].filter(isVisible);
  }

  status(record: ContainerRecord): ContainerStatus {
    return containerStatus(record);
  }

  async update(op: Op, id: ContainerId, update: LinuxContainerResources): Promise<void> {
    await this.#live(id).update(op, update);
  }

  async pause(op: Op, id: ContainerId): Promise<void> {
    await this.#live(id).freeze(op, 'pause');
  }

  async unpause(op: Op, id: ContainerId): Promise<void> {
    await this.#live(id).freeze(op, 'unpause');
  }

  async reopenLog(op: Op, id: ContainerId): Promise<void> {
    const record = this.get(id);
    if (record.state.phase !== 'running')
      throw new RuntimeError(
        'FailedPrecondition',
        `container ${id} is ${record.state.phase}; its log is reopened only while it runs`,
      );
    await this.#around.world.monitor.reopenLog(op, record.bundle, record.logPath);
  }

  /** Gives up whatever is being made in `pod`, which is being stopped; resolves when nothing is any more. */
  async giveUpMaking(pod: SandboxId): Promise<void> {
    const making = this.#around.books.containersOf(pod).filter((record) => record.state.phase === 'creating');
    await Promise.all(
      making.map(async (record) => {
        this.#lives.get(record.id)?.giveUpMaking();
        await this.#creates.settled(containerKey(pod, record.config.metadata));
      }),
    );
  }

  /**
   * Resolves when the removed containers of `pod` hold nothing any more. @throws as destroyContainer, for one that
   * failed before and fails again.
   */
  async left(op: Op, pod: SandboxId): Promise<void> {
    for (const life of [...this.#lives.values()]) if (life.sandboxId === pod) await life.left(op);
  }

  /** Follows the exit directory until `close`. Call once, after recovery has taken the records in. */
  async followExits(): Promise<void> {
    const { world, closing } = this.#around;
    for await (const exit of world.monitor.exits(closing)) await this.#lives.get(exit.id)?.note(exit);
  }

  /** The life of a container that a daemon before this one left, whatever has become of it. */
  adopt(record: ContainerRecord): Life {
    return this.#begin(record.id, record.sandboxId);
  }

  #begin(id: ContainerId, pod: SandboxId): Life {
    const life = new Life(this.#around, id, pod, () => this.#lives.delete(id));
    this.#lives.set(id, life);
    return life;
  }

  /** The life of a container that clients see. @throws NotFound. */
  #live(id: ContainerId): Life {
    const life = this.#lives.get(this.get(id).id);
    if (life === undefined) throw new RuntimeError('Internal', `container ${id} has a record and no life`);
    return life;
  }

  async #createOrAdopt(op: Op, key: string, pod: SandboxId, config: NamedContainerConfig): Promise<ContainerId> {
    const { books } = this.#around;
    const twin = books.byKey(key);
    const record = twin === undefined ? undefined : books.container(twin as ContainerId);
    if (record === undefined) return await this.#make(op, readySandbox(books, pod), config);
    switch (record.state.phase) {
      case 'created':
      case 'starting':
      case 'running':
        return record.id;
      case 'creating':
      case 'removing':
        await this.#lives.get(record.id)?.destroy(op, record);
        return await this.#make(op, readySandbox(books, pod), config);
      case 'exited':
      case 'unknown':
        throw taken(record);
    }
  }

  async #make(op: Op, sandbox: SandboxRecord, config: NamedContainerConfig): Promise<ContainerId> {
    const { world, books } = this.#around;
    const id = newContainerId();
    const draft = draftContainer(world, id, sandbox, config);
    const life = this.#begin(id, sandbox.id);
    const own: Op = {
      ...withLog(op, { container: id, sandbox: sandbox.id }),
      signal: AbortSignal.any([op.signal, life.makingGivenUp]),
    };
    own.stage('save record');
    await books.save(draft).catch((cause: unknown) => {
      this.#lives.delete(id);
      throw cause;
    });
    try {
      await failpoint('container.record.after');
      const launched = await launchContainer(own, world, books, draft, sandbox);
      // The sandbox may have been stopped meanwhile; a container must not outlive that.
      readySandbox(books, sandbox.id);
      await books.save({
        ...launched.record,
        state: next(draft.state, { type: 'created', process: launched.process }),
        monitor: launched.monitor,
      });
      life.watch(launched.process, launched.monitor);
    } catch (cause) {
      // Not under the create's own bound: that may have passed, or been given up, which is why it failed.
      await life.destroy(detached(own, limits.podStopMs), draft).catch((failure: unknown) => {
        own.log.warn('a failed container could not be cleaned up, will retry', { cause: explain(failure) });
      });
      const why = life.makingGivenUp.aborted ? `: pod sandbox ${sandbox.id} is being stopped` : '';
      throw wrap(`create container ${quote(config.metadata.name)}${why}`, cause);
    }
    return id;
  }
}

function taken(record: ContainerRecord): RuntimeError {
  const { metadata } = record.config;
  const why = hasEnded(record)
    ? 'and has exited'
    : record.state.phase === 'unknown'
      ? 'in an unknown state'
      : 'with another config';
  return new RuntimeError(
    'AlreadyExists',
    `container ${quote(metadata.name)} attempt ${metadata.attempt} exists in this ` +
      `pod ${why} (${record.id}); remove it, or ask with a higher attempt`,
  );
}

/**
 * System calls of containers that their seccomp profiles block, told of as CRI-O tells of them, where the annotation
 * seccomp-notifier-action says so; with `stop` the container is killed some seconds after the last of them.
 */
import { explain } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { annotations } from '../spec/index.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { Background } from './background.ts';
import type { Books } from './books.ts';
import { wishesOf } from './wishes.ts';
import type { World } from './world.ts';

/** As long as CRI-O. */
const REST_MS = 5_000;
/** Past so many of one name, only every doubling has a line in the log. */
const LINES_COUNT = 16;

/** Calls of one container since the daemon runs. */
interface Tally {
  readonly counts: Map<string, number>;
  readonly action: 'told' | 'stop';
  /** When it is killed, by the monotonic clock. */
  dueMs: number;
  isDue: boolean;
}

/** Who is told of each blocked call: the container, and the name of the call. */
export type BlockedListener = (record: ContainerRecord, call: string) => void;

/** Who knows which container has made which forbidden calls. */
export class BlockedCallsWatch {
  readonly #world: World;
  readonly #books: Books;
  readonly #background: Background;
  readonly #closing: AbortSignal;
  readonly #tallies = new Map<ContainerId, Tally>();
  readonly #listeners = new Set<BlockedListener>();
  #kill: (op: Op, id: ContainerId, calls: string) => Promise<void> = async () => {};

  constructor(world: World, books: Books, background: Background, closing: AbortSignal) {
    this.#world = world;
    this.#books = books;
    this.#background = background;
    this.#closing = closing;
    world.blockedCalls.follow((id, call) => this.#told(id, call));
    books.subscribe(({ type, record }) => {
      if (record.kind === 'container' && (type === 'stopped' || type === 'deleted')) this.#tallies.delete(record.id);
    });
  }

  /** Who kills. Once, before anything is watched. */
  killBy(kill: (op: Op, id: ContainerId, calls: string) => Promise<void>): void {
    this.#kill = kill;
  }

  /** Calls `listener` for each blocked call from now on. */
  subscribe(listener: BlockedListener): void {
    this.#listeners.add(listener);
  }

  /** The container lives. Where a daemon before us listened, runtimes of commands in it look for somebody still. */
  watch(id: ContainerId): void {
    const record = this.#books.container(id);
    const sandbox = record === undefined ? undefined : this.#books.sandbox(record.sandboxId);
    if (record === undefined || sandbox === undefined) return;
    if (!annotations.mayTellBlockedCalls(sandbox.config.annotations, record.config.annotations)) return;
    try {
      this.#world.blockedCalls.listen(id);
    } catch (cause) {
      this.#world.log.warn('nobody listens for blocked system calls; commands in the container may not start', {
        container: id,
        cause: explain(cause),
      });
    }
  }

  #told(id: ContainerId, named: string): void {
    const record = this.#books.container(id);
    if (record === undefined) return;
    const tally = this.#tallies.get(id) ?? this.#begin(record);
    // Numbers that no call has are the container's to choose.
    const call = tally.counts.has(named) || tally.counts.size < limits.blockedCallNamesCount ? named : 'other';
    const count = (tally.counts.get(call) ?? 0) + 1;
    tally.counts.set(call, count);
    if (count <= LINES_COUNT || Number.isInteger(Math.log2(count)))
      this.#world.log.info(`Seccomp blocked syscall '${call}' in container ${id} (${this.#nameOf(record)})`, { count });
    for (const listener of this.#listeners) listener(record, call);
    if (tally.action !== 'stop') return;
    tally.dueMs = this.#world.monotonicMs() + REST_MS;
    if (tally.isDue) return;
    tally.isDue = true;
    void this.#killLater(id, tally);
  }

  #nameOf({ sandboxId, config }: ContainerRecord): string {
    const pod = this.#books.sandbox(sandboxId)?.config.metadata;
    return `${pod?.namespace ?? ''}/${pod?.name ?? ''}/${config.metadata.name}`;
  }

  #begin(record: ContainerRecord): Tally {
    const sandbox = this.#books.sandbox(record.sandboxId);
    const wish = sandbox === undefined ? 'told' : wishesOf(this.#world.settings, sandbox, record.config).blockedCalls;
    const tally: Tally = { counts: new Map(), action: wish === 'stop' ? 'stop' : 'told', dueMs: 0, isDue: false };
    this.#tallies.set(record.id, tally);
    return tally;
  }

  async #killLater(id: ContainerId, tally: Tally): Promise<void> {
    for (let leftMs = REST_MS; leftMs > 0; leftMs = tally.dueMs - this.#world.monotonicMs())
      await this.#world.pause(leftMs, this.#closing);
    if (this.#closing.aborted || this.#tallies.get(id) !== tally) return;
    const calls = [...tally.counts]
      .map(([call, count]) => `${call} (${count}x)`)
      .sort()
      .join(', ');
    this.#world.log.warn('Seccomp notifier timer expired, stopping container', { container: id, calls });
    const op = this.#background.begin('kill for blocked system calls', { container: id }, limits.podStopMs);
    const work = this.#kill(op, id, calls).catch((cause: unknown) => {
      this.#world.log.error('a container could not be killed for what it calls', {
        container: id,
        cause: explain(cause),
      });
    });
    op.goesOn?.(work);
  }
}

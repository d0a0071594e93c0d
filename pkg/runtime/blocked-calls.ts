/** System calls of containers that their seccomp profiles tell of. */
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../base/errors.ts';
import { ensureDirInMemory } from '../base/files.ts';
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Logger } from '../base/op.ts';
import type { CallWatch } from '../ports/kernel.ts';
import type { BlockedCalls } from '../ports/runtime.ts';
import { refuseCalls, sockets } from '../sys/index.ts';

/** Digits of an id that name its socket: a runtime has no more than 107 bytes for the path. */
const NAME_CHARS = 32;
/** At most so many at a stretch, then a pause: what a container does in a loop must not hold the event loop. */
const PACE = { burst: 16, pauseMs: 100 } as const;

/** After a connection that brought nothing: what fails at once must not be tried in a loop. */
const RETRY_MS = 100;

interface Listener {
  readonly leave: AbortController;
  readonly watches: Set<CallWatch>;
}

/** Listens at a socket for each container that wants it. */
export class LinuxBlockedCalls implements BlockedCalls {
  readonly #dir: string;
  readonly #log: Logger;
  readonly #listeners = new Map<ContainerId, Listener>();
  #told: (id: ContainerId, call: string) => void = () => {};

  /** Makes `dir`, empty: where daemons before us listened nobody does any more. */
  constructor(dir: string, log: Logger) {
    rmSync(dir, { recursive: true, force: true });
    ensureDirInMemory(dir, 0o700);
    this.#dir = dir;
    this.#log = log;
  }

  pathOf(id: ContainerId): string {
    return join(this.#dir, id.slice(0, NAME_CHARS));
  }

  listen(id: ContainerId): void {
    if (this.#listeners.has(id)) return;
    const socket = sockets.listenForDescriptors(this.pathOf(id));
    const listener: Listener = { leave: new AbortController(), watches: new Set() };
    this.#listeners.set(id, listener);
    void this.#receive(id, listener, socket);
  }

  close(id: ContainerId): void {
    const listener = this.#listeners.get(id);
    if (listener === undefined) return;
    this.#listeners.delete(id);
    listener.leave.abort();
    for (const watch of listener.watches) watch.close();
    rmSync(this.pathOf(id), { force: true });
  }

  follow(told: (id: ContainerId, call: string) => void): void {
    this.#told = told;
  }

  /** A descriptor from the container itself, and one from each command in it. */
  async #receive(
    id: ContainerId,
    { leave, watches }: Listener,
    socket: ReturnType<typeof sockets.listenForDescriptors>,
  ): Promise<void> {
    const { signal } = leave;
    while (!signal.aborted) {
      const fd = await socket.receive(signal).catch(async (cause: unknown) => {
        this.#log.warn('the blocked system calls of a process in a container will not be told of', {
          container: id,
          cause: explain(cause),
        });
        await sleep(RETRY_MS, undefined, { ref: false });
        return undefined;
      });
      if (fd === null) break;
      if (fd !== undefined) this.#watch(id, watches, fd);
    }
    socket.close();
  }

  #watch(id: ContainerId, watches: Set<CallWatch>, fd: number): void {
    const watch = refuseCalls(fd, PACE, { told: (call) => this.#told(id, call), ended: () => watches.delete(watch) });
    watches.add(watch);
    if (watches.size > limits.execsPerContainerCount) for (const each of watches) return each.close();
  }
}

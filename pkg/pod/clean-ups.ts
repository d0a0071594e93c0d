/**
 * Clean-up that failed, tried again with growing pauses until it is done: a plugin, a mount or a runtime that is out of
 * order comes back some time, and nobody may be left who asks. The records outlive the daemon, so the next one goes on.
 */
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import type { Background } from './background.ts';
import type { World } from './world.ts';

/** Something that is to be given back, and could not be. */
export interface CleanUp {
  /** For people, with its id. */
  readonly what: string;
  readonly ids: Readonly<Record<string, string>>;
  /** False when somebody else has done it meanwhile. */
  readonly isDue: () => boolean;
  /** @throws if something is left yet. */
  readonly run: (op: Op) => Promise<void>;
}

/** All that is tried again. */
export class CleanUps {
  readonly #world: Pick<World, 'pause' | 'log'>;
  readonly #background: Background;
  readonly #closing: AbortSignal;
  readonly #pending = new Map<string, CleanUp>();
  readonly #gate = new Gate(limits.cleanUpsAtOnceCount);

  constructor(world: Pick<World, 'pause' | 'log'>, background: Background, closing: AbortSignal) {
    this.#world = world;
    this.#background = background;
    this.#closing = closing;
  }

  /** How many are not done yet. */
  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Tries `cleanUp` again until it is done, or the daemon stops; content if `key` is being tried already. */
  later(key: string, cleanUp: CleanUp): void {
    if (this.#pending.has(key)) return;
    this.#pending.set(key, cleanUp);
    void this.#untilDone(cleanUp).finally(() => this.#pending.delete(key));
  }

  async #untilDone(cleanUp: CleanUp): Promise<void> {
    let pauseMs: number = limits.cleanUpFirstPauseMs;
    for (; !this.#closing.aborted; pauseMs = Math.min(limits.cleanUpLongestPauseMs, pauseMs * 2)) {
      await this.#world.pause(pauseMs, this.#closing);
      if (await this.#gate.run(() => this.#isDone(cleanUp))) return;
    }
  }

  async #isDone({ what, ids, isDue, run }: CleanUp): Promise<boolean> {
    if (this.#closing.aborted || !isDue()) return true;
    const op = this.#background.begin(`clean-up of ${what}, again`, ids, limits.podStopMs);
    const work = run(op);
    op.goesOn?.(work);
    try {
      await work;
      this.#world.log.info('what could not be cleaned up before is now', { what, ...ids });
      return true;
    } catch (cause) {
      this.#world.log.warn('clean-up failed again, will retry', { what, ...ids, cause: explain(cause) });
      return false;
    }
  }
}

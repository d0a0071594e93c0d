/** Several parts of one pull at once: all of them come, or none goes on; and a pull in which nothing moves ends. */
import { RuntimeError } from '../base/errors.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';

/** Fires when nothing has been heard of for too long. */
export class SilenceWatch {
  readonly silenceMs: number;
  readonly #stop = new AbortController();
  #timer: NodeJS.Timeout;

  constructor(silenceMs: number) {
    this.silenceMs = silenceMs;
    this.#timer = this.#wait();
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  heard(): void {
    clearTimeout(this.#timer);
    this.#timer = this.#wait();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #wait(): NodeJS.Timeout {
    return setTimeout(() => this.#stop.abort(), this.silenceMs).unref();
  }
}

/** What is to be done: `parts` beside each other, and `last` when all of them are there. */
export interface Parts {
  readonly parts: readonly ((op: Op) => Promise<void>)[];
  readonly last: (op: Op) => Promise<void>;
}

/**
 * Does it all. When one fails, the others are stopped and waited for: nothing of this pull moves any more when this
 * throws. Ends the watch.
 * @throws what failed first; DeadlineExceeded when the watch fired.
 */
export async function allOrNone(op: Op, watch: SilenceWatch, what: string, { parts, last }: Parts): Promise<void> {
  const stop = new AbortController();
  const inner: Op = {
    ...op,
    signal: AbortSignal.any([op.signal, stop.signal, watch.signal]),
    stage: (stage) => op.stage(stage),
  };
  let failure: { readonly error: unknown } | undefined;
  const fail = (error: unknown): void => {
    failure ??= { error };
    stop.abort();
  };
  await Promise.all(parts.map((part) => part(inner).catch(fail)));
  if (failure === undefined) await last(inner).catch(fail);
  watch.stop();
  if (op.signal.aborted) throw abortError(op, `pulling ${what}`);
  if (watch.signal.aborted)
    throw new RuntimeError(
      'DeadlineExceeded',
      `pulling ${what}: nothing was downloaded or unpacked for ${watch.silenceMs / 1000} s; is the disk stuck?`,
      { cause: failure?.error },
    );
  if (failure !== undefined) throw failure.error;
}

/** Work that several callers share: it goes on while at least one of them still wants it. */
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { abortable } from '../base/sync.ts';

export class Flight<T> {
  readonly #controller = new AbortController();
  readonly #outcome: Promise<T>;
  readonly #passengers = new Set<Op>();
  #isOver = false;

  /** Starts `work` at once; its signal fires when the last passenger has left. */
  constructor(work: (signal: AbortSignal, stage: (what: string) => void) => Promise<T>) {
    this.#outcome = work(this.#controller.signal, (what) => this.#tell(what)).finally(() => {
      this.#isOver = true;
    });
    // Passengers see the failure; a flight that nobody waits for any more may fail unseen.
    this.#outcome.catch(() => {});
  }

  /** True if nobody can join any more: it has ended, or was given up. */
  get isClosed(): boolean {
    return this.#isOver || this.#controller.signal.aborted;
  }

  /** The outcome, or Cancelled / DeadlineExceeded as soon as `op` ends; that fails nobody else. */
  async join(op: Op, doing: string): Promise<T> {
    this.#passengers.add(op);
    try {
      return await abortable(this.#outcome, op.signal, () => abortError(op, doing));
    } finally {
      this.#passengers.delete(op);
      if (this.#passengers.size === 0 && !this.#isOver) this.#controller.abort();
    }
  }

  /** Settles when the work has really stopped, however it ended. */
  async settled(): Promise<void> {
    await this.#outcome.catch(() => {});
  }

  #tell(what: string): void {
    for (const op of this.#passengers) op.stage(what);
  }
}

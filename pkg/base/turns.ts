/**
 * Turns for work that gets in each other's way: a few at a time, the others wait, each lane as often as any other.
 *
 * A turn is for as long as the work costs a processor. One that takes long waits for something else, such as a frozen
 * container or an API server; its place is given on, so that what is stuck in one lane keeps nobody else waiting.
 */
import { abortError, type Op } from './op.ts';

/** Gives the turn back; may be called again. */
export type Turn = () => void;

/** Places that are given in order, lane by lane, and taken back from those who hold them too long. */
export class Turns {
  readonly #heldMs: number;
  readonly #waiting: string;
  /** Those who wait, by lane; the lane whose turn is next first. */
  readonly #lanes = new Map<string, (() => void)[]>();
  #free: number;

  /** `places` turns at once, each for `heldMs` at most; `waiting` is the stage of those who wait. */
  constructor(places: number, heldMs: number, waiting: string) {
    this.#free = places;
    this.#heldMs = heldMs;
    this.#waiting = waiting;
  }

  /** How many wait now. */
  get waitingCount(): number {
    return [...this.#lanes.values()].reduce((sum, { length }) => sum + length, 0);
  }

  /** Waits for a turn in `lane`. @throws DeadlineExceeded or Cancelled when the operation is over first. */
  async take(op: Op, lane: string): Promise<Turn> {
    if (op.signal.aborted) throw abortError(op, this.#waiting);
    if (this.#free > 0) this.#free--;
    else await this.#wait(op, lane);
    return this.#turn();
  }

  async #wait(op: Op, lane: string): Promise<void> {
    const { promise, resolve, reject } = Promise.withResolvers<void>();
    const queue = this.#lanes.get(lane) ?? [];
    this.#lanes.set(lane, queue);
    queue.push(resolve);
    op.stage(this.#waiting);
    const leave = (): void => {
      const place = queue.indexOf(resolve);
      // Its turn may have come in the same moment.
      if (place < 0) return;
      queue.splice(place, 1);
      if (queue.length === 0) this.#lanes.delete(lane);
      reject(abortError(op, this.#waiting));
    };
    op.signal.addEventListener('abort', leave, { once: true });
    try {
      await promise;
    } finally {
      op.signal.removeEventListener('abort', leave);
    }
  }

  #turn(): Turn {
    let held = true;
    const giveBack = (): void => {
      if (!held) return;
      held = false;
      clearTimeout(timer);
      this.#next();
    };
    const timer = setTimeout(giveBack, this.#heldMs).unref();
    return giveBack;
  }

  #next(): void {
    const [first] = this.#lanes;
    if (first === undefined) {
      this.#free++;
      return;
    }
    const [lane, queue] = first;
    const begin = queue.shift();
    // To the end of the line, until its turn comes again.
    this.#lanes.delete(lane);
    if (queue.length > 0) this.#lanes.set(lane, queue);
    begin?.();
  }
}

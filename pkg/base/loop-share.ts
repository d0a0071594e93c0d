/**
 * The event loop, shared: what arrives in one piece (a thousand requests in one read of a connection) is begun a few at
 * a time, and whatever else is due comes between. The first few of each turn of the loop wait for nothing.
 *
 * To hear of the next turn costs a turn, so one is asked for only after a few: a call at a time costs a comparison.
 */

/** The next turn of the event loop: whatever is due comes in between. */
export function nextTurn(): Promise<void> {
  return new Promise((resolve) => void setImmediate(resolve));
}

/** So many begin before the next turn is asked for. */
const UNHEARD = 8;

/** Lets so much begin in each turn of the event loop, in the order in which it came. */
export class LoopShare {
  readonly #perTurn: number;
  readonly #waiting: (() => void)[] = [];
  #left: number;
  #isDue = false;

  constructor(perTurn: number) {
    this.#perTurn = perTurn;
    this.#left = perTurn;
  }

  /** When to begin: at once if this is undefined. */
  enter(): Promise<void> | undefined {
    if (this.#perTurn - this.#left >= Math.min(UNHEARD, this.#perTurn - 1)) this.#schedule();
    if (this.#left === 0 || this.#waiting.length > 0)
      return new Promise<void>((resolve) => void this.#waiting.push(resolve));
    this.#left--;
    return undefined;
  }

  #schedule(): void {
    if (this.#isDue) return;
    this.#isDue = true;
    setImmediate(() => {
      this.#isDue = false;
      const next = this.#waiting.splice(0, this.#perTurn);
      this.#left = this.#perTurn - next.length;
      if (this.#waiting.length > 0) this.#schedule();
      for (const begin of next) begin();
    });
  }
}

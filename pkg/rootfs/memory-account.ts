/**
 * What unpacking one layer keeps in memory, counted: whatever a layer holds, the daemon does not grow by more than a
 * budget. Strings and buffers are counted where they are kept, with what the engine needs around them.
 */
import { RuntimeError } from '../base/errors.ts';

/** One layer's account. */
export class MemoryAccount {
  readonly #max: number;
  #used = 0;

  constructor(maxBytes: number) {
    this.#max = maxBytes;
  }

  /** @throws ResourceExhausted that names what it is for, when the budget does not have so much. */
  take(bytes: number, what: string): void {
    this.#used += bytes;
    if (this.#used > this.#max)
      throw new RuntimeError(
        'ResourceExhausted',
        `${what} would take the memory for unpacking one layer beyond ${Math.floor(this.#max / 2 ** 20)} MiB; ` +
          'no image needs as much, split the layer',
      );
  }

  /** What is no longer kept. */
  give(bytes: number): void {
    this.#used -= bytes;
  }
}

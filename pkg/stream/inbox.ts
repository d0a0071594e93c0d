/**
 * What a client has sent and nobody has taken yet: a bounded queue between a connection and the one reader of a stream.
 * Pure but for promises. Whoever fills it waits when it is full, so a reader that does not read stops the connection.
 */
import { limits } from '../base/limits.ts';

/** What a part costs beside its bytes, so that a flood of tiny ones is bounded too. */
const PART_BYTES = 128;

/** The queue of one stream. */
export class Inbox implements AsyncIterable<Uint8Array> {
  readonly #onTaken: (bytes: number) => void;
  #parts: Uint8Array[] = [];
  #cost = 0;
  #state: 'open' | 'ended' | 'dropping' = 'open';
  #wakeReader: (() => void) | undefined;
  #wakeWriter: (() => void) | undefined;

  /** `onTaken` hears of every byte that is taken or dropped: for windows of flow control. */
  constructor(onTaken: (bytes: number) => void = () => {}) {
    this.#onTaken = onTaken;
  }

  /**
   * Resolves when there is room for more. What comes after `end` or `drop` is dropped. The bytes are kept, not copied.
   */
  async push(data: Uint8Array): Promise<void> {
    if (data.length === 0) return;
    if (this.#state !== 'open') {
      this.#onTaken(data.length);
      return;
    }
    this.#parts.push(data);
    this.#cost += data.length + PART_BYTES;
    this.#wakeReader?.();
    while (this.#cost > limits.streamInputBytes && this.#state === 'open') {
      await new Promise<void>((resolve) => {
        this.#wakeWriter = resolve;
      });
    }
  }

  /** No more will come; the reader gets what is here first. */
  end(): void {
    if (this.#state === 'open') this.#state = 'ended';
    this.#wakeWriter?.();
    this.#wakeReader?.();
  }

  /** Nobody reads any more: what is here and what comes is dropped; a waiting reader sees the end. */
  drop(): void {
    if (this.#state === 'dropping') return;
    this.#state = 'dropping';
    const dropped = this.#parts.reduce((sum, part) => sum + part.length, 0);
    this.#parts = [];
    this.#cost = 0;
    this.#wakeWriter?.();
    this.#wakeReader?.();
    if (dropped > 0) this.#onTaken(dropped);
  }

  /** For one reader; leaving the loop drops the rest. `return` works while a `next` waits. */
  [Symbol.asyncIterator](): AsyncIterator<Uint8Array, undefined> & AsyncIterable<Uint8Array> {
    const iterator = {
      next: () => this.#next(),
      return: () => {
        this.drop();
        return Promise.resolve({ done: true as const, value: undefined });
      },
      [Symbol.asyncIterator]: () => iterator,
    };
    return iterator;
  }

  async #next(): Promise<IteratorResult<Uint8Array, undefined>> {
    for (;;) {
      const part = this.#parts.shift();
      if (part !== undefined) {
        this.#cost -= part.length + PART_BYTES;
        if (this.#cost <= limits.streamInputBytes) this.#wakeWriter?.();
        this.#onTaken(part.length);
        return { done: false, value: part };
      }
      if (this.#state !== 'open') return { done: true, value: undefined };
      await new Promise<void>((resolve) => {
        this.#wakeReader = resolve;
      });
    }
  }
}

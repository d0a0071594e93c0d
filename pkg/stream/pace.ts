/**
 * How fast a client may ask for things. Each frame costs the event loop some microseconds, however small it is: a
 * client that sends nothing but pings by the megabyte would have the daemon to itself. Who is too fast is read more
 * slowly, and feels it by the connection's own back-pressure.
 */
import { limits } from '../base/limits.ts';

/** Bytes that make a frame worth its cost: such frames are bounded by the network. */
const PAYING_BYTES = 4096;
/** What little content costs: a forwarded connection may be a conversation of short lines, thousands in a second. */
const SMALL = 0.1;
/** Waiting has a price, too: only a debt of so long is waited for. */
const DEBT_MS = 100;

/** The account of one connection: it fills by itself, up to a second's worth. */
export class Pace {
  readonly #perMs: number;
  readonly #most: number;
  readonly #now: () => number;
  #left: number;
  #at: number;

  constructor(perSecond: number = limits.streamFramesPerSecond, now: () => number = () => performance.now()) {
    this.#perMs = perSecond / 1000;
    this.#most = perSecond;
    this.#left = perSecond;
    this.#now = now;
    this.#at = now();
  }

  /** Takes one frame with so many bytes of content. How many milliseconds to wait before the next is read. */
  take(bytes: number): number {
    this.#left -= bytes === 0 ? 1 : SMALL * Math.max(0, 1 - bytes / PAYING_BYTES);
    if (this.#left >= -DEBT_MS * this.#perMs) return 0;
    const now = this.#now();
    this.#left = Math.min(this.#most, this.#left + (now - this.#at) * this.#perMs);
    this.#at = now;
    return this.#left >= -DEBT_MS * this.#perMs ? 0 : -this.#left / this.#perMs;
  }
}

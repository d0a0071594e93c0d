/** Useful progress over a window. Pure: the caller brings the clock. */
export class RateWatch {
  readonly timeoutMs: number;
  readonly #minBytes: number;
  #windowFrom: number;
  #bytes = 0;
  #waiting = 0;
  #standsFrom = 0;

  constructor(timeoutMs: number, minBytes: number, now: number) {
    this.timeoutMs = timeoutMs;
    this.#minBytes = minBytes;
    this.#windowFrom = now;
  }

  add(bytes: number, now: number): void {
    this.#bytes += bytes;
    // Enough for this window: the next one begins.
    if (this.#bytes >= this.#minBytes) {
      this.#bytes = 0;
      this.#windowFrom = now;
    }
  }

  /**
   * The clock stands while a request waits for its turn and for an answer, which have bounds of their own; the window
   * goes on afterwards where it was.
   */
  async waiting<T>(now: () => number, work: () => Promise<T>): Promise<T> {
    if (this.#waiting++ === 0) this.#standsFrom = now();
    try {
      return await work();
    } finally {
      if (--this.#waiting === 0) this.#windowFrom += now() - Math.max(this.#standsFrom, this.#windowFrom);
    }
  }

  /** True if the current window is over and did not see enough. */
  stalled(now: number): boolean {
    const counted = this.#waiting === 0 ? now : this.#standsFrom;
    return this.timeoutMs > 0 && counted - this.#windowFrom >= this.timeoutMs;
  }
}

/**
 * How late the event loop is, and how much of that is its own doing: what `Status` tells when asked for details.
 * Watching costs a timer that fires all the time, so it begins with the first question and ends when nobody has asked
 * for a while.
 */
import { limits } from '../pkg/base/limits.ts';
import { createHistogram } from 'node:perf_hooks';

/** The timer fires so often: fine beside the 100 ms that matter, and cheap: each time costs some 30 µs. */
const RESOLUTION_MS = 10;

/** Milliseconds since the question before; null if nobody had asked lately. */
export interface LoopDelayReading {
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  readonly maxMs: number | null;
  /**
   * The longest delay in which the loop's own thread was at work: processor time, so that a machine that is busy with
   * other things does not count.
   */
  readonly busyMaxMs: number | null;
}

/** Clocks and a timer; tests bring their own. Milliseconds. */
export interface LoopClock {
  now(): number;
  /** Processor time of this thread so far. */
  worked(): number;
  /** Calls `tick` every `ms`, which keeps no process alive; returns the way to stop. */
  every(ms: number, tick: () => void): () => void;
  /** Calls `done` once after `ms`, likewise. */
  after(ms: number, done: () => void): () => void;
}

const REAL: LoopClock = {
  now: () => performance.now(),
  worked() {
    const { user, system } = process.threadCpuUsage();
    return (user + system) / 1e3;
  },
  every(ms, tick) {
    const timer = setInterval(tick, ms).unref();
    return () => clearInterval(timer);
  },
  after(ms, done) {
    const timer = setTimeout(done, ms).unref();
    return () => clearTimeout(timer);
  },
};

const NOTHING: LoopDelayReading = { p50Ms: null, p99Ms: null, maxMs: null, busyMaxMs: null };
/** Histograms count whole numbers from 1: microseconds, and one more. */
const PER_MS = 1e3;

/** Watches while it is asked. */
export class LoopDelay {
  readonly #clock: LoopClock;
  readonly #delays = createHistogram();
  #maxMs = 0;
  #busyMaxMs = 0;
  #at = 0;
  #worked = 0;
  #stop: (() => void) | undefined;
  #forget: (() => void) | undefined;

  constructor(clock: LoopClock = REAL) {
    this.#clock = clock;
  }

  /** What was seen since the last call; from now on it is watched anew. */
  read(): LoopDelayReading {
    const reading = this.#reading();
    this.#delays.reset();
    this.#maxMs = 0;
    this.#busyMaxMs = 0;
    if (this.#stop === undefined) this.#begin();
    this.#forget?.();
    this.#forget = this.#clock.after(limits.loopDelayUnaskedMs, () => {
      this.#stop?.();
      this.#stop = undefined;
      this.#delays.reset();
    });
    return reading;
  }

  #reading(): LoopDelayReading {
    const delays = this.#delays;
    if (this.#stop === undefined || delays.count === 0) return NOTHING;
    const ms = (count: number): number => Number(((count - 1) / PER_MS).toFixed(1));
    return {
      p50Ms: ms(delays.percentile(50)),
      p99Ms: ms(delays.percentile(99)),
      maxMs: Number(this.#maxMs.toFixed(1)),
      busyMaxMs: Number(this.#busyMaxMs.toFixed(1)),
    };
  }

  #begin(): void {
    const { now, worked, every } = this.#clock;
    this.#at = now();
    this.#worked = worked();
    this.#stop = every(RESOLUTION_MS, () => this.#tick());
  }

  #tick(): void {
    const [at, worked] = [this.#clock.now(), this.#clock.worked()];
    const lateMs = Math.max(0, at - this.#at - RESOLUTION_MS);
    this.#delays.record(Math.round(lateMs * PER_MS) + 1);
    this.#maxMs = Math.max(this.#maxMs, lateMs);
    this.#busyMaxMs = Math.max(this.#busyMaxMs, Math.min(lateMs, worked - this.#worked));
    this.#at = at;
    this.#worked = worked;
  }
}

/**
 * How late the event loop is: what `Status` tells when asked for details. Watching costs a timer that fires all the
 * time, so it begins with the first question and ends when nobody has asked for a while.
 */
import { monitorEventLoopDelay } from 'node:perf_hooks';

/** Node's timer for it fires so often: fine beside the 100 ms that matter, and cheap. */
const RESOLUTION_MS = 5;
/** Who watches asks more often. */
const UNASKED_MS = 60_000;

/** Milliseconds since the question before; null if nobody had asked lately. */
export interface LoopDelayReading {
  readonly p50Ms: number | null;
  readonly p99Ms: number | null;
  readonly maxMs: number | null;
}

/** What is used of Node's IntervalHistogram; nanoseconds. */
export interface LoopHistogram {
  readonly count: number;
  readonly max: number;
  percentile(percent: number): number;
  reset(): void;
  enable(): void;
  disable(): void;
}

/** Watches while it is asked. */
export class LoopDelay {
  readonly #unaskedMs: number;
  readonly #watch: (resolutionMs: number) => LoopHistogram;
  #histogram: LoopHistogram | undefined;
  #end: NodeJS.Timeout | undefined;

  constructor(
    unaskedMs = UNASKED_MS,
    watch = (resolution: number): LoopHistogram => monitorEventLoopDelay({ resolution }),
  ) {
    this.#unaskedMs = unaskedMs;
    this.#watch = watch;
  }

  /** What was seen since the last call; from now on it is watched anew. */
  read(): LoopDelayReading {
    clearTimeout(this.#end);
    this.#end = setTimeout(() => this.#stop(), this.#unaskedMs).unref();
    const histogram = this.#histogram;
    if (histogram === undefined) {
      this.#histogram = this.#watch(RESOLUTION_MS);
      this.#histogram.enable();
      return { p50Ms: null, p99Ms: null, maxMs: null };
    }
    // Node counts the time between two timers; on time, that is the resolution.
    const late = (nanoseconds: number): number => Math.max(0, Number((nanoseconds / 1e6 - RESOLUTION_MS).toFixed(3)));
    const reading =
      histogram.count === 0
        ? { p50Ms: null, p99Ms: null, maxMs: null }
        : { p50Ms: late(histogram.percentile(50)), p99Ms: late(histogram.percentile(99)), maxMs: late(histogram.max) };
    histogram.reset();
    return reading;
  }

  #stop(): void {
    this.#histogram?.disable();
    this.#histogram = undefined;
  }
}

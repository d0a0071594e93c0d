/**
 * Waiting for something, but not for ever. All durations are of timers or of `performance.now()`, which nobody can set:
 * a clock that is set back or forward lengthens and shortens nothing.
 */

/** The longest that setTimeout takes, 24 days; a longer one would fire at once. */
export const LONGEST_TIMER_MS = 2 ** 31 - 1;

/**
 * What `work` gives, or 'late' if it takes more than `ms`; it goes on then, and what comes of it is nobody's concern.
 * An event loop that was blocked gets to hear of the outcome before it is called late. Keeps the process alive
 * meanwhile. @throws what `work` throws in time.
 */
export async function within<T>(ms: number, work: Promise<T>): Promise<T | 'late'> {
  const { promise: late, resolve } = Promise.withResolvers<'late'>();
  const timer = timerOf(ms, () => resolve('late'));
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What `work` gives, or 'late' if it goes on for more than `graceMs` after `signal` has fired. */
export async function withinGrace<T>(signal: AbortSignal, graceMs: number, work: Promise<T>): Promise<T | 'late'> {
  // A listener and a timer, no signal made of signals: this is done for each process that is started, and such signals
  // cost more than the rest of it.
  const { promise: late, resolve } = Promise.withResolvers<'late'>();
  let timer: NodeJS.Timeout | undefined;
  const begin = (): void => void (timer = timerOf(graceMs, () => resolve('late')));
  if (signal.aborted) begin();
  else signal.addEventListener('abort', begin, { once: true });
  try {
    return await Promise.race([work, late]);
  } finally {
    signal.removeEventListener('abort', begin);
    clearTimeout(timer);
  }
}

function timerOf(ms: number, late: () => void): NodeJS.Timeout {
  const giveUp = (): void => void setImmediate(() => setImmediate(late));
  return setTimeout(giveUp, Math.min(ms, LONGEST_TIMER_MS));
}

/** Resolves when `signal` fires, at once if it has. */
export function fired(signal: AbortSignal): Promise<undefined> {
  return new Promise((resolve) => {
    if (signal.aborted) resolve(undefined);
    else signal.addEventListener('abort', () => resolve(undefined), { once: true });
  });
}

/** Resolves after `ms`, or as soon as `signal` fires: the caller looks which. */
export async function pause(ms: number, signal: AbortSignal): Promise<void> {
  if (signal.aborted) return;
  const { promise: over, resolve } = Promise.withResolvers<void>();
  const end = (): void => resolve();
  const timer = timerOf(ms, end);
  signal.addEventListener('abort', end, { once: true });
  await over;
  clearTimeout(timer);
  signal.removeEventListener('abort', end);
}

/** Milliseconds of a clock that nobody can set, the same for every process since the boot (CLOCK_MONOTONIC). */
export function monotonicMs(): number {
  return Number(process.hrtime.bigint() / 1_000n) / 1_000;
}

/** The milliseconds that are left until `deadline`, which is of `performance.now()`: 0 if it has passed. */
export function leftMs(deadline: number): number {
  return Math.max(0, deadline - performance.now());
}

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
  const giveUp = (): void => void setImmediate(() => setImmediate(resolve, 'late'));
  const timer = setTimeout(giveUp, Math.min(ms, LONGEST_TIMER_MS));
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** What `work` gives, or 'late' if it goes on for more than `graceMs` after `signal` has fired. */
export async function withinGrace<T>(signal: AbortSignal, graceMs: number, work: Promise<T>): Promise<T | 'late'> {
  const over = new AbortController();
  try {
    const late = fired(AbortSignal.any([signal, over.signal])).then(() => within(graceMs, work));
    return await Promise.race([work, late]);
  } finally {
    over.abort();
  }
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
  const over = new AbortController();
  await within(ms, fired(AbortSignal.any([signal, over.signal])));
  over.abort();
}

/** The milliseconds that are left until `deadline`, which is of `performance.now()`: 0 if it has passed. */
export function leftMs(deadline: number): number {
  return Math.max(0, deadline - performance.now());
}

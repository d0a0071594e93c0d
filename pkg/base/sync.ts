/**
 * Small tools for concurrency in one event loop: a lock per key, a bounded queue, waiting that can be given up, and
 * waiting for all.
 */
import { RuntimeError } from './errors.ts';

/** Serialises work per key, in order of arrival. A key costs nothing when nobody holds it. */
export class KeyedMutex<K> {
  readonly #tails = new Map<K, Promise<void>>();

  /** Runs `work` when every earlier holder of `key` is done; its failure does not fail those who wait. */
  async run<T>(key: K, work: () => Promise<T>): Promise<T> {
    const before = this.#tails.get(key) ?? Promise.resolve();
    const { promise: mine, resolve: release } = Promise.withResolvers<void>();
    const tail = before.then(() => mine);
    this.#tails.set(key, tail);
    await before;
    try {
      return await work();
    } finally {
      release();
      if (this.#tails.get(key) === tail) this.#tails.delete(key);
    }
  }

  /** True if somebody holds or waits for `key`. */
  busy(key: K): boolean {
    return this.#tails.has(key);
  }
}

/**
 * One piece of work for each key at a time; whoever comes meanwhile gets the same promise, and stays to the end. For
 * callers with a patience of their own there is `Flights`.
 */
export class SingleFlight<K, T> {
  readonly #flights = new Map<K, Promise<T>>();

  /** Starts `work` unless a flight for `key` is under way; all callers get the same outcome. */
  run(key: K, work: () => Promise<T>): Promise<T> {
    const flying = this.#flights.get(key);
    if (flying !== undefined) return flying;
    const flight = Promise.resolve()
      .then(work)
      .finally(() => this.#flights.delete(key));
    this.#flights.set(key, flight);
    return flight;
  }

  /** What is under way for `key`. */
  get(key: K): Promise<T> | undefined {
    return this.#flights.get(key);
  }
}

/** A counting gate: at most `slots` pieces of work at once, the rest wait in order, at most `waiting` of them. */
export class Gate {
  readonly #waiters: (() => void)[] = [];
  readonly #waitingMax: number;
  #free: number;

  constructor(slots: number, waiting = Number.POSITIVE_INFINITY) {
    this.#free = slots;
    this.#waitingMax = waiting;
  }

  /** Runs `work` when a slot is free. @throws ResourceExhausted if too many wait already. */
  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--;
    else {
      if (this.#waiters.length >= this.#waitingMax)
        throw new RuntimeError(
          'ResourceExhausted',
          `too many operations wait already (${this.#waiters.length}); try again later`,
        );
      await new Promise<void>((resolve) => this.#waiters.push(resolve));
    }
    try {
      return await work();
    } finally {
      const next = this.#waiters.shift();
      if (next === undefined) this.#free++;
      else next();
    }
  }
}

/** Settles with `work`, or rejects with what `onAbort` makes when `signal` fires first. `work` itself goes on. */
export function abortable<T>(work: Promise<T>, signal: AbortSignal, onAbort: () => Error): Promise<T> {
  if (signal.aborted) {
    work.catch(() => {});
    return Promise.reject(onAbort());
  }
  return new Promise<T>((resolve, reject) => {
    const abort = (): void => reject(onAbort());
    signal.addEventListener('abort', abort, { once: true });
    work.then(resolve, reject).finally(() => signal.removeEventListener('abort', abort));
  });
}

/**
 * Waits for all, also when one fails, so that no work is still under way when the caller starts to clean up.
 * @throws the first failure in the order given.
 */
export async function together<T extends readonly unknown[]>(
  work: readonly [...{ [K in keyof T]: Promise<T[K]> }],
): Promise<T> {
  const outcomes = await Promise.allSettled(work as readonly Promise<unknown>[]);
  for (const outcome of outcomes) if (outcome.status === 'rejected') throw outcome.reason;
  return outcomes.map((outcome) => (outcome as PromiseFulfilledResult<unknown>).value) as unknown as T;
}

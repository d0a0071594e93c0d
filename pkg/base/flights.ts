/**
 * Work that identical requests join, and that is not tied to the caller who asked first.
 *
 * The kubelet gives up after two or four minutes and sends the same request again. So the work has an operation of its
 * own, whoever comes meanwhile gets its outcome, and each caller leaves when its own patience ends, with an error that
 * says at which stage the work is.
 */
import { RuntimeError } from './errors.ts';
import { type Op, isLate } from './op.ts';
import { abortable } from './sync.ts';

/** What becomes of work when the last caller who waits for it has left. */
export type Abandoned = 'goes on' | 'ends';

interface Flight<T> {
  readonly outcome: Promise<T>;
  /** Those who wait. Work that goes on also tells its stages to who began it, for the table of operations. */
  readonly passengers: Set<Op>;
  readonly listeners: Set<Op>;
  readonly stop: AbortController;
  stage: string;
}

/** Flights of one kind: at most one for each key at a time. */
export class Flights<K, T> {
  readonly #flights = new Map<K, Flight<T>>();
  readonly #abandoned: Abandoned;
  readonly #budgetMs: number;

  /**
   * Work may take `budgetMs`, and then its signal fires; without, only being abandoned ends it. Work that goes on when
   * it is abandoned needs a budget, or it may hang for ever.
   */
  constructor(abandoned: Abandoned, budgetMs = Number.POSITIVE_INFINITY) {
    this.#abandoned = abandoned;
    this.#budgetMs = budgetMs;
  }

  /**
   * Joins the flight under `key` or starts one; one that was given up is waited for first.
   * @throws what the work throws; DeadlineExceeded or Cancelled as soon as `op` ends, which fails nobody else.
   */
  async run(op: Op, key: K, work: (op: Op) => Promise<T>): Promise<T> {
    const flying = this.#flights.get(key);
    const flight = flying === undefined || flying.stop.signal.aborted ? this.#start(op, key, work, flying) : flying;
    op.stage(flight.stage);
    flight.passengers.add(op);
    flight.listeners.add(op);
    try {
      return await abortable(flight.outcome, op.signal, () => this.#impatience(op, flight.stage));
    } finally {
      this.#leave(op, flight, flight === flying ? 'joined' : 'began');
    }
  }

  /** Resolves when no flight is under way for `key`, whatever its outcome. */
  async settled(key: K): Promise<void> {
    await this.#flights.get(key)?.outcome.catch(() => {});
  }

  #start(op: Op, key: K, work: (op: Op) => Promise<T>, before: Flight<T> | undefined): Flight<T> {
    const stop = new AbortController();
    const own: Op = {
      ...op,
      deadline: performance.now() + this.#budgetMs,
      signal:
        this.#budgetMs === Number.POSITIVE_INFINITY
          ? stop.signal
          : AbortSignal.any([stop.signal, AbortSignal.timeout(this.#budgetMs)]),
      stage(what) {
        flight.stage = what;
        for (const each of flight.listeners) each.stage(what);
      },
    };
    const begin = async (): Promise<T> => {
      try {
        await before?.outcome.catch(() => {});
        return await work(own);
      } finally {
        if (this.#flights.get(key) === flight) this.#flights.delete(key);
      }
    };
    const flight: Flight<T> = {
      stage: 'starting',
      passengers: new Set(),
      listeners: new Set(),
      stop,
      outcome: Promise.resolve().then(begin),
    };
    // Every caller may have left by the time it fails; the failure is theirs to report, not the process's.
    flight.outcome.catch(() => {});
    if (this.#abandoned === 'goes on') op.goesOn?.(flight.outcome);
    this.#flights.set(key, flight);
    return flight;
  }

  #leave(op: Op, flight: Flight<T>, how: 'began' | 'joined'): void {
    flight.passengers.delete(op);
    if (how === 'joined' || this.#abandoned === 'ends') flight.listeners.delete(op);
    if (flight.passengers.size === 0 && this.#abandoned === 'ends') flight.stop.abort();
  }

  #impatience(op: Op, stage: string): RuntimeError {
    const late = isLate(op);
    return new RuntimeError(
      late ? 'DeadlineExceeded' : 'Cancelled',
      `${late ? 'the deadline passed' : 'the client left'} while the operation was at: ${stage}${
        this.#abandoned === 'goes on' ? '; it goes on, and the same request again joins it' : ''
      }`,
    );
  }
}

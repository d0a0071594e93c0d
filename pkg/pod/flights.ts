/**
 * Operations that identical requests join, and that go on when the client is gone.
 *
 * The kubelet gives up after two or four minutes and sends the same request again (cri-semantics X4). So the work is
 * not tied to the first caller: it runs under a bound of its own, whoever comes meanwhile gets its outcome, and each
 * caller leaves when its own patience ends, with an error that says at which stage the work is.
 */
import { RuntimeError } from '../base/errors.ts';
import { type Op, detached, isLate } from '../base/op.ts';
import { abortable } from '../base/sync.ts';

interface Flight<T> {
  readonly outcome: Promise<T>;
  /**
   * Whoever wants to hear of its stages: those who wait, and the first caller also after it has left, for the table of
   * operations.
   */
  readonly listeners: Set<Op>;
  stage: string;
}

export class Flights<T> {
  readonly #flights = new Map<string, Flight<T>>();

  /** Joins the flight under `key` or starts one that may take `budgetMs`. */
  async run(op: Op, key: string, budgetMs: number, work: (op: Op) => Promise<T>): Promise<T> {
    const joined = this.#flights.get(key);
    const flight = joined ?? this.#start(op, key, budgetMs, work);
    op.stage(flight.stage);
    flight.listeners.add(op);
    try {
      return await abortable(flight.outcome, op.signal, () => impatience(op, flight.stage));
    } finally {
      if (joined !== undefined) flight.listeners.delete(op);
    }
  }

  /** Resolves when no flight is under way for `key`, whatever its outcome. */
  async settled(key: string): Promise<void> {
    await this.#flights.get(key)?.outcome.catch(() => {});
  }

  #start(op: Op, key: string, budgetMs: number, work: (op: Op) => Promise<T>): Flight<T> {
    const own = detached(op, budgetMs);
    const flight: Flight<T> = {
      stage: 'starting',
      listeners: new Set([op]),
      outcome: Promise.resolve()
        .then(() =>
          work({
            ...own,
            stage(what) {
              flight.stage = what;
              for (const each of flight.listeners) each.stage(what);
            },
          }),
        )
        .finally(() => this.#flights.delete(key)),
    };
    // Every caller may have left by the time it fails; the failure is theirs to report, not the process's.
    flight.outcome.catch(() => {});
    op.goesOn?.(flight.outcome);
    this.#flights.set(key, flight);
    return flight;
  }
}

function impatience(op: Op, stage: string): RuntimeError {
  const late = isLate(op);
  return new RuntimeError(
    late ? 'DeadlineExceeded' : 'Cancelled',
    `${late ? 'the deadline passed' : 'the client left'} while the operation was at: ${stage}; ` +
      'it goes on, and the same request again joins it',
  );
}

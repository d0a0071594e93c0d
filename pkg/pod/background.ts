/**
 * Work that nobody asked for and nobody waits for: what goes on after an exit, and what a daemon before us had begun.
 */
import type { Operation } from '../cri-api/types.ts';
import { backgroundOp, type Logger, type Op } from '../base/op.ts';
import { Track } from '../base/track.ts';

/** What goes on without a caller, for the table of operations. */
export class Background {
  readonly #log: Logger;
  readonly #tracks = new Set<Track>();

  constructor(log: Logger) {
    this.#log = log;
  }

  /**
   * An operation of our own, called `what`, about `ids`; it is listed while the work goes on that it is told of.
   * `deadlineMs` is relative; 0 = none.
   */
  begin(what: string, ids: Readonly<Record<string, string>>, deadlineMs = 0): Op {
    const track = new Track(what, ids);
    track.clientGone = true;
    let going = 0;
    const settled = (): void => {
      if (--going === 0) this.#tracks.delete(track);
    };
    return {
      ...backgroundOp(this.#log, deadlineMs),
      stage: track.stage,
      goesOn: (work) => {
        going++;
        this.#tracks.add(track);
        work.then(settled, settled);
      },
    };
  }

  /** What goes on, in no order. */
  operations(): Operation[] {
    return [...this.#tracks].map((track) => track.row());
  }
}

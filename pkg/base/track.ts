/**
 * What an operation is doing now, and since when: what `berth status` shows of a call, a session or work in the
 * background.
 */

/** One row of the table of operations; the message `berth.v1.Operation`. */
export interface TrackRow {
  readonly rpc: string;
  readonly requestId: string;
  readonly ids: Readonly<Record<string, string>>;
  readonly stage: string;
  readonly ageNanos: bigint;
  readonly stageAgeNanos: bigint;
  readonly clientGone: boolean;
}

/** One operation that is shown: it begins when this is made, and is at the stage that it was last told. */
export class Track {
  /** Nobody waits for the outcome any more. */
  clientGone = false;
  /** Milliseconds of performance.now(). */
  readonly began = performance.now();
  /** An own property, since helpers of Op copy operations with a spread. */
  readonly stage = (what: string): void => {
    this.#doing = what;
    this.#stageBegan = performance.now();
  };
  readonly #rpc: string;
  readonly #ids: Readonly<Record<string, string>>;
  readonly #requestId: string;
  #doing = '';
  #stageBegan = this.began;

  /**
   * `rpc` names a call by its RPC, anything else in words; `ids` are the objects that it is about, as log fields name
   * them.
   */
  constructor(rpc: string, ids: Readonly<Record<string, string>>, requestId = '') {
    this.#rpc = rpc;
    this.#ids = ids;
    this.#requestId = requestId;
  }

  /** The stage it is at; '' before the first. */
  get doing(): string {
    return this.#doing;
  }

  row(): TrackRow {
    const now = performance.now();
    const nanos = (since: number): bigint => BigInt(Math.round((now - since) * 1e6));
    return {
      rpc: this.#rpc,
      requestId: this.#requestId,
      ids: this.#ids,
      stage: this.#doing,
      ageNanos: nanos(this.began),
      stageAgeNanos: nanos(this.#stageBegan),
      clientGone: this.clientGone,
    };
  }
}

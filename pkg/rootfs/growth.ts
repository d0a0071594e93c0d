/**
 * How far a file has come that is read while it still grows: one number in memory that the daemon and a worker share.
 * The reader holds its thread up until there is enough to read; it has nothing else to do.
 */
import { RuntimeError } from '../base/errors.ts';

/** No more will come, and what is there is worth nothing. */
const GIVEN_UP = -1n;

/** One growing file, on both sides. `shared` is what is sent from one thread to another. */
export class Growth {
  readonly shared: BigInt64Array<SharedArrayBuffer>;

  constructor(shared = new BigInt64Array(new SharedArrayBuffer(BigInt64Array.BYTES_PER_ELEMENT))) {
    this.shared = shared;
  }

  /** The first `bytes` of the file can be read from now on. */
  reach(bytes: bigint): void {
    if (Atomics.load(this.shared, 0) !== GIVEN_UP) this.#tell(bytes);
  }

  /** Whoever reads is to stop. */
  giveUp(): void {
    this.#tell(GIVEN_UP);
  }

  /** Holds this thread up until the first `bytes` can be read. @throws Cancelled if they will not come. */
  await(bytes: number): void {
    for (;;) {
      const present = Atomics.load(this.shared, 0);
      if (present === GIVEN_UP)
        throw new RuntimeError('Cancelled', 'the blob of the layer, which was read while it arrived, was given up');
      if (present >= BigInt(bytes)) return;
      Atomics.wait(this.shared, 0, present);
    }
  }

  #tell(value: bigint): void {
    Atomics.store(this.shared, 0, value);
    Atomics.notify(this.shared, 0);
  }
}

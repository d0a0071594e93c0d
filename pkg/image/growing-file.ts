/** A download as those see it who read it while it arrives. */
import type { ArrivingBlob } from '../ports/image.ts';

/** One file, from the first byte to the verdict. */
export class GrowingFile implements ArrivingBlob {
  readonly path: string;
  readonly whole: Promise<void>;
  readonly #verdict = Promise.withResolvers<void>();
  readonly #followers = new Set<(presentBytes: bigint) => void>();
  #present = 0n;

  constructor(path: string) {
    this.path = path;
    this.whole = this.#verdict.promise;
    // Nobody need read it.
    this.whole.catch(() => {});
  }

  async has(bytes: number): Promise<void> {
    const enough = Promise.withResolvers<void>();
    const look = (present: bigint): void => {
      if (present >= BigInt(bytes)) enough.resolve();
    };
    this.follow(look);
    try {
      await Promise.race([enough.promise, this.whole]);
    } finally {
      this.#followers.delete(look);
    }
  }

  follow(heard: (presentBytes: bigint) => void): void {
    this.#followers.add(heard);
    heard(this.#present);
  }

  /** The first `present` bytes are in the file. */
  grow(present: bigint): void {
    this.#present = present;
    for (const heard of this.#followers) heard(present);
  }

  /** All of it is there, and is what was promised. */
  pass(): void {
    this.#verdict.resolve();
  }

  /** It will not be. */
  fail(error: unknown): void {
    this.#verdict.reject(error);
  }
}

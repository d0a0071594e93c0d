/** Inflating on a thread of the addon, for worker threads that have enough to do with what comes out. */
import { attempt } from './addon.ts';

/** Blocks of an inflater are at most this long, and so has to be the memory that they are read into. */
export const INFLATED_BLOCK_BYTES = 256 * 1024;

/** gzip or zstd data of a descriptor. Whoever opens it closes it; any thread may read it, by its id. */
export class Inflater {
  readonly id: number;

  private constructor(id: number) {
    this.id = id;
  }

  /**
   * Reads a duplicate of `fd`. zstd windows may have 2^windowLogMax bytes. undefined where Node does not lend its
   * libraries: then node:zlib has to do.
   */
  static open(fd: number, format: 'gzip' | 'zstd', windowLogMax: number): Inflater | undefined {
    const id = attempt(`inflate ${format}`, (native) =>
      native.openInflaterSync(fd, format === 'gzip' ? 0 : 1, windowLogMax),
    );
    return id === undefined ? undefined : new Inflater(id);
  }

  /** Ends it, and whoever waits for it. May be called again. */
  close(): void {
    attempt('close inflater', (native) => native.closeInflaterSync(this.id));
  }
}

/**
 * Waits for the next block of the inflater `id` and puts it into `block`: how long it is, 0 at the end, and how many
 * bytes of the file went into all so far.
 * @throws with EBADMSG for data that is damaged or cut short, EFBIG for a window that is too large, ECANCELED if it was
 * closed.
 */
export function readInflated(id: number, block: Uint8Array): { readonly bytes: number; readonly consumed: number } {
  const [bytes = 0n, consumed = 0n] = attempt('inflate', (native) => native.readInflaterSync(id, block));
  return { bytes: Number(bytes), consumed: Number(consumed) };
}

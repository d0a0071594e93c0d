/**
 * Room kept for deletions, so that a full disk can be emptied.
 *
 * Deleting needs a little space itself: a record that says `removing` is written anew, a directory entry moves, a
 * copy-on-write file system copies the metadata that it frees. On a disk without a free block all of that fails, and
 * nothing can be removed any more. So a file with nothing in it that matters is kept on the disk; whoever frees space
 * does it through `freeing`, which gives the file up when the disk turns out to be full, tries once more, and makes the
 * file anew as soon as there is room. Pulls and creations never touch it.
 */
import { randomFillSync } from 'node:crypto';
import { open, rm, stat, statfs, truncate } from 'node:fs/promises';
import { dirname } from 'node:path';
import { explain, isDiskFull } from './errors.ts';
import { limits } from './limits.ts';
import type { Logger } from './op.ts';

/** What frees space on one file system goes through this. */
export interface Freeing {
  /**
   * Runs `work`. If the disk is full, gives up what is reserved and runs `work` once more, from the start: it must be
   * content with what the first try has done already. @throws what the last try throws.
   */
  freeing<T>(work: () => Promise<T>): Promise<T>;
}

/** For tests and for disks on which nothing is kept back. */
export const noReserve: Freeing = { freeing: (work) => work() };

/** What a DiskReserve is made with. */
export interface ReserveOptions {
  /** The file, in a directory that is there. */
  readonly path: string;
  readonly bytes: number;
  readonly log: Logger;
  /** How often it is tried to make the file anew while it is not there. Default: `limits.reserveRetryMs`. */
  readonly retryMs?: number | undefined;
}

/** Some tens of microseconds of random numbers each. */
const WRITE_BYTES = 64 * 1024;
/**
 * Left to others on a nearly full disk, so that what a deletion does outside of this process (a monitor writes down an
 * exit code) finds room.
 */
const MARGIN_BYTES = 64 * 1024;

/** A reserve that is a file. As much of it is kept as there is room for. */
export class DiskReserve implements Freeing {
  readonly #path: string;
  readonly #bytes: number;
  readonly #log: Logger;
  readonly #retryMs: number;
  #held = 0;
  #filling: Promise<void> | undefined;
  #retry: NodeJS.Timeout | undefined;
  #isClosed = false;

  constructor({ path, bytes, log, retryMs = limits.reserveRetryMs }: ReserveOptions) {
    this.#path = path;
    this.#bytes = bytes;
    this.#log = log;
    this.#retryMs = retryMs;
  }

  /**
   * Makes the file, in the background, unless an earlier life left it. Never fails: a disk without room for it is tried
   * again later.
   */
  async open(): Promise<void> {
    const { size, blocks } = await stat(this.#path).catch(() => ({ size: 0, blocks: 0 }));
    // A power cut may leave it shorter, or with holes.
    if (size >= this.#bytes && blocks * 512 >= this.#bytes) this.#held = this.#bytes;
    else this.#fill('warn');
  }

  async freeing<T>(work: () => Promise<T>): Promise<T> {
    try {
      const done = await work();
      // What it freed may be what the file lacks.
      if (this.#held < this.#bytes) this.#fill('debug');
      return done;
    } catch (error) {
      if (!isDiskFull(error)) throw error;
    }
    await this.#spend();
    try {
      return await work();
    } finally {
      // What is left of it, and what was freed, is kept for the next deletion before others take it.
      this.#fill('debug');
    }
  }

  /** Bytes that are kept back now. */
  get heldBytes(): number {
    return this.#held;
  }

  /** Resolves when the file is not being made just now. */
  async settled(): Promise<void> {
    await this.#filling;
  }

  /** Tries no more to make the file anew; the file stays. */
  async close(): Promise<void> {
    this.#isClosed = true;
    clearTimeout(this.#retry);
    await this.#filling;
  }

  async #spend(): Promise<void> {
    await this.#filling;
    if (this.#held === 0) return;
    this.#log.warn('the disk is full: gave up the reserve so that deletions go on; free space', {
      path: this.#path,
      bytes: this.#held,
    });
    this.#held = 0;
    // Shortening it first helps where even unlinking needs a free block; unlinking gives back an inode, too.
    await truncate(this.#path, 0).catch(() => {});
    await rm(this.#path, { force: true }).catch((error: unknown) =>
      this.#log.warn('cannot remove the reserve', { path: this.#path, cause: explain(error) }),
    );
  }

  #fill(level: 'warn' | 'debug'): void {
    clearTimeout(this.#retry);
    this.#filling ??= this.#topUp(level).finally(() => {
      this.#filling = undefined;
      if (this.#held === this.#bytes || this.#isClosed) return;
      clearTimeout(this.#retry);
      this.#retry = setTimeout(() => this.#fill('debug'), this.#retryMs).unref();
    });
  }

  async #topUp(level: 'warn' | 'debug'): Promise<void> {
    try {
      const { bavail, bsize } = await statfs(dirname(this.#path));
      const wanted = Math.min(this.#bytes, this.#held + bavail * bsize - MARGIN_BYTES);
      if (wanted < this.#bytes)
        this.#log[level](
          'little room for the file that keeps deletions possible on a full disk, will retry; free space',
          { path: this.#path, bytes: Math.max(0, wanted), wantedBytes: this.#bytes },
        );
      if (wanted <= this.#held) return;
      await writeNoise(this.#path, wanted, this.#held);
      this.#held = wanted;
    } catch (error) {
      this.#log[level]('cannot keep room for deletions on a full disk, will retry', {
        path: this.#path,
        cause: explain(error),
      });
      this.#held = await stat(this.#path).then(
        ({ size }) => size,
        () => 0,
      );
    }
  }
}

/**
 * Makes a file `bytes` long that has `before` already, of bytes that no file system can store as a hole or compressed.
 */
async function writeNoise(path: string, bytes: number, before: number): Promise<void> {
  const file = await open(path, before === 0 ? 'w' : 'a', 0o600);
  try {
    for (let left = bytes - before; left > 0; ) {
      const { bytesWritten } = await file.write(randomFillSync(Buffer.allocUnsafe(Math.min(left, WRITE_BYTES))));
      left -= bytesWritten;
    }
  } finally {
    await file.close();
  }
}

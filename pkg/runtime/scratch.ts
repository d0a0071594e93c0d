/** Where execs put what they need for a moment. */
import { mkdir, readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { orphans } from '../sys/index.ts';

/**
 * A directory of our own (on tmpfs) for process.json, pid file and console socket of execs. One for a runtime's root,
 * whatever handlers mean that root: what is in it when the first exec comes belonged to a daemon that is dead.
 */
export class ExecScratch {
  readonly #directory: string;
  #ready: Promise<void> | undefined;
  #count = 0;

  constructor(directory: string) {
    this.#directory = directory;
  }

  /** The scratch of a runtime's root: beside it, since what is in it is a container to the runtime. */
  static of(root: string): ExecScratch {
    return new ExecScratch(`${root}.exec`);
  }

  /** A path for one exec, below a directory that is there. @throws if it cannot be made; the next call tries again. */
  async take(): Promise<string> {
    await this.#prepare();
    return join(this.#directory, String(this.#count++));
  }

  /** Made and emptied once. From now on the processes of execs become our children. */
  #prepare(): Promise<void> {
    this.#ready ??= (async () => {
      orphans.becomeSubreaper();
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      for (const name of await readdir(this.#directory))
        await rm(join(this.#directory, name), { recursive: true, force: true });
    })().catch((error: unknown) => {
      this.#ready = undefined; // The next exec may have the descriptors or the room that this one lacked.
      throw error;
    });
    return this.#ready;
  }
}

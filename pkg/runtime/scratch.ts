/** Where execs put what they need for a moment. */
import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDir, ensureDirInMemory } from '../base/files.ts';
import { orphans } from '../sys/index.ts';
import { DUE, type ExecFiles, execFiles, type LimitedExec, parseDue } from './left-execs.ts';

/** A command of a dead daemon that has a time to end at, and its files. */
export interface LeftExec {
  readonly exec: LimitedExec;
  readonly files: ExecFiles;
}

/**
 * A directory of our own (on tmpfs) for process.json, pid file and console socket of execs. One for a runtime's root,
 * whatever handlers mean that root: what is in it when the first exec comes belonged to a daemon that is dead.
 */
export class ExecScratch {
  readonly #directory: string;
  readonly #left: LeftExec[] = [];
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
    // It was made at the start, and somebody may have wiped the run root since.
    ensureDirInMemory(this.#directory);
    return join(this.#directory, String(this.#count++));
  }

  /** Whoever asks first gets the commands of a dead daemon that are to end some time. @throws as take. */
  async takeLeft(): Promise<readonly LeftExec[]> {
    await this.#prepare();
    return this.#left.splice(0);
  }

  /** Made and emptied once. From now on the processes of execs become our children. */
  #prepare(): Promise<void> {
    this.#ready ??= (async () => {
      orphans.becomeSubreaper();
      await ensureDir(this.#directory);
      const names = await readdir(this.#directory);
      const kept = new Set<string>();
      for (const name of names.filter((each) => each.endsWith(DUE))) {
        const scratch = join(this.#directory, name.slice(0, -DUE.length));
        const exec = parseDue(await readFile(join(this.#directory, name), 'latin1'));
        if (exec === undefined) continue;
        const files = execFiles(scratch);
        this.#left.push({ exec, files });
        for (const path of Object.values(files)) kept.add(path);
        // Nobody is to have the name of a file that stays.
        this.#count = Math.max(this.#count, Number.parseInt(name, 10) + 1 || 0);
      }
      for (const path of names.map((name) => join(this.#directory, name)))
        if (!kept.has(path)) await rm(path, { recursive: true, force: true });
    })().catch((error: unknown) => {
      this.#ready = undefined; // The next exec may have the descriptors or the room that this one lacked.
      throw error;
    });
    return this.#ready;
  }
}

/**
 * The exit directory: monitors write `<exit-dir>/<container id>` by rename, with the exit code in decimal; we only
 * read.
 *
 * Watch first, then read what is there, then live: an exit may be reported twice, but never not at all.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { ensureDir } from '../base/files.ts';
import { errnoOf, explain } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { Logger } from '../base/op.ts';
import { limits } from '../base/limits.ts';
import type { DirectoryEvent, DirectoryWatch } from '../ports/kernel.ts';
import { watchDirectory } from '../sys/index.ts';

/** What an exit file says. */
export interface ExitFile {
  readonly id: ContainerId;
  readonly exitCode: number;
  /** Nanoseconds since the epoch, from the file's mtime. */
  readonly finishedAt: bigint;
}

/** Exit files are a few digits; whatever is longer is none. */
const EXIT_FILE_BYTES = 32;

/** PURE. The container whose exit file has this name; undefined for the temporary names that writers rename from. */
export function exitFileId(name: string): ContainerId | undefined {
  return /^[0-9a-f]{64}$/.test(name) ? (name as ContainerId) : undefined;
}

/**
 * PURE. 0-255 as written; 255 for anything else (upstream writes -1 when it does not know): what is not known to be
 * success is none.
 */
export function parseExitCode(text: string): number {
  const match = /^(\d{1,3})\s*$/.exec(text);
  const code = match === null ? 255 : Number(match[1]);
  return code <= 255 ? code : 255;
}

/**
 * The exit file of `id` right now; undefined if there is none. Read on the spot: it is ours, on tmpfs, and somebody
 * waits for it.
 */
export function readExitFile(directory: string, id: ContainerId): ExitFile | undefined {
  let file: number;
  try {
    file = openSync(join(directory, id), constants.O_RDONLY | constants.O_NONBLOCK);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw error;
  }
  try {
    const { mtimeNs } = fstatSync(file, { bigint: true });
    const bytes = Buffer.alloc(EXIT_FILE_BYTES);
    const bytesRead = readSync(file, bytes, 0, EXIT_FILE_BYTES, 0);
    return { id, exitCode: parseExitCode(bytes.toString('latin1', 0, bytesRead)), finishedAt: mtimeNs };
  } finally {
    closeSync(file);
  }
}

function readable(directory: string, id: ContainerId, log: Logger): ExitFile | undefined {
  try {
    return readExitFile(directory, id);
  } catch (error) {
    log.error('exit file cannot be read, ignoring', { container: id, cause: explain(error) });
    return undefined;
  }
}

/** How the directory is watched; a test has its own way. */
export interface Watching {
  readonly watchDirectory: typeof watchDirectory;
  readonly unwatchedMs: number;
}

/**
 * What is on disk, then what comes; every exit at least once, in order of arrival. Ends when `signal` fires. Makes the
 * directory, also again when it is taken away. Where it cannot be watched (a root container without a user namespace
 * shares our inotify instances), it is read every `unwatchedMs` until it can.
 */
export async function* watchExits(
  directory: string,
  signal: AbortSignal,
  log: Logger,
  { watchDirectory: watchNow, unwatchedMs }: Watching = { watchDirectory, unwatchedMs: limits.exitsUnwatchedMs },
): AsyncGenerator<ExitFile, void, void> {
  const looking = new Looking(directory, log, watchNow);
  const onAbort = (): void => looking.wake();
  signal.addEventListener('abort', onAbort);
  try {
    while (!signal.aborted) {
      await looking.look();
      const next = looking.take();
      if (next === undefined) {
        if (!signal.aborted) await looking.idle(unwatchedMs);
        continue;
      }
      const exit = readable(directory, next, log);
      if (exit !== undefined && !signal.aborted) yield exit;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    looking.close();
  }
}

/** The exit directory, watched where that can be, and read again where it cannot or where events may be missing. */
class Looking {
  readonly #directory: string;
  readonly #log: Logger;
  readonly #watchNow: typeof watchDirectory;
  readonly #pending = new Set<ContainerId>();
  #watch: DirectoryWatch | undefined;
  #wake = (): void => {};
  /** What is there has to be read: nobody told of it. */
  #isStale = true;
  #isTroubled = false;

  constructor(directory: string, log: Logger, watchNow: typeof watchDirectory) {
    this.#directory = directory;
    this.#log = log;
    this.#watchNow = watchNow;
  }

  /** Watches and reads, if either is due. The second also when the first fails: who cannot watch can still look. */
  async look(): Promise<void> {
    const tries = [await failureOf(() => this.#watchIt()), await failureOf(() => this.#readIt())];
    const causes = tries.filter((cause) => cause !== undefined);
    if (causes.length > 0 && !this.#isTroubled) {
      this.#log.error(
        'exit directory cannot be watched, reading it again and again until it can; are ' +
          'fs.inotify.max_user_instances or the descriptors used up?',
        { path: this.#directory, cause: explain(causes[0]) },
      );
    }
    if (causes.length === 0 && this.#isTroubled)
      this.#log.info('exit directory is watched again', { path: this.#directory });
    this.#isTroubled = causes.length > 0;
  }

  /** The next exit file that is known of. */
  take(): ContainerId | undefined {
    const [next] = this.#pending;
    if (next !== undefined) this.#pending.delete(next);
    return next;
  }

  /** Waits for an event, or `unwatchedMs` where none will come; not at all if events came in meanwhile. */
  async idle(unwatchedMs: number): Promise<void> {
    if (!this.#isTroubled && (this.#isStale || this.#watch === undefined)) return;
    const again = this.#isTroubled ? setTimeout(() => this.wake(), unwatchedMs) : undefined;
    await new Promise<void>((resolve) => {
      this.#wake = resolve;
    });
    clearTimeout(again);
    this.#isStale ||= this.#isTroubled;
  }

  wake(): void {
    this.#wake();
  }

  close(): void {
    this.#watch?.close();
  }

  #note(event: DirectoryEvent): void {
    if (event.kind === 'changed') {
      const id = exitFileId(event.name);
      if (id !== undefined) this.#pending.add(id);
    } else if (event.kind !== 'removed') {
      this.#isStale = true;
      if (event.kind === 'gone') {
        this.#watch?.close();
        this.#watch = undefined;
        this.#log.warn('exit directory was taken away, will make it again', { path: this.#directory });
      }
    }
    this.wake();
  }

  async #watchIt(): Promise<void> {
    if (this.#watch !== undefined) return;
    await ensureDir(this.#directory);
    this.#watch = this.#watchNow(this.#directory, (event) => this.#note(event));
    this.#isStale = true;
  }

  async #readIt(): Promise<void> {
    if (!this.#isStale) return;
    this.#isStale = false;
    for (const name of (await readdir(this.#directory)).sort()) this.#note({ kind: 'changed', name });
  }
}

/** What `work` throws; undefined if nothing. */
async function failureOf(work: () => Promise<void>): Promise<unknown> {
  return await work().then(
    () => undefined,
    (cause: unknown) => cause,
  );
}

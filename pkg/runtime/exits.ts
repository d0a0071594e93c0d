/**
 * The exit directory: monitors write `<exit-dir>/<container id>` by rename, with the exit code in decimal; we only
 * read.
 *
 * Watch first, then read what is there, then live: an exit may be reported twice, but never not at all.
 */
import { closeSync, constants, fstatSync, openSync, readSync } from 'node:fs';
import { mkdir, readdir } from 'node:fs/promises';
import { join } from 'node:path';
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
  const pending = new Set<ContainerId>();
  let wake = (): void => {};
  let reread = true;
  let watch: DirectoryWatch | undefined;
  let troubled = false;
  const onEvent = (event: DirectoryEvent): void => {
    if (event.kind === 'changed') {
      const id = exitFileId(event.name);
      if (id !== undefined) pending.add(id);
    } else if (event.kind !== 'removed') {
      reread = true;
      if (event.kind === 'gone') {
        watch?.close();
        watch = undefined;
        log.warn('exit directory was taken away, will make it again', { path: directory });
      }
    }
    wake();
  };
  const watchIt = async (): Promise<void> => {
    if (watch !== undefined) return;
    await mkdir(directory, { recursive: true, mode: 0o700 });
    watch = watchNow(directory, onEvent);
    reread = true;
  };
  const readIt = async (): Promise<void> => {
    if (!reread) return;
    reread = false;
    for (const name of (await readdir(directory)).sort()) onEvent({ kind: 'changed', name });
  };
  const onAbort = (): void => wake();
  signal.addEventListener('abort', onAbort);
  try {
    while (!signal.aborted) {
      // The second also when the first fails: who cannot watch can still look.
      const causes = [await failureOf(watchIt), await failureOf(readIt)].filter((cause) => cause !== undefined);
      if (causes.length > 0 && !troubled) {
        log.error(
          'exit directory cannot be watched, reading it again and again until it can; are ' +
            'fs.inotify.max_user_instances or the descriptors used up?',
          { path: directory, cause: explain(causes[0]) },
        );
      }
      if (causes.length === 0 && troubled) log.info('exit directory is watched again', { path: directory });
      troubled = causes.length > 0;
      const [next] = pending;
      if (next === undefined) {
        const idle = troubled || (!reread && watch !== undefined); // Events came in while the directory was read.
        if (!idle || signal.aborted) continue;
        const again = troubled ? setTimeout(() => wake(), unwatchedMs) : undefined;
        await new Promise<void>((resolve) => {
          wake = resolve;
        });
        clearTimeout(again);
        reread ||= troubled;
        continue;
      }
      pending.delete(next);
      const exit = readable(directory, next, log);
      if (exit !== undefined && !signal.aborted) yield exit;
    }
  } finally {
    signal.removeEventListener('abort', onAbort);
    watch?.close();
  }
}

/** What `work` throws; undefined if nothing. */
async function failureOf(work: () => Promise<void>): Promise<unknown> {
  return await work().then(
    () => undefined,
    (cause: unknown) => cause,
  );
}

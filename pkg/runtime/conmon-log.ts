/**
 * Whether a monitor writes to the log of the path again, after it was told to open it anew.
 */
import { dirname } from 'node:path';
import { explain, RuntimeError } from '../base/errors.ts';
import type { ProcessRef } from '../base/ids.ts';
import { checkAlive, type Op } from '../base/op.ts';
import type { DirectoryWatch } from '../ports/kernel.ts';
import { processes, watchDirectory } from '../sys/index.ts';

/**
 * How often the monitor's descriptors are looked at while it reopens a log; a directory event comes first in all but
 * one case.
 */
const REOPEN_LOOK_MS = 20;

/**
 * Sends the request and returns once the monitor holds the file at `logPath` open. @throws FailedPrecondition when the
 * monitor ends meanwhile; when time is up.
 */
export async function reopened(
  op: Op,
  monitor: ProcessRef,
  logPath: string,
  request: () => Promise<void>,
  watchNow = watchDirectory,
): Promise<void> {
  let wake = (): void => {};
  const watch = watched(op, dirname(logPath), () => wake(), watchNow);
  const before = await processes.inodeOf(logPath);
  const timer = setInterval(() => wake(), REOPEN_LOOK_MS);
  const onAbort = (): void => wake();
  op.signal.addEventListener('abort', onAbort, { once: true });
  try {
    await request();
    for (;;) {
      const event = new Promise<void>((resolve) => {
        wake = resolve;
      });
      if (await processes.holdsOpen(monitor, logPath)) return;
      if (!processes.isAlive(monitor))
        throw new RuntimeError('FailedPrecondition', `cannot reopen ${logPath}: its container has ended`);
      checkAlive(
        op,
        `waiting for monitor ${monitor.pid} to reopen ${logPath}; is its disk full or ` +
          `read-only?${before === undefined ? '' : ' (an older file is there)'}`,
      );
      await event;
    }
  } finally {
    clearInterval(timer);
    op.signal.removeEventListener('abort', onAbort);
    watch?.close();
  }
}

/** A watch, where one is to be had; the node may be out of inotify instances, and the watch only makes us quicker. */
function watched(
  op: Op,
  directory: string,
  onEvent: () => void,
  watchNow: typeof watchDirectory,
): DirectoryWatch | undefined {
  try {
    return watchNow(directory, onEvent);
  } catch (cause) {
    op.log.debug('directory of the log cannot be watched, looking again and again', {
      path: directory,
      cause: explain(cause),
    });
    return undefined;
  }
}

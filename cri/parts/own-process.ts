/** What the daemon does to its own process before it touches anything else. */
import { writeFileSync } from 'node:fs';
import { explain } from '../../pkg/base/errors.ts';
import type { Logger } from '../../pkg/base/op.ts';
import { limits } from '../../pkg/base/limits.ts';
import { favourEventLoop, orphans } from '../../pkg/sys/index.ts';

/** Makes the daemon the parent of what monitors and runtimes leave behind, and reaps that until it is disposed of. */
export function tendOwnProcess(log: Logger): Disposable {
  nameOwnProcess(log);
  orphans.becomeSubreaper();
  favourThisThread(log);
  const stop = reapStrays();
  return { [Symbol.dispose]: stop };
}

/** What ps, top and systemctl show in place of Node's name for its main thread; the command line stays as it was. */
function nameOwnProcess(log: Logger): void {
  try {
    writeFileSync('/proc/self/comm', 'berth');
  } catch (cause) {
    log.debug('the process cannot be given its name', { cause: explain(cause) });
  }
}

/** Some milliseconds under load, which a node can do without. */
function favourThisThread(log: Logger): void {
  try {
    favourEventLoop();
  } catch (cause) {
    log.info('the event loop has no precedence over our other threads', { cause: explain(cause) });
  }
}

/**
 * As a subreaper we inherit what monitors and runtimes leave behind; a zombie of ours inside a container's PID
 * namespace would keep its first process from ending. SIGCHLD says that there may be one; a moment later those who wait
 * for a child of theirs have taken it. Returns the way to stop.
 */
function reapStrays(): () => void {
  let planned: NodeJS.Timeout | undefined;
  const onChild = (): void => {
    planned ??= setTimeout(() => {
      planned = undefined;
      if (orphans.reap() > 0) onChild();
    }, limits.reapAfterMs).unref();
  };
  process.on('SIGCHLD', onChild);
  return () => {
    process.off('SIGCHLD', onChild);
    clearTimeout(planned);
  };
}

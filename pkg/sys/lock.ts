/** One daemon per directory, by a lock that goes with the process. */
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import type { FileLock } from '../ports/kernel.ts';
import { addon, errnoName, systemError } from './addon.ts';

/**
 * Takes the exclusive lock of `path` (made 0600) and writes our pid into it.
 * @throws FailedPrecondition that names the holder's pid when another process has it.
 */
export function lockFile(path: string): FileLock {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    addon().lockSync(fd);
  } catch (error) {
    closeSync(fd);
    if (errnoName((error as { errno?: number }).errno ?? 0) !== 'EAGAIN') throw systemError(error, `lock ${path}`);
    const holder = readFileSync(path, 'utf8').trim().slice(0, 20);
    throw new RuntimeError(
      'FailedPrecondition',
      `${path} is locked by another process${/^\d+$/.test(holder) ? ` (pid ${holder})` : ''}; ` +
        'stop it first, or use another root and run directory',
    );
  }
  try {
    // In place first: a full disk has no other block.
    ftruncateSync(fd, writeSync(fd, `${process.pid}\n`, 0));
  } catch {
    // Whose lock it is helps in a message only.
  }
  return { release: () => closeSync(fd) };
}

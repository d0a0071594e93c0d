/** One daemon per directory, by a lock that goes with the process. */
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { setTimeout as sleep } from 'node:timers/promises';
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { FileLock } from '../ports/kernel.ts';
import { addon, errnoName, systemError } from './addon.ts';
import { isAlive, refOf } from './processes.ts';

/** Between two tries to have what the children of a dead holder still have. */
const AGAIN_MS = 5;

/**
 * Takes the exclusive lock of `path` (made 0600) and writes our pid into it. A holder that was killed while it started
 * a process leaves the lock to that one until it executes its program; that is waited for.
 * @throws FailedPrecondition that names the holder's pid when another process has it.
 */
export async function lockFile(path: string): Promise<FileLock> {
  const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_NOFOLLOW, 0o600);
  try {
    for (const end = performance.now() + limits.lockLeftMs; !tryLock(fd, path); ) {
      const holder = readFileSync(path, 'utf8').trim().slice(0, 20);
      if (performance.now() > end || !isDead(holder)) throw isLocked(path, holder);
      await sleep(AGAIN_MS);
    }
  } catch (error) {
    closeSync(fd);
    throw error;
  }
  try {
    // In place first: a full disk has no other block.
    ftruncateSync(fd, writeSync(fd, `${process.pid}\n`, 0));
  } catch {
    // Whose lock it is helps in a message only.
  }
  return { release: () => closeSync(fd) };
}

/** False if somebody else has it. */
function tryLock(fd: number, path: string): boolean {
  try {
    addon().lockSync(fd);
    return true;
  } catch (error) {
    if (errnoName((error as { errno?: number }).errno ?? 0) !== 'EAGAIN') throw systemError(error, `lock ${path}`);
    return false;
  }
}

/** True of the number of a process that is no more. */
function isDead(holder: string): boolean {
  if (!/^\d+$/.test(holder)) return false;
  const found = refOf(Number(holder));
  return found === undefined || !isAlive(found);
}

function isLocked(path: string, holder: string): RuntimeError {
  return new RuntimeError(
    'FailedPrecondition',
    `${path} is locked by another process${/^\d+$/.test(holder) ? ` (pid ${holder})` : ''}; ` +
      'stop it first, or use another root and run directory',
  );
}

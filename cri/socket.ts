/**
 * The place of the socket in the file system. It is made under a temporary name and renamed, so it never exists with
 * wrong permissions, and a stale one is replaced in one step. Whoever still answers on it is left alone, and we refuse
 * to start.
 */
import { lstatSync, rmSync } from 'node:fs';
import { chmod, lstat, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import { errnoOf, RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';

/** The longest path that fits `sun_path`, less what the temporary name adds. */
const SOCKET_PATH_BYTES = 107 - '.new'.length;

/** A socket that has its place. */
export interface PlacedSocket {
  /** Takes it away, unless another daemon has put its own there. Synchronous, so that none can do so meanwhile. */
  remove(): void;
}

/**
 * Has `bind` make a socket, and puts it at `path` for root and its group. @throws InvalidArgument for a path that no
 * socket can have; FailedPrecondition if somebody answers there, something else is there, or nothing can be made there.
 */
export async function placeSocket(path: string, bind: (path: string) => Promise<void>): Promise<PlacedSocket> {
  if (!path.startsWith('/') || Buffer.byteLength(path) > SOCKET_PATH_BYTES) {
    throw new RuntimeError(
      'InvalidArgument',
      `socket path ${quote(path)} must be absolute and at most ${SOCKET_PATH_BYTES} bytes long; ` +
        'choose another with --listen',
    );
  }
  await refuseIfTaken(path);
  const fresh = `${path}.new`;
  await rm(fresh, { force: true });
  await bind(fresh).catch((cause: unknown) => {
    throw new RuntimeError('FailedPrecondition', `cannot listen on ${path}`, { cause });
  });
  await chmod(fresh, 0o660);
  const { ino } = await lstat(fresh, { bigint: true });
  await rename(fresh, path);
  return {
    remove() {
      if (lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino === ino) rmSync(path, { force: true });
    },
  };
}

/** @throws FailedPrecondition unless `path` is free: absent, or a socket on which nobody answers. */
async function refuseIfTaken(path: string): Promise<void> {
  const found = await lstat(path).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw new RuntimeError('FailedPrecondition', `cannot listen on ${path}`, { cause: error });
  });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new RuntimeError(
      'FailedPrecondition',
      `${path} exists and is not a socket; remove it or choose another path with --listen`,
    );
  if (await answers(path))
    throw new RuntimeError(
      'FailedPrecondition',
      `socket ${path} is in use: another daemon answers on it; stop that one first or choose ` +
        'another path with --listen',
    );
}

/** True unless connecting is refused: a full backlog or a missing permission means that somebody is there. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    const done = (answer: boolean): void => {
      probe.destroy();
      resolve(answer);
    };
    probe.setTimeout(limits.socketTestMs, () => done(true));
    probe.once('connect', () => done(true));
    probe.once('error', (error) => done(!['ECONNREFUSED', 'ENOENT'].includes(errnoOf(error) ?? '')));
  });
}

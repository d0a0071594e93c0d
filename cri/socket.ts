/**
 * The place of a socket in the file system. A stale one is replaced; whoever still answers on it is left alone, and we
 * refuse.
 */
import { lstatSync } from 'node:fs';
import { chmod, lstat, rm } from 'node:fs/promises';
import { connect, type Server } from 'node:net';
import { errnoOf, RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';

/** The longest path that fits `sun_path`. */
const SOCKET_PATH_BYTES = 107;

/** A socket that has its place. */
export interface PlacedSocket {
  /**
   * Takes no more connections, and takes the socket away, unless somebody else has put theirs there. Synchronous, so
   * that none can do so meanwhile.
   */
  remove(): void;
}

/**
 * Has `server` listen at `path`, for root and its group. Between bind and chmod the socket has the mode that our umask
 * leaves, 0755, and only who may write to it may connect. It is bound under its own name, since what clients say of a
 * broken connection names it. @throws InvalidArgument for a path that no socket can have; FailedPrecondition if
 * somebody answers there, something else is there, or nothing can be made there.
 */
export async function placeSocket(path: string, server: Server): Promise<PlacedSocket> {
  if (!path.startsWith('/') || Buffer.byteLength(path) > SOCKET_PATH_BYTES) {
    throw new RuntimeError(
      'InvalidArgument',
      `socket path ${quote(path)} must be absolute and at most ${SOCKET_PATH_BYTES} bytes long; ` +
        'choose another with --listen',
    );
  }
  await refuseIfTaken(path);
  try {
    await rm(path, { force: true });
    await listening(server, path);
    await chmod(path, 0o660);
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `cannot listen on ${path}`, { cause });
  }
  const { ino } = await lstat(path, { bigint: true });
  return {
    remove() {
      // libuv unlinks the path when the server closes, whosever socket is there. One that has no name any more gets no
      // connections.
      if (lstatSync(path, { bigint: true, throwIfNoEntry: false })?.ino === ino) server.close();
      else server.unref();
    },
  };
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
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

/** Unix sockets, which Node has of one type only, and at short paths. */
import type { DescriptorSocket, SocketType, UnixListener } from '../ports/kernel.ts';
import { addon, attempt, attemptAsync, errnoBehind } from './addon.ts';
import { close } from './descriptors.ts';
import type { Watch } from '../../native/index.d.ts';

const SOCKET_TYPES: Readonly<Record<SocketType, number>> = { stream: 1, datagram: 2, seqpacket: 5 };

/** Two connected unix sockets, close-on-exec. @fortests of streams: what both ends are one process's. */
export function pair(type: SocketType): readonly [number, number] {
  const [a = -1n, b = -1n] = attempt('make a socket pair', (native) => native.socketPairSync(SOCKET_TYPES[type]));
  return [Number(a), Number(b)];
}

/**
 * Connects to a unix socket at a path of any length. @throws NotFound, Unavailable (nobody listens, or no room in the
 * backlog within `timeoutMs`).
 */
export function connect(path: string, type: SocketType, timeoutMs = 5_000): Promise<number> {
  return attemptAsync(`connect to ${path}`, (native) => native.connectUnix(path, SOCKET_TYPES[type], timeoutMs));
}

/**
 * Listens at `path` (the name at most 85 bytes, the directory of any length), with this mode from the first moment.
 * @throws FailedPrecondition (EADDRINUSE) if something is there.
 */
export function listen(path: string, type: SocketType, mode = 0o600): UnixListener {
  const fd = attempt(`listen on ${path}`, (native) => native.listenUnixSync(path, SOCKET_TYPES[type], mode));
  const readable = new Readable(fd);
  return {
    accept: (signal) =>
      readable.next(signal, () => attempt(`accept on ${path}`, (native) => native.acceptUnixSync(fd))),
    close: () => readable.close(),
  };
}

/** Listens at `path` for descriptors, one connection after the other. @throws as listen. */
export function listenForDescriptors(path: string): DescriptorSocket {
  const listener = listen(path, 'stream');
  return {
    receive: async (signal) => {
      const connection = await listener.accept(signal);
      if (connection === null) return null;
      const readable = new Readable(connection);
      try {
        return await readable.next(signal, () =>
          attempt('receive a descriptor', (native) => native.receiveFdSync(connection)),
        );
      } finally {
        readable.close();
      }
    },
    close: () => listener.close(),
  };
}

/** A descriptor that gives one thing after another by a call that answers EAGAIN when there is none. */
class Readable {
  readonly #fd: number;
  readonly #watch: Watch;
  #wake: (() => void) | undefined;
  #closed = false;

  constructor(fd: number) {
    this.#fd = fd;
    this.#watch = attempt(`watch descriptor ${fd}`, (native) => native.watch(fd, () => this.#stop()));
  }

  async next<T>(signal: AbortSignal, take: () => T): Promise<T | null> {
    const abort = (): void => this.#stop();
    signal.addEventListener('abort', abort, { once: true });
    try {
      while (!signal.aborted && !this.#closed) {
        try {
          return take();
        } catch (error) {
          if (errnoBehind(error) !== 'EAGAIN') throw error;
        }
        await new Promise<void>((resolve) => {
          this.#wake = resolve;
          addon().arm(this.#watch, 1);
        });
      }
      return null;
    } finally {
      signal.removeEventListener('abort', abort);
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    addon().unwatch(this.#watch);
    close(this.#fd);
    this.#wake?.();
  }

  #stop(): void {
    if (!this.#closed) addon().arm(this.#watch, 0);
    this.#wake?.();
  }
}

/**
 * Tells the service manager (sd_notify(3)): `READY=1`, `RELOADING=1`, `WATCHDOG=1`, …. False if nobody asked to be
 * told.
 */
export function notifyServiceManager(state: string): boolean {
  const path = process.env['NOTIFY_SOCKET'] ?? '';
  if (path === '') return false;
  const address = path.startsWith('@') ? Buffer.from(`\0${path.slice(1)}`) : path;
  attempt(`notify ${path}`, (native) => native.sendDatagramSync(address, Buffer.from(state)));
  return true;
}

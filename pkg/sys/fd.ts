/**
 * File descriptors as the event loop sees them: pipes, unix sockets (also SOCK_SEQPACKET), terminals, inotify, locks.
 *
 * One mechanism serves all of them: a poll registration in libuv's loop and non-blocking read and write, so
 * back-pressure is the kernel's own and no thread pool is involved. A raw descriptor is a number that its holder must
 * close; a stream owns its descriptor.
 */
import { closeSync, constants, ftruncateSync, openSync, readFileSync, writeSync } from 'node:fs';
import { RuntimeError } from '../base/errors.ts';
import { addon, attempt, attemptAsync, errnoBehind, errnoName, systemError } from './addon.ts';
import type { Watch } from '../../native/index.d.ts';

const READABLE = 1;
const WRITABLE = 2;
/** One read takes at most this: what a pipe holds. */
const READ_BYTES = 65_536;
/**
 * Where every read lands before its bytes are copied out: reads are synchronous, so one is enough, and a waiting stream
 * holds no memory.
 */
const scratch = Buffer.allocUnsafeSlow(READ_BYTES);

/** Closes a raw descriptor; content if it is negative. */
export function closeFd(fd: number): void {
  if (fd >= 0) attempt('close', (native) => native.closeSync(fd));
}

/** A pipe; both ends close-on-exec and blocking (openStream makes ours non-blocking). */
export function pipe(): { readonly read: number; readonly write: number } {
  const [read = -1n, write = -1n] = attempt('make a pipe', (native) => native.pipeSync());
  return { read: Number(read), write: Number(write) };
}

export type SocketType = 'stream' | 'seqpacket' | 'datagram';
const SOCKET_TYPES: Readonly<Record<SocketType, number>> = { stream: 1, datagram: 2, seqpacket: 5 };

/** Two connected unix sockets, close-on-exec. */
export function socketPair(type: SocketType): readonly [number, number] {
  const [a = -1n, b = -1n] = attempt('make a socket pair', (native) => native.socketPairSync(SOCKET_TYPES[type]));
  return [Number(a), Number(b)];
}

/**
 * Connects to a unix socket at a path of any length. @throws NotFound, Unavailable (nobody listens, or no room in the
 * backlog within `timeoutMs`).
 */
export function connectUnix(path: string, type: SocketType, timeoutMs = 5_000): Promise<number> {
  return attemptAsync(`connect to ${path}`, (native) => native.connectUnix(path, SOCKET_TYPES[type], timeoutMs));
}

/**
 * Bytes (or, on a SOCK_SEQPACKET descriptor, packets) in and out, with the kernel's back-pressure. Owns its descriptor.
 */
export interface FdStream extends AsyncIterable<Buffer> {
  readonly fd: number;
  /**
   * The next bytes or the next packet; null at the end: EOF, EIO of a terminal whose other side is gone, or after
   * close(). One reader at a time.
   */
  read(): Promise<Buffer | null>;
  /**
   * Resolves when the kernel has taken every byte; writes queue in order. A packet goes out whole.
   * @throws FailedPrecondition (cause EPIPE) when nobody reads any more; Cancelled when the stream is closed meanwhile.
   */
  write(data: Uint8Array): Promise<void>;
  /** Half-close of a socket, after the writes so far: the peer sees EOF. Nothing on a pipe or terminal. */
  endWrite(): Promise<void>;
  /** Closes the descriptor; a waiting read gives null. May be called again. */
  close(): void;
}

/**
 * A stream over a pipe, socket or terminal descriptor, which it owns from now on. @throws (EPERM) for regular files.
 */
export function openStream(fd: number): FdStream {
  return new PolledStream(fd);
}

class PolledStream implements FdStream {
  readonly fd: number;
  readonly #watch: Watch;
  #armed = 0;
  #closed = false;
  #ended = false;
  #reader: (() => void) | undefined;
  #writer: (() => void) | undefined;
  #writes: Promise<unknown> = Promise.resolve();

  constructor(fd: number) {
    this.fd = fd;
    this.#watch = attempt(`watch descriptor ${fd}`, (native) => native.watch(fd, (events) => this.#ready(events)));
  }

  async read(): Promise<Buffer | null> {
    if (this.#reader !== undefined) throw new RuntimeError('Internal', 'two readers on one stream');
    while (!this.#closed && !this.#ended) {
      const count = addon().readSync(this.fd, scratch, 0, scratch.length);
      if (count > 0) return Buffer.from(scratch.subarray(0, count));
      const errno = count === 0 ? 'EOF' : errnoName(-count);
      if (errno === 'EAGAIN') await this.#wait(READABLE);
      else if (errno === 'EOF' || errno === 'EIO' || errno === 'ECONNRESET') this.#ended = true;
      else if (errno !== 'EINTR') throw failed(-count, 'read');
    }
    return null;
  }

  write(data: Uint8Array): Promise<void> {
    const write = this.#writes.then(() => this.#writeAll(data));
    this.#writes = write.catch(() => {});
    return write;
  }

  async endWrite(): Promise<void> {
    await this.#writes;
    if (this.#closed) return;
    try {
      attempt('shut down', (native) => native.shutdownWriteSync(this.fd));
    } catch (error) {
      if (!['ENOTSOCK', 'ENOTCONN'].includes(errnoBehind(error) ?? '')) throw error;
    }
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    addon().unwatch(this.#watch);
    closeFd(this.fd);
    this.#wake(READABLE | WRITABLE);
  }

  async *[Symbol.asyncIterator](): AsyncGenerator<Buffer, void, void> {
    for (let part = await this.read(); part !== null; part = await this.read()) yield part;
  }

  async #writeAll(data: Uint8Array): Promise<void> {
    let done = 0;
    do {
      if (this.#closed) throw new RuntimeError('Cancelled', 'the stream was closed before everything was written');
      const count = addon().writeSync(this.fd, data, done, data.length - done);
      if (count >= 0) done += count;
      else if (errnoName(-count) === 'EAGAIN') await this.#wait(WRITABLE);
      else if (errnoName(-count) !== 'EINTR') throw failed(-count, 'write');
    } while (done < data.length);
  }

  #wait(direction: number): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    if (direction === READABLE) this.#reader = resolve;
    else this.#writer = resolve;
    this.#arm();
    return promise;
  }

  #ready(events: number): void {
    this.#wake(events < 0 ? READABLE | WRITABLE : events);
    if (!this.#closed) queueMicrotask(() => this.#arm());
  }

  #wake(events: number): void {
    const [reader, writer] = [this.#reader, this.#writer];
    if ((events & READABLE) !== 0) this.#reader = undefined;
    if ((events & WRITABLE) !== 0) this.#writer = undefined;
    if ((events & READABLE) !== 0) reader?.();
    if ((events & WRITABLE) !== 0) writer?.();
  }

  /** Interest follows who waits; the registration is touched only when that changes. */
  #arm(): void {
    if (this.#closed) return;
    const wanted = (this.#reader === undefined ? 0 : READABLE) | (this.#writer === undefined ? 0 : WRITABLE);
    if (wanted === this.#armed) return;
    this.#armed = wanted;
    addon().arm(this.#watch, wanted);
  }
}

function failed(errno: number, call: string): unknown {
  return systemError(Object.assign(new Error(call), { errno, syscall: call }), `${call} descriptor`);
}

/** A listening unix socket. */
export interface UnixListener {
  /** The next connection as a descriptor; null once `signal` fires or the listener is closed. */
  accept(signal: AbortSignal): Promise<number | null>;
  /** Closes; the socket file stays. */
  close(): void;
}

/**
 * Listens at `path` (the name at most 85 bytes, the directory of any length), with this mode from the first moment.
 * @throws FailedPrecondition (EADDRINUSE) if something is there.
 */
export function listenUnix(path: string, type: SocketType, mode = 0o600): UnixListener {
  const fd = attempt(`listen on ${path}`, (native) => native.listenUnixSync(path, SOCKET_TYPES[type], mode));
  const readable = new Readable(fd);
  return {
    accept: (signal) =>
      readable.next(signal, () => attempt(`accept on ${path}`, (native) => native.acceptUnixSync(fd))),
    close: () => readable.close(),
  };
}

/** Where a runtime sends the terminal it made (`--console-socket`). */
export interface ConsoleSocket {
  /** The master side of the terminal; null once `signal` fires or the socket is closed. */
  receive(signal: AbortSignal): Promise<number | null>;
  close(): void;
}

/** Listens for one terminal at `path`. @throws as listenUnix. */
export function listenConsole(path: string): ConsoleSocket {
  const listener = listenUnix(path, 'stream');
  return {
    receive: async (signal) => {
      const connection = await listener.accept(signal);
      if (connection === null) return null;
      const readable = new Readable(connection);
      try {
        return await readable.next(signal, () =>
          attempt('receive a terminal', (native) => native.receiveFdSync(connection)),
        );
      } finally {
        readable.close();
      }
    },
    close: () => listener.close(),
  };
}

/** Sets the size of a terminal (TIOCSWINSZ). */
export function setWindowSize(fd: number, size: { readonly width: number; readonly height: number }): void {
  attempt('set terminal size', (native) => native.setWindowSizeSync(fd, size.width, size.height));
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
          addon().arm(this.#watch, READABLE);
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
    closeFd(this.#fd);
    this.#wake?.();
  }

  #stop(): void {
    if (!this.#closed) addon().arm(this.#watch, 0);
    this.#wake?.();
  }
}

export type DirectoryEvent =
  /** A name appeared (made or moved here), or a file here was closed after writing: read it (again). */
  | { readonly kind: 'changed'; readonly name: string }
  | { readonly kind: 'removed'; readonly name: string }
  /** Events were lost: read the whole directory. */
  | { readonly kind: 'overflow' }
  /** The directory itself was removed, moved or unmounted; nothing more will come. */
  | { readonly kind: 'gone' };

/** An inotify watch; close it. */
export interface DirectoryWatch {
  close(): void;
}

const IN = {
  CLOSE_WRITE: 0x8,
  MOVED_FROM: 0x40,
  MOVED_TO: 0x80,
  CREATE: 0x100,
  DELETE: 0x200,
  DELETE_SELF: 0x400,
  MOVE_SELF: 0x800,
  UNMOUNT: 0x2000,
  Q_OVERFLOW: 0x4000,
  IGNORED: 0x8000,
  ONLYDIR: 0x1000000,
};
const IN_MASK =
  IN.CLOSE_WRITE | IN.MOVED_FROM | IN.MOVED_TO | IN.CREATE | IN.DELETE | IN.DELETE_SELF | IN.MOVE_SELF | IN.ONLYDIR;

/**
 * Calls `onEvent` for every change in directory `path`, in order; every change after this returns is seen. To miss
 * nothing: watch first, then read the directory. @throws NotFound, FailedPrecondition (no directory), ResourceExhausted
 * (fs.inotify.max_user_watches).
 */
export function watchDirectory(path: string, onEvent: (event: DirectoryEvent) => void): DirectoryWatch {
  const fd = attempt(`watch ${path}`, (native) => native.inotifySync(path, IN_MASK));
  let open = true;
  const watch = addon().watch(fd, () => {
    for (
      let count = addon().readSync(fd, scratch, 0, scratch.length);
      open && count > 0;
      count = open ? addon().readSync(fd, scratch, 0, scratch.length) : 0
    ) {
      for (const event of parseInotify(scratch.subarray(0, count))) if (open) onEvent(event);
    }
  });
  addon().arm(watch, READABLE);
  return {
    close: () => {
      if (!open) return;
      open = false;
      addon().unwatch(watch);
      closeFd(fd);
    },
  };
}

/** PURE: struct inotify_event records (inotify(7)) as events. */
export function parseInotify(bytes: Buffer): DirectoryEvent[] {
  const events: DirectoryEvent[] = [];
  for (let at = 0; at + 16 <= bytes.length; ) {
    const mask = bytes.readUInt32LE(at + 4);
    const length = bytes.readUInt32LE(at + 12);
    const text = bytes.subarray(at + 16, at + 16 + length);
    const end = text.indexOf(0);
    const name = text.toString('utf8', 0, end < 0 ? text.length : end);
    at += 16 + length;
    if ((mask & IN.Q_OVERFLOW) !== 0) events.push({ kind: 'overflow' });
    else if ((mask & (IN.DELETE_SELF | IN.MOVE_SELF | IN.UNMOUNT)) !== 0) events.push({ kind: 'gone' });
    else if ((mask & (IN.CREATE | IN.MOVED_TO | IN.CLOSE_WRITE)) !== 0) events.push({ kind: 'changed', name });
    else if ((mask & (IN.DELETE | IN.MOVED_FROM)) !== 0) events.push({ kind: 'removed', name });
  }
  return events;
}

/** A held lock; the kernel drops it when we die. */
export interface FileLock {
  release(): void;
}

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
      `${path} is locked by another process${/^\d+$/.test(holder) ? ` (pid ${holder})` : ''}; stop it first, or use another root and run directory`,
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

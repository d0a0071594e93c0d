/**
 * File descriptors as the event loop sees them: pipes, sockets, terminals.
 *
 * One mechanism serves all of them: a poll registration in libuv's loop and non-blocking read and write, so
 * back-pressure is the kernel's own and no thread pool is involved. A raw descriptor is a number that its holder must
 * close; a stream owns its descriptor.
 */
import { RuntimeError } from '../base/errors.ts';
import type { FdStream } from '../ports/kernel.ts';
import { addon, attempt, errnoBehind, errnoName, systemError } from './addon.ts';
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
export function close(fd: number): void {
  if (fd >= 0) attempt('close', (native) => native.closeSync(fd));
}

/** A pipe; both ends close-on-exec and blocking (openStream makes ours non-blocking). */
export function pipe(): { readonly read: number; readonly write: number } {
  const [read = -1n, write = -1n] = attempt('make a pipe', (native) => native.pipeSync());
  return { read: Number(read), write: Number(write) };
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
    close(this.fd);
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

/** Sets the size of a terminal (TIOCSWINSZ). */
export function setWindowSize(fd: number, size: { readonly width: number; readonly height: number }): void {
  attempt('set terminal size', (native) => native.setWindowSizeSync(fd, size.width, size.height));
}

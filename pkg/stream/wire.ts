/**
 * A connection after its HTTP upgrade, as bytes in order with back-pressure both ways: a socket, or a WebSocket that
 * carries SPDY. Every connection beats: it sends something small from time to time, which is how one that is not read
 * from, because the process behind it reads no input, finds out that its client is gone.
 */
import type { Duplex } from 'node:stream';
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { within } from '../base/time.ts';

/** One connection, as its two directions of bytes. */
export interface Wire {
  /**
   * Everything that arrives; ends when the connection does. Reading it slowly slows the client down. One reader, who
   * reads to the end.
   */
  readonly input: AsyncIterable<Uint8Array>;
  /** Fires when the connection is closed, by whomever. */
  readonly gone: AbortSignal;
  /**
   * Resolves when the kernel has the bytes, which must not change before. @throws Cancelled once the connection is
   * closed.
   */
  write(...parts: readonly Uint8Array[]): Promise<void>;
  /**
   * Lets what is written reach the client, waits for it to hang up, and closes; each for a bounded time. Input goes on
   * until then. Never rejects.
   */
  end(): Promise<void>;
  /** Closes at once. */
  destroy(): void;
}

/** The wire of an upgraded socket; `head` came with the request. */
export function socketWire(socket: Duplex, head: Uint8Array): Wire {
  const gone = goneSignal(socket);
  return {
    input: socketInput(socket, head),
    gone,
    write: (...parts) => writeAll(socket, gone, parts),
    end: () => endSocket(socket, gone, () => socket.end()),
    destroy: () => socket.destroy(),
  };
}

/** Fires when the socket closes. Errors of the socket end in this and nowhere else. */
export function goneSignal(socket: Duplex): AbortSignal {
  const controller = new AbortController();
  socket.on('error', () => socket.destroy());
  socket.once('close', () => controller.abort());
  if (socket.destroyed) controller.abort();
  return controller.signal;
}

/** Calls `beat` every limits.streamHeartbeatMs until the connection is gone. */
export function heartbeat(gone: AbortSignal, beat: () => void): void {
  const timer = setInterval(beat, limits.streamHeartbeatMs);
  timer.unref();
  if (gone.aborted) clearInterval(timer);
  else gone.addEventListener('abort', () => clearInterval(timer), { once: true });
}

/** Runs `hangUp`, then waits for the flush and for the peer, each for a bounded time. */
export async function endSocket(socket: Duplex, gone: AbortSignal, hangUp: () => void): Promise<void> {
  if (gone.aborted) return;
  const closed = new Promise<void>((resolve) => gone.addEventListener('abort', () => resolve(), { once: true }));
  const flushed = new Promise<void>((resolve) =>
    socket.writableFinished ? resolve() : socket.once('finish', resolve),
  );
  hangUp();
  if ((await within(limits.streamFlushMs, Promise.race([flushed, closed]))) !== 'late')
    await within(limits.streamLingerMs, closed);
  socket.destroy();
  await closed;
}

async function* socketInput(socket: Duplex, head: Uint8Array): AsyncGenerator<Uint8Array, void, void> {
  if (head.length > 0) yield head;
  try {
    for await (const chunk of socket) yield chunk as Uint8Array;
  } catch {
    // Reset, or closed by us: the end either way, and `gone` says so.
  }
}

function writeAll(socket: Duplex, gone: AbortSignal, parts: readonly Uint8Array[]): Promise<void> {
  return new Promise((resolve, reject) => {
    if (gone.aborted || !socket.writable) {
      reject(hungUp());
      return;
    }
    const onGone = (): void => reject(hungUp());
    gone.addEventListener('abort', onGone, { once: true });
    const done = (error?: Error | null): void => {
      gone.removeEventListener('abort', onGone);
      if (error === undefined || error === null) resolve();
      else reject(hungUp(error));
    };
    socket.cork();
    parts.forEach((part, i) => (i === parts.length - 1 ? socket.write(part, done) : socket.write(part)));
    socket.uncork();
  });
}

/** What a write to a client that is gone ends with. */
export function hungUp(cause?: unknown): RuntimeError {
  return new RuntimeError('Cancelled', 'the client hung up', cause === undefined ? {} : { cause });
}

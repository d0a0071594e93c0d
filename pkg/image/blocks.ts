/**
 * Bytes in blocks of memory that are used again and again, for what is too large to leave to the garbage collector.
 *
 * Each read of a socket or a file comes in memory of its own outside of V8's heap, and V8 walks all of its heap
 * whenever some MB of that have come together: ten times in the pull of an image of 100 MB, half a second in all. So
 * bytes are copied into blocks, and their memory is given back at once.
 */
import type { Readable } from 'node:stream';

/**
 * What `body` gives, in pieces of at most `blockBytes`: one block fills while another one is used. A piece is valid
 * until the next one is asked for. What has arrived comes out before the error does that ended it. The body is
 * destroyed when the reader leaves.
 */
export async function* inBlocks(body: Readable, blockBytes: number): AsyncGenerator<Buffer, void, void> {
  const inbox = new Inbox(body, Math.max(1, blockBytes));
  try {
    for (let block = await inbox.next(); block !== undefined; block = await inbox.next()) yield block;
  } finally {
    inbox.close();
  }
}

/** Gives memory back that nobody uses any more; the views of it are empty from now on. */
export function giveBack(block: Buffer): void {
  (block.buffer as ArrayBuffer).transfer(0);
}

const NOTHING: Buffer = Buffer.alloc(0);

class Inbox {
  readonly #body: Readable;
  #filling: Buffer;
  #used: Buffer;
  #filled = 0;
  /** Of the last chunk, what found no room. */
  #rest = NOTHING;
  #copied = NOTHING;
  #ending: { readonly error: unknown } | undefined;
  #wake = (): void => {};

  constructor(body: Readable, blockBytes: number) {
    this.#body = body;
    this.#filling = Buffer.allocUnsafeSlow(blockBytes);
    this.#used = Buffer.allocUnsafeSlow(blockBytes);
    // It may have ended before anybody looked.
    if (body.destroyed) this.#end(body.errored ?? closed());
    body
      .on('data', (chunk: Buffer) => this.#take(chunk))
      .on('end', () => this.#end(undefined))
      .on('error', (error) => this.#end(error))
      .on('close', () => this.#end(closed()));
  }

  /** The next block; undefined at the end. @throws what ended the body. */
  async next(): Promise<Buffer | undefined> {
    while (this.#filled === 0) {
      if (this.#ending?.error !== undefined) throw this.#ending.error;
      if (this.#ending !== undefined) return undefined;
      await new Promise<void>((resolve) => (this.#wake = resolve));
    }
    const block = this.#filling.subarray(0, this.#filled);
    [this.#filling, this.#used] = [this.#used, this.#filling];
    this.#filled = 0;
    this.#body.resume();
    this.#take(this.#rest);
    return block;
  }

  close(): void {
    this.#body.destroy();
    for (const block of [this.#filling, this.#used]) giveBack(block);
    release(this.#copied);
  }

  #take(chunk: Buffer): void {
    const taken = chunk.copy(this.#filling, this.#filled);
    this.#filled += taken;
    this.#rest = chunk.subarray(taken);
    // Only the one before: the parser that we are called from still looks at this one.
    release(this.#copied);
    this.#copied = this.#rest.length === 0 ? chunk : NOTHING;
    // After a pause nothing comes; a chunk that is larger than the room was on its way already.
    if (this.#filled > this.#filling.length / 2) this.#body.pause();
    this.#wake();
  }

  #end(error: unknown): void {
    this.#ending ??= { error };
    this.#wake();
  }
}

/** A read of a socket takes at most this. Small chunks may lie in memory that others share. */
const SOCKET_READ_BYTES = 65_536;
const SHARED_BYTES = 16_384;

/** Gives back the memory of one read, if `chunk` is the last of it: whatever came before it has been copied. */
function release(chunk: Buffer): void {
  const { buffer, byteOffset, length } = chunk;
  if (
    byteOffset + length === buffer.byteLength &&
    buffer.byteLength > SHARED_BYTES &&
    buffer.byteLength <= SOCKET_READ_BYTES
  )
    giveBack(chunk);
}

function closed(): Error {
  return new Error('the connection was closed before the end');
}

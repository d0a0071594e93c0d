/** A small SPDY/3.1 client for tests: compresses its headers as client-go does, and never opens a window. */
import type { Duplex } from 'node:stream';
import { constants, createDeflate } from 'node:zlib';
import { dataHeader, dictionary, headerBlock, openFrame, pingFrame, resetFrame } from './spdy-frames.ts';

export class SpdyClient {
  /** Resolves when the connection is closed. */
  readonly closed: Promise<void>;
  readonly #socket: Duplex;
  readonly #deflate = createDeflate({ dictionary, flush: constants.Z_SYNC_FLUSH });
  readonly #streams = new Map<number, SpdyClientStream>();
  readonly #pongs = new Map<number, () => void>();
  /** Frames other than data, as `type:stream`. */
  readonly seen: string[] = [];
  #packed: Buffer[] = [];
  #partial: Buffer = Buffer.alloc(0);
  #next = 1;
  #pings = 1;

  constructor(socket: Duplex, head: Buffer = Buffer.alloc(0)) {
    this.#socket = socket;
    this.#deflate.on('data', (part: Buffer) => this.#packed.push(part));
    this.closed = new Promise((resolve) => socket.once('close', resolve));
    socket.on('error', () => {});
    socket.setMaxListeners(0);
    socket.on('close', () => {
      for (const stream of this.#streams.values()) stream.over();
      this.#deflate.destroy();
    });
    socket.on('data', (chunk: Buffer) => this.#take(chunk));
    if (head.length > 0) this.#take(head);
  }

  /** One after the other: compression has an order. */
  async open(
    headers: Readonly<Record<string, string>>,
    options: { readonly fin?: boolean } = {},
  ): Promise<SpdyClientStream> {
    const id = this.#next;
    this.#next += 2;
    const stream = new SpdyClientStream(id, this.#socket);
    this.#streams.set(id, stream);
    this.#packed = [];
    const block = headerBlock(new Map(Object.entries(headers).map(([name, value]) => [name.toLowerCase(), value])));
    await new Promise((resolve) => this.#deflate.write(block, resolve));
    while (this.#deflate.read() !== null);
    this.#socket.write(openFrame(id, Buffer.concat(this.#packed), options.fin === true));
    return stream;
  }

  /** Resolves with the answer. */
  async ping(): Promise<void> {
    const id = this.#pings;
    this.#pings += 2;
    const answered = new Promise<void>((resolve) => this.#pongs.set(id, resolve));
    this.#socket.write(pingFrame(id));
    await answered;
  }

  raw(bytes: Uint8Array): void {
    this.#socket.write(bytes);
  }

  pause(): void {
    this.#socket.pause();
  }
  resume(): void {
    this.#socket.resume();
  }
  close(): void {
    this.#socket.destroy();
  }
  /** Sends no more, and goes on to listen. */
  endConnection(): void {
    this.#socket.end();
  }

  #take(chunk: Buffer): void {
    this.#partial = Buffer.concat([this.#partial, chunk]);
    while (this.#partial.length >= 8) {
      const length = this.#partial.readUIntBE(5, 3);
      if (this.#partial.length < 8 + length) return;
      const frame = this.#partial.subarray(0, 8 + length);
      this.#partial = this.#partial.subarray(8 + length);
      this.#frame(frame);
    }
  }

  #frame(frame: Buffer): void {
    const fin = (frame.readUInt8(4) & 1) !== 0;
    if ((frame.readUInt8(0) & 0x80) === 0) {
      this.#streams.get(frame.readUInt32BE(0))?.take(frame.subarray(8), fin);
      return;
    }
    const type = frame.readUInt16BE(2);
    const word = frame.length >= 12 ? frame.readUInt32BE(8) : 0;
    this.seen.push(`${type}:${word}`);
    if (type === 6) this.#pongs.get(word)?.();
    if (type === 3) this.#streams.get(word)?.over('reset');
  }
}

export class SpdyClientStream {
  readonly id: number;
  /** How the server ended it: 'fin', 'reset', or 'closed' with the connection. */
  readonly ended: Promise<'fin' | 'reset' | 'closed'>;
  readonly #socket: Duplex;
  readonly #end: (how: 'fin' | 'reset' | 'closed') => void;
  readonly #parts: Buffer[] = [];
  bytes = 0;
  onData: () => void = () => {};

  constructor(id: number, socket: Duplex) {
    this.id = id;
    this.#socket = socket;
    const { promise, resolve } = Promise.withResolvers<'fin' | 'reset' | 'closed'>();
    this.ended = promise;
    this.#end = resolve;
  }

  /** Resolves when the kernel has it, or the connection is gone. */
  async write(data: Uint8Array | string): Promise<void> {
    const bytes = Buffer.from(data);
    this.#socket.write(dataHeader(this.id, bytes.length, 'more follows'));
    await new Promise<void>((resolve) => {
      this.#socket.once('close', resolve);
      this.#socket.write(bytes, () => {
        this.#socket.off('close', resolve);
        resolve();
      });
    });
  }

  end(): void {
    this.#socket.write(dataHeader(this.id, 0, 'the last'));
  }
  reset(): void {
    this.#socket.write(resetFrame(this.id, 5));
  }

  /** What has arrived. */
  get text(): string {
    return Buffer.concat(this.#parts).toString();
  }

  /** Everything, once the server has ended the stream. */
  async all(): Promise<string> {
    await this.ended;
    return this.text;
  }

  take(data: Buffer, fin: boolean): void {
    this.bytes += data.length;
    if (this.bytes <= 4 * 1024 * 1024) this.#parts.push(Buffer.from(data));
    this.onData();
    if (fin) this.#end('fin');
  }
  over(how: 'reset' | 'closed' = 'closed'): void {
    this.#end(how);
  }
}

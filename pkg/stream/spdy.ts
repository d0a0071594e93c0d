/**
 * SPDY/3.1, the server's side, as kubectl, crictl and critest speak it through client-go: exec and attach by streams
 * that say what they carry (`streamType`), port-forward by pairs of streams (`requestID`).
 *
 * client-go never opens its receive windows, so ours to it are not kept; it gets back-pressure from TCP. We open ours
 * as data is taken, for clients that keep to the protocol; one that does not is held by not reading from its
 * connection.
 */
import { createInflate, type Inflate } from 'node:zlib';
import { explain, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { pause, within } from '../base/time.ts';
import type { Ending, Forward, PortsClient, StdioClient, Wanted } from './client.ts';
import { endingMessage } from './ending.ts';
import { Inbox } from './inbox.ts';
import { Pace } from './pace.ts';
import {
  dataHeader,
  dictionary,
  type Frame,
  FrameReader,
  goAwayFrame,
  headerBlock,
  HeaderPacker,
  parseHeaderBlock,
  pingFrame,
  replyFrame,
  RESET,
  resetFrame,
  windowFrame,
} from './spdy-frames.ts';
import { heartbeat, hungUp, type Wire } from './wire.ts';

/** What a version of the protocol has: sizes of the terminal since v3, the ending as an object since v4. */
export const SPDY_STDIO_PROTOCOLS: readonly string[] = [
  'v4.channel.k8s.io',
  'v3.channel.k8s.io',
  'v2.channel.k8s.io',
  'channel.k8s.io',
];
export const SPDY_PORTS_PROTOCOLS: readonly string[] = ['portforward.k8s.io'];

/** Data taken before the client hears of it: half of what it may send ahead. */
const WINDOW_STEP_BYTES = 32 * 1024;
/** The most of one write that goes into one frame. */
const DATA_FRAME_BYTES = 64 * 1024;
/** We open no streams, so even ids are ours for pings alone. */
const OUR_PING = 2;
const NO_HEADERS = headerBlock(new Map());

/** One stream of a session, opened by the client. */
export interface SpdyStream {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly input: Inbox;
  /** Fires when the client resets the stream or is lost. */
  readonly gone: AbortSignal;
  /** @throws Cancelled when the stream is over. */
  write(data: Uint8Array): Promise<void>;
  /** Ends our direction after the writes so far. Never rejects. */
  end(): Promise<void>;
  /** Gives the stream up, both directions. */
  reset(status: number): void;
  /** Gives it up if the client does not end its direction soon. */
  release(): void;
}

/** A connection full of streams. `run` reads until the connection is over and never rejects, whatever arrives. */
export class SpdySession {
  readonly gone: AbortSignal;
  readonly #wire: Wire;
  readonly #onStream: (stream: SpdyStream) => void;
  readonly #pace: Pace;
  readonly #reader = new FrameReader();
  readonly #unpacker = new HeaderUnpacker();
  readonly #packer = new HeaderPacker();
  readonly #streams = new Map<number, Stream>();
  #lastStream = 0;
  #finishing = false;
  #taken = 0;
  #unsent = 0;
  #sent: Promise<void> = Promise.resolve();

  constructor(wire: Wire, onStream: (stream: SpdyStream) => void, pace = new Pace()) {
    this.#wire = wire;
    this.#onStream = onStream;
    this.#pace = pace;
    this.gone = wire.gone;
    heartbeat(wire.gone, () => this.#control(pingFrame(OUR_PING)));
  }

  /** Resolves when the connection is over, with what was wrong with it, if anything was. */
  async run(): Promise<RuntimeError | undefined> {
    let wrong: RuntimeError | undefined;
    try {
      for await (const chunk of this.#wire.input) {
        if (wrong !== undefined) continue;
        wrong = await this.#takeAll(chunk);
        if (wrong !== undefined) void this.#abandon();
      }
    } finally {
      // Whoever says goodbye closes when all of it is sent.
      if (!this.#finishing) this.#wire.destroy();
      for (const stream of this.#streams.values()) stream.lose();
      this.#unpacker.close();
    }
    return wrong;
  }

  /** Says goodbye and closes in order. Never rejects. */
  async finish(): Promise<void> {
    if (!this.#finishing) {
      this.#finishing = true;
      this.#control(goAwayFrame(this.#lastStream, 'ok'));
      for (const stream of this.#streams.values()) stream.input.drop();
    }
    await this.#wire.end();
  }

  /** For a client that does not keep to the protocol: no manners beyond telling it. */
  async #abandon(): Promise<void> {
    this.#control(goAwayFrame(this.#lastStream, 'protocolError'));
    for (const stream of this.#streams.values()) stream.lose();
    await within(limits.streamLingerMs, this.#sent);
    this.#wire.destroy();
  }

  async #takeAll(chunk: Uint8Array): Promise<RuntimeError | undefined> {
    try {
      for (const frame of this.#reader.read(chunk)) {
        await this.#take(frame);
        const waitMs = this.#pace.take(frame.kind === 'data' ? frame.bytes.length : 0);
        if (waitMs > 0) await pause(waitMs, this.gone);
        // A client that asks and never reads the answers waits until it has.
        while (this.#unsent > limits.streamControlBytes && !this.gone.aborted) await this.#sent;
      }
      return undefined;
    } catch (error) {
      return error instanceof RuntimeError
        ? error
        : new RuntimeError('InvalidArgument', 'this is no SPDY/3.1', { cause: error });
    }
  }

  async #take(frame: Frame): Promise<void> {
    switch (frame.kind) {
      case 'data':
        return await this.#takeData(frame);
      case 'open':
        return this.#open(frame, parseHeaderBlock(await this.#unpacker.unpack(frame.block)));
      case 'headers':
        await this.#unpacker.unpack(frame.block);
        if (frame.fin) this.#streams.get(frame.stream)?.ended();
        return;
      case 'reset':
        this.#streams.get(frame.stream)?.lose();
        return;
      case 'ping':
        // Ours come back with an even id; to answer them would never end.
        if (frame.id % 2 === 1) this.#control(pingFrame(frame.id));
        return;
      case 'goAway':
      case 'nothing':
        return;
    }
  }

  async #takeData({ stream: id, bytes, fin }: Extract<Frame, { readonly kind: 'data' }>): Promise<void> {
    const stream = this.#streams.get(id);
    if (stream === undefined) this.#onTaken(bytes.length);
    else {
      await stream.input.push(bytes);
      if (fin) stream.ended();
    }
  }

  #open({ stream: id, fin }: OpenFrame, headers: ReadonlyMap<string, string>): void {
    if (id % 2 === 0 || id <= this.#lastStream)
      throw new RuntimeError('InvalidArgument', `this is no SPDY/3.1: stream ${id} after ${this.#lastStream}`);
    this.#lastStream = id;
    if (this.#finishing || this.#streams.size >= limits.spdyStreamsCount) {
      this.#control(resetFrame(id, RESET.refusedStream));
      return;
    }
    const stream = new Stream(id, headers, {
      write: (...parts) => this.#wire.write(...parts),
      reset: (status) => this.#control(resetFrame(id, status)),
      taken: (count) => this.#onTaken(count),
      opened: (count) => this.#control(windowFrame(id, count)),
      over: () => this.#streams.delete(id),
    });
    this.#streams.set(id, stream);
    this.#control(replyFrame(id, this.#packer.pack(NO_HEADERS)));
    if (fin) stream.ended();
    this.#onStream(stream);
  }

  #onTaken(bytes: number): void {
    this.#taken += bytes;
    if (this.#taken < WINDOW_STEP_BYTES) return;
    this.#control(windowFrame(0, this.#taken));
    this.#taken = 0;
  }

  /** Sends without waiting; what is not sent yet is counted. */
  #control(frame: Uint8Array): void {
    this.#unsent += frame.length;
    this.#sent = this.#wire
      .write(frame)
      .catch(() => {})
      .then(() => {
        this.#unsent -= frame.length;
      });
  }
}

type OpenFrame = Extract<Frame, { readonly kind: 'open' | 'headers' }>;

interface StreamOwner {
  write(...parts: readonly Uint8Array[]): Promise<void>;
  reset(status: number): void;
  taken(bytes: number): void;
  opened(bytes: number): void;
  over(): void;
}

class Stream implements SpdyStream {
  readonly id: number;
  readonly headers: ReadonlyMap<string, string>;
  readonly input: Inbox;
  readonly #owner: StreamOwner;
  readonly #gone = new AbortController();
  #taken = 0;
  #input: 'open' | 'ended' = 'open';
  #output: 'open' | 'ended' = 'open';

  constructor(id: number, headers: ReadonlyMap<string, string>, owner: StreamOwner) {
    this.id = id;
    this.headers = headers;
    this.#owner = owner;
    this.input = new Inbox((bytes) => this.#onTaken(bytes));
  }

  get gone(): AbortSignal {
    return this.#gone.signal;
  }

  async write(data: Uint8Array): Promise<void> {
    for (let at = 0; at < data.length; at += DATA_FRAME_BYTES) {
      if (this.#output === 'ended') throw hungUp();
      const part = data.subarray(at, at + DATA_FRAME_BYTES);
      await this.#owner.write(dataHeader(this.id, part.length, 'more follows'), part);
    }
  }

  async end(): Promise<void> {
    if (this.#output === 'ended') return;
    this.#output = 'ended';
    this.#settle();
    await this.#owner.write(dataHeader(this.id, 0, 'the last')).catch(() => {});
  }

  reset(status: number): void {
    this.#owner.reset(status);
    this.lose();
  }

  release(): void {
    if (this.#input === 'ended') return;
    const timer = setTimeout(() => {
      if (this.#input === 'open') this.reset(RESET.cancel);
    }, limits.streamLingerMs);
    timer.unref();
    this.gone.addEventListener('abort', () => clearTimeout(timer), { once: true });
  }

  /** The client sends no more. */
  ended(): void {
    this.#input = 'ended';
    this.input.end();
    this.#settle();
  }

  /** The client is gone, or we gave the stream up. */
  lose(): void {
    this.#input = 'ended';
    this.#output = 'ended';
    this.input.drop();
    this.#settle();
    this.#gone.abort();
  }

  #settle(): void {
    if (this.#input === 'ended' && this.#output === 'ended') this.#owner.over();
  }

  #onTaken(bytes: number): void {
    this.#owner.taken(bytes);
    this.#taken += bytes;
    if (this.#input === 'ended' || this.#taken < WINDOW_STEP_BYTES) return;
    this.#owner.opened(this.#taken);
    this.#taken = 0;
  }
}

/** The client's side of header compression: one zlib stream for the whole session. */
class HeaderUnpacker {
  #inflate: Inflate | undefined;
  #parts: Buffer[] = [];
  #size = 0;
  #fail: ((error: Error) => void) | undefined;

  /** One block after the other. @throws InvalidArgument for what cannot be unpacked or is too large. */
  async unpack(block: Uint8Array): Promise<Buffer> {
    const inflate = (this.#inflate ??= this.#open());
    this.#parts = [];
    this.#size = 0;
    await new Promise<void>((resolve, reject) => {
      this.#fail = reject;
      inflate.write(block, (error) => (error === undefined || error === null ? resolve() : reject(error)));
    });
    // What is unpacked and not handed out yet goes the same way.
    while (inflate.read() !== null);
    return Buffer.concat(this.#parts);
  }

  close(): void {
    this.#inflate?.destroy();
  }

  #open(): Inflate {
    const inflate = createInflate({ dictionary });
    inflate.on('data', (part: Buffer) => {
      this.#parts.push(part);
      this.#size += part.length;
      if (this.#size <= limits.spdyHeadersBytes) return;
      this.#fail?.(new RuntimeError('InvalidArgument', `headers of more than ${limits.spdyHeadersBytes} bytes`));
      inflate.destroy();
    });
    inflate.on('error', (error) => this.#fail?.(error));
    inflate.on('close', () => this.#fail?.(hungUp()));
    inflate.on('end', () =>
      this.#fail?.(new RuntimeError('InvalidArgument', 'this is no SPDY/3.1: the header compression ended')),
    );
    return inflate;
  }
}

/**
 * Waits until the client has opened every stream that it asked for. @throws InvalidArgument, DeadlineExceeded,
 * Cancelled; the wire is closed then.
 */
export async function openSpdyStdio(wire: Wire, wanted: Wanted, protocol: string): Promise<StdioClient> {
  const names = ['error', ...(['stdin', 'stdout', 'stderr'] as const).filter((name) => wanted[name])];
  if (wanted.tty && (protocol.startsWith('v3') || protocol.startsWith('v4'))) names.push('resize');
  const streams = new Map<string, SpdyStream>();
  const { promise: complete, resolve } = Promise.withResolvers<'complete'>();
  const session = new SpdySession(wire, (stream) => {
    const name = stream.headers.get('streamtype') ?? '';
    if (!names.includes(name) || streams.has(name)) {
      stream.reset(RESET.refusedStream);
      return;
    }
    streams.set(name, stream);
    if (name !== 'stdin' && name !== 'resize') stream.input.drop();
    if (streams.size === names.length) resolve('complete');
  });
  const over = session.run();
  const first = await within(limits.streamCreationMs, Promise.race([complete, over]));
  if (first !== 'complete') {
    await session.finish();
    if (first instanceof RuntimeError) throw first;
    throw first === 'late'
      ? new RuntimeError(
          'DeadlineExceeded',
          `the client opened only ${quote([...streams.keys()].join(' '))} of ${names.join(' ')} within ` +
            `${limits.streamCreationMs} ms`,
        )
      : hungUp();
  }
  const sink = (name: string): ((data: Uint8Array) => Promise<void>) | null => {
    const stream = streams.get(name);
    return stream === undefined ? null : (data) => stream.write(data);
  };
  return {
    gone: session.gone,
    stdin: streams.get('stdin')?.input ?? null,
    stdout: sink('stdout'),
    stderr: sink('stderr'),
    sizes: streams.get('resize')?.input ?? null,
    finish: async (ending: Ending) => {
      const message = endingMessage(ending, protocol.startsWith('v4') ? 'status' : 'text');
      const farewell = async (): Promise<void> => {
        await Promise.all([streams.get('stdout')?.end(), streams.get('stderr')?.end()]);
        if (message.length > 0)
          await streams
            .get('error')
            ?.write(message)
            .catch(() => {});
        await streams.get('error')?.end();
      };
      if ((await within(limits.streamFlushMs, farewell())) === 'late') wire.destroy();
      await session.finish();
    },
  };
}

/** A client that forwards ports by pairs of streams. */
export function openSpdyPorts(wire: Wire): PortsClient {
  const pairs = new StreamPairs();
  const session = new SpdySession(wire, (stream) => pairs.add(stream));
  return {
    gone: session.gone,
    serve: async (handle) => {
      const handled = new Set<Promise<void>>();
      pairs.onPair = (forward) => {
        const work = handle(forward).finally(() => handled.delete(work));
        handled.add(work);
      };
      const wrong = await session.run();
      pairs.close();
      await Promise.all(handled);
      if (wrong !== undefined) throw new RuntimeError('InvalidArgument', explain(wrong));
    },
    finish: () => session.finish(),
  };
}

/** A pair whose other half does not come is given up. */
class StreamPairs {
  readonly #halves = new Map<string, { readonly stream: SpdyStream; readonly timer: NodeJS.Timeout }>();
  onPair: (forward: Forward) => void = () => {};

  add(stream: SpdyStream): void {
    const type = stream.headers.get('streamtype');
    const digits = stream.headers.get('port') ?? '';
    const port = /^[0-9]{1,5}$/.test(digits) ? Number(digits) : 0;
    if ((type !== 'data' && type !== 'error') || port < 1 || port > 65_535) {
      stream.reset(RESET.protocolError);
      return;
    }
    // The oldest clients number no requests; they open the error stream first, then the data stream.
    const request = stream.headers.get('requestid') ?? String(type === 'error' ? stream.id : stream.id - 2);
    const [mine, others] = [`${type} ${request}`, `${type === 'data' ? 'error' : 'data'} ${request}`];
    const half = this.#halves.get(others);
    if (half === undefined) this.#wait(mine, stream);
    else {
      this.#drop(others);
      this.onPair(type === 'data' ? forwardOf(port, stream, half.stream) : forwardOf(port, half.stream, stream));
    }
  }

  close(): void {
    for (const key of this.#halves.keys()) this.#drop(key);
  }

  #wait(key: string, stream: SpdyStream): void {
    if (this.#halves.has(key)) {
      stream.reset(RESET.protocolError);
      return;
    }
    const timer = setTimeout(() => {
      this.#drop(key);
      stream.reset(RESET.cancel);
    }, limits.streamCreationMs);
    this.#halves.set(key, { stream, timer });
    stream.gone.addEventListener('abort', () => this.#drop(key), { once: true });
  }

  #drop(key: string): void {
    clearTimeout(this.#halves.get(key)?.timer);
    this.#halves.delete(key);
  }
}

function forwardOf(port: number, data: SpdyStream, error: SpdyStream): Forward {
  error.input.drop();
  return {
    port,
    input: data.input,
    output: (bytes) => data.write(bytes),
    endOutput: () => data.end(),
    gone: data.gone,
    finish: async (failure) => {
      data.input.drop();
      await data.end();
      if (failure !== undefined) await error.write(Buffer.from(failure)).catch(() => {});
      await error.end();
      // A client that leaves its direction open must not run out of streams.
      for (const stream of [data, error]) stream.release();
    },
  };
}

/**
 * A client of D-Bus that talks to a peer directly, without a bus between: as systemd listens for root at
 * /run/systemd/private. Peers send every signal of theirs unasked, so a connection is closed when nobody needs it.
 */
import { connect, type Socket } from 'node:net';
import { RuntimeError } from '../base/errors.ts';
import type { UnitValue as Value } from '../ports/kernel.ts';
import { decode, encode, type Message } from './dbus-wire.ts';

/** A method to call. */
export interface Call {
  readonly path: string;
  readonly interface: string;
  readonly member: string;
  readonly signature: string;
  readonly body: readonly Value[];
}

/** A peer refused a call; `errorName` is its word for why (`org.freedesktop.systemd1.NoSuchUnit`). */
export class RefusedCall extends Error {
  readonly errorName: string;

  constructor(errorName: string, text: string) {
    super(text);
    this.errorName = errorName;
  }
}

interface Waiting {
  readonly resolve: (message: Message) => void;
  readonly reject: (cause: unknown) => void;
}

/** An open connection. Everything that waits fails when it closes. */
export class PeerConnection {
  readonly #socket: Socket;
  readonly #calls = new Map<number, Waiting>();
  readonly #listeners = new Set<(signal: Message) => void>();
  readonly #ready: Promise<void>;
  /** Rejects when the connection ends. */
  readonly lost: Promise<never>;
  #serial = 0;
  #buffered: Buffer = Buffer.alloc(0);
  #state: 'authenticating' | 'open' | 'closed' = 'authenticating';
  #onOpen: Waiting | undefined;
  #onLost: (cause: unknown) => void = () => {};

  constructor(path: string) {
    this.#socket = connect(path);
    this.#socket.unref();
    this.#ready = new Promise((resolve, reject) => {
      this.#onOpen = { resolve: () => resolve(), reject };
    });
    this.lost = new Promise((_, reject) => {
      this.#onLost = reject;
    });
    for (const each of [this.#ready, this.lost]) each.catch(() => {}); // Whoever calls hears of it.
    this.#socket.on('connect', () => {
      const uid = Buffer.from(String(process.getuid?.() ?? 0)).toString('hex');
      this.#socket.write(`\0AUTH EXTERNAL ${uid}\r\nBEGIN\r\n`);
    });
    this.#socket.on('data', (bytes) => this.#received(bytes));
    this.#socket.on('error', (cause) => this.#fail(unreachable(path, cause)));
    this.#socket.on('close', () => this.#fail(unreachable(path, undefined)));
  }

  get isOpen(): boolean {
    return this.#state !== 'closed';
  }

  /** The body of the answer. @throws RefusedCall; Unavailable when the peer is not there, or goes. */
  async call(request: Call): Promise<readonly Value[]> {
    await this.#ready;
    const serial = ++this.#serial;
    const { promise, resolve, reject } = Promise.withResolvers<Message>();
    this.#calls.set(serial, { resolve, reject });
    this.#socket.write(encode({ kind: 'call', serial, ...request }));
    const answer = await promise;
    if (answer.kind === 'error')
      throw new RefusedCall(answer.errorName ?? '', typeof answer.body[0] === 'string' ? answer.body[0] : '');
    return answer.body;
  }

  /** Calls `listener` with every signal until the returned function is called. */
  listen(listener: (signal: Message) => void): () => void {
    this.#listeners.add(listener);
    return () => void this.#listeners.delete(listener);
  }

  /** Fails what waits; may be called again. */
  close(): void {
    this.#socket.destroy();
    this.#fail(new RuntimeError('Unavailable', 'the connection was closed'));
  }

  #received(bytes: Buffer): void {
    this.#buffered = this.#buffered.length === 0 ? bytes : Buffer.concat([this.#buffered, bytes]);
    try {
      if (this.#state === 'authenticating') this.#authenticated();
      if (this.#state !== 'open') return;
      for (;;) {
        const next = decode(this.#buffered);
        if (next === undefined) break;
        this.#buffered = this.#buffered.subarray(next.length);
        this.#heard(next.message);
      }
    } catch (cause) {
      this.#socket.destroy();
      this.#fail(new RuntimeError('Internal', 'the peer does not speak D-Bus', { cause }));
    }
  }

  /** The answer to AUTH is a line; after it everything is messages. */
  #authenticated(): void {
    const end = this.#buffered.indexOf('\r\n');
    if (end < 0) return;
    const line = this.#buffered.toString('latin1', 0, end);
    if (!line.startsWith('OK ')) throw new TypeError(`it answered ${JSON.stringify(line.slice(0, 100))}`);
    this.#buffered = this.#buffered.subarray(end + 2);
    this.#state = 'open';
    this.#onOpen?.resolve({ kind: 'reply', serial: 0, signature: '', body: [] });
  }

  #heard(message: Message): void {
    if (message.kind === 'signal') for (const listener of this.#listeners) listener(message);
    const waiting = message.replyTo === undefined ? undefined : this.#calls.get(message.replyTo);
    if (waiting === undefined) return;
    this.#calls.delete(message.replyTo ?? 0);
    waiting.resolve(message);
  }

  #fail(cause: RuntimeError): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#onOpen?.reject(cause);
    this.#onLost(cause);
    for (const { reject } of this.#calls.values()) reject(cause);
    this.#calls.clear();
  }
}

function unreachable(path: string, cause: unknown): RuntimeError {
  return new RuntimeError('Unavailable', `nobody answers at ${path}`, { cause });
}

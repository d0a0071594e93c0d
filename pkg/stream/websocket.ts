/**
 * WebSocket, the server's side: Kubernetes' channels (the first byte of a message says which), and SPDY in a tunnel.
 *
 *   exec, attach   0 stdin   1 stdout   2 stderr   3 how it ended   4 terminal size   255 in v5: [255, n] ends
 *                  channel n
 *   port-forward   2i data and 2i+1 failure of the i-th port; the first message on each is the port's number
 */
import type { IncomingMessage } from 'node:http';
import type { Duplex } from 'node:stream';
import { type WebSocket, WebSocketServer } from 'ws';
import { limits } from '../base/limits.ts';
import { pause } from '../base/time.ts';
import type { Forward, PortsClient, StdioClient, Wanted } from './client.ts';
import { endingMessage } from './ending.ts';
import { Inbox } from './inbox.ts';
import { Pace } from './pace.ts';
import { endSocket, goneSignal, heartbeat, hungUp, type Wire } from './wire.ts';

const CHANNEL = { stdin: 0, stdout: 1, stderr: 2, error: 3, resize: 4, close: 255 } as const;
/** '' is a client that names none. */
export const WEBSOCKET_STDIO_PROTOCOLS: readonly string[] = [
  'v5.channel.k8s.io',
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  'channel.k8s.io',
  'base64.channel.k8s.io',
  '',
];
export const TUNNEL_PROTOCOL = 'SPDY/3.1+portforward.k8s.io';
export const WEBSOCKET_PORTS_PROTOCOLS: readonly string[] = [
  TUNNEL_PROTOCOL,
  'v4.channel.k8s.io',
  'v4.base64.channel.k8s.io',
  '',
];
/** Two channels for each port, numbered by one byte. */
export const WEBSOCKET_PORTS_MAX = 127;

const endpointOptions = {
  noServer: true,
  clientTracking: false,
  perMessageDeflate: false,
  autoPong: false,
  maxPayload: limits.webSocketMessageBytes,
  closeTimeout: limits.streamFlushMs + limits.streamLingerMs,
};
const endpoint = new WebSocketServer(endpointOptions);
/** What was chosen for each request. Kept from the library, which refuses the tunnel's name for its slash. */
const chosen = new WeakMap<IncomingMessage, string>();
endpoint.on('headers', (headers, request) => {
  const protocol = chosen.get(request) ?? '';
  if (protocol !== '') headers.push(`Sec-WebSocket-Protocol: ${protocol}`);
});

/** A WebSocket with its socket, on which the kernel's back-pressure shows. */
export class WebSocketWire implements Wire {
  readonly gone: AbortSignal;
  readonly #ws: WebSocket;
  readonly #socket: Duplex;
  /** Messages one after the other: those that came before a pause took effect wait here. */
  #taking: Promise<void> = Promise.resolve();
  /** Reasons not to read; it begins with one, until somebody listens to messages: the first may be here already. */
  #holds = 1;
  readonly #pace: Pace;
  readonly #inbox = new Inbox();

  constructor(ws: WebSocket, socket: Duplex, pace = new Pace()) {
    this.#ws = ws;
    this.#socket = socket;
    this.#pace = pace;
    ws.pause();
    this.gone = goneSignal(socket);
    ws.on('error', () => {}); // It closes by itself, with the code that fits.
    ws.on('ping', (data: Buffer) => {
      this.#pong(data);
      void this.#slow(data.length);
    });
    ws.on('pong', (data: Buffer) => void this.#slow(data.length));
    ws.once('close', () => this.#inbox.end());
    // Unasked for, which RFC 6455 allows: it also keeps clients alive whose pings we do not read while their input is
    // held.
    heartbeat(this.gone, () => this.#pong(Buffer.alloc(0)));
  }

  /** Messages as bytes, for what does not look at where they end. */
  get input(): AsyncIterable<Uint8Array> {
    this.onMessage((message) => this.#inbox.push(message));
    return this.#inbox;
  }

  /** Calls `take` with every message, one after the other; nothing is read from the connection while it works. */
  onMessage(take: (message: Buffer) => Promise<void>): void {
    this.#ws.on('message', (message: Buffer) => {
      this.#hold();
      this.#taking = this.#taking
        .then(() => take(message))
        .then(() => this.#slow(message.length))
        .finally(() => this.#release());
    });
    this.#release();
  }

  #hold(): void {
    this.#holds += 1;
    if (this.#holds === 1) this.#ws.pause();
  }

  #release(): void {
    this.#holds -= 1;
    if (this.#holds === 0) this.#ws.resume();
  }

  /** Does not read on for a while if the client is too fast. */
  async #slow(bytes: number): Promise<void> {
    const waitMs = this.#pace.take(bytes);
    if (waitMs === 0) return;
    this.#hold();
    await pause(waitMs, this.gone);
    this.#release();
  }

  write(...parts: readonly Uint8Array[]): Promise<void> {
    return this.send(parts.length === 1 && parts[0] !== undefined ? parts[0] : Buffer.concat(parts));
  }

  /** One message: binary for bytes, text for text. */
  send(message: Uint8Array | string): Promise<void> {
    return new Promise((resolve, reject) => {
      const onGone = (): void => reject(hungUp());
      if (this.gone.aborted) return onGone();
      this.gone.addEventListener('abort', onGone, { once: true });
      this.#ws.send(message, { binary: typeof message !== 'string' }, (error) => {
        this.gone.removeEventListener('abort', onGone);
        if (error === undefined || error === null) resolve();
        else reject(hungUp(error));
      });
    });
  }

  async end(): Promise<void> {
    await endSocket(this.#socket, this.gone, () => this.#ws.close(1000));
  }

  destroy(): void {
    this.#ws.terminate();
  }

  /** Answers a ping, unless the client reads nothing: then nobody waits for it. */
  #pong(data: Buffer): void {
    if (this.#ws.readyState === this.#ws.OPEN && this.#socket.writableLength < limits.streamControlBytes)
      this.#ws.pong(data);
  }
}

/**
 * Upgrades to a WebSocket with `protocol` ('' for none). Resolves with null when the request is none, which is answered
 * then.
 */
export function upgradeToWebSocket(
  request: IncomingMessage,
  socket: Duplex,
  head: Buffer,
  protocol: string,
): Promise<WebSocketWire | null> {
  delete request.headers['sec-websocket-protocol'];
  chosen.set(request, protocol);
  return new Promise((resolve) => {
    const refused = (): void => resolve(null);
    socket.once('close', refused);
    endpoint.handleUpgrade(request, socket, head, (ws) => {
      socket.off('close', refused);
      resolve(new WebSocketWire(ws, socket));
    });
  });
}

/** Channels over a WebSocket. */
class Channels {
  readonly #wire: WebSocketWire;
  readonly #isText: boolean;
  readonly #inputs: ReadonlyMap<number, Inbox>;
  readonly #hasClose: boolean;

  constructor(wire: WebSocketWire, protocol: string, inputs: ReadonlyMap<number, Inbox>) {
    this.#wire = wire;
    this.#isText = protocol.includes('base64');
    this.#hasClose = protocol.startsWith('v5');
    this.#inputs = inputs;
    wire.onMessage((message) => this.#take(message));
    wire.gone.addEventListener('abort', () => this.drop(), { once: true });
    if (wire.gone.aborted) this.drop();
  }

  async send(channel: number, data: Uint8Array): Promise<void> {
    if (this.#isText)
      await this.#wire.send(
        String.fromCharCode(0x30 + channel) +
          Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
      );
    else await this.#wire.send(Buffer.concat([Buffer.of(channel), data]));
  }

  /** Nobody takes input any more. */
  drop(): void {
    for (const inbox of this.#inputs.values()) inbox.drop();
  }

  async #take(message: Buffer): Promise<void> {
    const [first, second] = message;
    if (first === undefined) return;
    if (this.#hasClose && first === CHANNEL.close) {
      if (second !== undefined) this.#inputs.get(second)?.end();
      return;
    }
    const inbox = this.#inputs.get(this.#isText ? first - 0x30 : first);
    const content = message.subarray(1);
    await inbox?.push(this.#isText ? Buffer.from(content.toString('latin1'), 'base64') : content);
  }
}

/** A client of exec or attach. Without v5 its stdin ends only with the connection. */
export function openWebSocketStdio(wire: WebSocketWire, wanted: Wanted, protocol: string): StdioClient {
  const inputs = new Map<number, Inbox>();
  if (wanted.stdin) inputs.set(CHANNEL.stdin, new Inbox());
  if (wanted.tty) inputs.set(CHANNEL.resize, new Inbox());
  const channels = new Channels(wire, protocol, inputs);
  const sink =
    (channel: number) =>
    (data: Uint8Array): Promise<void> =>
      channels.send(channel, data);
  // The first message says that the connection stands; clients wait for it.
  channels
    .send(wanted.stdout ? CHANNEL.stdout : wanted.stderr ? CHANNEL.stderr : CHANNEL.error, new Uint8Array())
    .catch(() => {});
  return {
    gone: wire.gone,
    stdin: inputs.get(CHANNEL.stdin) ?? null,
    stdout: wanted.stdout ? sink(CHANNEL.stdout) : null,
    stderr: wanted.stderr ? sink(CHANNEL.stderr) : null,
    sizes: inputs.get(CHANNEL.resize) ?? null,
    finish: async (ending) => {
      channels.drop();
      const message = endingMessage(ending, /^v[45]/.test(protocol) ? 'status' : 'text');
      // Not waited for: it is in order before the goodbye, and `end` has a bound.
      if (message.length > 0) void channels.send(CHANNEL.error, message).catch(() => {});
      await wire.end();
    },
  };
}

/** A client that forwards `ports`, one connection each, from the start. */
export function openWebSocketPorts(wire: WebSocketWire, ports: readonly number[], protocol: string): PortsClient {
  const inputs = ports.map(() => new Inbox());
  const channels = new Channels(wire, protocol, new Map(inputs.map((inbox, i) => [2 * i, inbox])));
  const forward = async (port: number, i: number, handle: (forward: Forward) => Promise<void>): Promise<void> => {
    const number = Buffer.alloc(2);
    number.writeUInt16LE(port);
    for (const channel of [2 * i, 2 * i + 1]) await channels.send(channel, number).catch(() => {});
    const input = inputs[i] ?? new Inbox();
    await handle({
      port,
      input,
      output: (data) => channels.send(2 * i, data),
      endOutput: null,
      gone: wire.gone,
      finish: async (failure) => {
        input.drop();
        if (failure !== undefined) await channels.send(2 * i + 1, Buffer.from(failure)).catch(() => {});
      },
    });
  };
  return {
    gone: wire.gone,
    serve: async (handle) => void (await Promise.all(ports.map((port, i) => forward(port, i, handle)))),
    finish: async () => {
      channels.drop();
      await wire.end();
    },
  };
}

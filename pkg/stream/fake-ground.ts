/** For tests: a stream server over a fake pod, and clients of all kinds. */
import { assert } from 'chai';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import type { Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { WebSocket } from 'ws';
import { StreamServer, type StreamServerOptions } from './server.ts';
import { SpdyClient, type SpdyClientStream } from './fake-client.ts';
import type { ExecGrant } from './client.ts';
import { CONTAINER, FakePod, Lines } from './fake-pod.ts';

export async function until(condition: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + 5_000; !condition(); ) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

export const STREAMS: Omit<ExecGrant, 'cmd'> = {
  containerId: CONTAINER,
  stdin: true,
  stdout: true,
  stderr: true,
  tty: false,
};

/**
 * The client's end of a tunnel: every write a masked binary message (RFC 6455, 5.2). The library cannot do it: the
 * tunnel's name is no token to it.
 */
export function tunnel(socket: Socket): Duplex {
  let partial: Buffer = Buffer.alloc(0);
  const bytes = new Duplex({
    read() {},
    write(data: Buffer, _encoding, done) {
      const header = Buffer.from([0x82, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
      header.writeUInt32BE(data.length, 6);
      socket.write(Buffer.concat([header, data]), () => done());
    },
    destroy(error, done) {
      socket.destroy();
      done(error);
    },
  });
  socket.on('data', (chunk: Buffer) => {
    partial = Buffer.concat([partial, chunk]);
    while (partial.length >= 2) {
      const short = partial.readUInt8(1);
      const [start, length] = short < 126 ? [2, short] : [4, partial.readUInt16BE(2)];
      if (partial.length < start + length) return;
      if (partial.readUInt8(0) === 0x82) bytes.push(Buffer.from(partial.subarray(start, start + length)));
      partial = partial.subarray(start + length);
    }
  });
  socket.on('close', () => bytes.destroy());
  return bytes;
}

/** A stream server of one's own for each test of a suite, over a pod that must be empty afterwards. */
export class StreamGround {
  pod = new FakePod();
  log = new Lines();
  #server: StreamServer | undefined;

  get server(): StreamServer {
    return this.#server as StreamServer;
  }

  /** Another server, with other options. */
  readonly listen = async (options: Partial<StreamServerOptions> = {}): Promise<void> => {
    this.#server = await StreamServer.listen({
      backend: this.pod,
      log: this.log,
      address: '127.0.0.1',
      port: 0,
      idleTimeoutMs: 0,
      ...options,
    });
  };

  readonly exec = (...cmd: string[]): Promise<string> => this.server.urlForExec({ ...STREAMS, cmd });

  async begin(): Promise<void> {
    this.pod = new FakePod();
    this.log = new Lines();
    await this.listen();
  }

  async end(): Promise<void> {
    await this.server.close();
    assert.deepEqual([...this.pod.running], [], 'left behind in the pod');
    assert.strictEqual(this.server.sessionsCount, 0);
    assert.deepEqual(
      this.log.lines.filter((line) => line.message.includes('bug')),
      [],
    );
  }
}

/** The ground of the suite that calls this. */
export function streamGround(): StreamGround {
  const ground = new StreamGround();
  beforeEach(() => ground.begin());
  afterEach(() => ground.end());
  return ground;
}

/** What a plain or upgrading request is answered with. */
export function ask(
  url: string,
  options: RequestOptions = {},
): Promise<{ status: number; headers: IncomingMessage['headers']; socket?: Socket; head?: Buffer }> {
  return new Promise((resolve, reject) => {
    const request = httpRequest(url, { method: 'POST', agent: false, ...options });
    request.on('error', reject);
    request.on('response', (response) => {
      response.resume();
      response.on('end', () => resolve({ status: response.statusCode ?? 0, headers: response.headers }));
    });
    request.on('upgrade', (response, socket, head) =>
      resolve({ status: response.statusCode ?? 0, headers: response.headers, socket: socket as Socket, head }),
    );
    request.end();
  });
}

/** What asks for an upgrade to SPDY. */
export const SPDY = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' };

export async function spdy(url: string, protocol = 'v4.channel.k8s.io'): Promise<SpdyClient> {
  const answer = await ask(url, { headers: { ...SPDY, 'X-Stream-Protocol-Version': protocol } });
  assert.strictEqual(answer.status, 101);
  assert.strictEqual(answer.headers['x-stream-protocol-version'], protocol);
  if (answer.socket === undefined) throw new Error('no socket');
  return new SpdyClient(answer.socket, answer.head);
}

export interface Stdio {
  readonly client: SpdyClient;
  readonly error: SpdyClientStream;
  readonly stdin: SpdyClientStream;
  readonly stdout: SpdyClientStream;
  readonly stderr: SpdyClientStream;
}
export async function stdio(url: string, protocol?: string): Promise<Stdio> {
  const client = await spdy(url, protocol);
  const open = (streamType: string): Promise<SpdyClientStream> => client.open({ streamType });
  return {
    client,
    error: await open('error'),
    stdin: await open('stdin'),
    stdout: await open('stdout'),
    stderr: await open('stderr'),
  };
}

export interface Channels {
  readonly ws: WebSocket;
  /** Bytes by channel. */
  readonly got: Map<number, Buffer>;
  readonly closed: Promise<number>;
  readonly text: (channel: number) => string;
}
export function channels(url: string, protocol: string | undefined): Channels {
  const ws =
    protocol === undefined
      ? new WebSocket(url.replace('http', 'ws'))
      : new WebSocket(url.replace('http', 'ws'), protocol);
  const got = new Map<number, Buffer>();
  const isText = protocol?.includes('base64') === true;
  ws.on('message', (message: Buffer) => {
    const channel = isText ? (message[0] ?? 0) - 0x30 : (message[0] ?? 0);
    const content = isText ? Buffer.from(message.subarray(1).toString(), 'base64') : message.subarray(1);
    got.set(channel, Buffer.concat([got.get(channel) ?? Buffer.alloc(0), content]));
  });
  ws.on('error', () => {});
  return {
    ws,
    got,
    closed: new Promise((resolve) => ws.once('close', resolve)),
    text: (channel) => got.get(channel)?.toString() ?? '',
  };
}
/** Resolves when the WebSocket is open. */
export const opened = (ws: WebSocket): Promise<void> =>
  new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject));

import { assert } from 'chai';
import { createHash } from 'node:crypto';
import { request as httpRequest, type IncomingMessage, type RequestOptions } from 'node:http';
import { connect, type Socket } from 'node:net';
import { Duplex } from 'node:stream';
import { mock } from 'node:test';
import { WebSocket } from 'ws';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, type LogFields, type Logger, type Op } from '../base/op.ts';
import { Inbox } from './inbox.ts';
import { StreamServer, type StreamServerOptions } from './server.ts';
import { SpdyClient, type SpdyClientStream } from './fake-client.ts';
import type { Connection, ExecStdio, TerminalSize } from '../ports/runtime.ts';
import type { StreamBackend } from '../ports/stream.ts';
import type { ExecGrant } from './client.ts';

const CONTAINER = 'c'.repeat(64) as ContainerId;
const POD = 'd'.repeat(64) as SandboxId;

/** A pod as a program: runs a few words as commands, echoes on port 7, says hello and goes on port 13. */
class FakePod implements StreamBackend {
  /** What runs now: empty when nothing is left behind. */
  readonly running = new Set<string>();
  readonly sizes: TerminalSize[] = [];
  wrote = 0;
  /** The container's own stdio. */
  readonly console = { output: new Inbox(), input: '', inputClosed: false, tty: false };

  async exec(op: Op, _id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<{ exitCode: number }> {
    const name = argv.join(' ');
    op.stage(`exec ${argv[0] ?? ''}`);
    this.running.add(name);
    try {
      const aborted = new Promise<never>((_, reject) =>
        op.signal.addEventListener('abort', () => reject(abortError(op, `exec ${name}`)), { once: true }),
      );
      aborted.catch(() => {});
      return { exitCode: await Promise.race([this.#program(argv, stdio), aborted]) };
    } finally {
      this.running.delete(name);
    }
  }

  async #program([program = '', argument = '']: readonly string[], stdio: ExecStdio): Promise<number> {
    switch (program) {
      case 'cat':
        for await (const data of stdio.stdin ?? []) await stdio.stdout?.(data);
        return 0;
      case 'sum': {
        const hash = createHash('sha256');
        for await (const data of stdio.stdin ?? []) hash.update(data);
        await stdio.stdout?.(Buffer.from(hash.digest('hex')));
        return 0;
      }
      case 'both':
        await stdio.stdout?.(Buffer.from('out'));
        await stdio.stderr?.(Buffer.from('err'));
        return 0;
      case 'exit':
        return Number(argument);
      case 'yes':
        for (const chunk = Buffer.alloc(65_536, 'y'); ; this.wrote += chunk.length) await stdio.stdout?.(chunk);
      case 'sleep':
        return await new Promise<never>(() => {});
      case 'sizes':
        stdio.onTerminal?.((size) => this.sizes.push(size));
        for await (const _ of stdio.stdin ?? []);
        return 0;
      case 'broken':
        throw new RuntimeError('Internal', 'the runtime is broken');
      default:
        throw new RuntimeError('InvalidArgument', `exec: ${JSON.stringify(program)}: no such file or directory`, {
          exitCode: 127,
        });
    }
  }

  attach(): ReturnType<StreamBackend['attach']> {
    this.running.add('attach');
    const { console, running } = this;
    const inbox = (console.output = new Inbox());
    const output = (async function* () {
      for await (const data of inbox) yield { stream: 'stdout' as const, data };
    })();
    return Promise.resolve({
      output,
      write: (data: Uint8Array) => {
        console.input += Buffer.from(data).toString();
        return Promise.resolve();
      },
      closeInput: () => {
        console.inputClosed = true;
      },
      close: () => {
        running.delete('attach');
        inbox.end();
      },
      tty: console.tty,
      resize: async (size: TerminalSize) => void this.sizes.push(size),
    });
  }

  async portForward(_op: Op, _id: SandboxId, port: number): Promise<Connection> {
    if (port !== 7 && port !== 13) throw new RuntimeError('Unavailable', `nothing answers on port ${port}`);
    const inbox = new Inbox();
    const key = `connection ${port} ${Math.random()}`;
    this.running.add(key);
    if (port === 13) {
      await inbox.push(Buffer.from('hello'));
      inbox.end();
    }
    return {
      [Symbol.asyncIterator]: () => inbox[Symbol.asyncIterator](),
      write: (data) => inbox.push(data),
      endWrite: () => Promise.resolve(inbox.end()),
      close: () => {
        this.running.delete(key);
        inbox.end();
      },
    };
  }
}

class Lines implements Logger {
  readonly lines: { readonly message: string; readonly fields: LogFields }[];
  readonly #bound: LogFields;
  constructor(lines: { message: string; fields: LogFields }[] = [], bound: LogFields = {}) {
    this.lines = lines;
    this.#bound = bound;
  }
  #add(message: string, fields: LogFields = {}): void {
    this.lines.push({ message, fields: { ...this.#bound, ...fields } });
  }
  debug = (message: string, fields?: LogFields): void => this.#add(message, fields);
  info = (message: string, fields?: LogFields): void => this.#add(message, fields);
  warn = (message: string, fields?: LogFields): void => this.#add(message, fields);
  error = (message: string, fields?: LogFields): void => this.#add(message, fields);
  child = (fields: LogFields): Logger => new Lines(this.lines, { ...this.#bound, ...fields });
}

async function until(condition: () => boolean, what: string): Promise<void> {
  for (const end = performance.now() + 5_000; !condition(); ) {
    if (performance.now() > end) throw new Error(`waited in vain for ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

const STREAMS: Omit<ExecGrant, 'cmd'> = { containerId: CONTAINER, stdin: true, stdout: true, stderr: true, tty: false };

/**
 * The client's end of a tunnel: every write a masked binary message (RFC 6455, 5.2). The library cannot do it: the
 * tunnel's name is no token to it.
 */
function tunnel(socket: Socket): Duplex {
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

describe('the stream server', () => {
  let pod: FakePod;
  let log: Lines;
  let server: StreamServer;

  async function listen(options: Partial<StreamServerOptions> = {}): Promise<void> {
    server = await StreamServer.listen({
      backend: pod,
      log,
      address: '127.0.0.1',
      port: 0,
      idleTimeoutMs: 0,
      ...options,
    });
  }
  beforeEach(async () => {
    pod = new FakePod();
    log = new Lines();
    await listen();
  });
  afterEach(async () => {
    await server.close();
    assert.deepEqual([...pod.running], [], 'left behind in the pod');
    assert.strictEqual(server.sessionsCount, 0);
    assert.deepEqual(
      log.lines.filter((line) => line.message.includes('bug')),
      [],
    );
  });

  const exec = (...cmd: string[]): Promise<string> => server.urlForExec({ ...STREAMS, cmd });

  /** What a plain or upgrading request is answered with. */
  function ask(
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

  const SPDY = { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': 'v4.channel.k8s.io' };

  async function spdy(url: string, protocol = 'v4.channel.k8s.io'): Promise<SpdyClient> {
    const answer = await ask(url, { headers: { ...SPDY, 'X-Stream-Protocol-Version': protocol } });
    assert.strictEqual(answer.status, 101);
    assert.strictEqual(answer.headers['x-stream-protocol-version'], protocol);
    if (answer.socket === undefined) throw new Error('no socket');
    return new SpdyClient(answer.socket, answer.head);
  }

  interface Stdio {
    readonly client: SpdyClient;
    readonly error: SpdyClientStream;
    readonly stdin: SpdyClientStream;
    readonly stdout: SpdyClientStream;
    readonly stderr: SpdyClientStream;
  }
  async function stdio(url: string, protocol?: string): Promise<Stdio> {
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

  interface Channels {
    readonly ws: WebSocket;
    /** Bytes by channel. */
    readonly got: Map<number, Buffer>;
    readonly closed: Promise<number>;
    readonly text: (channel: number) => string;
  }
  function channels(url: string, protocol: string | undefined): Channels {
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
  const opened = (ws: WebSocket): Promise<void> =>
    new Promise((resolve, reject) => ws.once('open', resolve).once('error', reject));

  describe('tokens', () => {
    it('are good once', async () => {
      const url = await exec('exit', '0');
      const { client, error } = await stdio(url);
      assert.deepEqual(JSON.parse(await error.all()), { metadata: {}, status: 'Success' });
      await client.closed;
      assert.strictEqual((await ask(url, { headers: SPDY })).status, 404);
    });

    it('are good for a minute', async () => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const [early, late] = [await exec('exit', '0'), await exec('exit', '0')];
        mock.timers.tick(limits.streamTokenMs - 1);
        const { socket, status } = await ask(early, { headers: SPDY });
        assert.strictEqual(status, 101);
        socket?.destroy();
        mock.timers.tick(1);
        assert.strictEqual((await ask(late, { headers: SPDY })).status, 404);
        // Their place is free again.
        for (let i = 0; i < limits.streamTokensCount; i++) await exec('sleep');
      } finally {
        mock.timers.reset();
      }
    });

    it('are good for their kind of session only, and used up by any request', async () => {
      const url = await exec('sleep');
      assert.strictEqual((await ask(url.replace('/exec/', '/attach/'), { headers: SPDY })).status, 404);
      assert.strictEqual((await ask(url, { headers: SPDY })).status, 404);
      const plain = await exec('sleep');
      assert.strictEqual((await ask(plain)).status, 400);
      assert.strictEqual((await ask(plain, { headers: SPDY })).status, 404);
    });

    it('are refused beyond the limit, with a code that the kubelet retries', async () => {
      for (let i = 0; i < limits.streamTokensCount; i++) await exec('sleep');
      const error = await exec('sleep').then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.strictEqual((error as RuntimeError).code, 'ResourceExhausted');
    });

    it('cannot be guessed by path', async () => {
      const url = await exec('sleep');
      const { origin } = new URL(url);
      const token = url.slice(url.lastIndexOf('/') + 1);
      assert.match(token, /^[A-Za-z0-9_-]{22}$/);
      for (const path of [
        '/',
        '/exec',
        '/exec/',
        `/exec/${'A'.repeat(22)}`,
        `/exec/${token}/`,
        `/exec/../exec/${token}`,
        `/exec/%2e%2e/${token}`,
        `//exec/${token}`,
        `/debug/${token}`,
        `/exec/${token}?x`,
      ]) {
        const answer = await new Promise<string>((resolve) => {
          const socket = connect(Number(new URL(url).port), '127.0.0.1');
          let text = '';
          socket.on('data', (data) => (text += data.toString())).on('close', () => resolve(text));
          socket.end(`POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n`);
        });
        assert.match(answer, /^HTTP\/1\.1 404 /, `${origin}${path}`);
      }
    });
  });

  describe('requests', () => {
    it('from browsers are refused, but not those that the kubelet hands on', async () => {
      const direct = await ask(await exec('exit', '0'), { headers: { ...SPDY, Origin: 'http://evil.example' } });
      assert.strictEqual(direct.status, 403);
      const proxied = await ask(await exec('exit', '0'), {
        headers: { ...SPDY, Origin: 'http://console.example', 'X-Forwarded-For': '10.0.0.1' },
      });
      assert.strictEqual(proxied.status, 101);
      proxied.socket?.destroy();
    });

    it('must not smuggle a body, have huge headers, or use other methods', async () => {
      assert.strictEqual(
        (await ask(await exec('sleep'), { headers: { ...SPDY, 'Content-Length': '5' } }).catch(() => ({ status: 400 })))
          .status,
        400,
      );
      assert.strictEqual(
        (await ask(await exec('sleep'), { headers: { ...SPDY, 'X-Long': 'x'.repeat(20_000) } })).status,
        431,
      );
      assert.strictEqual((await ask(await exec('sleep'), { method: 'PUT', headers: SPDY })).status, 405);
      assert.strictEqual((await ask(await exec('sleep'), { headers: { ...SPDY, Upgrade: 'h2c' } })).status, 400);
    });

    it('that have no protocol in common hear which there are', async () => {
      const answer = await ask(await exec('sleep'), {
        headers: { ...SPDY, 'X-Stream-Protocol-Version': 'v9.channel.k8s.io' },
      });
      assert.strictEqual(answer.status, 403);
      assert.include(answer.headers['x-accepted-stream-protocol-versions'], 'v4.channel.k8s.io');
    });
  });

  describe('exec over SPDY', () => {
    it('keeps stdout and stderr apart, and reports success', async () => {
      const { stdout, stderr, error, client } = await stdio(await exec('both'));
      assert.deepEqual([await stdout.all(), await stderr.all()], ['out', 'err']);
      assert.deepEqual(JSON.parse(await error.all()), { metadata: {}, status: 'Success' });
      assert.deepEqual(await Promise.all([stdout.ended, stderr.ended, error.ended]), ['fin', 'fin', 'fin']);
      await client.closed;
    });

    it('reports the exit code as kubectl reads it', async () => {
      const { error } = await stdio(await exec('exit', '42'));
      const status = JSON.parse(await error.all()) as { reason: string; details: object };
      assert.deepEqual(
        [status.reason, status.details],
        ['NonZeroExitCode', { causes: [{ reason: 'ExitCode', message: '42' }] }],
      );
    });

    it('names what cannot be run, on stderr and with an exit code as a shell does', async () => {
      const { error, stderr } = await stdio(await exec('/no/such/program'));
      assert.strictEqual(await stderr.all(), 'exec: "/no/such/program": no such file or directory\n');
      const status = JSON.parse(await error.all()) as { reason: string; message: string; details: object };
      assert.deepEqual(
        [status.reason, status.details],
        ['NonZeroExitCode', { causes: [{ reason: 'ExitCode', message: '127' }] }],
      );
      assert.include(status.message, '/no/such/program');
      const client = await spdy(
        await server.urlForExec({ ...STREAMS, stdin: false, stderr: false, tty: true, cmd: ['/no/such/program'] }),
      );
      const [, stdout] = [
        await client.open({ streamType: 'error' }),
        await client.open({ streamType: 'stdout' }),
        await client.open({ streamType: 'resize' }),
      ];
      assert.strictEqual(await stdout.all(), 'exec: "/no/such/program": no such file or directory\r\n');
    });

    it('tells a failure of ours from one of the command', async () => {
      const { error, stderr } = await stdio(await exec('broken'));
      const status = JSON.parse(await error.all()) as { reason: string; message: string; code: number };
      assert.deepEqual(
        [status.reason, status.code, status.message, await stderr.all()],
        ['InternalError', 500, 'the runtime is broken', ''],
      );
    });

    it('speaks text to clients older than v4', async () => {
      for (const protocol of ['channel.k8s.io', 'v2.channel.k8s.io', 'v3.channel.k8s.io']) {
        const failing = await stdio(await exec('exit', '3'), protocol);
        assert.strictEqual(await failing.error.all(), 'command terminated with non-zero exit code: exit status 3');
        const fine = await stdio(await exec('exit', '0'), protocol);
        assert.strictEqual(await fine.error.all(), '');
      }
    });

    it('delivers every byte of stdin before its end (containerd#13934)', async () => {
      const { stdin, stdout, client } = await stdio(await exec('sum'));
      const hash = createHash('sha256');
      for (let i = 0; i < 40; i++) {
        const part = Buffer.alloc(50_000 + i, i);
        hash.update(part);
        await stdin.write(part);
      }
      stdin.end();
      assert.strictEqual(await stdout.all(), hash.digest('hex'));
      await client.closed;
      assert.isTrue(
        client.seen.some((frame) => frame === `9:${stdin.id}`),
        'the window of the stream is opened',
      );
      assert.include(client.seen, '9:0', 'the window of the session is opened');
    });

    it('holds a process back whose client does not read, and kills it when the client leaves', async () => {
      const { client, stdout } = await stdio(await exec('yes'));
      await until(() => stdout.bytes > 1_000_000, 'output');
      client.pause();
      let before = -1;
      await until(() => {
        const still = pod.wrote === before;
        before = pod.wrote;
        return still;
      }, 'the process to be held');
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      assert.isBelow(pod.wrote - stdout.bytes, 32 * 1024 * 1024, 'no more is on its way than the kernel holds');
      client.close();
      await until(() => pod.running.size === 0, 'the process to be killed');
    });

    it('answers pings while the process does nothing', async () => {
      const { client } = await stdio(await exec('sleep'));
      for (let i = 0; i < 3; i++) await client.ping();
      client.close();
      await until(() => pod.running.size === 0, 'the end');
    });

    it('sets terminal sizes, of a flood only the last', async () => {
      const client = await spdy(await server.urlForExec({ ...STREAMS, stderr: false, tty: true, cmd: ['sizes'] }));
      const [error, stdin, , resize] = [
        await client.open({ streamType: 'error' }),
        await client.open({ streamType: 'stdin' }),
        await client.open({ streamType: 'stdout' }),
        await client.open({ streamType: 'resize' }),
      ];
      for (const size of [
        '{"Width":80,"Height":24}\n',
        'nonsense}',
        '{"Width":-1,"Height":1}',
        '{"Width":70000,"Height":1}',
        'x'.repeat(5_000),
      ])
        await resize.write(size);
      await until(() => pod.sizes.length > 0, 'the first size');
      await resize.write('}');
      await resize.write(Array.from({ length: 3_000 }, (_, i) => `{"Width":${i + 1},"Height":9}`).join(''));
      await until(() => pod.sizes.at(-1)?.width === 3_000, 'the last size');
      assert.deepEqual(pod.sizes[0], { width: 80, height: 24 });
      assert.isBelow(pod.sizes.length, 50);
      stdin.end();
      assert.include(await error.all(), 'Success');
    });

    it('refuses streams that were not asked for', async () => {
      const client = await spdy(
        await server.urlForExec({ ...STREAMS, stdin: false, stderr: false, cmd: ['exit', '0'] }),
      );
      assert.strictEqual(await (await client.open({ streamType: 'stdin' })).ended, 'reset');
      assert.strictEqual(await (await client.open({ streamType: 'whatever' })).ended, 'reset');
      const error = await client.open({ streamType: 'error' });
      assert.strictEqual(await (await client.open({ streamType: 'error' })).ended, 'reset');
      await client.open({ streamType: 'stdout' });
      assert.include(await error.all(), 'Success');
    });

    it('writes one audit line: who, where, what by hash, and how it ended', async () => {
      const { stdin, client } = await stdio(await exec('cat', 'secret'));
      await stdin.write('12345');
      stdin.end();
      await client.closed;
      const line = log.lines.find(({ message }) => message === 'exec ended');
      assert.match(String(line?.fields['peer']), /^127\.0\.0\.1:\d+$/);
      const { container, argvHash, exit, inBytes, outBytes } = line?.fields ?? {};
      assert.deepEqual(
        { container, argvHash, exit, inBytes, outBytes },
        {
          container: CONTAINER,
          argvHash: createHash('sha256').update('cat\0secret').digest('hex').slice(0, 16),
          exit: 0,
          inBytes: 5,
          outBytes: 5,
        },
      );
      assert.notInclude(JSON.stringify(log.lines), 'secret');
    });
  });

  it('lists its sessions with whom they serve and where they are', async () => {
    const started = (): string[] =>
      server
        .operations()
        .map(
          ({ rpc, ids, stage, clientGone }) =>
            `${rpc} ${ids['container']?.slice(0, 1)} ${ids['peer']?.split(':')[0]}: ` +
            `${stage}${clientGone ? ', gone' : ''}`,
        );
    const half = await spdy(await exec('cat'));
    await until(() => started().length === 1, 'the first session');
    assert.deepEqual(started(), ['exec session c 127.0.0.1: wait for the streams of the client']);
    half.close();
    const { client } = await stdio(await exec('cat', 'secret'));
    await until(() => pod.running.size === 1 && started().length === 1, 'the second session alone');
    assert.deepEqual(started(), ['exec session c 127.0.0.1: exec cat']);
    client.close();
    await until(() => started().length === 0, 'no session');
  });

  describe('clients that open half a session', () => {
    it('are given up when they have opened no streams for a while', async () => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const client = await spdy(await exec('cat'));
        const error = await client.open({ streamType: 'error' });
        await until(
          () => server.sessionsCount === 1 && client.seen.some((each) => each.startsWith('2:')),
          'the stream to be open',
        );
        mock.timers.tick(limits.streamCreationMs);
        assert.strictEqual(await error.ended, 'closed');
        await client.closed;
        await until(() => log.lines.some(({ message }) => message === 'exec refused'), 'the line');
        assert.match(
          String(log.lines.find(({ message }) => message === 'exec refused')?.fields['cause']),
          /opened only "error" of error stdin stdout stderr/,
        );
      } finally {
        mock.timers.reset();
      }
    });

    it('are gone when they close their half of the connection', async () => {
      const { client } = await stdio(await exec('sleep'));
      await until(() => pod.running.size === 1, 'the process');
      client.endConnection();
      await client.closed;
      await until(() => pod.running.size === 0 && server.sessionsCount === 0, 'the end');
    });
  });

  describe('exec over WebSocket', () => {
    for (const protocol of [
      'v5.channel.k8s.io',
      'v4.channel.k8s.io',
      'v4.base64.channel.k8s.io',
      'channel.k8s.io',
      'base64.channel.k8s.io',
      undefined,
    ]) {
      it(`carries streams apart and reports the end: ${protocol ?? 'no protocol named'}`, async () => {
        const hasStatus = /^v[45]/.test(protocol ?? '');
        const both = channels(await exec('both'), protocol);
        assert.strictEqual(await both.closed, 1000);
        assert.strictEqual(both.ws.protocol, protocol ?? '');
        assert.deepEqual([both.text(1), both.text(2)], ['out', 'err']);
        assert.strictEqual(both.text(3), hasStatus ? '{"metadata":{},"status":"Success"}' : '');
        const failing = channels(await exec('exit', '7'), protocol);
        await failing.closed;
        assert.include(failing.text(3), hasStatus ? '"causes":[{"reason":"ExitCode","message":"7"}]' : 'exit status 7');
      });
    }

    it('ends stdin by the close channel of v5, after all of it', async () => {
      const { ws, text, closed } = channels(await exec('sum'), 'v5.channel.k8s.io');
      await opened(ws);
      const hash = createHash('sha256');
      for (let i = 0; i < 40; i++) {
        const part = Buffer.alloc(50_000 + i, i);
        hash.update(part);
        ws.send(Buffer.concat([Buffer.of(0), part]));
      }
      ws.send(Buffer.of(255, 0));
      await closed;
      assert.strictEqual(text(1), hash.digest('hex'));
    });

    it('holds the client back when the process does not read, and keeps its pings answered', async () => {
      const { ws } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      await opened(ws);
      const chunk = Buffer.alloc(65_536);
      let sent = 0;
      const pump = (): void =>
        ws.send(chunk, (error) => {
          if (error !== undefined && error !== null) return;
          sent += chunk.length;
          pump();
        });
      pump();
      let before = -1;
      await until(() => {
        const still = sent === before && sent > 0;
        before = sent;
        return still;
      }, 'the client to be held');
      ws.terminate();
      // Nothing is read from the connection, so only the next beat shows that it is gone.
      await server.close();
      assert.strictEqual(pod.running.size, 0);
      await listen();
    });

    it('kills the process of a client that does not read and leaves', async () => {
      const { ws, got } = channels(await exec('yes'), 'v4.channel.k8s.io');
      await until(() => (got.get(1)?.length ?? 0) > 100_000, 'output');
      ws.pause();
      ws.terminate();
      await until(() => pod.running.size === 0, 'the process to be killed');
    });

    it('answers pings, and ends a session whose messages are too large or malformed', async () => {
      const { ws, closed } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      await opened(ws);
      const pong = new Promise((resolve) => ws.once('pong', resolve));
      ws.ping('are you there');
      assert.strictEqual(String(await pong), 'are you there');
      ws.send(Buffer.alloc(limits.webSocketMessageBytes + 1));
      assert.strictEqual(await closed, 1009);
      await until(() => pod.running.size === 0, 'the end');
    });
  });

  it('survives whatever arrives on a WebSocket: a session ends or goes on, and leaves nothing', async () => {
    let state = Number(process.env['SEED'] ?? 1);
    const random = (below: number): number =>
      ((state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff) >>> 8) % below;
    const headers = {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
    };
    for (let round = 0; round < 100; round++) {
      const protocol = ['v5.channel.k8s.io', 'v4.base64.channel.k8s.io'][round % 2] ?? '';
      const url = await server.urlForExec({
        ...STREAMS,
        tty: true,
        stderr: false,
        cmd: [round % 3 === 0 ? 'sizes' : 'cat'],
      });
      const { socket } = await ask(url, { method: 'GET', headers: { ...headers, 'Sec-WebSocket-Protocol': protocol } });
      if (socket === undefined) throw new Error('no socket');
      socket.on('error', () => {}).resume();
      const gone = new Promise((resolve) => socket.once('close', resolve));
      for (let i = 0; i < 20; i++) {
        const content = Buffer.from(
          Array.from({ length: random(40) }, () => (random(2) === 0 ? random(6) : random(256))),
        );
        // Mostly a well-formed frame with strange content, so that more than the library's checks is reached.
        const noise = random(10) === 0;
        const frame = Buffer.concat([
          Buffer.of(0x80 | (random(8) === 0 ? random(16) : 2), 0x80 | content.length, 0, 0, 0, 0),
          content,
        ]);
        socket.write(noise ? content : frame);
      }
      socket.end();
      await Promise.race([gone, until(() => server.sessionsCount === 0, 'the session to end')]);
      socket.destroy();
    }
    await until(() => server.sessionsCount === 0 && pod.running.size === 0, 'the sessions to end');
  });

  describe('attach', () => {
    const attach = (changes: object = {}): Promise<string> => server.urlForAttach({ ...STREAMS, ...changes });

    it('joins the client to the container until the container ends', async () => {
      const { client, stdin, stdout, error } = await stdio(await attach());
      await stdin.write('in');
      await until(() => pod.running.has('attach'), 'the session');
      await pod.console.output.push(Buffer.from('out'));
      await until(() => pod.console.input === 'in' && stdout.text === 'out', 'both directions');
      stdin.end();
      await until(() => pod.console.inputClosed, 'the half-close');
      pod.console.output.end();
      assert.include(await error.all(), 'Success');
      await client.closed;
    });

    it('is in the audit log, too', async () => {
      const { client, stdin, stdout } = await stdio(await attach());
      await stdin.write('12345');
      await until(() => pod.console.input === '12345', 'the input');
      await pod.console.output.push(Buffer.from('abc'));
      await until(() => stdout.text === 'abc', 'the output');
      client.close();
      await until(() => log.lines.some(({ message }) => message === 'attach ended'), 'the line');
      const { peer, container, inBytes, outBytes, cause } =
        log.lines.find(({ message }) => message === 'attach ended')?.fields ?? {};
      assert.deepEqual(
        { container, inBytes, outBytes, cause },
        { container: CONTAINER, inBytes: 5, outBytes: 3, cause: 'the client hung up' },
      );
      assert.match(String(peer), /^127\.0\.0\.1:\d+$/);
    });

    it('detaches when the client leaves', async () => {
      const { client } = await stdio(await attach());
      await until(() => pod.running.has('attach'), 'the session');
      client.close();
      await until(() => pod.running.size === 0, 'the end');
    });

    it(
      'ends at the end of input from a terminal, which is how people detach, and elsewhere only ' +
        'says so to the container',
      async () => {
        const lines = await stdio(await server.urlForAttach(STREAMS));
        lines.stdin.end();
        await until(() => pod.console.inputClosed, 'the end of input');
        assert.strictEqual(server.sessionsCount, 1);
        lines.client.close();
        await until(() => server.sessionsCount === 0, 'the session to end');
        pod.console.tty = true;
        pod.console.inputClosed = false;
        const client = await spdy(await server.urlForAttach({ ...STREAMS, stderr: false, tty: true }));
        const error = await client.open({ streamType: 'error' });
        const stdin = await client.open({ streamType: 'stdin' });
        for (const streamType of ['stdout', 'resize']) await client.open({ streamType });
        await stdin.write('typed');
        stdin.end();
        assert.strictEqual((JSON.parse(await error.all()) as { readonly status: string }).status, 'Success');
        assert.deepEqual([pod.console.input, pod.console.inputClosed], ['typed', false]);
      },
    );

    it('sizes the terminal of the container, and wants none where there is none', async () => {
      const refused = channels(await attach({ tty: true, stderr: false }), 'v4.channel.k8s.io');
      await refused.closed;
      assert.include(refused.text(3), 'attach without tty');
      pod.console.tty = true;
      const { ws } = channels(await attach({ tty: true, stderr: false }), 'v4.channel.k8s.io');
      await opened(ws);
      ws.send(Buffer.concat([Buffer.of(4), Buffer.from('{"Width":100,"Height":50}')]));
      await until(() => pod.sizes.length === 1, 'the size');
      assert.deepEqual(pod.sizes, [{ width: 100, height: 50 }]);
      ws.terminate();
      await until(() => pod.running.size === 0, 'the end');
    });
  });

  describe('port-forward over SPDY', () => {
    const PORTS = 'portforward.k8s.io';
    async function pair(
      client: SpdyClient,
      port: number,
      requestId: string,
    ): Promise<{ data: SpdyClientStream; error: SpdyClientStream }> {
      const error = await client.open({ streamType: 'error', port: String(port), requestID: requestId }, { fin: true });
      return { error, data: await client.open({ streamType: 'data', port: String(port), requestID: requestId }) };
    }
    const url = (port: number[] = []): Promise<string> => server.urlForPortForward({ podSandboxId: POD, port });

    it('carries many connections at once, and their half-closes', async () => {
      const client = await spdy(await url(), PORTS);
      const pairs = [];
      for (let i = 0; i < 20; i++) pairs.push(await pair(client, 7, String(i)));
      await Promise.all(
        pairs.map(async ({ data, error }, i) => {
          await data.write(`message ${i}`);
          data.end();
          assert.deepEqual([await data.all(), await error.all()], [`message ${i}`, '']);
        }),
      );
      client.close();
      await until(() => server.sessionsCount === 0, 'the end');
    });

    it('says what is wrong on the error stream, and goes on', async () => {
      const client = await spdy(await url(), PORTS);
      const closed = await pair(client, 81, '1');
      assert.include(await closed.error.all(), 'nothing answers on port 81');
      const fine = await pair(client, 13, '2');
      assert.strictEqual(await fine.data.all(), 'hello');
      client.close();
    });

    it('forwards only the ports that were asked for, where any were', async () => {
      const client = await spdy(await url([13]), PORTS);
      assert.include(await (await pair(client, 7, '1')).error.all(), 'was not asked for');
      assert.strictEqual(await (await pair(client, 13, '2')).data.all(), 'hello');
      client.close();
    });

    it('closes a connection that the client gives up', async () => {
      const client = await spdy(await url(), PORTS);
      const { data, error } = await pair(client, 7, '1');
      await data.write('x');
      await until(() => data.text === 'x', 'the echo');
      data.reset();
      await error.ended;
      assert.strictEqual(pod.running.size, 0);
      client.close();
    });

    it('refuses streams that are no pair, and pairs the unnumbered ones of the oldest clients', async () => {
      const client = await spdy(await url(), PORTS);
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '0', requestID: '1' })).ended, 'reset');
      assert.strictEqual(await (await client.open({ streamType: 'stdin', port: '7', requestID: '1' })).ended, 'reset');
      await client.open({ streamType: 'data', port: '7', requestID: '5' });
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '7', requestID: '5' })).ended, 'reset');
      await client.open({ streamType: 'error', port: '13' });
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '13' })).all(), 'hello');
      client.close();
    });
  });

  describe('port-forward over WebSocket', () => {
    it('gives each port two channels', async () => {
      const { ws, got, text } = channels(
        await server.urlForPortForward({ podSandboxId: POD, port: [7, 81] }),
        'v4.channel.k8s.io',
      );
      await opened(ws);
      ws.send(Buffer.concat([Buffer.of(0), Buffer.from('ping')]));
      await until(() => text(0).length === 6 && text(3).length > 2, 'answers');
      assert.deepEqual([...(got.get(0) ?? [])], [7, 0, ...Buffer.from('ping')]);
      assert.deepEqual([...(got.get(1) ?? [])], [7, 0]);
      assert.deepEqual([...(got.get(2) ?? [])], [81, 0]);
      assert.include(text(3), 'nothing answers on port 81');
      ws.close();
    });

    it('wants to know the ports', async () => {
      const { closed, ws } = channels(
        await server.urlForPortForward({ podSandboxId: POD, port: [] }),
        'v4.channel.k8s.io',
      );
      const status = new Promise((resolve) =>
        ws.once('unexpected-response', (_request, response: IncomingMessage) => resolve(response.statusCode)),
      );
      assert.strictEqual(await status, 400);
      ws.terminate();
      await closed;
    });

    it('tunnels SPDY', async () => {
      const url = await server.urlForPortForward({ podSandboxId: POD, port: [] });
      const protocol = 'SPDY/3.1+portforward.k8s.io';
      const headers = {
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
        'Sec-WebSocket-Protocol': protocol,
      };
      const answer = await ask(url, { method: 'GET', headers });
      assert.deepEqual([answer.status, answer.headers['sec-websocket-protocol']], [101, protocol]);
      if (answer.socket === undefined) throw new Error('no socket');
      const client = new SpdyClient(tunnel(answer.socket));
      const error = await client.open({ streamType: 'error', port: '7', requestID: '0' }, { fin: true });
      const data = await client.open({ streamType: 'data', port: '7', requestID: '0' });
      await data.write('through the tunnel');
      data.end();
      assert.deepEqual([await data.all(), await error.all()], ['through the tunnel', '']);
      client.close();
      await until(() => server.sessionsCount === 0, 'the end');
    });
  });

  describe('the end of a session', () => {
    it('comes when only pings have passed for the idle time', async () => {
      await server.close();
      await listen({ idleTimeoutMs: 60 });
      const { client, error } = await stdio(await exec('sleep'));
      let pinging = true;
      void (async () => {
        while (pinging)
          await Promise.race([client.ping(), client.closed]).then(
            () => new Promise((resolve) => setImmediate(resolve)),
          );
      })();
      assert.include(await error.all(), 'stream_idle_timeout');
      pinging = false;
      await client.closed;
      const { ws, closed } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      ws.once('open', () => ws.ping());
      await closed;
    });

    it('comes when the server closes, with the reason', async () => {
      const { error } = await stdio(await exec('sleep'));
      await until(() => pod.running.size === 1, 'the process');
      await server.close();
      assert.include(await error.all(), 'the runtime is stopping');
    });

    it('leaves nothing, however many there were', async function () {
      this.timeout(60_000);
      const round = async (count: number): Promise<void> => {
        for (let i = 0; i < count; i++) {
          if (i % 2 === 0) {
            const { stdin, client } = await stdio(await exec('cat'));
            await stdin.write('x');
            if (i % 4 === 0) stdin.end();
            else client.close();
            await client.closed;
          } else {
            const { ws, closed } = channels(await exec(i % 3 === 0 ? 'both' : 'sleep'), 'v5.channel.k8s.io');
            if (i % 3 !== 0) ws.once('open', () => ws.terminate());
            await closed;
          }
        }
        await until(() => pod.running.size === 0 && server.sessionsCount === 0, 'the sessions to end');
      };
      const resources = (): number =>
        process.getActiveResourcesInfo().filter((each) => each !== 'Immediate' && each !== 'CloseReq').length;
      await round(50);
      await until(() => resources() < 40, 'sockets to be closed');
      const before = resources();
      await round(300);
      await until(() => resources() <= before + 2, 'no handle to be left');
    });
  });
});

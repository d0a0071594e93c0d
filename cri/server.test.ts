import { mkdtempSync, rmSync, statSync, symlinkSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { checkAlive, type LogFields, type Logger, type Op, withLog, withTimeout } from '../pkg/base/op.ts';
import type { ContainerEventResponse, Rpcs } from '../pkg/cri-api/types.ts';
import { type Client, connect, CriError } from './client.ts';
import { codecs, concatenate, methods } from './codec.ts';
import { type Handlers, type RunningServer, serve, type ServerOptions } from './server.ts';

interface Line extends Record<string, unknown> {
  readonly level: string;
  readonly message: string;
}

class FakeLogger implements Logger {
  readonly lines: Line[];
  readonly #bound: LogFields;
  constructor(lines: Line[] = [], bound: LogFields = {}) {
    this.lines = lines;
    this.#bound = bound;
  }
  debug(message: string, fields: LogFields = {}): void {
    this.#add('debug', message, fields);
  }
  info(message: string, fields: LogFields = {}): void {
    this.#add('info', message, fields);
  }
  warn(message: string, fields: LogFields = {}): void {
    this.#add('warn', message, fields);
  }
  error(message: string, fields: LogFields = {}): void {
    this.#add('error', message, fields);
  }
  child(fields: LogFields): Logger {
    return new FakeLogger(this.lines, { ...this.#bound, ...fields });
  }
  #add(level: string, message: string, fields: LogFields): void {
    this.lines.push({ level, message, ...this.#bound, ...fields });
  }
}

const failure = async (work: Promise<unknown>): Promise<CriError> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof CriError) return error;
    throw error;
  }
  return assert.fail('the call succeeded');
};

const refusal = async (work: Promise<unknown>): Promise<RuntimeError> => {
  try {
    await work;
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  return assert.fail('nothing was thrown');
};

/** Resolves when `op` is aborted. */
const aborted = (op: Op): Promise<void> =>
  new Promise((resolve) =>
    op.signal.aborted ? resolve() : op.signal.addEventListener('abort', () => resolve(), { once: true }),
  );

describe('cri/server', () => {
  let home: string;
  let socket: string;
  let log: FakeLogger;
  const open: { close(): unknown }[] = [];

  beforeEach(() => {
    home = mkdtempSync(join(tmpdir(), 'berth-server-'));
    socket = join(home, 'berth.sock');
    log = new FakeLogger();
  });

  afterEach(async () => {
    for (const each of open.splice(0).reverse()) await each.close();
    rmSync(home, { recursive: true, force: true });
  });

  async function start(handlers: Handlers | Handlers[], options: Partial<ServerOptions> = {}): Promise<RunningServer> {
    const server = await serve({ socket, log, handlers: [handlers].flat(), ...options });
    open.push({ close: () => server.close(0) });
    return server;
  }

  function client(): Client {
    const it = connect(socket);
    open.push(it);
    return it;
  }

  it('serves on a socket that only root and its group may use', async () => {
    await start({});
    const { mode } = statSync(socket);
    assert.equal(mode & 0o777, 0o660);
  });

  it('answers a unary call with every value as it was', async () => {
    const seen: unknown[] = [];
    await start({
      containerStatus: (_op, request) => {
        seen.push(request);
        return {
          status: {
            id: request.containerId,
            createdAt: 2n ** 63n - 1n,
            finishedAt: -(2n ** 63n),
            labels: JSON.parse('{"__proto__":"x"}') as Record<string, string>,
          },
        };
      },
    });
    const { status } = await client().containerStatus({ containerId: 'abc', verbose: true });
    assert.deepEqual(seen, [{ containerId: 'abc', verbose: true }]);
    assert.equal(status?.createdAt, 2n ** 63n - 1n);
    assert.equal(status?.finishedAt, -(2n ** 63n));
    assert.deepEqual(Object.entries(status?.labels ?? {}), [['__proto__', 'x']]);
  });

  it('calls methods of a service class with its `this`, and joins several services', async () => {
    class Versions implements Handlers {
      readonly #name = 'berth';
      version(): { runtimeName: string } {
        return { runtimeName: this.#name };
      }
    }
    await start([
      new Versions(),
      { status: async () => ({ status: { conditions: [{ type: 'RuntimeReady', status: true }] } }) },
    ]);
    const cri = client();
    assert.equal((await cri.version()).runtimeName, 'berth');
    assert.equal((await cri.status()).status?.conditions[0]?.type, 'RuntimeReady');
  });

  it('refuses two handlers for one RPC', async () => {
    assert.include(
      (await refusal(start([{ version: () => ({}) }, { version: () => ({}) }]))).message,
      'Version has 2 handlers',
    );
  });

  it('passes an encoded reply through', async () => {
    const items = ['a', 'b'].map((id) => codecs.PodSandbox.item({ id }));
    await start({ listPodSandbox: () => concatenate(items) });
    assert.deepEqual(
      (await client().listPodSandbox()).items.map((item) => item.id),
      ['a', 'b'],
    );
  });

  it('answers UNIMPLEMENTED, naming the RPC, for each that has no handler', async () => {
    await start({});
    const cri = client();
    for (const [key, method] of Object.entries(methods)) {
      if (key === 'operations') continue;
      const call = cri[key as keyof Rpcs]({} as never);
      const error = await failure(
        Symbol.asyncIterator in call
          ? (call as AsyncIterable<unknown>)[Symbol.asyncIterator]().next()
          : (call as Promise<unknown>),
      );
      assert.equal(error.codeName, 'Unimplemented');
      assert.include(error.message, method.path.slice(1).replace('/', '.'));
    }
  });

  describe('errors', () => {
    it('carries code and text to the client', async () => {
      await start({
        podSandboxStatus: () => {
          throw new RuntimeError('NotFound', 'no pod sandbox “x” – ü\n100%');
        },
      });
      const error = await failure(client().podSandboxStatus({ podSandboxId: 'x' }));
      assert.deepEqual(
        [error.code, error.codeName, error.rpc, error.message],
        [5, 'NotFound', 'PodSandboxStatus', 'no pod sandbox “x” – ü\n100%'],
      );
    });

    it('survives the longest and strangest text', async () => {
      await start({
        podSandboxStatus: () => {
          throw new RuntimeError('Internal', `a\ud800${'🙂'.repeat(100_000)}z`);
        },
      });
      const error = await failure(client().podSandboxStatus());
      assert.match(error.message, /^a\ufffd🙂/u);
      assert.match(error.message, /🙂z$/u);
    });

    it('takes a stray error for a bug: Internal, and the stack in the log', async () => {
      await start({
        version: () => {
          throw new TypeError('x is undefined');
        },
      });
      assert.equal((await failure(client().version())).codeName, 'Internal');
      const line = log.lines.find((each) => each.message === 'failed');
      assert.equal(line?.level, 'error');
      assert.include(String(line?.['stack']), 'server.test.ts');
    });

    it('refuses malformed bytes with INVALID_ARGUMENT', async () => {
      await start({ version: () => ({}) });
      const grpc = new (await import('@grpc/grpc-js')).Client(
        `unix:${socket}`,
        (await import('@grpc/grpc-js')).credentials.createInsecure(),
      );
      open.push(grpc);
      const error = await new Promise<{ code?: number; details?: string } | null>((resolve) =>
        grpc.makeUnaryRequest(
          methods.version.path,
          (bytes: Buffer) => bytes,
          (bytes: Buffer) => bytes,
          Buffer.from([0x0a, 9]),
          resolve,
        ),
      );
      assert.equal(error?.code, 3);
      assert.include(error?.details, 'not a valid protobuf message');
    });

    it('says so when a reply does not fit its fields', async () => {
      await start({ containerStatus: () => ({ status: { exitCode: 1.5 } }) });
      assert.equal((await failure(client().containerStatus())).codeName, 'Internal');
    });

    it('refuses a request above the limit, and takes one below', async () => {
      await start({ execSync: (_op, request) => ({ exitCode: request.cmd[0]?.length ?? 0 }) });
      const cri = client();
      const near = limits.grpcMessageBytes - 1000;
      assert.equal((await cri.execSync({ cmd: ['x'.repeat(near)] })).exitCode, near);
      assert.equal(
        (await failure(cri.execSync({ cmd: ['x'.repeat(limits.grpcMessageBytes)] }))).codeName,
        'ResourceExhausted',
      );
    });

    it('sends the largest ExecSync reply', async () => {
      const stdout = new Uint8Array(limits.execOutputBytes).fill(65);
      await start({ execSync: () => ({ stdout, stderr: stdout }) });
      const reply = await client().execSync();
      assert.isTrue(Buffer.from(stdout.buffer).equals(reply.stdout) && reply.stderr.length === stdout.length);
    });

    it('refuses to send a reply beyond its own limit, and says what to do', async () => {
      const { Encoded } = await import('./codec.ts');
      await start({ listContainers: () => new Encoded(Buffer.alloc(limits.grpcReplyBytes + 1)) });
      const error = await failure(client().listContainers());
      assert.equal(error.codeName, 'ResourceExhausted');
      assert.include(error.message, 'use the streaming RPC');
    });
  });

  describe('the operation', () => {
    it('has the deadline of the call', async () => {
      const deadlines: number[] = [];
      await start({
        version: (op) => {
          deadlines.push(op.deadline);
          return {};
        },
      });
      const before = performance.now();
      await client().version({}, { deadlineMs: 60_000 });
      await client().version({}, { deadlineMs: 0 });
      assert.closeTo((deadlines[0] ?? 0) - before, 60_000, 5_000);
      assert.equal(deadlines[1], Number.POSITIVE_INFINITY);
    });

    it('is told when the client cancels, and may finish its work all the same', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      const server = await start({
        runPodSandbox: async (op) => {
          op.stage('cni add: bridge');
          enter();
          await aborted(op);
          await finish;
          return { podSandboxId: 'made' };
        },
      });
      const cancel = new AbortController();
      const call = failure(client().runPodSandbox({}, { signal: cancel.signal }));
      await entered;
      cancel.abort();
      assert.equal((await call).codeName, 'Cancelled');
      assert.deepEqual(
        server.operations().map((each) => [each.rpc, each.stage]),
        [['RunPodSandbox', 'cni add: bridge']],
      );
      letFinish();
      while (server.operations().length > 0) await new Promise(setImmediate);
      const line = log.lines.find((each) => each.message === 'ok, but the client was gone');
      assert.equal(line?.['sandbox'], 'made');
    });

    it('is told when the deadline passes; what the handler throws then is explained', async () => {
      const server = await start({
        createContainer: async (op) => {
          op.stage('unpacking layer 3');
          await aborted(op);
          throw new Error('some library gave up');
        },
      });
      assert.equal((await failure(client().createContainer({}, { deadlineMs: 20 }))).codeName, 'DeadlineExceeded');
      while (server.operations().length > 0) await new Promise(setImmediate);
      const line = log.lines.find((each) => each.message === 'failed');
      assert.match(String(line?.['cause']), /while: unpacking layer 3$/);
      assert.equal(line?.['stage'], 'unpacking layer 3');
    });

    it('stays in the table while work goes on without it, and is told apart there', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<Op>();
      const { promise: work, resolve: finish } = Promise.withResolvers<void>();
      const server = await start({
        stopPodSandbox: async (op) => {
          withLog(op, {}).goesOn?.(work);
          enter(op);
          await aborted(op);
          throw new RuntimeError('Cancelled', 'it goes on');
        },
      });
      const cancel = new AbortController();
      const call = failure(client().stopPodSandbox({ podSandboxId: 'p1' }, { signal: cancel.signal }));
      const op = await entered;
      assert.deepEqual(
        server.operations().map((each) => each.clientGone),
        [false],
      );
      cancel.abort();
      await call;
      while (!log.lines.some((each) => each.message === 'failed')) await new Promise(setImmediate);
      op.stage('cni del');
      assert.deepEqual(
        server.operations().map(({ rpc, ids, stage, clientGone }) => ({ rpc, ids: { ...ids }, stage, clientGone })),
        [{ rpc: 'StopPodSandbox', ids: { sandbox: 'p1' }, stage: 'cni del', clientGone: true }],
      );
      finish();
      while (server.operations().length > 0) await new Promise(setImmediate);
    });

    it('is named with its stage by whatever ends it too early', async () => {
      await start({
        startContainer: (op) => {
          op.stage('runtime start');
          throw new RuntimeError('DeadlineExceeded', 'it is still being started', { cause: new Error('slow disk') });
        },
      });
      assert.equal(
        (await failure(client().startContainer({}))).message,
        'at stage "runtime start": it is still being started: slow disk',
      );
    });

    it('is listed beside what is no call, the oldest first', async () => {
      const other = {
        rpc: 'exec session',
        requestId: '',
        ids: {},
        stage: 'attached',
        ageNanos: 10n ** 12n,
        stageAgeNanos: 0n,
        clientGone: false,
      };
      await start({}, { otherOperations: () => [other, { ...other, ageNanos: 0n, stage: 'new' }] });
      assert.deepEqual(
        (await client().operations()).operations.map((each) => [each.rpc, each.stage]),
        [
          ['exec session', 'attached'],
          ['Operations', ''],
          ['exec session', 'new'],
        ],
      );
    });

    it('keeps working when helpers copy it', async () => {
      const server = await start({
        version: async (op) => {
          const copy = withLog(withTimeout(op, 1_000), { extra: 1 });
          copy.stage('copied');
          copy.log.info('from inside');
          assert.equal(server.operations()[0]?.stage, 'copied');
          checkAlive(copy, 'x');
          return {};
        },
      });
      await client().version();
      assert.include(
        log.lines.find((each) => each.message === 'from inside'),
        { rpc: 'Version', extra: 1 },
      );
    });

    it('is listed with ids, stage and ages, over the wire too', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      await start({
        stopContainer: async (op) => {
          op.stage('waiting for exit');
          enter();
          await finish;
          return {};
        },
      });
      const cri = client();
      const stopping = cri.stopContainer({ containerId: 'c1' });
      await entered;
      const { operations } = await cri.operations();
      letFinish();
      await stopping;
      assert.deepEqual(
        operations.map((each) => [each.rpc, each.stage, { ...each.ids }]),
        [
          ['StopContainer', 'waiting for exit', { container: 'c1' }],
          ['Operations', '', {}],
        ],
      );
      const [stop] = operations;
      assert.isTrue(stop !== undefined && stop.ageNanos >= stop.stageAgeNanos && stop.stageAgeNanos > 0n);
      assert.match(stop?.requestId ?? '', /^[0-9a-f]{4,}$/);
      assert.isEmpty((await cri.operations()).operations.filter((each) => each.rpc !== 'Operations'));
    });
  });

  describe('the log line', () => {
    const cases: readonly (readonly [
      what: string,
      handlers: Handlers,
      call: (cri: Client) => Promise<unknown>,
      expected: Record<string, unknown>,
    ])[] = [
      [
        'a change',
        { runPodSandbox: () => ({ podSandboxId: 'p1' }) },
        (cri) => cri.runPodSandbox({ config: { metadata: { name: 'web', namespace: 'shop' } } }),
        { level: 'info', message: 'ok', rpc: 'RunPodSandbox', pod: 'web', ns: 'shop', sandbox: 'p1' },
      ],
      [
        'a container',
        { createContainer: () => ({ containerId: 'c1' }) },
        (cri) =>
          cri.createContainer({
            podSandboxId: 'p1',
            config: { metadata: { name: 'app' }, image: { image: 'busybox' } },
          }),
        { level: 'info', message: 'ok', sandbox: 'p1', name: 'app', image: 'busybox', container: 'c1' },
      ],
      [
        'a pull',
        { pullImage: () => ({ imageRef: 'sha256:1' }) },
        (cri) => cri.pullImage({ image: { image: 'busybox:1' }, auth: { password: 'secret' } }),
        { level: 'info', message: 'ok', image: 'busybox:1' },
      ],
      [
        'a read',
        { listContainers: () => ({}) },
        (cri) => cri.listContainers(),
        { level: 'debug', message: 'ok', rpc: 'ListContainers' },
      ],
      [
        'a failure',
        {
          startContainer: () => {
            throw new RuntimeError('FailedPrecondition', 'is exited');
          },
        },
        (cri) => failure(cri.startContainer({ containerId: 'c1' })),
        { level: 'warn', message: 'failed', code: 'FailedPrecondition', cause: 'is exited', container: 'c1' },
      ],
      [
        'a bug',
        {
          startContainer: () => {
            throw new RuntimeError('Internal', 'broken');
          },
        },
        (cri) => failure(cri.startContainer({ containerId: 'c1' })),
        { level: 'error', message: 'failed', code: 'Internal' },
      ],
      [
        'a read of what is gone',
        {
          containerStatus: () => {
            throw new RuntimeError('NotFound', 'no such');
          },
        },
        (cri) => failure(cri.containerStatus({ containerId: 'c1' })),
        { level: 'debug', message: 'failed', code: 'NotFound' },
      ],
    ];
    for (const [what, handlers, call, expected] of cases) {
      it(`of ${what}`, async () => {
        await start(handlers);
        await call(client());
        assert.lengthOf(log.lines, 1);
        assert.include(log.lines[0], expected);
        assert.isNumber(log.lines[0]?.['ms']);
        assert.notInclude(JSON.stringify(log.lines), 'secret');
      });
    }

    it('has a request id of its own', async () => {
      await start({
        version: () => ({}),
        startContainer: () => {
          throw new RuntimeError('Unavailable', 'x', { reason: 'RegistryUnavailable' });
        },
      });
      const cri = client();
      await cri.version();
      await failure(cri.startContainer());
      assert.lengthOf(new Set(log.lines.map((line) => line['req'])), 2);
    });
  });

  describe('streams', () => {
    const events = async function* (count: number): AsyncGenerator<{ containerId: string }> {
      for (let i = 0; i < count; i++) yield { containerId: `c${i}` };
    };

    it('sends every item in order, then ends', async () => {
      await start({ getContainerEvents: () => events(2_000) });
      const seen: ContainerEventResponse[] = [];
      for await (const event of client().getContainerEvents()) seen.push(event);
      assert.deepEqual(
        seen.map((event) => event.containerId),
        Array.from({ length: 2_000 }, (_, i) => `c${i}`),
      );
    });

    it('ends an empty stream without an item', async () => {
      await start({ streamContainers: () => events(0) as never });
      for await (const _ of client().streamContainers()) assert.fail('an item');
    });

    it('carries an error after some items', async () => {
      await start({
        async *getContainerEvents() {
          yield { containerId: 'first' };
          throw new RuntimeError('Unavailable', 'events are off');
        },
      });
      const seen: string[] = [];
      const error = await failure(
        (async () => {
          for await (const event of client().getContainerEvents()) seen.push(event.containerId);
        })(),
      );
      assert.deepEqual([seen, error.codeName, error.message], [['first'], 'Unavailable', 'events are off']);
    });

    it('does not run ahead of a client that reads slowly', async () => {
      let made = 0;
      await start({
        async *getContainerEvents() {
          for (; made < 10_000; made++) yield { containerId: 'x'.repeat(10_000) };
        },
      });
      let read = 0;
      for await (const _ of client().getContainerEvents()) if (++read === 3) break;
      assert.isBelow(made, 5_000);
    });

    it('stops the handler when the client leaves, even one that waits for ever', async () => {
      const { promise: over, resolve: end } = Promise.withResolvers<void>();
      const server = await start({
        async *getContainerEvents(op) {
          yield { containerId: 'c' };
          op.signal.addEventListener('abort', () => end());
          await new Promise(() => {});
        },
      });
      for await (const _ of client().getContainerEvents()) break;
      await over;
      while (server.operations().length > 0) await new Promise(setImmediate);
    });
  });

  describe('the socket', () => {
    it('is not taken from a daemon that answers', async () => {
      await start({ version: () => ({ runtimeName: 'first' }) });
      const error = await refusal(serve({ socket, log, handlers: [] }));
      assert.equal(error.code, 'FailedPrecondition');
      assert.include(error.message, `socket ${socket} is in use`);
      assert.equal((await client().version()).runtimeName, 'first');
    });

    it('is taken over when its owner died', async () => {
      const left = createServer();
      await new Promise<void>((resolve) => left.listen(join(home, 'dead.sock'), resolve));
      const { linkSync } = await import('node:fs');
      linkSync(join(home, 'dead.sock'), socket);
      await new Promise((resolve) => left.close(resolve));
      await start({ version: () => ({ runtimeName: 'second' }) });
      assert.equal((await client().version()).runtimeName, 'second');
    });

    const bad: readonly (readonly [what: string, prepare: () => string, message: string])[] = [
      [
        'a file',
        () => {
          writeFileSync(socket, 'precious');
          return socket;
        },
        'is not a socket',
      ],
      [
        'a link',
        () => {
          symlinkSync('/nowhere', socket);
          return socket;
        },
        'is not a socket',
      ],
      ['a relative path', () => 'berth.sock', 'must be absolute'],
      ['a path that no socket can have', () => join(home, 'x'.repeat(120)), 'at most 103 bytes'],
      ['a directory that does not exist', () => join(home, 'no', 'berth.sock'), 'cannot listen on'],
    ];
    for (const [what, prepare, message] of bad) {
      it(`is refused: ${what}`, async () => {
        assert.include((await refusal(serve({ socket: prepare(), log, handlers: [] }))).message, message);
      });
    }
  });

  describe('close', () => {
    it('lets calls finish, ends streams, refuses new calls, removes the socket', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<void>();
      const { promise: finish, resolve: letFinish } = Promise.withResolvers<void>();
      const { promise: streaming, resolve: first } = Promise.withResolvers<void>();
      const server = await start({
        runPodSandbox: async () => {
          enter();
          await finish;
          return { podSandboxId: 'p1' };
        },
        async *getContainerEvents() {
          first();
          yield await new Promise<never>(() => {});
        },
      });
      const cri = client();
      const running = cri.runPodSandbox();
      const stream = failure(cri.getContainerEvents()[Symbol.asyncIterator]().next());
      await Promise.all([entered, streaming]);
      const closed = server.close(10_000);
      assert.equal((await stream).codeName, 'Cancelled');
      assert.throws(() => statSync(socket), /ENOENT/);
      letFinish();
      assert.equal((await running).podSandboxId, 'p1');
      await closed;
      assert.equal((await failure(cri.version({}, { deadlineMs: 2_000 }))).codeName, 'Unavailable');
    });

    it('does not wait for a handler that hangs, and says at which stage it was', async () => {
      const { promise: entered, resolve: enter } = Promise.withResolvers<Op>();
      const server = await start({
        createContainer: async (op) => {
          op.stage('runc create');
          enter(op);
          return new Promise<never>(() => {});
        },
      });
      const call = failure(client().createContainer({ podSandboxId: 'p1' }));
      const op = await entered;
      await server.close(10);
      assert.isTrue(op.signal.aborted);
      assert.include(['Unavailable', 'Cancelled'], (await call).codeName);
      assert.include(
        log.lines.find((line) => line.message === 'did not end before the daemon did'),
        { stage: 'runc create', sandbox: 'p1' },
      );
    });

    it('leaves a socket alone that another daemon has put in its place', async () => {
      const server = await start({});
      rmSync(socket);
      await start({ version: () => ({ runtimeName: 'next' }) });
      await server.close(0);
      assert.equal((await client().version()).runtimeName, 'next');
    });
  });
});

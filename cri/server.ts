/**
 * gRPC on a unix socket: the one hop that every call shares. `handle` makes the Op, runs the handler, and on the way
 * out writes one log line and turns an error into a status. Handlers know nothing of gRPC.
 *
 * A client that goes away, or whose deadline passes, makes `op.signal` fire and nothing else: the handler decides
 * whether to give up or to finish for the retry that will come (cri-semantics X3, X4). Until it returns, and until what
 * it said goes on without it has settled, the call stays in the table of operations, so one that hangs can be asked
 * where.
 *
 * The socket is made under a temporary name and renamed, so it never exists with wrong permissions, and a stale one is
 * replaced in one step. Whoever still answers on it is left alone, and we refuse to start.
 */
import { lstatSync, rmSync } from 'node:fs';
import { chmod, lstat, rename, rm } from 'node:fs/promises';
import { connect } from 'node:net';
import {
  logVerbosity,
  Server,
  ServerCredentials,
  setLogVerbosity,
  type sendUnaryData,
  type ServerUnaryCall,
  type ServerWritableStream,
} from '@grpc/grpc-js';
import { discard } from '../pkg/base/bytes.ts';
import { type ErrorCode, errnoOf, explain, RuntimeError, wrap } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import { abortError, type LogFields, type Logger, type Op } from '../pkg/base/op.ts';
import { abortable } from '../pkg/base/sync.ts';
import { within } from '../pkg/base/time.ts';
import { Track } from '../pkg/base/track.ts';
import type { Input, Operation, Rpcs } from '../pkg/cri-api/types.ts';
import { type Codec, Encoded, type Method, methods } from './codec.ts';
import { errorCode, type GrpcStatus, statusOf } from './status.ts';

type Reply<R extends keyof Rpcs> = Input<Rpcs[R]['reply']> | Encoded;
type Handler<R extends keyof Rpcs> = Rpcs[R]['streams'] extends true
  ? (op: Op, request: Rpcs[R]['request']) => AsyncIterable<Reply<R>>
  : (op: Op, request: Rpcs[R]['request']) => Promise<Reply<R>> | Reply<R>;

/**
 * What answers each RPC; one that is missing answers UNIMPLEMENTED. A service class may implement a part of it as
 * methods. A streaming handler is an async iterable that must end when `op.signal` fires.
 */
export type Handlers = { readonly [R in keyof Rpcs]?: Handler<R> };

export interface ServerOptions {
  /** Absolute path of the socket; its directory exists. */
  readonly socket: string;
  readonly log: Logger;
  /** Every RPC is answered by at most one of these; Operations is answered by the server itself. */
  readonly handlers: readonly Handlers[];
  /** Operations that are no calls: sessions, and work in the background. */
  readonly otherOperations?: () => readonly Operation[];
}

/** A server that listens. */
export interface RunningServer {
  /** All that is in flight, oldest first: calls, what goes on for calls that are over, and what the options add. */
  operations(): Operation[];
  /**
   * Takes no more calls, ends streams, lets the others finish for `graceMs`, then aborts what is left and closes.
   * The socket file is gone on return, unless another daemon has put its own there.
   */
  close(graceMs?: number): Promise<void>;
}

// grpc-js writes to stderr what its callbacks say as well.
setLogVerbosity(logVerbosity.NONE);

/** RPCs whose replies may be so large that what is behind them has to wait for the client. */
const LARGE: ReadonlySet<string> = new Set<keyof Rpcs>(['execSync']);
/** RPCs that change nothing: their line is logged at debug. ExecSync is here because probes call it all day. */
const QUIET =
  /^(version|status|runtimeConfig|list.*|stream.*|podSandboxStatus|containerStatus|imageStatus|imageFsInfo|containerStats|podSandboxStats|getContainerEvents|execSync|operations|pullProgress)$/;
/** RPCs that take as long as their caller asked for. */
const PATIENT =
  /^(stopContainer|stopPodSandbox|execSync|pullImage|pullProgress|import|check|checkpoint.*|restorePod|stream.*|getContainerEvents)$/;
/** Failures that somebody must look at; all others are the caller's or the world's. */
const ALARMING: ReadonlySet<string> = new Set(['Internal', 'DataLoss']);

/** The longest path that fits `sun_path`, less what the temporary name adds. */
const SOCKET_PATH_BYTES = 107 - '.new'.length;
const CONNECT_TEST_MS = 1_000;

const FLUSH_MS = 500;

/** Starts to serve. @throws FailedPrecondition if somebody answers on the socket or something else is in its place. */
export async function serve(options: ServerOptions): Promise<RunningServer> {
  const server = new CriServer(options);
  await server.listen();
  return server;
}

/** One call in flight. */
class Call implements Op {
  readonly rpc: string;
  readonly track: Track;
  readonly abort = new AbortController();
  readonly signal: AbortSignal = this.abort.signal;
  readonly deadline: number;
  readonly log: Logger;
  readonly streams: boolean;
  /** Own properties, since helpers of Op copy operations with a spread. */
  readonly stage: (what: string) => void;
  readonly goesOn = (work: Promise<unknown>): void => {
    this.#work.add(work);
    const settled = (): void => void this.#work.delete(work);
    work.then(settled, settled);
  };
  readonly #work = new Set<Promise<unknown>>();

  constructor(method: Method, request: string, deadline: number, ids: Readonly<Record<string, string>>, log: Logger) {
    this.rpc = method.name;
    this.track = new Track(method.name, ids, request);
    this.stage = this.track.stage;
    this.streams = method.streams;
    this.deadline = deadline;
    this.log = log.child({ rpc: method.name, req: request, ...ids });
  }

  /** The stage it is at; '' before the first. */
  get doing(): string {
    return this.track.doing;
  }

  /** What goes on for it; undefined if nothing does. */
  get unfinished(): Promise<unknown> | undefined {
    return this.#work.size === 0 ? undefined : Promise.allSettled(this.#work);
  }
}

class CriServer implements RunningServer {
  readonly #options: ServerOptions;
  readonly #grpc = new Server({
    'grpc.max_receive_message_length': limits.grpcMessageBytes,
    'grpc.max_send_message_length': limits.grpcReplyBytes,
    'grpc.max_concurrent_streams': limits.grpcCallsCount,
  });
  readonly #calls = new Set<Call>();
  /** Calls that are over for their clients, but not done. */
  readonly #lingering = new Set<Call>();
  /** Wakes `close` when the last call is over. */
  #idle: (() => void) | undefined;
  #closing = false;
  #requests = Math.floor(Math.random() * 0x10000);
  #inode: bigint | undefined;

  constructor(options: ServerOptions) {
    this.#options = {
      ...options,
      handlers: [...options.handlers, { operations: () => ({ operations: this.operations() }) }],
    };
    for (const key of Object.keys(methods) as (keyof Rpcs)[]) this.#register(key);
  }

  async listen(): Promise<void> {
    const { socket } = this.#options;
    if (!socket.startsWith('/') || Buffer.byteLength(socket) > SOCKET_PATH_BYTES) {
      throw new RuntimeError(
        'InvalidArgument',
        `socket path ${quote(socket)} must be absolute and at most ${SOCKET_PATH_BYTES} bytes long; ` +
          'choose another with --listen',
      );
    }
    await refuseIfTaken(socket);
    const fresh = `${socket}.new`;
    await rm(fresh, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#grpc.bindAsync(`unix:${fresh}`, ServerCredentials.createInsecure(), (error) =>
        error === null ? resolve() : reject(error),
      );
    }).catch((cause: unknown) => {
      throw new RuntimeError('FailedPrecondition', `cannot listen on ${socket}`, { cause: withErrno(cause) });
    });
    await chmod(fresh, 0o660);
    this.#inode = (await lstat(fresh, { bigint: true })).ino;
    await rename(fresh, socket);
  }

  operations(): Operation[] {
    const calls = [...this.#lingering, ...this.#calls].map(({ track }): Operation => track.row());
    const others = this.#options.otherOperations?.() ?? [];
    return [...calls, ...others].sort((a, b) => (a.ageNanos === b.ageNanos ? 0 : a.ageNanos > b.ageNanos ? -1 : 1));
  }

  async close(graceMs: number = limits.shutdownGraceMs): Promise<void> {
    this.#closing = true;
    this.#unlink();
    for (const call of this.#calls) if (call.streams) call.abort.abort();
    const drained = new Promise<void>((resolve) => this.#grpc.tryShutdown(() => resolve()));
    const finished = new Promise<void>((resolve) => {
      this.#idle = resolve;
      if (this.#calls.size === 0) resolve();
    });
    await within(graceMs, finished);
    for (const call of this.#calls) {
      call.log.warn('did not end before the daemon did', {
        stage: call.doing,
        ms: Math.round(performance.now() - call.track.began),
      });
      call.abort.abort();
    }
    // The last replies are on their way; a client that does not read them, or a handler that does not heed its signal,
    // must not hold us up.
    await within(FLUSH_MS, drained);
    this.#grpc.forceShutdown();
  }

  /** Synchronous, so that no second daemon can put its socket there between the look and the deed. */
  #unlink(): void {
    const { socket } = this.#options;
    if (lstatSync(socket, { bigint: true, throwIfNoEntry: false })?.ino === this.#inode)
      rmSync(socket, { force: true });
  }

  #register(key: keyof Rpcs): void {
    const method = methods[key] as Method;
    const able = this.#options.handlers.filter((each) => each[key] !== undefined);
    if (able.length > 1) throw new RuntimeError('Internal', `${method.name} has ${able.length} handlers`);
    const owner = able[0];
    const handler =
      owner === undefined ? unimplemented(method) : ((owner[key] as AnyHandler).bind(owner) as AnyHandler);
    const same = (bytes: Buffer): Buffer => bytes;
    if (method.streams)
      this.#grpc.register(
        method.path,
        (call: ServerWritableStream<Buffer, Buffer>) => void this.#stream(key, method, handler, call),
        same,
        same,
        'serverStream',
      );
    // On the wire one reply and a stream of one are the same; only of the stream do we hear when it has been sent.
    else if (LARGE.has(key))
      this.#grpc.register(
        method.path,
        (call: ServerWritableStream<Buffer, Buffer>) => void this.#large(key, method, handler, call),
        same,
        same,
        'serverStream',
      );
    else
      this.#grpc.register(
        method.path,
        (call: ServerUnaryCall<Buffer, Buffer>, reply: sendUnaryData<Buffer>) =>
          void this.#unary(key, method, handler, call, reply),
        same,
        same,
        'unary',
      );
  }

  async #unary(
    key: keyof Rpcs,
    method: Method,
    handler: AnyHandler,
    call: ServerUnaryCall<Buffer, Buffer>,
    reply: sendUnaryData<Buffer>,
  ): Promise<void> {
    const outcome = await this.#handle(key, method, call, async (op, request) => {
      const answer = await handler(op, request);
      return { bytes: encoded(method, answer), ids: answer instanceof Encoded ? {} : idsOf(answer) };
    });
    if (Buffer.isBuffer(outcome)) reply(null, outcome);
    else reply(outcome);
  }

  /** A call whose answer may hold something until the client has taken it: it is disposed of then. */
  async #large(
    key: keyof Rpcs,
    method: Method,
    handler: AnyHandler,
    call: ServerWritableStream<Buffer, Buffer>,
  ): Promise<void> {
    let answer: unknown;
    const outcome = await this.#handle(key, method, call, async (op, request) => {
      answer = await handler(op, request);
      return { bytes: encoded(method, answer), ids: {} };
    });
    if (Buffer.isBuffer(outcome)) {
      await sent(call, outcome);
      discard(outcome);
    } else call.emit('error', outcome);
    (answer as Partial<Disposable> | undefined)?.[Symbol.dispose]?.();
  }

  async #stream(
    key: keyof Rpcs,
    method: Method,
    handler: AnyHandler,
    call: ServerWritableStream<Buffer, Buffer>,
  ): Promise<void> {
    const outcome = await this.#handle(key, method, call, async (op, request) => {
      await pump(op, method, handler(op, request) as AsyncIterable<unknown>, call);
      return { bytes: Buffer.alloc(0), ids: {} };
    });
    if (Buffer.isBuffer(outcome)) call.end();
    else call.emit('error', outcome);
  }

  /** Everything that all calls have in common. Never rejects. */
  async #handle(
    key: keyof Rpcs,
    method: Method,
    grpc: ServerUnaryCall<Buffer, Buffer> | ServerWritableStream<Buffer, Buffer>,
    work: (op: Call, request: unknown) => Promise<{ readonly bytes: Buffer; readonly ids: LogFields }>,
  ): Promise<Buffer | GrpcStatus> {
    const id = (this.#requests = (this.#requests + 1) & 0xff_ffff).toString(16).padStart(4, '0');
    let request: unknown;
    let broken: unknown;
    try {
      request = method.request.decode(grpc.request);
    } catch (error) {
      broken = error;
    }
    const call = new Call(
      method,
      id,
      performance.now() + Number(grpc.getDeadline()) - Date.now(),
      idsOf(request),
      this.#options.log,
    );
    const gone = (): void => {
      call.track.clientGone = true;
      call.abort.abort();
    };
    grpc.once('cancelled', gone);
    this.#calls.add(call);
    try {
      if (broken !== undefined) throw broken;
      if (this.#closing) throw new RuntimeError('Unavailable', 'the daemon is stopping; try again');
      if (grpc.cancelled) throw abortError(call, 'waiting for its turn');
      const { bytes, ids } = await work(call, request);
      this.#finish(key, call, ids, undefined);
      return bytes;
    } catch (thrown) {
      // Code that gave up because the signal fired may throw anything; why it gave up is what counts.
      const error =
        call.signal.aborted && !(thrown instanceof RuntimeError)
          ? abortError(call, call.doing === '' ? method.name : call.doing)
          : placed(call, thrown);
      this.#finish(key, call, {}, { error });
      return statusOf(error);
    } finally {
      grpc.off('cancelled', gone);
      this.#calls.delete(call);
      this.#linger(call);
      if (this.#calls.size === 0) this.#idle?.();
    }
  }

  /** Keeps a call in the table whose work goes on: nobody waits for it any more. */
  #linger(call: Call): void {
    const { unfinished } = call;
    if (unfinished === undefined) return;
    call.track.clientGone = true;
    this.#lingering.add(call);
    void unfinished.then(() => this.#lingering.delete(call));
  }

  /** The one line per call, and the metrics. */
  #finish(key: keyof Rpcs, call: Call, ids: LogFields, failed: { readonly error: unknown } | undefined): void {
    const ms = Math.round((performance.now() - call.track.began) * 10) / 10;
    const fields = { ms, ...ids };
    if (failed !== undefined) return logFailure(key, call, fields, failed.error);
    if (call.signal.aborted) call.log.warn('ok, but the client was gone', fields);
    else if (ms > limits.slowRpcMs && !PATIENT.test(key))
      call.log.warn('ok, but slow', { ...fields, stage: call.doing });
    else if (QUIET.test(key)) call.log.debug('ok', fields);
    else call.log.info('ok', fields);
  }
}

/** Resolves when the only message of a call has left for the client, or the client has. */
async function sent(call: ServerWritableStream<Buffer, Buffer>, message: Buffer): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const end of ['cancelled', 'error', 'close'] as const) call.once(end, resolve);
  call.write(message, () => resolve());
  call.end();
  await promise;
}

type AnyHandler = (op: Op, request: unknown) => unknown;

function unimplemented(method: Method): AnyHandler {
  return () => {
    throw new RuntimeError(
      'Unimplemented',
      `${method.path.slice(1).replace('/', '.')} is not implemented by this runtime`,
    );
  };
}

function logFailure(key: keyof Rpcs, call: Call, fields: LogFields, error: unknown): void {
  const code: ErrorCode = errorCode(error);
  const stage = call.doing === '' ? {} : { stage: call.doing };
  const all = { ...fields, code, ...stage, cause: explain(error) };
  if (ALARMING.has(code)) call.log.error('failed', { ...all, stack: error instanceof Error ? error.stack : undefined });
  // A kubelet asks for objects that it has just removed, and for RPCs that it can do without.
  else if (code === 'Unimplemented' || (code === 'NotFound' && QUIET.test(key))) call.log.debug('failed', all);
  else if (code === 'Cancelled' && call.streams) call.log.debug('ended by the client', fields);
  else call.log.warn('failed', all);
}

/** The same error; one of a call that was given up says at which stage that was. */
function placed({ doing }: Call, error: unknown): unknown {
  const code = errorCode(error);
  if (doing === '' || (code !== 'DeadlineExceeded' && code !== 'Cancelled')) return error;
  return explain(error).includes(doing) ? error : wrap(`at stage ${JSON.stringify(doing)}`, error);
}

/** What a call is about, from the fields that CRI names alike everywhere; only ids and names, never content. */
function idsOf(message: unknown): Readonly<Record<string, string>> {
  if (typeof message !== 'object' || message === null) return {};
  const { containerId, podSandboxId, image, config, path } = message as Readonly<Record<string, unknown>>;
  const metadata = field(config, 'metadata');
  const found: Record<string, string> = {};
  const put = (name: string, value: unknown): void => {
    if (typeof value === 'string' && value !== '') found[name] = value.length > 256 ? `${value.slice(0, 256)}…` : value;
  };
  put('container', containerId);
  put('sandbox', podSandboxId);
  put('image', field(image, 'image') ?? field(field(config, 'image'), 'image'));
  put('ns', field(metadata, 'namespace'));
  put(field(metadata, 'namespace') === undefined ? 'name' : 'pod', field(metadata, 'name'));
  put('path', path);
  return found;
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>)[name] : undefined;
}

function encoded(method: Method, answer: unknown): Buffer {
  const bytes = answer instanceof Encoded ? answer.bytes : (method.reply as Codec<unknown>).encode(answer as never);
  if (bytes.length > limits.grpcReplyBytes) {
    throw new RuntimeError(
      'ResourceExhausted',
      `the reply of ${method.name} is ${bytes.length} bytes long, more than ` +
        `${limits.grpcReplyBytes}; ask with a filter, or use the streaming RPC`,
    );
  }
  return bytes;
}

/** Sends what the handler yields, no faster than the client reads; stops when the call is over. */
async function pump(
  op: Call,
  method: Method,
  items: AsyncIterable<unknown>,
  call: ServerWritableStream<Buffer, Buffer>,
): Promise<void> {
  const source = items[Symbol.asyncIterator]();
  const over = (): Error => abortError(op, op.doing === '' ? 'streaming' : op.doing);
  try {
    for (;;) {
      const item = await abortable(source.next(), op.signal, over);
      if (item.done === true) return;
      if (call.write(encoded(method, item.value))) continue;
      await abortable(new Promise<void>((resolve) => call.once('drain', resolve)), op.signal, over);
    }
  } finally {
    // Not awaited: a generator that waits for an event gets to it only when it wakes up.
    source.return?.().catch(() => {});
  }
}

/** grpc-js tells the errno in its text only. */
function withErrno(error: unknown): Error {
  const text = error instanceof Error ? error.message : String(error);
  return Object.assign(new Error(text, { cause: error }), { code: /\blisten (E[A-Z0-9]+)\b/.exec(text)?.[1] });
}

/** @throws FailedPrecondition unless `socket` is free: absent, or a socket on which nobody answers. */
async function refuseIfTaken(socket: string): Promise<void> {
  const found = await lstat(socket).catch((error: unknown) => {
    if (errnoOf(error) === 'ENOENT') return undefined;
    throw new RuntimeError('FailedPrecondition', `cannot listen on ${socket}`, { cause: error });
  });
  if (found === undefined) return;
  if (!found.isSocket())
    throw new RuntimeError(
      'FailedPrecondition',
      `${socket} exists and is not a socket; remove it or choose another path with --listen`,
    );
  if (await answers(socket))
    throw new RuntimeError(
      'FailedPrecondition',
      `socket ${socket} is in use: another daemon answers on it; stop that one first or choose ` +
        'another path with --listen',
    );
}

/** True unless connecting is refused: a full backlog or a missing permission means that somebody is there. */
function answers(socket: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(socket);
    const done = (answer: boolean): void => {
      probe.destroy();
      resolve(answer);
    };
    probe.setTimeout(CONNECT_TEST_MS, () => done(true));
    probe.once('connect', () => done(true));
    probe.once('error', (error) => done(!['ECONNREFUSED', 'ENOENT'].includes(errnoOf(error) ?? '')));
  });
}

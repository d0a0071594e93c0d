/**
 * gRPC on our sockets: the one hop that every call shares. `handle` makes the Op, runs the handler, and on the way
 * out writes one log line and turns an error into a status. How an RPC is treated stands in rpcs.ts.
 *
 * A client that goes away, or whose deadline passes, makes `op.signal` fire and nothing else: the handler decides
 * whether to give up or to finish for the retry that will come. Until it returns, and until what it said goes on
 * without it has settled, the call stays in the table of operations, so one that hangs can be asked where.
 */
import type { Socket } from 'node:net';
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
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { LoopShare } from '../pkg/base/loop-share.ts';
import { type LogFields, type Logger, type Op } from '../pkg/base/op.ts';
import { abortable } from '../pkg/base/sync.ts';
import { within } from '../pkg/base/time.ts';
import type { Rpcs } from '../pkg/cri-api/types.ts';
import { Call, type Calls, idsOf, placed } from './calls.ts';
import { Encoded, type Method, methods } from './codec.ts';
import { Front } from './front.ts';
import { HttpDoor, type Pages } from './http.ts';
import { dumped } from './dump.ts';
import type { Answers, Treatment } from './rpcs.ts';
import { type GrpcStatus, statusOf } from './status.ts';
import type { CallWatch } from './watch.ts';

/** What a server is made of. */
export interface ServerOptions {
  /** Absolute path of the socket; its directory exists. */
  readonly socket: string;
  readonly log: Logger;
  readonly answers: Answers;
  /** Where calls in flight are kept. */
  readonly calls: Calls;
  /** What is shown to those who ask in HTTP/1. */
  readonly pages: Pages;
  /** Hears of each call; absent where nobody counts. */
  readonly watch?: CallWatch | undefined;
}

/** A server that listens. */
export interface RunningServer {
  /** Serves the same at another place. @throws as serve. */
  listen(path: string): Promise<void>;
  /**
   * Takes no more calls, ends streams, lets the others finish for `graceMs`, then aborts what is left and closes.
   * The sockets are gone on return, unless another daemon has put its own there.
   */
  close(graceMs?: number): Promise<void>;
}

// grpc-js writes to stderr what its callbacks say as well.
setLogVerbosity(logVerbosity.NONE);

/** Starts to serve. @throws FailedPrecondition if somebody answers on the socket or something else is in its place. */
export async function serve(options: ServerOptions): Promise<RunningServer> {
  const server = new CriServer(options);
  await server.listen(options.socket);
  return server;
}

/** What a call answers, as bytes, and the ids of what it has made. */
interface Answer {
  readonly bytes: Buffer;
  readonly ids: LogFields;
}
type StreamCall = ServerWritableStream<Buffer, Buffer>;
type AnyCall = ServerUnaryCall<Buffer, Buffer> | StreamCall;

/**
 * An RPC with all that is known of it before it is called. The types of requests and replies end here: bytes go in and
 * out.
 */
interface Route {
  readonly method: Method;
  readonly treatment: Treatment;
  readonly handler: (op: Op, request: unknown) => unknown;
}

class CriServer implements RunningServer {
  readonly #options: ServerOptions;
  readonly #http: HttpDoor;
  readonly #front: Front;
  /** Those of gRPC. */
  readonly #connections = new Set<Socket>();
  readonly #grpc = new Server({
    'grpc.max_receive_message_length': limits.grpcMessageBytes,
    'grpc.max_send_message_length': limits.grpcReplyBytes,
    'grpc.max_concurrent_streams': limits.grpcCallsCount,
    // Nobody asks it what it has counted of each call.
    'grpc.enable_channelz': 0,
  });
  /** Calls of one read of a connection are not all begun at once. */
  readonly #share = new LoopShare(limits.callsPerTurnCount);
  #closing = false;
  #requests = Math.floor(Math.random() * 0x10000);

  constructor(options: ServerOptions) {
    this.#options = options;
    for (const key of Object.keys(methods) as (keyof Rpcs)[]) this.#register(routeOf(key, options.answers));
    const calls = this.#grpc.createConnectionInjector(ServerCredentials.createInsecure());
    this.#http = new HttpDoor(options.pages, options.log);
    this.#front = new Front({
      grpc: (connection) => {
        this.#connections.add(connection);
        connection.once('close', () => this.#connections.delete(connection));
        calls.injectConnection(connection);
      },
      http: (connection) => this.#http.take(connection),
    });
  }

  listen(path: string): Promise<void> {
    return this.#front.open(path);
  }

  async close(graceMs: number = limits.shutdownGraceMs): Promise<void> {
    const { calls } = this.#options;
    this.#closing = true;
    this.#front.close();
    for (const call of calls.running) if (call.streams) call.abort();
    // It ends sessions when their calls have, and calls back at once: for connections that it did not accept, we wait.
    this.#grpc.tryShutdown(() => {});
    const drained = Promise.all([...this.#connections].map((each) => new Promise((over) => each.once('close', over))));
    await within(graceMs, calls.idle());
    for (const call of calls.running) {
      call.outlived();
      call.abort();
    }
    // The last replies are on their way; a client that does not read them, or a handler that does not heed its signal,
    // must not hold us up.
    await within(limits.replyFlushMs, drained);
    this.#grpc.forceShutdown();
    // It knows its sessions by channelz alone.
    for (const connection of this.#connections) connection.destroy();
    this.#http.close();
  }

  #register(route: Route): void {
    const { method, treatment } = route;
    const same = (bytes: Buffer): Buffer => bytes;
    const unary = (call: ServerUnaryCall<Buffer, Buffer>, reply: sendUnaryData<Buffer>): void =>
      void this.#unary(route, call, reply);
    const stream = (call: StreamCall): void => void this.#stream(route, call);
    // On the wire one reply and a stream of one are the same; only of the stream do we hear when it has been sent.
    const held = (call: StreamCall): void => void this.#held(route, call);
    if (method.streams) this.#grpc.register(method.path, stream, same, same, 'serverStream');
    else if (treatment.answer === 'held') this.#grpc.register(method.path, held, same, same, 'serverStream');
    else this.#grpc.register(method.path, unary, same, same, 'unary');
  }

  async #unary(route: Route, call: ServerUnaryCall<Buffer, Buffer>, reply: sendUnaryData<Buffer>): Promise<void> {
    const { method } = route;
    const outcome = await this.#handle(route, call, (op, request) => {
      const answer = route.handler(op, request);
      return answer instanceof Promise ? answer.then((each) => answerOf(method, each)) : answerOf(method, answer);
    });
    if (Buffer.isBuffer(outcome)) reply(null, outcome);
    else reply(outcome);
  }

  /** A call whose answer may hold something until the client has taken it: it is disposed of then. */
  async #held(route: Route, call: StreamCall): Promise<void> {
    let answer: unknown;
    const outcome = await this.#handle(route, call, async (op, request) => {
      answer = await route.handler(op, request);
      return { bytes: encoded(route.method, answer), ids: {} };
    });
    if (!Buffer.isBuffer(outcome)) call.emit('error', outcome);
    // What is short holds nothing that others wait for, and most answers are: nobody needs to hear that it has left.
    else if (outcome.length <= limits.execSmallOutputBytes) {
      call.write(outcome);
      call.end();
    } else {
      await sent(call, outcome);
      discard(outcome);
    }
    (answer as Partial<Disposable> | undefined)?.[Symbol.dispose]?.();
  }

  async #stream(route: Route, call: StreamCall): Promise<void> {
    const outcome = await this.#handle(route, call, async (op, request) => {
      await pump(op, route.method, route.handler(op, request) as AsyncIterable<unknown>, call);
      return { bytes: Buffer.alloc(0), ids: {} };
    });
    if (Buffer.isBuffer(outcome)) call.end();
    else call.emit('error', outcome);
  }

  /** Everything that all calls have in common. Never rejects. */
  async #handle(
    route: Route,
    grpc: AnyCall,
    work: (call: Call, request: unknown) => Answer | Promise<Answer>,
  ): Promise<Buffer | GrpcStatus> {
    const { calls } = this.#options;
    const wait = this.#share.enter();
    if (wait !== undefined) await wait;
    const asked = requestOf(route, grpc.request);
    const call = this.#begin(route, grpc, 'message' in asked ? idsOf(asked.message) : {});
    const gone = (): void => {
      call.track.clientGone = true;
      call.abort();
    };
    grpc.once('cancelled', gone);
    calls.begin(call);
    if ('message' in asked && call.log.debugging === true)
      call.log.debug('request', { request: dumped(asked.message) });
    try {
      if ('refusal' in asked) throw asked.refusal;
      if (this.#closing) throw new RuntimeError('Unavailable', 'the daemon is stopping; try again');
      if (grpc.cancelled) throw call.aborted();
      const working = work(call, asked.message);
      // What takes no time, as the lists, is there already.
      const { bytes, ids } = working instanceof Promise ? await inTime(call, working) : working;
      call.succeeded(ids);
      return bytes;
    } catch (thrown) {
      // Code that gave up because the signal fired may throw anything; why it gave up is what counts.
      const error = call.signal.aborted && !(thrown instanceof RuntimeError) ? call.aborted() : placed(call, thrown);
      call.failed(error);
      return statusOf(error);
    } finally {
      grpc.off('cancelled', gone);
      calls.end(call);
    }
  }

  #begin({ method, treatment }: Route, grpc: AnyCall, ids: Readonly<Record<string, string>>): Call {
    const id = (this.#requests = (this.#requests + 1) & 0xff_ffff).toString(16).padStart(4, '0');
    return new Call({
      method,
      treatment,
      id,
      ids,
      deadline: performance.now() + Number(grpc.getDeadline()) - Date.now(),
      log: this.#options.log,
      listener: this.#options.watch?.({ method, id, ids, metadata: grpc.metadata }),
    });
  }
}

function routeOf(key: keyof Rpcs, answers: Answers): Route {
  const method = methods[key] as Method;
  const { handler, ...treatment } = answers[key];
  return {
    method,
    treatment,
    handler: handler === 'unimplemented' ? unimplemented(method) : (handler as Route['handler']),
  };
}

function unimplemented(method: Method): Route['handler'] {
  return () => {
    throw new RuntimeError(
      'Unimplemented',
      `${method.path.slice(1).replace('/', '.')} is not implemented by this runtime`,
    );
  };
}

/** The request as a message, or why it is none that is taken. */
function requestOf(
  { method, treatment: { requestBytes } }: Route,
  bytes: Buffer,
): { readonly message: unknown } | { readonly refusal: unknown } {
  if (bytes.length > requestBytes) {
    const sizes = `${bytes.length} bytes long, more than the ${requestBytes} it may have`;
    return { refusal: new RuntimeError('ResourceExhausted', `the request of ${method.name} is ${sizes}`) };
  }
  try {
    return { message: method.request.decodeRequest(bytes) };
  } catch (refusal) {
    return { refusal };
  }
}

/** What `work` gives. A call with a bound fails when that passes, also if the work does not heed its signal. */
function inTime<T>(call: Call, work: Promise<T>): Promise<T> {
  return Number.isFinite(call.bound) ? call.unlessAborted(work) : work;
}

/** Resolves when the only message of a call has left for the client, or the client has. */
async function sent(call: StreamCall, message: Buffer): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  for (const end of ['cancelled', 'error', 'close'] as const) call.once(end, resolve);
  call.write(message, () => resolve());
  call.end();
  await promise;
}

function answerOf(method: Method, answer: unknown): Answer {
  return { bytes: encoded(method, answer), ids: answer instanceof Encoded ? {} : idsOf(answer) };
}

function encoded(method: Method, answer: unknown): Buffer {
  const bytes = answer instanceof Encoded ? answer.bytes : method.reply.encode(answer as object);
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
async function pump(call: Call, method: Method, items: AsyncIterable<unknown>, grpc: StreamCall): Promise<void> {
  const source = items[Symbol.asyncIterator]();
  const over = (): Error => call.aborted();
  try {
    for (;;) {
      const item = await abortable(source.next(), call.signal, over);
      if (item.done === true) return;
      if (grpc.write(encoded(method, item.value))) continue;
      await abortable(new Promise<void>((resolve) => grpc.once('drain', resolve)), call.signal, over);
    }
  } finally {
    // Not awaited: a generator that waits for an event gets to it only when it wakes up.
    source.return?.().catch(() => {});
  }
}

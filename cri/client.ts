/**
 * A typed client for CRI and berth.v1.Node over the same codec as the server: the CLI, the tests and the benchmarks use
 * it, against Berth or any other runtime's socket.
 */
import { Client as GrpcClient, credentials, Metadata, type ServiceError } from '@grpc/grpc-js';
import { limits } from '../pkg/base/limits.ts';
import type { Input, Rpcs } from '../pkg/cri-api/types.ts';
import { type Method, methods } from './codec.ts';
import { RPCS } from './rpcs.ts';
import { grpcCodeName } from './status.ts';

/** How long a call may take. */
export interface CallOptions {
  /** How long to wait, in milliseconds; 0 = for ever. Default: as the kubelet waits, two minutes for most calls. */
  readonly deadlineMs?: number | undefined;
  /** Cancels the call. */
  readonly signal?: AbortSignal;
}

/**
 * One method per RPC, in lower camel case. A unary RPC gives a promise, a streaming one an async iterable; leaving its
 * loop cancels the call. @throws CriError
 */
export type Client = {
  readonly [R in keyof Rpcs]: (
    request?: Input<Rpcs[R]['request']>,
    options?: CallOptions,
  ) => Rpcs[R]['streams'] extends true ? AsyncIterable<Rpcs[R]['reply']> : Promise<Rpcs[R]['reply']>;
} & {
  /** Resolves when the server accepts calls. @throws CriError after `timeoutMs`. */
  waitForReady(timeoutMs: number): Promise<void>;
  close(): void;
};

/** A call that did not succeed. */
export class CriError extends Error {
  /** gRPC's number. */
  readonly code: number;
  /** The same in Berth's words, such as `NotFound`; `Unknown` for what the kubelet matches by text. */
  readonly codeName: string;
  readonly rpc: string;

  constructor(rpc: string, code: number, message: string) {
    super(message);
    this.name = 'CriError';
    this.rpc = rpc;
    this.code = code;
    this.codeName = grpcCodeName(code);
  }
}

/**
 * A client for the socket at `path`; connects when first used. `patienceMs`: how long unary calls wait that say nothing
 * else, in place of what each usually does.
 */
export function connect(path: string, patienceMs?: number): Client {
  const grpc = new GrpcClient(`unix:${path}`, credentials.createInsecure(), {
    'grpc.max_receive_message_length': -1,
    'grpc.max_send_message_length': limits.grpcMessageBytes,
    // Without it a client that starts before the server waits a second for its next attempt.
    'grpc.initial_reconnect_backoff_ms': 50,
    'grpc.max_reconnect_backoff_ms': 500,
    // Clients of one path in one process must not share a connection: a test that closes one would disturb another.
    'grpc.use_local_subchannel_pool': 1,
  });
  const calls = Object.fromEntries(
    Object.entries(methods).map(([key, method]) => [
      key,
      method.streams
        ? stream(grpc, key as keyof Rpcs, method as Method)
        : unary(grpc, key as keyof Rpcs, method as Method, patienceMs),
    ]),
  );
  let closed = false;
  return {
    ...(calls as unknown as Omit<Client, 'waitForReady' | 'close'>),
    async waitForReady(timeoutMs) {
      for (const end = performance.now() + timeoutMs; ; ) {
        if (await isReadyWithin(grpc, Math.min(READY_SLICE_MS, end - performance.now()))) return;
        if (closed || performance.now() >= end)
          throw new CriError(
            'connect',
            14,
            closed ? `the client of ${path} was closed` : `nobody answers on ${path} within ${timeoutMs} ms`,
          );
      }
    },
    close() {
      closed = true;
      grpc.close();
    },
  };
}

/**
 * A closed client of grpc-js goes on waiting to its deadline, and keeps the process alive: it waits a little at a time.
 */
const READY_SLICE_MS = 500;

function isReadyWithin(grpc: GrpcClient, ms: number): Promise<boolean> {
  return new Promise((resolve) => {
    grpc.waitForReady(Date.now() + ms, (error) => resolve(error === undefined));
  });
}

function deadline(key: keyof Rpcs, options: CallOptions): { deadline?: number } {
  const ms = options.deadlineMs ?? RPCS[key].clientMs;
  return ms === 0 ? {} : { deadline: Date.now() + ms };
}

function unary(grpc: GrpcClient, key: keyof Rpcs, method: Method, patienceMs: number | undefined) {
  return (request: unknown = {}, options: CallOptions = {}): Promise<unknown> =>
    new Promise((resolve, reject) => {
      const call = grpc.makeUnaryRequest(
        method.path,
        method.request.encode as (value: unknown) => Buffer,
        method.reply.decode,
        request,
        new Metadata(),
        deadline(key, { deadlineMs: patienceMs, ...options }),
        (error, reply) => {
          options.signal?.removeEventListener('abort', cancel);
          if (error === null) resolve(reply);
          else reject(criError(method, error));
        },
      );
      const cancel = (): void => call.cancel();
      options.signal?.addEventListener('abort', cancel, { once: true });
      if (options.signal?.aborted === true) cancel();
    });
}

function stream(grpc: GrpcClient, key: keyof Rpcs, method: Method) {
  return async function* (request: unknown = {}, options: CallOptions = {}): AsyncGenerator<unknown> {
    const call = grpc.makeServerStreamRequest(
      method.path,
      method.request.encode as (value: unknown) => Buffer,
      method.reply.decode,
      request,
      new Metadata(),
      deadline(key, options),
    );
    const cancel = (): void => call.cancel();
    options.signal?.addEventListener('abort', cancel, { once: true });
    if (options.signal?.aborted === true) cancel();
    try {
      yield* call;
    } catch (error) {
      throw criError(method, error as ServiceError);
    } finally {
      options.signal?.removeEventListener('abort', cancel);
      call.cancel();
    }
  };
}

function criError(method: Method, error: Partial<ServiceError>): CriError {
  return new CriError(method.name, error.code ?? 2, error.details ?? error.message ?? 'unknown failure');
}

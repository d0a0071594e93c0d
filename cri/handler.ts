/** What answers an RPC. Handlers know nothing of gRPC. */
import type { Op } from '../pkg/base/op.ts';
import type { Input, Rpcs } from '../pkg/cri-api/types.ts';
import type { Encoded } from './codec.ts';

/** A reply as an object, or as bytes that were made before. */
export type Reply<R extends keyof Rpcs> = Input<Rpcs[R]['reply']> | Encoded;

/** Answers one RPC; a streaming one is an async iterable that must end when `op.signal` fires. */
export type Handler<R extends keyof Rpcs> = Rpcs[R]['streams'] extends true
  ? (op: Op, request: Rpcs[R]['request']) => AsyncIterable<Reply<R>>
  : (op: Op, request: Rpcs[R]['request']) => Promise<Reply<R>> | Reply<R>;

/** What a service brings: handlers under the names of their RPCs. Which of them answers is said in rpcs.ts. */
export type Handlers = { readonly [R in keyof Rpcs]?: Handler<R> };

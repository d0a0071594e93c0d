/** Makes a span of each call that is sampled, and one of each of its stages. */
import { randomBytes } from 'node:crypto';
import { explain } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type CallListener, type CallWatch, type WatchedCall } from '../watch.ts';
import { isSampled, parseTraceParent, type TraceParent } from './context.ts';
import type { Span } from './otlp.ts';

/** Fixed by W3C Trace Context. */
const TRACE_ID_BYTES = 16;
/** Likewise. */
const SPAN_ID_BYTES = 8;
/** W3C Trace Context: what of a tracestate has to be passed on. */
const TRACE_STATE_CHARS = 512;
const NANOS_PER_MS = 1e6;

/** How calls are traced. */
export interface TracerOptions {
  readonly perMillion: number;
  /** Takes a span that is finished. */
  readonly take: (span: Span) => void;
  readonly chance?: () => number;
}

/** Hears of calls, for traces. */
export function traceCalls({ perMillion, take, chance = Math.random }: TracerOptions): CallWatch {
  return (call) => {
    const parent = parseTraceParent(call.metadata.get('traceparent')[0]);
    return isSampled(parent, perMillion, chance()) ? new CallTrace(call, parent, take) : undefined;
  };
}

class CallTrace implements CallListener {
  readonly #call: WatchedCall;
  readonly #parent: TraceParent | undefined;
  readonly #take: (span: Span) => void;
  readonly #traceId: Buffer;
  readonly #spanId = randomBytes(SPAN_ID_BYTES);
  readonly #state: string;
  readonly #start = now();
  #stage: { readonly name: string; readonly start: bigint } | undefined;
  #stages = 0;
  #over = false;

  constructor(call: WatchedCall, parent: TraceParent | undefined, take: (span: Span) => void) {
    this.#call = call;
    this.#parent = parent;
    this.#take = take;
    this.#traceId = parent?.traceId ?? randomBytes(TRACE_ID_BYTES);
    const state = parent === undefined ? '' : String(call.metadata.get('tracestate')[0] ?? '');
    this.#state = state.length > TRACE_STATE_CHARS ? '' : state;
  }

  stage(what: string): void {
    // What goes on without its client has no span any more to be part of.
    if (this.#over || what === this.#stage?.name) return;
    this.#endStage();
    if (++this.#stages <= limits.spansPerCallCount) this.#stage = { name: what, start: now() };
  }

  ended(failure: Parameters<CallListener['ended']>[0]): void {
    this.#endStage();
    this.#over = true;
    const { method, id, ids } = this.#call;
    const [, service = '', rpc = ''] = method.path.split('/');
    this.#take({
      ...this.#common(this.#spanId, this.#parent?.spanId),
      name: `${service}/${rpc}`,
      kind: 'server',
      start: this.#start,
      end: now(),
      attributes: {
        'rpc.system': 'grpc',
        'rpc.service': service,
        'rpc.method': rpc,
        'berth.request': id,
        ...Object.fromEntries(Object.entries(ids).map(([name, value]) => [`berth.${name}`, value])),
        ...(failure === undefined ? {} : { 'berth.code': failure.code }),
      },
      failure: failure === undefined ? undefined : explain(failure.error).slice(0, limits.statusMessageChars),
    });
  }

  #endStage(): void {
    const stage = this.#stage;
    this.#stage = undefined;
    if (stage === undefined) return;
    this.#take({
      ...this.#common(randomBytes(SPAN_ID_BYTES), this.#spanId),
      name: stage.name,
      kind: 'internal',
      start: stage.start,
      end: now(),
      attributes: {},
      failure: undefined,
    });
  }

  #common(spanId: Buffer, parentId: Buffer | undefined): Pick<Span, 'traceId' | 'spanId' | 'parentId' | 'state'> {
    return { traceId: this.#traceId, spanId, parentId, state: this.#state };
  }
}

/** Nanoseconds since the epoch, by a clock that nobody sets, so that no span ends before it begins. */
function now(): bigint {
  return BigInt(Math.round((performance.timeOrigin + performance.now()) * NANOS_PER_MS));
}

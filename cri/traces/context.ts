/** PURE. Where a call belongs in a trace, as its client says it: W3C Trace Context, level 1. */

/** What a client says of the trace that its call is part of. */
export interface TraceParent {
  readonly traceId: Buffer;
  readonly spanId: Buffer;
  readonly isSampled: boolean;
}

/** version, trace-id, parent-id, trace-flags; later versions may have more behind. */
const TRACEPARENT = /^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?$/;

/** Reads a header `traceparent`; undefined if there is none, or one that means nothing. */
export function parseTraceParent(header: unknown): TraceParent | undefined {
  const found = typeof header === 'string' ? TRACEPARENT.exec(header) : null;
  if (found === null) return undefined;
  const [, version = '', trace = '', span = '', flags = '', more] = found;
  if (version === 'ff' || (version === '00' && more !== undefined)) return undefined;
  if (/^0+$/.test(trace) || /^0+$/.test(span)) return undefined;
  return {
    traceId: Buffer.from(trace, 'hex'),
    spanId: Buffer.from(span, 'hex'),
    isSampled: (Number.parseInt(flags, 16) & 1) === 1,
  };
}

const MILLION = 1_000_000;

/** Whether a call is traced: as its client says, else by chance. `chance` is from 0 to 1, without 1. */
export function isSampled(parent: TraceParent | undefined, perMillion: number, chance: number): boolean {
  return parent?.isSampled ?? chance * MILLION < perMillion;
}

/**
 * PURE. Spans as OTLP has them: ExportTraceServiceRequest of opentelemetry/proto/collector/trace/v1, of which these few
 * fields are needed. The official SDK is some hundred times as much code.
 */

/** One span, finished. */
export interface Span {
  /** 16 bytes. */
  readonly traceId: Buffer;
  /** 8 bytes. */
  readonly spanId: Buffer;
  /** 8 bytes; none for a span that begins its trace. */
  readonly parentId: Buffer | undefined;
  /** W3C tracestate of the caller; '' if there is none. */
  readonly state: string;
  readonly name: string;
  readonly kind: 'server' | 'internal';
  /** Nanoseconds since the epoch. */
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, string | number>>;
  /** Why it failed; undefined if it did not. */
  readonly failure: string | undefined;
}

/** Who sends spans. */
export interface Sender {
  /** Attributes of the resource, such as service.name. */
  readonly resource: Readonly<Record<string, string | number>>;
  readonly name: string;
  readonly version: string;
}

/** Wire types of protobuf. */
const VARINT = 0;
const FIXED64 = 1;
const BYTES = 2;
/** Span.SpanKind. */
const KINDS = { internal: 1, server: 2 } as const;
/** Status.StatusCode. */
const STATUS_ERROR = 2;

/** The request that gives these spans to a collector. */
export function encodeSpans(sender: Sender, spans: readonly Span[]): Buffer {
  const scope = message(text(1, sender.name), text(2, sender.version));
  const scopeSpans = message(nested(1, scope), ...spans.map((span) => nested(2, encodeSpan(span))));
  const resourceSpans = message(nested(1, message(...attributes(1, sender.resource))), nested(2, scopeSpans));
  return nested(1, resourceSpans);
}

function encodeSpan(span: Span): Buffer {
  return message(
    nested(1, span.traceId),
    nested(2, span.spanId),
    text(3, span.state),
    nested(4, span.parentId ?? Buffer.alloc(0)),
    text(5, span.name),
    number(6, KINDS[span.kind]),
    fixed64(7, span.start),
    fixed64(8, span.end),
    ...attributes(9, span.attributes),
    span.failure === undefined ? Buffer.alloc(0) : nested(15, message(text(2, span.failure), number(3, STATUS_ERROR))),
  );
}

function attributes(field: number, values: Readonly<Record<string, string | number>>): Buffer[] {
  return Object.entries(values).map(([key, value]) => {
    const any = typeof value === 'number' ? number(3, value) : nested(1, Buffer.from(value));
    return nested(field, message(text(1, key), nested(2, any)));
  });
}

function message(...fields: readonly Buffer[]): Buffer {
  return Buffer.concat(fields);
}

function nested(field: number, value: Buffer): Buffer {
  return Buffer.concat([varint(field * 8 + BYTES), varint(value.length), value]);
}

function text(field: number, value: string): Buffer {
  return value === '' ? Buffer.alloc(0) : nested(field, Buffer.from(value));
}

/** Not negative, and no more than a double holds exactly. */
function number(field: number, value: number): Buffer {
  return Buffer.concat([varint(field * 8 + VARINT), varint(value)]);
}

function fixed64(field: number, value: bigint): Buffer {
  const bytes = Buffer.alloc(8);
  bytes.writeBigUInt64LE(BigInt.asUintN(64, value));
  return Buffer.concat([varint(field * 8 + FIXED64), bytes]);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Buffer.from([...bytes, rest]);
}

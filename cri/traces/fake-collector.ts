/** A collector of traces for tests: a real gRPC server, and a reader of OTLP that is not ours. */
import { Server, ServerCredentials, type sendUnaryData, type ServerUnaryCall, status } from '@grpc/grpc-js';
import protobuf from 'protobufjs';

/** As much of opentelemetry/proto/trace/v1 as is sent. */
const PROTO = `
  syntax = "proto3";
  message Request { repeated ResourceSpans resource_spans = 1; }
  message ResourceSpans { Resource resource = 1; repeated ScopeSpans scope_spans = 2; }
  message Resource { repeated KeyValue attributes = 1; }
  message ScopeSpans { Scope scope = 1; repeated Span spans = 2; }
  message Scope { string name = 1; string version = 2; }
  message Span {
    bytes trace_id = 1; bytes span_id = 2; string trace_state = 3; bytes parent_span_id = 4; string name = 5;
    int32 kind = 6; fixed64 start_time_unix_nano = 7; fixed64 end_time_unix_nano = 8;
    repeated KeyValue attributes = 9; Status status = 15;
  }
  message Status { string message = 2; int32 code = 3; }
  message KeyValue { string key = 1; AnyValue value = 2; }
  message AnyValue { string string_value = 1; int64 int_value = 3; }`;

/** A span as it was received; ids in hex, attributes as text. */
export interface ReceivedSpan {
  readonly traceId: string;
  readonly spanId: string;
  readonly parentId: string;
  readonly state: string;
  readonly name: string;
  readonly kind: number;
  readonly start: bigint;
  readonly end: bigint;
  readonly attributes: Readonly<Record<string, string>>;
  readonly failure: string;
  readonly code: number;
  readonly resource: Readonly<Record<string, string>>;
}

interface KeyValue {
  readonly key: string;
  readonly value: { readonly stringValue?: string; readonly intValue?: { toString(): string } };
}
interface Request {
  readonly resourceSpans: readonly {
    readonly resource: { readonly attributes: readonly KeyValue[] };
    readonly scopeSpans: readonly { readonly spans: readonly SpanMessage[] }[];
  }[];
}
interface SpanMessage {
  readonly traceId: Uint8Array;
  readonly spanId: Uint8Array;
  readonly parentSpanId: Uint8Array;
  readonly traceState: string;
  readonly name: string;
  readonly kind: number;
  readonly startTimeUnixNano: { toString(): string };
  readonly endTimeUnixNano: { toString(): string };
  readonly attributes: readonly KeyValue[];
  readonly status?: { readonly message: string; readonly code: number } | null;
}

/** Reads a request. */
export function decodeSpans(bytes: Uint8Array): ReceivedSpan[] {
  const type = protobuf.parse(PROTO).root.lookupType('Request');
  const { resourceSpans } = type.decode(bytes) as unknown as Request;
  return resourceSpans.flatMap(({ resource, scopeSpans }) =>
    scopeSpans.flatMap(({ spans }) => spans.map((span) => received(span, texts(resource.attributes)))),
  );
}

function received(span: SpanMessage, resource: ReceivedSpan['resource']): ReceivedSpan {
  const hex = (bytes: Uint8Array): string => Buffer.from(bytes).toString('hex');
  return {
    traceId: hex(span.traceId),
    spanId: hex(span.spanId),
    parentId: hex(span.parentSpanId),
    state: span.traceState,
    name: span.name,
    kind: span.kind,
    start: BigInt(span.startTimeUnixNano.toString()),
    end: BigInt(span.endTimeUnixNano.toString()),
    attributes: texts(span.attributes),
    failure: span.status?.message ?? '',
    code: span.status?.code ?? 0,
    resource,
  };
}

function texts(all: readonly KeyValue[]): Record<string, string> {
  return Object.fromEntries(
    all.map(({ key, value }) => [key, value.stringValue === '' ? String(value.intValue) : (value.stringValue ?? '')]),
  );
}

/** A collector that keeps what it gets. */
export class FakeCollector {
  readonly spans: ReceivedSpan[] = [];
  requests = 0;
  /** Answers so from now on. */
  refuses = false;
  readonly #server = new Server();
  #wake: (() => void) | undefined;

  /** Listens on loopback; returns `host:port`. */
  async listen(at = '127.0.0.1:0'): Promise<string> {
    const same = (bytes: Buffer): Buffer => bytes;
    const take = (call: ServerUnaryCall<Buffer, Buffer>, reply: sendUnaryData<Buffer>): void => {
      this.requests++;
      if (this.refuses) reply({ code: status.RESOURCE_EXHAUSTED, details: 'full' });
      else {
        this.spans.push(...decodeSpans(call.request));
        reply(null, Buffer.alloc(0));
      }
      this.#wake?.();
    };
    const path = '/opentelemetry.proto.collector.trace.v1.TraceService/Export';
    this.#server.register(path, take as never, same, same, 'unary');
    const port = await new Promise<number>((resolve, reject) => {
      this.#server.bindAsync(at, ServerCredentials.createInsecure(), (error, bound) =>
        error === null ? resolve(bound) : reject(error),
      );
    });
    return `127.0.0.1:${port}`;
  }

  /** Resolves when what came satisfies `enough`. */
  async until(enough: () => boolean): Promise<void> {
    while (!enough()) await new Promise<void>((resolve) => (this.#wake = resolve));
  }

  close(): void {
    this.#server.forceShutdown();
  }
}

/**
 * Sends spans to a collector by OTLP over gRPC, some at a time. One that is absent costs what was to be sent, and one
 * line in the log; nothing is kept for it but what fits the queue.
 */
import { Client, credentials, type ServiceError } from '@grpc/grpc-js';
import { limits } from '../../pkg/base/limits.ts';
import type { Logger } from '../../pkg/base/op.ts';
import { within } from '../../pkg/base/time.ts';
import { encodeSpans, type Sender, type Span } from './otlp.ts';

const EXPORT = '/opentelemetry.proto.collector.trace.v1.TraceService/Export';

/** To whom, and as whom. */
export interface ExporterOptions {
  /** `host:port`, or `unix:path`. */
  readonly endpoint: string;
  readonly sender: Sender;
  readonly log: Logger;
  /** How long a span waits for others; limits.ts unless given. */
  readonly waitMs?: number;
}

/** A queue of spans, and the way out of it. */
export class Exporter {
  readonly #options: ExporterOptions;
  readonly #client: Client;
  #queue: Span[] = [];
  #timer: NodeJS.Timeout | undefined;
  #sending: Promise<void> | undefined;
  #failing = false;
  /** Spans that no collector has got. */
  droppedCount = 0;

  constructor(options: ExporterOptions) {
    this.#options = options;
    const { endpoint } = options;
    this.#client = new Client(
      endpoint.startsWith('unix:') ? endpoint : `dns:${endpoint}`,
      // As CRI-O's: a collector is on the node, or behind something of the operator's.
      credentials.createInsecure(),
      { 'grpc.use_local_subchannel_pool': 1 },
    );
  }

  /** Sends it some time, unless too many wait already. */
  readonly take = (span: Span): void => {
    if (this.#queue.length >= limits.spansQueuedCount) {
      this.droppedCount++;
      return;
    }
    this.#queue.push(span);
    if (this.#queue.length >= limits.spansSentCount) void this.#send();
    else this.#timer ??= setTimeout(() => void this.#send(), this.#options.waitMs ?? limits.spansWaitMs).unref();
  };

  /** Sends what waits, if that is quick. */
  async close(): Promise<void> {
    await within(limits.replyFlushMs, this.#sendAll());
    clearTimeout(this.#timer);
    this.#client.close();
  }

  async #sendAll(): Promise<void> {
    while (this.#queue.length > 0 || this.#sending !== undefined) await this.#send();
  }

  /** One request at a time: a slow collector fills the queue, and nothing else. */
  #send(): Promise<void> {
    clearTimeout(this.#timer);
    this.#timer = undefined;
    this.#sending ??= this.#sendSome().finally(() => {
      this.#sending = undefined;
      if (this.#queue.length > 0)
        this.#timer ??= setTimeout(() => void this.#send(), this.#options.waitMs ?? limits.spansWaitMs).unref();
    });
    return this.#sending;
  }

  async #sendSome(): Promise<void> {
    const spans = this.#queue.slice(0, limits.spansSentCount);
    if (spans.length === 0) return;
    this.#queue = this.#queue.slice(spans.length);
    const error = await this.#export(encodeSpans(this.#options.sender, spans));
    const { log, endpoint } = this.#options;
    if (error !== null) this.droppedCount += spans.length;
    if (error !== null && !this.#failing)
      log.warn('traces cannot be sent, and are dropped until the collector takes them', {
        endpoint,
        cause: error.details || error.message,
      });
    if (error === null && this.#failing) log.info('traces are sent again', { endpoint, dropped: this.droppedCount });
    this.#failing = error !== null;
  }

  #export(request: Buffer): Promise<ServiceError | null> {
    const same = (bytes: Buffer): Buffer => bytes;
    const deadline = Date.now() + limits.spansSendMs;
    return new Promise((resolve) => {
      this.#client.makeUnaryRequest(EXPORT, same, same, request, { deadline }, resolve);
    });
  }
}

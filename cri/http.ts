/**
 * HTTP/1 on connections that somebody else has accepted: one request each, and nothing of it without a bound. What is
 * shown is decided by `Pages`.
 */
import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { Socket } from 'node:net';
import type { Readable } from 'node:stream';
import { pipeline } from 'node:stream/promises';
import { type ErrorCode, explain, RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Logger } from '../pkg/base/op.ts';

/** What is shown. */
export interface Page {
  readonly type: 'application/json' | 'application/toml' | 'application/octet-stream' | 'text/plain' | 'text/html';
  readonly body: string | Buffer | Readable;
}

/**
 * What is at `path`, which begins with a slash and has no query, for this query; undefined if nothing is. `signal`
 * fires when nobody waits for it any more. @throws RuntimeError, whose text is shown.
 */
export type Pages = (
  path: string,
  signal: AbortSignal,
  query: URLSearchParams,
) => Promise<Page | undefined> | Page | undefined;

const STATUS: Readonly<Partial<Record<ErrorCode, number>>> = {
  InvalidArgument: 400,
  NotFound: 404,
  FailedPrecondition: 409,
  ResourceExhausted: 429,
  Unimplemented: 501,
  Unavailable: 503,
  DeadlineExceeded: 504,
};

/** The HTTP half of the socket. */
export class HttpDoor {
  readonly #pages: Pages;
  readonly #log: Logger;
  /** With the timer that ends each: Node keeps bounds of time only for servers that listen, and this one never does. */
  readonly #open = new Map<Socket, NodeJS.Timeout>();
  readonly #server = createServer(
    { maxHeaderSize: limits.httpHeaderBytes },
    (request, response) => void this.#answer(request, response),
  );

  constructor(pages: Pages, log: Logger) {
    this.#pages = pages;
    this.#log = log;
    this.#server.on('clientError', (error: NodeJS.ErrnoException, connection) => {
      if (connection.writable) connection.end(bare(error.code === 'HPE_HEADER_OVERFLOW' ? 431 : 400));
      else connection.destroy();
    });
  }

  /** Serves one request on a connection. */
  take(connection: Socket): void {
    if (this.#open.size >= limits.httpRequestsCount) {
      connection.on('error', () => {}).end(bare(503), () => connection.destroy());
      return;
    }
    this.#bound(connection, limits.connectionSilentMs);
    connection.once('close', () => {
      clearTimeout(this.#open.get(connection));
      this.#open.delete(connection);
    });
    this.#server.emit('connection', connection);
  }

  /** Ends what is still being answered. */
  close(): void {
    for (const connection of this.#open.keys()) connection.destroy();
  }

  #bound(connection: Socket, ms: number): void {
    clearTimeout(this.#open.get(connection));
    this.#open.set(
      connection,
      setTimeout(() => connection.destroy(), ms),
    );
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.#bound(request.socket, limits.httpAnswerMs);
    // One request for each connection: what else comes on it is nobody's.
    response.setHeader('connection', 'close');
    const [path = '', query = ''] = (request.url ?? '').split(/\?(.*)/, 2);
    const gone = new AbortController();
    response.once('close', () => gone.abort());
    try {
      const page =
        request.method === 'GET' ? await this.#pages(path, gone.signal, new URLSearchParams(query)) : undefined;
      if (request.method !== 'GET') plain(response.setHeader('allow', 'GET'), 405, 'only GET is answered here');
      else if (page === undefined) plain(response, 404, '404 page not found');
      else await show(response, page);
    } catch (cause) {
      if (gone.signal.aborted) return;
      const status = (cause instanceof RuntimeError ? STATUS[cause.code] : undefined) ?? 500;
      if (status === 500) this.#log.warn('a page cannot be shown', { path, cause: explain(cause) });
      if (response.headersSent) response.destroy();
      else plain(response, status, explain(cause));
    }
  }
}

async function show(response: ServerResponse, { type, body }: Page): Promise<void> {
  response.setHeader('content-type', type);
  if (typeof body === 'string' || Buffer.isBuffer(body)) response.end(body);
  else await pipeline(body, response);
}

function plain(response: ServerResponse, status: number, text: string): void {
  response.statusCode = status;
  response.setHeader('content-type', 'text/plain; charset=utf-8');
  response.end(`${text}\n`);
}

/** An answer to something that has no request object. */
function bare(status: 400 | 431 | 503): string {
  return `HTTP/1.1 ${status} \r\ncontent-length: 0\r\nconnection: close\r\n\r\n`;
}

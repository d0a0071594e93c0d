/**
 * Serves `/metrics` on a port, and on a unix socket, by HTTP or by TLS as CRI-O does. Bounded: whoever reaches the port
 * may open connections and say nothing.
 */
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type RequestListener, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import { hostname } from 'node:os';
import { dirname } from 'node:path';
import { errnoOf, explain, RuntimeError } from '../../pkg/base/errors.ts';
import { ensureDir, readBounded, replaceFile } from '../../pkg/base/files.ts';
import { limits } from '../../pkg/base/limits.ts';
import type { Logger } from '../../pkg/base/op.ts';
import { type TlsDemands, tlsOptions } from '../../pkg/base/tls.ts';
import { type PlacedSocket, placeSocket } from '../socket.ts';
import { selfSigned } from './certificate.ts';
import { TEXT_TYPE } from './registry.ts';

/** Where metrics are served, and what. */
export interface ListenerOptions {
  /** '' = all addresses. */
  readonly host: string;
  readonly port: number;
  /** Path of a unix socket; '' = none. */
  readonly socket: string;
  /** Paths of PEM files, read again when they change; undefined = no TLS. */
  readonly tls: ({ readonly cert: string; readonly key: string } & TlsDemands) | undefined;
  readonly log: Logger;
  readonly text: () => Promise<string>;
}

/** The metrics, served. */
export class MetricsListener {
  readonly #options: ListenerOptions;
  readonly #servers: (Server | TlsServer)[] = [];
  #socket: PlacedSocket | undefined;
  /** What the files were that are served. */
  #served = '';
  #isLooking = false;

  private constructor(options: ListenerOptions) {
    this.#options = options;
  }

  /** @throws FailedPrecondition that names the keys to change: nothing can listen there, or no certificate be read. */
  static async open(options: ListenerOptions): Promise<MetricsListener> {
    const listener = new MetricsListener(options);
    try {
      await listener.#open();
      return listener;
    } catch (cause) {
      await listener.close();
      throw cause;
    }
  }

  /** The port that it has got. */
  get port(): number {
    const bound = this.#servers[0]?.address();
    return typeof bound === 'object' && bound !== null ? bound.port : this.#options.port;
  }

  /** Ends what is being answered. */
  async close(): Promise<void> {
    this.#socket?.remove();
    await Promise.all(
      this.#servers.map(async (server) => {
        const closed = new Promise((resolve) => server.close(resolve));
        server.closeAllConnections();
        await closed;
      }),
    );
  }

  async #open(): Promise<void> {
    const { host, port, socket, tls, log } = this.#options;
    if (tls !== undefined) await makeMissing(tls, log);
    const byPort = this.#serve();
    await this.#loadCertificates();
    await listening(byPort, host, port);
    log.info('serving metrics', { address: host === '' ? '*' : host, port: this.port, tls: tls !== undefined });
    if (socket === '') return;
    const bySocket = this.#serve();
    this.#served = '';
    await this.#loadCertificates();
    this.#socket = await placeSocket(socket, bySocket).catch((cause: unknown) => {
      throw new RuntimeError('FailedPrecondition', 'metrics_socket cannot be served', { cause });
    });
  }

  #serve(): Server | TlsServer {
    const { tls } = this.#options;
    const bounds = {
      maxHeaderSize: limits.httpHeaderBytes,
      headersTimeout: limits.metricHeadersMs,
      requestTimeout: limits.metricHeadersMs,
      connectionsCheckingInterval: limits.metricHeadersMs / 10,
      keepAliveTimeout: limits.metricIdleMs,
    };
    const answer: RequestListener = (request, response) => void this.#answer(request, response);
    const server =
      tls === undefined
        ? createServer(bounds, answer)
        : createTlsServer({ ...bounds, handshakeTimeout: limits.metricHeadersMs }, answer);
    server.maxConnections = limits.metricConnectionsCount;
    // Whoever asks and does not read.
    server.setTimeout(limits.metricIdleMs);
    // A certificate that was renewed is served to the next one that comes; no watch and no timer is needed for that.
    if (tls !== undefined) server.on('connection', () => this.#look());
    server.on('error', (cause) =>
      this.#options.log.warn('the server of the metrics had an error, ignoring', { cause: explain(cause) }),
    );
    this.#servers.push(server);
    return server;
  }

  #look(): void {
    if (this.#isLooking) return;
    this.#isLooking = true;
    void this.#loadCertificates()
      .catch((cause: unknown) =>
        this.#options.log.warn('cannot read the changed certificate of the metrics, going on with the old one', {
          cause: explain(cause),
        }),
      )
      .finally(() => (this.#isLooking = false));
  }

  async #loadCertificates(): Promise<void> {
    const { tls } = this.#options;
    if (tls === undefined) return;
    const paths = [tls.cert, tls.key];
    try {
      const stats = await Promise.all(paths.map((path) => stat(path, { bigint: true })));
      const now = stats.map(({ ino, size, mtimeNs }) => `${ino} ${size} ${mtimeNs}`).join();
      if (now === this.#served) return;
      const [cert, key] = await Promise.all(paths.map((path) => readBounded(path, limits.configFileBytes)));
      for (const server of this.#servers)
        if ('setSecureContext' in server) server.setSecureContext({ cert, key, ...tlsOptions(tls) });
      this.#served = now;
    } catch (cause) {
      throw new RuntimeError('FailedPrecondition', 'metrics_cert and metrics_key cannot be used', { cause });
    }
  }

  async #answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const path = (request.url ?? '').split('?', 1)[0];
    if (path !== '/metrics') return plain(response, 404, 'metrics are at /metrics');
    if (request.method !== 'GET' && request.method !== 'HEAD') return plain(response, 405, 'only GET is answered here');
    try {
      const text = await this.#options.text();
      response.setHeader('content-type', TEXT_TYPE);
      response.end(text);
    } catch (cause) {
      this.#options.log.warn('metrics cannot be given', { cause: explain(cause) });
      plain(response, 500, explain(cause));
    }
  }
}

function plain(response: ServerResponse, status: number, text: string): void {
  response.writeHead(status, { 'content-type': 'text/plain; charset=utf-8' }).end(`${text}\n`);
}

async function listening(server: Server | TlsServer, host: string, port: number): Promise<void> {
  const { promise, resolve, reject } = Promise.withResolvers<void>();
  server.once('error', reject);
  server.listen({ port, ...(host === '' ? {} : { host }) }, resolve);
  await promise.catch((cause: unknown) => {
    throw new RuntimeError(
      'FailedPrecondition',
      `cannot serve metrics on ${host || '*'} port ${port}; choose others with metrics_host and metrics_port in ` +
        '[crio.metrics], or set enable_metrics = false',
      { cause },
    );
  });
  server.off('error', reject);
}

/** Makes certificate and key if neither is there, as CRI-O does. @throws FailedPrecondition if that cannot be. */
async function makeMissing({ cert, key }: { readonly cert: string; readonly key: string }, log: Logger): Promise<void> {
  const here = await Promise.all([cert, key].map(exists));
  if (here.includes(true)) return;
  const made = selfSigned(hostname(), Date.now());
  try {
    for (const path of [cert, key]) await ensureDir(dirname(path));
    await replaceFile(key, made.key, 'durable');
    await replaceFile(cert, made.cert, 'durable');
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', 'metrics_cert and metrics_key are not there and cannot be made', {
      cause,
    });
  }
  log.info('made a certificate for the metrics, signed by itself', { cert, key });
}

async function exists(path: string): Promise<boolean> {
  return await stat(path).then(
    () => true,
    (error: unknown) => errnoOf(error) !== 'ENOENT',
  );
}

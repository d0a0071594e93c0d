/**
 * Grants and their tokens, the HTTP server that takes them, TLS, and one audit line per session.
 */
import { createHash, randomBytes } from 'node:crypto';
import { stat } from 'node:fs/promises';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { createServer as createTlsServer, type Server as TlsServer } from 'node:https';
import type { Socket } from 'node:net';
import { explain, RuntimeError } from '../base/errors.ts';
import { readBounded } from '../base/files.ts';
import { limits } from '../base/limits.ts';
import type { LogFields, Logger, Op } from '../base/op.ts';
import { within } from '../base/time.ts';
import { Track } from '../base/track.ts';
import type { Operation } from '../cri-api/types.ts';
import { Admission } from './admission.ts';
import type { AttachGrant, Ending, ExecGrant, ForwardGrant, PortsClient, StdioClient } from './client.ts';
import { Meter, runAttach, runExec, runForward } from './session.ts';
import { type TlsDemands, tlsOptions } from '../base/tls.ts';
import type { StreamBackend } from '../ports/stream.ts';
import { answerRaw, kindOf, NOT_FOUND, openPorts, openStdio, refuse, refuseBody, tokenOf } from './upgrade.ts';

type Grant =
  | ({ readonly kind: 'exec' } & ExecGrant)
  | ({ readonly kind: 'attach' } & AttachGrant)
  | ({ readonly kind: 'portforward' } & ForwardGrant);

/** Whom the server serves, where, and within which bounds. */
export interface StreamServerOptions {
  readonly backend: StreamBackend;
  readonly log: Logger;
  /**
   * An IP address, or a name of this machine; '' and the unspecified addresses are all of them, named by loopback in
   * URLs.
   */
  readonly address: string;
  /** 0: the kernel chooses. */
  readonly port: number;
  /**
   * Absolute paths of PEM files; they are read again when they change. `clientCa` '' asks clients for no certificate.
   */
  readonly tls?: ({ readonly cert: string; readonly key: string; readonly clientCa: string } & TlsDemands) | undefined;
  /** A session without data, pings aside, ends after this; 0 is never. */
  readonly idleTimeoutMs: number;
  /** How many connections there may be, and how long one may take to say what it wants; limits.ts unless given. */
  readonly connections?: { readonly count: number; readonly headersMs: number };
}

/** Gives out URLs that work once, and serves the sessions behind them. */
export class StreamServer {
  readonly #options: StreamServerOptions;
  readonly #server: Server | TlsServer;
  readonly #grants = new Map<string, { readonly grant: Grant; readonly timer: NodeJS.Timeout }>();
  readonly #sessions = new Map<Promise<void>, Session>();
  readonly #sockets = new Set<Socket>();
  readonly #admission: Admission;
  #base = '';
  #certificates = '';

  private constructor(options: StreamServerOptions) {
    const { count, headersMs } = options.connections ?? {
      count: limits.streamConnectionsCount,
      headersMs: limits.streamHeadersMs,
    };
    const http = {
      maxHeaderSize: limits.streamHeaderBytes,
      headersTimeout: headersMs,
      requestTimeout: headersMs,
      // Node looks for those that are late every half a minute, unless told otherwise.
      connectionsCheckingInterval: headersMs / 10,
      keepAlive: true,
    };
    this.#options = options;
    this.#server =
      options.tls === undefined
        ? createServer(http)
        : createTlsServer({ ...http, requestCert: options.tls.clientCa !== '' });
    this.#server.on('request', (request: IncomingMessage, response: ServerResponse) => this.#answer(request, response));
    this.#server.on('upgrade', (request: IncomingMessage, socket: Socket, head: Buffer) =>
      this.#start(request, socket, head),
    );
    this.#admission = new Admission(count, headersMs / 10);
    // First of all, so that nothing is read from those who do not get in.
    this.#server.prependListener('connection', (socket: Socket) => this.#admit(socket));
  }

  /**
   * A server that listens. @throws FailedPrecondition naming the address when it cannot; what is wrong with the TLS
   * files.
   */
  static async listen(options: StreamServerOptions): Promise<StreamServer> {
    const server = new StreamServer(options);
    await server.#loadCertificates();
    await server.#listen();
    return server;
  }

  /** A URL that runs the command once. @throws ResourceExhausted when too many URLs wait to be dialled. */
  async urlForExec(grant: ExecGrant): Promise<string> {
    return await this.#urlFor({ kind: 'exec', ...grant });
  }

  /** A URL that attaches once. @throws as urlForExec. */
  async urlForAttach(grant: AttachGrant): Promise<string> {
    return await this.#urlFor({ kind: 'attach', ...grant });
  }

  /** A URL that forwards ports once. @throws as urlForExec. */
  async urlForPortForward(grant: ForwardGrant): Promise<string> {
    return await this.#urlFor({ kind: 'portforward', ...grant });
  }

  /** Sessions that run now. */
  get sessionsCount(): number {
    return this.#sessions.size;
  }

  /** The sessions, with the stage that each is at. */
  operations(): Operation[] {
    return [...this.#sessions.values()].flatMap(({ track }) => track?.row() ?? []);
  }

  /** Takes no more, ends every session with what it started, and closes; bounded. */
  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.#server.close(() => resolve()));
    for (const token of this.#grants.keys()) this.#redeem(token);
    for (const { abort } of this.#sessions.values())
      abort.abort(new RuntimeError('Cancelled', 'the runtime is stopping'));
    await within(limits.streamCloseMs, Promise.all(this.#sessions.keys()));
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }

  async #listen(): Promise<void> {
    const { address, port, tls } = this.#options;
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', reject);
      this.#server.listen({ port, ...(address === '' ? {} : { host: address }) }, () => {
        this.#server.off('error', reject);
        resolve();
      });
    }).catch((cause: unknown) => {
      throw new RuntimeError(
        'FailedPrecondition',
        `cannot serve exec, attach and port-forward on ${address || '*'} port ${port}; choose others ` +
          'with stream_address and stream_port',
        { cause },
      );
    });
    this.#server.on('error', (error) =>
      this.#options.log.warn('the stream server had an error, ignoring', { cause: explain(error) }),
    );
    const bound = this.#server.address();
    const chosen = typeof bound === 'object' && bound !== null ? bound.port : port;
    const host = address === '' || address === '0.0.0.0' ? '127.0.0.1' : address === '::' ? '::1' : address;
    this.#base = `${tls === undefined ? 'http' : 'https'}://${host.includes(':') ? `[${host}]` : host}:${chosen}`;
    this.#options.log.info('serving exec, attach and port-forward', {
      url: this.#base,
      tls: tls === undefined ? 'off' : tls.minVersion,
      clientCa: tls?.clientCa || undefined,
    });
  }

  async #urlFor(grant: Grant): Promise<string> {
    await this.#loadCertificates().catch((cause: unknown) => {
      this.#options.log.warn(
        'cannot read the changed certificates of the stream server, going on with the old ones, will retry',
        { cause: explain(cause) },
      );
    });
    if (this.#grants.size >= limits.streamTokensCount) {
      throw new RuntimeError(
        'ResourceExhausted',
        `${this.#grants.size} exec, attach or port-forward URLs wait to be dialled; try again in a minute`,
      );
    }
    const token = randomBytes(16).toString('base64url');
    const timer = setTimeout(() => this.#grants.delete(token), limits.streamTokenMs);
    timer.unref();
    this.#grants.set(token, { grant, timer });
    return `${this.#base}/${grant.kind}/${token}`;
  }

  /** What the token is for; from now on nothing. */
  #redeem(token: string): Grant | undefined {
    const found = this.#grants.get(token);
    clearTimeout(found?.timer);
    this.#grants.delete(token);
    return found?.grant;
  }

  /** Here, because every session begins with a URL: no watch and no timer are needed to serve a renewed certificate. */
  async #loadCertificates(): Promise<void> {
    const { tls } = this.#options;
    if (tls === undefined || !('setSecureContext' in this.#server)) return;
    const paths = [tls.cert, tls.key, ...(tls.clientCa === '' ? [] : [tls.clientCa])];
    const stats = await Promise.all(paths.map((path) => stat(path, { bigint: true })));
    const state = stats.map(({ ino, size, mtimeNs }) => `${ino} ${size} ${mtimeNs}`).join();
    if (state === this.#certificates) return;
    const [cert, key, ca] = await Promise.all(paths.map((path) => readBounded(path, limits.configFileBytes)));
    this.#server.setSecureContext({ cert, key, ...tlsOptions(tls), ...(ca === undefined ? {} : { ca }) });
    this.#certificates = state;
  }

  #admit(socket: Socket): void {
    const peer = peerOf(socket);
    const place = { ...peer, close: () => void socket.destroy() };
    if (this.#admission.admit(place) === 'refused') {
      socket.destroy();
      return;
    }
    this.#sockets.add(socket);
    socket.once('close', () => {
      this.#sockets.delete(socket);
      this.#admission.left(peer);
    });
  }

  /** A request that upgrades nothing uses its token up all the same. */
  #answer(request: IncomingMessage, response: ServerResponse): void {
    const refusal = refuse(request);
    const grant = refusal === undefined ? this.#redeem(tokenOf(request)) : undefined;
    const { code, text } =
      refusal ??
      (grant === undefined || grant.kind !== kindOf(request)
        ? NOT_FOUND
        : { code: 400, text: 'want an upgrade to SPDY/3.1 or websocket' });
    response.writeHead(code, { 'Content-Type': 'text/plain; charset=utf-8', Connection: 'close' });
    response.end(`${text}\n`);
  }

  #start(request: IncomingMessage, socket: Socket, head: Buffer): void {
    socket.on('error', () => socket.destroy());
    const own: Session = { abort: new AbortController(), track: undefined };
    const session = this.#serve(request, socket, head, own)
      .catch((cause: unknown) =>
        this.#options.log.error('a stream session failed: a bug', {
          cause: explain(cause),
          stack: cause instanceof Error ? cause.stack : undefined,
        }),
      )
      .finally(() => {
        socket.destroy();
        this.#sessions.delete(session);
      });
    this.#sessions.set(session, own);
  }

  async #serve(request: IncomingMessage, socket: Socket, head: Buffer, session: Session): Promise<void> {
    const refusal = refuse(request) ?? refuseBody(request);
    if (refusal !== undefined) return await answerRaw(socket, refusal);
    const grant = this.#redeem(tokenOf(request));
    if (grant === undefined || grant.kind !== kindOf(request)) return await answerRaw(socket, NOT_FOUND);
    const peer = peerOf(socket);
    this.#admission.settled(peer);
    const audit = {
      peer: `${peer.address}:${peer.port}`,
      ...(grant.kind === 'portforward' ? { sandbox: grant.podSandboxId } : { container: grant.containerId }),
    };
    session.track = new Track(`${grant.kind} session`, audit);
    session.track.stage('wait for the streams of the client');
    const log = this.#options.log.child(audit);
    socket.setNoDelay(true);
    socket.setKeepAlive(true, limits.streamHeartbeatMs);
    socket.setTimeout(0);
    try {
      if (grant.kind === 'portforward') {
        const client = await openPorts(request, socket, head, grant);
        if (client !== undefined) await this.#forward(grant, client, session, log);
      } else {
        const client = await openStdio(request, socket, head, grant);
        if (client !== undefined) await this.#stdio(grant, client, session, log);
      }
    } catch (cause) {
      log.info(`${grant.kind} refused`, { cause: explain(cause) });
    }
  }

  async #stdio(
    grant: Exclude<Grant, { readonly kind: 'portforward' }>,
    client: StdioClient,
    session: Session,
    log: Logger,
  ): Promise<void> {
    const began = performance.now();
    const { op, meter, stop } = this.#begin(client.gone, session, log);
    const { backend } = this.#options;
    const ending =
      grant.kind === 'exec'
        ? await runExec(op, backend, grant, client, meter)
        : await runAttach(op, backend, grant, client, meter);
    stop();
    op.stage('tell the client how it ended');
    log.info(`${grant.kind} ended`, {
      ...(grant.kind === 'exec' ? { argvHash: hashOf(grant.cmd) } : {}),
      tty: grant.tty,
      ...outcomeOf(ending, client.gone),
      inBytes: meter.inBytes,
      outBytes: meter.outBytes,
      ms: Math.round(performance.now() - began),
    });
    await client.finish(ending);
  }

  async #forward(grant: ForwardGrant, client: PortsClient, session: Session, log: Logger): Promise<void> {
    const began = performance.now();
    const { op, meter, stop } = this.#begin(client.gone, session, log);
    // Nothing to wait for: the connections end with the operation, and with them the client's part.
    op.signal.addEventListener('abort', () => void client.finish(), { once: true });
    let cause: string | undefined;
    try {
      await runForward(op, this.#options.backend, grant, client, meter);
    } catch (error) {
      cause = explain(error);
    }
    stop();
    op.stage('hang up');
    log.info('portforward ended', {
      inBytes: meter.inBytes,
      outBytes: meter.outBytes,
      ms: Math.round(performance.now() - began),
      cause,
    });
    await client.finish();
  }

  /** The operation of a session: it ends when the client is gone, when nothing happens, and when the server closes. */
  #begin(
    gone: AbortSignal,
    { abort, track }: Session,
    log: Logger,
  ): { readonly op: Op; readonly meter: Meter; readonly stop: () => void } {
    const { idleTimeoutMs } = this.#options;
    const meter = new Meter(idleTimeoutMs, () =>
      abort.abort(new RuntimeError('DeadlineExceeded', `no data for ${idleTimeoutMs / 1000} s (stream_idle_timeout)`)),
    );
    const hungUp = (): void => {
      if (track !== undefined) track.clientGone = true;
      abort.abort(new RuntimeError('Cancelled', 'the client hung up'));
    };
    if (gone.aborted) hungUp();
    else gone.addEventListener('abort', hungUp, { once: true });
    return {
      op: { signal: abort.signal, deadline: Number.POSITIVE_INFINITY, log, stage: (what) => track?.stage(what) },
      meter,
      stop: () => {
        meter.stop();
        gone.removeEventListener('abort', hungUp);
      },
    };
  }
}

/** Of a connection, and of TLS on top of it, the same. */
function peerOf(socket: Socket): { readonly address: string; readonly port: number } {
  return { address: socket.remoteAddress ?? '', port: socket.remotePort ?? 0 };
}

/** A connection that was upgraded, or tries to be. */
interface Session {
  readonly abort: AbortController;
  /** From the moment that its token was good. */
  track: Track | undefined;
}

/** For the audit log: commands hold secrets, and their hash is enough to recognise one. */
function hashOf(argv: readonly string[]): string {
  return createHash('sha256').update(argv.join('\0')).digest('hex').slice(0, 16);
}

function outcomeOf(ending: Ending, client: AbortSignal): LogFields {
  if (ending.kind === 'exited') return { exit: ending.exitCode, cause: ending.why };
  return client.aborted ? { cause: 'the client hung up' } : { cause: ending.message };
}

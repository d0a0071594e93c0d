/** The transport of the product: undici, with connections kept per route. */
import { createSecureContext, getCACertificates } from 'node:tls';
import type { SecureContext } from 'node:tls';
import type * as Undici from 'undici';
import { RuntimeError } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { nextTurn } from '../../base/loop-share.ts';
import { inBlocks } from '../blocks.ts';
import { parseUrl } from './http.ts';
import type { HttpRequest, HttpResponse, Route, Transport } from './http.ts';

/** The real thing. undici is loaded at the first request: a node that never pulls does not pay for it. */
export class UndiciTransport implements Transport {
  /** Least recently used first; a route whose certificates changed is another route. */
  readonly #agents = new Map<string, Undici.Agent | Undici.ProxyAgent>();
  #undici: Promise<typeof Undici> | undefined;

  async send(request: HttpRequest, route: Route, signal: AbortSignal): Promise<HttpResponse> {
    const dispatcher = await this.#agent(route);
    const answer = await dispatcher.request({
      origin: request.url.origin,
      path: `${request.url.pathname}${request.url.search}`,
      method: request.method,
      headers: request.headers,
      body: request.body ?? null,
      signal,
      highWaterMark: limits.registryReadBytes,
    });
    // A body that nobody listens to must not become an unhandled error.
    answer.body.on('error', () => {});
    return {
      status: answer.statusCode,
      headers: answer.headers,
      url: request.url,
      body: inBlocks(
        answer.body,
        Math.min(limits.registryReadBytes, Number(answer.headers['content-length'] ?? limits.registryReadBytes)),
      ),
      discard: () => void answer.body.destroy(),
    };
  }

  async close(): Promise<void> {
    const agents = [...this.#agents.values()];
    this.#agents.clear();
    await Promise.all(agents.map((agent) => agent.destroy()));
  }

  async #agent(route: Route): Promise<Undici.Dispatcher> {
    const key = JSON.stringify(route);
    const undici = await (this.#undici ??= loadUndici());
    const agent = this.#agents.get(key) ?? makeAgent(undici, route);
    this.#agents.delete(key);
    this.#agents.set(key, agent);
    for (const [old, stale] of this.#agents) {
      if (this.#agents.size <= limits.registryRoutesCount) break;
      this.#agents.delete(old);
      void stale.close();
    }
    return agent;
  }
}

async function loadUndici(): Promise<typeof Undici> {
  // CommonJS: bundled, it has no named exports.
  const undici = (await import('undici')).default as unknown as typeof Undici;
  // To load it takes some 50 ms; what it is loaded for, and the authorities that this trusts, are of another turn.
  await nextTurn();
  return undici;
}

function makeAgent(undici: typeof Undici, route: Route): Undici.Agent | Undici.ProxyAgent {
  const shared = {
    // Several HTTP/1.1 connections move large layers faster than streams within one.
    allowH2: false,
    connections: limits.registryConnectionsCount,
    maxHeaderSize: limits.registryHeaderBytes,
    headersTimeout: limits.registryHeadersMs,
    // The pull's own watchdog measures bytes over a window; an idle timer sees neither trickles nor our own slowness.
    bodyTimeout: 0,
    connectTimeout: route.dialTimeoutMs,
  };
  if (route.proxy === undefined) return new undici.Agent({ ...shared, connect: connectorOf(undici, route) });
  return new undici.ProxyAgent({ ...shared, ...proxyOf(route.proxy), requestTls: tlsOf(route) });
}

/** Reads authorities when the first host is called by https, not before: where none is, nobody pays for them. */
function connectorOf(undici: typeof Undici, route: Route): Undici.buildConnector.connector {
  const plain = undici.buildConnector({ allowH2: false, timeout: route.dialTimeoutMs });
  let secure: Undici.buildConnector.connector | undefined;
  return (options, callback) => {
    if (options.protocol !== 'https:') plain(options, callback);
    else (secure ??= undici.buildConnector({ allowH2: false, ...tlsOf(route) }))(options, callback);
  };
}

interface RouteTls {
  readonly rejectUnauthorized: boolean;
  readonly secureContext: SecureContext;
  readonly timeout: number;
}

function tlsOf(route: Route): RouteTls {
  return {
    rejectUnauthorized: route.verification === 'verify',
    secureContext: contextOf(route),
    timeout: route.dialTimeoutMs,
  };
}

/** Made once per route: reading some hundred authorities for every connection would block the event loop each time. */
function contextOf(route: Route): SecureContext {
  const { ca, clientCertificates: own } = route;
  return createSecureContext({
    // Node trusts its own bundled list; a node's administrator expects the system's (update-ca-certificates).
    ...(route.verification === 'skip' ? {} : { ca: [...new Set([...getCACertificates('system'), ...ca])] }),
    ...(own.length === 0 ? {} : { cert: own.map((each) => each.cert), key: own.map((each) => each.key) }),
  });
}

/** What undici's ProxyAgent is told of a proxy; name and password are for SOCKS5. */
interface ProxyParts {
  readonly uri: string;
  readonly token?: string;
  readonly username?: string;
  readonly password?: string;
}

/** The proxies of Go's programs: by HTTP, or by SOCKS5, which gets names as they are under either of its schemes. */
function proxyOf(text: string): ProxyParts {
  const url = parseUrl(text.includes('://') ? text : `http://${text}`);
  const isSocks = url !== undefined && /^socks5h?:$/.test(url.protocol);
  if (url === undefined || !(isSocks || url.protocol === 'http:' || url.protocol === 'https:'))
    throw new RuntimeError('InvalidArgument', 'the proxy in the environment is not an http, https or socks5 URL');
  const uri = `${isSocks ? 'socks5:' : url.protocol}//${url.host}`;
  const [username, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)];
  if (username === '') return { uri };
  if (isSocks) return { uri, username, password };
  return { uri, token: `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}` };
}

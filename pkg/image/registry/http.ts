/**
 * HTTP as a registry client needs it: one request at a time through a `Transport`, redirects followed by hand, bodies
 * read with a bound, failures turned into errors that name the host and never a secret.
 *
 * The transport is an interface, so that everything above it runs in unit tests without a socket.
 */
import { isIP } from 'node:net';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { explain, RuntimeError } from '../../base/errors.ts';
import { abortable } from '../../base/sync.ts';

/**
 * How to reach an origin: which certificates, whether to check them, through which proxy. Plain data; equal routes
 * share connections.
 */
export interface Route {
  /** PEM texts that are trusted beside the system's. */
  readonly ca: readonly string[];
  readonly clientCertificates: readonly { readonly cert: string; readonly key: string }[];
  readonly verification: 'verify' | 'skip';
  /** `http://user:password@proxy:3128`; undefined = direct. */
  readonly proxy: string | undefined;
  readonly dialTimeoutMs: number;
}

/** Redirects and token servers lead to hosts with routes of their own (NO_PROXY, certificates). */
export type RouteOf = (url: URL) => Route;

export const directRoute: Route = {
  ca: [],
  clientCertificates: [],
  verification: 'verify',
  proxy: undefined,
  dialTimeoutMs: limits.registryDialMs,
};

export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: URL;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

export interface HttpResponse {
  readonly status: number;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string | readonly string[] | undefined>>;
  /** Where the answer came from, after redirects. */
  readonly url: URL;
  /**
   * Read it to its end or call `discard`, or the connection stays busy. A piece of it is valid until the next one is
   * asked for.
   */
  readonly body: AsyncIterable<Uint8Array>;
  discard(): void;
}

/** Sends one request and follows nothing. @throws what the network throws; see `networkError`. */
export interface Transport {
  send(request: HttpRequest, route: Route, signal: AbortSignal): Promise<HttpResponse>;
  close(): Promise<void>;
}

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/**
 * Sends `request` and follows redirects. `authorization` and `cookie` stay with the origin that they were meant for
 * (CVE-2020-15157); https never becomes http; a server elsewhere cannot lead us to addresses of this node or of its
 * cloud's metadata.
 * @throws Unavailable with reason RegistryUnavailable when the host cannot be reached; FailedPrecondition for a
 * redirect that is not followed.
 */
export async function send(
  op: Op,
  transport: Transport,
  request: HttpRequest,
  routeOf: RouteOf,
): Promise<HttpResponse> {
  let current = request;
  for (let hops = 0; ; hops++) {
    const response = await sendOnce(op, transport, current, routeOf(current.url));
    const location = REDIRECTS.has(response.status) ? headerOf(response, 'location') : undefined;
    if (location === undefined) return response;
    response.discard();
    if (hops >= limits.redirectsCount)
      throw new RuntimeError(
        'FailedPrecondition',
        `${shortUrl(request.url)}: more than ${limits.redirectsCount} redirects; the registry or a ` +
          'proxy before it loops',
      );
    current = redirected(current, location, routeOf(current.url));
  }
}

async function sendOnce(op: Op, transport: Transport, request: HttpRequest, route: Route): Promise<HttpResponse> {
  if (op.signal.aborted) throw abortError(op, `${request.method} ${shortUrl(request.url)}`);
  try {
    return await transport.send(request, route, op.signal);
  } catch (error) {
    if (op.signal.aborted) throw abortError(op, `${request.method} ${shortUrl(request.url)}`);
    throw networkError(request.url, error);
  }
}

function redirected(from: HttpRequest, location: string, route: Route): HttpRequest {
  const url = parseUrl(location, from.url);
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new RuntimeError(
      'FailedPrecondition',
      `${shortUrl(from.url)} redirects to ${quote(location)}, which is not an http or https address; refused`,
    );
  }
  if (from.url.protocol === 'https:' && url.protocol === 'http:' && route.verification === 'verify') {
    throw new RuntimeError(
      'FailedPrecondition',
      `${shortUrl(from.url)} redirects from https to http (${shortUrl(url)}); refused, mark the ` +
        'registry insecure if this is wanted',
    );
  }
  refuseInward(from.url, url);
  const headers = { ...from.headers };
  if (url.origin !== from.url.origin) {
    delete headers['authorization'];
    delete headers['cookie'];
  }
  return { method: from.method === 'POST' ? 'GET' : from.method, url, headers };
}

/**
 * @throws FailedPrecondition if a server that is elsewhere sends us to loopback or link-local addresses (cloud metadata
 * at 169.254.169.254).
 */
export function refuseInward(from: URL, to: URL): void {
  const kind = addressKind(to.hostname);
  if (kind === 'link-local' || (kind === 'loopback' && addressKind(from.hostname) !== 'loopback')) {
    throw new RuntimeError(
      'FailedPrecondition',
      `${shortUrl(from)} sends us to ${shortUrl(to)}, a ${kind} address; refused`,
    );
  }
}

function addressKind(hostname: string): 'loopback' | 'link-local' | 'other' {
  const host = hostname.startsWith('[') ? hostname.slice(1, -1) : hostname;
  if (host === 'localhost' || host.endsWith('.localhost')) return 'loopback';
  if (isIP(host) === 4)
    return host.startsWith('127.') || host.startsWith('0.')
      ? 'loopback'
      : host.startsWith('169.254.')
        ? 'link-local'
        : 'other';
  if (isIP(host) !== 6) return 'other';
  const v6 = host.toLowerCase();
  // URL writes mapped IPv4 as ::ffff:7f00:1 and ::ffff:a9fe:a9fe.
  if (v6 === '::1' || v6 === '::' || v6.startsWith('::ffff:7f')) return 'loopback';
  return /^fe[89ab]/.test(v6) || v6.startsWith('::ffff:a9fe:') ? 'link-local' : 'other';
}

/**
 * At most `max` bytes of a body, for small documents: it has `limits.registryBodyMs` to arrive, whatever bounds the
 * caller has.
 * @throws ResourceExhausted naming `what` when there is more; Unavailable with reason RegistryUnavailable when it
 * stops; the network's failures as `send`.
 */
export async function readBody(op: Op, response: HttpResponse, max: number, what: string): Promise<Buffer> {
  const patience = AbortSignal.timeout(limits.registryBodyMs);
  try {
    return await abortable(collect(response, max, what), AbortSignal.any([op.signal, patience]), () =>
      op.signal.aborted ? abortError(op, `reading ${what}`) : tooLate(what),
    );
  } catch (error) {
    response.discard();
    if (error instanceof RuntimeError) throw error;
    if (op.signal.aborted) throw abortError(op, `reading ${what}`);
    throw networkError(response.url, error);
  }
}

async function collect(response: HttpResponse, max: number, what: string): Promise<Buffer> {
  const length = Number(headerOf(response, 'content-length') ?? '0');
  if (length > max) throw new RuntimeError('ResourceExhausted', `${what} has ${length} bytes, at most ${max} are read`);
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of response.body) {
    total += part.length;
    if (total > max) throw new RuntimeError('ResourceExhausted', `${what} has more than ${max} bytes`);
    parts.push(Buffer.from(part));
  }
  return Buffer.concat(parts);
}

function tooLate(what: string): RuntimeError {
  return new RuntimeError(
    'Unavailable',
    `${what} did not arrive in ${limits.registryBodyMs / 1000} s; the server or the line to it is too slow`,
    { reason: 'RegistryUnavailable' },
  );
}

/** One header; the first of several. */
export function headerOf(response: Pick<HttpResponse, 'headers'>, name: string): string | undefined {
  const value = response.headers[name];
  return typeof value === 'string' || value === undefined ? value : value[0];
}

/** Scheme, host and path: a query may be a signature, and userinfo a password. */
export function shortUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname.slice(0, 300)}`;
}

export function parseUrl(text: string, base?: URL): URL | undefined {
  return URL.canParse(text, base?.href) ? new URL(text, base) : undefined;
}

/**
 * What a connection that failed means: the registry cannot be reached (the kubelet backs off on that reason), with the
 * remedy where TLS is the cause.
 */
export function networkError(url: URL, error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const why = explain(error);
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : '';
  const tls = /CERT|SIGNED|VERIFY_LEAF|ISSUER|ALTNAME/i.test(code) || /certificate/i.test(why);
  const plain = /wrong version number|EPROTO/.test(`${code} ${why}`);
  const remedy = tls
    ? '; add the registry’s CA to certs.d or mark the registry insecure in registries.conf'
    : plain
      ? '; it seems to speak plain http: mark it insecure in registries.conf'
      : '';
  return new RuntimeError('Unavailable', `cannot talk to ${url.protocol}//${url.host}: ${why}${remedy}`, {
    reason: 'RegistryUnavailable',
    cause: error,
  });
}

/** True if the peer does not speak TLS at all, so that an insecure registry may be tried by plain http. */
export function isNotTls(error: unknown): boolean {
  const text = explain(error);
  return /EPROTO|wrong version number|packet length too long|SSL routines|ECONNREFUSED|before secure TLS connection was established/.test(
    text,
  );
}

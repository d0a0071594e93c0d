/**
 * HTTP as a registry client needs it: requests, answers, and who carries them; where a redirect may lead; what a
 * failure of the line means. Errors name the host and never a secret. client.ts is what does it.
 *
 * The transport is an interface, so that everything above it runs in unit tests without a socket.
 */
import { isIP } from 'node:net';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { explain, RuntimeError } from '../../base/errors.ts';
import { RequestError } from './patience.ts';

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

/** Straight, with the system's authorities. */
export const directRoute: Route = {
  ca: [],
  clientCertificates: [],
  verification: 'verify',
  proxy: undefined,
  dialTimeoutMs: limits.registryDialMs,
};

/** One request, to be sent once. */
export interface HttpRequest {
  readonly method: 'GET' | 'HEAD' | 'POST';
  readonly url: URL;
  /** Names in lower case. */
  readonly headers: Readonly<Record<string, string>>;
  readonly body?: string;
}

/** An answer, of which the body is yet to be read. */
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

/**
 * The request to which an answer with `location` leads. `authorization` and `cookie` stay with the origin that they
 * were meant for (CVE-2020-15157); https never becomes http; a server elsewhere cannot lead us to addresses of this
 * node or of its cloud's metadata.
 * @throws FailedPrecondition for a redirect that is not followed.
 */
export function redirected(from: HttpRequest, location: string, route: Route): HttpRequest {
  const url = parseUrl(location, from.url);
  if (url === undefined || (url.protocol !== 'http:' && url.protocol !== 'https:')) {
    throw new RuntimeError(
      'FailedPrecondition',
      `${shortUrl(from.url)} redirects to ${quote(location.replace(/[?#].*/s, ''))}, which is no http or https ` +
        'address; the registry has to name one',
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
 * at 169.254.169.254). A registry on such an address may send us on to itself: mirrors of the node are reached so.
 */
export function refuseInward(from: URL, to: URL): void {
  if (to.hostname === from.hostname) return;
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

/** One header; the first of several. */
export function headerOf(response: Pick<HttpResponse, 'headers'>, name: string): string | undefined {
  const value = response.headers[name];
  return typeof value === 'string' || value === undefined ? value : value[0];
}

/** Scheme, host and path: a query may be a signature, and userinfo a password. */
export function shortUrl(url: URL): string {
  return `${url.protocol}//${url.host}${url.pathname.slice(0, 300)}`;
}

/** The address in a text, undefined if it is none. */
export function parseUrl(text: string, base?: URL): URL | undefined {
  return URL.canParse(text, base?.href) ? new URL(text, base) : undefined;
}

/**
 * What a connection that failed means: the registry cannot be reached (the kubelet backs off on that reason), with the
 * remedy. What is a RuntimeError stays what it is.
 */
export function networkError(url: URL, error: unknown): RuntimeError {
  if (error instanceof RuntimeError) return error;
  const why = explain(error);
  const code = typeof error === 'object' && error !== null && 'code' in error ? String(error.code) : '';
  const tls = /CERT|SIGNED|VERIFY_LEAF|ISSUER|ALTNAME/i.test(code) || /certificate/i.test(why);
  const plain = /wrong version number|EPROTO/.test(`${code} ${why}`);
  const remedy = tls
    ? 'add the registry’s CA to certs.d or mark the registry insecure in registries.conf'
    : plain
      ? 'it seems to speak plain http: mark it insecure in registries.conf'
      : 'look whether it is up, and whether DNS, proxy and firewall let this node through';
  const trouble = tls || plain ? ({ kind: 'trust' } as const) : ({ kind: 'line' } as const);
  return new RequestError(
    'Unavailable',
    `cannot talk to ${url.protocol}//${url.host}: ${why}; ${remedy}`,
    trouble,
    error,
  );
}

const NO_TLS: readonly string[] = [
  'EPROTO',
  'wrong version number',
  'packet length too long',
  'SSL routines',
  'ECONNREFUSED',
  'before secure TLS connection was established',
];

/** True if the peer does not speak TLS at all, so that an insecure registry may be tried by plain http. */
export function isNotTls(error: unknown): boolean {
  const text = explain(error);
  return NO_TLS.some((each) => text.includes(each));
}

/**
 * Requests to registries, token servers and whoever else has a part of an image: each with a bound on its time,
 * redirects followed by hand, documents read with a bound on their size, failures that say what they mean and how to go
 * on.
 */
import { RuntimeError } from '../../base/errors.ts';
import { GoObject } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { abortable } from '../../base/sync.ts';
import { pause } from '../../base/time.ts';
import { decodedBody } from './encoding.ts';
import { headerOf, networkError, redirected, shortUrl } from './http.ts';
import type { HttpRequest, HttpResponse, RouteOf, Transport } from './http.ts';
import { parseRetryAfter, RequestError, Tries } from './patience.ts';
import type { Form } from './patience.ts';
import { parseJson } from '../../base/json.ts';

/** What requests go through, and how patient they are; what is left out has the product's default. */
export interface HttpOptions {
  readonly transport: Transport;
  /** Waits between tries; tests pass one that does not. */
  readonly pause?: ((ms: number, signal: AbortSignal) => Promise<void>) | undefined;
  /** Milliseconds, monotonic. */
  readonly now?: (() => number) | undefined;
  /** From a request to the headers of its answer. */
  readonly headersMs?: number | undefined;
  /** One small document from its first byte to its last. */
  readonly bodyMs?: number | undefined;
}

const REDIRECTS: ReadonlySet<number> = new Set([301, 302, 303, 307, 308]);

/** Sends requests and makes sense of what comes. */
export class HttpClient {
  readonly now: () => number;
  readonly #transport: Transport;
  readonly #pause: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly #headersMs: number;
  readonly #bodyMs: number;

  constructor(options: HttpOptions) {
    this.now = options.now ?? (() => performance.now());
    this.#transport = options.transport;
    this.#pause = options.pause ?? pause;
    this.#headersMs = options.headersMs ?? limits.registryHeadersMs;
    this.#bodyMs = options.bodyMs ?? limits.registryBodyMs;
  }

  /** Tries of what is asked for plainly, unless `form` says otherwise. */
  tries(op: Op, what: string, tries: number, form: Form = 'plain'): Tries {
    return new Tries(op, { what, tries, form, pause: this.#pause });
  }

  /**
   * Sends `request` and follows redirects, see `redirected`.
   * @throws RequestError when the host cannot be reached or says nothing in time; FailedPrecondition for a redirect
   * that is not followed.
   */
  async send(op: Op, request: HttpRequest, routeOf: RouteOf): Promise<HttpResponse> {
    let current = withDefaults(request);
    for (let hops = 0; ; hops++) {
      const response = await this.#sendOnce(op, current, routeOf);
      const location = REDIRECTS.has(response.status) ? headerOf(response, 'location') : undefined;
      if (location === undefined) return response;
      response.discard();
      if (hops >= limits.redirectsCount)
        throw new RuntimeError(
          'FailedPrecondition',
          `${shortUrl(request.url)}: more than ${limits.redirectsCount} redirects, the last one at ` +
            `${shortUrl(current.url)}; the registry or a proxy before it loops`,
        );
      current = redirected(current, location, routeOf(current.url));
    }
  }

  async #sendOnce(op: Op, request: HttpRequest, routeOf: RouteOf): Promise<HttpResponse> {
    const doing = `${request.method} ${shortUrl(request.url)}`;
    if (op.signal.aborted) throw abortError(op, doing);
    // It bounds the way to the headers only; what reads the body has bounds of its own.
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), this.#headersMs);
    const signal = AbortSignal.any([op.signal, late.signal]);
    const sending = this.#transport.send(request, routeOf(request.url), signal);
    try {
      return await abortable(sending, signal, () =>
        op.signal.aborted ? abortError(op, doing) : this.#silence(request),
      );
    } catch (error) {
      sending.then(
        (response) => response.discard(),
        () => {},
      );
      if (op.signal.aborted) throw abortError(op, doing);
      throw late.signal.aborted ? this.#silence(request) : networkError(request.url, error);
    } finally {
      clearTimeout(timer);
    }
  }

  #silence({ url }: HttpRequest): RequestError {
    return new RequestError(
      'Unavailable',
      `${url.protocol}//${url.host} did not answer in ${this.#headersMs / 1000} s; it, or a proxy before it, is ` +
        'stuck: try again later',
      { kind: 'line' },
    );
  }

  /**
   * At most `max` bytes of a body, for small documents, decoded.
   * @throws ResourceExhausted when there is more; RequestError when it stops or breaks off.
   */
  async readBody(op: Op, response: HttpResponse, max: number): Promise<Buffer> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(), this.#bodyMs);
    const doing = `reading ${shortUrl(response.url)}`;
    const tooLate = (): RequestError =>
      new RequestError(
        'Unavailable',
        `the answer of ${response.url.host} did not arrive in ${this.#bodyMs / 1000} s; the server or the line to it ` +
          'is too slow: try again later',
        { kind: 'line' },
      );
    try {
      return await abortable(collect(response, max), AbortSignal.any([op.signal, late.signal]), () =>
        op.signal.aborted ? abortError(op, doing) : tooLate(),
      );
    } catch (error) {
      response.discard();
      if (op.signal.aborted) throw abortError(op, doing);
      throw networkError(response.url, error);
    } finally {
      clearTimeout(timer);
    }
  }

  /**
   * What an answer means that is not the one wanted, with the server's own words as far as they are short text;
   * `ifMissing` is the remedy where it says that there is no such thing.
   */
  async failureOf(op: Op, response: HttpResponse, ifMissing: string): Promise<RequestError> {
    const body = await this.readBody(op, response, limits.registryTextBytes).catch(() => Buffer.alloc(0));
    return statusFailure(response, registryMessage(body), ifMissing);
  }

  /** The same without the server's words, of a server that was told a secret. */
  wordlessFailureOf(response: HttpResponse, ifMissing: string): RequestError {
    response.discard();
    return statusFailure(response, '', ifMissing);
  }
}

function statusFailure(response: HttpResponse, said: string, ifMissing: string): RequestError {
  const { status } = response;
  const retryAfterMs = parseRetryAfter(headerOf(response, 'retry-after'), headerOf(response, 'date'), Date.now());
  const wait = retryAfterMs === undefined ? '' : ` and asks to wait ${Math.ceil(retryAfterMs / 1000)} s`;
  const text = `${response.url.host} answers ${status}${said === '' ? '' : ` ${said}`}${wait}`;
  const [code, remedy] = meaningOf(status, ifMissing);
  return new RequestError(code, `${text}; ${remedy}`, { kind: 'status', status, retryAfterMs });
}

/** Nobody has to compress anything for us: layers are compressed, and all else is small. */
function withDefaults(request: HttpRequest): HttpRequest {
  return { ...request, headers: { 'user-agent': 'berth', 'accept-encoding': 'identity', ...request.headers } };
}

async function collect(response: HttpResponse, max: number): Promise<Buffer> {
  const length = Number(headerOf(response, 'content-length') ?? '0');
  const tooMuch = (count: string): RuntimeError =>
    new RuntimeError(
      'ResourceExhausted',
      `the answer of ${response.url.host} has ${count} bytes, at most ${max} are read; something else is there than ` +
        'what was asked for',
    );
  if (length > max) throw tooMuch(String(length));
  const parts: Uint8Array[] = [];
  let total = 0;
  for await (const part of decodedBody(response)) {
    total += part.length;
    if (total > max) throw tooMuch(`more than ${max}`);
    parts.push(Buffer.from(part));
  }
  return Buffer.concat(parts);
}

function meaningOf(status: number, ifMissing: string): readonly [code: RequestError['code'], remedy: string] {
  if (status === 429 || status === 425 || status === 503) return ['Unavailable', 'try again later'];
  if (status >= 500 || status === 408)
    return ['Unavailable', 'it, or what stands before it, is in trouble: try again later'];
  if (status === 404) return ['NotFound', ifMissing];
  if (status === 403) return ['PermissionDenied', 'the credentials do not allow to pull it'];
  return [
    'FailedPrecondition',
    'it does not take the request as it is: look at what stands before it, a proxy or gateway',
  ];
}

/** distribution-spec "Error Codes": `{"errors":[{"code","message"}]}`. */
function registryMessage(body: Buffer): string {
  let value: unknown;
  try {
    value = parseJson(body.toString('utf8'));
  } catch {
    return '';
  }
  const list = GoObject.of(value)?.get('errors');
  const texts = (Array.isArray(list) ? (list as unknown[]) : []).slice(0, 3).map((each) => {
    const error = GoObject.of(each);
    return [error?.get('code'), error?.get('message')].filter((part) => typeof part === 'string').join(': ');
  });
  const joined = texts.filter((each) => each !== '').join('; ');
  return joined === '' ? '' : quote(joined, 300);
}

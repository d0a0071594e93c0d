/**
 * The pull half of the distribution protocol (opencontainers/distribution-spec): manifests and blobs of one repository
 * on one endpoint, with credentials, retries, resume and a watchdog. What comes out is bytes; only digests make them
 * content.
 */
import { isDigest, parseDigest } from '../../base/ids.ts';
import type { Digest } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { codeOf, explain, RuntimeError } from '../../base/errors.ts';
import { abortError, withTimeout } from '../../base/op.ts';
import { pause } from '../../base/time.ts';
import type { Op } from '../../base/op.ts';
import { quote } from '../../base/ids.ts';
import { checkDigest, digestOf } from '../../oci/digest.ts';
import { isObject } from '../../base/go.ts';
import { manifestAccept } from '../../oci/media-types.ts';
import { Authorizer } from './authorizer.ts';
import type { Door } from './authorizer.ts';
import type { Credentials } from './auth-file.ts';
import { giveBack } from '../blocks.ts';
import { headerOf, isNotTls, networkError, readBody, send, shortUrl } from './http.ts';
import type { HttpResponse, RouteOf, Transport } from './http.ts';
import { RateWatch } from './rate-watch.ts';

/** One place that has (or may have) the image: the registry itself or a mirror of it. */
export interface Endpoint {
  /** Root of the API without a slash at the end: `https://registry.example:5000/v2`. */
  readonly root: string;
  /** Repository path on that host. */
  readonly repository: string;
  /** What credentials are looked up under: `registry.example:5000/team/app`. */
  readonly credentialName: string;
  readonly kind: 'registry' | 'mirror';
  /** `content`: what is asked for by its digest. `tags`: only which digest a tag stands for. */
  readonly serves: 'all' | 'content' | 'tags';
  /** `insecure`: certificates are not checked, and plain http is tried where there is no TLS. */
  readonly security: 'verify' | 'insecure';
  readonly routeOf: RouteOf;
  /** From hosts.toml; lower-case names. */
  readonly headers: Readonly<Record<string, string>>;
  /**
   * Sent as `?ns=` to mirrors in hosts.toml's manner, so that one mirror can serve several registries; '' = not sent.
   */
  readonly namespace: string;
}

export interface RegistryOptions {
  readonly transport: Transport;
  /** Waits; tests pass one that does not. */
  readonly pause?: ((ms: number, signal: AbortSignal) => Promise<void>) | undefined;
  /** Milliseconds, monotonic enough for a window of a minute. */
  readonly now?: (() => number) | undefined;
  /** A download that moves less than `limits.pullProgressBytes` in this time fails; 0 = never. */
  readonly progressTimeoutMs?: number | undefined;
  /** Blobs from `fromBytes` on come in ranges of `eachBytes`. */
  readonly ranges?: { readonly fromBytes: number; readonly eachBytes: number } | undefined;
}

export interface ManifestAnswer {
  readonly bytes: Buffer;
  readonly contentType: string;
  /** Of `bytes`, computed here. */
  readonly digest: Digest;
}

/** Makes repositories; holds what they share: tokens, memory of schemes, the budget of ranges fetched ahead. */
export class RegistryClient {
  readonly #options: Settings;
  readonly #authorizer: Authorizer;
  readonly #plain = new Map<string, number>();
  readonly #ahead = new Budget(limits.pullRangesAheadCount);

  constructor(options: RegistryOptions) {
    this.#options = {
      transport: options.transport,
      pause: options.pause ?? pause,
      now: options.now ?? Date.now,
      progressTimeoutMs: options.progressTimeoutMs ?? limits.pullProgressMs,
      ranges: options.ranges ?? { fromBytes: limits.pullRangesFromBytes, eachBytes: limits.pullRangeBytes },
    };
    this.#authorizer = new Authorizer(options.transport, this.#options.now);
  }

  repository(endpoint: Endpoint, credentials: Credentials): Repository {
    return new Repository(
      { ...this.#options, authorizer: this.#authorizer, plain: this.#plain, ahead: this.#ahead },
      endpoint,
      credentials,
    );
  }
}

interface Settings {
  readonly transport: Transport;
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly now: () => number;
  readonly progressTimeoutMs: number;
  readonly ranges: { readonly fromBytes: number; readonly eachBytes: number };
}
interface Shared extends Settings {
  readonly authorizer: Authorizer;
  /** Hosts that speak no TLS, until when. */
  readonly plain: Map<string, number>;
  readonly ahead: Budget;
}

/** One repository on one endpoint, with one set of credentials. */
export class Repository {
  readonly #shared: Shared;
  readonly #endpoint: Endpoint;
  readonly #credentials: Credentials;

  constructor(shared: Shared, endpoint: Endpoint, credentials: Credentials) {
    this.#shared = shared;
    this.#endpoint = endpoint;
    this.#credentials = credentials;
  }

  /** After a mirror somebody else can be asked; patience is for the last one. */
  get #tries(): number {
    return this.#endpoint.kind === 'mirror' ? limits.mirrorTriesCount : limits.registryTriesCount;
  }

  get endpoint(): Endpoint {
    return this.#endpoint;
  }

  /**
   * The manifest or index under a tag or a digest; of a digest the content is checked.
   * @throws NotFound, Unauthenticated, PermissionDenied, DataLoss; Unavailable with reason RegistryUnavailable when it
   * cannot be had now.
   */
  async manifest(op: Op, tagOrDigest: string): Promise<ManifestAnswer> {
    const what = `manifest ${quote(tagOrDigest)} of ${this.#endpoint.credentialName}`;
    return this.#retrying(op, what, async () => {
      const bound = withTimeout(op, limits.registryHeadersMs);
      try {
        return await this.#manifestOnce(bound, tagOrDigest, what);
      } catch (error) {
        // Our own bound passed, not the caller's: to the kubelet that is a registry that is not available.
        if (bound.signal.aborted && !op.signal.aborted)
          throw tooSlow(`${what} did not arrive in ${limits.registryHeadersMs / 1000} s`);
        throw error;
      }
    });
  }

  /**
   * What the registry says is the digest of a tag, without sending the manifest (and without counting as a pull, where
   * pulls are counted). It is the registry's word only: good for finding what is here already, after credentials were
   * checked. undefined if it does not say.
   */
  async promisedDigest(op: Op, tagOrDigest: string): Promise<Digest | undefined> {
    const response = await this.#get(
      withTimeout(op, limits.registryHeadersMs),
      `manifests/${tagOrDigest}`,
      { accept: manifestAccept },
      'HEAD',
    );
    response.discard();
    const digest = headerOf(response, 'docker-content-digest') ?? '';
    return response.status === 200 && isDigest(digest) ? digest : undefined;
  }

  async #manifestOnce(op: Op, tagOrDigest: string, what: string): Promise<ManifestAnswer> {
    const response = await this.#get(op, `manifests/${tagOrDigest}`, { accept: manifestAccept });
    if (response.status !== 200) throw await statusError(op, response, what);
    const bytes = await readBody(op, response, limits.manifestBytes, what);
    const promised = tagOrDigest.includes(':') ? parseDigest(tagOrDigest) : undefined;
    if (promised !== undefined) checkDigest(bytes, promised, what);
    return { bytes, contentType: headerOf(response, 'content-type') ?? '', digest: promised ?? digestOf(bytes) };
  }

  /**
   * The bytes of a blob from `offset` to its end, in order. A connection that breaks is taken up again where it was;
   * large blobs come over several connections. Nothing is verified here; no more than `sizeBytes - offset` bytes come
   * out. A piece is valid until the next one is asked for.
   * @throws as `manifest`, when the tries are used up or nothing moves any more.
   */
  async *blob(op: Op, digest: Digest, sizeBytes: bigint, offset: bigint): AsyncGenerator<Uint8Array, void, void> {
    const watch = new RateWatch(this.#shared.progressTimeoutMs, limits.pullProgressBytes, this.#shared.now());
    const stop = new AbortController();
    const timer =
      watch.timeoutMs === 0
        ? undefined
        : setInterval(
            () => {
              if (watch.stalled(this.#shared.now())) stop.abort();
            },
            Math.max(100, watch.timeoutMs / 8),
          );
    timer?.unref();
    const transfer = new BlobTransfer(
      this.#shared,
      watch,
      { ...op, signal: AbortSignal.any([op.signal, stop.signal]), stage: (text) => op.stage(text) },
      (inner, first, last) => this.#range(inner, digest, first, last),
    );
    let at = offset;
    let failures = 0;
    try {
      while (at < sizeBytes) {
        try {
          for await (const chunk of transfer.read(at, sizeBytes)) {
            yield chunk;
            at += BigInt(chunk.length);
            failures = 0;
          }
        } catch (error) {
          if (op.signal.aborted) throw abortError(op, `downloading ${digest}`);
          if (stop.signal.aborted)
            throw tooSlow(
              `${this.#endpoint.root}: blob ${digest} stopped at ${at} of ${sizeBytes} bytes: less than ` +
                `${limits.pullProgressBytes} bytes moved in ${watch.timeoutMs / 1000} s`,
            );
          if (codeOf(error) !== 'Unavailable' || ++failures >= this.#tries) throw error;
          op.log.debug('blob download broke, will retry', { digest, atBytes: at, failures });
          await this.#shared.pause(backoffMs(failures), op.signal);
        }
      }
    } finally {
      clearInterval(timer);
      stop.abort();
    }
  }

  /**
   * One range request. `skip` says how many bytes of the body lie before `first`: a server that ignores ranges sends
   * everything.
   */
  async #range(op: Op, digest: Digest, first: bigint, last: bigint | undefined): Promise<RangeAnswer> {
    const ranged = first > 0n || last !== undefined;
    const response = await this.#get(op, `blobs/${digest}`, ranged ? { range: `bytes=${first}-${last ?? ''}` } : {});
    if (response.status === 206) {
      const start = /^bytes (\d{1,19})-/.exec(headerOf(response, 'content-range') ?? '')?.[1];
      if (start === undefined || BigInt(start) !== first) {
        response.discard();
        throw new RuntimeError(
          'DataLoss',
          `${shortUrl(response.url)} answers bytes from ${quote(start ?? 'nowhere')} when asked from ${first}`,
        );
      }
      return { response, skip: 0n, whole: false };
    }
    if (response.status !== 200)
      throw await statusError(op, response, `blob ${digest} of ${this.#endpoint.credentialName}`);
    return { response, skip: first, whole: true };
  }

  /** One request below the repository, with credentials as wanted. */
  async #get(
    op: Op,
    path: string,
    headers: Readonly<Record<string, string>>,
    method: 'GET' | 'HEAD' = 'GET',
  ): Promise<HttpResponse> {
    const { host } = new URL(this.#endpoint.root);
    const plainUntil = this.#shared.plain.get(host) ?? 0;
    const secure = this.#endpoint.root.startsWith('https:');
    if (!secure || (this.#endpoint.security === 'insecure' && plainUntil > this.#shared.now()))
      return this.#getFrom(op, this.#url(path, 'http:'), headers, method);
    try {
      return await this.#getFrom(op, this.#url(path, 'https:'), headers, method);
    } catch (error) {
      if (this.#endpoint.security !== 'insecure' || codeOf(error) !== 'Unavailable' || !isNotTls(error)) throw error;
      const response = await this.#getFrom(op, this.#url(path, 'http:'), headers, method).catch((second: unknown) => {
        throw bothFailed(error, second);
      });
      this.#shared.plain.set(host, this.#shared.now() + limits.registrySchemeMs);
      return response;
    }
  }

  #url(path: string, protocol: 'http:' | 'https:'): URL {
    const url = new URL(`${this.#endpoint.root}/${this.#endpoint.repository}/${path}`);
    if (url.protocol === 'https:' && protocol === 'http:') url.protocol = protocol;
    if (this.#endpoint.namespace !== '') url.searchParams.set('ns', this.#endpoint.namespace);
    return url;
  }

  async #getFrom(
    op: Op,
    url: URL,
    extra: Readonly<Record<string, string>>,
    method: 'GET' | 'HEAD',
  ): Promise<HttpResponse> {
    const door: Door = {
      url,
      routeOf: this.#endpoint.routeOf,
      repository: this.#endpoint.repository,
      credentials: this.#credentials,
    };
    let authorization = this.#shared.authorizer.header(door);
    // Twice: a kept token may have been revoked, and the fresh one is then refused for good.
    for (let refusals = 0; ; refusals++) {
      const headers = {
        'user-agent': 'berth',
        ...this.#endpoint.headers,
        ...extra,
        ...(authorization === undefined ? {} : { authorization }),
      };
      const response = await send(op, this.#shared.transport, { method, url, headers }, this.#endpoint.routeOf);
      if (response.status !== 401) return response;
      response.discard();
      // What a redirect leads to is not whom the credentials are for, and must not choose who gets them
      // (CVE-2020-15157).
      if (response.url.origin !== url.origin) {
        throw new RuntimeError(
          'Unauthenticated',
          `registry ${url.host} sends us to ${shortUrl(response.url)}, which wants credentials of its ` +
            'own (401); none were sent there, the registry has to give an address that can be read ' +
            'without',
        );
      }
      if (refusals >= 2)
        throw new RuntimeError(
          'Unauthenticated',
          `registry ${url.host} refuses ${quote(this.#endpoint.repository)}: the token that its token ` +
            'server gave is not accepted',
        );
      authorization = await this.#shared.authorizer.answer(op, door, response, authorization);
    }
  }

  async #retrying<T>(op: Op, what: string, work: () => Promise<T>): Promise<T> {
    for (let failures = 1; ; failures++) {
      try {
        return await work();
      } catch (error) {
        if (op.signal.aborted) throw abortError(op, what);
        if (codeOf(error) !== 'Unavailable' || failures >= this.#tries) throw error;
        const wait = error instanceof RetryLater ? error.waitMs : backoffMs(failures);
        if (wait > limits.registryRetryAfterMs) throw error;
        op.log.debug('registry request failed, will retry', { what, failures, waitMs: wait });
        await this.#shared.pause(wait, op.signal);
      }
    }
  }
}

interface RangeAnswer {
  readonly response: HttpResponse;
  readonly skip: bigint;
  /** The server sent all of the blob, whatever was asked. */
  readonly whole: boolean;
}
type AskRange = (op: Op, first: bigint, last: bigint | undefined) => Promise<RangeAnswer>;

/**
 * Reads one blob in order. For large ones, ranges ahead of the current one are fetched into memory as far as the shared
 * budget goes.
 */
class BlobTransfer {
  readonly #shared: Shared;
  readonly #watch: RateWatch;
  readonly #op: Op;
  readonly #ask: AskRange;

  constructor(shared: Shared, watch: RateWatch, op: Op, ask: AskRange) {
    this.#shared = shared;
    this.#watch = watch;
    this.#op = op;
    this.#ask = (inner, first, last) => watch.waiting(shared.now, () => ask(inner, first, last));
  }

  async *read(from: bigint, size: bigint): AsyncGenerator<Uint8Array, void, void> {
    const { fromBytes, eachBytes } = this.#shared.ranges;
    const step = BigInt(eachBytes);
    if (size - from < BigInt(fromBytes)) {
      yield* this.#stream(await this.#ask(this.#op, from, undefined), size - from);
      return;
    }
    const first = await this.#ask(this.#op, from, from + step - 1n);
    if (first.whole) {
      yield* this.#stream(first, size - from);
      return;
    }
    yield* this.#ranges(first, from, size, step);
  }

  async *#ranges(first: RangeAnswer, from: bigint, size: bigint, step: bigint): AsyncGenerator<Uint8Array, void, void> {
    const ahead = new Map<bigint, Promise<Buffer | undefined>>();
    let planned = from + step;
    let current: RangeAnswer | undefined = first;
    const planAhead = (): void => {
      while (planned < size && this.#shared.ahead.take()) {
        ahead.set(planned, this.#fetchAhead(planned, min(step, size - planned)));
        planned += step;
      }
    };
    try {
      for (let at = from; at < size; at += step) {
        planAhead();
        const length = min(step, size - at);
        const ready = await ahead.get(at);
        if (ahead.delete(at)) this.#shared.ahead.give();
        if (ready !== undefined) {
          yield ready;
          giveBack(ready);
        } else yield* this.#stream(current ?? (await this.#ask(this.#op, at, at + length - 1n)), length);
        current = undefined;
        if (planned <= at + step) planned = at + step + step;
      }
    } finally {
      for (const range of ahead.values()) void range.finally(() => this.#shared.ahead.give());
    }
  }

  /** undefined when it failed: the reader asks again itself and meets the error with its own tries. */
  async #fetchAhead(at: bigint, length: bigint): Promise<Buffer | undefined> {
    try {
      const bytes = Buffer.allocUnsafeSlow(Number(length));
      let total = 0;
      for await (const chunk of this.#stream(await this.#ask(this.#op, at, at + length - 1n), length)) {
        bytes.set(chunk, total);
        total += chunk.length;
      }
      return total === bytes.length ? bytes : undefined;
    } catch {
      return undefined;
    }
  }

  /**
   * `length` bytes of an answer. A server that sends more is cut off here; the digest tells the rest. @throws
   * Unavailable after the last byte if it sends fewer.
   */
  async *#stream(answer: RangeAnswer, length: bigint): AsyncGenerator<Uint8Array, void, void> {
    const { response } = answer;
    let skip = answer.skip;
    let left = length;
    try {
      for await (const chunk of response.body) {
        this.#watch.add(chunk.length, this.#shared.now());
        const dropped = min(skip, BigInt(chunk.length));
        skip -= dropped;
        const rest = chunk.subarray(Number(dropped));
        if (BigInt(rest.length) > left)
          throw new RuntimeError('DataLoss', `${shortUrl(response.url)} sends more bytes than the manifest promises`);
        left -= BigInt(rest.length);
        if (rest.length > 0) yield rest;
      }
      if (left > 0n) throw tooShort(response.url, left);
    } catch (error) {
      throw networkError(response.url, error);
    } finally {
      response.discard();
    }
  }
}

/** A counter of what may be in memory at once. */
class Budget {
  #left: number;
  constructor(count: number) {
    this.#left = count;
  }
  take(): boolean {
    if (this.#left === 0) return false;
    this.#left--;
    return true;
  }
  give(): void {
    this.#left++;
  }
}

/** A registry that asks for patience, and for how much. */
class RetryLater extends RuntimeError {
  readonly waitMs: number;
  constructor(message: string, waitMs: number) {
    super('Unavailable', message, { reason: 'RegistryUnavailable' });
    this.waitMs = waitMs;
  }
}

/** Neither https nor http: both reasons in one message, unless the second one is an answer. */
function bothFailed(secure: unknown, plain: unknown): RuntimeError {
  if (plain instanceof RuntimeError && plain.code !== 'Unavailable') return plain;
  return new RuntimeError('Unavailable', `${explain(plain)} (and by https: ${explain(secure)})`, {
    reason: 'RegistryUnavailable',
  });
}

/** What an HTTP status means, with the registry's own words as far as they are short text. */
async function statusError(op: Op, response: HttpResponse, what: string): Promise<RuntimeError> {
  const { status } = response;
  const body = await readBody(op, response, limits.registryTextBytes, 'the error document').catch(() =>
    Buffer.alloc(0),
  );
  const said = registryMessage(body);
  const text = `${what}: ${new URL(response.url).host} answers ${status}${said === '' ? '' : ` ${said}`}`;
  if (status === 429 || status === 503)
    return new RetryLater(`${text}; try again later`, retryAfterMs(headerOf(response, 'retry-after')));
  if (status >= 500 || status === 408) return new RuntimeError('Unavailable', text, { reason: 'RegistryUnavailable' });
  if (status === 404) return new RuntimeError('NotFound', `${text}; check the name and the tag`);
  if (status === 403) return new RuntimeError('PermissionDenied', `${text}; the credentials do not allow to pull it`);
  return new RuntimeError('FailedPrecondition', text);
}

/** distribution-spec "Error Codes": `{"errors":[{"code","message"}]}`. */
function registryMessage(body: Buffer): string {
  let value: unknown;
  try {
    value = JSON.parse(body.toString('utf8')) as unknown;
  } catch {
    return '';
  }
  const list = isObject(value) && Array.isArray(value['errors']) ? (value['errors'] as unknown[]) : [];
  const texts = list
    .slice(0, 3)
    .map((each) =>
      isObject(each) ? [each['code'], each['message']].filter((part) => typeof part === 'string').join(': ') : '',
    );
  const joined = texts.filter((each) => each !== '').join('; ');
  return joined === '' ? '' : quote(joined, 300);
}

function retryAfterMs(text: string | undefined): number {
  if (text === undefined) return 1_000;
  if (/^\d{1,9}$/.test(text)) return Number(text) * 1000;
  const date = Date.parse(text);
  return Number.isNaN(date) ? 1_000 : Math.max(0, date - Date.now());
}

function tooShort(url: URL, missing: bigint): RuntimeError {
  return new RuntimeError('Unavailable', `${shortUrl(url)} ends ${missing} bytes before what was asked for`, {
    reason: 'RegistryUnavailable',
  });
}

function tooSlow(message: string): RuntimeError {
  return new RuntimeError('Unavailable', message, { reason: 'RegistryUnavailable' });
}

function backoffMs(failures: number): number {
  return 250 * 2 ** (failures - 1);
}

function min(a: bigint, b: bigint): bigint {
  return a < b ? a : b;
}

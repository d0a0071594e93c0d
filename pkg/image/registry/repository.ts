/**
 * The pull half of the distribution protocol (opencontainers/distribution-spec): manifests and blobs of one repository
 * on one endpoint, with credentials, retries, resume and a watchdog. What comes out is bytes; only digests make them
 * content.
 */
import { isDigest, parseDigest, quote } from '../../base/ids.ts';
import type { Digest } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { codeOf, explain, RuntimeError } from '../../base/errors.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';
import { checkDigest, digestOf } from '../../oci/digest.ts';
import { manifestAccept } from '../../oci/media-types.ts';
import { anonymous } from './auth-file.ts';
import type { Credentials } from './auth-file.ts';
import { Authorizer } from './authorizer.ts';
import type { Door } from './authorizer.ts';
import { BlobTransfer, Budget } from './blob-transfer.ts';
import type { RangeAnswer, Ranges, TransferWorld } from './blob-transfer.ts';
import { HttpClient } from './client.ts';
import type { HttpOptions } from './client.ts';
import { codingOf, decodedBody } from './encoding.ts';
import { headerOf, isNotTls, shortUrl } from './http.ts';
import type { HttpResponse, RouteOf } from './http.ts';
import { RequestError } from './patience.ts';
import type { Form } from './patience.ts';
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

/** How registries are talked to; what is left out has the product's default. */
export interface RegistryOptions extends HttpOptions {
  /** A download that moves less than `limits.pullProgressBytes` in this time fails; 0 = never. */
  readonly progressTimeoutMs?: number | undefined;
  /** Blobs from `fromBytes` on come in ranges of `eachBytes`. */
  readonly ranges?: Ranges | undefined;
}

/** A manifest as a registry gave it. */
export interface ManifestAnswer {
  readonly bytes: Buffer;
  readonly contentType: string;
  /** Of `bytes`, computed here. */
  readonly digest: Digest;
  /** What it is and where it is from, for messages. */
  readonly describe: string;
}

/** Makes repositories; holds what they share: tokens, memory of hosts, the budget of ranges fetched ahead. */
export class RegistryClient {
  /** For requests to others on behalf of an image. */
  readonly http: HttpClient;
  readonly #shared: Shared;

  constructor(options: RegistryOptions) {
    this.http = new HttpClient(options);
    this.#shared = {
      http: this.http,
      authorizer: new Authorizer(this.http),
      now: this.http.now,
      progressTimeoutMs: options.progressTimeoutMs ?? limits.pullProgressMs,
      ranges: options.ranges ?? { fromBytes: limits.pullRangesFromBytes, eachBytes: limits.pullRangeBytes },
      plain: new Map(),
      rangeless: new Map(),
      ahead: new Budget(limits.pullRangesAheadCount),
    };
  }

  /** One repository, as somebody with these credentials sees it. */
  repository(endpoint: Endpoint, credentials: Credentials): Repository {
    return new Repository(this.#shared, endpoint, credentials);
  }
}

interface Shared extends TransferWorld {
  readonly http: HttpClient;
  readonly authorizer: Authorizer;
  readonly progressTimeoutMs: number;
  /** Hosts that speak no TLS, and hosts that take no ranges, until when. */
  readonly plain: Map<string, number>;
  readonly rangeless: Map<string, number>;
}

/** One repository on one endpoint, with one set of credentials. */
export class Repository {
  readonly #shared: Shared;
  readonly #endpoint: Endpoint;
  readonly #host: string;
  readonly #credentials: Credentials;

  constructor(shared: Shared, endpoint: Endpoint, credentials: Credentials) {
    this.#shared = shared;
    this.#endpoint = endpoint;
    this.#host = new URL(endpoint.root).host;
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
    const describe = `manifest ${quote(tagOrDigest)} of ${this.#endpoint.credentialName}`;
    const { http } = this.#shared;
    const answer = await http.tries(op, describe, this.#tries).run(async () => {
      const response = await this.#get(op, `manifests/${tagOrDigest}`, { accept: manifestAccept });
      if (response.status !== 200) throw await http.failureOf(op, response, 'check the name and the tag');
      const bytes = await http.readBody(op, response, limits.manifestBytes);
      return { bytes, contentType: headerOf(response, 'content-type') ?? '' };
    });
    const promised = isDigest(tagOrDigest) ? parseDigest(tagOrDigest) : undefined;
    if (promised !== undefined) checkDigest(answer.bytes, promised, describe);
    return { ...answer, digest: promised ?? digestOf(answer.bytes), describe };
  }

  /**
   * What the registry says is the digest of a tag, without sending the manifest (and without counting as a pull, where
   * pulls are counted). It is the registry's word only: good for finding what is here already, after credentials were
   * checked. undefined if it does not say. Asked once. @throws as `manifest`.
   */
  async promisedDigest(op: Op, tagOrDigest: string): Promise<Digest | undefined> {
    const what = `digest of ${quote(tagOrDigest)} of ${this.#endpoint.credentialName}`;
    const response = await this.#shared.http
      .tries(op, what, 1)
      .run(() => this.#get(op, `manifests/${tagOrDigest}`, { accept: manifestAccept }, 'HEAD'));
    response.discard();
    const digest = headerOf(response, 'docker-content-digest') ?? '';
    return response.status === 200 && isDigest(digest) ? digest : undefined;
  }

  /**
   * How many bytes a blob has. By GET: the address to which HEAD is redirected is often signed for GET alone. @throws
   * as `manifest`; FailedPrecondition if the answer does not say.
   */
  async blobSize(op: Op, digest: Digest): Promise<bigint> {
    const { http } = this.#shared;
    const what = `size of blob ${digest} of ${this.#endpoint.credentialName}`;
    return await http.tries(op, what, this.#tries).run(async () => {
      const response = await this.#get(op, `blobs/${digest}`, {});
      if (response.status !== 200) throw await this.#blobFailure(op, response, 'plain');
      response.discard();
      const text = headerOf(response, 'content-length') ?? '';
      if (/^\d{1,15}$/.test(text) && codingOf(response) === '') return BigInt(text);
      throw new RuntimeError(
        'FailedPrecondition',
        `neither the manifest nor ${response.url.host} says how large it is; the image must be pushed again`,
      );
    });
  }

  /**
   * The bytes of a blob from `offset` to its end, in order. A connection that breaks is taken up again where it was;
   * one that is stuck likewise, and large blobs come over several connections. Nothing is verified here; no more than
   * `sizeBytes - offset` bytes come out. A piece is valid until the next one is asked for.
   * @throws as `manifest`, when the tries are used up or nothing moves any more.
   */
  async *blob(op: Op, digest: Digest, sizeBytes: bigint, offset: bigint): AsyncGenerator<Uint8Array, void, void> {
    const what = `blob ${digest} of ${this.#endpoint.credentialName}`;
    const { now, rangeless } = this.#shared;
    const startForm: Form = (rangeless.get(this.#host) ?? 0) > now() ? 'plain' : 'ranged';
    const tries = this.#shared.http.tries(op, what, this.#tries, startForm);
    for (let at = offset; at < sizeBytes; ) {
      const attempt = this.#attempt(op, { digest, sizeBytes });
      let moved = 0;
      try {
        for await (const chunk of attempt.transfer.read(at, sizeBytes, tries.form)) {
          yield chunk;
          at += BigInt(chunk.length);
          moved += chunk.length;
          // Less is no progress: a server that breaks off after each byte is given up, however many there are.
          if (moved >= limits.pullProgressBytes) tries.progressed();
        }
      } catch (error) {
        if (op.signal.aborted) throw abortError(op, `downloading ${digest}`);
        await tries.after(attempt.stall.hasCome ? this.#stuck(at, sizeBytes) : error, attempt.transfer.asked);
      } finally {
        attempt.stall.end();
      }
    }
    if (tries.form !== startForm) rangeless.set(this.#host, now() + limits.registrySchemeMs);
  }

  /** One try at a blob, with a watch of its own: one that is stuck ends, and what comes next is decided as for any. */
  #attempt(
    op: Op,
    blob: { readonly digest: Digest; readonly sizeBytes: bigint },
  ): { readonly transfer: BlobTransfer; readonly stall: Stall } {
    const { progressTimeoutMs, now } = this.#shared;
    const watch = new RateWatch(progressTimeoutMs, limits.pullProgressBytes, now());
    const stall = new Stall(watch, now);
    const bounded: Op = { ...op, signal: AbortSignal.any([op.signal, stall.signal]), stage: (text) => op.stage(text) };
    const transfer = new BlobTransfer(this.#shared, watch, bounded, (inner, first, last, form) =>
      this.#range(inner, blob, { first, last, form }),
    );
    return { transfer, stall };
  }

  #stuck(at: bigint, sizeBytes: bigint): RequestError {
    return new RequestError(
      'Unavailable',
      `${this.#host} stopped at ${at} of ${sizeBytes} bytes: less than ${limits.pullProgressBytes} bytes moved in ` +
        `${this.#shared.progressTimeoutMs / 1000} s; it, or the line to it, is stuck: try again later`,
      { kind: 'line' },
    );
  }

  /** One request for a blob or a part of it. A server that ignores ranges sends everything. */
  async #range(
    op: Op,
    { digest, sizeBytes }: { readonly digest: Digest; readonly sizeBytes: bigint },
    { first, last, form }: { readonly first: bigint; readonly last: bigint | undefined; readonly form: Form },
  ): Promise<RangeAnswer> {
    const isPart = form === 'ranged' && (first > 0n || last !== undefined);
    const response = await this.#get(op, `blobs/${digest}`, isPart ? { range: `bytes=${first}-${last ?? ''}` } : {});
    const { status, url } = response;
    if (status !== 200 && status !== 206) throw await this.#blobFailure(op, response, isPart ? 'ranged' : 'plain');
    const discard = (): void => response.discard();
    if (status === 206) {
      const part = partOf(response);
      const asked = isPart ? { first, last: last ?? sizeBytes - 1n } : { first: 0n, last: sizeBytes - 1n };
      // Nobody can tell where in the content a part of its encoded form lies.
      const isWithin = part?.first === asked.first && part.last >= asked.first && part.last <= asked.last;
      if (isWithin && codingOf(response) === '') {
        // A server may send less than was asked for; but crumbs are no way to send a blob.
        const isWorthIt = part.last >= asked.last || part.last - part.first + 1n >= BigInt(limits.pullProgressBytes);
        if (isWorthIt)
          return { url, body: response.body, skip: isPart ? 0n : first, whole: !isPart, end: part.last + 1n, discard };
      }
      discard();
      const got = part === undefined ? 'bytes from nowhere' : `bytes ${part.first} to ${part.last}`;
      throw new RequestError(
        'DataLoss',
        `${shortUrl(url)} answers ${got} ` +
          `when asked for ${asked.first} to ${asked.last}; the registry, or a cache before it, is broken`,
        { kind: 'part' },
      );
    }
    return { url, body: wholeBody(response, sizeBytes), skip: first, whole: true, end: undefined, discard };
  }

  async #blobFailure(op: Op, response: HttpResponse, form: Form): Promise<RequestError> {
    const { status, url } = response;
    const failure = await this.#shared.http.failureOf(
      op,
      response,
      'the registry has lost a part of the image: push it again',
    );
    // A store does not know who we are; it refuses an address that has expired, and the registry gives another one.
    const isOwn = url.host === this.#host && url.pathname.startsWith(new URL(this.#endpoint.root).pathname);
    if (isOwn || form === 'ranged' || !STALE.has(status)) return failure;
    return new RequestError(
      'Unavailable',
      `${url.host}, to which ${this.#host} sends us, answers ${status}; the address may have expired: try again later`,
      { kind: 'line' },
    );
  }

  /** One request below the repository, with credentials as wanted. */
  async #get(
    op: Op,
    path: string,
    headers: Readonly<Record<string, string>>,
    method: 'GET' | 'HEAD' = 'GET',
  ): Promise<HttpResponse> {
    const { plain, now } = this.#shared;
    const secure = this.#endpoint.root.startsWith('https:');
    if (!secure || (this.#endpoint.security === 'insecure' && (plain.get(this.#host) ?? 0) > now()))
      return this.#getFrom(op, this.#url(path, 'http:'), headers, method);
    try {
      return await this.#getFrom(op, this.#url(path, 'https:'), headers, method);
    } catch (error) {
      if (this.#endpoint.security !== 'insecure' || codeOf(error) !== 'Unavailable' || !isNotTls(error)) throw error;
      return await this.#getFrom(op, this.#url(path, 'http:'), headers, method).catch((second: unknown) => {
        throw bothFailed(error, second);
      });
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
    const { authorizer } = this.#shared;
    const door: Door = {
      url,
      routeOf: this.#endpoint.routeOf,
      repository: this.#endpoint.repository,
      credentials: this.#credentials,
      tries: this.#tries,
    };
    let authorization = authorizer.header(door);
    // Twice: a kept token may have been revoked, and the fresh one is then refused for good.
    for (let refusals = 0; ; ) {
      const response = await this.#send(op, url, method, extra, authorization);
      const hidden = authorization === undefined && this.#credentials.kind !== 'none' && isHidden(response.status);
      const challenge = hidden ? await this.#challenge(op, url).catch(() => response) : response;
      if (challenge.status !== 401) return response;
      response.discard();
      if (challenge.url.origin !== url.origin) return await this.#elsewhere(op, url, challenge, method, extra);
      if (refusals++ >= 2)
        throw new RuntimeError(
          'Unauthenticated',
          `registry ${url.host} refuses ${quote(this.#endpoint.repository)}: the token that its token ` +
            'server gave is not accepted; the two do not fit together',
        );
      authorization = await authorizer.answer(op, door, challenge, authorization);
    }
  }

  /**
   * What another registry answers to which ours sends us (containerd#5503). What a redirect leads to is not whom the
   * credentials are for, and must not choose who gets them (CVE-2020-15157): it gets to see nobody in particular. Only
   * the same host behind TLS is whom they are for.
   */
  async #elsewhere(
    op: Op,
    from: URL,
    refusal: HttpResponse,
    method: 'GET' | 'HEAD',
    extra: Readonly<Record<string, string>>,
  ): Promise<HttpResponse> {
    const { authorizer, http } = this.#shared;
    const { url } = refusal;
    const [, repository] = /^\/v2\/(.+)\/(?:manifests|blobs)\/[^/]+$/.exec(url.pathname) ?? [];
    if (repository === undefined) throw strangerAsks(from, url);
    const { routeOf } = this.#endpoint;
    const credentials = isSameBehindTls(from, url) ? this.#credentials : anonymous;
    const door: Door = { url, routeOf, repository, credentials, tries: this.#tries };
    const authorization = await authorizer.answer(op, door, refusal, undefined).catch((error: unknown) => {
      throw codeOf(error) === 'Unauthenticated' && credentials.kind === 'none' ? strangerAsks(from, url) : error;
    });
    const response = await http.send(op, { method, url, headers: { ...extra, authorization } }, routeOf);
    if (response.status !== 401) return response;
    response.discard();
    throw strangerAsks(from, url);
  }

  async #send(
    op: Op,
    url: URL,
    method: 'GET' | 'HEAD',
    extra: Readonly<Record<string, string>>,
    authorization: string | undefined,
  ): Promise<HttpResponse> {
    const headers = {
      ...this.#endpoint.headers,
      ...extra,
      ...(authorization === undefined ? {} : { authorization }),
    };
    const { http, plain, now } = this.#shared;
    const response = await http.send(op, { method, url, headers }, this.#endpoint.routeOf);
    // Whatever it says, it says it so.
    if (url.protocol === 'http:') plain.set(this.#host, now() + limits.registrySchemeMs);
    return response;
  }

  /**
   * The registry's answer to nobody in particular. Registries that everybody may read in part say of what they hide
   * from strangers that it is not there or not allowed, and only here how to become somebody.
   */
  async #challenge(op: Op, url: URL): Promise<HttpResponse> {
    const root = new URL(`${this.#endpoint.root}/`);
    if (url.protocol !== root.protocol) root.protocol = url.protocol;
    const response = await this.#send(op, root, 'GET', {}, undefined);
    response.discard();
    return response;
  }
}

/** How stores answer to an address that they do not take any more. */
const STALE: ReadonlySet<number> = new Set([400, 403, 410]);

function isHidden(status: number): boolean {
  return status === 403 || status === 404;
}

/** Fires when a watch sees no progress any more. */
class Stall {
  readonly #stop = new AbortController();
  readonly #timer: NodeJS.Timeout | undefined;

  constructor(watch: RateWatch, now: () => number) {
    if (watch.timeoutMs === 0) return;
    const look = (): void => {
      if (watch.stalled(now())) this.#stop.abort();
    };
    this.#timer = setInterval(look, Math.max(10, watch.timeoutMs / 8));
    this.#timer.unref();
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  /** True if it fired, before its end. */
  get hasCome(): boolean {
    return this.#stop.signal.aborted;
  }

  /** Ends the watch, and whatever still runs under its signal. */
  end(): void {
    clearInterval(this.#timer);
    this.#stop.abort();
  }
}

/** Which bytes a 206 has; undefined if it does not say. */
function partOf(response: HttpResponse): { readonly first: bigint; readonly last: bigint } | undefined {
  const [, first, last] = /^bytes (\d{1,19})-(\d{1,19})\b/i.exec(headerOf(response, 'content-range') ?? '') ?? [];
  return first === undefined || last === undefined ? undefined : { first: BigInt(first), last: BigInt(last) };
}

/**
 * The body of a whole blob. One that is as long as the blob is the blob, whatever its header says of an encoding: some
 * stores say "gzip" of layers, because they are. @throws RequestError for one that cannot be it.
 */
function wholeBody(response: HttpResponse, sizeBytes: bigint): AsyncIterable<Uint8Array> {
  const text = headerOf(response, 'content-length') ?? '';
  const length = /^\d{1,18}$/.test(text) ? BigInt(text) : undefined;
  if (length === sizeBytes) return response.body;
  if (length === undefined || codingOf(response) !== '') return decodedBody(response);
  response.discard();
  throw new RequestError(
    'DataLoss',
    `${shortUrl(response.url)} has ${length} bytes where the manifest promises ${sizeBytes}; something else answers ` +
      'there, or the image must be pushed again',
    { kind: 'line' },
  );
}

function isSameBehindTls(from: URL, to: URL): boolean {
  return from.protocol === 'http:' && to.protocol === 'https:' && from.host === to.host && to.port === '';
}

function strangerAsks(url: URL, stranger: URL): RuntimeError {
  return new RuntimeError(
    'Unauthenticated',
    `registry ${url.host} sends us to ${shortUrl(stranger)}, which wants credentials of its ` +
      'own (401); none were sent there, the registry has to give an address that can be read ' +
      'without',
  );
}

/** Neither https nor http: both reasons in one message, unless the second one is an answer. */
function bothFailed(secure: unknown, plain: unknown): unknown {
  if (!(plain instanceof RequestError) || plain.code !== 'Unavailable') return plain;
  return new RequestError('Unavailable', `${explain(plain)} (and by https: ${explain(secure)})`, plain.trouble);
}

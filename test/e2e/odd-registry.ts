/**
 * A registry on loopback that answers as oddly as it is told: what real ones, and what stands before them, were seen to
 * do. Beside it a store, to which it may redirect, and a token server.
 *
 *     const odd = await OddRegistry.start(image, { ...PLAIN, ranges: 'refused 501' });
 */
import { createHash } from 'node:crypto';
import { once } from 'node:events';
import { createServer } from 'node:http';
import type { IncomingMessage, Server, ServerResponse } from 'node:http';
import type { AddressInfo } from 'node:net';
import { deflateSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { misbehave } from './odd-faults.ts';
import type { Fault } from './odd-faults.ts';

/** An image in memory. */
export interface OddImage {
  readonly manifest: Buffer;
  readonly config: Buffer;
  readonly layers: readonly Buffer[];
}

/** How a body is coded, and whether the header tells the truth. */
export type Coding = 'none' | 'gzip' | 'x-gzip' | 'deflate' | 'zstd' | 'gzip, said only' | 'utf-8, said only';

/** What comes of a request with a range. */
export type RangeMood =
  | 'honoured'
  | 'ignored'
  | 'wrong part'
  | 'part unsaid'
  | 'shorter part'
  | `refused ${400 | 403 | 416 | 500 | 501}`;

/** Where blobs are. */
export interface Redirect {
  readonly status: 301 | 302 | 303 | 307 | 308;
  /** In a loop there are more than anybody follows. */
  readonly hops: number;
  readonly to: 'store' | 'itself';
}

/** All that can be odd about a registry. */
export interface Mood {
  /** `hidden`: strangers hear 404, and only the root says how to become somebody. */
  readonly auth: 'none' | 'basic' | 'bearer' | 'hidden';
  /** The token server's answer; TOKEN in it opens the door. */
  readonly token: string;
  /** Of manifests; '' = none is sent. */
  readonly contentType: string;
  readonly digestHeader: 'right' | 'missing' | 'empty' | 'wrong';
  /** Status of HEAD. */
  readonly head: 200 | 401 | 403 | 404 | 405 | 500;
  readonly manifestCoding: Coding;
  readonly blobCoding: Coding;
  /** Without a Content-Length. */
  readonly chunked: boolean;
  /** Of a header that nobody reads. */
  readonly headerBytes: number;
  readonly ranges: RangeMood;
  readonly redirect: Redirect | undefined;
  readonly faults: readonly Fault[];
}

/** Nothing odd. */
export const PLAIN: Mood = {
  auth: 'none',
  token: '{"token":"TOKEN"}',
  contentType: 'application/vnd.oci.image.manifest.v1+json',
  digestHeader: 'right',
  head: 200,
  manifestCoding: 'none',
  blobCoding: 'none',
  chunked: false,
  headerBytes: 0,
  ranges: 'honoured',
  redirect: undefined,
  faults: [],
};

/** Name and password that it takes. */
export const LOGIN = { username: 'user', password: 'pa:ss' } as const;
/** The signature in the addresses of its store, which must not turn up anywhere. */
export const SECRET = 'X-Amz-Signature=5ec2e7';

const BASIC = `Basic ${Buffer.from(`${LOGIN.username}:${LOGIN.password}`).toString('base64')}`;
const REPOSITORY = 'team/app';

/** The digest of bytes. */
export function digestOf(bytes: Uint8Array): string {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`;
}

/** A running registry with one image, `team/app:v1`. */
export class OddRegistry {
  readonly #mood: Mood;
  readonly #image: OddImage;
  readonly #left: Map<Fault, number>;
  readonly #registry: Server;
  readonly #store: Server;
  /** `METHOD path` of everything asked, with the range. */
  readonly asked: string[] = [];

  private constructor(image: OddImage, mood: Mood) {
    this.#image = image;
    this.#mood = mood;
    this.#left = new Map(mood.faults.map((fault) => [fault, fault.times]));
    this.#registry = createServer((request, response) => this.#answer(request, response));
    this.#store = createServer((request, response) => this.#answerAtStore(request, response));
  }

  static async start(image: OddImage, mood: Mood = PLAIN): Promise<OddRegistry> {
    const odd = new OddRegistry(image, mood);
    for (const server of [odd.#registry, odd.#store]) {
      server.listen(0, '127.0.0.1');
      await once(server, 'listening');
    }
    return odd;
  }

  /** `127.0.0.1:port` */
  get host(): string {
    return hostOf(this.#registry);
  }

  /** The store and the token server. */
  get store(): string {
    return hostOf(this.#store);
  }

  /** What to pull. */
  get reference(): string {
    return `${this.host}/${REPOSITORY}:v1`;
  }

  async stop(): Promise<void> {
    for (const server of [this.#registry, this.#store]) {
      server.closeAllConnections();
      server.close();
      await once(server, 'close');
    }
  }

  #answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', `http://${this.host}`);
    this.#note(request);
    if (url.pathname === '/v2/') return this.#root(request, response);
    const hop = url.searchParams.get('hop');
    const [, kind = '', name = ''] = /\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? [];
    if (hop === null && !this.#admits(request)) {
      if (this.#mood.auth === 'hidden') return say(response, 404, {}, '{"errors":[{"code":"NAME_UNKNOWN"}]}');
      return this.#challenge(response);
    }
    if (kind === 'manifests') return this.#manifest(request, response, name);
    if (kind !== 'blobs') return say(response, 404, {}, '');
    const { redirect } = this.#mood;
    const hops = Number(hop ?? '0');
    if (redirect === undefined || hops >= redirect.hops) return this.#blob(request, response, name);
    const onward = redirect.to === 'itself' ? '' : `http://${hops + 1 < redirect.hops ? this.host : this.store}`;
    const location = `${onward}/v2/${REPOSITORY}/blobs/${name}?hop=${hops + 1}&${SECRET}`;
    say(response, redirect.status, { location }, '');
  }

  #answerAtStore(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', `http://${this.store}`);
    this.#note(request);
    if (url.pathname === '/token') {
      if (this.#fault('token', request, response, Buffer.from(this.#mood.token), 'application/json')) return;
      const knows = this.#mood.auth === 'none' || request.headers.authorization === BASIC;
      return say(response, knows ? 200 : 401, { 'content-type': 'application/json' }, knows ? this.#mood.token : '{}');
    }
    // As S3 does: one way to say who one is.
    if (request.headers.authorization !== undefined)
      return say(response, 400, {}, '<Error><Code>InvalidArgument</Code></Error>');
    this.#blob(request, response, url.pathname.split('/').at(-1) ?? '');
  }

  #note(request: IncomingMessage): void {
    const { range } = request.headers;
    this.asked.push(`${request.method} ${request.url}${range === undefined ? '' : ` ${range}`}`);
  }

  #root(request: IncomingMessage, response: ServerResponse): void {
    if (this.#admits(request)) say(response, 200, { 'content-type': 'application/json' }, '{}');
    else this.#challenge(response);
  }

  #admits(request: IncomingMessage): boolean {
    const { authorization } = request.headers;
    const { auth } = this.#mood;
    return auth === 'none' || (auth === 'basic' ? authorization === BASIC : authorization === 'Bearer TOKEN');
  }

  #challenge(response: ServerResponse): void {
    const { auth } = this.#mood;
    const bearer = `Bearer realm="http://${this.store}/token",service="odd",scope="repository:${REPOSITORY}:pull"`;
    say(response, 401, { 'www-authenticate': auth === 'basic' ? 'Basic realm="odd"' : bearer }, '');
  }

  #manifest(request: IncomingMessage, response: ServerResponse, name: string): void {
    const { manifest } = this.#image;
    const { contentType, digestHeader, head, manifestCoding } = this.#mood;
    if (request.method === 'HEAD' && head !== 200) return say(response, head, {}, '');
    if (name !== 'v1' && name !== digestOf(manifest)) return say(response, 404, {}, '');
    if (this.#fault('manifest', request, response, manifest, contentType)) return;
    const digests = { right: digestOf(manifest), missing: undefined, empty: '', wrong: digestOf(Buffer.from('x')) };
    const digest = digests[digestHeader];
    const headers = {
      ...(contentType === '' ? {} : { 'content-type': contentType }),
      ...(digest === undefined ? {} : { 'docker-content-digest': digest }),
    };
    const body = coded(manifest, manifestCoding);
    // To HEAD Node sends the headers, with the length, and no body.
    this.#send(response, 200, { ...headers, ...body.headers }, body.bytes);
  }

  #blob(request: IncomingMessage, response: ServerResponse, name: string): void {
    const { config, layers } = this.#image;
    const bytes = [config, ...layers].find((each) => digestOf(each) === name);
    if (bytes === undefined) return say(response, 404, {}, '{"errors":[{"code":"BLOB_UNKNOWN"}]}');
    if (this.#fault(bytes === config ? 'config' : 'layer', request, response, bytes, 'application/octet-stream'))
      return;
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers.range ?? '');
    const { ranges, blobCoding } = this.#mood;
    if (range === null || ranges === 'ignored') {
      const body = coded(bytes, blobCoding);
      return this.#send(response, 200, { 'content-type': 'application/octet-stream', ...body.headers }, body.bytes);
    }
    if (ranges.startsWith('refused ')) return say(response, Number(ranges.slice(8)), {}, 'no ranges here');
    const from = Math.min(Number(range[1]) + (ranges === 'wrong part' ? 7 : 0), bytes.length - 1);
    const end = range[2] === '' ? bytes.length : Math.min(bytes.length, Number(range[2]) + 1);
    const to = ranges === 'shorter part' ? from + Math.max(1, (end - from) >> 1) : end;
    const said = ranges === 'part unsaid' ? {} : { 'content-range': `bytes ${from}-${to - 1}/${bytes.length}` };
    this.#send(response, 206, said, bytes.subarray(from, to));
  }

  #send(response: ServerResponse, status: number, headers: Record<string, string>, body: Buffer): void {
    const { chunked, headerBytes } = this.#mood;
    const more = headerBytes === 0 ? {} : { 'content-security-policy': 'x'.repeat(headerBytes) };
    response.writeHead(status, { ...headers, ...more, ...(chunked ? {} : { 'content-length': body.length }) });
    response.end(body);
  }

  /** True if a fault of that place was due, and has answered. */
  #fault(
    where: Fault['where'],
    request: IncomingMessage,
    response: ServerResponse,
    body: Buffer,
    contentType: string,
  ): boolean {
    const due = this.#mood.faults.find((fault) => fault.where === where && (this.#left.get(fault) ?? 0) > 0);
    if (due === undefined || request.method === 'HEAD') return false;
    this.#left.set(due, (this.#left.get(due) ?? 0) - 1);
    misbehave(due, response, { body, contentType });
    return true;
  }
}

function hostOf(server: Server): string {
  return `127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function coded(bytes: Buffer, coding: Coding): { readonly bytes: Buffer; readonly headers: Record<string, string> } {
  switch (coding) {
    case 'none':
      return { bytes, headers: {} };
    case 'gzip, said only':
      return { bytes, headers: { 'content-encoding': 'gzip' } };
    case 'utf-8, said only':
      return { bytes, headers: { 'content-encoding': 'UTF-8' } };
    case 'gzip':
    case 'x-gzip':
      return { bytes: gzipSync(bytes), headers: { 'content-encoding': coding } };
    case 'deflate':
      return { bytes: deflateSync(bytes), headers: { 'content-encoding': coding } };
    case 'zstd':
      return { bytes: zstdCompressSync(bytes), headers: { 'content-encoding': coding } };
  }
}

function say(response: ServerResponse, status: number, headers: Record<string, string>, body: string): void {
  response.writeHead(status, { ...headers, 'content-length': Buffer.byteLength(body) });
  response.end(body);
}

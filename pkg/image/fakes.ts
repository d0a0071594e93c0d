/** Doubles for the tests of this directory: a network of registries in memory, and an unpacker that only remembers. */
import { closeSync, openSync, readSync } from 'node:fs';
import { access, readFile } from 'node:fs/promises';
import { gunzipSync, gzipSync } from 'node:zlib';
import { backgroundOp, silent } from '../base/op.ts';
import { fired } from '../base/time.ts';
import type { LogFields, Logger, Op } from '../base/op.ts';
import type { ChainId, Digest } from '../base/ids.ts';
import { explain, RuntimeError } from '../base/errors.ts';
import { chainIds, digestOf } from '../oci/digest.ts';
import { mediaTypes } from '../oci/media-types.ts';
import type { HttpRequest, HttpResponse, Route, Transport } from './registry/http.ts';
import type { ArrivingBlob, FsUsage, LayerOrigin, LayerSource, LayerUnpacker, StagedLayer } from '../ports/image.ts';

/** What a fake host says: a status with a body, or an error that the network gives. */
export interface FakeAnswer {
  readonly status?: number;
  readonly headers?: Readonly<Record<string, string>>;
  readonly body?: Uint8Array | string | AsyncIterable<Uint8Array>;
  readonly error?: Error;
}
export type FakeHost = (request: HttpRequest, route: Route) => FakeAnswer | undefined | Promise<FakeAnswer | undefined>;

/** A network: hosts by origin (`https://registry.example`). Unknown ones refuse connections. */
export class FakeNetwork implements Transport {
  readonly hosts = new Map<string, FakeHost>();
  readonly requests: HttpRequest[] = [];

  async send(request: HttpRequest, route: Route, signal: AbortSignal): Promise<HttpResponse> {
    this.requests.push(request);
    const host = this.hosts.get(request.url.origin);
    if (host === undefined)
      throw Object.assign(new Error(`connect ECONNREFUSED ${request.url.host}`), { code: 'ECONNREFUSED' });
    const aborted = fired(signal).then(() => Promise.reject(new Error('request aborted')));
    aborted.catch(() => {});
    const answer = (await Promise.race([host(request, route), aborted])) ?? {
      status: 404,
      body: '{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}',
    };
    if (answer.error !== undefined) throw answer.error;
    return {
      status: answer.status ?? 200,
      headers: answer.headers ?? {},
      url: request.url,
      body: untilAborted(bodyOf(answer.body ?? ''), signal),
      discard() {},
    };
  }

  async close(): Promise<void> {}

  /** `METHOD url` of everything asked, in order. */
  get lines(): string[] {
    return this.requests.map(({ method, url }) => `${method} ${url.href}`);
  }
}

async function* bodyOf(body: Uint8Array | string | AsyncIterable<Uint8Array>): AsyncGenerator<Uint8Array> {
  if (typeof body === 'string') yield Buffer.from(body);
  else if (body instanceof Uint8Array) yield body;
  else yield* body;
}

/** A network body ends with an error when its request is aborted, also while it waits. */
async function* untilAborted(body: AsyncIterable<Uint8Array>, signal: AbortSignal): AsyncGenerator<Uint8Array> {
  const iterator = body[Symbol.asyncIterator]();
  const aborted = new Promise<never>((_resolve, reject) =>
    signal.addEventListener('abort', () => reject(new Error('request aborted')), { once: true }),
  );
  aborted.catch(() => {});
  for (;;) {
    const next = await Promise.race([iterator.next(), aborted]);
    if (next.done === true) return;
    // Lent, as by the real thing: who keeps a piece beyond the next one finds something else in it.
    const lent = Buffer.from(next.value);
    yield lent;
    lent.fill('?');
  }
}

/** Some bytes, then the connection breaks. */
export async function* broken(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
  throw Object.assign(new Error('other side closed'), { code: 'UND_ERR_SOCKET' });
}
/** Some bytes, then nothing more. */
export async function* stalled(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes;
  await new Promise<never>(() => {});
}

export interface FakeImage {
  readonly id: Digest;
  readonly manifest: { readonly bytes: Buffer; readonly digest: Digest; readonly type: string };
  readonly config: Buffer;
  readonly layers: readonly { readonly bytes: Buffer; readonly digest: Digest; readonly diffId: Digest }[];
  readonly chain: readonly ChainId[];
}

/** An image whose layers hold these texts (not tars: nobody unpacks them here). */
export function fakeImage(
  texts: readonly string[],
  config: Readonly<Record<string, unknown>> = {},
  architecture = 'amd64',
): FakeImage {
  const layers = texts.map((text) => {
    const bytes = gzipSync(text);
    return { bytes, digest: digestOf(bytes), diffId: digestOf(text) };
  });
  const diffIds = layers.map(({ diffId }) => diffId);
  const configBytes = Buffer.from(
    JSON.stringify({ architecture, os: 'linux', config, rootfs: { type: 'layers', diff_ids: diffIds } }),
  );
  const id = digestOf(configBytes);
  const bytes = Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, digest: id, size: configBytes.length },
      layers: layers.map((layer) => ({
        mediaType: mediaTypes.ociLayerGzip,
        digest: layer.digest,
        size: layer.bytes.length,
      })),
    }),
  );
  return {
    id,
    manifest: { bytes, digest: digestOf(bytes), type: mediaTypes.ociManifest },
    config: configBytes,
    layers,
    chain: chainIds(diffIds),
  };
}

/**
 * A registry that has these images under `repository:tag`, serves ranges, and can be told to answer some paths
 * otherwise.
 */
export class FakeRegistry {
  readonly special = new Map<string, FakeHost>();
  readonly #contents = new Map<string, { readonly bytes: Buffer; readonly type: string }>();

  add(repository: string, tag: string, image: FakeImage): this {
    for (const name of [tag, image.manifest.digest])
      this.put(`/v2/${repository}/manifests/${name}`, image.manifest.bytes, image.manifest.type);
    this.put(`/v2/${repository}/blobs/${image.id}`, image.config);
    for (const { digest, bytes } of image.layers) this.put(`/v2/${repository}/blobs/${digest}`, bytes);
    return this;
  }

  put(path: string, bytes: Buffer, type = 'application/octet-stream'): this {
    this.#contents.set(path, { bytes, type });
    return this;
  }

  readonly host: FakeHost = async (request, route) => {
    const special = await this.special.get(request.url.pathname)?.(request, route);
    return special ?? this.normal(request);
  };

  normal(request: HttpRequest): FakeAnswer | undefined {
    const found = this.#contents.get(request.url.pathname);
    if (found === undefined) return undefined;
    if (request.method === 'HEAD')
      return { headers: { 'content-type': found.type, 'docker-content-digest': digestOf(found.bytes) } };
    const range = /^bytes=(\d+)-(\d*)$/.exec(request.headers['range'] ?? '');
    if (range === null) return { headers: { 'content-type': found.type }, body: found.bytes };
    const from = Number(range[1]);
    const to = range[2] === '' ? found.bytes.length : Math.min(Number(range[2]) + 1, found.bytes.length);
    return {
      status: 206,
      headers: { 'content-range': `bytes ${from}-${to - 1}/${found.bytes.length}` },
      body: found.bytes.subarray(from, to),
    };
  }
}

/** Keeps the promises of LayerUnpacker without unpacking; it wants the blob to be there as long as it works. */
export class FakeUnpacker implements LayerUnpacker {
  readonly layers = new Set<ChainId>();
  readonly unpacked: LayerSource[] = [];
  readonly proven: LayerSource[] = [];
  /** What was unpacked early, and neither kept nor dropped. */
  readonly staged = new Set<StagedLayer>();
  readonly #origins = new Map<ChainId, LayerOrigin>();
  /** Layers that a disk has damaged, until they are removed. */
  readonly damaged = new Set<ChainId>();
  /** Called before a layer is complete; may throw or wait. */
  onUnpack: (op: Op, layer: LayerSource) => Promise<void> | void = () => {};

  async unpack(op: Op, layer: LayerSource): Promise<void> {
    if (this.layers.has(layer.chainId)) return;
    await checkContent(layer);
    await this.onUnpack(op, layer);
    await access(layer.path);
    if (op.signal.aborted) throw new RuntimeError('Cancelled', 'unpacking was cancelled');
    this.unpacked.push(layer);
    this.layers.add(layer.chainId);
    this.#origins.set(layer.chainId, layer);
  }
  async unpackEarly(op: Op, layer: LayerSource, blob: ArrivingBlob): Promise<StagedLayer | undefined> {
    const bytes = await readArriving(blob);
    if (digestOf(bytes) !== layer.digest) throw new Error(`what arrived as ${layer.digest} is something else`);
    const staged: StagedLayer = {
      keep: async () => {
        await this.unpack(op, layer);
        this.staged.delete(staged);
      },
      drop: async () => void this.staged.delete(staged),
    };
    this.staged.add(staged);
    return staged;
  }
  async prove(_op: Op, layer: LayerSource): Promise<void> {
    await checkContent(layer);
    this.proven.push(layer);
  }
  async origin(chainId: ChainId): Promise<LayerOrigin | undefined> {
    return this.layers.has(chainId) ? this.#origins.get(chainId) : undefined;
  }
  async settle(): Promise<void> {}
  async has(chainId: ChainId): Promise<boolean> {
    return this.layers.has(chainId);
  }
  async verifyLayer(_op: Op, chainId: ChainId): Promise<readonly string[]> {
    return this.damaged.has(chainId) ? ['damaged'] : [];
  }
  async removeLayer(_op: Op, chainId: ChainId): Promise<void> {
    this.damaged.delete(chainId);
    this.layers.delete(chainId);
  }
  async listLayers(): Promise<readonly ChainId[]> {
    return [...this.layers];
  }
  async layersUsage(): Promise<FsUsage> {
    return { usedBytes: BigInt(this.layers.size) * 1000n, inodesUsed: BigInt(this.layers.size) };
  }
}

/** All of a blob, each part as soon as it is there. @throws what it fails with. */
async function readArriving(blob: ArrivingBlob): Promise<Buffer> {
  // On the spot: it gets another name when it is whole.
  const fd = openSync(blob.path, 'r');
  try {
    const parts: Buffer[] = [];
    let [at, present, isWhole] = [0, 0, false];
    let more = Promise.withResolvers<void>();
    blob.follow((bytes) => {
      present = Number(bytes);
      more.resolve();
    });
    const whole = blob.whole.then(() => void (isWhole = true));
    for (;;) {
      more = Promise.withResolvers();
      for (; at < present; at += parts.at(-1)?.length ?? 0) {
        const part = Buffer.alloc(present - at);
        const count = readSync(fd, part, 0, part.length, at);
        if (count === 0) throw new Error('the file has less than it was said to have');
        parts.push(part.subarray(0, count));
      }
      if (isWhole) return Buffer.concat(parts);
      await Promise.race([whole, more.promise]);
    }
  } finally {
    closeSync(fd);
  }
}

async function checkContent({ path, digest, diffId }: LayerSource): Promise<void> {
  const bytes = await readFile(path);
  const content = bytes[0] === 0x1f && bytes[1] === 0x8b ? gunzipSync(bytes) : bytes;
  if (digestOf(content) !== diffId) throw new RuntimeError('DataLoss', `layer ${digest} unpacks to something else`);
}

/** An operation that nobody cancels. */
export function testOp(log: Logger = silent): Op {
  return backgroundOp(log);
}

/** An operation with its own off switch. */
export function cancellable(): { readonly op: Op; cancel(): void } {
  const controller = new AbortController();
  return { op: { ...backgroundOp(silent), signal: controller.signal, stage() {} }, cancel: () => controller.abort() };
}

/** Collects log lines of one level and above debug. */
export class RecordingLog implements Logger {
  /** Level and message. */
  readonly lines: string[] = [];
  /** The same with the fields as JSON. */
  readonly full: string[] = [];
  debug(): void {}
  info(message: string, fields?: LogFields): void {
    this.#add('info', message, fields);
  }
  warn(message: string, fields?: LogFields): void {
    this.#add('warn', message, fields);
  }
  error(message: string, fields?: LogFields): void {
    this.#add('error', message, fields);
  }
  child(): Logger {
    return this;
  }
  #add(level: string, message: string, fields: LogFields = {}): void {
    this.lines.push(`${level} ${message}`);
    const plain = (_key: string, each: unknown): unknown => (typeof each === 'bigint' ? String(each) : each);
    this.full.push(`${level} ${message} ${JSON.stringify(fields, plain)}`);
  }
}

/** The error that a promise ends with; fails the test if it ends well. */
export async function failure(promise: Promise<unknown>): Promise<RuntimeError> {
  const outcome: unknown = await promise.then(
    () => undefined,
    (error: unknown) => error,
  );
  if (!(outcome instanceof RuntimeError)) throw new Error(`expected a RuntimeError, got ${String(outcome)}`);
  return outcome;
}

/** The whole story of the error that a promise ends with. */
export async function explainFailure(promise: Promise<unknown>): Promise<string> {
  return explain(await failure(promise));
}

/** All bytes of a stream. */
export async function drain(source: AsyncIterable<Uint8Array>): Promise<Buffer> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(Buffer.from(part));
  return Buffer.concat(parts);
}

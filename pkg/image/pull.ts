/**
 * From a manifest to an image on disk: the one path that pulled and imported images take.
 *
 * Layers download several at a time and unpack as they arrive. When one fails, the others are stopped and waited for
 * before the failure is reported: after that nothing of this pull moves any more.
 */
import { isCode, RuntimeError } from '../base/errors.ts';
import { parseImageId } from '../base/ids.ts';
import type { ChainId, Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import type { KeyedMutex } from '../base/sync.ts';
import { checkDigest } from '../oci/digest.ts';
import { INDEX_DEPTH_MAX, parseImageConfig, parseManifest, selectPlatform } from '../oci/manifest.ts';
import type { ImageManifest } from '../oci/manifest.ts';
import type { Descriptor, Platform } from '../oci/spec-types.ts';
import type { BlobStore } from './blobs.ts';
import type { Claim, Claims } from './claims.ts';
import type { PullTracker } from './progress.ts';
import { describeImage } from './records.ts';
import type { StoredImage } from './records.ts';
import type { ManifestAnswer } from './registry/repository.ts';
import type { ImageLayer, LayerSource, LayerUnpacker } from '../ports/image.ts';

/** Where the bytes of one image come from. Nothing it gives is trusted. */
export interface PullSource {
  /** For messages. */
  readonly describe: string;
  manifest(op: Op, digest: string): Promise<ManifestAnswer>;
  /** The bytes from `offset` to the end. */
  blob(op: Op, want: { readonly digest: Digest; readonly size: bigint }, offset: bigint): AsyncIterable<Uint8Array>;
  /** The content of this blob was wrong: whoever gave it is not asked for it again. False if there is nobody else. */
  discredit(digest: Digest): boolean;
}

/** What installing needs around it. */
export interface InstallWorld {
  readonly blobs: BlobStore;
  readonly unpacker: LayerUnpacker;
  readonly claims: Claims;
  /** One unpacker or remover per layer. */
  readonly layerLocks: KeyedMutex<ChainId>;
  /** Called whenever any pull unpacks something, for those whose layers wait for their turn. */
  readonly awaiting: Set<() => void>;
  readonly platform: Platform;
  /** `discard`: a layer's compressed blob goes when the layer is unpacked. */
  readonly layerBlobs: 'keep' | 'discard';
  /** A pull in which nothing at all moved for so long is given up. */
  readonly silentMs: number;
}

export type ImageFacts = ReturnType<typeof describeImage>;

/** What the caller has to say about an image on its way. */
export interface InstallSteps {
  /**
   * Called when the manifest for this platform is known, before anything else of the image is read; throws to refuse
   * it.
   */
  accept?(manifest: ManifestAnswer): Promise<void>;
  /** Writes the record. */
  commit(facts: ImageFacts): Promise<StoredImage>;
}

/**
 * Brings everything of the image under `root` to disk and hands its facts to `commit`, which writes the record while
 * the claim still protects what it speaks of. `key` names this pull among others, so that a later try finds its claim.
 */
export async function install(
  op: Op,
  world: InstallWorld,
  source: PullSource,
  root: ManifestAnswer,
  key: string,
  track: PullTracker,
  steps: InstallSteps,
): Promise<StoredImage> {
  const { answer, manifest } = await descend(op, world.platform, source, root);
  await steps.accept?.(answer);
  const id = parseImageId(manifest.config.digest);
  const claimed = {
    blobs: [answer.digest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest)],
    layers: [] as ChainId[],
  };
  const first = await world.claims.take(key, claimed);
  let claim: Claim = first;
  try {
    await world.blobs.put(op, answer.digest, answer.bytes);
    const facts = await readFacts(op, world, source, id, answer, manifest);
    track.plan(facts.layers);
    claim = await world.claims.take(key, { blobs: claimed.blobs, layers: facts.layers.map(({ chainId }) => chainId) });
    first.abandon();
    track.stage('downloading');
    await new LayerInstall(world, source, claim, track).run(op, facts.layers);
    track.stage('committing');
    const stored = await steps.commit(facts);
    await claim.finish();
    return stored;
  } catch (error) {
    first.abandon();
    // A later try can use what is here, unless the image itself is bad or the disk is what is missing.
    if (isWorthResuming(error)) claim.abandon();
    else await claim.finish();
    throw error;
  }
}

/** True for failures of the line or of patience, after which the same bytes are wanted again. */
export function isWorthResuming(error: unknown): boolean {
  return (
    isCode(error, 'Unavailable') ||
    isCode(error, 'Cancelled') ||
    isCode(error, 'DeadlineExceeded') ||
    isCode(error, 'Unauthenticated')
  );
}

/** From an index down to the manifest for this platform; each step is checked against its digest. */
async function descend(
  op: Op,
  platform: Platform,
  source: PullSource,
  root: ManifestAnswer,
): Promise<{ readonly answer: ManifestAnswer; readonly manifest: ImageManifest }> {
  let answer = root;
  for (let depth = 0; depth < INDEX_DEPTH_MAX; depth++) {
    const document = parseManifest(answer.bytes, answer.contentType);
    if (document.kind === 'manifest') return { answer, manifest: document };
    const entry = selectPlatform(document, platform);
    answer = await source.manifest(op, entry.digest);
    checkDigest(answer.bytes, entry.digest, `manifest ${entry.digest} of ${source.describe}`);
    // The index says what it is; a server that says otherwise is refused by parseManifest.
    if (answer.contentType === '') answer = { ...answer, contentType: entry.mediaType };
  }
  throw new RuntimeError(
    'InvalidArgument',
    `${source.describe}: more than ${INDEX_DEPTH_MAX} indexes inside each other`,
  );
}

async function readFacts(
  op: Op,
  world: InstallWorld,
  source: PullSource,
  id: ImageId,
  answer: ManifestAnswer,
  manifest: ImageManifest,
): Promise<ImageFacts> {
  await download(op, world, source, manifest.config, () => {});
  const bytes = await world.blobs.read(manifest.config.digest, limits.imageConfigBytes);
  if (bytes === undefined)
    throw new RuntimeError('DataLoss', `the config of ${source.describe} vanished while it was pulled; pull again`);
  const config = parseImageConfig(bytes);
  if (config.os !== '' && config.os !== 'linux')
    throw new RuntimeError(
      'FailedPrecondition',
      `${source.describe} is an image for ${config.os}, this node runs linux`,
    );
  if (config.architecture !== '' && config.architecture !== world.platform.architecture) {
    // People run foreign images under binfmt; CRI-O lets them, too.
    op.log.warn('image is for another architecture', {
      image: id,
      architecture: config.architecture,
      node: world.platform.architecture,
    });
  }
  return describeImage(id, answer.digest, BigInt(answer.bytes.length), manifest, config);
}

/** One blob, from whoever has it right. */
async function download(
  op: Op,
  world: InstallWorld,
  source: PullSource,
  want: Pick<Descriptor, 'digest' | 'size'>,
  onBytes: (present: bigint) => void,
): Promise<void> {
  for (;;) {
    try {
      return await world.blobs.write(op, want, (offset) => source.blob(op, want, offset), onBytes);
    } catch (error) {
      if (!isCode(error, 'DataLoss') || !source.discredit(want.digest)) throw error;
      op.log.warn('blob was wrong, will ask another endpoint', { digest: want.digest });
    }
  }
}

class LayerInstall {
  readonly #world: InstallWorld;
  readonly #source: PullSource;
  readonly #claim: Claim;
  readonly #track: PullTracker;
  readonly #downloads = new Gate(limits.pullLayersCount);
  /** Layers of this image that have the same blob (an empty layer, often) and are not unpacked yet. */
  readonly #waiting = new Map<Digest, number>();

  constructor(world: InstallWorld, source: PullSource, claim: Claim, track: PullTracker) {
    this.#world = world;
    this.#source = source;
    this.#claim = claim;
    this.#track = track;
  }

  async run(op: Op, layers: readonly ImageLayer[]): Promise<void> {
    const watch = new SilenceWatch(this.#world.silentMs);
    const stop = new AbortController();
    const inner: Op = {
      ...op,
      signal: AbortSignal.any([op.signal, stop.signal, watch.signal]),
      stage: (what) => op.stage(what),
    };
    let failure: { readonly error: unknown } | undefined;
    const fail = (error: unknown): void => {
      failure ??= { error };
      stop.abort();
    };
    await Promise.all(
      layers.map((layer, index) =>
        this.#layer(
          inner,
          { ...layer, path: this.#world.blobs.path(layer.digest), onProgress: () => watch.heard() },
          index,
          watch,
        ).catch(fail),
      ),
    );
    if (failure === undefined)
      await this.#world.unpacker
        .settle(
          inner,
          layers.map(({ chainId }) => chainId),
        )
        .catch(fail);
    watch.stop();
    if (op.signal.aborted) throw abortError(op, `pulling ${this.#source.describe}`);
    if (watch.signal.aborted)
      throw new RuntimeError(
        'DeadlineExceeded',
        `pulling ${this.#source.describe}: nothing was downloaded or unpacked for ` +
          `${this.#world.silentMs / 1000} s; is the disk stuck?`,
        { cause: failure?.error },
      );
    if (failure !== undefined) throw failure.error;
  }

  async #layer(op: Op, layer: LayerSource, index: number, watch: SilenceWatch): Promise<void> {
    if ((await this.#downloads.run(() => this.#fetch(op, layer, index, watch))) === 'unpacked')
      return this.#track.layer(index, 'done');
    this.#track.layer(index, 'unpacking');
    await this.#unpack(op, layer, watch);
    this.#track.layer(index, 'done');
    const { digest } = layer;
    if (this.#world.layerBlobs === 'discard')
      await this.#world.blobs.remove(
        digest,
        () => this.#claim.isShared(digest) || (this.#waiting.get(digest) ?? 0) > 0,
      );
  }

  async #fetch(op: Op, layer: LayerSource, index: number, watch: SilenceWatch): Promise<'unpacked' | 'downloaded'> {
    if (op.signal.aborted) throw abortError(op, `downloading ${layer.digest}`);
    const { digest, chainId, sizeBytes: size } = layer;
    if (await this.#inTurn(chainId, watch, () => this.#world.unpacker.has(chainId))) {
      this.#track.reusedLayers++;
      return 'unpacked';
    }
    this.#waiting.set(digest, (this.#waiting.get(digest) ?? 0) + 1);
    let before: bigint | undefined;
    await download(op, this.#world, this.#source, { digest, size }, (present) => {
      watch.heard();
      this.#track.downloadedBytes += present > (before ?? present) ? present - (before ?? present) : 0n;
      before = present;
      this.#track.layer(index, 'downloading', present);
    });
    return 'downloaded';
  }

  async #unpack(op: Op, layer: LayerSource, watch: SilenceWatch): Promise<void> {
    const { digest, chainId } = layer;
    const { unpacker } = this.#world;
    try {
      await this.#inTurn(chainId, watch, async (moved) => {
        if (op.signal.aborted) throw abortError(op, `unpacking ${digest}`);
        if (!(await unpacker.has(chainId))) await unpacker.unpack(op, { ...layer, onProgress: moved });
        moved();
      });
    } finally {
      this.#waiting.set(digest, (this.#waiting.get(digest) ?? 1) - 1);
    }
  }

  /**
   * Does `work` when nobody else works on the layer. Until something of it has `moved`, whatever is unpacked on this
   * node keeps the watch quiet: a pull that waits behind others is not stuck as long as they are not.
   */
  async #inTurn<T>(chainId: ChainId, watch: SilenceWatch, work: (moved: () => void) => Promise<T>): Promise<T> {
    const { layerLocks, awaiting } = this.#world;
    const heard = (): void => watch.heard();
    const moved = (): void => {
      awaiting.delete(heard);
      heard();
      for (const each of awaiting) each();
    };
    awaiting.add(heard);
    try {
      return await layerLocks.run(chainId, () => work(moved));
    } finally {
      awaiting.delete(heard);
    }
  }
}

/** Fires when nothing has been heard of for too long. */
class SilenceWatch {
  readonly #stop = new AbortController();
  readonly #silenceMs: number;
  #timer: NodeJS.Timeout;

  constructor(silenceMs: number) {
    this.#silenceMs = silenceMs;
    this.#timer = this.#wait();
  }

  get signal(): AbortSignal {
    return this.#stop.signal;
  }

  heard(): void {
    clearTimeout(this.#timer);
    this.#timer = this.#wait();
  }

  stop(): void {
    clearTimeout(this.#timer);
  }

  #wait(): NodeJS.Timeout {
    return setTimeout(() => this.#stop.abort(), this.#silenceMs).unref();
  }
}

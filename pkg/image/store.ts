/**
 * The image store: who asks for what, under which names it is kept, and when it goes.
 *
 *     <root>/blobs/…            see blobs.ts: verified content
 *     <root>/images/<hex>.json  see records.ts: what is an image
 *     <root>/images/unfinished  see claims.ts: what pulls in flight and broken pulls need
 *     <root>/images/signatures  see signature/kept.ts: what came with images that are signed
 *
 * Layers live where `LayerUnpacker` puts them. By default the compressed blob of a layer goes when the layer is
 * unpacked (the disk holds each layer once, as with CRI-O); manifests and configs stay.
 *
 * A pull, in order: policy (short name, blocked, mirrors) → manifest → signatures → config → layers → record. Whoever
 * sees the record may use the image; a crash before it leaves nothing that is visible.
 */
import { createHash } from 'node:crypto';
import { join } from 'node:path';
import type { AuthConfig } from '../cri-api/types.ts';
import { codeOf, explain, RuntimeError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { Flights } from '../base/flights.ts';
import { isDigest, quote } from '../base/ids.ts';
import type { ChainId, Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, checkAlive, detached, withLog } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { type Freeing, noReserve } from '../base/reserve.ts';
import { Gate, KeyedMutex } from '../base/sync.ts';
import { nodePlatform } from '../oci/manifest.ts';
import {
  complete,
  DOCKER_DOMAIN,
  formatReference,
  parseName,
  repositoryName,
  withDefaultTag,
} from '../oci/reference.ts';
import type { ParsedName, Reference } from '../oci/reference.ts';
import type { Platform } from '../oci/spec-types.ts';
import { openArchive } from './archive.ts';
import type { ArchivedImage } from './archive.ts';
import { NodeCredentials, registryHost, requestCredentials } from './registry/credentials.ts';
import type { Credentials } from './registry/credentials.ts';
import { BlobStore } from './blobs.ts';
import { checkImages } from './check.ts';
import type { ImageProblem } from './check.ts';
import { Claims } from './claims.ts';
import { UndiciTransport } from './registry/transport.ts';
import type { Transport } from './registry/http.ts';
import { MirroredSource } from './registry/mirrors.ts';
import { RegistryPolicy } from './policy/policy.ts';
import { install, isWorthResuming } from './pull.ts';
import { NO_TIME, PullTracker } from './progress.ts';
import type { StageTimes } from './progress.ts';
import type { InstallWorld, PullSource } from './pull.ts';
import { ImageRecords } from './records.ts';
import type { Names, StoredImage } from './records.ts';
import { RegistryClient } from './registry/repository.ts';
import type { Endpoint, ManifestAnswer } from './registry/repository.ts';
import { ImageTrust, KeptSignatures, registrySource, signatureError } from './signature/index.ts';
import type { Demand, KeptManifest } from './signature/index.ts';
import type { FsUsage, Image, ImageStore, LayerUnpacker, PullOptions, PullProgress } from '../ports/image.ts';

export interface FileImageStoreOptions {
  /** Directory that is ours alone: `blobs/` and `images/` are made in it. */
  readonly root: string;
  readonly unpacker: LayerUnpacker;
  /**
   * Of the disk that `root` is on; whatever frees space takes it when the disk is full. Default: nothing is reserved.
   */
  readonly reserve?: Freeing | undefined;
  /** Default: registries.conf and certs.d in their customary places, no proxy. */
  readonly policy?: RegistryPolicy | undefined;
  /** Default: none but those of the request. */
  readonly credentials?: NodeCredentials | undefined;
  /** For tests. */
  readonly transport?: Transport | undefined;
  /** Exact names, `prefix*`, `*part*` (CRI-O's pinned_images); change them with `setPinnedImages`. */
  readonly pinnedImages?: readonly string[] | undefined;
  /** Who uses an image now (container ids, for the message); it is not removed then. */
  readonly inUse?: ((id: ImageId) => readonly string[]) | undefined;
  /** Layers under running containers, whatever the records say; a sweep leaves them alone. */
  readonly layersInUse?: (() => Iterable<ChainId>) | undefined;
  /**
   * `metadata` (default): manifests and configs stay, layer blobs go once unpacked. `all`: layer blobs stay, too, at
   * nearly twice the disk.
   */
  readonly keepBlobs?: 'metadata' | 'all' | undefined;
  /** A download that moves less than 64 KiB in this time fails over or fails; 0 = never. Default one minute. */
  readonly pullProgressTimeoutMs?: number | undefined;
  /** A pull in which nothing at all is downloaded or unpacked for so long fails. Default ten minutes. */
  readonly pullSilentMs?: number | undefined;
  readonly platform?: Platform | undefined;
  /** Who must have signed what. Default: policy.json and registries.d in their customary places, without OpenPGP. */
  readonly trust?: ImageTrust | undefined;
  /** How long what a broken pull left behind is kept. Default a day. */
  readonly keepUnfinishedMs?: number | undefined;
  /** Milliseconds since the epoch. */
  readonly now?: (() => number) | undefined;
  /** Waits between tries; for tests. */
  readonly pause?: ((ms: number, signal: AbortSignal) => Promise<void>) | undefined;
}

/** Since the daemon started. */
export interface PullCounters {
  readonly pullsSucceeded: number;
  readonly pullsFailed: number;
  readonly downloadedBytes: bigint;
  readonly layersReused: number;
  /** Of pulls that have ended, well or not. */
  readonly stageMs: StageTimes;
}

export class FileImageStore implements ImageStore {
  readonly #options: FileImageStoreOptions;
  readonly #now: () => number;
  readonly #policy: RegistryPolicy;
  readonly #trust: ImageTrust;
  readonly #credentials: NodeCredentials;
  readonly #transport: Transport;
  readonly #registries: RegistryClient;
  readonly #blobs: BlobStore;
  readonly #records: ImageRecords;
  readonly #signatures: KeptSignatures;
  readonly #claims: Claims;
  readonly #reserve: Freeing;
  readonly #world: InstallWorld;
  readonly #flights = new Flights<string, Image>('ends');
  readonly #trackers = new Set<PullTracker>();
  readonly #pulls = new Gate(limits.pullsCount);
  /** Everything that changes records, one at a time. */
  readonly #changing = new KeyedMutex<'records'>();
  readonly #views = new WeakMap<StoredImage, Image>();
  #pinned: readonly string[];
  #counters: PullCounters = {
    pullsSucceeded: 0,
    pullsFailed: 0,
    downloadedBytes: 0n,
    layersReused: 0,
    stageMs: NO_TIME,
  };

  constructor(options: FileImageStoreOptions) {
    this.#options = options;
    this.#now = options.now ?? Date.now;
    this.#policy = options.policy ?? new RegistryPolicy();
    this.#trust = options.trust ?? new ImageTrust();
    this.#credentials = options.credentials ?? new NodeCredentials({ authFiles: [] });
    this.#transport = options.transport ?? new UndiciTransport();
    this.#registries = new RegistryClient({
      transport: this.#transport,
      progressTimeoutMs: options.pullProgressTimeoutMs,
      pause: options.pause,
    });
    this.#reserve = options.reserve ?? noReserve;
    this.#blobs = new BlobStore(join(options.root, 'blobs'), this.#now);
    this.#records = new ImageRecords(join(options.root, 'images'), this.#blobs, this.#reserve);
    this.#signatures = new KeptSignatures(join(options.root, 'images', 'signatures'));
    this.#claims = new Claims(join(options.root, 'images', 'unfinished'), this.#keepUnfinishedMs, this.#now);
    this.#pinned = options.pinnedImages ?? [];
    this.#world = {
      blobs: this.#blobs,
      unpacker: options.unpacker,
      claims: this.#claims,
      layerLocks: new KeyedMutex(),
      awaiting: new Set(),
      platform: options.platform ?? nodePlatform(process.arch),
      layerBlobs: options.keepBlobs === 'all' ? 'keep' : 'discard',
      silentMs: options.pullSilentMs ?? limits.pullSilentMs,
    };
  }

  async load(op: Op): Promise<void> {
    await this.#blobs.load();
    await this.#records.load(op);
    await this.#claims.load();
    await this.#credentials.forgetUsed();
    // A configuration that cannot be read fails pulls, with its reason; what is here can be used all the same.
    await this.#policy
      .refresh(op)
      .catch((error: unknown) => op.log.error('registries configuration cannot be read', { error: explain(error) }));
  }

  async pull(op: Op, reference: string, options: PullOptions): Promise<Image> {
    checkAlive(op, `pulling ${quote(reference)}`);
    await this.#policy.refresh(op);
    const wanted = this.#policy.resolve(reference);
    const namespace = options.namespace ?? '';
    const key = JSON.stringify([wanted.map(formatReference), fingerprint(options.auth), namespace]);
    const request: PullRequest = { written: reference, wanted, auth: options.auth, namespace };
    return this.#flights.run(op, key, (own) => {
      const bound = withLog(own, { reference: wanted[0] === undefined ? reference : formatReference(wanted[0]) });
      return this.#pulls.run(() => this.#pullTracked(bound, request));
    });
  }

  async import(op: Op, path: string, reference?: string): Promise<readonly Image[]> {
    const archived = chosen(await openArchive(path), reference, this.#world.platform, path);
    const images: Image[] = [];
    for (const image of archived) {
      const names = namesInArchive(image, reference);
      const own = withLog(op, { reference: names.repoTags[0] ?? path });
      const track = new PullTracker(own, names.repoTags[0] ?? path, this.#now);
      const stored = await this.#tracked(own, track, () =>
        this.#install(own, image.source, image.root, `import ${image.root.digest}`, names, track),
      );
      op.log.info('image imported', { image: stored.id, path });
      images.push(this.#view(stored));
    }
    return images;
  }

  find(reference: string): Image | undefined {
    const stored = this.#find(reference);
    return stored === undefined ? undefined : this.#view(stored);
  }

  list(): readonly Image[] {
    return this.#records.all().map((each) => this.#view(each));
  }

  async remove(op: Op, reference: string): Promise<void> {
    const removed = await this.#changing.run('records', async () => {
      const stored = this.#find(reference);
      if (stored === undefined) return undefined;
      const users = this.#options.inUse?.(stored.id) ?? [];
      if (users.length > 0) {
        throw new RuntimeError(
          'FailedPrecondition',
          `image ${quote(reference)} is used by ${users.length} container(s): ` +
            `${users.slice(0, 3).join(', ')}; remove them first`,
        );
      }
      await this.#records.remove(stored.id);
      await this.#reserve.freeing(() => this.#signatures.remove(stored.id));
      return stored;
    });
    if (removed === undefined) return;
    await failpoint('image.remove.record');
    op.log.info('image removed', { image: removed.id, bytes: removed.sizeBytes });
    // The image is gone for everybody; a caller who leaves now must not leave half of it on the disk.
    await this.#dropUnneeded(
      detached(op, limits.imageDeleteMs),
      blobsOf(removed),
      removed.layers.map(({ chainId }) => chainId),
    );
  }

  async usage(op: Op): Promise<FsUsage> {
    const layers = await this.#options.unpacker.layersUsage(op);
    const blobs = this.#blobs.usage;
    return { usedBytes: layers.usedBytes + blobs.usedBytes, inodesUsed: layers.inodesUsed + blobs.inodesUsed };
  }

  async sweep(op: Op): Promise<void> {
    await this.#reserve.freeing(() => this.#claims.expire());
    await this.#reserve.freeing(() => this.#blobs.sweepPartials(this.#keepUnfinishedMs));
    await this.#reserve.freeing(() =>
      this.#changing.run('records', () => this.#signatures.sweep((id) => this.#records.get(id) !== undefined)),
    );
    await this.#dropUnneeded(op, await this.#blobs.list(), await this.#options.unpacker.listLayers());
  }

  progress(): readonly PullProgress[] {
    return [...this.#trackers].map((track) => track.snapshot());
  }

  counters(): PullCounters {
    return this.#counters;
  }

  /** New patterns for `Image.pinned`, in force at once. */
  setPinnedImages(patterns: readonly string[]): void {
    this.#pinned = patterns;
    for (const each of this.#records.all()) this.#views.delete(each);
  }

  async checkUse(op: Op, id: ImageId, use: { readonly name: string; readonly namespace: string }): Promise<void> {
    const demandOf = await this.#trust.demandAtUse(use.namespace);
    const stored = this.#records.get(id);
    if (demandOf === undefined || stored === undefined) return;
    for (const reference of this.#meanings(use.name, stored)) {
      const demand = demandOf(reference);
      if (demand.requirements.length === 0) continue;
      const kept = await this.#signatures.read(id);
      await this.#trust.checkKept(
        op,
        demand,
        kept.length > 0 ? kept : [{ manifest: stored.manifestDigest, signatures: [] }],
      );
    }
  }

  /**
   * What `name` means for an image that is here: of several meanings those that it was pulled by, else all; never none.
   * @throws for a name by which no policy can be looked up.
   */
  #meanings(name: string, { repoTags, repoDigests }: StoredImage): readonly Reference[] {
    if (name === '')
      throw signatureError(
        'this namespace has a signature policy, and the request does not say what the user calls the ' +
          'image (user_specified_image)',
      );
    const written = parsed(name);
    if (written === undefined || this.#isFoundById(name, written)) {
      throw signatureError(
        `${quote(name)} is no image name, so no signature policy can be looked up for it; name the ` +
          'image in the pod by its repository',
      );
    }
    const all = this.#policy.candidates(written);
    const pulled = (meanings: readonly Reference[]): readonly Reference[] =>
      meanings.filter(
        (each) =>
          repoTags.includes(formatReference(each)) ||
          repoDigests.includes(formatReference({ ...each, tag: undefined })),
      );
    for (const meant of [pulled(all), pulled(fallbacks(written)), all]) if (meant.length > 0) return meant;
    throw signatureError(
      `${quote(name)} names no registry, and registries.conf searches none, so no signature policy ` +
        'can be looked up for it; name the image in the pod by its registry',
    );
  }

  /**
   * True if `text` leads to an image as its id or the start of one, although it could be read as a name (`sha256:<hex>`
   * as a tag): whose policy that name has says nothing of the image.
   */
  #isFoundById(text: string, name: ParsedName): boolean {
    return (
      this.#byId(text) !== undefined || (this.#findName(name) === undefined && this.#findPrefix(text) !== undefined)
    );
  }

  /** Reads everything again, see check.ts. `repair` drops what is bad, so that the next pull mends it. */
  check(op: Op, mode: 'report' | 'repair'): Promise<readonly ImageProblem[]> {
    return checkImages(
      op,
      {
        ...this.#world,
        keptBlobs: (image) => this.#kept(image),
        usersOf: (id) => this.#options.inUse?.(id) ?? [],
        layersInUse: () => this.#options.layersInUse?.() ?? [],
        removeBlob: (digest) => this.#removeBlob(digest),
        removeLayer: (own, chainId) => this.#removeLayer(own, chainId),
        images: () => this.#records.all(),
        needsLayer: (chainId) => this.#claims.isInFlight(chainId) || this.#usesLayer(chainId),
        forget: async (image, { blobs, layers }) => {
          const whole = {
            blobs: blobsOf(image).filter((each) => !blobs.includes(each)),
            layers: image.layers.map(({ chainId }) => chainId).filter((each) => !layers.includes(each)),
          };
          const kept = await this.#reserve.freeing(() => this.#claims.take(repairKey(image.id), whole));
          await this.#changing.run('records', () => this.#records.remove(image.id));
          kept.abandon();
        },
      },
      this.#records.all(),
      mode,
    );
  }

  /** Ends connections. Pulls in flight fail. */
  async close(): Promise<void> {
    await this.#transport.close();
  }

  get #keepUnfinishedMs(): number {
    return this.#options.keepUnfinishedMs ?? limits.partialKeepMs;
  }

  async #pullTracked(op: Op, request: PullRequest): Promise<Image> {
    if (op.signal.aborted) throw abortError(op, 'waiting for other pulls');
    const started = this.#now();
    const track = new PullTracker(op, request.written, this.#now);
    try {
      const stored = await this.#tracked(op, track, () => this.#pullFirst(op, request, track));
      this.#count({ pullsSucceeded: 1 });
      op.log.info('image pulled', {
        image: stored.id,
        bytes: track.downloadedBytes,
        reused: track.reusedLayers,
        ms: this.#now() - started,
      });
      return this.#view(stored);
    } catch (error) {
      this.#count({ pullsFailed: 1 });
      throw error;
    } finally {
      this.#count({ downloadedBytes: track.downloadedBytes, layersReused: track.reusedLayers, stageMs: track.times() });
    }
  }

  async #tracked<T>(op: Op, track: PullTracker, work: () => Promise<T>): Promise<T> {
    this.#trackers.add(track);
    track.stage('resolving');
    const report = setInterval(() => op.log.info('pull goes on', track.fields()), limits.pullReportMs).unref();
    try {
      return await work();
    } finally {
      clearInterval(report);
      this.#trackers.delete(track);
    }
  }

  /** A short name may mean several images; the first that can be had is meant. */
  async #pullFirst(op: Op, request: PullRequest, track: PullTracker): Promise<StoredImage> {
    const failed: string[] = [];
    for (const reference of request.wanted) {
      try {
        return await this.#pullOne(op, request, reference, track);
      } catch (error) {
        if (op.signal.aborted || reference === request.wanted.at(-1)) throw error;
        failed.push(explain(error));
        op.log.warn('candidate of a short name failed, will try the next one', {
          candidate: formatReference(reference),
          error: explain(error),
        });
      }
    }
    throw new RuntimeError('NotFound', `${quote(request.written)} could not be pulled: ${failed.join('; ')}`);
  }

  async #pullOne(op: Op, request: PullRequest, reference: Reference, track: PullTracker): Promise<StoredImage> {
    const { namespace } = request;
    const demand = await this.#trust.demand(reference, namespace);
    const endpoints = await this.#policy.endpoints(reference);
    const ticket = await this.#credentials.claim(namespace, [
      request.written,
      repositoryName(reference),
      formatReference(reference),
    ]);
    try {
      const source = new MirroredSource(formatReference(reference), endpoints, async (endpoint) =>
        this.#registries.repository(
          endpoint,
          await this.#credentialsFor(op, endpoint, request, reference, ticket?.path),
        ),
      );
      const known = demand.requirements.length > 0 ? undefined : await this.#knownAlready(op, source, reference);
      if (known !== undefined) return known;
      const root = await source.manifest(op, reference.digest ?? reference.tag ?? '');
      return await this.#install(
        op,
        source,
        root,
        formatReference(reference),
        namesOf(reference, root.digest),
        track,
        (manifest) => this.#vouch(op, demand, manifest, source),
      );
    } finally {
      await ticket?.release();
    }
  }

  /**
   * The image, if this reference was pulled before and the registry says that nothing changed: one HEAD, which asks for
   * credentials like a pull (the kubelet counts on that for private images that are here already), but is no pull where
   * pulls are counted.
   */
  async #knownAlready(op: Op, source: MirroredSource, reference: Reference): Promise<StoredImage | undefined> {
    const repository = repositoryName(reference);
    const mine =
      reference.digest === undefined
        ? this.#records.byName(formatReference(reference))
        : this.#records.byName(`${repository}@${reference.digest}`);
    if (mine === undefined) return undefined;
    const digest = await source.promisedDigest(op, reference.digest ?? reference.tag ?? '');
    const stored = digest === undefined ? undefined : this.#records.byName(`${repository}@${digest}`);
    if (digest === undefined || stored === undefined || (reference.digest !== undefined && digest !== reference.digest))
      return undefined;
    for (const { chainId } of stored.layers) if (!(await this.#options.unpacker.has(chainId))) return undefined;
    return this.#changing.run('records', async () => {
      // It may have been removed meanwhile.
      if (this.#records.get(stored.id) === undefined) return undefined;
      if (mine.id === stored.id) return this.#records.get(stored.id);
      const { generation: _generation, repoTags: _tags, repoDigests: _digests, ...facts } = stored;
      return this.#records.save({ ...facts, pulledAt: this.#nanoseconds() }, namesOf(reference, digest));
    });
  }

  /**
   * The request's own credentials are for the registry that the reference names (or that `server_address` names); a
   * mirror gets them only when named there. Everybody else gets what the node has for that host.
   */
  async #credentialsFor(
    op: Op,
    endpoint: Endpoint,
    request: PullRequest,
    reference: Reference,
    ticket: string | undefined,
  ): Promise<Credentials> {
    const own = requestCredentials(request.auth);
    const server = request.auth?.serverAddress ?? '';
    const meant = server === '' ? undefined : registryHost(server);
    const isMeant =
      meant === undefined
        ? endpoint.kind === 'registry'
        : meant === registryHost(endpoint.credentialName) ||
          (endpoint.kind === 'registry' && meant === reference.domain);
    if (own !== undefined && isMeant) return own;
    if (own !== undefined && endpoint.kind === 'registry')
      op.log.warn('credentials of the request are for another registry, not used', {
        server: quote(server),
        registry: reference.domain,
      });
    return this.#credentials.find(op, endpoint.credentialName, ticket, this.#policy.credentialHelpers);
  }

  /** The signatures of `manifest`, to be kept. @throws unless they meet what policy.json demands. */
  async #vouch(
    op: Op,
    demand: Demand,
    { digest, bytes }: ManifestAnswer,
    source: MirroredSource,
  ): Promise<KeptManifest | undefined> {
    const world = { transport: this.#transport, routesTo: (url: URL) => this.#policy.routesTo(url) };
    const beside = registrySource(world, await source.current(), demand.reference);
    const found = await this.#trust.vouch(op, demand, { reference: demand.reference, digest, manifest: bytes }, beside);
    return found === undefined ? undefined : { manifest: digest, signatures: found.signatures };
  }

  async #install(
    op: Op,
    source: PullSource,
    root: ManifestAnswer,
    key: string,
    names: Names,
    track: PullTracker,
    vouch?: (manifest: ManifestAnswer) => Promise<KeptManifest | undefined>,
  ): Promise<StoredImage> {
    let signed: KeptManifest | undefined;
    try {
      const stored = await install(op, this.#world, source, root, key, track, {
        accept: async (manifest) => {
          signed = await vouch?.(manifest);
        },
        commit: async (facts) => {
          await failpoint('image.pull.commit');
          return await this.#changing.run('records', async () => {
            if (signed !== undefined) await this.#signatures.put(op, facts.id, signed);
            return await this.#records.save({ ...facts, pulledAt: this.#nanoseconds() }, names);
          });
        },
      });
      await this.#claims.forget(repairKey(stored.id));
      // A blob that another pull wanted, too, was left for it; the last one of them takes it away.
      await this.#dropUnneeded(
        detached(op, limits.imageDeleteMs),
        stored.layers.map(({ digest }) => digest),
        [],
      );
      return stored;
    } catch (error) {
      if (!isWorthResuming(error)) await this.#tidy(op, error);
      throw error;
    }
  }

  /** What a bad image brought to the disk goes at once: many bad pulls must not fill it behind the kubelet's back. */
  async #tidy(op: Op, cause: unknown): Promise<void> {
    try {
      await this.#dropUnneeded(
        detached(op, limits.imageDeleteMs),
        await this.#blobs.list(),
        await this.#options.unpacker.listLayers(),
      );
      await this.#blobs.sweepPartials(this.#keepUnfinishedMs);
    } catch (error) {
      op.log.warn('remains of a failed pull stay until the next sweep', { error: explain(error), code: codeOf(cause) });
    }
  }

  async #dropUnneeded(op: Op, blobs: readonly Digest[], layers: readonly ChainId[]): Promise<void> {
    for (const chainId of layers) {
      checkAlive(op, 'removing layers');
      if (this.#needsLayer(chainId)) continue;
      await this.#world.layerLocks.run(chainId, async () => {
        if (!this.#needsLayer(chainId)) await this.#removeLayer(op, chainId);
      });
    }
    for (const digest of blobs) {
      checkAlive(op, 'removing blobs');
      if (!this.#needsBlob(digest)) await this.#removeBlob(digest, () => this.#needsBlob(digest));
    }
  }

  #removeLayer(op: Op, chainId: ChainId): Promise<void> {
    return this.#reserve.freeing(() => this.#options.unpacker.removeLayer(op, chainId));
  }

  #removeBlob(digest: Digest, isNeeded?: () => boolean): Promise<void> {
    return this.#reserve.freeing(() => this.#blobs.remove(digest, isNeeded));
  }

  #needsLayer(chainId: ChainId): boolean {
    return this.#claims.hasLayer(chainId) || this.#usesLayer(chainId);
  }

  /** True if it is under a container or part of an image. */
  #usesLayer(chainId: ChainId): boolean {
    for (const used of this.#options.layersInUse?.() ?? []) if (used === chainId) return true;
    return this.#records.all().some(({ layers }) => layers.some((layer) => layer.chainId === chainId));
  }

  #needsBlob(digest: Digest): boolean {
    return this.#claims.hasBlob(digest) || this.#records.all().some((image) => this.#kept(image).includes(digest));
  }

  /** The blobs that an image keeps. */
  #kept(image: StoredImage): readonly Digest[] {
    return this.#world.layerBlobs === 'keep' ? blobsOf(image) : metadataOf(image);
  }

  #find(text: string): StoredImage | undefined {
    if (text.length === 0 || text.length > limits.nameBytes) return undefined;
    const byId = this.#byId(text);
    if (byId !== undefined) return byId;
    const name = parsed(text);
    return (name === undefined ? undefined : this.#findName(name)) ?? this.#findPrefix(text);
  }

  #byId(text: string): StoredImage | undefined {
    return this.#records.get((text.includes(':') ? text : `sha256:${text}`) as ImageId);
  }

  #findName(name: ParsedName): StoredImage | undefined {
    for (const meaning of [...this.#policy.candidates(name), ...fallbacks(name)]) {
      const found =
        meaning.digest === undefined
          ? this.#records.byName(formatReference(meaning))
          : this.#findDigest(meaning, meaning.digest);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** `repository@digest` of the index or of this platform's manifest; a tag before the digest says nothing. */
  #findDigest(reference: Reference, digest: Digest): StoredImage | undefined {
    const repository = repositoryName(reference);
    const named = this.#records.byName(`${repository}@${digest}`);
    return (
      named ??
      this.#records
        .all()
        .find(
          (image) =>
            image.manifestDigest === digest &&
            [...image.repoTags, ...image.repoDigests].some((each) => isOf(each, repository)),
        )
    );
  }

  #findPrefix(text: string): StoredImage | undefined {
    const prefix = text.startsWith('sha256:') ? text : `sha256:${text}`;
    if (prefix.length - 'sha256:'.length < limits.idPrefixChars || !/^sha256:[0-9a-f]{1,64}$/.test(prefix))
      return undefined;
    const found = this.#records.all().filter(({ id }) => id.startsWith(prefix));
    return found.length === 1 ? found[0] : undefined;
  }

  #view(stored: StoredImage): Image {
    const known = this.#views.get(stored);
    if (known !== undefined) return known;
    const { generation: _generation, ...image } = stored;
    const view: Image = { ...image, pinned: this.#pinned.some((pattern) => pins(pattern, stored)) };
    this.#views.set(stored, view);
    return view;
  }

  #count(more: Partial<PullCounters>): void {
    const now = this.#counters;
    this.#counters = {
      pullsSucceeded: now.pullsSucceeded + (more.pullsSucceeded ?? 0),
      pullsFailed: now.pullsFailed + (more.pullsFailed ?? 0),
      downloadedBytes: now.downloadedBytes + (more.downloadedBytes ?? 0n),
      layersReused: now.layersReused + (more.layersReused ?? 0),
      stageMs: added(now.stageMs, more.stageMs ?? NO_TIME),
    };
  }

  #nanoseconds(): bigint {
    return BigInt(Math.trunc(this.#now())) * 1_000_000n;
  }
}

interface PullRequest {
  /** As the user wrote it. */
  readonly written: string;
  readonly wanted: readonly Reference[];
  readonly auth: AuthConfig | undefined;
  readonly namespace: string;
}

function added(times: StageTimes, more: StageTimes): StageTimes {
  return {
    resolving: times.resolving + more.resolving,
    downloading: times.downloading + more.downloading,
    unpacking: times.unpacking + more.unpacking,
    committing: times.committing + more.committing,
  };
}

/** Under which a repair keeps what is whole of an image for the pull that mends it. */
function repairKey(id: ImageId): string {
  return `check ${id}`;
}

/** Tells equal credentials without keeping them. */
function fingerprint(auth: AuthConfig | undefined): string {
  if (auth === undefined || requestIsEmpty(auth)) return '';
  const { username, password, auth: encoded, serverAddress, identityToken, registryToken } = auth;
  return createHash('sha256')
    .update(JSON.stringify([username, password, encoded, serverAddress, identityToken, registryToken]))
    .digest('hex');
}

function requestIsEmpty(auth: AuthConfig): boolean {
  return (
    auth.username === '' &&
    auth.password === '' &&
    auth.auth === '' &&
    auth.identityToken === '' &&
    auth.registryToken === ''
  );
}

function parsed(text: string): ParsedName | undefined {
  try {
    return parseName(text);
  } catch {
    return undefined;
  }
}

/**
 * What a short name may mean of images that are here, whatever registries are searched: docker's own, or one that was
 * built on this node.
 */
function fallbacks(name: ParsedName): readonly Reference[] {
  return name.domain === undefined
    ? [DOCKER_DOMAIN, 'localhost'].map((domain) => withDefaultTag(complete(name, domain)))
    : [];
}

/** critest and containers/storage: a pull by digest gives no tag, even when a tag was written before the digest. */
function namesOf(reference: Reference, digest: Digest): Names {
  return {
    repoTags: reference.digest === undefined ? [formatReference(reference)] : [],
    repoDigests: [`${repositoryName(reference)}@${reference.digest ?? digest}`],
  };
}

/**
 * The images of an archive that are meant: those for `reference` if it names any, else the only one, else all that fit
 * this platform.
 */
function chosen(
  images: readonly ArchivedImage[],
  reference: string | undefined,
  platform: Platform,
  path: string,
): readonly ArchivedImage[] {
  const fitting = images.filter(
    ({ platform: own }) => own === undefined || (own.os === platform.os && own.architecture === platform.architecture),
  );
  if (fitting.length === 0)
    throw new RuntimeError('NotFound', `${path} has no image for ${platform.os}/${platform.architecture}`);
  if (reference === undefined || fitting.length === 1) return fitting;
  const wanted = formatReference(withDefaultTag(complete(parseName(reference), DOCKER_DOMAIN)));
  const named = fitting.filter(({ names }) => names.some((name) => archiveName(name) === wanted));
  if (named.length === 1) return named;
  throw new RuntimeError(
    'InvalidArgument',
    `${path} has ${fitting.length} images, and ${named.length} of them are called ` +
      `${quote(reference)}; it has ${quote(fitting.flatMap(({ names }) => names).join(', '), 500)}`,
  );
}

function namesInArchive(image: ArchivedImage, reference: string | undefined): Names {
  const tags =
    reference === undefined
      ? image.names.map(archiveName).filter((name) => name !== undefined)
      : [formatReference(withDefaultTag(complete(parseName(reference), DOCKER_DOMAIN)))];
  const repositories = new Set(tags.map((tag) => tag.slice(0, tag.lastIndexOf(':'))));
  return {
    repoTags: [...new Set(tags)],
    repoDigests: image.hasRegistryDigest
      ? [...repositories].map((repository) => `${repository}@${image.root.digest}`)
      : [],
  };
}

/** In a layout a name may be a bare tag, which names nothing. */
function archiveName(text: string): string | undefined {
  const name = parsed(text);
  if (
    name === undefined ||
    name.digest !== undefined ||
    (name.domain === undefined && name.tag === undefined && !name.path.includes('/'))
  )
    return undefined;
  return formatReference(withDefaultTag(complete(name, DOCKER_DOMAIN)));
}

function metadataOf(image: StoredImage): readonly Digest[] {
  const id: string = image.id;
  return isDigest(id) ? [image.manifestDigest, id] : [image.manifestDigest];
}

function blobsOf(image: StoredImage): readonly Digest[] {
  return [...metadataOf(image), ...image.layers.map(({ digest }) => digest)];
}

function isOf(name: string, repository: string): boolean {
  return name.startsWith(`${repository}:`) || name.startsWith(`${repository}@`);
}

/** CRI-O's three kinds of pattern, matched in linear time: exact, `prefix*`, `*part*`. */
function pins(pattern: string, image: StoredImage): boolean {
  const names = [...image.repoTags, ...image.repoDigests, image.id];
  if (pattern.length > 2 && pattern.startsWith('*') && pattern.endsWith('*'))
    return names.some((name) => name.includes(pattern.slice(1, -1)));
  if (pattern.endsWith('*')) return pattern.length > 1 && names.some((name) => name.startsWith(pattern.slice(0, -1)));
  const name = parsed(pattern);
  const full = name === undefined ? pattern : formatReference(withDefaultTag(complete(name, DOCKER_DOMAIN)));
  return names.includes(pattern) || names.includes(full);
}

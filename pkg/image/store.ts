/**
 * The door of the image store. Behind it: names (names.ts, text → image), what is kept and why (retention.ts), and
 * pulls (pulls.ts).
 */
import type { ImageId } from '../base/ids.ts';
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { noReserve } from '../base/reserve.ts';
import { together } from '../base/sync.ts';
import { nodePlatform } from '../oci/platform.ts';
import { NodeCredentials } from './registry/credentials.ts';
import { ArtifactStores, preferring } from './artifact-stores.ts';
import type { Images } from './artifact-stores.ts';
import { checkImages } from './check.ts';
import type { ImageProblem } from './check.ts';
import { UndiciTransport } from './registry/transport.ts';
import { ImageNames } from './names.ts';
import type { FileImageStoreOptions } from './options.ts';
import { RegistryPolicy } from './policy/policy.ts';
import type { PullWorld } from './pull.ts';
import { Pulls } from './pulls.ts';
import type { PullCounters } from './pulls.ts';
import { RegistryClient } from './registry/repository.ts';
import { Retention } from './retention.ts';
import { ImageTrust } from './signature/index.ts';
import { checkUse } from './use.ts';
import { ImageViews } from './views.ts';
import type { Called, FsUsage, Image, ImageStore, PullOptions, PullProgress } from '../ports/image.ts';

/** What has been done and met since the daemon started. */
export interface ImageCounters extends PullCounters {
  /** Images that were found to be without one of their layers, or without a record that can be read. */
  readonly imagesLost: number;
}

/** Images in files under one directory. */
export class FileImageStore implements ImageStore {
  readonly #world: PullWorld;
  readonly #kept: Retention;
  readonly #names: ImageNames;
  readonly #pulls: Pulls;
  readonly #views: ImageViews;
  readonly #stores: ArtifactStores;
  /** What lies in additional stores, and what is kept. */
  readonly #images: Images;

  constructor(options: FileImageStoreOptions) {
    const now = options.now ?? Date.now;
    this.#world = worldOf(options, now);
    this.#kept = this.#world.kept;
    this.#stores = new ArtifactStores(options.artifactStores ?? []);
    this.#images = preferring(this.#stores, this.#kept.images);
    this.#names = new ImageNames(this.#images, this.#world.policy);
    this.#pulls = new Pulls(this.#world, now, options.listener);
    this.#views = new ImageViews(options.pinnedImages ?? [], ({ id }) => this.#stores.get(id) !== undefined);
  }

  async load(op: Op): Promise<void> {
    const { credentials, policy } = this.#world;
    await together([
      this.#kept.load(op),
      this.#stores.refresh(op),
      credentials.forgetUsed(),
      // A configuration that cannot be read fails pulls, with its reason; what is here can be used all the same.
      policy
        .refresh(op)
        .catch((error: unknown) => op.log.error('registries configuration cannot be read', { error: explain(error) })),
    ]);
  }

  async pull(op: Op, reference: string, options: PullOptions): Promise<Image> {
    await this.#stores.refresh(op);
    const found = this.#names.named(reference);
    // As CRI-O has it: what lies ready is not pulled, whatever its tag means elsewhere by now.
    if (found !== undefined && this.#stores.get(found.id) !== undefined) return this.#views.of(found);
    return this.#views.of(await this.#pulls.pull(op, reference, options));
  }

  async import(op: Op, path: string, reference?: string): Promise<readonly Image[]> {
    return (await this.#pulls.import(op, path, reference)).map((each) => this.#views.of(each));
  }

  find(reference: string): Image | undefined {
    const stored = this.#names.find(reference);
    return stored === undefined ? undefined : this.#views.of(stored);
  }

  list(): readonly Image[] {
    return this.#images.all().map((each) => this.#views.of(each));
  }

  called(id: ImageId, asked: string): Called {
    const stored = this.#images.get(id);
    return stored === undefined ? { name: asked, ref: id } : this.#names.called(stored, asked);
  }

  remove(op: Op, reference: string): Promise<void> {
    const own = new ImageNames(this.#kept.images, this.#world.policy);
    return this.#kept.remove(op, reference, (text) => own.find(text));
  }

  confirm(op: Op, id: ImageId): Promise<void> {
    const ready = this.#stores.get(id);
    return ready === undefined ? this.#kept.confirm(op, id) : this.#stores.confirm(ready);
  }

  usage(op: Op): Promise<FsUsage> {
    return this.#kept.usage(op);
  }

  async sweep(op: Op): Promise<void> {
    await this.#stores.refresh(op);
    await this.#kept.sweep(op);
  }

  checkUse(op: Op, id: ImageId, use: { readonly name: string; readonly namespace: string }): Promise<void> {
    const { trust } = this.#world;
    return checkUse(op, { trust, names: this.#names, images: this.#images, kept: this.#kept }, id, use);
  }

  progress(): readonly PullProgress[] {
    return this.#pulls.progress();
  }

  /** What has been done and met since the daemon started. */
  counters(): ImageCounters {
    return { ...this.#pulls.counters(), imagesLost: this.#kept.lostCount };
  }

  /** New patterns for `Image.pinned`, in force at once. */
  setPinnedImages(patterns: readonly string[]): void {
    this.#views.pin(patterns);
  }

  /** Reads everything again, see check.ts. `repair` drops what is bad, so that the next pull mends it. */
  check(op: Op, mode: 'report' | 'repair'): Promise<readonly ImageProblem[]> {
    return checkImages(op, this.#kept, mode);
  }

  /** Ends connections. Pulls in flight fail. */
  async close(): Promise<void> {
    await this.#world.transport.close();
  }
}

function worldOf(options: FileImageStoreOptions, now: () => number): PullWorld {
  const transport = options.transport ?? new UndiciTransport();
  const { pullProgressTimeoutMs: progressTimeoutMs, pause } = options;
  return {
    transport,
    registries: new RegistryClient({ transport, progressTimeoutMs, pause, ...options.registry }),
    policy: options.policy ?? new RegistryPolicy(),
    trust: options.trust ?? new ImageTrust(),
    credentials: options.credentials ?? new NodeCredentials({ authFiles: [] }),
    platform: options.platform ?? nodePlatform(process.arch),
    awaiting: new Set(),
    silentMs: options.pullSilentMs ?? limits.pullSilentMs,
    kept: new Retention({
      root: options.root,
      layers: options.unpacker,
      reserve: options.reserve ?? noReserve,
      keepUnfinishedMs: options.keepUnfinishedMs ?? limits.partialKeepMs,
      now,
      inUse: options.inUse ?? (() => []),
      layersInUse: options.layersInUse ?? (() => []),
    }),
  };
}

/**
 * What is kept and why: the records of images, the blobs and layers that they speak of, and what pulls under way or
 * broken ones need. Nothing goes from the disk but by way of here, and each time the same question is asked first: who
 * counts on it?
 *
 *     <root>/blobs/…            see blobs.ts: verified content
 *     <root>/images/<hex>.json  see records.ts: what is an image
 *     <root>/images/unfinished  see claims.ts: what pulls in flight and broken pulls need
 *     <root>/images/signatures  see signature/kept.ts: what came with images that are signed
 *
 * Layers live where `LayerUnpacker` puts them. The compressed blob of a layer goes when the layer is unpacked (the disk
 * holds each layer once, as with CRI-O); manifests and configs stay.
 */
import { join } from 'node:path';
import { codeOf, explain, RuntimeError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { isDigest, quote } from '../base/ids.ts';
import type { ChainId, Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { checkAlive, detached } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import type { Freeing } from '../base/reserve.ts';
import { KeyedMutex } from '../base/sync.ts';
import { BlobStore } from './blobs.ts';
import { Claims } from './claims.ts';
import type { Claim, Claimed } from './claims.ts';
import { ImageRecords } from './records.ts';
import type { ImageFacts, Names, StoredImage } from './records.ts';
import { KeptSignatures } from './signature/index.ts';
import type { KeptManifest } from './signature/index.ts';
import type { FsUsage, ImageLayer, LayerOrigin, LayerUnpacker } from '../ports/image.ts';

/** What decides about keeping, beside what is asked for. */
export interface RetentionOptions {
  /** Directory that is ours alone. */
  readonly root: string;
  readonly layers: LayerUnpacker;
  /** Whatever frees space takes it when the disk is full. */
  readonly reserve: Freeing;
  /** How long what a broken pull left behind is kept. */
  readonly keepUnfinishedMs: number;
  /** Milliseconds since the epoch. */
  readonly now: () => number;
  /** Who uses an image now (container ids). */
  readonly inUse: (id: ImageId) => readonly string[];
  /** Layers under running containers, whatever the records say. */
  readonly layersInUse: () => Iterable<ChainId>;
}

/** Why a blob or a layer is kept. `unfinished`: a broken pull or a repair left it for the next try. */
export type Reason = 'image' | 'container' | 'pull' | 'unfinished';

/** True if somebody needs it now; what is only kept for a later try can be brought again. */
function isInUse(reasons: ReadonlySet<Reason>): boolean {
  return [...reasons].some((reason) => reason !== 'unfinished');
}

/** The disk's side of the image store. */
export class Retention {
  readonly blobs: BlobStore;
  readonly layers: LayerUnpacker;
  /** One unpacker or remover per layer. */
  readonly layerLocks = new KeyedMutex<ChainId>();
  readonly #options: RetentionOptions;
  readonly #records: ImageRecords;
  readonly #signatures: KeptSignatures;
  readonly #claims: Claims;
  /** Everything that changes records, one at a time. */
  readonly #changing = new KeyedMutex<'records'>();
  readonly #keptBlobs = new WeakMap<StoredImage, ReadonlySet<Digest>>();
  #lostCount = 0;

  constructor(options: RetentionOptions) {
    const { root, layers, reserve, keepUnfinishedMs, now } = options;
    this.#options = options;
    this.layers = layers;
    this.blobs = new BlobStore(join(root, 'blobs'), now);
    this.#records = new ImageRecords(join(root, 'images'), this.blobs, layers, reserve);
    this.#signatures = new KeptSignatures(join(root, 'images', 'signatures'));
    this.#claims = new Claims(join(root, 'images', 'unfinished'), keepUnfinishedMs, now);
  }

  /** The images there are, to be looked at. */
  get images(): Pick<ImageRecords, 'get' | 'byName' | 'all'> {
    return this.#records;
  }

  /** Reads what earlier lives left, and forgets images that a crash has taken a layer from. Call once, first. */
  async load(op: Op): Promise<void> {
    await this.blobs.load();
    this.#lostCount += await this.#records.load(op);
    await this.#claims.load();
    // A disk that takes nothing must not keep the daemon from starting; who uses the image meets this again.
    for (const image of this.#records.all())
      await this.#confirm(op, image).catch((error: unknown) =>
        op.log.error('cannot forget an image that is not whole', { image: image.id, error: explain(error) }),
      );
  }

  /** Images that were found to be without a layer or a readable record, since the daemon started. */
  get lostCount(): number {
    return this.#lostCount;
  }

  /** As `ImageStore.confirm`. */
  async confirm(op: Op, id: ImageId): Promise<void> {
    const image = this.#records.get(id);
    const gone = image === undefined ? undefined : await this.#confirm(op, image);
    if (gone !== undefined)
      throw new RuntimeError('NotFound', `image ${id} is not whole any more, ${gone} is gone; pull it again`);
    if (image === undefined) throw new RuntimeError('NotFound', `image ${id} is not on this node any more; pull it`);
  }

  /** A layer is gone: images that have it are not present any more. Callers hold its lock. */
  async layerIsGone(op: Op, chainId: ChainId): Promise<void> {
    for (const image of this.#records.all())
      if (image.layers.some((layer) => layer.chainId === chainId))
        await this.#lose(op, image, { blobs: [], layers: [chainId] });
  }

  /** Blobs and layers together; no walk. */
  async usage(op: Op): Promise<FsUsage> {
    const layers = await this.layers.layersUsage(op);
    const blobs = this.blobs.usage;
    return { usedBytes: layers.usedBytes + blobs.usedBytes, inodesUsed: layers.inodesUsed + blobs.inodesUsed };
  }

  /** Who counts on a blob, beside the pull that asks. */
  whoNeedsBlob(digest: Digest, asking?: Claim): ReadonlySet<Reason> {
    const reasons = new Set<Reason>(this.#claims.on(({ blobs }) => blobs.includes(digest), asking));
    if (this.#records.all().some((image) => this.keptBlobs(image).has(digest))) reasons.add('image');
    return reasons;
  }

  /** Who counts on a layer. */
  whoNeedsLayer(chainId: ChainId): ReadonlySet<Reason> {
    const reasons = new Set<Reason>(this.#claims.on(({ layers }) => layers.includes(chainId)));
    for (const used of this.#options.layersInUse()) if (used === chainId) reasons.add('container');
    if (this.#records.all().some(({ layers }) => layers.some((layer) => layer.chainId === chainId)))
      reasons.add('image');
    return reasons;
  }

  /** True if the image is here and came by one of these manifests: who asks by it has nothing more to show. */
  cameBy(id: ImageId, manifests: readonly Digest[]): boolean {
    const image = this.#records.get(id);
    if (image === undefined) return false;
    return manifests.some(
      (each) => image.manifestDigest === each || image.repoDigests.some((name) => name.endsWith(`@${each}`)),
    );
  }

  /**
   * Whether a layer is here for somebody who has its blob: `shared` if it was unpacked from that blob, or a pull has
   * shown that it is the same; `unproven` if it came in other blobs only.
   */
  async layerFor({ chainId, digest, sizeBytes }: ImageLayer): Promise<'shared' | 'unproven' | 'absent'> {
    if (!(await this.layers.has(chainId))) return 'absent';
    const isBlob = (each: LayerOrigin): boolean => each.digest === digest && each.sizeBytes === sizeBytes;
    const origin = await this.layers.origin(chainId);
    if (origin !== undefined && isBlob(origin)) return 'shared';
    const isShown = this.#records
      .all()
      .some(({ layers }) => layers.some((each) => each.chainId === chainId && isBlob(each)));
    return isShown ? 'shared' : 'unproven';
  }

  /** Containers on one of `layers`, by way of `image` or of another one that shares it; on an artifact as a whole. */
  whoIsOn(image: StoredImage, layers: readonly ChainId[]): readonly string[] {
    if (layers.length === 0 && image.artifact === undefined) return [];
    const users = this.#options.inUse(image.id);
    if (users.length > 0) return users;
    return [...this.#options.layersInUse()].some((chainId) => layers.includes(chainId))
      ? ['a container of another image']
      : [];
  }

  /** The blobs that an image keeps: manifest and config, and all of an artifact. */
  keptBlobs(image: StoredImage): ReadonlySet<Digest> {
    const known = this.#keptBlobs.get(image);
    if (known !== undefined) return known;
    const id: string = image.id;
    const others = image.artifact?.blobs ?? (isDigest(id) ? [id] : []);
    const kept = new Set([image.manifestDigest, ...others]);
    this.#keptBlobs.set(image, kept);
    return kept;
  }

  /** Whether everything of an image is here that using it takes; of blobs, that they are there. */
  async isWhole(image: StoredImage): Promise<boolean> {
    const { blobs, layers } = await this.#missing(image);
    return blobs.length + layers.length === 0;
  }

  /**
   * Protects what the pull `key` needs, before it looks whether it is here. A claim of an earlier try of the same pull
   * is replaced.
   */
  claim(key: string, what: Claimed): Promise<Claim> {
    return this.#claims.take(key, what);
  }

  /** Writes the record of an image whose every part is here, with the signatures that came with it. */
  async commit(op: Op, facts: ImageFacts, names: Names, signed: KeptManifest | undefined): Promise<StoredImage> {
    await failpoint('image.pull.commit');
    return await this.#changing.run('records', async () => {
      const known = this.#records.get(facts.id);
      // Somebody has made one document that can be read as a config and as a manifest of files.
      if (known !== undefined && (known.artifact === undefined) !== (facts.artifact === undefined))
        throw new RuntimeError(
          'FailedPrecondition',
          `${facts.id} is the id of an image and of an artifact at once; one of both is on this node, remove it first`,
        );
      if (signed !== undefined) await this.#signatures.put(op, facts.id, signed, known?.manifestDigest);
      return await this.#records.save({ ...facts, pulledAt: this.#nanoseconds() }, names);
    });
  }

  /**
   * After a commit: of the blobs that a pull has brought, what the record does not need goes, unless another pull wants
   * it, too; the last one takes it away.
   */
  async settle(op: Op, id: ImageId, brought: readonly Digest[]): Promise<void> {
    await this.#claims.forget(repairKey(id));
    await this.#dropUnneeded(detached(op, limits.imageDeleteMs), brought, []);
  }

  /**
   * Gives `names` to an image that is here; the image as it is then, or undefined if it was removed meanwhile. Nothing
   * is written if it has them all.
   */
  async addNames(id: ImageId, names: Names): Promise<StoredImage | undefined> {
    return await this.#changing.run('records', async () => {
      const stored = this.#records.get(id);
      if (stored === undefined || hasNames(stored, names)) return stored;
      const { generation: _generation, repoTags: _tags, repoDigests: _digests, ...facts } = stored;
      return await this.#records.save({ ...facts, pulledAt: this.#nanoseconds() }, names);
    });
  }

  /**
   * Removes the image that `find` finds for `asked`, with all its names; content if there is none.
   * @throws FailedPrecondition while a container uses it.
   */
  async remove(op: Op, asked: string, find: (text: string) => StoredImage | undefined): Promise<void> {
    const removed = await this.#changing.run('records', async () => {
      const stored = find(asked);
      if (stored === undefined) return undefined;
      const users = this.#options.inUse(stored.id);
      if (users.length > 0) {
        throw new RuntimeError(
          'FailedPrecondition',
          `image ${quote(asked)} is used by ${users.length} container(s): ` +
            `${users.slice(0, 3).join(', ')}; remove them first`,
        );
      }
      await this.#records.remove(stored.id);
      await this.#options.reserve.freeing(() => this.#signatures.remove(stored.id));
      return stored;
    });
    if (removed === undefined) return;
    await failpoint('image.remove.record');
    op.log.info('image removed', { image: removed.id, bytes: removed.sizeBytes });
    // The image is gone for everybody; a caller who leaves now must not leave half of it on the disk.
    await this.#dropUnneeded(
      detached(op, limits.imageDeleteMs),
      [...this.keptBlobs(removed)],
      removed.layers.map(({ chainId }) => chainId),
    );
  }

  /** Forgets an image that is not whole, and protects for a while what of it is, for the pull that mends it. */
  async forget(image: StoredImage, bad: Claimed): Promise<void> {
    const whole = {
      blobs: [...this.keptBlobs(image)].filter((each) => !bad.blobs.includes(each)),
      layers: image.layers.map(({ chainId }) => chainId).filter((each) => !bad.layers.includes(each)),
    };
    const kept = await this.#options.reserve.freeing(() => this.#claims.take(repairKey(image.id), whole));
    await this.#changing.run('records', () => this.#records.remove(image.id));
    kept.abandon();
  }

  /** Drops what nobody counts on. */
  async sweep(op: Op): Promise<void> {
    const { reserve, keepUnfinishedMs } = this.#options;
    await reserve.freeing(() => this.#claims.expire());
    await reserve.freeing(() => this.blobs.sweepPartials(keepUnfinishedMs));
    await reserve.freeing(() =>
      this.#changing.run('records', () => this.#signatures.sweep((id) => this.#records.get(id) !== undefined)),
    );
    await this.#dropUnneeded(op, await this.blobs.list(), await this.layers.listLayers());
  }

  /** What a bad image brought to the disk goes at once: many bad pulls must not fill it behind the kubelet's back. */
  async tidy(op: Op, cause: unknown): Promise<void> {
    try {
      await this.#dropUnneeded(
        detached(op, limits.imageDeleteMs),
        await this.blobs.list(),
        await this.layers.listLayers(),
      );
      await this.blobs.sweepPartials(this.#options.keepUnfinishedMs);
    } catch (error) {
      op.log.warn('remains of a failed pull stay until the next sweep', { error: explain(error), code: codeOf(cause) });
    }
  }

  /** The blob of a layer that is unpacked goes, unless somebody else counts on it or `isWanted` says so. */
  async discard(digest: Digest, claim: Claim, isWanted: () => boolean): Promise<void> {
    await this.blobs.remove(digest, () => isWanted() || isInUse(this.whoNeedsBlob(digest, claim)));
  }

  /** Removes what is damaged, unless somebody counts on it now: what that is, if it stays. Content if absent. */
  async removeDamaged(op: Op, { blobs, layers }: Claimed): Promise<readonly string[]> {
    const kept: string[] = [];
    for (const digest of blobs)
      await this.#removeBlob(digest, () => {
        const isNeeded = isInUse(this.whoNeedsBlob(digest));
        if (isNeeded) kept.push(`blob ${digest}`);
        return isNeeded;
      });
    for (const chainId of layers)
      await this.layerLocks.run(chainId, async () => {
        if (isInUse(this.whoNeedsLayer(chainId))) kept.push(`layer ${chainId}`);
        else await this.#removeLayer(op, chainId);
      });
    return kept;
  }

  /** The signatures that came with an image. @throws DataLoss for a damaged file. */
  signaturesOf(id: ImageId): Promise<readonly KeptManifest[]> {
    return this.#signatures.read(id);
  }

  /** The first thing that is gone; all images that have one of the layers are forgotten when this returns. */
  async #confirm(op: Op, image: StoredImage): Promise<string | undefined> {
    const { blobs, layers } = await this.#missing(image);
    for (const chainId of layers)
      await this.layerLocks.run(chainId, async () => {
        // A pull may have brought it meanwhile.
        if (!(await this.layers.has(chainId))) await this.layerIsGone(op, chainId);
      });
    if (blobs.length > 0) await this.#lose(op, image, { blobs, layers: [] });
    return layers[0] === undefined ? blobs[0] && `blob ${blobs[0]}` : `layer ${layers[0]}`;
  }

  /** Layers, and files of an artifact, that are not on the disk. */
  async #missing({ layers, artifact }: StoredImage): Promise<Claimed> {
    const chain = layers.map(({ chainId }) => chainId);
    const isHere = await Promise.all(chain.map((chainId) => this.layers.has(chainId)));
    const blobs: Digest[] = [];
    for (const digest of artifact?.blobs ?? []) if ((await this.blobs.sizeOf(digest)) === undefined) blobs.push(digest);
    return { blobs, layers: chain.filter((_chainId, at) => isHere[at] !== true) };
  }

  async #lose(op: Op, image: StoredImage, bad: Claimed): Promise<void> {
    op.log.error('a part of an image is gone from the disk, the image counts as absent until it is pulled again', {
      image: image.id,
      name: image.repoTags[0] ?? image.repoDigests[0] ?? '',
      ...(bad.layers[0] === undefined ? {} : { layer: bad.layers[0] }),
      ...(bad.blobs[0] === undefined ? {} : { blob: bad.blobs[0] }),
    });
    this.#lostCount++;
    await this.forget(image, bad);
  }

  async #dropUnneeded(op: Op, blobs: readonly Digest[], layers: readonly ChainId[]): Promise<void> {
    for (const chainId of layers) {
      checkAlive(op, 'removing layers');
      if (this.whoNeedsLayer(chainId).size > 0) continue;
      await this.layerLocks.run(chainId, async () => {
        if (this.whoNeedsLayer(chainId).size === 0) await this.#removeLayer(op, chainId);
      });
    }
    for (const digest of blobs) {
      checkAlive(op, 'removing blobs');
      const isNeeded = (): boolean => this.whoNeedsBlob(digest).size > 0;
      if (!isNeeded()) await this.#removeBlob(digest, isNeeded);
    }
  }

  #removeLayer(op: Op, chainId: ChainId): Promise<void> {
    return this.#options.reserve.freeing(() => this.layers.removeLayer(op, chainId));
  }

  #removeBlob(digest: Digest, isNeeded: () => boolean): Promise<void> {
    return this.#options.reserve.freeing(() => this.blobs.remove(digest, isNeeded));
  }

  #nanoseconds(): bigint {
    return BigInt(Math.trunc(this.#options.now())) * 1_000_000n;
  }
}

/** Under which a repair keeps what is whole of an image for the pull that mends it. */
function repairKey(id: ImageId): string {
  return `check ${id}`;
}

function hasNames({ repoTags, repoDigests }: StoredImage, names: Names): boolean {
  return (
    names.repoTags.every((each) => repoTags.includes(each)) &&
    names.repoDigests.every((each) => repoDigests.includes(each))
  );
}

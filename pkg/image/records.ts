/**
 * What the node remembers of its images: one file per image, and the names in memory.
 *
 *     images/<hex of id>.json      durable; written after everything it speaks of is on disk, removed before that is
 *     images/damaged/<name>        a record that could not be read, kept for a human
 *
 * A name belongs to one image. When a pull moves `app:v1` from A to B, B is written first: if the daemon dies in
 * between, both files claim the name and the one with the higher generation has it.
 */
import { rename } from 'node:fs/promises';
import { join } from 'node:path';
import {
  ensureDir,
  isTemporaryName,
  readDirSorted,
  readJson,
  removeFile,
  replaceFile,
  syncDirectory,
} from '../base/files.ts';
import { errnoOf, explain, RuntimeError, storageError } from '../base/errors.ts';
import { hexOf, parseChainId, parseDigest, parseImageId } from '../base/ids.ts';
import type { Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import type { Freeing } from '../base/reserve.ts';
import { chainIds } from '../oci/digest.ts';
import { isObject } from '../base/go.ts';
import { parseImageConfig } from '../oci/image-config.ts';
import { parseManifest } from '../oci/manifest.ts';
import type { ImageManifest } from '../oci/manifest.ts';
import type { ImageConfig } from '../oci/spec-types.ts';
import { describeArtifact } from './artifact.ts';
import type { BlobStore } from './blobs.ts';
import { withNames } from './name-list.ts';
import type { Image, ImageLayer, LayerUnpacker } from '../ports/image.ts';

/**
 * An image without what others decide (`pinned`), its names in the order in which they came, and with the number that
 * settles whose a name is.
 */
export type StoredImage = Omit<Image, 'pinned'> & { readonly generation: number };

/** What follows from an image's manifest and config. */
export type ImageFacts = Omit<StoredImage, 'repoTags' | 'repoDigests' | 'pulledAt' | 'generation'>;

/** What an image is called: `repository:tag` and `repository@digest`, in full. */
export interface Names {
  readonly repoTags: readonly string[];
  readonly repoDigests: readonly string[];
}

/** Of an image of which only blobs are left. */
const NAMELESS = { repoTags: [], repoDigests: [], pulledAt: 0n, generation: 0 } as const;

/** All image records, in memory and on disk. */
export class ImageRecords {
  readonly #directory: string;
  readonly #blobs: BlobStore;
  readonly #layers: Pick<LayerUnpacker, 'origin'>;
  readonly #reserve: Freeing;
  readonly #byId = new Map<ImageId, StoredImage>();
  readonly #byName = new Map<string, ImageId>();
  #generation = 0;

  /** `directory` is `images`. */
  constructor(directory: string, blobs: BlobStore, layers: Pick<LayerUnpacker, 'origin'>, reserve: Freeing) {
    this.#directory = directory;
    this.#blobs = blobs;
    this.#layers = layers;
    this.#reserve = reserve;
  }

  /**
   * Reads every record. One that is damaged is set aside and rebuilt from its manifest, without its names, so that its
   * layers stay whose they are. Returns how many could not be rebuilt.
   */
  async load(op: Op): Promise<number> {
    await ensureDir(this.#directory);
    const loaded: StoredImage[] = [];
    let lost = 0;
    for (const name of await readDirSorted(this.#directory)) {
      if (isTemporaryName(name)) await removeFile(join(this.#directory, name));
      if (isTemporaryName(name) || !name.endsWith('.json')) continue;
      const image = await this.#loadOne(op, name);
      if (image === undefined) lost++;
      else loaded.push(image);
    }
    for (const image of loaded.sort((a, b) => a.generation - b.generation)) this.#index(image);
    return lost;
  }

  get(id: ImageId): StoredImage | undefined {
    return this.#byId.get(id);
  }

  /** By `repository:tag` or `repository@digest`, in full. */
  byName(name: string): StoredImage | undefined {
    const id = this.#byName.get(name);
    return id === undefined ? undefined : this.#byId.get(id);
  }

  all(): readonly StoredImage[] {
    return [...this.#byId.values()];
  }

  /**
   * Writes `image` with `names`; takes these names from whoever has them now. Of an image that is here already nothing
   * changes but that it has these names, too. Callers serialise.
   */
  async save(image: Omit<StoredImage, 'generation' | 'repoTags' | 'repoDigests'>, names: Names): Promise<StoredImage> {
    const known = this.#byId.get(image.id);
    const stored: StoredImage = {
      ...(known ?? image),
      repoTags: withNames(known?.repoTags ?? [], names.repoTags),
      repoDigests: withNames(known?.repoDigests ?? [], names.repoDigests),
      generation: ++this.#generation,
    };
    const losers = new Set(
      stored.repoTags.map((name) => this.byName(name)).filter((each) => each !== undefined && each.id !== image.id),
    );
    await this.#write(stored);
    this.#index(stored);
    for (const loser of losers) {
      const current = loser === undefined ? undefined : this.#byId.get(loser.id);
      if (current !== undefined) await this.#write(current);
    }
    return stored;
  }

  /**
   * Forgets an image: it is gone from every list when this has begun, and from disk when it returns. Content if absent.
   * When the disk does not take it, the image is in every list again.
   */
  async remove(id: ImageId): Promise<void> {
    const image = this.#byId.get(id);
    this.#byId.delete(id);
    for (const name of namesOf(image)) if (this.#byName.get(name) === id) this.#byName.delete(name);
    try {
      await this.#reserve.freeing(async () => {
        await removeFile(this.#path(id));
        await syncDirectory(this.#directory);
      });
    } catch (error) {
      if (image !== undefined) this.#index(image);
      throw storageError(error, `record of image ${id}`);
    }
  }

  /**
   * Makes `image` the owner of its tags; a tag that another image had is taken off that one. Digests are facts and may
   * be shared.
   */
  #index(image: StoredImage): void {
    this.#generation = Math.max(this.#generation, image.generation);
    for (const name of namesOf(this.#byId.get(image.id)))
      if (this.#byName.get(name) === image.id) this.#byName.delete(name);
    this.#byId.set(image.id, image);
    for (const name of image.repoDigests) this.#byName.set(name, image.id);
    for (const name of image.repoTags) {
      const owner = this.byName(name);
      if (owner !== undefined && owner.id !== image.id)
        this.#byId.set(owner.id, { ...owner, repoTags: owner.repoTags.filter((each) => each !== name) });
      this.#byName.set(name, image.id);
    }
  }

  async #loadOne(op: Op, name: string): Promise<StoredImage | undefined> {
    const path = join(this.#directory, name);
    try {
      return await this.#read(path, name);
    } catch (error) {
      op.log.error('image record is damaged, set aside', { path, error: explain(error) });
    }
    const rebuilt = await this.#rebuild(`sha256:${name.slice(0, -'.json'.length)}`).catch(() => undefined);
    // A disk that takes nothing must not keep the daemon from starting: the next start tries again.
    await this.#reserve
      .freeing(() => this.#replaceDamaged(path, name, rebuilt))
      .catch((error: unknown) =>
        op.log.error('cannot set the damaged record aside, ignoring', { path, error: explain(error) }),
      );
    if (rebuilt === undefined) return undefined;
    op.log.warn('image record rebuilt from its manifest, without names; the next pull brings them back', {
      image: rebuilt.id,
    });
    return rebuilt;
  }

  async #replaceDamaged(path: string, name: string, rebuilt: StoredImage | undefined): Promise<void> {
    const aside = join(this.#directory, 'damaged');
    await ensureDir(aside);
    await rename(path, join(aside, name)).catch((error: unknown) => {
      if (errnoOf(error) !== 'ENOENT') throw error; // An earlier try got as far as this.
    });
    if (rebuilt !== undefined) await this.#write(rebuilt);
  }

  async #read(path: string, name: string): Promise<StoredImage> {
    const value = await readJson(path, limits.recordBytes);
    if (!isObject(value) || value['version'] !== 1)
      throw new RuntimeError('DataLoss', `${path} is not an image record of version 1`);
    const id = parseImageId(text(value['id'], 'id'));
    if (name !== `${hexOf(id)}.json`) throw new RuntimeError('DataLoss', `${path} is the record of another image`);
    const layers = list(value['layers'], 'layers').map(readLayer);
    const manifestDigest = parseDigest(text(value['manifestDigest'], 'manifestDigest'));
    const names = {
      generation: count(value['generation'], 'generation'),
      repoTags: list(value['repoTags'], 'repoTags').map((each) => text(each, 'a tag')),
      repoDigests: list(value['repoDigests'], 'repoDigests').map((each) => text(each, 'a digest')),
      pulledAt: bigint(value['pulledAt'], 'pulledAt'),
    };
    const sizeBytes = bigint(value['sizeBytes'], 'sizeBytes');
    const annotations = strings(value['annotations']);
    if (value['artifact'] === true)
      return { ...(await this.#artifact(id, manifestDigest)), ...names, sizeBytes, annotations };
    const config = await this.#config(id);
    return {
      id,
      ...names,
      manifestDigest,
      sizeBytes,
      config,
      layers,
      top: layers.at(-1)?.chainId ?? null,
      annotations,
    };
  }

  /** An artifact, from its manifest. @throws DataLoss unless that is here, and of this id. */
  async #artifact(id: ImageId, digest: Digest): Promise<ImageFacts> {
    const bytes = await this.#blobs.read(digest, limits.manifestBytes);
    const manifest = bytes === undefined ? undefined : parseManifest(bytes, '');
    if (bytes === undefined || manifest?.kind !== 'artifact')
      throw new RuntimeError('DataLoss', `the manifest of artifact ${id} is missing`);
    const facts = describeArtifact({ digest, bytes, manifest }, (each) => this.#blobs.path(each));
    if (facts.id !== id) throw new RuntimeError('DataLoss', `the manifest of artifact ${id} is another one's`);
    return facts;
  }

  async #config(id: ImageId): Promise<ImageConfig> {
    const bytes = await this.#blobs.read(parseDigest(id), limits.imageConfigBytes);
    if (bytes === undefined) throw new RuntimeError('DataLoss', `the config blob of image ${id} is missing`);
    return parseImageConfig(bytes);
  }

  /**
   * The image of which nothing is left but its blobs: of the manifests that name this config, that whose layers are
   * here. A stranger may have left another one.
   */
  async #rebuild(idText: string): Promise<StoredImage | undefined> {
    const id = parseImageId(idText);
    const artifact = await this.#artifact(id, parseDigest(idText)).catch(() => undefined);
    if (artifact !== undefined) return { ...artifact, ...NAMELESS };
    const config = await this.#config(id);
    let best: { readonly facts: ImageFacts; readonly score: number } | undefined;
    for (const digest of await this.#blobs.list()) {
      const facts = await this.#factsIn(digest, id, config);
      const score = facts === undefined ? -1 : await this.#layersFrom(facts);
      if (facts !== undefined && score > (best?.score ?? -1)) best = { facts, score };
    }
    return best && { ...best.facts, ...NAMELESS };
  }

  /** How many of the layers on disk came in the blobs that are named here. */
  async #layersFrom({ layers }: ImageFacts): Promise<number> {
    const origins = await Promise.all(layers.map(({ chainId }) => this.#layers.origin(chainId)));
    return origins.filter((origin, at) => origin?.digest === layers[at]?.digest).length;
  }

  /** What a blob says of the image; undefined if it is no manifest of it, or one that does not fit. */
  async #factsIn(digest: Digest, id: ImageId, config: ImageConfig): Promise<ImageFacts | undefined> {
    try {
      const size = await this.#blobs.sizeOf(digest);
      if (size === undefined || size > BigInt(limits.manifestBytes)) return undefined;
      const bytes = await this.#blobs.read(digest, limits.manifestBytes);
      const document = bytes === undefined ? undefined : parseManifest(bytes, '');
      if (document?.kind !== 'manifest' || (document.config.digest as string) !== id) return undefined;
      return describeImage(id, digest, size, document, config);
    } catch {
      return undefined;
    }
  }

  async #write(image: StoredImage): Promise<void> {
    const { config: _config, top: _top, artifact, ...rest } = image;
    const record = {
      version: 1,
      ...rest,
      // What is in it, its manifest says.
      ...(artifact === undefined ? {} : { artifact: true }),
      layers: image.layers.map((layer) => ({ ...layer, sizeBytes: String(layer.sizeBytes) })),
      sizeBytes: String(image.sizeBytes),
      pulledAt: String(image.pulledAt),
    };
    await replaceFile(this.#path(image.id), `${JSON.stringify(record, null, 2)}\n`, 'durable').catch(
      (error: unknown) => {
        throw storageError(error, `record of image ${image.id}`);
      },
    );
  }

  #path(id: ImageId): string {
    return join(this.#directory, `${hexOf(id)}.json`);
  }
}

/**
 * The facts about an image that follow from its manifest and its config.
 * @throws InvalidArgument when the two do not fit together.
 */
export function describeImage(
  id: ImageId,
  manifestDigest: Digest,
  manifestSize: bigint,
  manifest: ImageManifest,
  config: ImageConfig,
): ImageFacts {
  const { diffIds } = config;
  if (diffIds.length !== manifest.layers.length) {
    throw new RuntimeError(
      'InvalidArgument',
      `the image has ${manifest.layers.length} layers, but its config promises ${diffIds.length}; ` +
        'it must be built or pushed again',
    );
  }
  const chain = chainIds(diffIds);
  const layers: ImageLayer[] = [];
  for (const [i, { digest, mediaType, size }] of manifest.layers.entries()) {
    const diffId = diffIds[i];
    const chainId = chain[i];
    if (diffId !== undefined && chainId !== undefined)
      layers.push({ digest, diffId, chainId, mediaType, sizeBytes: size });
  }
  return {
    id,
    manifestDigest,
    sizeBytes: manifestSize + manifest.config.size + layers.reduce((sum, layer) => sum + layer.sizeBytes, 0n),
    config,
    layers,
    top: layers.at(-1)?.chainId ?? null,
    annotations: manifest.annotations,
  };
}

function namesOf(image: Names | undefined): readonly string[] {
  return image === undefined ? [] : [...image.repoTags, ...image.repoDigests];
}

function readLayer(value: unknown): ImageLayer {
  if (!isObject(value)) throw damaged('a layer');
  return {
    digest: parseDigest(text(value['digest'], 'digest')),
    diffId: parseDigest(text(value['diffId'], 'diffId')),
    chainId: parseChainId(text(value['chainId'], 'chainId')),
    mediaType: text(value['mediaType'], 'mediaType'),
    sizeBytes: bigint(value['sizeBytes'], 'sizeBytes'),
  };
}

function text(value: unknown, what: string): string {
  if (typeof value !== 'string') throw damaged(what);
  return value;
}
function list(value: unknown, what: string): unknown[] {
  if (!Array.isArray(value)) throw damaged(what);
  return value;
}
function count(value: unknown, what: string): number {
  if (typeof value !== 'number' || !Number.isSafeInteger(value) || value < 0) throw damaged(what);
  return value;
}
function bigint(value: unknown, what: string): bigint {
  if (typeof value !== 'string' || !/^\d{1,19}$/.test(value)) throw damaged(what);
  return BigInt(value);
}
function strings(value: unknown): Readonly<Record<string, string>> {
  const map = Object.create(null) as Record<string, string>;
  if (!isObject(value)) throw damaged('annotations');
  for (const [key, each] of Object.entries(value)) map[key] = text(each, 'an annotation');
  return map;
}
function damaged(what: string): RuntimeError {
  return new RuntimeError('DataLoss', `image record: ${what} is not what it should be`);
}

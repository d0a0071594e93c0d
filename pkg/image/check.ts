/**
 * Whether what is on disk is what was pulled: every manifest, config and kept blob is read again, every layer is
 * compared with its manifest.
 *
 * A repair drops what is bad and the record of the image with it, so that the next pull brings back just that; what is
 * whole is kept for it. A layer under a container stays, good or bad, and so do the images that it belongs to: without
 * it, the container would lose its files.
 */
import { explain, isCode } from '../base/errors.ts';
import type { ChainId, Digest, ImageId } from '../base/ids.ts';
import { checkAlive } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import type { KeyedMutex } from '../base/sync.ts';
import type { BlobStore } from './blobs.ts';
import type { StoredImage } from './records.ts';
import type { LayerUnpacker } from '../ports/image.ts';

/** One thing that is wrong on disk. */
export interface ImageProblem {
  readonly image: ImageId;
  readonly what: string;
  /** Containers on the bad layer, which keep a repair from removing it; empty if nothing does. */
  readonly keptBy: readonly string[];
}

export interface CheckWorld {
  readonly blobs: BlobStore;
  readonly unpacker: LayerUnpacker;
  readonly layerLocks: KeyedMutex<ChainId>;
  /** The blobs that an image keeps. */
  readonly keptBlobs: (image: StoredImage) => readonly Digest[];
  readonly usersOf: (image: ImageId) => readonly string[];
  readonly layersInUse: () => Iterable<ChainId>;
  readonly removeBlob: (digest: Digest) => Promise<void>;
  readonly removeLayer: (op: Op, chainId: ChainId) => Promise<void>;
  /** The images that there are now. */
  readonly images: () => readonly StoredImage[];
  /** True if an image, a container or a pull in flight counts on the layer now. */
  readonly needsLayer: (chainId: ChainId) => boolean;
  /** Forgets the image and protects what is whole of it for a while. */
  readonly forget: (image: StoredImage, damage: Damage) => Promise<void>;
}

export interface Damage {
  readonly what: readonly string[];
  readonly blobs: readonly Digest[];
  readonly layers: readonly ChainId[];
}

/** Looks at `images` one after the other, and with `repair` mends what can be mended. */
export async function checkImages(
  op: Op,
  world: CheckWorld,
  images: readonly StoredImage[],
  mode: 'report' | 'repair',
): Promise<readonly ImageProblem[]> {
  const problems: ImageProblem[] = [];
  for (const image of images) {
    const damage = await damageOf(op, world, image);
    if (damage.what.length === 0) continue;
    const keptBy = whoIsOn(world, image, damage.layers);
    problems.push(...damage.what.map((what) => ({ image: image.id, what, keptBy })));
    if (mode === 'repair' && keptBy.length === 0) await drop(op, world, image, damage);
  }
  return problems;
}

async function damageOf(op: Op, world: CheckWorld, image: StoredImage): Promise<Damage> {
  const what: string[] = [];
  const blobs: Digest[] = [];
  const layers: ChainId[] = [];
  for (const digest of world.keptBlobs(image)) {
    checkAlive(op, `checking image ${image.id}`);
    try {
      await world.blobs.verify(digest);
    } catch (error) {
      what.push(explain(error));
      if (!isCode(error, 'NotFound')) blobs.push(digest);
    }
  }
  for (const { chainId } of image.layers) {
    checkAlive(op, `checking layer ${chainId}`);
    const wrong = await layerProblems(op, world, chainId);
    what.push(...wrong);
    if (wrong.length > 0) layers.push(chainId);
  }
  return { what, blobs, layers };
}

async function layerProblems(op: Op, { unpacker }: CheckWorld, chainId: ChainId): Promise<readonly string[]> {
  if (!(await unpacker.has(chainId))) return [`layer ${chainId} is missing`];
  return (await unpacker.verifyLayer(op, chainId)).map((what) => `layer ${chainId}: ${what}`);
}

/** Containers that have one of `layers` under them, by way of this image or of another one that shares it. */
function whoIsOn(world: CheckWorld, image: StoredImage, layers: readonly ChainId[]): readonly string[] {
  if (layers.length === 0) return [];
  const users = world.usersOf(image.id);
  if (users.length > 0) return users;
  return [...world.layersInUse()].some((chainId) => layers.includes(chainId)) ? ['a container of another image'] : [];
}

/** What leads to the damage goes first: who looks meanwhile sees no image rather than one without its layer. */
async function drop(op: Op, world: CheckWorld, image: StoredImage, damage: Damage): Promise<void> {
  const isBroken = ({ id, layers }: StoredImage): boolean =>
    id === image.id || layers.some(({ chainId }) => damage.layers.includes(chainId));
  for (const broken of world.images().filter(isBroken)) {
    await world.forget(broken, damage);
    op.log.warn('image is not whole, removed; pull it again', { image: broken.id });
  }
  for (const digest of damage.blobs) await world.removeBlob(digest);
  for (const chainId of damage.layers) {
    await world.layerLocks.run(chainId, async () => {
      if (!world.needsLayer(chainId)) return await world.removeLayer(op, chainId);
      op.log.warn('layer is not whole, but a pull has just found it; check again when that has ended', {
        layer: chainId,
      });
    });
  }
}

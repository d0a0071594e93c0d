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
import type { Claimed } from './claims.ts';
import type { StoredImage } from './records.ts';
import type { Retention } from './retention.ts';

/** One thing that is wrong on disk. */
export interface ImageProblem {
  readonly image: ImageId;
  readonly what: string;
  /** Containers on the bad layer, which keep a repair from removing it; empty if nothing does. */
  readonly keptBy: readonly string[];
}

/** Looks at all images, one after the other, and with `repair` mends what can be mended. */
export async function checkImages(
  op: Op,
  kept: Retention,
  mode: 'report' | 'repair',
): Promise<readonly ImageProblem[]> {
  const problems: ImageProblem[] = [];
  for (const image of kept.images.all()) {
    const damage = await damageOf(op, kept, image);
    if (damage.what.length === 0) continue;
    const keptBy = kept.whoIsOn(image, damage.layers);
    problems.push(...damage.what.map((what) => ({ image: image.id, what, keptBy })));
    if (mode === 'repair' && keptBy.length === 0) await drop(op, kept, image, damage);
  }
  return problems;
}

interface Damage extends Claimed {
  readonly what: readonly string[];
}

async function damageOf(op: Op, kept: Retention, image: StoredImage): Promise<Damage> {
  const what: string[] = [];
  const blobs: Digest[] = [];
  const layers: ChainId[] = [];
  for (const digest of kept.keptBlobs(image)) {
    checkAlive(op, `checking image ${image.id}`);
    try {
      await kept.blobs.verify(digest);
    } catch (error) {
      what.push(explain(error));
      if (!isCode(error, 'NotFound')) blobs.push(digest);
    }
  }
  for (const { chainId } of image.layers) {
    checkAlive(op, `checking layer ${chainId}`);
    const wrong = await layerProblems(op, kept, chainId);
    what.push(...wrong);
    if (wrong.length > 0) layers.push(chainId);
  }
  return { what, blobs, layers };
}

async function layerProblems(op: Op, { layers }: Retention, chainId: ChainId): Promise<readonly string[]> {
  if (!(await layers.has(chainId))) return [`layer ${chainId} is missing`];
  return (await layers.verifyLayer(op, chainId)).map((what) => `layer ${chainId}: ${what}`);
}

/** What leads to the damage goes first: who looks meanwhile sees no image rather than one without its layer. */
async function drop(op: Op, kept: Retention, image: StoredImage, damage: Damage): Promise<void> {
  const isBroken = (each: StoredImage): boolean =>
    each.id === image.id ||
    each.layers.some(({ chainId }) => damage.layers.includes(chainId)) ||
    damage.blobs.some((digest) => kept.keptBlobs(each).has(digest));
  for (const broken of kept.images.all().filter(isBroken)) {
    await kept.forget(broken, damage);
    op.log.warn('image is not whole, removed; pull it again', { image: broken.id });
  }
  for (const what of await kept.removeDamaged(op, damage))
    op.log.warn('damaged, but a pull has just found it; check again when that has ended', { what });
}

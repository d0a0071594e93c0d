/**
 * What broken pulls and earlier lives left in the image store goes, at the start and as long as the daemon runs: a node
 * that never restarts has a disk, too.
 */
import { explain } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Op } from '../pkg/base/op.ts';
import type { ImageStore } from '../pkg/ports/image.ts';

/**
 * Sweeps now and every `limits.imageSweepMs`, one sweep at a time; nobody waits for it. Returns the way to stop, after
 * which none begins.
 */
export function sweepImages(op: Op, images: Pick<ImageStore, 'sweep'>): () => void {
  let isUnderWay = false;
  const sweep = async (): Promise<void> => {
    if (isUnderWay) return;
    isUnderWay = true;
    await images
      .sweep(op)
      .catch((cause: unknown) =>
        op.log.warn('the sweep of the image store failed, will retry in an hour', { cause: explain(cause) }),
      );
    isUnderWay = false;
  };
  void sweep();
  const timer = setInterval(() => void sweep(), limits.imageSweepMs).unref();
  return () => clearInterval(timer);
}

/**
 * Images read again, or removed, without a daemon: after a crash that it does not come back from, or on a node that is
 * drained.
 */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { listInMemory } from '../../pkg/base/files.ts';
import type { Op } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { CheckProblem } from '../../pkg/cri-api/types.ts';
import type { FileImageStore } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { openDisks } from '../disks.ts';
import { ImageSources } from './image-sources.ts';
import { makeImages } from './images.ts';

/**
 * What is wrong with images of this configuration, beside what a start would find and settle by itself, which is told
 * to `op.log`. Layers are read by the worker at `workerUrl`, as the daemon's. Holds the daemon's locks meanwhile.
 * @throws FailedPrecondition if a daemon has them, or if something is to be repaired under containers that may still
 * run.
 */
export async function checkImagesOffline(
  op: Op,
  config: Config,
  mode: 'report' | 'repair',
  workerUrl: URL | undefined,
): Promise<readonly CheckProblem[]> {
  if (!existsSync(placeOf(config))) return [];
  if (mode === 'repair') requireNone(config, ['containers'], 'repair');
  await using opened = new AsyncDisposableStack();
  const images = await openImages(op, config, workerUrl, opened);
  return (await images.check(op, mode)).map(({ image, what, keptBy }) => ({ imageId: image, what, keptBy }));
}

/**
 * Removes every image, and tells which. Holds the daemon's locks meanwhile. @throws FailedPrecondition if a daemon has
 * them, or if there are pods, which only a daemon can remove.
 */
export async function wipeImagesOffline(
  op: Op,
  config: Config,
  workerUrl: URL | undefined,
): Promise<readonly { readonly id: string; readonly repoTags: readonly string[] }[]> {
  if (!existsSync(placeOf(config))) return [];
  requireNone(config, ['containers', 'sandboxes'], 'wipe');
  await using opened = new AsyncDisposableStack();
  const images = await openImages(op, config, workerUrl, opened);
  const all = images.list();
  for (const { id } of all) await images.remove(op, id);
  return all;
}

function placeOf({ storage: { imagestore, root } }: Config): string {
  return imagestore || root;
}

/** Who runs on which layer, only a daemon knows. */
function requireNone({ storage: { runroot } }: Config, kinds: readonly string[], what: string): void {
  for (const kind of kinds) {
    const directory = join(runroot, kind);
    if (existsSync(directory) && listInMemory(directory).length > 0)
      throw new RuntimeError(
        'FailedPrecondition',
        `there are ${kind} in ${directory}: start the daemon and ${what} then, or drain the node and reboot first`,
      );
  }
}

async function openImages(
  op: Op,
  config: Config,
  workerUrl: URL | undefined,
  opened: AsyncDisposableStack,
): Promise<FileImageStore> {
  const disks = opened.adopt(await openDisks(config, op.log), (each) => each.close());
  const rootfs = opened.adopt(
    new OverlayRootfs({
      root: disks.containers.directory,
      imageRoot: disks.images.directory,
      reserve: disks.containers.reserve,
      ...(workerUrl === undefined ? {} : { workerUrl }),
    }),
    (each) => each.close(),
  );
  const use = { images: () => [], layers: () => [] };
  const sources = new ImageSources(config, process.env);
  const made = makeImages(config, sources, { rootfs, disk: disks.images, use, listener: undefined });
  const images = opened.adopt(made, (each) => each.close());
  await images.load(op);
  return images;
}

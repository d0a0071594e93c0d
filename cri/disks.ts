/**
 * The file systems that the daemon keeps things on: a directory of our own on each, checked, locked against a second
 * daemon, with a file that keeps deletions possible when the disk is full.
 *
 *     run         records, sockets, namespaces: a tmpfs
 *     containers  writable layers
 *     images      blobs, image records, unpacked layers: the same directory, unless `imagestore` names another one
 */
import { join } from 'node:path';
import { errnoOf, RuntimeError } from '../pkg/base/errors.ts';
import { ensureDirInMemory, readDirSorted } from '../pkg/base/files.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Logger } from '../pkg/base/op.ts';
import { DiskReserve } from '../pkg/base/reserve.ts';
import type { FileLock } from '../pkg/ports/kernel.ts';
import { fileSystems, lockFile } from '../pkg/sys/index.ts';
import type { Config } from '../pkg/config/index.ts';

/** A directory on a file system that is ours. */
export interface Disk {
  /** Ours alone. */
  readonly directory: string;
  readonly reserve: DiskReserve;
}

/** All that are open. */
export interface Disks {
  readonly run: Disk;
  readonly containers: Disk;
  /** The same object as `containers` unless images are kept elsewhere. */
  readonly images: Disk;
  /** How full they are, a line per directory. */
  survey(): Promise<readonly DiskState[]>;
  close(): Promise<void>;
}

/** How full one is. */
export interface DiskState {
  readonly name: 'disk' | 'disk of images' | 'disk of containers' | 'run root';
  readonly directory: string;
  readonly availableBytes: bigint;
  readonly totalBytes: bigint;
  /** 0 where the file system does not count them. */
  readonly inodes: bigint;
  readonly inodesFree: bigint;
  readonly reservedBytes: number;
}

/** What we make in `root`, and what an image store makes in its own. */
const OWN_NAMES = ['rootfs', 'cni', 'blobs', 'images', 'layers'];

/**
 * Makes the directories, takes the locks and opens the reserves. @throws FailedPrecondition or InvalidArgument, with
 * what to change.
 */
export async function openDisks({ storage }: Config, log: Logger): Promise<Disks> {
  const { root, runroot } = storage;
  const imagestore = storage.imagestore === '' ? root : storage.imagestore;
  checkApart(imagestore, root, runroot);
  const closers: (() => Promise<void> | void)[] = [];
  const close = async (): Promise<void> => {
    for (const each of closers.splice(0).reverse()) await each();
  };
  const open = async (directory: string, flag: string, bytes: number): Promise<Disk> => {
    const lock = await takeLock(directory, flag, log);
    if (lock !== undefined) closers.push(() => lock.release());
    const reserve = new DiskReserve({ path: join(directory, 'reserve'), bytes, log });
    closers.push(() => reserve.close());
    await reserve.open();
    return { directory, reserve };
  };
  try {
    const run = await open(runroot, '--runroot', limits.runReserveBytes);
    const containers = await open(root, '--root', limits.diskReserveBytes);
    const images = imagestore === root ? containers : await open(imagestore, '--imagestore', limits.diskReserveBytes);
    // 0711: with user namespaces the container's root must be able to pass through to its rootfs.
    for (const name of ['sandboxes', 'containers', 'exits', 'ns']) ensureDirInMemory(join(runroot, name), 0o711);
    if (imagestore !== root) await sayWhatIsLeft(root, imagestore, log);
    return { run, containers, images, survey: () => survey(run, containers, images), close };
  } catch (cause) {
    await close();
    throw cause;
  }
}

async function survey(run: Disk, containers: Disk, images: Disk): Promise<readonly DiskState[]> {
  const disks: readonly (readonly [name: DiskState['name'], disk: Disk])[] =
    images === containers
      ? [['disk', containers]]
      : [
          ['disk of images', images],
          ['disk of containers', containers],
        ];
  return await Promise.all(
    [...disks, ['run root', run] as const].map(async ([name, { directory, reserve }]) => ({
      name,
      directory,
      reservedBytes: reserve.heldBytes,
      ...(await fileSystems.stat(directory)),
    })),
  );
}

async function takeLock(directory: string, flag: string, log: Logger): Promise<FileLock | undefined> {
  try {
    ensureDirInMemory(directory, 0o711);
    return await lockFile(join(directory, 'lock'));
  } catch (cause) {
    if (errnoOf(cause) === 'EROFS' && flag !== '--runroot') {
      // A disk that turned read-only (errors=remount-ro) must not take the daemon away from what runs; nobody else can
      // write there either.
      log.error('the disk is read-only: nothing can be pulled, made or removed; remount it', { path: directory });
      return undefined;
    }
    throw new RuntimeError(
      'FailedPrecondition',
      `cannot have ${directory} for ourselves: another berth serves from it, or it cannot be ` +
        `written; choose another with ${flag}`,
      { cause },
    );
  }
}

/** @throws InvalidArgument if the image store lies where something else of ours is swept, or the other way round. */
export function checkApart(imagestore: string, root: string, runroot: string): void {
  if (imagestore === root) return;
  const isIn = (path: string, directory: string): boolean => path === directory || path.startsWith(`${directory}/`);
  const clash =
    [runroot, ...OWN_NAMES.map((name) => join(root, name))].find((each) => isIn(imagestore, each)) ??
    [root, runroot].find((each) => OWN_NAMES.some((name) => isIn(each, join(imagestore, name))));
  if (clash !== undefined)
    throw new RuntimeError(
      'InvalidArgument',
      `imagestore ${imagestore} and ${clash} lie in each other; choose a directory of its own for images`,
    );
}

/**
 * Images that were kept under `root` before are not looked at any more, and only a person knows whether they may go.
 */
async function sayWhatIsLeft(root: string, imagestore: string, log: Logger): Promise<void> {
  const left = (await readDirSorted(join(root, 'images'))).some((name) => name.endsWith('.json'));
  if (left)
    log.warn(
      'images that were kept under root before are not used any more; remove its blobs, images and ' +
        'layers when no container runs on them',
      { path: root, imagestore },
    );
}

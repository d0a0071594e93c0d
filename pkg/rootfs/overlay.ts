/**
 * OverlayRootfs: the RootfsDriver of this product.
 *
 *     <root>/layers/…                            layers.ts
 *     <root>/rootfs/<container id>/diff, work    the writable layer, under the name by which cAdvisor looks for it
 *                                  merged        the container's root, mounted
 *                                  volumes/<n>   image volumes, mounted read-only
 *                                  data/<n>      anonymous volumes
 *                                  volumes/<n>.root   an empty directory with the image root's owner and mode, the
 *                                                     topmost layer of volume n
 *                                  volumes/<n>.view   blobs of an artifact as they are, mounted for volume n
 *     <root>/rootfs/.trash-<random>              on its way out; nobody's after a crash
 *     <root>/pods/diff                           empty: what pods write, for cAdvisor
 *
 * `destroy` needs nothing but the id: it takes the name away, with the mounts below it, and unmounts and deletes in the
 * background, so that a mount which leaked into somebody else's namespace, or a million small files, cannot hold up
 * RemoveContainer (cri-o#8596).
 *
 * `<root>` is 0711 and the directories below it 0700: other users of the node must not reach setuid files of images
 * (CVE-2021-41103). With a user namespace the container's directory is 0711, because the runtime then walks to it as
 * the mapped root.
 */
import { randomBytes } from 'node:crypto';
import { chmod, mkdir, rename, rm } from 'node:fs/promises';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { codeOf, errnoOf, explain, isCode, RuntimeError, storageError, wrap } from '../base/errors.ts';
import { ensureDir, readDirSorted } from '../base/files.ts';
import { type ChainId, type ContainerId, parseContainerId, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { checkAlive, type Op } from '../base/op.ts';
import { type Freeing, noReserve } from '../base/reserve.ts';
import { KeyedMutex, SingleFlight, together } from '../base/sync.ts';
import { Root, fileSystems, mounts } from '../sys/index.ts';
import { mountFiles } from './file-volume.ts';
import { insideRoot } from './inside.ts';
import { Leftovers } from './leftovers.ts';
import { Layers } from './layers.ts';
import { checkSubPath, hostIdOf, labelOption, VOLUME_ATTRIBUTES, withUserNamespace } from './mounting.ts';
import { UnpackPool } from './unpack-pool.ts';
import type { UnpackLimits } from './unpack-worker.ts';
import type { ArrivingBlob, ArtifactFile, FsUsage, LayerOrigin, LayerSource, StagedLayer } from '../ports/image.ts';
import type {
  FileVolume,
  IdMap,
  ImageVolumeOptions,
  InsideRoot,
  RootfsDriver,
  RootfsOptions,
} from '../ports/rootfs.ts';
import type { RootOwner } from './node.ts';

/** Where the driver works, and within which bounds. */
export interface OverlayOptions {
  /** Absolute real path on a file system that can carry overlay (xattrs, d_type); made 0711 if absent. */
  readonly root: string;
  /** Where layers are if not in `<root>` (a split image store). */
  readonly imageRoot?: string | undefined;
  /**
   * Of the disk that `root` is on: what destroying a container's files takes when that is full. Default: nothing is
   * reserved.
   */
  readonly reserve?: Freeing | undefined;
  /** Bounds on layers, for tests; default `limits`. */
  readonly unpackLimits?: Partial<UnpackLimits> | undefined;
  /** The worker's file where it is not beside this one (a bundle). */
  readonly workerUrl?: URL | undefined;
}

const TRASH = '.trash-';
/**
 * What overlay or the mount takes; everything else in a mount option could only be a mistake or an attack on our own
 * directories.
 */
const MOUNT_OPTIONS: ReadonlySet<string> = new Set([
  ...['metacopy', 'redirect_dir', 'index', 'xino', 'nfs_export'].flatMap((name) => [`${name}=on`, `${name}=off`]),
  ...['redirect_dir=follow', 'redirect_dir=nofollow', 'xino=auto'],
  ...['uuid=on', 'uuid=off', 'uuid=null', 'uuid=auto'],
  ...['volatile', 'nodev', 'nosuid', 'noexec', 'noatime', 'relatime'],
]);

/** Overlay mounts over layers that it unpacks itself. */
export class OverlayRootfs implements RootfsDriver {
  readonly imageRoot: string;
  readonly containerRoot: string;
  readonly podRoot: string;
  readonly #layers: Layers;
  readonly #pool: UnpackPool;
  readonly #rootfs: string;
  readonly #reserve: Freeing;
  readonly #locks = new KeyedMutex<ContainerId>();
  readonly #measuring = new SingleFlight<ContainerId, FsUsage>();
  readonly #deleting = new Set<Promise<void>>();
  readonly #trash = new Leftovers((name) => this.#delete(name));

  constructor(options: OverlayOptions) {
    this.containerRoot = options.root;
    this.imageRoot = options.imageRoot ?? options.root;
    this.#rootfs = join(options.root, 'rootfs');
    this.podRoot = join(options.root, 'pods/merged');
    this.#reserve = options.reserve ?? noReserve;
    const workers = Math.min(limits.unpackWorkersCount, availableParallelism());
    this.#pool = new UnpackPool(
      workers,
      options.workerUrl ?? pathToFileURL(join(import.meta.dirname, 'unpack-worker.ts')),
    );
    this.#layers = new Layers(join(this.imageRoot, 'layers'), this.#pool, options.unpackLimits ?? {});
  }

  // --- layers
  // -------------------------------------------------------------------------------------------------------------

  unpack(op: Op, layer: LayerSource): Promise<void> {
    return this.#layers.unpack(op, layer);
  }

  unpackEarly(op: Op, layer: LayerSource, blob: ArrivingBlob): Promise<StagedLayer | undefined> {
    return this.#layers.unpackEarly(op, layer, blob);
  }

  prove(op: Op, layer: LayerSource): Promise<void> {
    return this.#layers.prove(op, layer);
  }

  origin(chainId: ChainId): Promise<LayerOrigin | undefined> {
    return this.#layers.origin(chainId);
  }

  settle(op: Op, layers: readonly ChainId[]): Promise<void> {
    return this.#layers.settle(op, layers);
  }

  has(chainId: ChainId): Promise<boolean> {
    return this.#layers.has(chainId);
  }

  removeLayer(op: Op, chainId: ChainId): Promise<void> {
    return this.#layers.removeLayer(op, chainId);
  }

  listLayers(): Promise<readonly ChainId[]> {
    return this.#layers.listLayers();
  }

  layersUsage(op: Op): Promise<FsUsage> {
    return this.#layers.layersUsage(op);
  }

  /**
   * What is wrong with a layer on disk, for `berth check`: empty = whole. `removeLayer` is the repair; the next pull
   * brings it back.
   */
  verifyLayer(op: Op, chainId: ChainId): Promise<readonly string[]> {
    return this.#layers.verifyLayer(op, chainId);
  }

  /**
   * Once at the start, before anything else: makes the directories and deletes what a crash left half made or half
   * deleted.
   */
  async sweepLayers(op: Op): Promise<void> {
    await ensureDir(this.containerRoot, 0o711);
    await ensureDir(this.imageRoot, 0o711);
    await ensureDir(join(this.imageRoot, 'layers'));
    await ensureDir(this.#rootfs, 0o711);
    await ensureDir(join(this.podRoot, '../diff'));
    await this.#layers.sweep(op);
    for (const name of await readDirSorted(this.#rootfs)) if (name.startsWith(TRASH)) this.#deleteLater(op, name);
  }

  // --- containers
  // ---------------------------------------------------------------------------------------------------------

  mount(op: Op, id: ContainerId, layers: readonly ChainId[], options: RootfsOptions): Promise<string> {
    return this.#locks.run(id, async () => {
      checkAlive(op, 'mount rootfs');
      const directory = this.#path(id);
      const merged = this.rootOf(id);
      if (mounts.isMountPoint(merged)) return merged;
      const mountOptions = [...checkMountOptions(options.mountOptions), ...labelOption(options.label)];
      if (options.quotaBytes > 0n)
        throw new RuntimeError(
          'Unimplemented',
          'a size limit for the writable layer needs project quotas, which this driver does not set; remove the limit',
        );
      try {
        await this.#layers.settle(op, layers);
        await this.#prepare(directory, await this.#layers.rootOwner(layers), options.idMap);
        await this.#mountMerged(directory, await this.#layers.lowerDirs(layers), mountOptions, options.idMap);
      } catch (error) {
        throw wrap(`mount rootfs of container ${id}`, storageError(error, directory));
      }
      return merged;
    });
  }

  mountImageVolume(
    op: Op,
    id: ContainerId,
    index: number,
    layers: readonly ChainId[],
    { subPath, idMap, label }: ImageVolumeOptions,
  ): Promise<string> {
    return this.#locks.run(id, async () => {
      checkAlive(op, 'mount image volume');
      checkSubPath(subPath);
      if (!Number.isSafeInteger(index) || index < 0)
        throw new RuntimeError('InvalidArgument', `not the index of a volume: ${index}`);
      const volumes = join(this.#path(id), 'volumes');
      const target = join(volumes, String(index));
      const top = `${target}.root`;
      await ensureDir(target);
      await ensureDir(top);
      if (!mounts.isMountPoint(target)) {
        await this.#layers.settle(op, layers);
        await own(volumes, `${index}.root`, await this.#layers.rootOwner(layers), null);
        const lower = await this.#layers.lowerDirs(layers);
        if (lower.length === 0)
          await mounts.bind({ source: top, target, extent: 'one', attributes: VOLUME_ATTRIBUTES });
        else
          await withUserNamespace(idMap, (usernsFd) =>
            mounts.overlay({
              lower: [top, ...lower],
              writable: null,
              target,
              options: [...VOLUME_ATTRIBUTES, ...labelOption(label)],
              usernsFd,
            }),
          );
      }
      return subPath === '' ? target : inVolume(target, subPath);
    });
  }

  mountFiles(
    op: Op,
    id: ContainerId,
    index: number,
    files: readonly ArtifactFile[],
    options: ImageVolumeOptions,
  ): Promise<FileVolume> {
    return this.#locks.run(id, async () => {
      checkAlive(op, 'mount artifact');
      const volumes = join(this.#path(id), 'volumes');
      await ensureDir(volumes);
      return await mountFiles(volumes, index, files, options);
    });
  }

  makeVolume(op: Op, id: ContainerId, index: number): Promise<string> {
    return this.#locks.run(id, async () => {
      checkAlive(op, 'make volume');
      const directory = join(this.#path(id), 'data', String(index));
      await ensureDir(join(directory, '..'), 0o711);
      await ensureDir(directory, 0o755);
      return directory;
    });
  }

  /**
   * Whether this kernel, and the file system that layers are on, can give a root to a user namespace: undefined if so,
   * else the reason. Tries it once for real; what kernels say about themselves is not enough (overlay on idmapped
   * layers came in 5.19, file systems one by one).
   */
  async whyNoUserNamespaces(): Promise<string | undefined> {
    return await this.#reserve.freeing(() => this.#tryUserNamespace()).then(() => undefined, explain);
  }

  async #tryUserNamespace(): Promise<void> {
    const directory = join(this.#rootfs, `${TRASH}${randomBytes(12).toString('hex')}`);
    const idMap: IdMap = {
      uids: [{ containerId: 0, hostId: 100_000, size: 65_536 }],
      gids: [{ containerId: 0, hostId: 100_000, size: 65_536 }],
    };
    try {
      await ensureDir(join(directory, 'empty'));
      await this.#prepare(directory, { uid: 0, gid: 0, mode: 0o755 }, idMap);
      await this.#mountMerged(directory, [], [], idMap);
    } finally {
      await mounts.unmountTree(directory);
      await rm(directory, { recursive: true, force: true });
    }
  }

  rootOf(id: ContainerId): string {
    return join(this.#path(id), 'merged');
  }

  destroy(op: Op, id: ContainerId): Promise<void> {
    return this.#locks.run(id, async () => {
      const directory = this.#path(id);
      const trash = `${TRASH}${randomBytes(12).toString('hex')}`;
      try {
        await this.#reserve.freeing(() => rename(directory, join(this.#rootfs, trash)));
      } catch (error) {
        if (errnoOf(error) === 'ENOENT') return;
        if (errnoOf(error) !== 'EBUSY') throw wrap(`remove rootfs of container ${id}`, storageError(error, directory));
        // Somebody mounted over it.
        await mounts.unmountTree(directory);
        await this.#reserve.freeing(() => rename(directory, join(this.#rootfs, trash)));
      }
      this.#deleteLater(op, trash);
    });
  }

  /**
   * Deletes a directory that has been put aside. Our own mount is taken off first; all mounts of the node, which are
   * thousands, are read over only if there is another, which a deletion stops at and never enters.
   */
  async #delete(name: string): Promise<void> {
    const directory = join(this.#rootfs, name);
    await mounts.unmount(join(directory, 'merged'));
    using root = Root.open(this.#rootfs, 'strict');
    const remove = (): Promise<boolean> => this.#reserve.freeing(() => root.removeTreeAsync(name));
    try {
      await remove();
    } catch (cause) {
      if (codeOf(cause) === 'ResourceExhausted') throw cause;
      await mounts.unmountTree(directory);
      await remove();
    }
  }

  async list(): Promise<readonly ContainerId[]> {
    return (await readDirSorted(this.#rootfs)).filter((name) => !name.startsWith('.')).map(parseContainerId);
  }

  async usage(op: Op, id: ContainerId): Promise<FsUsage> {
    checkAlive(op, 'measure rootfs');
    return this.#measuring.run(id, () =>
      fileSystems.usage(join(this.#path(id), 'diff')).catch((error: unknown) => {
        if (!isCode(error, 'NotFound')) throw error;
        // Of a Berth before this one.
        return fileSystems.usage(join(this.#path(id), 'upper'));
      }),
    );
  }

  inside(root: string): InsideRoot {
    return insideRoot(root);
  }

  /** Waits for deletions in the background and ends the worker threads. The driver must not be used afterwards. */
  async close(): Promise<void> {
    await Promise.all([this.#pool.close(), ...this.#deleting]);
  }

  #path(id: ContainerId): string {
    // The type says so, but this string decides what gets deleted.
    return join(this.#rootfs, parseContainerId(id));
  }

  /** Makes the directories of a container as a mount wants them. */
  async #prepare(directory: string, owner: RootOwner, idMap: IdMap | null): Promise<void> {
    await this.#makeOwn(directory);
    if (idMap !== null) await chmod(directory, 0o711);
    await together(['diff', 'work', 'merged'].map((name) => ensureDir(join(directory, name))));
    using root = Root.open(directory, 'strict');
    // A `volatile` overlay that was not unmounted properly leaves this mark and refuses to come back.
    root.removeTree('work/work/incompat');
    await own(directory, 'diff', owner, idMap);
  }

  /** In one trip to the disk where all is as usual. */
  async #makeOwn(directory: string): Promise<void> {
    try {
      await mkdir(directory, { mode: 0o700 });
    } catch (error) {
      if (errnoOf(error) === 'EEXIST') return;
      if (errnoOf(error) !== 'ENOENT') throw error;
      // It was there at the start.
      await ensureDir(this.#rootfs, 0o711);
      await ensureDir(directory);
    }
  }

  async #mountMerged(
    directory: string,
    layerDirs: readonly string[],
    options: readonly string[],
    idMap: IdMap | null,
  ): Promise<void> {
    const lower = [...layerDirs];
    if (lower.length === 0) {
      lower.push(join(directory, 'empty'));
      await ensureDir(join(directory, 'empty'));
    }
    const writable = { upper: join(directory, 'diff'), work: join(directory, 'work') };
    await withUserNamespace(idMap, (usernsFd) =>
      mounts.overlay({ lower, writable, target: join(directory, 'merged'), options, usernsFd }),
    );
  }

  #deleteLater(op: Op, name: string): void {
    const remove = async (): Promise<void> => {
      try {
        await this.#trash.remove(name);
      } catch (error) {
        op.log.warn('cannot delete the files of a removed container, will retry with the next one', {
          path: join(this.#rootfs, name),
          cause: explain(error),
        });
      }
    };
    const removal = remove().finally(() => this.#deleting.delete(removal));
    this.#deleting.add(removal);
  }
}

/**
 * PURE. Mount options from the configuration as they are passed on. @throws InvalidArgument for one that is not
 * allowed.
 */
export function checkMountOptions(options: readonly string[]): readonly string[] {
  for (const option of options) {
    if (!MOUNT_OPTIONS.has(option))
      throw new RuntimeError(
        'InvalidArgument',
        `the overlay mount option ${quote(option)} is unknown or not allowed; see mountopt in the configuration`,
      );
  }
  return options;
}

/** Gives a directory of ours the owner and mode of an image's root. */
async function own(directory: string, name: string, owner: RootOwner, idMap: IdMap | null): Promise<void> {
  using root = Root.open(directory, 'strict');
  root.chown(
    name,
    idMap === null ? owner.uid : hostIdOf(owner.uid, idMap.uids),
    idMap === null ? owner.gid : hostIdOf(owner.gid, idMap.gids),
  );
  root.chmod(name, owner.mode);
}

/** Symlinks resolve inside the volume; one that leads to its very top tried to leave it. */
function inVolume(target: string, subPath: string): string {
  using root = Root.open(target, 'chroot');
  const found = root.resolve(subPath);
  if (found === undefined)
    throw new RuntimeError('NotFound', `sub path ${quote(subPath)} does not exist in the image`, {
      reason: 'ImageVolumeMountFailed',
    });
  if (found.path === '/')
    throw new RuntimeError('InvalidArgument', `sub path ${quote(subPath)} leads out of the image`, {
      reason: 'ImageVolumeMountFailed',
    });
  return `${target}${found.path}`;
}

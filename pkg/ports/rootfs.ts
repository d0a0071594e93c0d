/**
 * The port of root filesystems: a driver that unpacks layers and mounts them (containerd's Snapshotter, reduced to one
 * product).
 */
import type { ChainId, ContainerId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ArtifactFile, FsUsage, LayerUnpacker } from './image.ts';

/** Layers on disk and root filesystems on top of them; everything of a container is found by its id alone. */
export interface RootfsDriver extends LayerUnpacker {
  /**
   * Mounts the root filesystem of `id` and returns its path (`rootfs/<id>/merged`). `layers` is bottom first and may be
   * empty. Mounted again after a restart if it is not mounted any more.
   */
  mount(op: Op, id: ContainerId, layers: readonly ChainId[], options: RootfsOptions): Promise<string>;
  /**
   * Unmounts and deletes everything of `id`; content if absent. Never leaves the root directory of the driver
   * (openat2).
   */
  destroy(op: Op, id: ContainerId): Promise<void>;
  /**
   * The path that `mount` returns, mounted or not. Beside it, instead of `merged`, is `diff`, the writable layer: so
   * cAdvisor finds and measures it.
   */
  rootOf(id: ContainerId): string;
  /** The same of a pod, which has no root: beside it is an empty `diff`. */
  readonly podRoot: string;
  /** Writable layer, by a walk over it; those who ask at the same time share one. */
  usage(op: Op, id: ContainerId): Promise<FsUsage>;
  /** Every id that has anything here, for the orphan sweep. */
  list(): Promise<readonly ContainerId[]>;
  /**
   * Mounts an image read-only for an image volume under `rootfs/<id>/volumes/<index>`, idmapped for a user namespace;
   * `subPath` is resolved inside (openat2 RESOLVE_IN_ROOT). Returns the path to bind.
   */
  mountImageVolume(
    op: Op,
    id: ContainerId,
    index: number,
    layers: readonly ChainId[],
    options: ImageVolumeOptions,
  ): Promise<string>;
  /**
   * The same for an artifact: a directory with its files under their names, read-only; what names say beyond it (`..`,
   * `/`) is below it. With `subPath` only what is in that directory of names. In the directory files are empty: each is
   * to be mounted by itself, since not every runtime takes along what is mounted below a directory.
   * @throws InvalidArgument that quotes a name that no file can have, or two that exclude each other; NotFound if
   * nothing is at `subPath`.
   */
  mountFiles(
    op: Op,
    id: ContainerId,
    index: number,
    files: readonly ArtifactFile[],
    options: ImageVolumeOptions,
  ): Promise<FileVolume>;
  /**
   * Makes an empty directory of the container's own beside its root, destroyed with it: an anonymous volume. Returns
   * its path.
   */
  makeVolume(op: Op, id: ContainerId, index: number): Promise<string>;
  /** File-system facts of a container's root, resolved inside it, never through it. */
  inside(root: string): InsideRoot;
  /** Where upper directories and layers live: a real path on the file system that the kubelet watches. */
  readonly imageRoot: string;
  readonly containerRoot: string;
}

/** How the root of one container is mounted. */
export interface RootfsOptions {
  /** Overlay options by config (`metacopy=on`, `volatile`, …), validated by the driver. */
  readonly mountOptions: readonly string[];
  /** Size of the writable layer in bytes where the file system has project quotas; 0 = none. */
  readonly quotaBytes: bigint;
  /**
   * User namespace of the container: host id of container id 0 and the length; null = none. The lower layers are
   * mounted idmapped.
   */
  readonly idMap: IdMap | null;
  /** SELinux label of all that is in it; '' and default: the files' own. */
  readonly label?: string | undefined;
}

/** A directory to bind, and what to bind over the files in it. */
export interface FileVolume {
  readonly source: string;
  readonly files: readonly MountedFile[];
}

/** One file of a volume. */
export interface MountedFile {
  /** Relative to the volume, without `.`, `..` and links. */
  readonly place: string;
  readonly source: string;
}

/** Which part of an image a volume shows, and to whom it belongs. */
export interface ImageVolumeOptions {
  /** A directory of the image; '' = all of it. */
  readonly subPath: string;
  readonly idMap: IdMap | null;
  /** As for a root. */
  readonly label?: string | undefined;
}

/** The ids of a user namespace. An id that no entry holds belongs to nobody in it. */
export interface IdMap {
  readonly uids: readonly IdMapping[];
  readonly gids: readonly IdMapping[];
}

/** `size` ids from `containerId` on are the host's from `hostId` on (user_namespaces(7)). */
export interface IdMapping {
  readonly hostId: number;
  readonly containerId: number;
  readonly size: number;
}

/** Where a path of a root leads: absolute, without symlinks, `.` and `..`. */
export interface Landing {
  readonly path: string;
  /** A symlink on the way, or at its end, leads to something that is not there. */
  readonly dangles: boolean;
  /** All that the way leads through, symlinks and `path` included. */
  readonly places: readonly string[];
}

/**
 * Reads and makes things inside a root directory; symlinks resolve inside it and never lead out (openat2
 * RESOLVE_IN_ROOT).
 */
export interface InsideRoot {
  /**
   * At most `max` bytes of a regular file; undefined if absent, also behind a symlink that leads nowhere. @throws
   * FailedPrecondition for FIFOs, devices, larger files, loops of symlinks, and for a symlink on the way into /dev,
   * /proc or /sys: what the kernel mounts there may be without end (CVE-2026-47262). Never blocks.
   */
  readFile(path: string, max: number): Promise<Buffer | undefined>;
  /**
   * mkdir -p inside, also where symlinks on the way lead nowhere yet; existing directories keep owner and mode. The
   * directory's path without symlinks. @throws FailedPrecondition if something else is there, and for loops.
   */
  ensureDir(path: string, owner: { readonly uid: number; readonly gid: number }, mode: number): Promise<string>;
  /** Where each path leads, though it may not be there, in their order. @throws FailedPrecondition for loops. */
  landings(paths: readonly string[]): Promise<readonly Landing[]>;
  /** Makes a symlink if nothing is at `path`; parents must exist. Does not follow what is there (CVE-2024-5154). */
  symlinkIfAbsent(path: string, target: string): Promise<void>;
  /**
   * @throws FailedPrecondition if /dev, /proc or /sys is there and is no directory: runtimes mount over them and then
   * make files by their paths, which a symlink leads to the host (CVE-2026-41579).
   */
  checkKernelPlaces(): Promise<void>;
  /**
   * Copies the content of directory `from` inside the root to host directory `to` (VOLUME copy-up), owners and modes
   * kept; content if absent.
   */
  copyOut(from: string, to: string): Promise<void>;
}

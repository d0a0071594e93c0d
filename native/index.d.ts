/**
 * The typed surface of build/bin/addon.node. Only pkg/sys loads it; nobody else may name it.
 *
 * Every function of `Calls` exists twice: `name` runs on the addon's own threads (never on libuv's pool of four, which
 * a dead file system could fill) and returns a promise; `nameSync` runs at once on the calling thread. Both throw an
 * Error with `errno` (positive number) and `syscall`. The addon is context-aware: worker threads may load it too.
 *
 * Text is a string (UTF-8) or bytes taken literally (names in layers need not be UTF-8); a NUL inside is EINVAL.
 * File descriptors that come back are close-on-exec and belong to the caller.
 */
import type { Text } from '../pkg/ports/kernel.ts';

/**
 * What statx says: mode, uid, gid, size, nlink, ino, dev, rdev, mtime ns, ctime ns, 512-byte blocks, mount id, 1 if
 * root of a mount.
 */
export type RawStat = BigInt64Array;

/** Every function of the addon, as `nameSync` runs it. */
export interface Calls {
  // --- processes
  // -------------------------------------------------------------------------------------------------------
  /**
   * vfork semantics: no copy of the heap. `fds[i]` becomes descriptor i (-1 = /dev/null); everything else is closed.
   * `flags`: 1 = own process group, 2 = own session. Signals are unblocked and default. `cgroups`: the child writes
   * itself into each `<dir>/cgroup.procs` before it executes (one migration costs milliseconds; a launcher costs none).
   * `oomScoreAdj` outside -1000..1000 = leave; a refusal by the kernel is ignored. `launcher` = 0 or what openLauncher
   * gave. Returns pid, pidfd, start time in ticks since boot.
   */
  spawn(
    file: string,
    argv: readonly Text[],
    env: readonly Text[],
    cwd: string,
    fds: readonly number[],
    cgroups: readonly string[],
    flags: number,
    oomScoreAdj: number,
    launcher: number,
  ): BigInt64Array;
  /**
   * A thread that lives in these cgroups (v1: `tasks`; v2: CLONE_INTO_CGROUP), so that what it spawns is born there.
   */
  openLauncher(cgroups: readonly string[]): number;
  closeLauncher(launcher: number): void;
  pidfdOpen(pid: number): number;
  pidfdSignal(pidfd: number, signal: number): void;
  /** Reaps our own child: CLD_* code and status. EAGAIN while it runs, ECHILD if it is not ours. */
  pidfdReap(pidfd: number): BigInt64Array;
  /**
   * Pids of children of ours, of whichever thread, that have ended and were not reaped; undefined where some have, and
   * the kernel does not tell which (CONFIG_PROC_CHILDREN).
   */
  endedChildren(): BigInt64Array | undefined;
  setSubreaper(): void;
  /**
   * The nice value of the calling thread alone; not of threads and children that it makes. Only favourThreadSync makes
   * sense, and the other is not there.
   */
  favourThread(nice: number): void;
  /**
   * Makes namespaces (`net`, `ipc`, `uts`, `cgroup`) and pins `kinds[i]` by a bind mount at `paths[i]`, a file that is
   * not there yet: all or none. `lo` is up; hostname '' leaves the host's. Sysctls are names and values; the failed
   * call is called "sysctl" when one of them is refused.
   */
  pinNamespaces(
    kinds: readonly string[],
    paths: readonly string[],
    hostname: string,
    sysctlNames: readonly string[],
    sysctlValues: readonly string[],
  ): void;
  /**
   * Takes one system call that a seccomp profile tells `fd` of, answers it with ENOSYS, and says its name (`call 999`
   * for one that has none here). EAGAIN if there is none, EPIPE if none will come any more. Only refuseCallSync makes
   * sense, and the other is not there.
   */
  refuseCall(fd: number): Buffer;
  /**
   * A TCP socket of the namespace that connects, and may not have done so yet; `host` is a literal IPv4 or IPv6
   * address. Non-blocking.
   */
  connectInNetns(netns: string, host: string, port: number): number;
  /** To be asked when it is writable: throws why it is not connected, ETIMEDOUT if it still tries. */
  connectOutcome(fd: number): void;
  /**
   * Open descriptors of these processes together, and how many of them are sockets. One that is gone counts nothing.
   */
  countFds(pids: readonly number[]): BigInt64Array;
  /** A user namespace with these maps (triples inside, outside, count), held by the descriptor alone. */
  userNamespace(uidMap: readonly number[], gidMap: readonly number[]): number;

  /**
   * Deletes from the kernel's table of connections the UDP flows whose first packet went to `addresses[i]`, port
   * `ports[i]`; how many there were.
   */
  forgetUdp(addresses: readonly string[], ports: readonly number[]): number;

  // --- mounts
  // ----------------------------------------------------------------------------------------------------------
  /** fsopen, fsconfig, fsmount, move_mount; `options` are `key=value` or `flag`. `attributes` are MOUNT_ATTR_*. */
  mountFs(type: string, source: string, target: string, attributes: number, options: readonly string[]): void;
  /**
   * `lower` topmost first. `usernsFd` >= 0 mounts the lower layers idmapped by it. upper and work '' = read-only
   * overlay. `method` 0: the best this kernel has; 1: mount(2) in any case.
   */
  mountOverlay(
    lower: readonly string[],
    upper: string,
    work: string,
    target: string,
    attributes: number,
    options: readonly string[],
    usernsFd: number,
    method: number,
  ): void;
  /** open_tree + mount_setattr + move_mount. `propagation` is MS_* or 0. `usernsFd` as above. */
  mountBind(
    source: string,
    target: string,
    recursive: number,
    set: number,
    clear: number,
    propagation: number,
    usernsFd: number,
  ): void;
  /** umount2 without following a link at the end, until nothing is mounted there. How many mounts that were. */
  unmount(path: string, flags: number): number;

  // --- descriptors
  // -----------------------------------------------------------------------------------------------------
  pipe(): BigInt64Array;
  socketPair(type: number): BigInt64Array;
  /** Any path length (through /proc/self/fd). Waits for room in the backlog at most `timeoutMs`. */
  connectUnix(path: string, type: number, timeoutMs: number): number;
  listenUnix(path: string, type: number, mode: number): number;
  acceptUnix(fd: number): number;
  /** One descriptor by SCM_RIGHTS; EAGAIN if nothing is there yet, ENOMSG if the message carries none. */
  receiveFd(fd: number): number;
  /** Bytes, or -errno. */
  read(fd: number, buffer: Uint8Array, offset: number, length: number): number;
  /** Bytes, or -errno. Never raises SIGPIPE. */
  write(fd: number, buffer: Uint8Array, offset: number, length: number): number;
  shutdownWrite(fd: number): void;
  setWindowSize(fd: number, columns: number, rows: number): void;
  /** Exclusive, without waiting: EWOULDBLOCK if another holds it. */
  lock(fd: number): void;
  sendDatagram(path: Text, data: Uint8Array): void;
  inotify(path: string, mask: number): number;
  close(fd: number): void;
  /** Whole files, each at most `max` bytes (below 2 GiB): lengths (or -errno) and all bytes in one buffer. */
  readFiles(paths: readonly string[], max: number): readonly [Int32Array, Buffer];
  /**
   * As readFiles, for many small files of the kernel in few directories: `names[i]`, separated by line feeds, are those
   * in `directories[i]` as it looks in network namespace `netns[i]` ('' for one that looks the same in all). For files
   * of the kernel's seq_file only, with records of less than half a page: what comes in one short read is taken to be
   * all.
   */
  readKernelFiles(
    directories: readonly string[],
    names: readonly string[],
    netns: readonly string[],
    max: number,
  ): readonly [Int32Array, Buffer];
  /**
   * The same files, opened to be read again and again: descriptors (or -errno). One of /proc/thread-self/net keeps its
   * namespace alive.
   */
  openKernelFiles(directories: readonly string[], names: readonly string[], netns: readonly string[]): BigInt64Array;
  /** Each from its beginning, at most `max` bytes. What is negative is passed on as a length. */
  readOpenFiles(fds: Int32Array, max: number): readonly [Int32Array, Buffer];
  /** Negative ones are passed over. */
  closeAll(fds: Int32Array): void;

  // --- paths below a directory descriptor (openat2; `resolve` is RESOLVE_*)
  // ---------------------------------------------
  /** open(2) of a root directory for the calls below. */
  openRoot(path: string): number;
  openAt(root: number, path: Text, flags: number, mode: number, resolve: number): number;
  /**
   * A regular file of at most `max` bytes; undefined if absent; EFBIG if larger, EINVAL if not a regular file. Never
   * opens a device or a FIFO.
   */
  readFileAt(root: number, path: Text, max: number, resolve: number): Buffer | undefined;
  statAt(root: number, path: Text, resolve: number): RawStat | undefined;
  readLinkAt(root: number, path: Text, resolve: number): Buffer;
  /** Names separated by NUL, each preceded by one byte of type: d f l c b p s or ?. */
  listAt(root: number, path: Text, resolve: number): Buffer;
  /** Missing directories of `path`, each with mode and owner; those that exist stay as they are. */
  makeDirsAt(root: number, path: Text, mode: number, uid: number, gid: number, resolve: number): void;
  /**
   * One entry of a layer in one call: replaces what is there (a directory replaced by a directory is kept, its metadata
   * is set), makes missing parents (0755, root), then owner, mode, xattrs, times in this order. `kind` is S_IF* or 0
   * for a hard link; `content`: the file's bytes, the symlink's target, or the hard link's path under root; `device`
   * [major, minor]; `xattrs` name, value, name, value, …. `seconds`/`nanoseconds` mtime.
   */
  writeEntry(
    root: number,
    path: Text,
    resolve: number,
    kind: number,
    mode: number,
    uid: number,
    gid: number,
    seconds: number,
    nanoseconds: number,
    content: Text,
    device: readonly number[],
    xattrs: readonly Text[],
  ): void;
  /**
   * As writeEntry for a regular file whose bytes come later: returns it open for writing. finishEntry sets the
   * metadata.
   */
  beginFile(root: number, path: Text, resolve: number): number;
  finishEntry(
    fd: number,
    mode: number,
    uid: number,
    gid: number,
    seconds: number,
    nanoseconds: number,
    xattrs: readonly Text[],
  ): void;
  linkAt(root: number, from: Text, to: Text, resolve: number): void;
  symlinkAt(root: number, path: Text, target: Text, resolve: number): void;
  mknodAt(root: number, path: Text, mode: number, major: number, minor: number, resolve: number): void;
  renameAt(root: number, from: Text, to: Text, flags: number, resolve: number): void;
  /** A file or an empty directory. 0 if nothing was there. */
  unlinkAt(root: number, path: Text, resolve: number): number;
  /** Everything at and below `path`, never through a link, never across a mount (EXDEV). 0 if nothing was there. */
  removeTreeAt(root: number, path: Text, resolve: number): number;
  chownAt(root: number, path: Text, uid: number, gid: number, resolve: number): void;
  chmodAt(root: number, path: Text, mode: number, resolve: number): void;
  utimesAt(root: number, path: Text, seconds: number, nanoseconds: number, resolve: number): void;
  setXattrAt(root: number, path: Text, name: Text, value: Uint8Array, resolve: number): void;
  /** undefined if the object has no such attribute. */
  getXattrAt(root: number, path: Text, name: Text, resolve: number): Buffer | undefined;
  /** NUL-terminated names. */
  listXattrAt(root: number, path: Text, resolve: number): Buffer;
  removeXattrAt(root: number, path: Text, name: Text, resolve: number): void;
  /**
   * Copies what is below directory `from` of one root into directory `to` of another: owners, modes, times, xattrs,
   * symlinks, holes. Each name of a file becomes a file of its own; devices, sockets and FIFOs are left out. EFBIG
   * beyond `max` bytes of data.
   */
  copyTree(fromRoot: number, from: Text, toRoot: number, to: Text, max: number, resolve: number): void;
  /** Disk usage of a tree without crossing mounts, hard links counted once: bytes, inodes. */
  treeUsage(path: string): BigInt64Array;
  /** Where a descriptor points, as /proc/self/fd says. */
  fdPath(fd: number): Buffer;
  syncFs(path: string): void;
  /** FS_TOPDIR_FL. 1 if the directory has it now, 0 if its file system knows no such thing. */
  spreadDirectories(path: string): number;
  /** f_type, f_bsize, f_blocks, f_bfree, f_bavail, f_files, f_ffree. */
  statFs(path: string): BigInt64Array;
  /**
   * A host path with links followed: stat and real path. `make` = 1: missing directories are made (0755). undefined if
   * absent.
   */
  probe(path: string, make: number): readonly [RawStat, Buffer] | undefined;
  /**
   * Device nodes at and below a directory: per node 6 numbers (type S_IF*, major, minor, permissions, uid, gid) and
   * NUL-terminated paths.
   */
  devices(path: string): readonly [BigInt64Array, Buffer];
}

/** An open registration with the event loop. */
export type Watch = { readonly watch: unique symbol };

/** The addon: each call on threads of its own by its name, and at once on the calling thread with `Sync` behind it. */
export type Addon = { readonly [K in keyof Calls as `${K}Sync`]: Calls[K] } & {
  readonly [K in keyof Calls]: (...args: Parameters<Calls[K]>) => Promise<ReturnType<Calls[K]>>;
} & {
  /**
   * Calls back with 1 (readable), 2 (writable), 3, or -errno while armed. Makes the descriptor non-blocking. EPERM for
   * regular files.
   */
  watch(fd: number, onEvent: (events: number) => void): Watch;
  /** 1 = readable, 2 = writable, 0 = nothing; an armed watch keeps the event loop alive. */
  arm(watch: Watch, events: number): void;
  /** Stops for good; the descriptor stays open and is the caller's. May be called again. */
  unwatch(watch: Watch): void;
};

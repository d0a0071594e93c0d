/**
 * The gate to the kernel. Only this module loads the addon; only this module starts processes. The rest of the product
 * imports this file and nothing behind it.
 *
 *   spawn.ts    processes of our own: descriptor map, cgroups, pidfd, bounded capture
 *   fd.ts       pipes, unix sockets, terminals, inotify, locks, sd_notify
 *   mount.ts    overlay, bind, tmpfs, unmount, mountinfo
 *   root.ts     a directory that paths cannot leave (openat2)
 *   process.ts  processes of others, namespaces for a moment, host paths, facts about the node
 *   net.ts      routes, addresses and UDP flows of the node
 *   tree.ts     children that came to us by themselves, and whole process trees
 *   cgroup.ts   hierarchies, paths, make, kill, remove, read
 *   kept-files.ts  kernel files that are read again and again
 *   addon.ts    the native surface, errno → RuntimeError
 */
export { errnoBehind, systemError } from './addon.ts';
export {
  capture,
  exitCodeOf,
  findExecutable,
  inheritedEnv,
  openLauncher,
  spawn,
  type Captured,
  type CaptureRequest,
  type Child,
  type Ending,
  type Launcher,
  type SpawnRequest,
} from './spawn.ts';
export {
  closeFd,
  connectUnix,
  listenConsole,
  listenUnix,
  lockFile,
  notifyServiceManager,
  openStream,
  pipe,
  setWindowSize,
  socketPair,
  watchDirectory,
  type ConsoleSocket,
  type DirectoryEvent,
  type DirectoryWatch,
  type FdStream,
  type FileLock,
  type SocketType,
  type UnixListener,
} from './fd.ts';
export {
  changeMount,
  isAtOrBelow,
  isMountPoint,
  mountBind,
  mountById,
  mountFs,
  mountOf,
  mountOverlay,
  openUserNamespace,
  parseMountinfo,
  propagationOf,
  readMountinfo,
  splitMountOptions,
  unmount,
  unmountTree,
  type BindRequest,
  type IdMaps,
  type MountAttribute,
  type MountChange,
  type MountEntry,
  type OverlayRequest,
  type Propagation,
} from './mount.ts';
export {
  Root,
  spreadDirectories,
  statFileSystem,
  syncFileSystem,
  treeUsage,
  type Entry,
  type EntryMeta,
  type FileKind,
  type FileSystemStat,
  type ListedName,
  type Resolution,
  type Stat,
  type Text,
} from './root.ts';
export { INFLATED_BLOCK_BYTES, Inflater, readInflated } from './inflater.ts';
export {
  becomeSubreaper,
  connectInNetns,
  countFds,
  favourEventLoop,
  heedsSignal,
  isAlive,
  listDevices,
  nodeFacts,
  pinNamespaces,
  probePath,
  processRef,
  signalProcess,
  waitGone,
  type DeviceNode,
  type ProbedPath,
} from './process.ts';
export { deviceTo, forgetUdp, localAddresses, routesLocalnet, setRouteLocalnet } from './net.ts';
export { type FileGroup, KeptFiles } from './kept-files.ts';
export { claimOrphan, filesOfProcesses, killByEnvironment, killTree, type OrphanClaim, reapOrphans } from './tree.ts';
export {
  cgroupDirectory,
  cgroupPathOf,
  cgroupProcesses,
  checkCgroupPath,
  createCgroup,
  destroyCgroup,
  hierarchyOf,
  parsePids,
  parseProcCgroup,
  readCgroupLayoutSync,
  readFiles,
  readSmallFile,
  readKernelFiles,
  slicePath,
  type CgroupHierarchy,
  type CgroupLayout,
  type CgroupMode,
  type FilesIn,
  type KernelFiles,
} from './cgroup.ts';

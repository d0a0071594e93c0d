/**
 * The gate to the kernel. Only this module loads the addon; only this module starts processes. The rest of the product
 * imports this file and nothing behind it, by nouns: `mounts.overlay(…)`, `cgroups.destroy(…)`. The values that go
 * through it are types of pkg/ports/kernel.ts.
 */
/** System calls that a seccomp profile tells of. */
export { refuseCalls } from './blocked-calls.ts';
/** Hierarchies and paths of control groups; making, killing and removing them. */
export * as cgroups from './cgroups.ts';
/** Pipes, and streams over any descriptor. */
export * as descriptors from './descriptors.ts';
/** Sizes, kinds, syncs of file systems. */
export * as fileSystems from './file-systems.ts';
/** Overlay, bind, tmpfs, unmount, mountinfo. */
export * as mounts from './mounts.ts';
/** Namespaces pinned, entered for a moment, or made for their id maps. */
export * as namespaces from './namespaces.ts';
/** Routes, addresses and UDP flows of the node. */
export * as network from './network.ts';
/** Children that came to us by themselves. */
export * as orphans from './orphans.ts';
/** Processes of others, by pid and start. */
export * as processes from './processes.ts';
/** Unix sockets, terminals that come by them, the service manager's. */
export * as sockets from './sockets.ts';
/** The service manager: scopes, slices, properties of units. */
export * as systemd from './systemd.ts';
/** A directory that paths cannot leave (openat2). */
export { Root } from './root.ts';
export { capture } from './capture.ts';
export { exitCodeOf, findExecutable, inheritedEnv, openLauncher, spawn } from './spawn.ts';
export { killByEnvironment, killTree } from './process-tree.ts';
export { favourEventLoop, nodeFacts } from './node.ts';
export { listDevices, probePath } from './host-paths.ts';
export { readFiles, readKernelFiles, readSmallFile } from './kernel-files.ts';
export { KeptFiles } from './kept-files.ts';
export { watchDirectory } from './watch.ts';
export { lockFile } from './lock.ts';
export { errnoBehind, systemError } from './addon.ts';

/** File systems as a whole, and trees of the host that are ours. */
import type { FileSystemStat } from '../ports/kernel.ts';
import { attemptAsync } from './addon.ts';

/** Disk space and inodes of a host tree, mounts not entered, hard links counted once. */
export async function usage(path: string): Promise<{ readonly usedBytes: bigint; readonly inodesUsed: bigint }> {
  const [usedBytes = 0n, inodesUsed = 0n] = await attemptAsync(`measure ${path}`, (native) => native.treeUsage(path));
  return { usedBytes, inodesUsed };
}

/** Everything written to the file system of `path` is on disk when it resolves (syncfs). */
export function sync(path: string): Promise<void> {
  return attemptAsync(`sync ${path}`, (native) => native.syncFs(path));
}

/**
 * Asks the file system to keep what is made below each directory in `path` apart from what is made below the others
 * (`chattr +T`, in ext4 the hint of the Orlov allocator: each gets block groups of its own). False where there is no
 * such hint: then nothing changes.
 */
export async function spreadDirectories(path: string): Promise<boolean> {
  return (await attemptAsync(`spread the directories of ${path}`, (native) => native.spreadDirectories(path))) === 1;
}

/** Size and kind of the file system at `path`. */
export async function stat(path: string): Promise<FileSystemStat> {
  const [type = 0n, block = 0n, blocks = 0n, free = 0n, available = 0n, inodes = 0n, inodesFree = 0n] =
    await attemptAsync(`statfs ${path}`, (native) => native.statFs(path));
  return {
    type: Number(type),
    blockBytes: block,
    totalBytes: blocks * block,
    freeBytes: free * block,
    availableBytes: available * block,
    inodes,
    inodesFree,
  };
}

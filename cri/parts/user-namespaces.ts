/** Whether pods can have user namespaces on this node. */
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { replaceFile } from '../../pkg/base/files.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { whyImpassable } from '../settings.ts';

/**
 * Undefined if pods can have user namespaces on this node. That an overlay with mapped ids could be mounted is
 * remembered until the next boot: to undo the attempt takes the kernel long.
 */
export async function whyNoUserNamespaces({ storage }: Config, rootfs: OverlayRootfs): Promise<string | undefined> {
  const impassable = (await whyImpassable(storage.root)) ?? (await whyImpassable(storage.runroot));
  if (impassable !== undefined) return impassable;
  const file = join(storage.runroot, 'userns');
  const circumstances = await circumstancesOf(storage.root);
  if (circumstances !== undefined && (await readFile(file, 'utf8').catch(() => '')) === circumstances) return undefined;
  const why = await rootfs.whyNoUserNamespaces();
  // What did not work may work at the next start.
  if (why === undefined && circumstances !== undefined)
    await replaceFile(file, circumstances, 'memory').catch(() => {});
  return why;
}

/** What the answer depends on: boot, file system, and how many user namespaces there may be. */
async function circumstancesOf(root: string): Promise<string | undefined> {
  try {
    const [boot, max, { dev }] = await Promise.all([
      readFile('/proc/sys/kernel/random/boot_id', 'utf8'),
      readFile('/proc/sys/user/max_user_namespaces', 'utf8'),
      stat(root),
    ]);
    return `${boot}${max}${dev}`;
  } catch {
    return undefined;
  }
}

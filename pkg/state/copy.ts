/** Copies of directories in which no link is left, for whoever cannot follow links of the host. */
import { chmod, chown, copyFile, mkdir, readdir, realpath, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';

/** What a copy has come to. */
interface Tally {
  entries: number;
  bytes: number;
}

/**
 * True if a link is somewhere in the directory. @throws ResourceExhausted beyond `limits.defaultMountEntriesCount`.
 */
export async function hasLinks(directory: string): Promise<boolean> {
  const tally = { entries: 0, bytes: 0 };
  const look = async (path: string): Promise<boolean> => {
    for (const entry of await readdir(path, { withFileTypes: true })) {
      count(directory, tally, 0);
      if (entry.isSymbolicLink()) return true;
      if (entry.isDirectory() && (await look(join(path, entry.name)))) return true;
    }
    return false;
  };
  return await look(directory);
}

/**
 * Copies the directory to `target`, which must not be there, with what links in it lead to in their place. Modes are
 * kept, owners are `owner`, host ids. Left out: links that lead nowhere or to where they are, and what is neither a
 * file nor a directory.
 * @throws ResourceExhausted beyond `limits.defaultMountBytes` or `limits.defaultMountEntriesCount`.
 */
export async function copyFollowed(
  directory: string,
  target: string,
  owner: { readonly uid: number; readonly gid: number },
): Promise<void> {
  const tally = { entries: 0, bytes: 0 };
  /** `above`: the directories that this one is in. */
  const copy = async (from: string, to: string, above: readonly string[]): Promise<void> => {
    const found = await stat(from).catch((error: unknown) => {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ELOOP') return undefined;
      throw error;
    });
    count(directory, tally, found?.isFile() === true ? found.size : 0);
    if (found?.isFile() === true) await copyFile(from, to);
    else if (found?.isDirectory() === true) {
      const real = await realpath(from);
      if (above.includes(real)) return;
      await mkdir(to, 0o700);
      for (const name of await readdir(from)) await copy(join(from, name), join(to, name), [...above, real]);
    } else return;
    await chown(to, owner.uid, owner.gid);
    await chmod(to, found.mode & 0o777);
  };
  await copy(directory, target, []);
}

function count(directory: string, tally: Tally, bytes: number): void {
  tally.entries++;
  tally.bytes += bytes;
  if (tally.entries > limits.defaultMountEntriesCount || tally.bytes > limits.defaultMountBytes)
    throw new RuntimeError(
      'ResourceExhausted',
      `${quote(directory)} has more than ${limits.defaultMountEntriesCount} entries or ` +
        `${limits.defaultMountBytes} bytes`,
    );
}

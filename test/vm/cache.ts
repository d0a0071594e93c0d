/**
 * The place that virtual machines are built in and kept in between runs: packages, root filesystems, kernels, disks.
 * Nothing of it is the project's, and all of it can be deleted at any time.
 */
import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export const CACHE = process.env['BERTH_VM_CACHE'] ?? '/var/cache/berth-vm';

/** What makes a virtual machine impossible here; no fault of what is tested. */
export class CannotHave extends Error {}

/**
 * `name` below the cache, made by `make` if it is not there as `recipe` says: complete or absent, since `make` is given
 * another name, which becomes the right one at the end. What was made by another recipe is deleted first.
 */
export async function made(
  name: string,
  recipe: readonly unknown[],
  make: (draft: string) => void | Promise<void>,
): Promise<string> {
  const place = join(CACHE, name);
  const stamp = `${place}.recipe`;
  const wanted = digest(JSON.stringify(recipe));
  if (existsSync(place) && existsSync(stamp) && readFileSync(stamp, 'utf8') === wanted) return place;
  say(`making ${name}`);
  mkdirSync(dirname(place), { recursive: true });
  const draft = `${place}.new`;
  for (const each of [stamp, place, draft]) rmSync(each, { recursive: true, force: true });
  await make(draft);
  renameSync(draft, place);
  writeFileSync(stamp, wanted);
  return place;
}

/** What the files below `directory` hold, so that a recipe changes with them. */
export function contentOf(directory: string): string {
  const files = globSync('**/*', { cwd: directory }).filter((name) => statSync(join(directory, name)).isFile());
  return digest(
    files
      .sort()
      .map((name) => `${name} ${digest(readFileSync(join(directory, name)))}\n`)
      .join(''),
  );
}

function digest(text: string | Uint8Array): string {
  return createHash('sha256').update(text).digest('hex');
}

export function say(text: string): void {
  console.log(`vm: ${text}`);
}

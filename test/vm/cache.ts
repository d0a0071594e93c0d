/**
 * The place that virtual machines are built in and kept in between runs: packages, root filesystems, kernels, disks.
 * Nothing of it is the project's, and all of it can be deleted at any time.
 */
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { createHash } from 'node:crypto';
import { existsSync, globSync, mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';

export const CACHE = process.env['BERTH_VM_CACHE'] ?? '/var/cache/berth-vm';

/** What makes a virtual machine impossible here; no fault of what is tested. */
export class CannotHave extends Error {}

/**
 * Runs `act` while nobody else does who uses the cache: it holds one machine at a time, and what it is made of. Others
 * wait, and whoever is killed lets go.
 */
export async function alone<T>(act: () => Promise<T>): Promise<T> {
  mkdirSync(CACHE, { recursive: true });
  const lock = join(CACHE, 'lock');
  if (spawnSync('flock', ['--nonblock', lock, 'true']).status !== 0)
    say(`somebody else uses ${CACHE}; waiting until they are done`);
  // It holds the lock until its input ends, which it does with this process at the latest.
  const holder = spawn('flock', [lock, 'sh', '-c', 'echo held; exec cat'], { stdio: ['pipe', 'pipe', 'inherit'] });
  try {
    await once(holder.stdout, 'data');
    return await act();
  } finally {
    const ended = once(holder, 'exit');
    holder.stdin.end();
    await ended;
  }
}

/**
 * `name` below the cache, made by `make` if it is not there as `recipe` says: complete or absent, since `make` is given
 * another name, which becomes the right one at the end. What was made by another recipe is deleted first. Whoever calls
 * this has the cache `alone`.
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

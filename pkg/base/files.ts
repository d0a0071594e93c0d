/** Small files, safely: replaced whole by rename, read with a bound, directories read in order. */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { lstat, mkdir, open, readdir, rename, rm } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, RuntimeError } from './errors.ts';

/**
 * What replaceFile promises about power cuts: `durable` data and name are on disk on return, `volatile` none. `memory`
 * is volatile, and for our own files on tmpfs: done on the spot, in microseconds, where libuv's pool would take ten
 * changes of threads, each of which waits its turn on a busy node.
 */
export type Durability = 'memory' | 'volatile' | 'durable';

/**
 * Writes `data` under a temporary name beside `path` and renames it there: a reader sees the old file or the
 * new one, never a part. Mode is 0600 unless given.
 */
export async function replaceFile(
  path: string,
  data: string | Uint8Array,
  durability: Durability,
  mode = 0o600,
): Promise<void> {
  const temporary = `${path}.tmp-${randomBytes(6).toString('hex')}`;
  if (durability === 'memory') return replaceInMemory(path, temporary, data, mode);
  const file = await open(temporary, 'wx', mode);
  try {
    await file.writeFile(data);
    if (durability === 'durable') await file.sync();
    await file.close();
    await rename(temporary, path);
  } catch (error) {
    await file.close().catch(() => {});
    await rm(temporary, { force: true });
    throw error;
  }
  if (durability === 'durable') await syncDirectory(dirname(path));
}

function replaceInMemory(path: string, temporary: string, data: string | Uint8Array, mode: number): void {
  try {
    writeFileSync(temporary, data, { flag: 'wx', mode });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw error;
  }
}

/** True for the names that replaceFile leaves behind when the daemon dies in it. */
export function isTemporaryName(name: string): boolean {
  return /\.tmp-[0-9a-f]{12}$/.test(name);
}

/** fsync of a directory: the names in it are on disk on return. */
export async function syncDirectory(path: string): Promise<void> {
  const directory = await open(path, 'r');
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

/**
 * The bytes of a regular file of at most `max` bytes. @throws FailedPrecondition if larger or not a regular file;
 * ENOENT passes through.
 */
export async function readBounded(path: string, max: number): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const stat = await file.stat();
    if (!stat.isFile()) throw new RuntimeError('FailedPrecondition', `${path} is not a regular file`);
    const parts: Buffer[] = [];
    let total = 0;
    for (;;) {
      const part = Buffer.allocUnsafe(Math.min(65_536, max + 1 - total));
      const { bytesRead } = await file.read(part, 0, part.length, null);
      if (bytesRead === 0) break;
      parts.push(part.subarray(0, bytesRead));
      total += bytesRead;
      if (total > max) throw new RuntimeError('FailedPrecondition', `${path} is larger than ${max} bytes`);
    }
    return Buffer.concat(parts);
  } finally {
    await file.close();
  }
}

/** As readBounded, on the spot: for our own files on tmpfs, see Durability. */
export function readInMemory(path: string, max: number): Buffer {
  const file = openSync(path, 'r');
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw new RuntimeError('FailedPrecondition', `${path} is not a regular file`);
    if (stat.size > max) throw new RuntimeError('FailedPrecondition', `${path} is larger than ${max} bytes`);
    const bytes = Buffer.allocUnsafe(stat.size);
    return bytes.subarray(0, readSync(file, bytes, 0, bytes.length, 0));
  } finally {
    closeSync(file);
  }
}

/** As ensureDir, on the spot: for our own directories on tmpfs. */
export function ensureDirInMemory(path: string, mode = 0o700): void {
  mkdirSync(path, { recursive: true, mode });
}

/** Parsed JSON of a file of at most `max` bytes. @throws FailedPrecondition that names the file when it is not JSON. */
export async function readJson(path: string, max: number): Promise<unknown> {
  const bytes = await readBounded(path, max);
  try {
    return JSON.parse(bytes.toString('utf8')) as unknown;
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `${path} is not valid JSON`, { cause });
  }
}

/** As removeFile, on the spot: for our own files on tmpfs. */
export function removeInMemory(path: string): void {
  rmSync(path, { force: true });
}

/** As readDirSorted, on the spot: for our own directories on tmpfs. */
export function listInMemory(path: string): string[] {
  try {
    return readdirSync(path).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Names in a directory, sorted; an absent directory has none. */
export async function readDirSorted(path: string): Promise<string[]> {
  try {
    return (await readdir(path)).sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** mkdir -p; 0700 unless given: our own directories are nobody else's business (CVE-2024-25621). */
export async function ensureDir(path: string, mode = 0o700): Promise<void> {
  try {
    await mkdir(path, { recursive: true, mode });
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
    // What Node says of a read-only disk; a plain mkdir tells the reason.
    await mkdir(path, { mode });
  }
}

/**
 * mkdir -p of the relative path `below` in `base`, whose own links are followed and nobody else's: whoever may write
 * there must not lead us elsewhere.
 * @throws FailedPrecondition naming what is there and is no directory.
 */
export async function ensureDirBelow(base: string, below: string, mode: number): Promise<void> {
  const parts = below.split('/').filter((part) => part !== '' && part !== '.');
  if (parts.length === 0) return await ensureDir(base, mode);
  let path = base;
  for (const part of parts) {
    path = join(path, part);
    await makeDir(path, base, mode);
    if (!(await lstat(path)).isDirectory())
      throw new RuntimeError('FailedPrecondition', `${path} is no directory (a link is not followed); remove it`);
  }
}

async function makeDir(path: string, base: string, mode: number): Promise<void> {
  try {
    await mkdir(path, { mode });
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    if (errnoOf(error) !== 'ENOENT') throw error;
    await ensureDir(base, mode);
    await mkdir(path, { mode });
  }
}

/** Removes one file; content if it is not there. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
}

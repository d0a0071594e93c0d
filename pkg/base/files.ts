/**
 * Small files, safely: replaced whole by rename, read with a bound, directories read in order. What a request, an image
 * or a configuration may name is opened here, by openRegular: nothing that is no file is waited for or disturbed.
 */
import { randomBytes } from 'node:crypto';
import {
  closeSync,
  constants,
  fstatSync,
  mkdirSync,
  openSync,
  readdirSync,
  readSync,
  statSync,
  renameSync,
  rmdirSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { type FileHandle, lstat, mkdir, open, readdir, rename, rm, stat, symlink } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { errnoOf, RuntimeError } from './errors.ts';
import { parseJson } from './json.ts';

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
  const temporary = temporaryBeside(path);
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
    removeInMemory(temporary);
    throw error;
  }
}

/** This process' part of temporary names: random, since what a daemon before it has left may be there still. */
const OWN_NAMES = randomBytes(4).toString('hex');
/** How many it has given: to ask for random bytes for each costs more than to write a small file in memory. */
let namesCount = 0;

function temporaryBeside(path: string): string {
  namesCount = (namesCount + 1) & 0xffff;
  return `${path}.tmp-${OWN_NAMES}${namesCount.toString(16).padStart(4, '0')}`;
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

/** A look at a file that opens nothing (open(2)): a FIFO waits for nobody, a device or a socket hears nothing of it. */
const O_PATH = 0o10000000;
/** For what is a file: some of the kernel's wait for something to say. */
const READ = constants.O_RDONLY | constants.O_NONBLOCK | constants.O_NOCTTY;

/**
 * Opens a regular file for reading, links followed; whatever else is at `path` is not touched. The caller closes.
 * @throws FailedPrecondition if it is no regular file; ENOENT and the like pass through.
 */
export async function openRegular(path: string): Promise<FileHandle> {
  const look = await open(path, O_PATH);
  try {
    if (!(await look.stat()).isFile()) throw notRegular(path);
    return await open(`/proc/self/fd/${look.fd}`, READ);
  } finally {
    await look.close();
  }
}

function notRegular(path: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', `${path} is not a regular file`);
}

function tooLarge(path: string, max: number): RuntimeError {
  return new RuntimeError('FailedPrecondition', `${path} is larger than ${max} bytes`);
}

/**
 * The bytes of a regular file of at most `max` bytes, as many as it had when it was opened: what the kernel makes up
 * while it is read (/proc/kmsg waits, and takes away what it gives) has none. @throws FailedPrecondition if larger or
 * not a regular file; ENOENT passes through.
 */
export async function readBounded(path: string, max: number): Promise<Buffer> {
  const file = await openRegular(path);
  try {
    const { size } = await file.stat();
    if (size > max) throw tooLarge(path, max);
    const bytes = Buffer.allocUnsafe(size);
    for (let at = 0; ; ) {
      const { bytesRead } = at < size ? await file.read(bytes, at, size - at, at) : { bytesRead: 0 };
      if (bytesRead === 0) return bytes.subarray(0, at);
      at += bytesRead;
    }
  } finally {
    await file.close();
  }
}

/** As readBounded, on the spot: for our own files on tmpfs, see Durability. */
export function readInMemory(path: string, max: number): Buffer {
  const look = openSync(path, O_PATH);
  let file = -1;
  try {
    const stat = fstatSync(look);
    if (!stat.isFile()) throw notRegular(path);
    if (stat.size > max) throw tooLarge(path, max);
    file = openSync(`/proc/self/fd/${look}`, READ);
    const bytes = Buffer.allocUnsafe(stat.size);
    return bytes.subarray(0, readSync(file, bytes, 0, bytes.length, 0));
  } finally {
    if (file >= 0) closeSync(file);
    closeSync(look);
  }
}

/** As ensureDir, on the spot: for directories on tmpfs and the like, or before anything is served. */
export function ensureDirInMemory(path: string, mode = 0o700): void {
  if (isMadeOrThere(path, mode)) return;
  ensureDirInMemory(dirname(path), mode);
  if (!isMadeOrThere(path, mode)) mkdirSync(path, { mode });
}

/** False if its parent is not there. @throws what else is wrong. */
function isMadeOrThere(path: string, mode: number): boolean {
  try {
    mkdirSync(path, { mode });
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST' && statSync(path).isDirectory()) return true;
    if (errnoOf(error) === 'ENOENT' && dirname(path) !== path) return false;
    throw error;
  }
}

/** Parsed JSON of a file of at most `max` bytes. @throws FailedPrecondition that names the file when it is not JSON. */
export async function readJson(path: string, max: number): Promise<unknown> {
  const bytes = await readBounded(path, max);
  try {
    return parseJson(bytes.toString('utf8'));
  } catch (cause) {
    throw new RuntimeError('FailedPrecondition', `${path} is not valid JSON`, { cause });
  }
}

/** As removeFile, on the spot: for our own files on tmpfs. */
export function removeInMemory(path: string): void {
  try {
    unlinkSync(path);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') throw error;
  }
}

/** Removes a directory of ours if nothing is in it, after a failure that says more than this one could. */
export function removeEmptyDirInMemory(path: string): void {
  try {
    rmdirSync(path);
  } catch {
    // Not there, or with something in it.
  }
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

/**
 * mkdir -p; 0700 unless given: our own directories are nobody else's business (CVE-2024-25621). Step by step: Node's
 * own tries for ever where a file system says ENOENT although the parent is there, as procfs does, and a request may
 * name such a place.
 */
export async function ensureDir(path: string, mode = 0o700): Promise<void> {
  if (await madeOrThere(path, mode)) return;
  await ensureDir(dirname(path), mode);
  if (!(await madeOrThere(path, mode))) await mkdir(path, { mode });
}

/** As isMadeOrThere. */
async function madeOrThere(path: string, mode: number): Promise<boolean> {
  try {
    await mkdir(path, { mode });
    return true;
  } catch (error) {
    if (errnoOf(error) === 'EEXIST' && (await stat(path)).isDirectory()) return true;
    if (errnoOf(error) === 'ENOENT' && dirname(path) !== path) return false;
    throw error;
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

/** A symlink at `path`; whatever is there already stays. */
export async function ensureLink(path: string, target: string): Promise<void> {
  try {
    await symlink(target, path);
  } catch (error) {
    if (errnoOf(error) !== 'EEXIST') throw error;
  }
}

/** Removes one file; content if it is not there. */
export async function removeFile(path: string): Promise<void> {
  await rm(path, { force: true });
}

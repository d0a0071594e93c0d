/**
 * What is inside a container's root: InsideRoot on a descriptor of the root, opened anew for each question since roots
 * come and go.
 */
import { constants } from 'node:fs';
import { isCode, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { Root, descriptors, errnoBehind } from '../sys/index.ts';
import { linkedPath } from './layer-writer.ts';
import type { InsideRoot } from '../ports/rootfs.ts';

/** Answers about `root`, a host path that we chose ourselves. */
export function insideRoot(root: string): InsideRoot {
  return {
    readFile: (path, max) => within(root, (inside) => readFile(inside, path, max)),
    ensureDir: (path, owner, mode) => within(root, (inside) => inside.makeDirsAsync(path, mode, owner)),
    ensureFile: (path) => within(root, (inside) => ensureFile(inside, path, limits.symlinkDepth)),
    resolve: (path) => within(root, (inside) => resolve(inside, path)),
    symlinkIfAbsent: (path, target) => within(root, (inside) => symlinkIfAbsent(inside, path, target)),
    checkKernelPlaces: () => within(root, checkKernelPlaces),
    copyOut: (from, to) => within(root, (inside) => copyOut(inside, from, to)),
  };
}

async function within<T>(path: string, work: (inside: Root) => T | Promise<T>): Promise<T> {
  using inside = Root.open(path, 'chroot');
  return await work(inside);
}

/** Where the container will see something else than what lies here. */
const KERNEL_PLACE = /^\/(dev|proc|sys)(\/|$)/;

/**
 * Whoever reads the same path in the running container finds what a symlink leads to there: runc reads /etc/group
 * itself, and one that led to /dev/zero made it eat the node's memory.
 */
function checkLinks(inside: Root, path: string): void {
  const parts = path.split('/').filter((part) => part !== '');
  for (let count = 1; count <= parts.length; count++) {
    const prefix = `/${parts.slice(0, count).join('/')}`;
    if (inside.stat(prefix)?.kind !== 'symlink') continue;
    const found = inside.resolve(prefix);
    if (found === undefined)
      throw new RuntimeError('FailedPrecondition', `${quote(prefix)} in the image is a symlink that leads nowhere`);
    if (KERNEL_PLACE.test(found.path))
      throw new RuntimeError(
        'FailedPrecondition',
        `${quote(prefix)} in the image is a symlink to ${quote(found.path)}, which the kernel provides`,
      );
  }
}

function checkKernelPlaces(inside: Root): void {
  for (const path of ['/dev', '/proc', '/sys']) {
    const found = inside.stat(path);
    if (found !== undefined && found.kind !== 'directory') {
      throw new RuntimeError(
        'FailedPrecondition',
        `${path} in the image is a ${found.kind}, where the kernel's own files are to be mounted; ` +
          'use an image in which it is a directory, or is not there (CVE-2026-41579)',
      );
    }
  }
}

async function readFile(inside: Root, path: string, max: number): Promise<Buffer | undefined> {
  checkLinks(inside, path);
  try {
    return await inside.readFile(path, max);
  } catch (cause) {
    const errno = errnoBehind(cause);
    if (errno === 'EFBIG')
      throw new RuntimeError('FailedPrecondition', `${quote(path)} in the image is larger than ${max} bytes`, {
        cause,
      });
    if (errno === 'EINVAL')
      throw new RuntimeError('FailedPrecondition', `${quote(path)} in the image is not a regular file`, { cause });
    throw cause;
  }
}

function resolve(inside: Root, path: string): Awaited<ReturnType<InsideRoot['resolve']>> {
  const found = inside.resolve(path);
  if (found === undefined) return undefined;
  return { path: found.path, kind: found.kind === 'file' || found.kind === 'directory' ? found.kind : 'other' };
}

/** A symlink at the end may lead to a file that is not there yet, in a directory that is not there yet. */
function ensureFile(inside: Root, path: string, linksLeft: number): void {
  const found = inside.resolve(path);
  if (found?.kind === 'directory')
    throw new RuntimeError('FailedPrecondition', `${quote(path)} in the image is a directory where a file is needed`);
  if (found !== undefined) return;
  const clean = path
    .split('/')
    .filter((part) => part !== '' && part !== '.')
    .join('/');
  const slash = clean.lastIndexOf('/');
  if (slash > 0) inside.makeDirs(clean.slice(0, slash));
  if (inside.stat(clean)?.kind === 'symlink') {
    if (linksLeft === 0)
      throw new RuntimeError('FailedPrecondition', `${quote(path)} in the image is a symlink that leads nowhere`);
    return ensureFile(inside, linkedPath(clean, inside.readLink(clean).toString()), linksLeft - 1);
  }
  descriptors.close(
    inside.openFile(clean, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL | constants.O_NOFOLLOW, 0o644),
  );
}

async function symlinkIfAbsent(inside: Root, path: string, target: string): Promise<void> {
  try {
    await inside.symlink(path, target);
  } catch (error) {
    if (!isCode(error, 'AlreadyExists')) throw error;
  }
}

async function copyOut(inside: Root, from: string, to: string): Promise<void> {
  const found = inside.resolve(from);
  if (found?.kind !== 'directory') return;
  using target = Root.open(to, 'chroot');
  // Each hard link is a copy; more than a layer may hold is a bomb.
  await inside.copyTree(from, target, '.', limits.layerUnpackedBytes);
  const top = inside.stat(found.path);
  if (top === undefined) return;
  target.chown('.', top.uid, top.gid);
  target.chmod('.', top.mode);
}

/**
 * What is inside a container's root: InsideRoot on a descriptor of the root, opened anew for each question since roots
 * come and go.
 */
import { isUtf8 } from 'node:buffer';
import { isCode, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { nextTurn } from '../base/loop-share.ts';
import { Root, errnoBehind } from '../sys/index.ts';
import { dangles, type Look, wayOf } from './links.ts';
import type { InsideRoot, Landing } from '../ports/rootfs.ts';

/** Answers about `root`, a host path that we chose ourselves. */
export function insideRoot(root: string): InsideRoot {
  return {
    readFile: (path, max) => within(root, (inside) => readFile(inside, path, max)),
    ensureDir: (path, owner, mode) => within(root, (inside) => ensureDir(inside, path, owner, mode)),
    landings: (paths) => within(root, (inside) => landings(inside, paths)),
    symlinkIfAbsent: (path, target) => within(root, (inside) => symlinkIfAbsent(inside, path, target)),
    checkKernelPlaces: () => within(root, checkKernelPlaces),
    copyOut: (from, to) => within(root, (inside) => copyOut(inside, from, to)),
  };
}

async function within<T>(path: string, work: (inside: Root) => T | Promise<T>): Promise<T> {
  using inside = Root.open(path, 'chroot');
  return await work(inside);
}

/** A landing takes some 25 µs, of a deep path more. */
const LANDINGS_PER_TURN = 256;

/** Where the container will see something else than what lies here. */
const KERNEL_PLACE = /^\/(dev|proc|sys)(\/|$)/;

/** Names in an image need not be UTF-8: a byte string has a character for each byte. */
const toBytes = (text: string): string => Buffer.from(text).toString('latin1');
const toText = (bytes: string): string => Buffer.from(bytes, 'latin1').toString();

/** Looks into the root, at each path once. Paths are byte strings. */
function lookInto(inside: Root): Look {
  const seen = new Map<string, ReturnType<Look>>([['', 'there']]);
  return (path) => {
    const known = seen.get(path);
    if (known !== undefined) return known;
    const found = lookAt(inside, path);
    seen.set(path, found);
    return found;
  };
}

function lookAt(inside: Root, path: string): ReturnType<Look> {
  const name = Buffer.from(path, 'latin1');
  const kind = inside.stat(name)?.kind;
  if (kind === 'symlink') return { link: inside.readLink(name).toString('latin1') };
  return kind === undefined ? 'absent' : 'there';
}

/**
 * Whoever reads the same path in the running container finds what a symlink leads to there: runc reads /etc/group
 * itself, and one that led to /dev/zero made it eat the node's memory.
 */
function checkLinks(inside: Root, path: string): void {
  const { links, places } = wayOf(toBytes(path), lookInto(inside));
  const [first] = links;
  const place = places.find((each) => KERNEL_PLACE.test(each));
  if (first !== undefined && place !== undefined)
    throw new RuntimeError(
      'FailedPrecondition',
      `${quote(path)} in the image leads by the symlink ${quote(toText(first.at))} to ${quote(toText(place))}, ` +
        'which the kernel provides',
    );
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

async function ensureDir(
  inside: Root,
  path: string,
  owner: { readonly uid: number; readonly gid: number },
  mode: number,
): Promise<string> {
  const way = wayOf(toBytes(path), lookInto(inside));
  try {
    await inside.makeDirsAsync(Buffer.from(way.path, 'latin1'), mode, owner);
  } catch (cause) {
    const other = errnoBehind(cause) === 'ENOTDIR' ? otherThanDirectory(inside, way.path) : undefined;
    if (other === undefined) throw cause;
    // The cause names the place by its path on the node, which nobody who made the image knows.
    // oxlint-disable-next-line preserve-caught-error
    throw new RuntimeError('FailedPrecondition', `${quote(toText(other.path))} in the image is a ${other.kind}`);
  }
  return toText(way.path);
}

/** The first on the way to `path` that is no directory. */
function otherThanDirectory(inside: Root, path: string): { readonly path: string; readonly kind: string } | undefined {
  for (let end = path.indexOf('/', 1); ; end = path.indexOf('/', end + 1)) {
    const here = end < 0 ? path : path.slice(0, end);
    const kind = inside.stat(Buffer.from(here, 'latin1'))?.kind;
    if (kind !== undefined && kind !== 'directory') return { path: here, kind };
    if (end < 0) return undefined;
  }
}

/** Some in each turn of the event loop: how many there are is for artifacts, images and requests to say. */
async function landings(inside: Root, paths: readonly string[]): Promise<readonly Landing[]> {
  const look = lookInto(inside);
  const found: Landing[] = [];
  for (const path of paths) {
    if (found.length % LANDINGS_PER_TURN === LANDINGS_PER_TURN - 1) await nextTurn();
    found.push(landing(path, look));
  }
  return found;
}

function landing(path: string, look: Look): Landing {
  const way = wayOf(toBytes(path), look);
  const end = Buffer.from(way.path, 'latin1');
  // No spec can name what is not UTF-8.
  if (!isUtf8(end)) return { path, dangles: false, places: [path] };
  return { path: end.toString(), dangles: dangles(way), places: way.places.map(toText) };
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

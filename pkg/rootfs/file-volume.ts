/**
 * Volumes of artifacts: files that are kept by their digests, shown under the names that a manifest gives them.
 *
 *     volumes/<n>.view   an overlay of the directories in which the files are, without a writable layer
 *     volumes/<n>        a tmpfs with room for names only; the runtime mounts one of the view over each file of it
 *
 * By way of the view a container that may remount things still cannot write into content that others use, too: there is
 * no writable file system behind it. It also gives the files their SELinux label, and an owner in a user namespace.
 */
import { basename, dirname, join, posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { ensureDir } from '../base/files.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { nextTurn } from '../base/loop-share.ts';
import { descriptors, mounts, Root } from '../sys/index.ts';
import type { ArtifactFile } from '../ports/image.ts';
import type { FileVolume, ImageVolumeOptions, MountedFile } from '../ports/rootfs.ts';
import { checkSubPath, hostIdOf, labelOption, VOLUME_ATTRIBUTES, withUserNamespace } from './mounting.ts';

/** What a volume is to look like. */
export interface FileTree {
  readonly directories: ReadonlySet<string>;
  /** Relative paths without `.`, `..` and links, and what is to be there. */
  readonly files: ReadonlyMap<string, ArtifactFile>;
}

/** NAME_MAX of Linux; a name from a manifest is UTF-8. */
const NAME_BYTES = 255;
/** A character has three bytes at most, of those that JavaScript counts. */
const MAYBE_LONG = /[^/]{86}/;

/**
 * PURE. Where each file goes. Of two files with one name the later one is shown, as with CRI-O, which mounts one over
 * the other. @throws as `RootfsDriver.mountFiles`.
 */
export function treeOf(files: readonly ArtifactFile[], subPath: string): FileTree {
  checkSubPath(subPath);
  const top = posix.resolve('/', subPath);
  const below = top === '/' ? '/' : `${top}/`;
  const found = new Map<string, ArtifactFile>();
  for (const file of files) {
    if (file.name === undefined) continue;
    const place = placeOf(file.name);
    if (place.startsWith(below)) found.set(place.slice(below.length), file);
  }
  if (found.size === 0 && top !== '/')
    throw new RuntimeError('NotFound', `sub path ${quote(subPath)} does not exist in the artifact`, {
      reason: 'ImageVolumeMountFailed',
    });
  const directories = new Set<string>();
  // Those above one that is known are known, too.
  for (const path of found.keys())
    for (let at = posix.dirname(path); at !== '.' && !directories.has(at); at = posix.dirname(at)) {
      directories.add(at);
      if (directories.size > limits.artifactDirectoriesCount)
        throw new RuntimeError(
          'ResourceExhausted',
          `the files of the artifact are in more than ${limits.artifactDirectoriesCount} directories`,
        );
    }
  for (const path of found.keys())
    if (directories.has(path))
      throw refused(`the artifact has a file ${quote(path, 300)}, and others below it as if it were a directory`);
  return { directories, files: found };
}

/** A name as an absolute path in the volume: `..` at the top leads nowhere else, as in a root directory. */
function placeOf(name: string): string {
  if (name.includes('\0') || Buffer.byteLength(name) >= limits.nameBytes)
    throw refused(`the artifact has a file with a name that no file can have (${quote(name, 100)})`);
  if (!hasFewParts(name))
    throw refused(
      `the artifact has a file in more than ${limits.artifactNamePartsCount} directories (${quote(name, 100)})`,
    );
  const place = posix.resolve('/', name);
  if (place === '/') throw refused(`the artifact has a file called ${quote(name, 100)}, which is the volume itself`);
  const long = MAYBE_LONG.test(place)
    ? place.split('/').find((part) => Buffer.byteLength(part) > NAME_BYTES)
    : undefined;
  if (long !== undefined)
    throw refused(`the artifact has a file with a name of more than ${NAME_BYTES} bytes (${quote(long, 100)})`);
  return place;
}

function hasFewParts(name: string): boolean {
  let count = 0;
  for (let at = name.indexOf('/'); at >= 0; at = name.indexOf('/', at + 1))
    if (++count >= limits.artifactNamePartsCount) return false;
  return true;
}

/** A file takes some 50 µs of the event loop, and how many there are is for artifacts to say. */
const FILES_PER_TURN = 128;

/** Makes the files volume `index` below `volumes`, which is ours. */
export async function mountFiles(
  volumes: string,
  index: number,
  files: readonly ArtifactFile[],
  { subPath, idMap, label }: ImageVolumeOptions,
): Promise<FileVolume> {
  const tree = treeOf(files, subPath);
  const target = join(volumes, String(index));
  const view = `${target}.view`;
  const empty = `${target}.root`;
  // What an earlier try has left is not taken up.
  for (const each of [target, view]) await mounts.unmountTree(each);
  for (const each of [target, view, empty]) await ensureDir(each);
  const owner = { uid: 0, gid: 0 };
  if (idMap !== null) Object.assign(owner, { uid: hostIdOf(0, idMap.uids), gid: hostIdOf(0, idMap.gids) });
  const room = `nr_inodes=${tree.directories.size + tree.files.size + 2}`;
  await mounts.fileSystem({
    type: 'tmpfs',
    target,
    options: ['mode=0755', 'size=4k', room, `uid=${owner.uid}`, `gid=${owner.gid}`, ...attributes(label)],
  });
  const sources = new Set([...tree.files.values()].map(({ path }) => dirname(path)));
  if (sources.size === 0) return { source: target, files: [] };
  await withUserNamespace(idMap, (usernsFd) =>
    mounts.overlay({
      // A single layer is no overlay.
      lower: [empty, ...sources],
      writable: null,
      target: view,
      options: [...VOLUME_ATTRIBUTES, ...labelOption(label)],
      usernsFd,
    }),
  );
  using root = Root.open(target, 'strict');
  for (const directory of tree.directories) await root.makeDirsAsync(directory, 0o755, owner);
  const shown: MountedFile[] = [];
  for (const [place, { path }] of tree.files) {
    if (shown.length % FILES_PER_TURN === FILES_PER_TURN - 1) await nextTurn();
    descriptors.close(root.beginFile(place));
    shown.push({ place, source: join(view, basename(path)) });
  }
  return { source: target, files: shown };
}

/** The tmpfs is written to once more before it is shown read-only. */
function attributes(label: string | undefined): readonly string[] {
  return [...VOLUME_ATTRIBUTES.filter((each) => each !== 'ro'), ...labelOption(label)];
}

function refused(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message, { reason: 'ImageVolumeMountFailed' });
}

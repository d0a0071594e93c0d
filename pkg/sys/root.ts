/**
 * A directory that its paths cannot leave. Everything goes through openat2 on the directory's descriptor; nothing here
 * joins strings that an image or a container controls with a host path.
 *
 * Paths are relative to the root; a leading slash means the root itself. Names may be bytes, since layers need not be
 * UTF-8. The methods are synchronous and cost one native call: for worker threads, and for a handful of look-ups in the
 * daemon. The asynchronous ones run on the addon's threads.
 */
import { constants } from 'node:fs';
import type { Entry, EntryMeta, FileKind, ListedName, Resolution, Stat, Text } from '../ports/kernel.ts';
import { addon, attempt, attemptAsync } from './addon.ts';
import type { RawStat } from '../../native/index.d.ts';

const NO_XDEV = 0x1;
const NO_MAGICLINKS = 0x2;
const NO_SYMLINKS = 0x4;
const BENEATH = 0x8;
const IN_ROOT = 0x10;
const RESOLVE: Readonly<Record<Resolution, number>> = {
  strict: BENEATH | NO_SYMLINKS | NO_MAGICLINKS | NO_XDEV,
  chroot: IN_ROOT | NO_MAGICLINKS | NO_XDEV,
};
const S_IF: Readonly<Record<FileKind, number>> = {
  file: constants.S_IFREG,
  directory: constants.S_IFDIR,
  symlink: constants.S_IFLNK,
  character: constants.S_IFCHR,
  block: constants.S_IFBLK,
  fifo: constants.S_IFIFO,
  socket: constants.S_IFSOCK,
};
const KIND_OF: ReadonlyMap<number, FileKind> = new Map(
  Object.entries(S_IF).map(([kind, bits]) => [bits, kind as FileKind]),
);
const LETTERS: Readonly<Record<string, FileKind>> = {
  f: 'file',
  d: 'directory',
  l: 'symlink',
  c: 'character',
  b: 'block',
  p: 'fifo',
  s: 'socket',
};

const NOTHING = new Uint8Array(0);

/** A confined directory tree; close it (or `using`). */
export class Root implements Disposable {
  readonly path: string;
  readonly #resolve: number;
  #fd: number;

  private constructor(path: string, fd: number, resolve: number) {
    this.path = path;
    this.#fd = fd;
    this.#resolve = resolve;
  }

  /**
   * Opens host directory `path`, which is trusted and whose own links are followed. @throws NotFound,
   * FailedPrecondition (no directory).
   */
  static open(path: string, resolution: Resolution): Root {
    return new Root(
      path,
      attempt(`open ${path}`, (native) => native.openRootSync(path)),
      RESOLVE[resolution],
    );
  }

  /** The descriptor, for fsync and the like; stays the root's. */
  get fd(): number {
    return this.#fd;
  }

  close(): void {
    if (this.#fd < 0) return;
    addon().closeSync(this.#fd);
    this.#fd = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /**
   * open(2) with O_CLOEXEC, O_NOCTTY and O_NONBLOCK for what is no regular file; the caller closes the descriptor.
   * `flags` from node:fs constants.
   */
  openFile(path: Text, flags: number, mode = 0): number {
    return this.#do('open', path, (native) => native.openAtSync(this.#fd, path, flags, mode, this.#resolve));
  }

  /** undefined if nothing is there (also when a directory on the way is missing or is none). */
  stat(path: Text): Stat | undefined {
    const raw = this.#do('look at', path, (native) => native.statAtSync(this.#fd, path, this.#resolve));
    return raw === undefined ? undefined : toStat(raw);
  }

  /**
   * Follows links inside (resolution 'chroot'): the object's path inside the root, absolute, and what it is; undefined
   * if nothing is there.
   */
  resolve(path: Text): { readonly path: string; readonly kind: FileKind } | undefined {
    const O_PATH = 0o10000000;
    let fd: number;
    try {
      fd = this.openFile(path, O_PATH);
    } catch (error) {
      if (isAbsence(error)) return undefined;
      throw error;
    }
    try {
      const [top, found] = [addon().fdPathSync(this.#fd).toString(), addon().fdPathSync(fd).toString()];
      const kind = toStat(addon().statAtSync(fd, '', 0) as RawStat).kind;
      return { path: found === top ? '/' : found.slice(top === '/' ? 0 : top.length), kind };
    } finally {
      addon().closeSync(fd);
    }
  }

  /** The target of a symlink, as bytes. @throws InvalidArgument if it is none. */
  readLink(path: Text): Buffer {
    return this.#do('read link', path, (native) => native.readLinkAtSync(this.#fd, path, this.#resolve));
  }

  /** Names in a directory, unsorted, without `.` and `..`. */
  list(path: Text): ListedName[] {
    const bytes = this.#do('list', path, (native) => native.listAtSync(this.#fd, path, this.#resolve));
    const names: ListedName[] = [];
    for (let at = 0; at < bytes.length; ) {
      const end = bytes.indexOf(0, at);
      names.push({ kind: LETTERS[String.fromCharCode(bytes[at] ?? 0)], name: bytes.subarray(at + 1, end) });
      at = end + 1;
    }
    return names;
  }

  /**
   * mkdir -p: missing directories get mode and owner, existing ones stay as they are. @throws FailedPrecondition
   * (ENOTDIR) if something else is in the way.
   */
  makeDirs(path: Text, mode = 0o755, owner = { uid: 0, gid: 0 }): void {
    this.#do('make directory', path, (native) =>
      native.makeDirsAtSync(this.#fd, path, mode, owner.uid, owner.gid, this.#resolve),
    );
  }

  /**
   * Writes one whole entry of a layer: replaces what is there (a directory over a directory keeps its content), makes
   * missing parents (0755 root), sets owner, then mode, xattrs and time. A file's content is written whole.
   */
  writeEntry(path: Text, entry: Entry): void {
    const content = entry.kind === 'file' ? entry.content : entry.kind === 'symlink' ? entry.target : NOTHING;
    const device = entry.kind === 'character' || entry.kind === 'block' ? [entry.major, entry.minor] : [0, 0];
    this.#do('write', path, (native) =>
      native.writeEntrySync(
        this.#fd,
        path,
        this.#resolve,
        S_IF[entry.kind],
        entry.mode,
        entry.uid,
        entry.gid,
        entry.seconds,
        entry.nanoseconds,
        content,
        device,
        entry.xattrs,
      ),
    );
  }

  /**
   * A hard link of a layer: `path` becomes another name of `existing` (a path under this root, links not followed at
   * its end), replacing what is there.
   */
  writeHardLink(path: Text, existing: Text): void {
    this.#do('link', path, (native) =>
      native.writeEntrySync(this.#fd, path, this.#resolve, 0, 0, 0, 0, 0, 0, existing, [0, 0], []),
    );
  }

  /**
   * For files too large to hold: replaces what is there by an empty file (0600) open for writing. Write, then
   * finishFile, then close.
   */
  beginFile(path: Text): number {
    return this.#do('create', path, (native) => native.beginFileSync(this.#fd, path, this.#resolve));
  }

  /** Owner, mode, xattrs, time of an open file or directory, in the order that keeps them all. */
  finishFile(fd: number, meta: EntryMeta): void {
    attempt('set metadata', (native) =>
      native.finishEntrySync(fd, meta.mode, meta.uid, meta.gid, meta.seconds, meta.nanoseconds, meta.xattrs),
    );
  }

  link(existing: Text, path: Text): void {
    this.#do('link', path, (native) => native.linkAtSync(this.#fd, existing, path, this.#resolve));
  }

  /** @throws AlreadyExists if anything is at `path`, also a dangling link. */
  async symlink(path: Text, target: Text): Promise<void> {
    await attemptAsync(this.#doing('make link', path), (native) =>
      native.symlinkAt(this.#fd, path, target, this.#resolve),
    );
  }

  /** `mode` are permission bits; the umask does not apply. */
  makeNode(path: Text, kind: 'character' | 'block' | 'fifo', mode: number, major = 0, minor = 0): void {
    this.#do('make node', path, (native) =>
      native.mknodAtSync(this.#fd, path, S_IF[kind] | mode, major, minor, this.#resolve),
    );
  }

  /** Replaces what is at `to`, as rename(2). */
  rename(from: Text, to: Text): void {
    this.#do('rename', from, (native) => native.renameAtSync(this.#fd, from, to, 0, this.#resolve));
  }

  /** A file, link or empty directory; false if nothing was there. */
  remove(path: Text): boolean {
    return this.#do('remove', path, (native) => native.unlinkAtSync(this.#fd, path, this.#resolve)) === 1;
  }

  /**
   * Everything at and below `path`; links are removed, not followed; a mount is never entered (InvalidArgument, EXDEV).
   * False if nothing was there.
   */
  removeTree(path: Text): boolean {
    return this.#do('remove tree', path, (native) => native.removeTreeAtSync(this.#fd, path, this.#resolve)) === 1;
  }

  /** Owner of the object itself; -1 leaves one as it is. */
  chown(path: Text, uid: number, gid: number): void {
    this.#do('chown', path, (native) => native.chownAtSync(this.#fd, path, uid, gid, this.#resolve));
  }

  /** @throws Unimplemented for a symlink: links have no mode on Linux. */
  chmod(path: Text, mode: number): void {
    this.#do('chmod', path, (native) => native.chmodAtSync(this.#fd, path, mode, this.#resolve));
  }

  /** Modification and access time of the object itself. */
  setTime(path: Text, seconds: number, nanoseconds: number): void {
    this.#do('set time of', path, (native) => native.utimesAtSync(this.#fd, path, seconds, nanoseconds, this.#resolve));
  }

  setXattr(path: Text, name: Text, value: Uint8Array): void {
    this.#do('set xattr of', path, (native) => native.setXattrAtSync(this.#fd, path, name, value, this.#resolve));
  }

  /** undefined if the object has none of that name. */
  getXattr(path: Text, name: Text): Buffer | undefined {
    return this.#do('get xattr of', path, (native) => native.getXattrAtSync(this.#fd, path, name, this.#resolve));
  }

  listXattrs(path: Text): string[] {
    return this.#do('list xattrs of', path, (native) => native.listXattrAtSync(this.#fd, path, this.#resolve))
      .toString()
      .split('\0')
      .filter((name) => name !== '');
  }

  removeXattr(path: Text, name: Text): void {
    this.#do('remove xattr of', path, (native) => native.removeXattrAtSync(this.#fd, path, name, this.#resolve));
  }

  /**
   * A regular file of at most `max` bytes; undefined if absent. Never opens FIFOs or devices, never blocks. @throws
   * FailedPrecondition (EFBIG), InvalidArgument (EINVAL: no regular file).
   */
  readFile(path: Text, max: number): Promise<Buffer | undefined> {
    return attemptAsync(this.#doing('read', path), (native) => native.readFileAt(this.#fd, path, max, this.#resolve));
  }

  /** makeDirs on the addon's threads, for as many as an image likes. */
  makeDirsAsync(path: Text, mode: number, owner: { readonly uid: number; readonly gid: number }): Promise<void> {
    return attemptAsync(this.#doing('make directory', path), (native) =>
      native.makeDirsAt(this.#fd, path, mode, owner.uid, owner.gid, this.#resolve),
    );
  }

  /** removeTree on the addon's threads. */
  removeTreeAsync(path: Text): Promise<boolean> {
    return attemptAsync(
      this.#doing('remove tree', path),
      async (native) => (await native.removeTreeAt(this.#fd, path, this.#resolve)) === 1,
    );
  }

  /**
   * Copies what is below directory `from` into directory `to` of another root: owners, modes, times, xattrs, symlinks,
   * holes. Each name of a file becomes a file of its own; devices, sockets and FIFOs are left out. @throws
   * FailedPrecondition (EFBIG) beyond `max` bytes of data, with what was copied left.
   */
  copyTree(from: Text, target: Root, to: Text, max: number): Promise<void> {
    return attemptAsync(this.#doing('copy', from), (native) =>
      native.copyTree(this.#fd, from, target.#fd, to, max, this.#resolve),
    );
  }

  #do<T>(verb: string, path: Text, work: Parameters<typeof attempt<T>>[1]): T {
    try {
      return work(addon());
    } catch (error) {
      return attempt(this.#doing(verb, path), () => {
        throw error;
      });
    }
  }

  #doing(verb: string, path: Text): string {
    return (
      `${verb} ` +
      `${JSON.stringify(typeof path === 'string' ? path : Buffer.from(path).toString()).slice(0, 300)} ` +
      `in ${this.path}`
    );
  }
}

function isAbsence(error: unknown): boolean {
  const cause = error instanceof Error ? (error.cause as { code?: unknown } | undefined) : undefined;
  return cause?.code === 'ENOENT' || cause?.code === 'ENOTDIR';
}

/** The raw numbers of a stat as the rest reads them. Used by host-paths.ts too. */
export function toStat(raw: RawStat): Stat {
  const at = (index: number): bigint => raw[index] ?? 0n;
  const mode = Number(at(0));
  return {
    kind: KIND_OF.get(mode & constants.S_IFMT) ?? 'file',
    mode: mode & 0o7777,
    uid: Number(at(1)),
    gid: Number(at(2)),
    size: at(3),
    links: Number(at(4)),
    inode: at(5),
    device: at(6),
    major: Number(at(7) >> 32n),
    minor: Number(at(7) & 0xffff_ffffn),
    modifiedAt: at(8),
    changedAt: at(9),
    allocatedBytes: at(10) * 512n,
    mountId: at(11),
    isMountRoot: at(12) === 1n,
  };
}

/**
 * Tar entries → the tree of one layer, in the form that overlay mounts want.
 *
 * A layer is a *difference*: it is unpacked alone into its own directory and never sees a merged view, as containerd
 * and containers/storage do, so that an image looks the same on Berth as on them. What that means where entries lean on
 * lower layers:
 *
 * - a path leads through symlinks of the same layer only, resolved inside the layer (`lib/x` beside `lib -> usr/lib`
 *   lands in `usr/lib`); where a lower layer has the symlink, a directory of this layer hides it;
 * - a parent directory without an entry is made 0755 root and *adopted* later: it takes owner, mode, xattrs and time of
 *   the same directory in the lower layers, lest a layer that brings only `tmp/x` should change the mode of `/tmp`;
 * - the target of a hard link should lie in the same layer. Where it does not, the file is copied up from the lower
 *   layers under the target's name and then linked, as overlay itself would have done. (Others refuse such layers.)
 *   What the link's entry says of owner, mode, time and xattrs is given to a file of the same layer, as CRI-O has it:
 *   it comes later than the file's own entry.
 *
 * The last two need the lower layers. They are written down as `Pending` and done by `settleLayer` when these are
 * there, so that layers can be unpacked side by side in any order.
 *
 * Whiteouts follow the image-spec: `.wh.x` hides `x` of lower layers only, never an `x` of the same layer, in whichever
 * order they come.
 *
 * Everything goes through `LayerTree`, which resolves each path from a directory descriptor with
 * openat2(RESOLVE_IN_ROOT): a layer may hold any symlink and still not reach out of its directory. Not a single path is
 * joined here.
 */
import { RuntimeError, wrap } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { LayerNames, parentOf } from './layer-names.ts';
import type { ManifestWriter } from './manifest.ts';
import type { MemoryAccount } from './memory-account.ts';
import type { TarEntry, TarSink } from './tar.ts';
import type {
  LayerTree,
  NodeKind,
  NodeMetadata,
  OpenFile,
  Pending,
  RootOwner,
  SettleBounds,
  StackedTree,
  WrittenLayer,
} from './node.ts';

const WHITEOUT = '.wh.';
const OPAQUE = '.wh..wh..opq';
/** AUFS kept its books under names like this; nobody needs them. */
const AUFS = '.wh..wh.';
const OPAQUE_XATTR = { name: 'trusted.overlay.opaque', value: new Uint8Array([0x79]) } as const;
const DEFAULT_ACL = 'system.posix_acl_default';
const IMPLICIT: NodeMetadata = { mode: 0o755, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanos: 0, xattrs: [] };
const NOTHING = new Uint8Array(0);
/** Linux' own, of one name in a path. */
const NAME_MAX = 255;
/** What the engine needs for a name in a set, beside its characters. */
const NAME_BYTES = 64;

/** One use: feed it to a TarReader, then `finish`. After an error call `abandon`. */
export class LayerWriter implements TarSink {
  readonly #tree: LayerTree;
  readonly #manifest: ManifestWriter;
  readonly #names: LayerNames;
  #root: RootOwner | null = null;
  #hasWhiteouts = false;
  #replacedCount = 0;
  #droppedXattrs = 0;
  /** The regular file whose content is coming. */
  #entry: TarEntry | undefined;
  #path = '';
  #open: OpenFile | undefined;

  /** What is remembered to the end is counted in `account`. */
  constructor(tree: LayerTree, manifest: ManifestWriter, account: MemoryAccount) {
    this.#tree = tree;
    this.#manifest = manifest;
    this.#names = new LayerNames(account);
  }

  /**
   * @throws PermissionDenied for a path out of the layer, DataLoss for an entry that makes no sense, ResourceExhausted
   * for a full disk.
   */
  entry(entry: TarEntry): void {
    this.#guard(entry, () => {
      const path = cleanPath(entry.path);
      const marker = path.includes(WHITEOUT) ? markerOf(path) : 'none';
      if (marker === 'none') this.#node(path, entry);
      else if (marker !== 'ignored') this.#whiteout(path, marker);
    });
  }

  data(bytes: Uint8Array, offset: number): void {
    const entry = this.#entry;
    if (entry === undefined) return;
    this.#guard(entry, () => {
      if (this.#open === undefined && bytes.length === entry.sizeBytes) {
        this.#tree.file(this.#path, bytes, entry);
        this.#manifest.file(this.#path, entry, bytes);
        this.#entry = undefined;
        return;
      }
      this.#open ??= this.#tree.begin(this.#path);
      this.#open.write(bytes, offset);
      this.#manifest.content(bytes);
    });
  }

  end(): void {
    const entry = this.#entry;
    if (entry === undefined) return;
    this.#guard(entry, () => {
      // Nothing but a hole.
      this.#open ??= this.#tree.begin(this.#path);
      this.#open.finish(entry.sizeBytes, entry);
      this.#open = undefined;
      this.#entry = undefined;
      this.#manifest.endFile(this.#path, entry);
    });
  }

  /** Call once after the last entry. */
  finish(): WrittenLayer {
    const names = this.#names;
    // Some writers put a link before its target, which has the last word then.
    for (const [path, target] of names.links()) if (isThere(this.#tree.kindOf(target))) this.#link(path, target, null);
    for (const [path, acl] of names.defaultAcls()) this.#tree.setXattr(path, DEFAULT_ACL, acl);
    for (const [path, seconds, nanos] of names.times()) this.#tree.setTime(path, seconds, nanos);
    return {
      pending: { implicit: () => names.implicit(), links: () => names.links() },
      root: this.#root,
      rootIsOpaque: names.isOpaque(''),
      droppedXattrs: this.#droppedXattrs,
    };
  }

  /** Closes what is open, on the way out after an error. */
  abandon(): void {
    this.#open?.abandon();
    this.#open = undefined;
  }

  #node(path: string, entry: TarEntry): void {
    if (path === '' && entry.type !== 'directory')
      throw new RuntimeError('DataLoss', 'the root of a layer has to be a directory');
    if (path !== '') this.#ensureDirectory(parentOf(path), limits.symlinkDepth);
    if (entry.type !== 'directory' && this.#names.directory(path) !== undefined) this.#forget(path);
    this.#names.dropLink(path);
    const node = this.#settable(entry);
    switch (node.type) {
      case 'directory':
        return this.#directory(path, node);
      case 'file':
        this.#path = path;
        if (node.sizeBytes > 0) {
          this.#entry = node;
          return;
        }
        this.#tree.file(path, NOTHING, node);
        return this.#manifest.file(path, node, NOTHING);
      case 'symlink':
        this.#tree.symlink(path, node.linkPath, node);
        return this.#manifest.symlink(path, node, node.linkPath);
      case 'hardlink':
        return this.#hardlink(path, cleanPath(node.linkPath), node);
      case 'character':
      case 'block':
      case 'fifo':
        this.#tree.special(path, node.type, node.deviceMajor, node.deviceMinor, node);
        return this.#manifest.special(path, node, node.type, node.deviceMajor, node.deviceMinor);
    }
  }

  #directory(path: string, entry: NodeMetadata): void {
    // What the lower layers have there was deleted before this directory was made.
    const hidesBelow =
      this.#hasWhiteouts &&
      path !== '' &&
      this.#names.directory(path) === undefined &&
      this.#tree.kindOf(path) === 'whiteout';
    if (hidesBelow) this.#names.setOpaque(path);
    const xattrs = entry.xattrs.filter(({ name }) => name !== DEFAULT_ACL);
    if (this.#names.isOpaque(path)) xattrs.push(OPAQUE_XATTR);
    this.#tree.directory(path, { ...entry, xattrs });
    this.#names.setDefaultAcl(path, entry.xattrs.find(({ name }) => name === DEFAULT_ACL)?.value);
    this.#manifest.directory(path, entry);
    this.#names.setDirectory(path, 'described');
    if (path === '') this.#root = { mode: entry.mode, uid: entry.uid, gid: entry.gid };
    this.#names.setTime(path, entry.mtimeSeconds, entry.mtimeNanos);
  }

  #hardlink(path: string, target: string, metadata: NodeMetadata): void {
    const pending = this.#names.link(target);
    if (pending !== undefined) return this.#names.setLink(path, pending);
    const kind = this.#tree.kindOf(target);
    if (kind === 'directory') throw new RuntimeError('DataLoss', `it is a hard link to the directory ${quote(target)}`);
    // Some writers link a file to itself.
    if (isThere(kind)) return path === target ? undefined : this.#link(path, target, metadata);
    if (this.#isGone(target))
      throw new RuntimeError('DataLoss', `it is a hard link to ${quote(target)}, which this layer deletes`);
    this.#names.setLink(path, target);
  }

  #link(path: string, target: string, metadata: NodeMetadata | null): void {
    this.#names.dropLink(path);
    this.#tree.hardlink(path, target, metadata);
    this.#manifest.hardlink(path, target, metadata);
  }

  /** True if this layer says that nothing of the lower layers shows at `path`. */
  #isGone(path: string): boolean {
    if (this.#names.isHidden(path)) return true;
    for (let at = path; at !== ''; at = parentOf(at)) if (this.#tree.kindOf(at) === 'whiteout') return true;
    return false;
  }

  #whiteout(path: string, marker: 'opaque' | 'hidden'): void {
    const directory = parentOf(path);
    this.#ensureDirectory(directory, limits.symlinkDepth);
    if (marker === 'opaque') return this.#makeOpaque(directory);
    const name = path.slice(path.lastIndexOf('/') + 1 + WHITEOUT.length);
    if (name === '' || name === '.' || name === '..') throw new RuntimeError('DataLoss', 'it is a whiteout of no file');
    const hidden = directory === '' ? name : `${directory}/${name}`;
    const kind = this.#tree.kindOf(hidden);
    // A file of this layer hides what is below by being there; a directory would let it shine through.
    if (kind === 'directory') this.#makeOpaque(hidden);
    if (kind !== 'absent' || this.#names.link(hidden) !== undefined) return;
    this.#hasWhiteouts = true;
    this.#tree.special(hidden, 'character', 0, 0, IMPLICIT);
    this.#manifest.special(hidden, IMPLICIT, 'character', 0, 0);
  }

  #makeOpaque(path: string): void {
    if (this.#names.isOpaque(path)) return;
    this.#names.setOpaque(path);
    this.#tree.setXattr(path, OPAQUE_XATTR.name, OPAQUE_XATTR.value);
  }

  /** Makes `path` a directory, following symlinks of this layer, even those whose target is not there yet. */
  #ensureDirectory(path: string, linksLeft: number): void {
    if (this.#names.directory(path) !== undefined) return;
    this.#ensureDirectory(parentOf(path), linksLeft);
    const kind = this.#tree.kindOf(path);
    if (kind === 'symlink') {
      if (linksLeft === 0)
        throw new RuntimeError('DataLoss', `its parent ${quote(path)} is a symlink that leads nowhere`);
      this.#ensureDirectory(linkedPath(path, this.#tree.linkTarget(path)), linksLeft - 1);
      // Not remembered: the symlink may be replaced.
      return;
    }
    if (kind === 'other') throw new RuntimeError('DataLoss', `its parent ${quote(path)} is not a directory`);
    if (kind === 'whiteout') this.#names.setOpaque(path);
    if (kind !== 'directory') {
      this.#tree.directory(path, kind === 'whiteout' ? { ...IMPLICIT, xattrs: [OPAQUE_XATTR] } : IMPLICIT);
      this.#manifest.directory(path, IMPLICIT);
    }
    // One that is there although unknown was made under another path, through a symlink.
    this.#names.setDirectory(path, kind === 'absent' ? 'implicit' : 'described');
  }

  /** A directory gives way to something else, with all that is in it. */
  #forget(path: string): void {
    // Each time costs a walk over all directories; real layers never do it.
    if (++this.#replacedCount > limits.layerReplacedDirsCount)
      throw new RuntimeError(
        'ResourceExhausted',
        `more than ${limits.layerReplacedDirsCount} directories are replaced by something else`,
      );
    this.#names.forget(path);
    this.#manifest.removed(path);
  }

  /** The entry without the attributes that must not or cannot be set. */
  #settable(entry: TarEntry): TarEntry {
    if (entry.xattrs.length === 0) return entry;
    const xattrs = entry.xattrs.filter(({ name }) => isSettable(name, entry.type));
    this.#droppedXattrs += entry.xattrs.length - xattrs.length;
    return { ...entry, xattrs };
  }

  #guard(entry: TarEntry, work: () => void): void {
    try {
      work();
    } catch (error) {
      throw wrap(`cannot unpack ${quote(entry.path)}`, error);
    }
  }
}

/**
 * Does what a layer left pending, with the lower layers at hand. May be repeated after it ended in the middle.
 * @throws DataLoss if a hard link leads to nothing, ResourceExhausted (before anything is copied) if the files are too
 * large together; what `bounds.look` throws.
 */
export function settleLayer(tree: StackedTree, pending: Pending, manifest: ManifestWriter, bounds: SettleBounds): void {
  for (const target of filesToCopy(tree, pending, bounds)) copyUp(tree, target, manifest, bounds);
  for (const [path, target] of pending.links()) {
    bounds.look();
    if (tree.kindOf(target) === 'absent')
      throw new RuntimeError(
        'DataLoss',
        `${quote(path)} is a hard link to ${quote(target)}, which is neither in its layer nor in one below`,
      );
    tree.hardlink(path, target, null);
    manifest.hardlink(path, target, null);
  }
  for (const path of pending.implicit()) {
    bounds.look();
    adopt(tree, path, manifest);
  }
}

/**
 * Every target that is a file below. No entry of the layer is there, so a file that is comes from an attempt that ended
 * early, maybe in the middle of it: it is copied again.
 */
function filesToCopy(tree: StackedTree, pending: Pending, bounds: SettleBounds): ReadonlySet<string> {
  const files = new Set<string>();
  let bytes = 0;
  for (const [, target] of pending.links()) {
    bounds.look();
    if (files.has(target) || tree.kindOf(target) === 'whiteout') continue;
    const size = tree.sizeBelow(target);
    if (size === undefined) continue;
    bounds.account.take(NAME_BYTES + target.length, 'remembering which files of the layers below are linked to');
    files.add(target);
    bytes += size;
    if (bytes > bounds.copiedBytes) {
      throw new RuntimeError(
        'ResourceExhausted',
        `hard links of the layer lead to files of more than ${bounds.copiedBytes} bytes in the ` +
          'layers below; this looks like a decompression bomb',
      );
    }
  }
  return files;
}

function copyUp(tree: StackedTree, target: string, manifest: ManifestWriter, bounds: SettleBounds): void {
  const parents: string[] = [];
  for (let at = parentOf(target); at !== '' && tree.kindOf(at) === 'absent'; at = parentOf(at)) parents.push(at);
  for (const parent of parents.reverse()) {
    tree.directory(parent, IMPLICIT);
    adopt(tree, parent, manifest);
  }
  manifest.copied(target, tree.copyUp(target, bounds.look));
}

function adopt(tree: StackedTree, path: string, manifest: ManifestWriter): void {
  const metadata = tree.adopt(path);
  if (metadata !== undefined) manifest.directory(path, metadata);
}

function isThere(kind: NodeKind): boolean {
  return kind !== 'absent' && kind !== 'whiteout';
}

/**
 * The path inside the layer that an entry means: leading and doubled slashes and `.` mean nothing, `x/..` cancels out.
 * @throws PermissionDenied if it climbs out, InvalidArgument if a part is longer than a file name can be.
 */
export function cleanPath(raw: string): string {
  const parts: string[] = [];
  for (const part of raw.split('/')) {
    if (part === '' || part === '.') continue;
    if (part === '..') {
      if (parts.pop() === undefined)
        throw new RuntimeError('PermissionDenied', `the path ${quote(raw)} leads out of the layer`);
      continue;
    }
    if (part.length > NAME_MAX)
      throw new RuntimeError('InvalidArgument', `the path ${quote(raw)} has a name of more than ${NAME_MAX} bytes`);
    parts.push(part);
  }
  return parts.join('/');
}

/** Where a symlink at `path` points, as a path inside the layer; the root is its own parent. */
export function linkedPath(path: string, target: string): string {
  const parts = target.startsWith('/') ? [] : path.split('/').slice(0, -1);
  for (const part of target.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return parts.join('/');
}

/** What a name with `.wh.` in it means. @throws DataLoss where a whiteout is used as a directory. */
function markerOf(path: string): 'none' | 'hidden' | 'opaque' | 'ignored' {
  const parts = path.split('/');
  const name = parts.pop() as string;
  if (parts.some((part) => part.startsWith(AUFS))) return 'ignored';
  if (parts.some((part) => part.startsWith(WHITEOUT))) throw new RuntimeError('DataLoss', 'it lies below a whiteout');
  if (name === OPAQUE) return 'opaque';
  if (name.startsWith(AUFS)) return 'ignored';
  return name.startsWith(WHITEOUT) ? 'hidden' : 'none';
}

/**
 * `trusted.overlay.*` would let an image steer the overlay mount (redirects, metacopy); SELinux labels come with the
 * mount; an EVM signature is for another inode. The kernel takes `user.*` on files and directories only.
 */
function isSettable(name: string, type: TarEntry['type']): boolean {
  if (
    name.startsWith('trusted.overlay.') ||
    name.startsWith('user.overlay.') ||
    name === 'security.selinux' ||
    name === 'security.evm'
  )
    return false;
  if (name.startsWith('user.')) return type === 'file' || type === 'directory';
  return (
    name.startsWith('security.') ||
    name.startsWith('trusted.') ||
    name === 'system.posix_acl_access' ||
    name === 'system.posix_acl_default'
  );
}

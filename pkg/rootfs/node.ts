/**
 * What layers are made of as they are written: metadata of a node, the tree that takes them, and what is left to
 * settle.
 */
import type { MemoryAccount } from './memory-account.ts';
import type { TarXattr } from './tar.ts';

/** Owner, mode, times and attributes of one node; a TarEntry is one. */
export interface NodeMetadata {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanos: number;
  readonly xattrs: readonly TarXattr[];
}

/** What is at a path, as far as unpacking cares. */
export type NodeKind = 'absent' | 'directory' | 'symlink' | 'whiteout' | 'other';

/** What came up from the lower layers. */
export interface CopiedFile extends NodeMetadata {
  readonly sizeBytes: number;
  readonly crc: number;
}

/**
 * A directory that is being filled. Paths are byte strings relative to it, without `.`, `..` or empty parts; '' is the
 * directory itself. Symlinks in parents resolve inside it, the last part is never followed. Errors are RuntimeErrors
 * that have the errno below.
 */
export interface LayerTree {
  /** 'absent' also if a parent is absent or is no directory. */
  kindOf(path: string): NodeKind;
  /** Target of the symlink at `path`. */
  linkTarget(path: string): string;
  /**
   * These create, or replace what is there, whole trees too; but a directory over a directory only sets the metadata.
   * Parents have to be there.
   */
  directory(path: string, metadata: NodeMetadata): void;
  symlink(path: string, target: string, metadata: NodeMetadata): void;
  special(
    path: string,
    kind: 'character' | 'block' | 'fifo',
    major: number,
    minor: number,
    metadata: NodeMetadata,
  ): void;
  /** `metadata` is for the file itself, under all its names; null leaves what it has, as do links that are no files. */
  hardlink(path: string, target: string, metadata: NodeMetadata | null): void;
  /** A file whose whole content is at hand. */
  file(path: string, content: Uint8Array, metadata: NodeMetadata): void;
  /** A file in pieces. End with `finish` or `abandon`. */
  begin(path: string): OpenFile;
  setXattr(path: string, name: string, value: Uint8Array): void;
  /** Content if `path` is not there any more. */
  setTime(path: string, seconds: number, nanos: number): void;
}

/** A layer together with the merged view of those below it. */
export interface StackedTree extends LayerTree {
  /** Size of the regular file at `path` below, holes included; undefined if there is none. */
  sizeBelow(path: string): number | undefined;
  /**
   * Copies a regular file that is below to the same path here, holes as holes, in place of what is there. Calls `look`
   * once per block; what it throws ends the copy, and nothing of it stays.
   */
  copyUp(path: string, look: () => void): CopiedFile;
  /** Gives a directory what the same one has below; undefined if there is none. */
  adopt(path: string): NodeMetadata | undefined;
}

/** A file whose content comes in pieces. */
export interface OpenFile {
  write(bytes: Uint8Array, offset: number): void;
  /** Sets the metadata and, for a file that ends in a hole, the size. */
  finish(sizeBytes: number, metadata: NodeMetadata): void;
  abandon(): void;
}

/** What a layer still wants from the layers below it. Gone through as often as needed, one after the other. */
export interface Pending {
  /** Directories that no entry described, parents before children. */
  implicit(): Iterable<string>;
  /** Hard links whose target is not in the layer: path and target. */
  links(): Iterable<readonly [path: string, target: string]>;
}

/** The bounds of settling one layer. */
export interface SettleBounds {
  /** Counts the names of the files to be copied. */
  readonly account: MemoryAccount;
  /**
   * Sum of the sizes of the files that may be copied up, holes included. A layer of some bytes can name any file of
   * those below, and many of them.
   */
  readonly copiedBytes: number;
  /** Called before each thing done and once per block copied; throws when nobody waits for the layer any more. */
  readonly look: () => void;
}

/** Owner and mode of the root directory of an image. */
export interface RootOwner {
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** What remains to be said of a layer when all entries are written. */
export interface WrittenLayer {
  readonly pending: Pending;
  /** What the layer says of its root directory; the root of a mount is made to match, so it is never adopted. */
  readonly root: RootOwner | null;
  /**
   * The layer hides everything below it. overlay does not look for this at the root of a layer, so whoever mounts has
   * to.
   */
  readonly rootIsOpaque: boolean;
  /** Attributes that no file system takes or that only make sense where they were read (`security.selinux`). */
  readonly droppedXattrs: number;
}

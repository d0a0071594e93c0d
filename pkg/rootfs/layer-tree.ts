/**
 * The LayerTree of the kernel: `pkg/sys` Root calls, each of which resolves its path with openat2 below the layer's
 * directory. Paths are byte strings on this side and bytes on the other. Synchronous: for worker threads.
 */
import { constants, ftruncateSync, readSync, writeSync } from 'node:fs';
import { crc32 } from 'node:zlib';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { EntryMeta, Stat } from '../ports/kernel.ts';
import { descriptors, errnoBehind, systemError, type Root } from '../sys/index.ts';
import type { CopiedFile, NodeKind, NodeMetadata, OpenFile, StackedTree } from './node.ts';

/** Of a file that comes up, at a time: large enough for disks, small enough to be cancelled between two. */
const COPY_BYTES = 256 * 1024;
const ZEROS = Buffer.alloc(COPY_BYTES);
const NOTHING: readonly Uint8Array[] = [];

/**
 * `root` is the layer, opened with resolution 'chroot'; `below` a merged view of the lower layers, opened the same way,
 * if there is one.
 */
export class RootTree implements StackedTree {
  readonly #root: Root;
  readonly #below: Root | undefined;

  constructor(root: Root, below: Root | undefined) {
    this.#root = root;
    this.#below = below;
  }

  kindOf(path: string): NodeKind {
    return kindOf(this.#root.stat(bytesOf(path)));
  }

  linkTarget(path: string): string {
    return this.#root.readLink(bytesOf(path)).toString('latin1');
  }

  directory(path: string, metadata: NodeMetadata): void {
    if (path === '') this.#root.finishFile(this.#root.fd, metaOf(metadata));
    else this.#root.writeEntry(bytesOf(path), { kind: 'directory', ...metaOf(metadata) });
  }

  symlink(path: string, target: string, metadata: NodeMetadata): void {
    this.#root.writeEntry(bytesOf(path), {
      kind: 'symlink',
      target: Buffer.from(target, 'latin1'),
      ...metaOf(metadata),
    });
  }

  special(
    path: string,
    kind: 'character' | 'block' | 'fifo',
    major: number,
    minor: number,
    metadata: NodeMetadata,
  ): void {
    const meta = metaOf(metadata);
    this.#root.writeEntry(bytesOf(path), kind === 'fifo' ? { kind, ...meta } : { kind, major, minor, ...meta });
  }

  hardlink(path: string, target: string, metadata: NodeMetadata | null): void {
    this.#root.writeHardLink(bytesOf(path), bytesOf(target));
    const stat = metadata === null ? undefined : this.#root.stat(bytesOf(path));
    if (metadata === null || stat?.kind !== 'file' || isSame(stat, metadata)) return;
    const fd = this.#root.openFile(bytesOf(path), constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      this.#root.finishFile(fd, metaOf(metadata));
    } finally {
      descriptors.close(fd);
    }
  }

  file(path: string, content: Uint8Array, metadata: NodeMetadata): void {
    this.#root.writeEntry(bytesOf(path), { kind: 'file', content, ...metaOf(metadata) });
  }

  begin(path: string): OpenFile {
    return new RootFile(this.#root, this.#root.beginFile(bytesOf(path)));
  }

  setXattr(path: string, name: string, value: Uint8Array): void {
    try {
      this.#root.setXattr(bytesOf(path), name, value);
    } catch (error) {
      // As in writeEntry: what the file system does not take is left out, unless it is overlay's own.
      if (errnoBehind(error) !== 'EOPNOTSUPP' || name.startsWith('trusted.overlay.')) throw error;
    }
  }

  setTime(path: string, seconds: number, nanos: number): void {
    if (this.kindOf(path) === 'directory') this.#root.setTime(bytesOf(path), seconds, nanos);
  }

  sizeBelow(path: string): number | undefined {
    const stat = this.#below?.stat(bytesOf(path));
    return stat?.kind === 'file' ? Number(stat.size) : undefined;
  }

  copyUp(path: string, look: () => void): CopiedFile {
    const below = this.#below;
    const stat = below?.stat(bytesOf(path));
    if (below === undefined || stat?.kind !== 'file')
      throw new RuntimeError('DataLoss', `the file ${quote(path)} of a lower layer is not there any more`);
    const metadata = metadataOf(below, path, stat);
    const from = below.openFile(bytesOf(path), constants.O_RDONLY | constants.O_NOFOLLOW);
    try {
      const file = this.begin(path);
      try {
        const { sizeBytes, crc } = copyBlocks(from, file, look);
        file.finish(sizeBytes, metadata);
        return { ...metadata, sizeBytes, crc };
      } catch (error) {
        file.abandon();
        this.#root.remove(bytesOf(path));
        throw error;
      }
    } finally {
      descriptors.close(from);
    }
  }

  adopt(path: string): NodeMetadata | undefined {
    const stat = this.#below?.stat(bytesOf(path));
    if (this.#below === undefined || stat?.kind !== 'directory') return undefined;
    const metadata = metadataOf(this.#below, path, stat);
    this.directory(path, metadata);
    this.setTime(path, metadata.mtimeSeconds, metadata.mtimeNanos);
    return metadata;
  }
}

/** Blocks without content are not written, so that a file of holes stays one. */
function copyBlocks(
  from: number,
  file: OpenFile,
  look: () => void,
): { readonly sizeBytes: number; readonly crc: number } {
  const block = Buffer.allocUnsafeSlow(COPY_BYTES);
  let [sizeBytes, crc] = [0, 0];
  for (let count = readSync(from, block); count > 0; count = readSync(from, block)) {
    look();
    const bytes = block.subarray(0, count);
    if (!bytes.equals(ZEROS.subarray(0, count))) file.write(bytes, sizeBytes);
    crc = crc32(bytes, crc);
    sizeBytes += count;
  }
  return { sizeBytes, crc };
}

class RootFile implements OpenFile {
  readonly #root: Root;
  readonly #fd: number;
  #end = 0;

  constructor(root: Root, fd: number) {
    this.#root = root;
    this.#fd = fd;
  }

  write(bytes: Uint8Array, offset: number): void {
    try {
      for (let done = 0; done < bytes.length; )
        done += writeSync(this.#fd, bytes, done, bytes.length - done, offset + done);
    } catch (error) {
      throw systemError(error, 'write');
    }
    this.#end = offset + bytes.length;
  }

  finish(sizeBytes: number, metadata: NodeMetadata): void {
    try {
      if (this.#end < sizeBytes) ftruncateSync(this.#fd, sizeBytes);
    } catch (error) {
      throw systemError(error, `set the size to ${sizeBytes} bytes`);
    }
    this.#root.finishFile(this.#fd, metaOf(metadata));
    descriptors.close(this.#fd);
  }

  abandon(): void {
    descriptors.close(this.#fd);
  }
}

/** The path that a Root takes; the layer itself is '.'. */
export function bytesOf(path: string): Buffer {
  return Buffer.from(path === '' ? '.' : path, 'latin1');
}

function metaOf(metadata: NodeMetadata): EntryMeta {
  const { mode, uid, gid, mtimeSeconds, mtimeNanos, xattrs } = metadata;
  return {
    mode,
    uid,
    gid,
    seconds: mtimeSeconds,
    nanoseconds: mtimeNanos,
    xattrs: xattrs.length === 0 ? NOTHING : xattrs.flatMap(({ name, value }) => [Buffer.from(name, 'latin1'), value]),
  };
}

function kindOf(stat: Stat | undefined): NodeKind {
  if (stat === undefined) return 'absent';
  if (stat.kind === 'directory' || stat.kind === 'symlink') return stat.kind;
  return stat.kind === 'character' && stat.major === 0 && stat.minor === 0 ? 'whiteout' : 'other';
}

/** What nearly every writer says of a link: the same as of the file. */
function isSame(stat: Stat, { mode, uid, gid, mtimeSeconds, mtimeNanos, xattrs }: NodeMetadata): boolean {
  const modifiedAt = BigInt(mtimeSeconds) * 1_000_000_000n + BigInt(mtimeNanos);
  return (
    xattrs.length === 0 && stat.mode === mode && stat.uid === uid && stat.gid === gid && stat.modifiedAt === modifiedAt
  );
}

/** Everything but what overlay keeps for itself. */
function metadataOf(root: Root, path: string, stat: Stat): NodeMetadata {
  const names = root
    .listXattrs(bytesOf(path))
    .filter((name) => !name.startsWith('trusted.overlay.') && name !== 'security.selinux');
  const xattrs = names.map((name) => ({ name, value: root.getXattr(bytesOf(path), name) ?? missing(path) }));
  const seconds = stat.modifiedAt / 1_000_000_000n - (stat.modifiedAt % 1_000_000_000n < 0n ? 1n : 0n);
  return {
    mode: stat.mode,
    uid: stat.uid,
    gid: stat.gid,
    xattrs,
    mtimeSeconds: Number(seconds),
    mtimeNanos: Number(stat.modifiedAt - seconds * 1_000_000_000n),
  };
}

function missing(path: string): never {
  throw new RuntimeError('DataLoss', `an attribute of ${JSON.stringify(path)} vanished while it was read`);
}

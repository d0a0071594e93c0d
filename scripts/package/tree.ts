/** A tree of files being put together, with modes that do not depend on who builds it, and no time of its own. */
import {
  chmodSync,
  copyFileSync,
  lstatSync,
  lutimesSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { gzipSync } from 'node:zlib';

/** One file, link or directory of a tree. */
export interface Entry {
  /** Relative to the root of the tree. */
  readonly path: string;
  readonly kind: 'file' | 'link' | 'directory';
  readonly sizeBytes: number;
}

export class Tree {
  readonly root: string;

  /** Empty; what was at `root` is deleted. */
  constructor(root: string) {
    this.root = root;
    rmSync(root, { recursive: true, force: true });
    this.directory('.');
  }

  directory(path: string): void {
    mkdirSync(join(this.root, path), { recursive: true });
  }

  /** A file with this text, or these bytes. */
  write(path: string, content: string | Buffer, mode: 0o644 | 0o755 = 0o644): void {
    this.directory(dirname(path));
    writeFileSync(join(this.root, path), content);
    chmodSync(join(this.root, path), mode);
  }

  /** The same, compressed as `gzip -9n` does it. */
  gzip(path: string, content: string): void {
    this.write(`${path}.gz`, gzipSync(content, { level: 9 }));
  }

  copy(path: string, from: string, mode: 0o644 | 0o755 = 0o644): void {
    this.directory(dirname(path));
    copyFileSync(from, join(this.root, path));
    chmodSync(join(this.root, path), mode);
  }

  /** All files below a directory; those with an x bit are programs. */
  copyAll(path: string, from: string): void {
    for (const each of readdirSync(from, { recursive: true, withFileTypes: true })) {
      if (!each.isFile()) continue;
      const file = join(each.parentPath, each.name);
      this.copy(join(path, relative(from, file)), file, (lstatSync(file).mode & 0o100) === 0 ? 0o644 : 0o755);
    }
  }

  /** A link at `path` that says `to`. */
  link(path: string, to: string): void {
    this.directory(dirname(path));
    symlinkSync(to, join(this.root, path));
  }

  remove(path: string): void {
    rmSync(join(this.root, path));
  }

  read(path: string): string {
    return readFileSync(join(this.root, path), 'utf8');
  }

  /** Everything in it, sorted. */
  entries(): readonly Entry[] {
    return readdirSync(this.root, { recursive: true, encoding: 'utf8' })
      .sort()
      .map((path) => {
        const found = lstatSync(join(this.root, path));
        const kind = found.isDirectory() ? 'directory' : found.isSymbolicLink() ? 'link' : 'file';
        return { path, kind, sizeBytes: found.size };
      });
  }

  /** Gives everything the same time, in seconds since the epoch, and directories their mode. */
  seal(epoch: number): void {
    for (const { path, kind } of [...this.entries(), { path: '.', kind: 'directory' }]) {
      const full = join(this.root, path);
      if (kind === 'directory') chmodSync(full, 0o755);
      lutimesSync(full, epoch, epoch);
    }
  }
}

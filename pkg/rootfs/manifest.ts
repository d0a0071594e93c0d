/**
 * What is in a layer, written down while it is unpacked, so that `berth check` can tell years later whether it still
 * is.
 *
 * A power cut or a bad disk shows as empty, short or changed files under names that exist, and the digest of the
 * compressed blob says nothing about them. The manifest is a log: one record per thing done, in order; a later record
 * about a path replaces an earlier one. Records are text with NUL as the end, since paths are bytes:
 *
 *     f 644 0 0 1700000000 5 1234 9ae0daaf usr/bin/x\0   kind, mode (octal), uid, gid, mtime s and ns, size, crc32,
 *                                                       path
 *     l 777 0 0 1700000000 0 0 - usr/bin/y\0x\0          symlinks and hard links (h) add their target; c and b the
 *                                                       device "major:minor"
 *     R usr/lib/z\0                                      the tree at this path was removed
 *
 * crc32 finds what disks and power cuts do; who can write here as root and means harm could rewrite a stronger digest
 * as well. It runs at many GB/s, a second sha256 would be the most expensive part of unpacking. Sparse files have no
 * crc ('-').
 */
import { crc32 } from 'node:zlib';
import { RuntimeError } from '../base/errors.ts';
import { TextWriter } from './texts.ts';
import type { TarEntry } from './tar.ts';
import type { CopiedFile, NodeMetadata } from './node.ts';

/** Directory, file, symlink, hard link, character and block device, FIFO. */
export type RecordKind = 'd' | 'f' | 'l' | 'h' | 'c' | 'b' | 'p';

/** What a layer has at one path. */
export interface ManifestRecord {
  readonly kind: RecordKind;
  /** 07777 */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly mtimeSeconds: number;
  readonly mtimeNanos: number;
  readonly sizeBytes: number;
  /** undefined: not a regular file, or a sparse one. */
  readonly crc: number | undefined;
  /** Link target (byte string), or `major:minor`. */
  readonly target: string;
}

/** Of a hard link that gave its file nothing, and of every one that daemons before 2026-12 have written. */
const NOTHING_GIVEN: NodeMetadata = { mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanos: 0, xattrs: [] };

/** Collects records and hands them on in large pieces. Call `flush` at the end. */
export class ManifestWriter {
  readonly #texts: TextWriter;
  #crc = 0;

  constructor(write: (bytes: Buffer) => void) {
    this.#texts = new TextWriter(write);
  }

  directory(path: string, metadata: NodeMetadata): void {
    this.#add('d', path, metadata, 0, '-', undefined);
  }

  /** A file whose whole content is at hand. */
  file(path: string, entry: TarEntry, content: Uint8Array): void {
    this.#add('f', path, entry, entry.sizeBytes, hex(crc32(content)), undefined);
  }

  /** The next piece of the file that `endFile` will name. */
  content(bytes: Uint8Array): void {
    this.#crc = crc32(bytes, this.#crc);
  }

  endFile(path: string, entry: TarEntry): void {
    this.#add('f', path, entry, entry.sizeBytes, entry.sparse ? '-' : hex(this.#crc), undefined);
    this.#crc = 0;
  }

  copied(path: string, file: CopiedFile): void {
    this.#add('f', path, file, file.sizeBytes, hex(file.crc), undefined);
  }

  symlink(path: string, metadata: NodeMetadata, target: string): void {
    this.#add('l', path, metadata, 0, '-', target);
  }

  /** `metadata`: what the link gave to the file, under all its names; null for nothing. */
  hardlink(path: string, target: string, metadata: NodeMetadata | null): void {
    this.#add('h', path, metadata ?? NOTHING_GIVEN, 0, '-', target);
  }

  special(
    path: string,
    metadata: NodeMetadata,
    kind: 'character' | 'block' | 'fifo',
    major: number,
    minor: number,
  ): void {
    if (kind === 'fifo') this.#add('p', path, metadata, 0, '-', undefined);
    else this.#add(kind === 'character' ? 'c' : 'b', path, metadata, 0, '-', `${major}:${minor}`);
  }

  removed(path: string): void {
    this.#texts.add(`R ${path}\0`);
  }

  flush(): void {
    this.#texts.flush();
  }

  #add(
    kind: RecordKind,
    path: string,
    node: NodeMetadata,
    size: number,
    crc: string,
    target: string | undefined,
  ): void {
    const line =
      `${kind} ${node.mode.toString(8)} ${node.uid} ${node.gid} ${node.mtimeSeconds} ` +
      `${node.mtimeNanos} ${size} ${crc} ${path}\0`;
    this.#texts.add(target === undefined ? line : `${line}${target}\0`);
  }
}

/** What a damaged manifest is called. */
export const MANIFEST = 'the manifest of the layer';

/**
 * Replays a manifest: byte-string path → what should be there, of the paths that are `wanted`. `texts` are its
 * lines and targets, without their NULs. @throws DataLoss if it is damaged.
 */
export function replayManifest(
  texts: Iterable<string>,
  wanted: (path: string) => boolean = () => true,
): Map<string, ManifestRecord> {
  const records = new Map<string, ManifestRecord>();
  for (const { path, record } of recordsOf(texts)) {
    if (record === undefined) {
      removeTree(records, path);
      continue;
    }
    records.delete(path);
    if (wanted(path)) records.set(path, record);
  }
  return records;
}

/** The records of a manifest in their order, undefined where a tree was removed. @throws as replayManifest. */
export function* recordsOf(
  texts: Iterable<string>,
): Generator<{ readonly path: string; readonly record: ManifestRecord | undefined }, void, void> {
  const each = texts[Symbol.iterator]();
  for (let text = each.next(); text.done !== true; text = each.next()) {
    const line = text.value;
    if (line.startsWith('R ')) {
      yield { path: line.slice(2), record: undefined };
      continue;
    }
    const [path, record] = parseLine(line, () => {
      const target = each.next();
      if (target.done === true) throw damaged();
      return target.value;
    });
    yield { path, record };
  }
}

function damaged(): RuntimeError {
  return new RuntimeError('DataLoss', `${MANIFEST} is damaged`);
}

const LINE =
  /^([dflhcbp]) ([0-7]{1,4}) (\d{1,10}) (\d{1,10}) (-?\d{1,16}) (\d{1,9}) (\d{1,16}) (-|[0-9a-f]{8}) ([^]*)$/;

function parseLine(line: string, target: () => string): [path: string, record: ManifestRecord] {
  const match = LINE.exec(line);
  if (match === null) throw damaged();
  const [, kind = '', mode = '', uid, gid, seconds, nanos, size, crc = '', path = ''] = match;
  return [
    path,
    {
      kind: kind as RecordKind,
      mode: Number.parseInt(mode, 8),
      uid: Number(uid),
      gid: Number(gid),
      mtimeSeconds: Number(seconds),
      mtimeNanos: Number(nanos),
      sizeBytes: Number(size),
      crc: crc === '-' ? undefined : Number.parseInt(crc, 16),
      target: 'lhcb'.includes(kind) ? target() : '',
    },
  ];
}

function removeTree(records: Map<string, ManifestRecord>, path: string): void {
  const below = `${path}/`;
  for (const each of records.keys()) if (each === path || each.startsWith(below)) records.delete(each);
}

function hex(crc: number): string {
  return crc.toString(16).padStart(8, '0');
}

/**
 * PURE. A streaming tar reader for image layers: bytes in, entries and content out, nothing kept but one header.
 *
 * Reads what image builders have written over the years: old V7, ustar, star, PAX (POSIX.1-2001, with binary xattrs in
 * `SCHILY.xattr.*`), GNU long names, base-256 numbers, and GNU sparse files in all four forms. It is a push parser:
 * feed it chunks of any size; content is handed on as views of those chunks, never copied.
 *
 * Names are *byte strings*: JavaScript strings in which each character is one byte (latin1), because a file name is
 * bytes and need not be UTF-8. The reader does not interpret paths; `layer-writer.ts` does.
 *
 * Every number in a header is a claim by a stranger: nothing is allocated by claim beyond `TarLimits`, and a claim
 * that makes no sense ends the reading with an error that names the entry. Where two readers of the field disagree
 * this one refuses, except that it forgives what Go's archive/tar forgives (a missing end mark, garbage after it),
 * since every published image has been read by that one.
 */
import { type ErrorCode, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { ExtendedHeaders, type RecordKind, type TarXattr } from './tar-extended.ts';
import {
  BLOCK,
  cString,
  decimal,
  headerPath,
  isZero,
  numberField,
  padded,
  signedField,
  TarFault,
} from './tar-header.ts';
import { ContentParts, realSize, type SparseSource, sparseSource } from './tar-sparse.ts';

export type { TarXattr } from './tar-extended.ts';

/** What kind of thing an entry makes. */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** One entry, all headers that belong to it applied. */
export interface TarEntry {
  readonly type: TarType;
  /**
   * Byte string as written: may be absolute, have `..`, a trailing slash; never empty, no NUL, at most
   * `TarLimits.pathBytes`.
   */
  readonly path: string;
  /** Target of a hard link or symlink, same rules; empty for other types. */
  readonly linkPath: string;
  /** Permission bits with setuid, setgid and sticky (07777). */
  readonly mode: number;
  /** 0 to 2^32-2. */
  readonly uid: number;
  readonly gid: number;
  /** Logical size; 0 unless `type` is `file`. */
  readonly sizeBytes: number;
  readonly mtimeSeconds: number;
  /** 0 to 999 999 999, added to the seconds also when these are negative. */
  readonly mtimeNanos: number;
  readonly deviceMajor: number;
  readonly deviceMinor: number;
  readonly xattrs: readonly TarXattr[];
  /** True if the file has holes: it has to be extended to `sizeBytes` at the end. */
  readonly sparse: boolean;
}

/** Where entries go. For each entry: `entry`, then `data` any number of times (files only), then `end`. */
export interface TarSink {
  entry(entry: TarEntry): void;
  /** `bytes` belong at `offset` of the file; the view is valid during the call only. Offsets rise. */
  data(bytes: Uint8Array, offset: number): void;
  end(): void;
}

/** Bounds on what an archive may claim. */
export interface TarLimits {
  readonly entriesCount: number;
  /** Sum of the sizes of all files, holes included: whoever copies a sparse file may read all of it. */
  readonly contentBytes: number;
  /** One PAX header, GNU long name or sparse map. */
  readonly recordBytes: number;
  readonly pathBytes: number;
  /** Parts of one sparse file (CVE-2025-58183). */
  readonly sparsePartsCount: number;
}

/** (uid_t)-1 means "leave as is" to chown, so it can be no owner. */
const ID_MAX = 2 ** 32 - 2;

type State = 'header' | 'record' | 'sparseExtension' | 'sparseMap' | 'content' | 'padding' | 'ended';
const RECORDS: Readonly<Record<string, RecordKind>> = {
  x: 'pax',
  X: 'pax',
  L: 'gnuPath',
  K: 'gnuLink',
};

/** The reader. One use: `push` every chunk, then `finish`. After an error it is dead. */
export class TarReader {
  readonly #sink: TarSink;
  readonly #limits: TarLimits;
  readonly #headers: ExtendedHeaders;
  readonly #parts: ContentParts;
  readonly #scratch = Buffer.alloc(BLOCK);
  #scratchUsed = 0;
  #state: State = 'header';
  #zeroBlocks = 0;
  #paddingLeft = 0;
  #entry: TarEntry | undefined;
  /** Bytes of the entry's content still in the stream. */
  #contentLeft = 0;
  #afterContentPadding = 0;
  #entriesCount = 0;
  #contentBytes = 0;

  constructor(sink: TarSink, limits: TarLimits) {
    this.#sink = sink;
    this.#limits = limits;
    this.#headers = new ExtendedHeaders(limits);
    this.#parts = new ContentParts(limits);
  }

  /** Entries seen so far. */
  get entriesCount(): number {
    return this.#entriesCount;
  }

  /**
   * @throws DataLoss for a damaged archive, ResourceExhausted for a limit, Unimplemented for an unknown kind of entry;
   * what the sink throws passes through.
   */
  push(chunk: Buffer): void {
    try {
      for (let at = 0; at < chunk.length; ) at = this.#step(chunk, at);
    } catch (error) {
      throw error instanceof TarFault ? this.#error(error.code, error.message) : error;
    }
  }

  /** Call at the end of the stream. @throws DataLoss if it ended inside an entry. */
  finish(): void {
    if (this.#state === 'ended') return;
    // Some writers do not pad the last file.
    if ((this.#state !== 'header' && this.#state !== 'padding') || this.#scratchUsed > 0 || this.#headers.isExpecting)
      throw this.#error('DataLoss', 'the archive is cut short');
  }

  #step(chunk: Buffer, at: number): number {
    switch (this.#state) {
      case 'content':
        return this.#content(chunk, at);
      case 'padding': {
        const taken = Math.min(this.#paddingLeft, chunk.length - at);
        this.#paddingLeft -= taken;
        if (this.#paddingLeft === 0) this.#state = 'header';
        return at + taken;
      }
      case 'record':
        return this.#record(chunk, at);
      case 'header':
      case 'sparseExtension':
      case 'sparseMap':
        return this.#block(chunk, at);
      case 'ended':
        return chunk.length;
    }
  }

  /** One 512-byte block, assembled only if it straddles two chunks. */
  #block(chunk: Buffer, at: number): number {
    if (this.#scratchUsed === 0 && chunk.length - at >= BLOCK) {
      this.#onBlock(chunk.subarray(at, at + BLOCK));
      return at + BLOCK;
    }
    const taken = chunk.copy(this.#scratch, this.#scratchUsed, at, at + BLOCK - this.#scratchUsed);
    this.#scratchUsed += taken;
    if (this.#scratchUsed === BLOCK) {
      this.#scratchUsed = 0;
      this.#onBlock(this.#scratch);
    }
    return at + taken;
  }

  #onBlock(block: Buffer): void {
    if (this.#state === 'sparseExtension') this.#onSparseExtension(block);
    else if (this.#state === 'sparseMap') this.#onSparseMap(block);
    else this.#onHeader(block);
  }

  #onHeader(block: Buffer): void {
    if (isZero(block)) {
      if (this.#headers.isExpecting) throw this.#error('DataLoss', 'the archive ends after an extended header');
      this.#zeroBlocks++;
      if (this.#zeroBlocks === 2) this.#state = 'ended';
      return;
    }
    if (this.#zeroBlocks > 0) throw this.#error('DataLoss', 'a lone zero block lies between entries');
    this.#verifyChecksum(block);
    const flag = String.fromCharCode(block[156] ?? 0);
    const sizeBytes = numberField(block, 124, 12, 'size');
    const record = RECORDS[flag];
    if (record !== undefined) return this.#startRecord(record, sizeBytes);
    // The label of a tape, and what would be about all later entries: Go's reader, by which every published image has
    // been unpacked, goes by nothing of it.
    if (flag === 'V' || flag === 'g') return this.#skip(padded(sizeBytes));
    this.#startEntry(block, flag, sizeBytes);
  }

  #verifyChecksum(block: Buffer): void {
    let unsigned = 8 * 0x20;
    let high = 0;
    for (let i = 0; i < BLOCK; i++) {
      if (i >= 148 && i < 156) continue;
      const byte = block[i] as number;
      unsigned += byte;
      high += byte >> 7;
    }
    const claimed = numberField(block, 148, 8, 'checksum');
    // Old Sun tars added the bytes as signed.
    if (claimed !== unsigned && claimed !== unsigned - 256 * high)
      throw this.#error('DataLoss', 'the checksum of a header is wrong');
  }

  #startRecord(kind: RecordKind, sizeBytes: number): void {
    this.#headers.start(kind, sizeBytes);
    this.#state = 'record';
    if (sizeBytes === 0) this.#endRecord();
  }

  #record(chunk: Buffer, at: number): number {
    const end = this.#headers.collect(chunk, at);
    if (this.#headers.isWhole) this.#endRecord();
    return end;
  }

  #endRecord(): void {
    const bytes = this.#headers.finish();
    this.#skip(padded(bytes) - bytes);
  }

  #startEntry(block: Buffer, flag: string, headerSize: number): void {
    if (++this.#entriesCount > this.#limits.entriesCount) {
      throw this.#error('ResourceExhausted', `more than ${this.#limits.entriesCount} entries`);
    }
    const headers = this.#headers;
    const path = this.#name(
      headers.own('GNU.sparse.name') || headers.own('path') || headers.gnuPath || headerPath(block),
      'name',
    );
    const type = this.#type(flag, path);
    const isLink = type === 'hardlink' || type === 'symlink';
    const linkPath = isLink
      ? this.#name(headers.own('linkpath') || headers.gnuLink || cString(block, 157, 100), 'link target')
      : '';
    const storedBytes = decimal('size', headers.own('size')) ?? headerSize;
    const mtime = this.#mtime(block);
    const isDevice = type === 'character' || type === 'block';
    const sparse = type === 'file' ? sparseSource(block, flag, headers) : 'none';
    const entry: TarEntry = {
      type,
      path,
      linkPath,
      // The upper bits of the field are a file type in some writers.
      mode: numberField(block, 100, 8, 'mode') & 0o7777,
      uid: this.#id(block, 108, 'uid'),
      gid: this.#id(block, 116, 'gid'),
      sizeBytes: type !== 'file' ? 0 : sparse === 'none' ? storedBytes : realSize(block, sparse, headers),
      mtimeSeconds: mtime.seconds,
      mtimeNanos: mtime.nanos,
      deviceMajor: isDevice ? numberField(block, 329, 8, 'device') : 0,
      deviceMinor: isDevice ? numberField(block, 337, 8, 'device') : 0,
      xattrs: headers.xattrs(),
      sparse: sparse !== 'none',
    };
    this.#entry = entry;
    // Only files have content, whatever the size field says; but a GNU directory dump carries a listing.
    this.#contentLeft = type === 'file' || flag === 'D' ? storedBytes : 0;
    this.#afterContentPadding = padded(this.#contentLeft) - this.#contentLeft;
    if (type === 'file') this.#countContent(Math.max(storedBytes, entry.sizeBytes));
    this.#openContent(block, entry, sparse, flag);
  }

  /** Finds out where the content lies in the file, then hands the entry on. */
  #openContent(block: Buffer, entry: TarEntry, sparse: SparseSource, flag: string): void {
    this.#parts.clear();
    switch (sparse) {
      case 'none':
        this.#parts.whole(entry.sizeBytes);
        if (flag === 'D') return this.#skipDump(entry);
        return this.#emit(entry);
      case 'gnu':
        this.#parts.addGnu(block, 386, 4);
        if (block[482] === 1) this.#state = 'sparseExtension';
        else this.#emit(entry);
        return;
      case 'pax0':
        this.#parts.add(this.#headers.sparseNumbers);
        return this.#emit(entry);
      case 'pax1':
        this.#state = 'sparseMap';
        return;
    }
  }

  #skipDump(entry: TarEntry): void {
    const listing = this.#contentLeft + this.#afterContentPadding;
    this.#contentLeft = 0;
    this.#afterContentPadding = 0;
    this.#emit(entry);
    this.#skip(listing);
  }

  #emit(entry: TarEntry): void {
    if (entry.sparse) this.#parts.verify(entry.sizeBytes, this.#contentLeft);
    this.#headers.reset();
    this.#sink.entry(entry);
    if (this.#contentLeft === 0) this.#endEntry();
    else this.#state = 'content';
  }

  #content(chunk: Buffer, at: number): number {
    const { offset, length } = this.#parts.take(chunk.length - at);
    if (length > 0) this.#sink.data(chunk.subarray(at, at + length), offset);
    this.#contentLeft -= length;
    if (this.#contentLeft === 0) this.#endEntry();
    return at + length;
  }

  #endEntry(): void {
    this.#entry = undefined;
    this.#sink.end();
    this.#skip(this.#afterContentPadding);
  }

  #skip(bytes: number): void {
    this.#paddingLeft = bytes;
    this.#state = bytes > 0 ? 'padding' : 'header';
  }

  #countContent(bytes: number): void {
    this.#contentBytes += bytes;
    if (this.#contentBytes > this.#limits.contentBytes) {
      throw this.#error('ResourceExhausted', `the files hold more than ${this.#limits.contentBytes} bytes`);
    }
  }

  #type(flag: string, path: string): TarType {
    switch (flag) {
      case '\0':
      case '0':
        // Before ustar a trailing slash was all that told a directory.
        return path.endsWith('/') ? 'directory' : 'file';
      case '7':
      case 'S':
        return 'file';
      case '1':
        return 'hardlink';
      case '2':
        return 'symlink';
      case '3':
        return 'character';
      case '4':
        return 'block';
      case '5':
      case 'D':
        return 'directory';
      case '6':
        return 'fifo';
    }
    throw this.#error('Unimplemented', `the entry ${quote(path)} is of unknown type ${quote(flag)}`);
  }

  #name(name: string, what: string): string {
    if (name === '') throw this.#error('DataLoss', `an entry has an empty ${what}`);
    if (name.includes('\0')) throw this.#error('DataLoss', `a ${what} contains a NUL byte`);
    if (name.length > this.#limits.pathBytes) {
      throw this.#error(
        'ResourceExhausted',
        `a ${what} of ${name.length} bytes is over the limit of ${this.#limits.pathBytes}`,
      );
    }
    return name;
  }

  #id(block: Buffer, offset: number, key: 'uid' | 'gid'): number {
    const id = decimal(key, this.#headers.own(key)) ?? numberField(block, offset, 8, key);
    if (id > ID_MAX) throw this.#error('DataLoss', `${key} ${id} is no user or group id`);
    return id;
  }

  #mtime(block: Buffer): { readonly seconds: number; readonly nanos: number } {
    const text = this.#headers.own('mtime') ?? '';
    if (text === '') return { seconds: signedField(block, 136, 12, 'mtime'), nanos: 0 };
    const match = /^(-?)([0-9]{1,15})(?:\.([0-9]{0,64}))?$/.exec(text);
    if (match === null) throw this.#error('DataLoss', `mtime ${quote(text)} is not a time`);
    const seconds = Number(match[2]);
    const nanos = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
    if (match[1] === '') return { seconds, nanos };
    return nanos === 0 ? { seconds: -seconds, nanos: 0 } : { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos };
  }

  #onSparseExtension(block: Buffer): void {
    this.#parts.addGnu(block, 0, 21);
    if (block[504] !== 1) this.#emit(this.#entry as TarEntry);
  }

  #onSparseMap(block: Buffer): void {
    if (this.#contentLeft < BLOCK) throw this.#error('DataLoss', 'the map of a sparse file is cut short');
    this.#contentLeft -= BLOCK;
    if (this.#parts.addMapBlock(block) === 'whole') this.#emit(this.#entry as TarEntry);
  }

  #error(code: ErrorCode, message: string): RuntimeError {
    const where = this.#entry === undefined ? `after ${this.#entriesCount} entries` : `in ${quote(this.#entry.path)}`;
    return new RuntimeError(code, `tar: ${message} (${where})`);
  }
}

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
import {
  base256,
  BLOCK,
  cString,
  emptyPax,
  headerPath,
  isGnu,
  isZero,
  octal,
  padded,
  parsePax,
  PaxError,
  type PaxRecords,
} from './tar-header.ts';

/** What kind of thing an entry makes. */
export type TarType = 'file' | 'hardlink' | 'symlink' | 'character' | 'block' | 'directory' | 'fifo';

/** A run of bytes that a sparse file really has; the rest is holes. */
export interface SparsePart {
  readonly offset: number;
  readonly length: number;
}

export interface TarXattr {
  /** Byte string, without NUL, not empty. */
  readonly name: string;
  readonly value: Uint8Array;
}

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
const EMPTY: readonly TarXattr[] = [];

type State = 'header' | 'record' | 'sparseExtension' | 'sparseMap' | 'content' | 'padding' | 'ended';
type RecordKind = 'pax' | 'paxGlobal' | 'gnuPath' | 'gnuLink';

/** Headers that speak about the entry after them. */
interface Pending {
  pax: PaxRecords;
  gnuPath: string | undefined;
  gnuLink: string | undefined;
}

/** The reader. One use: `push` every chunk, then `finish`. After an error it is dead. */
export class TarReader {
  readonly #sink: TarSink;
  readonly #limits: TarLimits;
  readonly #global: PaxRecords = emptyPax();
  readonly #scratch = Buffer.alloc(BLOCK);
  #scratchUsed = 0;
  #state: State = 'header';
  #zeroBlocks = 0;
  #pending: Pending = { pax: emptyPax(), gnuPath: undefined, gnuLink: undefined };
  /** True between a header that speaks about the next entry and that entry. */
  #expecting = false;
  #record = Buffer.alloc(0);
  #recordUsed = 0;
  #recordKind: RecordKind = 'pax';
  #paddingLeft = 0;
  #entry: TarEntry | undefined;
  #parts: SparsePart[] = [];
  #partIndex = 0;
  #partUsed = 0;
  /** Bytes of the entry's content still in the stream. */
  #contentLeft = 0;
  #afterContentPadding = 0;
  #mapText = '';
  #mapLines = 0;
  #entriesCount = 0;
  #contentBytes = 0;

  constructor(sink: TarSink, limits: TarLimits) {
    this.#sink = sink;
    this.#limits = limits;
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
    let at = 0;
    while (at < chunk.length) at = this.#step(chunk, at);
  }

  /** Call at the end of the stream. @throws DataLoss if it ended inside an entry. */
  finish(): void {
    if (this.#state === 'ended') return;
    if (this.#state !== 'header' || this.#scratchUsed > 0 || this.#expecting)
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
        return this.#collect(chunk, at);
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
      if (this.#expecting) throw this.#error('DataLoss', 'the archive ends after an extended header');
      this.#zeroBlocks++;
      if (this.#zeroBlocks === 2) this.#state = 'ended';
      return;
    }
    if (this.#zeroBlocks > 0) throw this.#error('DataLoss', 'a lone zero block lies between entries');
    this.#verifyChecksum(block);
    const flag = String.fromCharCode(block[156] ?? 0);
    const sizeBytes = this.#number(block, 124, 12, 'size');
    switch (flag) {
      case 'x':
      case 'X':
        return this.#startRecord('pax', sizeBytes);
      case 'g':
        return this.#startRecord('paxGlobal', sizeBytes);
      case 'L':
        return this.#startRecord('gnuPath', sizeBytes);
      case 'K':
        return this.#startRecord('gnuLink', sizeBytes);
      case 'V': // The label of a tape.
        return this.#skip(padded(sizeBytes));
    }
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
    const claimed = this.#number(block, 148, 8, 'checksum');
    // Old Sun tars added the bytes as signed.
    if (claimed !== unsigned && claimed !== unsigned - 256 * high)
      throw this.#error('DataLoss', 'the checksum of a header is wrong');
  }

  #startRecord(kind: RecordKind, sizeBytes: number): void {
    if (sizeBytes > this.#limits.recordBytes) {
      throw this.#error(
        'ResourceExhausted',
        `an extended header of ${sizeBytes} bytes is over the limit of ${this.#limits.recordBytes}`,
      );
    }
    if (kind !== 'paxGlobal') this.#expecting = true;
    this.#recordKind = kind;
    this.#record = Buffer.alloc(sizeBytes);
    this.#recordUsed = 0;
    this.#state = 'record';
    if (sizeBytes === 0) this.#onRecord();
  }

  #collect(chunk: Buffer, at: number): number {
    const taken = chunk.copy(this.#record, this.#recordUsed, at, at + this.#record.length - this.#recordUsed);
    this.#recordUsed += taken;
    if (this.#recordUsed === this.#record.length) this.#onRecord();
    return at + taken;
  }

  #onRecord(): void {
    const record = this.#record;
    switch (this.#recordKind) {
      case 'pax':
        this.#pending.pax = this.#parsePax(record);
        break;
      case 'paxGlobal':
        this.#applyGlobal(this.#parsePax(record));
        break;
      case 'gnuPath':
        this.#pending.gnuPath = this.#longName(record);
        break;
      case 'gnuLink':
        this.#pending.gnuLink = this.#longName(record);
        break;
    }
    this.#record = Buffer.alloc(0);
    this.#skip(padded(record.length) - record.length);
  }

  #longName(record: Buffer): string {
    const nul = record.indexOf(0);
    if (nul < 0) return record.toString('latin1');
    for (let i = nul; i < record.length; i++)
      if (record[i] !== 0) throw this.#error('DataLoss', 'a name contains a NUL byte');
    return record.toString('latin1', 0, nul);
  }

  #parsePax(record: Buffer): PaxRecords {
    try {
      return parsePax(record, this.#limits.sparsePartsCount);
    } catch (error) {
      if (error instanceof PaxError) throw this.#error(error.code, error.message);
      throw error;
    }
  }

  #applyGlobal(records: PaxRecords): void {
    // One name, size or map for all later entries is nonsense that other readers ignore or obey as they like.
    for (const key of ['path', 'linkpath', 'size']) {
      if (records.values.has(key)) throw this.#error('DataLoss', `a global PAX header sets ${key}`);
    }
    if (
      records.sparseNumbers.length > 0 ||
      records.values.has('GNU.sparse.major') ||
      records.values.has('GNU.sparse.map')
    ) {
      throw this.#error('DataLoss', 'a global PAX header describes a sparse file');
    }
    for (const [key, value] of records.values) this.#global.values.set(key, value);
    for (const [name, value] of records.xattrs) this.#global.xattrs.set(name, value);
  }

  #startEntry(block: Buffer, flag: string, headerSize: number): void {
    if (++this.#entriesCount > this.#limits.entriesCount) {
      throw this.#error('ResourceExhausted', `more than ${this.#limits.entriesCount} entries`);
    }
    const { pax, gnuPath, gnuLink } = this.#pending;
    const path = this.#name(
      pax.values.get('GNU.sparse.name') || pax.values.get('path') || gnuPath || headerPath(block),
      'name',
    );
    const type = this.#type(flag, path);
    const isLink = type === 'hardlink' || type === 'symlink';
    const linkPath = isLink
      ? this.#name(pax.values.get('linkpath') || gnuLink || cString(block, 157, 100), 'link target')
      : '';
    const storedBytes = this.#paxNumber('size', pax.values.get('size')) ?? headerSize;
    const mtime = this.#mtime(block);
    const isDevice = type === 'character' || type === 'block';
    const sparse = type === 'file' ? this.#sparseSource(block, flag) : 'none';
    const entry: TarEntry = {
      type,
      path,
      linkPath,
      // The upper bits of the field are a file type in some writers.
      mode: this.#number(block, 100, 8, 'mode') & 0o7777,
      uid: this.#id(block, 108, 'uid'),
      gid: this.#id(block, 116, 'gid'),
      sizeBytes: type !== 'file' ? 0 : sparse === 'none' ? storedBytes : this.#realSize(block, sparse),
      mtimeSeconds: mtime.seconds,
      mtimeNanos: mtime.nanos,
      deviceMajor: isDevice ? this.#number(block, 329, 8, 'device') : 0,
      deviceMinor: isDevice ? this.#number(block, 337, 8, 'device') : 0,
      xattrs: this.#xattrs(),
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
    this.#parts = [];
    switch (sparse) {
      case 'none':
        if (entry.sizeBytes > 0) this.#parts.push({ offset: 0, length: entry.sizeBytes });
        if (flag === 'D') return this.#skipDump(entry);
        return this.#emit(entry);
      case 'gnu':
        this.#addGnuParts(block, 386, 4);
        if (block[482] === 1) this.#state = 'sparseExtension';
        else this.#emit(entry);
        return;
      case 'pax0':
        this.#addParts(this.#pending.pax.sparseNumbers);
        return this.#emit(entry);
      case 'pax1':
        this.#mapText = '';
        this.#mapLines = 0;
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
    if (entry.sparse) this.#verifyParts(entry);
    this.#partIndex = 0;
    this.#partUsed = 0;
    this.#pending = { pax: emptyPax(), gnuPath: undefined, gnuLink: undefined };
    this.#expecting = false;
    this.#sink.entry(entry);
    if (this.#contentLeft === 0) this.#endEntry();
    else this.#state = 'content';
  }

  #content(chunk: Buffer, at: number): number {
    const part = this.#parts[this.#partIndex];
    if (part === undefined) throw this.#error('DataLoss', 'more content than the sparse map has room for');
    const taken = Math.min(part.length - this.#partUsed, chunk.length - at);
    if (taken > 0) this.#sink.data(chunk.subarray(at, at + taken), part.offset + this.#partUsed);
    this.#partUsed += taken;
    this.#contentLeft -= taken;
    if (this.#partUsed === part.length) {
      this.#partIndex++;
      this.#partUsed = 0;
    }
    if (this.#contentLeft === 0) this.#endEntry();
    return at + taken;
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
    const id = this.#paxNumber(key, this.#pax(key)) ?? this.#number(block, offset, 8, key);
    if (id > ID_MAX) throw this.#error('DataLoss', `${key} ${id} is no user or group id`);
    return id;
  }

  #mtime(block: Buffer): { readonly seconds: number; readonly nanos: number } {
    const text = this.#pax('mtime');
    if (text === undefined) return { seconds: this.#signed(block, 136, 12, 'mtime'), nanos: 0 };
    const match = /^(-?)([0-9]{1,15})(?:\.([0-9]{0,64}))?$/.exec(text);
    if (match === null) throw this.#error('DataLoss', `mtime ${quote(text)} is not a time`);
    const seconds = Number(match[2]);
    const nanos = Number((match[3] ?? '').slice(0, 9).padEnd(9, '0'));
    if (match[1] === '') return { seconds, nanos };
    return nanos === 0 ? { seconds: -seconds, nanos: 0 } : { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos };
  }

  /** A PAX value of this entry or, failing that, of the global header; an empty one takes the global one back. */
  #pax(key: string): string | undefined {
    const own = this.#pending.pax.values.get(key);
    return own === undefined ? this.#global.values.get(key) || undefined : own || undefined;
  }

  #xattrs(): readonly TarXattr[] {
    const own = this.#pending.pax.xattrs;
    if (own.size === 0 && this.#global.xattrs.size === 0) return EMPTY;
    const merged = new Map([...this.#global.xattrs, ...own]);
    return [...merged].map(([name, value]) => ({ name, value }));
  }

  #paxNumber(key: string, text: string | undefined): number | undefined {
    if (text === undefined || text === '') return undefined;
    const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
    if (!Number.isSafeInteger(value)) throw this.#error('DataLoss', `${key} ${quote(text)} is not a number in range`);
    return value;
  }

  #number(block: Buffer, offset: number, length: number, what: string): number {
    const value = this.#signed(block, offset, length, what);
    if (value < 0) throw this.#error('DataLoss', `a header has the negative ${what} ${value}`);
    return value;
  }

  #signed(block: Buffer, offset: number, length: number, what: string): number {
    const value =
      ((block[offset] as number) & 0x80) !== 0 ? base256(block, offset, length) : octal(block, offset, length);
    if (value === undefined) throw this.#error('DataLoss', `the ${what} of a header is not a number in range`);
    return value;
  }

  #sparseSource(block: Buffer, flag: string): SparseSource {
    if (flag === 'S') {
      if (!isGnu(block)) throw this.#error('DataLoss', 'a sparse file in a header that is not GNU');
      return 'gnu';
    }
    const { values, sparseNumbers } = this.#pending.pax;
    const major = values.get('GNU.sparse.major');
    if (major === undefined) return sparseNumbers.length > 0 || values.has('GNU.sparse.numblocks') ? 'pax0' : 'none';
    const version = `${major}.${values.get('GNU.sparse.minor') ?? ''}`;
    if (version === '1.0') return 'pax1';
    if (version === '0.0' || version === '0.1') return 'pax0';
    throw this.#error('Unimplemented', `sparse files of version ${quote(version)} are unknown`);
  }

  #realSize(block: Buffer, sparse: SparseSource): number {
    if (sparse === 'gnu') return this.#number(block, 483, 12, 'real size');
    const { values } = this.#pending.pax;
    const size = this.#paxNumber('real size', values.get('GNU.sparse.realsize') ?? values.get('GNU.sparse.size'));
    if (size === undefined) throw this.#error('DataLoss', 'a sparse file has no real size');
    return size;
  }

  #onSparseExtension(block: Buffer): void {
    const entry = this.#entry as TarEntry;
    this.#addGnuParts(block, 0, 21);
    if (block[504] !== 1) this.#emit(entry);
  }

  #addGnuParts(block: Buffer, offset: number, count: number): void {
    for (let i = 0; i < count; i++) {
      const at = offset + i * 24;
      if (block[at] === 0) return;
      this.#addParts([this.#number(block, at, 12, 'sparse offset'), this.#number(block, at + 12, 12, 'sparse length')]);
    }
  }

  #addParts(numbers: readonly number[]): void {
    if (numbers.length % 2 !== 0) throw this.#error('DataLoss', 'the map of a sparse file has an odd number of values');
    if (this.#parts.length + numbers.length / 2 > this.#limits.sparsePartsCount) {
      throw this.#error('ResourceExhausted', `a sparse file has more than ${this.#limits.sparsePartsCount} parts`);
    }
    for (let i = 0; i < numbers.length; i += 2)
      this.#parts.push({ offset: numbers[i] as number, length: numbers[i + 1] as number });
  }

  /**
   * PAX 1.0: the map is decimal lines in front of the content, padded to a block: count, then offset and length of each
   * part.
   */
  #onSparseMap(block: Buffer): void {
    if (this.#contentLeft < BLOCK) throw this.#error('DataLoss', 'the map of a sparse file is cut short');
    this.#contentLeft -= BLOCK;
    this.#mapText += block.toString('latin1');
    for (const byte of block) if (byte === 0x0a) this.#mapLines++;
    if (this.#mapText.length > this.#limits.recordBytes) {
      throw this.#error('ResourceExhausted', `the map of a sparse file is over ${this.#limits.recordBytes} bytes`);
    }
    if (this.#mapLines === 0) throw this.#error('DataLoss', 'the map of a sparse file does not start with a count');
    const count = this.#paxNumber('sparse part count', this.#mapText.slice(0, this.#mapText.indexOf('\n'))) ?? 0;
    if (count > this.#limits.sparsePartsCount) {
      throw this.#error('ResourceExhausted', `a sparse file has more than ${this.#limits.sparsePartsCount} parts`);
    }
    if (this.#mapLines < 2 * count + 1) return;
    const lines = this.#mapText.split('\n', 2 * count + 1);
    const numbers = lines.slice(1).map((line) => this.#paxNumber('sparse map value', line));
    this.#addParts(numbers.map((value) => value ?? this.#fail('the map of a sparse file has an empty value')));
    this.#mapText = '';
    this.#emit(this.#entry as TarEntry);
  }

  #fail(message: string): never {
    throw this.#error('DataLoss', message);
  }

  /** Parts in order, apart, inside the file, and as long together as the content in the stream. */
  #verifyParts(entry: TarEntry): void {
    let end = 0;
    let total = 0;
    for (const { offset, length } of this.#parts) {
      if (offset < end || offset + length > entry.sizeBytes)
        throw this.#error('DataLoss', 'the map of a sparse file is out of order or out of range');
      end = offset + length;
      total += length;
    }
    if (total !== this.#contentLeft)
      throw this.#error('DataLoss', 'the map of a sparse file does not match its content');
    // GNU tar ends maps with an empty part that only marks the size.
    this.#parts = this.#parts.filter(({ length }) => length > 0);
  }

  #error(code: ErrorCode, message: string): RuntimeError {
    const where = this.#entry === undefined ? `after ${this.#entriesCount} entries` : `in ${quote(this.#entry.path)}`;
    return new RuntimeError(code, `tar: ${message} (${where})`);
  }
}

type SparseSource = 'none' | 'gnu' | 'pax0' | 'pax1';

/**
 * PURE. The headers that speak about the entry after them: PAX (`x`) and GNU's long names (`L`, `K`). Used by tar.ts
 * alone.
 *
 * They are the only part of a tar that is kept, so each byte of them is bounded: a record by `recordBytes`, of which
 * two at the most are held at once.
 */
import { BLOCK, TarFault } from './tar-header.ts';

/** An extended attribute. */
export interface TarXattr {
  /** Byte string, without NUL, not empty. */
  readonly name: string;
  /** A view that is valid until the end of the entry. */
  readonly value: Uint8Array;
}

/** What an extended header is. */
export type RecordKind = 'pax' | 'gnuPath' | 'gnuLink';

/** Bounds on extended headers. */
export interface ExtendedLimits {
  /** One PAX header or GNU long name. */
  readonly recordBytes: number;
  /** Parts of one sparse file (CVE-2025-58183). */
  readonly sparsePartsCount: number;
}

/** What PAX says, keyed by what this reader knows; the rest is nobody's. */
interface PaxRecords {
  readonly values: ReadonlyMap<string, string>;
  readonly xattrs: ReadonlyMap<string, Uint8Array>;
  /** Offsets and lengths of sparse formats 0.0 and 0.1, alternating. */
  readonly sparseNumbers: readonly number[];
}

const XATTR_PREFIX = 'SCHILY.xattr.';
/** Linux' XATTR_SIZE_MAX and XATTR_NAME_MAX: what is larger cannot be set. */
const XATTR_VALUE_MAX = 65_536;
const XATTR_NAME_MAX = 255;
const NO_XATTRS: readonly TarXattr[] = [];
const NO_PAX: PaxRecords = { values: new Map(), xattrs: new Map(), sparseNumbers: [] };
/** The values that are read, of an entry's own header. */
const KEYS: ReadonlySet<string> = new Set([
  'path',
  'linkpath',
  'size',
  'uid',
  'gid',
  'mtime',
  'GNU.sparse.name',
  'GNU.sparse.major',
  'GNU.sparse.minor',
  'GNU.sparse.realsize',
  'GNU.sparse.size',
  'GNU.sparse.numblocks',
]);
/** Collects extended headers, and answers for the entry that they are about. */
export class ExtendedHeaders {
  readonly #limits: ExtendedLimits;
  #pax: PaxRecords = NO_PAX;
  #gnuPath: string | undefined;
  #gnuLink: string | undefined;
  #isExpecting = false;
  /** The record being collected; an entry's own attributes are views of the first, so the second is for the others. */
  #own = Buffer.alloc(BLOCK);
  #other = Buffer.alloc(BLOCK);
  #record = this.#own.subarray(0, 0);
  #used = 0;
  #kind: RecordKind = 'pax';

  constructor(limits: ExtendedLimits) {
    this.#limits = limits;
  }

  /** True between a header that speaks about the next entry and that entry. */
  get isExpecting(): boolean {
    return this.#isExpecting;
  }

  /** A header of `sizeBytes` begins. @throws TarFault (ResourceExhausted) for more than is read. */
  start(kind: RecordKind, sizeBytes: number): void {
    if (sizeBytes > this.#limits.recordBytes)
      throw new TarFault(
        'ResourceExhausted',
        `an extended header of ${sizeBytes} bytes is over the limit of ${this.#limits.recordBytes}`,
      );
    this.#isExpecting = true;
    this.#kind = kind;
    this.#used = 0;
    if (kind === 'pax') this.#own = roomFor(this.#own, sizeBytes);
    else this.#other = roomFor(this.#other, sizeBytes);
    this.#record = (kind === 'pax' ? this.#own : this.#other).subarray(0, sizeBytes);
  }

  /** Takes what belongs to the header from `at` on; where the rest begins. Done when `isWhole`. */
  collect(chunk: Buffer, at: number): number {
    const taken = chunk.copy(this.#record, this.#used, at, at + this.#record.length - this.#used);
    this.#used += taken;
    return at + taken;
  }

  get isWhole(): boolean {
    return this.#used === this.#record.length;
  }

  /** The header is whole: reads it. Returns its length. @throws TarFault for a damaged one. */
  finish(): number {
    switch (this.#kind) {
      case 'pax':
        this.#pax = parsePax(this.#record, this.#limits.sparsePartsCount);
        break;
      case 'gnuPath':
        this.#gnuPath = longName(this.#record);
        break;
      case 'gnuLink':
        this.#gnuLink = longName(this.#record);
        break;
    }
    return this.#record.length;
  }

  /** The entry that the headers were about has begun: the next one has none. */
  reset(): void {
    this.#pax = NO_PAX;
    this.#gnuPath = undefined;
    this.#gnuLink = undefined;
    this.#isExpecting = false;
  }

  /** A PAX value of this entry. */
  own(key: string): string | undefined {
    return this.#pax.values.get(key);
  }

  get gnuPath(): string | undefined {
    return this.#gnuPath;
  }

  get gnuLink(): string | undefined {
    return this.#gnuLink;
  }

  get sparseNumbers(): readonly number[] {
    return this.#pax.sparseNumbers;
  }

  xattrs(): readonly TarXattr[] {
    const own = this.#pax.xattrs;
    return own.size === 0 ? NO_XATTRS : [...own].map(([name, value]) => ({ name, value }));
  }
}

function roomFor(buffer: Buffer<ArrayBuffer>, bytes: number): Buffer<ArrayBuffer> {
  return buffer.length >= bytes ? buffer : Buffer.alloc(bytes);
}

function longName(record: Buffer): string {
  const nul = record.indexOf(0);
  if (nul < 0) return record.toString('latin1');
  for (let i = nul; i < record.length; i++)
    if (record[i] !== 0) throw new TarFault('DataLoss', 'a name contains a NUL byte');
  return record.toString('latin1', 0, nul);
}

/** Records of the form `<length> <key>=<value>\n`; the length counts the whole record and values are binary. */
function parsePax(record: Buffer, sparsePartsMax: number): PaxRecords {
  const values = new Map<string, string>();
  const xattrs = new Map<string, Uint8Array>();
  const numbers = new SparseNumbers(sparsePartsMax);
  for (let at = 0; at < record.length; ) {
    const { key, valueStart, end } = paxRecord(record, at);
    at = end + 1;
    if (key.startsWith(XATTR_PREFIX)) {
      xattrs.set(xattrName(key), xattrValue(key, record.subarray(valueStart, end)));
    } else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
      numbers.add(key, record.toString('latin1', valueStart, end));
    } else if (key === 'GNU.sparse.map') {
      numbers.replace(record.toString('latin1', valueStart, end));
      values.set('GNU.sparse.numblocks', '');
    } else if (KEYS.has(key)) {
      values.set(key, record.toString('latin1', valueStart, end));
    }
  }
  return { values, xattrs, sparseNumbers: numbers.all };
}

function xattrName(key: string): string {
  const name = key.slice(XATTR_PREFIX.length);
  if (name === '') throw new TarFault('DataLoss', 'an extended attribute has no name');
  if (name.length > XATTR_NAME_MAX)
    throw new TarFault(
      'DataLoss',
      `an extended attribute has a name of ${name.length} bytes; Linux takes ${XATTR_NAME_MAX}`,
    );
  return name;
}

function xattrValue(key: string, value: Uint8Array): Uint8Array {
  if (value.length > XATTR_VALUE_MAX)
    throw new TarFault(
      'DataLoss',
      `the extended attribute ${key.slice(XATTR_PREFIX.length)} has ${value.length} bytes; ` +
        `Linux takes ${XATTR_VALUE_MAX}`,
    );
  return value;
}

/** The map of a sparse file as formats 0.0 (offset and length in turn) and 0.1 (one list) give it. */
class SparseNumbers {
  readonly #partsMax: number;
  readonly #numbers: number[] = [];

  constructor(partsMax: number) {
    this.#partsMax = partsMax;
  }

  get all(): readonly number[] {
    return this.#numbers;
  }

  add(key: 'GNU.sparse.offset' | 'GNU.sparse.numbytes', text: string): void {
    // An offset that comes twice in a row would shift the rest.
    if ((this.#numbers.length % 2 === 0) !== (key === 'GNU.sparse.offset'))
      throw new TarFault('DataLoss', 'the map of a sparse file is out of order');
    this.#push(text);
  }

  replace(list: string): void {
    this.#numbers.length = 0;
    if (list === '') return;
    for (const text of list.split(',', 2 * this.#partsMax + 1)) this.#push(text);
  }

  #push(text: string): void {
    if (!/^[0-9]{1,15}$/.test(text))
      throw new TarFault('DataLoss', 'the map of a sparse file has a value that is no number');
    if (this.#numbers.length >= 2 * this.#partsMax)
      throw new TarFault('ResourceExhausted', `a sparse file has more than ${this.#partsMax} parts`);
    this.#numbers.push(Number(text));
  }
}

function paxRecord(
  record: Buffer,
  at: number,
): { readonly key: string; readonly valueStart: number; readonly end: number } {
  const bad = (): TarFault => new TarFault('DataLoss', 'a PAX header is damaged');
  let length = 0;
  let i = at;
  for (; i < record.length && i < at + 8; i++) {
    const digit = (record[i] as number) - 0x30;
    if (digit < 0 || digit > 9) break;
    length = length * 10 + digit;
  }
  const end = at + length - 1;
  if (i === at || record[i] !== 0x20 || end <= i || end >= record.length || record[end] !== 0x0a) throw bad();
  const equals = record.indexOf(0x3d, i + 1);
  if (equals < 0 || equals >= end || equals === i + 1) throw bad();
  const key = record.toString('latin1', i + 1, equals);
  if (key.includes('\0')) throw bad();
  return { key, valueStart: equals + 1, end };
}

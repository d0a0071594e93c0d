/**
 * PURE. The parts of a tar header: fields of the 512-byte block, and the records of PAX headers. Used by tar.ts alone.
 */
import type { ErrorCode } from '../base/errors.ts';

/** Everything in a tar is padded to this. */
export const BLOCK = 512;

export interface PaxRecords {
  /** Byte strings; keys that nobody reads are kept too, they are bounded by the record. */
  readonly values: Map<string, string>;
  readonly xattrs: Map<string, Uint8Array>;
  /** Offsets and lengths of sparse formats 0.0 and 0.1, alternating. */
  readonly sparseNumbers: readonly number[];
}

export class PaxError extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

export function emptyPax(): PaxRecords {
  return { values: new Map(), xattrs: new Map(), sparseNumbers: [] };
}

const XATTR_PREFIX = 'SCHILY.xattr.';

/** Records of the form `<length> <key>=<value>\n`; the length counts the whole record and values are binary. */
export function parsePax(record: Buffer, sparsePartsMax: number): PaxRecords {
  const values = new Map<string, string>();
  const xattrs = new Map<string, Uint8Array>();
  const sparseNumbers: number[] = [];
  const addNumber = (text: string): void => {
    if (!/^[0-9]{1,15}$/.test(text))
      throw new PaxError('DataLoss', 'the map of a sparse file has a value that is no number');
    if (sparseNumbers.length >= 2 * sparsePartsMax)
      throw new PaxError('ResourceExhausted', `a sparse file has more than ${sparsePartsMax} parts`);
    sparseNumbers.push(Number(text));
  };
  for (let at = 0; at < record.length; ) {
    const { key, valueStart, end } = paxRecord(record, at);
    if (key.startsWith(XATTR_PREFIX)) {
      const name = key.slice(XATTR_PREFIX.length);
      if (name === '') throw new PaxError('DataLoss', 'an extended attribute has no name');
      xattrs.set(name, Uint8Array.prototype.slice.call(record, valueStart, end));
    } else if (key === 'GNU.sparse.offset' || key === 'GNU.sparse.numbytes') {
      // 0.0 repeats these two in turn; an offset that comes twice in a row would shift the rest.
      if ((sparseNumbers.length % 2 === 0) !== (key === 'GNU.sparse.offset'))
        throw new PaxError('DataLoss', 'the map of a sparse file is out of order');
      addNumber(record.toString('latin1', valueStart, end));
    } else if (key === 'GNU.sparse.map') {
      sparseNumbers.length = 0;
      for (const number of commaParts(record.toString('latin1', valueStart, end), 2 * sparsePartsMax + 1))
        addNumber(number);
      values.set('GNU.sparse.numblocks', '');
    } else {
      values.set(key, record.toString('latin1', valueStart, end));
    }
    at = end + 1;
  }
  return { values, xattrs, sparseNumbers };
}

function commaParts(text: string, max: number): string[] {
  return text === '' ? [] : text.split(',', max);
}

function paxRecord(
  record: Buffer,
  at: number,
): { readonly key: string; readonly valueStart: number; readonly end: number } {
  const bad = (): PaxError => new PaxError('DataLoss', 'a PAX header is damaged');
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

export function padded(bytes: number): number {
  return Math.ceil(bytes / BLOCK) * BLOCK;
}

export function isZero(block: Buffer): boolean {
  for (let i = 0; i < BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

/** The bytes up to the first NUL. */
export function cString(block: Buffer, offset: number, length: number): string {
  const nul = block.indexOf(0, offset);
  return block.toString('latin1', offset, nul >= 0 && nul < offset + length ? nul : offset + length);
}

export function isGnu(block: Buffer): boolean {
  return block.toString('latin1', 257, 265) === 'ustar  \0';
}

/** POSIX and star put what does not fit the name into a prefix; in GNU headers the same bytes are times. */
export function headerPath(block: Buffer): string {
  const name = cString(block, 0, 100);
  if (block.toString('latin1', 257, 263) !== 'ustar\0') return name;
  const isStar = block.toString('latin1', 508, 512) === 'tar\0';
  const prefix = cString(block, 345, isStar ? 131 : 155);
  return prefix === '' ? name : `${prefix}/${name}`;
}

/** Octal digits with blanks or NULs around them; a blank field is 0. Undefined if it is anything else. */
export function octal(block: Buffer, offset: number, length: number): number | undefined {
  let i = offset;
  let end = offset + length;
  while (i < end && (block[i] === 0x20 || block[i] === 0)) i++;
  while (end > i && (block[end - 1] === 0x20 || block[end - 1] === 0)) end--;
  let value = 0;
  for (; i < end; i++) {
    const byte = block[i] as number;
    // Some writers leave rubbish after the terminator; the number ends there.
    if (byte === 0 || byte === 0x20) return value;
    if (byte < 0x30 || byte > 0x37) return undefined;
    value = value * 8 + (byte - 0x30);
  }
  return value;
}

/** GNU's binary form: the top bit marks it, the next one is the sign, two's complement, big endian. */
export function base256(block: Buffer, offset: number, length: number): number | undefined {
  const first = block[offset] as number;
  const isNegative = (first & 0x40) !== 0;
  let value = isNegative ? BigInt(first) - 256n : BigInt(first & 0x7f);
  for (let i = offset + 1; i < offset + length; i++) value = value * 256n + BigInt(block[i] as number);
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : undefined;
}

/** PURE. The fields of a tar header's 512-byte block. Used by the readers of tar.ts alone. */
import type { ErrorCode } from '../base/errors.ts';
import { quote } from '../base/ids.ts';

/** Everything in a tar is padded to this. */
export const BLOCK = 512;

/** What is wrong, before the reader adds where. */
export class TarFault extends Error {
  readonly code: ErrorCode;
  constructor(code: ErrorCode, message: string) {
    super(message);
    this.code = code;
  }
}

/** A decimal number of an extended header; undefined if there is none. @throws TarFault for anything else. */
export function decimal(what: string, text: string | undefined): number | undefined {
  if (text === undefined || text === '') return undefined;
  const value = /^[0-9]{1,16}$/.test(text) ? Number(text) : Number.NaN;
  if (!Number.isSafeInteger(value)) throw new TarFault('DataLoss', `${what} ${quote(text)} is not a number in range`);
  return value;
}

/** A number field of a header, octal or binary. @throws TarFault if it is neither. */
export function signedField(block: Buffer, offset: number, length: number, what: string): number {
  const value =
    ((block[offset] as number) & 0x80) !== 0 ? base256(block, offset, length) : octal(block, offset, length);
  if (value === undefined) throw new TarFault('DataLoss', `the ${what} of a header is not a number in range`);
  return value;
}

/** The same for what cannot be below zero. */
export function numberField(block: Buffer, offset: number, length: number, what: string): number {
  const value = signedField(block, offset, length, what);
  if (value < 0) throw new TarFault('DataLoss', `a header has the negative ${what} ${value}`);
  return value;
}

/** To the end of the last block. */
export function padded(bytes: number): number {
  return Math.ceil(bytes / BLOCK) * BLOCK;
}

/** A block of nothing but zeros: two of them end an archive. */
export function isZero(block: Buffer): boolean {
  for (let i = 0; i < BLOCK; i++) if (block[i] !== 0) return false;
  return true;
}

/** The bytes up to the first NUL. */
export function cString(block: Buffer, offset: number, length: number): string {
  const nul = block.indexOf(0, offset);
  return block.toString('latin1', offset, nul >= 0 && nul < offset + length ? nul : offset + length);
}

/** A header in GNU's own format, older than PAX. */
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
function octal(block: Buffer, offset: number, length: number): number | undefined {
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
function base256(block: Buffer, offset: number, length: number): number | undefined {
  const first = block[offset] as number;
  const isNegative = (first & 0x40) !== 0;
  let value = isNegative ? BigInt(first) - 256n : BigInt(first & 0x7f);
  for (let i = offset + 1; i < offset + length; i++) value = value * 256n + BigInt(block[i] as number);
  const number = Number(value);
  return Number.isSafeInteger(number) ? number : undefined;
}

/**
 * The protobuf wire format (protobuf.dev/programming-guides/encoding), as much of proto3 as CRI uses, exact for
 * 64-bit values. `cri/codec.ts` drives it by the schema.
 *
 * Two decisions that are easy to undo by accident:
 * - int64 and uint64 are `bigint` all the way: a timestamp in nanoseconds does not fit a JavaScript number.
 * - the writer fills its buffer from the end towards the start. A nested message then needs no second pass to know its
 *   length: by the time the length is written, the message is. Fields are written last to first.
 *
 * Malformed input is an InvalidArgument error. A value that does not fit its field when writing is an Internal one:
 * silence would send a wrong number.
 */
import { discard } from '../pkg/base/bytes.ts';
import { quote } from '../pkg/base/ids.ts';
import { RuntimeError } from '../pkg/base/errors.ts';

const TWO_TO_32 = 0x1_0000_0000;
const SAFE = BigInt(Number.MAX_SAFE_INTEGER);
const WIRE = { varint: 0, fixed64: 1, bytes: 2, fixed32: 5 } as const;

/** A message has more fields than may be read; which it was, who reads the message knows. */
export class TooManyFields extends Error {
  /** Names of the fields in which it was, the outermost first. */
  readonly path: readonly string[];

  constructor(path: readonly string[] = []) {
    super('too many fields');
    this.path = path;
  }
}

/** Reads values one after the other out of a buffer. */
export class Reader {
  readonly #bytes: Buffer;
  #at = 0;
  #end: number;
  /** The two halves of the varint that was read last, both unsigned. */
  #low = 0;
  #high = 0;

  /** How many more fields may be read: what a message costs depends on these. */
  #fieldsLeft: number;

  constructor(bytes: Uint8Array, fieldsMax: number) {
    this.#fieldsLeft = fieldsMax;
    this.#bytes = Buffer.isBuffer(bytes) ? bytes : Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    this.#end = bytes.byteLength;
  }

  /** True while the current message has fields left. */
  more(): boolean {
    return this.#at < this.#end;
  }

  /** The next field's number and wire type, as `number * 8 + wire`. */
  tag(): number {
    this.count(1);
    this.#varint();
    if (this.#high !== 0 || this.#low < 8) throw this.#malformed('field number out of range');
    return this.#low;
  }

  /** So much more was read, in fields. @throws TooManyFields */
  count(fields: number): void {
    this.#fieldsLeft -= fields;
    if (this.#fieldsLeft < 0) throw new TooManyFields();
  }

  skip(tag: number): void {
    switch (tag & 7) {
      case WIRE.varint:
        this.#varint();
        break;
      case WIRE.fixed64:
        this.#take(8);
        break;
      case WIRE.bytes:
        this.#take(this.#length());
        break;
      case WIRE.fixed32:
        this.#take(4);
        break;
      default:
        throw this.#malformed(`wire type ${tag & 7} in field ${tag >>> 3}`);
    }
  }

  bool(): boolean {
    this.#varint();
    return this.#low !== 0 || this.#high !== 0;
  }

  int32(): number {
    this.#varint();
    return this.#low | 0;
  }

  uint32(): number {
    this.#varint();
    return this.#low;
  }

  int64(): bigint {
    this.#varint();
    return BigInt.asIntN(64, this.#wide());
  }

  uint64(): bigint {
    this.#varint();
    return this.#wide();
  }

  double(): number {
    return this.#bytes.readDoubleLE(this.#take(8));
  }

  /** @throws InvalidArgument for bytes that are not UTF-8, as every protobuf library does for proto3 strings. */
  string(): string {
    const length = this.#length();
    const start = this.#take(length);
    const text = this.#bytes.toString('utf8', start, this.#at);
    // Node replaces bad bytes instead of refusing them; the mark it leaves may also be what the sender wrote.
    if (text.includes('\ufffd') && Buffer.compare(Buffer.from(text), this.#bytes.subarray(start, this.#at)) !== 0)
      throw this.#malformed('string is not UTF-8');
    return text;
  }

  /** A copy: a view would keep the whole request alive. */
  bytes(): Uint8Array {
    const length = this.#length();
    const start = this.#take(length);
    return new Uint8Array(this.#bytes.subarray(start, this.#at));
  }

  /** Runs `read` on the nested message that begins here; within it, `more` is about that message. */
  message<T>(read: (r: Reader) => T): T {
    const outer = this.#end;
    const length = this.#length();
    if (length > outer - this.#at) throw this.#malformed('message is cut off');
    this.#end = this.#at + length;
    const message = read(this);
    this.#end = outer;
    return message;
  }

  #wide(): bigint {
    // Up to 2^53 one conversion from a double is exact and twice as fast.
    return this.#high < 0x20_0000
      ? BigInt(this.#high * TWO_TO_32 + this.#low)
      : (BigInt(this.#high) << 32n) | BigInt(this.#low);
  }

  #length(): number {
    this.#varint();
    if (this.#high !== 0) throw this.#malformed('length is absurd');
    return this.#low;
  }

  /** Moves past `count` bytes; returns where they start. */
  #take(count: number): number {
    const start = this.#at;
    if (count > this.#end - start) throw this.#malformed('field is cut off');
    this.#at = start + count;
    return start;
  }

  #varint(): void {
    let low = 0;
    let high = 0;
    for (let shift = 0; shift < 70; shift += 7) {
      if (this.#at >= this.#end) throw this.#malformed('number is cut off');
      const byte = this.#bytes[this.#at++] as number;
      const bits = byte & 0x7f;
      if (shift < 28) low |= bits << shift;
      else if (shift === 28) {
        low |= bits << 28;
        high = bits >>> 4;
      } else high |= bits << (shift - 32);
      if (byte < 0x80) {
        this.#low = low >>> 0;
        this.#high = high >>> 0;
        return;
      }
    }
    throw this.#malformed('number has more than ten bytes');
  }

  #malformed(what: string): RuntimeError {
    return new RuntimeError('InvalidArgument', `not a valid protobuf message: ${what} at byte ${this.#at}`);
  }
}

/** Most messages fit, and are written without a second buffer. */
const INITIAL_BYTES = 16 * 1024;
/** What a list of a hundred pods takes; what is larger is given back after the message. */
const KEPT_BYTES = 256 * 1024;
/** Up to here a loop in JavaScript is quicker than a call of Node's encoder. */
const SHORT_TEXT_CHARS = 48;

/** Writes values last to first, from the end of its buffer towards the start; so a tag is written after its value. */
export class Writer {
  #bytes = Buffer.allocUnsafe(INITIAL_BYTES);
  #at = INITIAL_BYTES;

  /** A copy of what was written. */
  copy(allocate: (size: number) => Buffer): Buffer {
    const message = allocate(this.size);
    this.#bytes.copy(message, 0, this.#at);
    return message;
  }

  /** What was written, for a message that is sent soon: a huge one is given away with its memory, not copied. */
  take(): Buffer {
    if (this.#bytes.length <= KEPT_BYTES) return this.copy((size) => Buffer.allocUnsafe(size));
    const message = this.#bytes.subarray(this.#at);
    this.#begin();
    return message;
  }

  /** Makes it ready for the next message; gives back memory that a huge one took. */
  clear(): void {
    if (this.#bytes.length > KEPT_BYTES) {
      discard(this.#bytes);
      this.#begin();
    }
    this.#at = this.#bytes.length;
  }

  #begin(): void {
    this.#bytes = Buffer.allocUnsafe(INITIAL_BYTES);
    this.#at = INITIAL_BYTES;
  }

  tag(tag: number): void {
    this.#varint(tag);
  }

  string(text: string): void {
    const before = this.size;
    if (text.length > SHORT_TEXT_CHARS || !this.#shortAscii(text)) {
      const length = Buffer.byteLength(text);
      this.#room(length);
      this.#at -= length;
      this.#bytes.write(text, this.#at, length, 'utf8');
    }
    this.#varint(this.size - before);
  }

  bytes(value: Uint8Array): void {
    this.#room(value.length);
    this.#at -= value.length;
    this.#bytes.set(value, this.#at);
    this.#varint(value.length);
  }

  int32(value: number): void {
    if ((value | 0) !== value) throw misfit(value, 'int32');
    // Negative numbers are sign-extended to 64 bits.
    if (value >= 0) this.#varint(value);
    else this.#halves(value >>> 0, 0xffff_ffff);
  }

  uint32(value: number): void {
    if (value >>> 0 !== value) throw misfit(value, 'uint32');
    this.#varint(value);
  }

  int64(value: bigint): void {
    if (value >= 0n && value <= SAFE && typeof value === 'bigint') return this.#safe(Number(value));
    if (typeof value !== 'bigint' || BigInt.asIntN(64, value) !== value) throw misfit(value, 'int64');
    this.#wide(BigInt.asUintN(64, value));
  }

  uint64(value: bigint): void {
    if (value >= 0n && value <= SAFE && typeof value === 'bigint') return this.#safe(Number(value));
    if (typeof value !== 'bigint' || BigInt.asUintN(64, value) !== value) throw misfit(value, 'uint64');
    this.#wide(value);
  }

  double(value: number): void {
    if (typeof value !== 'number') throw misfit(value, 'double');
    this.#room(8);
    this.#at -= 8;
    this.#bytes.writeDoubleLE(value, this.#at);
  }

  /** Runs `write`, which writes the fields of a nested message, then writes its length. */
  message(write: (w: Writer) => void): void {
    const before = this.size;
    write(this);
    this.length(before);
  }

  /** How many bytes are written. */
  get size(): number {
    return this.#bytes.length - this.#at;
  }

  /** The length of a nested message that was written since `size` was `before`. */
  length(before: number): void {
    this.#varint(this.size - before);
  }

  #room(count: number): void {
    if (this.#at >= count) return;
    const size = this.size;
    // With room for what comes before a large value, its length and tag: they would double it at once.
    const grown = Buffer.allocUnsafe(Math.max(this.#bytes.length * 2, size + count + INITIAL_BYTES));
    this.#bytes.copy(grown, grown.length - size, this.#at);
    discard(this.#bytes);
    this.#bytes = grown;
    this.#at = grown.length - size;
  }

  /**
   * Most strings are short and plain, and for those a loop beats the call into C++. False, and nothing written,
   * otherwise.
   */
  #shortAscii(text: string): boolean {
    this.#room(text.length);
    let at = this.#at;
    for (let i = text.length - 1; i >= 0; i--) {
      const char = text.charCodeAt(i);
      if (char >= 0x80) return false;
      this.#bytes[--at] = char;
    }
    this.#at = at;
    return true;
  }

  #wide(value: bigint): void {
    this.#halves(Number(value & 0xffff_ffffn), Number(value >> 32n));
  }

  /** A whole number that a double holds exactly: most are, and take no arithmetic of bigints. */
  #safe(value: number): void {
    if (value < TWO_TO_32) this.#varint(value);
    else this.#halves(value >>> 0, Math.floor(value / TWO_TO_32));
  }

  #halves(low: number, high: number): void {
    if (high === 0) return this.#varint(low);
    let count = 5;
    for (let rest = high >>> 3; rest > 0; rest >>>= 7) count++;
    this.#room(10);
    let at = (this.#at -= count);
    const bytes = this.#bytes;
    for (let i = 0; i < 4; i++, low >>>= 7) bytes[at++] = (low & 0x7f) | 0x80;
    // The fifth byte holds the upper four bits of the low half and the lower three of the high half.
    bytes[at++] = (low & 0x0f) | ((high & 0x07) << 4) | (count > 5 ? 0x80 : 0);
    for (let i = 5, rest = high >>> 3; i < count; i++, rest >>>= 7)
      bytes[at++] = (rest & 0x7f) | (i < count - 1 ? 0x80 : 0);
  }

  #varint(value: number): void {
    this.#room(5);
    let count = 1;
    for (let rest = value >>> 7; rest > 0; rest >>>= 7) count++;
    let at = (this.#at -= count);
    for (; count > 1; count--, value >>>= 7) this.#bytes[at++] = (value & 0x7f) | 0x80;
    this.#bytes[at] = value;
  }
}

function misfit(value: unknown, type: string): RuntimeError {
  return new RuntimeError('Internal', `cannot write ${quote(String(value))} as ${type}`);
}

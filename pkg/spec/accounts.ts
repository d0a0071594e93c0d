/**
 * passwd(5) and group(5), line by line, from bytes. PURE.
 *
 * The files come from inside an image and hold what somebody else likes. Whatever that is, a look at them is one pass
 * over the bytes that makes nothing for lines which are not wanted: it runs on the event loop.
 */

const NEWLINE = 0x0a;
const CARRIAGE_RETURN = 0x0d;
const TAB = 0x09;
const SPACE = 0x20;
const HASH = 0x23;
const COMMA = 0x2c;
const MINUS = 0x2d;
const ZERO = 0x30;
const COLON = 0x3a;
/** passwd(5) has seven fields; what follows is part of the last. */
const FIELDS_MAX = 7;
/** As many digits as the largest number of 64 bits has; more are no number to anybody. */
const DIGITS_MAX = 20;

/** A cursor over the lines that are neither empty nor a comment. */
export class AccountLines {
  readonly #bytes: Uint8Array;
  /** Field i of the line lies in [#starts[i], #starts[i + 1] - 1). */
  readonly #starts = new Int32Array(FIELDS_MAX + 1);
  #fields = 0;
  #next = 0;

  constructor(bytes: Uint8Array | undefined) {
    this.#bytes = bytes ?? new Uint8Array(0);
  }

  /** Goes to the next line; false when there is none. */
  next(): boolean {
    const bytes = this.#bytes;
    const starts = this.#starts;
    let at = this.#next;
    while (at < bytes.length) {
      while (at < bytes.length && isBlank(bytes[at] as number)) at++;
      if (at >= bytes.length) break;
      const isComment = bytes[at] === HASH;
      let fields = 0;
      starts[0] = at;
      for (; at < bytes.length; at++) {
        const byte = bytes[at] as number;
        if (byte === NEWLINE) break;
        if (byte === COLON && fields < FIELDS_MAX - 1) starts[++fields] = at + 1;
      }
      if (isComment) continue;
      let end = at;
      while (isBlank(bytes[end - 1] as number)) end--;
      starts[++fields] = end + 1;
      this.#fields = fields;
      this.#next = at;
      return true;
    }
    this.#next = at;
    return false;
  }

  /** A field as text; '' if the line does not have so many. */
  text(field: number): string {
    if (field >= this.#fields) return '';
    return Buffer.from(this.#bytes.subarray(this.#start(field), this.#end(field))).toString('utf8');
  }

  isEmpty(field: number): boolean {
    return field >= this.#fields || this.#start(field) >= this.#end(field);
  }

  /** True if the field is exactly this. */
  is(field: number, wanted: Uint8Array): boolean {
    return field < this.#fields && this.#matches(this.#start(field), this.#end(field), wanted);
  }

  /** True if the field, a list with commas, has this member. */
  lists(field: number, wanted: Uint8Array): boolean {
    if (field >= this.#fields) return false;
    const end = this.#end(field);
    for (let from = this.#start(field); from <= end; ) {
      let to = from;
      while (to < end && this.#bytes[to] !== COMMA) to++;
      let [first, last] = [from, to];
      while (first < last && isBlank(this.#bytes[first] as number)) first++;
      while (first < last && isBlank(this.#bytes[last - 1] as number)) last--;
      if (this.#matches(first, last, wanted)) return true;
      from = to + 1;
    }
    return false;
  }

  /**
   * The field as a decimal number, which may be negative; undefined if it is none. Beyond 2^53 it is not exact, but
   * still too large for an id.
   */
  id(field: number): number | undefined {
    if (field >= this.#fields) return undefined;
    const end = this.#end(field);
    let at = this.#start(field);
    const sign = this.#bytes[at] === MINUS ? -1 : 1;
    if (sign < 0) at++;
    if (at >= end || end - at > DIGITS_MAX) return undefined;
    let value = 0;
    for (; at < end; at++) {
      const digit = (this.#bytes[at] as number) - ZERO;
      if (digit < 0 || digit > 9) return undefined;
      value = value * 10 + digit;
    }
    return sign * value;
  }

  #start(field: number): number {
    return this.#starts[field] as number;
  }

  #end(field: number): number {
    return (this.#starts[field + 1] as number) - 1;
  }

  #matches(from: number, to: number, wanted: Uint8Array): boolean {
    if (to - from !== wanted.length) return false;
    for (let index = 0; index < wanted.length; index++) if (this.#bytes[from + index] !== wanted[index]) return false;
    return true;
  }
}

function isBlank(byte: number): boolean {
  return byte === SPACE || byte === TAB || byte === CARRIAGE_RETURN || byte === NEWLINE;
}

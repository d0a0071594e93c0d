/**
 * PURE. Messages of D-Bus as bytes (D-Bus Specification, "Type System" and "Message Protocol"), little-endian: as much
 * of it as a client needs that calls methods and hears signals. No descriptors.
 */
import type { UnitProperty as Variant, UnitValue as Value } from '../ports/kernel.ts';

/** What a message says. */
export interface Message {
  readonly kind: 'call' | 'reply' | 'error' | 'signal';
  readonly serial: number;
  /** The call that this answers. */
  readonly replyTo?: number | undefined;
  readonly path?: string | undefined;
  readonly interface?: string | undefined;
  readonly member?: string | undefined;
  readonly errorName?: string | undefined;
  readonly destination?: string | undefined;
  /** Type of the body, '' for none. */
  readonly signature: string;
  readonly body: readonly Value[];
}

const KINDS = ['call', 'reply', 'error', 'signal'] as const;
/** Header fields by their code. */
const FIELDS = [
  ['path', 1, 'o'],
  ['interface', 2, 's'],
  ['member', 3, 's'],
  ['errorName', 4, 's'],
  ['replyTo', 5, 'u'],
  ['destination', 6, 's'],
  ['signature', 8, 'g'],
] as const;
const LITTLE_ENDIAN = 0x6c;
const VERSION = 1;
/** Up to where the length of the header fields stands. */
const HEADER_BYTES = 16;
/** The specification's limit. */
const MESSAGE_MAX_BYTES = 128 * 1024 * 1024;

/** The bytes of a message. @throws TypeError for a value that is not of its type. */
export function encode(message: Message): Buffer {
  const body = new Writer();
  body.all(message.signature, message.body);
  const fields = FIELDS.flatMap(([name, code, type]) => {
    const value = message[name];
    return value === undefined || value === '' ? [] : [[code, { type, value }] as const];
  });
  const header = new Writer();
  header.all('yyyyuua(yv)', [
    LITTLE_ENDIAN,
    KINDS.indexOf(message.kind) + 1,
    0,
    VERSION,
    body.length,
    message.serial,
    fields,
  ]);
  header.align(8);
  return Buffer.concat([header.bytes(), body.bytes()]);
}

/**
 * The first message in `bytes` and how many of them it takes; undefined while it is not whole. @throws TypeError for
 * what is no message.
 */
export function decode(bytes: Buffer): { readonly message: Message; readonly length: number } | undefined {
  if (bytes.length < HEADER_BYTES) return undefined;
  if (bytes[0] !== LITTLE_ENDIAN || bytes[3] !== VERSION) throw new TypeError('not a message of D-Bus');
  const bodyLength = bytes.readUInt32LE(4);
  const start = aligned(HEADER_BYTES + bytes.readUInt32LE(12), 8);
  const length = start + bodyLength;
  if (length > MESSAGE_MAX_BYTES) throw new TypeError(`a message of ${length} bytes`);
  if (bytes.length < length) return undefined;
  const header = new Reader(bytes.subarray(0, start));
  const [, kind, , , , serial, fields] = header.all('yyyyuua(yv)');
  const named = new Map((fields as [number, Variant][]).map(([code, { value }]) => [code, value]));
  const found = Object.fromEntries(FIELDS.map(([name, code]) => [name, named.get(code)]));
  const signature = (found['signature'] ?? '') as string;
  return {
    message: {
      ...found,
      kind: KINDS[(kind as number) - 1] ?? 'signal',
      serial: serial as number,
      signature,
      body: new Reader(bytes.subarray(start, length)).all(signature),
    },
    length,
  };
}

function aligned(offset: number, to: number): number {
  return Math.ceil(offset / to) * to;
}

/** The single complete types of a signature: `a(sv)u` is `a(sv)` and `u`. @throws TypeError for what is none. */
function typesOf(signature: string): string[] {
  const types: string[] = [];
  for (let at = 0; at < signature.length; ) {
    const end = endOfType(signature, at);
    types.push(signature.slice(at, end));
    at = end;
  }
  return types;
}

function endOfType(signature: string, start: number): number {
  let at = start;
  while (signature[at] === 'a') at++;
  if (signature[at] !== '(' && signature[at] !== '{') {
    if (at >= signature.length) throw new TypeError(`signature ${signature} breaks off`);
    return at + 1;
  }
  let depth = 0;
  do {
    if (at >= signature.length) throw new TypeError(`signature ${signature} breaks off`);
    if (/[({]/.test(signature[at] ?? '')) depth++;
    if (/[)}]/.test(signature[at] ?? '')) depth--;
    at++;
  } while (depth > 0);
  return at;
}

/** To what a type is aligned. */
function alignmentOf(type: string): number {
  switch (type.charAt(0)) {
    case 'y':
    case 'g':
    case 'v':
      return 1;
    case 'n':
    case 'q':
      return 2;
    case 'x':
    case 't':
    case 'd':
    case '(':
    case '{':
      return 8;
    default:
      return 4;
  }
}

class Writer {
  #bytes = Buffer.alloc(256);
  #length = 0;

  get length(): number {
    return this.#length;
  }

  bytes(): Buffer {
    return this.#bytes.subarray(0, this.#length);
  }

  align(to: number): void {
    this.#room(aligned(this.#length, to) - this.#length);
  }

  all(signature: string, values: readonly Value[]): void {
    const types = typesOf(signature);
    if (types.length !== values.length) throw new TypeError(`${values.length} values for signature ${signature}`);
    for (const [index, type] of types.entries()) this.#one(type, values[index] as Value);
  }

  #one(type: string, value: Value): void {
    this.align(alignmentOf(type));
    switch (type.charAt(0)) {
      case 'y':
        this.#put(1, (bytes, at) => bytes.writeUInt8(Number(value), at));
        break;
      case 'b':
        this.#put(4, (bytes, at) => bytes.writeUInt32LE(value === true ? 1 : 0, at));
        break;
      case 'n':
        this.#put(2, (bytes, at) => bytes.writeInt16LE(Number(value), at));
        break;
      case 'q':
        this.#put(2, (bytes, at) => bytes.writeUInt16LE(Number(value), at));
        break;
      case 'i':
        this.#put(4, (bytes, at) => bytes.writeInt32LE(Number(value), at));
        break;
      case 'u':
        this.#put(4, (bytes, at) => bytes.writeUInt32LE(Number(value), at));
        break;
      case 'x':
        this.#put(8, (bytes, at) => bytes.writeBigInt64LE(BigInt(value as bigint), at));
        break;
      case 't':
        this.#put(8, (bytes, at) => bytes.writeBigUInt64LE(BigInt(value as bigint), at));
        break;
      default:
        this.#compound(type, value);
    }
  }

  #compound(type: string, value: Value): void {
    switch (type.charAt(0)) {
      case 's':
      case 'o': {
        const text = Buffer.from(value as string);
        this.#put(4, (bytes, at) => bytes.writeUInt32LE(text.length, at));
        this.#put(text.length + 1, (bytes, at) => text.copy(bytes, at));
        break;
      }
      case 'g':
        this.#signature(value as string);
        break;
      case 'v':
        this.#signature((value as Variant).type);
        this.#one((value as Variant).type, (value as Variant).value);
        break;
      case '(':
      case '{':
        this.all(type.slice(1, -1), value as readonly Value[]);
        break;
      case 'a':
        this.#array(type.slice(1), value as readonly Value[]);
        break;
      default:
        throw new TypeError(`type ${type} is not spoken here`);
    }
  }

  #array(type: string, values: readonly Value[]): void {
    const place = this.#room(4);
    this.align(alignmentOf(type));
    const start = this.#length;
    for (const value of values) this.#one(type, value);
    this.#bytes.writeUInt32LE(this.#length - start, place);
  }

  #signature(text: string): void {
    this.#put(1, (bytes, at) => bytes.writeUInt8(text.length, at));
    this.#put(text.length + 1, (bytes, at) => bytes.write(text, at, 'latin1'));
  }

  #put(count: number, write: (bytes: Buffer, at: number) => void): void {
    const at = this.#room(count);
    write(this.#bytes, at);
  }

  /** Where the next `count` bytes are, which are zero. May replace the buffer. */
  #room(count: number): number {
    const start = this.#length;
    this.#length += count;
    if (this.#length > this.#bytes.length)
      this.#bytes = Buffer.concat([this.#bytes, Buffer.alloc(Math.max(this.#bytes.length, count))]);
    return start;
  }
}

class Reader {
  readonly #bytes: Buffer;
  #at = 0;

  constructor(bytes: Buffer) {
    this.#bytes = bytes;
  }

  all(signature: string): Value[] {
    return typesOf(signature).map((type) => this.#one(type));
  }

  #one(type: string): Value {
    this.#at = aligned(this.#at, alignmentOf(type));
    switch (type.charAt(0)) {
      case 'y':
        return this.#bytes.readUInt8(this.#take(1));
      case 'b':
        return this.#bytes.readUInt32LE(this.#take(4)) !== 0;
      case 'n':
        return this.#bytes.readInt16LE(this.#take(2));
      case 'q':
        return this.#bytes.readUInt16LE(this.#take(2));
      case 'i':
        return this.#bytes.readInt32LE(this.#take(4));
      case 'u':
        return this.#bytes.readUInt32LE(this.#take(4));
      case 'x':
        return this.#bytes.readBigInt64LE(this.#take(8));
      case 't':
        return this.#bytes.readBigUInt64LE(this.#take(8));
      case 'd':
        return this.#bytes.readDoubleLE(this.#take(8));
      default:
        return this.#compound(type);
    }
  }

  #compound(type: string): Value {
    switch (type.charAt(0)) {
      case 's':
      case 'o':
        return this.#text(this.#bytes.readUInt32LE(this.#take(4)));
      case 'g':
        return this.#text(this.#bytes.readUInt8(this.#take(1)));
      case 'v': {
        const inner = this.#text(this.#bytes.readUInt8(this.#take(1)));
        return { type: inner, value: this.#one(inner) };
      }
      case '(':
      case '{':
        return this.all(type.slice(1, -1));
      case 'a': {
        const bytes = this.#bytes.readUInt32LE(this.#take(4));
        this.#at = aligned(this.#at, alignmentOf(type.slice(1)));
        const end = this.#at + bytes;
        const values: Value[] = [];
        while (this.#at < end) values.push(this.#one(type.slice(1)));
        return values;
      }
      default:
        throw new TypeError(`type ${type} is not spoken here`);
    }
  }

  #text(length: number): string {
    const start = this.#take(length + 1);
    return this.#bytes.toString('utf8', start, start + length);
  }

  #take(count: number): number {
    const start = this.#at;
    this.#at += count;
    if (this.#at > this.#bytes.length) throw new TypeError('a message that breaks off');
    return start;
  }
}

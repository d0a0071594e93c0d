/**
 * Messages to bytes and back, by the schema that `scripts/gen-api.mjs` makes of the .proto files.
 *
 * The schema is one line of text per message, read when the message is first used: a daemon uses some fifty of two
 * hundred, and straight-line code for all of them took a tenth of the start-up budget for a gain of microseconds.
 *
 * Unknown fields are skipped, and a message that comes in pieces is put together, as protobuf demands. A number that an
 * enum has no name for is refused, since a value that we do not know is a wish that we cannot fulfil.
 */
import { RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Input, Messages, Rpcs } from '../pkg/cri-api/types.ts';
import { enums, messages, rpcs } from './generated/schema.ts';
import { Reader, TooManyFields, Writer } from './wire.ts';

/** Translates one message to and from its bytes. */
export interface Codec<T> {
  /**
   * Every field filled in as the top of types.ts says; owns its memory. @throws InvalidArgument for malformed bytes and
   * unknown enum numbers.
   */
  readonly decode: (bytes: Uint8Array) => T;
  /**
   * As decode, of what a stranger sends: as soon as there is more in it than limits.requestFieldsCount, it is refused.
   * @throws ResourceExhausted that names the field and the bound.
   */
  readonly decodeRequest: (bytes: Uint8Array) => T;
  /** @throws Internal if a value does not fit its field: that is a bug of ours. */
  readonly encode: (value: Input<T>) => Buffer;
  /**
   * The bytes of `value` as one item of a list in field 1, which is where every CRI list reply keeps its items. See
   * `concatenate`.
   */
  readonly item: (value: Input<T>) => Buffer;
}

/**
 * A message that is protobuf bytes already; a handler may return it in place of an object, and an object may hold it in
 * place of one.
 */
export class Encoded {
  readonly bytes: Buffer;
  constructor(bytes: Buffer) {
    this.bytes = bytes;
  }
}

/** A list reply made of `Codec.item` results: a list of a hundred pods costs one copy. */
export function concatenate(items: readonly Uint8Array[]): Encoded {
  return new Encoded(Buffer.concat(items));
}

/** A field of a message in bytes that were made before; only for messages that are written. */
export function preencoded<M extends keyof Messages>(bytes: Buffer): Messages[M] {
  return new Encoded(bytes) as unknown as Messages[M];
}

/**
 * What one message of a streamed list holds at most, unless a single item is larger: small beside what any client
 * takes, large beside its framing.
 */
const CHUNK_BYTES = 256 * 1024;

/** The same items as replies of a streaming list: each in one of them, none empty. */
export function* chunksOf(items: readonly Uint8Array[]): Generator<Encoded> {
  let from = 0;
  let bytes = 0;
  for (const [index, item] of items.entries()) {
    if (index > from && bytes + item.length > CHUNK_BYTES) {
      yield concatenate(items.slice(from, index));
      from = index;
      bytes = 0;
    }
    bytes += item.length;
  }
  if (from < items.length) yield concatenate(items.slice(from));
}

/** One RPC: its name in the .proto, its HTTP/2 path, and how its messages are read and written. */
export interface Method<Request = unknown, Reply = unknown> {
  readonly name: string;
  readonly path: string;
  /** The reply is a stream of messages. */
  readonly streams: boolean;
  readonly request: Codec<Request>;
  readonly reply: Codec<Reply>;
}

type Codecs = { readonly [M in keyof Messages]: Codec<Messages[M]> };
/** One codec per message, under its name. */
export const codecs = lazily(Object.keys(messages), codec) as unknown as Codecs;

type Methods = { readonly [R in keyof Rpcs]: Method<Rpcs[R]['request'], Rpcs[R]['reply']> };
/** Every RPC under its name in lower camel case. */
export const methods = lazily(Object.keys(rpcs), method) as unknown as Methods;

type Plain = Record<string, unknown>;

/** How one field is read and written. `write` gets values that are not undefined and not the default. */
interface Field {
  readonly name: string;
  readonly kind: 'single' | 'list' | 'map';
  readonly zero: unknown;
  readonly tag: number;
  /** `before`: what an earlier piece of the same message has said. */
  readonly read: (r: Reader, before?: unknown) => unknown;
  readonly write: (w: Writer, value: never) => void;
  /** Numbers in lists are sent in one piece, and read in either form (protobuf encoding guide). */
  readonly packed: boolean;
}

interface Schema {
  /** In the order of their numbers. */
  readonly fields: readonly Field[];
  readonly byTag: readonly (Field | undefined)[];
  /** A message with nothing set; copied, so that all messages of a type have one shape. */
  readonly empty: Plain;
}

/** Shared empties, frozen as far as JavaScript can. */
const NO_ENTRIES: Plain = Object.freeze(Object.create(null) as Plain);
const NO_ITEMS: readonly unknown[] = Object.freeze([]);
const NO_BYTES = new Uint8Array(0);

const scalars: Readonly<
  Record<
    string,
    {
      readonly zero: unknown;
      readonly wire: number;
      readonly read: (r: Reader) => unknown;
      readonly write: (w: Writer, value: never) => void;
    }
  >
> = {
  string: { zero: '', wire: 2, read: (r) => r.string(), write: (w, value: string) => w.string(value) },
  bytes: { zero: NO_BYTES, wire: 2, read: (r) => r.bytes(), write: (w, value: Uint8Array) => w.bytes(value) },
  bool: { zero: false, wire: 0, read: (r) => r.bool(), write: (w, value: boolean) => w.uint32(value ? 1 : 0) },
  int32: { zero: 0, wire: 0, read: (r) => r.int32(), write: (w, value: number) => w.int32(value) },
  uint32: { zero: 0, wire: 0, read: (r) => r.uint32(), write: (w, value: number) => w.uint32(value) },
  int64: { zero: 0n, wire: 0, read: (r) => r.int64(), write: (w, value: bigint) => w.int64(value) },
  uint64: { zero: 0n, wire: 0, read: (r) => r.uint64(), write: (w, value: bigint) => w.uint64(value) },
  double: { zero: 0, wire: 1, read: (r) => r.double(), write: (w, value: number) => w.double(value) },
};

const schemas = lazily(Object.keys(messages), compile);

/** An object whose properties are made on first use. */
function lazily<V>(keys: readonly string[], make: (key: string) => V): Readonly<Record<string, V>> {
  const all = Object.create(null) as Record<string, V>;
  for (const key of keys) {
    Object.defineProperty(all, key, {
      enumerable: true,
      configurable: true,
      get() {
        const value = make(key);
        Object.defineProperty(all, key, { enumerable: true, value });
        return value;
      },
    });
  }
  return all;
}

function method(key: string): Method {
  const [path, request, reply, streams] = rpcs[key as keyof Rpcs];
  return {
    name: path.slice(path.lastIndexOf('/') + 1),
    path,
    streams,
    request: codecs[request],
    reply: codecs[reply],
  } as Method;
}

function codec(name: string): Codec<unknown> {
  const schema = schemas[name] as Schema;
  return {
    decode: (bytes) => read(schema, new Reader(bytes, Number.POSITIVE_INFINITY)),
    decodeRequest: (bytes) => {
      try {
        return read(schema, new Reader(bytes, limits.requestFieldsCount));
      } catch (cause) {
        throw cause instanceof TooManyFields ? tooMany(cause) : cause;
      }
    },
    encode: (value) =>
      written(
        (w) => write(schema, w, value as Plain),
        (w) => w.take(),
      ),
    // An item lives as long as its object: a slice of Node's shared pool would keep the whole pool alive with it.
    item: (value) =>
      written(
        (w) => {
          w.message(() => write(schema, w, value as Plain));
          w.tag(0x0a);
        },
        (w) => w.copy((size) => Buffer.allocUnsafeSlow(size)),
      ),
  };
}

function tooMany({ path }: TooManyFields): RuntimeError {
  const field = path.join('.').replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
  return new RuntimeError(
    'ResourceExhausted',
    `${field === '' ? '' : `${field}: `}the request has more than ${limits.requestFieldsCount} fields, ` +
      'entries of lists and maps among them; send fewer',
  );
}

function compile(name: string): Schema {
  const text = messages[name as keyof Messages] as string;
  const fields = text === '' ? [] : text.split(', ').map(field);
  const byTag: (Field | undefined)[] = [];
  for (const each of fields) {
    byTag[each.tag] = each;
    if (each.packed) byTag[(each.tag & ~7) | 2] = each;
  }
  return { fields, byTag, empty: Object.fromEntries(fields.map((each) => [each.name, each.zero])) };
}

/** `3 labels map`, `4 ports PortMapping[]`, `5 uid int64`: number, name and type of one field. */
function field(text: string): Field {
  const [number, name, typeText] = text.split(' ') as [string, string, string];
  const list = typeText.endsWith('[]');
  const type = list ? typeText.slice(0, -2) : typeText;
  const make = (wire: number, zero: unknown, read: Field['read'], write: Field['write']): Field => {
    return {
      name,
      kind: list ? 'list' : 'single',
      zero: list ? NO_ITEMS : zero,
      tag: Number(number) * 8 + wire,
      read,
      write,
      packed: list && wire !== 2,
    };
  };
  if (type === 'map')
    return {
      ...make(
        2,
        NO_ENTRIES,
        (r) => r.message(readEntry),
        () => {},
      ),
      kind: 'map',
    };
  const scalar = scalars[type];
  if (scalar !== undefined) return make(scalar.wire, scalar.zero, scalar.read, scalar.write);
  if (type in enums) return enumField(type, make);
  // Looked up late: most messages that are mentioned are never used.
  let schema: Schema | undefined;
  const known = (): Schema => (schema ??= schemas[type] as Schema);
  return make(
    2,
    undefined,
    (r, before) => r.message((inner) => read(known(), inner, before as Plain | undefined)),
    (w, value: Plain | Encoded) => {
      if (value instanceof Encoded) return w.bytes(value.bytes);
      const before = w.size;
      write(known(), w, value);
      w.length(before);
    },
  );
}

function enumField(
  type: string,
  make: (wire: number, zero: unknown, read: Field['read'], write: Field['write']) => Field,
): Field {
  const names = (enums[type as keyof typeof enums] as string).split(' ');
  const numbers = new Map(names.map((name, number) => [name, number]));
  const read = (r: Reader): string => {
    const number = r.int32();
    const name = names[number];
    if (name === undefined)
      throw new RuntimeError(
        'InvalidArgument',
        `${number} is no known ${type}; known are 0 (${names[0]}) to ${names.length - 1} (${names.at(-1)})`,
      );
    return name;
  };
  const write = (w: Writer, name: string): void => {
    const number = numbers.get(name);
    if (number === undefined) throw new RuntimeError('Internal', `cannot write ${quote(String(name))} as ${type}`);
    w.uint32(number);
  };
  return make(0, names[0], read, write);
}

function read(schema: Schema, r: Reader, before?: Plain): Plain {
  const message = before ?? { ...schema.empty };
  let field: Field | undefined;
  try {
    while (r.more()) {
      const tag = r.tag();
      field = schema.byTag[tag];
      if (field === undefined) r.skip(tag);
      else readField(message, field, tag, r);
    }
  } catch (cause) {
    throw cause instanceof TooManyFields && field !== undefined
      ? new TooManyFields([field.name, ...cause.path])
      : cause;
  }
  return message;
}

function readField(message: Plain, field: Field, tag: number, r: Reader): void {
  if (field.kind === 'single') message[field.name] = field.read(r, message[field.name]);
  else if (field.kind === 'map') addEntry(message, field, r);
  else if (tag === field.tag) items(message, field).push(field.read(r));
  else r.message(() => readPacked(message, field, r));
}

function items(message: Plain, field: Field): unknown[] {
  if (message[field.name] === NO_ITEMS) message[field.name] = [];
  return message[field.name] as unknown[];
}

/** What reading these costs, in fields of a message: a number in a list far less, a key in an object more. */
const NUMBER_FIELDS = 0.5;
const KEY_FIELDS = 4;

function readPacked(message: Plain, field: Field, r: Reader): void {
  const list = items(message, field);
  while (r.more()) {
    r.count(NUMBER_FIELDS);
    list.push(field.read(r));
  }
}

function addEntry(message: Plain, field: Field, r: Reader): void {
  if (message[field.name] === NO_ENTRIES) message[field.name] = Object.create(null);
  r.count(KEY_FIELDS);
  const [key, value] = field.read(r) as [string, string];
  (message[field.name] as Plain)[key] = value;
}

function readEntry(r: Reader): [key: string, value: string] {
  let key = '';
  let value = '';
  while (r.more()) {
    const tag = r.tag();
    if (tag === 0x0a) key = r.string();
    else if (tag === 0x12) value = r.string();
    else r.skip(tag);
  }
  return [key, value];
}

/** Last field first, as the writer wants it; the bytes come out in the order of the numbers. */
function write(schema: Schema, w: Writer, message: Plain): void {
  for (let i = schema.fields.length - 1; i >= 0; i--) {
    const field = schema.fields[i] as Field;
    const value = message[field.name];
    if (value === undefined || value === field.zero) continue;
    if (field.kind === 'map') writeMap(w, field.tag, value as Readonly<Record<string, string>>);
    else if (field.kind === 'list') writeList(w, field, value as readonly never[]);
    else if (!(value instanceof Uint8Array) || value.length > 0) {
      field.write(w, value as never);
      w.tag(field.tag);
    }
  }
}

function writeMap(w: Writer, tag: number, entries: Readonly<Record<string, string>>): void {
  const keys = Object.keys(entries);
  for (let i = keys.length - 1; i >= 0; i--) {
    const key = keys[i] as string;
    w.message(() => {
      w.string(entries[key] as string);
      w.tag(0x12);
      w.string(key);
      w.tag(0x0a);
    });
    w.tag(tag);
  }
}

function writeList(w: Writer, field: Field, list: readonly never[]): void {
  if (list.length === 0) return;
  if (field.packed) {
    w.message(() => {
      for (let i = list.length - 1; i >= 0; i--) field.write(w, list[i] as never);
    });
    w.tag((field.tag & ~7) | 2);
    return;
  }
  for (let i = list.length - 1; i >= 0; i--) {
    field.write(w, list[i] as never);
    w.tag(field.tag);
  }
}

/** One writer serves all calls, since encoding is synchronous: memory that is used again, no state that shows. */
let idle: Writer | undefined = new Writer();

function written(fill: (w: Writer) => void, finish: (w: Writer) => Buffer): Buffer {
  const writer = idle ?? new Writer();
  idle = undefined;
  try {
    fill(writer);
    return finish(writer);
  } finally {
    writer.clear();
    idle = writer;
  }
}

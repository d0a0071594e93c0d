/**
 * PURE. SPDY/3.1 on the wire (draft-mbelshe-httpbis-spdy-00, section 2, and the session window of 3.1): frames read
 * incrementally from untrusted bytes, frames to write, header blocks, and the dictionary that both sides compress them
 * with.
 */
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';

const VERSION = 3;
const TYPE = {
  synStream: 1,
  synReply: 2,
  rstStream: 3,
  settings: 4,
  ping: 6,
  goAway: 7,
  headers: 8,
  windowUpdate: 9,
} as const;
const FLAG_FIN = 0x01;
/** An empty stored block. Go's reader keeps what came before to itself until it sees one. */
const FLUSH = Buffer.of(0, 0, 0, 0xff, 0xff);
/** Why a stream is given up. */
export const RESET = { protocolError: 1, refusedStream: 3, cancel: 5 } as const;

/**
 * What arrived. Data comes in pieces as it arrives; `block` is a compressed header block, of which every one must be
 * unpacked, in order.
 */
export type Frame =
  | { readonly kind: 'data'; readonly stream: number; readonly bytes: Uint8Array; readonly fin: boolean }
  | { readonly kind: 'open' | 'headers'; readonly stream: number; readonly block: Uint8Array; readonly fin: boolean }
  | { readonly kind: 'reset'; readonly stream: number }
  | { readonly kind: 'ping'; readonly id: number }
  | { readonly kind: 'goAway' }
  /** SETTINGS, WINDOW_UPDATE (no client of CRI keeps windows), unknown types: they ask nothing of us. */
  | { readonly kind: 'nothing' };

/** Cuts a stream of bytes into frames. */
export class FrameReader {
  /** Bytes of a frame header or of a control frame that is not complete. */
  #partial: Buffer = Buffer.alloc(0);
  /** The data frame that is passing through. */
  #data: { readonly stream: number; readonly fin: boolean; left: number } | undefined;

  /**
   * Frames, and pieces of data frames, in `chunk` and what was left before. @throws InvalidArgument for what is no
   * SPDY/3.1; the connection is lost then.
   */
  *read(chunk: Uint8Array): Generator<Frame, void, void> {
    let rest: Uint8Array = chunk;
    while (rest.length > 0) {
      if (this.#data !== undefined) {
        const bytes = rest.subarray(0, this.#data.left);
        rest = rest.subarray(bytes.length);
        yield this.#pieceOf(this.#data, bytes);
        continue;
      }
      rest = this.#gather(rest, 8);
      if (this.#partial.length < 8) return;
      const length = this.#partial.readUIntBE(5, 3);
      if ((this.#partial.readUInt8(0) & 0x80) === 0) {
        this.#data = {
          stream: this.#partial.readUInt32BE(0),
          fin: (this.#partial.readUInt8(4) & FLAG_FIN) !== 0,
          left: length,
        };
        this.#partial = Buffer.alloc(0);
        if (length === 0) yield this.#pieceOf(this.#data, new Uint8Array());
        continue;
      }
      if (this.#partial.readUInt16BE(0) !== (0x8000 | VERSION))
        throw malformed(`version ${this.#partial.readUInt16BE(0) & 0x7fff}`);
      if (length > limits.spdyControlBytes)
        throw malformed(`a control frame of ${length} bytes; at most ${limits.spdyControlBytes}`);
      rest = this.#gather(rest, 8 + length);
      if (this.#partial.length < 8 + length) return;
      const frame = controlFrame(this.#partial);
      this.#partial = Buffer.alloc(0);
      yield frame;
    }
  }

  #pieceOf(data: { readonly stream: number; readonly fin: boolean; left: number }, bytes: Uint8Array): Frame {
    data.left -= bytes.length;
    if (data.left === 0) this.#data = undefined;
    return { kind: 'data', stream: data.stream, bytes, fin: data.fin && data.left === 0 };
  }

  /** Moves bytes over until `length` are gathered; returns what is left. */
  #gather(from: Uint8Array, length: number): Uint8Array {
    const wanted = Math.max(0, length - this.#partial.length);
    const taken = from.subarray(0, wanted);
    if (taken.length > 0) this.#partial = Buffer.concat([this.#partial, taken]);
    return from.subarray(taken.length);
  }
}

/** A whole control frame. */
function controlFrame(frame: Buffer): Frame {
  const type = frame.readUInt16BE(2);
  const fin = (frame.readUInt8(4) & FLAG_FIN) !== 0;
  const body = frame.subarray(8);
  const word = (at: number): number => {
    if (body.length < at + 4) throw malformed(`a frame of type ${type} with only ${body.length} bytes`);
    return body.readUInt32BE(at) & 0x7fff_ffff;
  };
  switch (type) {
    case TYPE.synStream:
      word(6); // the associated stream, the priority and the slot are there
      return { kind: 'open', stream: word(0), block: body.subarray(10), fin };
    case TYPE.headers:
      return { kind: 'headers', stream: word(0), block: body.subarray(4), fin };
    case TYPE.synReply:
      throw malformed('a reply to a stream that we never opened');
    case TYPE.rstStream:
      return { kind: 'reset', stream: word(0) };
    case TYPE.ping:
      word(0);
      return { kind: 'ping', id: body.readUInt32BE(0) };
    case TYPE.goAway:
      return { kind: 'goAway' };
    default:
      return { kind: 'nothing' };
  }
}

/** What parts of a data frame come before its bytes. `length` is at most 2^24 - 1. */
export function dataHeader(stream: number, length: number, place: 'more follows' | 'the last'): Buffer {
  const header = Buffer.alloc(8);
  header.writeUInt32BE(stream, 0);
  header.writeUInt8(place === 'the last' ? FLAG_FIN : 0, 4);
  header.writeUIntBE(length, 5, 3);
  return header;
}

/** Gives a stream up, in both directions. */
export function resetFrame(stream: number, status: number): Buffer {
  return control(TYPE.rstStream, words(stream, status));
}

/** Asks for an answer, or is one: then `id` is the other side's. */
export function pingFrame(id: number): Buffer {
  return control(TYPE.ping, words(id));
}

/** `lastStream` is the newest stream of the client that we took. */
export function goAwayFrame(lastStream: number, status: 'ok' | 'protocolError'): Buffer {
  return control(TYPE.goAway, words(lastStream, status === 'ok' ? 0 : 1));
}

/** `stream` 0 is the session. */
export function windowFrame(stream: number, bytes: number): Buffer {
  return control(TYPE.windowUpdate, words(stream, bytes));
}

/** Accepts a stream; `block` is compressed, and must be sent in the order it was made. */
export function replyFrame(stream: number, block: Uint8Array): Buffer {
  return control(TYPE.synReply, words(stream), block);
}

/** Opens a stream, as a client. @fortests: we are none. */
export function openFrame(stream: number, block: Uint8Array, fin = false): Buffer {
  return control(TYPE.synStream, words(stream, 0), Buffer.of(0, 0), block, fin);
}

function control(type: number, ...rest: readonly (Uint8Array | boolean)[]): Buffer {
  const parts = rest.filter((each) => typeof each !== 'boolean');
  const header = Buffer.alloc(8);
  header.writeUInt16BE(0x8000 | VERSION, 0);
  header.writeUInt16BE(type, 2);
  header.writeUInt8(rest.includes(true) ? FLAG_FIN : 0, 4);
  header.writeUIntBE(
    parts.reduce((sum, part) => sum + part.length, 0),
    5,
    3,
  );
  return Buffer.concat([header, ...parts]);
}

function words(...values: readonly number[]): Buffer {
  const bytes = Buffer.alloc(4 * values.length);
  values.forEach((value, i) => bytes.writeUInt32BE(value, 4 * i));
  return bytes;
}

/** Headers as names (lower case) and values, ready to be compressed. */
export function headerBlock(headers: ReadonlyMap<string, string>): Buffer {
  const parts = [words(headers.size)];
  for (const text of [...headers].flat()) parts.push(words(Buffer.byteLength(text)), Buffer.from(text));
  return Buffer.concat(parts);
}

/** An unpacked header block; the first value of a header with several. @throws InvalidArgument */
export function parseHeaderBlock(block: Buffer): ReadonlyMap<string, string> {
  let at = 0;
  const number = (): number => {
    if (block.length < at + 4) throw malformed('a header block that ends early');
    at += 4;
    return block.readUInt32BE(at - 4);
  };
  const text = (): string => {
    const length = number();
    if (block.length < at + length) throw malformed('a header block that ends early');
    at += length;
    return block.toString('utf8', at - length, at);
  };
  const count = number();
  if (count > limits.spdyHeadersCount) throw malformed(`${count} headers; at most ${limits.spdyHeadersCount}`);
  const headers = new Map<string, string>();
  for (let i = 0; i < count; i++) headers.set(text().toLowerCase(), text().split('\0', 1)[0] ?? '');
  return headers;
}

/**
 * Our side of header compression: a zlib stream (RFC 1950) of stored blocks. It needs no window, so a session holds no
 * memory for it, and what we send is an empty block nearly always.
 */
export class HeaderPacker {
  #begun = false;

  /** `block` is at most 65 535 bytes. */
  pack(block: Uint8Array): Buffer {
    const start = this.#begun ? Buffer.alloc(0) : Buffer.concat([Buffer.of(0x78, 0xbb), words(adler32(dictionary))]);
    this.#begun = true;
    const stored = Buffer.alloc(5);
    stored.writeUInt16LE(block.length, 1);
    stored.writeUInt16LE(~block.length & 0xffff, 3);
    return Buffer.concat([start, stored, block, FLUSH]);
  }
}

/**
 * The preset dictionary of SPDY/3 header compression: words that are preceded by their length, then words that are not.
 */
export const dictionary: Buffer = makeDictionary();

function makeDictionary(): Buffer {
  const counted = [
    ...(
      'options head post put delete trace accept accept-charset accept-encoding accept-language ' +
      'accept-ranges age allow authorization'
    ).split(' '),
    ...(
      'cache-control connection content-base content-encoding content-language content-length ' +
      'content-location content-md5'
    ).split(' '),
    ...(
      'content-range content-type date etag expect expires from host if-match if-modified-since ' +
      'if-none-match if-range'
    ).split(' '),
    ...(
      'if-unmodified-since last-modified location max-forwards pragma proxy-authenticate ' +
      'proxy-authorization range referer'
    ).split(' '),
    ...(
      'retry-after server te trailer transfer-encoding upgrade user-agent vary via warning ' +
      'www-authenticate method get status'
    ).split(' '),
    '200 OK',
    ...'version HTTP/1.1 url public set-cookie keep-alive origin'.split(' '),
  ];
  const plain = [
    '100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505',
    '203 Non-Authoritative Information',
    '204 No Content',
    '301 Moved Permanently',
    '400 Bad Request',
    '401 Unauthorized',
    '403 Forbidden',
    '404 Not Found',
    '500 Internal Server Error',
    '501 Not Implemented',
    '503 Service Unavailable',
    'Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT',
    'chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,' +
      'text/javascript,public',
    'privatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.',
  ];
  return Buffer.concat([
    ...counted.flatMap((word) => [words(word.length), Buffer.from(word)]),
    Buffer.from(plain.join('')),
  ]);
}

/** RFC 1950, section 8.2. */
export function adler32(bytes: Uint8Array): number {
  let [a, b] = [1, 0];
  for (const byte of bytes) {
    a = (a + byte) % 65_521;
    b = (b + a) % 65_521;
  }
  return ((b << 16) | a) >>> 0;
}

function malformed(what: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `this is no SPDY/3.1: ${what}`);
}

/**
 * Content-Encoding, for servers that compress what nobody asked them to (quay#1310): we ask for identity, and undo what
 * comes all the same (RFC 9110 12.5.3 lets a server do that).
 */
import { PassThrough, pipeline, Readable } from 'node:stream';
import type { Duplex } from 'node:stream';
import { createBrotliDecompress, createGunzip, createInflate, createZstdDecompress } from 'node:zlib';
import { quote } from '../../base/ids.ts';
import { headerOf, shortUrl } from './http.ts';
import type { HttpResponse } from './http.ts';
import { RequestError } from './patience.ts';

interface Coding {
  /** How its output begins; nothing where that says nothing. */
  readonly magic: readonly number[];
  make(): Duplex;
}

const GZIP: Coding = { magic: [0x1f, 0x8b], make: () => createGunzip() };
const CODINGS: Readonly<Record<string, Coding>> = {
  gzip: GZIP,
  'x-gzip': GZIP,
  deflate: { magic: [0x78], make: () => createInflate() },
  zstd: { magic: [0x28, 0xb5, 0x2f, 0xfd], make: () => createZstdDecompress() },
  br: { magic: [], make: () => createBrotliDecompress() },
};

/**
 * The coding of an answer's body: '' if it is as it is. So is what is said to be in a coding that does not exist: web
 * servers are told to say `utf-8` there, and stores kept `aws-chunked` of uploads. The digest tells the rest.
 */
export function codingOf(response: HttpResponse): string {
  const said = (headerOf(response, 'content-encoding') ?? '').trim().toLowerCase();
  return Object.hasOwn(CODINGS, said) ? said : '';
}

/**
 * The body without its Content-Encoding. A piece is valid until the next one is asked for, as with the body itself; no
 * more than the reader asks for is decoded. What is not encoded at all, whatever the header says, comes as it is.
 * @throws RequestError for a body that breaks off or is damaged.
 */
export function decodedBody(response: HttpResponse): AsyncIterable<Uint8Array> {
  const said = codingOf(response);
  const coding = CODINGS[said];
  return coding === undefined ? response.body : decode(response, said, coding);
}

async function* decode(response: HttpResponse, said: string, coding: Coding): AsyncGenerator<Uint8Array, void, void> {
  const pieces = new Pieces(response.body);
  const start = await pieces.first(coding.magic.length);
  const isCoded = coding.magic.every((byte, index) => start[index] === byte);
  const decoder = isCoded ? coding.make() : new PassThrough();
  // Errors of both sides come out of the decoder.
  pipeline(Readable.from(pieces.all(start), { objectMode: false }), decoder, () => {});
  try {
    for await (const piece of decoder) yield piece as Uint8Array;
  } catch (error) {
    if (pieces.broke !== undefined) throw pieces.broke.error;
    throw new RequestError(
      'Unavailable',
      `${shortUrl(response.url)} says that it answers in the coding ${quote(said)}, but that breaks off or is ` +
        'damaged; try again later, and look at the proxy before the registry if it stays so',
      { kind: 'line' },
      error,
    );
  } finally {
    decoder.destroy();
  }
}

/** A body in pieces that stay: its own are lent, and a decoder takes its time. */
class Pieces {
  readonly #pieces: AsyncGenerator<Buffer, void, void>;
  /** What the body ended with, if not well. */
  broke: { readonly error: unknown } | undefined;

  constructor(body: AsyncIterable<Uint8Array>) {
    this.#pieces = this.#copies(body);
  }

  /** The first bytes, `count` at least if there are so many. */
  async first(count: number): Promise<Buffer> {
    let start = Buffer.alloc(0);
    while (start.length < count) {
      const next = await this.#pieces.next();
      if (next.done === true) break;
      start = Buffer.concat([start, next.value]);
    }
    return start;
  }

  /** `start`, and what follows it. */
  async *all(start: Buffer): AsyncGenerator<Buffer, void, void> {
    if (start.length > 0) yield start;
    yield* this.#pieces;
  }

  async *#copies(body: AsyncIterable<Uint8Array>): AsyncGenerator<Buffer, void, void> {
    try {
      for await (const piece of body) yield Buffer.from(piece);
    } catch (error) {
      this.broke = { error };
      throw error;
    }
  }
}

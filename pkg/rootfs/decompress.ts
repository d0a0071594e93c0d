/**
 * From the bytes of a layer blob to the bytes of its tar. What it is packed with is told by its first bytes, never by
 * the media type: registries hold layers whose type is wrong.
 *
 * Runs in the worker. node:zlib inflates on libuv's threads, a block ahead of the consumer, so that inflating and
 * writing files overlap.
 */
import { readSync } from 'node:fs';
import { constants, createGunzip, createZstdDecompress } from 'node:zlib';
import type { Transform } from 'node:stream';
import { limits } from '../base/limits.ts';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import type { Growth } from './growth.ts';
import type { MemoryAccount } from './memory-account.ts';

/** What a layer can be packed with. */
export type Compression = 'none' | 'gzip' | 'zstd' | 'xz' | 'bzip2';

/**
 * What is read at a time. Small blocks cost more in hand-overs than in inflating; 16 KiB, zlib's default, halves the
 * speed.
 */
export const BLOCK_BYTES = 256 * 1024;

/** PURE. The packing that starts with these bytes (at least 6 where there are so many). */
export function compressionOf(head: Uint8Array): Compression {
  const starts = (...magic: number[]): boolean => magic.every((byte, i) => head[i] === byte);
  if (starts(0x1f, 0x8b, 0x08)) return 'gzip';
  if (starts(0x28, 0xb5, 0x2f, 0xfd)) return 'zstd';
  // A skippable frame: pzstd and zstd:chunked may start with one.
  if (((head[0] ?? 0) & 0xf0) === 0x50 && head[1] === 0x2a && head[2] === 0x4d && head[3] === 0x18) return 'zstd';
  if (starts(0xfd, 0x37, 0x7a, 0x58, 0x5a, 0x00)) return 'xz';
  if (starts(0x42, 0x5a, 0x68)) return 'bzip2';
  return 'none';
}

/** Who hears of what is read. */
export interface TarListener {
  /** Bytes of the blob that were read. */
  readonly onRead: (bytes: number) => void;
  /** The next piece of the tar, valid during the call only. What it throws ends the reading and comes out again. */
  readonly onTar: (bytes: Buffer) => void;
  /** Counts the window of the decoder. */
  readonly account: MemoryAccount;
}

/** Where the bytes of a blob come from. */
export interface PackedBytes {
  /** Read from where it stands. */
  readonly fd: number;
  /** 'none' is for plain tars and for pipes from a program that unpacks. */
  readonly compression: 'none' | 'gzip' | 'zstd';
  /** Of a file that is still growing: how far it is, and how far it will come. undefined = it is read to its end. */
  readonly growing: { readonly growth: Growth; readonly endBytes: number } | undefined;
}

/**
 * Reads a blob to its end and hands the tar to the listener. Waits for a blob that is growing.
 * @throws DataLoss for damaged or cut data, ResourceExhausted for a zstd window over the limit, Cancelled if a growing
 * blob is given up.
 */
export async function decompress(packed: PackedBytes, { onRead, onTar, account }: TarListener): Promise<void> {
  const { compression } = packed;
  const blocks = blocksOf(packed, onRead);
  if (compression === 'none') {
    for (const block of blocks) onTar(block);
    return;
  }
  const stream = inflater(compression);
  const feeding = feed(stream, compression === 'gzip' ? blocks : zstdFrames(blocks, account));
  // Its error comes out of the loop as well.
  feeding.catch((error: unknown) => stream.destroy(error as Error));
  try {
    for await (const chunk of stream as AsyncIterable<Buffer>) {
      onTar(chunk);
      release(chunk);
    }
    await feeding;
  } catch (error) {
    throw damaged(error);
  } finally {
    // A write that nobody takes the result of never ends, so `feeding` is not waited for.
    stream.destroy();
  }
}

function inflater(compression: 'gzip' | 'zstd'): Transform {
  const options = { chunkSize: BLOCK_BYTES, readableHighWaterMark: 2 * BLOCK_BYTES };
  if (compression === 'gzip') return createGunzip(options);
  return createZstdDecompress({ ...options, params: { [constants.ZSTD_d_windowLogMax]: limits.zstdWindowLog } });
}

/** One piece at a time, so that all of them can live in one buffer. */
async function feed(stream: Transform, pieces: Iterable<Buffer>): Promise<void> {
  for (const piece of pieces) {
    await new Promise<void>((resolve, reject) => {
      stream.write(piece, (error) => (error == null ? resolve() : reject(error)));
    });
    // Nobody listens any more, and the descriptor may be closed.
    if (stream.destroyed) return;
  }
  stream.end();
}

/** The same buffer again and again. Of a growing file only full ones, but for the last: small ones cost as much. */
function* blocksOf({ fd, growing }: PackedBytes, onRead: (bytes: number) => void): Generator<Buffer> {
  const block = Buffer.allocUnsafeSlow(BLOCK_BYTES);
  for (let at = 0; ; ) {
    const most = growing === undefined ? block.length : Math.min(block.length, growing.endBytes - at);
    if (most === 0) return;
    growing?.growth.await(at + most);
    const count = readSync(fd, block, 0, most, null);
    if (count === 0) return;
    at += count;
    onRead(count);
    yield block.subarray(0, count);
  }
}

/**
 * Gives the memory of a chunk back at once: V8 lets some 64 MB of such buffers pile up per thread before it looks. One
 * that zlib has filled to its end is not used by zlib any more.
 */
function release(chunk: Buffer): void {
  const buffer = chunk.buffer as ArrayBuffer;
  if (chunk.byteOffset + chunk.length === buffer.byteLength && buffer.byteLength === BLOCK_BYTES) buffer.transfer(0);
}

function damaged(error: unknown): unknown {
  const name = errnoOf(error) ?? (error instanceof Error && 'code' in error ? String(error.code) : '');
  if (name === 'ZSTD_error_frameParameter_windowTooLarge') return windowTooLarge(error);
  return /^(Z_|ZSTD_)/.test(name) ? damage(error) : error;
}

function damage(cause: unknown): RuntimeError {
  return new RuntimeError('DataLoss', 'the compressed data of the layer is damaged or cut short', { cause });
}

function windowTooLarge(cause: unknown): RuntimeError {
  return new RuntimeError(
    'ResourceExhausted',
    `the layer wants a zstd window of more than ${2 ** (limits.zstdWindowLog - 20)} MiB`,
    { cause },
  );
}

const ZSTD_MAGIC = 0xfd2fb528;
const SKIPPABLE_MAGIC = 0x184d2a50;

/**
 * PURE. Cuts zstd data at the ends of its frames and leaves skippable frames out. Pieces are valid until the next one
 * is taken. Node's decoder takes the end of a frame for the end of the data and drops what came in the same write;
 * zstd:chunked makes a frame of every file (RFC 8878, sections 3.1.1 and 3.1.2).
 * @throws DataLoss if a frame is cut short or something else follows it.
 */
export function* zstdFrames(blocks: Iterable<Buffer>, account: MemoryAccount): Generator<Buffer> {
  const frames = new FrameCutter(account);
  for (const block of blocks) yield* frames.cut(block);
  if (!frames.atEnd) throw new RuntimeError('DataLoss', 'the zstd data of the layer is cut short');
}

type FrameState = 'magic' | 'skipSize' | 'skip' | 'descriptor' | 'header' | 'blockHeader' | 'block' | 'checksum';

class FrameCutter {
  #state: FrameState = 'magic';
  /** Bytes of the current part still to come. */
  #left = 4;
  /** The current part as a little-endian number, for parts of at most 4 bytes. */
  #value = 0;
  #shift = 0;
  #hasChecksum = false;
  #isLastBlock = false;
  /** The magic number of a frame can lie in two blocks. */
  #held: Buffer[] = [];
  /** How many bytes of the frame's header tell the size of its content, which then is the window; 0 = it tells one. */
  #singleSizeBytes = 0;
  #header: number[] = [];
  readonly #account: MemoryAccount;
  /** The decoder keeps room for the largest so far. */
  #windowBytes = 0;

  constructor(account: MemoryAccount) {
    this.#account = account;
  }

  /** True between two frames. */
  get atEnd(): boolean {
    return this.#state === 'magic' && this.#left === 4;
  }

  *cut(block: Buffer): Generator<Buffer> {
    let start = 0;
    for (let at = 0; at < block.length; ) {
      const isSkipping = this.#state === 'skip' || this.#state === 'skipSize';
      const taken = Math.min(this.#left, block.length - at);
      if (this.#left <= 4) this.#number(block, at, taken);
      if (this.#state === 'header') this.#header.push(...block.subarray(at, at + taken));
      at += taken;
      this.#left -= taken;
      if (isSkipping) start = at;
      if (this.#left > 0) continue;
      const part = this.#state;
      this.#advance();
      if (part === 'magic') {
        if (this.#state === 'skipSize') {
          start = at;
          this.#held = [];
        } else {
          yield* this.#held;
          this.#held = [];
        }
      } else if (this.#state === 'magic' && !isSkipping) {
        if (at > start) yield block.subarray(start, at);
        start = at;
      }
    }
    if (start === block.length) return;
    // A copy: the block is used again.
    if (this.#state === 'magic') this.#held.push(Buffer.from(block.subarray(start)));
    else yield block.subarray(start);
  }

  #number(block: Buffer, at: number, count: number): void {
    for (let i = 0; i < count; i++) {
      this.#value += (block[at + i] as number) * 2 ** this.#shift;
      this.#shift += 8;
    }
  }

  #advance(): void {
    const value = this.#value;
    switch (this.#state) {
      case 'magic':
        if (value === ZSTD_MAGIC) return this.#expect('descriptor', 1);
        if (value - (value % 16) === SKIPPABLE_MAGIC) return this.#expect('skipSize', 4);
        throw new RuntimeError('DataLoss', 'the zstd data of the layer is followed by something else');
      case 'skipSize':
        return value === 0 ? this.#expect('magic', 4) : this.#expect('skip', value);
      case 'skip':
        return this.#expect('magic', 4);
      case 'descriptor': {
        this.#hasChecksum = (value & 0x04) !== 0;
        const isSingle = (value & 0x20) !== 0;
        const sizeField = [isSingle ? 1 : 0, 2, 4, 8][value >> 6] ?? 0;
        this.#singleSizeBytes = isSingle ? sizeField : 0;
        this.#header = [];
        const dictionaryField = [0, 1, 2, 4][value & 0x03] ?? 0;
        const rest = (isSingle ? 0 : 1) + dictionaryField + sizeField;
        return this.#expect('header', rest);
      }
      case 'header':
        this.#countWindow();
        return this.#expect('blockHeader', 3);
      case 'blockHeader': {
        this.#isLastBlock = (value & 1) === 1;
        // A run of one repeated byte stores that byte alone.
        const stored = ((value >> 1) & 3) === 1 ? 1 : value >> 3;
        return stored === 0 ? this.#afterBlock() : this.#expect('block', stored);
      }
      case 'block':
        return this.#afterBlock();
      case 'checksum':
        return this.#expect('magic', 4);
    }
  }

  /** RFC 8878, 3.1.1.1.2 and 4. The decoder itself refuses a window over the limit. */
  #countWindow(): void {
    const wanted = this.#singleSizeBytes > 0 ? this.#contentSize() : windowOf(this.#header[0] ?? 0);
    const bytes = Math.min(wanted, 2 ** limits.zstdWindowLog);
    if (bytes <= this.#windowBytes) return;
    this.#account.take(bytes - this.#windowBytes, 'the window of the zstd data');
    this.#windowBytes = bytes;
  }

  #contentSize(): number {
    const field = this.#header.slice(-this.#singleSizeBytes);
    const value = field.reduceRight((sum, byte) => sum * 256 + byte, 0);
    return field.length === 2 ? value + 256 : value;
  }

  #afterBlock(): void {
    if (!this.#isLastBlock) this.#expect('blockHeader', 3);
    else if (this.#hasChecksum) this.#expect('checksum', 4);
    else this.#expect('magic', 4);
  }

  #expect(state: FrameState, bytes: number): void {
    this.#state = state;
    this.#left = bytes;
    this.#value = 0;
    this.#shift = 0;
  }
}

function windowOf(descriptor: number): number {
  const base = 2 ** (10 + (descriptor >> 3));
  return base + (base / 8) * (descriptor & 7);
}

import { assert } from 'chai';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { compressionOf, decompress, type PackedBytes, zstdFrames } from './decompress.ts';
import { Growth } from './growth.ts';
import { MemoryAccount } from './memory-account.ts';

describe('rootfs/decompress: what a blob is packed with', () => {
  const cases: readonly [bytes: readonly number[], want: string][] = [
    [[0x1f, 0x8b, 8, 0], 'gzip'],
    [[0x28, 0xb5, 0x2f, 0xfd], 'zstd'],
    [[0x5a, 0x2a, 0x4d, 0x18], 'zstd'],
    [[0xfd, 0x37, 0x7a, 0x58, 0x5a, 0], 'xz'],
    [[0x42, 0x5a, 0x68], 'bzip2'],
    [[0x1f, 0x8b], 'none'],
    [[], 'none'],
    [[0x2e, 0x2f, 0, 0, 0, 0], 'none'],
  ];
  for (const [bytes, want] of cases)
    it(`${Buffer.from(bytes).toString('hex') || 'nothing'} is ${want}`, () =>
      assert.equal(compressionOf(Uint8Array.from(bytes)), want));
});

describe('rootfs/decompress: zstd frames', () => {
  const account = new MemoryAccount(2 ** limits.zstdWindowLog);
  const skippable = (content: Buffer): Buffer =>
    Buffer.concat([Buffer.from([0x50, 0x2a, 0x4d, 0x18, content.length, 0, 0, 0]), content]);
  const frames = [
    Buffer.from('hello'),
    Buffer.alloc(300_000, 'x'),
    Buffer.from(Array.from({ length: 5000 }, (_, i) => (i * 7919) % 251)),
    Buffer.alloc(0),
  ].map((data) => zstdCompressSync(data));
  const stream = Buffer.concat([
    skippable(Buffer.from('first')),
    ...frames.flatMap((frame) => [frame, skippable(Buffer.from('between'))]),
    skippable(Buffer.alloc(0)),
  ]);
  /** As they come from a file: in one buffer that is used again and again. */
  function* pieces(size: number): Generator<Buffer> {
    const block = Buffer.alloc(size);
    for (let at = 0; at < stream.length; at += size) yield block.subarray(0, stream.copy(block, 0, at, at + size));
  }

  it('no piece spans two frames, and skippable ones are left out', () => {
    for (const size of [1, 2, 3, 5, 7, 100, stream.length]) {
      const ends = new Set<number>();
      let end = 0;
      for (const frame of frames) ends.add((end += frame.length));
      let at = 0;
      const out: Buffer[] = [];
      for (const piece of zstdFrames(pieces(size), account)) {
        out.push(Buffer.from(piece));
        const start = at;
        at += piece.length;
        assert.isFalse(
          [...ends].some((frameEnd) => start < frameEnd && at > frameEnd),
          `a piece of ${size} from ${start} to ${at}`,
        );
      }
      assert.isTrue(Buffer.concat(out).equals(Buffer.concat(frames)), `pieces of ${size}`);
    }
  });

  it('a cut or something else behind a frame is damage', () => {
    for (const cut of [1, 4, 8, 30])
      assert.throws(
        () => [...zstdFrames([Buffer.concat(frames).subarray(0, -cut)], account)],
        RuntimeError,
        'cut short',
        `cut by ${cut}`,
      );
    assert.throws(
      () => [...zstdFrames([Buffer.concat([frames[0] as Buffer, Buffer.from('garbage')])], account)],
      RuntimeError,
      'followed by something else',
    );
  });
});

describe('rootfs/decompress: the window of zstd data', () => {
  /** Magic number, descriptor, what follows it, and one empty last block. */
  const frame = (descriptor: number, ...header: readonly number[]): Buffer =>
    Buffer.from([0x28, 0xb5, 0x2f, 0xfd, descriptor, ...header, 1, 0, 0]);
  const least = (...frames: readonly Buffer[]): number => {
    const fits = (bytes: number): boolean => {
      try {
        return Array.from(zstdFrames([Buffer.concat(frames)], new MemoryAccount(bytes))).length >= 0;
      } catch (error) {
        assert.match(String(error), /the window of the zstd data would take the memory for unpacking one layer beyond/);
        return false;
      }
    };
    let [low, high] = [0, 2 ** 28];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (fits(middle)) high = middle;
      else low = middle + 1;
    }
    return low;
  };
  const cases: readonly (readonly [what: string, frames: readonly Buffer[], bytes: number])[] = [
    ['8 MiB', [frame(0, (23 - 10) << 3)], 8 << 20],
    ['with a mantissa', [frame(0, ((23 - 10) << 3) | 3)], (8 << 20) + 3 * (1 << 20)],
    ['behind a dictionary id and in front of a size', [frame(0x41, (20 - 10) << 3, 9, 5, 6)], 1 << 20],
    ['the content of one segment: a byte', [frame(0x20, 200)], 200],
    ['the content of one segment: two bytes and 256', [frame(0x60, 1, 1)], 513],
    ['the content of one segment: four bytes', [frame(0xa0, 0, 0, 1, 0)], 65_536],
    [
      'the content of one segment: eight bytes, behind a dictionary id',
      [frame(0xe1, 7, 0, 0, 2, 0, 0, 0, 0, 0)],
      131_072,
    ],
    ['never more than the decoder takes', [frame(0, (40 - 10) << 3)], 2 ** limits.zstdWindowLog],
    ['the largest of all frames', [frame(0x20, 9), frame(0, (21 - 10) << 3), frame(0, (20 - 10) << 3)], 2 << 20],
  ];
  for (const [what, frames, bytes] of cases) it(`is counted: ${what}`, () => assert.equal(least(...frames), bytes));
});

describe('rootfs/decompress: the bytes', () => {
  const data = Buffer.from(Array.from({ length: 700_000 }, (_, i) => (i * i) % 251));
  const half = data.length >> 1;
  let directory = '';
  before(() => (directory = mkdtempSync(join(tmpdir(), 'decompress-'))));
  after(() => rmSync(directory, { recursive: true }));

  async function through(
    packed: Buffer,
    compression: 'none' | 'gzip' | 'zstd',
    growing?: PackedBytes['growing'],
  ): Promise<{ readonly data: Buffer; readonly read: number }> {
    const path = join(directory, 'packed');
    writeFileSync(path, packed);
    const fd = openSync(path, 'r');
    const out: Buffer[] = [];
    let read = 0;
    try {
      await decompress(
        { fd, compression, growing },
        {
          onRead: (bytes) => void (read += bytes),
          onTar: (bytes) => void out.push(Buffer.from(bytes)),
          account: new MemoryAccount(2 ** limits.zstdWindowLog),
        },
      );
    } finally {
      closeSync(fd);
    }
    return { data: Buffer.concat(out), read };
  }

  const packings: readonly [name: string, compression: 'none' | 'gzip' | 'zstd', packed: Buffer][] = [
    ['nothing', 'none', data],
    ['gzip', 'gzip', gzipSync(data)],
    ['gzip in two members', 'gzip', Buffer.concat([gzipSync(data.subarray(0, half)), gzipSync(data.subarray(half))])],
    ['zstd', 'zstd', zstdCompressSync(data)],
    [
      'zstd in two frames',
      'zstd',
      Buffer.concat([zstdCompressSync(data.subarray(0, half)), zstdCompressSync(data.subarray(half))]),
    ],
  ];
  for (const [name, compression, packed] of packings) {
    it(name, async () => {
      const got = await through(packed, compression);
      assert.isTrue(got.data.equals(data));
      assert.equal(got.read, packed.length);
      if (compression === 'none') return;
      const error = await through(packed.subarray(0, -9), compression).then(
        () => undefined,
        (each: unknown) => each,
      );
      assert.isTrue(error instanceof RuntimeError && error.code === 'DataLoss', String(error));
    });
  }

  for (const [name, compression, packed] of packings) {
    it(`${name}, of a file that grows: to where it will end, whatever is behind that`, async () => {
      const growth = new Growth();
      growth.reach(BigInt(packed.length));
      const longer = Buffer.concat([packed, Buffer.from('not ours')]);
      const got = await through(longer, compression, { growth, endBytes: packed.length });
      assert.isTrue(got.data.equals(data));
      assert.equal(got.read, packed.length);
    });

    it(`${name}, of a file that is given up`, async () => {
      const growth = new Growth();
      growth.giveUp();
      const error = await through(packed, compression, { growth, endBytes: packed.length }).then(
        () => undefined,
        (each: unknown) => each,
      );
      assert.isTrue(error instanceof RuntimeError && error.code === 'Cancelled', String(error));
    });
  }

  it('zeros behind gzip data are padding, and anything else is damage', async () => {
    const packed = gzipSync(data);
    assert.isTrue((await through(Buffer.concat([packed, Buffer.alloc(600_000)]), 'gzip')).data.equals(data));
    const error = await through(Buffer.concat([packed, Buffer.from('garbage')]), 'gzip').then(
      () => undefined,
      (each: unknown) => each,
    );
    assert.isTrue(error instanceof RuntimeError && error.code === 'DataLoss', String(error));
  });
});

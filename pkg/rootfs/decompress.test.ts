import { assert } from 'chai';
import { closeSync, mkdtempSync, openSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { RuntimeError } from '../base/errors.ts';
import { compressionOf, decompress, zstdFrames } from './decompress.ts';

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
      for (const piece of zstdFrames(pieces(size))) {
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
        () => [...zstdFrames([Buffer.concat(frames).subarray(0, -cut)])],
        RuntimeError,
        'cut short',
        `cut by ${cut}`,
      );
    assert.throws(
      () => [...zstdFrames([Buffer.concat([frames[0] as Buffer, Buffer.from('garbage')])])],
      RuntimeError,
      'followed by something else',
    );
  });
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
  ): Promise<{ readonly data: Buffer; readonly read: number }> {
    const path = join(directory, 'packed');
    writeFileSync(path, packed);
    const fd = openSync(path, 'r');
    const out: Buffer[] = [];
    let read = 0;
    try {
      await decompress(
        fd,
        compression,
        (bytes) => (read += bytes),
        (bytes) => out.push(Buffer.from(bytes)),
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

import { assert } from 'chai';
import { type HeaderFields, paxEntry, paxHeader, tarEntry, tarHeader, tarOf } from './tar-build.ts';
import { fuzzTar } from './tar-fuzz.ts';
import { type TarEntry, TarReader } from './tar.ts';
import { LIMITS, readAll, readOne, refusal } from './fake-sink.ts';

describe('rootfs/tar: kinds of entries', () => {
  const cases: readonly [what: string, fields: HeaderFields, want: Partial<TarEntry>][] = [
    [
      'a file',
      { name: 'a', mode: 0o4755, uid: 1000, gid: 1001 },
      { type: 'file', path: 'a', mode: 0o4755, uid: 1000, gid: 1001 },
    ],
    ['a file of V7', { name: 'a', type: '\0', magic: '' }, { type: 'file' }],
    ['a contiguous file', { type: '7' }, { type: 'file' }],
    ['a directory', { name: 'd/', type: '5' }, { type: 'directory', path: 'd/' }],
    ['a directory of V7', { name: 'd/', type: '0', magic: '' }, { type: 'directory' }],
    ['a hard link', { type: '1', link: 'b' }, { type: 'hardlink', linkPath: 'b' }],
    ['a hard link that claims a size', { type: '1', link: 'b', size: 700 }, { type: 'hardlink', sizeBytes: 0 }],
    ['a symlink', { type: '2', link: '../b' }, { type: 'symlink', linkPath: '../b' }],
    ['a character device', { type: '3', major: 5, minor: 1 }, { type: 'character', deviceMajor: 5, deviceMinor: 1 }],
    [
      'a block device',
      { type: '4', major: 259, minor: 70_000 },
      { type: 'block', deviceMajor: 259, deviceMinor: 70_000 },
    ],
    ['a FIFO', { type: '6' }, { type: 'fifo' }],
    ['a prefix of ustar', { name: 'b', prefix: 'x/a' }, { path: 'x/a/b' }],
    ['no prefix in a GNU header', { name: 'b', magic: 'ustar  \0', prefix: '1234567' }, { path: 'b' }],
    [
      'a prefix of star, shorter',
      {
        name: 'b',
        prefix: 'x',
        raw: [
          [476, Buffer.from('99999999999')],
          [508, Buffer.from('tar\0')],
        ],
      },
      { path: 'x/b' },
    ],
    ['a name of 100 bytes without NUL', { name: 'n'.repeat(100) }, { path: 'n'.repeat(100) }],
    ['bytes that are not UTF-8', { name: 'caf\xe9' }, { path: 'caf\xe9' }],
    ['a base-256 uid', { raw: [[108, Buffer.from([0x80, 0, 0, 0, 0xff, 0xff, 0xff, 0xfe])]] }, { uid: 2 ** 32 - 2 }],
    [
      'a base-256 time before 1970',
      { raw: [[136, Buffer.from([0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe])]] },
      { mtimeSeconds: -2 },
    ],
    ['file type bits in the mode', { mode: 0o100644 }, { mode: 0o644 }],
    [
      'blank fields',
      {
        raw: [
          [108, Buffer.from('        ')],
          [116, Buffer.alloc(8)],
        ],
      },
      { uid: 0, gid: 0 },
    ],
  ];
  for (const [what, fields, want] of cases) {
    it(`reads ${what}`, () => assert.deepInclude(readOne(tarOf(tarEntry(fields))).entry, want));
  }

  it('accepts a checksum of signed bytes', () => {
    const header = tarHeader({ name: 'caf\xe9' });
    const sum = Number.parseInt(header.toString('latin1', 148, 154), 8);
    header.write(`${(sum - 256).toString(8).padStart(6, '0')}\0 `, 148, 'latin1');
    assert.equal(readOne(tarOf(header)).entry.path, 'caf\xe9');
  });

  it('skips the listing in a GNU directory dump and the label of a tape', () => {
    const reads = readAll(
      tarOf(
        tarEntry({ type: 'V', name: 'label' }),
        tarEntry({ type: 'D', name: 'd/' }, 'Ya\0Yb\0\0'),
        tarEntry({ name: 'f' }, 'x'),
      ),
    );
    assert.deepEqual(
      reads.map(({ entry }) => [entry.type, entry.path]),
      [
        ['directory', 'd/'],
        ['file', 'f'],
      ],
    );
  });
});

describe('rootfs/tar: the end', () => {
  const file = tarEntry({ name: 'a' }, 'hello');

  it('two zero blocks end it and what follows is ignored', () =>
    assert.lengthOf(readAll(Buffer.concat([tarOf(file), Buffer.from('garbage'), file])), 1));
  it('no end mark, or half of one, is forgiven', () => {
    assert.lengthOf(readAll(file), 1);
    assert.lengthOf(readAll(Buffer.concat([file, Buffer.alloc(512)])), 1);
    assert.lengthOf(readAll(Buffer.alloc(0)), 0);
  });
  it('padding that is not there at the end is forgiven, as in Go', () => {
    for (const cut of [517, 700, 1023]) assert.lengthOf(readAll(file.subarray(0, cut)), 1, `cut at ${cut}`);
    const header = paxHeader([['path', 'x']]);
    for (const cut of [header.length - 1, header.length - 400])
      assert.match(refusal(header.subarray(0, cut)), /^DataLoss: .*cut short/);
  });
  it('an end inside an entry is not', () => {
    for (const cut of [100, 511, 513, 516])
      assert.match(refusal(file.subarray(0, cut)), /^DataLoss: .*cut short/, `cut at ${cut}`);
    assert.match(refusal(paxHeader([['path', 'x']])), /^DataLoss: .*cut short/);
    assert.match(refusal(tarOf(paxHeader([['path', 'x']]))), /^DataLoss: .*after an extended header/);
  });
  it('a lone zero block between entries is damage', () =>
    assert.match(refusal(Buffer.concat([file, Buffer.alloc(512), file])), /^DataLoss: .*lone zero block/));
  it('the same path twice is legal', () => assert.lengthOf(readAll(tarOf(file, file)), 2));
});

describe('rootfs/tar: what is refused', () => {
  const cases: readonly [what: string, tar: Buffer, want: RegExp][] = [
    [
      'a wrong checksum',
      tarOf(Buffer.from(tarEntry({}).map((byte, i) => (i === 1 ? byte ^ 1 : byte)))),
      /^DataLoss: .*checksum/,
    ],
    [
      'a size that is no number',
      tarOf(tarEntry({ raw: [[124, Buffer.from('xyz')]] })),
      /^DataLoss: .*size of a header is not a number/,
    ],
    ['a negative size', tarOf(tarEntry({ raw: [[124, Buffer.alloc(12, 0xff)]] })), /^DataLoss: .*negative size -1/],
    [
      'a size over 2^53',
      tarOf(tarEntry({ raw: [[124, Buffer.from([0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff])]] })),
      /^DataLoss: .*not a number in range/,
    ],
    ['a negative PAX size', tarOf(paxEntry([['size', '-5']], {})), /^DataLoss: .*size "-5"/],
    [
      'uid -1, which chown would ignore',
      tarOf(paxEntry([['uid', '4294967295']], {})),
      /^DataLoss: .*no user or group id/,
    ],
    ['a gid over 32 bits', tarOf(paxEntry([['gid', '4294967296']], {})), /^DataLoss: .*no user or group id/],
    ['an mtime that is no time', tarOf(paxEntry([['mtime', '1e9']], {})), /^DataLoss: .*is not a time/],
    ['an empty name', tarOf(tarEntry({ name: '' })), /^DataLoss: .*empty name/],
    ['an empty link target', tarOf(tarEntry({ type: '2' })), /^DataLoss: .*empty link target/],
    ['NUL in a PAX path', tarOf(paxEntry([['path', 'a\0b']], {})), /^DataLoss: .*NUL/],
    ['NUL in a PAX linkpath', tarOf(paxEntry([['linkpath', 'a\0b']], { type: '2', link: 'x' })), /^DataLoss: .*NUL/],
    ['NUL in a GNU long name', tarOf(tarEntry({ type: 'L' }, 'a\0b\0'), tarEntry({})), /^DataLoss: .*NUL/],
    [
      'a name of 100 000 bytes in a small record limit',
      tarOf(paxEntry([['path', 'n'.repeat(100_000)]], {})),
      /^ResourceExhausted: .*extended header of/,
    ],
    [
      'a name of 5000 bytes',
      tarOf(paxEntry([['path', 'n'.repeat(5000)]], {})),
      /^ResourceExhausted: .*5000 bytes is over the limit of 4096/,
    ],
    [
      'a PAX header that claims 1 GiB',
      tarOf(tarHeader({ type: 'x', size: 2 ** 30 })),
      /^ResourceExhausted: .*1073741824 bytes/,
    ],
    ['an unknown type', tarOf(tarEntry({ type: 'Z' })), /^Unimplemented: .*unknown type "Z"/],
    ['a continued volume', tarOf(tarEntry({ type: 'M' })), /^Unimplemented/],
    ['an xattr without a name', tarOf(paxEntry([['SCHILY.xattr.', 'x']], {})), /^DataLoss: .*no name/],
  ];
  for (const [what, tar, want] of cases) it(what, () => assert.match(refusal(tar), want));

  it('damaged PAX records', () => {
    for (const text of [
      '5 a=b',
      '100 a=b\n',
      '6 =bb\n',
      '6 abc\n',
      'x a=b\n',
      '-6 a=\n',
      '0 a=b\n',
      '6 a=b\nz',
      '999999999999 a=b\n',
      ' 6 a=b\n',
    ]) {
      assert.match(
        refusal(tarOf(tarEntry({ type: 'x' }, text), tarEntry({}))),
        /^DataLoss: .*PAX header is damaged/,
        text,
      );
    }
  });

  it('more entries or more content than allowed', () => {
    assert.match(
      refusal(tarOf(tarEntry({}), tarEntry({}), tarEntry({})), { entriesCount: 2 }),
      /^ResourceExhausted: .*more than 2 entries/,
    );
    assert.match(
      refusal(tarOf(tarEntry({}, 'abc'), tarEntry({}, 'def')), { contentBytes: 5 }),
      /^ResourceExhausted: .*more than 5 bytes/,
    );
    assert.match(refusal(tarOf(tarHeader({ size: 2 ** 32 }))), /^ResourceExhausted/, 'before the content is there');
  });
});

describe('rootfs/tar: content', () => {
  it('is handed on without being copied', () => {
    const tar = tarOf(tarEntry({}, 'hello'));
    const buffers: ArrayBufferLike[] = [];
    const sink = { entry: () => {}, data: (bytes: Uint8Array) => void buffers.push(bytes.buffer), end: () => {} };
    new TarReader(sink, LIMITS).push(tar);
    assert.deepEqual(buffers, [tar.buffer]);
  });

  it('does not depend on how the stream is cut, and no damage gets out as anything but a RuntimeError', () => {
    assert.isAbove(fuzzTar(Number(process.env['SEED'] ?? 1), 300), 100);
  });
});

import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { type HeaderFields, paxEntry, paxHeader, tarEntry, tarHeader, tarOf } from './tar-build.ts';
import { fuzzTar } from './tar-fuzz.ts';
import { type TarEntry, type TarLimits, TarReader } from './tar.ts';

const LIMITS: TarLimits = {
  entriesCount: 100,
  contentBytes: 1_000_000,
  recordBytes: 65_536,
  pathBytes: 4096,
  sparsePartsCount: 1000,
};

interface Read {
  readonly entry: TarEntry;
  /** The file with holes filled; undefined where nothing was written. */
  readonly content: Buffer;
  ended: boolean;
}

function readAll(tar: Buffer, limits: Partial<TarLimits> = {}, chunkBytes = tar.length): Read[] {
  const reads: Read[] = [];
  const reader = new TarReader(
    {
      entry: (entry) => void reads.push({ entry, content: Buffer.alloc(entry.sizeBytes), ended: false }),
      data: (bytes, offset) => reads.at(-1)?.content.set(bytes, offset),
      end: () => {
        const last = reads.at(-1);
        if (last !== undefined) last.ended = true;
      },
    },
    { ...LIMITS, ...limits },
  );
  for (let at = 0; at < tar.length; at += chunkBytes) reader.push(tar.subarray(at, at + chunkBytes));
  reader.finish();
  assert.isTrue(reads.every(({ ended }) => ended));
  return reads;
}

function readOne(tar: Buffer): Read {
  const reads = readAll(tar);
  assert.lengthOf(reads, 1);
  return reads[0] as Read;
}

/** Code and message of the error that reading ends with. */
function refusal(tar: Buffer, limits: Partial<TarLimits> = {}): string {
  try {
    readAll(tar, limits);
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${error.message}`;
  }
  return 'accepted';
}

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

describe('rootfs/tar: extended headers', () => {
  const nanos = (mtime: string): readonly number[] => {
    const { entry } = readOne(tarOf(paxEntry([['mtime', mtime]], {})));
    return [entry.mtimeSeconds, entry.mtimeNanos];
  };

  it('PAX overrides path, link, size, owner and time', () => {
    const path = 'd/'.repeat(200) + 'f';
    const { entry, content } = readOne(
      tarOf(
        paxEntry(
          [
            ['path', path],
            ['size', '3'],
            ['uid', '4000000000'],
            ['gid', '70000'],
            ['mtime', '5.25'],
          ],
          { size: 0 },
          'abc',
        ),
      ),
    );
    assert.deepInclude(entry, {
      path,
      sizeBytes: 3,
      uid: 4_000_000_000,
      gid: 70_000,
      mtimeSeconds: 5,
      mtimeNanos: 250_000_000,
    });
    assert.equal(content.toString(), 'abc');
    assert.equal(readOne(tarOf(paxEntry([['linkpath', 'x=y\n']], { type: '2', link: 'z' }))).entry.linkPath, 'x=y\n');
  });

  it('times are exact to the nanosecond, on both sides of 1970', () => {
    assert.deepEqual(nanos('1.000000001'), [1, 1]);
    assert.deepEqual(nanos('1.0000000019'), [1, 1]);
    assert.deepEqual(nanos('-1.25'), [-2, 750_000_000]);
    assert.deepEqual(nanos('-3'), [-3, 0]);
    assert.deepEqual(nanos('7.'), [7, 0]);
  });

  it('xattrs are binary: NUL, newline, =, 0xff and nothing at all', () => {
    const { entry } = readOne(
      tarOf(
        paxEntry(
          [
            ['SCHILY.xattr.security.capability', '\x01\0\0\x02=\n\xff\0'],
            ['SCHILY.xattr.user.empty', ''],
          ],
          {},
        ),
      ),
    );
    assert.deepEqual(
      entry.xattrs.map(({ name, value }) => [name, Buffer.from(value).toString('latin1')]),
      [
        ['security.capability', '\x01\0\0\x02=\n\xff\0'],
        ['user.empty', ''],
      ],
    );
  });

  it('a global header holds until an entry overrides it; an empty value takes it back', () => {
    const reads = readAll(
      tarOf(
        paxHeader(
          [
            ['mtime', '9.5'],
            ['uid', '7'],
            ['comment', 'x'],
          ],
          'g',
        ),
        tarEntry({ name: 'a', uid: 1 }),
        paxEntry([['uid', '8']], { name: 'b' }),
        paxEntry([['uid', '']], { name: 'c', uid: 1 }),
      ),
    );
    assert.deepEqual(
      reads.map(({ entry }) => [entry.uid, entry.mtimeSeconds, entry.mtimeNanos]),
      [
        [7, 9, 500_000_000],
        [8, 9, 500_000_000],
        [1, 9, 500_000_000],
      ],
    );
  });

  it('GNU long names and links hold for one entry', () => {
    const long = 'p/'.repeat(300);
    const reads = readAll(
      tarOf(
        tarEntry({ type: 'K', magic: 'ustar  \0' }, `${long}t\0`),
        tarEntry({ type: 'L', magic: 'ustar  \0' }, `${long}n\0`),
        tarEntry({ type: '2', magic: 'ustar  \0', link: 'cut' }),
        tarEntry({ name: 'next' }),
      ),
    );
    assert.deepEqual(
      reads.map(({ entry }) => [entry.path, entry.linkPath]),
      [
        [`${long}n`, `${long}t`],
        ['next', ''],
      ],
    );
  });
});

describe('rootfs/tar: sparse files', () => {
  // 20 bytes: "ab" at 3, "cde" at 10.
  const want = '\0\0\0ab\0\0\0\0\0cde\0\0\0\0\0\0\0';
  const gnuPart = (offset: number, length: number): Buffer =>
    Buffer.from(`${offset.toString(8).padStart(11, '0')}\0${length.toString(8).padStart(11, '0')}\0`);
  const gnu = (parts: Buffer, more = 0): Buffer =>
    tarHeader({
      type: 'S',
      magic: 'ustar  \0',
      size: 5,
      raw: [
        [386, parts],
        [482, Buffer.from([more])],
        [483, Buffer.from('00000000024\0')],
      ],
    });
  const data = Buffer.concat([Buffer.from('abcde'), Buffer.alloc(507)]);
  const pax = (records: readonly (readonly [string, string])[], content: string | Buffer): Buffer =>
    tarOf(paxEntry(records, { name: 'GNUSparseFile.0/f' }, content));

  const forms: readonly [string, Buffer][] = [
    ['the old GNU form', tarOf(gnu(Buffer.concat([gnuPart(3, 2), gnuPart(10, 3), gnuPart(20, 0)])), data)],
    [
      'the old GNU form with an extension',
      tarOf(gnu(gnuPart(3, 2), 1), Buffer.concat([gnuPart(10, 3), Buffer.alloc(488)]), data),
    ],
    [
      'PAX 0.0',
      pax(
        [
          ['GNU.sparse.size', '20'],
          ['GNU.sparse.numblocks', '2'],
          ['GNU.sparse.offset', '3'],
          ['GNU.sparse.numbytes', '2'],
          ['GNU.sparse.offset', '10'],
          ['GNU.sparse.numbytes', '3'],
        ],
        'abcde',
      ),
    ],
    [
      'PAX 0.1',
      pax(
        [
          ['GNU.sparse.size', '20'],
          ['GNU.sparse.name', 'f'],
          ['GNU.sparse.map', '3,2,10,3'],
        ],
        'abcde',
      ),
    ],
    [
      'PAX 1.0',
      pax(
        [
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.name', 'f'],
          ['GNU.sparse.realsize', '20'],
        ],
        Buffer.concat([Buffer.from('2\n3\n2\n10\n3\n'.padEnd(512, '\0')), Buffer.from('abcde')]),
      ),
    ],
  ];
  for (const [what, tar] of forms) {
    it(`reads ${what}, in chunks of any size`, () => {
      for (const chunk of [tar.length, 511, 7, 1]) {
        const [read] = readAll(tar, {}, chunk);
        assert.equal(read?.content.toString('latin1'), want);
        assert.isTrue(read?.entry.sparse);
      }
    });
  }

  it('a file that is all hole has a size and no content', () => {
    const { entry } = readOne(
      pax(
        [
          ['GNU.sparse.size', '1000000'],
          ['GNU.sparse.map', ''],
        ],
        '',
      ),
    );
    assert.deepInclude(entry, { sizeBytes: 1_000_000, sparse: true });
  });

  it('holes count as content: 8 TiB of them, at once or in many files, are refused in every form', () => {
    const hole = (size: number): Buffer =>
      paxEntry(
        [
          ['GNU.sparse.size', String(size)],
          ['GNU.sparse.map', ''],
        ],
        {},
      );
    const map = Buffer.from('0\n'.padEnd(512, '\0'));
    const huge: Readonly<Record<string, Buffer>> = {
      'PAX 0.1': tarOf(hole(2 ** 43)),
      'PAX 1.0': pax(
        [
          ['GNU.sparse.major', '1'],
          ['GNU.sparse.minor', '0'],
          ['GNU.sparse.realsize', String(2 ** 43)],
        ],
        map,
      ),
      GNU: tarOf(
        tarHeader({
          type: 'S',
          magic: 'ustar  \0',
          raw: [[483, Buffer.from([0x80, 0, 0, 0, 0, 0, 8, 0, 0, 0, 0, 0])]],
        }),
      ),
    };
    for (const [form, tar] of Object.entries(huge))
      assert.match(refusal(tar), /^ResourceExhausted: .*more than 1000000 bytes/, form);
    assert.match(refusal(tarOf(hole(600_000), hole(600_000))), /^ResourceExhausted: .*more than 1000000 bytes/);
    assert.lengthOf(readAll(tarOf(hole(500_000), hole(500_000))), 2);
  });

  it('maps that lie are refused', () => {
    const map = (text: string, size = '20'): string =>
      refusal(
        pax(
          [
            ['GNU.sparse.size', size],
            ['GNU.sparse.map', text],
          ],
          'abcde',
        ),
      );
    assert.match(map('3,2,10,2'), /^DataLoss: .*does not match/);
    assert.match(map('10,3,3,2'), /^DataLoss: .*out of order/);
    assert.match(map('3,2,4,3'), /^DataLoss: .*out of order/);
    assert.match(map('3,2,18,3'), /^DataLoss: .*out of range/);
    assert.match(map('3,2,10'), /^DataLoss: .*odd/);
    assert.match(map('3,2,-1,3'), /^DataLoss: .*no number/);
    assert.match(refusal(pax([['GNU.sparse.map', '3,5']], 'abcde')), /^DataLoss: .*no real size/);
    assert.match(
      refusal(
        pax(
          [
            ['GNU.sparse.major', '2'],
            ['GNU.sparse.minor', '0'],
          ],
          '',
        ),
      ),
      /^Unimplemented/,
    );
  });

  it('a claimed billion parts costs nothing (CVE-2025-58183)', () => {
    const v1 = (text: string): string =>
      refusal(
        pax(
          [
            ['GNU.sparse.major', '1'],
            ['GNU.sparse.minor', '0'],
            ['GNU.sparse.realsize', '20'],
          ],
          Buffer.from(text.padEnd(Math.ceil(text.length / 512) * 512, '\0')),
        ),
      );
    assert.match(v1('1000000000\n'), /^ResourceExhausted: .*more than 1000 parts/);
    assert.match(v1('0'.repeat(600)), /^DataLoss: .*does not start with a count/);
    assert.match(v1(`1000\n${'0\n'.repeat(200)}`), /^DataLoss: .*cut short/);
    const many = Array.from({ length: 1100 }, (_, i) => `${i},0`).join(',');
    assert.match(
      refusal(
        pax(
          [
            ['GNU.sparse.size', '20'],
            ['GNU.sparse.map', many],
          ],
          '',
        ),
      ),
      /^ResourceExhausted/,
    );
    const extension = Buffer.concat([
      ...Array.from({ length: 21 }, () => gnuPart(0, 0)),
      Buffer.from([1]),
      Buffer.alloc(7),
    ]);
    assert.match(
      refusal(tarOf(gnu(gnuPart(0, 0), 1), ...Array.from({ length: 60 }, () => extension))),
      /^ResourceExhausted/,
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
  it('an end inside an entry is not', () => {
    for (const cut of [100, 511, 513, 516, 700, 1023])
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
    ['a global path', tarOf(paxHeader([['path', 'x']], 'g'), tarEntry({})), /^DataLoss: .*global PAX header sets path/],
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
    new TarReader({ entry: () => {}, data: (bytes) => void buffers.push(bytes.buffer), end: () => {} }, LIMITS).push(
      tar,
    );
    assert.deepEqual(buffers, [tar.buffer]);
  });

  it('does not depend on how the stream is cut, and no damage gets out as anything but a RuntimeError', () => {
    assert.isAbove(fuzzTar(Number(process.env['SEED'] ?? 1), 300), 100);
  });
});

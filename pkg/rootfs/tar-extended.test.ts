import { assert } from 'chai';
import { readAll, readOne, refusal } from './fake-sink.ts';
import { paxEntry, paxHeader, tarEntry, tarOf } from './tar-build.ts';

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

  it('a global header says nothing, as in Go, by whose reader every published image has been unpacked', () => {
    const records = [
      ['path', 'x'],
      ['mtime', '9.5'],
      ['uid', '7'],
      ['size', '3'],
      ['comment', 'x'],
      ['GNU.sparse.major', '1'],
      ['SCHILY.xattr.user.g', 'of all'],
    ] as const;
    const reads = readAll(
      tarOf(
        paxHeader(records, 'g'),
        tarEntry({ name: 'a', uid: 1 }),
        tarEntry({ type: 'g' }, 'no records at all'),
        paxEntry([['uid', '8']], { name: 'b' }),
        paxHeader([['path', 'long']]),
        paxHeader(records, 'g'),
        tarEntry({ name: 'c' }, 'content'),
      ),
    );
    assert.deepEqual(
      reads.map(({ entry }) => [entry.path, entry.uid, entry.mtimeSeconds === 9, entry.sizeBytes, entry.xattrs.length]),
      [
        ['a', 1, false, 0, 0],
        ['b', 8, false, 0, 0],
        ['long', 0, false, 7, 0],
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

  it('attributes stay what they are while other headers of the same entry follow', () => {
    const tar = tarOf(
      paxHeader([['SCHILY.xattr.user.a', 'first value']]),
      tarEntry({ name: '././@LongLink', type: 'L' }, `${'n'.repeat(150)}\0`),
      tarEntry({ name: '././@LongLink', type: 'K' }, `${'l'.repeat(150)}\0`),
      tarEntry({ name: 'x' }, 'content'),
    );
    const { entry } = readOne(tar);
    assert.deepEqual(
      entry.xattrs.map(({ name, value }) => [name, Buffer.from(value).toString()]),
      [['user.a', 'first value']],
    );
  });

  it('attributes larger than Linux takes are refused', () => {
    const tar = (name: string, bytes: number): Buffer =>
      tarOf(paxEntry([[`SCHILY.xattr.${name}`, 'x'.repeat(bytes)]], { name: 'a' }));
    assert.equal(refusal(tar('user.a', 65_000)), 'accepted');
    assert.match(refusal(tar('user.a', 65_537), { recordBytes: 1 << 20 }), /^DataLoss: .*user\.a has 65537 bytes/);
    assert.match(refusal(tar('u'.repeat(256), 1)), /^DataLoss: .*a name of 256 bytes/);
  });
});

describe('rootfs/tar: what global headers make the reader keep', () => {
  it('is nothing, however many and large they are', () => {
    const headers = Array.from({ length: 50 }, (_, index) =>
      paxHeader([[`SCHILY.xattr.user.${index}`, 'x'.repeat(60_000)]], 'g'),
    );
    assert.equal(refusal(tarOf(...headers, tarEntry({})), { recordBytes: 1 }), 'accepted');
  });
});

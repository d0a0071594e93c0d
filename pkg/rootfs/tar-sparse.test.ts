import { assert } from 'chai';
import { readAll, readOne, refusal } from './fake-sink.ts';
import { paxEntry, tarHeader, tarOf } from './tar-build.ts';

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

import { assert } from 'chai';
import { crc32 } from 'node:zlib';
import { RuntimeError } from '../base/errors.ts';
import { ManifestWriter } from './manifest.ts';
import type { TarEntry } from './tar.ts';
import { parseManifest } from './fake-tree.ts';

const ENTRY: TarEntry = {
  type: 'file',
  path: 'f',
  linkPath: '',
  mode: 0o4755,
  uid: 1,
  gid: 4_000_000_000,
  sizeBytes: 5,
  mtimeSeconds: -7,
  mtimeNanos: 999_999_999,
  deviceMajor: 0,
  deviceMinor: 0,
  xattrs: [],
  sparse: false,
};

function write(work: (manifest: ManifestWriter) => void): Buffer {
  const pieces: Buffer[] = [];
  const manifest = new ManifestWriter((bytes) => void pieces.push(bytes));
  work(manifest);
  manifest.flush();
  return Buffer.concat(pieces);
}

describe('rootfs/manifest', () => {
  it('gives back what was written, names of any bytes included', () => {
    const records = parseManifest(
      write((manifest) => {
        manifest.file('a\nb \xff', ENTRY, Buffer.from('hello'));
        manifest.content(Buffer.from('he'));
        manifest.content(Buffer.from('llo'));
        manifest.endFile('pieces', ENTRY);
        manifest.endFile('sparse', { ...ENTRY, sparse: true });
        manifest.symlink('s', ENTRY, '../x y');
        manifest.hardlink('h', 'a', ENTRY);
        manifest.special('dev', ENTRY, 'block', 8, 1);
        manifest.special('fifo', ENTRY, 'fifo', 0, 0);
        manifest.directory('', ENTRY);
      }),
    );
    const crc = crc32('hello');
    assert.deepEqual(records.get('a\nb \xff'), {
      kind: 'f',
      mode: 0o4755,
      uid: 1,
      gid: 4_000_000_000,
      mtimeSeconds: -7,
      mtimeNanos: 999_999_999,
      sizeBytes: 5,
      crc,
      target: '',
    });
    assert.equal(records.get('pieces')?.crc, crc);
    assert.isUndefined(records.get('sparse')?.crc);
    assert.deepEqual(
      [...records].map(([path, { kind, target }]) => [path, kind, target]),
      [
        ['a\nb \xff', 'f', ''],
        ['pieces', 'f', ''],
        ['sparse', 'f', ''],
        ['s', 'l', '../x y'],
        ['h', 'h', 'a'],
        ['dev', 'b', '8:1'],
        ['fifo', 'p', ''],
        ['', 'd', ''],
      ],
    );
  });

  it('the last word about a path counts, and a removed tree is gone', () => {
    const records = parseManifest(
      write((manifest) => {
        for (const path of ['a', 'a/b', 'ab']) manifest.directory(path, ENTRY);
        manifest.removed('a');
        manifest.symlink('a', ENTRY, 'x');
      }),
    );
    assert.deepEqual(
      [...records].map(([path, { kind }]) => `${kind} ${path}`),
      ['d ab', 'l a'],
    );
  });

  it('damage is told', () => {
    const whole = write((manifest) => manifest.symlink('s', ENTRY, 'x'));
    for (const bytes of [
      whole.subarray(0, -1),
      whole.subarray(0, -3),
      Buffer.from('nonsense\0'),
      Buffer.from('f 644 0 0 0 0 0 zz a\0'),
    ]) {
      assert.throws(() => parseManifest(bytes), RuntimeError, 'damaged');
    }
  });
});

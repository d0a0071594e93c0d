import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import type { ArtifactFile } from '../ports/image.ts';
import { treeOf } from './file-volume.ts';

const files = (...names: readonly string[]): ArtifactFile[] =>
  names.map((name, at) => ({ name, path: `/blobs/${at}` }));
/** Each place with the content that is to be there. */
const places = (names: readonly string[], subPath = ''): readonly string[] =>
  [...treeOf(files(...names), subPath).files].map(([place, { path }]) => `${place} ${path.slice('/blobs/'.length)}`);

describe('rootfs/file-volume', () => {
  it('puts files under their names, and directories above them', () => {
    const tree = treeOf(files('a', 'b/c', 'b/d/e'), '');
    assert.deepEqual([...tree.files.keys()], ['a', 'b/c', 'b/d/e']);
    assert.deepEqual([...tree.directories].sort(), ['b', 'b/d']);
    assert.deepEqual(places([]), []);
  });

  it('leaves out files without a name', () => {
    const nameless = [{ name: undefined, path: '/blobs/0' }, ...files('a')];
    assert.deepEqual([...treeOf(nameless, '').files.keys()], ['a']);
  });

  it('never leads out of the volume, whatever a name says', () => {
    assert.deepEqual(
      places(['../../etc/passwd', '/etc/shadow', 'a/../../b', './c//d/', '..c', 'e\\f', 'ü\n', '-rf', '%2e%2e/x']),
      ['etc/passwd 0', 'etc/shadow 1', 'b 2', 'c/d 3', '..c 4', 'e\\f 5', 'ü\n 6', '-rf 7', '%2e%2e/x 8'],
    );
  });

  it('refuses names that no file can have, and quotes them', () => {
    const rows: readonly (readonly [string, RegExp])[] = [
      ['', /called "", which is the volume itself/],
      ['.', /which is the volume itself/],
      ['/', /which is the volume itself/],
      ['a/..', /which is the volume itself/],
      ['a\0b', /a name that no file can have \("a\\u0000b"\)/],
      ['d/'.repeat(128), /in more than 128 directories/],
      ['x'.repeat(256), /more than 255 bytes/],
      ['ü'.repeat(128), /more than 255 bytes/],
      ['a/'.repeat(3000), /a name that no file can have/],
    ];
    for (const [name, why] of rows)
      assert.throws(() => treeOf(files('good', name), ''), RuntimeError, why, name.slice(0, 20));
    assert.deepEqual(places(['x'.repeat(255)]), [`${'x'.repeat(255)} 0`]);
  });

  it('shows the later of two files with one name, and refuses a file that others are below', () => {
    assert.deepEqual(places(['a', 'b', './a']), ['a 2', 'b 1']);
    assert.throws(() => treeOf(files('a', 'a/b'), ''), RuntimeError, 'has a file "a", and others below it');
    assert.throws(() => treeOf(files('a/b/c', 'a'), ''), RuntimeError, 'has a file "a", and others below it');
  });

  it('shows what is in a sub path only', () => {
    const names = ['sub/a', 'sub/b/c', 'subway/d', 'sub', 'e'].filter((each) => each !== 'sub');
    assert.deepEqual(places(names, 'sub'), ['a 0', 'b/c 1']);
    assert.deepEqual(places(names, './sub/b/'), ['c 1']);
    assert.deepEqual(places(names, '.').length, 4);
    for (const absent of ['none', 'e', 'sub/a', 'su'])
      assert.throws(() => treeOf(files(...names), absent), RuntimeError, 'does not exist in the artifact');
    for (const bad of ['/sub', '../sub', 'sub/../..', 'a\0'])
      assert.throws(() => treeOf(files(...names), bad), RuntimeError, 'relative and without');
  });

  it('has a bound for directories: as many names as a manifest holds make millions of them', () => {
    const deep = Array.from({ length: 1_000 }, (_each, at) => `${at}/${'d/'.repeat(100)}f`);
    assert.throws(() => treeOf(files(...deep), ''), RuntimeError, 'more than 16384 directories');
  });
});

import { assert } from 'chai';
import {
  COPIED,
  dir,
  FakeTree,
  file,
  hardlink,
  list,
  parseManifest,
  refusal,
  refusalOf,
  settle,
  symlink,
  unpack,
} from './fake-tree.ts';
import { RuntimeError } from '../base/errors.ts';

describe('rootfs/layer-writer: hard links', () => {
  it('to themselves say nothing', () => assert.deepEqual(list(file('a', 'x'), hardlink('a', './a')), ['a file x']));
  it('to directories are refused', () =>
    assert.match(refusal(dir('a'), hardlink('b', 'a')), /^DataLoss: .*hard link to the directory/));
  it('to symlinks are links to the symlink', () =>
    assert.deepEqual(list(symlink('a', '/etc/passwd'), hardlink('b', 'a')), [
      'a symlink /etc/passwd',
      'b symlink /etc/passwd',
    ]));

  it('before their target are made at the end', () => {
    const { tree, layer } = unpack([hardlink('b', 'a'), hardlink('c', 'b'), file('a', 'x')]);
    assert.deepEqual(tree.list(), ['a file x', 'b file x', 'c file x']);
    assert.deepEqual([...layer.pending.links()], []);
  });

  it('into a lower layer wait for it; then the file is copied up under its own name', () => {
    const { tree, layer } = unpack(
      [file('b', 'old'), hardlink('b', 'd/a'), hardlink('c', 'b')],
      new FakeTree(new Map([['d/a', COPIED]])),
    );
    assert.deepEqual([...layer.pending.implicit()], []);
    assert.deepEqual(
      [...layer.pending.links()],
      [
        ['b', 'd/a'],
        ['c', 'd/a'],
      ],
    );
    const manifest = settle(tree, layer);
    assert.deepEqual(tree.list(), ['b file from below', 'c file from below', 'd directory', 'd/a file from below']);
    assert.equal(tree.at('d').mode, 0o1777, 'the parent is adopted');
    assert.deepInclude(parseManifest(manifest).get('d/a'), { kind: 'f', crc: 7, sizeBytes: 10 });
    settle(tree, layer);
    assert.lengthOf(tree.list(), 4, 'again after a crash');
  });

  it('into a lower layer are whole after a crash in the middle of the copy, in the manifest too', () => {
    const { tree, layer } = unpack([hardlink('b', 'a')], new FakeTree(new Map([['a', COPIED]])));
    tree.begin('a').write(Buffer.from('from'), 0);
    const manifest = settle(tree, layer);
    assert.deepEqual(tree.list(), ['a file from below', 'b file from below']);
    assert.deepInclude(parseManifest(manifest).get('a'), { kind: 'f', crc: 7, sizeBytes: 10 });
  });

  it('into lower layers are refused before a byte is copied if the files together are too large', () => {
    const lower = ['x', 'y', 'z'].map((name) => [name, COPIED] as const);
    const { tree, layer } = unpack(
      [hardlink('a', 'x'), hardlink('b', 'y'), hardlink('c', 'y'), hardlink('d', 'z')],
      new FakeTree(new Map(lower)),
    );
    const before = tree.list();
    assert.match(
      refusalOf(() => settle(tree, layer, { copiedBytes: 29 })),
      /^ResourceExhausted: .*more than 29 bytes/,
    );
    assert.deepEqual(tree.list(), before);
    settle(tree, layer, { copiedBytes: 30 });
    assert.lengthOf(tree.list(), 7, 'a file with two links is copied once');
  });

  it('and directories into lower layers are given up when nobody waits any more', () => {
    const cancelled = (): never => {
      throw new RuntimeError('Cancelled', 'enough');
    };
    const below = new Map([
      ['a', COPIED],
      ['d/x', COPIED],
    ]);
    for (const entry of [hardlink('b', 'a'), file('d/f')]) {
      const { tree, layer } = unpack([entry], new FakeTree(below));
      assert.match(
        refusalOf(() => settle(tree, layer, { look: cancelled })),
        /^Cancelled/,
      );
    }
  });

  it('that something else replaces are forgotten', () => {
    assert.deepEqual([...unpack([hardlink('b', 'd/a'), file('b', 'x')]).layer.pending.links()], []);
    assert.deepEqual([...unpack([hardlink('b', 'd/a'), dir('b')]).layer.pending.links()], []);
    assert.deepEqual([...unpack([dir('d'), hardlink('d/b', 'x/a'), file('d')]).layer.pending.links()], []);
    assert.deepEqual(unpack([hardlink('b', 'a'), file('.wh.b')]).tree.list(), [], 'a whiteout is for lower layers');
  });

  it('to what this layer deletes, or to what is nowhere, are refused', () => {
    for (const marker of ['d/.wh.a', 'd/.wh..wh..opq', '.wh.d'])
      assert.match(refusal(file(marker), hardlink('b', 'd/a')), /^DataLoss: .*which this layer deletes/, marker);
    const { tree, layer } = unpack([hardlink('b', 'd/a')]);
    assert.throws(() => settle(tree, layer), RuntimeError, 'neither in its layer nor in one below');
  });
});

describe('rootfs/layer-writer: directories without an entry', () => {
  it('take what they have below', () => {
    const { tree, layer } = unpack([file('d/x'), file('new/y')], new FakeTree(new Map([['d/a', COPIED]])));
    const manifest = settle(tree, layer);
    assert.deepInclude(tree.at('d'), { mode: 0o1777, uid: 9 });
    assert.deepInclude(tree.at('new'), { mode: 0o755, uid: 0 });
    assert.deepEqual(
      [...parseManifest(manifest)].map(([path, { mode }]) => [path, mode]),
      [['d', 0o1777]],
    );
  });
});

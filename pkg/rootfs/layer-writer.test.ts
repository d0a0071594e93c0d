import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { cleanPath, linkedPath } from './layer-writer.ts';
import { paxEntry, tarEntry, tarHeader } from './tar-build.ts';
import type { NodeMetadata, OpenFile } from './node.ts';
import { dir, FakeTree, file, hardlink, list, parseManifest, refusal, symlink, unpack } from './fake-tree.ts';

describe('rootfs/layer-writer: paths', () => {
  it('mean what they mean inside the layer', () => {
    for (const [raw, want] of [
      ['./a/b', 'a/b'],
      ['/a//b/', 'a/b'],
      ['a/./b', 'a/b'],
      ['a/../b', 'b'],
      ['./', ''],
      ['/', ''],
      ['a/..', ''],
      ['..a/b..', '..a/b..'],
    ]) {
      assert.equal(cleanPath(raw as string), want);
    }
  });
  it('do not climb out', () => {
    for (const raw of ['..', '../x', '../../x', 'a/../../x', '/../x', './../etc/passwd'])
      assert.throws(() => cleanPath(raw), RuntimeError, 'leads out of the layer');
    assert.match(refusal(file('../../x')), /^PermissionDenied/);
    assert.match(refusal(file('a'), hardlink('b', '../../etc/shadow')), /^PermissionDenied/);
  });
  it('have names of at most 255 bytes', () => {
    assert.equal(cleanPath('n'.repeat(255)).length, 255);
    assert.match(refusal(paxEntry([['path', `a/${'n'.repeat(256)}`]], {})), /^InvalidArgument/);
  });
  it('symlinks point inside', () => {
    assert.equal(linkedPath('a/b/c', '../x'), 'a/x');
    assert.equal(linkedPath('a/b', '/x/./y'), 'x/y');
    assert.equal(linkedPath('a', '../../../etc'), 'etc');
  });
});

describe('rootfs/layer-writer: the tree', () => {
  it('has every kind of node, with content in one piece or many', () => {
    for (const chunk of [100_000, 600, 13]) {
      const { tree } = unpack(
        [
          dir('d'),
          file('d/f', 'x'.repeat(700)),
          file('empty'),
          symlink('s', '/d/f'),
          hardlink('h', './d/f'),
          tarEntry({ name: 'c', type: '3', major: 1, minor: 3 }),
          tarEntry({ name: 'p', type: '6' }),
        ],
        new FakeTree(),
        { chunk },
      );
      assert.deepEqual(tree.list(), [
        'c other character 1:3',
        'd directory',
        `d/f file ${'x'.repeat(700)}`,
        'empty file',
        `h file ${'x'.repeat(700)}`,
        'p other fifo 0:0',
        's symlink /d/f',
      ]);
    }
  });

  it('has holes where a sparse file has them', () => {
    const sparse = (map: string, content: string): string | undefined =>
      unpack([
        paxEntry(
          [
            ['GNU.sparse.size', '8'],
            ['GNU.sparse.map', map],
          ],
          { name: 'f' },
          content,
        ),
      ]).tree.list()[0];
    assert.equal(sparse('2,2,5,1', 'abc'), 'f file \0\0ab\0c\0\0');
    assert.equal(sparse('', ''), `f file ${'\0'.repeat(8)}`);
  });

  it('later entries replace earlier ones, whatever they are', () => {
    assert.deepEqual(list(file('a', '1'), file('a', '2')), ['a file 2']);
    assert.deepEqual(list(dir('a'), file('a/b'), file('a', 'x')), ['a file x']);
    assert.deepEqual(list(file('a'), dir('a'), file('a/b', 'y')), ['a directory', 'a/b file y']);
    assert.deepEqual(list(symlink('a', 'b'), dir('a')), ['a directory']);
    assert.deepEqual(list(dir('a'), file('a/b'), dir('a')), ['a directory', 'a/b file']);
  });

  it('a replaced directory is forgotten with all that was known of it', () => {
    const { layer, tree, manifest } = unpack([
      dir('a'),
      dir('a/b'),
      dir('a/b/.wh..wh..opq'),
      file('a/b/c', '1'),
      file('a', 'x'),
    ]);
    assert.deepEqual(tree.times, []);
    assert.deepEqual([...layer.pending.implicit()], []);
    assert.deepEqual([...parseManifest(manifest).keys()], ['a']);
  });

  it('directories get their times last, children before parents', () => {
    const { tree } = unpack([
      tarEntry({ name: 'a', type: '5', mtime: 1 }),
      tarEntry({ name: 'a/b', type: '5', mtime: 2 }),
      file('a/b/c'),
      tarEntry({ name: './', type: '5', mtime: 3 }),
    ]);
    assert.deepEqual(tree.times, [' 3.0', 'a/b 2.0', 'a 1.0']);
  });

  it('the owner and mode of the root are told', () => {
    assert.deepEqual(unpack([tarEntry({ name: './', type: '5', mode: 0o1777, uid: 5, gid: 6 })]).layer.root, {
      mode: 0o1777,
      uid: 5,
      gid: 6,
    });
    assert.isNull(unpack([file('a')]).layer.root);
    assert.match(refusal(file('./')), /accepted/, 'a file with a slash at the end is a directory');
    assert.match(refusal(symlink('./', 'x')), /^DataLoss: .*root of a layer has to be a directory/);
  });
});

describe('rootfs/layer-writer: hard links', () => {
  const entry = (name: string, mode: number, link = ''): Buffer =>
    tarEntry({ name, mode, uid: mode, mtime: mode, ...(link === '' ? {} : { type: '1', link }) });
  const of = ({ mode, uid, mtimeSeconds }: NodeMetadata): readonly number[] => [mode, uid, mtimeSeconds];

  it('give the file what their entries say of it, as later words about it', () => {
    const { tree } = unpack([entry('f', 0o644), entry('a', 0o755, 'f'), entry('b', 0o700, 'a')]);
    for (const path of ['f', 'a', 'b']) assert.deepEqual(of(tree.at(path)), [0o700, 0o700, 0o700], path);
  });

  it('give nothing to a file that comes after them, nor to a symlink', () => {
    const { tree } = unpack([entry('a', 0o755, 'f'), entry('f', 0o644), symlink('s', 'f'), entry('t', 0o755, 's')]);
    assert.deepEqual(of(tree.at('a')), [0o644, 0o644, 0o644]);
    assert.notEqual(tree.at('s').uid, 0o755);
  });
});

describe('rootfs/layer-writer: parents', () => {
  it('that no entry describes are made and told, outer ones first', () => {
    const { tree, layer } = unpack([file('a/b/c'), dir('a/d'), dir('x'), file('x/y')]);
    assert.deepEqual(tree.list(), [
      'a directory',
      'a/b directory',
      'a/b/c file',
      'a/d directory',
      'x directory',
      'x/y file',
    ]);
    assert.deepEqual([...layer.pending.implicit()], ['a', 'a/b']);
    assert.deepEqual([...unpack([file('a/b'), dir('a')]).layer.pending.implicit()], [], 'described later');
  });

  it('symlinks of the layer are followed inside it, also where their target is not there yet', () => {
    assert.deepEqual(list(dir('usr'), dir('usr/lib'), symlink('lib', 'usr/lib'), file('lib/x')), [
      'lib symlink usr/lib',
      'usr directory',
      'usr/lib directory',
      'usr/lib/x file',
    ]);
    const { tree, layer } = unpack([symlink('lib', '../../usr/lib'), file('lib/x')]);
    assert.deepEqual(tree.list(), [
      'lib symlink ../../usr/lib',
      'usr directory',
      'usr/lib directory',
      'usr/lib/x file',
    ]);
    assert.deepEqual([...layer.pending.implicit()], ['usr', 'usr/lib']);
    assert.deepEqual(list(symlink('e', '/etc'), file('e/passwd')), [
      'e symlink /etc',
      'etc directory',
      'etc/passwd file',
    ]);
  });

  it('loops and files in the way are refused', () => {
    assert.match(refusal(symlink('a', 'b'), symlink('b', 'a'), file('a/x')), /^DataLoss: .*leads nowhere/);
    assert.match(refusal(symlink('a', 'a'), file('a/x')), /^DataLoss: .*leads nowhere/);
    assert.match(refusal(file('a'), file('a/x')), /^DataLoss: .*not a directory/);
  });

  it('replacing directories over and over is bounded', () => {
    assert.match(refusal(...Array.from({ length: 1001 }, () => [dir('a'), file('a')]).flat()), /^ResourceExhausted/);
  });
});

describe('rootfs/layer-writer: whiteouts', () => {
  it('become character devices 0:0 and opaque directories an attribute', () => {
    const { tree, layer } = unpack([dir('a'), file('a/.wh.x'), dir('b'), file('b/.wh..wh..opq'), file('b/y')]);
    assert.deepEqual(tree.list(), ['a directory', 'a/x whiteout character 0:0', 'b directory opaque', 'b/y file']);
    assert.isFalse(layer.rootIsOpaque);
  });
  it('are known by their name, not by their type', () =>
    assert.deepEqual(list(hardlink('.wh.x', '.wh..wh.aufs'), tarEntry({ name: '.wh.y', type: '5' })), [
      'x whiteout character 0:0',
      'y whiteout character 0:0',
    ]));

  it('hide lower layers only, in whichever order they come', () => {
    assert.deepEqual(list(file('a', '1'), file('.wh.a')), ['a file 1']);
    assert.deepEqual(list(file('.wh.a'), file('a', '1')), ['a file 1']);
    assert.deepEqual(list(dir('a'), file('a/b'), file('.wh.a')), ['a directory opaque', 'a/b file']);
    assert.deepEqual(list(file('.wh.a'), dir('a'), file('a/b')), ['a directory opaque', 'a/b file']);
    assert.deepEqual(list(file('.wh.a'), file('a/b')), ['a directory opaque', 'a/b file']);
    assert.deepEqual(list(file('a/.wh..wh..opq'), dir('a')), ['a directory opaque'], 'described after');
    assert.deepEqual(list(file('.wh.a'), file('.wh.a')), ['a whiteout character 0:0']);
  });

  it('directories below an opaque one take nothing from lower layers', () => {
    assert.deepEqual([...unpack([file('a/.wh..wh..opq'), file('a/b/c')]).layer.pending.implicit()], ['a']);
    assert.deepEqual([...unpack([file('.wh..wh..opq'), file('a/b')]).layer.pending.implicit()], []);
  });
  it('of the root are told', () => assert.isTrue(unpack([file('.wh..wh..opq')]).layer.rootIsOpaque));
  it('of no file are refused', () => {
    for (const name of ['.wh.', '.wh..', '.wh...', 'a/.wh...'])
      assert.match(refusal(file(name)), /^DataLoss: .*whiteout of no file/, name);
    assert.match(refusal(file('.wh.a/b')), /^DataLoss: .*below a whiteout/);
    assert.deepEqual(list(file('.wh...a')), ['..a whiteout character 0:0']);
  });
  it("AUFS' own files are left out", () =>
    assert.deepEqual(list(dir('.wh..wh.plnk'), file('.wh..wh.plnk/1.2'), file('.wh..wh.aufs'), file('a')), ['a file']));
});

describe('rootfs/layer-writer: attributes', () => {
  const names = (type: string, ...xattrs: string[]): readonly [string[], number] => {
    const { tree, layer } = unpack([
      paxEntry(
        xattrs.map((name) => [`SCHILY.xattr.${name}`, 'v']),
        { name: 'n', type, link: 'x' },
      ),
    ]);
    return [tree.at('n').xattrs.map(({ name }) => name), layer.droppedXattrs];
  };
  it('that would steer the overlay, belong to the mount or that no file system knows are dropped', () => {
    assert.deepEqual(names('0', 'security.capability', 'user.a', 'trusted.x', 'system.posix_acl_access'), [
      ['security.capability', 'user.a', 'trusted.x', 'system.posix_acl_access'],
      0,
    ]);
    assert.deepEqual(
      names(
        '5',
        'trusted.overlay.opaque',
        'trusted.overlay.redirect',
        'user.overlay.opaque',
        'security.selinux',
        'security.evm',
        'nonsense',
        'system.other',
      ),
      [[], 7],
    );
    assert.deepEqual(names('2', 'user.a', 'security.x'), [['security.x'], 1]);
  });
});

describe('rootfs/layer-writer: default ACLs', () => {
  it('are set when nothing more is made in the directory', () => {
    class Inheriting extends FakeTree {
      override file(path: string, content: Uint8Array, metadata: NodeMetadata): void {
        assert.isEmpty(this.at('d').xattrs);
        super.file(path, content, metadata);
      }
    }
    const acl = (name: string): Buffer =>
      paxEntry([['SCHILY.xattr.system.posix_acl_default', 'acl']], { name, type: '5' });
    assert.deepEqual(
      unpack([acl('d'), file('d/f')], new Inheriting())
        .tree.at('d')
        .xattrs.map(({ name }) => name),
      ['system.posix_acl_default'],
    );
    assert.isEmpty(unpack([acl('d'), dir('d')]).tree.at('d').xattrs, 'the last entry counts');
    assert.deepEqual(list(acl('d'), file('d', 'x')), ['d file x']);
  });
});

describe('rootfs/layer-writer: failures', () => {
  it('name the entry, keep the code, and leave no file open', () => {
    class FullTree extends FakeTree {
      override begin(path: string): OpenFile {
        return {
          ...super.begin(path),
          write: () => {
            throw new RuntimeError('ResourceExhausted', 'write (ENOSPC)');
          },
        };
      }
    }
    const tree = new FullTree();
    try {
      unpack([tarHeader({ name: 'big/file', size: 5000 }), Buffer.alloc(5120)], tree, { chunk: 1000 });
      assert.fail('accepted');
    } catch (error) {
      assert.instanceOf(error, RuntimeError);
      assert.equal((error as RuntimeError).code, 'ResourceExhausted');
      assert.include((error as RuntimeError).message, '"big/file"');
    }
    assert.equal(tree.abandoned, 1);
  });
});

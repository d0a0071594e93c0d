import { assert } from 'chai';
import { explain, RuntimeError } from '../base/errors.ts';
import { cleanPath, LayerWriter, linkedPath, settleLayer } from './layer-writer.ts';
import { ManifestWriter, parseManifest } from './manifest.ts';
import { paxEntry, tarEntry, tarHeader, tarOf } from './tar-build.ts';
import { TarReader } from './tar.ts';
import type { CopiedFile, NodeKind, NodeMetadata, OpenFile, SettleBounds, StackedTree, WrittenLayer } from './node.ts';

interface Node {
  kind: NodeKind | 'file';
  text: string;
  metadata: NodeMetadata;
}

/**
 * A directory in memory that keeps the promises of StackedTree: symlinks in parents resolve inside, parents must exist,
 * replacing replaces trees.
 */
class FakeTree implements StackedTree {
  readonly nodes = new Map<string, Node>();
  readonly times: string[] = [];
  readonly #below: ReadonlyMap<string, CopiedFile>;
  abandoned = 0;

  constructor(below: ReadonlyMap<string, CopiedFile> = new Map()) {
    this.#below = below;
    this.nodes.set('', { kind: 'directory', text: '', metadata: NONE });
  }

  kindOf(path: string): NodeKind {
    const at = this.#find(path);
    const kind = at === undefined ? undefined : this.nodes.get(at)?.kind;
    return kind === undefined ? 'absent' : kind === 'file' ? 'other' : kind;
  }
  linkTarget(path: string): string {
    return this.#node(path).text;
  }
  directory(path: string, metadata: NodeMetadata): void {
    const at = this.#place(path);
    if (this.nodes.get(at)?.kind === 'directory') Object.assign(this.nodes.get(at) as Node, { metadata });
    else this.#put(at, { kind: 'directory', text: '', metadata });
  }
  symlink(path: string, target: string, metadata: NodeMetadata): void {
    this.#put(this.#place(path), { kind: 'symlink', text: target, metadata });
  }
  special(path: string, kind: string, major: number, minor: number, metadata: NodeMetadata): void {
    const isWhiteout = kind === 'character' && major === 0 && minor === 0;
    this.#put(this.#place(path), {
      kind: isWhiteout ? 'whiteout' : 'other',
      text: `${kind} ${major}:${minor}`,
      metadata,
    });
  }
  hardlink(path: string, target: string): void {
    const node = this.#node(target);
    this.#put(this.#place(path), node);
  }
  file(path: string, content: Uint8Array, metadata: NodeMetadata): void {
    this.#put(this.#place(path), { kind: 'file', text: Buffer.from(content).toString('latin1'), metadata });
  }
  begin(path: string): OpenFile {
    const node: Node = { kind: 'file', text: '', metadata: NONE };
    this.#put(this.#place(path), node);
    return {
      write: (bytes, offset) =>
        void (node.text = node.text.padEnd(offset, '\0') + Buffer.from(bytes).toString('latin1')),
      finish: (size, metadata) => void Object.assign(node, { text: node.text.padEnd(size, '\0'), metadata }),
      abandon: () => void this.abandoned++,
    };
  }
  setXattr(path: string, name: string, value: Uint8Array): void {
    const node = this.#node(path);
    node.metadata = { ...node.metadata, xattrs: [...node.metadata.xattrs, { name, value }] };
  }
  setTime(path: string, seconds: number, nanos: number): void {
    if (this.kindOf(path) === 'directory') this.times.push(`${path} ${seconds}.${nanos}`);
  }
  sizeBelow(path: string): number | undefined {
    return this.#below.get(path)?.sizeBytes;
  }
  copyUp(path: string, look: () => void): CopiedFile {
    look();
    const copied = this.#below.get(path);
    if (copied === undefined) throw new RuntimeError('NotFound', `no ${path} below`);
    this.#put(this.#place(path), { kind: 'file', text: 'from below', metadata: copied });
    return copied;
  }
  adopt(path: string): NodeMetadata | undefined {
    const metadata = [...this.#below.keys()].some((each) => each.startsWith(`${path}/`)) ? BELOW : undefined;
    if (metadata !== undefined) this.directory(path, metadata);
    return metadata;
  }

  /** `path kind text` of everything, opaque directories marked. */
  list(): string[] {
    return [...this.nodes]
      .filter(([path]) => path !== '')
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([path, { kind, text, metadata }]) => {
        const opaque = metadata.xattrs.some(({ name }) => name === 'trusted.overlay.opaque') ? ' opaque' : '';
        return `${path} ${kind}${opaque}${text === '' ? '' : ` ${text}`}`;
      });
  }
  at(path: string): NodeMetadata {
    return this.#node(path).metadata;
  }

  #node(path: string): Node {
    const at = this.#find(path);
    const node = at === undefined ? undefined : this.nodes.get(at);
    if (node === undefined) throw new RuntimeError('NotFound', `no ${path}`);
    return node;
  }
  #put(at: string, node: Node): void {
    for (const each of this.nodes.keys()) if (each === at || each.startsWith(`${at}/`)) this.nodes.delete(each);
    this.nodes.set(at, node);
  }
  #place(path: string): string {
    const at = this.#find(path);
    if (at === undefined) throw new RuntimeError('NotFound', `no parent of ${path}`);
    return at;
  }
  /** The real path; undefined if the parent is not there. */
  #find(path: string, links = 0): string | undefined {
    if (path === '') return '';
    const slash = path.lastIndexOf('/');
    let parent = this.#find(slash < 0 ? '' : path.slice(0, slash), links);
    for (; parent !== undefined && this.nodes.get(parent)?.kind === 'symlink' && links < 40; links++)
      parent = this.#find(linkedPath(parent, this.nodes.get(parent)?.text ?? ''), links);
    if (parent === undefined || this.nodes.get(parent)?.kind !== 'directory') return undefined;
    return parent === '' ? path.slice(slash + 1) : `${parent}/${path.slice(slash + 1)}`;
  }
}

const NONE: NodeMetadata = { mode: 0, uid: 0, gid: 0, mtimeSeconds: 0, mtimeNanos: 0, xattrs: [] };
const BELOW: NodeMetadata = { ...NONE, mode: 0o1777, uid: 9 };
const LIMITS = { entriesCount: 1e6, contentBytes: 1e9, recordBytes: 1e6, pathBytes: 4096, sparsePartsCount: 100 };

interface Outcome {
  readonly tree: FakeTree;
  readonly layer: WrittenLayer;
  readonly manifest: Buffer;
}

function unpack(entries: readonly Buffer[], tree = new FakeTree(), chunk = 100_000): Outcome {
  const pieces: Buffer[] = [];
  const manifest = new ManifestWriter((bytes) => void pieces.push(bytes));
  const writer = new LayerWriter(tree, manifest);
  const reader = new TarReader(writer, LIMITS);
  const tar = tarOf(...entries);
  try {
    for (let at = 0; at < tar.length; at += chunk) reader.push(tar.subarray(at, at + chunk));
  } catch (error) {
    writer.abandon();
    throw error;
  }
  const layer = writer.finish();
  manifest.flush();
  return { tree, layer, manifest: Buffer.concat(pieces) };
}

const COPIED: CopiedFile = { ...NONE, mode: 0o755, sizeBytes: 10, crc: 7 };

function settle(tree: FakeTree, layer: WrittenLayer, bounds: Partial<SettleBounds> = {}): Buffer {
  const pieces: Buffer[] = [];
  const manifest = new ManifestWriter((bytes) => void pieces.push(bytes));
  settleLayer(tree, layer.pending, manifest, { copiedBytes: 100, look: () => {}, ...bounds });
  manifest.flush();
  return Buffer.concat(pieces);
}

const list = (...entries: readonly Buffer[]): string[] => unpack(entries).tree.list();
const file = (name: string, content = ''): Buffer => tarEntry({ name }, content);
const dir = (name: string): Buffer => tarEntry({ name, type: '5' });
const symlink = (name: string, link: string): Buffer => tarEntry({ name, type: '2', link });
const hardlink = (name: string, link: string): Buffer => tarEntry({ name, type: '1', link });

function refusal(...entries: readonly Buffer[]): string {
  return refusalOf(() => unpack(entries));
}

function refusalOf(work: () => unknown): string {
  try {
    work();
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${explain(error)}`;
  }
  return 'accepted';
}

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
        chunk,
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
    assert.deepEqual(layer.pending.implicit, []);
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
    assert.deepEqual(layer.pending.implicit, ['a', 'a/b']);
    assert.deepEqual(unpack([file('a/b'), dir('a')]).layer.pending.implicit, [], 'described later');
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
    assert.deepEqual(layer.pending.implicit, ['usr', 'usr/lib']);
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
    assert.deepEqual(layer.pending.links, []);
  });

  it('into a lower layer wait for it; then the file is copied up under its own name', () => {
    const { tree, layer } = unpack(
      [file('b', 'old'), hardlink('b', 'd/a'), hardlink('c', 'b')],
      new FakeTree(new Map([['d/a', COPIED]])),
    );
    assert.deepEqual(layer.pending, {
      implicit: [],
      links: [
        ['b', 'd/a'],
        ['c', 'd/a'],
      ],
    });
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
    assert.deepEqual(unpack([hardlink('b', 'd/a'), file('b', 'x')]).layer.pending.links, []);
    assert.deepEqual(unpack([hardlink('b', 'd/a'), dir('b')]).layer.pending.links, []);
    assert.deepEqual(unpack([dir('d'), hardlink('d/b', 'x/a'), file('d')]).layer.pending.links, []);
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
    assert.deepEqual(unpack([file('a/.wh..wh..opq'), file('a/b/c')]).layer.pending.implicit, ['a']);
    assert.deepEqual(unpack([file('.wh..wh..opq'), file('a/b')]).layer.pending.implicit, []);
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
      unpack([tarHeader({ name: 'big/file', size: 5000 }), Buffer.alloc(5120)], tree, 1000);
      assert.fail('accepted');
    } catch (error) {
      assert.instanceOf(error, RuntimeError);
      assert.equal((error as RuntimeError).code, 'ResourceExhausted');
      assert.include((error as RuntimeError).message, '"big/file"');
    }
    assert.equal(tree.abandoned, 1);
  });
});

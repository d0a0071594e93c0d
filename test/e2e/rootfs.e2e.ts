/**
 * Layers on the real kernel: what is unpacked is compared file by file with what GNU tar and umoci make of the same
 * bytes.
 */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { mkdir, readdir, readFile, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { type ChainId, newContainerId } from '../../pkg/base/ids.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { paxEntry, tarEntry, tarOf } from '../../pkg/rootfs/tar-build.ts';
import { buildImage } from './images.ts';
import { contents, snapshot } from './tree.ts';
import {
  BOUNDS,
  PLAIN,
  op,
  dir,
  driver,
  sh,
  layerOf,
  stackOf,
  treeOf,
  refusal,
  useRootfsGround,
} from './rootfs-ground.ts';

/** u::rw-, u:1000:rw-, g::r--, m::rw-, o::r-- as the kernel stores it (linux/posix_acl_xattr.h). */
const ACCESS_ACL = '0x0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff';
/** u::rwx, u:1000:rw-, g::r-x, m::rwx, o::r-x likewise. */
const DEFAULT_ACL = '0x0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000500ffffffff';

describe('layers', function () {
  this.timeout(120_000);
  useRootfsGround();

  describe('unpacks what others pack', () => {
    before(async () => {
      await mkdir(join(dir, 'tree'));
      sh(
        `
        mkdir -p dir/sub 'with space' "$(printf 'long/%.0s' {1..40})"
        printf hello > file; chown 1000:1001 file; chmod 4755 file
        ln file dir/hard; ln file dir/sub/hard2
        ln -s ../file dir/sym; ln -s /etc/passwd abs; ln -s dangling dang; ln dang dang-hard
        mkfifo -m 620 fifo; mknod chr c 5 1; mknod -m 0640 blk b 259 70000; chown 7:8 chr
        printf x > "$(printf 'name/%.0s' {1..1} | tr / _)$(head -c 200 /dev/zero | tr '\\0' n)"
        head -c 3000000 /dev/urandom > big
        truncate -s 20M sparse; printf middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none
        printf end | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
        truncate -s 5M hole
        : > empty; : > $'caf\\xe9'; : > 'new
line'
        chmod 1777 dir; chmod 2755 dir/sub; chmod 000 empty
        ln -s "$(head -c 300 /dev/zero | tr '\\0' t)" longlink
        chown 4000000000:3000000000 big
        find . -depth -exec touch -h -d '2001-02-03 04:05:06.123456789' {} +
        touch -d '1969-12-31 23:59:58.5 UTC' 'with space'
      `,
        join(dir, 'tree'),
      );
    });
    after(() => rm(join(dir, 'tree'), { recursive: true }));

    const withXattrs = (): void => {
      sh(
        `
        setfattr -n user.bin -v 0x000a3d00ff file; setfattr -n user.empty -v '' file
        setfattr -n security.capability -v 0x0100000200200000000000000000000000000000 big
        setfattr -n system.posix_acl_access -v ${ACCESS_ACL} hole
        setfattr -n system.posix_acl_default -v ${DEFAULT_ACL} dir
        setfattr -n trusted.note -v 0x00 dir; setfattr -h -n trusted.link -v abc abs
      `,
        join(dir, 'tree'),
      );
    };

    const formats: readonly [name: string, options: string][] = [
      ['PAX with xattrs and sparse files', '--format=posix --xattrs --xattrs-include=* --acls --sparse'],
      ['PAX, sparse 0.1', '--format=posix --sparse --sparse-version=0.1'],
      ['PAX, sparse 0.0', '--format=posix --sparse --sparse-version=0.0'],
      ['GNU, sparse', '--format=gnu --sparse'],
      ['old GNU', '--format=oldgnu'],
      [
        'ustar',
        '--format=ustar --exclude=./with* --exclude=./long --exclude=./longlink --exclude=./big ' +
          '--exclude=./name_* --exclude=./blk',
      ],
      [
        'V7',
        '--format=v7 --exclude=./with* --exclude=./long --exclude=./longlink --exclude=./big ' +
          '--exclude=./name_* --exclude=./fifo --exclude=./chr --exclude=./blk',
      ],
    ];
    for (const [name, options] of formats) {
      it(`GNU tar's ${name}`, async () => {
        if (options.includes('--xattrs ')) withXattrs();
        sh(
          `tar -C tree --numeric-owner ${options} -cf plain.tar . 2>tar.log; rm -rf reference; mkdir ` +
            `reference; tar -C reference --numeric-owner --xattrs --xattrs-include='*' -xpf plain.tar`,
        );
        const [chainId] = await stackOf(await readFile(join(dir, 'plain.tar')));
        const [want, got] = [contents(join(dir, 'reference')), contents(treeOf(chainId))];
        assert.isAbove(want.length, 10);
        assert.deepEqual(got, want);
        assert.deepEqual(await driver.verifyLayer(op, chainId as ChainId), []);
        if (options.includes('--sparse'))
          assert.isBelow(Number((await stat(join(treeOf(chainId), 'sparse'))).blocks), 200, 'holes stay holes');
        sh('rm -rf reference plain.tar');
      });
    }

    it('every packing, whatever it is called', async () => {
      const tar =
        sh('tar -C tree -cf plain.tar . && echo ok') === 'ok\n'
          ? await readFile(join(dir, 'plain.tar'))
          : Buffer.alloc(0);
      const half = tar.length >> 1;
      const skippable = Buffer.from([0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0, 1, 2, 3]);
      sh('xz -k plain.tar; bzip2 -k plain.tar');
      const checksummed = { params: { [constants.ZSTD_c_checksumFlag]: 1 } };
      const packings: Readonly<Record<string, Buffer>> = {
        none: tar,
        gzip: gzipSync(tar),
        'gzip in two members': Buffer.concat([gzipSync(tar.subarray(0, half)), gzipSync(tar.subarray(half))]),
        zstd: zstdCompressSync(tar),
        'zstd in frames with others between': Buffer.concat([
          skippable,
          zstdCompressSync(tar.subarray(0, half), checksummed),
          skippable,
          zstdCompressSync(tar.subarray(half)),
          skippable,
        ]),
        'zstd in many small frames': Buffer.concat(
          Array.from({ length: Math.ceil(tar.length / 100_000) }, (_, i) =>
            zstdCompressSync(tar.subarray(i * 100_000, (i + 1) * 100_000)),
          ),
        ),
        xz: await readFile(join(dir, 'plain.tar.xz')),
        bzip2: await readFile(join(dir, 'plain.tar.bz2')),
      };
      let want: string[] | undefined;
      for (const [name, blob] of Object.entries(packings)) {
        const layer = await layerOf(tar, blob);
        await driver.unpack(op, layer);
        const got = snapshot(treeOf(layer.chainId));
        want ??= got;
        assert.deepEqual(got, want, name);
        await driver.removeLayer(op, layer.chainId);
        assert.isFalse(await driver.has(layer.chainId));
      }
      sh('rm plain.tar*');
    });
  });

  describe('a large tree of real packages', () => {
    it('arrives as umoci unpacks it, and its memory stays small', async () => {
      sh('tar -C /usr/share --format=posix -cf plain.tar doc');
      const tar = await readFile(join(dir, 'plain.tar'));
      await buildImage({ directory: join(dir, 'oci'), name: 'x', layers: [{ files: [], raw: tar }] });
      sh('umoci unpack --image oci:x bundle');
      const unbounded = new OverlayRootfs({ root: join(dir, 'root') });
      const layer = await layerOf(tar, gzipSync(tar, { level: 1 }));
      const before = process.memoryUsage.rss();
      let most = 0;
      await unbounded.unpack(op, { ...layer, onProgress: () => (most = Math.max(most, process.memoryUsage.rss())) });
      assert.isBelow(most - before, 150_000_000, 'from source a worker also carries the type stripper');
      assert.deepEqual(contents(treeOf(layer.chainId)), contents(join(dir, 'bundle/rootfs')));
      assert.deepEqual(await unbounded.verifyLayer(op, layer.chainId), []);
      await unbounded.close();
      sh('rm -rf oci bundle plain.tar');
    });
  });

  describe('stacks layers as umoci does', () => {
    const file = (name: string, content = name, more = {}): Buffer => tarEntry({ name, ...more }, content);
    const directory = (name: string, more = {}): Buffer => tarEntry({ name: `${name}/`, type: '5', ...more });
    const base = [
      directory('.', { mode: 0o755 }),
      file('prog', 'program', { mode: 0o4711 }),
      directory('etc'),
      file('etc/a'),
      file('etc/b'),
      directory('opt', { mode: 0o2775, uid: 3, gid: 4, mtime: 1_500_000_000 }),
      file('opt/x'),
      directory('opt/deep'),
      file('opt/deep/y'),
      directory('tmp', { mode: 0o1777 }),
      file('tool', 'program', { mode: 0o4755, uid: 5 }),
      tarEntry({ name: 'tool2', type: '1', link: 'tool', mode: 0o4755, uid: 5, mtime: 1_600_000_000 }),
      directory('gone'),
      file('gone/z'),
      directory('was-dir'),
      file('was-dir/f'),
      file('was-file'),
      tarEntry({ name: 'link', type: '2', link: 'etc' }),
      directory('usr'),
      directory('usr/lib'),
      file('usr/lib/l'),
    ];
    const second = [
      directory('etc'),
      file('etc/.wh.a', ''),
      file('etc/c'),
      directory('opt', { mode: 0o700, mtime: 1_600_000_001 }),
      file('opt/.wh..wh..opq', ''),
      file('opt/new'),
      file('.wh.gone', ''),
      file('was-dir', 'now a file'),
      directory('was-file'),
      file('was-file/inside'),
      tarEntry({ name: 'link', type: '2', link: 'elsewhere' }),
      file('prog', 'other', { mode: 0o755 }),
    ];
    const third = [
      directory('gone', { mode: 0o711 }),
      file('gone/again'),
      paxEntry([['SCHILY.xattr.user.k', 'v\0w']], { name: 'etc/b' }, 'changed'),
      directory('etc', { mode: 0o750 }),
      file('etc/c', 'third'),
    ];

    it('file by file', async () => {
      const tars = [base, second, third].map((entries) => tarOf(...entries));
      await buildImage({
        directory: join(dir, 'oci'),
        name: 'x',
        layers: tars.map((raw) => ({ files: [], raw, compression: 'none' as const })),
      });
      sh('umoci unpack --image oci:x bundle');
      const merged = await driver.mount(op, newContainerId(), await stackOf(...tars), PLAIN);
      const skipTimes = (lines: string[]): string[] =>
        lines.map((line) => line.replace(/^(\S+ \S+ \S+) \S+ d/, '$1 d'));
      const [got, want] = [snapshot(merged), snapshot(join(dir, 'bundle/rootfs'))];
      assert.isAbove(want.length, 15);
      // umoci sets the time of a directory anew whenever a layer puts something into it.
      assert.deepEqual(skipTimes(got), skipTimes(want));
      sh('rm -rf oci bundle');
    });

    it('leaves out attributes that the file system does not take, as others do, but none of its own', async () => {
      const odd = 'no ACL that this kernel knows';
      const acls = ['access', 'default'].map((kind) => [`SCHILY.xattr.system.posix_acl_${kind}`, odd] as const);
      const tar = tarOf(
        paxEntry([...acls, ['SCHILY.xattr.user.k', 'v']], { name: 'd', type: '5' }),
        paxEntry([acls[0] ?? ['', ''], ['SCHILY.xattr.user.k', 'v']], { name: 'd/f' }, 'content'),
        paxEntry([acls[0] ?? ['', '']], { name: 'fifo', type: '6' }),
      );
      const [layer] = await stackOf(tar);
      assert.deepEqual(
        sh(`getfattr --absolute-names -d -m - ${treeOf(layer)}/d ${treeOf(layer)}/d/f ${treeOf(layer)}/fifo`)
          .split('\n')
          .filter((line) => line.includes('=')),
        ['user.k="v"', 'user.k="v"'],
      );
      // Without its own, what a layer hides would show.
      sh('mkdir plain; mount -t ramfs none plain');
      const plain = new OverlayRootfs({ root: join(dir, 'plain'), unpackLimits: BOUNDS });
      await plain.sweepLayers(op);
      try {
        await plain.unpack(op, await layerOf(tar));
        const opaque = tarOf(tarEntry({ name: 'd/.wh..wh..opq' }));
        assert.match(await refusal(plain.unpack(op, await layerOf(opaque))), /trusted\.overlay\.opaque|setxattr/);
      } finally {
        await plain.close();
        sh('umount plain; rmdir plain');
      }
    });

    it('a directory that a layer does not describe stays as it is below', async () => {
      const chain = await stackOf(tarOf(...base), tarOf(file('tmp/t'), file('opt/deep/.wh.y', ''), file('usr/lib/m')));
      const merged = await driver.mount(op, newContainerId(), chain, PLAIN);
      const at = async (path: string): Promise<string> => {
        const st = await stat(join(merged, path));
        return `${(st.mode & 0o7777).toString(8)} ${st.uid}:${st.gid} ${st.mtimeMs}`;
      };
      assert.equal(await at('tmp'), '1777 0:0 1600000000000');
      assert.equal(await at('opt'), '2775 3:4 1500000000000');
      assert.deepEqual(
        [await readdir(join(merged, 'opt/deep')), (await readdir(join(merged, 'usr/lib'))).sort()],
        [[], ['l', 'm']],
      );
      for (const chainId of chain) assert.deepEqual(await driver.verifyLayer(op, chainId), []);
    });

    it('a hard link has the last word about its file, and the layer is whole', async () => {
      const odd = { mode: 0o4711, uid: 7, gid: 8, mtime: 1_234_567_890 };
      const [chainId] = await stackOf(
        tarOf(
          tarEntry({ name: 'd', type: '5' }),
          tarEntry({ name: 'd/f', mode: 0o644 }, 'content'),
          tarEntry({ name: 'way', type: '2', link: 'd' }),
          tarEntry({ name: 'hard', type: '1', link: 'way/f', ...odd }),
          tarEntry({ name: 'fifo', type: '6' }),
          tarEntry({ name: 'fifo2', type: '1', link: 'fifo', ...odd }),
        ),
      );
      for (const name of ['d/f', 'hard']) {
        const { mode, uid, gid, mtimeMs } = await stat(join(treeOf(chainId), name));
        assert.deepEqual([mode & 0o7777, uid, gid, mtimeMs], [0o4711, 7, 8, 1_234_567_890_000], name);
      }
      assert.deepEqual(await driver.verifyLayer(op, chainId as ChainId), []);
      sh(`chmod 644 '${join(treeOf(chainId), 'hard')}'`);
      assert.match((await driver.verifyLayer(op, chainId as ChainId)).join('; '), /"\/d\/f" has another owner or mode/);
    });

    it('a hard link into a lower layer copies the file up, and one to nowhere costs the layer', async () => {
      const chain = await stackOf(tarOf(...base), tarOf(tarEntry({ name: 'opt/tool3', type: '1', link: 'tool' })));
      const merged = await driver.mount(op, newContainerId(), chain, PLAIN);
      const [a, b] = [await stat(join(merged, 'tool')), await stat(join(merged, 'opt/tool3'))];
      assert.deepEqual(
        [a.ino === b.ino, a.nlink, a.mode & 0o7777, a.uid, await readFile(join(merged, 'opt/tool3'), 'utf8')],
        [true, 2, 0o4755, 5, 'program'],
      );
      assert.deepEqual(await driver.verifyLayer(op, chain[1] as ChainId), []);
      const lost = await stackOf(tarOf(...base), tarOf(tarEntry({ name: 'l', type: '1', link: 'no/such' })));
      assert.match(await refusal(driver.settle(op, lost)), /^DataLoss: .*neither in its layer nor in one below/);
      assert.deepEqual([await driver.has(lost[0] as ChainId), await driver.has(lost[1] as ChainId)], [true, false]);
    });

    const sparse = (name: string, size: number, map = '', content = ''): Buffer =>
      paxEntry(
        [
          ['GNU.sparse.size', String(size)],
          ['GNU.sparse.map', map],
        ],
        { name },
        content,
      );
    const linkTo = (...targets: readonly string[]): Buffer =>
      tarOf(...targets.map((target) => tarEntry({ name: `${target}-link`, type: '1', link: target })));
    const MiB = 1024 * 1024;

    it('a sparse file that is copied up keeps its holes', async () => {
      const size = 50 * MiB;
      const chain = await stackOf(
        tarOf(sparse('s', size, `0,5,${size - 3},3`, 'beginend'), sparse('hole', MiB)),
        linkTo('s', 'hole'),
      );
      await driver.settle(op, chain);
      const [from, to] = [join(treeOf(chain[0]), 's'), join(treeOf(chain[1]), 's-link')];
      assert.isTrue((await readFile(to)).equals(await readFile(from)));
      assert.isBelow((await stat(to)).blocks * 512, MiB);
      const hole = await stat(join(treeOf(chain[1]), 'hole'));
      assert.deepEqual([hole.size, hole.blocks < 16], [MiB, true]);
      assert.deepEqual(await driver.verifyLayer(op, chain[1] as ChainId), []);
    });

    it('a bomb of holes and hard links to them is refused before it is copied', async () => {
      const chain = await stackOf(tarOf(sparse('a', 40 * MiB)), tarOf(sparse('b', 40 * MiB)), linkTo('a', 'b'));
      assert.match(await refusal(driver.settle(op, chain)), /^ResourceExhausted: .*hard links.*decompression bomb/);
      assert.deepEqual(await readdir(treeOf(chain[2])), []);
      assert.match(await refusal(driver.mount(op, newContainerId(), chain, PLAIN)), /^ResourceExhausted/);
    });

    it('a copy is given up in the middle of a file, and leaves no part of it', async () => {
      const unbounded = new OverlayRootfs({ root: join(dir, 'root') });
      const below = await layerOf(tarOf(sparse('huge', 32 * 1024 * MiB)));
      const above = await layerOf(linkTo('huge'), linkTo('huge'), [below.chainId]);
      for (const layer of [below, above]) await unbounded.unpack(op, layer);
      const controller = new AbortController();
      const settling = refusal(unbounded.settle({ ...op, signal: controller.signal }, [below.chainId, above.chainId]));
      try {
        await waitFor(
          () => readdir(treeOf(above.chainId)),
          (names) => names.includes('huge'),
          'the copy to begin',
        );
      } finally {
        controller.abort();
        assert.match(await settling, /^Cancelled/);
        await unbounded.close();
      }
      assert.deepEqual(await readdir(treeOf(above.chainId)), []);
    });

    it('who gives up does not take it from others that wait for the same layer', async () => {
      const chain = await stackOf(tarOf(...base), tarOf(tarEntry({ name: 'opt/tool3', type: '1', link: 'tool' })));
      const impatient = new AbortController();
      const joined = Promise.withResolvers<string>();
      // The second caller has joined at the end of this turn of the loop; the first one's work has files to read before
      // it gets any further.
      const stage = (): void => {
        joined.resolve(refusal(driver.settle(op, chain)));
        setImmediate(() => impatient.abort());
      };
      assert.match(await refusal(driver.settle({ ...op, signal: impatient.signal, stage }, chain)), /^Cancelled/);
      assert.equal(await joined.promise, 'accepted');
      assert.equal(await readFile(join(treeOf(chain[1]), 'opt/tool3'), 'utf8'), 'program');
    });

    it('an opaque root hides all that is below it', async () => {
      const merged = await driver.mount(
        op,
        newContainerId(),
        await stackOf(tarOf(...base), tarOf(file('.wh..wh..opq', ''), file('only')), tarOf(file('top'))),
        PLAIN,
      );
      assert.deepEqual((await readdir(merged)).sort(), ['only', 'top']);
    });

    it('the root has the owner and mode that the topmost layer with an entry for it says', async () => {
      const merged = await driver.mount(
        op,
        newContainerId(),
        await stackOf(tarOf(directory('.', { mode: 0o711, uid: 12, gid: 13 })), tarOf(file('x'))),
        PLAIN,
      );
      const st = await stat(merged);
      assert.deepEqual([st.mode & 0o7777, st.uid, st.gid], [0o711, 12, 13]);
    });
  });
});

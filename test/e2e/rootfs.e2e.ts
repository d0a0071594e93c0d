/**
 * Layers and mounts on the real kernel: what is unpacked is compared file by file with what GNU tar and umoci make of
 * the same bytes, and everything hostile that a layer can be is tried.
 */
import { assert } from 'chai';
import { waitFor } from './cri-client.ts';
import { execFileSync, spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import {
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { join } from 'node:path';
import { constants, gzipSync, zstdCompressSync } from 'node:zlib';
import { explain, RuntimeError } from '../../pkg/base/errors.ts';
import {
  type ChainId,
  type ContainerId,
  type Digest,
  hexOf,
  newContainerId,
  parseChainId,
  parseDigest,
} from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { paxEntry, tarEntry, tarHeader, tarOf } from '../../pkg/rootfs/tar-build.ts';
import { buildImage } from './images.ts';
import { contents, snapshot } from './tree.ts';
import type { LayerSource } from '../../pkg/ports/image.ts';
import type { RootfsOptions } from '../../pkg/ports/rootfs.ts';

const PLAIN: RootfsOptions = { mountOptions: [], quotaBytes: 0n, idMap: null };
const BOUNDS = { entriesCount: 12_000, unpackedBytes: 64 * 1024 * 1024, ratio: 100, ratioGraceBytes: 8 * 1024 * 1024 };
const op = backgroundOp(silent);
const WHOLE = { subPath: '', idMap: null };

let dir = '';
let driver: OverlayRootfs;
let blobs = 0;

const sh = (script: string, cwd = dir): string =>
  execFileSync('/bin/bash', ['-euc', script], { cwd, encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });
const sha256 = (bytes: Buffer | string): Digest =>
  parseDigest(`sha256:${createHash('sha256').update(bytes).digest('hex')}`);

/** A layer whose blob is `blob`, on top of `below`. */
async function layerOf(tar: Buffer, blob = tar, below: readonly ChainId[] = []): Promise<LayerSource> {
  const path = join(dir, `blob-${blobs++}`);
  await writeFile(path, blob);
  const diffId = sha256(tar);
  const top = below.at(-1);
  const chainId = parseChainId(top === undefined ? diffId : sha256(`${top} ${diffId}`));
  return {
    path,
    digest: sha256(blob),
    diffId,
    chainId,
    mediaType: '',
    sizeBytes: BigInt(blob.length),
    onProgress() {},
  };
}

/** Unpacks tars on top of each other. */
async function stackOf(...tars: readonly Buffer[]): Promise<ChainId[]> {
  const chain: ChainId[] = [];
  for (const tar of tars) {
    const layer = await layerOf(tar, tar, chain);
    await driver.unpack(op, layer);
    chain.push(layer.chainId);
  }
  return chain;
}

const treeOf = (chainId: ChainId | undefined): string => join(dir, 'root/layers', hexOf(chainId as ChainId), 'fs');

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    if (!(error instanceof RuntimeError)) throw error;
    return `${error.code}: ${explain(error)}`;
  }
  return 'accepted';
}

const openFiles = async (): Promise<number> => (await readdir('/proc/self/fd')).length;
const mounts = async (): Promise<string[]> =>
  (await readFile('/proc/self/mountinfo', 'utf8')).split('\n').filter((line) => line.includes(dir));

before(async function () {
  if (process.getuid?.() !== 0) throw new Error('needs root');
  dir = await mkdtemp('/tmp/berth-rootfs-');
});

after(async () => {
  assert.deepEqual(await mounts(), [], 'mounts left behind');
  await rm(dir, { recursive: true, force: true });
});

describe('rootfs', function () {
  this.timeout(120_000);
  let filesBefore = 0;

  beforeEach(async () => {
    driver = new OverlayRootfs({ root: join(dir, 'root'), unpackLimits: BOUNDS });
    await driver.sweepLayers(op);
    filesBefore = await openFiles();
  });

  afterEach(async () => {
    for (const id of await driver.list()) await driver.destroy(op, id);
    await driver.close();
    const left = (await readdir(join(dir, 'root/layers'))).filter((name) => name.startsWith('.tmp-'));
    assert.deepEqual(left, [], 'partial layers left behind');
    assert.deepEqual(await readdir(join(dir, 'root/rootfs')), [], 'containers left behind');
    // Pipes of a child that was killed close a turn of the loop or two after its exit is known.
    await waitFor(openFiles, (count) => count <= filesBefore, `no more than ${filesBefore} descriptors to be open`, {
      timeoutMs: 5_000,
    });
    await rm(join(dir, 'root'), { recursive: true, force: true });
    for (const name of await readdir(dir)) if (name.startsWith('blob-')) await rm(join(dir, name));
  });

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
        truncate -s 20M sparse; printf middle | dd of=sparse bs=1 seek=5000000 conv=notrunc status=none; printf end | dd of=sparse bs=1 seek=20000000 conv=notrunc status=none
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
        setfattr -n system.posix_acl_access -v 0x0200000001000600ffffffff02000600e803000004000400ffffffff10000600ffffffff20000400ffffffff hole
        setfattr -n system.posix_acl_default -v 0x0200000001000700ffffffff02000600e803000004000500ffffffff10000700ffffffff20000500ffffffff dir
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
      tarEntry({ name: 'tool2', type: '1', link: 'tool' }),
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

  describe('lets nothing out of the layer and nothing half done in', () => {
    const file = (name: string, content = 'evil'): Buffer => tarEntry({ name, mode: 0o777 }, content);
    const link = (name: string, target: string): Buffer => tarEntry({ name, type: '2', link: target });
    const hard = (name: string, target: string): Buffer => tarEntry({ name, type: '1', link: target });
    const deep = (count: number, name: string): Buffer => paxEntry([['path', `${name}/`.repeat(count)]], { type: '5' });

    /** Refused, with a typed error, nothing of it left; afterEach looks for files, descriptors and mounts. */
    const refused: readonly [what: string, tar: Buffer | (() => Buffer), want: RegExp][] = [
      ['..', tarOf(file('../../../../tmp/berth-evil')), /^PermissionDenied: .*leads out of the layer/],
      ['.. in the middle', tarOf(file('a/../../berth-evil')), /^PermissionDenied/],
      ['a hard link out of the layer', tarOf(hard('shadow', '../../../../etc/shadow')), /^PermissionDenied/],
      [
        'a hard link to an absolute path that is not in the layer',
        tarOf(hard('shadow', '/etc/shadow')),
        /^DataLoss: .*not in the layer/,
      ],
      [
        'a hard link through a symlink out of the layer',
        tarOf(link('e', '/etc'), hard('shadow', 'e/shadow')),
        /^DataLoss/,
      ],
      ['a hard link to a directory', tarOf(tarEntry({ name: 'd/', type: '5' }), hard('h', 'd')), /^DataLoss/],
      ['a loop of symlinks', tarOf(link('a', 'b'), link('b', 'a'), file('a/x')), /^DataLoss: .*leads nowhere/],
      [
        'a chain of 60 symlinks',
        tarOf(...Array.from({ length: 60 }, (_, i) => link(`s${i}`, `s${i + 1}`)), file('s0/x')),
        /^DataLoss/,
      ],
      ['a file where a directory has to be', tarOf(file('a'), file('a/b')), /^DataLoss: .*not a directory/],
      [
        'a name of 100 000 bytes',
        tarOf(paxEntry([['path', 'n'.repeat(100_000)]], {})),
        /^(ResourceExhausted|InvalidArgument)/,
      ],
      ['a name of 256 bytes', tarOf(paxEntry([['path', 'n'.repeat(256)]], {})), /^InvalidArgument/],
      ['NUL in a name', tarOf(paxEntry([['path', 'a\0b']], {})), /^DataLoss: .*NUL/],
      ['a negative size', tarOf(tarEntry({ raw: [[124, Buffer.alloc(12, 0xff)]] })), /^DataLoss: .*negative/],
      ['a truncated end', tarOf(file('a', 'x'.repeat(2000))).subarray(0, 1500), /^DataLoss: .*cut short/],
      [
        'a PAX header of 1 GiB',
        Buffer.concat([tarHeader({ type: 'x', size: 2 ** 30 }), Buffer.alloc(4096)]),
        /^ResourceExhausted: .*extended header/,
      ],
      [
        'a sparse map of a billion parts',
        tarOf(
          paxEntry(
            [
              ['GNU.sparse.major', '1'],
              ['GNU.sparse.minor', '0'],
              ['GNU.sparse.realsize', '5'],
            ],
            {},
            '1000000000\n'.padEnd(512, '\0'),
          ),
        ),
        /^ResourceExhausted/,
      ],
      ['a whiteout of ..', tarOf(file('.wh...')), /^DataLoss: .*whiteout of no file/],
      [
        'more entries than allowed',
        () => tarOf(...Array.from({ length: 12_001 }, () => tarEntry({ name: 'same' }))),
        /^ResourceExhausted: .*more than 12000 entries/,
      ],
      [
        'more bytes than allowed',
        () => tarOf(tarEntry({ name: 'a' }, Buffer.alloc(65 * 1024 * 1024))),
        /^ResourceExhausted/,
      ],
      [
        'a file with more holes than allowed',
        tarOf(
          paxEntry(
            [
              ['GNU.sparse.size', String(2 ** 52)],
              ['GNU.sparse.map', ''],
            ],
            {},
          ),
        ),
        /^ResourceExhausted: .*more than \d+ bytes/,
      ],
      [
        'a device with impossible numbers',
        tarOf(
          tarEntry({
            name: 'd',
            type: '3',
            raw: [
              [329, Buffer.from('7777777\0')],
              [337, Buffer.from('7777777\0')],
            ],
          }),
        ),
        /^(InvalidArgument|DataLoss|accepted)/,
      ],
      ['an unknown kind of entry', tarOf(tarEntry({ type: 'Q' })), /^Unimplemented/],
      ['something that is no tar', Buffer.alloc(5000, 'garbage'), /^DataLoss: .*checksum/],
    ];
    for (const [what, tar, want] of refused) {
      it(what, async () => {
        const outside = await readdir('/tmp');
        const bytes = typeof tar === 'function' ? tar() : tar;
        const layer = await layerOf(bytes);
        const got = await refusal(driver.unpack(op, layer));
        assert.match(got, want);
        if (got !== 'accepted') assert.isFalse(await driver.has(layer.chainId));
        assert.deepEqual(
          (await readdir('/tmp')).filter((name) => name.includes('berth-evil')),
          outside.filter((name) => name.includes('berth-evil')),
        );
        // The same driver goes on working (CVE-2021-20291: a malformed layer left a lock behind).
        assert.lengthOf(await stackOf(tarOf(file('ok'))), 1);
      });
    }

    it('damaged packings', async () => {
      const tar = tarOf(file('a', randomBytes(200_000).toString('latin1')));
      await writeFile(join(dir, 'plain.tar'), tar);
      const xz = (sh('xz -kf plain.tar'), await readFile(join(dir, 'plain.tar.xz')));
      const packed: Readonly<Record<string, Buffer>> = { gzip: gzipSync(tar), zstd: zstdCompressSync(tar), xz };
      for (const [name, blob] of Object.entries(packed)) {
        const flipped = Buffer.from(blob);
        flipped[blob.length >> 1] = (flipped[blob.length >> 1] as number) ^ 0x10;
        for (const [how, bytes] of Object.entries({
          cut: blob.subarray(0, -7),
          'cut in half': blob.subarray(0, blob.length >> 1),
          'only magic': blob.subarray(0, 8),
          'magic and garbage': Buffer.concat([blob.subarray(0, 6), randomBytes(5000)]),
          flipped,
        })) {
          // What looks like a zstd header may ask for any window.
          assert.match(
            await refusal(driver.unpack(op, await layerOf(tar, bytes))),
            how === 'magic and garbage' ? /^(DataLoss|ResourceExhausted)/ : /^DataLoss/,
            `${name}, ${how}`,
          );
        }
      }
      sh('rm plain.tar*');
    });

    it('a layer that is not what the config promises', async () => {
      const layer = { ...(await layerOf(tarOf(file('a')))), diffId: sha256('other') };
      assert.match(await refusal(driver.unpack(op, layer)), /^DataLoss: .*the image config promises/);
    });

    it('decompression bombs: gzip, and a zstd window of 2 GiB', async () => {
      const zeros = Buffer.concat([
        tarHeader({ name: 'zeros', size: 60 * 1024 * 1024 }),
        Buffer.alloc(60 * 1024 * 1024),
      ]);
      assert.match(
        await refusal(driver.unpack(op, await layerOf(zeros, gzipSync(zeros)))),
        /^ResourceExhausted: .*decompression bomb/,
      );
      // A frame header that asks for a window of 2 GiB: descriptor 0 (no size), window exponent 21.
      const window = Buffer.concat([
        Buffer.from([0x28, 0xb5, 0x2f, 0xfd, 0x00, 21 << 3]),
        Buffer.from([0x01, 0x00, 0x00]),
      ]);
      assert.match(await refusal(driver.unpack(op, await layerOf(zeros, window))), /^ResourceExhausted: .*zstd window/);
    });

    it('writes through symlinks land inside, and modes outside stay (CVE-2021-32760)', async () => {
      await writeFile(join(dir, 'victim'), 'safe', { mode: 0o600 });
      const [chainId] = await stackOf(
        tarOf(
          link('x', join(dir, 'victim')),
          hard('y', 'x'),
          file('x'),
          link('d', dir),
          file('d/victim'),
          link('up', '../../../../../../..'),
          file(`up${dir}/victim`),
          file('/abs'),
        ),
      );
      assert.deepEqual(
        [await readFile(join(dir, 'victim'), 'utf8'), (await stat(join(dir, 'victim'))).mode & 0o777],
        ['safe', 0o600],
      );
      const tree = treeOf(chainId);
      assert.deepEqual(
        [
          await readFile(join(tree, 'x'), 'utf8'),
          (await lstat(join(tree, 'y'))).isSymbolicLink(),
          existsSync(join(tree, dir, 'victim')),
          existsSync(join(tree, 'abs')),
        ],
        ['evil', true, true, true],
      );
      await rm(join(dir, 'victim'));
    });

    it('directories nested as deep as a path can be', async () => {
      const [chainId] = await stackOf(tarOf(deep(2000, 'd'), deep(15, 'n'.repeat(250))));
      assert.deepEqual((await readdir(treeOf(chainId))).length, 2);
      await driver.removeLayer(op, chainId as ChainId);
    });

    it('device nodes are made as devices, whiteouts by device number hide', async () => {
      const [chainId] = await stackOf(
        tarOf(tarEntry({ name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 }), file('.wh.old')),
      );
      const tree = treeOf(chainId);
      assert.deepEqual(
        [
          Number((await lstat(join(tree, 'null'))).rdev),
          (await lstat(join(tree, 'old'))).isCharacterDevice(),
          Number((await lstat(join(tree, 'old'))).rdev),
        ],
        [0x103, true, 0],
      );
    });

    it('attributes that would steer the overlay are not set', async () => {
      const names = [
        'trusted.overlay.redirect',
        'trusted.overlay.metacopy',
        'trusted.overlay.opaque',
        'user.overlay.opaque',
        'user.fine',
      ];
      const [chainId] = await stackOf(
        tarOf(
          paxEntry(
            names.map((name) => [`SCHILY.xattr.${name}`, '/etc']),
            { name: 'd/', type: '5' },
          ),
        ),
      );
      assert.include(sh(`getfattr -d -m - ${treeOf(chainId)}/d`), 'user.fine');
      assert.notInclude(sh(`getfattr -d -m - ${treeOf(chainId)}/d`), 'overlay');
    });

    it('somebody swaps a directory for a symlink all the time (CVE-2025-47290)', async () => {
      const victim = join(dir, 'swap-victim');
      await mkdir(victim);
      const layer = await layerOf(tarOf(...Array.from({ length: 5000 }, (_, i) => file(`d/${i}`))));
      let isDone = false;
      const unpacking = refusal(driver.unpack(op, layer)).finally(() => (isDone = true));
      while (!isDone) {
        for (const name of await readdir(join(dir, 'root/layers'))) {
          const d = join(dir, 'root/layers', name, 'fs/d');
          await rename(d, `${d}-aside`)
            .then(() => symlink(victim, d))
            .catch(() => {});
          await new Promise((resolve) => setImmediate(resolve));
          await rm(d)
            .then(() => rename(`${d}-aside`, d))
            .catch(() => {});
        }
      }
      assert.match(await unpacking, /^(accepted|[A-Z][a-zA-Z]+: )/);
      assert.deepEqual(await readdir(victim), []);
      await rm(victim, { recursive: true });
    });

    it('a full disk is told, and what was written is given back', async () => {
      const small = join(dir, 'small');
      await mkdir(small);
      sh(`mount -t tmpfs -o size=3m,mode=711 none ${small}`);
      const tiny = new OverlayRootfs({ root: small });
      try {
        await tiny.sweepLayers(op);
        assert.match(
          await refusal(tiny.unpack(op, await layerOf(tarOf(file('big', randomBytes(4_000_000).toString('latin1')))))),
          /^ResourceExhausted: .*ENOSPC/,
        );
        assert.deepEqual(await readdir(join(small, 'layers')), []);
        await tiny.unpack(op, await layerOf(tarOf(file('ok'))));
      } finally {
        await tiny.close();
        sh(`umount ${small}`);
      }
    });
  });

  describe('is complete or absent', () => {
    it('one unpack serves all who want the layer; who gives up does not take it from others', async () => {
      const layer = await layerOf(
        tarOf(...Array.from({ length: 3000 }, (_, i) => tarEntry({ name: `f${i}` }, 'x'.repeat(500)))),
      );
      const impatient = new AbortController();
      const first = refusal(driver.unpack({ ...op, signal: impatient.signal }, layer));
      const second = refusal(driver.unpack(op, layer));
      setTimeout(() => impatient.abort(), 30);
      assert.match(await first, /^(Cancelled|accepted)/);
      assert.equal(await second, 'accepted');
      assert.isTrue(await driver.has(layer.chainId));
    });

    it('a cancelled unpack ends soon and leaves nothing', async () => {
      const layer = await layerOf(
        tarOf(...Array.from({ length: 10_000 }, (_, i) => tarEntry({ name: `f${i}` }, 'x'.repeat(2000)))),
      );
      const controller = new AbortController();
      let heard = 0;
      const unpacking = refusal(
        driver.unpack(
          { ...op, signal: controller.signal },
          {
            ...layer,
            onProgress: (read, written) => {
              heard = Math.max(read, written);
              controller.abort();
            },
          },
        ),
      );
      assert.match(await unpacking, /^Cancelled/);
      assert.isAbove(heard, 0);
      assert.deepEqual(await readdir(join(dir, 'root/layers')), []);
    });

    it(
      'kill -9 at any moment: no partial layer is seen, the sweep leaves no file, the next unpack ' + 'succeeds',
      async () => {
        const layers = await Promise.all(
          Array.from({ length: 4 }, (_, n) =>
            layerOf(
              tarOf(
                ...Array.from({ length: 300 }, (_, i) =>
                  tarEntry({ name: `dir${i % 50}/f${n}-${i}` }, `${n}${i}`.repeat(200)),
                ),
              ),
            ),
          ),
        );
        await writeFile(
          join(dir, 'layers.json'),
          JSON.stringify(layers.map((layer) => ({ ...layer, sizeBytes: Number(layer.sizeBytes) }))),
        );
        await driver.close();
        const failpoints = [
          'rootfs.unpack.written=kill@2',
          'rootfs.unpack.synced=kill@3',
          'rootfs.unpack.renamed=kill@1',
        ];
        for (const round of Array.from({ length: 14 }, (_, i) => i)) {
          const child = spawn(process.execPath, ['--input-type=module', '-e', UNPACK_ALL], {
            env: {
              ...process.env,
              ROOT: join(dir, 'root'),
              LAYERS: join(dir, 'layers.json'),
              BERTH_FAILPOINTS: failpoints[round] ?? '',
            },
            stdio: ['ignore', 'pipe', 'inherit'],
          });
          const exited = once(child, 'exit');
          // Random moments from the first unpack on; with a failpoint it kills itself.
          if (round >= failpoints.length) {
            await once(child.stdout, 'data');
            await new Promise((resolve) => setTimeout(resolve, (round * 37) % 300));
            child.kill('SIGKILL');
          }
          await exited;
          const next = new OverlayRootfs({ root: join(dir, 'root'), unpackLimits: BOUNDS });
          for (const chainId of await next.listLayers())
            assert.deepEqual(await next.verifyLayer(op, chainId), [], `round ${round}`);
          await next.sweepLayers(op);
          assert.deepEqual(
            (await readdir(join(dir, 'root/layers'))).filter((name) => !/^[0-9a-f]{64}$/.test(name)),
            [],
          );
          if (round % 3 === 0) {
            await Promise.all(layers.map((layer) => next.unpack(op, layer)));
            for (const { chainId } of layers) await next.removeLayer(op, chainId);
          }
          await next.close();
        }
        await rm(join(dir, 'layers.json'));
      },
    );

    it('check finds what a disk or a power cut does, and the next unpack mends it', async () => {
      const layer = await layerOf(
        tarOf(
          tarEntry({ name: 'd/', type: '5' }),
          tarEntry({ name: 'd/f', mode: 0o4755 }, 'content'),
          tarEntry({ name: 'd/s', type: '2', link: 'f' }),
          tarEntry({ name: 'd/h', type: '1', link: 'd/f' }),
        ),
      );
      const damages: readonly [script: string, want: RegExp][] = [
        ['printf CONTENT > d/f', /"\/d\/f" has another content/],
        ['printf conten > d/f', /"\/d\/f" has 6 bytes instead of 7/],
        [': > d/f', /has 0 bytes/],
        ['rm d/f', /"\/d\/f" is missing/],
        ['chmod 755 d/f', /owner or mode/],
        ['rm d/h; cp -a d/f d/h', /hard link/],
        ['rm d/s; ln -s g d/s', /points elsewhere/],
        ['rm d/s; mkdir d/s', /is a directory instead of a symlink/],
        [': > d/more', /inodes instead of/],
        ['rm ../manifest', /manifest/],
        ['printf x > ../manifest', /manifest of the layer is damaged/],
        ['truncate -s 5 ../layer.json', /JSON|damaged/],
      ];
      for (const [script, want] of damages) {
        await driver.unpack(op, layer);
        assert.deepEqual(await driver.verifyLayer(op, layer.chainId), []);
        sh(script, treeOf(layer.chainId));
        assert.match((await driver.verifyLayer(op, layer.chainId)).join('; '), want, script);
        await driver.removeLayer(op, layer.chainId);
      }
      await driver.unpack(op, layer);
      sh('truncate -s 5 ../layer.json', treeOf(layer.chainId));
      const restarted = new OverlayRootfs({ root: join(dir, 'root') });
      assert.isFalse(await restarted.has(layer.chainId), 'no record, no layer');
      await restarted.unpack(op, layer);
      assert.deepEqual(await restarted.verifyLayer(op, layer.chainId), []);
      await restarted.close();
    });

    it('usage counts every layer once and needs no walk', async () => {
      const [chainId] = await stackOf(
        tarOf(tarEntry({ name: 'a' }, 'x'.repeat(100_000)), tarEntry({ name: 'b', type: '1', link: 'a' })),
      );
      const before = await driver.layersUsage(op);
      assert.deepEqual(
        [Number(before.usedBytes) >= 100_000 && Number(before.usedBytes) < 120_000, before.inodesUsed],
        [true, 2n],
      );
      await driver.removeLayer(op, chainId as ChainId);
      assert.deepEqual(await driver.layersUsage(op), { usedBytes: 0n, inodesUsed: 0n });
    });
  });

  describe('mounts', () => {
    const lines = async (id: ContainerId): Promise<string[]> => (await mounts()).filter((line) => line.includes(id));
    /** The name is free at once; what was mounted below it goes in the background. */
    const unmounted = async (id: ContainerId): Promise<void> =>
      void (await waitFor(
        () => lines(id),
        (left) => left.length === 0,
        'what was mounted to be gone',
      ));

    for (const count of [0, 1, 2, 128]) {
      it(`${count} layers, writable, and gives all of it back`, async () => {
        const chain = await stackOf(
          ...Array.from({ length: count }, (_, i) => tarOf(tarEntry({ name: `f${i}` }, String(i)))),
        );
        const id = newContainerId();
        const merged = await driver.mount(op, id, chain, PLAIN);
        assert.lengthOf(await readdir(merged), count);
        await writeFile(join(merged, 'new'), 'x');
        assert.equal(await driver.mount(op, id, chain, PLAIN), merged, 'again');
        assert.lengthOf(await lines(id), 1);
        assert.deepEqual(await driver.list(), [id]);
        await driver.destroy(op, id);
        assert.deepEqual(await driver.list(), []);
        await unmounted(id);
        await driver.destroy(op, id);
      });
    }

    it('come back after a restart with what was written', async () => {
      const id = newContainerId();
      const chain = await stackOf(tarOf(tarEntry({ name: 'f' })));
      const options = { ...PLAIN, mountOptions: ['metacopy=on', 'volatile', 'nodev'] };
      const merged = await driver.mount(op, id, chain, options);
      await writeFile(join(merged, 'kept'), 'x');
      assert.match((await lines(id)).join(), /nodev.*volatile/);
      sh(`umount -l ${merged}`);
      const restarted = new OverlayRootfs({ root: join(dir, 'root') });
      await restarted.mount(op, id, chain, options);
      assert.equal(await readFile(join(merged, 'kept'), 'utf8'), 'x');
      await restarted.destroy(op, id);
      await restarted.close();
    });

    it('refuse options that are not theirs', async () => {
      for (const option of [
        'lowerdir=/',
        'upperdir=/etc',
        'workdir=/',
        'context=x',
        'userxattr',
        'metacopy=on,lowerdir=/',
      ]) {
        assert.match(
          await refusal(driver.mount(op, newContainerId(), [], { ...PLAIN, mountOptions: [option] })),
          /^InvalidArgument/,
          option,
        );
      }
      assert.match(
        await refusal(driver.mount(op, newContainerId(), [], { ...PLAIN, quotaBytes: 1n })),
        /^Unimplemented/,
      );
    });

    it('a missing layer is told', async () => {
      assert.match(
        await refusal(driver.mount(op, newContainerId(), [parseChainId(sha256('nothing'))], PLAIN)),
        /^NotFound: .*pull the image again/,
      );
      assert.lengthOf(await driver.list(), 0);
    });

    it('with a user namespace the files belong to it', async () => {
      const id = newContainerId();
      const chain = await stackOf(
        tarOf(tarEntry({ name: './', type: '5', uid: 0 }), tarEntry({ name: 'a', uid: 5, gid: 6 })),
        tarOf(tarEntry({ name: 'b' })),
      );
      const map = [{ containerId: 0, hostId: 200_000, size: 65_536 }];
      const merged = await driver.mount(op, id, chain, { ...PLAIN, idMap: { uids: map, gids: map } });
      const owner = async (path: string): Promise<string> => {
        const st = await stat(join(merged, path));
        return `${st.uid}:${st.gid}`;
      };
      assert.deepEqual(
        [await owner('a'), await owner('b'), await owner('.')],
        ['200005:200006', '200000:200000', '200000:200000'],
      );
      assert.equal((await stat(join(merged, '..'))).mode & 0o777, 0o711);
    });

    it('one that leaked into another mount namespace does not hold up its removal (reliability 22)', async () => {
      const id = newContainerId();
      const merged = await driver.mount(op, id, await stackOf(tarOf(tarEntry({ name: 'f' }))), PLAIN);
      await writeFile(join(merged, 'data'), 'x');
      const holder = spawn(
        'unshare',
        ['--mount', '--propagation', 'private', 'sh', '-c', `cd ${merged} && echo ready && exec sleep 1000`],
        { stdio: ['ignore', 'pipe', 'inherit'] },
      );
      await once(holder.stdout, 'data');
      await driver.destroy(op, id);
      assert.deepEqual(await driver.list(), []);
      await driver.close();
      assert.deepEqual(await lines(id), []);
      assert.deepEqual(await readdir(join(dir, 'root/rootfs')), []);
      holder.kill('SIGKILL');
      await once(holder, 'exit');
    });

    it('what somebody mounted inside goes along', async () => {
      const id = newContainerId();
      const merged = await driver.mount(op, id, [], PLAIN);
      await mkdir(join(merged, 'mnt'));
      sh(`mount -t tmpfs none ${merged}/mnt; mount -t tmpfs none ${merged}/../work`);
      await driver.destroy(op, id);
      await unmounted(id);
    });

    it('half removed containers of a crash are swept', async () => {
      sh('mkdir -p root/rootfs/.trash-x/upper/a/b; : > root/rootfs/.trash-x/upper/a/b/c');
      await driver.sweepLayers(op);
      await driver.close();
      assert.deepEqual(await readdir(join(dir, 'root/rootfs')), []);
    });

    it('directories are closed to other users (CVE-2021-41103)', async () => {
      const id = newContainerId();
      await driver.mount(op, id, await stackOf(tarOf(tarEntry({ name: 'f' }))), PLAIN);
      const mode = async (path: string): Promise<number> => (await stat(join(dir, 'root', path))).mode & 0o777;
      assert.deepEqual(
        [await mode('.'), await mode('layers'), await mode('rootfs'), await mode(`rootfs/${id}`)],
        [0o711, 0o700, 0o711, 0o700],
      );
    });

    it('usage of the writable layer, no oftener than it changes', async () => {
      const id = newContainerId();
      const merged = await driver.mount(
        op,
        id,
        await stackOf(tarOf(tarEntry({ name: 'f' }, 'x'.repeat(50_000)))),
        PLAIN,
      );
      await writeFile(join(merged, 'new'), Buffer.alloc(100_000, 1));
      const usage = await driver.usage(op, id);
      assert.deepEqual([usage.usedBytes > 100_000n && usage.usedBytes < 130_000n, usage.inodesUsed], [true, 2n]);
      await writeFile(join(merged, 'more'), 'x');
      assert.deepEqual(await driver.usage(op, id), usage);
    });

    it('only ids lead to anything', async () => {
      for (const id of ['', '.', '..', '/', '../layers', 'x']) {
        assert.match(await refusal(driver.destroy(op, id as ContainerId)), /^InvalidArgument/, id);
        assert.match(
          await refusal((async () => driver.mount(op, id as ContainerId, [], PLAIN))()),
          /^InvalidArgument/,
          id,
        );
      }
      assert.isTrue(existsSync(join(dir, 'root/layers')));
    });
  });

  describe('image volumes', () => {
    const tar = tarOf(
      tarEntry({ name: './', type: '5', mode: 0o750, uid: 3 }),
      tarEntry({ name: 'a/', type: '5' }),
      tarEntry({ name: 'a/f' }, 'x'),
      tarEntry({ name: 'up', type: '2', link: '/' }),
      tarEntry({ name: 'out', type: '2', link: '/../../../etc' }),
      tarEntry({ name: 'in', type: '2', link: '/a' }),
      tarEntry({ name: 'null', type: '3', major: 1, minor: 3, mode: 0o666 }),
    );

    it('are read-only, from any number of layers, and go with the container', async () => {
      const id = newContainerId();
      const chain = await stackOf(tar, tarOf(tarEntry({ name: 'b' }, 'y'), tarEntry({ name: '.wh.null' })));
      const paths = await Promise.all([
        driver.mountImageVolume(op, id, 0, chain, WHOLE),
        driver.mountImageVolume(op, id, 1, chain.slice(0, 1), WHOLE),
        driver.mountImageVolume(op, id, 2, [], WHOLE),
      ]);
      assert.deepEqual(await Promise.all(paths.map(async (path) => (await readdir(path)).sort())), [
        ['a', 'b', 'in', 'out', 'up'],
        ['a', 'in', 'null', 'out', 'up'],
        [],
      ]);
      for (const path of paths) {
        const error = await writeFile(join(path, 'new'), '').then(
          () => 'written',
          (cause: NodeJS.ErrnoException) => cause.code,
        );
        assert.equal(error, 'EROFS');
      }
      const st = await stat(paths[0]);
      assert.deepEqual([st.mode & 0o777, st.uid], [0o750, 3]);
      for (const line of await mounts()) assert.match(line, /ro,nosuid,nodev,noexec/);
      assert.equal(
        await driver.mountImageVolume(op, id, 0, chain, { subPath: 'a', idMap: null }),
        join(paths[0], 'a'),
        'again',
      );
      assert.lengthOf(await mounts(), 3);
      await driver.destroy(op, id);
      await waitFor(mounts, (left) => left.length === 0, 'the volumes to be unmounted');
    });

    it('sub paths stay inside', async () => {
      const id = newContainerId();
      const chain = await stackOf(tar);
      const at = (subPath: string): Promise<string> =>
        driver.mountImageVolume(op, id, 0, chain, { subPath, idMap: null });
      const top = await at('');
      assert.deepEqual(
        [await at('a/f'), await at('in/f'), await at('a/')],
        [join(top, 'a/f'), join(top, 'a/f'), join(top, 'a')],
      );
      assert.match(await refusal(at('../../etc')), /^InvalidArgument: .*relative and without/);
      assert.match(await refusal(at('/etc')), /^InvalidArgument/);
      assert.match(await refusal(at('up')), /^InvalidArgument: .*leads out of the image/);
      assert.match(await refusal(at('out')), /^NotFound: .*does not exist in the image/);
      assert.match(await refusal(at('no')), /^NotFound: .*does not exist in the image/);
    });
  });

  describe('inside a root', () => {
    const start = async (
      ...entries: readonly Buffer[]
    ): Promise<{ readonly merged: string; readonly inside: ReturnType<OverlayRootfs['inside']> }> => {
      const merged = await driver.mount(op, newContainerId(), await stackOf(tarOf(...entries)), PLAIN);
      return { merged, inside: driver.inside(merged) };
    };

    it('files are read within bounds, and nothing else is opened (CVE-2025-4437, GHSA-jpcc-p29g-p8mq)', async () => {
      const { inside } = await start(
        tarEntry({ name: 'etc/passwd' }, 'root:x:0:0'),
        paxEntry(
          [
            ['GNU.sparse.size', String(60 * 2 ** 20)],
            ['GNU.sparse.map', ''],
          ],
          { name: 'huge' },
        ),
        tarEntry({ name: 'fifo', type: '6' }),
        tarEntry({ name: 'zero', type: '2', link: '/dev/zero' }),
        tarEntry({ name: 'dev/zero', type: '3', major: 1, minor: 5 }),
        tarEntry({ name: 'host', type: '2', link: '/../../../etc/hostname' }),
        tarEntry({ name: 'self', type: '2', link: '/proc/self/root/etc/hostname' }),
        tarEntry({ name: 'l', type: '2', link: 'etc/passwd' }),
      );
      assert.equal((await inside.readFile('/etc/passwd', 100))?.toString(), 'root:x:0:0');
      assert.equal((await inside.readFile('l', 100))?.toString(), 'root:x:0:0');
      for (const path of ['huge', 'fifo', 'zero', 'etc'])
        assert.match(await refusal(inside.readFile(path, 1000)), /^FailedPrecondition/, path);
      assert.match(await refusal(inside.readFile('etc/passwd', 5)), /^FailedPrecondition: .*larger than 5 bytes/);
      for (const path of ['none', 'etc/passwd/x']) assert.isUndefined(await inside.readFile(path, 1000), path);
      for (const path of ['host', 'self'])
        assert.match(
          await refusal(inside.readFile(path, 1000)),
          /^FailedPrecondition: .*symlink that leads nowhere/,
          path,
        );
    });

    it('paths resolve inside', async () => {
      const { inside } = await start(
        tarEntry({ name: 'a/b' }),
        tarEntry({ name: 'abs', type: '2', link: '/a' }),
        tarEntry({ name: 'up', type: '2', link: '../../../..' }),
        tarEntry({ name: 'fifo', type: '6' }),
        tarEntry({ name: 'loop', type: '2', link: 'loop' }),
      );
      assert.deepEqual(await inside.resolve('/abs/b'), { path: '/a/b', kind: 'file' });
      assert.deepEqual(await inside.resolve('up'), { path: '/', kind: 'directory' });
      assert.deepEqual(await inside.resolve('../../a'), { path: '/a', kind: 'directory' });
      assert.deepEqual(await inside.resolve('fifo'), { path: '/fifo', kind: 'other' });
      assert.isUndefined(await inside.resolve('none/x'));
      assert.match(await refusal(inside.resolve('loop')), /^InvalidArgument/);
    });

    it('mount targets are made inside, and nothing outside (CVE-2024-5154)', async () => {
      const { merged, inside } = await start(
        tarEntry({ name: 'etc/mtab', type: '2', link: `/../..${dir}/evil/x` }),
        tarEntry({ name: 'etc/resolv.conf', type: '2', link: '../run/systemd/resolv.conf' }),
        tarEntry({ name: 'var/run', type: '2', link: '/run' }),
        tarEntry({ name: 'file' }),
        tarEntry({ name: 'loop', type: '2', link: 'loop' }),
        tarEntry({ name: 'own/', type: '5', mode: 0o700, uid: 9 }),
      );
      await mkdir(join(dir, 'evil'));
      await inside.symlinkIfAbsent('/etc/mtab', '/proc/mounts');
      await inside.symlinkIfAbsent('/etc/hosts', '/x');
      await inside.symlinkIfAbsent('/etc/hosts', '/y');
      assert.deepEqual(
        [await readlink(join(merged, 'etc/mtab')), await readlink(join(merged, 'etc/hosts'))],
        [`/../..${dir}/evil/x`, '/x'],
      );
      await inside.ensureFile('/etc/mtab');
      await inside.ensureFile('/etc/resolv.conf');
      await inside.ensureFile('/new/deep/file');
      await inside.ensureFile('/file');
      assert.deepEqual(await readdir(join(dir, 'evil')), []);
      for (const path of [`${dir}/evil/x`, 'run/systemd/resolv.conf', 'new/deep/file'])
        assert.isTrue((await lstat(join(merged, path))).isFile(), path);
      assert.match(await refusal(inside.ensureFile('/etc')), /^FailedPrecondition/);
      assert.match(await refusal(inside.ensureFile('/loop')), /^(FailedPrecondition|InvalidArgument)/);
      await inside.ensureDir('/var/run/app', { uid: 5, gid: 6 }, 0o750);
      await inside.ensureDir('own', { uid: 5, gid: 6 }, 0o750);
      const [app, own] = [await stat(join(merged, 'run/app')), await stat(join(merged, 'own'))];
      assert.deepEqual([app.uid, app.gid, app.mode & 0o777, own.uid, own.mode & 0o777], [5, 6, 0o750, 9, 0o700]);
      assert.match(await refusal(inside.ensureDir('/file/x', { uid: 0, gid: 0 }, 0o755)), /^FailedPrecondition/);
      await rm(join(dir, 'evil'), { recursive: true });
    });

    it('the content of a VOLUME is copied out as it is (CVE-2022-23648)', async () => {
      const { inside } = await start(
        tarEntry({ name: 'data/', type: '5', mode: 0o711 }),
        tarEntry({ name: 'data/f', mode: 0o640, uid: 7, gid: 8 }, 'x'),
        tarEntry({ name: 'data/l', type: '2', link: '/etc/shadow' }),
        tarEntry({ name: 'out', type: '2', link: '/../../../../../etc' }),
      );
      const to = join(dir, 'volume');
      await mkdir(to);
      await inside.copyOut('/data', to);
      const st = await stat(join(to, 'f'));
      assert.deepEqual([st.mode & 0o777, st.uid, st.gid, await readlink(join(to, 'l'))], [0o640, 7, 8, '/etc/shadow']);
      for (const path of ['/none', '/../../../../etc', 'out', '/data/f']) {
        sh(`rm -rf ${to}; mkdir ${to}`);
        await inside.copyOut(path, to);
        assert.deepEqual(await readdir(to), [], path);
      }
      await rm(to, { recursive: true });
    });
  });
});

/** Unpacks all layers at once and removes them again, for ever; says when it begins. */
const UNPACK_ALL = `
  import { readFileSync } from 'node:fs';
  const { OverlayRootfs } = await import('${new URL('../../pkg/rootfs/index.ts', import.meta.url).href}');
  const { backgroundOp, silent } = await import('${new URL('../../pkg/base/op.ts', import.meta.url).href}');
  const layers = JSON.parse(readFileSync(process.env.LAYERS, 'utf8'));
  const op = backgroundOp(silent);
  const driver = new OverlayRootfs({ root: process.env.ROOT });
  await driver.sweepLayers(op);
  console.log('begin');
  for (;;) {
    await Promise.all(layers.map((layer) => driver.unpack(op, { ...layer, sizeBytes: BigInt(layer.sizeBytes) })));
    for (const { chainId } of layers) await driver.removeLayer(op, chainId);
  }
`;

/**
 * Layers that want out of their directory, and layers whose unpacking is cut off: everything hostile that one can be.
 */
import { assert } from 'chai';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { lstat, mkdir, readdir, readFile, rename, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { type ChainId } from '../../pkg/base/ids.ts';
import { OverlayRootfs } from '../../pkg/rootfs/index.ts';
import { paxEntry, tarEntry, tarHeader, tarOf } from '../../pkg/rootfs/tar-build.ts';
import {
  BOUNDS,
  op,
  dir,
  driver,
  sh,
  sha256,
  layerOf,
  stackOf,
  treeOf,
  refusal,
  useRootfsGround,
} from './rootfs-ground.ts';

describe('layers, hostile or cut off', function () {
  this.timeout(120_000);
  useRootfsGround();

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
      'kill -9 at any moment: no partial layer is seen (K4), the sweep leaves no file, the next unpack ' + 'succeeds',
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

/** Layers that are unpacked while their blobs arrive, on the real kernel and in real threads. */
import { assert } from 'chai';
import { randomBytes } from 'node:crypto';
import { appendFile, readdir, rm, stat, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { gzipSync, zstdCompressSync } from 'node:zlib';
import { GrowingFile } from '../../pkg/image/growing-file.ts';
import type { LayerSource, StagedLayer } from '../../pkg/ports/image.ts';
import { tarEntry, tarOf } from '../../pkg/rootfs/tar-build.ts';
import { waitFor } from './cri-client.ts';
import { contents } from './tree.ts';
import { dir, driver, layerOf, op, refusal, sh, treeOf, useRootfsGround } from './rootfs-ground.ts';

const FILES = 2000;
/** Which no packing makes smaller. */
const noise = (bytes = 1500): string => randomBytes(bytes).toString('latin1');
const TAR = tarOf(...Array.from({ length: FILES }, (_, i) => tarEntry({ name: `f${i}` }, noise())));

/** A download by hand. */
class Download {
  readonly file: GrowingFile;
  readonly #bytes: Buffer;
  #at = 0;

  private constructor(path: string, bytes: Buffer) {
    this.file = new GrowingFile(path);
    this.#bytes = bytes;
  }

  static async of(bytes: Buffer): Promise<Download> {
    const path = join(dir, `arriving-${Math.trunc(performance.now() * 1000)}`);
    await writeFile(path, '');
    return new Download(path, bytes);
  }

  /** A part of the blob comes in; of 1, its rest. */
  async come(part: number): Promise<void> {
    const to = part === 1 ? this.#bytes.length : Math.trunc(this.#bytes.length * part);
    for (; this.#at < to; this.file.grow(BigInt(this.#at))) {
      const next = Math.min(to, this.#at + 50_000);
      await appendFile(this.file.path, this.#bytes.subarray(this.#at, next));
      this.#at = next;
    }
  }

  async end(): Promise<void> {
    await this.come(1);
    this.file.pass();
  }
}

/** Files that are unpacked under temporary names. */
async function early(): Promise<number> {
  const layers = join(dir, 'root/layers');
  const names = (await readdir(layers).catch(() => [])).filter((name) => name.startsWith('.tmp-'));
  const trees = await Promise.all(names.map((name) => readdir(join(layers, name, 'fs')).catch(() => [])));
  return trees.flat().length;
}

describe('layers that are unpacked while they arrive', function () {
  this.timeout(120_000);
  useRootfsGround();
  afterEach(async () => {
    for (const name of await readdir(dir)) if (name.startsWith('arriving-')) await rm(join(dir, name));
  });

  const packings = [
    ['plain', (tar: Buffer) => tar],
    ['gzip', (tar: Buffer) => gzipSync(tar)],
    ['zstd', (tar: Buffer) => zstdCompressSync(tar)],
  ] as const;
  for (const [what, pack] of packings)
    it(`${what}: files are there before the blob is, and are seen once they are kept`, async () => {
      const layer = await layerOf(TAR, pack(TAR));
      const download = await Download.of(pack(TAR));
      await download.come(0.6);
      const unpacking = driver.unpackEarly(op, layer, download.file);
      await waitFor(early, (count) => count > FILES / 4, 'files of what has arrived');
      assert.isBelow(await early(), FILES);
      await download.end();
      const staged = (await unpacking) as StagedLayer;
      assert.isFalse(await driver.has(layer.chainId));
      assert.deepEqual(await driver.listLayers(), []);
      await staged.keep();
      await staged.drop();
      assert.deepEqual(await driver.verifyLayer(op, layer.chainId), []);
      const tree = contents(treeOf(layer.chainId));
      await driver.removeLayer(op, layer.chainId);
      await driver.unpack(op, layer);
      assert.deepEqual(tree, contents(treeOf(layer.chainId)));
    });

  it('given up, also while they wait for bytes: they end at once and leave nothing', async () => {
    for (const how of ['download', 'caller'] as const) {
      const layer = await layerOf(TAR, gzipSync(TAR));
      const download = await Download.of(gzipSync(TAR));
      await download.come(0.5);
      const stop = new AbortController();
      const unpacking = refusal(driver.unpackEarly({ ...op, signal: stop.signal }, layer, download.file));
      await waitFor(early, (count) => count > FILES / 4, 'files of what has arrived');
      if (how === 'download') download.file.fail(new Error('the line broke'));
      else stop.abort();
      assert.match(await unpacking, /^Cancelled: /, how);
      assert.deepEqual(await readdir(join(dir, 'root/layers')), [], how);
    }
  });

  it('dropped, or kept by two: one tree stays of what is kept, and nothing of the other', async () => {
    const layer = await layerOf(TAR, gzipSync(TAR));
    const all = await Promise.all(
      [0, 1, 2].map(async () => {
        const download = await Download.of(gzipSync(TAR));
        await download.end();
        return download;
      }),
    );
    // What is whole is no longer waited for, so that somebody has to begin before.
    const begun = all.map(({ file }) => driver.unpackEarly(op, layer, holding(file)));
    const [first, second, third] = (await Promise.all(begun)) as readonly StagedLayer[];
    await first?.drop();
    await Promise.all([second?.keep(), third?.keep()]);
    await second?.drop();
    await third?.drop();
    assert.deepEqual(await driver.listLayers(), [layer.chainId]);
    assert.lengthOf(await readdir(join(dir, 'root/layers')), 1);
    assert.deepEqual(await driver.verifyLayer(op, layer.chainId), []);
  });

  it('not what only another program unpacks', async () => {
    const packed = join(dir, 'arriving-xz');
    await writeFile(packed, TAR);
    sh(`xz -kc arriving-xz > arriving-packed`);
    const layer = await layerOf(TAR, Buffer.alloc(Number((await stat(join(dir, 'arriving-packed'))).size)));
    const file = new GrowingFile(join(dir, 'arriving-packed'));
    file.grow(100n);
    assert.isUndefined(await driver.unpackEarly(op, layer, file));
  });

  it('not what is read in one block, and so not before it is whole', async () => {
    const small = tarOf(tarEntry({ name: 'small' }, noise()));
    const download = await Download.of(small);
    await download.come(0.9);
    assert.isUndefined(await driver.unpackEarly(op, await layerOf(small), download.file));
  });

  it('not what has got its own name meanwhile', async () => {
    const download = await Download.of(TAR);
    await download.end();
    await rm(download.file.path);
    assert.isUndefined(await driver.unpackEarly(op, await layerOf(TAR), download.file));
  });

  it('and never arrive: layers that are here are unpacked all the same, and one more is not waited for', async () => {
    const stop = new AbortController();
    const stuck: Promise<string>[] = [];
    for (let i = 0; i < 3; i++) {
      const layer = await layerOf(tarOf(tarEntry({ name: `stuck${i}` }, noise()), TAR));
      const download = await Download.of(TAR);
      await download.come(0.5);
      stuck.push(refusal(driver.unpackEarly({ ...op, signal: stop.signal }, layer, download.file)));
    }
    await waitFor(early, (count) => count > 0, 'files of what has arrived');
    const fourth = await Download.of(TAR);
    await fourth.come(0.5);
    const late = driver.unpackEarly(op, await layerOf(TAR), fourth.file);
    await driver.unpack(op, await layerOf(tarOf(tarEntry({ name: 'here' }, 'here'))));
    await fourth.end();
    assert.isUndefined(await late);
    stop.abort();
    for (const each of stuck) assert.match(await each, /^Cancelled: /);
  });

  it('hostile, or not what the config promises: refused, and nothing stays', async () => {
    const out = tarOf(tarEntry({ name: 'large' }, noise(1_000_000)), tarEntry({ name: '../../evil' }, 'evil'));
    const cases: readonly (readonly [layer: LayerSource, bytes: Buffer, refused: RegExp])[] = [
      [await layerOf(out), out, /^PermissionDenied: /],
      [await layerOf(TAR), tarOf(tarEntry({ name: 'other' }, 'x'.repeat(TAR.length - 2048))), /^DataLoss: /],
    ];
    for (const [layer, bytes, refused] of cases) {
      const download = await Download.of(bytes);
      await download.end();
      const known = { ...layer, sizeBytes: BigInt(bytes.length) };
      assert.match(await refusal(driver.unpackEarly(op, known, holding(download.file))), refused);
      assert.deepEqual(await readdir(join(dir, 'root/layers')), []);
    }
  });
});

/** The same file, of which nobody has said yet that it is whole. */
function holding(file: GrowingFile): GrowingFile {
  const held = new GrowingFile(file.path);
  file.follow((present) => held.grow(present));
  return held;
}

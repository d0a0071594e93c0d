/** What a registry must have before it shares an image that is here: real layers, packed in several ways. */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { brotliCompressSync, gunzipSync, gzipSync, zstdCompressSync } from 'node:zlib';
import { hexOf } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import type { Image } from '../../pkg/ports/image.ts';
import { dir, file } from './images.ts';
import type { BuiltImage } from './images.ts';
import { startScriptedRegistry } from './registry.ts';
import type { ScriptedRegistry } from './registry.ts';
import { insecure, outcome, StoreGround } from './stores.ts';
import type { OpenStore } from './stores.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
const MANIFEST = 'application/vnd.oci.image.manifest.v1+json';
const digestOf = (bytes: Buffer): string => `sha256:${createHash('sha256').update(bytes).digest('hex')}`;

interface Descriptor {
  digest: string;
  size: number;
  mediaType?: string;
}
interface Manifest {
  config: Descriptor;
  layers: Descriptor[];
}

describe('images that are here, and who shares them', function () {
  this.timeout(60_000);
  let stores: StoreGround;
  let registry: ScriptedRegistry;
  let built: BuiltImage;
  let tars: readonly Buffer[];
  let at: OpenStore;
  let victim: Image;
  before(async () => {
    stores = await StoreGround.make();
    built = await stores.build([
      { files: [dir('data'), file('data/one', randomBytes(200_000)), file('data/two', 'two')] },
      { files: [file('top', 'top')] },
    ]);
    tars = await Promise.all((built.images[0]?.layers ?? []).map(async (digest) => gunzipSync(await blob(digest))));
  });
  after(() => stores.remove());
  beforeEach(async () => {
    registry = await startScriptedRegistry();
    await registry.serve(built, 'victim', '1');
    at = await stores.open(insecure(registry.host));
    victim = await at.store.pull(op, `${registry.host}/victim:1`, {});
  });
  afterEach(async () => {
    await at.close();
    await registry.stop();
  });

  const blob = (digest: string): Promise<Buffer> => readFile(join(built.layout, 'blobs', digest.replace(':', '/')));
  const offer = (path: string, bytes: Buffer): void => registry.offer(path, bytes, 'application/octet-stream');
  /** The victim's manifest in a repository of somebody else, changed; the config is served. */
  const alias = async (change: (manifest: Manifest) => void): Promise<void> => {
    const manifest = JSON.parse((await blob(built.digest)).toString()) as Manifest;
    change(manifest);
    registry.offer('/v2/evil/manifests/1', Buffer.from(JSON.stringify(manifest)), MANIFEST);
    offer(`/v2/evil/blobs/${victim.id}`, await blob(victim.id));
  };
  const packed = (blobs: readonly Buffer[]) => (manifest: Manifest) => {
    manifest.layers = blobs.map((bytes) => ({
      mediaType: 'application/vnd.oci.image.layer.v1.tar',
      digest: digestOf(bytes),
      size: bytes.length,
    }));
    for (const bytes of blobs) offer(`/v2/evil/blobs/${digestOf(bytes)}`, bytes);
  };
  const evil = (): Promise<string> => outcome(at.store.pull(op, `${registry.host}/evil:1`, {}));
  const inodes = (): Promise<number[]> =>
    Promise.all(
      victim.layers.map(async ({ chainId }) => (await stat(join(at.directory, 'layers', hexOf(chainId)))).ino),
    );

  it('nobody who has only the digest of its config', async () => {
    await alias(
      (manifest) => (manifest.layers = manifest.layers.map((each, i) => ({ ...each, digest: digestOf(Buffer.of(i)) }))),
    );
    expect(await evil()).to.equal('NotFound');
    expect(at.store.list()).to.deep.equal([victim]);
    expect(await at.store.check(op, 'report')).to.deep.equal([]);
  });

  it('nobody whose layers are others, however they are packed', async () => {
    for (const pack of [gzipSync, zstdCompressSync, (bytes: Buffer) => bytes, brotliCompressSync]) {
      const other = tars.map((tar, i) => pack(i === 1 ? Buffer.concat([tar, Buffer.alloc(512)]) : tar));
      await alias(packed(other));
      expect(await evil()).to.equal('DataLoss');
      expect(at.store.list()).to.deep.equal([victim]);
    }
  });

  it('everybody who has the same layers, however they are packed; nothing is unpacked again', async () => {
    const before = await inodes();
    const xz = async (tar: Buffer): Promise<Buffer> => {
      const child = run('xz', ['-c'], { encoding: 'buffer', maxBuffer: 1 << 24 });
      child.child.stdin?.end(tar);
      return (await child).stdout;
    };
    const packings: readonly (readonly Buffer[])[] = [
      tars.map((tar) => gzipSync(tar, { level: 1 })),
      tars.map((tar) => zstdCompressSync(tar)),
      tars,
      await Promise.all(tars.map(xz)),
    ];
    for (const blobs of packings) {
      await alias(packed(blobs));
      expect(await evil()).to.equal('undefined');
      for (const bytes of blobs)
        expect(registry.requests.some(({ line }) => line.includes(digestOf(bytes)))).to.equal(true);
      expect(await inodes()).to.deep.equal(before);
      const [only, ...more] = at.store.list();
      expect(more).to.deep.equal([]);
      expect({ ...only, repoTags: [], repoDigests: [] }).to.deep.equal({ ...victim, repoTags: [], repoDigests: [] });
      expect(await at.store.check(op, 'report')).to.deep.equal([]);
    }
  });

  it('a promise of another size costs the image nothing', async () => {
    for (const change of [
      (manifest: Manifest) => Object.assign(manifest, { config: { ...manifest.config, size: 1 }, layers: [] }),
      (manifest: Manifest) => manifest.config.size++,
      (manifest: Manifest) => (manifest.layers[0]!.size = 1),
    ]) {
      await alias(change);
      for (const { digest } of victim.layers) offer(`/v2/evil/blobs/${digest}`, await blob(digest));
      expect(await evil()).to.match(/DataLoss|Unavailable/);
    }
    await at.store.sweep(op);
    const next = await stores.open(insecure(registry.host), {}, at.directory);
    expect(next.store.list()).to.deep.equal([victim]);
    expect(await next.store.check(op, 'report')).to.deep.equal([]);
    await next.close();
  });
});

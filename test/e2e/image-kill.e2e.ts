/** kill -9 in the middle of pulls and removes. */
import { expect } from 'chai';
import { spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { readdir, readFile, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { hexOf } from '../../pkg/base/ids.ts';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { dir, file, push } from './images.ts';
import { stallAfter, startRegistry, startScriptedRegistry } from './registry.ts';
import { insecure, layerTree, StoreGround } from './stores.ts';
import type { OpenStore } from './stores.ts';

const op = backgroundOp(silent);
describe('images of a store that is killed', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  let ground: string;
  before(async () => {
    stores = await StoreGround.make();
    ground = stores.directory;
  });
  after(() => stores.remove());
  const build: StoreGround['build'] = (...args) => stores.build(...args);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  const child = (directory: string, registries: string, mode: 'churn' | 'pull', references: readonly string[]) =>
    spawn(process.execPath, [join(import.meta.dirname, 'image-child.ts'), directory, registries, mode, ...references], {
      stdio: ['ignore', 'pipe', 'inherit'],
    });

  it('in the middle of a layer: the next life asks for the rest only (K4)', async () => {
    const registry = await startScriptedRegistry();
    const image = await build([{ files: [file('a', randomBytes(3_000_000))], compression: 'none' }]);
    await registry.serve(image, 'app', '1');
    const path = `/v2/app/blobs/${image.images[0]?.layers[0]}`;
    registry.on(path, stallAfter(2_000_000), 1);
    const { directory } = await openStore(insecure(registry.host));
    const victim = child(directory, join(directory, 'registries.conf'), 'pull', [`${registry.host}/app:1`]);
    const partial = join(directory, 'blobs/.partial', (image.images[0]?.layers[0] ?? '').replace(':', '-'));
    // What has come is unpacked meanwhile.
    const halfMade = async (): Promise<readonly string[]> =>
      (await readdir(join(directory, 'layers'), { recursive: true }).catch(() => [])).filter((name) =>
        /^\.tmp-[^/]*\/fs\/a$/.test(name),
      );
    const isOnItsWay = async (): Promise<boolean> =>
      ((await stat(partial).catch(() => undefined))?.size ?? 0) >= 1_000_000 && (await halfMade()).length === 1;
    while (!(await isOnItsWay())) await new Promise((resolve) => setTimeout(resolve, 20));
    victim.kill('SIGKILL');
    await once(victim, 'exit');
    const kept = (await stat(partial)).size;
    const { store, close } = await openStore(insecure(registry.host), {}, directory);
    expect(await halfMade()).to.deep.equal([]);
    await store.sweep(op);
    await store.pull(op, `${registry.host}/app:1`, {});
    expect(
      registry.requests.filter(({ line }) => line.includes(path)).map(({ headers }) => headers.range),
    ).to.deep.equal([undefined, `bytes=${kept}-`]);
    await close();
    await registry.stop();
  });

  /** Three images with a layer in common. */
  async function pushThree(host: string): Promise<readonly string[]> {
    const small = Array.from({ length: 300 }, (_, i) => file(`f${i}`, `${i}`));
    const shared = { files: [file('shared', randomBytes(2_000_000)), ...small] };
    const references: string[] = [];
    for (const name of ['a', 'b', 'c']) {
      const own = { files: [file(name, randomBytes(500_000))] };
      const packed = { files: [dir('etc'), file('etc/name', name)], compression: 'zstd' } as const;
      await push(await build([shared, own, packed]), `${host}/${name}:1`);
      references.push(`${host}/${name}:1`);
    }
    return references;
  }

  /** What the next life finds: whole images, and nothing that belongs to none if nothing was to be kept. */
  async function isTidy(
    { store, rootfs, directory }: OpenStore,
    kept: 'nothing' | 'starts',
    where: string,
  ): Promise<void> {
    expect(await store.check(op, 'report'), where).to.deep.equal([]);
    await store.sweep(op);
    if (kept === 'starts') return;
    const needed = [...new Set(store.list().flatMap(({ layers }) => layers.map(({ chainId }) => chainId)))].sort();
    expect([...(await rootfs.listLayers())].sort(), where).to.deep.equal(needed);
    const onDisk = await readdir(join(directory, 'layers')).catch(() => [] as string[]);
    expect(onDisk.sort(), where).to.deep.equal(needed.map(hexOf));
    expect((await readdir(join(directory, 'blobs/sha256'))).length, where).to.equal(store.list().length * 2);
  }

  /** The next pulls work, and use what is complete, and do not make it again; how many layers that is. */
  async function goesOn(
    { store, rootfs, directory }: OpenStore,
    references: readonly string[],
    where: string,
  ): Promise<number> {
    const inode = async (layer: string): Promise<number> => (await stat(join(directory, 'layers', layer))).ino;
    const complete: (readonly [layer: string, ino: number])[] = [];
    for (const chainId of await rootfs.listLayers()) complete.push([hexOf(chainId), await inode(hexOf(chainId))]);
    const [pulled] = await Promise.all(references.map((reference) => store.pull(op, reference, {})));
    expect(await store.check(op, 'report'), where).to.deep.equal([]);
    expect(await readFile(join(layerTree(directory, pulled!, 2), 'etc/name'), 'utf8'), where).to.equal('a');
    for (const [name, ino] of complete) expect(await inode(name), where).to.equal(ino);
    return complete.length;
  }

  it('at random moments of parallel pulls and removes (K4): nothing partial, no orphan', async function () {
    const kills = Number(process.env['BERTH_KILLS'] ?? '8');
    this.timeout(60_000 + kills * 5000);
    const seed = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
    let state = seed;
    const random = (n: number): number => (state = (state * 1103515245 + 12345) & 0x7fffffff) % n;
    const registry = await startRegistry(ground);
    try {
      const references = await pushThree(registry.host);
      const { directory } = await openStore(insecure(registry.host));
      const met = { partialBlobs: 0, partialLayers: 0, records: 0, keptLayers: 0 };
      for (let i = 0; i < kills; i++) {
        const victim = child(directory, join(directory, 'registries.conf'), 'churn', references);
        await once(victim.stdout, 'data');
        await new Promise((resolve) => setTimeout(resolve, random(700)));
        victim.kill('SIGKILL');
        await once(victim, 'exit');
        met.partialBlobs += (await readdir(join(directory, 'blobs/.partial'))).length;
        const layers = await readdir(join(directory, 'layers'));
        met.partialLayers += layers.filter((name) => name.startsWith('.tmp-')).length;
        const keepUnfinishedMs = i % 2 === 0 ? 0 : limits.partialKeepMs;
        const next = await openStore(insecure(registry.host), { keepUnfinishedMs }, directory);
        const where = `seed ${seed}, kill ${i}`;
        await isTidy(next, keepUnfinishedMs === 0 ? 'nothing' : 'starts', where);
        met.records += next.store.list().length;
        met.keptLayers += await goesOn(next, references, where);
        if (i % 3 === 0) for (const reference of references) await next.store.remove(op, reference);
        await next.close();
      }
      if (process.env['BERTH_KILLS'] !== undefined) console.log(`seed ${seed}, ${kills} kills: ${JSON.stringify(met)}`);
    } finally {
      await registry.stop();
    }
  });
});

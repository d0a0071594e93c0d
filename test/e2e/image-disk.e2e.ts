/** Full disks and read-only ones under the image store. */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdir, readdir, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { file } from './images.ts';
import { startScriptedRegistry } from './registry.ts';
import type { ScriptedRegistry } from './registry.ts';
import { insecure, outcome, StoreGround } from './stores.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
describe('images on a disk that fails', function () {
  this.timeout(120_000);
  let stores: StoreGround;
  before(async () => {
    stores = await StoreGround.make();
  });
  after(() => stores.remove());
  const fresh = (what: string): string => stores.fresh(what);
  const build: StoreGround['build'] = (...args) => stores.build(...args);
  const openStore: StoreGround['open'] = (...args) => stores.open(...args);

  let registry: ScriptedRegistry;
  before(async () => (registry = await startScriptedRegistry()));
  after(() => registry.stop());

  it('full: ResourceExhausted, what is there can be used and removed, and then there is room again', async () => {
    const [small, large] = [
      await build([{ files: [file('s', randomBytes(300_000))] }]),
      await build([{ files: [file('l', randomBytes(1_800_000))] }]),
    ];
    await registry.serve(small, 'small', '1');
    await registry.serve(large, 'large', '1');
    const directory = fresh('full');
    await mkdir(directory);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=3m', 'berth-image-test', directory]);
    try {
      const { store, close } = await openStore(insecure(registry.host), {}, directory);
      await store.pull(op, `${registry.host}/small:1`, {});
      expect(await outcome(store.pull(op, `${registry.host}/large:1`, {}))).to.equal('ResourceExhausted');
      expect(store.list()).to.have.length(1);
      expect(await store.check(op, 'report')).to.deep.equal([]);
      await writeFile(join(directory, 'filler'), Buffer.alloc(3_000_000)).catch(() => {});
      expect(await outcome(store.pull(op, `${registry.host}/large:1`, {}))).to.equal('ResourceExhausted');
      await store.remove(op, `${registry.host}/small:1`);
      expect(store.list()).to.deep.equal([]);
      await rm(join(directory, 'filler'));
      await store.pull(op, `${registry.host}/small:1`, {});
      await close();
    } finally {
      await run('umount', [directory]);
    }
  });

  it('full at any point: a typed error, nothing half there, and what was there stays (K10)', async () => {
    const [first, second] = [
      await build([{ files: [file('s', 'small')] }]),
      await build([
        {
          files: [file('one', randomBytes(400_000)), ...Array.from({ length: 60 }, (_, i) => file(`f${i}`, `${i}`))],
        },
        { files: [file('two', randomBytes(300_000))], compression: 'zstd' },
      ]),
    ];
    await registry.serve(first, 'first', '1');
    await registry.serve(second, 'second', '1');
    const outcomes: string[] = [];
    const sizes = Array.from({ length: 14 }, (_, i) => `size=${96 + i * 144}k`);
    const inodes = Array.from({ length: 9 }, (_, i) => `size=64m,nr_inodes=${24 + i * 14}`);
    for (const bound of [...sizes, ...inodes]) {
      const directory = fresh('tight');
      await mkdir(directory);
      await run('mount', ['-t', 'tmpfs', '-o', bound, 'berth-image-test', directory]);
      try {
        const { store, rootfs, close } = await openStore(insecure(registry.host), {}, directory);
        const here = await outcome(store.pull(op, `${registry.host}/first:1`, {}));
        const before = store.list().map(({ id }) => id);
        const got = await outcome(store.pull(op, `${registry.host}/second:1`, {}));
        outcomes.push(here, got);
        expect(
          store.list().map(({ id }) => id),
          bound,
        ).to.deep.equal(got === 'undefined' ? [...before, second.images[0]?.id] : before);
        expect(await store.check(op, 'report'), bound).to.deep.equal([]);
        await close();
        // What the next life finds.
        const next = await openStore(insecure(registry.host), {}, directory).catch((error: unknown) => String(error));
        if (typeof next === 'string') expect(next, bound).to.match(/ENOSPC/);
        else {
          expect(next.store.list().length, bound).to.equal(store.list().length);
          await next.store.sweep(op);
          expect((await rootfs.listLayers()).length, bound).to.equal(
            next.store.list().reduce((sum, { layers }) => sum + layers.length, 0),
          );
          for (const { id } of next.store.list()) await next.store.remove(op, id);
          expect(await readdir(join(directory, 'layers')), bound).to.deep.equal([]);
          await next.close();
        }
      } finally {
        await run('umount', [directory]);
      }
    }
    expect([...new Set(outcomes)].sort()).to.deep.equal(['ResourceExhausted', 'undefined']);
    expect(outcomes.at(-1), 'the largest is large enough').to.equal('undefined');
  });

  it('read-only: a clear error, and images that are there stay usable (K11)', async () => {
    const image = await build([{ files: [file('s', 's')] }]);
    const other = await build([{ files: [file('t', 't')] }]);
    await registry.serve(image, 'one', '1');
    await registry.serve(other, 'two', '1');
    const directory = fresh('readonly');
    await mkdir(directory);
    await run('mount', ['-t', 'tmpfs', 'berth-image-test', directory]);
    try {
      const { store, close } = await openStore(insecure(registry.host), {}, directory);
      await store.pull(op, `${registry.host}/one:1`, {});
      await run('mount', ['-o', 'remount,ro', directory]);
      expect(await outcome(store.pull(op, `${registry.host}/two:1`, {}))).to.equal('FailedPrecondition');
      expect(store.find(`${registry.host}/one:1`)?.id).to.equal(image.images[0]?.id);
      expect(await store.check(op, 'report')).to.deep.equal([]);
      await close();
    } finally {
      await run('umount', [directory]);
    }
  });
});

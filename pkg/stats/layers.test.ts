import { assert } from 'chai';
import { type LayerSize, WritableLayers } from './layers.ts';

const SECOND = 1_000_000_000n;

/** Layers whose walks end when the test says so. */
class SlowDisk {
  clock = 0n;
  readonly walks: { readonly id: string; readonly end: (size: LayerSize | Error) => void }[] = [];
  layers(patienceMs: number): WritableLayers<string> {
    return new WritableLayers<string>({
      clock: () => this.clock,
      patienceMs,
      measure: (id) =>
        new Promise((resolve, reject) => {
          this.walks.push({ id, end: (size) => (size instanceof Error ? reject(size) : resolve(size)) });
        }),
    });
  }
}

const size = (usedBytes: bigint): LayerSize => ({ usedBytes, inodesUsed: 1n });

describe('WritableLayers', () => {
  it('waits for a layer that was never measured', async () => {
    const disk = new SlowDisk();
    const sizes = disk.layers(60_000).sizes(['a']);
    disk.walks[0]?.end(size(5n));
    assert.deepEqual([...(await sizes)], [['a', { usedBytes: 5n, inodesUsed: 1n, at: 0n }]]);
  });

  it('does not wait longer than its patience, and has the size the next time', async () => {
    const disk = new SlowDisk();
    const layers = disk.layers(1);
    assert.deepEqual([...(await layers.sizes(['a']))], []);
    disk.walks[0]?.end(size(7n));
    await new Promise(setImmediate);
    assert.equal((await layers.sizes(['a'])).get('a')?.usedBytes, 7n);
    assert.lengthOf(disk.walks, 1);
  });

  it('gives the last size while a new walk goes on, one walk at a time', async () => {
    const disk = new SlowDisk();
    const layers = disk.layers(60_000);
    const first = layers.sizes(['a']);
    disk.walks[0]?.end(size(1n));
    await first;
    disk.clock = 11n * SECOND;
    assert.equal((await layers.sizes(['a'])).get('a')?.usedBytes, 1n);
    assert.equal((await layers.sizes(['a'])).get('a')?.usedBytes, 1n);
    assert.lengthOf(disk.walks, 2);
    disk.walks[1]?.end(size(2n));
    await new Promise(setImmediate);
    assert.deepEqual((await layers.sizes(['a'])).get('a'), { usedBytes: 2n, inodesUsed: 1n, at: 11n * SECOND });
  });

  it('measures one that is asked for as it is now, however young its last size is', async () => {
    const disk = new SlowDisk();
    const layers = disk.layers(60_000);
    const first = layers.sizes(['a']);
    disk.walks[0]?.end(size(1n));
    await first;
    const now = layers.sizes(['a'], 'now');
    disk.walks[1]?.end(size(2n));
    assert.equal((await now).get('a')?.usedBytes, 2n);
    const slow = disk.layers(1);
    const begun = slow.sizes(['b']);
    disk.walks[2]?.end(size(3n));
    await begun;
    assert.equal((await slow.sizes(['b'], 'now')).get('b')?.usedBytes, 3n, 'within its patience');
  });

  it('knows nothing of a layer that cannot be measured, and keeps the others', async () => {
    const disk = new SlowDisk();
    const sizes = disk.layers(60_000).sizes(['gone', 'a']);
    disk.walks[0]?.end(new Error('no such directory'));
    disk.walks[1]?.end(size(3n));
    assert.deepEqual([...(await sizes).keys()], ['a']);
  });

  it('walks a few at once', async () => {
    const disk = new SlowDisk();
    const layers = disk.layers(1);
    await layers.sizes(Array.from({ length: 20 }, (_, index) => `c${index}`));
    assert.lengthOf(disk.walks, 4);
  });

  it('does not bring back what was forgotten during its walk', async () => {
    const disk = new SlowDisk();
    const layers = disk.layers(1);
    await layers.sizes(['a']);
    layers.forget('a');
    disk.walks[0]?.end(size(9n));
    await new Promise(setImmediate);
    assert.deepEqual([...(await layers.sizes(['a']))], []);
  });
});

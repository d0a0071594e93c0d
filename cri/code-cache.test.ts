import { assert } from 'chai';
import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { CodeCache } from './code-cache.ts';

describe('CodeCache', () => {
  let directory: string;
  const data = Buffer.from('bytecode');

  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'berth-code-'));
  });
  afterEach(() => rm(directory, { recursive: true }));

  it('gives back what it kept, to the same bundle and version only', async () => {
    const cache = new CodeCache(join(directory, 'new'), 'main-A', 0xab);
    assert.isUndefined(cache.read());
    await cache.keep(data);
    assert.deepEqual(cache.read(), data);
    assert.isUndefined(new CodeCache(join(directory, 'new'), 'main-B', 0xab).read());
    assert.isUndefined(new CodeCache(join(directory, 'new'), 'main-A', 0xac).read());
  });

  it('gives nothing of a file that is damaged, cut short or empty', async () => {
    const cache = new CodeCache(directory, 'main-A', 1);
    await cache.keep(data);
    const [name = ''] = await readdir(directory);
    const whole = await readFile(join(directory, name));
    const flipped = Buffer.from(whole);
    flipped[6] = (flipped[6] ?? 0) ^ 1;
    for (const bytes of [flipped, whole.subarray(0, 9), whole.subarray(0, 3), Buffer.alloc(0)]) {
      await writeFile(join(directory, name), bytes);
      assert.isUndefined(cache.read());
    }
  });

  it('deletes what was kept of other bundles, and nothing else', async () => {
    await writeFile(join(directory, 'v24'), '');
    await new CodeCache(directory, 'main-A', 1).keep(data);
    await new CodeCache(directory, 'main-B', 1).keep(data);
    assert.deepEqual((await readdir(directory)).sort(), ['berth-main-B-1', 'v24']);
  });
});

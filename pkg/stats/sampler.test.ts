import { assert } from 'chai';
import { recordedTree, type RecordedTree } from './fake-kernel.ts';
import type { Detail } from './reading.ts';
import { type Sample, Sampler } from './sampler.ts';

const SECOND = 1_000_000_000n;

/** A sampler of one cgroup whose clock and processor counter the test sets. */
function setUp(periodMs = 0): {
  sampler: Sampler;
  tree: RecordedTree;
  reads: () => number;
  at(clock: bigint, cpuNanos: bigint): Promise<Sample | undefined>;
} {
  const tree = recordedTree('hybrid');
  let clock = 0n;
  let reads = 0;
  const read: RecordedTree['read'] = (wanted) => {
    reads++;
    return tree.read(wanted);
  };
  const sampler = new Sampler({
    layout: tree.layout,
    hugepageSizes: [],
    clock: () => clock,
    periodMs,
    keptFilesCount: 0,
    read,
  });
  return {
    sampler,
    tree,
    reads: () => reads,
    async at(now, cpuNanos) {
      clock = now;
      tree.files.set('/sys/fs/cgroup/cpuacct/pod/c/cpuacct.usage', `${cpuNanos}\n`);
      return (await sampler.sample([{ id: 'c', cgroup: '/pod/c', detail: 'container' }])).get('c');
    },
  };
}

describe('Sampler', () => {
  it('tells the use of processors from the second sample on', async () => {
    const { at } = setUp();
    assert.isUndefined((await at(1n * SECOND, 5n * SECOND))?.nanoCores);
    assert.equal((await at(2n * SECOND, 5n * SECOND + SECOND / 2n))?.nanoCores, SECOND / 2n);
    assert.equal((await at(12n * SECOND, 25n * SECOND + SECOND / 2n))?.nanoCores, 2n * SECOND);
  });

  it('does not measure between samples that are too close, and counts from the older one then', async () => {
    const { at } = setUp();
    await at(1n * SECOND, 0n);
    assert.isUndefined((await at(1n * SECOND + 50_000_000n, 50_000_000n))?.nanoCores);
    assert.equal((await at(1n * SECOND + 100_000_000n, 100_000_000n))?.nanoCores, SECOND);
    // 50 ms later nothing has run: what was measured last still holds.
    assert.equal((await at(1n * SECOND + 150_000_000n, 100_000_000n))?.nanoCores, SECOND);
    assert.equal((await at(1n * SECOND + 200_000_000n, 100_000_000n))?.nanoCores, 0n);
  });

  it('begins anew when a counter goes back', async () => {
    const { at } = setUp();
    await at(1n * SECOND, 9n * SECOND);
    assert.isUndefined((await at(2n * SECOND, 1n))?.nanoCores);
    assert.equal((await at(3n * SECOND, 1n + SECOND))?.nanoCores, SECOND);
  });

  it('gives a sample again within the period, and to no request that wants more', async () => {
    const { at, sampler, reads } = setUp(1_000);
    const first = await at(5n * SECOND, 1n);
    assert.strictEqual(await at(5n * SECOND + 999_999_999n, 2n), first);
    assert.equal(reads(), 1);
    assert.equal((await at(6n * SECOND, 3n))?.cpuNanos, 3n);
    const sample = async (detail: Detail): Promise<Sample | undefined> =>
      (await sampler.sample([{ id: 'c', cgroup: '/pod/c', detail }])).get('c');
    assert.isDefined((await sample('metrics'))?.pids);
    // The richer one serves for the poorer.
    assert.isDefined((await sample('container'))?.pids);
    assert.equal(reads(), 3);
  });

  it('leaves out what is gone and keeps the rest, however many there are', async () => {
    const names = Array.from({ length: 300 }, (_, index) => `/pod/${index}`);
    const tree = recordedTree(
      'v2',
      names.filter((_, index) => index % 3 !== 0),
    );
    const sampler = new Sampler({
      layout: tree.layout,
      hugepageSizes: [],
      clock: () => 1n,
      periodMs: 0,
      keptFilesCount: 0,
      read: (wanted) => tree.read(wanted),
    });
    const samples = await sampler.sample(names.map((cgroup) => ({ id: cgroup, cgroup, detail: 'container' })));
    assert.deepEqual([...samples.keys()].sort(), names.filter((_, index) => index % 3 !== 0).sort());
    assert.isTrue([...samples.values()].every((each) => each.memoryBytes === 9_478_144n));
  });

  it('does not bring back what was forgotten while it was read', async () => {
    const tree = recordedTree('hybrid');
    let clock = SECOND;
    const sampler: Sampler = new Sampler({
      layout: tree.layout,
      hugepageSizes: [],
      clock: () => clock,
      periodMs: 3_600_000,
      keptFilesCount: 0,
      async read(wanted) {
        const files = await tree.read(wanted);
        if (clock === SECOND) sampler.forget('c');
        return files;
      },
    });
    const groups = [{ id: 'c', cgroup: '/pod/c', detail: 'container' }] as const;
    const first = (await sampler.sample(groups)).get('c');
    clock = 2n * SECOND;
    const second = (await sampler.sample(groups)).get('c');
    assert.deepEqual([first?.at, second?.at, second?.nanoCores], [SECOND, 2n * SECOND, undefined]);
  });
});

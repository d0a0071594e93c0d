import { assert } from 'chai';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { codeOf, RuntimeError } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import { NO_RESOURCES } from '../spec/resources.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import { split } from './update.ts';

const MiB = 1n << 20n;

describe('split of an update', () => {
  it('leaves to the runtime what it can do', () => {
    const resources = { cpu: { quota: 10_000n, shares: 5n }, memory: { limit: 64n * MiB, swap: 64n * MiB } };
    assert.deepEqual(split(resources, { v2: false, kind: 'crun' }), { document: resources, files: [] });
    assert.deepEqual(split({ cpu: { quota: -1n } }, { v2: false, kind: 'runc' }), {
      document: { cpu: { quota: -1n } },
      files: [],
    });
    assert.deepEqual(split({ cpu: { quota: -1n } }, { v2: true, kind: 'crun' }), {
      document: { cpu: { quota: -1n } },
      files: [],
    });
  });

  it('lifts a quota of v1 past crun', () => {
    assert.deepEqual(split({ cpu: { quota: -1n, shares: 7n } }, { v2: false, kind: 'crun' }), {
      document: { cpu: { shares: 7n } },
      files: [{ controller: 'cpu', file: 'cpu.cfs_quota_us', value: '-1' }],
    });
  });

  it('writes hugepage limits and unified files by itself', () => {
    const resources = { hugepageLimits: [{ pageSize: '2MB', limit: 4n * MiB }], unified: { 'memory.high': '1000' } };
    assert.deepEqual(split(resources, { v2: true, kind: 'runc' }), {
      document: {},
      files: [
        { controller: 'hugetlb', file: 'hugetlb.2MB.max', value: '4194304' },
        { controller: 'memory', file: 'memory.high', value: '1000' },
      ],
    });
    assert.deepEqual(split({ hugepageLimits: resources.hugepageLimits }, { v2: false, kind: 'runc' }).files, [
      { controller: 'hugetlb', file: 'hugetlb.2MB.limit_in_bytes', value: '4194304' },
    ]);
  });
});

describe('an update of a container', () => {
  const op = () => backgroundOp(silent);
  const resources = (changes: Partial<LinuxContainerResources>): LinuxContainerResources => ({
    ...NO_RESOURCES,
    ...changes,
  });

  it('is refused below the memory in use on cgroup v2, before anything is written', async () => {
    const node = await FakeSurroundings.make();
    const mind = await node.boot();
    const pod = await mind.pods.run(op(), fakePod(), '');
    const id = await mind.containers.create(op(), pod, fakeContainer());
    node.node.memoryUsage = 50n * MiB;
    const error: unknown = await mind.containers
      .update(op(), id, resources({ memoryLimitInBytes: 49n * MiB, cpuShares: 5n }))
      .catch((cause: unknown) => cause);
    assert.equal(codeOf(error), 'FailedPrecondition');
    assert.deepEqual(node.node.containers.get(id)?.updates, []);
    await mind.containers.update(op(), id, resources({ memoryLimitInBytes: 51n * MiB }));
    assert.equal(mind.containers.get(id).resources?.memoryLimitInBytes, 51n * MiB);
    mind.close();
    await node.dispose();
  });

  it('is taken back when it fails half way: what nobody had set goes back to what the kernel gives', async () => {
    const node = await FakeSurroundings.make();
    const mind = await node.boot();
    const pod = await mind.pods.run(op(), fakePod(), '');
    const id = await mind.containers.create(op(), pod, fakeContainer());
    await mind.containers.update(op(), id, resources({ cpuShares: 512n }));
    node.node.failNext('update', new RuntimeError('Internal', 'boom'), 'after');
    await mind.containers.update(op(), id, resources({ cpuShares: 600n, cpuQuota: 10_000n })).then(
      () => assert.fail('it did not fail'),
      () => {},
    );
    assert.deepEqual(
      node.node.containers.get(id)?.updates.map((each) => each.cpu),
      [{ shares: 512n }, { shares: 600n, quota: 10_000n }, { shares: 512n, quota: -1n }],
    );
    assert.equal(mind.containers.get(id).resources?.cpuShares, 512n);
    mind.close();
    await node.dispose();
  });
});

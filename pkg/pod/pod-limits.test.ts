import { assert } from 'chai';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { SandboxId } from '../base/ids.ts';
import { NO_RESOURCES } from '../spec/resources.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakePod } from './fake-world.ts';

const MiB = 1n << 20n;

describe('the limits of a pod', () => {
  const at = ground();
  const of = (changes: Partial<LinuxContainerResources>): LinuxContainerResources => ({ ...NO_RESOURCES, ...changes });
  const run = (cgroupParent: string, resources?: LinuxContainerResources): Promise<SandboxId> => {
    const config = fakePod();
    return at.mind.pods.run(
      op(),
      { ...config, linux: { ...config.linux, cgroupParent, resources } } as typeof config,
      '',
    );
  };
  const limited = (id: SandboxId): unknown => at.node.node.cgroupLimits.get(`/berth/${id}`);
  const update = (id: SandboxId, resources: Partial<LinuxContainerResources>): Promise<void> =>
    at.mind.pods.updateResources(op(), id, { resources: of(resources), overhead: undefined });

  it('are put on a cgroup of its own, at the beginning and by an update', async () => {
    const id = await run('', of({ cpuQuota: 50_000n }));
    assert.deepEqual(limited(id), { cpu: { quota: 50_000n } });
    await update(id, { cpuQuota: -1n, cpuShares: 512n });
    assert.deepEqual(limited(id), { cpu: { shares: 512n, quota: -1n } });
    await at.mind.pods.remove(op(), id);
    assert.deepEqual(at.node.leaks(), []);
  });

  it("are the kubelet's own business on the kubelet's cgroup, and remembered", async () => {
    const id = await run('/kubepods/pod1', of({ cpuQuota: 50_000n }));
    await update(id, { cpuShares: 512n });
    assert.equal(at.node.node.cgroupLimits.size, 0);
    const { resources } = at.mind.pods.get(id);
    assert.deepEqual([resources?.cpuQuota, resources?.cpuShares], [50_000n, 512n]);
  });

  it('are not below the memory in use', async () => {
    const id = await run('', of({ memoryLimitInBytes: 64n * MiB }));
    const before = limited(id);
    at.node.node.memoryUsage = 50n * MiB;
    const error = await fails(update(id, { memoryLimitInBytes: 49n * MiB }));
    assert.equal(error.code, 'FailedPrecondition');
    assert.deepEqual([limited(id), at.mind.pods.get(id).resources?.memoryLimitInBytes], [before, 64n * MiB]);
  });

  it('are taken back when the kernel refuses them', async () => {
    const id = await run('', of({ cpuQuota: 50_000n }));
    at.node.node.failNext('ensureCgroup', boom(), 'after');
    await fails(update(id, { cpuQuota: 60_000n, cpuShares: 512n }));
    assert.deepEqual(limited(id), { cpu: { shares: 1024n, quota: 50_000n } });
    assert.equal(at.mind.pods.get(id).resources?.cpuQuota, 50_000n);
  });

  it('bring no cgroup back to a pod that stops meanwhile', async () => {
    const id = await run('');
    const goOn = at.node.node.hangNext('ensureCgroup');
    const calls = (): number => at.node.node.calls.get('ensureCgroup') ?? 0;
    const before = calls();
    const updated = update(id, { cpuShares: 512n });
    await until(() => calls() > before);
    const stopped = at.mind.pods.stop(op(), id);
    // All that a stop does by itself takes fewer turns.
    for (let turn = 0; turn < 100; turn++) await new Promise((resolve) => setImmediate(resolve));
    goOn();
    await Promise.all([updated, stopped]);
    assert.deepEqual(at.node.leaks(), []);
    await update(id, { cpuShares: 600n });
    assert.deepEqual(at.node.leaks(), []);
    assert.equal(at.mind.pods.get(id).resources?.cpuShares, 600n);
  });
});

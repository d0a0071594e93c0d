import { assert } from 'chai';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { NodeFacts } from '../ports/spec.ts';
import { planPodUpdate, podLimits } from './pod-resources.ts';
import { NO_RESOURCES } from './resources.ts';

const facts = { cgroupMode: 'v2', controllers: new Set(['cpu', 'memory']), swapLimit: true } as unknown as NodeFacts;
const of = (changes: Partial<LinuxContainerResources>): LinuxContainerResources => ({ ...NO_RESOURCES, ...changes });
const MiB = 1n << 20n;

describe('the resources of a pod', () => {
  it('are those of its containers and its overhead', () => {
    const resources = of({ cpuShares: 100n, cpuQuota: 50_000n, cpuPeriod: 100_000n, memoryLimitInBytes: 64n * MiB });
    const overhead = of({ cpuShares: 5n, cpuQuota: 5_000n, cpuPeriod: 50_000n, memoryLimitInBytes: MiB });
    const { cpu, memory } = podLimits({ resources, overhead }, facts);
    assert.deepEqual(cpu, { shares: 105n, quota: 60_000n, period: 100_000n });
    assert.equal(memory?.limit, 65n * MiB);
  });

  it('are not limited by the overhead alone', () => {
    const overhead = of({ cpuShares: 5n, cpuQuota: 5_000n, memoryLimitInBytes: MiB });
    assert.deepEqual(podLimits({ resources: undefined, overhead }, facts), {});
    const unlimited = podLimits({ resources: of({ cpuQuota: -1n, memoryLimitInBytes: -1n }), overhead }, facts);
    assert.deepEqual([unlimited.cpu?.quota, unlimited.memory?.limit], [-1n, -1n]);
  });

  it('leave to each container what holds for it alone', () => {
    const resources = of({ cpusetCpus: '0', hugepageLimits: [{ pageSize: '2MB', limit: 0n }], cpuShares: 2n });
    assert.deepEqual(podLimits({ resources, overhead: undefined }, facts), { cpu: { shares: 2n } });
  });

  it('change by what an update says, and go back to what was there', () => {
    const before = {
      resources: of({ cpuQuota: 50_000n, memoryLimitInBytes: 64n * MiB }),
      overhead: of({ cpuQuota: 5n }),
    };
    const plan = planPodUpdate(before, { resources: of({ cpuQuota: -1n, cpuShares: 9n }), overhead: undefined }, facts);
    assert.equal(plan.after.resources?.memoryLimitInBytes, 64n * MiB);
    assert.equal(plan.after.overhead, before.overhead);
    assert.deepEqual(plan.wanted.cpu, { shares: 9n, quota: -1n });
    assert.deepEqual(plan.former.cpu, { shares: 1024n, quota: 50_005n });
    assert.equal(plan.former.memory?.limit, 64n * MiB);
  });
});

import { assert } from 'chai';
import type { LinuxResources } from '../oci/spec-types.ts';
import { limitFiles, limitProperties } from './pod-limits.ts';

const LIMITS: LinuxResources = {
  cpu: { shares: 1024n, quota: 150_000n, period: 100_000n },
  memory: { limit: 64n << 20n },
};
const NONE: LinuxResources = { cpu: { quota: -1n }, memory: { limit: -1n } };

describe('limits of a pod', () => {
  const text = (limits: LinuxResources, version: 1 | 2): string[] =>
    limitFiles(limits, version).map(({ controller, file, value }) => `${controller}: ${file}=${value}`);

  it('are files of both versions', () => {
    assert.deepEqual(text(LIMITS, 2), [
      'cpu: cpu.weight=39',
      'cpu: cpu.max=150000 100000',
      'memory: memory.max=67108864',
    ]);
    assert.deepEqual(text(LIMITS, 1), [
      'cpu: cpu.shares=1024',
      'cpu: cpu.cfs_period_us=100000',
      'cpu: cpu.cfs_quota_us=150000',
      'memory: memory.limit_in_bytes=67108864',
    ]);
    assert.deepEqual(text(NONE, 2), ['cpu: cpu.max=max 100000', 'memory: memory.max=max']);
    assert.deepEqual(text(NONE, 1), ['cpu: cpu.cfs_quota_us=-1', 'memory: memory.limit_in_bytes=-1']);
    assert.deepEqual(text({ unified: { 'memory.high': '5' } }, 2), ['memory: memory.high=5']);
    assert.deepEqual(text({}, 2), []);
  });

  it('keep within the weights that the kernel takes', () => {
    for (const [shares, weight] of [
      [0n, 1],
      [2n, 1],
      [262_144n, 10_000],
      [1n << 40n, 10_000],
    ] as const)
      assert.deepEqual(text({ cpu: { shares } }, 2), [`cpu: cpu.weight=${weight}`]);
  });

  const properties = (limits: LinuxResources, version: 1 | 2): Record<string, unknown> =>
    Object.fromEntries(
      Object.entries(limitProperties(limits, version).properties).map(([name, { type, value }]) => [
        name,
        `${type} ${String(value as bigint)}`,
      ]),
    );

  it('are properties of a slice', () => {
    assert.deepEqual(properties(LIMITS, 2), {
      CPUWeight: 't 39',
      CPUQuotaPeriodUSec: 't 100000',
      CPUQuotaPerSecUSec: 't 1500000',
      MemoryMax: 't 67108864',
    });
    assert.deepEqual(properties(LIMITS, 1), {
      CPUShares: 't 1024',
      CPUQuotaPeriodUSec: 't 100000',
      CPUQuotaPerSecUSec: 't 1500000',
      MemoryLimit: 't 67108864',
    });
    assert.deepEqual(properties(NONE, 2), {
      CPUQuotaPerSecUSec: 't 18446744073709551615',
      MemoryMax: 't 18446744073709551615',
    });
    // 12.34 % of a processor: systemd would make 12 % of it.
    assert.deepEqual(properties({ cpu: { quota: 12_340n } }, 2), { CPUQuotaPerSecUSec: 't 130000' });
  });

  it('of a slice are properties where systemd has one, and files where not', () => {
    const unified = { 'memory.high': '5', 'memory.low': 'max', 'memory.min': 'x', 'io.weight': '7' };
    assert.deepEqual(properties({ unified }, 2), { MemoryHigh: 't 5', MemoryLow: 't 18446744073709551615' });
    assert.deepEqual(limitProperties({ unified }, 2).files, [
      { controller: 'memory', file: 'memory.min', value: 'x' },
      { controller: 'io', file: 'io.weight', value: '7' },
    ]);
  });
});

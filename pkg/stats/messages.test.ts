import { assert } from 'chai';
import { podUsages, usages, workingSetOf } from './messages.ts';
import type { InterfaceCounters } from './reading.ts';
import type { Sample } from './sampler.ts';

const sample = (fields: Partial<Sample>): Sample => ({ at: 7n, nanoCores: undefined, ...fields });
const nothing = { rxPackets: 0n, rxDropped: 0n, txPackets: 0n, txDropped: 0n };
const link = (name: string, rxBytes: bigint): InterfaceCounters => ({
  name,
  rxBytes,
  rxErrors: 1n,
  txBytes: 2n,
  txErrors: 3n,
  ...nothing,
});

describe('CRI statistics', () => {
  it('leave out what the kernel does not tell', () => {
    assert.deepEqual(usages(sample({})), { cpu: undefined, memory: undefined, swap: undefined, io: undefined });
    assert.deepEqual(podUsages(sample({})), {
      cpu: undefined,
      memory: undefined,
      io: undefined,
      network: undefined,
      process: undefined,
    });
    assert.deepEqual(podUsages(sample({ tasks: 3n })).process, { timestamp: 7n, processCount: { value: 3n } });
  });

  it('say processor time, and its use where it is known', () => {
    assert.deepEqual(usages(sample({ cpuNanos: 5n })).cpu, {
      timestamp: 7n,
      usageCoreNanoSeconds: { value: 5n },
      usageNanoCores: undefined,
      psi: undefined,
    });
    assert.deepEqual(usages(sample({ cpuNanos: 5n, nanoCores: 0n })).cpu?.usageNanoCores, { value: 0n });
  });

  it('count memory as the kubelet does: without inactive file pages, and what is left of the limit', () => {
    const { memory } = usages(
      sample({ memoryBytes: 100n, inactiveFile: 30n, memoryLimit: 90n, rss: 4n, pageFaults: 5n, majorPageFaults: 6n }),
    );
    assert.deepEqual(memory, {
      timestamp: 7n,
      workingSetBytes: { value: 70n },
      availableBytes: { value: 20n },
      usageBytes: { value: 100n },
      rssBytes: { value: 4n },
      pageFaults: { value: 5n },
      majorPageFaults: { value: 6n },
      psi: undefined,
    });
    assert.isUndefined(usages(sample({ memoryBytes: 1n })).memory?.availableBytes);
    assert.equal(usages(sample({ memoryBytes: 10n, memoryLimit: 5n })).memory?.availableBytes?.value, 0n);
    assert.equal(workingSetOf(sample({ memoryBytes: 1n, inactiveFile: 2n })), 0n);
  });

  it('say swap and what is left of it', () => {
    assert.deepEqual(usages(sample({ swapBytes: 3n, swapLimit: 10n })).swap, {
      timestamp: 7n,
      swapUsageBytes: { value: 3n },
      swapAvailableBytes: { value: 7n },
    });
    assert.isUndefined(usages(sample({ swapBytes: 3n })).swap?.swapAvailableBytes);
  });

  it('pass pressure on', () => {
    const some = { totalNanos: 9n, avg10: 1, avg60: 2, avg300: 3 };
    assert.deepEqual(usages(sample({ ioPressure: { some } })).io, {
      timestamp: 7n,
      psi: { some: { total: 9n, avg10: 1, avg60: 2, avg300: 3 }, full: undefined },
    });
  });

  it('name eth0 the default interface, or else the first', () => {
    const networkOf = (...interfaces: InterfaceCounters[]): ReturnType<typeof podUsages>['network'] =>
      podUsages(sample({ interfaces })).network;
    assert.isUndefined(networkOf());
    const usage = networkOf(link('net1', 1n), link('eth0', 9n));
    assert.deepEqual(usage?.defaultInterface, {
      name: 'eth0',
      rxBytes: { value: 9n },
      rxErrors: { value: 1n },
      txBytes: { value: 2n },
      txErrors: { value: 3n },
    });
    assert.deepEqual(
      usage?.interfaces?.map((each) => each.name),
      ['net1'],
    );
    assert.equal(networkOf(link('a', 1n), link('b', 1n))?.defaultInterface?.name, 'a');
  });
});

import { assert } from 'chai';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { outcome } from './golden/refused.ts';
import { defaultsOf, factsOf } from './golden/request.ts';
import {
  cgroupsPathFor,
  checkDeviceRequest,
  deviceParts,
  mergeResources,
  newResources,
  NO_RESOURCES,
  oomScoreAdjOf,
  parseDevice,
  resolveDevices,
  toLinuxResources,
} from './resources.ts';
import type { FoundDevice } from '../ports/spec.ts';

const facts = factsOf();
const resources = (given: Partial<LinuxContainerResources>): LinuxContainerResources => ({ ...NO_RESOURCES, ...given });

describe('toLinuxResources', () => {
  it('leaves out what is zero or empty', () => assert.deepEqual(toLinuxResources(undefined, facts), {}));
  it('raises shares to the least that the kernel takes', () =>
    assert.deepEqual(toLinuxResources(resources({ cpuShares: 1n }), facts), { cpu: { shares: 2n } }));
  it('passes an unlimited quota to an update, but not to a new cgroup, which has none', () => {
    assert.deepEqual(toLinuxResources(resources({ cpuQuota: -1n, cpuPeriod: 50_000n }), facts), {
      cpu: { quota: -1n, period: 50_000n },
    });
    assert.deepEqual(newResources(resources({ cpuQuota: -1n, cpuPeriod: 50_000n }), facts, 0n), {
      cpu: { period: 50_000n },
    });
  });
  it('gives no swap beyond memory unless asked for', () => {
    assert.deepEqual(newResources(resources({ memoryLimitInBytes: 100n }), facts, 0n), {
      memory: { limit: 100n, swap: 100n },
    });
    assert.deepEqual(newResources(resources({ memoryLimitInBytes: 100n, memorySwapLimitInBytes: -1n }), facts, 0n), {
      memory: { limit: 100n, swap: -1n },
    });
    assert.deepEqual(newResources(resources({ memoryLimitInBytes: -1n }), facts, 0n), {
      memory: { limit: -1n, swap: -1n },
    });
  });
  it('has an update below the usage refused on v2, where the kernel would kill', () => {
    assert.deepEqual(toLinuxResources(resources({ memoryLimitInBytes: 100n }), facts), {
      memory: { limit: 100n, swap: 100n, checkBeforeUpdate: true },
    });
    assert.deepEqual(toLinuxResources(resources({ memoryLimitInBytes: 100n }), factsOf({ cgroupMode: 'hybrid' })), {
      memory: { limit: 100n, swap: 100n },
    });
  });

  const refused: readonly (readonly [given: Partial<LinuxContainerResources>, message: RegExp])[] = [
    [{ cpuShares: -1n }, /^InvalidArgument: cpu_shares -1/],
    [{ cpuPeriod: 999n }, /^InvalidArgument: cpu_period 999/],
    [{ cpuPeriod: 1_000_001n }, /^InvalidArgument: cpu_period 1000001/],
    [{ cpuQuota: 999n }, /^InvalidArgument: cpu_quota 999/],
    [{ cpuQuota: -2n }, /^InvalidArgument: cpu_quota -2/],
    [{ cpusetCpus: '0-1;rm' }, /^InvalidArgument: cpuset_cpus/],
    [{ cpusetMems: '0,' }, /^InvalidArgument: cpuset_mems/],
    [{ memoryLimitInBytes: -2n }, /^InvalidArgument: memory_limit_in_bytes -2/],
    [{ memoryLimitInBytes: 4096n }, /^InvalidArgument: memory_limit_in_bytes 4096: the runtime needs at least 8192/],
    [
      { memoryLimitInBytes: 10_000n, memorySwapLimitInBytes: 9_999n },
      /^InvalidArgument: memory_swap_limit_in_bytes 9999.*cannot be below/,
    ],
    [{ memoryLimitInBytes: -1n, memorySwapLimitInBytes: 9_999n }, /^InvalidArgument: memory_swap_limit_in_bytes 9999/],
    [{ memorySwapLimitInBytes: -2n }, /^InvalidArgument: memory_swap_limit_in_bytes -2/],
    [{ hugepageLimits: [{ pageSize: '2MB/../x', limit: 1n }] }, /^InvalidArgument: hugepage_limits/],
    [{ unified: { '../x': '1' } }, /^InvalidArgument: unified "..\/x"/],
    [{ unified: { 'memory.high/x': '1' } }, /^InvalidArgument: unified/],
    [{ unified: { 'memory.high': '1\0' } }, /^InvalidArgument: unified/],
  ];
  for (const [given, message] of refused)
    it(`refuses ${message.source}`, () =>
      assert.match(
        outcome(() => toLinuxResources(resources(given), facts, 8192n)),
        message,
      ));

  it('leaves out limits of page sizes, or without the controller, that the node has not', () => {
    const hugepageLimits = [
      { pageSize: '2MB', limit: 0n },
      { pageSize: '4MB', limit: 1n },
      { pageSize: '1GB', limit: 2n },
    ];
    assert.deepEqual(toLinuxResources(resources({ hugepageLimits }), facts).hugepageLimits, [
      { pageSize: '2MB', limit: 0n },
      { pageSize: '1GB', limit: 2n },
    ]);
    const without = factsOf({ controllers: ['cpu', 'memory'] });
    assert.deepEqual(toLinuxResources(resources({ hugepageLimits }), without), {});
  });

  it('refuses unified without cgroup v2, as the runtimes do', () => {
    assert.match(
      outcome(() =>
        toLinuxResources(resources({ unified: { 'memory.high': '1' } }), factsOf({ cgroupMode: 'hybrid' })),
      ),
      /^FailedPrecondition: .*cgroup v2; this node is hybrid/,
    );
  });
  it('keeps __proto__ a key', () =>
    assert.match(
      outcome(() =>
        toLinuxResources(resources({ unified: JSON.parse('{"__proto__":"1"}') as Record<string, string> }), facts),
      ),
      /^InvalidArgument: unified "__proto__"/,
    ));
});

describe('oomScoreAdjOf', () => {
  it('clamps to what the daemon may set and refuses what nobody may', () => {
    assert.deepEqual(
      [-1000n, 0n, 1000n].map((wanted) => oomScoreAdjOf(wanted, factsOf({ oomScoreAdjMin: -500 }))),
      [-500, 0, 1000],
    );
    for (const wanted of [-1001n, 1001n])
      assert.match(
        outcome(() => oomScoreAdjOf(wanted, facts)),
        /^InvalidArgument: oom_score_adj/,
      );
  });
});

describe('mergeResources', () => {
  const current = resources({
    cpuPeriod: 100_000n,
    cpuQuota: 50_000n,
    cpuShares: 512n,
    memoryLimitInBytes: 100n,
    memorySwapLimitInBytes: 200n,
    oomScoreAdj: 500n,
    cpusetCpus: '0',
    hugepageLimits: [{ pageSize: '2MB', limit: 1n }],
    unified: { 'memory.high': '1', 'pids.max': '9' },
  });
  it('keeps what an update leaves out', () => {
    assert.deepEqual(mergeResources(current, NO_RESOURCES), {
      ...current,
      unified: Object.assign(Object.create(null), current.unified),
    });
  });
  it('replaces every field, and merges lists by their keys', () => {
    const update = resources({
      cpuPeriod: 1_000n,
      cpuQuota: -1n,
      cpuShares: 2n,
      memoryLimitInBytes: 150n,
      memorySwapLimitInBytes: 300n,
      oomScoreAdj: -5n,
      cpusetCpus: '1',
      cpusetMems: '0',
      hugepageLimits: [
        { pageSize: '1GB', limit: 2n },
        { pageSize: '2MB', limit: 0n },
      ],
      unified: { 'memory.high': '2' },
    });
    assert.deepEqual(mergeResources(current, update), {
      ...update,
      hugepageLimits: [
        { pageSize: '2MB', limit: 0n },
        { pageSize: '1GB', limit: 2n },
      ],
      unified: Object.assign(Object.create(null), { 'memory.high': '2', 'pids.max': '9' }),
    });
  });
  it('works on a container without resources', () =>
    assert.equal(mergeResources(undefined, resources({ cpuShares: 7n })).cpuShares, 7n));
  it('drops a swap limit that memory has outgrown, so that the merge is never refused', () => {
    assert.equal(mergeResources(current, resources({ memoryLimitInBytes: 150n })).memorySwapLimitInBytes, 200n);
    assert.equal(mergeResources(current, resources({ memoryLimitInBytes: 201n })).memorySwapLimitInBytes, 0n);
    assert.equal(mergeResources(current, resources({ memoryLimitInBytes: -1n })).memorySwapLimitInBytes, 0n);
  });
});

describe('cgroupsPathFor', () => {
  const cases: readonly (readonly [manager: 'cgroupfs' | 'systemd', parent: string, path: string])[] = [
    ['cgroupfs', '', '/berth/crio-x.scope'],
    ['cgroupfs', '/', '/berth/crio-x.scope'],
    ['cgroupfs', '/kubepods/burstable/pod1', '/kubepods/burstable/pod1/crio-x.scope'],
    ['cgroupfs', 'kubepods//pod1/', '/kubepods/pod1/crio-x.scope'],
    ['systemd', '', 'system.slice:crio:x'],
    ['systemd', '/', 'system.slice:crio:x'],
    ['systemd', 'kubepods-pod1.slice', 'kubepods-pod1.slice:crio:x'],
    [
      'systemd',
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice',
      'kubepods-burstable-pod1_2.slice:crio:x',
    ],
  ];
  for (const [manager, parent, path] of cases)
    it(`${manager} ${JSON.stringify(parent)} → ${path}`, () =>
      assert.equal(cgroupsPathFor({ manager, parent, id: 'x' }), path));

  const refused: readonly (readonly [manager: 'cgroupfs' | 'systemd', parent: string])[] = [
    ['cgroupfs', '../../x'],
    ['cgroupfs', '/a/../b'],
    ['cgroupfs', '..'],
    ['cgroupfs', '/a/./b'],
    ['cgroupfs', 'a\0b'],
    ['cgroupfs', 'a\nb'],
    ['cgroupfs', 'x'.repeat(5000)],
    ['cgroupfs', '/kubepods.slice'],
    ['systemd', '/kubepods/pod1'],
    ['systemd', '../x.slice'],
    ['systemd', '.slice'],
    ['systemd', '-a.slice'],
    ['systemd', 'a--b.slice'],
    ['systemd', 'a b.slice'],
    ['systemd', '/x.slice/pod'],
  ];
  for (const [manager, parent] of refused) {
    it(`refuses ${manager} ${JSON.stringify(parent.slice(0, 20))} (cgroup_parent)`, () =>
      assert.match(
        outcome(() => cgroupsPathFor({ manager, parent, id: 'x' })),
        /^InvalidArgument: cgroup_parent/,
      ));
  }
});

describe('devices', () => {
  const node = (path: string): FoundDevice => ({
    path,
    type: 'c',
    major: 1,
    minor: 3,
    fileMode: 0o20666,
    uid: 0,
    gid: 5,
  });
  it('keep their place below a directory', () => {
    const found = [node('/dev/snd/timer'), node('/dev/snd/by-path/x')];
    assert.deepEqual(
      resolveDevices({ hostPath: '/dev/snd/', containerPath: '/dev/audio', permissions: 'r' }, found).map((each) => [
        each.path,
        each.access,
      ]),
      [
        ['/dev/audio/timer', 'r'],
        ['/dev/audio/by-path/x', 'r'],
      ],
    );
  });
  it('behind a link have the path that was asked for', () => {
    assert.deepEqual(
      resolveDevices({ hostPath: '/dev/link', containerPath: '', permissions: '' }, [node('/dev/null')]).map((each) => [
        each.path,
        each.access,
      ]),
      [['/dev/link', 'rwm']],
    );
  });
  it('parse from host:container:permissions', () => {
    assert.deepEqual(['/dev/a', '/dev/a:/dev/b', '/dev/a:/dev/b:rw', '/dev/a:r', ' /dev/a::m'].map(parseDevice), [
      { hostPath: '/dev/a', containerPath: '', permissions: '' },
      { hostPath: '/dev/a', containerPath: '/dev/b', permissions: '' },
      { hostPath: '/dev/a', containerPath: '/dev/b', permissions: 'rw' },
      { hostPath: '/dev/a', containerPath: '', permissions: 'r' },
      { hostPath: '/dev/a', containerPath: '', permissions: 'm' },
    ]);
    for (const bad of ['', 'dev/a', '/dev/a:b:c:d', '/dev/a:/dev/b:x', '/dev/../a', '/dev/a:/', '/dev/a:/x/../../y'])
      assert.match(
        outcome(() => parseDevice(bad)),
        /^InvalidArgument: device/,
        bad,
      );
  });
  it('have permissions of r, w and m, each once', () => {
    for (const permissions of ['', 'r', 'mwr'])
      checkDeviceRequest({ hostPath: '/dev/a', containerPath: '', permissions });
    for (const permissions of ['x', 'rr', 'rwmr', 'R'])
      assert.match(
        outcome(() => checkDeviceRequest({ hostPath: '/dev/a', containerPath: '', permissions })),
        /^InvalidArgument: device.permissions/,
        permissions,
      );
  });
  it('must exist (/proc/kcore is no device)', () => {
    assert.match(
      outcome(() => resolveDevices({ hostPath: '/proc/kcore', containerPath: '', permissions: '' }, [])),
      /^InvalidArgument: device.host_path "\/proc\/kcore": there is no device node/,
    );
  });
  it('are denied unless listed, with or without devices', () => {
    const user = { uid: 1000, gid: 1000, additionalGids: [1000], home: '/' };
    const none = deviceParts({ devices: [], hostDevices: [], user, defaults: defaultsOf() });
    assert.deepEqual(none, { devices: [], rules: [{ allow: false, access: 'rwm' }] });
    const [one] = deviceParts({
      devices: [{ ...node('/dev/a'), access: 'r' }],
      hostDevices: [],
      user,
      defaults: defaultsOf(),
    }).rules.slice(1);
    assert.deepEqual(one, { allow: true, type: 'c', major: 1, minor: 3, access: 'r' });
  });
});

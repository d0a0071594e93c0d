import { assert } from 'chai';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { applyCdi, cdiDevicesOf, cdiEdits, cdiLookups, loadCdi } from './cdi.ts';
import { outcome } from './golden/refused.ts';
import { buildGolden } from './golden/request.ts';
import { violations } from './golden/shape.ts';
import type { CdiEdits, ConfigFile } from '../ports/extensions.ts';

const file = (path: string, devices: Record<string, object>, over: object = {}, directory = 0): ConfigFile => ({
  path,
  directory,
  notation: 'json',
  value: {
    cdiVersion: '0.6.0',
    kind: 'vendor.com/gpu',
    devices: Object.entries(devices).map(([name, containerEdits]) => ({ name, containerEdits })),
    ...over,
  },
});
const names = (path: string, edits: object): string[] => [...loadCdi([file(path, { '0': edits })]).devices.keys()];
const config = (
  cdi: readonly string[],
  annotations: Record<string, string> = {},
): Parameters<typeof cdiDevicesOf>[0] => ({ cdiDevices: cdi.map((name) => ({ name })), annotations });

describe('loadCdi', () => {
  it('names devices vendor/class=name', () => assert.deepEqual(names('/etc/cdi/a.json', {}), ['vendor.com/gpu=0']));
  it('takes a version as CDI’s own readers do, with a v in front, too', () => {
    for (const cdiVersion of ['0.3.0', 'v0.5.0', '0.8.0', 'v1.0.0', '1.1.0'])
      assert.equal(loadCdi([file('/etc/cdi/a.json', { '0': {} }, { cdiVersion })]).devices.size, 1, cdiVersion);
    for (const cdiVersion of ['0.2.0', 'vv0.5.0', 'V0.5.0', '1.2.0'])
      assert.equal(loadCdi([file('/etc/cdi/a.json', { '0': {} }, { cdiVersion })]).damaged.length, 1, cdiVersion);
  });
  it('lets a later directory win', () => {
    const registry = loadCdi([
      file('/run/cdi/x.json', { '0': { env: ['FROM=run'] } }, {}, 1),
      file('/etc/cdi/x.json', { '0': { env: ['FROM=etc'] }, '1': {} }),
    ]);
    assert.deepEqual(cdiEdits(registry, ['vendor.com/gpu=0']).env, ['FROM=run']);
    assert.equal(
      outcome(() => cdiEdits(registry, ['vendor.com/gpu=1'])),
      'accepted',
    );
  });
  it('makes a device that two files of one directory describe unusable, and only that', () => {
    const registry = loadCdi([file('/etc/cdi/a.json', { '0': {}, '1': {} }), file('/etc/cdi/b.json', { '0': {} })]);
    assert.match(
      outcome(() => cdiEdits(registry, ['vendor.com/gpu=0'])),
      /^FailedPrecondition: .*described by \/etc\/cdi\/a.json and \/etc\/cdi\/b.json/,
    );
    assert.equal(
      outcome(() => cdiEdits(registry, ['vendor.com/gpu=1'])),
      'accepted',
    );
    const settled = loadCdi([
      file('/etc/cdi/a.json', { '0': {} }),
      file('/etc/cdi/b.json', { '0': {} }),
      file('/run/cdi/c.json', { '0': {} }, {}, 1),
    ]);
    assert.equal(
      outcome(() => cdiEdits(settled, ['vendor.com/gpu=0'])),
      'accepted',
    );
  });

  const broken: readonly (readonly [what: string, edits: object, over: object, why: RegExp])[] = [
    ['version', {}, { cdiVersion: '2.0.0' }, /cdiVersion/],
    ['no version', {}, { cdiVersion: undefined }, /cdiVersion/],
    ['unknown field', {}, { extra: 1 }, /unknown field "extra"/],
    ['unknown field of edits', { extra: 1 }, {}, /unknown field "extra"/],
    ['prototype', JSON.parse('{"__proto__":{"env":["A=B"]}}') as object, {}, /unknown field "__proto__"/],
    ['kind', {}, { kind: 'gpu' }, /kind: want vendor\/class/],
    ['kind with a path', {}, { kind: '../../x/gpu' }, /kind: want vendor\/class/],
    ['device name', {}, { devices: [{ name: '../x', containerEdits: {} }] }, /devices\[0\].name/],
    [
      'device name twice',
      {},
      {
        devices: [
          { name: 'a', containerEdits: {} },
          { name: 'a', containerEdits: {} },
        ],
      },
      /is there twice/,
    ],
    ['device without edits', {}, { devices: [{ name: 'a' }] }, /containerEdits: want an object/],
    ['env', { env: ['NOVALUE'] }, {}, /env: want NAME=value/],
    ['node path', { deviceNodes: [{ path: 'dev/x' }] }, {}, /deviceNodes\[0\].path/],
    ['node path with ..', { deviceNodes: [{ path: '/dev/../x' }] }, {}, /without \.\./],
    ['node type', { deviceNodes: [{ path: '/dev/x', type: 'd' }] }, {}, /type: want b, c, u or p/],
    ['node permissions', { deviceNodes: [{ path: '/dev/x', permissions: 'rwx' }] }, {}, /permissions/],
    ['node major', { deviceNodes: [{ path: '/dev/x', major: -1 }] }, {}, /major/],
    ['mount without source', { mounts: [{ containerPath: '/x' }] }, {}, /hostPath: is missing/],
    ['mount over the root', { mounts: [{ hostPath: '/x', containerPath: '/' }] }, {}, /containerPath/],
    ['hook stage', { hooks: [{ hookName: 'poststart2', path: '/x' }] }, {}, /hookName/],
    ['hook path', { hooks: [{ hookName: 'prestart', path: 'x' }] }, {}, /hooks\[0\].path/],
    ['gid', { additionalGids: [-5] }, {}, /additionalGids\[0\]/],
    ['rdt class', { intelRdt: { closID: '../x' } }, {}, /closID/],
  ];
  for (const [what, edits, over, why] of broken) {
    it(`sets a file aside with a wrong ${what}, and leaves the others alone`, () => {
      const registry = loadCdi([
        file('/etc/cdi/bad.json', { '0': edits }, over),
        file('/etc/cdi/good.json', { good: {} }),
      ]);
      assert.deepEqual([...registry.devices.keys()], ['vendor.com/gpu=good']);
      assert.deepEqual(
        registry.damaged.map((each) => each.path),
        ['/etc/cdi/bad.json'],
      );
      assert.match(registry.damaged[0]?.why ?? '', why);
      assert.match(
        outcome(() => cdiEdits(registry, ['vendor.com/gpu=0'])),
        /unresolvable CDI devices vendor.com\/gpu=0 \(in no spec file\); \/etc\/cdi\/bad.json is unusable/,
      );
    });
  }
});

describe('cdiDevicesOf', () => {
  it('takes the field, then the annotations, each name once', () => {
    const asked = config(['v/c=1', 'v/c=0', 'v/c=1'], {
      'cdi.k8s.io/b': 'v/c=0',
      'cdi.k8s.io/a': 'v/c=3,v/c=2',
      'cdi.k8s.iox': 'nonsense',
      other: 'v/c=9',
    });
    assert.deepEqual(cdiDevicesOf(asked), ['v/c=1', 'v/c=0', 'v/c=3', 'v/c=2']);
  });
  it('refuses what is no qualified name', () => {
    for (const bad of [
      '',
      'gpu',
      'v/c',
      'v/c=',
      '/c=0',
      'v/=0',
      'v/c=a/b',
      'v/c=0 ',
      '../c=0',
      '1v/c=0',
      'v/c=0=1',
      `v/c=${'x'.repeat(300)}`,
    ]) {
      assert.match(
        outcome(() => cdiDevicesOf(config([bad]))),
        /^InvalidArgument: CDI_devices: .*is not a CDI device name/,
        bad,
      );
      assert.match(
        outcome(() => cdiDevicesOf(config([], { 'cdi.k8s.io/x': bad }))),
        /^InvalidArgument: annotation "cdi.k8s.io\/x"/,
        bad,
      );
    }
  });
});

describe('cdiEdits', () => {
  it('does the edits of a file once and those of each device', () => {
    const registry = loadCdi([
      file(
        '/etc/cdi/a.json',
        { '0': { env: ['D0=1'] }, '1': { env: ['D1=1'] } },
        { containerEdits: { env: ['COMMON=1'] } },
      ),
    ]);
    assert.deepEqual(cdiEdits(registry, ['vendor.com/gpu=1', 'vendor.com/gpu=0']).env, ['COMMON=1', 'D1=1', 'D0=1']);
  });
  it('names every device that cannot be had', () => {
    const registry = loadCdi([
      file('/etc/cdi/a.json', {
        net: { netDevices: [{ hostInterfaceName: 'eth1', name: 'eth0' }] },
        rdt: { intelRdt: { schemata: ['L3:0=f'] } },
      }),
    ]);
    assert.equal(
      outcome(() => cdiEdits(registry, ['vendor.com/gpu=net', 'vendor.com/gpu=rdt', 'vendor.com/gpu=none'])),
      'FailedPrecondition: unresolvable CDI devices vendor.com/gpu=net (needs netDevices, which is ' +
        'not supported), vendor.com/gpu=rdt (needs intelRdt.schemata, which is not supported), ' +
        'vendor.com/gpu=none (in no spec file)',
    );
  });
});

describe('applyCdi', () => {
  const plain = buildGolden({
    about: '',
    container: {
      linux: { securityContext: { runAsUser: { value: 1000 } } },
      mounts: [{ containerPath: '/opt/gpu', hostPath: '/srv/own' }],
      envs: [{ key: 'GPU', value: 'none' }],
    },
  });
  const edits = (device: object): CdiEdits =>
    cdiEdits(loadCdi([file('/etc/cdi/a.json', { '0': device })]), ['vendor.com/gpu=0']);
  const host = { path: '/dev/gpu7', type: 'c', major: 195, minor: 7, fileMode: 0o20660, uid: 0, gid: 44 } as const;
  const apply = (device: object): RuntimeSpec => {
    const spec = applyCdi(plain, edits(device), new Map([['/dev/gpu7', host]]));
    assert.deepEqual(violations(spec), []);
    return spec;
  };

  it('looks device nodes up on the host unless the file says what they are', () => {
    const device = {
      deviceNodes: [
        { path: '/dev/gpu0', hostPath: '/dev/gpu7' },
        { path: '/dev/ctl', type: 'c', major: 195, minor: 255, fileMode: 438, permissions: 'rw', uid: 0, gid: 0 },
        { path: '/dev/fifo', type: 'p' },
      ],
    };
    assert.deepEqual(cdiLookups(edits(device)), ['/dev/gpu7']);
    const { linux } = apply(device);
    assert.deepEqual(linux.devices, [
      // Without an owner in the file, the container's user and, as its group is 1000 too, its group.
      { type: 'c', path: '/dev/gpu0', major: 195, minor: 7, fileMode: 0o660, uid: 1000, gid: 1000 },
      { type: 'c', path: '/dev/ctl', major: 195, minor: 255, fileMode: 438, uid: 0, gid: 0 },
      { type: 'p', path: '/dev/fifo', major: 0, minor: 0, uid: 1000, gid: 1000 },
    ]);
    assert.deepEqual(linux.resources?.devices, [
      { allow: false, access: 'rwm' },
      { allow: true, type: 'c', major: 195, minor: 7, access: 'rwm' },
      { allow: true, type: 'c', major: 195, minor: 255, access: 'rw' },
    ]);
  });
  it('refuses a node that the host does not have', () => {
    assert.match(
      outcome(() => applyCdi(plain, edits({ deviceNodes: [{ path: '/dev/none' }] }), new Map())),
      /^FailedPrecondition: CDI device node "\/dev\/none" does not exist/,
    );
  });
  it('replaces a device at the same path', () => {
    const node = { deviceNodes: [{ path: '/dev/a', type: 'c', major: 1, minor: 2, uid: 0, gid: 0 }] };
    const twice = applyCdi(applyCdi(plain, edits(node), new Map()), edits(node), new Map());
    assert.deepEqual(twice.linux.devices, [{ type: 'c', path: '/dev/a', major: 1, minor: 2, uid: 0, gid: 0 }]);
  });
  it('replaces environment by name and mounts by place, parents first', () => {
    const spec = apply({
      env: ['GPU=0', 'NEW=1'],
      mounts: [
        { hostPath: '/usr/lib/gpu', containerPath: '/opt/gpu/', options: ['ro', 'bind'] },
        { hostPath: '/srv/opt', containerPath: '/opt' },
        { hostPath: 'tmpfs', containerPath: '/t', type: 'tmpfs', options: ['size=1m'] },
      ],
    });
    assert.deepEqual(spec.process.env.slice(-3), ['GPU=0', 'HOME=/home/app', 'NEW=1']);
    const mine = spec.mounts.filter((mount) => /^\/(opt|t)/.test(mount.destination));
    assert.deepEqual(
      mine.map((mount) => [mount.destination, mount.source, mount.type, ...(mount.options ?? [])]),
      [
        ['/opt', '/srv/opt', 'bind', 'rbind'],
        ['/t', 'tmpfs', 'tmpfs', 'size=1m'],
        ['/opt/gpu', '/usr/lib/gpu', 'bind', 'ro', 'bind'],
      ],
    );
  });
  it('adds hooks, groups and the resctrl class', () => {
    const spec = apply({
      hooks: [
        { hookName: 'createContainer', path: '/h', args: ['h', 'x'], env: ['A=1'], timeout: 3 },
        { hookName: 'createContainer', path: '/i' },
      ],
      additionalGids: [44, 0, 44],
      intelRdt: { closID: 'gold', l3CacheSchema: 'L3:0=f' },
    });
    assert.deepEqual(spec.hooks, {
      createContainer: [{ path: '/h', args: ['h', 'x'], env: ['A=1'], timeout: 3 }, { path: '/i' }],
    });
    assert.deepEqual(spec.process.user.additionalGids, [1000, 10, 50, 44]);
    assert.deepEqual(spec.linux.intelRdt, { closID: 'gold', l3CacheSchema: 'L3:0=f' });
  });
  it('leaves the given spec as it was', () => {
    const before = structuredClone(plain);
    apply({
      env: ['GPU=0'],
      hooks: [{ hookName: 'prestart', path: '/h' }],
      deviceNodes: [{ path: '/dev/gpu7' }],
      additionalGids: [7],
      mounts: [{ hostPath: '/a', containerPath: '/b' }],
    });
    assert.deepEqual(plain, before);
  });
});

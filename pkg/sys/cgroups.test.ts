import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import {
  directoryOf,
  layoutOf,
  pathOf,
  checkPath,
  hierarchyOf,
  parsePids,
  parseProcCgroup,
  slicePath,
  members,
} from './cgroups.ts';
import { parseMountinfo } from './mountinfo.ts';

const HYBRID = parseMountinfo(
  [
    '33 32 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct',
    '35 32 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory',
    '40 32 0:36 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd',
    '41 32 0:37 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw',
    '42 32 0:31 / /elsewhere/memory rw - cgroup cgroup rw,memory',
  ].join('\n'),
);
const UNIFIED = parseMountinfo('41 32 0:37 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate');

describe('cgroupLayout', () => {
  it('knows hybrid, with each hierarchy once', () => {
    const layout = layoutOf(HYBRID, () => '\n');
    assert.equal(layout.mode, 'hybrid');
    assert.deepEqual(
      layout.hierarchies.map((each) => [each.version, each.mountPoint, each.controllers.join()]),
      [
        [1, '/sys/fs/cgroup/cpu,cpuacct', 'cpu,cpuacct'],
        [1, '/sys/fs/cgroup/memory', 'memory'],
        [1, '/sys/fs/cgroup/systemd', 'name=systemd'],
        [2, '/sys/fs/cgroup/unified', ''],
      ],
    );
    assert.deepEqual([...layout.controllers], ['cpu', 'cpuacct', 'memory']);
    assert.equal(hierarchyOf(layout, 'cpuacct')?.mountPoint, '/sys/fs/cgroup/cpu,cpuacct');
    assert.isUndefined(hierarchyOf(layout, 'pids'));
  });

  it('counts no controller that only the unified tree of a hybrid node has: runtimes set no limits there', () => {
    const layout = layoutOf(HYBRID, () => 'hugetlb misc\n');
    assert.deepEqual([layout.mode, [...layout.controllers]], ['hybrid', ['cpu', 'cpuacct', 'memory']]);
    assert.equal(hierarchyOf(layout, 'hugetlb')?.version, 2, 'it is there to be read');
  });

  it('knows v2 and v1', () => {
    const v2 = layoutOf(UNIFIED, () => 'cpuset cpu io memory pids\n');
    assert.deepEqual([v2.mode, [...v2.controllers]], ['v2', ['cpuset', 'cpu', 'io', 'memory', 'pids']]);
    assert.equal(
      layoutOf(
        HYBRID.filter((mount) => mount.fsType === 'cgroup'),
        () => '',
      ).mode,
      'v1',
    );
    assert.deepEqual(layoutOf([], () => '').hierarchies, []);
  });
});

describe('cgroup paths', () => {
  it('refuses everything that could leave the cgroup or name the root', () => {
    for (const path of ['', '/', '//', '.', 'a', '/a/..', '/../a', '/a/./b', '/a\0b', `/${'x'.repeat(256)}`])
      assert.throws(() => checkPath(path), RuntimeError, 'not a cgroup path');
    assert.equal(checkPath('/a//b/'), '/a/b');
    assert.equal(
      directoryOf({ version: 1, mountPoint: '/sys/fs/cgroup/memory', controllers: ['memory'] }, '/kubepods/pod1'),
      '/sys/fs/cgroup/memory/kubepods/pod1',
    );
  });

  it('expands slices as systemd does', () => {
    assert.equal(
      slicePath('kubepods-burstable-pod1.slice'),
      '/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice',
    );
    assert.equal(slicePath('system.slice'), '/system.slice');
    assert.equal(slicePath('-.slice'), '');
    for (const slice of ['a', 'a--b.slice', '-a.slice', 'a-.slice', 'a/b.slice', '.slice', '../x.slice'])
      assert.throws(() => slicePath(slice), RuntimeError, 'not a slice name');
  });

  it('reads cgroupsPath of both managers', () => {
    assert.equal(pathOf('/kubepods/pod1/x'), '/kubepods/pod1/x');
    assert.equal(pathOf('kubepods-pod1.slice:crio:abc'), '/kubepods.slice/kubepods-pod1.slice/crio-abc.scope');
    assert.equal(pathOf(':berth:abc'), '/system.slice/berth-abc.scope');
    assert.equal(pathOf('a.slice::b'), '/a.slice/b.scope');
    assert.equal(pathOf('system-berth_pod1.slice'), '/system.slice/system-berth_pod1.slice');
    assert.throws(() => pathOf('../x:y:z'), RuntimeError);
    assert.throws(() => pathOf('a.slice:b:../../c'), RuntimeError);
  });
});

describe('parseProcCgroup', () => {
  it('gives the path of each controller', () => {
    assert.deepEqual(
      [...parseProcCgroup('5:devices:/d\n3:cpu,cpuacct:/c:with:colons\n1:name=systemd:/s\n0::/u\n')],
      [
        ['devices', '/d'],
        ['cpu', '/c:with:colons'],
        ['cpuacct', '/c:with:colons'],
        ['name=systemd', '/s'],
        ['', '/u'],
      ],
    );
  });
});

describe('members', () => {
  it('leaves out whose number may have become another’s between the list and the look', () => {
    const lists = [
      [7, 8],
      [8, 9],
    ];
    const found = members(
      () => lists.shift() ?? [],
      (pids) => pids.map((pid) => ({ pid, startTicks: BigInt(pid) })),
    );
    assert.deepEqual(found, [{ pid: 8, startTicks: 8n }]);
  });
});

describe('parsePids', () => {
  it('leaves out what other namespaces have, and a number that was cut off', () => {
    assert.deepEqual(parsePids('12\n0\n1234567\n'), [12, 1_234_567]);
    assert.deepEqual(parsePids('12\n1234567\n123'), [12, 1_234_567]);
    assert.deepEqual(['', '123'].map(parsePids), [[], []]);
  });
});

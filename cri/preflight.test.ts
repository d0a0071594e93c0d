import { assert } from 'chai';
import { together } from './commands/check.ts';
import { kubeletFacts, pluginsOf, swapPlaces } from './parts/preflight-facts.ts';
import { exitCodeOfFindings, type Finding, preflight, type PreflightFacts } from './preflight.ts';

/** A node that lacks nothing. */
const WELL: PreflightFacts = {
  uid: 0,
  kernel: '6.12.48+deb13-amd64',
  overlay: true,
  sysctls: new Map([
    ['net.ipv4.ip_forward', '1'],
    ['net.bridge.bridge-nf-call-iptables', '1'],
  ]),
  cgroupMode: 'v2',
  controllers: new Set(['cpu', 'cpuset', 'memory', 'pids']),
  systemd: true,
  cgroupManager: 'systemd',
  listen: '/run/berth/berth.sock',
  kubelet: { cgroupDriver: 'systemd', endpoint: 'unix:///run/berth/berth.sock' },
  runtimes: [
    { handler: 'crun', path: '/usr/bin/crun', version: 'crun 1.21', broken: undefined, vulnerable: undefined },
  ],
  cni: { directory: '/etc/cni/net.d', files: ['10-net.conflist'], missingPlugins: [] },
  missingPrograms: new Set(),
  swap: [],
  apparmor: true,
  selinux: 'off',
  selinuxContexts: false,
  disks: [
    {
      name: 'disk',
      directory: '/var/lib/berth',
      availableBytes: 100n << 30n,
      totalBytes: 200n << 30n,
      kind: 'ext4',
      options: ['rw', 'relatime'],
    },
  ],
};
const SILENT: PreflightFacts['kubelet'] = { cgroupDriver: undefined, endpoint: undefined };
const [DISK] = WELL.disks as [PreflightFacts['disks'][number]];
const [CRUN] = WELL.runtimes as [PreflightFacts['runtimes'][number]];

/** A change of one fact: what is said of it, and what mends it. */
const CASES: readonly (readonly [
  title: string,
  facts: Partial<PreflightFacts>,
  name: string,
  standing: Finding['standing'],
  mends: string,
])[] = [
  ['a kernel that is too old', { kernel: '5.4.0-1' }, 'kernel', 'wrong', 'apt-get install linux-image'],
  ['no overlay', { overlay: false }, 'module overlay', 'wrong', 'modprobe overlay'],
  ['no br_netfilter', { sysctls: new Map() }, 'module br_netfilter', 'limited', 'modprobe br_netfilter'],
  [
    'no forwarding',
    { sysctls: new Map([['net.ipv4.ip_forward', '0']]) },
    'sysctl net.ipv4.ip_forward',
    'limited',
    'sysctl -w net.ipv4.ip_forward=1',
  ],
  ['no memory controller', { controllers: new Set(['cpu', 'pids']) }, 'cgroups', 'wrong', 'cgroup_enable=memory'],
  ['cgroup v1', { cgroupMode: 'v1' }, 'cgroups', 'limited', 'systemd.unified_cgroup_hierarchy=1'],
  ['two managers of cgroups', { cgroupManager: 'cgroupfs', kubelet: SILENT }, 'cgroups', 'limited', 'cgroup_manager'],
  ['a systemd driver without systemd', { systemd: false }, 'cgroups', 'wrong', 'cgroup_manager = "cgroupfs"'],
  [
    'a kubelet with the other driver',
    { kubelet: { cgroupDriver: 'cgroupfs', endpoint: undefined } },
    'kubelet cgroupDriver',
    'limited',
    'sed -i',
  ],
  [
    'a kubelet that uses another runtime',
    { kubelet: { cgroupDriver: undefined, endpoint: 'unix:///run/containerd/containerd.sock' } },
    'kubelet endpoint',
    'limited',
    'unix:///run/berth/berth.sock',
  ],
  ['no runtime', { runtimes: [] }, 'runtime', 'wrong', 'apt-get install crun'],
  ['no runtime that works', { runtimes: [{ ...CRUN, broken: 'odd' }] }, 'runtime crun', 'wrong', 'odd'],
  [
    'one runtime of two that does not work',
    { runtimes: [CRUN, { ...CRUN, handler: 'runsc', broken: 'odd' }] },
    'runtime runsc',
    'limited',
    'odd',
  ],
  ['a runtime with known holes', { runtimes: [{ ...CRUN, vulnerable: 'use 2' }] }, 'runtime crun', 'limited', 'use 2'],
  ['no network', { cni: { ...WELL.cni, files: [] } }, 'network', 'limited', 'kubectl apply'],
  [
    'a network without its plugins',
    { cni: { ...WELL.cni, missingPlugins: ['bridge'] } },
    'network',
    'wrong',
    'apt-get install containernetworking-plugins',
  ],
  ['no conntrack', { missingPrograms: new Set(['conntrack']) }, 'program conntrack', 'limited', 'install conntrack'],
  ['swap', { swap: ['/dev/sda2'] }, 'swap', 'limited', 'swapoff -a'],
  [
    'no parser of profiles',
    { missingPrograms: new Set(['apparmor_parser']) },
    'apparmor',
    'limited',
    'install apparmor',
  ],
  ['SELinux without contexts', { selinux: 'enforcing' }, 'selinux', 'limited', 'install container-selinux'],
  ['a disk without room', { disks: [{ ...DISK, availableBytes: 1n }] }, 'disk', 'limited', 'crictl rmi --prune'],
  ['a disk that nothing is run from', { disks: [{ ...DISK, options: ['noexec'] }] }, 'disk', 'wrong', 'remount,exec'],
  ['an overlay for a disk', { disks: [{ ...DISK, kind: 'overlay' }] }, 'disk', 'wrong', 'ext4 or xfs'],
  ['somebody who is not root', { uid: 1000 }, 'user', 'limited', 'sudo berth check'],
];

describe('what a node lacks', () => {
  it('is nothing where all is well', () => {
    const findings = preflight(WELL);
    assert.deepEqual(
      findings.filter(({ standing }) => standing !== 'ok'),
      [],
    );
    assert.equal(exitCodeOfFindings(findings), 0);
  });

  for (const [title, facts, name, standing, mends] of CASES)
    it(`names ${title}, and what mends it`, () => {
      const findings = preflight({ ...WELL, ...facts });
      const found = findings.find((each) => each.name === name);
      assert.equal(found?.standing, standing);
      assert.include(found?.advice, mends);
      assert.equal(exitCodeOfFindings(findings), standing === 'wrong' ? 1 : 0);
      // Everything else stands as it did; a missing module takes its sysctls along.
      const others = findings.filter((each) => each.standing !== 'ok' && !/br_netfilter/.test(each.name));
      assert.isAtMost(others.length, 1, JSON.stringify(others));
    });

  it('is read from what the kernel, the kubelet and networks say', () => {
    assert.deepEqual(swapPlaces('Filename Type Size\n/dev/zram0 partition 1\n/swap file 2\n'), ['/dev/zram0', '/swap']);
    assert.deepEqual(kubeletFacts('kind: KubeletConfiguration\ncgroupDriver: systemd # ours\n'), {
      cgroupDriver: 'systemd',
      endpoint: undefined,
    });
    const [endpoint, nested] = ['containerRuntimeEndpoint: "unix:///run/x.sock"\n', '  cgroupDriver: below\n'];
    assert.deepEqual(kubeletFacts(nested + endpoint), { cgroupDriver: undefined, endpoint: 'unix:///run/x.sock' });
    const list = { plugins: [{ type: 'bridge', ipam: { type: 'host-local' } }, { type: 'portmap' }] };
    assert.deepEqual(pluginsOf(JSON.stringify(list)), ['bridge', 'host-local', 'portmap']);
    assert.deepEqual([pluginsOf('{"type": "loopback"}'), pluginsOf('not JSON')], [['loopback'], []]);
  });

  it('is told with what the daemon says: the worse of two, and what only one of them knows', () => {
    const fact = (name: string, ok: boolean) => ({ name, ok, detail: 'seen', advice: ok ? '' : 'mend it' });
    const facts = [fact('kernel', true), fact('network', false), fact('host ports', true)];
    const findings = together(preflight(WELL), { problems: [], facts }, '/s');
    const standing = (name: string): readonly string[] =>
      findings.filter((each) => each.name === name).map((each) => `${each.standing} ${each.detail}`);
    assert.deepEqual(standing('kernel'), [`ok seen`]);
    assert.deepEqual(standing('network'), ['limited seen']);
    assert.deepEqual([standing('host ports'), standing('daemon')], [['ok seen'], ['ok /s']]);
    const alone = together(preflight(WELL), undefined, '/s');
    assert.include(alone.at(-1)?.advice, 'systemctl start berth');
    assert.equal(exitCodeOfFindings(alone), 0, 'a daemon that is stopped is no fault of the node');
  });
});

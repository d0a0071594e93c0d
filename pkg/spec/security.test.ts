import { assert } from 'chai';
import type { LinuxContainerSecurityContext, PodSandboxConfig, SELinuxOption } from '../cri-api/types.ts';
import { outcome } from './golden/refused.ts';
import { defaultsOf, factsOf, inputOf } from './golden/request.ts';
import { buildContainerSpec, buildPauseSpec } from './index.ts';
import {
  apparmorChoice,
  apparmorOf,
  hiddenPaths,
  podSysctls,
  relabelRefusal,
  seccompChoice,
  selinuxLabels,
  validateSysctls,
} from './security.ts';
import type { SysctlScope } from '../ports/spec.ts';

const POD: SysctlScope = { network: 'pod', ipc: 'pod' };
const security = (fields: object): LinuxContainerSecurityContext => fields as LinuxContainerSecurityContext;

describe('privilege', () => {
  it('of a container needs that of its sandbox', () => {
    assert.match(
      outcome(() => buildContainerSpec(inputOf({ container: { linux: { securityContext: { privileged: true } } } }))),
      /^InvalidArgument: no privileged container allowed in sandbox/,
    );
  });
});

describe('user namespaces', () => {
  it("must map the container's user and group", () => {
    const map = [{ hostId: 100_000, containerId: 0, size: 1000 }];
    const build = (user: object) => (): unknown =>
      buildContainerSpec(
        inputOf({
          container: { linux: { securityContext: user as never } },
          found: { idMap: { uids: map, gids: map } },
        }),
      );
    assert.equal(outcome(build({ runAsUser: { value: 999 } })), 'accepted');
    assert.match(outcome(build({ runAsUser: { value: 1000 } })), /^InvalidArgument: uid 1000 is not mapped/);
    assert.match(
      outcome(build({ runAsUser: { value: 1 }, runAsGroup: { value: 1000 } })),
      /^InvalidArgument: gid 1000 is not mapped/,
    );
  });
});

describe('validateSysctls', () => {
  const NONE = defaultsOf();
  const accepted: readonly (readonly [name: string, value: string, written: string])[] = [
    ['kernel.shm_rmid_forced', '1', 'kernel.shm_rmid_forced=1'],
    ['kernel.sem', '250 32000 100 128', 'kernel.sem=250 32000 100 128'],
    ['kernel.msgmax', '65536', 'kernel.msgmax=65536'],
    ['fs.mqueue.msg_max', '10', 'fs.mqueue.msg_max=10'],
    ['net.ipv4.ip_local_port_range', '1024\t65000', 'net.ipv4.ip_local_port_range=1024\t65000'],
    ['net.ipv4.ip_local_reserved_ports', '8080,9148-9150', 'net.ipv4.ip_local_reserved_ports=8080,9148-9150'],
    ['net.ipv4.tcp_congestion_control', 'bbr', 'net.ipv4.tcp_congestion_control=bbr'],
    ['net/ipv4/conf/eth0.100/rp_filter', '-1', 'net.ipv4.conf.eth0/100.rp_filter=-1'],
    ['net.ipv4.conf.eth0/100.rp_filter', ' 1 ', 'net.ipv4.conf.eth0/100.rp_filter=1'],
    ['net.ipv6.conf.all.stable_secret', 'fe80::1', 'net.ipv6.conf.all.stable_secret=fe80::1'],
  ];
  for (const [name, value, written] of accepted) {
    it(`accepts ${name} = ${JSON.stringify(value)}`, () =>
      assert.deepEqual(
        [...validateSysctls({ [name]: value }, POD)].map((pair) => pair.join('=')),
        [written],
      ));
  }

  for (const [name, scope, shared] of [
    ['net.ipv4.ip_forward', { network: 'host', ipc: 'pod' }, 'network'],
    ['net/ipv4/ip_forward', { network: 'host', ipc: 'pod' }, 'network'],
    ['kernel.shmmax', { network: 'pod', ipc: 'host' }, 'IPC'],
    ['fs.mqueue.msg_max', { network: 'pod', ipc: 'host' }, 'IPC'],
  ] as const) {
    it(`leaves out ${name} of a namespace that is the node's, and says so (CVE-2022-0532)`, () => {
      const asked = { [name]: '1', 'kernel.sem': '1', 'net.core.somaxconn': '2' };
      assert.notInclude([...validateSysctls(asked, scope).keys()], name.replaceAll('/', '.'));
      const { skipped } = podSysctls({ linux: { sysctls: asked } } as unknown as PodSandboxConfig, scope, NONE, null);
      assert.include(skipped.join('\n'), `the pod shares the ${shared} namespace of the node`);
      // What is no value is refused all the same.
      assert.match(
        outcome(() => validateSysctls({ [name]: '1+x=y' }, scope)),
        /characters that no sysctl value needs/,
      );
    });
  }

  const refused: readonly (readonly [id: string, name: string, value: string, scope: SysctlScope, message: RegExp])[] =
    [
      [
        'CVE-2022-0811',
        'kernel.shm_rmid_forced',
        '1+kernel.core_pattern=|/tmp/x #',
        POD,
        /characters that no sysctl value needs/,
      ],
      ['CVE-2022-0811', 'kernel.shm_rmid_forced', '1\nkernel.core_pattern', POD, /characters/],
      ['CVE-2022-0811', 'kernel.shm_rmid_forced', '1\0', POD, /characters/],
      ['CVE-2022-0811', 'kernel.shm_rmid_forced=1+kernel.core_pattern', '1', POD, /not namespaced/],
      ['CVE-2022-0811', 'net.ipv4.ip_forward', 'x'.repeat(2000), POD, /characters/],
      ['not namespaced', 'kernel.core_pattern', 'x', POD, /not namespaced/],
      ['not namespaced', 'vm.swappiness', '1', POD, /not namespaced/],
      ['not namespaced', 'fs.file-max', '1', POD, /not namespaced/],
      ['not namespaced', 'kernel.semx', '1', POD, /not namespaced/],
      ['traversal', 'net/../kernel/core_pattern', 'x', POD, /not namespaced|not a sysctl/],
      ['traversal', 'net.ipv4//../../kernel/core_pattern', 'x', POD, /not a sysctl name/],
      ['traversal', 'net...kernel', 'x', POD, /not a sysctl name/],
      ['traversal', 'net/ipv4/..', 'x', POD, /not a sysctl name/],
      ['name', '', '1', POD, /not a sysctl name/],
      ['name', 'net', '1', POD, /not namespaced/],
      ['name', `net.${'a'.repeat(300)}`, '1', POD, /not a sysctl name/],
    ];
  for (const [id, name, value, scope, message] of refused) {
    it(`refuses ${JSON.stringify(name.slice(0, 60))} = ${JSON.stringify(value.slice(0, 40))} (${id})`, () => {
      const said = outcome(() => validateSysctls({ [name]: value }, scope));
      assert.match(said, /^InvalidArgument: sysctl /);
      assert.match(said, message);
    });
  }
  it('refuses one sysctl by two names', () =>
    assert.match(
      outcome(() => validateSysctls({ 'net.ipv4.ip_forward': '1', 'net/ipv4/ip_forward': '0' }, POD)),
      /given twice/,
    ));
});

describe('podSysctls', () => {
  const pod = (sysctls: Record<string, string>): PodSandboxConfig =>
    ({ linux: { sysctls } }) as unknown as PodSandboxConfig;
  const defaults = defaultsOf({
    sysctls: { 'net.ipv4.ping_group_range': '0 2147483647', 'kernel.shm_rmid_forced': '1' },
  });
  const all = (scope: SysctlScope, sysctls: Record<string, string> = {}): string[] =>
    [...podSysctls(pod(sysctls), scope, defaults, null).set].map((pair) => pair.join('='));
  it("adds the pod's to the configured ones", () => {
    assert.deepEqual(all(POD, { 'kernel.shm_rmid_forced': '0' }), [
      'net.ipv4.ping_group_range=0 2147483647',
      'kernel.shm_rmid_forced=0',
    ]);
  });
  it('never applies a configured one to the node (CVE-2022-0532)', () => {
    assert.deepEqual(all({ network: 'host', ipc: 'pod' }), ['kernel.shm_rmid_forced=1']);
    assert.deepEqual(all({ network: 'pod', ipc: 'host' }), ['net.ipv4.ping_group_range=0 2147483647']);
    assert.deepEqual(all({ network: 'host', ipc: 'host' }), []);
  });
  it('ends the ping range at the last mapped group', () => {
    const idMap = { uids: [], gids: [{ hostId: 100_000, containerId: 0, size: 65_536 }] };
    assert.equal(podSysctls(pod({}), POD, defaults, idMap).set.get('net.ipv4.ping_group_range'), '0 65535');
  });
  it('leaves out a configured one that no pod may set, and says so: every pod would be refused for it', () => {
    const { set, skipped } = podSysctls(pod({}), POD, defaultsOf({ sysctls: { 'vm.swappiness': '1' } }), null);
    assert.deepEqual([...set], []);
    assert.match(skipped.join('\n'), /^default_sysctls: "vm.swappiness": not namespaced/);
    assert.match(
      outcome(() => podSysctls(pod({ 'vm.swappiness': '1' }), POD, defaults, null)),
      /^InvalidArgument: sysctl "vm.swappiness"/,
      'one that the pod itself asks for is not forgotten',
    );
  });
});

describe('profile choice', () => {
  const profile = (profileType: string, localhostRef = ''): object => ({ profileType, localhostRef });
  it('prefers the message to the deprecated string', () => {
    assert.deepEqual(
      seccompChoice(security({ seccomp: profile('Unconfined'), seccompProfilePath: 'runtime/default' })),
      { kind: 'unconfined' },
    );
    assert.deepEqual(seccompChoice(security({ seccompProfilePath: 'docker/default' })), { kind: 'runtimeDefault' });
    assert.deepEqual(seccompChoice(security({ seccompProfilePath: 'localhost//p.json' })), {
      kind: 'localhost',
      ref: '/p.json',
    });
    assert.deepEqual(seccompChoice(security({ seccompProfilePath: '' })), { kind: 'unset' });
    assert.deepEqual(seccompChoice(undefined), { kind: 'unset' });
    for (const written of [
      { apparmorProfile: 'localhost/p' },
      { apparmorProfile: 'localhost/localhost/p' },
      { apparmorProfile: '', apparmor: profile('Localhost', 'p') },
      { apparmorProfile: '', apparmor: profile('Localhost', 'localhost/p') },
    ])
      assert.deepEqual(apparmorChoice(security(written)), { kind: 'localhost', ref: 'p' }, JSON.stringify(written));
  });
  it('refuses what is no profile', () => {
    const bad = [
      { seccomp: profile('Localhost') },
      { seccomp: profile('Localhost', 'relative.json') },
      { seccomp: profile('Localhost', '/a/../b') },
      { seccomp: profile('Localhost', '/a\0') },
      { seccomp: profile('Custom', '/x') },
      { seccompProfilePath: 'localhost/' },
      { seccompProfilePath: 'localhost/relative' },
      { seccompProfilePath: 'default' },
    ];
    for (const each of bad)
      assert.match(
        outcome(() => seccompChoice(security({ seccompProfilePath: '', ...each }))),
        /^InvalidArgument: seccomp: /,
        JSON.stringify(each),
      );
    for (const ref of ['', 'localhost/', 'a b', '../x', 'a\n', 'x'.repeat(300)])
      assert.match(
        outcome(() => apparmorChoice(security({ apparmor: profile('Localhost', ref), apparmorProfile: '' }))),
        /^InvalidArgument: apparmor: /,
        ref,
      );
  });
  it('cannot name what the node lacks', () => {
    const localhost = { profileType: 'Localhost', localhostRef: '/p' };
    assert.match(
      outcome(() =>
        buildContainerSpec(
          inputOf({ container: { linux: { securityContext: { apparmor: { ...localhost, localhostRef: 'p' } } } } }),
        ),
      ),
      /^FailedPrecondition: AppArmor profile "p"/,
    );
    assert.match(
      outcome(() =>
        buildContainerSpec(
          inputOf({ container: { linux: { securityContext: { seccomp: localhost } } }, node: { seccomp: false } }),
        ),
      ),
      /^FailedPrecondition: seccomp profile "\/p"/,
    );
    assert.match(
      outcome(() => buildContainerSpec(inputOf({ container: { linux: { securityContext: { seccomp: localhost } } } }))),
      /^Internal: seccomp profile "\/p" was not read/,
    );
    assert.isUndefined(
      buildContainerSpec(
        inputOf({
          container: { linux: { securityContext: { seccomp: { profileType: 'RuntimeDefault', localhostRef: '' } } } },
          node: { seccomp: false },
        }),
      ).linux.seccomp,
    );
  });
  it('of AppArmor is none where none is configured', () => {
    assert.isUndefined(
      apparmorOf(undefined, 'confined', factsOf({ apparmor: true }), defaultsOf({ apparmorProfile: '' })),
    );
  });
});

describe('selinuxLabels', () => {
  const base = {
    processLabel: 'system_u:system_r:container_t:s0',
    mountLabel: 'system_u:object_r:container_file_t:s0',
    level: 's0:c1,c2',
  };
  const label = (given: Partial<SELinuxOption>): readonly string[] =>
    Object.values(selinuxLabels({ user: '', role: '', type: '', level: '', ...given }, base));
  it('fill in what is not given; a level alone is enough', () => {
    assert.deepEqual(Object.values(selinuxLabels(undefined, base)), [
      'system_u:system_r:container_t:s0:c1,c2',
      'system_u:object_r:container_file_t:s0:c1,c2',
    ]);
    assert.deepEqual(label({ level: 's0:c8,c9' }), [
      'system_u:system_r:container_t:s0:c8,c9',
      'system_u:object_r:container_file_t:s0:c8,c9',
    ]);
    assert.deepEqual(label({ level: 's0' }), [
      'system_u:system_r:container_t:s0',
      'system_u:object_r:container_file_t:s0',
    ]);
    assert.deepEqual(label({ type: 'spc_t', user: 'u', role: 'r' }), [
      'u:r:spc_t:s0:c1,c2',
      'u:object_r:container_file_t:s0:c1,c2',
    ]);
  });
  it('are in a spec only where SELinux is on, and not of privileged containers', () => {
    const found = { selinux: { processLabel: 'u:r:t:s0', mountLabel: 'u:o:f:s0' } };
    const label = (node: { selinux: boolean }, privileged: boolean): string[] => {
      const linux = { securityContext: { privileged } };
      const spec = buildContainerSpec(inputOf({ found, node, container: { linux }, pod: { linux } }));
      return [spec.process.selinuxLabel, spec.linux.mountLabel].filter((each) => each !== undefined);
    };
    assert.deepEqual(
      [label({ selinux: true }, false), label({ selinux: false }, false), label({ selinux: true }, true)],
      [['u:r:t:s0', 'u:o:f:s0'], [], []],
    );
  });
  it('refuse what no policy can hold', () => {
    for (const bad of [
      { user: 'a:b' },
      { role: 'a b' },
      { type: 'a\n' },
      { level: 'x' },
      { level: 's0:c1,c2:evil' },
      { level: 's0-' },
    ]) {
      assert.match(
        outcome(() => label(bad)),
        /^InvalidArgument: selinux_options\./,
        JSON.stringify(bad),
      );
    }
  });
  it("are not for the node's own directories (CVE-2021-43816)", () => {
    for (const path of [
      '/',
      '/etc',
      '/etc/hosts',
      '/usr/lib',
      '/usr',
      '/var',
      '/home',
      '/x/../etc/hosts',
      '/root',
      '/run',
      '/sys/fs',
      '/dev/shm',
    ])
      assert.isString(relabelRefusal(path), path);
    for (const path of [
      '/var/lib/kubelet/pods/1/volumes/x',
      '/home/data',
      '/srv/x',
      '/data',
      '/etcetera',
      '/run/secrets',
    ])
      assert.isUndefined(relabelRefusal(path), path);
  });
});

describe('hiddenPaths', () => {
  it('are the defaults without a security context', () => {
    const { maskedPaths, readonlyPaths } = hiddenPaths(undefined, 'confined', factsOf());
    assert.include(maskedPaths ?? [], '/proc/kcore');
    assert.include(readonlyPaths ?? [], '/proc/sys');
  });
  it('must be absolute', () => {
    for (const path of ['', 'proc', '/proc\0'])
      assert.match(
        outcome(() => hiddenPaths(security({ maskedPaths: [path], readonlyPaths: [] }), 'confined', factsOf())),
        /^InvalidArgument: masked/,
        path,
      );
  });
});

describe('pause', () => {
  it('has a group only with a user', () => {
    const input = { ...inputOf({ pod: { linux: { securityContext: { runAsGroup: { value: 5 } } } } }), cpuset: '' };
    assert.match(
      outcome(() => buildPauseSpec(input)),
      /^InvalidArgument: run_as_group is set without run_as_user/,
    );
  });
});

import { assert } from 'chai';
import { limits } from '../pkg/base/limits.ts';
import { full, huge, linuxSandbox, metadata, refuses, run, sandbox } from './fake-requests.ts';
import { narrowRunPodSandbox } from './validate.ts';

describe('cri/validate-pod', () => {
  refuses([
    ['no config', run({}), 'config is missing'],
    ['no metadata', run({ config: {} }), 'config.metadata is missing'],
    ['no name', sandbox({ metadata: { ...metadata, name: '' } }), 'config.metadata.name is missing'],
    ['no namespace', sandbox({ metadata: { ...metadata, namespace: '' } }), 'config.metadata.namespace is missing'],
    ['no uid', sandbox({ metadata: { ...metadata, uid: '' } }), 'config.metadata.uid is missing'],
    ['a name of 10 MB', sandbox({ metadata: { ...metadata, name: huge } }), 'config.metadata.name is "xxx'],
    ['a name that is a path', sandbox({ metadata: { ...metadata, name: 'a/b' } }), 'config.metadata.name is "a/b"'],
    [
      'a uid that climbs (CVE-2025-0750)',
      sandbox({ metadata: { ...metadata, uid: '../../etc' } }),
      'config.metadata.uid is "../../etc"',
    ],
    [
      'a namespace that adds CNI arguments',
      sandbox({ metadata: { ...metadata, namespace: 'a;IP=1.2.3.4' } }),
      'config.metadata.namespace is',
    ],
    ['a name with a line end', sandbox({ metadata: { ...metadata, name: 'a\nb' } }), 'config.metadata.name is "a\\nb"'],
    [
      'a handler that is a path',
      run({ config: { metadata }, runtimeHandler: '../../bin/sh' }),
      'runtime_handler is "../../bin/sh"',
    ],
    [
      'a handler of 300 characters',
      run({ config: { metadata }, runtimeHandler: 'x'.repeat(300) }),
      'runtime_handler is',
    ],
    ['a hostname with a slash', sandbox({ hostname: 'a/b' }), 'config.hostname is "a/b"'],
    ['a hostname of 65 characters', sandbox({ hostname: 'h'.repeat(65) }), 'config.hostname is'],
    ['a hostname with a line end', sandbox({ hostname: 'a\n127.0.0.1 b' }), 'config.hostname is'],
    ['a relative log directory', sandbox({ logDirectory: 'var/log' }), 'config.log_directory is "var/log"'],
    ['a log directory that climbs', sandbox({ logDirectory: '/var/log/../../etc' }), 'config.log_directory is'],
    ['a log directory with NUL', sandbox({ logDirectory: '/var/log\0' }), 'config.log_directory is'],
    [
      'a nameserver by name',
      sandbox({ dnsConfig: { servers: ['1.1.1.1', 'dns.example'] } }),
      'config.dns_config.servers[1] is "dns.example"',
    ],
    [
      'a nameserver with a line of its own',
      sandbox({ dnsConfig: { servers: ['1.1.1.1\nsearch evil'] } }),
      'config.dns_config.servers[0] is',
    ],
    [
      'a search domain with a line of its own',
      sandbox({ dnsConfig: { searches: ['a.example\nnameserver 6.6.6.6'] } }),
      'config.dns_config.searches[0] is',
    ],
    [
      'a search domain with a space',
      sandbox({ dnsConfig: { searches: ['a b'] } }),
      'config.dns_config.searches[0] is "a b"',
    ],
    ['an empty search domain', sandbox({ dnsConfig: { searches: [''] } }), 'config.dns_config.searches[0] is ""'],
    [
      'a resolver option with a line end',
      sandbox({ dnsConfig: { options: ['ndots:5\n'] } }),
      'config.dns_config.options[0] is',
    ],
    [
      'a resolv.conf of a megabyte',
      sandbox({
        dnsConfig: { searches: Array.from({ length: 20_000 }, (_, i) => `${i}.some.domain.with.a.long.name.example`) },
      }),
      'config.dns_config has',
    ],
    [
      'container port 0',
      sandbox({ portMappings: [{ containerPort: 0, hostPort: 80 }] }),
      'config.port_mappings[0].container_port is "0"',
    ],
    [
      'container port 65536',
      sandbox({ portMappings: [{ containerPort: 65_536 }] }),
      'config.port_mappings[0].container_port is "65536"',
    ],
    [
      'host port -1',
      sandbox({ portMappings: [{ containerPort: 80 }, { containerPort: 80, hostPort: -1 }] }),
      'config.port_mappings[1].host_port is "-1"',
    ],
    [
      'a host address by name',
      sandbox({ portMappings: [{ containerPort: 80, hostIp: 'localhost' }] }),
      'config.port_mappings[0].host_ip is "localhost"',
    ],
    [
      'too many port mappings',
      sandbox({ portMappings: Array.from({ length: limits.portMappingsCount + 1 }, () => ({ containerPort: 80 })) }),
      'config.port_mappings has 4097 entries',
    ],
    [
      'annotations of a megabyte',
      sandbox({ annotations: Object.fromEntries(Array.from({ length: 100_000 }, (_, i) => [`key-${i}`, 'v'])) }),
      'config.annotations has',
    ],
    [
      'one label above the limit',
      sandbox({ labels: { k: 'v'.repeat(limits.annotationsBytes) } }),
      `config.labels has ${limits.annotationsBytes + 1} bytes`,
    ],
    [
      'a cgroup parent that climbs',
      linuxSandbox({ cgroupParent: '../../x' }),
      'config.linux.cgroup_parent is "../../x"',
    ],
    ['a cgroup parent with a line end', linuxSandbox({ cgroupParent: '/a\nb' }), 'config.linux.cgroup_parent is'],
    [
      'a sysctl with a second one inside (CVE-2022-0811)',
      linuxSandbox({ sysctls: { 'kernel.shm_rmid_forced': '1+kernel.core_pattern=|/tmp/x #' } }),
      'sysctl "kernel.shm_rmid_forced"',
    ],
    [
      'a sysctl value with a line end',
      linuxSandbox({ sysctls: { 'kernel.shm_rmid_forced': '1\nkernel.core_pattern=x' } }),
      'sysctl "kernel.shm_rmid_forced"',
    ],
    [
      'a sysctl of the node',
      linuxSandbox({ sysctls: { 'kernel.core_pattern': '|/tmp/x' } }),
      'sysctl "kernel.core_pattern"',
    ],
    [
      'a sysctl that climbs',
      linuxSandbox({ sysctls: { 'net/../kernel/core_pattern': 'x' } }),
      'sysctl "net/../kernel/core_pattern"',
    ],
    [
      'a group without a user',
      linuxSandbox({ securityContext: { runAsGroup: { value: 5n } } }),
      'config.linux.security_context.run_as_group is "5"',
    ],
    [
      'a negative user',
      linuxSandbox({ securityContext: { runAsUser: { value: -1n } } }),
      'config.linux.security_context.run_as_user is "-1"',
    ],
    [
      'a user that would wrap to root (CVE-2024-40635)',
      linuxSandbox({ securityContext: { runAsUser: { value: 2n ** 32n } } }),
      'config.linux.security_context.run_as_user is "4294967296"',
    ],
    [
      'a seccomp profile by a relative path',
      linuxSandbox({ securityContext: { seccomp: { profileType: 'Localhost', localhostRef: 'x.json' } } }),
      'seccomp: localhost profile "x.json"',
    ],
    [
      'a local profile without a name',
      linuxSandbox({ securityContext: { apparmor: { profileType: 'Localhost' } } }),
      'apparmor: profile type Localhost needs localhost_ref',
    ],
    ['a negative share', linuxSandbox({ resources: { cpuShares: -5n } }), 'config.linux.resources.cpu_shares is "-5"'],
    [
      'a bad overhead',
      linuxSandbox({ overhead: { memoryLimitInBytes: -2n } }),
      'config.linux.overhead.memory_limit_in_bytes is "-2"',
    ],
  ]);

  it('takes what a kubelet sends, and hands it on unchanged', () => {
    const request = full('RunPodSandboxRequest', {
      runtimeHandler: 'runc.v2_x',
      config: {
        metadata: {
          name: 'web-7d9f5b6c4d-abcde',
          namespace: 'kube-system',
          uid: '3c1b6a1e-0f6e-4b1e-9a53-9d1c5e0b7a11',
          attempt: 2,
        },
        hostname: 'web-7d9f5b6c4d-abcde',
        logDirectory: '/var/log/pods/kube-system_web_3c1b6a1e',
        dnsConfig: {
          servers: ['10.96.0.10', 'fd00::a'],
          searches: ['kube-system.svc.cluster.local', '.'],
          options: ['ndots:5', 'edns0'],
        },
        portMappings: [
          { containerPort: 80, hostPort: 0 },
          { containerPort: 53, hostPort: 5353, protocol: 'UDP', hostIp: '::1' },
        ],
        labels: JSON.parse('{"__proto__": "x", "a": "line\\nend"}') as Record<string, string>,
        linux: {
          cgroupParent: '/kubepods/burstable/pod3c1b6a1e',
          sysctls: {
            'net.ipv4.ip_local_port_range': '1024 65000',
            'net/ipv4/conf/eth0.100/rp_filter': '1',
            'kernel.sem': '250 32000 32 128',
          },
          securityContext: {
            namespaceOptions: { pid: 'CONTAINER' },
            runAsUser: { value: 0n },
            runAsGroup: { value: 2n ** 31n - 1n },
            seccomp: { profileType: 'RuntimeDefault' },
          },
          resources: { cpuPeriod: 100_000n, cpuQuota: -1n, cpuShares: 2n, memoryLimitInBytes: 2n ** 62n },
        },
      },
    });
    const { config, runtimeHandler } = narrowRunPodSandbox(request);
    assert.deepEqual<unknown>(config, request.config);
    assert.equal(config.labels, request.config?.labels);
    assert.equal(runtimeHandler, 'runc.v2_x');
    assert.equal(config.metadata.attempt, 2);
  });

  it('takes the least that a pod needs', () => {
    const { config } = narrowRunPodSandbox(full('RunPodSandboxRequest', { config: { metadata } }));
    assert.equal(config.metadata.name, 'web');
  });
});

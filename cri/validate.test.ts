import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import type {
  ContainerConfig,
  CreateContainerRequest,
  Input,
  LinuxContainerResources,
  LinuxContainerSecurityContext,
  LinuxPodSandboxConfig,
  Messages,
  Mount,
  PodSandboxConfig,
  RunPodSandboxRequest,
} from '../pkg/cri-api/types.ts';
import { codecs } from './codec.ts';
import {
  narrowAttach,
  narrowCreateContainer,
  narrowExec,
  narrowExecSync,
  narrowId,
  narrowImageReference,
  narrowImport,
  narrowPodRanges,
  narrowPortForward,
  narrowRunPodSandbox,
  narrowUpdateResources,
} from './validate.ts';

/** A message as the server decodes it: everything filled in. */
function full<M extends keyof Messages>(name: M, value: Input<Messages[M]>): Messages[M] {
  return codecs[name].decode(codecs[name].encode(value));
}

const metadata = { name: 'web', namespace: 'shop', uid: 'a1b2' };
const huge = 'x'.repeat(10_000_000);

const sandbox =
  (config: Input<PodSandboxConfig>): (() => unknown) =>
  () =>
    narrowRunPodSandbox(full('RunPodSandboxRequest', { config: { metadata, ...config } }));
const linuxSandbox = (linux: Input<LinuxPodSandboxConfig>): (() => unknown) => sandbox({ linux });
const create =
  (request: Input<CreateContainerRequest>): (() => unknown) =>
  () =>
    narrowCreateContainer(
      full('CreateContainerRequest', { podSandboxId: 'abcd', sandboxConfig: { metadata }, ...request }),
    );
const container = (config: Input<ContainerConfig>): (() => unknown) =>
  create({ config: { metadata: { name: 'app' }, image: { image: 'busybox' }, ...config } });
const security = (context: Input<LinuxContainerSecurityContext>): (() => unknown) =>
  container({ linux: { securityContext: context } });
const resources =
  (linux: Input<LinuxContainerResources>): (() => unknown) =>
  () =>
    narrowUpdateResources(full('UpdateContainerResourcesRequest', { containerId: 'abcd', linux }));
const mount = (it: Input<Mount>): (() => unknown) =>
  container({ mounts: [{ containerPath: '/data', hostPath: '/srv/data', ...it }] });
const run =
  (request: Input<RunPodSandboxRequest>): (() => unknown) =>
  () =>
    narrowRunPodSandbox(full('RunPodSandboxRequest', request));

/** What is refused, and the beginning of the message, which names the field. */
const bad: Readonly<Record<string, readonly (readonly [what: string, call: () => unknown, message: string])[]>> = {
  RunPodSandbox: [
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
      'a net sysctl on the network of the node (CVE-2022-0532)',
      linuxSandbox({
        sysctls: { 'net.ipv4.ip_forward': '1' },
        securityContext: { namespaceOptions: { network: 'NODE' } },
      }),
      'sysctl "net.ipv4.ip_forward"',
    ],
    [
      'an IPC sysctl in the IPC namespace of the node',
      linuxSandbox({ sysctls: { 'kernel.shmmax': '1' }, securityContext: { namespaceOptions: { ipc: 'NODE' } } }),
      'sysctl "kernel.shmmax"',
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
  ],
  CreateContainer: [
    ['no pod', create({ podSandboxId: '', config: {} }), 'pod_sandbox_id is missing'],
    ['a pod that is a path', create({ podSandboxId: '../x', config: {} }), 'pod_sandbox_id is "../x"'],
    ['no config', create({}), 'config is missing'],
    ['no metadata', create({ config: {} }), 'config.metadata is missing'],
    ['no name', container({ metadata: {} }), 'config.metadata.name is missing'],
    ['a name that is a path', container({ metadata: { name: '../x' } }), 'config.metadata.name is "../x"'],
    ['no image', container({ image: undefined }), 'config.image.image is missing'],
    ['an image without a name', container({ image: {} }), 'config.image.image is missing'],
    [
      'no pod config',
      create({ config: { metadata: { name: 'app' }, image: { image: 'b' } }, sandboxConfig: undefined }),
      'sandbox_config is missing',
    ],
    [
      'no metadata in the pod config',
      create({ config: { metadata: { name: 'app' }, image: { image: 'b' } }, sandboxConfig: {} }),
      'sandbox_config.metadata is missing',
    ],
    ['NUL in the command', container({ command: ['sh', 'a\0b'] }), 'config.command[1] holds a NUL byte'],
    ['NUL in an argument', container({ args: ['\0'] }), 'config.args[0] holds a NUL byte'],
    ['NUL in the working directory', container({ workingDir: '/a\0b' }), 'config.working_dir holds a NUL byte'],
    ['a variable without a name', container({ envs: [{ key: '' }] }), 'config.envs[0].key is ""'],
    [
      'a variable with = in its name',
      container({ envs: [{ key: 'A' }, { key: 'B=C' }] }),
      'config.envs[1].key is "B=C"',
    ],
    [
      'a variable with NUL in its value',
      container({ envs: [{ key: 'TOKEN', value: Buffer.from('geheim\0x') }] }),
      'config.envs[0].value, of "TOKEN", holds a NUL byte',
    ],
    [
      '5000 mounts',
      container({ mounts: Array.from({ length: 5_000 }, (_, i) => ({ containerPath: `/m${i}`, hostPath: '/srv' })) }),
      'config.mounts has 5000 entries',
    ],
    ['a mount without a place', mount({ containerPath: '' }), 'mount: container_path is empty'],
    ['a mount over the root', mount({ containerPath: '/' }), 'mount: container_path "/" is the root'],
    ['a mount over the root, hidden', mount({ containerPath: './a/..' }), 'mount: container_path "./a/.." is the root'],
    ['a mount at a path with NUL', mount({ containerPath: '/a\0' }), 'mount: container_path "/a\\u0000"'],
    ['a mount of nothing', mount({ hostPath: '' }), 'config.mounts[0].host_path is missing'],
    ['a mount of a relative path', mount({ hostPath: 'srv' }), 'config.mounts[0].host_path is "srv"'],
    ['a mount of a path that climbs', mount({ hostPath: '/srv/..' }), 'config.mounts[0].host_path is "/srv/.."'],
    [
      'a mount of a path and an image',
      mount({ readonly: true, image: { image: 'busybox' } }),
      'config.mounts[0].host_path is "/srv/data"',
    ],
    [
      'an image part that climbs (KEP-4639)',
      mount({ hostPath: '', readonly: true, image: { image: 'busybox' }, imageSubPath: '../../etc' }),
      'mount: image_sub_path "../../etc"',
    ],
    ['an image part without an image', mount({ imageSubPath: 'x' }), 'config.mounts[0].image_sub_path is "x"'],
    [
      'recursively read-only, but writable',
      mount({ recursiveReadOnly: true }),
      'config.mounts[0].recursive_read_only is',
    ],
    [
      'recursively read-only, but shared',
      mount({ recursiveReadOnly: true, readonly: true, propagation: 'PROPAGATION_HOST_TO_CONTAINER' }),
      'config.mounts[0].recursive_read_only is',
    ],
    ['a device by a relative path', container({ devices: [{ hostPath: 'null' }] }), 'device.host_path "null"'],
    [
      'a device path that climbs',
      container({ devices: [{ hostPath: '/dev/../etc/x' }] }),
      'device.host_path "/dev/../etc/x"',
    ],
    [
      'a device with odd permissions',
      container({ devices: [{ hostPath: '/dev/null', permissions: 'rwx' }] }),
      'device.permissions "rwx"',
    ],
    [
      'a CDI device with a space',
      container({ cdiDevices: [{ name: 'vendor/gpu=a b' }] }),
      'config.CDI_devices[0].name is',
    ],
    ['labels above the limit', container({ labels: { k: 'v'.repeat(limits.annotationsBytes) } }), 'config.labels has'],
    [
      'annotations above the limit',
      container({ annotations: { k: 'ü'.repeat(limits.annotationsBytes / 2) } }),
      'config.annotations has',
    ],
    ['an absolute log path', container({ logPath: '/etc/cron.d/x' }), 'config.log_path is "/etc/cron.d/x"'],
    ['a log path that climbs', container({ logPath: 'a/../../b.log' }), 'config.log_path is "a/../../b.log"'],
    ['a log path with NUL', container({ logPath: 'a\0.log' }), 'config.log_path is'],
    [
      'a user by number and by name',
      security({ runAsUser: { value: 1n }, runAsUsername: 'bob' }),
      'config.linux.security_context.run_as_username is "bob"',
    ],
    [
      'a group without a user',
      security({ runAsGroup: { value: 1n } }),
      'config.linux.security_context.run_as_group is "1"',
    ],
    [
      'a user name that forges a passwd line',
      security({ runAsUsername: 'a:x:0:0\n' }),
      'config.linux.security_context.run_as_username is',
    ],
    [
      'user 2^31',
      security({ runAsUser: { value: 2n ** 31n } }),
      'config.linux.security_context.run_as_user is "2147483648"',
    ],
    [
      'a negative group',
      security({ runAsUser: { value: 1n }, runAsGroup: { value: -1n } }),
      'config.linux.security_context.run_as_group is "-1"',
    ],
    [
      'a supplemental group that would wrap',
      security({ supplementalGroups: [1n, 2n ** 32n] }),
      'config.linux.security_context.supplemental_groups[1] is "4294967296"',
    ],
    [
      'more groups than the kernel takes',
      security({ supplementalGroups: Array.from({ length: 65_537 }, () => 1n) }),
      'config.linux.security_context.supplemental_groups has 65537 entries',
    ],
    [
      'a masked path that climbs',
      security({ maskedPaths: ['/proc/..'] }),
      'config.linux.security_context.masked_paths[0] is "/proc/.."',
    ],
    [
      'a relative read-only path',
      security({ readonlyPaths: ['/proc', 'sys'] }),
      'config.linux.security_context.readonly_paths[1] is "sys"',
    ],
    [
      'a capability with a space',
      security({ capabilities: { addCapabilities: ['NET ADMIN'] } }),
      'config.linux.security_context.capabilities is "NET ADMIN"',
    ],
    [
      'an empty ambient capability',
      security({ capabilities: { addAmbientCapabilities: [''] } }),
      'config.linux.security_context.capabilities is ""',
    ],
    [
      'a target namespace without a target',
      security({ namespaceOptions: { pid: 'TARGET' } }),
      'config.linux.security_context.namespace_options.target_id is missing',
    ],
    [
      'a target that is a path',
      security({ namespaceOptions: { pid: 'TARGET', targetId: '../1' } }),
      'config.linux.security_context.namespace_options.target_id is "../1"',
    ],
    [
      'a seccomp profile that climbs',
      security({ seccomp: { profileType: 'Localhost', localhostRef: '/a/../b' } }),
      'seccomp: localhost profile',
    ],
    ['an old AppArmor string that is none', security({ apparmorProfile: 'nonsense' }), 'apparmor: "nonsense"'],
    [
      'bad resources',
      container({ linux: { resources: { cpuPeriod: -1n } } }),
      'config.linux.resources.cpu_period is "-1"',
    ],
  ],
  UpdateContainerResources: [
    [
      'no container',
      () => narrowUpdateResources(full('UpdateContainerResourcesRequest', {})),
      'container_id is missing',
    ],
    ['a quota of -2', resources({ cpuQuota: -2n }), 'linux.cpu_quota is "-2"'],
    ['a negative period', resources({ cpuPeriod: -(2n ** 63n) }), 'linux.cpu_period is "-9223372036854775808"'],
    ['a swap limit of -2', resources({ memorySwapLimitInBytes: -2n }), 'linux.memory_swap_limit_in_bytes is "-2"'],
    ['an OOM score of 1001', resources({ oomScoreAdj: 1001n }), 'linux.oom_score_adj is "1001"'],
    ['an OOM score of -1001', resources({ oomScoreAdj: -1001n }), 'linux.oom_score_adj is "-1001"'],
    ['a processor list with a path', resources({ cpusetCpus: '0-3;/x' }), 'linux.cpuset_cpus is "0-3;/x"'],
    ['a node list with a line end', resources({ cpusetMems: '0\n' }), 'linux.cpuset_mems is "0\\n"'],
    [
      'a page size that is a path',
      resources({ hugepageLimits: [{ pageSize: '../2MB', limit: 1n }] }),
      'linux.hugepage_limits is "../2MB"',
    ],
    ['a cgroup file elsewhere', resources({ unified: { '../memory.max': '1' } }), 'linux.unified is "../memory.max"'],
    [
      'a cgroup file that is a key of objects',
      resources({ unified: JSON.parse('{"__proto__": "1"}') as Record<string, string> }),
      'linux.unified is "__proto__"',
    ],
    [
      'annotations above the limit',
      () =>
        narrowUpdateResources(
          full('UpdateContainerResourcesRequest', {
            containerId: 'abcd',
            annotations: { k: 'v'.repeat(limits.annotationsBytes) },
          }),
        ),
      'annotations has',
    ],
  ],
  ids: ['', '.', '..', '/', '/etc', 'a/b', 'a\0', ' abc', '-abc', 'ä', 'x'.repeat(129), huge].map(
    (id) =>
      [
        `the id ${JSON.stringify(id.slice(0, 20))}`,
        () => narrowId(id, 'container_id'),
        id === '' ? 'container_id is missing' : 'container_id is ',
      ] as const,
  ),
  'exec, attach, port-forward': [
    [
      'ExecSync without a container',
      () => narrowExecSync(full('ExecSyncRequest', { cmd: ['ls'] })),
      'container_id is missing',
    ],
    [
      'ExecSync without a command',
      () => narrowExecSync(full('ExecSyncRequest', { containerId: 'abcd' })),
      'cmd is missing',
    ],
    [
      'ExecSync of an empty program',
      () => narrowExecSync(full('ExecSyncRequest', { containerId: 'abcd', cmd: ['', 'x'] })),
      'cmd is missing',
    ],
    [
      'ExecSync with NUL',
      () => narrowExecSync(full('ExecSyncRequest', { containerId: 'abcd', cmd: ['sh', '\0'] })),
      'cmd[1] holds a NUL byte',
    ],
    [
      'ExecSync with a negative timeout',
      () => narrowExecSync(full('ExecSyncRequest', { containerId: 'abcd', cmd: ['ls'], timeout: -1n })),
      'timeout is "-1"',
    ],
    [
      'Exec without a command',
      () => narrowExec(full('ExecRequest', { containerId: 'abcd', stdout: true })),
      'cmd is missing',
    ],
    [
      'Exec without a stream',
      () => narrowExec(full('ExecRequest', { containerId: 'abcd', cmd: ['sh'] })),
      'stdin, stdout and stderr are all false',
    ],
    [
      'Exec with a terminal and stderr',
      () =>
        narrowExec(
          full('ExecRequest', { containerId: 'abcd', cmd: ['sh'], tty: true, stdin: true, stdout: true, stderr: true }),
        ),
      'tty and stderr are both set',
    ],
    ['Attach to nothing', () => narrowAttach(full('AttachRequest', { stdout: true })), 'container_id is missing'],
    [
      'Attach without a stream',
      () => narrowAttach(full('AttachRequest', { containerId: 'abcd', tty: true })),
      'stdin, stdout and stderr are all false',
    ],
    [
      'Attach with a terminal and stderr',
      () => narrowAttach(full('AttachRequest', { containerId: 'abcd', tty: true, stderr: true })),
      'tty and stderr are both set',
    ],
    [
      'PortForward to nothing',
      () => narrowPortForward(full('PortForwardRequest', { port: [80] })),
      'pod_sandbox_id is missing',
    ],
    [
      'PortForward to port 0',
      () => narrowPortForward(full('PortForwardRequest', { podSandboxId: 'abcd', port: [80, 0] })),
      'port is "0"',
    ],
    [
      'PortForward to port 65536',
      () => narrowPortForward(full('PortForwardRequest', { podSandboxId: 'abcd', port: [65_536] })),
      'port is "65536"',
    ],
  ],
  images: [
    ['no image', () => narrowImageReference(undefined), 'image.image is missing'],
    ['an image without a name', () => narrowImageReference(full('ImageSpec', {})), 'image.image is missing'],
    ['a name of 10 MB', () => narrowImageReference(full('ImageSpec', { image: huge })), 'image.image is "xxx'],
    ['a name with a space', () => narrowImageReference(full('ImageSpec', { image: 'a b' })), 'image.image is "a b"'],
    [
      'a name with a line end',
      () => narrowImageReference(full('ImageSpec', { image: 'busybox\n' })),
      'image.image is "busybox\\n"',
    ],
    [
      'a name beyond ASCII',
      () => narrowImageReference(full('ImageSpec', { image: 'büsybox' })),
      'image.image is "büsybox"',
    ],
    [
      'annotations above the limit',
      () =>
        narrowImageReference(
          full('ImageSpec', { image: 'a', annotations: { k: 'v'.repeat(limits.annotationsBytes) } }),
        ),
      'image.annotations has',
    ],
    ['an import of nothing', () => narrowImport(full('ImportRequest', {})), 'path is missing'],
    [
      'an import by a relative path',
      () => narrowImport(full('ImportRequest', { path: 'image.tar' })),
      'path is "image.tar"',
    ],
    [
      'an import by a path that climbs',
      () => narrowImport(full('ImportRequest', { path: '/a/../b' })),
      'path is "/a/../b"',
    ],
    [
      'an import under a bad name',
      () => narrowImport(full('ImportRequest', { path: '/a', reference: 'a b' })),
      'reference is "a b"',
    ],
  ],
};

describe('cri/validate', () => {
  for (const [group, cases] of Object.entries(bad)) {
    describe(`refuses in ${group}`, () => {
      for (const [what, call, message] of cases) {
        it(what, () => {
          let thrown: unknown;
          try {
            call();
          } catch (error) {
            thrown = error;
          }
          if (!(thrown instanceof RuntimeError)) assert.fail(`got ${String(thrown)}`);
          assert.equal(thrown.code, 'InvalidArgument');
          assert.isTrue(thrown.message.startsWith(message), thrown.message);
          assert.isBelow(thrown.message.length, 500, 'the value is shortened');
          assert.notInclude(thrown.message, 'geheim');
        });
      }
    });
  }

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

  it('takes the least that a pod and a container need', () => {
    assert.equal(
      narrowRunPodSandbox(full('RunPodSandboxRequest', { config: { metadata } })).config.metadata.name,
      'web',
    );
    const request = full('CreateContainerRequest', {
      podSandboxId: 'abcd',
      config: { metadata: { name: 'app' }, image: { image: 'busybox' } },
      sandboxConfig: { metadata },
    });
    const narrowed = narrowCreateContainer(request);
    assert.deepEqual<unknown>(
      [narrowed.podSandboxId, narrowed.config, narrowed.sandboxConfig],
      ['abcd', request.config, request.sandboxConfig],
    );
  });

  it('takes what a full container config holds', () => {
    container({
      command: ['/bin/sh', '-c', 'echo "ünï"'],
      workingDir: 'relative/is/for/spec',
      logPath: 'app/0.log',
      envs: [{ key: 'PATH with space', value: Uint8Array.from([255, 61, 10]) }, { key: 'EMPTY' }],
      mounts: [
        { containerPath: '/etc/hosts', hostPath: '/var/lib/kubelet/pods/x/etc-hosts' },
        { containerPath: 'data', hostPath: '/srv/', readonly: true, recursiveReadOnly: true, mountOptions: ['noexec'] },
        {
          containerPath: '/models',
          image: { image: 'registry.example/models@sha256:0' },
          imageSubPath: 'a/b',
          readonly: true,
        },
      ],
      devices: [{ hostPath: '/dev/fuse', containerPath: '/dev/fuse', permissions: 'mrw' }, { hostPath: '/dev/null' }],
      cdiDevices: [{ name: 'vendor.com/gpu=all' }],
      linux: {
        securityContext: {
          runAsUsername: 'bob',
          runAsGroup: { value: 7n },
          supplementalGroups: [0n, 1000n],
          capabilities: { addCapabilities: ['net_admin', 'CAP_SYS_TIME', 'ALL'] },
          maskedPaths: ['/proc/kcore'],
          readonlyPaths: ['/proc/sys'],
          namespaceOptions: { pid: 'TARGET', targetId: 'abcd' },
          apparmorProfile: 'runtime/default',
        },
        resources: {
          cpusetCpus: '0-3,7',
          cpusetMems: '0',
          hugepageLimits: [{ pageSize: '2MB', limit: 2n ** 64n - 1n }],
          unified: { 'memory.high': 'max', 'hugetlb.2MB.max': '1' },
          oomScoreAdj: -1000n,
          memoryLimitInBytes: -1n,
        },
      },
    })();
  });

  it('leaves each mount one source: an image spec without a name is none', () => {
    const request = full('CreateContainerRequest', {
      podSandboxId: 'abcd',
      config: {
        metadata: { name: 'app' },
        image: { image: 'busybox' },
        mounts: [
          { containerPath: '/a', hostPath: '/srv', image: {} },
          { containerPath: '/b', image: { image: 'models' }, readonly: true },
        ],
      },
      sandboxConfig: { metadata },
    });
    const sources = narrowCreateContainer(request).config.mounts.map((mount) =>
      mount.image === undefined ? mount.hostPath : mount.image.image,
    );
    assert.deepEqual(sources, ['/srv', 'models']);
  });

  it('lets ids through that cannot exist: NotFound is the better answer', () => {
    for (const id of ['a', 'nonexistent-id', 'f'.repeat(64)]) assert.equal(narrowId(id, 'container_id'), id);
  });

  it('turns timeouts into milliseconds that a timer can hold', () => {
    const of = (timeout: bigint): number =>
      narrowExecSync(full('ExecSyncRequest', { containerId: 'abcd', cmd: ['ls'], timeout })).timeoutMs;
    assert.deepEqual([of(0n), of(1n), of(3_600n), of(2n ** 63n - 1n)], [0, 1_000, 3_600_000, 2_147_483_000]);
  });

  it('tells resources that are not for Linux from ones that change nothing', () => {
    assert.isUndefined(
      narrowUpdateResources(full('UpdateContainerResourcesRequest', { containerId: 'abcd' })).resources,
    );
    assert.equal(
      narrowUpdateResources(full('UpdateContainerResourcesRequest', { containerId: 'abcd', linux: {} })).resources
        ?.cpuQuota,
      0n,
    );
  });

  it('takes the subnets of pods, one for each family', () => {
    const of = (podCidr: string): readonly string[] =>
      narrowPodRanges(full('UpdateRuntimeConfigRequest', { runtimeConfig: { networkConfig: { podCidr } } }));
    assert.deepEqual(
      [of(''), of('10.1.0.0/24'), of('fd00::/64,10.1.0.0/24')],
      [[], ['10.1.0.0/24'], ['fd00::/64', '10.1.0.0/24']],
    );
    assert.deepEqual(narrowPodRanges(full('UpdateRuntimeConfigRequest', {})), []);
    for (const odd of [
      '10.1.0.0',
      '10.1.0.0/33',
      'fd00::/129',
      '10.1.0.0/24,',
      '10.1.0.0/24,10.2.0.0/24',
      'fe80::%eth0/64',
      '10.1.0.0/24 ,fd00::/64',
      'x/1',
      '"}/8',
    ]) {
      assert.throws(() => of(odd), /runtime_config\.network_config\.pod_cidr is /, odd);
    }
  });

  it('narrows streams, ports, images and imports that are in order', () => {
    assert.equal(
      narrowExec(full('ExecRequest', { containerId: 'abcd', cmd: ['sh'], tty: true, stdin: true, stdout: true })).tty,
      true,
    );
    assert.equal(narrowAttach(full('AttachRequest', { containerId: 'abcd', stderr: true })).stderr, true);
    assert.deepEqual(
      narrowPortForward(full('PortForwardRequest', { podSandboxId: 'abcd', port: [1, 65_535] })).port,
      [1, 65_535],
    );
    assert.equal(narrowImageReference(full('ImageSpec', { image: 'sha256:0123' })), 'sha256:0123');
    assert.deepEqual(narrowImport(full('ImportRequest', { path: '/tmp/a.tar' })), {
      path: '/tmp/a.tar',
      reference: undefined,
    });
    assert.deepEqual(narrowImport(full('ImportRequest', { path: '/tmp/a.tar', reference: 'app:1' })), {
      path: '/tmp/a.tar',
      reference: 'app:1',
    });
  });
});

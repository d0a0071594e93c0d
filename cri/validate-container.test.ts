import { assert } from 'chai';
import { limits } from '../pkg/base/limits.ts';
import { container, create, full, metadata, mount, refuses, security } from './fake-requests.ts';
import { narrowCreateContainer } from './validate.ts';

describe('cri/validate-container', () => {
  refuses([
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
    ['a log path that is a directory', container({ logPath: 'a/' }), 'config.log_path is "a/"'],
    ['a log path that is the log directory', container({ logPath: '.' }), 'config.log_path is "."'],
    ['a log path with a name too long', container({ logPath: `a/${'ü'.repeat(128)}` }), 'config.log_path is "a/ü'],
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
  ]);

  it('takes the least that a container needs', () => {
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
});

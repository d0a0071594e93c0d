import { assert } from 'chai';
import { limits } from '../pkg/base/limits.ts';
import type { Input, LinuxContainerResources, PullImageRequest } from '../pkg/cri-api/types.ts';
import { full, huge, metadata, refuses } from './fake-requests.ts';
import {
  narrowAttach,
  narrowExec,
  narrowExecSync,
  narrowId,
  narrowImageReference,
  narrowImport,
  narrowPodRanges,
  narrowPortForward,
  narrowPullImage,
  narrowStopContainer,
  narrowUpdatePodResources,
  narrowUpdateResources,
} from './validate.ts';

const resources =
  (linux: Input<LinuxContainerResources>): (() => unknown) =>
  () =>
    narrowUpdateResources(full('UpdateContainerResourcesRequest', { containerId: 'abcd', linux }));

describe('cri/validate', () => {
  describe('resources', () => {
    refuses([
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
    ]);
  });

  describe('ids', () => {
    refuses(
      ['', '.', '..', '/', '/etc', 'a/b', 'a\0', ' abc', '-abc', 'ä', 'x'.repeat(129), huge].map(
        (id) =>
          [
            `the id ${JSON.stringify(id.slice(0, 20))}`,
            () => narrowId(id, 'container_id'),
            id === '' ? 'container_id is missing' : 'container_id is ',
          ] as const,
      ),
    );
  });

  describe('exec, attach and port-forward', () => {
    refuses([
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
            full('ExecRequest', {
              containerId: 'abcd',
              cmd: ['sh'],
              tty: true,
              stdin: true,
              stdout: true,
              stderr: true,
            }),
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
    ]);
  });

  describe('images', () => {
    refuses([
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
    ]);
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

  it('turns a grace period into milliseconds: at once for a negative one', () => {
    const of = (timeout: bigint): number =>
      narrowStopContainer(full('StopContainerRequest', { containerId: 'abcd', timeout })).graceMs;
    assert.deepEqual([of(-1n), of(0n), of(30n), of(2n ** 63n - 1n)], [0, 0, 30_000, 2_147_483_000]);
  });

  it('narrows the resources of a pod as those of a container', () => {
    const of = (overhead: Input<LinuxContainerResources>) =>
      narrowUpdatePodResources(full('UpdatePodSandboxResourcesRequest', { podSandboxId: 'abcd', overhead }));
    assert.equal(of({ cpuShares: 2n }).overhead?.cpuShares, 2n);
    assert.isUndefined(of({}).resources);
    assert.throws(() => of({ oomScoreAdj: 1001n }), /overhead\.oom_score_adj is "1001"/);
  });

  it('tells for whose namespace an image is pulled', () => {
    const of = (request: Input<PullImageRequest>) =>
      narrowPullImage(full('PullImageRequest', { image: { image: 'busybox' }, ...request }));
    assert.equal(of({ sandboxConfig: { metadata } }).namespace, 'shop');
    assert.isUndefined(of({ sandboxConfig: {} }).namespace);
    assert.throws(() => of({ image: {} }), /image\.image is missing/);
  });
});

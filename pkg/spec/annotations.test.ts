import { assert } from 'chai';
import * as read from './annotations.ts';
import { outcome } from './golden/refused.ts';

describe('annotations.passed', () => {
  const passed = (allowed: readonly string[], annotations: Record<string, string>): string[] => [
    ...read.passed(annotations, {}, 'web', allowed).keys(),
  ];
  it('are none unless allowed (CVE-2024-3154)', () => {
    assert.deepEqual(
      passed([], { 'org.systemd.property.ExecStartPre': "'evil'", 'run.oci.handler': 'x', 'org.criu.config': '/x' }),
      [],
    );
  });
  it('match whole keys, or the key of this container (CVE-2023-6476)', () => {
    const allowed = ['unified-cgroup.crio.io', 'io.kubernetes.x'];
    assert.deepEqual(
      passed(allowed, {
        'unified-cgroup.crio.io': '',
        'unified-cgroup.crio.io/web': '',
        'unified-cgroup.crio.io/other': '',
        'unified-cgroup.crio.io/../x': '',
        'unified-cgroup.crio.iox': '',
        'Unified-cgroup.crio.io': '',
      }),
      ['unified-cgroup.crio.io', 'unified-cgroup.crio.io/web'],
    );
    assert.deepEqual([...read.passed({ 'io.kubernetes.x/': '' }, {}, '', allowed).keys()], []);
  });
  it('may be allowed by a pattern that says so', () => {
    for (const pattern of ['run.oci.*', 'run.oci.'])
      assert.deepEqual(passed([pattern, '*', '.'], { 'run.oci.handler': '', other: '' }), ['run.oci.handler'], pattern);
  });
  it('of the container win over those of the pod, and keep odd names', () => {
    const pod = JSON.parse('{"a":"pod","__proto__":"p"}') as Record<string, string>;
    assert.deepEqual(
      [...read.passed(pod, { a: 'container' }, 'web', ['a', '__proto__'])],
      [
        ['a', 'container'],
        ['__proto__', 'p'],
      ],
    );
  });
  it('know the old names of CRI-O for the new ones, in either place', () => {
    assert.deepEqual(
      passed(['umask.crio.io'], { 'io.kubernetes.cri-o.umask': '077', 'io.kubernetes.cri-o.Other': '' }),
      ['io.kubernetes.cri-o.umask'],
    );
    assert.deepEqual(passed(['io.kubernetes.cri-o.ShmSize'], { 'shm-size.crio.io': '1Mi' }), ['shm-size.crio.io']);
  });
});

describe('what runtimes and hooks act on', () => {
  const TRACE = 'io.containers.trace-syscall';
  const pod = {
    [TRACE]: 'of:/pod',
    [`${TRACE}/web`]: 'of:/web',
    [`${TRACE}/other`]: 'of:/other',
    'run.oci.hooks.stdout': '/x',
    bundle: '/x',
    'io.kubernetes.cri-o.umask': '077',
    'example.com/mine': '1',
    'bundle.example.com/mine': '1',
  };
  const seen = (allowed: readonly string[], container = {}): Record<string, string> =>
    Object.fromEntries(read.seenByHooks(pod, container, 'web', allowed));

  it('is seen by hooks only where it is allowed, what is nobody else’s always', () => {
    const others = { 'example.com/mine': '2', 'bundle.example.com/mine': '1' };
    assert.deepEqual(seen([], { 'example.com/mine': '2' }), others);
    assert.deepEqual(seen(['run.oci.', 'umask.crio.io', 'bundle'], { 'example.com/mine': '2' }), {
      ...others,
      'run.oci.hooks.stdout': '/x',
      'io.kubernetes.cri-o.umask': '077',
      bundle: '/x',
    });
  });

  it('has the trace of one container under its plain name, as with CRI-O, for hooks and runtimes', () => {
    assert.deepInclude(seen([TRACE]), { [TRACE]: 'of:/web' });
    assert.doesNotHaveAnyKeys(seen([TRACE]), [`${TRACE}/web`, `${TRACE}/other`]);
    assert.deepEqual([...read.passed(pod, {}, 'web', [TRACE])], [[TRACE, 'of:/web']]);
    assert.deepEqual([...read.passed(pod, {}, 'else', [TRACE])], [[TRACE, 'of:/pod']]);
  });
});

describe('annotations.settings', () => {
  const settings = (annotations: Record<string, string>): ReturnType<typeof read.settings> =>
    read.settings(new Map(Object.entries(annotations)), ['/dev/fuse', '/dev/net/tun'], 'web');
  const NOTHING: ReturnType<typeof read.settings> = {
    umask: undefined,
    cgroupAccess: 'ro',
    shmBytes: undefined,
    devices: [],
    usernsMode: undefined,
    unified: {},
    cpus: {
      quota: 'kept',
      loadBalancing: 'kept',
      interrupts: 'kept',
      resumeLatency: undefined,
      governor: undefined,
      shared: 'no',
    },
    linkLogs: undefined,
    relabel: 'always',
    blockedCalls: 'untold',
    fips: 'shown',
  };
  it('read what a container asks for its cgroup, by either name, in base64 or as it is', () => {
    for (const name of [
      'unified-cgroup.crio.io/web',
      'io.kubernetes.cri-o.UnifiedCgroup/web',
      'io.kubernetes.cri-o.UnifiedCgroup.web',
    ]) {
      const { unified } = settings({ [name]: 'memory.high=MTAwMDAw;cpu.weight=7;memory.low=' });
      assert.deepEqual({ ...unified }, { 'memory.high': '100000', 'cpu.weight': '7', 'memory.low': '' });
    }
    assert.deepEqual(settings({ 'unified-cgroup.crio.io/other': 'memory.high=1' }).unified, {});
  });
  it('read what is asked for processors, of the container before the pod', () => {
    assert.deepEqual(
      settings({
        'cpu-quota.crio.io': 'disable',
        'cpu-load-balancing.crio.io': 'true',
        'irq-load-balancing.crio.io': 'disable',
        'irq-load-balancing.crio.io/web': 'housekeeping',
        'cpu-c-states.crio.io': 'max_latency:10',
        'cpu-freq-governor.crio.io': 'performance',
        'cpu-shared.crio.io/web': 'enable',
      }).cpus,
      {
        quota: 'lifted',
        loadBalancing: 'disabled',
        interrupts: 'housekeeping',
        resumeLatency: '10',
        governor: 'performance',
        shared: 'yes',
      },
    );
    assert.strictEqual(
      settings({ 'cpu-quota.crio.io': 'disable', 'cpu-quota.crio.io/web': 'enable' }).cpus.quota,
      'kept',
    );
    for (const [states, latency] of [
      ['enable', '0'],
      ['disable', 'n/a'],
    ] as const)
      assert.strictEqual(settings({ 'cpu-c-states.crio.io': states }).cpus.resumeLatency, latency);
  });
  it('are nothing special without annotations', () => {
    assert.deepEqual(settings({}), NOTHING);
  });
  it('read umask, cgroup access, the size of /dev/shm and devices', () => {
    assert.deepEqual(
      settings({
        'umask.crio.io': '0027',
        'cgroup2-mount-hierarchy-rw.crio.io': 'true',
        'shm-size.crio.io': '128Mi',
        'devices.crio.io': '/dev/fuse, /dev/net/tun:/dev/tun:rw',
      }),
      {
        ...NOTHING,
        umask: 0o27,
        cgroupAccess: 'rw',
        shmBytes: 134_217_728n,
        devices: [
          { hostPath: '/dev/fuse', containerPath: '', permissions: '' },
          { hostPath: '/dev/net/tun', containerPath: '/dev/tun', permissions: 'rw' },
        ],
      },
    );
  });
  it('prefer the new name', () => {
    assert.equal(settings({ 'umask.crio.io': '027', 'io.kubernetes.cri-o.umask': '077' }).umask, 0o27);
    assert.equal(settings({ 'io.kubernetes.cri-o.umask': '077' }).umask, 0o77);
  });
  it('take sizes as Kubernetes writes them', () => {
    const sizes = ['65536', '64Ki', '1Gi', '5M', '1k', '1Ti'].map(
      (size) => settings({ 'shm-size.crio.io': size }).shmBytes,
    );
    assert.deepEqual(sizes, [65_536n, 65_536n, 1_073_741_824n, 5_000_000n, 1_000n, 1_099_511_627_776n]);
  });
  const refused: readonly (readonly [annotation: Record<string, string>, why: RegExp])[] = [
    [{ 'umask.crio.io': '0888' }, /umask "0888"/],
    [{ 'umask.crio.io': '7777' }, /umask "7777"/],
    [{ 'umask.crio.io': '' }, /umask ""/],
    [{ 'shm-size.crio.io': '12Q' }, /shm-size "12Q"/],
    [{ 'shm-size.crio.io': '-1' }, /shm-size "-1"/],
    [{ 'shm-size.crio.io': '0' }, /shm-size "0"/],
    [{ 'shm-size.crio.io': '99999999999999999999Ti' }, /shm-size/],
    [{ 'shm-size.crio.io': '1Mi,exec' }, /shm-size/],
    [{ 'link-logs.crio.io': '../logs' }, /link-logs "\.\.\/logs": empty dir vol name is invalid/],
    [{ 'io.kubernetes.cri-o.LinkLogs': '' }, /link-logs ""/],
    [{ 'cpu-c-states.crio.io': 'max_latency:0' }, /cpu-c-states "max_latency:0"/],
    [{ 'cpu-c-states.crio.io': 'often' }, /cpu-c-states "often"/],
    [{ 'cpu-freq-governor.crio.io': '../x' }, /cpu-freq-governor/],
    [{ 'unified-cgroup.crio.io/web': 'memory.high' }, /unified-cgroup: "memory.high"/],
    [{ 'devices.crio.io': '/dev/sda' }, /device "\/dev\/sda" is not in allowed_devices/],
    [{ 'devices.crio.io': '/dev/net/../sda' }, /device/],
    [{ 'devices.crio.io': '/dev/fuse:/dev/fuse:x' }, /device.permissions/],
    [{ 'devices.crio.io': Array.from({ length: 300 }, () => '/dev/fuse').join() }, /more than 256 devices/],
  ];
  for (const [annotation, why] of refused) {
    it(`refuse ${JSON.stringify(annotation).slice(0, 70)}`, () => {
      const said = outcome(() => settings(annotation));
      assert.match(said, /^InvalidArgument: /);
      assert.match(said, why);
    });
  }
});

describe('annotations of CRI-O', () => {
  it('that a pod may not use are told, by the names it has for them', () => {
    const pod = {
      'umask.crio.io': '077',
      'io.kubernetes.cri-o.ShmSize': '1Mi',
      'unified-cgroup.crio.io/app': 'x=1',
      'cpu-quota.crio.io/app': 'disable',
      'example.com/x': '1',
    };
    assert.deepEqual(read.forbidden(pod, ['umask.crio.io', 'io.kubernetes.cri-o.UnifiedCgroup']), [
      'io.kubernetes.cri-o.ShmSize',
      'cpu-quota.crio.io/app',
    ]);
  });

  it('that change nothing here are told with the reason', () => {
    assert.match(
      read.ineffective(['umask.crio.io', 'io.kubernetes.cri-o.Spoofed']).join(),
      /^io\.kubernetes\.cri-o\.Spoofed: /,
    );
  });

  it('that name a seccomp profile: of the pod for the container, for all, then of the image', () => {
    const found = (pod: Record<string, string>, image: Record<string, string> = {}): string | undefined =>
      read.seccompArtifact(pod, image, ['seccomp-profile.crio.io'], 'app')?.reference;
    const [own, all, first] = [
      'seccomp-profile.crio.io/app',
      'seccomp-profile.crio.io/POD',
      'seccomp-profile.kubernetes.cri-o.io',
    ];
    assert.strictEqual(found({ [own]: 'a', [all]: 'b' }, { [first]: 'c' }), 'a');
    assert.strictEqual(found({ [all]: 'b' }, { [first]: 'c' }), 'b');
    assert.strictEqual(found({ [`${first}/POD`]: 'd' }), 'd');
    assert.strictEqual(found({}, { [first]: 'c', [own]: 'e' }), 'c');
    assert.strictEqual(found({}, { [own]: 'e', [all]: 'f' }), 'e');
    assert.isUndefined(found({ 'seccomp-profile.crio.io/other': 'x', 'seccomp-profile.crio.io': 'y' }));
    assert.isUndefined(read.seccompArtifact({}, { [first]: 'c' }, [], 'app'), 'an image asks for nothing');
    assert.match(
      outcome(() => read.seccompArtifact({ [all]: 'b' }, {}, [], 'app')),
      /^InvalidArgument: annotation seccomp-profile\.crio\.io\/POD .*allowed_annotations/,
    );
  });
});

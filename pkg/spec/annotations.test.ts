import { assert } from 'chai';
import { annotationSettings, passedAnnotations } from './annotations.ts';
import { outcome } from './golden/refused.ts';

describe('passedAnnotations', () => {
  const passed = (allowed: readonly string[], annotations: Record<string, string>): string[] => [
    ...passedAnnotations(annotations, {}, 'web', allowed).keys(),
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
    assert.deepEqual([...passedAnnotations({ 'io.kubernetes.x/': '' }, {}, '', allowed).keys()], []);
  });
  it('may be allowed by a pattern that says so', () => {
    assert.deepEqual(passed(['run.oci.*', '*'], { 'run.oci.handler': '', other: '' }), ['run.oci.handler']);
  });
  it('of the container win over those of the pod, and keep odd names', () => {
    const pod = JSON.parse('{"a":"pod","__proto__":"p"}') as Record<string, string>;
    assert.deepEqual(
      [...passedAnnotations(pod, { a: 'container' }, 'web', ['a', '__proto__'])],
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

describe('annotationSettings', () => {
  const settings = (annotations: Record<string, string>): ReturnType<typeof annotationSettings> =>
    annotationSettings(new Map(Object.entries(annotations)), ['/dev/fuse', '/dev/net/tun']);
  it('are nothing special without annotations', () => {
    assert.deepEqual(settings({}), { umask: undefined, cgroupAccess: 'ro', shmBytes: undefined, devices: [] });
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

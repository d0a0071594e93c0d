import { assert } from 'chai';
import { codeOf } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import { containerLabels, podLabels, sandboxLabels, volumeLabel } from './labels.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import { renderHosts } from './pod-files.ts';
import { planSandbox, type SandboxPlan, requireOwnPids } from './sandbox-plan.ts';
import type { PodSettings } from './world.ts';

const base = { processLabel: 'system_u:system_r:container_t:s0', mountLabel: 'system_u:object_r:container_file_t:s0' };
/** Numbers in this order. */
const draws =
  (...numbers: number[]): ((below: number) => number) =>
  () =>
    numbers.shift() ?? 0;
const codeOfThrown = (work: () => unknown): string => {
  try {
    work();
  } catch (error) {
    return codeOf(error);
  }
  return 'none';
};

describe('the user namespace of a pod', () => {
  const plan = (userns: boolean): SandboxPlan => {
    const config = fakePod('web');
    const ids = [{ hostId: 100_000, containerId: 0, length: 65_536 }];
    const usernsOptions = userns ? { mode: 'POD' as const, uids: ids, gids: ids } : undefined;
    const options = config.linux?.securityContext?.namespaceOptions;
    const securityContext = { ...config.linux?.securityContext, namespaceOptions: { ...options, usernsOptions } };
    return planSandbox(
      { ...config, linux: { ...config.linux, securityContext } } as typeof config,
      { ownKernel: false },
      { uids: [{ hostId: 5, containerId: 0, size: 9 }], gids: [] },
    );
  };

  it('is that of its options, else the one of its annotation', () => {
    assert.strictEqual(plan(true).idMap?.uids[0]?.hostId, 100_000);
    assert.strictEqual(plan(false).idMap?.uids[0]?.hostId, 5);
    assert.include(plan(false).kinds, 'user');
  });
});

describe('a runtime whose containers have kernels of their own', () => {
  it('is asked for no processes of others', () => {
    const own = { kind: 'runsc', ownKernel: true };
    for (const pid of ['POD', 'NODE', 'TARGET'] as const) {
      assert.equal(
        codeOfThrown(() => requireOwnPids('gvisor', own, pid)),
        'FailedPrecondition',
      );
      assert.equal(
        codeOfThrown(() => requireOwnPids('runc', { kind: 'runc', ownKernel: false }, pid)),
        'none',
      );
    }
    for (const pid of ['CONTAINER', undefined] as const)
      assert.equal(
        codeOfThrown(() => requireOwnPids('gvisor', own, pid)),
        'none',
      );
  });
});

describe('SELinux labels', () => {
  it('are none where SELinux is off', () => {
    assert.deepEqual(podLabels(null, { user: '', role: '', type: '', level: 's0:c1' }, [], draws(1, 2)), {
      processLabel: '',
      mountLabel: '',
    });
    assert.deepEqual(
      containerLabels({ processLabel: '', mountLabel: '' }, { user: '', role: '', type: 'x_t', level: '' }),
      { processLabel: '', mountLabel: '' },
    );
  });

  it('are none on the network of the host, where the configuration says so', () => {
    const settings = (selinuxOnHostNetwork: 'label' | 'none'): PodSettings =>
      ({ selinux: base, selinuxOnHostNetwork }) as PodSettings;
    assert.equal(sandboxLabels(settings('none'), { network: 'host' }, undefined, [], draws(1, 2)).processLabel, '');
    for (const [setting, network] of [
      ['none', 'pod'],
      ['label', 'host'],
      ['label', 'pod'],
    ] as const) {
      assert.equal(
        sandboxLabels(settings(setting), { network }, undefined, [], draws(1, 2)).processLabel,
        'system_u:system_r:container_t:s0:c1,c2',
        `${setting} ${network}`,
      );
    }
  });

  it('have a pair of categories that no other pod has', () => {
    const first = podLabels(base, undefined, [], draws(7, 3));
    assert.deepEqual(first, {
      processLabel: 'system_u:system_r:container_t:s0:c3,c7',
      mountLabel: 'system_u:object_r:container_file_t:s0:c3,c7',
    });
    const second = podLabels(base, undefined, [first], draws(3, 7, 5, 5, 9, 8));
    assert.equal(second.processLabel, 'system_u:system_r:container_t:s0:c8,c9');
    assert.equal(
      codeOfThrown(() => podLabels(base, undefined, [], () => 1)),
      'ResourceExhausted',
    );
  });

  it("of a container are its pod's, but for what it names", () => {
    const pod = podLabels(base, { user: '', role: '', type: '', level: 's0:c1,c2' }, [], draws(7, 3));
    assert.equal(pod.mountLabel, 'system_u:object_r:container_file_t:s0:c1,c2');
    assert.deepEqual(containerLabels(pod, undefined), pod);
    const spc = containerLabels(pod, { user: '', role: '', type: 'spc_t', level: '' });
    assert.equal(spc.processLabel, 'system_u:system_r:spc_t:s0:c1,c2');
    assert.deepEqual([volumeLabel(pod), volumeLabel(spc)], [pod.mountLabel, '']);
    assert.equal(
      codeOfThrown(() => containerLabels(pod, { user: '', role: '', type: 'a:b', level: '' })),
      'InvalidArgument',
    );
  });
});

describe('a volume that asks for a label', () => {
  it('gets that of its container, where SELinux is on', async () => {
    const node = await FakeSurroundings.make();
    const mind = await node.boot({ selinux: base });
    const op = backgroundOp(silent);
    const pod = await mind.pods.run(op, fakePod(), '');
    const mount = {
      containerPath: '/v',
      hostPath: '/srv/v',
      readonly: false,
      selinuxRelabel: true,
      propagation: 'PROPAGATION_PRIVATE',
      uidMappings: [],
      gidMappings: [],
      recursiveReadOnly: false,
      imageSubPath: '',
      mountOptions: [],
    } as const;
    await mind.containers.create(
      op,
      pod,
      fakeContainer('one', 0, {
        mounts: [mount, { ...mount, containerPath: '/w', hostPath: '/srv/w', selinuxRelabel: false }],
      }),
    );
    const { selinux, files } = mind.pods.get(pod);
    const { labels } = node.node;
    assert.deepEqual([labels.get('/srv/v'), labels.get('/srv/w')], [selinux.mountLabel, undefined]);
    for (const path of [files.shm, files.resolvConf, files.hostname, files.hosts])
      assert.equal(labels.get(path), selinux.mountLabel, path);
    assert.match(mind.pods.get(pod).selinux.mountLabel, /^system_u:object_r:container_file_t:s0:c\d+,c\d+$/);
    mind.close();
    await node.dispose();
  });
});

describe('what a pod needs', () => {
  it('owners in a user namespace are those of the host', () => {
    const map = [{ containerId: 0, hostId: 100_000, size: 1000 }];
    assert.deepEqual(ownerOnHost({ uids: map, gids: map }, { uid: 5, gid: 0 }), { uid: 100_005, gid: 100_000 });
    assert.deepEqual(ownerOnHost({ uids: map, gids: map }, { uid: 1000, gid: 999 }), { uid: 1000, gid: 100_999 });
    assert.deepEqual(ownerOnHost(null, { uid: 5, gid: 6 }), { uid: 5, gid: 6 });
    assert.deepEqual([directoryMode(null), directoryMode({ uids: map, gids: map })], [0o700, 0o711]);
  });

  it("a cgroup: the kubelet's, or one of its own, never the root", () => {
    assert.deepEqual(podCgroupFor('cgroupfs', 'x', '/kubepods/pod1'), { parent: '/kubepods/pod1', own: false });
    assert.deepEqual(podCgroupFor('cgroupfs', 'x', ''), { parent: '/berth/x', own: true });
    assert.deepEqual(podCgroupFor('cgroupfs', 'x', '/'), { parent: '/berth/x', own: true });
    assert.deepEqual(podCgroupFor('systemd', 'x', 'kubepods-pod1.slice'), {
      parent: 'kubepods-pod1.slice',
      own: false,
    });
    assert.deepEqual(podCgroupFor('systemd', 'x', ''), { parent: 'system-berth_podx.slice', own: true });
    for (const bad of ['/a/../b', 'kubepods.slice'])
      assert.equal(
        codeOfThrown(() => podCgroupFor('cgroupfs', 'x', bad)),
        'InvalidArgument',
        bad,
      );
    assert.equal(
      codeOfThrown(() => podCgroupFor('systemd', 'x', '/kubepods')),
      'InvalidArgument',
    );
  });

  it('/etc/hosts with its name for each address', () => {
    assert.include(renderHosts('web', ['10.0.0.2', 'fd00::2']), '10.0.0.2\tweb\nfd00::2\tweb\n');
    assert.match(renderHosts('', ['10.0.0.2']), /^127\.0\.0\.1\tlocalhost\n[^]*ip6-allrouters\n$/);
  });
});

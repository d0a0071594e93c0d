import { assert } from 'chai';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { cgroupsPathFor } from '../spec/index.ts';
import { ground, op } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { namedCgroup, podCgroupFor } from './pod-cgroup.ts';

const POD = 'a'.repeat(64);
const ID = 'b'.repeat(64);

describe('names of cgroups', () => {
  it('are read as we give them, and no others', () => {
    const own = podCgroupFor('cgroupfs', POD, '').parent;
    const kept = (parent: string): string => cgroupsPathFor({ manager: 'cgroupfs', parent, id: ID });
    assert.deepEqual(namedCgroup(own), { kind: 'pod', id: POD, pod: POD });
    assert.deepEqual(namedCgroup(kept(own)), { kind: 'container', id: ID, pod: POD });
    assert.deepEqual(namedCgroup(kept('/kubepods/pod1')), { kind: 'container', id: ID, pod: undefined });
    assert.deepEqual(namedCgroup(`/x/berth-${ID}`), { kind: 'container', id: ID, pod: undefined });
    const slice = `/system.slice/${podCgroupFor('systemd', POD, '').parent}`;
    assert.deepEqual(namedCgroup(slice), { kind: 'pod', id: POD, pod: POD });
    assert.deepEqual(namedCgroup(`${slice}/crio-${ID}.scope`), { kind: 'container', id: ID, pod: POD });
    for (const other of ['/berth', `/docker/${ID}`, `/berth/${ID}/below`, `/kubepods/cri-${ID}`, `/x/berth/${ID}`])
      assert.isUndefined(namedCgroup(other), other);
  });
});

describe('a run root that was wiped while pods ran', () => {
  const at = ground();

  async function wipe(): Promise<void> {
    at.mind.close();
    await rm(join(at.node.directory, 'run'), { recursive: true, force: true });
    at.node.node.pins.clear();
    at.node.node.mounts.clear();
  }

  /** A container that runs in a cgroup below its pod's, or in the kubelet's. */
  async function running(name: string, parent: string): Promise<{ readonly pod: SandboxId; readonly id: ContainerId }> {
    const pod = await at.mind.pods.run(op(), fakePod(name), '');
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    const own = podCgroupFor('cgroupfs', pod, parent).parent;
    at.node.node.cgroups.add(cgroupsPathFor({ manager: 'cgroupfs', parent: own, id }));
    return { pod, id };
  }

  it('leaves nothing: what is ours by its id is ended, wherever its cgroup lies', async () => {
    const { pod } = await running('first', '');
    await running('second', '/kubepods/pod2');
    // One of which neither a network nor a root filesystem tells: only its monitor does.
    const third = await running('third', '');
    at.node.networks.clear();
    at.node.roots.delete(third.id);
    // Its monitor has died: its process is known by its cgroup alone.
    const fourth = await running('fourth', '');
    await at.node.node.killMonitor(fourth.id);
    await wipe();
    await at.restart();
    assert.isUndefined(at.mind.pods.find(pod));
    assert.deepEqual(at.node.leaks(), []);
  });

  it("takes away the empty cgroup of a pod that is gone, unless it may be another daemon's", async () => {
    const empty = podCgroupFor('cgroupfs', POD, '').parent;
    const busy = podCgroupFor('cgroupfs', ID, '').parent;
    at.node.node.cgroups.add(empty);
    at.node.node.cgroups.add(busy);
    const stranger = at.node.node.spawn(busy);
    at.node.node.otherDaemons = 1;
    await wipe();
    await at.restart();
    assert.sameMembers([...at.node.node.cgroups], [empty, busy]);
    at.node.node.otherDaemons = 0;
    await at.restart();
    assert.sameMembers([...at.node.node.cgroups], [busy], 'nothing says that what runs in the other is ours');
    assert.isTrue(stranger.alive);
    assert.isTrue(at.node.logged.some(({ message }) => message.includes('leaving it alone')));
    stranger.exit(0);
    await at.restart();
    assert.sameMembers([...at.node.node.cgroups], []);
  });

  it('is told from one of which everything is known, where nobody has to look at all that runs', async () => {
    await at.restart();
    const looks = at.node.node.looksForCgroups;
    await at.restart();
    assert.equal(at.node.node.looksForCgroups, looks, 'nothing has run, and that is known');
    await wipe();
    await at.restart();
    assert.equal(at.node.node.looksForCgroups, looks + 1);
  });
});

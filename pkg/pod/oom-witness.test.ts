import { assert } from 'chai';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { op, until } from './fake-ground.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';
import { containerStatus } from './query.ts';

const SLICE = 'kubepods-pod1.slice';

describe('the end of a container on a node of systemd', () => {
  let node: FakeSurroundings;
  let mind: OpenPods;
  let pod: SandboxId;
  beforeEach(async () => {
    node = await FakeSurroundings.make();
    node.facts = { ...node.facts, cgroupManager: 'systemd' };
    node.node.oomKills.set(`above ${SLICE}`, 3n);
    mind = await node.boot();
    const config = fakePod();
    pod = await mind.pods.run(
      op(),
      { ...config, linux: { ...config.linux, cgroupParent: SLICE } } as typeof config,
      '',
    );
  });
  afterEach(async () => {
    mind.close();
    await node.dispose();
  });

  const started = async (name: string): Promise<ContainerId> => {
    const id = await mind.containers.create(op(), pod, fakeContainer(name));
    await mind.containers.start(op(), id);
    return id;
  };
  /** Ended with this code by a monitor that saw no kill, when the slice had counted so many. */
  const reasonOf = async (id: ContainerId, exitCode: number, kills: bigint): Promise<string> => {
    node.node.oomKills.set(`above ${SLICE}`, kills);
    await node.node.exit(id, exitCode);
    await until(() => containerStatus(mind.containers.get(id)).state === 'CONTAINER_EXITED');
    return containerStatus(mind.containers.get(id)).reason;
  };

  it('is an OOM kill where the slice has counted one since it lived, whatever its monitor missed', async () => {
    assert.equal(await reasonOf(await started('killed'), 137, 4n), 'OOMKilled');
    assert.equal(await reasonOf(await started('by-hand'), 137, 4n), 'Error');
    assert.equal(await reasonOf(await started('failed'), 1, 5n), 'Error');
  });

  it('of its own scope, where that is still there, is believed first', async () => {
    const id = await started('app');
    node.node.oomKills.set(mind.containers.get(id).cgroupsPath, 0n);
    assert.equal(await reasonOf(id, 137, 4n), 'Error');
  });

  it('is not taken for that of another of its pod, which was killed while it lived', async () => {
    const other = await started('other');
    assert.equal(await reasonOf(await started('killed'), 137, 4n), 'OOMKilled');
    assert.equal(await reasonOf(other, 137, 4n), 'Error');
  });

  it('is known to a daemon that was started meanwhile', async () => {
    const id = await started('app');
    node.node.crash();
    mind.close();
    mind = await node.boot();
    assert.equal(await reasonOf(id, 137, 4n), 'OOMKilled');
  });
});

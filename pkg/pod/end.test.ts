import { assert } from 'chai';
import { ground, op, until } from './fake-ground.ts';
import { fakeContainer } from './fake-world.ts';
import { containerStatus } from './query.ts';

describe("a container's end", () => {
  const at = ground();

  it('reports an OOM kill', async () => {
    const { id } = await at.running();
    await at.node.node.exit(id, 137, { oomKilled: true });
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).reason, 'OOMKilled');
  });

  it('does not lose a container whose monitor died with it: 255, never 0', async () => {
    const { id } = await at.running();
    await at.node.node.killMonitor(id);
    at.node.node.containers.get(id)?.process.exit(0);
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    assert.deepEqual(
      [containerStatus(at.mind.containers.get(id)).exitCode, containerStatus(at.mind.containers.get(id)).reason],
      [255, 'ContainerStatusUnknown'],
    );
  });

  it(
    'waits for a monitor that still drains the output of a container that has ended: its exit ' + 'code, not 255',
    async () => {
      const { id } = await at.running();
      const drained = Promise.withResolvers<void>();
      at.node.node.drainGate = drained.promise;
      at.mind.close();
      at.node.node.crash();
      await at.node.node.exit(id, 3);
      at.mind = await at.node.boot();
      assert.strictEqual(at.mind.containers.get(id).state.phase, 'running');
      drained.resolve();
      await until(() => at.mind.containers.get(id).state.phase === 'exited');
      assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 3);
    },
  );

  it('finds running containers running, and the exits of those that ended meanwhile (K6)', async () => {
    const { id, pod } = await at.running();
    const other = await at.mind.containers.create(op(), pod, fakeContainer('other'));
    await at.mind.containers.start(op(), other);
    at.mind.close();
    at.node.node.crash();
    await at.node.node.exit(other, 3);
    at.mind = await at.node.boot();
    assert.strictEqual(at.mind.containers.get(id).state.phase, 'running');
    assert.strictEqual(containerStatus(at.mind.containers.get(other)).exitCode, 3);
    await at.node.node.exit(id, 4);
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 4);
  });
});

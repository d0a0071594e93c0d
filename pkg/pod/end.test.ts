import { assert } from 'chai';
import { fails, ground, op, until } from './fake-ground.ts';
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

  it('is not to be known when the monitor is gone, which is said at once, wherever one looks', async () => {
    const { id, pod } = await at.running();
    await at.node.node.killMonitor(id);
    await until(() => at.mind.containers.get(id).monitorLost !== null);
    const status = containerStatus(at.mind.containers.get(id));
    assert.deepEqual([status.state, status.reason], ['CONTAINER_RUNNING', 'MonitorLost']);
    assert.match(status.message, /its monitor \(process \d+\) is gone/);
    await until(() => at.node.logged.length > 0);
    assert.deepInclude(at.node.logged[0], { level: 'error', message: 'a container has lost its monitor' });
    await until(() => (at.node.node.logs.get(status.logPath) ?? []).length > 0);
    assert.match(at.node.node.logs.get(status.logPath)?.at(-1) ?? '', /^stderr F berth: its monitor .* is gone/);
    assert.strictEqual((await at.mind.execs.execSync(op(), id, ['true'], 0)).exitCode, 0);
    await at.mind.containers.stop(op(), id, 60_000);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 255);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('is not to be known of a container whose monitor died while no daemon looked; it runs on', async () => {
    const { id } = await at.running();
    at.mind.close();
    at.node.node.crash();
    await at.node.node.killMonitor(id);
    at.mind = await at.node.boot();
    await until(() => at.mind.containers.get(id).monitorLost !== null);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).state, 'CONTAINER_RUNNING');
  });

  it('is reported by a monitor that ends as it should: nobody misses that', async () => {
    const { id } = await at.running();
    await at.node.node.exit(id, 0);
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    await until(() => at.mind.operations().length === 0);
    assert.isNull(at.mind.containers.get(id).monitorLost);
    assert.deepEqual(at.node.logged, []);
  });

  it('does not come of a container that was created and whose monitor is gone: it is not started', async () => {
    const { id } = await at.created();
    await at.node.node.killMonitor(id);
    await until(() => at.mind.containers.get(id).monitorLost !== null);
    const error = await fails(at.mind.containers.start(op(), id));
    assert.strictEqual(error.code, 'FailedPrecondition');
    assert.match(error.message, /cannot be started: its monitor/);
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

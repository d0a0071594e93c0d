import { assert } from 'chai';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { mock } from 'node:test';
import { boom, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { podSandboxStatus } from './query.ts';

describe('a mind after a crash', () => {
  const at = ground();

  it('gives everything back whatever instruction it dies at (K1, K2, K3)', async () => {
    const points = ['pin', 'mountShm', 'create', 'start'] as const;
    for (const point of points) {
      for (const moment of ['before', 'after'] as const) {
        at.node.node.crashNext(point, moment);
        void (async () => {
          const pod = await at.mind.pods.run(op(), fakePod(point), '');
          const id = await at.mind.containers.create(op(), pod, fakeContainer());
          await at.mind.containers.start(op(), id);
        })();
        await until(() => (at.node.node.calls.get(point) ?? 0) > 0);
        for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
        at.node.node.calls.clear();
        at.node.node.clearPlans();
        await at.restart();
        for (const pod of at.mind.pods.list()) await at.mind.pods.remove(op(), pod.id);
        assert.deepEqual(at.node.leaks(), [], `${point} ${moment}`);
        assert.lengthOf(at.mind.containers.list(), 0);
      }
    }
  });

  it('leaves no log of a container that it died making, by which a kubelet would count a restart', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    at.node.node.crashNext('create', 'after');
    void at.mind.containers.create(op(), pod, fakeContainer());
    await until(() => at.node.node.dead);
    assert.sameDeepMembers([...at.node.node.logs.values()], [[]]);
    await at.restart();
    assert.isEmpty([...at.node.node.logs.keys()]);
  });

  it(
    'gives back all of a pod whose removal a daemon before us had begun, also when that fails at ' + 'the start',
    async () => {
      const pod = await at.mind.pods.run(op(), fakePod(), '');
      at.node.node.crashNext('unpin');
      void at.mind.pods.remove(op(), pod);
      await until(() => at.node.node.dead);
      const record = at.mind.pods.get(pod);
      at.mind.close();
      await at.node.world().state.save({ ...record, state: { phase: 'removing' } });
      at.node.node.failNext('unpin', boom());
      at.mind = await at.node.boot();
      assert.isTrue(at.node.node.pins.has(pod), 'the start could not give it back');
      await at.mind.pods.remove(op(), pod);
      assert.deepEqual(at.node.leaks(), []);
    },
  );

  it('serves although something hangs over what is left of a container', async () => {
    const { id, pod } = await at.running();
    at.node.node.crashNext('destroyRoot');
    void at.mind.containers.remove(op(), id);
    await until(() => at.node.node.dead);
    const goOn = at.node.node.hangNext('destroyRoot');
    // Every bound passes at once; without one the start would never end.
    const atOnce = mock.method(AbortSignal, 'timeout', () => AbortSignal.abort());
    try {
      await at.restart();
    } finally {
      atOnce.mock.restore();
    }
    goOn();
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('destroys only the object of a damaged record (K19)', async () => {
    const { id, pod } = await at.running();
    const other = await at.mind.containers.create(op(), pod, fakeContainer('other'));
    at.mind.close();
    await writeFile(join(at.node.directory, 'run/containers', other, 'record.json'), 'garbage');
    await at.restart();
    assert.deepEqual(
      at.mind.containers.list().map((record) => record.id),
      [id],
    );
    assert.isFalse(at.node.roots.has(other));
  });

  it("starts empty after a reboot and gives the old pods' addresses back", async () => {
    await at.running();
    assert.strictEqual(at.node.networks.size, 1);
    at.node.node.reboot();
    const { rm } = await import('node:fs/promises');
    await rm(join(at.node.directory, 'run'), { recursive: true });
    await at.restart();
    assert.lengthOf(at.mind.pods.list(), 0);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('calls a pod whose namespace is gone NOTREADY, and can still remove it (K21)', async () => {
    const { pod } = await at.running();
    at.node.node.pins.delete(pod);
    await at.restart();
    assert.strictEqual(podSandboxStatus(at.mind.pods.get(pod)).state, 'SANDBOX_NOTREADY');
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });
});

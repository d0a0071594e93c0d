import { assert } from 'chai';
import { limits } from '../base/limits.ts';
import { ground, op, sameResources, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { containerStatus } from './query.ts';
import { graceLeft } from './stop.ts';

describe('a stop', () => {
  const at = ground();

  it('stops at once when asked with no grace, and a shorter grace overtakes a longer one', async () => {
    const { id } = await at.running();
    // The program of a fake container is sleep, which TERM ends; one that ignores it shows the kill.
    at.node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
    const slow = at.mind.containers.stop(op(), id, 3_600_000);
    await until(() => at.mind.containers.get(id).stopping !== null);
    await at.mind.containers.stop(op(), id, 0);
    await slow;
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
  });

  it('sends the stop signal once and waits for a graceful end', async () => {
    const { id } = await at.running();
    await at.mind.containers.stop(op(), id, 60_000);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 143);
    assert.isNull(at.mind.containers.get(id).stopping);
  });

  it('sends the stop signal when the program can hear it: one that has just started would lose it', async () => {
    const { id } = await at.running();
    const program = at.node.node.containers.get(id)?.process;
    assert.isDefined(program);
    program.deaf = true;
    const stopped = at.mind.containers.stop(op(), id, 60_000);
    await until(() => at.mind.containers.get(id).stopping !== null);
    program.deaf = false;
    await stopped;
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 143);
  });

  it('grants no grace to a container that was never started: there is no program to use it', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    const runtimeInit = at.node.node.containers.get(id)?.process;
    assert.isDefined(runtimeInit);
    runtimeInit.deaf = true;
    await at.mind.containers.stop(op(), id, 60_000);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
  });

  it('does not blame the kernel for a stop that waits for the monitor, which drains the output yet', async () => {
    const { id } = await at.running();
    const drained = Promise.withResolvers<void>();
    at.node.node.drainGate = drained.promise;
    let stopping = true;
    const stopped = at.mind.containers
      .stop(op(), id, 0)
      .then(
        () => undefined,
        (error: unknown) => error,
      )
      .finally(() => void (stopping = false));
    await until(() => at.node.node.containers.get(id)?.process.alive === false);
    const looks = at.node.node.clocks.looks;
    at.node.node.clocks.passedMs += limits.killGraceMs + 1_000;
    while (at.node.node.clocks.looks < looks + 2 && stopping) await new Promise((resolve) => setImmediate(resolve));
    drained.resolve();
    assert.isUndefined(await stopped);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
  });

  it('goes on with a stop that was under way (K5)', async () => {
    const { id } = await at.running();
    at.node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
    void at.mind.containers.stop(op(), id, 60_000);
    await until(() => at.mind.containers.get(id).stopping !== null);
    const before = at.mind.containers.get(id).stopping;
    await at.restart();
    assert.deepEqual(at.mind.containers.get(id).stopping?.begunAt, before?.begunAt);
    await at.mind.containers.stop(op(), id, 0);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
  });

  it('tells the program of it also when the daemon dies between its record and the signal', async () => {
    const { id } = await at.running();
    at.node.node.crashNext('save', 'after');
    void at.mind.containers.stop(op(), id, 3_600_000);
    await until(() => at.node.node.dead);
    await at.restart();
    await until(() => at.mind.containers.get(id).state.phase === 'exited');
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 143);
  });

  it('does not tell it again when it has been told', async () => {
    const { id } = await at.running();
    const program = at.node.node.containers.get(id)?.process;
    program?.run(['sh', '-c', "trap '' TERM; while"]);
    void at.mind.containers.stop(op(), id, 3_600_000);
    await until(() => at.mind.containers.get(id).stopping?.signalled === true);
    program?.run(['sh', '-c', "trap 'exit 9' TERM; while"]);
    await at.restart();
    await at.mind.containers.stop(op(), id, 0);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
  });

  describe('while somebody sets the clock', () => {
    const { now } = Date;
    const YEAR_MS = 366 * 86_400_000;
    afterEach(() => {
      Date.now = now;
    });
    function setClock(stepMs: number): void {
      Date.now = () => now() + stepMs;
      at.node.node.clocks.wallStepMs = stepMs;
    }

    it('grants no more than the grace: the clock is set back (K18)', async () => {
      const { id } = await at.running();
      at.node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
      const stopped = at.mind.containers.stop(op(), id, 60);
      await until(() => at.mind.containers.get(id).stopping !== null);
      setClock(-YEAR_MS);
      await stopped;
      assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
    });

    it('grants all of the grace: the clock is set forward (K18)', async () => {
      const { id } = await at.running();
      const program = at.node.node.containers.get(id)?.process;
      program?.run(['sh', '-c', "trap '' TERM; while"]);
      const stopped = at.mind.containers.stop(op(), id, 3_600_000);
      await until(() => at.mind.containers.get(id).stopping !== null);
      setClock(YEAR_MS);
      // Any change of the record makes the stop look at the clock.
      const looks = at.node.node.clocks.looks;
      await at.mind.containers.update(op(), id, sameResources);
      await until(() => at.node.node.clocks.looks > looks);
      assert.isTrue(program?.alive);
      program?.exit(0);
      await stopped;
      assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 0);
    });

    it('has what is left of the grace after a restart, and never more than was granted', async () => {
      const { id } = await at.running();
      at.node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
      void at.mind.containers.stop(op(), id, 3_600_000);
      await until(() => at.mind.containers.get(id).stopping !== null);
      at.mind.close();
      setClock(-YEAR_MS);
      at.node.node.clocks.passedMs += 3_000_000;
      at.mind = await at.node.boot();
      const { stopping } = at.mind.containers.get(id);
      assert.isNotNull(stopping);
      assert.approximately(graceLeft(stopping, at.node.node.monotonicMs()), 600_000, 60_000);
      at.node.node.clocks.passedMs += 600_000;
      await at.restart();
      await until(() => at.mind.containers.get(id).state.phase === 'exited');
      assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
    });

    it('has at most the grace that was granted, also where the record is of another boot', () => {
      assert.strictEqual(graceLeft({ begunAt: 1n, signalled: true, graceMs: 500, killAtMs: 9e12 }, 1), 500);
      assert.strictEqual(graceLeft({ begunAt: 1n, signalled: true, graceMs: 500, killAtMs: 1 }, 9e12), 0);
    });
  });
});

import { assert } from 'chai';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { limits } from '../base/limits.ts';
import type { SandboxId } from '../base/ids.ts';
import type { FakeOperation } from '../runtime/fake.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { matchesSandbox, podSandboxStatus } from './query.ts';

describe('a clean-up that failed', () => {
  const at = ground();

  /** A pod that CNI ADD fails for, while CNI DEL (or another step) fails, too. */
  async function halfMade(broken: FakeOperation = 'del', name = 'web'): Promise<SandboxId> {
    at.node.node.breakDown(broken, boom());
    at.node.node.failNext('add', boom(), 'after');
    await fails(at.mind.pods.run(op(), fakePod(name), ''));
    const found = at.mind.pods.list().find((record) => record.config.metadata.name === name);
    assert.isDefined(found, 'what could not be cleaned up is listed');
    return found.id;
  }

  /** Lets time pass, longer than any pause, until `condition` holds. */
  async function later(condition: () => boolean): Promise<void> {
    await until(() => {
      at.node.node.pass(limits.cleanUpLongestPauseMs);
      return condition();
    });
  }

  function isGone(): boolean {
    return at.mind.pods.list().length === 0 && at.node.leaks().length === 0;
  }

  it('of a failed RunPodSandbox leaves a sandbox that is seen as not ready, until the plugin is back', async () => {
    const seen: string[] = [];
    at.mind.subscribe((event) => seen.push(`${event.type} ${event.record.kind}`));
    const id = await halfMade();
    const record = at.mind.pods.get(id);
    assert.strictEqual(podSandboxStatus(record).state, 'SANDBOX_NOTREADY');
    assert.match(record.lost, /^it could not be made: .*boom; its clean-up failed and is tried again: .*network.*boom/);
    assert.isTrue(matchesSandbox(record, { id, state: { state: 'SANDBOX_NOTREADY' }, labelSelector: { app: 'web' } }));
    assert.deepEqual(seen, ['stopped sandbox']);
    await later(() => (at.node.node.calls.get('del') ?? 0) > 5);
    assert.isNotEmpty(at.node.leaks());
    assert.strictEqual(at.mind.pods.get(id).state.phase, 'removing');
    at.node.node.mend();
    await later(isGone);
    assert.deepEqual(seen, ['stopped sandbox', 'deleted sandbox']);
  });

  it('is refused by CreateContainer with the reason, and completed by StopPodSandbox or RemovePodSandbox', async () => {
    for (const verb of ['stop', 'remove'] as const) {
      const id = await halfMade();
      const refusal = await fails(at.mind.containers.create(op(), id, fakeContainer()));
      assert.strictEqual(refusal.code, 'FailedPrecondition');
      assert.match(refusal.message, /removing.*it could not be made/);
      assert.match((await fails(at.mind.pods[verb](op(), id))).message, /destroy network/, 'the plugin is away yet');
      at.node.node.mend();
      await at.mind.pods[verb](op(), id);
      await at.mind.pods[verb](op(), id);
      assert.isTrue(isGone(), verb);
    }
  });

  it('keeps the name until it is done, and no other attempt', async () => {
    const id = await halfMade();
    assert.match((await fails(at.mind.pods.run(op(), fakePod(), ''))).message, new RegExp(`destroy network .*${id}`));
    const other = await at.mind.pods.run(op(), fakePod('web', 1), '');
    assert.strictEqual(at.mind.pods.get(other).state.phase, 'ready');
    at.node.node.mend();
    const again = await at.mind.pods.run(op(), fakePod(), '');
    assert.sameMembers(
      at.mind.pods.list().map((record) => record.id),
      [other, again],
    );
  });

  it('survives a restart, also of a daemon that died while the pod was made', async () => {
    const id = await halfMade();
    await at.restart();
    assert.strictEqual(at.mind.pods.get(id).state.phase, 'removing');
    at.node.node.crashNext('add', 'after');
    void at.mind.pods.run(op(), fakePod('other'), '').catch(() => {});
    await until(() => at.node.node.dead);
    await at.restart();
    const lost = at.mind.pods.list().map((record) => record.lost);
    assert.lengthOf(lost, 2);
    assert.isTrue(lost.some((each) => each.startsWith('the daemon died while it was made; its clean-up failed')));
    at.node.node.mend();
    await later(isGone);
  });

  it('is seen also where that cannot be put on record', async () => {
    const run = at.mind.pods.run(op(), fakePod(), '');
    at.node.node.failNext('add', boom());
    at.node.node.breakDown('del', boom());
    await until(() => at.node.node.calls.get('add') === 1);
    at.node.node.breakDown('save', boom());
    await fails(run);
    assert.lengthOf(at.mind.pods.list(), 1);
    at.node.node.mend();
    await later(isGone);
  });

  for (const broken of ['del', 'unpin', 'unmount', 'destroyCgroup', 'removeTree', 'forget'] as const) {
    it(`is done some time whichever step it is: ${broken}`, async () => {
      const stopped = await at.mind.pods.run(op(), fakePod('stopped'), '');
      const removed = await at.mind.pods.run(op(), fakePod('removed'), '');
      const gone = new AbortController();
      await halfMade(broken);
      const release = at.node.node.hangNext('unpin');
      const impatient = { ...op(), signal: gone.signal };
      const calls = [at.mind.pods.stop(impatient, stopped), at.mind.pods.remove(impatient, removed)].map(fails);
      gone.abort();
      await Promise.all(calls);
      release();
      await until(() => at.mind.operations().length === 0 && at.node.node.pausing > 0);
      at.node.node.mend();
      await later(() => at.mind.pods.find(stopped)?.state.phase === 'stopped');
      await later(() => at.mind.pods.list().every(({ state, id }) => id === stopped || state.phase === 'stopped'));
      for (const { id } of at.mind.pods.list()) await at.mind.pods.remove(op(), id);
      await later(isGone);
    });
  }

  it('of a container is done some time, whether its creation failed or its client has left', async () => {
    const { pod, id } = await at.running();
    at.node.node.breakDown('destroyRoot', boom());
    at.node.node.failNext('create', boom());
    await fails(at.mind.containers.create(op(), pod, fakeContainer('other')));
    await fails(at.mind.containers.remove(op(), id));
    assert.strictEqual(at.node.roots.size, 2);
    at.node.node.mend();
    await later(() => at.node.roots.size === 0 && at.mind.containers.list().length === 0);
    assert.strictEqual(at.mind.pods.get(pod).state.phase, 'ready');
    await at.mind.pods.remove(op(), pod);
    assert.isTrue(isGone());
  });

  it('of what has no record is done some time, though nobody can ask for it', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    at.mind.close();
    await writeFile(join(at.node.directory, 'run/sandboxes', pod, 'record.json'), 'garbage');
    at.node.node.breakDown('del', boom());
    await at.restart();
    assert.lengthOf(at.mind.pods.list(), 0);
    assert.isTrue(at.node.networks.has(pod));
    at.node.node.mend();
    await later(isGone);
  });

  it('is tried with growing pauses, a few pods at a time, and not after the daemon has stopped', async () => {
    await halfMade();
    const { node } = at.node;
    const tries = async (): Promise<number> => {
      await until(() => node.pausing === 1 && at.mind.operations().length === 0);
      return node.calls.get('del') ?? 0;
    };
    const pauses: number[] = [];
    for (let before = await tries(), ms = 0; pauses.length < 8; ms += 500) {
      node.pass(500);
      await new Promise((resolve) => setImmediate(resolve));
      const now = await tries();
      if (now === before) continue;
      pauses.push(ms + 500);
      before = now;
      ms = -500;
    }
    assert.deepEqual(pauses, [1_000, 2_000, 4_000, 8_000, 16_000, 32_000, 60_000, 60_000]);
    for (let pod = 0; pod < 8; pod++) await halfMade('del', `pod-${pod}`);
    const releases = Array.from({ length: 9 }, () => node.hangNext('del'));
    const before = node.calls.get('del') ?? 0;
    node.pass(limits.cleanUpLongestPauseMs);
    await until(() => at.mind.operations().length >= limits.cleanUpsAtOnceCount);
    for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
    assert.strictEqual((node.calls.get('del') ?? 0) - before, limits.cleanUpsAtOnceCount);
    at.mind.close();
    for (const release of releases) release();
    await until(() => node.pausing === 0);
  });
});

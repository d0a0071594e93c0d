import { assert } from 'chai';
import type { SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { containerStatus, podSandboxStatus } from './query.ts';

describe("the mind's sandboxes", () => {
  const at = ground();

  it('runs a pod, shows it ready with its address, and gives everything back', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    const status = podSandboxStatus(at.mind.pods.get(pod));
    assert.strictEqual(status.state, 'SANDBOX_READY');
    assert.match(status.network?.ip ?? '', /^10\.0\.0\.\d+$/);
    assert.notStrictEqual(status.createdAt, 0n);
    await at.mind.pods.remove(op(), pod);
    assert.lengthOf(at.mind.pods.list(), 0);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('gives one id to twenty identical requests at once (K20), and to one that comes later', async () => {
    const ids = await Promise.all(Array.from({ length: 20 }, () => at.mind.pods.run(op(), fakePod(), '')));
    assert.lengthOf(new Set(ids), 1);
    assert.strictEqual(await at.mind.pods.run(op(), fakePod(), ''), ids[0]);
    assert.lengthOf(at.mind.pods.list(), 1);
  });

  it('refuses the same name with another config, in flight and afterwards', async () => {
    const first = at.mind.pods.run(op(), fakePod(), '');
    const other = fails(at.mind.pods.run(op(), fakePod('web', 0, { hostname: 'other' }), ''));
    await first;
    assert.strictEqual((await other).code, 'AlreadyExists');
    assert.strictEqual(
      (await fails(at.mind.pods.run(op(), fakePod('web', 0, { hostname: 'third' }), ''))).code,
      'AlreadyExists',
    );
  });

  it('goes on when the client leaves, says where it is, and lets the retry claim the result', async () => {
    const gate = Promise.withResolvers<void>();
    at.node.addGate = gate.promise;
    const impatient = new AbortController();
    const stages: string[] = [];
    const call = fails(
      at.mind.pods.run(
        { ...op(), signal: impatient.signal, deadline: 0, stage: (what) => void stages.push(what) },
        fakePod(),
        '',
      ),
    );
    await until(() => stages.includes('cni add: bridge'));
    impatient.abort();
    const error = await call;
    assert.strictEqual(error.code, 'DeadlineExceeded');
    assert.include(error.message, 'cni add: bridge');
    assert.lengthOf(at.mind.pods.list(), 0, 'a half-made pod must not be listed');
    const retry = at.mind.pods.run(op(), fakePod(), '');
    gate.resolve();
    const id = await retry;
    assert.strictEqual(at.mind.pods.get(id).state.phase, 'ready');
    assert.strictEqual(at.node.networks.size, 1);
  });

  it('leaves nothing behind when CNI ADD fails after its effect', async () => {
    at.node.node.failNext('add', boom(), 'after');
    const error = await fails(at.mind.pods.run(op(), fakePod(), ''));
    assert.include(error.message, 'run pod sandbox web_default_uid-web_0');
    assert.deepEqual(at.node.leaks(), []);
    assert.strictEqual(at.mind.pods.get(await at.mind.pods.run(op(), fakePod(), '')).state.phase, 'ready');
  });

  it('cleans up a failed attempt whose clean-up failed, before the retry makes a new one', async () => {
    at.node.node.failNext('add', boom(), 'after');
    at.node.node.failNext('del', boom());
    await fails(at.mind.pods.run(op(), fakePod(), ''));
    assert.isNotEmpty(at.node.leaks());
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('shares one PID namespace by an infra container, which goes with the pod', async () => {
    const config = fakePod('shared');
    const options = config.linux?.securityContext?.namespaceOptions;
    assert.isDefined(options);
    const pod = await at.mind.pods.run(
      op(),
      {
        ...config,
        linux: {
          ...config.linux,
          securityContext: { ...config.linux?.securityContext, namespaceOptions: { ...options, pid: 'POD' } },
        },
      } as typeof config,
      '',
    );
    assert.strictEqual(at.node.node.containers.size, 1);
    await at.mind.pods.stop(op(), pod);
    assert.strictEqual(podSandboxStatus(at.mind.pods.get(pod)).state, 'SANDBOX_NOTREADY');
    assert.deepEqual(at.node.leaks(), []);
    await at.mind.pods.remove(op(), pod);
  });

  it('stops containers before it takes the network away, and can be asked twice', async () => {
    const { pod, id } = await at.running();
    const seen: string[] = [];
    at.mind.subscribe((event) => seen.push(`${event.type} ${event.record.kind}`));
    await Promise.all([at.mind.pods.stop(op(), pod), at.mind.pods.stop(op(), pod)]);
    await at.mind.pods.stop(op(), pod);
    assert.strictEqual(containerStatus(at.mind.containers.get(id)).exitCode, 137);
    assert.deepEqual(seen, ['stopped sandbox', 'stopped container']);
    assert.strictEqual(at.node.networks.size, 0);
  });

  it('ends the containers of some pods at a time: the first are at their network while others wait', async () => {
    const pods: SandboxId[] = [];
    for (let i = 0; i <= limits.podStopsCount; i++) {
      const pod = await at.mind.pods.run(op(), fakePod(`web-${i}`), '');
      await at.mind.containers.start(op(), await at.mind.containers.create(op(), pod, fakeContainer()));
      pods.push(pod);
    }
    const drained = Promise.withResolvers<void>();
    at.node.node.drainGate = drained.promise;
    const stages: string[] = [];
    const stops = pods.map((pod) =>
      at.mind.pods.stop({ ...op(), stage: (what) => void stages.push(`${pods.indexOf(pod)} ${what}`) }, pod),
    );
    await until(() => stages.includes(`${limits.podStopsCount} wait for a turn to stop`));
    assert.strictEqual(at.mind.pods.get(pods.at(-1) ?? '').state.phase, 'ready', 'it can be used until its turn comes');
    drained.resolve();
    await Promise.all(stops);
    assert.deepEqual([...new Set(at.mind.pods.list().map(({ state }) => state.phase))], ['stopped']);
  });

  it('stays stopping when the network cannot be given back, and tries again', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    at.node.node.failNext('del', boom());
    await fails(at.mind.pods.stop(op(), pod));
    assert.strictEqual(at.mind.pods.get(pod).state.phase, 'stopping');
    await at.mind.pods.stop(op(), pod);
    assert.strictEqual(at.mind.pods.get(pod).state.phase, 'stopped');
    assert.strictEqual((await fails(at.mind.containers.create(op(), pod, fakeContainer()))).code, 'FailedPrecondition');
  });

  it('answers NotFound for an unknown id, and finds by prefix', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), '');
    assert.strictEqual(at.mind.pods.get(pod.slice(0, 8)).id, pod);
    assert.throws(() => at.mind.pods.get('f00dfeed'), /no pod sandbox has the id/);
    assert.isUndefined(at.mind.pods.find(pod.slice(0, 3)), 'three characters are too few');
  });
});

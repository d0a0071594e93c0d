import { assert } from 'chai';
import { mock } from 'node:test';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import {
  changed,
  configure,
  conflist,
  network,
  ok,
  op,
  plugins,
  pod,
  refusal,
  until,
  useCniGround,
} from './fake-cni-ground.ts';
import type { PluginOutput } from './exec.ts';

const PLACES = limits.cniChainsCount;

/** Runs of a plugin that end when the test says so. */
class Held {
  readonly #ends: (() => void)[] = [];
  begun = 0;

  readonly run = (answer: () => PluginOutput) => (): Promise<PluginOutput> => {
    this.begun++;
    return new Promise((resolve) => this.#ends.push(() => resolve(answer())));
  };

  end(): void {
    this.#ends.shift()?.();
  }

  endAll(): void {
    for (const end of this.#ends.splice(0)) end();
  }
}

const added = (): PluginOutput => ok(JSON.stringify({ cniVersion: '1.0.0', ips: [{ address: '10.0.0.9/24' }] }));
const turns = async (count = 20): Promise<void> => {
  for (let i = 0; i < count; i++) await new Promise((resolve) => setImmediate(resolve));
};

describe('chains of plugins', () => {
  useCniGround();
  let held: Held;
  beforeEach(() => (held = new Held()));
  afterEach(() => mock.timers.reset());
  /** From here on no turn is taken back, however busy the machine is. */
  const stopTheClock = (): void => mock.timers.enable({ apis: ['setTimeout'] });

  /** Pods that are in the network. */
  const joined = async (count: number) => {
    const pods = Array.from({ length: count }, () => pod());
    for (const each of pods) await network.add(op, each);
    return pods;
  };

  it('take turns: so many at once, and all in the end', async () => {
    const pods = await joined(5 * PLACES);
    stopTheClock();
    plugins.behaviours.set(
      'portmap DEL',
      held.run(() => ok('')),
    );
    const left = Promise.all(pods.map((each) => network.destroy(op, each.id)));
    await until(() => held.begun === PLACES);
    await turns();
    assert.equal(held.begun, PLACES);
    held.end();
    await until(() => held.begun === PLACES + 1);
    plugins.behaviours.delete('portmap DEL');
    held.endAll();
    await left;
    assert.deepEqual(await network.list(), []);
    assert.isAtMost(plugins.mostAtOnce, PLACES);
  });

  it('are fair: a pod that comes while a hundred leave waits for a few of them only', async () => {
    const pods = await joined(100);
    stopTheClock();
    plugins.behaviours.set(
      'portmap DEL',
      held.run(() => ok('')),
    );
    const left = Promise.all(pods.map((each) => network.destroy(op, each.id)));
    await until(() => held.begun === PLACES);
    plugins.calls.length = 0;
    const waiting = Promise.withResolvers<void>();
    const coming = network.add({ ...op, stage: () => waiting.resolve() }, pod());
    await waiting.promise;
    held.end();
    held.end();
    await coming;
    assert.isBelow(held.begun, PLACES + 3);
    plugins.behaviours.delete('portmap DEL');
    held.endAll();
    await left;
  });

  it('show where they wait, and the wait is none of the plugins’ time', async () => {
    stopTheClock();
    plugins.behaviours.set('bridge ADD', held.run(added));
    const first = Array.from({ length: PLACES }, () => network.add(op, pod()));
    await until(() => held.begun === PLACES);
    const stages: string[] = [];
    let deadline = 0;
    plugins.behaviours.set('portmap ADD', (own) => {
      deadline = own.deadline;
      return added();
    });
    const waiting = network.add({ ...op, stage: (what: string) => void stages.push(what) }, pod());
    await until(() => stages.length > 0);
    assert.deepEqual(stages, ['wait for a turn of network net']);
    const waited = performance.now();
    held.end();
    await until(() => held.begun === PLACES + 1);
    held.endAll();
    await Promise.all([...first, waiting]);
    assert.deepEqual(stages.slice(1), ['cni add: bridge', 'cni add: portmap']);
    assert.isAtLeast(deadline, waited + limits.cniAddMs);
  });

  it('leave nothing of who gives up while it waits, and no plugin runs for it', async () => {
    stopTheClock();
    plugins.behaviours.set('bridge ADD', held.run(added));
    const first = Array.from({ length: PLACES }, () => network.add(op, pod()));
    await until(() => held.begun === PLACES);
    const giveUp = new AbortController();
    const given: Op = { ...op, signal: giveUp.signal };
    const request = pod({ portMappings: [{ protocol: 'tcp', containerPort: 1, hostPort: 2, hostIp: '' }] });
    const waiting = refusal(network.add(given, request), 'Cancelled');
    await until(() => plugins.calls.length === PLACES);
    while (!(await network.list()).includes(request.id)) await turns(1);
    await turns();
    giveUp.abort();
    assert.match(await waiting, /wait for a turn of network net/);
    assert.notInclude(await network.list(), request.id);
    assert.isFalse(plugins.calls.some(({ id }) => id === request.id));
    held.endAll();
    await Promise.all(first);
    plugins.behaviours.delete('bridge ADD');
    // Its place was nobody's: the next pod comes at once.
    await network.add(op, pod());
  });

  it('that are given up while they wait to give back are found by the next try', async () => {
    const pods = await joined(PLACES + 1);
    stopTheClock();
    plugins.behaviours.set(
      'portmap DEL',
      held.run(() => ok('')),
    );
    const first = pods.slice(0, PLACES).map((each) => network.destroy(op, each.id));
    await until(() => held.begun === PLACES);
    const last = pods.at(-1)?.id;
    assert.isDefined(last);
    const giveUp = new AbortController();
    const stage = (): void => queueMicrotask(() => giveUp.abort());
    await refusal(network.destroy({ ...op, signal: giveUp.signal, stage }, last), 'Cancelled');
    assert.include(await network.list(), last);
    held.endAll();
    await Promise.all(first);
    plugins.behaviours.delete('portmap DEL');
    await network.destroy(op, last);
    assert.deepEqual(await network.list(), []);
  });

  it('that hang do not keep their network for ever, and other networks not at all', async () => {
    const other = await joined(1);
    await configure(conflist({ name: 'second' }), '05-second.conflist');
    changed();
    await until(() => network.inUse?.name === 'second');
    stopTheClock();
    plugins.behaviours.set('bridge ADD', held.run(added));
    const hanging = Array.from({ length: PLACES }, () => network.add(op, pod()));
    await until(() => held.begun === PLACES);
    plugins.behaviours.delete('bridge ADD');
    await network.destroy(op, other[0]?.id as never);
    const stages: string[] = [];
    const waiting = network.add({ ...op, stage: (what: string) => void stages.push(what) }, pod());
    await until(() => stages.length === 1);
    assert.deepEqual(stages, ['wait for a turn of network second']);
    mock.timers.tick(limits.cniTurnMs);
    await waiting;
    held.endAll();
    await Promise.all(hanging);
  });
});

import { assert } from 'chai';
import { explain, RuntimeError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import type { StartingState } from '../ports/state.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { containerStatus } from './query.ts';
import { decideStart, type StartFacts } from './start.ts';

const starting: StartingState = {
  phase: 'starting',
  process: { pid: 7, startTicks: 42n },
  startedAt: 10n,
  executed: false,
  failure: '',
};
const facts: StartFacts = { status: 'created', hasExecuted: false, processAlive: true, exit: undefined };

describe('what has become of a start', () => {
  const verdict = (change: Partial<StartFacts>, state = starting): string | undefined =>
    decideStart(state, { ...facts, ...change })?.type;

  it('is what the runtime says of a process that lives', () => {
    const all = ['creating', 'created', 'running', 'paused', 'stopped', 'absent', undefined] as const;
    assert.deepEqual(
      all.map((status) => `${status} ${verdict({ status })}`),
      [
        'creating notStarted',
        'created notStarted',
        'running started',
        'paused started',
        'stopped undefined',
        'absent lost',
        'undefined undefined',
      ],
    );
  });

  it('is started, whatever the runtime says, when its process has executed a program since', () => {
    assert.strictEqual(verdict({ status: 'created', hasExecuted: true }), 'started');
    assert.strictEqual(verdict({ status: undefined, hasExecuted: true }), 'started');
    assert.strictEqual(
      verdict({ status: 'created', hasExecuted: true }, { ...starting, executed: true }),
      'notStarted',
    );
  });

  it('is its end, if that is known or can be waited for', () => {
    const exit = { id: 'x' as ContainerId, exitCode: 3, oomKilled: false, finishedAt: 20n };
    assert.strictEqual(verdict({ exit }), 'exited');
    assert.strictEqual(verdict({ exit, processAlive: false, status: 'absent' }), 'exited');
    assert.isUndefined(verdict({ processAlive: false, status: 'running' }));
  });
});

describe('a start', () => {
  const at = ground();
  const status = (id: ContainerId): ReturnType<typeof containerStatus> => containerStatus(at.mind.containers.get(id));
  const refusal = (): RuntimeError => new RuntimeError('Internal', 'the hook said no');

  function program(id: ContainerId, script: string): void {
    const { bundle } = at.mind.containers.get(id);
    at.node.node.specs.set(bundle, { process: { args: ['sh', '-c', script] }, linux: {} } as unknown as RuntimeSpec);
  }

  it('is on record before the runtime is told, and shown as created until the program runs', async () => {
    const { id } = await at.created();
    const release = at.node.node.hangNext('start');
    const started = at.mind.containers.start(op(), id);
    await until(() => at.node.node.calls.get('start') === 1);
    assert.strictEqual(at.mind.containers.get(id).state.phase, 'starting');
    assert.deepEqual([status(id).state, status(id).startedAt], ['CONTAINER_CREATED', 0n]);
    assert.strictEqual((await fails(mustNotExec(id))).code, 'NotFound');
    release();
    await started;
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
    assert.isTrue(status(id).startedAt > 0n);
  });

  const mustNotExec = (id: ContainerId): Promise<unknown> => at.mind.execs.execSync(op(), id, ['true'], 0);

  it('that had its effect when the daemon died is a container that runs, with its exit code later', async () => {
    const { id, pod } = await at.created();
    at.node.node.crashNext('start', 'after');
    void at.mind.containers.start(op(), id);
    await until(() => at.node.node.dead);
    await at.restart();
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
    assert.isTrue(status(id).startedAt > 0n);
    assert.strictEqual((await at.mind.execs.execSync(op(), id, ['echo', 'hi'], 0)).exitCode, 0);
    assert.strictEqual((await fails(at.mind.containers.start(op(), id))).code, 'FailedPrecondition');
    await at.node.node.exit(id, 7);
    await until(() => status(id).state === 'CONTAINER_EXITED');
    assert.strictEqual(status(id).exitCode, 7);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('that had no effect when the daemon died leaves a created container, which starts when asked again', async () => {
    const { id } = await at.created();
    at.node.node.crashNext('start', 'before');
    void at.mind.containers.start(op(), id);
    await until(() => at.node.node.dead);
    await at.restart();
    assert.strictEqual(status(id).state, 'CONTAINER_CREATED');
    await at.mind.containers.start(op(), id);
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
  });

  it('that goes on without its daemon is waited for before anybody says that it had no effect', async () => {
    const { id } = await at.created();
    at.node.node.crashNext('start', 'before');
    void at.mind.containers.start(op(), id);
    await until(() => at.node.node.dead);
    const underWay = Promise.withResolvers<void>();
    at.node.node.startsUnderWay.set(id, underWay.promise);
    at.mind.close();
    const booting = at.node.boot();
    await until(() => at.node.node.startsAsked.has(id));
    await at.node.node.startByHand(id);
    underWay.resolve();
    at.mind = await booting;
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
  });

  it('whose program has ended when the next daemon comes has its exit code', async () => {
    const { id } = await at.created();
    program(id, 'exit 5');
    at.node.node.crashNext('start', 'after');
    void at.mind.containers.start(op(), id);
    await until(() => at.node.node.dead);
    await at.restart();
    assert.deepEqual([status(id).state, status(id).exitCode], ['CONTAINER_EXITED', 5]);
  });

  it('that the runtime says has failed, though the program runs, is a container that runs', async () => {
    const { id } = await at.created();
    at.node.node.failNext('start', refusal(), 'after');
    await at.mind.containers.start(op(), id);
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
    await at.node.node.exit(id, 7);
    await until(() => status(id).state === 'CONTAINER_EXITED');
    assert.deepEqual([status(id).exitCode, status(id).reason], [7, 'Error']);
  });

  it('that the runtime refuses leaves a created container, and says why; asked again it starts', async () => {
    const { id } = await at.created();
    at.node.node.failNext('start', refusal());
    assert.include(explain(await fails(at.mind.containers.start(op(), id))), 'the hook said no');
    assert.strictEqual(status(id).state, 'CONTAINER_CREATED');
    await at.mind.containers.start(op(), id);
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
  });

  it('that fails with its process has the exit code that the monitor wrote, and the reason', async () => {
    const { id } = await at.created();
    program(id, 'exit 3');
    at.node.node.failNext('start', refusal(), 'after');
    await fails(at.mind.containers.start(op(), id));
    assert.deepEqual([status(id).state, status(id).exitCode, status(id).reason], ['CONTAINER_EXITED', 3, 'Error']);
    assert.include(status(id).message, 'the hook said no');
  });

  it('that fails with its process waits for a monitor that drains its output yet, also across a restart', async () => {
    const { id } = await at.created();
    program(id, 'exit 3');
    const drained = Promise.withResolvers<void>();
    at.node.node.drainGate = drained.promise;
    at.node.node.failNext('start', refusal(), 'after');
    void at.mind.containers.start(op(), id).catch(() => {});
    await until(() => {
      const { state } = at.mind.containers.get(id);
      return state.phase === 'starting' && state.failure !== '';
    });
    await at.restart();
    drained.resolve();
    await until(() => status(id).state === 'CONTAINER_EXITED');
    assert.strictEqual(status(id).exitCode, 3);
    assert.include(status(id).message, 'the hook said no');
  });

  it('that fails with its process and its monitor is a start error', async () => {
    const { id } = await at.created();
    const release = at.node.node.hangNext('start');
    const started = fails(at.mind.containers.start(op(), id));
    await until(() => at.node.node.calls.get('start') === 1);
    await at.node.node.killMonitor(id);
    await at.node.node.exit(id, 3);
    release();
    await started;
    assert.deepEqual([status(id).reason, status(id).exitCode], ['StartError', 128]);
    assert.include(status(id).message, 'cannot start a container that is stopped');
  });

  it('of a container that the runtime has forgotten, though its process lives, leaves it unknown', async () => {
    const { id, pod } = await at.created();
    at.node.node.failNext('start', refusal());
    at.node.node.containers.delete(id);
    await fails(at.mind.containers.start(op(), id));
    assert.strictEqual(status(id).state, 'CONTAINER_UNKNOWN');
    assert.include(status(id).message, 'the runtime does not know it');
    await at.mind.containers.stop(op(), id, 0);
    assert.strictEqual(status(id).exitCode, 137);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('of which the runtime does not answer what became is asked about again', async () => {
    const { id } = await at.created();
    const own = at.node.node.containers.get(id);
    assert.isDefined(own);
    at.node.node.failNext('start', refusal(), 'after');
    at.node.node.failNext('status', boom());
    // As a runtime whose process says nothing: it had executed a program before.
    own.process.executed = true;
    await fails(at.mind.containers.start(op(), id));
    assert.strictEqual(status(id).state, 'CONTAINER_CREATED');
    assert.deepInclude(
      at.mind.operations().map(({ rpc, ids }) => ({ rpc, container: ids['container'] })),
      { rpc: 'find out whether a container was started', container: id },
    );
    // Whoever asks for it again asks, too.
    await at.mind.containers.start(op(), id);
    assert.strictEqual(status(id).state, 'CONTAINER_RUNNING');
    await until(() => at.mind.operations().length === 0);
  });

  it('is carried through when its client leaves', async () => {
    const { id } = await at.created();
    const release = at.node.node.hangNext('start');
    const client = new AbortController();
    const call = fails(at.mind.containers.start({ ...op(), signal: client.signal }, id));
    await until(() => at.node.node.calls.get('start') === 1);
    client.abort();
    assert.include((await call).message, 'still being started');
    release();
    await until(() => status(id).state === 'CONTAINER_RUNNING');
  });

  it('that hangs keeps no kill waiting', async () => {
    const { id } = await at.created();
    const release = at.node.node.hangNext('start');
    const started = fails(at.mind.containers.start(op(), id));
    await until(() => at.node.node.calls.get('start') === 1);
    const stopped = at.mind.containers.stop(op(), id, 0);
    await until(() => at.node.node.containers.get(id)?.process.alive === false);
    release();
    await Promise.all([started, stopped]);
    assert.deepEqual([status(id).state, status(id).exitCode], ['CONTAINER_EXITED', 137]);
  });

  it('is refused of a container that is being stopped', async () => {
    const { id } = await at.created();
    const drained = Promise.withResolvers<void>();
    at.node.node.drainGate = drained.promise;
    const stopped = at.mind.containers.stop(op(), id, 0);
    await until(() => at.mind.containers.get(id).stopping !== null);
    assert.include((await fails(at.mind.containers.start(op(), id))).message, 'is being stopped');
    drained.resolve();
    await stopped;
  });
});

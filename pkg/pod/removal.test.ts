import { assert } from 'chai';
import { join } from 'node:path';
import { codeOf, RuntimeError } from '../base/errors.ts';
import { boom, fails, ground, op, until } from './fake-ground.ts';
import { fakeContainer, fakePod } from './fake-world.ts';
import { FileStateStore } from '../state/index.ts';

describe('a removal', () => {
  const at = ground();

  it('removes a running container by force, and removing twice is fine', async () => {
    const { id, pod } = await at.running();
    await Promise.all([at.mind.containers.remove(op(), id), at.mind.containers.remove(op(), id)]);
    assert.lengthOf(at.mind.containers.list(), 0);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it(
    'removes a container that has just ended without waiting for the runtime, and the pod waits ' +
      'for what is left of it',
    async () => {
      const { id, pod } = await at.running();
      const deleted = at.node.node.hangNext('delete');
      await at.mind.containers.stop(op(), id, 0);
      await at.mind.containers.remove(op(), id);
      assert.lengthOf(at.mind.containers.list(), 0);
      assert.deepEqual([...at.node.roots], [], 'what was on disk is given back');
      assert.isTrue(at.node.node.containers.has(id), 'the runtime has not deleted it yet');
      assert.deepInclude(
        at.mind.operations().map(({ rpc, ids }) => ({ rpc, container: ids['container'] })),
        { rpc: 'clean-up after the removal', container: id },
      );
      await at.mind.containers.remove(op(), id);
      const removed = at.mind.pods.remove(op(), pod);
      await until(() => at.mind.pods.get(pod).state.phase === 'stopped');
      assert.isTrue(at.node.node.containers.has(id));
      deleted();
      await removed;
      assert.deepEqual(at.node.leaks(), []);
    },
  );

  it('tells who waits for the end of a container before it begins with what the runtime has of it', async () => {
    const { id, pod } = await at.running();
    await at.mind.containers.stop(op(), id, 0);
    const stages = at.mind.operations().map(({ rpc, stage }) => ({ rpc, stage }));
    assert.deepEqual(stages, [{ rpc: 'clean-up after the end', stage: '' }]);
    await until(() => at.mind.operations().length === 0);
    assert.isFalse(at.node.node.containers.has(id));
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('tries what is left of a removed container again with its pod, and says what fails', async () => {
    const { id, pod } = await at.running();
    const deleted = at.node.node.hangNext('delete');
    await at.mind.containers.stop(op(), id, 0);
    await at.mind.containers.remove(op(), id);
    // The clean-up after the end, that after the removal, and the first one of the pod.
    at.node.node.failNext('destroyMonitor', boom());
    at.node.node.failNext('delete', boom());
    at.node.node.failNext('delete', boom());
    deleted();
    await until(() => at.mind.operations().length === 0);
    assert.match((await fails(at.mind.pods.remove(op(), pod))).message, /destroy process \(fake\) of container/);
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('says that the machine is full where a clean-up fails of it, and passes on no other code (K17)', async () => {
    for (const [cause, code] of [
      [new RuntimeError('ResourceExhausted', 'pipe2: Too many open files'), 'ResourceExhausted'],
      [new RuntimeError('NotFound', 'no such file'), 'Internal'],
    ] as const) {
      const pod = await at.mind.pods.run(op(), fakePod(), 'fake');
      at.node.node.failNext('del', cause);
      assert.strictEqual(codeOf(await fails(at.mind.pods.stop(op(), pod))), code);
      await at.mind.pods.remove(op(), pod);
    }
    assert.deepEqual(at.node.leaks(), []);
  });

  it('passes on what a CNI plugin is in want of, unless something else fails, and that of no other step', async () => {
    const missing = (): RuntimeError =>
      new RuntimeError('FailedPrecondition', 'CNI plugin bridge is not in /x; install it');
    for (const [fail, code, says] of [
      [[['del', missing()]], 'FailedPrecondition', /destroy network of pod sandbox .*: CNI plugin bridge .*install it/],
      [[['del', new RuntimeError('Unavailable', 'later')]], 'Unavailable', /later/],
      [
        [
          ['del', missing()],
          ['unmount', boom()],
        ],
        'Internal',
        /install it.*boom/,
      ],
      [[['unmount', missing()]], 'Internal', /destroy shm/],
    ] as const) {
      const pod = await at.mind.pods.run(op(), fakePod(), 'fake');
      for (const [operation, cause] of fail) at.node.node.failNext(operation, cause);
      const refused = await fails(at.mind.pods.stop(op(), pod));
      assert.match(refused.message, says);
      assert.strictEqual(codeOf(refused), code);
      await at.mind.pods.remove(op(), pod);
    }
    assert.deepEqual(at.node.leaks(), []);
  });

  it('removes a pod whose runtime handler is not configured any more', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), 'fake');
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    await at.mind.containers.start(op(), id);
    at.node.handlers.delete('fake');
    await at.restart();
    await at.mind.containers.remove(op(), id);
    await at.mind.pods.remove(op(), pod);
    assert.lengthOf(at.mind.containers.list(), 0);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('removes its process with its cgroup where nobody wrote down which runtime that was', async () => {
    const pod = await at.mind.pods.run(op(), fakePod(), 'fake');
    const id = await at.mind.containers.create(op(), pod, fakeContainer());
    await at.mind.containers.start(op(), id);
    at.node.handlers.delete('fake');
    const state = new FileStateStore(join(at.node.directory, 'run'));
    const { sandboxes, containers } = await state.load();
    for (const record of [...sandboxes, ...containers]) await state.save({ ...record, runtime: null });
    await at.restart();
    await at.mind.containers.remove(op(), id);
    await at.mind.pods.remove(op(), pod);
    assert.lengthOf(at.mind.containers.list(), 0);
    assert.deepEqual(at.node.leaks(), [`container ${id}`], 'nothing but the state of the runtime that we do not know');
  });

  it('asks the runtime that made the pod, whichever is the default by now', async () => {
    const { id, pod } = await at.running();
    at.node.defaultHandler = 'other';
    const after = await at.mind.containers.create(op(), pod, fakeContainer('second'));
    await at.mind.containers.start(op(), after);
    assert.deepEqual(
      [id, after].map((each) => at.node.node.containers.get(each)?.root),
      ['/fake/run/fake', '/fake/run/fake'],
      'a pod keeps its runtime for later containers, too',
    );
    const younger = await at.mind.pods.run(op(), fakePod('younger'), '');
    const its = await at.mind.containers.create(op(), younger, fakeContainer());
    assert.equal(at.node.node.containers.get(its)?.root, '/fake/run/other');
    await at.restart();
    for (const each of [pod, younger]) await at.mind.pods.remove(op(), each);
    assert.deepEqual(at.node.leaks(), []);
  });

  it('goes on with the removal of a container that had just ended', async () => {
    const { id, pod } = await at.running();
    at.node.node.hangNext('delete');
    await at.mind.containers.stop(op(), id, 0);
    await until(() => at.mind.operations().some(({ stage }) => stage !== ''));
    await at.mind.containers.remove(op(), id);
    await at.restart();
    assert.lengthOf(at.mind.containers.list(), 0);
    assert.isFalse(at.node.node.containers.has(id));
    await at.mind.pods.remove(op(), pod);
    assert.deepEqual(at.node.leaks(), []);
  });
});

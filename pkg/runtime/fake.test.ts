import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { newContainerId, newSandboxId } from '../base/ids.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import { createContainer, refusal, runContainer, runtimeConformance, type Subject, testOp } from './conformance.ts';
import { boot, FakeNode, type FakeView } from './fake.ts';

function subjectOn(node: FakeNode, view: FakeView = boot(node)): Subject {
  return {
    ...view,
    prepare(args, { tty }) {
      const id = newContainerId();
      const bundle = `/fake/containers/${id}`;
      node.specs.set(bundle, fakeSpec(args, tty, `/fake-pods/${id}`));
      return Promise.resolve({ id, bundle, logPath: `${bundle}.log` });
    },
    process: (args, { tty }) => fakeSpec(args, tty, '').process,
    readLog: (path) => Promise.resolve([...(node.logs.get(path) ?? [])]),
    moveLog(from, to) {
      node.logs.set(to, node.logs.get(from) ?? []);
      node.logs.delete(from);
      return Promise.resolve();
    },
    close() {
      assert.deepEqual(node.leaks(), []);
      return Promise.resolve();
    },
  };
}

function fakeSpec(args: readonly string[], tty: boolean, cgroupsPath: string): RuntimeSpec {
  return {
    ociVersion: '1.0.2',
    process: { terminal: tty, user: { uid: 0, gid: 0 }, args: [...args], env: [], cwd: '/' },
    root: { path: 'rootfs' },
    mounts: [],
    linux: { namespaces: [], cgroupsPath },
  };
}

runtimeConformance('the fake runtime and monitor', () => Promise.resolve(subjectOn(new FakeNode())));

describe('FakeNode', () => {
  it('fails what it is told to fail, once, before or after the effect', async () => {
    const node = new FakeNode();
    const subject = subjectOn(node);
    node.failNext('create', new RuntimeError('Internal', 'planned'));
    assert.strictEqual((await refusal(createContainer(subject, ['true']))).message, 'planned');
    assert.deepEqual(node.leaks(), []);
    node.failNext('create', new RuntimeError('Internal', 'planned too'), 'after');
    assert.strictEqual((await refusal(createContainer(subject, ['true']))).message, 'planned too');
    assert.lengthOf(node.containers, 1, 'the effect stays');
    await createContainer(subject, ['true']);
    assert.lengthOf(node.containers, 2);
  });

  it('keeps everything across a crash, and the dead daemon never hears of it', async () => {
    const node = new FakeNode();
    const before = subjectOn(node);
    const container = await runContainer(before, ['sleep', '1']);
    node.crashNext('pause', 'after');
    let answered = false;
    void before.runtime.pause(testOp(), container.id).finally(() => {
      answered = true;
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.isFalse(answered);
    const after = boot(node);
    assert.deepEqual(await after.runtime.status(testOp(), container.id), {
      state: 'paused',
      pid: container.process.pid,
    });
    await node.exit(container.id, 3);
    assert.strictEqual((await after.monitor.exitOf(container.id))?.exitCode, 3);
    assert.isFalse(after.processes.alive(container.process));
  });

  it('loses the exit of a container whose monitor is dead', async () => {
    const node = new FakeNode();
    const subject = subjectOn(node);
    const container = await runContainer(subject, ['sleep', '1']);
    await node.killMonitor(container.id);
    await node.exit(container.id, 3);
    assert.isUndefined(await subject.monitor.exitOf(container.id));
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), { state: 'stopped', pid: 0 });
  });

  it('hangs until released or until the operation is over', async () => {
    const node = new FakeNode();
    const view = boot(node);
    const release = node.hangNext('pin');
    const pinning = view.namespaces.pin(testOp(), newSandboxId(), {
      kinds: ['net'],
      sysctls: new Map(),
      hostname: '',
      idMap: null,
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.lengthOf(node.pins, 0);
    release();
    await pinning;
    assert.lengthOf(node.pins, 1);
    node.hangNext('list');
    const cancel = new AbortController();
    const listing = refusal(view.runtime.list({ ...testOp(), signal: cancel.signal }));
    cancel.abort();
    assert.strictEqual((await listing).code, 'Cancelled');
  });

  it('forgets all but the disk when the machine restarts', async () => {
    const node = new FakeNode();
    await runContainer(subjectOn(node), ['sleep', '1']);
    node.reboot();
    assert.deepEqual(node.leaks(), []);
  });
});

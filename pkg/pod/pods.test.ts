import { assert } from 'chai';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { codeOf, RuntimeError } from '../base/errors.ts';
import type { ImageSpec } from '../cri-api/types.ts';
import type { ContainerId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { FakeSurroundings, fakeContainer, fakeImage, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';
import { containerStatus, podSandboxStatus } from './query.ts';

const op = (): Op => backgroundOp(silent);
const boom = (): RuntimeError => new RuntimeError('Internal', 'boom');

async function fails(work: Promise<unknown>): Promise<RuntimeError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Waits until `condition` holds; every turn of the loop gives the fakes and the disk a chance. */
async function until(condition: () => boolean): Promise<void> {
  for (const end = Date.now() + 8_000; Date.now() < end; ) {
    if (condition()) return;
    await new Promise((resolve) => setImmediate(resolve));
  }
  throw new Error('the condition never came true');
}

describe('the mind', () => {
  let node: FakeSurroundings;
  let mind: OpenPods;

  beforeEach(async () => {
    node = await FakeSurroundings.make();
    mind = await node.boot();
  });
  afterEach(async () => {
    mind.close();
    await node.dispose();
  });

  async function running(
    name = 'app',
  ): Promise<{ pod: Awaited<ReturnType<OpenPods['pods']['run']>>; id: ContainerId }> {
    const pod = await mind.pods.run(op(), fakePod(), '');
    const id = await mind.containers.create(op(), pod, fakeContainer(name));
    await mind.containers.start(op(), id);
    return { pod, id };
  }

  describe('sandboxes', () => {
    it('runs a pod, shows it ready with its address, and gives everything back', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      const status = podSandboxStatus(mind.pods.get(pod));
      assert.strictEqual(status.state, 'SANDBOX_READY');
      assert.match(status.network?.ip ?? '', /^10\.0\.0\.\d+$/);
      assert.notStrictEqual(status.createdAt, 0n);
      await mind.pods.remove(op(), pod);
      assert.lengthOf(mind.pods.list(), 0);
      assert.deepEqual(node.leaks(), []);
    });

    it('gives one id to twenty identical requests at once (K20), and to one that comes later', async () => {
      const ids = await Promise.all(Array.from({ length: 20 }, () => mind.pods.run(op(), fakePod(), '')));
      assert.lengthOf(new Set(ids), 1);
      assert.strictEqual(await mind.pods.run(op(), fakePod(), ''), ids[0]);
      assert.lengthOf(mind.pods.list(), 1);
    });

    it('refuses the same name with another config, in flight and afterwards', async () => {
      const first = mind.pods.run(op(), fakePod(), '');
      const other = fails(mind.pods.run(op(), fakePod('web', 0, { hostname: 'other' }), ''));
      await first;
      assert.strictEqual((await other).code, 'AlreadyExists');
      assert.strictEqual(
        (await fails(mind.pods.run(op(), fakePod('web', 0, { hostname: 'third' }), ''))).code,
        'AlreadyExists',
      );
    });

    it('goes on when the client leaves, says where it is, and lets the retry claim the result', async () => {
      const gate = Promise.withResolvers<void>();
      node.addGate = gate.promise;
      const impatient = new AbortController();
      const stages: string[] = [];
      const call = fails(
        mind.pods.run(
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
      assert.lengthOf(mind.pods.list(), 0, 'a half-made pod must not be listed');
      const retry = mind.pods.run(op(), fakePod(), '');
      gate.resolve();
      const id = await retry;
      assert.strictEqual(mind.pods.get(id).state.phase, 'ready');
      assert.strictEqual(node.networks.size, 1);
    });

    it('leaves nothing behind when CNI ADD fails after its effect', async () => {
      node.failures.set('add', [boom()]);
      const error = await fails(mind.pods.run(op(), fakePod(), ''));
      assert.include(error.message, 'run pod sandbox web_default_uid-web_0');
      assert.deepEqual(node.leaks(), []);
      assert.strictEqual(mind.pods.get(await mind.pods.run(op(), fakePod(), '')).state.phase, 'ready');
    });

    it('cleans up a failed attempt whose clean-up failed, before the retry makes a new one', async () => {
      node.failures.set('add', [boom()]);
      node.failures.set('del', [boom()]);
      await fails(mind.pods.run(op(), fakePod(), ''));
      assert.isNotEmpty(node.leaks());
      const pod = await mind.pods.run(op(), fakePod(), '');
      await mind.pods.remove(op(), pod);
      assert.deepEqual(node.leaks(), []);
    });

    it('shares one PID namespace by an infra container, which goes with the pod', async () => {
      const config = fakePod('shared');
      const options = config.linux?.securityContext?.namespaceOptions;
      assert.isDefined(options);
      const pod = await mind.pods.run(
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
      assert.strictEqual(node.node.containers.size, 1);
      await mind.pods.stop(op(), pod);
      assert.strictEqual(podSandboxStatus(mind.pods.get(pod)).state, 'SANDBOX_NOTREADY');
      assert.deepEqual(node.leaks(), []);
      await mind.pods.remove(op(), pod);
    });

    it('stops containers before it takes the network away, and can be asked twice', async () => {
      const { pod, id } = await running();
      const seen: string[] = [];
      mind.subscribe((event) => seen.push(`${event.type} ${event.record.kind}`));
      await Promise.all([mind.pods.stop(op(), pod), mind.pods.stop(op(), pod)]);
      await mind.pods.stop(op(), pod);
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 137);
      assert.deepEqual(seen, ['stopped sandbox', 'stopped container']);
      assert.strictEqual(node.networks.size, 0);
    });

    it('stays stopping when the network cannot be given back, and tries again', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      node.failures.set('del', [boom()]);
      await fails(mind.pods.stop(op(), pod));
      assert.strictEqual(mind.pods.get(pod).state.phase, 'stopping');
      await mind.pods.stop(op(), pod);
      assert.strictEqual(mind.pods.get(pod).state.phase, 'stopped');
      assert.strictEqual((await fails(mind.containers.create(op(), pod, fakeContainer()))).code, 'FailedPrecondition');
    });

    it('answers NotFound for an unknown id, and finds by prefix', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      assert.strictEqual(mind.pods.get(pod.slice(0, 8)).id, pod);
      assert.throws(() => mind.pods.get('f00dfeed'), /no pod sandbox has the id/);
      assert.isUndefined(mind.pods.find(pod.slice(0, 3)), 'three characters are too few');
    });
  });

  describe('containers', () => {
    it('creates, starts and reports the exit code', async () => {
      const { id } = await running();
      assert.strictEqual(containerStatus(mind.containers.get(id)).state, 'CONTAINER_RUNNING');
      await node.node.exit(id, 7);
      await until(() => mind.containers.get(id).state.phase === 'exited');
      const status = containerStatus(mind.containers.get(id));
      assert.deepEqual([status.exitCode, status.reason], [7, 'Error']);
      assert.isTrue(status.finishedAt >= status.startedAt && status.startedAt > 0n);
    });

    it('reports an OOM kill', async () => {
      const { id } = await running();
      await node.node.exit(id, 137, { oomKilled: true });
      await until(() => mind.containers.get(id).state.phase === 'exited');
      assert.strictEqual(containerStatus(mind.containers.get(id)).reason, 'OOMKilled');
    });

    it('gives one id to identical creates', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      const ids = await Promise.all(
        Array.from({ length: 5 }, () => mind.containers.create(op(), pod, fakeContainer())),
      );
      assert.lengthOf(new Set(ids), 1);
    });

    it('keeps a container whose start failed, with the reason', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      const id = await mind.containers.create(op(), pod, fakeContainer());
      node.node.failNext('start', new RuntimeError('Internal', 'exec: "nope": executable file not found'));
      await fails(mind.containers.start(op(), id));
      const status = containerStatus(mind.containers.get(id));
      assert.deepEqual([status.state, status.reason, status.exitCode], ['CONTAINER_EXITED', 'StartError', 128]);
      assert.include(status.message, 'executable file not found');
    });

    it('leaves nothing behind when any step of a create fails', async () => {
      for (const step of ['create', 'mountSource'] as const) {
        const pod = await mind.pods.run(op(), fakePod(step), '');
        const before = node.leaks();
        node.node.failNext(step, boom());
        const mount = {
          containerPath: '/data',
          hostPath: '/srv',
          readonly: false,
          selinuxRelabel: false,
          propagation: 'PROPAGATION_PRIVATE',
          uidMappings: [],
          gidMappings: [],
          recursiveReadOnly: false,
          imageSubPath: '',
          mountOptions: [],
        } as const;
        await fails(mind.containers.create(op(), pod, fakeContainer('c', 0, { mounts: [mount] })));
        assert.deepEqual(node.leaks(), before, step);
        assert.lengthOf(mind.containers.list(), 0);
      }
    });

    it(
      'asks whether the namespace may use its images, by the names that the pod gives them, and ' + 'heeds the answer',
      async () => {
        const pod = await mind.pods.run(
          op(),
          fakePod('web', 0, { metadata: { name: 'web', uid: 'u', namespace: 'prod', attempt: 0 } }),
          '',
        );
        const image = (userSpecifiedImage: string): ImageSpec => ({
          image: fakeImage.id,
          annotations: {},
          userSpecifiedImage,
          runtimeHandler: '',
          imageRef: '',
        });
        const volume = {
          containerPath: '/data',
          hostPath: '',
          readonly: true,
          selinuxRelabel: false,
          propagation: 'PROPAGATION_PRIVATE',
          uidMappings: [],
          gidMappings: [],
          recursiveReadOnly: false,
          image: image('reg/data:2'),
          imageSubPath: '',
          mountOptions: [],
        } as const;
        await mind.containers.create(op(), pod, fakeContainer('a', 0, { image: image('reg/app:1'), mounts: [volume] }));
        assert.deepEqual(node.imageUses, [`${fakeImage.id} reg/app:1 prod`, `${fakeImage.id} reg/data:2 prod`]);
        const before = node.leaks();
        node.failures.set('checkUse', [
          new RuntimeError('FailedPrecondition', 'not signed', { reason: 'SignatureValidationFailed' }),
        ]);
        assert.strictEqual(
          (await fails(mind.containers.create(op(), pod, fakeContainer('b')))).reason,
          'SignatureValidationFailed',
        );
        assert.deepEqual(node.leaks(), before);
      },
    );

    it('names what is missing: the image, the sandbox', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      const image = { ...fakeContainer().image, image: 'nowhere/none' };
      const error = await fails(mind.containers.create(op(), pod, fakeContainer('x', 0, { image })));
      assert.deepEqual([error.code, /pull it first/.test(error.message)], ['NotFound', true]);
      assert.strictEqual(
        codeOf(await fails(mind.containers.create(op(), 'f'.repeat(64) as never, fakeContainer()))),
        'NotFound',
      );
    });

    it('stops at once when asked with no grace, and a shorter grace overtakes a longer one', async () => {
      const { id } = await running();
      // The program of a fake container is sleep, which TERM ends; one that ignores it shows the kill.
      node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
      const slow = mind.containers.stop(op(), id, 3_600_000);
      await until(() => mind.containers.get(id).stopping !== null);
      await mind.containers.stop(op(), id, 0);
      await slow;
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 137);
    });

    it('sends the stop signal once and waits for a graceful end', async () => {
      const { id } = await running();
      await mind.containers.stop(op(), id, 60_000);
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 143);
      assert.isNull(mind.containers.get(id).stopping);
    });

    it('sends the stop signal when the program can hear it: one that has just started would lose it', async () => {
      const { id } = await running();
      const program = node.node.containers.get(id)?.process;
      assert.isDefined(program);
      program.deaf = true;
      const stopped = mind.containers.stop(op(), id, 60_000);
      await until(() => mind.containers.get(id).stopping !== null);
      program.deaf = false;
      await stopped;
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 143);
    });

    it('grants no grace to a container that was never started: there is no program to use it', async () => {
      const pod = await mind.pods.run(op(), fakePod(), '');
      const id = await mind.containers.create(op(), pod, fakeContainer());
      const runtimeInit = node.node.containers.get(id)?.process;
      assert.isDefined(runtimeInit);
      runtimeInit.deaf = true;
      await mind.containers.stop(op(), id, 60_000);
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 137);
    });

    it('does not lose a container whose monitor died with it: 255, never 0', async () => {
      const { id } = await running();
      await node.node.killMonitor(id);
      node.node.containers.get(id)?.process.exit(0);
      await until(() => mind.containers.get(id).state.phase === 'exited');
      assert.deepEqual(
        [containerStatus(mind.containers.get(id)).exitCode, containerStatus(mind.containers.get(id)).reason],
        [255, 'ContainerStatusUnknown'],
      );
    });

    it('does not blame the kernel for a stop that waits for the monitor, which drains the output yet', async () => {
      const { id } = await running();
      const drained = Promise.withResolvers<void>();
      node.node.drainGate = drained.promise;
      let stopping = true;
      const stopped = mind.containers
        .stop(op(), id, 0)
        .then(
          () => undefined,
          (error: unknown) => error,
        )
        .finally(() => void (stopping = false));
      await until(() => node.node.containers.get(id)?.process.alive === false);
      const { now } = Date;
      let looks = 0;
      try {
        Date.now = () => {
          looks++;
          return now() + limits.killGraceMs + 1_000;
        };
        while (looks < 2 && stopping) await new Promise((resolve) => setImmediate(resolve));
      } finally {
        Date.now = now;
      }
      drained.resolve();
      assert.isUndefined(await stopped);
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 137);
    });

    it('removes a running container by force, and removing twice is fine', async () => {
      const { id, pod } = await running();
      await Promise.all([mind.containers.remove(op(), id), mind.containers.remove(op(), id)]);
      assert.lengthOf(mind.containers.list(), 0);
      await mind.pods.remove(op(), pod);
      assert.deepEqual(node.leaks(), []);
    });

    it(
      'removes a container that has just ended without waiting for the runtime, and the pod waits ' +
        'for what is left of it',
      async () => {
        const { id, pod } = await running();
        const deleted = node.node.hangNext('delete');
        await mind.containers.stop(op(), id, 0);
        await mind.containers.remove(op(), id);
        assert.lengthOf(mind.containers.list(), 0);
        assert.deepEqual([...node.roots], [], 'what was on disk is given back');
        assert.isTrue(node.node.containers.has(id), 'the runtime has not deleted it yet');
        assert.deepInclude(
          mind.operations().map(({ rpc, ids }) => ({ rpc, container: ids['container'] })),
          { rpc: 'clean-up after the removal', container: id },
        );
        await mind.containers.remove(op(), id);
        const removed = mind.pods.remove(op(), pod);
        await until(() => mind.pods.get(pod).state.phase === 'stopped');
        assert.isTrue(node.node.containers.has(id));
        deleted();
        await removed;
        assert.deepEqual(node.leaks(), []);
      },
    );

    it('tries what is left of a removed container again with its pod, and says what fails', async () => {
      const { id, pod } = await running();
      const deleted = node.node.hangNext('delete');
      await mind.containers.stop(op(), id, 0);
      await mind.containers.remove(op(), id);
      // The clean-up after the end, that after the removal, and the first one of the pod.
      node.node.failNext('destroyMonitor', boom());
      node.node.failNext('delete', boom());
      node.node.failNext('delete', boom());
      deleted();
      await until(() => mind.operations().length === 0);
      assert.match((await fails(mind.pods.remove(op(), pod))).message, /destroy process \(fake\) of container/);
      await mind.pods.remove(op(), pod);
      assert.deepEqual(node.leaks(), []);
    });

    it('keeps the old resources when the runtime refuses new ones', async () => {
      const { id } = await running();
      const update = {
        cpuPeriod: 0n,
        cpuQuota: 0n,
        cpuShares: 512n,
        memoryLimitInBytes: 0n,
        oomScoreAdj: 0n,
        cpusetCpus: '',
        cpusetMems: '',
        hugepageLimits: [],
        unified: {},
        memorySwapLimitInBytes: 0n,
      };
      await mind.containers.update(op(), id, update);
      node.node.failNext('update', boom());
      await fails(mind.containers.update(op(), id, { ...update, cpuShares: 1024n }));
      assert.strictEqual(mind.containers.get(id).resources?.cpuShares, 512n);
    });

    it('runs commands in running containers only', async () => {
      const { id } = await running();
      const { stdout, exitCode } = await mind.execs.execSync(op(), id, ['echo', 'hi'], 0);
      assert.deepEqual([Buffer.from(stdout).toString(), exitCode], ['hi\n', 0]);
      await mind.containers.stop(op(), id, 0);
      assert.strictEqual((await fails(mind.execs.execSync(op(), id, ['true'], 0))).code, 'NotFound');
    });
  });

  describe('after a crash', () => {
    async function restart(): Promise<void> {
      mind.close();
      mind = await node.boot();
    }

    it('finds running containers running, and the exits of those that ended meanwhile (K6)', async () => {
      const { id, pod } = await running();
      const other = await mind.containers.create(op(), pod, fakeContainer('other'));
      await mind.containers.start(op(), other);
      mind.close();
      node.node.crash();
      await node.node.exit(other, 3);
      mind = await node.boot();
      assert.strictEqual(mind.containers.get(id).state.phase, 'running');
      assert.strictEqual(containerStatus(mind.containers.get(other)).exitCode, 3);
      await node.node.exit(id, 4);
      await until(() => mind.containers.get(id).state.phase === 'exited');
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 4);
    });

    it(
      'waits for a monitor that still drains the output of a container that has ended: its exit ' + 'code, not 255',
      async () => {
        const { id } = await running();
        const drained = Promise.withResolvers<void>();
        node.node.drainGate = drained.promise;
        mind.close();
        node.node.crash();
        await node.node.exit(id, 3);
        mind = await node.boot();
        assert.strictEqual(mind.containers.get(id).state.phase, 'running');
        drained.resolve();
        await until(() => mind.containers.get(id).state.phase === 'exited');
        assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 3);
      },
    );

    it('removes a pod whose runtime handler is not configured any more, its process with its cgroup', async () => {
      const pod = await mind.pods.run(op(), fakePod(), 'fake');
      const id = await mind.containers.create(op(), pod, fakeContainer());
      await mind.containers.start(op(), id);
      node.handlers.delete('fake');
      await restart();
      await mind.containers.remove(op(), id);
      await mind.pods.remove(op(), pod);
      assert.lengthOf(mind.containers.list(), 0);
      assert.deepEqual(node.leaks(), [`container ${id}`], 'nothing but the state of the runtime that we do not know');
    });

    it('gives everything back whatever instruction it dies at (K1, K2, K3)', async () => {
      const points = ['pin', 'mountShm', 'create', 'start'] as const;
      for (const point of points) {
        for (const moment of ['before', 'after'] as const) {
          node.node.crashNext(point, moment);
          void (async () => {
            const pod = await mind.pods.run(op(), fakePod(point), '');
            const id = await mind.containers.create(op(), pod, fakeContainer());
            await mind.containers.start(op(), id);
          })();
          await until(() => (node.node.calls.get(point) ?? 0) > 0);
          for (let turn = 0; turn < 200; turn++) await new Promise((resolve) => setImmediate(resolve));
          node.node.calls.clear();
          node.node.clearPlans();
          await restart();
          for (const pod of mind.pods.list()) await mind.pods.remove(op(), pod.id);
          assert.deepEqual(node.leaks(), [], `${point} ${moment}`);
          assert.lengthOf(mind.containers.list(), 0);
        }
      }
    });

    it('goes on with the removal of a container that had just ended', async () => {
      const { id, pod } = await running();
      node.node.hangNext('delete');
      await mind.containers.stop(op(), id, 0);
      await mind.containers.remove(op(), id);
      await restart();
      assert.lengthOf(mind.containers.list(), 0);
      assert.isFalse(node.node.containers.has(id));
      await mind.pods.remove(op(), pod);
      assert.deepEqual(node.leaks(), []);
    });

    it(
      'gives back all of a pod whose removal a daemon before us had begun, also when that fails at ' + 'the start',
      async () => {
        const pod = await mind.pods.run(op(), fakePod(), '');
        node.node.crashNext('unpin');
        void mind.pods.remove(op(), pod);
        await until(() => node.node.dead);
        const record = mind.pods.get(pod);
        mind.close();
        await node.world().state.save({ ...record, state: { phase: 'removing' } });
        node.node.failNext('unpin', boom());
        mind = await node.boot();
        assert.isTrue(node.node.pins.has(pod), 'the start could not give it back');
        await mind.pods.remove(op(), pod);
        assert.deepEqual(node.leaks(), []);
      },
    );

    it('destroys only the object of a damaged record (K19)', async () => {
      const { id, pod } = await running();
      const other = await mind.containers.create(op(), pod, fakeContainer('other'));
      mind.close();
      await writeFile(join(node.directory, 'run/containers', other, 'record.json'), 'garbage');
      await restart();
      assert.deepEqual(
        mind.containers.list().map((record) => record.id),
        [id],
      );
      assert.isFalse(node.roots.has(other));
    });

    it('goes on with a stop that was under way (K5)', async () => {
      const { id } = await running();
      node.node.containers.get(id)?.process.run(['sh', '-c', "trap '' TERM; while"]);
      void mind.containers.stop(op(), id, 60_000);
      await until(() => mind.containers.get(id).stopping !== null);
      const before = mind.containers.get(id).stopping;
      await restart();
      assert.deepEqual(mind.containers.get(id).stopping?.signalledAt, before?.signalledAt);
      await mind.containers.stop(op(), id, 0);
      assert.strictEqual(containerStatus(mind.containers.get(id)).exitCode, 137);
    });

    it("starts empty after a reboot and gives the old pods' addresses back", async () => {
      await running();
      assert.strictEqual(node.networks.size, 1);
      node.node.reboot();
      const { rm } = await import('node:fs/promises');
      await rm(join(node.directory, 'run'), { recursive: true });
      await restart();
      assert.lengthOf(mind.pods.list(), 0);
      assert.deepEqual(node.leaks(), []);
    });

    it('calls a pod whose namespace is gone NOTREADY, and can still remove it (K21)', async () => {
      const { pod } = await running();
      node.node.pins.delete(pod);
      await restart();
      assert.strictEqual(podSandboxStatus(mind.pods.get(pod)).state, 'SANDBOX_NOTREADY');
      await mind.pods.remove(op(), pod);
      assert.deepEqual(node.leaks(), []);
    });
  });

  it('knows which images are in use', async () => {
    assert.isEmpty(mind.imageUsers(fakeImage.id));
    const { id } = await running();
    assert.deepEqual(mind.imageUsers(fakeImage.id), [id]);
  });
});

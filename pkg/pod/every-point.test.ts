/**
 * A whole life of a pod, with a failure or a crash of the daemon at every single call that it makes, one after another:
 * whatever a kubelet does next, the pod comes to run, its container ends with its own exit code, and nothing is left.
 */
import { assert } from 'chai';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { FakeMoment } from '../runtime/fake.ts';
import { boom, op } from './fake-ground.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';
import { containerStatus, podSandboxStatus } from './query.ts';

/** More than the tries that one failure or crash can cost. */
const TRIES = 5;

/** A kubelet with one pod of one container: it looks, and does what is missing. */
class Kubelet {
  readonly #node: FakeSurroundings;
  readonly #pid: 'POD' | 'CONTAINER';
  #mind: OpenPods;
  #attempt = 0;

  constructor(node: FakeSurroundings, mind: OpenPods, pid: 'POD' | 'CONTAINER') {
    this.#node = node;
    this.#mind = mind;
    this.#pid = pid;
  }

  async live(): Promise<void> {
    await this.#until('the container runs', () => this.#runIt());
    const [record] = this.#mind.containers.list();
    assert.strictEqual(this.#node.node.containers.get(record?.id as ContainerId)?.state, 'running');
    await this.#until('the container has ended', () => this.#stopIt());
    await this.#until('nothing is left', () => this.#removeIt());
    assert.deepEqual(this.#node.leaks(), []);
    const directories = ['sandboxes', 'containers'].map((each) => readdir(join(this.#node.directory, 'run', each)));
    assert.deepEqual((await Promise.all(directories)).flat(), []);
  }

  close(): void {
    this.#mind.close();
  }

  /** Takes turns until one says that it is done; a daemon that died is started again. */
  async #until(what: string, turn: () => Promise<boolean>): Promise<void> {
    for (let tries = 0; tries < TRIES; tries++) {
      const outcome = await Promise.race([turn().catch((error: unknown) => error), this.#crashed()]);
      if (outcome === true) return;
      if (outcome === 'crashed') {
        this.#mind.close();
        this.#mind = await this.#node.boot();
        this.#checkTruth();
      } else if (outcome !== false && !(outcome instanceof RuntimeError)) throw outcome;
    }
    throw new Error(`it did not come true that ${what}`);
  }

  /** What a new daemon says of a container is what its runtime says. */
  #checkTruth(): void {
    for (const record of this.#mind.containers.list()) {
      const { state } = containerStatus(record);
      if (state === 'CONTAINER_EXITED') continue;
      const found = this.#node.node.containers.get(record.id)?.state;
      assert.strictEqual(state, found === 'created' ? 'CONTAINER_CREATED' : 'CONTAINER_RUNNING');
    }
  }

  async #crashed(): Promise<'crashed'> {
    while (!this.#node.node.dead) await new Promise((resolve) => setImmediate(resolve));
    return 'crashed';
  }

  async #runIt(): Promise<boolean> {
    const id = await this.#ready();
    const { containers } = this.#mind;
    const record = containers.list().find((each) => each.sandboxId === id);
    const container = record?.id ?? (await containers.create(op(), id, fakeContainer('app', this.#attempt)));
    const { state, reason } = containerStatus(containers.get(container));
    assert.notStrictEqual(state, 'CONTAINER_EXITED', reason);
    if (state === 'CONTAINER_CREATED') await containers.start(op(), container);
    return containerStatus(containers.get(container)).state === 'CONTAINER_RUNNING';
  }

  async #ready(): Promise<SandboxId> {
    const { pods } = this.#mind;
    for (const each of pods.list()) {
      if (podSandboxStatus(each).state === 'SANDBOX_READY') return each.id;
      await pods.remove(op(), each.id);
      this.#attempt++;
    }
    const config = fakePod('web', this.#attempt);
    const security = config.linux?.securityContext;
    assert.isDefined(security?.namespaceOptions);
    const namespaceOptions = { ...security.namespaceOptions, pid: this.#pid };
    return await pods.run(
      op(),
      {
        ...config,
        linux: { ...config.linux, cgroupParent: '', sysctls: {}, securityContext: { ...security, namespaceOptions } },
      },
      '',
    );
  }

  async #stopIt(): Promise<boolean> {
    const [record] = this.#mind.containers.list();
    assert.isDefined(record);
    await this.#mind.containers.stop(op(), record.id, 60_000);
    const { state, exitCode } = containerStatus(this.#mind.containers.get(record.id));
    assert.deepEqual([state, exitCode], ['CONTAINER_EXITED', 143]);
    return true;
  }

  async #removeIt(): Promise<boolean> {
    for (const each of this.#mind.containers.list()) await this.#mind.containers.remove(op(), each.id);
    for (const each of this.#mind.pods.list()) await this.#mind.pods.remove(op(), each.id);
    while (this.#mind.operations().length > 0) await new Promise((resolve) => setImmediate(resolve));
    return this.#mind.pods.list().length === 0 && this.#node.leaks().length === 0;
  }
}

describe('a whole life', function () {
  this.timeout(60_000);

  /** Whether anything was left to go wrong at the `call`-th call. */
  async function isReached(
    call: number,
    act: 'crash' | RuntimeError,
    moment: FakeMoment,
    pid: 'POD' | 'CONTAINER',
  ): Promise<boolean> {
    const node = await FakeSurroundings.make();
    const kubelet = new Kubelet(node, await node.boot(), pid);
    const before = node.node.callCount;
    node.node.planAt(call, act, moment);
    try {
      await kubelet.live();
      return node.node.callCount >= before + call;
    } catch (cause) {
      throw new Error(`at call ${call}, ${node.node.operationAt}`, { cause });
    } finally {
      kubelet.close();
      await node.dispose();
    }
  }

  for (const pid of ['CONTAINER', 'POD'] as const) {
    for (const moment of ['before', 'after'] as const) {
      for (const act of ['crash', 'fail'] as const) {
        it(`survives a ${act} ${moment} every call it makes (PID namespace of the ${pid.toLowerCase()})`, async () => {
          let call = 1;
          while (await isReached(call, act === 'crash' ? 'crash' : boom(), moment, pid)) call++;
          assert.isAbove(call, 20);
        });
      }
    }
  }
});

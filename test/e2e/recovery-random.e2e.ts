/**
 * A daemon that is killed at random moments under load, from a seed: BERTH_KILLS=300 SEED=… for more, or for the same
 * delays again.
 *
 * A few clients do what a kubelet does with a pod each: make it, make a container, start it, wait for its end, remove
 * it; and look, after each answer that never came, at what is true. A container runs or does not, never twice, and
 * whoever has ended has its own exit code.
 */
import { assert } from 'chai';
import { open } from 'node:fs/promises';
import { constants } from 'node:fs';
import { join } from 'node:path';
import { type ContainerStatus } from '../../pkg/cri-api/types.ts';
import { CriError, type Pod, podConfig, waitFor } from './cri-client.ts';
import { IMAGE, processes, processesOf, TestNode } from './harness.ts';

const SEED = Number(process.env['SEED'] ?? Date.now() % 1_000_000);
const KILLS = Number(process.env['BERTH_KILLS'] ?? 30);
const CLIENTS = 4;
/** Between the moment that a daemon serves and its death. */
const LONGEST_LIFE_MS = 500;

/** mulberry32, as in pkg/pod/sim.test.ts. */
function random(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = state;
    t = Math.imul(t ^ (t >>> 15), t | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4_294_967_296;
  };
}

/** What was seen, for the line at the end. */
interface Figures {
  pods: number;
  containers: number;
  startsCut: number;
  foundRunning: number;
  foundCreated: number;
}

/** One kubelet with one pod. */
class Client {
  readonly #node: TestNode;
  readonly #number: number;
  readonly #figures: Figures;
  #attempt = 0;
  #container = 0;

  constructor(node: TestNode, number: number, figures: Figures) {
    this.#node = node;
    this.#number = number;
    this.#figures = figures;
  }

  /** Lives until `over`, and one whole turn at least. */
  async run(over: () => boolean): Promise<void> {
    do {
      const pod = await this.#pod();
      for (let i = 0; i < 3; i++) await this.#live(pod);
      await this.#again(() => this.#node.cri.removePod(pod.id));
      this.#figures.pods++;
    } while (!over());
  }

  async #pod(): Promise<Pod> {
    const config = podConfig({
      metadata: { name: `pod-${this.#number}`, uid: `uid-${this.#number}`, attempt: this.#attempt++ },
    });
    const { podSandboxId } = await this.#again(() => this.#node.cri.rpc.runPodSandbox({ config }));
    return { id: podSandboxId, config };
  }

  /** The whole life of one container. */
  async #live(pod: Pod): Promise<void> {
    const number = this.#container++;
    const code = 1 + (number % 100);
    const mark = `berth-random-${process.pid}-${this.#number}-${number}`;
    const command = ['sh', '-c', `mkfifo /go; read line < /go; exit ${code}`, mark];
    const overrides = { metadata: { name: 'app', attempt: number }, command };
    const create = (): Promise<string> => this.#again(() => this.#node.cri.createContainer(pod, IMAGE, overrides));
    const id = await create();
    const status = await this.#start(id, command);
    assert.isTrue(status.startedAt > 0n, 'it has a time of its start');
    assert.strictEqual(await create(), id, 'the same request finds it');
    // A shell that forks is there twice for a moment; a second instance would stay.
    await waitFor(
      () => processes(command.join(' ')),
      (found) => found.length === 1,
      `${mark} to run once`,
    );
    await this.#tell(id);
    const ended = await this.#again(() =>
      waitFor(
        () => this.#node.cri.container(id),
        ({ state }) => state !== 'CONTAINER_RUNNING',
        'its end',
      ),
    );
    assert.deepEqual([ended.state, ended.exitCode, ended.reason], ['CONTAINER_EXITED', code, 'Error'], ended.message);
    assert.isTrue(ended.finishedAt >= ended.startedAt);
    await this.#again(() => this.#node.cri.rpc.removeContainer({ containerId: id }));
    this.#figures.containers++;
  }

  /** Starts it, and after an answer that never came looks whether it runs, as a kubelet's relist does. */
  async #start(id: string, command: readonly string[]): Promise<ContainerStatus> {
    for (;;) {
      const outcome = await this.#node.cri.rpc.startContainer({ containerId: id }).then(
        () => 'started',
        (error: unknown) => error,
      );
      if (outcome !== 'started' && !isCut(outcome)) throw outcome;
      const status = await this.#again(() => this.#node.cri.container(id));
      if (outcome === 'started') {
        assert.strictEqual(status.state, 'CONTAINER_RUNNING', `${status.reason} ${status.message}`);
        return status;
      }
      this.#figures.startsCut++;
      assert.include(['CONTAINER_CREATED', 'CONTAINER_RUNNING'], status.state, `${status.reason} ${status.message}`);
      if (status.state === 'CONTAINER_RUNNING') {
        this.#figures.foundRunning++;
        return status;
      }
      this.#figures.foundCreated++;
      assert.lengthOf(processes(command.join(' ')), 0, 'what is created does not run');
    }
  }

  /** Tells the program to end, past the daemon. */
  async #tell(id: string): Promise<void> {
    const path = join(this.#node.dir, 'root/rootfs', id, 'merged/go');
    const file = await waitFor(
      () => open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
      (found) => found !== undefined,
      'the program to listen',
    );
    await file?.write('\n');
    await file?.close();
  }

  /** Asks until there is an answer. */
  async #again<T>(ask: () => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await ask();
      } catch (error) {
        if (!isCut(error)) throw error;
        await this.#node.cri.rpc.waitForReady(60_000);
      }
    }
  }
}

/** The daemon died under the call, or was not there. */
function isCut(error: unknown): boolean {
  return error instanceof CriError && (error.codeName === 'Unavailable' || error.codeName === 'Cancelled');
}

for (const runtime of ['runc', 'crun'] as const) {
  it(`a daemon killed ${KILLS} times under load costs nothing (${runtime}, SEED=${SEED})`, async function () {
    this.timeout(60_000 + KILLS * 5_000);
    const next = random(SEED);
    const figures: Figures = { pods: 0, containers: 0, startsCut: 0, foundRunning: 0, foundCreated: 0 };
    const node = await TestNode.boot({ runtime });
    try {
      let kills = 0;
      const clients = Array.from({ length: CLIENTS }, (_, number) =>
        new Client(node, number, figures).run(() => kills >= KILLS),
      );
      const killer = async (): Promise<void> => {
        for (; kills < KILLS; kills++) {
          await new Promise((resolve) => setTimeout(resolve, next() * LONGEST_LIFE_MS));
          await node.kill();
          await node.start();
        }
      };
      await Promise.all([killer(), ...clients]);
      console.log(`      ${JSON.stringify({ seed: SEED, kills, ...figures })}`);
      await node.close();
    } catch (error) {
      await node.discard();
      for (const pid of processesOf(`berth-random-${process.pid}-`)) process.kill(Number.parseInt(pid, 10), 'SIGKILL');
      throw error;
    }
  });
}

/** A kubelet with one pod at a time, for a run of kills (crash.ts): whatever was cut off is asked for again. */
import { assert } from 'chai';
import { constants, existsSync } from 'node:fs';
import { open, readFile, rename } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerStatus } from '../../pkg/cri-api/types.ts';
import { CriError, type Pod, podConfig, waitFor } from './cri-client.ts';
import { checkLines, commandOf, type Ending, endingOf, endOf } from './crash-container.ts';
import { Finding, type Journal, seeded } from './crash-journal.ts';
import { commandLines, MARK } from './crash-node.ts';
import { IMAGE, type TestNode } from './harness.ts';
import { dial } from './stream-ground.ts';

/** Longer takes nothing but what hangs, however often it is cut off, on a machine however busy. */
const PATIENCE_MS = 900_000;
const POLL = { intervalMs: 40, timeoutMs: 60_000 };

/** Shut while there is no daemon, and while somebody looks at what the last one left. */
export class Gate {
  /** How often something was killed: what failed across a change of it may be asked for again. */
  lives = 0;
  /** How often a plugin was killed: networks may fail once. */
  pluginsKilled = 0;
  #opened = Promise.withResolvers<void>();

  open(): void {
    this.#opened.resolve();
  }

  shut(): void {
    this.lives++;
    this.#opened.resolve();
    this.#opened = Promise.withResolvers<void>();
  }

  async passed(): Promise<void> {
    for (let at = this.#opened; ; at = this.#opened) {
      await at.promise;
      if (at === this.#opened) return;
    }
  }
}

export interface Ground {
  readonly node: TestNode;
  readonly gate: Gate;
  readonly journal: Journal;
  readonly seed: number;
  /** What the images that are pulled are called. */
  readonly images: readonly string[];
  readonly over: () => boolean;
}

/** One container of a client. */
interface Own {
  readonly id: string;
  readonly mark: string;
  readonly code: number;
  readonly ending: Ending;
  /** Files of its log that were moved away, the oldest first. */
  readonly rotated: string[];
}

export class CrashClient {
  readonly #ground: Ground;
  readonly #number: number;
  readonly #random: () => number;
  #attempts = 0;
  #containers = 0;

  constructor(ground: Ground, number: number) {
    this.#ground = ground;
    this.#number = number;
    this.#random = seeded(ground.seed * 31 + number);
  }

  /** Lives until it is over, and one whole turn at least. */
  async run(): Promise<void> {
    const { journal, node, over } = this.#ground;
    do {
      try {
        await this.#turn();
        journal.count('pods');
      } catch (error) {
        const text = error instanceof Error ? (error.stack ?? error.message) : String(error);
        await journal.note(node, error instanceof Finding ? error.kind : 'call', text);
        await this.#begin().catch((cause: unknown) => journal.note(node, 'call', String(cause)));
      }
    } while (!over() && !journal.full);
  }

  /** After something went wrong: without the pod of before. */
  async #begin(): Promise<void> {
    const { cri } = this.#ground.node;
    const { items } = await this.#again(() => cri.rpc.listPodSandbox());
    for (const { id, metadata } of items)
      if (metadata?.name === `pod-${this.#number}`) await this.#again(() => cri.removePod(id));
  }

  /** The whole life of one pod, in which each container has its own. */
  async #turn(): Promise<void> {
    const { rpc } = this.#ground.node.cri;
    const image = this.#ground.images[this.#number] ?? IMAGE;
    if (image !== IMAGE) await this.#pull(image);
    const pod = await this.#pod();
    for (let i = 1 + this.#below(3); i > 0; i--)
      await Promise.all(Array.from({ length: 1 + this.#below(2) }, () => this.#live(pod, image)));
    await this.#again(() => this.#ground.node.cri.removePod(pod.id));
    if (image === IMAGE) return;
    await this.#again(() => rpc.removeImage({ image: { image } }));
    const { image: left } = await this.#again(() => rpc.imageStatus({ image: { image } }));
    assert.isUndefined(left, `${image} was removed`);
    this.#ground.journal.count('images');
  }

  async #pull(image: string): Promise<void> {
    const { rpc } = this.#ground.node.cri;
    const { imageRef } = await this.#again(() => rpc.pullImage({ image: { image } }));
    const { image: found } = await this.#again(() => rpc.imageStatus({ image: { image } }));
    assert.strictEqual(found?.id, imageRef, `${image} is there after its pull`);
  }

  async #pod(): Promise<Pod> {
    const config = podConfig({
      metadata: { name: `pod-${this.#number}`, uid: `uid-${this.#number}`, attempt: this.#attempts++ },
      linux: {
        securityContext: {
          namespaceOptions: { network: 'POD', pid: this.#below(3) === 0 ? 'POD' : 'CONTAINER', ipc: 'POD' },
        },
      },
      portMappings:
        this.#below(2) === 0
          ? []
          : [{ protocol: 'TCP', containerPort: 8080, hostPort: 20_000 + this.#number, hostIp: '' }],
    });
    const { podSandboxId } = await this.#again(() => this.#ground.node.cri.rpc.runPodSandbox({ config }));
    return { id: podSandboxId, config };
  }

  /** The whole life of one container. */
  async #live(pod: Pod, image: string): Promise<void> {
    const number = this.#containers++;
    const ending = endingOf(this.#random);
    const code = 1 + (number % 100);
    const mark = `berth-crash-${process.pid}-${this.#number}-${number}`;
    const overrides = {
      metadata: { name: 'app', attempt: number },
      command: commandOf(mark, code, this.#below(120), ending),
      labels: { [MARK]: mark },
    };
    const create = (): Promise<string> =>
      this.#again(() => this.#ground.node.cri.createContainer(pod, image, overrides));
    const id = await create();
    const own: Own = { id, mark, code, ending, rotated: [] };
    const { startedAt, logPath } = await this.#start(own);
    assert.isTrue(startedAt > 0n, 'it has a time of its start');
    if (ending !== 'short') assert.strictEqual(await create(), id, 'the same request finds it');
    if (ending !== 'short') for (let i = this.#below(4); i > 0; i--) await this.#use(own, logPath);
    if (ending === 'left') return;
    await this.#end(own);
    await this.#isOver(own, logPath);
    await this.#again(() => this.#ground.node.cri.rpc.removeContainer({ containerId: id }));
    this.#ground.journal.count('containers');
  }

  /** Starts it, and after an answer that never came looks whether it runs, as a kubelet's relist does. */
  async #start({ id, mark, ending }: Own): Promise<ContainerStatus> {
    const { gate, journal, node } = this.#ground;
    for (;;) {
      await gate.passed();
      const { lives } = gate;
      const error = await node.cri.rpc.startContainer({ containerId: id }).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      if (error !== undefined && !(lives !== gate.lives && isCut(error))) throw error;
      const status = await this.#again(() => node.cri.container(id));
      if (status.state === 'CONTAINER_RUNNING') return status;
      if (status.state === 'CONTAINER_EXITED' && ending === 'short') return status;
      assert.isTrue(error !== undefined && status.state === 'CONTAINER_CREATED', `${mark} is ${status.state} now`);
      journal.count('starts again');
    }
  }

  /** Something that is done with a container that runs. */
  async #use(own: Own, logPath: string): Promise<void> {
    const { journal, node } = this.#ground;
    const uses: readonly (readonly [name: string, use: () => Promise<void>])[] = [
      ['execs', () => this.#exec(own)],
      ['streams', () => this.#stream(own)],
      ['rotations', () => this.#rotate(own, logPath)],
      ['looks at statistics', () => this.#stats(own)],
      ['pauses', () => new Promise((resolve) => setTimeout(resolve, this.#random() * 200))],
    ];
    const [name, use] = uses[this.#below(uses.length)]!;
    await use();
    journal.count(name);
    const { state } = await this.#again(() => node.cri.container(own.id));
    assert.strictEqual(state, 'CONTAINER_RUNNING', own.mark);
  }

  async #exec({ id, mark }: Own): Promise<void> {
    const got = await this.#again(() =>
      this.#ground.node.cri.exec(id, ['sh', '-c', 'echo out; echo err >&2; exit 7', `${mark}-exec`]),
    );
    assert.deepEqual(got, { stdout: 'out\n', stderr: 'err\n', exitCode: 7 });
  }

  async #stream({ id, mark }: Own): Promise<void> {
    const cmd = ['sh', '-c', 'echo out; echo err >&2; exit 7', `${mark}-exec`];
    const got = await this.#again(async () => {
      const { url } = await this.#ground.node.cri.rpc.exec({ containerId: id, cmd, stdout: true, stderr: true });
      const { stream, status } = await dial(url, { stderr: true });
      const [out, err, end] = await Promise.all([stream.stdout.all(), stream.stderr.all(), status]);
      if (end.status === 'none') throw new CutOff('the stream ended without a status');
      return [out, err, end.details?.causes[0]?.message];
    });
    assert.deepEqual(got, ['out\n', 'err\n', '7']);
  }

  /** As a kubelet rotates: the file gets another name, then the monitor is told to open it anew. */
  async #rotate(own: Own, logPath: string): Promise<void> {
    const away = `${logPath}.${own.rotated.length}`;
    await rename(logPath, away);
    own.rotated.push(away);
    await this.#again(() => this.#ground.node.cri.rpc.reopenContainerLog({ containerId: own.id }));
    assert.isTrue(existsSync(logPath), `${logPath} was opened again`);
  }

  async #stats({ id }: Own): Promise<void> {
    const { rpc } = this.#ground.node.cri;
    const { stats } = await this.#again(() => rpc.listContainerStats());
    assert.include(
      stats.map(({ attributes }) => attributes?.id),
      id,
    );
    await this.#again(() => rpc.listPodSandboxStats());
    await this.#again(() => rpc.listPodSandboxMetrics());
  }

  async #end({ id, mark, ending }: Own): Promise<void> {
    const { rpc } = this.#ground.node.cri;
    if (ending === 'stopped' || ending === 'stubborn') await this.#hears(id);
    if (ending === 'stopped') await this.#again(() => rpc.stopContainer({ containerId: id, timeout: 30n }));
    if (ending === 'stubborn') await this.#again(() => rpc.stopContainer({ containerId: id, timeout: 1n }));
    const own = (): ReturnType<typeof commandLines> => commandLines().filter(({ words }) => words.includes(mark));
    const begun = (): Promise<ReturnType<typeof commandLines>> =>
      waitFor(
        async () => own(),
        (found) => found.length > 0,
        mark,
        POLL,
      );
    // It may be the runtime's still a moment after it was started. Who writes to nobody may have ended of it.
    if (ending === 'unwatched') {
      await begun();
      const { info } = await this.#again(() => rpc.containerStatus({ containerId: id, verbose: true }));
      const { monitor } = JSON.parse(info['info'] ?? '{}') as { readonly monitor: { readonly pid: number } };
      kill(`${monitor.pid}`);
    }
    const processes = ending === 'killed' ? await begun() : own();
    if (ending === 'killed' || ending === 'unwatched') for (const { pid } of processes) kill(pid);
    if (ending === 'told') await this.#tell(id);
  }

  /** Before its first line a shell has not said yet what it does with SIGTERM. */
  async #hears(id: string): Promise<void> {
    const path = join(this.#ground.node.dir, 'root/rootfs', id, 'diff/progress');
    await waitFor(
      async () => existsSync(path),
      (found) => found,
      `${path} to be written`,
      POLL,
    );
  }

  /** Tells the program to end, past the daemon. */
  async #tell(id: string): Promise<void> {
    const path = join(this.#ground.node.dir, 'root/rootfs', id, 'merged/go');
    const file = await waitFor(
      () => open(path, constants.O_WRONLY | constants.O_NONBLOCK).catch(() => undefined),
      (found) => found !== undefined,
      `${path} to be read`,
      POLL,
    );
    await file?.write('\n');
    await file?.close();
  }

  /** It has ended, with the code and the lines that are its own. */
  async #isOver({ id, mark, code, ending, rotated }: Own, logPath: string): Promise<void> {
    const { journal, node } = this.#ground;
    const ended = await this.#again(() =>
      waitFor(
        () => node.cri.container(id),
        ({ state }) => state !== 'CONTAINER_RUNNING',
        `the end of ${mark} (${ending})`,
        POLL,
      ),
    );
    const seen = [ended.state, ended.exitCode, ended.reason];
    const right = ['CONTAINER_EXITED', ...endOf(ending, code)];
    if (seen.join() !== right.join())
      throw new Finding(
        'exit code',
        `${mark} ${id} (${ending}): ${seen.join()} instead of ${right.join()}: ${ended.message}`,
      );
    assert.isTrue(ended.finishedAt >= ended.startedAt, mark);
    const upper = join(node.dir, 'root/rootfs', id, 'diff');
    assert.isTrue(existsSync(upper), upper);
    // Who is killed at once has none.
    const progress = await readFile(join(upper, 'progress'), 'utf8').catch(() => '');
    const count = await checkLines([...rotated, logPath], ending, progress);
    journal.count('lines', count);
  }

  /** Asks until there is an answer. */
  async #again<T>(ask: () => Promise<T>): Promise<T> {
    const { gate, journal } = this.#ground;
    for (const end = performance.now() + PATIENCE_MS; ; ) {
      await gate.passed();
      const { lives, pluginsKilled } = gate;
      try {
        return await ask();
      } catch (error) {
        const mayFail =
          (lives !== gate.lives && isCut(error)) || (pluginsKilled !== gate.pluginsKilled && isNetwork(error));
        if (!mayFail || performance.now() > end) throw error;
        journal.count('calls cut off');
      }
    }
  }

  #below(count: number): number {
    return Math.floor(this.#random() * count);
  }
}

/** A stream that ended in the middle. */
class CutOff extends Error {}

/** The daemon died under the call, or was not there. */
function isCut(error: unknown): boolean {
  if (error instanceof CriError) return error.codeName === 'Unavailable' || error.codeName === 'Cancelled';
  return error instanceof CutOff || (error instanceof Error && 'code' in error);
}

/** A plugin was killed under the call. */
function isNetwork(error: unknown): boolean {
  return error instanceof CriError && /plugin/i.test(error.message);
}

/** SIGKILL, unless it has ended. */
function kill(pid: string): void {
  const number = Number(pid);
  if (!Number.isSafeInteger(number) || number <= 1) throw new Error(`${pid} is no process of a container`);
  try {
    process.kill(number, 'SIGKILL');
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code !== 'ESRCH') throw error;
  }
}

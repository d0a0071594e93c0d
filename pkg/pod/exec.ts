/**
 * Ways into a running container or pod: exec, attach, port-forward. No monitor and no file: if the daemon dies the
 * request is dead anyway.
 */
import { availableParallelism } from 'node:os';
import type { RuntimeProcess } from '../oci/spec-types.ts';
import { RuntimeError, wrap } from '../base/errors.ts';
import { type ContainerId, quote, type SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { type Turn, Turns } from '../base/turns.ts';
import { type Op, withLog, withTimeout } from '../base/op.ts';
import { execProcess, oomScoreAdjOf } from '../spec/index.ts';
import type { Books } from './books.ts';
import { OutputRoom } from './capture.ts';
import { takesCommands } from './query.ts';
import type { AttachChannel, Connection, ExecStdio, ExitStatus, TerminalSize } from '../ports/runtime.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { Execs } from '../ports/pods.ts';
import type { World } from './world.ts';
import { parseJson } from '../base/json.ts';

/** Commands, terminals and connections into what runs; each ends with its container or pod at the latest. */
export class ExecKeeper implements Execs {
  readonly #world: World;
  readonly #books: Books;
  readonly #running = new Map<ContainerId, number>();
  readonly #room = new OutputRoom();
  readonly #turns = new Turns(
    limits.execStartsPerProcessorCount * availableParallelism(),
    limits.execStartMs,
    'wait for a turn to start the command',
  );
  /**
   * The process part of each container's spec: what an exec inherits. Keyed by the first record, so that it goes with
   * the container.
   */
  readonly #templates = new Map<ContainerId, RuntimeProcess>();

  constructor(world: World, books: Books) {
    this.#world = world;
    this.#books = books;
    books.subscribe((event) => {
      if (event.type === 'deleted' || event.type === 'stopped') this.#templates.delete(event.record.id as ContainerId);
    });
  }

  async execSync(op: Op, id: ContainerId, argv: readonly string[], timeoutMs: number): ReturnType<Execs['execSync']> {
    return await this.#inTurn(op, id, 'sync', async (turn) => {
      // The command's time, not that of the line: the kubelet itself waits two minutes longer than it grants.
      const bounded = timeoutMs > 0 ? withTimeout(op, timeoutMs) : op;
      const output = this.#room.open(bounded);
      try {
        const { exitCode } = await this.#exec(bounded, id, argv, {
          // A container with a terminal gives one to its probes, as with CRI-O.
          tty: this.#books.container(id)?.config.tty ?? false,
          stdin: null,
          stdout: (chunk) => output.stdout.add(chunk),
          stderr: (chunk) => output.stderr.add(chunk),
          lateOutput: 'cut',
          onStarted: turn,
        });
        return {
          stdout: output.stdout.bytes(),
          stderr: output.stderr.bytes(),
          exitCode,
          [Symbol.dispose]: () => output.release(),
        };
      } catch (cause) {
        output.release();
        throw cause;
      }
    });
  }

  async exec(op: Op, id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<ExitStatus> {
    return await this.#inTurn(op, id, 'stream', (turn) => this.#exec(op, id, argv, { ...stdio, onStarted: turn }));
  }

  /**
   * Runs `work` when its turn comes; it gives the turn back once its command has started. Probes do not stand in the
   * line of people's commands.
   */
  async #inTurn<T>(op: Op, id: ContainerId, kind: 'sync' | 'stream', work: (turn: Turn) => Promise<T>): Promise<T> {
    this.#enterable(id, kind === 'sync' ? 'NotFound' : 'FailedPrecondition');
    const count = this.#running.get(id) ?? 0;
    if (count >= limits.execsPerContainerCount)
      throw new RuntimeError(
        'ResourceExhausted',
        `container ${id} has ${count} commands running or waiting to be started already (exec); wait for some to end`,
      );
    this.#running.set(id, count + 1);
    let turn: Turn | undefined;
    try {
      turn = await this.#turns.take(op, `${kind} ${id}`);
      return await work(turn);
    } finally {
      turn?.();
      const left = (this.#running.get(id) ?? 1) - 1;
      if (left <= 0) this.#running.delete(id);
      else this.#running.set(id, left);
    }
  }

  async #exec(op: Op, id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<ExitStatus> {
    const record = this.#enterable(id);
    const over = this.#whenOver(id, limits.execAfterContainerMs);
    try {
      const template = await this.#template(id);
      const own: Op = { ...withLog(op, { container: id }), signal: AbortSignal.any([op.signal, over.signal]) };
      own.stage('runtime exec');
      // As it is by now: an update may have changed it since the spec was written.
      const oomScoreAdj = oomScoreAdjOf(record.resources?.oomScoreAdj ?? 0n, this.#world.facts);
      const process = execProcess({ ...template, oomScoreAdj }, { argv, tty: stdio.tty });
      return await this.#world.runtimeOf(record).exec(own, id, process, stdio);
    } finally {
      over.forget();
    }
  }

  async attach(
    op: Op,
    id: ContainerId,
  ): Promise<AttachChannel & { resize(size: TerminalSize): Promise<void>; readonly tty: boolean }> {
    const record = this.#runningContainer(id);
    // The monitor closes by itself once the output is drained; a grandchild that holds the pipe must not hold the
    // client.
    const over = this.#whenOver(id, limits.execAfterContainerMs);
    const channel = await this.#world.monitor.attach(op, id, record.bundle).catch((cause: unknown) => {
      over.forget();
      throw cause;
    });
    const close = (): void => {
      over.forget();
      channel.close();
    };
    over.signal.addEventListener('abort', close, { once: true });
    return {
      output: channel.output,
      write: (data) => channel.write(data),
      closeInput: () => channel.closeInput(),
      close,
      tty: record.config.tty,
      resize: (size) => this.#world.monitor.resize(record.bundle, size),
    };
  }

  async portForward(op: Op, id: SandboxId, port: number): Promise<Connection> {
    const record = this.#books.sandbox(id);
    if (record === undefined) throw new RuntimeError('NotFound', `no pod sandbox has the id ${quote(id)}`);
    if (record.state.phase !== 'ready')
      throw new RuntimeError(
        'FailedPrecondition',
        `pod sandbox ${id} is ${record.state.phase}; ports are forwarded only to a ready one`,
      );
    const over = this.#whenOver(id, 0);
    try {
      const connection = await this.#world.host.dial(op, record.namespaces['net'] ?? null, port);
      over.signal.addEventListener('abort', () => connection.close(), { once: true });
      if (over.signal.aborted) connection.close();
      return {
        [Symbol.asyncIterator]: () => connection[Symbol.asyncIterator](),
        write: (data) => connection.write(data),
        endWrite: () => connection.endWrite(),
        close: () => {
          over.forget();
          connection.close();
        },
      };
    } catch (cause) {
      over.forget();
      throw wrap(`nothing answers on port ${port} of 127.0.0.1 or [::1] in pod sandbox ${id}`, cause);
    }
  }

  /** Fires `delayMs` after the container or sandbox has stopped or is gone. The caller calls `forget` at the end. */
  #whenOver(id: string, delayMs: number): { readonly signal: AbortSignal; forget(): void } {
    const controller = new AbortController();
    let timer: NodeJS.Timeout | undefined;
    const unsubscribe = this.#books.subscribe((event) => {
      if ((event.type !== 'stopped' && event.type !== 'deleted') || event.record.id !== id) return;
      if (delayMs === 0) controller.abort();
      else timer ??= setTimeout(() => controller.abort(), delayMs);
    });
    return {
      signal: controller.signal,
      forget: () => {
        clearTimeout(timer);
        unsubscribe();
      },
    };
  }

  #runningContainer(id: ContainerId): ContainerRecord {
    const record = this.#container(id);
    if (record.state.phase === 'running') return record;
    throw new RuntimeError('FailedPrecondition', `container ${id} is ${record.state.phase}; start it to attach to it`);
  }

  /** The kubelet and CRI-O know one error for a container in which ExecSync cannot run, gone or ended: NotFound. */
  #enterable(id: ContainerId, otherwise: 'NotFound' | 'FailedPrecondition' = 'FailedPrecondition'): ContainerRecord {
    const record = this.#container(id);
    if (takesCommands(record)) return record;
    throw new RuntimeError(
      otherwise,
      `container ${id} is ${record.state.phase}; commands run only in one that is created or running`,
    );
  }

  #container(id: ContainerId): ContainerRecord {
    const record = this.#books.container(id);
    if (record === undefined) throw new RuntimeError('NotFound', `no container has the id ${quote(id)}`);
    return record;
  }

  async #template(id: ContainerId): Promise<RuntimeProcess> {
    const known = this.#templates.get(id);
    if (known !== undefined) return known;
    const spec = parseJson(await this.#world.workspace.readBundle(id)) as { readonly process: RuntimeProcess };
    this.#templates.set(id, spec.process);
    return spec.process;
  }
}

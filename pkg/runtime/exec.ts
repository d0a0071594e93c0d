/**
 * One process in a container, without a monitor: `runtime exec --detach`, its stdio on our own pipes or terminal.
 *
 *   we ──spawn──▶ runtime exec ──▶ process    the runtime ends at once: its exit code says whether the process began
 *   we ◀──────────orphan────────── process    we are a subreaper, so the process becomes our child, its exit code ours
 *
 * Detached, because a runtime that waits copies every byte once more, stays in memory as long as the process, and waits
 * for grandchildren that hold the pipe (runc).
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId } from '../base/ids.ts';
import { stringifyExact } from '../base/json.ts';
import { limits } from '../base/limits.ts';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { fired, within, withinGrace } from '../base/time.ts';
import type { RuntimeProcess } from '../oci/spec-types.ts';
import type { Child, DescriptorSocket, FdStream } from '../ports/kernel.ts';
import { descriptors, exitCodeOf, killTree, orphans, processes, sockets, spawn } from '../sys/index.ts';
import { type ExecFiles, execFiles, noteDue, removeFiles } from './left-execs.ts';
import { errorText } from './messages.ts';
import type { ExecStdio } from '../ports/runtime.ts';

/** One process to run in a container. */
export interface ExecRequest {
  /** The runtime with its global options. */
  readonly argv: readonly [string, ...string[]];
  readonly id: ContainerId;
  readonly process: RuntimeProcess;
  readonly stdio: ExecStdio;
  /** Absolute path prefix of files of our own, unused by anybody else. */
  readonly scratch: string;
  /**
   * For a runtime with a kernel of its own: kills a process there, by its number there, with all that descends from it.
   */
  readonly killInside?: ((pid: number) => Promise<void>) | undefined;
}

/** `refused`: the process was never started; the text is the runtime's. */
export type ExecOutcome =
  | { readonly kind: 'exited'; readonly exitCode: number }
  | { readonly kind: 'refused'; readonly text: string };

/**
 * Runs the process to its end; every byte it wrote is delivered before this returns. When `op.signal` fires, the
 * process dies with all that descends from it or shares its session. A grandchild that holds the pipes keeps nobody
 * waiting who did not ask for it (ExecStdio.lateOutput, GHSA-7jxh-36q5-gcqv); when `op.signal` fires meanwhile, the
 * grandchild lives on and the exit code is still told.
 * @throws DeadlineExceeded or Cancelled when the operation was over first; as spawn.
 */
export async function execDetached(op: Op, request: ExecRequest): Promise<ExecOutcome> {
  const doing = `exec ${request.process.args[0] ?? ''} in container ${request.id}`;
  op.stage(doing);
  checkAlive(op, doing);
  const files = execFiles(request.scratch);
  try {
    // A few hundred bytes on tmpfs: a detour through the thread pool would take longer.
    writeFileSync(files.process, stringifyExact({ ...request.process, terminal: request.stdio.tty }), { mode: 0o600 });
    noteDue(files.due, op, request.id);
    const ends = request.stdio.tty ? terminalEnds(files.console, request.stdio) : pipeEnds(request.stdio);
    try {
      return await run(op, doing, request, files, ends);
    } finally {
      ends.close();
    }
  } finally {
    removeFiles(files, neverThere(op, request));
  }
}

/** The files that such an exec does not have: to look for each costs as much as to remove it. */
function neverThere({ deadline, signal }: Op, { stdio, killInside }: ExecRequest): ReadonlySet<string> {
  return new Set<keyof ExecFiles>([
    ...(signal.aborted ? [] : (['pidDraft'] as const)),
    ...(stdio.tty ? [] : (['console'] as const)),
    ...(killInside === undefined ? (['inside'] as const) : []),
    ...(deadline === Number.POSITIVE_INFINITY ? (['due'] as const) : []),
  ]);
}

function execArgv(request: ExecRequest, files: ExecFiles): [string, ...string[]] {
  return [
    ...request.argv,
    '--log',
    files.log,
    '--log-format',
    'json',
    'exec',
    '--detach',
    '--process',
    files.process,
    '--pid-file',
    files.pid,
    // By its name alone: the runtime may know no way around the 107 bytes that a socket's path has.
    ...(request.stdio.tty ? ['--console-socket', basename(files.console)] : []),
    ...(request.killInside === undefined ? [] : ['--internal-pid-file', files.inside]),
    request.id,
  ];
}

async function run(op: Op, doing: string, request: ExecRequest, files: ExecFiles, ends: Ends): Promise<ExecOutcome> {
  const claim = orphans.claim();
  // Not every runtime gives an exec the score that it asks for (crun 1.8); it inherits ours then, which is for the last
  // that the kernel should kill.
  const runtime = await spawn({
    argv: execArgv(request, files),
    cwd: dirname(request.scratch),
    fds: ends.childFds,
    leads: 'session',
    oomScoreAdj: request.process.oomScoreAdj,
  }).catch((error: unknown) => {
    claim.close();
    throw error;
  });
  ends.started();
  let current: Child = runtime;
  const kill = (): void => void killWhole(request, files, () => killTree(current.ref));
  op.signal.addEventListener('abort', kill, { once: true });
  try {
    if (op.signal.aborted) kill();
    const outcome = await ended(op, runtime);
    if (outcome !== 0) {
      if (op.signal.aborted) throw abortError(op, doing);
      await ends.settle('cut');
      return {
        kind: 'refused',
        text: errorText(readText(files.log)) || errorText(ends.runtimeWords()) || `exit code ${outcome}`,
      };
    }
    const child = claim.adopt(Number.parseInt(readText(files.pid), 10));
    if (child === undefined)
      throw new RuntimeError(
        'Internal',
        `${doing}: the process was started, but is no child of ours; how it ended cannot be known`,
      );
    claim.close();
    current = child;
    noteDue(files.due, op, request.id, child.ref);
    scoreAs(child, request.process.oomScoreAdj);
    request.stdio.onStarted?.();
    if (op.signal.aborted) kill();
    await ends.connect(op.signal);
    const exitCode = await ended(op, child);
    if (op.signal.aborted) throw abortError(op, doing);
    // Whatever has its number from here on, on the host or inside, is not ours to kill.
    op.signal.removeEventListener('abort', kill);
    if (request.stdio.lateOutput === 'follow') op.stage(`${doing}: it has ended, and something may hold its output`);
    await ends.settle(request.stdio.lateOutput, op.signal);
    return { kind: 'exited', exitCode: exitCode ?? 255 };
  } finally {
    op.signal.removeEventListener('abort', kill);
    claim.close();
    // A runtime that failed or was killed may leave its half-made process to us, as a zombie in the container's PID
    // namespace.
    if (current === runtime) orphans.reap();
  }
}

/**
 * runc gives an exec the score that the container was made with, though an update has changed it since and the process
 * asks for another.
 */
function scoreAs(child: Child, oomScoreAdj: number | undefined): void {
  if (oomScoreAdj === undefined) return;
  try {
    processes.setOomScoreAdj(child.ref, oomScoreAdj);
  } catch {
    // We may not: a score is no reason to fail a command.
  }
}

/** Ends the process, and what stands for it on the host where that is another one. */
async function killWhole({ killInside }: ExecRequest, files: ExecFiles, killHost: () => void): Promise<void> {
  const inside = Number.parseInt(killInside === undefined ? '' : readText(files.inside), 10);
  // The host's side ends by itself then, with an exit code.
  // Also ended by the container's end.
  if (killInside !== undefined && inside > 0) await killInside(inside).catch(() => {});
  killHost();
}

/**
 * The exit code; undefined if the process outlives the end of the operation, and so its SIGKILL, by
 * limits.processKilledMs. It is reaped whenever it ends.
 */
async function ended(op: Op, child: Child): Promise<number | undefined> {
  const ending = await withinGrace(op.signal, limits.processKilledMs, child.exited);
  return ending === 'late' ? undefined : exitCodeOf(ending);
}

/** Our side of an exec's stdio. */
interface Ends {
  readonly childFds: readonly (number | 'null')[];
  /** The runtime runs: the child's descriptors are closed here, output flows. */
  started(): void;
  /** The process runs: input flows, and held words were its own. */
  connect(signal: AbortSignal): Promise<void>;
  /** All that was written is delivered, and what is written late as `late` has it, unless `signal` fires first. */
  settle(late: ExecStdio['lateOutput'], signal?: AbortSignal): Promise<void>;
  /** The last of what came on the runtime's stderr. */
  runtimeWords(): string;
  close(): void;
}

function pipeEnds(stdio: ExecStdio): Ends {
  const childFds: number[] = [];
  const streams: FdStream[] = [];
  const openEnd = (child: 'read' | 'write'): FdStream => {
    const ends = descriptors.pipe();
    childFds.push(ends[child]);
    const stream = descriptors.openStream(ends[child === 'read' ? 'write' : 'read']);
    streams.push(stream);
    return stream;
  };
  const closeChildFds = (): void => childFds.splice(0).forEach(descriptors.close);
  const close = (): void => {
    closeChildFds();
    for (const stream of streams) stream.close();
  };
  try {
    const stdin = stdio.stdin === null ? null : openEnd('read');
    const stdout = stdio.stdout === null ? null : openEnd('write');
    const stderr = openEnd('write');
    const fds = [...childFds];
    const held = new HeldOutput(stdio.stderr);
    const pumps: Pump[] = [];
    const feeding = new AbortController();
    return {
      childFds: [
        stdin === null ? 'null' : (fds.shift() ?? 'null'),
        stdout === null ? 'null' : (fds.shift() ?? 'null'),
        fds.shift() ?? 'null',
      ],
      started: () => {
        closeChildFds();
        if (stdout !== null) pumps.push(new Pump(stdout, stdio.stdout));
        pumps.push(new Pump(stderr, (chunk) => held.push(chunk), stdio.stderr === null ? 'unwanted' : 'wanted'));
      },
      connect: async () => {
        if (stdin !== null && stdio.stdin !== null) void feed(stdin, stdio.stdin, feeding.signal, 'close');
        await held.release();
      },
      settle: (late, signal) => settleAll(pumps, late, signal),
      runtimeWords: () => held.tail(),
      close: () => {
        if (stdin !== null) feeding.abort();
        close();
      },
    };
  } catch (error) {
    close();
    throw error;
  }
}

function terminalEnds(path: string, stdio: ExecStdio): Ends {
  const words = descriptors.pipe();
  let wordsWrite = words.write;
  const stderr = descriptors.openStream(words.read);
  const held = new HeldOutput(null);
  const feeding = new AbortController();
  let socket: DescriptorSocket | undefined;
  let received: Promise<number | null> | undefined;
  let terminal: FdStream | undefined;
  const pumps: Pump[] = [];
  const closeWords = (): void => {
    descriptors.close(wordsWrite);
    wordsWrite = -1;
  };
  const close = (): void => {
    feeding.abort();
    closeWords();
    stderr.close();
    socket?.close();
    if (terminal !== undefined) terminal.close();
    else void received?.then((fd) => fd === null || descriptors.close(fd));
  };
  try {
    socket = sockets.listenForDescriptors(path);
    received = socket.receive(feeding.signal);
    received.catch(() => {}); // Asked for in connect.
  } catch (error) {
    close();
    throw error;
  }
  const arriving = received;
  return {
    childFds: ['null', 'null', words.write],
    started: () => {
      closeWords();
      pumps.push(new Pump(stderr, (chunk) => held.push(chunk), 'unwanted'));
    },
    connect: async (signal) => {
      const fd = await Promise.race([
        arriving,
        fired(AbortSignal.any([signal, AbortSignal.timeout(limits.consoleMs)])),
      ]);
      if (signal.aborted) return;
      if (typeof fd !== 'number') throw new RuntimeError('Internal', 'the runtime did not hand over a terminal');
      const master = descriptors.openStream(fd);
      terminal = master;
      stdio.onTerminal?.((size) => {
        if (!feeding.signal.aborted) descriptors.setWindowSize(fd, size);
      });
      pumps.push(new Pump(master, stdio.stdout));
      if (stdio.stdin !== null) void feed(master, stdio.stdin, feeding.signal, 'keep');
    },
    settle: (late, signal) => settleAll(pumps, late, signal),
    runtimeWords: () => held.tail(),
    close,
  };
}

type Sink = (chunk: Uint8Array) => Promise<void> | void;

/**
 * Moves a stream into a sink, one chunk after the other. What a sink does not want any more (it threw) is read and
 * dropped.
 */
class Pump {
  readonly #stream: FdStream;
  readonly #done: Promise<void>;
  readonly #isWanted: boolean;
  #sink: Sink | null;
  #delivering = false;
  #bytes = 0;

  constructor(stream: FdStream, sink: Sink | null, by: 'wanted' | 'unwanted' = 'wanted') {
    this.#stream = stream;
    this.#sink = sink;
    this.#isWanted = by === 'wanted';
    this.#done = this.#run();
  }

  /** Returns when nobody holds the other end any more, or when `signal` fires; at once if nobody wants the stream. */
  async follow(signal?: AbortSignal): Promise<void> {
    if (!this.#isWanted) return;
    await (signal === undefined ? this.#done : Promise.race([this.#done, fired(signal)]));
  }

  /**
   * Returns when the stream has ended, or has nothing more of what was in it: silent for limits.execDrainIdleMs, or
   * limits.execDrainBytes later. Then it is closed.
   */
  async settle(signal?: AbortSignal): Promise<void> {
    const before = this.#bytes;
    for (let seen = -1; signal?.aborted !== true && this.#bytes - before <= limits.execDrainBytes; ) {
      if ((await within(limits.execDrainIdleMs, this.#done)) !== 'late') return;
      if (!this.#delivering && this.#bytes === seen) break;
      seen = this.#bytes;
    }
    this.#stream.close();
  }

  async #run(): Promise<void> {
    for await (const chunk of this.#stream) {
      this.#bytes += chunk.length;
      this.#delivering = true;
      try {
        await this.#sink?.(chunk);
      } catch {
        this.#sink = null;
      }
      this.#delivering = false;
    }
  }
}

/** What nobody wants keeps nobody waiting, but is read as long: closing it would kill whoever writes there. */
async function settleAll(pumps: readonly Pump[], late: ExecStdio['lateOutput'], signal?: AbortSignal): Promise<void> {
  if (late === 'follow') await Promise.all(pumps.map((each) => each.follow(signal)));
  await Promise.all(pumps.map((each) => each.settle(signal)));
}

/** Holds output back until it is released, at most limits.execHeldBytes; keeps the last of it in any case. */
class HeldOutput {
  readonly #sink: Sink | null;
  readonly #held: Buffer[] = [];
  #released: Promise<void> | undefined;
  #heldBytes = 0;
  #tail = Buffer.alloc(0);

  constructor(sink: Sink | null) {
    this.#sink = sink;
  }

  async push(chunk: Uint8Array): Promise<void> {
    this.#tail = Buffer.concat([this.#tail, chunk]).subarray(-limits.commandErrorBytes);
    if (this.#released === undefined) {
      this.#held.push(Buffer.from(chunk));
      this.#heldBytes += chunk.length;
      if (this.#heldBytes > limits.execHeldBytes) await this.release();
      return;
    }
    await this.#released;
    await this.#sink?.(chunk);
  }

  /** Delivers what is held; from now on everything passes through, behind it. */
  release(): Promise<void> {
    this.#released ??= (async () => {
      for (const chunk of this.#held.splice(0)) await this.#sink?.(chunk);
    })().catch(() => {}); // As in Pump: a client that left does not end the process.
    return this.#released;
  }

  tail(): string {
    return this.#tail.toString('utf8');
  }
}

/** Writes a source into a stream until either ends. Every byte is taken by the kernel before the input is closed. */
async function feed(
  stream: FdStream,
  source: AsyncIterable<Uint8Array>,
  stop: AbortSignal,
  atEnd: 'close' | 'keep',
): Promise<void> {
  const iterator = source[Symbol.asyncIterator]();
  // Not a race of each `next` with one promise: until that settles it would hold every chunk that ever won.
  const end = (): void => void iterator.return?.().catch(() => {});
  stop.addEventListener('abort', end, { once: true });
  try {
    while (!stop.aborted) {
      const next = await iterator.next();
      if (next.done === true) break;
      await stream.write(next.value);
    }
  } catch {
    // The process does not read any more, or the client is gone: either way the input is over.
  }
  stop.removeEventListener('abort', end);
  if (atEnd === 'close') stream.close();
  end();
}

function readText(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

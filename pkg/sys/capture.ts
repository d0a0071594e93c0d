/** Commands run to their end, with bounds on what is kept of what they say. */
import { constants } from 'node:os';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { within, withinGrace } from '../base/time.ts';
import { limits } from '../base/limits.ts';
import type { Captured, CaptureRequest, Child, Ending, FdStream } from '../ports/kernel.ts';
import { errnoBehind } from './addon.ts';
import { close, openStream, pipe } from './descriptors.ts';
import { exitCodeOf, spawn, spawnKept, unexecuted } from './spawn.ts';

/**
 * Runs a command to its end and returns what it said. A non-zero exit is an answer, not an error. When `op.signal`
 * fires, or we die, it is killed with all that it has started, unless `request.withoutUs` says otherwise. What
 * descendants hold open after the command has ended is not waited for longer than `limits.commandDrainMs`
 * (GHSA-7jxh-36q5-gcqv).
 * @throws as spawn; DeadlineExceeded or Cancelled naming the command.
 */
export async function capture(op: Op, request: CaptureRequest): Promise<Captured> {
  const what = request.what ?? request.argv[0];
  checkAlive(op, `run ${what}`);
  const pipes = openPipes(request.stdin === undefined ? 'nothing to read' : 'a pipe');
  let child: Child;
  try {
    child = await (request.withoutUs === 'goes on' ? spawn : spawnKept)({
      ...request,
      fds: [pipes.stdin?.read ?? 'null', pipes.stdout.write, pipes.stderr.write, ...(request.extraFds ?? [])],
    });
  } catch (error) {
    for (const end of [pipes.stdout, pipes.stderr, pipes.stdin]) if (end !== null) closePipe(end);
    throw error;
  }
  closeChildEnds(pipes);
  const streams = {
    stdout: openStream(pipes.stdout.read),
    stderr: openStream(pipes.stderr.read),
    stdin: pipes.stdin === null ? null : openStream(pipes.stdin.write),
  };
  try {
    const feeding = streams.stdin === null ? undefined : feed(streams.stdin, request.stdin ?? '');
    const out = collect(streams.stdout, request.stdoutMax, request.stdoutKeep ?? 'head');
    const err = collect(streams.stderr, request.stderrMax, request.stderrKeep ?? 'tail');
    const kill =
      request.withoutUs === 'goes on'
        ? () => child.killGroup(constants.signals.SIGKILL)
        : () => child.kill(constants.signals.SIGTERM);
    const ending = await endOf(child, op.signal, kill);
    if (ending === undefined || op.signal.aborted) throw abortError(op, `run ${what}`);
    await within(limits.commandDrainMs, Promise.all([out.done, err.done]));
    streams.stdin?.close();
    await feeding;
    const exitCode = exitCodeOf(ending);
    const failure = unexecuted(request, exitCode, err.bytes());
    if (failure !== undefined) throw failure;
    return {
      exitCode,
      signal: ending.kind === 'signalled' ? ending.signal : null,
      stdout: out.bytes(),
      stderr: err.bytes(),
      stdoutCut: out.cut(),
      stderrCut: err.cut(),
    };
  } finally {
    for (const stream of [streams.stdout, streams.stderr, streams.stdin]) stream?.close();
  }
}

/** Keeps the first or last `max` bytes of what is pushed. Exported for its test. */
export class BoundedBytes {
  readonly #max: number;
  readonly #keep: 'head' | 'tail';
  #parts: Buffer[] = [];
  #size = 0;
  #cut = false;

  constructor(max: number, keep: 'head' | 'tail') {
    this.#max = max;
    this.#keep = keep;
  }

  push(part: Buffer): void {
    if (this.#keep === 'head') {
      const room = this.#max - this.#size;
      if (part.length > room) this.#cut = true;
      if (room > 0) this.#add(part.subarray(0, room));
      return;
    }
    this.#add(part);
    // Twice the bound before anything moves: every byte is copied once on average, however small the parts are.
    if (this.#size > 2 * this.#max) this.#trim();
  }

  cut(): boolean {
    return this.#cut || this.#size > this.#max;
  }

  bytes(): Buffer {
    this.#trim();
    return this.#parts[0] ?? Buffer.alloc(0);
  }

  #add(part: Buffer): void {
    this.#parts.push(part);
    this.#size += part.length;
  }

  #trim(): void {
    const all = Buffer.concat(this.#parts, this.#size);
    if (all.length > this.#max) this.#cut = true;
    const kept = all.length > this.#max ? Buffer.from(all.subarray(all.length - this.#max)) : all;
    this.#parts = [kept];
    this.#size = kept.length;
  }
}

function collect(
  stream: FdStream,
  max: number,
  keep: 'head' | 'tail',
): { readonly done: Promise<void>; bytes(): Buffer; cut(): boolean } {
  const kept = new BoundedBytes(max, keep);
  const done = (async () => {
    for await (const part of stream) kept.push(part);
  })();
  return { done, bytes: () => kept.bytes(), cut: () => kept.cut() };
}

/** A command that ends without reading all its input is no error. */
async function feed(stream: FdStream, data: Uint8Array | string): Promise<void> {
  try {
    await stream.write(typeof data === 'string' ? Buffer.from(data) : data);
  } catch (error) {
    const errno = errnoBehind(error);
    if (errno !== undefined && errno !== 'EPIPE' && errno !== 'ECONNRESET') throw error;
  } finally {
    stream.close();
  }
}

/**
 * How the child ended; undefined if it survives its SIGKILL for limits.processKilledMs (uninterruptible sleep). It is
 * reaped whenever it does end.
 */
async function endOf(child: Child, signal: AbortSignal, kill: () => void): Promise<Ending | undefined> {
  const abort = (): void => kill();
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  try {
    const ending = await withinGrace(signal, limits.processKilledMs, child.exited);
    return ending === 'late' ? undefined : ending;
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

interface Pipe {
  readonly read: number;
  readonly write: number;
}
interface Pipes {
  readonly stdin: Pipe | null;
  readonly stdout: Pipe;
  readonly stderr: Pipe;
}

function openPipes(stdin: 'a pipe' | 'nothing to read'): Pipes {
  const opened: Pipe[] = [];
  const open = (): Pipe => {
    const ends = pipe();
    opened.push(ends);
    return ends;
  };
  try {
    return { stdout: open(), stderr: open(), stdin: stdin === 'a pipe' ? open() : null };
  } catch (error) {
    opened.forEach(closePipe);
    throw error;
  }
}

function closePipe(ends: Pipe): void {
  close(ends.read);
  close(ends.write);
}

function closeChildEnds(pipes: Pipes): void {
  if (pipes.stdin !== null) close(pipes.stdin.read);
  close(pipes.stdout.write);
  close(pipes.stderr.write);
}

/**
 * Child processes without child_process: vfork semantics whatever the size of our heap, a descriptor map, cgroups
 * joined before the first instruction, the exit as an event on a pidfd. No exit is thrown away: whoever holds a Child
 * learns how it ended.
 */
import { accessSync, constants as fsConstants } from 'node:fs';
import { constants } from 'node:os';
import { delimiter, join } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import type { ProcessRef } from '../base/ids.ts';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { addon, attemptAsync, errnoBehind, errnoName, systemError } from './addon.ts';
import { closeFd, openStream, pipe, type FdStream } from './fd.ts';

export interface SpawnRequest {
  /** argv[0] is the binary: an absolute path, or a name that is looked up along PATH. */
  readonly argv: readonly [string, ...string[]];
  /**
   * `KEY=value`; undefined = our own environment without what is meant for us alone (NOTIFY_SOCKET, LISTEN_*, NODE_*).
   */
  readonly env?: readonly string[] | undefined;
  readonly cwd?: string | undefined;
  /**
   * Element i becomes the child's descriptor i; every other descriptor is closed in the child. Ours stay open and ours.
   * Default: three times null.
   */
  readonly fds?: readonly (number | 'null')[] | undefined;
  /**
   * Absolute cgroup directories that the child enters before it executes. Every move costs milliseconds of latency (the
   * kernel waits for a grace period); for many children in one cgroup use a `launcher`.
   */
  readonly cgroupDirs?: readonly string[] | undefined;
  readonly launcher?: Launcher | undefined;
  /** 'group': leader of a process group of its own (default); 'session': also of a session; 'inherit': ours. */
  readonly leads?: 'group' | 'session' | 'inherit' | undefined;
  /** Best effort: a value that the kernel refuses is left out. */
  readonly oomScoreAdj?: number | undefined;
}

/** How a process ended. */
export type Ending =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: number };

export interface Child {
  readonly pid: number;
  readonly ref: ProcessRef;
  /** Never rejects. The process is reaped when it resolves. */
  readonly exited: Promise<Ending>;
  /** Through the pidfd: exactly this process; false when it has ended. */
  kill(signal: number): boolean;
  /** Its process group (only for a child that leads one); false when the child itself has been reaped. */
  killGroup(signal: number): boolean;
}

/**
 * A thread of ours that lives in given cgroups; children spawned through it are born there at no cost. Holds the
 * cgroups busy until closed.
 */
export interface Launcher {
  readonly id: number;
  close(): Promise<void>;
}

/** 0-255 as a shell reports it: the exit code, or 128 + signal. */
export function exitCodeOf(ending: Ending): number {
  return ending.kind === 'exited' ? ending.code : 128 + ending.signal;
}

/**
 * Starts a process. Resolves once it executes its binary (so a bad path is an error here, not an exit code).
 * @throws NotFound or PermissionDenied naming the binary and the remedy; the errno's code otherwise.
 */
export async function spawn(request: SpawnRequest): Promise<Child> {
  const file = request.argv[0].includes('/') ? request.argv[0] : findExecutable(request.argv[0]);
  if (file === undefined) throw missingBinary(request.argv[0], 'it is not in PATH');
  const leads = { inherit: 0, group: 1, session: 2 }[request.leads ?? 'group'];
  const fds = (request.fds ?? ['null', 'null', 'null']).map((fd) => (fd === 'null' ? -1 : fd));
  const start = {};
  starts.add(start);
  try {
    const [pid = 0n, pidfd = -1n, startTicks = 0n] = await addon().spawn(
      file,
      request.argv,
      request.env ?? inheritedEnv(),
      request.cwd ?? '',
      fds,
      request.cgroupDirs ?? [],
      leads,
      request.oomScoreAdj ?? 10_000,
      request.launcher?.id ?? 0,
    );
    return watchChild({ pid: Number(pid), startTicks }, Number(pidfd));
  } catch (error) {
    throw spawnError(error, file);
  } finally {
    starts.delete(start);
  }
}

/** Our environment for children, as it was at the first call: without what concerns this daemon alone. `extra` wins. */
export function inheritedEnv(extra: Readonly<Record<string, string>> = {}): string[] {
  inherited ??= environmentOf(process.env);
  const kept = Array.from(inherited).filter(([key]) => !(key in extra));
  return [...kept, ...Object.entries(extra)].map(([key, value]) => `${key}=${value}`);
}

/** Node asks libc for each variable each time, and plugins are run often. */
let inherited: ReadonlyMap<string, string> | undefined;

/** PURE. What of an environment children get. */
export function environmentOf(env: Readonly<Record<string, string | undefined>>): ReadonlyMap<string, string> {
  const kept = new Map<string, string>();
  for (const [key, value] of Object.entries(env)) {
    if (value !== undefined && !/^(NOTIFY_SOCKET$|LISTEN_|NODE_|WATCHDOG_|npm_)/.test(key)) kept.set(key, value);
  }
  return kept;
}

/**
 * Absolute path of an executable file: `name` itself if it is a path, else the first along `path`; undefined if there
 * is none.
 */
export function findExecutable(
  name: string,
  path = process.env['PATH'] ?? '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
): string | undefined {
  if (name.startsWith('/')) return isExecutable(name) ? name : undefined;
  return path
    .split(delimiter)
    .filter((directory) => directory.startsWith('/'))
    .map((directory) => join(directory, name))
    .find(isExecutable);
}

/** A launcher in the given cgroup directories (they must exist). Costs the migrations once. */
export async function openLauncher(cgroupDirs: readonly string[]): Promise<Launcher> {
  const id = await attemptAsync(`enter cgroup ${cgroupDirs.join(', ')}`, (native) => native.openLauncher(cgroupDirs));
  return { id, close: () => attemptAsync('close launcher', (native) => native.closeLauncher(id)) };
}

export interface CaptureRequest extends Omit<SpawnRequest, 'fds'> {
  /** Written to stdin, then closed; undefined = /dev/null. */
  readonly stdin?: Uint8Array | string | undefined;
  /** Most bytes kept of each stream; the rest is read and dropped. */
  readonly stdoutMax: number;
  readonly stderrMax: number;
  /**
   * Which end is kept when there is more. Default: head of stdout, tail of stderr (where tools say why they failed).
   */
  readonly stdoutKeep?: 'head' | 'tail' | undefined;
  readonly stderrKeep?: 'head' | 'tail' | undefined;
  /** Descriptors 3, 4, … of the child. */
  readonly extraFds?: readonly number[] | undefined;
  /** Names the command in errors ("runc create"); default: the binary. */
  readonly what?: string | undefined;
}

export interface Captured {
  /** 0-255; 128 + signal when a signal ended it. */
  readonly exitCode: number;
  readonly signal: number | null;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** True if the stream had more bytes than are kept. */
  readonly stdoutCut: boolean;
  readonly stderrCut: boolean;
}

/**
 * Runs a command to its end and returns what it said. A non-zero exit is an answer, not an error. When `op.signal`
 * fires, the whole process group gets SIGKILL. What descendants hold open after the command has ended is not waited for
 * longer than `DRAIN_MS` (GHSA-7jxh-36q5-gcqv).
 * @throws as spawn; DeadlineExceeded or Cancelled naming the command.
 */
export async function capture(op: Op, request: CaptureRequest): Promise<Captured> {
  const what = request.what ?? request.argv[0];
  checkAlive(op, `run ${what}`);
  const pipes = openPipes(request.stdin !== undefined);
  let child: Child;
  try {
    child = await spawn({
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
    const ending = await endOf(child, op.signal);
    if (ending === undefined || op.signal.aborted) throw abortError(op, `run ${what}`);
    await within(DRAIN_MS, Promise.all([out.done, err.done]));
    streams.stdin?.close();
    await feeding;
    return {
      exitCode: exitCodeOf(ending),
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

/** How long output is still awaited after a command has ended while a descendant holds the pipe. */
const DRAIN_MS = 200;

/** How long a process may take to vanish after SIGKILL before the caller gets its error anyway. */
const KILLED_MS = 2_000;

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
 * How the child ended; undefined if it survives its SIGKILL for KILLED_MS (uninterruptible sleep). It is reaped
 * whenever it does end.
 */
async function endOf(child: Child, signal: AbortSignal): Promise<Ending | undefined> {
  const { promise: aborted, resolve } = Promise.withResolvers<void>();
  const abort = (): void => {
    child.killGroup(constants.signals.SIGKILL);
    resolve();
  };
  if (signal.aborted) abort();
  else signal.addEventListener('abort', abort, { once: true });
  try {
    const ending = await Promise.race([child.exited, aborted]);
    return ending ?? (await within(KILLED_MS, child.exited));
  } finally {
    signal.removeEventListener('abort', abort);
  }
}

/** What `work` gives, or undefined after `ms`. */
async function within<T>(ms: number, work: Promise<T>): Promise<T | undefined> {
  const { promise: late, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(resolve, ms, undefined);
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
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

function openPipes(withStdin: boolean): Pipes {
  const opened: Pipe[] = [];
  const open = (): Pipe => {
    const ends = pipe();
    opened.push(ends);
    return ends;
  };
  try {
    return { stdout: open(), stderr: open(), stdin: withStdin ? open() : null };
  } catch (error) {
    opened.forEach(closePipe);
    throw error;
  }
}

function closePipe(ends: Pipe): void {
  closeFd(ends.read);
  closeFd(ends.write);
}

function closeChildEnds(pipes: Pipes): void {
  if (pipes.stdin !== null) closeFd(pipes.stdin.read);
  closeFd(pipes.stdout.write);
  closeFd(pipes.stderr.write);
}

/** Pids that somebody waits for, so that reapOrphans leaves them alone. */
const awaited = new Set<number>();

/**
 * Spawns under way: the child may exist, and even have ended, before anybody can be said to wait for it. reapOrphans
 * leaves what it first sees meanwhile.
 */
const starts = new Set<object>();

/** The spawns that are under way right now. */
export function openStarts(): ReadonlySet<object> {
  return starts;
}

/** True while a Child stands for this pid. */
export function isAwaited(pid: number): boolean {
  return awaited.has(pid);
}

/** Turns a pidfd, which it owns from now on, of a child of ours into a Child. */
export function watchChild(ref: ProcessRef, pidfd: number): Child {
  const { promise: exited, resolve } = Promise.withResolvers<Ending>();
  let running = true;
  awaited.add(ref.pid);
  const watch = addon().watch(pidfd, () => {
    const ending = reap(pidfd);
    if (ending === undefined) return;
    running = false;
    awaited.delete(ref.pid);
    addon().unwatch(watch);
    closeFd(pidfd);
    resolve(ending);
  });
  addon().arm(watch, 1);
  return {
    pid: ref.pid,
    ref,
    exited,
    kill: (signal) => running && delivered(() => addon().pidfdSignalSync(pidfd, signal)),
    // Until it is reaped, the number cannot become another process's group.
    killGroup: (signal) => running && delivered(() => void process.kill(-ref.pid, signal)),
  };
}

/**
 * How our child ended; undefined while it runs. If somebody else took the exit away, that is said as a signal 0, never
 * as success.
 */
function reap(pidfd: number): Ending | undefined {
  const CLD_EXITED = 1n;
  try {
    const [how, status = 0n] = addon().pidfdReapSync(pidfd);
    return how === CLD_EXITED
      ? { kind: 'exited', code: Number(status) }
      : { kind: 'signalled', signal: Number(status) };
  } catch (error) {
    const errno = errnoName((error as { errno?: number }).errno ?? 0);
    if (errno === 'EAGAIN') return undefined;
    return { kind: 'exited', code: 255 };
  }
}

function delivered(send: () => void): boolean {
  try {
    send();
    return true;
  } catch (error) {
    if ((error as { errno?: number }).errno === constants.errno.ESRCH || (error as { code?: string }).code === 'ESRCH')
      return false;
    throw systemError(error, 'send signal');
  }
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, fsConstants.X_OK);
    return true;
  } catch {
    return false;
  }
}

function missingBinary(file: string, why: string): RuntimeError {
  return new RuntimeError(
    'NotFound',
    `cannot run ${file}: ${why}; install it or correct its path in the configuration`,
  );
}

function spawnError(error: unknown, file: string): unknown {
  const { errno, syscall } = error as { errno?: number; syscall?: string };
  const name = errno === undefined ? '' : errnoName(errno);
  if (syscall === 'execve' && (name === 'ENOENT' || name === 'ENOTDIR'))
    return missingBinary(file, 'there is no such file (or the interpreter it names is missing)');
  if (syscall === 'execve' && name === 'EACCES')
    return new RuntimeError(
      'PermissionDenied',
      `cannot run ${file}: it is not an executable file; check its mode and that its file system is not mounted noexec`,
    );
  if (syscall === 'execve' && name === 'ENOEXEC')
    return new RuntimeError('FailedPrecondition', `cannot run ${file}: it is not a program for this machine`);
  return systemError(error, `run ${file}`);
}

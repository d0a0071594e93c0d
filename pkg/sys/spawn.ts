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
import type { Child, Ending, Launcher, SpawnRequest } from '../ports/kernel.ts';
import { addon, attemptAsync, errnoName, programBeside, systemError } from './addon.ts';
import { close } from './descriptors.ts';

/** 0-255 as a shell reports it: the exit code, or 128 + signal. */
export function exitCodeOf(ending: Ending): number {
  return ending.kind === 'exited' ? ending.code : 128 + ending.signal;
}

/**
 * Starts a process. Resolves once it executes its binary (so a bad path is an error here, not an exit code).
 * @throws NotFound or PermissionDenied naming the binary and the remedy; the errno's code otherwise.
 */
export async function spawn(request: SpawnRequest): Promise<Child> {
  const file = fileOf(request);
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

/**
 * As spawn, of a command that ends when we do, whatever becomes of us, with all that it has started: the Child stands
 * for a process that sees to that (native/keep.c). `unexecuted` tells from how it ended whether the command ran at all.
 */
export async function spawnKept(request: SpawnRequest): Promise<Child> {
  const leads = request.leads ?? 'group';
  const argv = [programBeside('keep'), String(process.pid), leads, fileOf(request), ...request.argv] as const;
  return await spawn({ ...request, argv, leads: 'group' });
}

/** The error of a kept command that could not be executed, by its exit code and what it said; undefined if it was. */
export function unexecuted(request: SpawnRequest, exitCode: number, stderr: Buffer): unknown {
  const errno = exitCode === 127 ? /^berth-keep: execve: (\d+)\n$/.exec(stderr.toString('latin1'))?.[1] : undefined;
  if (errno === undefined) return undefined;
  const failure = Object.assign(new Error('execve'), { errno: Number(errno), syscall: 'execve' });
  return spawnError(failure, fileOf(request));
}

function fileOf({ argv: [name] }: SpawnRequest): string {
  const file = name.includes('/') ? name : findExecutable(name);
  if (file === undefined) throw missingBinary(name, 'it is not in PATH');
  return file;
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

/** Pids that somebody waits for, so that orphans.reap leaves them alone. */
const awaited = new Set<number>();

/**
 * Spawns under way: the child may exist, and even have ended, before anybody can be said to wait for it. orphans.reap
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
    close(pidfd);
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

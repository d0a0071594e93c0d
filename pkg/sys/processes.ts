/**
 * Processes that are not our children: by pid and start, never by a bare number. A number is looked up first and used
 * afterwards, through something that stays with the process (a pidfd, an open file of its own), and its start is
 * compared in between: whoever has it then is whom was meant. This is the one place that knows /proc/<pid>.
 */
import { openSync, readdirSync, readFileSync, writeSync } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { constants as os } from 'node:os';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import type { ProcessRef } from '../base/ids.ts';
import { nextTurn } from '../base/loop-share.ts';
import { attempt, attemptAsync, errnoBehind } from './addon.ts';
import { close } from './descriptors.ts';
import { readFiles, readKernelFiles } from './kernel-files.ts';
import { untilReady } from './ready.ts';

/** One process, as /proc/<pid>/stat tells of it. */
export interface ProcessStat {
  readonly pid: number;
  readonly parentPid: number;
  readonly session: number;
  readonly startTicks: bigint;
  /** `R`, `S`, `Z`, …: proc_pid_stat(5). */
  readonly state: string;
}

/**
 * PURE. The fields of /proc/<pid>/stat that identify a process; undefined if the text is none. The name in parentheses
 * may contain anything, also parentheses.
 */
export function parseProcStat(text: string): ProcessStat | undefined {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const pid = Number.parseInt(text, 10);
  const [state, parent, , session] = fields;
  // Field 22 of proc(5); the list here begins with field 3.
  const startTicks = fields[19];
  if (
    !Number.isInteger(pid) ||
    state === undefined ||
    parent === undefined ||
    session === undefined ||
    startTicks === undefined ||
    !/^\d+$/.test(startTicks)
  )
    return undefined;
  return { pid, state, parentPid: Number(parent), session: Number(session), startTicks: BigInt(startTicks) };
}

function procStat(pid: number): ProcessStat | undefined {
  try {
    // As UTF-8, which Node reads in one go; a name that is none has no effect on the fields.
    return parseProcStat(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
}

/** The process that has this pid right now (a zombie too); undefined if none has. */
export function refOf(pid: number): ProcessRef | undefined {
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  const stat = procStat(pid);
  return stat === undefined ? undefined : { pid, startTicks: stat.startTicks };
}

/**
 * The process with this pid that `maker` has just made; undefined if it is gone, whoever has its number by now. What a
 * monitor makes is its child, or, where a runtime hands it to somebody else, at least no older than the monitor.
 */
export function madeBy(maker: ProcessRef, pid: number): ProcessRef | undefined {
  const stat = procStat(pid);
  return stat !== undefined && isMadeBy(maker, stat) ? { pid, startTicks: stat.startTicks } : undefined;
}

/** PURE. What madeBy decides by. */
export function isMadeBy(maker: ProcessRef, { pid, parentPid, startTicks }: ProcessStat): boolean {
  return parentPid === maker.pid || (pid !== maker.pid && startTicks >= maker.startTicks);
}

/** True while exactly this process exists and is no zombie. */
export function isAlive(ref: ProcessRef): boolean {
  const stat = procStat(ref.pid);
  return stat !== undefined && stat.startTicks === ref.startTicks && stat.state !== 'Z' && stat.state !== 'X';
}

/**
 * Signals exactly this process, through a pidfd opened and then compared; false if it is gone. @throws InvalidArgument
 * for a bad signal, PermissionDenied.
 */
export function signal(ref: ProcessRef, signal: number): boolean {
  const pidfd = openProcess(ref);
  if (pidfd === undefined) return false;
  try {
    attempt(`send signal ${signal} to process ${ref.pid}`, (native) => native.pidfdSignalSync(pidfd, signal));
    return true;
  } catch (error) {
    if (errnoBehind(error) === 'ESRCH') return false;
    throw error;
  } finally {
    close(pidfd);
  }
}

/**
 * A descriptor of the PID namespace of exactly this process: opened and then compared, as a pidfd is. @throws
 * FailedPrecondition if the process is gone.
 */
export function openPidNamespace(ref: ProcessRef): number {
  const gone = (cause?: unknown): RuntimeError =>
    new RuntimeError('FailedPrecondition', `process ${ref.pid} is gone, and its PID namespace with it`, { cause });
  let namespace: number;
  try {
    namespace = openSync(`/proc/${ref.pid}/ns/pid`, 'r');
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '')) throw gone(error);
    throw error;
  }
  if (isAlive(ref)) return namespace;
  close(namespace);
  throw gone();
}

/** False if the kernel would throw `signal` away now; see parseHeeds. True for a process that is gone. */
export function heeds(ref: ProcessRef, signal: number): boolean {
  // In this order: handlers that are read after the program was seen to run are its own.
  const stat = text(`/proc/${ref.pid}/stat`);
  if (parseProcStat(stat)?.startTicks !== ref.startTicks) return true;
  return parseHeeds(stat, text(`/proc/${ref.pid}/status`), signal);
}

/** True if exactly this process has executed a program since it was forked; false for one that is gone. */
export function hasExecuted(ref: ProcessRef): boolean {
  const stat = text(`/proc/${ref.pid}/stat`);
  return parseProcStat(stat)?.startTicks === ref.startTicks && parseExecuted(stat);
}

/**
 * PURE. Whether the process whose /proc/<pid>/stat this is has called execve since it was forked, and its program has
 * been loaded. Fields 9 (flags) and 26 (startcode, 0 until execve has loaded the program) of proc_pid_stat(5); the list
 * here begins with field 3.
 */
export function parseExecuted(stat: string): boolean {
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[6]) & FORKED_ONLY) === 0 && fields[23] !== '0';
}

/** The process was forked and has not called execve since (PF_FORKNOEXEC of linux/sched.h). */
const FORKED_ONLY = 0x40;

/**
 * PURE. Whether a signal from outside reaches the program of the process whose /proc/<pid>/stat and status, read in
 * this order, these are. Only the init of a PID namespace is deaf: to what it neither handles nor blocks (a blocked
 * signal is kept), except SIGKILL and SIGSTOP (pid_namespaces(7)). As long as an OCI runtime prepares the container, or
 * its execve is under way, the program does not run yet, and what the runtime handles (one in Go: everything) it drops.
 */
export function parseHeeds(stat: string, status: string, signal: number): boolean {
  const isInit = /^NSpid:.*\s1$/m.test(status);
  if (!isInit || signal === os.signals.SIGKILL || signal === os.signals.SIGSTOP) return true;
  if (!parseExecuted(stat)) return false;
  const bit = 1n << BigInt(signal - 1);
  return ['SigCgt', 'SigBlk'].some(
    (row) => (BigInt(`0x${new RegExp(`^${row}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0'}`) & bit) !== 0n,
  );
}

/**
 * Sets the OOM score of exactly this process, if it is another; false if it is gone. @throws as write(2): EACCES where
 * it would be lowered without CAP_SYS_RESOURCE.
 */
export function setOomScoreAdj(ref: ProcessRef, value: number): boolean {
  let file = -1;
  try {
    file = openSync(`/proc/${ref.pid}/oom_score_adj`, 'r+');
    if (!isAlive(ref)) return false;
    if (Number(readFileSync(file, 'utf8')) !== value) writeSync(file, String(value));
    return true;
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '')) return false;
    throw error;
  } finally {
    close(file);
  }
}

/** /proc/<pid>/limits of exactly this process; '' if it is gone. */
export async function limitsOf(ref: ProcessRef): Promise<string> {
  const { text } = await readKernelFiles([{ directory: `/proc/${ref.pid}`, names: 'limits' }]);
  return isAlive(ref) ? text : '';
}

/** True if exactly this process has the file that is at `path` now open. */
export async function holdsOpen(ref: ProcessRef, path: string): Promise<boolean> {
  const wanted = await inodeOf(path);
  if (wanted === undefined) return false;
  const directory = `/proc/${ref.pid}/fd`;
  const names = await readdir(directory).catch(() => []);
  const found = await Promise.all(names.map((name) => inodeOf(join(directory, name))));
  return found.includes(wanted) && isAlive(ref);
}

/** Device and inode of the file at `path`, links followed; undefined if there is none. */
export async function inodeOf(path: string): Promise<string | undefined> {
  try {
    const { dev, ino } = await stat(path, { bigint: true });
    return `${dev}:${ino}`;
  } catch {
    return undefined;
  }
}

/**
 * Resolves when this process has ended (it may still be a zombie), or when `signal` fires. Works for anybody's child.
 */
export async function waitGone(ref: ProcessRef, signal: AbortSignal): Promise<void> {
  const pidfd = openProcess(ref);
  if (pidfd === undefined) return;
  try {
    await untilReady(pidfd, 'readable', signal);
  } finally {
    close(pidfd);
  }
}

/**
 * A pidfd of exactly this process: whoever has the pid when the descriptor exists keeps it, so comparing afterwards is
 * enough.
 */
function openProcess(ref: ProcessRef): number | undefined {
  let pidfd: number;
  try {
    pidfd = attempt(`open process ${ref.pid}`, (native) => native.pidfdOpenSync(ref.pid));
  } catch (error) {
    if (['ESRCH', 'EINVAL'].includes(errnoBehind(error) ?? '')) return undefined;
    throw error;
  }
  let exact = false;
  try {
    exact = isAlive(ref);
  } finally {
    if (!exact) close(pidfd);
  }
  return exact ? pidfd : undefined;
}

/**
 * Open descriptors of these processes together, and how many of them are sockets; a process that is gone counts
 * nothing.
 */
export async function countDescriptors(
  pids: readonly number[],
): Promise<{ readonly descriptors: number; readonly sockets: number }> {
  const [descriptors = 0n, sockets = 0n] = await attemptAsync('count open descriptors', (native) =>
    native.countFds(pids),
  );
  return { descriptors: Number(descriptors), sockets: Number(sockets) };
}

/** A small kernel file; '' where the kernel does not have it. */
function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** The numbers of all processes that are visible here, zombies too, as /proc has them. */
export function listPids(): string[] {
  return readdirSync('/proc').filter((name) => /^\d+$/.test(name));
}

/** All processes that are visible here, zombies too. */
export function listProcesses(): ProcessStat[] {
  return readStats(listPids().map(Number));
}

/** The stats of those of these processes that are there. */
export function readStats(pids: readonly number[]): ProcessStat[] {
  return readFiles(
    pids.map((pid) => `/proc/${pid}/stat`),
    1024,
  ).flatMap((bytes) => (bytes === null ? [] : (parseProcStat(bytes.toString('latin1')) ?? [])));
}

/**
 * The stats of those of these processes that are there, some in each turn of the event loop: how many there are is for
 * containers to say.
 */
export async function* statsInTurns(pids: readonly string[]): AsyncGenerator<ProcessStat[], void, undefined> {
  for (let from = 0; from < pids.length; from += AT_ONCE) {
    if (from > 0) await nextTurn();
    yield readStats(pids.slice(from, from + AT_ONCE).map(Number));
  }
}

/**
 * A file of each of these processes, as far as they are there, of at most `max` bytes: some in each turn of the event
 * loop, since whoever has many processes with large files decides how much that is together. A process is known before
 * its file is read: the content is of exactly that one if it is still alive afterwards.
 */
export async function* filesOf(
  pids: readonly string[],
  name: 'environ' | 'cmdline' | 'comm' | 'cgroup',
  max: number,
): AsyncGenerator<[process: ProcessRef, content: Buffer], void, undefined> {
  for await (const some of statsInTurns(pids)) {
    for (const [index, content] of readFiles(
      some.map(({ pid }) => `/proc/${pid}/${name}`),
      max,
    ).entries()) {
      const process = some[index];
      if (content !== null && process !== undefined)
        yield [{ pid: process.pid, startTicks: process.startTicks }, content];
    }
  }
}

const AT_ONCE = 32;

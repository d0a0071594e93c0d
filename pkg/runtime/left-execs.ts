/**
 * Commands in containers that outlive the daemon that began them. They have no monitor, so who hears them is gone and
 * they go on, as with CRI-O and containerd; but one that was given a time to end at (ExecSync's, a probe's) keeps it:
 * conmon ends it there, the next daemon here.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { explain } from '../base/errors.ts';
import { removeInMemory } from '../base/files.ts';
import type { ContainerId, ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { leftMs, LONGEST_TIMER_MS, monotonicMs } from '../base/time.ts';
import { killTree, processes } from '../sys/index.ts';

/** The files of one exec, by what is in them. */
export type ExecFiles = Readonly<Record<'process' | 'pid' | 'pidDraft' | 'log' | 'console' | 'inside' | 'due', string>>;

/** The end of the name of what says when a command is to end. */
export const DUE = '.due';

/** The files of the exec that has this path. */
export function execFiles(scratch: string): ExecFiles {
  return {
    process: `${scratch}.json`,
    pid: `${scratch}.pid`,
    // Where runc writes the number before it renames it; one that is killed in between leaves it.
    pidDraft: join(dirname(scratch), `.${basename(scratch)}.pid`),
    log: `${scratch}.log`,
    console: `${scratch}.sock`,
    inside: `${scratch}.inside`,
    due: `${scratch}${DUE}`,
  };
}

/** Removes what is there of the files of an exec, all but those that it has never had. */
export function removeFiles(files: ExecFiles, absent: ReadonlySet<string> = new Set()): void {
  for (const [what, path] of Object.entries(files)) if (!absent.has(what)) removeInMemory(path);
}

/** A command that has a time to end at. */
export interface LimitedExec {
  readonly id: ContainerId;
  /** In milliseconds of `monotonicMs`, which the next daemon reads, too. */
  readonly dueMs: number;
  /** Undefined as long as the runtime begins it. */
  readonly process: ProcessRef | undefined;
}

/**
 * Writes down what is to end some time, which `op` without a deadline is not: before it is begun, and when its process
 * is known. What cannot be written is no reason to fail a command: the next daemon would let it go on.
 */
export function noteDue(path: string, { deadline, log }: Op, id: ContainerId, process?: ProcessRef): void {
  if (deadline === Number.POSITIVE_INFINITY) return;
  const words = [id, Math.ceil(monotonicMs() + leftMs(deadline))];
  try {
    writeFileSync(path, [...words, ...(process === undefined ? [] : [process.pid, process.startTicks])].join(' '), {
      mode: 0o600,
    });
  } catch (cause) {
    log.warn('when a command is to end cannot be written down', { container: id, cause: explain(cause) });
  }
}

/** PURE. What `noteDue` wrote; undefined if a dying daemon did not get to the end of it. */
export function parseDue(text: string): LimitedExec | undefined {
  const [, id, dueMs, pid, startTicks] = /^([0-9a-f]{64}) (\d{1,15})(?: (\d{1,10}) (\d{1,18}))?$/.exec(text) ?? [];
  if (id === undefined) return undefined;
  const process =
    pid === undefined || startTicks === undefined ? undefined : { pid: Number(pid), startTicks: BigInt(startTicks) };
  return { id: id as ContainerId, dueMs: Number(dueMs), process };
}

/**
 * Returns when the command has ended by itself, or was ended with all that descends from it since its time was over;
 * or when `op.signal` fires, and then it goes on. `killInside` is for runtimes with a kernel of their own.
 */
export async function endWhenDue(
  op: Op,
  files: ExecFiles,
  { id, dueMs, process: known }: LimitedExec,
  killInside: (id: ContainerId, pid: number) => Promise<void>,
): Promise<void> {
  const process = known ?? (await begun(op, files, id, dueMs));
  if (process === undefined || !(await outlives(op, process, dueMs))) return;
  op.log.info('a command that was begun before the restart has had its time', { container: id, pid: process.pid });
  const inside = numberIn(files.inside);
  // Also ended by the container's end.
  if (inside > 0) await killInside(id, inside).catch(() => {});
  killTree(process);
}

/** True if the process lives when the time is over; false as well if `op.signal` fires before. */
async function outlives(op: Op, process: ProcessRef, dueMs: number): Promise<boolean> {
  for (let left = dueMs - monotonicMs(); left > 0; left = dueMs - monotonicMs()) {
    const over = AbortSignal.timeout(Math.ceil(Math.min(left, LONGEST_TIMER_MS)));
    await processes.waitGone(process, AbortSignal.any([op.signal, over]));
    if (op.signal.aborted || !processes.isAlive(process)) return false;
  }
  return !op.signal.aborted && processes.isAlive(process);
}

/**
 * The process of a command whose daemon died while the runtime began it: that of the pid file, if it is in the cgroup
 * of the container, since the number may be another's by now. A runtime that does not come to an end is killed in time.
 */
async function begun(op: Op, files: ExecFiles, id: ContainerId, dueMs: number): Promise<ProcessRef | undefined> {
  for await (const [runtime, bytes] of processes.filesOf(processes.listPids(), 'cmdline', limits.commandLineBytes))
    if (bytes.includes(files.process) && (await outlives(op, runtime, dueMs))) killTree(runtime);
  const pid = numberIn(files.pid);
  for await (const [process, bytes] of processes.filesOf(
    pid > 0 ? [String(pid)] : [],
    'cgroup',
    limits.commandLineBytes,
  ))
    if (bytes.includes(id) && processes.isAlive(process)) return process;
  return undefined;
}

function numberIn(path: string): number {
  try {
    return Number.parseInt(readFileSync(path, 'latin1'), 10) || 0;
  } catch {
    return 0;
  }
}

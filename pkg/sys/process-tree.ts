/** Whole trees of processes, and all that carry one mark. */
import { readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { ProcessRef } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { filesOf, listPids, listProcesses, parseProcStat, type ProcessStat, signal } from './processes.ts';

/**
 * Kills `root`, everything that descends from it, and everything in its session, if that is not our own: a descendant
 * whose parent has ended is found by its session. The members are stopped before they are killed, so that none can fork
 * away meanwhile. A process that left both its parents and its session (a daemon) escapes. Returns when the signals are
 * sent. Content if nothing is there.
 */
export function killTree(root: ProcessRef): void {
  const members = new Map<number, ProcessRef>();
  for (let round = 0; round < limits.killRoundsCount; round++) {
    const fresh = treeMembers(root, listProcesses(), ownSession()).filter(
      (each) => members.get(each.pid)?.startTicks !== each.startTicks,
    );
    for (const each of fresh) {
      members.set(each.pid, { pid: each.pid, startTicks: each.startTicks });
      signal(each, constants.signals.SIGSTOP);
    }
    if (fresh.length === 0) break;
  }
  for (const each of members.values()) signal(each, constants.signals.SIGKILL);
}

/**
 * PURE. The living among `root`, its descendants, and its session unless that is `ownSession`. Nothing if `root` itself
 * is gone: its number may be another's.
 */
export function treeMembers(root: ProcessRef, processes: readonly ProcessStat[], ownSession: number): ProcessStat[] {
  const top = processes.find((each) => each.pid === root.pid && each.startTicks === root.startTicks);
  if (top === undefined) return [];
  const children = Map.groupBy(processes, (each) => each.parentPid);
  const found = new Set<ProcessStat>([top]);
  if (top.session !== ownSession && top.session !== 0)
    for (const each of processes) if (each.session === top.session) found.add(each);
  for (const each of found) for (const child of children.get(each.pid) ?? []) found.add(child);
  return [...found].filter((each) => each.state !== 'Z' && each.state !== 'X');
}

function ownSession(): number {
  return parseProcStat(readFileSync('/proc/self/stat', 'latin1'))?.session ?? 0;
}

/** PURE. True if a process' environment, as /proc/<pid>/environ shows it, holds exactly this `KEY=value`. */
export function holdsEntry(environ: Uint8Array, entry: string): boolean {
  return `\0${Buffer.from(environ).toString('latin1')}\0`.includes(`\0${entry}\0`);
}

/**
 * Kills every process that was started with `entry` (`KEY=value`) in its environment, and returns how many: what a
 * daemon before us left running finds its way back by this, without a file that says so. Processes that come up
 * meanwhile are looked for once more.
 */
export async function killByEnvironment(entry: string): Promise<number> {
  let killed = 0;
  for (let round = 0; round < 2; round++) {
    const pids = listPids().filter((pid) => pid !== String(process.pid));
    for await (const [ref, environ] of filesOf(pids, 'environ', limits.environBytes))
      if (holdsEntry(environ, entry) && signal(ref, constants.signals.SIGKILL)) killed++;
  }
  return killed;
}

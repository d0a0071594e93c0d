/**
 * Processes below us that we did not start ourselves. With becomeSubreaper an orphan anywhere below becomes our child: that is how
 * `runtime exec --detach` hands us the process it made (adoptChild), and how strays would pile up as zombies if nobody took them (reapOrphans).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { ProcessRef } from '../base/ids.ts';
import { addon, attempt, errnoBehind } from './addon.ts';
import { readFiles } from './cgroup.ts';
import { closeFd } from './fd.ts';
import { parseProcStat, processRef, signalProcess } from './process.ts';
import { isAwaited, watchChild, type Child } from './spawn.ts';

/** One process as killTree and reapOrphans see it. */
export interface TreeProcess {
  readonly pid: number;
  readonly parentPid: number;
  readonly session: number;
  readonly startTicks: bigint;
  readonly state: string;
}

/** More rounds than any tree needs whose members are stopped one round after they are seen. */
const ROUNDS_MAX = 64;

/**
 * The process `pid`, which became our child because its parent ended, as a Child: its exit is ours to learn. It may have ended
 * already. undefined if there is no such process, or it is a child of somebody else.
 */
export function adoptChild(pid: number): Child | undefined {
  let pidfd: number;
  try {
    pidfd = attempt(`open process ${pid}`, (native) => native.pidfdOpenSync(pid));
  } catch (error) {
    if (['ESRCH', 'EINVAL'].includes(errnoBehind(error) ?? '')) return undefined;
    throw error;
  }
  const ref = processRef(pid);
  if (ref !== undefined && parentOf(pid) === process.pid) return watchChild(ref, pidfd);
  closeFd(pidfd);
  return undefined;
}

/**
 * Kills `root`, everything that descends from it, and everything in its session, if that is not our own: a descendant whose parent has
 * ended is found by its session. The members are stopped before they are killed, so that none can fork away meanwhile.
 * A process that left both its parents and its session (a daemon) escapes. Returns when the signals are sent. Content if nothing is there.
 */
export function killTree(root: ProcessRef): void {
  const members = new Map<number, ProcessRef>();
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const fresh = treeMembers(root, readProcesses(), ownSession()).filter((each) => members.get(each.pid)?.startTicks !== each.startTicks);
    for (const each of fresh) {
      members.set(each.pid, { pid: each.pid, startTicks: each.startTicks });
      signalProcess(each, constants.signals.SIGSTOP);
    }
    if (fresh.length === 0) break;
  }
  for (const each of members.values()) signalProcess(each, constants.signals.SIGKILL);
}

/** PURE. The living among `root`, its descendants, and its session unless that is `ownSession`. Nothing if `root` itself is gone: its number may be another's. */
export function treeMembers(root: ProcessRef, processes: readonly TreeProcess[], ownSession: number): TreeProcess[] {
  const top = processes.find((each) => each.pid === root.pid && each.startTicks === root.startTicks);
  if (top === undefined) return [];
  const children = Map.groupBy(processes, (each) => each.parentPid);
  const found = new Set<TreeProcess>([top]);
  if (top.session !== ownSession && top.session !== 0) for (const each of processes) if (each.session === top.session) found.add(each);
  for (const each of found) for (const child of children.get(each.pid) ?? []) found.add(child);
  return [...found].filter((each) => each.state !== 'Z' && each.state !== 'X');
}

/**
 * Takes zombies among our children that nobody waits for. One is taken only when an earlier call, at `seen`'s hand, saw it as a zombie
 * too: whoever is about to adopt it has that long. Returns what it saw and left for the next call.
 */
export function reapOrphans(seen: ReadonlySet<number>): ReadonlySet<number> {
  const left = new Set<number>();
  for (const { pid, state, parentPid } of readProcesses()) {
    if (parentPid !== process.pid || state !== 'Z' || isAwaited(pid)) continue;
    if (seen.has(pid)) reap(pid);
    else left.add(pid);
  }
  return left;
}

function reap(pid: number): void {
  const pidfd = attempt(`open process ${pid}`, (native) => native.pidfdOpenSync(pid));
  try {
    addon().pidfdReapSync(pidfd);
  } catch {
    // Taken by somebody else meanwhile.
  } finally {
    closeFd(pidfd);
  }
}

function parentOf(pid: number): number | undefined {
  return stat(readFileSync(`/proc/${pid}/stat`, 'latin1'))?.parentPid;
}

function ownSession(): number {
  return stat(readFileSync('/proc/self/stat', 'latin1'))?.session ?? 0;
}

function stat(text: string): TreeProcess | undefined {
  return parseProcStat(text);
}

function readProcesses(): TreeProcess[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  return readFiles(pids.map((pid) => `/proc/${pid}/stat`), 1024).flatMap((bytes) => (bytes === null ? [] : stat(bytes.toString('latin1')) ?? []));
}

/**
 * Processes below us that we did not start ourselves. With becomeSubreaper an orphan anywhere below becomes our child:
 * that is how `runtime exec --detach` hands us the process it made (claimOrphan), and how strays would pile up as
 * zombies if nobody took them (reapOrphans).
 */
import { readdirSync, readFileSync } from 'node:fs';
import { constants } from 'node:os';
import type { ProcessRef } from '../base/ids.ts';
import { addon, attempt, errnoBehind } from './addon.ts';
import { readFiles } from './cgroup.ts';
import { closeFd } from './fd.ts';
import { parseProcStat, processRef, signalProcess } from './process.ts';
import { isAwaited, openStarts, watchChild, type Child } from './spawn.ts';

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

/** Somebody waits for an orphan that is about to become our child. */
export interface OrphanClaim {
  /**
   * The process `pid` as a Child: its exit is ours to learn. It may have ended already. undefined if there is no such
   * process, or it is a child of somebody else.
   */
  adopt(pid: number): Child | undefined;
  /** Over, with or without an orphan. May be called again. */
  close(): void;
}

const claims = new Set<OrphanClaim>();

/** Claims an orphan to come. Until the claim is closed, no zombie that came meanwhile is taken by reapOrphans. */
export function claimOrphan(): OrphanClaim {
  const claim: OrphanClaim = {
    adopt: adoptChild,
    close: () => {
      if (claims.delete(claim) && suspects.size > 0) reapOrphans();
    },
  };
  claims.add(claim);
  return claim;
}

function adoptChild(pid: number): Child | undefined {
  let pidfd: number;
  try {
    pidfd = attempt(`open process ${pid}`, (native) => native.pidfdOpenSync(pid));
  } catch (error) {
    if (['ESRCH', 'EINVAL'].includes(errnoBehind(error) ?? '')) return undefined;
    throw error;
  }
  const [found] = readStats([pid]);
  if (found?.parentPid === process.pid) return watchChild({ pid, startTicks: found.startTicks }, pidfd);
  closeFd(pidfd);
  return undefined;
}

/**
 * Zombies that somebody may yet claim: by pid and start, the claims and spawns that were open when they were first
 * seen.
 */
let suspects: ReadonlyMap<string, ReadonlySet<object>> = new Map();

/**
 * Takes zombies among our children that nobody waits for. It matters where they lie: one in a container's PID namespace
 * keeps the container's first process from ending. One that an open claim may be about, or that a spawn under way may
 * have made, is left until that is over. Returns how many are left.
 */
export function reapOrphans(): number {
  const left = new Map<string, ReadonlySet<object>>();
  const open: ReadonlySet<object> = new Set([...claims, ...openStarts()]);
  for (const { pid, startTicks, state } of readStats(ownChildren().filter((each) => !isAwaited(each)))) {
    if (state !== 'Z') continue;
    const key = `${pid}:${startTicks}`;
    const claimants = suspects.get(key) ?? open;
    if ([...claimants].some((each) => open.has(each))) left.set(key, claimants);
    else reap(pid);
  }
  suspects = left;
  return left.size;
}

/**
 * Kills `root`, everything that descends from it, and everything in its session, if that is not our own: a descendant
 * whose parent has ended is found by its session. The members are stopped before they are killed, so that none can fork
 * away meanwhile. A process that left both its parents and its session (a daemon) escapes. Returns when the signals are
 * sent. Content if nothing is there.
 */
export function killTree(root: ProcessRef): void {
  const members = new Map<number, ProcessRef>();
  for (let round = 0; round < ROUNDS_MAX; round++) {
    const fresh = treeMembers(root, readProcesses(), ownSession()).filter(
      (each) => members.get(each.pid)?.startTicks !== each.startTicks,
    );
    for (const each of fresh) {
      members.set(each.pid, { pid: each.pid, startTicks: each.startTicks });
      signalProcess(each, constants.signals.SIGSTOP);
    }
    if (fresh.length === 0) break;
  }
  for (const each of members.values()) signalProcess(each, constants.signals.SIGKILL);
}

/**
 * PURE. The living among `root`, its descendants, and its session unless that is `ownSession`. Nothing if `root` itself
 * is gone: its number may be another's.
 */
export function treeMembers(root: ProcessRef, processes: readonly TreeProcess[], ownSession: number): TreeProcess[] {
  const top = processes.find((each) => each.pid === root.pid && each.startTicks === root.startTicks);
  if (top === undefined) return [];
  const children = Map.groupBy(processes, (each) => each.parentPid);
  const found = new Set<TreeProcess>([top]);
  if (top.session !== ownSession && top.session !== 0)
    for (const each of processes) if (each.session === top.session) found.add(each);
  for (const each of found) for (const child of children.get(each.pid) ?? []) found.add(child);
  return [...found].filter((each) => each.state !== 'Z' && each.state !== 'X');
}

function reap(pid: number): void {
  let pidfd = -1;
  try {
    pidfd = addon().pidfdOpenSync(pid);
    addon().pidfdReapSync(pidfd);
  } catch {
    // Taken by somebody else meanwhile.
  } finally {
    if (pidfd >= 0) closeFd(pidfd);
  }
}

function ownSession(): number {
  return stat(readFileSync('/proc/self/stat', 'latin1'))?.session ?? 0;
}

function stat(text: string): TreeProcess | undefined {
  return parseProcStat(text);
}

/** Children hang on the thread that made or adopted them. */
function ownChildren(): number[] {
  const threads = readdirSync('/proc/self/task');
  const lists = readFiles(
    threads.map((thread) => `/proc/self/task/${thread}/children`),
    1024 * 1024,
  );
  if (lists.every((list) => list === null))
    return readProcesses()
      .filter((each) => each.parentPid === process.pid)
      .map((each) => each.pid); // Without CONFIG_PROC_CHILDREN.
  return lists.flatMap((list) =>
    list === null
      ? []
      : list
          .toString('latin1')
          .split(' ')
          .filter((text) => text !== '')
          .map(Number),
  );
}

function readProcesses(): TreeProcess[] {
  return readStats(
    readdirSync('/proc')
      .filter((name) => /^\d+$/.test(name))
      .map(Number),
  );
}

function readStats(pids: readonly number[]): TreeProcess[] {
  return readFiles(
    pids.map((pid) => `/proc/${pid}/stat`),
    1024,
  ).flatMap((bytes) => (bytes === null ? [] : (stat(bytes.toString('latin1')) ?? [])));
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
export function killByEnvironment(entry: string): number {
  let killed = 0;
  for (let round = 0; round < 2; round++) {
    const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid);
    for (const [pid, environ] of filesOfProcesses(pids, 'environ', ENVIRON_BYTES)) {
      if (!holdsEntry(environ, entry)) continue;
      const ref = processRef(pid);
      if (ref !== undefined && signalProcess(ref, constants.signals.SIGKILL)) killed++;
    }
  }
  return killed;
}

/**
 * A file of each of these processes, as far as they are there, of at most `max` bytes: some at a time, since whoever
 * has many processes with large files decides how much that is together.
 */
export function* filesOfProcesses(
  pids: readonly string[],
  name: 'environ' | 'cmdline',
  max: number,
): Generator<[pid: number, content: Buffer]> {
  for (let from = 0; from < pids.length; from += AT_ONCE) {
    const some = pids.slice(from, from + AT_ONCE);
    for (const [index, content] of readFiles(
      some.map((pid) => `/proc/${pid}/${name}`),
      max,
    ).entries())
      if (content !== null) yield [Number(some[index]), content];
  }
}

const AT_ONCE = 32;

/** Far above the environment that we give to anybody; what lies beyond is not looked at. */
const ENVIRON_BYTES = 256 * 1024;

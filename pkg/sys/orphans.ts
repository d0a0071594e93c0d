/**
 * Processes below us that we did not start ourselves. With becomeSubreaper an orphan anywhere below becomes our child:
 * that is how `runtime exec --detach` hands us the process it made (claim), and how strays would pile up as zombies if
 * nobody took them (reap).
 */
import type { Child, OrphanClaim } from '../ports/kernel.ts';
import { addon, attempt, errnoBehind } from './addon.ts';
import { close } from './descriptors.ts';
import { listProcesses, type ProcessStat, readStats } from './processes.ts';
import { isAwaited, openStarts, watchChild } from './spawn.ts';

/** Orphans come to the process, whoever caused them: there is one place to wait for them. */
const claims = new Set<OrphanClaim>();

/** Claims an orphan to come. Until the claim is closed, no zombie that came meanwhile is taken by reap. */
export function claim(): OrphanClaim {
  const claim: OrphanClaim = {
    adopt: adopt,
    close: () => {
      if (claims.delete(claim) && suspects.size > 0) reap();
    },
  };
  claims.add(claim);
  return claim;
}

function adopt(pid: number): Child | undefined {
  let pidfd: number;
  try {
    pidfd = attempt(`open process ${pid}`, (native) => native.pidfdOpenSync(pid));
  } catch (error) {
    if (['ESRCH', 'EINVAL'].includes(errnoBehind(error) ?? '')) return undefined;
    throw error;
  }
  const [found] = readStats([pid]);
  if (found?.parentPid === process.pid) return watchChild({ pid, startTicks: found.startTicks }, pidfd);
  close(pidfd);
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
 * have made, is left until that is over. Returns how many are left; one at least where they cannot be looked at, so
 * that whoever asked asks again.
 */
export function reap(): number {
  const left = new Map<string, ReadonlySet<object>>();
  let ended: readonly ProcessStat[];
  try {
    ended = endedChildren();
  } catch {
    // Out of descriptors, for one: nobody can tell, and a timer that throws would end the daemon.
    return Math.max(1, suspects.size);
  }
  const open: ReadonlySet<object> = new Set([...claims, ...openStarts()]);
  for (const { pid, startTicks, state } of ended) {
    if (state !== 'Z') continue;
    const key = `${pid}:${startTicks}`;
    const claimants = suspects.get(key) ?? open;
    if ([...claimants].some((each) => open.has(each))) left.set(key, claimants);
    else take(pid);
  }
  suspects = left;
  return left.size;
}

/**
 * Of our children that have ended, those that nobody waits for. The kernel is asked about each in one call: a node with
 * hundreds of pods has hundreds of monitors below us, and some child ends many times a second.
 */
function endedChildren(): readonly ProcessStat[] {
  const pids = attempt('look for children that have ended', (native) => native.endedChildrenSync());
  if (pids === undefined)
    // Without CONFIG_PROC_CHILDREN.
    return listProcesses().filter(({ pid, parentPid }) => parentPid === process.pid && !isAwaited(pid));
  const strays = Array.from(pids, Number).filter((pid) => !isAwaited(pid));
  return strays.length === 0 ? [] : readStats(strays);
}

function take(pid: number): void {
  let pidfd = -1;
  try {
    pidfd = addon().pidfdOpenSync(pid);
    addon().pidfdReapSync(pidfd);
  } catch {
    // Taken by somebody else meanwhile.
  } finally {
    if (pidfd >= 0) close(pidfd);
  }
}

/** Those who want every zombie taken at once, and how the one look for them all is planned. */
const hurried = {
  by: 0,
  soon: undefined as NodeJS.Immediate | undefined,
  again: undefined as NodeJS.Timeout | undefined,
};

/** Those that came to us while we looked end as soon. */
const REAP_AGAIN_MS = 10;

/**
 * Does `work` with every zombie of ours taken at once, as `reap` does: one in a container's PID namespace keeps the
 * container's first process from ending. However many do so at a time, each child that ends is looked for once.
 */
export async function whileReaping<T>(work: () => Promise<T>): Promise<T> {
  if (hurried.by++ === 0) process.on('SIGCHLD', reapSoon);
  try {
    reapNow();
    return await work();
  } finally {
    if (--hurried.by === 0) {
      process.off('SIGCHLD', reapSoon);
      clearImmediate(hurried.soon);
      clearTimeout(hurried.again);
      hurried.soon = undefined;
    }
  }
}

/** Whoever waits for a child of his takes it first. */
function reapSoon(): void {
  hurried.soon ??= setImmediate(reapNow);
}

function reapNow(): void {
  clearImmediate(hurried.soon);
  clearTimeout(hurried.again);
  hurried.soon = undefined;
  // What is left may be a child that is just being started, of which no further signal comes.
  hurried.again = reap() > 0 ? setTimeout(reapNow, REAP_AGAIN_MS) : undefined;
}

/** Orphans among our descendants become our children instead of init's (prctl PR_SET_CHILD_SUBREAPER). */
export function becomeSubreaper(): void {
  attempt('become a subreaper', (native) => native.setSubreaperSync());
}

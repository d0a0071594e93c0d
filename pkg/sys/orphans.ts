/**
 * Processes below us that we did not start ourselves. With becomeSubreaper an orphan anywhere below becomes our child:
 * that is how `runtime exec --detach` hands us the process it made (claim), and how strays would pile up as zombies if
 * nobody took them (reap).
 */
import { readdirSync } from 'node:fs';
import type { Child, OrphanClaim } from '../ports/kernel.ts';
import { addon, attempt, errnoBehind } from './addon.ts';
import { close } from './descriptors.ts';
import { readFiles } from './kernel-files.ts';
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
  if (!hasZombie()) {
    suspects = left;
    return 0;
  }
  const open: ReadonlySet<object> = new Set([...claims, ...openStarts()]);
  let children: readonly ProcessStat[];
  try {
    children = readStats(ownChildren().filter((each) => !isAwaited(each)));
  } catch {
    // Out of descriptors, for one: nobody can tell, and a timer that throws would end the daemon.
    return Math.max(1, suspects.size);
  }
  for (const { pid, startTicks, state } of children) {
    if (state !== 'Z') continue;
    const key = `${pid}:${startTicks}`;
    const claimants = suspects.get(key) ?? open;
    if ([...claimants].some((each) => open.has(each))) left.set(key, claimants);
    else take(pid);
  }
  suspects = left;
  return left.size;
}

/** Whether it is worth to list our children, for which the kernel wants three calls for each thread of ours. */
function hasZombie(): boolean {
  return attempt('look for children that have ended', (native) => native.hasZombieSync()) !== 0;
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

/** Children hang on the thread that made or adopted them. */
function ownChildren(): number[] {
  const threads = readdirSync('/proc/self/task');
  const lists = readFiles(
    threads.map((thread) => `/proc/self/task/${thread}/children`),
    1024 * 1024,
  );
  if (lists.every((list) => list === null))
    return listProcesses()
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

/** Orphans among our descendants become our children instead of init's (prctl PR_SET_CHILD_SUBREAPER). */
export function becomeSubreaper(): void {
  attempt('become a subreaper', (native) => native.setSubreaperSync());
}

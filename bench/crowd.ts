/** A node with many pods: lists, stats, memory, processor time, restarts; and a start without any. */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CriError } from '../test/e2e/cri-client.ts';
import { Caller } from './caller.ts';
import { memoryKb } from './ground.ts';
import { type Bench, podUp, turned } from './life.ts';
import { costing, kubeletMinute } from './processor.ts';
import { type Report, rowAt } from './report.ts';
import { type Rounds, roundsOf } from './rounds.ts';
import type { Own, Target } from './targets.ts';

/** Calls that take microseconds in long bursts; those that read thousands of files in short ones. */
const LISTS = [
  { rpcs: ['ListPodSandbox', 'ListContainers', 'Status', 'Version'], rounds: 20, burst: 50 },
  { rpcs: ['ListContainerStats', 'ListPodSandboxStats'], rounds: 20, burst: 3 },
] as const;
/** For so long a target is asked one thing in all; some take seconds for one list of statistics. */
const ASKED_MS = 6_000;
const RESTARTS: Rounds = { most: 5, ms: 15_000 };
/** Each takes seconds, and differs little. */
const MASSES = 3;
/** More are not made or removed all at once, but some at a time: all at once would be minutes of nothing else. */
const MANY = 200;
const SOME = 20;
const STARTS = 9;
/** After a start, until what it left to collect is collected. */
const SETTLE_MS = 2_000;

/** How long nobody asks anything, to see what a daemon does by itself. */
const IDLE_MS = 10_000;
/** It takes a minute of twenty, so that not every number of pods has it: the largest ones. */
const ASKED_SERIES = 2;
/** One in so many pods has an exec probe. */
const PROBED = 3;

/**
 * `parts`: which of mass, lists, memory, restart, idle. Once for each number of pods, from few to many: what comes all
 * at once and leaves all at once is a node that comes back, and one that is drained. What gets in each other's way
 * there is the plugins and their packet filter.
 */
export async function crowd(bench: Bench, parts: ReadonlySet<string>, counts: readonly number[]): Promise<void> {
  const { targets, report } = bench;
  if (parts.has('restart')) await starts(bench);
  if (parts.has('memory')) await memory(bench, 'daemon PSS, idle');
  const pods = new Map<Target, readonly string[]>();
  const series = [...counts].sort((a, b) => a - b);
  for (const count of series) {
    const rounds = parts.has('mass') && count <= MANY ? MASSES : 1;
    for (let i = 1; i <= rounds; i++) {
      for (const target of turned(targets, i)) pods.set(target, await come(bench, target, count));
      if (i === rounds) await standing(bench, parts, count, series.slice(-ASKED_SERIES));
      for (const target of turned(targets, i)) await leave(bench, target, pods.get(target) ?? []);
    }
  }
  report.addSlopes();
}

/** What is measured while all pods stand; with these numbers of pods also what a kubelet's minute costs. */
async function standing(
  bench: Bench,
  parts: ReadonlySet<string>,
  count: number,
  asked: readonly number[],
): Promise<void> {
  if (parts.has('memory')) await memory(bench, rowAt('daemon PSS', count), count);
  if (parts.has('idle')) await idle(bench, count);
  if (parts.has('idle') && asked.includes(count)) await kubelet(bench, count);
  if (parts.has('lists')) await lists(bench, count);
  // Thousands of calls within a minute: as bad as it gets.
  if (parts.has('memory') && parts.has('lists')) await memory(bench, rowAt('daemon PSS after the lists', count));
  if (parts.has('restart')) await restarts(bench, count);
}

/** So many pods with a container each; their ids. */
async function come({ ground, report, say }: Bench, target: Target, count: number): Promise<readonly string[]> {
  say(`${count} pods on ${target.name}`);
  target.prepare(count);
  return await timedMass(report, target, rowAt('all start at once', count), Array.from({ length: count }), () =>
    podUp(target, ground.image),
  );
}

/** Each is stopped and removed on its own. */
async function leave({ report, say }: Bench, target: Target, ids: readonly string[]): Promise<void> {
  say(`${ids.length} pods leave ${target.name}`);
  await timedMass(report, target, rowAt('all stop at once', ids.length), ids, (id) => target.removePod(id));
}

/** All of them at once, with a row of their own and one of what they cost; or of many some at a time, without. */
async function timedMass<T, R>(
  report: Report,
  target: Target,
  row: string,
  items: readonly T[],
  work: (item: T) => Promise<R>,
): Promise<R[]> {
  if (items.length > MANY) return await inGroups(items, work);
  const begun = performance.now();
  const results = await costing(report, target, `processor time, ${row}`, () => Promise.all(items.map(work)));
  report.add(target.column, row, performance.now() - begun);
  return results;
}

/** What the daemons cost while nobody asks them; both at the same time. */
async function idle({ targets, report, say }: Bench, count: number): Promise<void> {
  say(`nobody asks, ${count} pods`);
  await sleep(SETTLE_MS);
  await Promise.all(
    targets.map((target) =>
      costing(report, target, rowAt(`processor time of ${IDLE_MS / 1e3} s at rest`, count), () => sleep(IDLE_MS)),
    ),
  );
}

/** What they cost while a kubelet asks. */
async function kubelet({ targets, report, say }: Bench, count: number): Promise<void> {
  say(`a kubelet asks, ${count} pods`);
  await Promise.all(
    targets.map(async (target) => {
      const { containers } = await target.cri.rpc.listContainers({});
      const probed = containers.filter((_, i) => i % PROBED === 0).map(({ id }) => id);
      await costing(report, target, rowAt("processor time of a kubelet's minute", count), () =>
        kubeletMinute(target.cri, probed),
      );
    }),
  );
}

/**
 * A kubelet asks again and again, so a round is a burst of calls to one target, then one to the other: what is measured
 * is a call that follows others, not how a process wakes up after somebody else has had the processors for a second.
 * The client (caller.ts) costs both the same, and half as much as they do.
 */
async function lists({ targets, report, say }: Bench, count: number): Promise<void> {
  const callers = new Map(targets.map((target) => [target, new Caller(target.socket)]));
  const lacking = new Set<string>();
  const asked = new Map<string, number>();
  const round = async (target: Target, rpc: string, calls: number): Promise<void> => {
    const key = `${target.column} ${rpc}`;
    if (lacking.has(key)) return;
    try {
      for (let i = 0; i < calls && (asked.get(key) ?? 0) < ASKED_MS; i++) {
        const from = performance.now();
        await callers.get(target)?.call(rpc);
        const took = performance.now() - from;
        report.add(target.column, rowAt(rpc, count), took);
        asked.set(key, (asked.get(key) ?? 0) + took);
      }
    } catch (error) {
      if (!(await unimplemented(target, rpc))) throw error;
      lacking.add(key);
      report.lacks(target.column, rowAt(rpc, count), 'unimplemented');
    }
  };
  for (const { rpcs, rounds, burst } of LISTS) {
    say(rpcs.join(', '));
    for (let i = 0; i < rounds; i++) {
      for (const rpc of rpcs) for (const target of turned(targets, i)) await round(target, rpc, burst);
    }
  }
  for (const caller of callers.values()) caller.close();
}

/** The caller sees that there is no reply; a whole client sees why. */
async function unimplemented({ cri }: Target, rpc: string): Promise<boolean> {
  const ask = (cri.rpc as unknown as Readonly<Record<string, (request: object) => Promise<unknown>>>)[
    rpc.charAt(0).toLowerCase() + rpc.slice(1)
  ];
  return await (ask?.({}) ?? Promise.resolve()).then(
    () => false,
    (error: unknown) => error instanceof CriError && error.codeName === 'Unimplemented',
  );
}

/** PSS of the daemons, in a row of this name; with `pods` also that of a pod's monitor. */
async function memory({ targets, report, say }: Bench, name: string, pods?: number): Promise<void> {
  say(name);
  const idle = name.endsWith('idle');
  for (const { own } of targets) {
    if (own === undefined || !idle) continue;
    await own.kill();
    await own.start();
  }
  await sleep(SETTLE_MS);
  for (const { own, column } of targets) {
    if (own === undefined) report.lacks(column, name, 'unknown', 'MB');
    else {
      report.add(column, name, memoryKb(own.pid, 'smaps_rollup', 'Pss') / 1024, 'MB');
      if (pods !== undefined) report.add(column, 'monitor PSS per pod', own.monitorPssKb() / 1024 / pods, 'MB');
    }
  }
}

/** From the start of the process until Version answers. The floor is Node with nothing to do. */
async function starts({ targets, report, ground, say }: Bench): Promise<void> {
  say('starts');
  for (let i = 0; i < STARTS; i++) {
    const from = performance.now();
    await promisify(execFile)(ground.build('bin/node'), ['-e', '0']);
    report.add('floor', 'start-up', performance.now() - from);
    for (const { own, column, cri } of turned(targets, i)) {
      if (own !== undefined)
        report.add(column, 'start-up', await restarted(own, async () => void (await cri.rpc.version())));
    }
  }
}

/** From the start of the process after a kill -9 until every pod is listed ready and every container running. */
async function restarts({ targets, report, say }: Bench, count: number): Promise<void> {
  for (const i of roundsOf(RESTARTS)) {
    say(`restart ${i}/${RESTARTS.most}`);
    for (const { own, column, cri } of turned(targets, i)) {
      const name = rowAt('restart', count);
      if (own === undefined) report.lacks(column, name, 'unknown');
      else
        report.add(
          column,
          name,
          await restarted(own, async () => {
            const pods = await cri.rpc.listPodSandbox({ filter: { state: { state: 'SANDBOX_READY' } } });
            const containers = await cri.rpc.listContainers({ filter: { state: { state: 'CONTAINER_RUNNING' } } });
            if (pods.items.length !== count || containers.containers.length !== count)
              throw new Error(`${pods.items.length} pods are ready, ${containers.containers.length} containers run`);
          }),
        );
    }
  }
}

/** kill -9, then: how long until `accept` succeeds. */
async function restarted(own: Own, accept: () => Promise<void>): Promise<number> {
  await own.kill();
  const from = performance.now();
  await own.start();
  const patience = from + 60_000;
  for (;;) {
    try {
      await accept();
      return performance.now() - from;
    } catch (error) {
      if (performance.now() > patience) throw error;
      await sleep(1);
    }
  }
}

async function inGroups<T, R>(items: readonly T[], work: (item: T) => Promise<R>): Promise<R[]> {
  const results: R[] = [];
  for (let i = 0; i < items.length; i += SOME) results.push(...(await Promise.all(items.slice(i, i + SOME).map(work))));
  return results;
}

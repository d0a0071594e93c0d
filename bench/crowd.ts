/** A node with a hundred pods: lists, stats, memory, and a restart; and a start without any. */
import { execFile } from 'node:child_process';
import { setTimeout as sleep } from 'node:timers/promises';
import { promisify } from 'node:util';
import { CriError } from '../test/e2e/cri-client.ts';
import { Caller } from './caller.ts';
import { memoryKb } from './ground.ts';
import { type Bench, podUp, turned } from './life.ts';
import type { Own, Target } from './targets.ts';

const PODS = 100;
/** As many as are made or removed at a time. */
const AT_ONCE = 5;
/** Calls that take microseconds in long bursts; those that read thousands of files in short ones. */
const LISTS = [
  { rpcs: ['ListPodSandbox', 'ListContainers', 'Status', 'Version'], rounds: 20, burst: 50 },
  { rpcs: ['ListContainerStats', 'ListPodSandboxStats'], rounds: 20, burst: 3 },
] as const;
const RESTARTS = 5;
const STARTS = 9;
/** After a start, until what it left to collect is collected. */
const SETTLE_MS = 2_000;

/** `parts`: which of lists, memory, restart. */
export async function crowd(bench: Bench, parts: ReadonlySet<string>): Promise<void> {
  const { targets, ground, say } = bench;
  if (parts.has('restart')) await starts(bench);
  if (parts.has('memory')) await memory(bench, 'daemon PSS, idle');
  const pods = new Map<Target, readonly string[]>();
  for (const target of targets) {
    say(`${PODS} pods on ${target.name}`);
    pods.set(target, await inGroups(Array.from({ length: PODS }), () => podUp(target, ground.image)));
  }
  if (parts.has('memory')) await memory(bench, `daemon PSS, ${PODS} pods`);
  if (parts.has('lists')) await lists(bench);
  // Thousands of calls within a minute: as bad as it gets.
  if (parts.has('memory') && parts.has('lists')) await memory(bench, `daemon PSS, ${PODS} pods, after the lists`);
  if (parts.has('restart')) await restarts(bench);
  for (const [target, ids] of pods) {
    say(`${PODS} pods leave ${target.name}`);
    await inGroups(ids, (id) => target.cri.removePod(id));
  }
}

/**
 * A kubelet asks again and again, so a round is a burst of calls to one target, then one to the other: what is measured
 * is a call that follows others, not how a process wakes up after somebody else has had the processors for a second.
 * The client (caller.ts) costs both the same, and half as much as they do.
 */
async function lists({ targets, report, say }: Bench): Promise<void> {
  const callers = new Map(targets.map((target) => [target, new Caller(target.socket)]));
  const lacking = new Set<string>();
  const round = async (target: Target, rpc: string, count: number): Promise<void> => {
    const key = `${target.column} ${rpc}`;
    if (lacking.has(key)) return;
    try {
      for (let i = 0; i < count; i++) {
        const from = performance.now();
        await callers.get(target)?.call(rpc);
        report.add(target.column, rpc, performance.now() - from);
      }
    } catch (error) {
      if (!(await unimplemented(target, rpc))) throw error;
      lacking.add(key);
      report.lacks(target.column, rpc, 'unimplemented');
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

/** PSS of the daemons, and with pods that of a pod's monitor. */
async function memory({ targets, report, say }: Bench, name: string): Promise<void> {
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
      if (name.endsWith('pods')) report.add(column, 'monitor PSS per pod', own.monitorPssKb() / 1024 / PODS, 'MB');
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
async function restarts({ targets, report, say }: Bench): Promise<void> {
  for (let i = 0; i < RESTARTS; i++) {
    say(`restart ${i}/${RESTARTS}`);
    for (const { own, column, cri } of turned(targets, i)) {
      const name = `restart with ${PODS} pods`;
      if (own === undefined) report.lacks(column, name, 'unknown');
      else
        report.add(
          column,
          name,
          await restarted(own, async () => {
            const pods = await cri.rpc.listPodSandbox({ filter: { state: { state: 'SANDBOX_READY' } } });
            const containers = await cri.rpc.listContainers({ filter: { state: { state: 'CONTAINER_RUNNING' } } });
            if (pods.items.length !== PODS || containers.containers.length !== PODS)
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
  for (let i = 0; i < items.length; i += AT_ONCE)
    results.push(...(await Promise.all(items.slice(i, i + AT_ONCE).map(work))));
  return results;
}

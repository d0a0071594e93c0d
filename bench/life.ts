/** One pod after another, from RunPodSandbox to RemovePodSandbox; and many at once. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from '../test/e2e/cri-client.ts';
import { Floor } from './floor.ts';
import { costing } from './processor.ts';
import { type Ground, PLAIN } from './ground.ts';
import type { Report } from './report.ts';
import { type Rounds, roundsOf } from './rounds.ts';
import type { RuntimeProgram } from './programs.ts';
import { type Own, SERVICE, type Target } from './targets.ts';

export interface Bench {
  readonly ground: Ground;
  readonly targets: readonly Target[];
  readonly report: Report;
  readonly runtime: RuntimeProgram;
  /** Says what is going on. */
  readonly say: (text: string) => void;
}

const LIFE_ROUNDS: Rounds = { most: 60, ms: 60_000 };
const WARM_UP_ROUNDS = 3;
const PARALLEL_ROUNDS: Rounds = { most: 6, ms: 40_000 };
const EXECS = 3;

/** Floor and targets take turns; who begins changes with each round. */
export async function lives({ ground, targets, report, runtime, say }: Bench): Promise<void> {
  const berth = targets.find((each) => each.column === 'berth');
  if (berth === undefined) throw new Error('the floor is made from a container of Berth');
  const pod = await berth.runPod();
  const id = await berth.cri.runContainer(pod, ground.image, SERVICE);
  const floor = await Floor.open(ground, runtime, join(ground.dir, 'run/berth/containers', id));
  const rounds: ((into: Report) => Promise<void>)[] = [
    (into) => floor.round(into),
    ...targets.map((target) => (into: Report) => life(target, ground.image, into)),
  ];
  for (const i of roundsOf(LIFE_ROUNDS)) {
    if (i % 10 === 0) say(`life ${i}/${LIFE_ROUNDS.most}`);
    for (const round of turned(rounds, i)) await round(report);
  }
  await berth.removePod(pod.id);
}

/** The targets' own first pods are slower (code that is compiled, caches that are filled); nobody counts them. */
export async function warmUp(targets: readonly Target[], image: string, scrap: Report): Promise<void> {
  for (let i = 0; i < WARM_UP_ROUNDS; i++) for (const target of targets) await life(target, image, scrap);
}

async function life(target: Target, image: string, report: Report): Promise<void> {
  await costing(report, target, `processor time of a pod's life with ${EXECS} execs`, () =>
    timed(target, image, report),
  );
}

async function timed(target: Target, image: string, report: Report): Promise<void> {
  const { cri, column } = target;
  const measure = async <T>(
    name: string,
    work: () => Promise<T>,
  ): Promise<{ readonly value: T; readonly took: number }> => {
    const from = performance.now();
    const value = await work();
    const took = performance.now() - from;
    report.add(column, name, took);
    return { value, took };
  };
  const { value: pod, took: ran } = await measure('RunPodSandbox', () => target.runPod());
  const { value: containerId, took: created } = await measure('CreateContainer', () =>
    cri.createContainer(pod, image, SERVICE),
  );
  const { took: started } = await measure('StartContainer', () => cri.rpc.startContainer({ containerId }));
  report.add(column, 'pod up', ran + created + started);
  for (let i = 0; i < EXECS; i++) {
    const { value } = await costing(report, target, 'processor time of an ExecSync', () =>
      measure('ExecSync', () => cri.exec(containerId, ['true'])),
    );
    if (value.exitCode !== 0) throw new Error(`exec of true ended with ${value.exitCode}: ${value.stderr}`);
  }
  const { took: stopped } = await measure('StopContainer', () => cri.rpc.stopContainer({ containerId, timeout: 10n }));
  const { took: removed } = await measure('RemoveContainer', () => cri.rpc.removeContainer({ containerId }));
  const { took: podStopped } = await measure('StopPodSandbox', () => cri.rpc.stopPodSandbox({ podSandboxId: pod.id }));
  const { took: podRemoved } = await measure('RemovePodSandbox', () =>
    cri.rpc.removePodSandbox({ podSandboxId: pod.id }),
  );
  report.add(column, 'pod down', stopped + removed + podStopped + podRemoved);
  target.gone(pod.id);
}

/**
 * 10 and 20 pods with a container each, all asked for at once, until all run; and how long Berth's event loop is
 * blocked meanwhile.
 */
export async function parallel({ ground, targets, report, say }: Bench): Promise<void> {
  for (const i of roundsOf(PARALLEL_ROUNDS)) {
    say(`parallel ${i}/${PARALLEL_ROUNDS.most}`);
    for (const count of [10, 20]) {
      for (const target of turned(targets, i)) {
        if (target.column === 'berth') await loopDelayMs(target);
        target.prepare(count);
        const from = performance.now();
        const pods = await Promise.all(Array.from({ length: count }, () => podUp(target, ground.image)));
        report.add(target.column, `${count} pods at once`, performance.now() - from);
        if (target.column === 'berth' && count === 20)
          report.add('berth', 'event loop delay p99, 20 starts', await loopDelayMs(target));
        await Promise.all(pods.map((id) => target.removePod(id)));
      }
    }
  }
}

/** A pod with a running container; its id. */
export async function podUp(target: Target, image: string): Promise<string> {
  const pod = await target.runPod();
  await target.cri.runContainer(pod, image, SERVICE);
  return pod.id;
}

/** Berth tells how late its event loop was, at the 99th percentile since it was asked last. */
async function loopDelayMs({ cri }: Target): Promise<number> {
  const { info } = await cri.rpc.status({ verbose: true });
  const { p99Ms } = JSON.parse(info['eventLoop'] ?? '{}') as { readonly p99Ms?: number };
  if (p99Ms === undefined) throw new Error('Status tells nothing of the event loop');
  return p99Ms;
}

const EXECS_CHAIN = 'execs per pod life, masquerade and portmap chain';
const EXECS_ALL = 'execs per pod life';
const EXECS_OWN = "execs per pod life but plugins' and container's own";

/**
 * Programs executed from RunPodSandbox to RemovePodSandbox with one container and one ExecSync, those in the container
 * included: with the chain of the bench, whose plugins execute iptables some fifteen times, and with a plain bridge,
 * where what a runtime does itself shows.
 */
export async function execs({ ground, targets, report, say }: Bench): Promise<void> {
  const needless: string[] = [];
  for (const target of targets) {
    const { own, column } = target;
    if (own === undefined) {
      for (const name of [EXECS_CHAIN, EXECS_ALL, EXECS_OWN]) report.lacks(column, name, 'unknown', 'execs');
      continue;
    }
    const chain = await lifeExecs(ground, target, own);
    const plain = await withPlainNetwork(ground, own, () => lifeExecs(ground, target, own));
    report.add(column, EXECS_CHAIN, chain.length, 'execs');
    report.add(column, EXECS_ALL, plain.length, 'execs');
    report.add(column, EXECS_OWN, plain.filter((program) => !NOT_THE_RUNTIMES.test(program)).length, 'execs');
    say(`${target.name} executes ${plain.join(', ')}; with masquerade and portmap ${chain.length} in all`);
    if (column === 'berth') needless.push(...[...chain, ...plain].filter((program) => NEEDLESS.test(program)));
  }
  if (needless.length > 0) throw new Error(`Berth executes what nobody needs: ${needless.join(', ')}`);
}

async function lifeExecs(ground: Ground, target: Target, own: Own): Promise<string[]> {
  return await traceExecs(own.pid, join(ground.dir, `execs-${target.column}`), async () => {
    const pod = await target.runPod();
    const containerId = await target.cri.runContainer(pod, ground.image, SERVICE);
    await target.cri.exec(containerId, ['true']);
    await target.cri.rpc.stopContainer({ containerId, timeout: 10n });
    await target.removePod(pod.id);
  });
}

async function withPlainNetwork<T>(ground: Ground, own: Own, work: () => Promise<T>): Promise<T> {
  const before = await own.networkInUse();
  const use = async (conflist: string, name: string): Promise<void> => {
    await ground.configure(own.network, conflist);
    await waitFor(
      () => own.networkInUse(),
      (inUse) => inUse === name,
      `the CNI network ${name} to be in use`,
    );
  };
  await use(own.network.plain, PLAIN);
  const result = await work();
  await use(own.network.conflist, before);
  return result;
}

/** What the process and its descendants execute during `work`, in order: name and first word that is no option. */
async function traceExecs(pid: number, file: string, work: () => Promise<void>): Promise<string[]> {
  const strace = spawn(
    'strace',
    ['-f', '-s', '200', '-e', 'trace=execve', '-e', 'signal=none', '-o', file, '-p', String(pid)],
    { stdio: ['ignore', 'ignore', 'pipe'] },
  );
  let said = '';
  strace.stderr.setEncoding('utf8').on('data', (text: string) => (said += text));
  const ended = once(strace, 'exit');
  await waitFor(
    () => said,
    (text) => text.includes('attached'),
    'strace to attach',
  );
  await work();
  strace.kill('SIGINT');
  await ended;
  return executed(await readFile(file, 'utf8'));
}

/** PURE. Programs in strace's record whose execve succeeded, also where another process' line came in between. */
function executed(text: string): string[] {
  const open = new Map<string, string>();
  return text.split('\n').flatMap((line) => {
    const [, pid = '', call = ''] = /^(\d+) +(.*)$/.exec(line) ?? [];
    const begun = /^execve\("([^"]+)", (\[.*?\])/.exec(call);
    if (begun !== null) open.set(pid, `${(begun[1] ?? '').split('/').at(-1) ?? ''}${verb(begun[2] ?? '')}`);
    return call.endsWith(' = 0') ? (open.get(pid) ?? []) : [];
  });
}

const VERBS = /"(create|start|exec|delete|kill|state|features)"/;

function verb(args: string): string {
  const found = VERBS.exec(args)?.[1];
  return found === undefined ? '' : ` ${found}`;
}

/** What CNI plugins run for themselves, and the container's own programs: no runtime can spare those. */
const NOT_THE_RUNTIMES = /^(host-local|ip6?tables.*|xtables.*|sh|exe|sleep|true)$/;

/**
 * What Berth promises never to execute: no question about a state that it knows, no plugin for `lo`, no process that
 * only holds namespaces.
 */
const NEEDLESS = /^(runc|crun) state$|^loopback$|^pause$/;

/** The list, beginning with another one each time. */
export function turned<T>(list: readonly T[], by: number): readonly T[] {
  const at = by % list.length;
  return [...list.slice(at), ...list.slice(0, at)];
}

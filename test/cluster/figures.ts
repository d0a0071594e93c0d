/** How fast pods come and go, as the kubelet measures it, and at what price. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import type { Cluster } from './cluster.ts';
import { isReady, type Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 300_000, intervalMs: 100 };
const OPERATIONS = ['run_podsandbox', 'create_container', 'start_container', 'stop_podsandbox', 'remove_container'];

/** One round on one node. */
export interface Round {
  readonly runtime: string;
  /** From the wish to the last pod that is Ready, and from the wish to the last that is gone, in seconds. */
  readonly readySeconds: number;
  readonly goneSeconds: number;
  /** By the kubelet, mean milliseconds of each operation, and how many failed. */
  readonly meanMs: Readonly<Record<string, number>>;
  readonly errors: number;
  /** The kubelet's start latency of pods without pulls: the bound that half and 99 of 100 stay below, in seconds. */
  readonly startSeconds: readonly [half: number, most: number];
  /** The runtime's is that of all on the node but the kubelet: monitors, plugins and containers included. */
  readonly cpuSeconds: { readonly runtime: number; readonly kubelet: number };
  /** With all pods there: the daemon, and what stays beside each container, in MiB. */
  readonly pssMib: { readonly runtime: number; readonly monitors: number };
}

/** Has `count` pods come and go on a node. */
export async function round(cluster: Cluster, tenant: Tenant, number: number, count: number): Promise<Round> {
  const node = cluster.node(number);
  const [runtime, kubelet] = [await node.runtime.pid(), await node.kubelet.pid()];
  const cpu = (): number[] => [node.cpuSeconds, cpuSecondsOf(kubelet)];
  const before = { cpu: cpu(), metrics: await metricsOf(tenant, node.name) };
  const name = `crowd-${number}`;
  const labels = { app: name };
  const spec = tenant.spec('sleep 100000', { nodeSelector: { 'kubernetes.io/hostname': node.name } });
  const began = performance.now();
  await tenant.apps.createNamespacedDeployment({
    namespace: tenant.namespace,
    body: {
      metadata: { name },
      spec: { replicas: count, selector: { matchLabels: labels }, template: { metadata: { labels }, spec } },
    },
  });
  const pods = () => tenant.pods(`app=${name}`);
  await waitFor(pods, (found) => found.filter(isReady).length === count, `${count} pods`, WAIT);
  const readySeconds = (performance.now() - began) / 1000;
  const pssMib = { runtime: pssMibOf([runtime]), monitors: pssMibOf(monitors()) };
  const deleted = performance.now();
  await tenant.kubectl('delete', 'deployment', name, '--wait=false');
  await waitFor(pods, (found) => found.length === 0, 'the pods to go', WAIT);
  const goneSeconds = (performance.now() - deleted) / 1000;
  const after = { cpu: cpu(), metrics: await metricsOf(tenant, node.name) };
  const [whole = 0, own = 0] = after.cpu.map((seconds, i) => seconds - (before.cpu[i] ?? 0));
  const delta = (key: string): number => (after.metrics.get(key) ?? 0) - (before.metrics.get(key) ?? 0);
  return {
    runtime: node.runtime.name.replace(/.*: /, ''),
    readySeconds,
    goneSeconds,
    meanMs: Object.fromEntries(
      OPERATIONS.map((operation) => {
        const of = (what: string): number =>
          delta(`kubelet_runtime_operations_duration_seconds_${what}{operation_type="${operation}"}`);
        return [operation, (of('sum') / of('count')) * 1000];
      }),
    ),
    errors: [...after.metrics.keys()]
      .filter((key) => /^kubelet_runtime_operations_errors_total.*"(run|create|start|stop|remove)_/.test(key))
      .reduce((sum, key) => sum + delta(key), 0),
    startSeconds: [bound(after.metrics, delta, 0.5), bound(after.metrics, delta, 0.99)],
    cpuSeconds: { runtime: whole - own, kubelet: own },
    pssMib,
  };
}

/** The upper bound of the bucket in which a share of the observations is full. */
function bound(metrics: ReadonlyMap<string, number>, delta: (key: string) => number, share: number): number {
  const buckets = [...metrics.keys()]
    .map((key) => [key, /^kubelet_pod_start_sli_duration_seconds_bucket\{le="([^"]+)"\}/.exec(key)?.[1]] as const)
    .filter(([, le]) => le !== undefined)
    .map(([key, le]) => [le === '+Inf' ? Number.POSITIVE_INFINITY : Number(le), delta(key)] as const)
    .sort(([a], [b]) => a - b);
  const all = buckets.at(-1)?.[1] ?? 0;
  return buckets.find(([, count]) => count >= all * share)?.[0] ?? Number.NaN;
}

async function metricsOf(tenant: Tenant, node: string): Promise<ReadonlyMap<string, number>> {
  const text = await tenant.kubectl('get', '--raw', `/api/v1/nodes/${node}/proxy/metrics`);
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => [line.slice(0, line.lastIndexOf(' ')), Number(line.slice(line.lastIndexOf(' ')))]),
  );
}

/** The kernel counts hundredths of a second, its children's included. */
function cpuSecondsOf(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ') ?? [];
  return fields.slice(11, 15).reduce((sum, ticks) => sum + Number(ticks), 0) / 100;
}

/** What stays beside each container. */
function monitors(): number[] {
  return readdirSync('/proc')
    .filter((pid) => /^\d+$/.test(pid))
    .filter((pid) => /conmon|containerd-shim/.test(readOr(join('/proc', pid, 'cmdline')).split('\0')[0] ?? ''))
    .map(Number);
}

function pssMibOf(pids: readonly number[]): number {
  const kib = pids.map((pid) => Number(/^Pss:\s+(\d+) kB/m.exec(readOr(`/proc/${pid}/smaps_rollup`))?.[1] ?? 0));
  return kib.reduce((sum, each) => sum + each, 0) / 1024;
}

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // It has ended meanwhile.
  }
}

/** As a table for people and for bench/CLUSTER.md, a column for each round. */
export function tableOf(rounds: readonly Round[]): string {
  const row = (what: string, of: (each: Round) => string): string => `| ${[what, ...rounds.map(of)].join(' | ')} |`;
  const fixed = (value: number, digits = 1): string => value.toFixed(digits);
  return [
    row('', ({ runtime }) => runtime),
    `| --- |${' ---: |'.repeat(rounds.length)}`,
    row('all Ready, s', (each) => fixed(each.readySeconds)),
    row('all gone, s', (each) => fixed(each.goneSeconds)),
    row('start by the kubelet, half below, s', (each) => fixed(each.startSeconds[0])),
    row('99 of 100 below, s', (each) => fixed(each.startSeconds[1])),
    ...OPERATIONS.map((name) => row(`${name}, mean ms`, (each) => fixed(each.meanMs[name] ?? Number.NaN, 0))),
    row('failed operations', (each) => fixed(each.errors, 0)),
    row('processor seconds, all but the kubelet', (each) => fixed(each.cpuSeconds.runtime)),
    row('processor seconds, kubelet', (each) => fixed(each.cpuSeconds.kubelet)),
    row('PSS of the runtime, MiB', (each) => fixed(each.pssMib.runtime)),
    row('PSS of all monitors, MiB', (each) => fixed(each.pssMib.monitors)),
  ].join('\n');
}

/** How much of another runtime's time a runtime takes, by the means of all rounds of each. */
export function ratioOf(rounds: readonly Round[], runtime: string, other: string): string {
  const mean = (name: string, of: (each: Round) => number): number => {
    const values = rounds.filter((each) => each.runtime === name).map(of);
    return values.reduce((sum, each) => sum + each, 0) / values.length;
  };
  const ratio = (of: (each: Round) => number): string => (mean(runtime, of) / mean(other, of)).toFixed(2);
  const ready = ratio(({ readySeconds }) => readySeconds);
  return `${runtime} / ${other}: all Ready ${ready}, all gone ${ratio(({ goneSeconds }) => goneSeconds)}`;
}

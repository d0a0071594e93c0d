/**
 * Processor time of a target: its daemon and all that it starts, monitors, plugins and containers, by the cgroup they
 * are in. The kernel counts nanoseconds, whatever has ended meanwhile included, so that one call can be measured.
 */
import { existsSync, readFileSync } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { CriClient } from '../test/e2e/cri-client.ts';
import type { Report } from './report.ts';
import type { Target } from './targets.ts';

const TOP = '/sys/fs/cgroup';
const V2 = existsSync(join(TOP, 'cgroup.controllers'));

/** The hierarchy that counts: of version 1 the controller's own. */
const at = (cgroup: string): string => (V2 ? join(TOP, cgroup) : join(TOP, 'cpuacct', cgroup));

/** Puts a process that has just started into a cgroup below `cgroup`; what it starts is in there too. */
export async function countProcessorTime(pid: number, cgroup: string): Promise<void> {
  const daemon = join(at(cgroup), 'daemon');
  await mkdir(daemon, { recursive: true });
  await writeFile(join(daemon, 'cgroup.procs'), String(pid));
}

/** Milliseconds so far of all that is and was in the cgroup. */
export function processorMs(cgroup: string): number {
  if (!V2) return Number(readFileSync(join(at(cgroup), 'cpuacct.usage'), 'utf8')) / 1e6;
  return Number(/^usage_usec (\d+)$/m.exec(readFileSync(join(at(cgroup), 'cpu.stat'), 'utf8'))?.[1]) / 1e3;
}

/** Runs `work` and adds what it cost the target to the report; a foreign socket's processes are unknown. */
export async function costing<T>(report: Report, target: Target, name: string, work: () => Promise<T>): Promise<T> {
  const { own, column } = target;
  if (own === undefined) {
    report.lacks(column, name, 'unknown');
    return await work();
  }
  const before = own.processorMs();
  const value = await work();
  report.add(column, name, own.processorMs() - before);
  return value;
}

/** What a kubelet asks for while nothing happens, and how often: `every` in seconds. Probes come with `probed`. */
const ASKED: readonly { readonly every: number; readonly ask: (cri: CriClient) => Promise<unknown> }[] = [
  { every: 1, ask: ({ rpc }) => rpc.listPodSandbox({}) },
  { every: 1, ask: ({ rpc }) => rpc.listContainers({}) },
  { every: 5, ask: ({ rpc }) => rpc.status({}) },
  { every: 10, ask: ({ rpc }) => rpc.listPodSandboxStats({}).catch(() => rpc.listContainerStats({})) },
  { every: 10, ask: ({ rpc }) => rpc.imageFsInfo({}) },
  { every: 30, ask: ({ rpc }) => rpc.listImages({}) },
  { every: 60, ask: ({ rpc }) => rpc.version({}) },
];
const PROBE_SECONDS = 10;
const MINUTE_SECONDS = 60;

/**
 * A minute of a kubelet: its lists, statistics and status, and an exec probe every ten seconds in each of `probed`. The
 * calls of a second begin together, as a kubelet's workers have them.
 */
export async function kubeletMinute(cri: CriClient, probed: readonly string[]): Promise<void> {
  const from = performance.now();
  for (let second = 0; second < MINUTE_SECONDS; second++) {
    const probes = probed.filter((_, i) => i % PROBE_SECONDS === second % PROBE_SECONDS);
    await Promise.all([
      ...ASKED.filter(({ every }) => second % every === 0).map(({ ask }) => ask(cri)),
      ...probes.map((id) => cri.exec(id, ['true'])),
    ]);
    const rest = from + (second + 1) * 1e3 - performance.now();
    if (rest > 0) await new Promise((done) => setTimeout(done, rest));
  }
}

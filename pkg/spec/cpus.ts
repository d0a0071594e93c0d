/**
 * Processors that a container has for itself: what CRI-O's annotations ask for, and what becomes of its resources.
 * PURE.
 *
 * They hold for containers with whole processors of pods that are guaranteed, as with CRI-O
 * (internal/runtimehandlerhooks); for others they are forgotten, with a line in the log.
 */
import { parseCpus, showCpus, unionOf } from '../base/cpu-list.ts';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { CpuWishes } from '../ports/spec.ts';

/** Shares of one processor: kernel/sched, and how the kubelet makes them of requests. */
const SHARES_PER_CPU = 1024n;

const NO_WISHES: CpuWishes = {
  quota: 'kept',
  loadBalancing: 'kept',
  interrupts: 'kept',
  resumeLatency: undefined,
  governor: undefined,
  shared: 'no',
};

/**
 * What the annotations say of a container's processors; `own` gives the value of one for this container, else for its
 * pod. @throws InvalidArgument for a value that nobody can read, as CRI-O.
 */
export function cpuWishes(own: (name: string) => string | undefined): CpuWishes {
  const disabled = (name: string): boolean => ['disable', 'true'].includes(own(name) ?? '');
  const interrupts = own('irq-load-balancing.crio.io');
  const states = own('cpu-c-states.crio.io');
  const governor = own('cpu-freq-governor.crio.io');
  if (governor !== undefined && !/^[A-Za-z0-9_-]{1,32}$/.test(governor))
    throw invalid(`cpu-freq-governor ${quote(governor)} is no governor`);
  return {
    quota: disabled('cpu-quota.crio.io') ? 'lifted' : 'kept',
    loadBalancing: disabled('cpu-load-balancing.crio.io') ? 'disabled' : 'kept',
    interrupts:
      interrupts === 'housekeeping' ? 'housekeeping' : disabled('irq-load-balancing.crio.io') ? 'disabled' : 'kept',
    resumeLatency: states === undefined ? undefined : resumeLatency(states),
    governor,
    shared: own('cpu-shared.crio.io') === 'enable' ? 'yes' : 'no',
  };
}

/** For `pm_qos_resume_latency_us` (Documentation/ABI/testing/sysfs-devices-power): 0 is every state, n/a none. */
function resumeLatency(states: string): string {
  if (states === 'enable') return '0';
  if (states === 'disable') return 'n/a';
  const latency = Number(/^max_latency:(\d{1,9})$/.exec(states)?.[1] ?? 0);
  if (latency > 0) return String(latency);
  throw invalid(`cpu-c-states ${quote(states)} is not enable, disable or max_latency:<microseconds above 0>`);
}

/** Whether anything is asked for. */
export function hasWishes(wishes: CpuWishes): boolean {
  return Object.entries(wishes).some(([key, value]) => value !== NO_WISHES[key as keyof CpuWishes]);
}

/**
 * Why such wishes are forgotten for a container: undefined if it has whole processors, and its pod is guaranteed, which
 * the kubelet's names of cgroups say.
 */
export function whyNotExclusive(
  cgroupParent: string,
  resources: LinuxContainerResources | undefined,
): string | undefined {
  if (cgroupParent.includes('burstable')) return 'its pod is burstable';
  if (cgroupParent.includes('besteffort')) return 'its pod is best effort';
  const shares = resources?.cpuShares ?? 0n;
  return shares > 0n && shares % SHARES_PER_CPU === 0n ? undefined : 'it asks for no whole number of CPUs';
}

/**
 * Its resources with the quota lifted and the shared processors added; a quota for these comes when it starts, after
 * its pod's. @throws FailedPrecondition in CRI-O's words where there is nothing to share.
 */
export function withCpuWishes(
  resources: LinuxContainerResources,
  wishes: CpuWishes,
  sharedCpuset: string,
  name: string,
): LinuxContainerResources {
  if (wishes.shared === 'no') return wishes.quota === 'lifted' ? { ...resources, cpuQuota: -1n } : resources;
  const own = parseCpus(resources.cpusetCpus);
  const shared = parseCpus(sharedCpuset);
  if (own.length === 0) throw unmet(`no cpus found for container ${quote(name)}`);
  if (shared.length === 0)
    throw unmet(`shared CPUs were requested for container ${quote(name)} but none are defined; set shared_cpuset`);
  const cpuQuota = wishes.quota === 'lifted' ? -1n : resources.cpuQuota;
  return { ...resources, cpusetCpus: showCpus(unionOf(own, shared)), cpuQuota };
}

/**
 * GOMAXPROCS of a container whose requests are no limits: twice the processors that it asks for, at least `least`
 * (`min_injected_gomaxprocs`); undefined where Go finds a limit by itself, or processors are its own.
 */
export function goMaxProcs(
  least: number,
  cgroupParent: string,
  resources: LinuxContainerResources | undefined,
): number | undefined {
  if (least <= 0 || !/burstable|besteffort/.test(cgroupParent) || (resources?.cpuQuota ?? 0n) > 0n) return undefined;
  const shares = Number(resources?.cpuShares ?? 0n);
  return Math.max(Math.ceil((shares * 2) / Number(SHARES_PER_CPU)), 1, least);
}

function invalid(why: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `annotation ${why}`);
}

function unmet(why: string): RuntimeError {
  return new RuntimeError('FailedPrecondition', why);
}

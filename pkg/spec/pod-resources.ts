/**
 * The resources of a pod as a whole: those of its containers together, and what it costs beside them. PURE.
 *
 * Cpusets, hugepages and swap hold for each container, as with the kubelet's own cgroups; a pod has a share and a quota
 * of processors, a limit of memory, and what `unified` says.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type { NodeFacts, PodResources } from '../ports/spec.ts';
import { mergeResources, NO_RESOURCES, toLinuxResources } from './resources.ts';
import { planUpdate } from './update.ts';

/** An update of a pod's resources, thought through. */
export interface PodUpdatePlan {
  readonly after: PodResources;
  readonly wanted: LinuxResources;
  /** Puts back what was there. */
  readonly former: LinuxResources;
}

/** The limits of a new pod's cgroup. @throws InvalidArgument, FailedPrecondition as for a container. */
export function podLimits(pod: PodResources, facts: NodeFacts): LinuxResources {
  return toLinuxResources(ofPod(totalOf(pod)), facts);
}

/** What an update changes: as with containers, what it leaves out stays. @throws as podLimits. */
export function planPodUpdate(before: PodResources, update: PodResources, facts: NodeFacts): PodUpdatePlan {
  const after = {
    resources: merged(before.resources, update.resources),
    overhead: merged(before.overhead, update.overhead),
  };
  const { wanted, former } = planUpdate(ofPod(totalOf(before)), ofPod(totalOf(after)), { facts, minMemoryBytes: 0n });
  return { after, wanted, former };
}

function merged(
  before: LinuxContainerResources | undefined,
  update: LinuxContainerResources | undefined,
): LinuxContainerResources | undefined {
  return update === undefined ? before : mergeResources(before, update);
}

function ofPod(total: LinuxContainerResources): LinuxContainerResources {
  const { cpuPeriod, cpuQuota, cpuShares, memoryLimitInBytes, unified } = total;
  return { ...NO_RESOURCES, cpuPeriod, cpuQuota, cpuShares, memoryLimitInBytes, unified };
}

/** The overhead is added where the containers have a limit; where they have none, the pod has none. */
function totalOf({ resources = NO_RESOURCES, overhead = NO_RESOURCES }: PodResources): LinuxContainerResources {
  const period: bigint = resources.cpuPeriod || DEFAULT_PERIOD_US;
  const plus = (limit: bigint, more: bigint): bigint => (limit > 0n && more > 0n ? limit + more : limit);
  return {
    ...resources,
    cpuShares: plus(resources.cpuShares, overhead.cpuShares),
    cpuQuota: plus(resources.cpuQuota, (overhead.cpuQuota * period) / (overhead.cpuPeriod || DEFAULT_PERIOD_US)),
    memoryLimitInBytes: plus(resources.memoryLimitInBytes, overhead.memoryLimitInBytes),
  };
}

/** The kernel's own. */
const DEFAULT_PERIOD_US = 100_000n;

/** UpdateContainerResources, thought through before anything is written. PURE. */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import type { NodeFacts } from '../ports/spec.ts';
import { mergeResources, NO_RESOURCES, oomScoreAdjOf, toLinuxResources } from './resources.ts';

/** What the kernel gives a cgroup for which nobody said anything: that is what an update which failed goes back to. */
const KERNEL_DEFAULTS = {
  cpuPeriod: 100_000n,
  cpuQuota: -1n,
  cpuShares: 1024n,
  memoryLimitInBytes: -1n,
  memorySwapLimitInBytes: -1n,
} as const;

/** What an update changes. */
export interface UpdatePlan {
  /** The resources that hold when all is written; what ContainerStatus reports then. */
  readonly after: LinuxContainerResources;
  readonly wanted: LinuxResources;
  /** Puts back what was there, should the runtime or the kernel refuse half way. */
  readonly former: LinuxResources;
  /** undefined = it stays, and is not written: a container may have changed its processes' own. */
  readonly oomScoreAdj: number | undefined;
}

/**
 * The update of a container that has `before` (undefined: nothing was asked for).
 * @throws InvalidArgument for values that make no sense, naming the field; FailedPrecondition for `unified` without v2.
 */
export function planUpdate(
  before: LinuxContainerResources | undefined,
  update: LinuxContainerResources,
  node: { readonly facts: NodeFacts; readonly minMemoryBytes: bigint },
): UpdatePlan {
  const current = before ?? NO_RESOURCES;
  const after = mergeResources(current, update);
  const oomScoreAdj = oomScoreAdjOf(after.oomScoreAdj, node.facts);
  return {
    after,
    wanted: toLinuxResources(after, node.facts, node.minMemoryBytes),
    former: toLinuxResources(explicit(current, update), node.facts),
    oomScoreAdj: update.oomScoreAdj !== 0n && after.oomScoreAdj !== current.oomScoreAdj ? oomScoreAdj : undefined,
  };
}

/** The values before, with a kernel's default where there was none and the update sets one. */
function explicit(before: LinuxContainerResources, update: LinuxContainerResources): LinuxContainerResources {
  const filled = { ...before };
  for (const key of Object.keys(KERNEL_DEFAULTS) as (keyof typeof KERNEL_DEFAULTS)[]) {
    if (update[key] !== 0n && before[key] === 0n) filled[key] = KERNEL_DEFAULTS[key];
  }
  return filled;
}

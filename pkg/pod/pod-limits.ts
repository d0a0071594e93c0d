/**
 * The limits of a pod as a whole. The kubelet sets those of the cgroup that it made before it tells anybody; those of a
 * cgroup of our own are ours to set.
 */
import { explain, RuntimeError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import { planPodUpdate, podLimits } from '../spec/index.ts';
import type { PodResources } from '../ports/spec.ts';
import type { SandboxRecord } from '../ports/state.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import type { World } from './world.ts';

/** The cgroup above a pod's containers that is ours; '' if it is the kubelet's. */
export function ownCgroupOf({ facts }: World, { id, config, cgroupParent }: SandboxRecord): string {
  return podCgroupFor(facts.cgroupManager, id, config.linux?.cgroupParent ?? '').own ? cgroupParent : '';
}

/** Before anything of a new pod runs: its cgroup with what its config says, if it is ours. @throws as podLimits. */
export async function makePodCgroup(op: Op, world: World, record: SandboxRecord): Promise<void> {
  const cgroup = ownCgroupOf(world, record);
  if (cgroup !== '') await world.host.ensureCgroup(op, cgroup, podLimits(record, world.facts));
}

/**
 * Puts an update into effect, all or nothing, where the cgroup is ours, and returns what holds then. @throws
 * InvalidArgument for values that make no sense; FailedPrecondition for a memory limit below what is in use; what the
 * kernel refuses.
 */
export async function updatePod(
  op: Op,
  world: World,
  record: SandboxRecord,
  update: PodResources,
): Promise<PodResources> {
  const { after, wanted, former } = planPodUpdate(record, update, world.facts);
  const cgroup = ownCgroupOf(world, record);
  if (cgroup === '' || record.state.phase !== 'ready') return after;
  await checkMemory(world, cgroup, wanted.memory?.limit ?? -1n);
  try {
    await world.host.ensureCgroup(op, cgroup, wanted);
  } catch (cause) {
    await world.host.ensureCgroup(op, cgroup, former).catch((failure: unknown) => {
      op.log.warn('an update that was refused could not be taken back whole', {
        sandbox: record.id,
        cause: explain(failure),
      });
    });
    throw cause;
  }
  return after;
}

/** On v2 the kernel would rather kill than refuse. */
async function checkMemory({ facts, host }: World, cgroup: string, limit: bigint): Promise<void> {
  const usage = limit < 0n || facts.cgroupMode !== 'v2' ? undefined : await host.memoryUsage(cgroup);
  if (usage !== undefined && usage > limit)
    throw new RuntimeError(
      'FailedPrecondition',
      `memory_limit_in_bytes ${limit} is below the ${usage} bytes that the pod uses; choose a higher limit, ` +
        'or free memory first',
    );
}

/**
 * UpdateContainerResources: all or nothing.
 *
 * Nothing is written before everything has been checked; when the runtime or the kernel refuses half way, what was there before is written again.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { explain, RuntimeError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import { mergeResources, NO_RESOURCES, oomScoreAdjOf, toLinuxResources } from '../spec/index.ts';
import type { ContainerRecord } from '../state/index.ts';
import type { World } from './index.ts';
import { handlerSettings } from './plan.ts';

const UNLIMITED = -1n;
/** What the kernel gives a cgroup for which nobody said anything: that is what an update which failed goes back to. */
const KERNEL_DEFAULTS = { cpuPeriod: 100_000n, cpuQuota: UNLIMITED, cpuShares: 1024n, memoryLimitInBytes: UNLIMITED, memorySwapLimitInBytes: UNLIMITED } as const;

/**
 * Puts the update into effect on a created or running container and returns the resources that hold then.
 * @throws InvalidArgument for values that make no sense; FailedPrecondition for a memory limit below what is in use; the runtime's own refusal.
 */
export async function applyUpdate(op: Op, world: World, record: ContainerRecord, update: LinuxContainerResources): Promise<LinuxContainerResources> {
  const before = record.resources ?? NO_RESOURCES;
  const after = mergeResources(before, update);
  const { minMemoryBytes } = handlerSettings(world.settings, record.runtimeHandler);
  const wanted = toLinuxResources(after, world.facts, minMemoryBytes);
  const oomScoreAdj = oomScoreAdjOf(after.oomScoreAdj, world.facts);
  await checkMemory(world, record, after);
  try {
    await write(op, world, record, wanted);
    // A value that stays is not written: a container may have changed its processes' own.
    if (update.oomScoreAdj !== 0n && after.oomScoreAdj !== before.oomScoreAdj) await world.host.setOomScoreAdj(op, record.cgroupsPath, oomScoreAdj);
  } catch (cause) {
    await write(op, world, record, toLinuxResources(explicit(before, update), world.facts)).catch((failure: unknown) => {
      op.log.warn('an update that was refused could not be taken back whole', { container: record.id, cause: explain(failure) });
    });
    throw cause;
  }
  return after;
}

/**
 * On v2 the kernel would rather kill than refuse a limit below the usage, and not every runtime looks first. On v1 the kernel frees what it can and
 * refuses by itself.
 */
async function checkMemory(world: World, record: ContainerRecord, after: LinuxContainerResources): Promise<void> {
  const limit = after.memoryLimitInBytes;
  if (limit <= 0n || world.facts.cgroupMode !== 'v2' || limit === record.resources?.memoryLimitInBytes) return;
  const usage = await world.host.memoryUsage(record.cgroupsPath);
  if (usage !== undefined && usage > limit) {
    throw new RuntimeError('FailedPrecondition', `memory_limit_in_bytes ${limit} is below the ${usage} bytes that container ${record.id} uses; choose a higher limit, or free memory first`);
  }
}

/** crun 1.8 writes a quota of -1 to a v1 cgroup as a huge unsigned number, which the kernel refuses; there it is lifted past the runtime. */
async function write(op: Op, world: World, record: ContainerRecord, resources: LinuxResources): Promise<void> {
  const runtime = world.runtimeFor(record.runtimeHandler);
  const past = resources.cpu?.quota === UNLIMITED && world.facts.cgroupMode !== 'v2' && (await runtime.features(op)).kind === 'crun';
  op.stage('runtime update');
  if (!past) return await runtime.update(op, record.id, resources);
  const { quota: _quota, ...cpu } = resources.cpu ?? {};
  await runtime.update(op, record.id, { ...resources, cpu });
  await world.host.liftCpuQuota(op, record.cgroupsPath);
}

/** The values before, with a kernel's default where there was none and the update sets one. */
function explicit(before: LinuxContainerResources, update: LinuxContainerResources): LinuxContainerResources {
  const filled = { ...before };
  for (const key of Object.keys(KERNEL_DEFAULTS) as (keyof typeof KERNEL_DEFAULTS)[]) {
    if (update[key] !== 0n && before[key] === 0n) filled[key] = KERNEL_DEFAULTS[key];
  }
  return filled;
}

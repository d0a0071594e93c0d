/**
 * UpdateContainerResources: all or nothing.
 *
 * Nothing is written before everything has been checked; when the runtime or the kernel refuses half way, what was
 * there before is written again.
 */
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { explain, RuntimeError } from '../base/errors.ts';
import type { Op } from '../base/op.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import { planUpdate } from '../spec/index.ts';
import { handlerOf, handlerSettings } from './handlers.ts';
import type { CgroupValue } from '../ports/runtime.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { World } from './world.ts';

const UNLIMITED = -1n;
/**
 * Puts the update into effect on a created or running container and returns the resources that hold then.
 * @throws InvalidArgument for values that make no sense; FailedPrecondition for a memory limit below what is in use;
 * the runtime's own refusal.
 */
export async function applyUpdate(
  op: Op,
  world: World,
  record: ContainerRecord,
  update: LinuxContainerResources,
): Promise<LinuxContainerResources> {
  const { minMemoryBytes } = handlerSettings(world.settings, handlerOf(record));
  const { after, wanted, former, oomScoreAdj } = planUpdate(record.resources, update, {
    facts: world.facts,
    minMemoryBytes,
  });
  await checkMemory(world, record, after);
  try {
    await write(op, world, record, wanted);
    if (oomScoreAdj !== undefined) await world.host.setOomScoreAdj(op, record.cgroupsPath, oomScoreAdj);
  } catch (cause) {
    await write(op, world, record, former).catch((failure: unknown) => {
      op.log.warn('an update that was refused could not be taken back whole', {
        container: record.id,
        cause: explain(failure),
      });
    });
    throw cause;
  }
  return after;
}

/**
 * On v2 the kernel would rather kill than refuse a limit below the usage, and not every runtime looks first. On v1 the
 * kernel frees what it can and refuses by itself.
 */
async function checkMemory(world: World, record: ContainerRecord, after: LinuxContainerResources): Promise<void> {
  const limit = after.memoryLimitInBytes;
  if (limit <= 0n || world.facts.cgroupMode !== 'v2' || limit === record.resources?.memoryLimitInBytes) return;
  const usage = await world.host.memoryUsage(record.cgroupsPath);
  if (usage !== undefined && usage > limit) {
    throw new RuntimeError(
      'FailedPrecondition',
      `memory_limit_in_bytes ${limit} is below the ${usage} bytes that container ${record.id} ` +
        'uses; choose a higher limit, or free memory first',
    );
  }
}

/** Through the runtime, so that it knows them too, then past it what runtimes leave out or get wrong. */
async function write(op: Op, world: World, record: ContainerRecord, resources: LinuxResources): Promise<void> {
  const runtime = world.runtimeOf(record);
  const { kind } = await runtime.features(op);
  const { document, files } = split(resources, { v2: world.facts.cgroupMode === 'v2', kind });
  op.stage('runtime update');
  await runtime.update(op, record.id, document);
  // crun 1.21 tells systemd 1 % of a processor where the limit is to go.
  if (resources.cpu?.quota === UNLIMITED && kind === 'crun') await world.host.liftCpuQuota(op, record.cgroupsPath);
  if (files.length > 0) await world.host.writeCgroup(op, record.cgroupsPath, files);
}

/**
 * PURE. What the runtime is told, and what is written to the cgroup itself: hugepage limits and `unified`, which runc's
 * update leaves out, and on v1 the end of a CPU quota, which crun 1.8 writes as a huge unsigned number that the kernel
 * refuses. Exported for its test.
 */
export function split(
  resources: LinuxResources,
  { v2, kind }: { readonly v2: boolean; readonly kind: string },
): { readonly document: LinuxResources; readonly files: readonly CgroupValue[] } {
  const { hugepageLimits = [], unified = {}, ...rest } = resources;
  const lifts = rest.cpu?.quota === UNLIMITED && !v2 && kind === 'crun';
  const { quota: _quota, ...cpu } = rest.cpu ?? {};
  return {
    document: lifts ? { ...rest, cpu } : rest,
    files: [
      ...(lifts ? [{ controller: 'cpu', file: 'cpu.cfs_quota_us', value: '-1' }] : []),
      ...hugepageLimits.map(({ pageSize, limit }) => ({
        controller: 'hugetlb',
        file: `hugetlb.${pageSize}.${v2 ? 'max' : 'limit_in_bytes'}`,
        value: String(limit),
      })),
      ...Object.entries(unified).map(([file, value]) => ({
        controller: file.slice(0, file.indexOf('.')),
        file,
        value,
      })),
    ],
  };
}

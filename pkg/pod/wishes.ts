/** What allowed annotations ask for a container, and what the configuration adds to it. */
import { join } from 'node:path';
import { parseCpus, showCpus } from '../base/cpu-list.ts';
import type { ContainerId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { LinuxContainerResources } from '../cri-api/types.ts';
import { annotations, cpus, workloads } from '../spec/index.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { CpuTuning } from '../ports/runtime.ts';
import type { AnnotationSettings, ContainerSpecInput, CpuWishes } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { handlerOf, handlerSettings, podAnnotations } from './handlers.ts';
import type { PodSettings, World } from './world.ts';

/** What allowed annotations change, and which of them go into the spec. */
export type Wishes = AnnotationSettings & Pick<ContainerSpecInput, 'annotations'>;

/** @throws InvalidArgument as annotations.settings. */
export function wishesOf(settings: PodSettings, sandbox: SandboxRecord, config: NamedContainerConfig): Wishes {
  const passed = podAnnotations(settings, sandbox.config, handlerOf(sandbox), config);
  return { ...annotations.settings(passed, settings.allowedDevices, config.metadata.name), annotations: passed };
}

/**
 * The resources that a container is made with: those that are asked for, with those of its workload, and what
 * annotations change. @throws InvalidArgument, FailedPrecondition for what cannot be read, or had.
 */
export function resourcesOf(
  settings: PodSettings,
  sandbox: SandboxRecord,
  config: NamedContainerConfig,
): LinuxContainerResources | undefined {
  const { unified, cpus: wishes } = wishesOf(settings, sandbox, config);
  const { name } = config.metadata;
  const asked = workloads.workloadResources(
    config.linux?.resources,
    settings.workloads,
    sandbox.config.annotations,
    name,
  );
  const whole = annotations.withUnified(asked, unified);
  if (whole === undefined || !isExclusive(sandbox, whole, wishes)) return whole;
  return cpus.withCpuWishes(whole, wishes, settings.sharedCpuset, name);
}

/** Whether what annotations ask for processors holds for a container. */
function isExclusive(
  sandbox: SandboxRecord,
  resources: LinuxContainerResources | undefined,
  wishes: CpuWishes,
): boolean {
  return cpus.hasWishes(wishes) && cpus.whyNotExclusive(sandbox.cgroupParent, resources) === undefined;
}

/** Why annotations about processors are forgotten for a container; undefined if they hold, or there are none. */
export function whyForgotten(
  { cpus: wishes }: Wishes,
  sandbox: SandboxRecord,
  draft: ContainerRecord,
): string | undefined {
  return cpus.hasWishes(wishes) ? cpus.whyNotExclusive(sandbox.cgroupParent, draft.resources) : undefined;
}

/** The processors that are a container's own; those that it shares are none of them. */
function ownCpus(settings: PodSettings, { resources }: ContainerRecord, wishes: CpuWishes): readonly number[] {
  const all = parseCpus(resources?.cpusetCpus ?? '');
  const shared = new Set(wishes.shared === 'yes' ? parseCpus(settings.sharedCpuset) : []);
  return all.filter((cpu) => !shared.has(cpu));
}

/** The first of a container's own processors, if it is to take interrupts on; its siblings do so, too. */
function housekeepingCpu(sandbox: SandboxRecord, draft: ContainerRecord, wishes: CpuWishes): number | undefined {
  if (wishes.interrupts !== 'housekeeping' || !isExclusive(sandbox, draft.resources, wishes)) return undefined;
  return parseCpus(draft.resources?.cpusetCpus ?? '')[0];
}

/** The processors of a container that take interrupts on although the others do not. */
export async function housekeepingCpus(
  { cpus: node }: Pick<World, 'cpus'>,
  sandbox: SandboxRecord,
  record: ContainerRecord,
  wishes: CpuWishes,
): Promise<readonly number[]> {
  const first = housekeepingCpu(sandbox, record, wishes);
  if (first === undefined) return [];
  const own = new Set(parseCpus(record.resources?.cpusetCpus ?? ''));
  return (await node.siblings(first)).filter((cpu) => own.has(cpu));
}

/** What its processors add to the spec of a container. `housekeeping` are those that take interrupts on. */
export function cpuPart(
  settings: PodSettings,
  sandbox: SandboxRecord,
  draft: ContainerRecord,
  wishes: CpuWishes,
  housekeeping: readonly number[],
): Pick<ContainerSpecInput, 'fallbackEnv' | 'fixedEnv' | 'execCpus'> {
  const fixedEnv = new Map<string, string>();
  const procs = skipsGoMaxProcs(sandbox)
    ? undefined
    : cpus.goMaxProcs(settings.minGoMaxProcs, sandbox.cgroupParent, draft.resources);
  const fallbackEnv = new Map(procs === undefined ? [] : [['GOMAXPROCS', String(procs)] as const]);
  if (!isExclusive(sandbox, draft.resources, wishes)) return { fallbackEnv, fixedEnv, execCpus: '' };
  const own = ownCpus(settings, draft, wishes);
  const shared = wishes.shared === 'yes' ? parseCpus(settings.sharedCpuset) : [];
  if (shared.length > 0) {
    fixedEnv.set('OPENSHIFT_ISOLATED_CPUS', showCpus(own));
    fixedEnv.set('OPENSHIFT_SHARED_CPUS', showCpus(shared));
  }
  if (housekeeping.length > 0) fixedEnv.set('OPENSHIFT_HOUSEKEEPING_CPUS', showCpus(housekeeping));
  const { execCpuAffinity } = handlerSettings(settings, handlerOf(sandbox));
  const first = shared[0] ?? own[0];
  return { fallbackEnv, fixedEnv, execCpus: execCpuAffinity === 'first' && first !== undefined ? String(first) : '' };
}

/** CRI-O's annotation that needs no permission. */
function skipsGoMaxProcs({ config }: SandboxRecord): boolean {
  return config.annotations['skip-gomaxprocs.crio.io'] === 'true';
}

/** Changes the node's processors for a container that is about to start, if its annotations say so. */
export async function tuneCpus(op: Op, world: World, sandbox: SandboxRecord, record: ContainerRecord): Promise<void> {
  const { cpus: wishes } = wishesOf(world.settings, sandbox, record.config);
  if (!isExclusive(sandbox, record.resources, wishes)) return;
  op.stage('set CPUs apart');
  const housekeeping = await housekeepingCpus(world, sandbox, record, wishes);
  await world.cpus.tune(op, cpuJournal(world, record.id), tuningOf(world.settings, sandbox, record, housekeeping));
}

/** Where it is written down what a container has changed of the node's processors: it goes with its bundle. */
export function cpuJournal({ workspace }: Pick<World, 'workspace'>, id: ContainerId): string {
  return join(workspace.bundle(id), 'cpus.json');
}

/** PURE. What a container changes of the node's processors while it runs. */
function tuningOf(
  settings: PodSettings,
  sandbox: SandboxRecord,
  record: ContainerRecord,
  housekeeping: readonly number[],
): CpuTuning {
  const { cpus: wishes } = wishesOf(settings, sandbox, record.config);
  const own = ownCpus(settings, record, wishes);
  const keepsInterrupts = new Set(housekeeping);
  const shared = wishes.shared === 'yes' ? parseCpus(settings.sharedCpuset).length : 0;
  return {
    cpus: own,
    withoutInterrupts: wishes.interrupts === 'kept' ? [] : own.filter((cpu) => !keepsInterrupts.has(cpu)),
    resumeLatency: wishes.resumeLatency,
    governor: wishes.governor,
    isolatedCgroup: wishes.loadBalancing === 'disabled' ? record.cgroupsPath : '',
    quotaCgroups:
      wishes.quota === 'lifted' ? [sandbox.cgroupParent] : shared > 0 ? [sandbox.cgroupParent, record.cgroupsPath] : [],
    quotaBy: wishes.quota === 'lifted' ? 'all' : shared,
  };
}

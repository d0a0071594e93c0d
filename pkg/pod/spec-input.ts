/** All that a container's spec is made of, field by field: from its records, the settings, and what was looked up. */
import type { Op } from '../base/op.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { RuntimeFeatures } from '../ports/runtime.ts';
import type { ContainerSpecInput, PodFiles, ResolvedUser } from '../ports/spec.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { Gathered, Subject } from './gather.ts';
import { handlerOf, specDefaults } from './handlers.ts';
import { containerLabels } from './labels.ts';
import { withLinkedLogs } from './link-logs.ts';
import { pinnedNamespaces } from './sandbox-plan.ts';
import { artifactSeccomp } from './seccomp-artifact.ts';
import { localhostSeccomp } from './sources.ts';
import { cpuPart } from './wishes.ts';
import type { HandlerSettings, World } from './world.ts';

/** What was made inside the root, or found there. */
export interface Prepared {
  readonly user: ResolvedUser;
  readonly files: PodFiles;
  readonly anonymousVolumes: ContainerSpecInput['volumes'];
}

/** The input of `buildContainerSpec`. @throws InvalidArgument for a seccomp profile that is none. */
export async function specInput(
  op: Op,
  world: World,
  { draft, sandbox, image, handler, pid }: Subject,
  found: Gathered & Prepared,
): Promise<ContainerSpecInput> {
  const { settings, facts, host } = world;
  const { config } = draft;
  const hostNetwork = sandbox.namespaces['net'] === undefined;
  return {
    id: draft.id,
    pod: sandbox.config,
    config: withLinkedLogs(withResources(config, draft.resources), sandbox, found.wishes.linkLogs),
    image: image.config,
    root: found.root,
    facts,
    defaults: specDefaults(settings, handlerOf(sandbox)),
    runtime: specRuntime(found.features, handler),
    namespaces: pinnedNamespaces(sandbox),
    infra: sandbox.infra?.id ?? '',
    pid,
    cgroupsPath: draft.cgroupsPath,
    user: found.user,
    files: found.files,
    mounts: found.mounts,
    volumes: [...found.defaultMounts, ...found.anonymousVolumes],
    devices: found.devices,
    hostDevices: found.hostDevices,
    blockIo: found.blockIo,
    idMap: sandbox.idMap,
    selinux: containerLabels(sandbox.selinux, config.linux?.securityContext?.selinuxOptions),
    localhostSeccomp: await localhostSeccomp(op, config.linux?.securityContext),
    annotatedSeccomp: await artifactSeccomp(op, world, { draft, sandbox, image }),
    seccompListener:
      found.wishes.blockedCalls === 'untold' || found.features.ownKernel ? '' : world.blockedCalls.pathOf(draft.id),
    hostname: hostNetwork ? host.hostname() : sandbox.config.hostname,
    annotations: found.wishes.annotations,
    cgroupAccess: found.wishes.cgroupAccess,
    umask: found.wishes.umask,
    ...cpuPart(settings, sandbox, draft, found.wishes.cpus, found.housekeeping),
    envExec: settings.envExec,
  };
}

/** The config with the resources that hold: a workload may have changed those that were asked for. */
function withResources(config: NamedContainerConfig, resources: ContainerRecord['resources']): NamedContainerConfig {
  return resources === config.linux?.resources ? config : { ...config, linux: { ...config.linux, resources } };
}

function specRuntime(features: RuntimeFeatures, handler: HandlerSettings): ContainerSpecInput['runtime'] {
  return {
    ociVersion: features.ociVersion,
    recursiveReadOnlyMounts: features.recursiveReadOnlyMounts,
    idmappedMounts: features.idmappedMounts,
    capabilities: features.capabilities,
    ownKernel: features.ownKernel,
    privilegedWithoutHostDevices: handler.privilegedWithoutHostDevices,
  };
}

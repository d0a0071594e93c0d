/**
 * What is looked up for a container before its spec is built: what takes time and depends on nothing else, side by
 * side.
 */
import { failpoint } from '../base/failpoint.ts';
import type { Op } from '../base/op.ts';
import { together } from '../base/sync.ts';
import type { LinuxResources } from '../oci/spec-types.ts';
import { hardware } from '../spec/index.ts';
import type { HookDefinition } from '../ports/extensions.ts';
import type { Image } from '../ports/image.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { InsideRoot, RootfsOptions } from '../ports/rootfs.ts';
import type { OciRuntime, RuntimeFeatures } from '../ports/runtime.ts';
import type { ContainerSpecInput, ResolvedDevice, ResolvedMount } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { containerLabels, volumeLabel } from './labels.ts';
import { withLinkedLogs } from './link-logs.ts';
import { namespaceOptionsOf } from './pid-namespace.ts';
import { requireOwnPids } from './sandbox-plan.ts';
import { checkImageUse, defaultMounts, findCdi, findDevices, type FoundCdi, resolveMounts } from './sources.ts';
import { housekeepingCpus, type Wishes, whyForgotten, wishesOf } from './wishes.ts';
import type { HandlerSettings, World } from './world.ts';

/** What a container is made of, and from. */
export interface Subject {
  readonly draft: ContainerRecord;
  readonly sandbox: SandboxRecord;
  readonly image: Image;
  readonly runtime: OciRuntime;
  readonly handler: HandlerSettings;
  /** Held until the container has been made. */
  readonly pid: ContainerSpecInput['pid'];
}

/** What was found. */
export interface Gathered {
  readonly wishes: Wishes;
  /** SELinux label of what is the container's own; '' = none. */
  readonly label: string;
  /** Where the root filesystem is mounted, and the way into it. */
  readonly root: string;
  readonly inside: InsideRoot;
  readonly features: RuntimeFeatures;
  /** The mounts of the config, in its order. */
  readonly mounts: readonly ResolvedMount[];
  /** `default_mounts_file`. */
  readonly defaultMounts: ContainerSpecInput['volumes'];
  readonly devices: readonly ResolvedDevice[];
  readonly hostDevices: readonly ResolvedDevice[];
  readonly cdi: FoundCdi | undefined;
  readonly hooks: readonly HookDefinition[];
  /** What its class of block I/O asks for. */
  readonly blockIo: LinuxResources['blockIO'];
  /** Processors of its own that take interrupts on. */
  readonly housekeeping: readonly number[];
}

/** Looks everything up; above all the root is mounted. @throws the first failure, once nothing is under way. */
export async function gather(op: Op, world: World, subject: Subject): Promise<Gathered> {
  op.stage('mount rootfs');
  const { draft, sandbox, image, runtime, handler } = subject;
  const { config } = draft;
  const wishes = wishesOf(world.settings, sandbox, config);
  const forgotten = whyForgotten(wishes, sandbox, draft);
  if (forgotten !== undefined)
    op.log.info('annotations about CPUs have no effect on this container', { container: draft.id, why: forgotten });
  const housekeeping = housekeepingCpus(world, sandbox, draft, wishes.cpus);
  const label = volumeLabel(containerLabels(sandbox.selinux, config.linux?.securityContext?.selinuxOptions));
  const privileged = config.linux?.securityContext?.privileged === true;
  const root = mountRoot(op, world, draft, image, { idMap: sandbox.idMap, label: privileged ? '' : label });
  const features = runtime.features(op);
  const linked = { ...draft, config: withLinkedLogs(config, sandbox, wishes.linkLogs) };
  const mounts = resolveMounts(op, world, linked, { idMap: sandbox.idMap, label, relabel: wishes.relabel });
  const devices = findDevices(op, world, config, {
    annotated: wishes.devices,
    host: wantsHostDevices(config, handler),
  });
  const cdi = findCdi(op, world, config);
  const configured = defaultMounts(op, world, draft, { idMap: sandbox.idMap, label });
  const hooks = world.extensions.hooks(op);
  const blockIo = findBlockIo(op, world, subject);
  const mayBeUsed = checkImageUse(op, world, draft, sandbox.config.metadata.namespace);
  await together([root, features, mounts, devices, cdi, configured, hooks, blockIo, mayBeUsed, housekeeping]);
  requireOwnPids(runtime.handler.name, await features, namespaceOptionsOf(draft, sandbox)?.pid);
  await failpoint('container.rootfs.after');
  return {
    wishes,
    label,
    root: await root,
    inside: world.rootfs.inside(await root),
    features: await features,
    mounts: await mounts,
    defaultMounts: await configured,
    devices: (await devices).devices,
    hostDevices: (await devices).hostDevices,
    cdi: await cdi,
    hooks: await hooks,
    blockIo: await blockIo,
    housekeeping: await housekeeping,
  };
}

/** @throws NotFound if the image is not whole any more; it is not present from then on, and the next pull mends it. */
async function mountRoot(
  op: Op,
  world: World,
  draft: ContainerRecord,
  image: Image,
  own: Pick<RootfsOptions, 'idMap' | 'label'>,
): Promise<string> {
  const layers = image.layers.map(({ chainId }) => chainId);
  const options = { mountOptions: world.settings.overlayOptions, quotaBytes: 0n, ...own };
  try {
    return await world.rootfs.mount(op, draft.id, layers, options);
  } catch (error) {
    await world.images.confirm(op, image.id);
    throw error;
  }
}

/** Nothing on a node without the controller: runtimes would refuse the container. */
async function findBlockIo(op: Op, world: World, { draft, sandbox }: Subject): Promise<LinuxResources['blockIO']> {
  const { metadata, annotations } = draft.config;
  const name = hardware.classOf('blockio', metadata.name, annotations, sandbox.config.annotations);
  const { controllers } = world.facts;
  if (name === '' || !(controllers.has('blkio') || controllers.has('io'))) return undefined;
  return await world.extensions.blockIo(op, name);
}

function wantsHostDevices(config: NamedContainerConfig, handler: HandlerSettings): 'all' | 'none' {
  return config.linux?.securityContext?.privileged === true && !handler.privilegedWithoutHostDevices ? 'all' : 'none';
}

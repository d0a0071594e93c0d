/**
 * What is looked up for a container before its spec is built: what takes time and depends on nothing else, side by
 * side.
 */
import { failpoint } from '../base/failpoint.ts';
import type { Op } from '../base/op.ts';
import { together } from '../base/sync.ts';
import { annotationSettings } from '../spec/index.ts';
import type { HookDefinition } from '../ports/extensions.ts';
import type { Image } from '../ports/image.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { IdMap, InsideRoot } from '../ports/rootfs.ts';
import type { OciRuntime, RuntimeFeatures } from '../ports/runtime.ts';
import type { AnnotationSettings, ContainerSpecInput, ResolvedDevice, ResolvedMount } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import { handlerOf, podAnnotations } from './handlers.ts';
import { containerLabels, volumeLabel } from './labels.ts';
import { namespaceOptionsOf } from './pid-namespace.ts';
import { requireOwnPids } from './sandbox-plan.ts';
import { checkImageUse, defaultMounts, findCdi, findDevices, type FoundCdi, resolveMounts } from './sources.ts';
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

/** What allowed annotations change, and which of them go into the spec. */
type Wishes = AnnotationSettings & Pick<ContainerSpecInput, 'annotations'>;

/** What was found. */
export interface Gathered {
  readonly wishes: Wishes;
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
}

/** Looks everything up; above all the root is mounted. @throws the first failure, once nothing is under way. */
export async function gather(op: Op, world: World, subject: Subject): Promise<Gathered> {
  op.stage('mount rootfs');
  const { draft, sandbox, image, runtime, handler } = subject;
  const { config } = draft;
  const wishes = wishesOf(world, draft, sandbox);
  const label = volumeLabel(containerLabels(sandbox.selinux, config.linux?.securityContext?.selinuxOptions));
  const root = mountRoot(op, world, draft, image, sandbox.idMap);
  const features = runtime.features(op);
  const mounts = resolveMounts(op, world, draft, { idMap: sandbox.idMap, label });
  const devices = findDevices(op, world, config, {
    annotated: wishes.devices,
    host: wantsHostDevices(config, handler),
  });
  const cdi = findCdi(op, world, config);
  const configured = defaultMounts(op, world);
  const hooks = world.extensions.hooks(op);
  const mayBeUsed = checkImageUse(op, world, draft, sandbox.config.metadata.namespace);
  await together([root, features, mounts, devices, cdi, configured, hooks, mayBeUsed]);
  requireOwnPids(runtime.handler.name, await features, namespaceOptionsOf(draft, sandbox)?.pid);
  await failpoint('container.rootfs.after');
  return {
    wishes,
    root: await root,
    inside: world.rootfs.inside(await root),
    features: await features,
    mounts: await mounts,
    defaultMounts: await configured,
    devices: (await devices).devices,
    hostDevices: (await devices).hostDevices,
    cdi: await cdi,
    hooks: await hooks,
  };
}

/** @throws NotFound if the image is not whole any more; it is not present from then on, and the next pull mends it. */
async function mountRoot(
  op: Op,
  world: World,
  draft: ContainerRecord,
  image: Image,
  idMap: IdMap | null,
): Promise<string> {
  const layers = image.layers.map(({ chainId }) => chainId);
  const options = { mountOptions: world.settings.overlayOptions, quotaBytes: 0n, idMap };
  try {
    return await world.rootfs.mount(op, draft.id, layers, options);
  } catch (error) {
    await world.images.confirm(op, image.id);
    throw error;
  }
}

function wishesOf(world: World, draft: ContainerRecord, sandbox: SandboxRecord): Wishes {
  const annotations = podAnnotations(world.settings, sandbox.config, handlerOf(sandbox), draft.config);
  return { ...annotationSettings(annotations, world.settings.allowedDevices), annotations };
}

function wantsHostDevices(config: NamedContainerConfig, handler: HandlerSettings): 'all' | 'none' {
  return config.linux?.securityContext?.privileged === true && !handler.privilegedWithoutHostDevices ? 'all' : 'none';
}

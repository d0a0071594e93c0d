/**
 * How a container is put together: image, root filesystem, identity, mounts, spec, bundle, monitor.
 *
 * Runs under the container's flight, after its record says `creating`; whatever it leaves when it fails is found by the
 * container's id and destroyed. It saves nothing itself.
 */
import { dirname, join } from 'node:path';
import type { NamespaceOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDirBelow } from '../base/files.ts';
import { type ContainerId, type ProcessRef, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { together } from '../base/sync.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import {
  annotationSettings,
  applyCdi,
  buildContainerSpec,
  cgroupsPathFor,
  checkWorkingDir,
  containerPath,
  effectiveStopSignal,
  identityOf,
  stringifySpec,
  withHooks,
  workingDirOf,
  workloadResources,
} from '../spec/index.ts';
import type { Books } from './books.ts';
import {
  containerLabels,
  directoryMode,
  handlerOf,
  handlerSettings,
  ownerOnHost,
  pinnedNamespaces,
  podAnnotations,
  renderHosts,
  requireOwnPids,
  specDefaults,
  volumeLabel,
} from './plan.ts';
import { podName } from './pods.ts';
import {
  anonymousVolumes,
  checkImageUse,
  defaultMounts,
  findCdi,
  findDevices,
  type FoundCdi,
  imageVolumesOf,
  localhostSeccomp,
  requireProfile,
  resolveMounts,
} from './sources.ts';
import type { Image } from '../ports/image.ts';
import type { NamedContainerConfig } from '../ports/requests.ts';
import type { IdMap, InsideRoot } from '../ports/rootfs.ts';
import type { Monitor, OciRuntime, RuntimeFeatures } from '../ports/runtime.ts';
import type { AnnotationSettings, ContainerSpecInput, Identity, PodFiles, ResolvedUser } from '../ports/spec.ts';
import type { HookDefinition } from '../ports/extensions.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { HandlerSettings, World } from './world.ts';

/** A container whose init process exists and waits for start. */
export interface Launched {
  /** The draft with everything that was resolved on the way. */
  readonly record: ContainerRecord;
  readonly process: ProcessRef;
  readonly monitor: ProcessRef | null;
}

/**
 * The first record of a container: what is known before anything has been done.
 * @throws NotFound if the image is not here.
 */
export function draftContainer(
  world: World,
  id: ContainerId,
  sandbox: SandboxRecord,
  config: NamedContainerConfig,
): ContainerRecord {
  const image = findImage(world, config);
  const called = world.images.called(image.id, config.image.userSpecifiedImage || config.image.image);
  const { facts } = world;
  return {
    kind: 'container',
    id,
    sandboxId: sandbox.id,
    config,
    runtimeHandler: sandbox.runtimeHandler,
    runtime: sandbox.runtime,
    createdAt: world.clock(),
    state: { phase: 'creating' },
    imageId: image.id,
    layers: image.layers.map((layer) => layer.chainId),
    imageRef: called.ref,
    imageName: config.image.userSpecifiedImage || called.name,
    logPath: logPathOf(sandbox, config, id),
    bundle: world.workspace.bundle(id),
    cgroupsPath: cgroupsPathFor({ manager: facts.cgroupManager, parent: sandbox.cgroupParent, id }),
    stopSignal: effectiveStopSignal(config.stopSignal, image.config.stopSignal),
    user: { uid: 0n, gid: 0n, supplementalGroups: [] },
    resources: workloadResources(
      config.linux?.resources,
      world.settings.workloads,
      sandbox.config.annotations,
      config.metadata.name,
    ),
    imageVolumes: imageVolumesOf(world, config),
    stopping: null,
    monitor: null,
    monitorLost: null,
  };
}

/** What a container is made of, and from. */
interface Subject {
  readonly draft: ContainerRecord;
  readonly sandbox: SandboxRecord;
  readonly image: Image;
  readonly runtime: OciRuntime;
  readonly handler: HandlerSettings;
}

/**
 * Does everything that lies between a draft and a process that waits for start. The monitor starts beside the rest, and
 * waits for it.
 */
export async function launchContainer(
  op: Op,
  world: World,
  books: Books,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
): Promise<Launched> {
  const image = world.images.find(draft.imageId);
  if (image === undefined) throw absentImage(draft.imageName);
  const subject = {
    draft,
    sandbox,
    image,
    runtime: world.runtimeOf(sandbox),
    handler: handlerSettings(world.settings, handlerOf(sandbox)),
  };
  const gathered = gather(op, world, subject);
  const bundled = gathered.then((found) => writeBundle(op, world, books, subject, found));
  const linked = gathered.then(({ inside }) => linkMtab(inside));
  const [, spec, { process, monitor }] = await together([
    gathered,
    bundled,
    runMonitor(op, world, subject, bundled),
    linked,
  ]);
  await failpoint('container.create.after');
  const { uid, gid, additionalGids } = spec.process.user;
  return {
    record: {
      ...draft,
      user: { uid: BigInt(uid), gid: BigInt(gid), supplementalGroups: (additionalGids ?? []).map(BigInt) },
    },
    process,
    monitor,
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

/** What takes time and depends on nothing else, side by side: above all the root, mounted. */
async function gather(op: Op, world: World, { draft, sandbox, image, runtime, handler }: Subject) {
  op.stage('mount rootfs');
  const wishes = wishesOf(world, draft, sandbox);
  const [root, features, mounts, devices, cdi, configured, hooks] = await together([
    mountRoot(op, world, draft, image, sandbox.idMap),
    runtime.features(op),
    resolveMounts(op, world, draft, {
      idMap: sandbox.idMap,
      label: volumeLabel(containerLabels(sandbox.selinux, draft.config.linux?.securityContext?.selinuxOptions)),
    }),
    findDevices(op, world, draft.config, { annotated: wishes.devices, host: wantsHostDevices(draft.config, handler) }),
    findCdi(op, world, draft.config),
    defaultMounts(op, world),
    world.extensions.hooks(op),
    checkImageUse(op, world, draft, sandbox.config.metadata.namespace),
  ]);
  requireOwnPids(runtime.handler.name, features, namespaceOptionsOf(draft, sandbox)?.pid);
  await failpoint('container.rootfs.after');
  return { wishes, root, inside: world.rootfs.inside(root), features, mounts, devices, cdi, configured, hooks };
}

/** Writes config.json and the files that are mounted into the container; the spec. */
async function writeBundle(
  op: Op,
  world: World,
  books: Books,
  subject: Subject,
  found: Awaited<ReturnType<typeof gather>>,
): Promise<RuntimeSpec> {
  const { draft, sandbox, image, handler } = subject;
  const { inside, root, wishes, features, mounts, devices, configured, cdi, hooks } = found;
  op.stage('prepare rootfs');
  await inside.checkKernelPlaces();
  const identity = await findIdentity(world, inside, draft, image, sandbox.idMap);
  const { user } = identity;
  await ensureWorkingDir(inside, draft.config, image, { user, idMap: sandbox.idMap });
  const [files, own, settings] = await together([
    podFiles(world, draft, sandbox, identity),
    anonymousVolumes(op, world, draft, image, { inside, idMap: sandbox.idMap }),
    specInput(op, world, books, draft, sandbox),
  ]);
  const spec = buildContainerSpec({
    ...settings,
    ...wishes,
    defaults: specDefaults(world.settings, handlerOf(sandbox)),
    image: image.config,
    root,
    runtime: specRuntime(features, handler),
    user,
    files,
    mounts,
    volumes: [...configured, ...own],
    ...devices,
  });
  await requireProfile(op, world, spec);
  const extended = extend(spec, { draft, sandbox, cdi, hooks });
  await world.workspace.writeBundle(draft.id, stringifySpec(extended));
  return extended;
}

async function runMonitor(
  op: Op,
  world: World,
  { draft, sandbox, runtime }: Subject,
  ready: Promise<unknown>,
): ReturnType<Monitor['create']> {
  const { id, config, logPath, bundle } = draft;
  await ensureDirBelow(sandbox.logDirectory, dirname(config.logPath), 0o755);
  await world.workspace.ensureBundle(id, directoryMode(sandbox.idMap));
  const name = `k8s_${config.metadata.name}_${podName(sandbox.config)}`;
  return await world.monitor.create(op, {
    id,
    runtime,
    name,
    bundle,
    logPath,
    tty: config.tty,
    stdin: config.stdin,
    stdinOnce: config.stdinOnce,
    ready,
  });
}

/** What allowed annotations change, and which of them go into the spec. */
function wishesOf(
  world: World,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
): AnnotationSettings & Pick<ContainerSpecInput, 'annotations'> {
  const annotations = podAnnotations(world.settings, sandbox.config, handlerOf(sandbox), draft.config);
  return { ...annotationSettings(annotations, world.settings.allowedDevices), annotations };
}

function wantsHostDevices(config: NamedContainerConfig, handler: HandlerSettings): 'all' | 'none' {
  return config.linux?.securityContext?.privileged === true && !handler.privilegedWithoutHostDevices ? 'all' : 'none';
}

interface SpecExtensions {
  readonly draft: ContainerRecord;
  readonly sandbox: SandboxRecord;
  readonly cdi: FoundCdi | undefined;
  readonly hooks: readonly HookDefinition[];
}

/** The spec with its CDI devices, then with the hooks that want to see such a container. */
function extend(spec: RuntimeSpec, { draft, sandbox, cdi, hooks }: SpecExtensions): RuntimeSpec {
  const withDevices = cdi === undefined ? spec : applyCdi(spec, cdi.edits, cdi.found);
  if (hooks.length === 0) return withDevices;
  const annotations = new Map([
    ...Object.entries(sandbox.config.annotations),
    ...Object.entries(draft.config.annotations),
  ]);
  return withHooks(withDevices, hooks, {
    annotations,
    command: spec.process.args[0] ?? '',
    hasBindMounts: draft.config.mounts.length > 0,
  });
}

function findImage(world: World, config: NamedContainerConfig): Image {
  const wanted = config.image.image;
  const image = world.images.find(wanted);
  if (image === undefined) throw absentImage(wanted);
  return image;
}

function absentImage(name: string): RuntimeError {
  return new RuntimeError('NotFound', `image ${quote(name)} is not on this node; pull it first`);
}

/** The log's absolute path. The door has checked that log_path is relative and plain. */
function logPathOf(sandbox: SandboxRecord, config: NamedContainerConfig, id: ContainerId): string {
  return join(sandbox.logDirectory, config.logPath === '' ? `${id}.log` : config.logPath);
}

async function findIdentity(
  world: World,
  inside: InsideRoot,
  draft: ContainerRecord,
  image: Image,
  idMap: IdMap | null,
): Promise<Identity> {
  const [passwd, group] = await together([
    inside.readFile('/etc/passwd', limits.passwdBytes),
    inside.readFile('/etc/group', limits.passwdBytes),
  ]);
  return identityOf({
    config: draft.config,
    image: image.config,
    defaults: world.settings.spec,
    idMap,
    passwd,
    group,
  });
}

/** The working directory, made inside the root. */
async function ensureWorkingDir(
  inside: InsideRoot,
  config: NamedContainerConfig,
  image: Image,
  { user, idMap }: { readonly user: ResolvedUser; readonly idMap: IdMap | null },
): Promise<void> {
  const cwd = workingDirOf(config, image.config);
  if (cwd === '/') return;
  await inside.ensureDir(cwd, ownerOnHost(idMap, user), 0o755);
  // A symlink of the image may hide such a place (CVE-2024-21626).
  checkWorkingDir((await inside.resolve(cwd))?.path ?? cwd);
}

/** /etc/mtab; beside the runtime's work, since the first new name in /etc costs overlayfs a copy of the directory. */
async function linkMtab(inside: InsideRoot): Promise<void> {
  await inside.symlinkIfAbsent('/etc/mtab', '/proc/mounts').catch(() => {
    // An image without /etc, or with something else there: programs that want mtab find /proc/mounts themselves.
  });
}

async function podFiles(
  world: World,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
  identity: Identity,
): Promise<PodFiles> {
  const { workspace, settings } = world;
  const owner = ownerOnHost(sandbox.idMap, { uid: 0, gid: 0 });
  const own = async (name: 'passwd' | 'group', content: Uint8Array | undefined): Promise<string> =>
    content === undefined ? '' : await workspace.writeContainerFile(draft.id, name, content, owner);
  await workspace.ensureBundle(draft.id, directoryMode(sandbox.idMap));
  return {
    resolvConf: sandbox.files.resolvConf,
    hostname: sandbox.files.hostname,
    hosts: await hostsFile(world, draft.config, sandbox),
    shm: sandbox.files.shm,
    passwd: await own('passwd', identity.passwd),
    group: await own('group', identity.group),
    containerenv: await workspace.writeContainerFile(draft.id, 'containerenv', '', owner),
    localtime: settings.localtime,
  };
}

/**
 * The kubelet mounts an /etc/hosts of its own. Other clients (crictl, critest) give none: then a pod on the host's
 * network has the host's, and any other one that names the pod.
 */
async function hostsFile(world: World, config: NamedContainerConfig, sandbox: SandboxRecord): Promise<string> {
  if (config.mounts.some((mount) => containerPath(mount.containerPath) === '/etc/hosts')) return '';
  if (sandbox.namespaces['net'] === undefined) return '/etc/hosts';
  const { hosts } = sandbox.files;
  await world.workspace.writeSandboxFile(
    hosts,
    renderHosts(sandbox.config.hostname, sandbox.ips),
    ownerOnHost(sandbox.idMap, { uid: 0, gid: 0 }),
  );
  return hosts;
}

type LookedUp =
  | 'image'
  | 'root'
  | 'runtime'
  | 'user'
  | 'files'
  | 'mounts'
  | 'volumes'
  | 'devices'
  | 'hostDevices'
  | 'defaults'
  | keyof ReturnType<typeof wishesOf>;

/** The part of the spec's input that comes from records and settings alone. */
async function specInput(
  op: Op,
  world: World,
  books: Books,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
): Promise<Omit<ContainerSpecInput, LookedUp>> {
  const { settings, facts, host } = world;
  const { config } = draft;
  const hostNetwork = sandbox.namespaces['net'] === undefined;
  return {
    id: draft.id,
    pod: sandbox.config,
    config: withResources(config, draft.resources),
    facts,
    namespaces: pinnedNamespaces(sandbox),
    pid: pidNamespace(books, draft, sandbox),
    cgroupsPath: draft.cgroupsPath,
    idMap: sandbox.idMap,
    selinux: containerLabels(sandbox.selinux, config.linux?.securityContext?.selinuxOptions),
    localhostSeccomp: await localhostSeccomp(op, config.linux?.securityContext),
    hostname: hostNetwork ? host.hostname() : sandbox.config.hostname,
    envExec: settings.envExec,
  };
}

function pidNamespace(books: Books, draft: ContainerRecord, sandbox: SandboxRecord): ContainerSpecInput['pid'] {
  const options = namespaceOptionsOf(draft, sandbox);
  switch (options?.pid) {
    case undefined:
    case 'CONTAINER':
      return { mode: 'private' };
    case 'NODE':
      return { mode: 'host' };
    case 'POD': {
      const process = sandbox.infra?.process ?? null;
      if (process === null)
        throw new RuntimeError(
          'InvalidArgument',
          'namespace_options.pid is POD, but the pod sandbox was made without a shared PID namespace',
        );
      return { mode: 'join', path: `/proc/${process.pid}/ns/pid` };
    }
    case 'TARGET': {
      const target = books.findContainer(options.targetId);
      if (target === undefined || target.sandboxId !== sandbox.id)
        throw new RuntimeError(
          'InvalidArgument',
          `namespace_options.target_id ${quote(options.targetId)} is no container of this pod`,
        );
      if (target.state.phase !== 'running')
        throw new RuntimeError(
          'FailedPrecondition',
          `target container ${target.id} is ${target.state.phase}; its PID namespace can be joined only while it runs`,
        );
      return { mode: 'join', path: `/proc/${target.state.process.pid}/ns/pid` };
    }
  }
}

/** The config with the resources that hold: a workload may have changed those that were asked for. */
function withResources(config: NamedContainerConfig, resources: ContainerRecord['resources']): NamedContainerConfig {
  return resources === config.linux?.resources ? config : { ...config, linux: { ...config.linux, resources } };
}

function namespaceOptionsOf(draft: ContainerRecord, sandbox: SandboxRecord): NamespaceOption | undefined {
  return (
    draft.config.linux?.securityContext?.namespaceOptions ?? sandbox.config.linux?.securityContext?.namespaceOptions
  );
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

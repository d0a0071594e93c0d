/**
 * How a container is put together: image, root filesystem, identity, mounts, spec, bundle, monitor.
 *
 * Runs under the container's flight, after its record says `creating`; whatever it leaves when it fails is found by the
 * container's id and destroyed. It saves nothing itself.
 */
import { dirname, join, posix } from 'node:path';
import type { ContainerConfig, LinuxContainerSecurityContext, Mount } from '../cri-api/types.ts';
import { RuntimeError, wrap } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import { ensureDir, readJson } from '../base/files.ts';
import { type ContainerId, type ImageId, type ProcessRef, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import type { Image } from '../image/index.ts';
import type { InsideRoot } from '../rootfs/index.ts';
import type { RuntimeFeatures } from '../runtime/index.ts';
import {
  buildContainerSpec,
  cgroupsPathFor,
  type ContainerSpecInput,
  effectiveStopSignal,
  homeOf,
  type PodFiles,
  passwdWithEntry,
  type ResolvedDevice,
  type ResolvedMount,
  type ResolvedUser,
  resolveDevices,
  resolveUser,
  seccompChoice,
  stringifySpec,
  workingDirOf,
} from '../spec/index.ts';
import type { ContainerRecord, SandboxRecord } from '../state/index.ts';
import type { Books } from './books.ts';
import { together } from './flights.ts';
import type { World } from './index.ts';
import { podName } from './pods.ts';

/** A container whose init process exists and waits for start. */
export interface Launched {
  /** The draft with everything that was resolved on the way. */
  readonly record: ContainerRecord;
  readonly process: ProcessRef;
  readonly monitor: ProcessRef | null;
}

/**
 * The first record of a container: what is known before anything has been done.
 * @throws InvalidArgument without an image in the config, NotFound if the image is not here.
 */
export function draftContainer(world: World, id: ContainerId, sandbox: SandboxRecord, config: ContainerConfig): ContainerRecord {
  const image = findImage(world, config);
  const { facts } = world;
  return {
    kind: 'container',
    id,
    sandboxId: sandbox.id,
    config,
    runtimeHandler: sandbox.runtimeHandler,
    createdAt: world.clock(),
    state: { phase: 'creating' },
    imageId: image.id,
    imageRef: image.repoDigests[0] ?? image.id,
    imageName: nameOf(config, image),
    logPath: logPathOf(sandbox, config, id),
    bundle: world.workspace.bundle(id),
    cgroupsPath: cgroupsPathFor({ manager: facts.cgroupManager, parent: sandbox.cgroupParent, id, prefix: 'berth' }),
    stopSignal: effectiveStopSignal(config.stopSignal, image.config.stopSignal),
    user: { uid: 0n, gid: 0n, supplementalGroups: [] },
    resources: config.linux?.resources,
    imageVolumes: [],
    stopping: null,
    monitor: null,
  };
}

/** Does everything that lies between a draft and a process that waits for start. */
export async function launchContainer(op: Op, world: World, books: Books, draft: ContainerRecord, sandbox: SandboxRecord): Promise<Launched> {
  const image = world.images.find(draft.imageId);
  if (image === undefined) throw absentImage(draft.imageName);
  const runtime = world.runtimeFor(sandbox.runtimeHandler);
  op.stage('mount rootfs');
  const layers = image.layers.map((layer) => layer.chainId);
  const [root, features, mounts, devices] = await together([
    world.rootfs.mount(op, draft.id, layers, { mountOptions: world.settings.overlayOptions, quotaBytes: 0n, idMap: sandbox.idMap }),
    runtime.features(op),
    resolveMounts(op, world, draft),
    findDevices(op, world, draft.config),
    ensureLogDirectory(draft.logPath),
  ]);
  await failpoint('container.rootfs.after');
  op.stage('prepare rootfs');
  const inside = world.rootfs.inside(root);
  const { user, passwd } = await identity(inside, draft.config, image);
  await prepareRoot(inside, draft.config, image, user);
  const files = await podFiles(world, draft, sandbox, image, passwd, user);
  const spec = buildContainerSpec({
    ...(await specInput(op, world, books, draft, sandbox)),
    image: image.config,
    root,
    runtime: specRuntime(features),
    user,
    files,
    mounts: mounts.map((mount) => mount.resolved),
    ...devices,
  });
  const bundle = await world.workspace.writeBundle(draft.id, stringifySpec(spec));
  op.stage('runtime create');
  const { process, monitor } = await world.monitor.create(op, {
    id: draft.id,
    runtime,
    name: `k8s_${draft.config.metadata?.name ?? ''}_${podName(sandbox.config)}`,
    bundle,
    logPath: draft.logPath,
    tty: draft.config.tty,
    stdin: draft.config.stdin,
    stdinOnce: draft.config.stdinOnce,
  });
  await failpoint('container.create.after');
  const groups = user.additionalGids.map(BigInt);
  return {
    record: {
      ...draft,
      user: { uid: BigInt(user.uid), gid: BigInt(user.gid), supplementalGroups: groups },
      imageVolumes: mounts.flatMap((mount) => (mount.volume === undefined ? [] : [mount.volume])),
    },
    process,
    monitor,
  };
}

function findImage(world: World, config: ContainerConfig): Image {
  const wanted = config.image?.image ?? '';
  if (wanted === '') throw new RuntimeError('InvalidArgument', 'container config names no image; set config.image.image to what PullImage returned');
  const image = world.images.find(wanted);
  if (image === undefined) throw absentImage(wanted);
  return image;
}

function absentImage(name: string): RuntimeError {
  return new RuntimeError('NotFound', `image ${quote(name)} is not on this node; pull it first`);
}

/** What a user calls the image: as written in the pod, else a tag of it, else what was asked for. */
function nameOf(config: ContainerConfig, image: Image): string {
  const asked = config.image?.image ?? '';
  const written = config.image?.userSpecifiedImage ?? '';
  if (written !== '') return written;
  if (asked !== '' && !image.id.startsWith(asked) && !image.id.startsWith(`sha256:${asked}`)) return asked;
  return image.repoTags[0] ?? image.repoDigests[0] ?? asked;
}

/** The log's absolute path. The door has checked that log_path is relative and plain. */
function logPathOf(sandbox: SandboxRecord, config: ContainerConfig, id: ContainerId): string {
  return join(sandbox.logDirectory, config.logPath === '' ? `${id}.log` : config.logPath);
}

async function ensureLogDirectory(logPath: string): Promise<void> {
  await ensureDir(dirname(logPath), 0o755);
}

async function identity(inside: InsideRoot, config: ContainerConfig, image: Image): Promise<{ readonly user: ResolvedUser; readonly passwd: string | undefined }> {
  const [passwd, group] = await together([inside.readFile('/etc/passwd', limits.passwdBytes), inside.readFile('/etc/group', limits.passwdBytes)]);
  const text = passwd?.toString('utf8');
  const user = resolveUser({ security: config.linux?.securityContext, imageUser: image.config.user, passwd: text, group: group?.toString('utf8') });
  return { user, passwd: text };
}

/** The working directory, /etc/mtab and the image's volumes, made inside the root. */
async function prepareRoot(inside: InsideRoot, config: ContainerConfig, image: Image, user: ResolvedUser): Promise<void> {
  const owner = { uid: user.uid, gid: user.gid };
  const cwd = workingDirOf(config, image.config);
  if (cwd !== '/') await inside.ensureDir(cwd, owner, 0o755);
  await inside.symlinkIfAbsent('/etc/mtab', '/proc/mounts').catch(() => {
    // An image without /etc, or with something else there: programs that want mtab find /proc/mounts themselves.
  });
  for (const volume of image.config.volumes) await inside.ensureDir(posix.resolve('/', volume), { uid: 0, gid: 0 }, 0o755);
}

async function podFiles(world: World, draft: ContainerRecord, sandbox: SandboxRecord, image: Image, passwd: string | undefined, user: ResolvedUser): Promise<PodFiles> {
  const home = homeOf({ config: draft.config, image: image.config, defaults: world.settings.spec, user });
  const line = passwdWithEntry(passwd, user, home);
  const hostNetwork = sandbox.namespaces['net'] === undefined;
  return {
    resolvConf: sandbox.files.resolvConf,
    hostname: sandbox.files.hostname,
    hosts: hostNetwork ? '/etc/hosts' : '',
    shm: sandbox.files.shm,
    passwd: line === undefined ? '' : await world.workspace.writeContainerFile(draft.id, 'passwd', line),
    containerenv: await world.workspace.writeContainerFile(draft.id, 'containerenv', ''),
    localtime: world.settings.localtime,
  };
}

type LookedUp = 'image' | 'root' | 'runtime' | 'user' | 'files' | 'mounts' | 'devices' | 'hostDevices';

/** The part of the spec's input that comes from records and settings alone. */
async function specInput(op: Op, world: World, books: Books, draft: ContainerRecord, sandbox: SandboxRecord): Promise<Omit<ContainerSpecInput, LookedUp>> {
  const { settings, facts, host } = world;
  const { config } = draft;
  const hostNetwork = sandbox.namespaces['net'] === undefined;
  return {
    id: draft.id,
    pod: sandbox.config,
    config,
    facts,
    defaults: settings.spec,
    namespaces: new Map(Object.entries(sandbox.namespaces)) as ContainerSpecInput['namespaces'],
    pid: pidNamespace(books, draft, sandbox),
    cgroupsPath: draft.cgroupsPath,
    volumes: [],
    idMap: sandbox.idMap,
    selinux: sandbox.selinux,
    localhostSeccomp: await localhostSeccomp(op, config.linux?.securityContext),
    hostname: hostNetwork ? host.hostname() : sandbox.config.hostname,
    annotations: new Map(),
    cgroupAccess: 'ro',
    umask: undefined,
    envExec: settings.envExec,
  };
}

function pidNamespace(books: Books, draft: ContainerRecord, sandbox: SandboxRecord): ContainerSpecInput['pid'] {
  const options = draft.config.linux?.securityContext?.namespaceOptions ?? sandbox.config.linux?.securityContext?.namespaceOptions;
  switch (options?.pid) {
    case undefined:
    case 'CONTAINER':
      return { mode: 'private' };
    case 'NODE':
      return { mode: 'host' };
    case 'POD': {
      const process = sandbox.infra?.process ?? null;
      if (process === null) throw new RuntimeError('InvalidArgument', 'namespace_options.pid is POD, but the pod sandbox was made without a shared PID namespace');
      return { mode: 'join', path: `/proc/${process.pid}/ns/pid` };
    }
    case 'TARGET': {
      const target = books.findContainer(options.targetId);
      if (target === undefined || target.sandboxId !== sandbox.id) throw new RuntimeError('InvalidArgument', `namespace_options.target_id ${quote(options.targetId)} is no container of this pod`);
      if (target.state.phase !== 'running') throw new RuntimeError('FailedPrecondition', `target container ${target.id} is ${target.state.phase}; its PID namespace can be joined only while it runs`);
      return { mode: 'join', path: `/proc/${target.state.process.pid}/ns/pid` };
    }
  }
}

interface FoundMount {
  readonly resolved: ResolvedMount;
  readonly volume?: ContainerRecord['imageVolumes'][number];
}

async function resolveMounts(op: Op, world: World, draft: ContainerRecord): Promise<readonly FoundMount[]> {
  const { mounts } = draft.config;
  if (mounts.length > limits.mountsCount) throw new RuntimeError('InvalidArgument', `${mounts.length} mounts; at most ${limits.mountsCount} are taken`);
  return await together(mounts.map((mount, index) => (mount.image === undefined || mount.image.image === '' ? bindMount(op, world, mount) : imageVolume(op, world, draft.id, mount, index))));
}

async function bindMount(op: Op, world: World, mount: Mount): Promise<FoundMount> {
  const reject = world.settings.absentMountSourcesToReject.includes(posix.normalize(mount.hostPath));
  op.stage(`stat mount source ${mount.hostPath}`);
  const source = await world.host.mountSource(op, mount.hostPath, reject);
  return { resolved: { source: source.realPath, kind: source.kind, propagation: source.propagation, image: false } };
}

async function imageVolume(op: Op, world: World, id: ContainerId, mount: Mount, index: number): Promise<FoundMount> {
  const wanted = mount.image?.image ?? '';
  const image = world.images.find(wanted);
  if (image === undefined) throw new RuntimeError('NotFound', `image ${quote(wanted)} for the volume at ${mount.containerPath} is not on this node; pull it first`, { reason: 'ImageVolumeMountFailed' });
  try {
    const source = await world.rootfs.mountImageVolume(op, id, index, image.layers.map((layer) => layer.chainId), mount.imageSubPath);
    const imageId: ImageId = image.id;
    return {
      resolved: { source, kind: 'directory', propagation: 'private', image: true },
      volume: { containerPath: mount.containerPath, imageId, imageRef: image.repoDigests[0] ?? image.id },
    };
  } catch (cause) {
    throw new RuntimeError('Internal', `mount image ${quote(wanted)} at ${mount.containerPath}`, { cause, reason: 'ImageVolumeMountFailed' });
  }
}

async function findDevices(op: Op, world: World, config: ContainerConfig): Promise<{ readonly devices: readonly ResolvedDevice[]; readonly hostDevices: readonly ResolvedDevice[] }> {
  const requests = [...world.settings.additionalDevices, ...config.devices];
  const found = await together(requests.map(async (request) => resolveDevices(request, await world.host.devices(op, request.hostPath))));
  const privileged = config.linux?.securityContext?.privileged === true;
  const hostDevices = privileged ? (await world.host.allDevices(op)).map((device) => ({ ...device, access: 'rwm' })) : [];
  return { devices: found.flat(), hostDevices };
}

/** Reads the profile that the config names by path; undefined if it names none. */
async function localhostSeccomp(op: Op, security: LinuxContainerSecurityContext | undefined): Promise<unknown> {
  const choice = seccompChoice(security);
  if (choice.kind !== 'localhost' || security?.privileged === true) return undefined;
  const path = choice.ref;
  if (!posix.isAbsolute(path)) throw new RuntimeError('InvalidArgument', `seccomp profile ${quote(path)} is not an absolute path`);
  op.stage(`read seccomp profile ${path}`);
  try {
    return await readJson(path, limits.configFileBytes);
  } catch (cause) {
    throw wrap(`seccomp profile ${quote(path)} cannot be used`, cause, 'InvalidArgument');
  }
}

function specRuntime(features: RuntimeFeatures): ContainerSpecInput['runtime'] {
  return {
    ociVersion: features.ociVersion,
    recursiveReadOnlyMounts: features.recursiveReadOnlyMounts,
    idmappedMounts: features.idmappedMounts,
    privilegedWithoutHostDevices: false,
  };
}

/**
 * What a container takes from outside its image, looked up before its spec is built: host paths, image volumes,
 * anonymous volumes, devices, profiles.
 */
import { posix } from 'node:path';
import type { LinuxContainerSecurityContext } from '../cri-api/types.ts';
import { explain, isCode, RuntimeError, wrap } from '../base/errors.ts';
import { readJson } from '../base/files.ts';
import { type ContainerId, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, type Op } from '../base/op.ts';
import { abortable, together } from '../base/sync.ts';
import type { RuntimeSpec } from '../oci/spec-types.ts';
import {
  cdiDevicesOf,
  cdiEdits,
  cdiLookups,
  containerPath,
  relabelRefusal,
  resolveDevices,
  seccompChoice,
} from '../spec/index.ts';
import { directoryMode, ownerOnHost } from './id-maps.ts';
import type { Image } from '../ports/image.ts';
import type { IdMap, ImageVolumeOptions, InsideRoot } from '../ports/rootfs.ts';
import type { CdiEdits } from '../ports/extensions.ts';
import type {
  AnnotationSettings,
  ContainerSpecInput,
  DeviceRequest,
  FoundDevice,
  ResolvedDevice,
  ResolvedMount,
  ResolvedUser,
} from '../ports/spec.ts';
import type { HostMount, ImageMount, NamedContainerConfig } from '../ports/requests.ts';
import type { ContainerRecord } from '../ports/state.ts';
import type { World } from './world.ts';

type Volumes = ContainerSpecInput['volumes'];

/**
 * Image volumes of the config, for the record: from the first record on these images must not be removed. @throws
 * NotFound with the kubelet's reason.
 */
export function imageVolumesOf(world: World, config: NamedContainerConfig): ContainerRecord['imageVolumes'] {
  const volumes = config.mounts.filter(isImageVolume).map((mount) => volumeImage(world, mount));
  const filesCount = volumes.reduce((sum, { artifact }) => sum + (artifact?.files.length ?? 0), 0);
  if (filesCount > limits.artifactFilesCount)
    throw new RuntimeError(
      'ResourceExhausted',
      `the artifacts have ${filesCount} files together, of which each is a mount; at most ` +
        `${limits.artifactFilesCount} are mounted into one container`,
      { reason: 'ImageVolumeMountFailed' },
    );
  return config.mounts.filter(isImageVolume).map((mount) => {
    const image = volumeImage(world, mount);
    const { ref } = world.images.called(image.id, mount.image.userSpecifiedImage || mount.image.image);
    return { containerPath: mount.containerPath, imageId: image.id, imageRef: ref };
  });
}

/**
 * Asks the image store whether this pod's namespace may use the container's image, and the images of its volumes, under
 * the names that the pod gives them.
 * @throws with reason SignatureValidationFailed if a policy of the namespace says no.
 */
export async function checkImageUse(op: Op, world: World, draft: ContainerRecord, namespace: string): Promise<void> {
  const volumes = draft.config.mounts
    .filter(isImageVolume)
    .map((mount) => ({ id: volumeImage(world, mount).id, name: mount.image.userSpecifiedImage }));
  const uses = [{ id: draft.imageId, name: draft.config.image.userSpecifiedImage }, ...volumes];
  await together(uses.map(({ id, name }) => world.images.checkUse(op, id, { name, namespace })));
}

/**
 * @throws FailedPrecondition if the AppArmor profile of a spec is not there: a runtime says of that only that some file
 * of /proc cannot be written.
 */ export async function requireProfile(op: Op, { profiles }: World, { process }: RuntimeSpec): Promise<void> {
  if (process.apparmorProfile !== undefined) await profiles.require(op, process.apparmorProfile);
}

/** config.mounts with what is behind each, in the same order. `label` is for those that ask for one; '' = none. */
export async function resolveMounts(
  op: Op,
  world: World,
  draft: ContainerRecord,
  {
    idMap,
    label,
    relabel,
  }: { readonly idMap: IdMap | null; readonly label: string; readonly relabel: AnnotationSettings['relabel'] },
): Promise<readonly ResolvedMount[]> {
  const { mounts } = draft.config;
  if (mounts.length > limits.mountsCount)
    throw new RuntimeError('InvalidArgument', `${mounts.length} mounts; at most ${limits.mountsCount} are taken`);
  return await together(
    mounts.map((mount, index) =>
      isImageVolume(mount)
        ? imageVolume(op, world, draft.id, { mount, index, idMap, label })
        : bindMount(op, world, mount, { label, relabel }),
    ),
  );
}

function isImageVolume(mount: HostMount | ImageMount): mount is ImageMount {
  return mount.image !== undefined;
}

async function bindMount(
  op: Op,
  world: World,
  mount: HostMount,
  { label, relabel }: { readonly label: string; readonly relabel: AnnotationSettings['relabel'] },
): Promise<ResolvedMount> {
  const isNeeded = world.settings.absentMountSourcesToReject.includes(posix.normalize(mount.hostPath));
  op.stage(`stat mount source ${mount.hostPath}`);
  const source = await world.host.mountSource(
    op,
    `${world.settings.bindMountPrefix}${mount.hostPath}`,
    isNeeded ? 'refuse' : 'make',
  );
  // Whether SELinux is on or not: a pod that works on one node must not break the next.
  const refusal = mount.selinuxRelabel ? relabelRefusal(source.realPath) : undefined;
  if (refusal !== undefined)
    throw new RuntimeError('InvalidArgument', `mount at ${quote(mount.containerPath)}: ${refusal}`);
  if (mount.selinuxRelabel && label !== '') {
    // Of a large volume, whose top alone tells whether it has been labelled before.
    const isLabelled = relabel === 'unless labelled' && (await world.host.labelOf(op, source.realPath)) === label;
    if (!isLabelled) await world.host.relabel(op, [source.realPath], label);
  }
  return { source: source.realPath, kind: source.kind, propagation: source.propagation, image: false };
}

function volumeImage(world: World, mount: ImageMount): Image {
  const wanted = mount.image.image;
  const image = world.images.find(wanted);
  if (image?.artifact !== undefined && !world.settings.artifactVolumes)
    throw new RuntimeError(
      'FailedPrecondition',
      `${quote(wanted)} for the volume at ${mount.containerPath} is an OCI artifact, and oci_artifact_mount_support ` +
        'is off on this node',
      { reason: 'ImageVolumeMountFailed' },
    );
  if (image !== undefined) return image;
  throw new RuntimeError(
    'NotFound',
    `image ${quote(wanted)} for the volume at ${mount.containerPath} is not on this node; pull it first`,
    { reason: 'ImageVolumeMountFailed' },
  );
}

async function imageVolume(
  op: Op,
  world: World,
  id: ContainerId,
  volume: Pick<ImageVolumeOptions, 'idMap' | 'label'> & { readonly mount: ImageMount; readonly index: number },
): Promise<ResolvedMount> {
  const { mount, index, idMap, label } = volume;
  const image = volumeImage(world, mount);
  const layers = image.layers.map((layer) => layer.chainId);
  try {
    const options = { subPath: mount.imageSubPath, idMap, label };
    const { source, files } =
      image.artifact === undefined
        ? { source: await world.rootfs.mountImageVolume(op, id, index, layers, options), files: [] }
        : await world.rootfs.mountFiles(op, id, index, image.artifact.files, options);
    return { source, kind: 'directory', propagation: 'private', image: true, files };
  } catch (cause) {
    const gone = await world.images.confirm(op, image.id).then(
      () => undefined,
      (error: unknown) => error,
    );
    throw wrapVolume(mount, gone ?? cause);
  }
}

function wrapVolume(mount: ImageMount, cause: unknown): RuntimeError {
  const wrapped = wrap(`mount image ${quote(mount.image.image)} at ${mount.containerPath}`, cause);
  return new RuntimeError(wrapped.code, wrapped.message, { cause, reason: 'ImageVolumeMountFailed' });
}

/**
 * Mounts of `default_mounts_file`, read-only. One whose source is absent on this node is left out: the list is often
 * the distribution's. A directory with links, as RHEL's, is mounted as a copy with what they lead to on the host, since
 * inside they lead elsewhere. `label` is for the copy; '' = none.
 */
export async function defaultMounts(
  op: Op,
  world: World,
  draft: ContainerRecord,
  { idMap, label }: { readonly idMap: IdMap | null; readonly label: string },
): Promise<Volumes> {
  const found = await together(
    world.settings.defaultMounts.map(async ({ source, containerPath: at }, index) => {
      try {
        const { realPath, kind } = await world.host.mountSource(op, source, 'refuse');
        const copy =
          kind === 'directory' ? await withoutLinks(op, world, draft.id, { realPath, index, idMap }) : undefined;
        if (copy !== undefined && label !== '') await world.host.relabel(op, [copy], label);
        return [{ source: copy ?? realPath, containerPath: at, access: 'ro' as const }];
      } catch (cause) {
        if (!isCode(cause, 'NotFound')) throw cause;
        op.log.debug('a default mount is not on this node, ignoring', { path: source });
        return [];
      }
    }),
  );
  return found.flat();
}

/** The path of a copy; undefined for a directory that is mounted as it is. */
async function withoutLinks(
  op: Op,
  { workspace }: World,
  id: ContainerId,
  { realPath, index, idMap }: { readonly realPath: string; readonly index: number; readonly idMap: IdMap | null },
): Promise<string | undefined> {
  try {
    await workspace.ensureBundle(id, directoryMode(idMap));
    const owner = ownerOnHost(idMap, { uid: 0, gid: 0 });
    return await workspace.copyWithoutLinks(id, `default-mount-${index}`, realPath, owner);
  } catch (cause) {
    if (!isCode(cause, 'ResourceExhausted')) throw cause;
    op.log.warn('a default mount is too large to be copied, its links will lead elsewhere', { cause: explain(cause) });
    return undefined;
  }
}

/**
 * The image's VOLUMEs: directories in the root, or with `bind` directories of the container's own with what the image
 * has at these places; `ignore` does nothing. A mount of the config at the same place wins. Paths are the image's: they
 * are cleaned, and resolved inside the root (CVE-2022-23648).
 */
export async function anonymousVolumes(
  op: Op,
  world: World,
  draft: ContainerRecord,
  image: Image,
  at: {
    readonly inside: InsideRoot;
    readonly idMap: IdMap | null;
    readonly user: ResolvedUser;
    readonly label: string;
  },
): Promise<Volumes> {
  const { imageVolumes } = world.settings;
  if (imageVolumes === 'ignore') return [];
  const taken = new Set(draft.config.mounts.map((mount) => containerPath(mount.containerPath)));
  const places = [...new Set(image.config.volumes.map((volume) => posix.resolve('/', volume)))].filter(
    (place) => place !== '/' && !taken.has(place),
  );
  const volumes: { source: string; containerPath: string; access: 'rw' }[] = [];
  for (const [index, place] of places.entries()) {
    op.stage(`volume ${place}`);
    // What is only made, nobody but the container's user would fill (CRI-O has it so).
    const owner = imageVolumes === 'mkdir' ? at.user : { uid: 0, gid: 0 };
    await at.inside.ensureDir(place, ownerOnHost(at.idMap, owner), 0o755).catch((cause: unknown) => {
      const remedy = 'mount something there, use an image without it, or set image_volumes to "ignore"';
      throw wrap(`${quote(place)} cannot be the VOLUME that the image makes of it; ${remedy}`, cause);
    });
    if (imageVolumes === 'mkdir') continue;
    const source = await world.rootfs.makeVolume(op, draft.id, index);
    await at.inside.copyOut(place, source);
    if (at.label !== '') await world.host.relabel(op, [source], at.label);
    volumes.push({ source, containerPath: place, access: 'rw' });
  }
  return volumes;
}

/**
 * Devices of the configuration, the config and an allowed annotation; for a privileged container with the host's
 * devices also all of those. @throws InvalidArgument for what is no device, and for too many of them.
 */
export async function findDevices(
  op: Op,
  world: World,
  config: NamedContainerConfig,
  wanted: { readonly annotated: readonly DeviceRequest[]; readonly host: 'all' | 'none' },
): Promise<{ readonly devices: readonly ResolvedDevice[]; readonly hostDevices: readonly ResolvedDevice[] }> {
  const requests = [...world.settings.additionalDevices, ...wanted.annotated, ...config.devices];
  const looks = new Map<string, Promise<readonly FoundDevice[]>>();
  const lookAt = (path: string): Promise<readonly FoundDevice[]> => {
    const look = looks.get(path) ?? world.host.devices(op, path);
    looks.set(path, look);
    return look;
  };
  let count = 0;
  const found = await together(
    requests.map(async (request) => {
      const nodes = await lookAt(request.hostPath);
      count += nodes.length;
      if (count > limits.containerDevicesCount)
        throw new RuntimeError(
          'InvalidArgument',
          `its devices are more than ${limits.containerDevicesCount} nodes together; ask for those that are needed ` +
            'instead of whole directories',
        );
      return resolveDevices(request, nodes);
    }),
  );
  const hostDevices =
    wanted.host === 'all' ? (await world.host.allDevices(op)).map((device) => ({ ...device, access: 'rwm' })) : [];
  return { devices: found.flat(), hostDevices };
}

/** What CDI devices do to a container, and the host's devices that they leave open; undefined if none is asked for. */
export interface FoundCdi {
  readonly edits: CdiEdits;
  readonly found: ReadonlyMap<string, FoundDevice>;
}

/** The CDI devices that a container asks for; undefined if it asks for none. @throws naming each that cannot be had. */
export async function findCdi(op: Op, world: World, config: NamedContainerConfig): Promise<FoundCdi | undefined> {
  const names = cdiDevicesOf(config);
  if (names.length === 0) return undefined;
  const edits = cdiEdits(await world.extensions.cdi(op), names);
  const found = new Map<string, FoundDevice>();
  for (const path of cdiLookups(edits)) {
    const [device] = await world.host.devices(op, path);
    if (device !== undefined) found.set(path, device);
  }
  return { edits, found };
}

/** Reads the profile that a security context names by path; undefined if it names none. */
export async function localhostSeccomp(
  op: Op,
  security: Parameters<typeof seccompChoice>[0] | LinuxContainerSecurityContext,
): Promise<unknown> {
  const choice = seccompChoice(security);
  if (choice.kind !== 'localhost' || security?.privileged === true) return undefined;
  const stage = `read seccomp profile ${choice.ref}`;
  op.stage(stage);
  try {
    const read = readJson(choice.ref, limits.configFileBytes);
    return await abortable(read, op.signal, () => abortError(op, stage));
  } catch (cause) {
    throw wrap(`seccomp profile ${quote(choice.ref)} cannot be used`, cause, 'InvalidArgument');
  }
}

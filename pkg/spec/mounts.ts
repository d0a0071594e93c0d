/**
 * The mounts of a container: what every container has, what CRI asks for, in an order in which each finds its parent.
 * PURE.
 */
import { posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { IDMapping, Mount } from '../cri-api/types.ts';
import type { RuntimeIdMapping, RuntimeMount, RuntimeSpec } from '../oci/spec-types.ts';
import { ENV_EXEC_PATH } from './process.ts';
import type { Privilege } from './security.ts';
import type { ContainerSpecInput, ResolvedMount } from '../ports/spec.ts';

/** Options that a mount may ask for beyond its other fields (CRI: Mount.mount_options). */
const EXTRA_OPTIONS = new Set(['noexec', 'nodev', 'nosuid']);

/** The mounts, and what they ask of the root. */
export interface MountPlan {
  readonly mounts: RuntimeMount[];
  /** Propagation of the root, when a mount needs more than the runtime's private default. */
  readonly rootfsPropagation: 'rslave' | 'rshared' | undefined;
}

type Input = Pick<
  ContainerSpecInput,
  | 'config'
  | 'mounts'
  | 'volumes'
  | 'files'
  | 'defaults'
  | 'runtime'
  | 'namespaces'
  | 'pid'
  | 'idMap'
  | 'cgroupAccess'
  | 'envExec'
>;

/**
 * All mounts, parents first. A CRI mount replaces the default at the same place, and at /proc, /dev or /sys also the
 * defaults below it.
 * @throws InvalidArgument for combinations that CRI forbids; Unimplemented (reason RROUnsupported) and
 * FailedPrecondition for what the runtime cannot do.
 */
export function mountPlan(
  input: Input,
  privilege: Privilege,
  options: { readonly readOnlyRoot: 'ro' | 'rw'; readonly needsEnvExec: 'yes' | 'no' },
): MountPlan {
  const asked = withFiles(
    input,
    input.config.mounts.map((mount, index) => bindMount(mount, input.mounts[index], input.runtime)),
  );
  const taken = new Set(asked.map((mount) => mount.destination));
  const kept = (mount: RuntimeMount): boolean =>
    !taken.has(mount.destination) &&
    !SUBTREES.some((root) => taken.has(root) && mount.destination.startsWith(`${root}/`));
  const defaults = [...kernelMounts(input, privilege), ...scratchMounts(input)].filter(kept);
  const files = fileMounts(input, options.readOnlyRoot, taken.has('/etc') ? 'another' : 'the image').filter(kept);
  const volumes = input.volumes
    .map((volume) => ({
      destination: containerPath(volume.containerPath),
      type: 'bind',
      source: volume.source,
      options: volume.access === 'ro' ? readOnlyBind(input.runtime) : ['rbind', 'rprivate', volume.access],
    }))
    .filter((mount) => !taken.has(mount.destination));
  const helper = options.needsEnvExec === 'yes' ? [envExecMount(input.envExec, taken)] : [];
  return {
    mounts: byDepth([...defaults, ...files, ...helper, ...volumes, ...asked]),
    rootfsPropagation: rootPropagation(input.config.mounts),
  };
}

/**
 * Of what is the node's and nobody asked for in this container: what is mounted below it is read-only, too, or is not
 * there.
 */
function readOnlyBind(runtime: Input['runtime']): string[] {
  return runtime.recursiveReadOnlyMounts ? ['rbind', 'rprivate', 'rro'] : ['bind', 'rprivate', 'ro'];
}

/** Places whose default mounts are a family: whoever mounts over one means the whole. */
const SUBTREES = ['/proc', '/dev', '/sys'];

/** Stable: among mounts of one depth the given order holds. */
function byDepth(mounts: readonly RuntimeMount[]): RuntimeMount[] {
  const depth = (mount: RuntimeMount): number => mount.destination.split('/').length;
  return [...mounts].sort((a, b) => depth(a) - depth(b));
}

// Places in the image

/**
 * Where a runtime will make what is not there: the targets of mounts and of devices. What the kernel provides is left
 * out, since nothing of the image shows there.
 */
export function targetsOf({ mounts, linux }: RuntimeSpec): string[] {
  const targets = [...mounts.map(({ destination }) => destination), ...(linux.devices ?? []).map(({ path }) => path)];
  return [...new Set(targets.filter((path) => !SUBTREES.some((root) => path === root || path.startsWith(`${root}/`))))];
}

/**
 * The spec with targets moved, the rest as it is: where links of the image lead nowhere yet, runc makes what is
 * missing, and crun fails; every runtime makes a path without links.
 * @throws FailedPrecondition for one that leads where the kernel lets nobody make anything.
 */
export function withTargets(spec: RuntimeSpec, moved: ReadonlyMap<string, string>): RuntimeSpec {
  if (moved.size === 0) return spec;
  for (const [from, to] of moved) {
    if (/^\/(proc|sys)(\/|$)/.test(to))
      throw new RuntimeError(
        'FailedPrecondition',
        `${quote(from)} in the image leads by symlinks to ${quote(to)}, where nothing can be mounted; use an image ` +
          'without that link',
      );
  }
  const { devices } = spec.linux;
  const mounts = spec.mounts.map((mount) => ({
    ...mount,
    destination: moved.get(mount.destination) ?? mount.destination,
  }));
  return {
    ...spec,
    mounts: byDepth(mounts),
    linux: {
      ...spec.linux,
      ...(devices && {
        devices: devices.map((device) => ({ ...device, path: moved.get(device.path) ?? device.path })),
      }),
    },
  };
}

// Defaults

function kernelMounts(input: Input, privilege: Privilege): RuntimeMount[] {
  const access = privilege === 'privileged' ? 'rw' : 'ro';
  const cgroupAccess = privilege === 'privileged' ? 'rw' : input.cgroupAccess;
  return [
    proc(input),
    {
      destination: '/dev',
      type: 'tmpfs',
      source: 'tmpfs',
      options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
    },
    {
      destination: '/dev/pts',
      type: 'devpts',
      source: 'devpts',
      options: ['nosuid', 'noexec', 'newinstance', 'ptmxmode=0666', 'mode=0620', ...ttyGroup(input)],
    },
    mqueue(input),
    sysfs(input, access),
    {
      destination: '/sys/fs/cgroup',
      type: 'cgroup',
      source: 'cgroup',
      options: ['nosuid', 'noexec', 'nodev', 'relatime', cgroupAccess],
    },
    ...(input.files.shm === ''
      ? []
      : [
          {
            destination: '/dev/shm',
            type: 'bind',
            source: input.files.shm,
            options: ['rbind', 'rprivate', 'rw', 'nosuid', 'nodev', 'noexec'],
          },
        ]),
  ];
}

/** A user namespace may mount proc only for a PID namespace that it owns; the host's is bound instead. */
function proc(input: Input): RuntimeMount {
  if (input.idMap !== null && input.pid.mode === 'host')
    return bound('/proc', ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev']);
  return { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] };
}

/** The same rule for sysfs and the network namespace, and for mqueue and the IPC namespace. */
function sysfs(input: Input, access: 'ro' | 'rw'): RuntimeMount {
  if (input.idMap !== null && !input.namespaces.has('net')) {
    const readOnly = access === 'ro' ? [input.runtime.recursiveReadOnlyMounts ? 'rro' : 'ro'] : [];
    return bound('/sys', ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev', ...readOnly]);
  }
  return { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', access] };
}

function mqueue(input: Input): RuntimeMount {
  if (input.idMap !== null && !input.namespaces.has('ipc'))
    return bound('/dev/mqueue', ['rbind', 'rprivate', 'nosuid', 'noexec', 'nodev']);
  return { destination: '/dev/mqueue', type: 'mqueue', source: 'mqueue', options: ['nosuid', 'noexec', 'nodev'] };
}

function bound(path: string, options: readonly string[]): RuntimeMount {
  return { destination: path, type: 'bind', source: path, options: [...options] };
}

/** Terminals belong to group 5 (tty) as everywhere, unless the user namespace has no such group. */
function ttyGroup(input: Input): readonly string[] {
  return input.idMap === null ||
    input.idMap.gids.some((each) => each.containerId <= 5 && each.containerId + each.size > 5)
    ? ['gid=5']
    : [];
}

/** With `read_only` in the configuration every root is read-only; programs keep the places that are for scratch. */
function scratchMounts(input: Input): RuntimeMount[] {
  if (!input.defaults.readOnly) return [];
  return [
    ['/run', 'mode=0755'],
    ['/tmp', 'mode=1777'],
    ['/var/tmp', 'mode=1777'],
  ].map(([destination = '', mode = '']) => ({
    destination,
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['rw', 'noexec', 'nosuid', 'nodev', 'tmpcopyup', mode],
  }));
}

/** `etcOf`: whose /etc the container sees. The accounts of the image say nothing about those of another. */
function fileMounts(input: Input, readOnlyRoot: 'ro' | 'rw', etcOf: 'the image' | 'another'): RuntimeMount[] {
  const { files } = input;
  const mounts: RuntimeMount[] = [];
  const add = (destination: string, source: string, access: 'ro' | 'rw'): void => {
    if (source !== '')
      mounts.push({
        destination,
        type: 'bind',
        source,
        options: ['rbind', 'rprivate', access, 'nosuid', 'nodev', 'noexec'],
      });
  };
  add('/etc/resolv.conf', files.resolvConf, readOnlyRoot);
  add('/etc/hostname', files.hostname, readOnlyRoot);
  add('/etc/hosts', files.hosts, readOnlyRoot);
  if (etcOf === 'the image') {
    add('/etc/passwd', files.passwd, readOnlyRoot);
    add('/etc/group', files.group, readOnlyRoot);
  }
  add('/etc/localtime', files.localtime, 'ro');
  add('/run/.containerenv', files.containerenv, 'ro');
  add('/proc/sys/crypto/fips_enabled', files.fips, 'ro');
  return mounts;
}

function envExecMount(helper: string, taken: ReadonlySet<string>): RuntimeMount {
  if (taken.has('/dev'))
    throw invalid(
      "an environment value that is not UTF-8 needs the container's own /dev, but a mount replaces " +
        'it; encode the value',
    );
  return {
    destination: ENV_EXEC_PATH,
    type: 'bind',
    source: helper,
    options: ['bind', 'rprivate', 'ro', 'nosuid', 'nodev'],
  };
}

// CRI mounts

/**
 * Where a mount goes, as an absolute path without `.` and `..`; relative ones count from `/`. Symlinks of the image are
 * the runtime's to resolve, inside the root.
 * @throws InvalidArgument for an empty path and for the root itself.
 */
export function containerPath(path: string): string {
  if (path === '') throw invalid('mount: container_path is empty');
  if (path.includes('\0') || path.length > 4096)
    throw invalid(`mount: container_path ${quote(path)} holds a NUL byte or is longer than 4096 characters`);
  const clean = posix.resolve('/', path);
  if (clean === '/')
    throw invalid(`mount: container_path ${quote(path)} is the root itself, which cannot be mounted over`);
  return clean;
}

/**
 * @throws InvalidArgument unless the path of an image volume's part is relative and stays below the image (KEP-4639).
 */
export function checkImageSubPath(subPath: string): void {
  if (subPath.startsWith('/') || subPath.includes('\0') || subPath.split('/').includes('..')) {
    throw invalid(`mount: image_sub_path ${quote(subPath)} must be relative and without ..`);
  }
}

function bindMount(mount: Mount, source: ResolvedMount | undefined, runtime: Input['runtime']): RuntimeMount {
  const destination = containerPath(mount.containerPath);
  if (source === undefined)
    throw new RuntimeError('Internal', `mount at ${quote(destination)} was not looked up before the spec was built`);
  checkExtraOptions(mount, destination);
  const common = { destination, type: 'bind', source: source.source };
  if (mount.image !== undefined && mount.image.image !== '') {
    checkImageVolume(mount, destination);
    // Overlay mounts cannot be idmapped as a whole: with a user namespace the layers below are.
    return {
      ...common,
      options: unique(['rbind', 'rprivate', 'ro', 'nosuid', 'nodev', ...mount.mountOptions]),
    };
  }
  return {
    ...common,
    ...idMappings(mount, destination, runtime),
    options: unique([
      'rbind',
      propagation(mount, source, destination),
      ...access(mount, destination, runtime),
      ...mount.mountOptions,
    ]),
  };
}

/**
 * The mounts of the config, and over the files in volumes of artifacts what is to be there; but not where the config
 * has a mount of its own inside of such a volume.
 */
function withFiles({ mounts }: Input, asked: readonly RuntimeMount[]): readonly RuntimeMount[] {
  const places = new Set(asked.map(({ destination }) => destination));
  return asked.flatMap((volume, index) => {
    const inside = (path: string): boolean => {
      for (let at = path; at.length > volume.destination.length; at = posix.dirname(at))
        if (places.has(at)) return false;
      return true;
    };
    const files = (mounts[index]?.files ?? [])
      .map(({ place, source }) => ({ destination: `${volume.destination}/${place}`, source }))
      .filter(({ destination }) => inside(destination));
    return [
      volume,
      ...files.map((file) => ({
        ...file,
        type: 'bind',
        options: ['bind', 'rprivate', 'ro', 'nosuid', 'nodev', 'noexec'],
      })),
    ];
  });
}

function checkImageVolume(mount: Mount, destination: string): void {
  if (mount.hostPath !== '')
    throw invalid(`mount at ${quote(destination)}: host_path must be empty for an image volume`);
  if (!mount.readonly)
    throw invalid(`mount at ${quote(destination)}: an image volume must be read-only (set readonly)`);
  checkImageSubPath(mount.imageSubPath);
}

function checkExtraOptions(mount: Mount, destination: string): void {
  for (const option of mount.mountOptions) {
    if (!EXTRA_OPTIONS.has(option))
      throw invalid(
        `mount at ${quote(destination)}: mount option ${quote(option)} is not supported; want ` +
          `${[...EXTRA_OPTIONS].join(', ')}`,
      );
  }
}

function propagation(mount: Mount, source: ResolvedMount, destination: string): string {
  switch (mount.propagation) {
    case 'PROPAGATION_PRIVATE':
      return 'rprivate';
    case 'PROPAGATION_HOST_TO_CONTAINER':
      if (source.propagation !== 'private') return 'rslave';
      throw propagationRefused(mount, destination, 'shared or slave');
    case 'PROPAGATION_BIDIRECTIONAL':
      if (source.propagation === 'shared') return 'rshared';
      throw propagationRefused(mount, destination, 'shared');
    default:
      throw invalid(`mount at ${quote(destination)}: unknown propagation ${quote(String(mount.propagation))}`);
  }
}

function propagationRefused(mount: Mount, destination: string, wanted: string): RuntimeError {
  return new RuntimeError(
    'FailedPrecondition',
    `mount at ${quote(destination)}: ${quote(mount.hostPath)} is on a mount that is not ` +
      `${wanted}, as ${mount.propagation} needs; run "mount --make-rshared" on its mount point`,
  );
}

/** `ro` is for the mount itself only, as CRI says; `rro` for everything below, too (KEP-3857). */
function access(mount: Mount, destination: string, runtime: Input['runtime']): readonly string[] {
  if (!mount.recursiveReadOnly) return [mount.readonly ? 'ro' : 'rw'];
  if (!mount.readonly) throw invalid(`mount at ${quote(destination)}: recursive_read_only needs readonly`);
  if (mount.propagation !== 'PROPAGATION_PRIVATE')
    throw invalid(`mount at ${quote(destination)}: recursive_read_only needs PROPAGATION_PRIVATE`);
  if (!runtime.recursiveReadOnlyMounts) {
    throw new RuntimeError(
      'Unimplemented',
      `mount at ${quote(destination)}: the OCI runtime or kernel has no recursive read-only ` +
        'mounts; use another runtime handler',
      { reason: 'RROUnsupported' },
    );
  }
  return ['rro'];
}

function idMappings(
  mount: Mount,
  destination: string,
  runtime: Input['runtime'],
): { uidMappings?: RuntimeIdMapping[]; gidMappings?: RuntimeIdMapping[] } {
  if (mount.uidMappings.length === 0 && mount.gidMappings.length === 0) return {};
  if (mount.uidMappings.length === 0 || mount.gidMappings.length === 0)
    throw invalid(`mount at ${quote(destination)}: uid and gid mappings must be given together`);
  if (!runtime.idmappedMounts) {
    throw new RuntimeError(
      'FailedPrecondition',
      `mount at ${quote(destination)}: the OCI runtime has no idmapped mounts, which a pod with a ` +
        'user namespace needs for its volumes; use runc 1.2 or crun 1.9',
    );
  }
  const convert = (mappings: readonly IDMapping[]): RuntimeIdMapping[] =>
    mappings.map(({ containerId, hostId, length }) => ({ containerID: containerId, hostID: hostId, size: length }));
  return { uidMappings: convert(mount.uidMappings), gidMappings: convert(mount.gidMappings) };
}

/** A mount can only pass on what its parent passes on: the root must be at least as open as the most open mount. */
function rootPropagation(mounts: readonly Mount[]): MountPlan['rootfsPropagation'] {
  if (mounts.some((mount) => mount.propagation === 'PROPAGATION_BIDIRECTIONAL')) return 'rshared';
  return mounts.some((mount) => mount.propagation === 'PROPAGATION_HOST_TO_CONTAINER') ? 'rslave' : undefined;
}

function unique(options: readonly string[]): string[] {
  return [...new Set(options)];
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}

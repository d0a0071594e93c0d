/**
 * CRI config + image config + facts about the node → OCI runtime spec. PURE: no clock, no disk, no kernel;
 * what must be looked up is passed in as facts. Golden-tested (golden/*.json: a request, and the spec it becomes).
 *
 *   resolveUser, workingDirOf, seccompChoice, resolveDevices, podSysctls …   say what to look up, and check it
 *   buildContainerSpec, buildPauseSpec                                       put it together
 *   stringifySpec                                                            the bytes of config.json
 */
import { RuntimeError } from '../base/errors.ts';
import { stringifyExact } from '../base/json.ts';
import { limits } from '../base/limits.ts';
import type { ContainerConfig, PodSandboxConfig } from '../cri-api/types.ts';
import type { ImageConfig, RuntimeSpec } from '../oci/spec-types.ts';
import type { IdMap } from '../rootfs/index.ts';
import { mountPlan } from './mounts.ts';
import { argsWith, capabilitySets, commandOf, environmentOf, rlimitsOf, workingDirOf } from './process.ts';
import { deviceParts, newResources, NO_RESOURCES, oomScoreAdjOf, pidsOf, toLinuxResources } from './resources.ts';
import {
  apparmorOf,
  checkMapped,
  hiddenPaths,
  mappingsOf,
  namespacesOf,
  type Privilege,
  privilegeOf,
  seccompOf,
} from './security.ts';
import { resolveUser } from './user.ts';

export { apparmorProfileText } from './apparmor.ts';
export { type AnnotationSettings, annotationSettings, passedAnnotations } from './annotations.ts';
export { applyCdi, type CdiEdits, type CdiRegistry, cdiDevicesOf, cdiEdits, cdiLookups, loadCdi } from './cdi.ts';
export { addHooks, type HookDefinition, type HookSubject, loadHooks, matchHooks } from './hooks.ts';
export { checkImageSubPath, containerPath } from './mounts.ts';
export type { ConfigFile, DamagedFile } from './parse.ts';
export {
  CAPABILITIES,
  checkWorkingDir,
  commandOf,
  effectiveStopSignal,
  ENV_EXEC_PATH,
  execProcess,
  homeOf,
  type StopSignal,
  workingDirOf,
} from './process.ts';
export {
  cgroupsPathFor,
  checkDeviceRequest,
  checkedParent,
  type DeviceRequest,
  type FoundDevice,
  mergeResources,
  NO_RESOURCES,
  oomScoreAdjOf,
  parseDevice,
  resolveDevices,
  sharesToWeight,
  toLinuxResources,
  weightToShares,
} from './resources.ts';
export { DEFAULT_PROFILE, parseSeccompProfile } from './seccomp.ts';
export {
  apparmorChoice,
  checkMapped,
  podSysctls,
  type ProfileChoice,
  privilegeOf,
  relabelRefusal,
  seccompChoice,
  selinuxLabels,
  type SysctlScope,
  validateSysctls,
} from './security.ts';
export { passwdWithEntry, resolveUser, type UserRequest } from './user.ts';
export { type Workload, workloadOf, workloadResources } from './workloads.ts';

/** What the node and the daemon's own privileges allow, found once at start. */
export interface NodeFacts {
  readonly cgroupMode: 'v1' | 'hybrid' | 'v2';
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  /** Controllers that exist (`memory`, `pids`, `hugetlb`, …). */
  readonly controllers: ReadonlySet<string>;
  readonly swapLimit: boolean;
  /** Names (`CAP_CHOWN`) that the daemon may give: its bounding set within cap_last_cap. */
  readonly capabilities: ReadonlySet<string>;
  /** Smallest oom_score_adj that the daemon may set (its own without CAP_SYS_RESOURCE, else -1000). */
  readonly oomScoreAdjMin: number;
  /** Hard limits that the daemon cannot raise above, by RLIMIT name; empty with CAP_SYS_RESOURCE. */
  readonly rlimitMax: ReadonlyMap<string, bigint>;
  readonly apparmor: boolean;
  readonly selinux: boolean;
  readonly seccomp: boolean;
  /** `x86_64`, `aarch64`, … as uname says. */
  readonly machine: string;
  /** Kernel release, `6.18.0`. */
  readonly kernel: string;
  /** hugepage sizes of the node, `2MB`. */
  readonly hugepageSizes: readonly string[];
  /**
   * Host paths to mask beside the fixed list (the thermal_throttle directory of each CPU: a side channel); absent =
   * none.
   */
  readonly maskedPaths?: readonly string[];
}

/** Defaults from the configuration. */
export interface SpecDefaults {
  readonly capabilities: readonly string[];
  readonly addInheritableCapabilities: boolean;
  readonly env: readonly string[];
  readonly sysctls: ReadonlyMap<string, string>;
  readonly ulimits: readonly { readonly name: string; readonly soft: bigint; readonly hard: bigint }[];
  /** Parsed seccomp profile for RuntimeDefault; undefined = built in. */
  readonly seccompProfile: unknown;
  readonly privilegedSeccompProfile: unknown;
  readonly apparmorProfile: string;
  readonly readOnly: boolean;
  /** pids.max of a container; 0 or less = no limit. */
  readonly pidsLimit: bigint;
  readonly minMemoryBytes: bigint;
  /** Whom the device nodes of config.devices belong to (`device_ownership_from_security_context`). */
  readonly deviceOwner: 'host' | 'containerUser';
}

/** What a container's spec is made of. Everything looked up on the host or in the rootfs is already here. */
export interface ContainerSpecInput {
  readonly id: string;
  readonly pod: PodSandboxConfig;
  readonly config: ContainerConfig;
  readonly image: ImageConfig;
  /** Root path for `root.path`. */
  readonly root: string;
  readonly facts: NodeFacts;
  readonly defaults: SpecDefaults;
  readonly runtime: SpecRuntime;
  /** Path per namespace kind that the sandbox pins; kinds not in it are the host's. */
  readonly namespaces: ReadonlyMap<'net' | 'ipc' | 'uts' | 'user', string>;
  readonly pid:
    | { readonly mode: 'private' }
    | { readonly mode: 'host' }
    | { readonly mode: 'join'; readonly path: string };
  /** `cgroupsPath` as the cgroup manager wants it. */
  readonly cgroupsPath: string;
  readonly user: ResolvedUser;
  readonly files: PodFiles;
  /** config.mounts looked up, same order; image volumes have the path where the image is mounted as source. */
  readonly mounts: readonly ResolvedMount[];
  /**
   * Image VOLUMEs as anonymous bind mounts (image_volumes = bind), and default_mounts_file; a CRI mount at the same
   * place wins.
   */
  readonly volumes: readonly {
    readonly source: string;
    readonly containerPath: string;
    readonly access: 'ro' | 'rw';
  }[];
  /** config.devices, additional_devices and the devices annotation looked up (`resolveDevices`). */
  readonly devices: readonly ResolvedDevice[];
  /** All host devices, only for privileged containers that get them. */
  readonly hostDevices: readonly ResolvedDevice[];
  readonly idMap: IdMap | null;
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string };
  /** A localhost seccomp profile, read and parsed; undefined unless the config names one. */
  readonly localhostSeccomp: unknown;
  /** Value of HOSTNAME: the pod's name in its UTS namespace, the node's with host network. */
  readonly hostname: string;
  /** What goes into the spec's annotations: only what `passedAnnotations` let through (CVE-2024-3154). */
  readonly annotations: ReadonlyMap<string, string>;
  /**
   * `rw` for the annotation cgroup2-mount-hierarchy-rw and a handler's cgroup_writable; privileged containers have it
   * anyway.
   */
  readonly cgroupAccess: 'ro' | 'rw';
  /** umask of the first process; undefined = the runtime's 0022. */
  readonly umask: number | undefined;
  /**
   * Host path of the static helper that sets environment variables which JSON cannot hold (bytes that are not UTF-8)
   * and then execs; '' = none, and such a container is refused. Used only for containers that have such a value.
   */
  readonly envExec: string;
}

/** Host paths of the files that every container of a pod gets; '' = none. */
export interface PodFiles {
  readonly resolvConf: string;
  readonly hostname: string;
  /** Only without a CRI mount at /etc/hosts: the kubelet brings its own. */
  readonly hosts: string;
  /** The pod's tmpfs, or the host's /dev/shm with host IPC. */
  readonly shm: string;
  /** The image's passwd with a line added (`passwdWithEntry`). */
  readonly passwd: string;
  /** /run/.containerenv, an empty file: how programs notice that they are in a container. */
  readonly containerenv: string;
  /** Zone file for /etc/localtime (`timezone`). */
  readonly localtime: string;
}

/** What the infra container's spec is made of. It exists only for a shared PID namespace, to be its init. */
export interface PauseSpecInput {
  readonly id: string;
  readonly pod: PodSandboxConfig;
  /** Directory that becomes the read-only root and holds our static `pause`. */
  readonly root: string;
  readonly facts: NodeFacts;
  readonly defaults: SpecDefaults;
  readonly runtime: SpecRuntime;
  readonly namespaces: ReadonlyMap<'net' | 'ipc' | 'uts' | 'user', string>;
  readonly cgroupsPath: string;
  readonly idMap: IdMap | null;
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string };
  readonly localhostSeccomp: unknown;
  readonly annotations: ReadonlyMap<string, string>;
  /** `infra_ctr_cpuset`; '' = none. */
  readonly cpuset: string;
}

/** The part of the runtime's features that the spec depends on. */
export interface SpecRuntime {
  readonly ociVersion: string;
  readonly recursiveReadOnlyMounts: boolean;
  readonly idmappedMounts: boolean;
  readonly privilegedWithoutHostDevices: boolean;
  /** The names that it knows; undefined = all. */
  readonly capabilities: readonly string[] | undefined;
  /** It reads the pod's name from the spec: the UTS namespace that it is given means nothing to a kernel of its own. */
  readonly ownKernel: boolean;
}

/** Who the container's first process is. Made by resolveUser. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary gid included (CVE-2022-2995). */
  readonly additionalGids: readonly number[];
  /** From the image's passwd; '/' when unknown. */
  readonly home: string;
  /** True if the image's passwd has a line for this uid. */
  readonly known: boolean;
}

export interface ResolvedMount {
  readonly source: string;
  readonly kind: 'directory' | 'file' | 'other';
  readonly propagation: 'private' | 'slave' | 'shared';
  /** True when `source` is an image volume. */
  readonly image: boolean;
}

export interface ResolvedDevice {
  readonly path: string;
  readonly type: 'c' | 'b' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
  /** `rwm` subset for the device cgroup. */
  readonly access: string;
}

/**
 * Infra containers are the last that the kernel kills for memory, but for the node's own daemons (CRI-O has the same).
 */
const INFRA_OOM_SCORE_ADJ = -998n;

/**
 * The spec of one container. Everything in it follows from the input; the same input gives the same spec.
 * @throws InvalidArgument, FailedPrecondition or Unimplemented naming the field that is wrong or cannot be had here.
 */
export function buildContainerSpec(input: ContainerSpecInput): RuntimeSpec {
  if (input.config.mounts.length > limits.mountsCount) {
    throw new RuntimeError(
      'ResourceExhausted',
      `${input.config.mounts.length} mounts; a container can have ${limits.mountsCount}`,
    );
  }
  const security = input.config.linux?.securityContext;
  const privilege = privilegeOf(security, input.pod);
  checkMapped(input.idMap, input.user);
  const environment = environmentOf(input);
  const readOnlyRoot = security?.readonlyRootfs === true || input.defaults.readOnly ? 'ro' : 'rw';
  const plan = mountPlan(input, privilege, {
    readOnlyRoot,
    needsEnvExec: environment.escaped.length > 0 ? 'yes' : 'no',
  });
  const capabilities = capabilitySets(
    security?.capabilities,
    privilege,
    { ...input.facts, capabilities: knownTo(input.runtime, input.facts) },
    input.defaults,
  );
  const apparmorProfile = apparmorOf(security, privilege, input.facts, input.defaults);
  const rlimits = rlimitsOf(input.defaults, input.facts);
  return {
    ociVersion: input.runtime.ociVersion,
    process: {
      ...(input.config.tty ? { terminal: true } : {}),
      user: {
        uid: input.user.uid,
        gid: input.user.gid,
        ...(input.umask === undefined ? {} : { umask: input.umask }),
        additionalGids: [...input.user.additionalGids],
      },
      args: argsWith(environment, commandOf(input.config, input.image)),
      env: [...environment.plain],
      cwd: workingDirOf(input.config, input.image),
      capabilities,
      ...(rlimits.length === 0 ? {} : { rlimits }),
      noNewPrivileges: security?.noNewPrivs === true,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...selinuxPart('selinuxLabel', input.selinux.processLabel, input.facts, privilege),
      oomScoreAdj: oomScoreAdjOf(input.config.linux?.resources?.oomScoreAdj ?? 0n, input.facts),
    },
    ...(input.runtime.ownKernel && input.hostname !== '' ? { hostname: input.hostname } : {}),
    root: { path: input.root, ...(readOnlyRoot === 'ro' ? { readonly: true } : {}) },
    mounts: plan.mounts,
    ...annotationsPart(input.annotations),
    linux: linuxPart(input, privilege, capabilities.bounding ?? [], plan.rootfsPropagation),
  };
}

/** What the daemon may give, of that what the runtime knows. */
function knownTo({ capabilities }: SpecRuntime, facts: NodeFacts): ReadonlySet<string> {
  return capabilities === undefined ? facts.capabilities : facts.capabilities.intersection(new Set(capabilities));
}

function linuxPart(
  input: ContainerSpecInput,
  privilege: Privilege,
  bounding: readonly string[],
  rootfsPropagation: string | undefined,
): RuntimeSpec['linux'] {
  const security = input.config.linux?.securityContext;
  const hostDevices =
    privilege === 'privileged' && !input.runtime.privilegedWithoutHostDevices ? input.hostDevices : [];
  const { devices, rules } = deviceParts({
    devices: input.devices,
    hostDevices,
    user: input.user,
    defaults: input.defaults,
  });
  const seccomp = seccompOf(
    { security, facts: input.facts, defaults: input.defaults, localhostSeccomp: input.localhostSeccomp },
    privilege,
    bounding,
  );
  return {
    namespaces: namespacesOf(input, privilege),
    ...mappingsOf(input.idMap),
    ...(devices.length === 0 ? {} : { devices }),
    cgroupsPath: input.cgroupsPath,
    resources: {
      devices: rules,
      ...pidsOf(input.defaults, input.facts),
      ...newResources(input.config.linux?.resources, input.facts, input.defaults.minMemoryBytes),
    },
    ...(rootfsPropagation === undefined ? {} : { rootfsPropagation }),
    ...(seccomp === undefined ? {} : { seccomp }),
    ...hiddenPaths(security, privilege, input.facts),
    ...selinuxPart('mountLabel', input.selinux.mountLabel, input.facts, privilege),
  };
}

/**
 * The spec of an infra container: our `pause` as init of a shared PID namespace, as the sandbox's own security context
 * says, with no capabilities and nothing mounted but /proc and a /dev. @throws as buildContainerSpec.
 */
export function buildPauseSpec(input: PauseSpecInput): RuntimeSpec {
  const security = input.pod.linux?.securityContext;
  const user = resolveUser({ security, imageUser: '', passwd: undefined, group: undefined });
  checkMapped(input.idMap, user);
  const apparmorProfile = apparmorOf(security, 'confined', input.facts, input.defaults);
  const seccomp = seccompOf(
    { security, facts: input.facts, defaults: input.defaults, localhostSeccomp: input.localhostSeccomp },
    'confined',
    [],
  );
  const resources = { ...NO_RESOURCES, cpuShares: 2n, cpusetCpus: input.cpuset };
  return {
    ociVersion: input.runtime.ociVersion,
    process: {
      user: { uid: user.uid, gid: user.gid, additionalGids: [...user.additionalGids] },
      args: ['/pause'],
      env: ['PATH=/'],
      cwd: '/',
      capabilities: { bounding: [], effective: [], permitted: [], inheritable: [], ambient: [] },
      noNewPrivileges: true,
      ...(apparmorProfile === undefined ? {} : { apparmorProfile }),
      ...selinuxPart('selinuxLabel', input.selinux.processLabel, input.facts, 'confined'),
      oomScoreAdj: oomScoreAdjOf(INFRA_OOM_SCORE_ADJ, input.facts),
    },
    root: { path: input.root, readonly: true },
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc', options: ['nosuid', 'noexec', 'nodev'] },
      // Runtimes make /dev/null and others in it: not in the root, which all pods share, and which a user namespace
      // cannot write to.
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'noexec', 'mode=755', 'size=64k'] },
    ],
    ...annotationsPart(input.annotations),
    linux: {
      namespaces: namespacesOf(
        { namespaces: input.namespaces, facts: input.facts, pid: { mode: 'private' } },
        'confined',
      ),
      ...mappingsOf(input.idMap),
      cgroupsPath: input.cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], ...toLinuxResources(resources, input.facts) },
      ...(seccomp === undefined ? {} : { seccomp }),
      ...selinuxPart('mountLabel', input.selinux.mountLabel, input.facts, 'confined'),
    },
  };
}

/** A label where SELinux is on and one is given; privileged containers run with the runtime's own. */
function selinuxPart<K extends string>(
  key: K,
  label: string,
  facts: NodeFacts,
  privilege: Privilege,
): Partial<Record<K, string>> {
  return facts.selinux && label !== '' && privilege === 'confined' ? ({ [key]: label } as Record<K, string>) : {};
}

function annotationsPart(annotations: ReadonlyMap<string, string>): { annotations?: Record<string, string> } {
  if (annotations.size === 0) return {};
  const plain: Record<string, string> = Object.create(null);
  for (const [key, value] of annotations) plain[key] = value;
  return { annotations: plain };
}

/**
 * config.json. 64-bit values are written digit by digit, not by way of a double. Runtimes read Unicode only (a byte
 * that is no UTF-8 becomes U+FFFD in runc and an error in crun): see environmentOf for what that means for environment
 * values.
 */
export function stringifySpec(spec: RuntimeSpec): string {
  return stringifyExact(spec);
}

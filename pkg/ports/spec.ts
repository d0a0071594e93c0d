/**
 * What the OCI runtime spec is made of: facts of the node, defaults of the configuration, and what was looked up for
 * one container.
 */
import type {
  ContainerConfig,
  LinuxContainerResources,
  LinuxContainerSecurityContext,
  LinuxSandboxSecurityContext,
  PodSandboxConfig,
  Signal,
} from '../cri-api/types.ts';
import type { ImageConfig, LinuxResources } from '../oci/spec-types.ts';
import type { IdMap, MountedFile } from './rootfs.ts';

/** What the node and the daemon's own privileges allow, found once at start. */
export interface NodeFacts {
  readonly cgroupMode: 'v1' | 'hybrid' | 'v2';
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  /** The systemd unit that the daemon is (`berth.service`); '' if it is none. */
  readonly ownService: string;
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
   * Host paths to mask beside the fixed list: the thermal_throttle directory of each CPU, a side channel.
   */
  readonly maskedPaths: readonly string[];
  /** The kernel says whether it keeps to FIPS 140 (`/proc/sys/crypto/fips_enabled`), which programs go by. */
  readonly tellsFips: boolean;
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
  /** The pod's infra container, whose PID namespace this one may share; '' if the pod has none. */
  readonly infra: string;
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
  /** What its class of block I/O asks for; undefined = nothing. */
  readonly blockIo: LinuxResources['blockIO'];
  /** All host devices, only for privileged containers that get them. */
  readonly hostDevices: readonly ResolvedDevice[];
  readonly idMap: IdMap | null;
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string };
  /** A localhost seccomp profile, read and parsed; undefined unless the config names one. */
  readonly localhostSeccomp: unknown;
  /** A seccomp profile of an annotation, parsed: of a container that has no other. undefined = none. */
  readonly annotatedSeccomp: unknown;
  /** Where forbidden system calls are told of; '' = nowhere. */
  readonly seccompListener: string;
  /** Value of HOSTNAME: the pod's name in its UTS namespace, the node's with host network. */
  readonly hostname: string;
  /** What goes into the spec's annotations: only what `annotations.passed` let through (CVE-2024-3154). */
  readonly annotations: ReadonlyMap<string, string>;
  /**
   * `rw` for the annotation cgroup2-mount-hierarchy-rw and a handler's cgroup_writable; privileged containers have it
   * anyway.
   */
  readonly cgroupAccess: 'ro' | 'rw';
  /** umask of the first process; undefined = the runtime's 0022. */
  readonly umask: number | undefined;
  /** Variables of the environment that are ours, unless image or config set them. */
  readonly fallbackEnv: ReadonlyMap<string, string>;
  /** Those that nobody else may set. */
  readonly fixedEnv: ReadonlyMap<string, string>;
  /** Where commands in the container begin (`exec_cpu_affinity`); '' = wherever it runs. */
  readonly execCpus: string;
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
  /** The image's passwd and group with a line added (`identityOf`). */
  readonly passwd: string;
  readonly group: string;
  /** /run/.containerenv, an empty file: how programs notice that they are in a container. */
  readonly containerenv: string;
  /** A file that says that nobody keeps to FIPS 140, over the kernel's. */
  readonly fips: string;
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

/** Who the container's first process is. Made by identityOf. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary gid included (CVE-2022-2995). */
  readonly additionalGids: readonly number[];
  /** From the image's passwd; '/' when unknown. */
  readonly home: string;
}

/**
 * The identity of a container's first process, and what its passwd and group must hold so that it can look itself up.
 */
export interface Identity {
  readonly user: ResolvedUser;
  /** To be bound over the image's file; undefined where that will do, or the image has none. */
  readonly passwd: Uint8Array | undefined;
  readonly group: Uint8Array | undefined;
}

/** What is behind one mount of the config. */
export interface ResolvedMount {
  readonly source: string;
  readonly kind: 'directory' | 'file' | 'other';
  readonly propagation: 'private' | 'slave' | 'shared';
  /** True when `source` is an image volume. */
  readonly image: boolean;
  /** What is mounted over the files of a volume of an artifact. */
  readonly files?: readonly MountedFile[] | undefined;
}

/** A device node as the container gets it. */
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

/** What annotations ask for the processors that a container has for itself. */
export interface CpuWishes {
  readonly quota: 'kept' | 'lifted';
  readonly loadBalancing: 'kept' | 'disabled';
  /** `housekeeping`: the first processor and its siblings go on with interrupts. */
  readonly interrupts: 'kept' | 'disabled' | 'housekeeping';
  /** For `pm_qos_resume_latency_us`. */
  readonly resumeLatency: string | undefined;
  readonly governor: string | undefined;
  /** The processors of `shared_cpuset`, too. */
  readonly shared: 'yes' | 'no';
}

/** What annotations change about a container or its pod. */
export interface AnnotationSettings {
  readonly umask: number | undefined;
  readonly cgroupAccess: 'ro' | 'rw';
  /** Size of the pod's /dev/shm; undefined = the configured one. */
  readonly shmBytes: bigint | undefined;
  readonly devices: readonly DeviceRequest[];
  /** The user namespace that the pod asks for, in CRI-O's words. */
  readonly usernsMode: string | undefined;
  /** Files of the container's cgroup (v2) and what is written to them. */
  readonly unified: Readonly<Record<string, string>>;
  readonly cpus: CpuWishes;
  /** The emptyDir of the pod in which its containers see their logs; undefined = none. */
  readonly linkLogs: string | undefined;
  /** Volumes that have the right label at their top are not labelled again. */
  readonly relabel: 'always' | 'unless labelled';
  /** What becomes of a container that makes system calls which its seccomp profile forbids, beside their failing. */
  readonly blockedCalls: 'untold' | 'told' | 'stop';
  /** Whether programs in it see that the kernel keeps to FIPS 140. */
  readonly fips: 'shown' | 'hidden';
}

/** The signal that asks a container to end. */
export interface StopSignal {
  /** Linux' number of it. */
  readonly number: number;
  /** CRI's name of it, for ContainerStatus. */
  readonly name: Signal;
}

/** A device node as the host has it; the shape of pkg/runtime's HostDevice. */
export interface FoundDevice {
  readonly path: string;
  readonly type: 'c' | 'b' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

/** One device that is asked for, by config.devices, additional_devices or the devices annotation. */
export interface DeviceRequest {
  readonly hostPath: string;
  /** '' = as on the host. */
  readonly containerPath: string;
  /** '' = rwm. */
  readonly permissions: string;
}

/** A seccomp or AppArmor profile as a config names it; `ref` is a file for seccomp and a name for AppArmor. */
export type ProfileChoice =
  | { readonly kind: 'unset' }
  | { readonly kind: 'unconfined' }
  | { readonly kind: 'runtimeDefault' }
  | { readonly kind: 'localhost'; readonly ref: string };

/** What decides which sysctls belong to the pod and not to the node. */
export interface SysctlScope {
  readonly network: 'pod' | 'host';
  readonly ipc: 'pod' | 'host';
}

/** A security context, of a container or of a sandbox. */
export type SecurityContext = LinuxContainerSecurityContext | LinuxSandboxSecurityContext;

/** A class of pods in the configuration, `[crio.runtime.workloads.<name>]`. */
export interface Workload {
  readonly name: string;
  /** The annotation that marks a pod, whatever its value. */
  readonly activationAnnotation: string;
  /**
   * `<prefix>/<container>` and `<prefix>.<resource>/<container>` override the resources for one container; '' = nothing
   * does.
   */
  readonly annotationPrefix: string;
  /** Annotations that take effect in these pods, beside those that the handler allows. */
  readonly allowedAnnotations: readonly string[];
  readonly resources: WorkloadResources;
}

/** 0 and '' leave what the kubelet asks for. */
export interface WorkloadResources {
  readonly cpuShares: bigint;
  /** Microseconds per period. */
  readonly cpuQuota: bigint;
  /** Microseconds. */
  readonly cpuPeriod: bigint;
  readonly cpuset: string;
  /** Thousandths of a CPU; becomes a quota. */
  readonly cpuLimit: bigint;
}

/** What CRI says of the resources of a pod as a whole, in two parts. */
export interface PodResources {
  /** All containers together; undefined: nobody said anything. */
  readonly resources: LinuxContainerResources | undefined;
  /** What the sandbox needs beside them. */
  readonly overhead: LinuxContainerResources | undefined;
}

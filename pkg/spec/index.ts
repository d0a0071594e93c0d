/**
 * CRI config + image config + facts about the node → OCI runtime spec. PURE: no clock, no disk, no kernel;
 * what must be looked up is passed in as facts. Golden-tested.
 */
import type { ContainerConfig, PodSandboxConfig } from '../cri-api/types.ts';
import type { ImageConfig, RuntimeSpec } from '../oci/spec-types.ts';
import type { IdMap } from '../rootfs/index.ts';

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
  readonly pidsLimit: bigint;
  readonly minMemoryBytes: bigint;
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
  readonly pid: { readonly mode: 'private' } | { readonly mode: 'host' } | { readonly mode: 'join'; readonly path: string };
  /** `cgroupsPath` as the cgroup manager wants it. */
  readonly cgroupsPath: string;
  readonly user: ResolvedUser;
  readonly files: { readonly resolvConf: string; readonly hostname: string; readonly hosts: string; readonly shm: string };
  /** config.mounts looked up, same order; image volumes have the path where the image is mounted as source. */
  readonly mounts: readonly ResolvedMount[];
  /** Image VOLUMEs as anonymous bind mounts (image_volumes = bind). */
  readonly volumes: readonly { readonly source: string; readonly containerPath: string }[];
  /** config.devices looked up. */
  readonly devices: readonly ResolvedDevice[];
  /** All host devices, only for privileged containers that get them. */
  readonly hostDevices: readonly ResolvedDevice[];
  readonly idMap: IdMap | null;
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string };
  /** A localhost seccomp profile, read and parsed; undefined unless the config names one. */
  readonly localhostSeccomp: unknown;
  /** Real path inside the rootfs of each mount's container_path is resolved by the runtime; the working directory is resolved and made already. */
  readonly hostname: string;
}

/** The part of the runtime's features that the spec depends on. */
export interface SpecRuntime {
  readonly ociVersion: string;
  readonly recursiveReadOnlyMounts: boolean;
  readonly idmappedMounts: boolean;
  readonly privilegedWithoutHostDevices: boolean;
}

/** Who the container's first process is. Made by resolveUser. */
export interface ResolvedUser {
  readonly uid: number;
  readonly gid: number;
  /** With the primary gid included (CVE-2022-2995). */
  readonly additionalGids: readonly number[];
  /** From the image's passwd; '/' when unknown. */
  readonly home: string;
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

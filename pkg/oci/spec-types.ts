/**
 * OCI documents as types: image-spec (manifest, index, config) and runtime-spec (config.json).
 * Only what Berth reads or writes. What comes from outside passes the guards beside its reader, never a cast.
 */
import type { Digest } from '../base/ids.ts';

/** image-spec descriptor.md */
export interface Descriptor {
  readonly mediaType: string;
  readonly digest: Digest;
  readonly size: bigint;
  readonly urls?: readonly string[] | undefined;
  readonly annotations?: Readonly<Record<string, string>> | undefined;
  readonly platform?: Platform | undefined;
}
export interface Platform {
  readonly architecture: string;
  readonly os: string;
  readonly variant?: string | undefined;
}

/** image-spec config.md, the part that a runtime reads. Absent and empty mean the same but for Entrypoint and Cmd. */
export interface ImageConfig {
  readonly architecture: string;
  readonly os: string;
  readonly user: string;
  readonly env: readonly string[];
  readonly entrypoint: readonly string[];
  readonly cmd: readonly string[];
  readonly volumes: readonly string[];
  readonly workingDir: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly stopSignal: string;
  readonly exposedPorts: readonly string[];
  readonly diffIds: readonly Digest[];
}

/**
 * runtime-spec config.md: the root object. Plain JSON: 64-bit values that may pass 2^53 are written by `stringifySpec`.
 */
export interface RuntimeSpec {
  ociVersion: string;
  process: RuntimeProcess;
  root: { path: string; readonly?: boolean };
  hostname?: string;
  mounts: RuntimeMount[];
  hooks?: Partial<
    Record<
      'prestart' | 'createRuntime' | 'createContainer' | 'startContainer' | 'poststart' | 'poststop',
      RuntimeHook[]
    >
  >;
  annotations?: Record<string, string>;
  linux: RuntimeLinux;
}
export interface RuntimeProcess {
  terminal?: boolean;
  consoleSize?: { height: number; width: number };
  user: { uid: number; gid: number; umask?: number; additionalGids?: number[] };
  args: string[];
  /**
   * KEY=value. JSON holds Unicode only: values with other bytes travel in the arguments of a helper
   * (pkg/spec/process.ts).
   */
  env: string[];
  cwd: string;
  capabilities?: Partial<Record<'bounding' | 'effective' | 'inheritable' | 'permitted' | 'ambient', string[]>>;
  rlimits?: { type: string; hard: number | bigint; soft: number | bigint }[];
  noNewPrivileges?: boolean;
  apparmorProfile?: string;
  selinuxLabel?: string;
  oomScoreAdj?: number;
  /** Where commands in the container begin (runtime-spec 1.2.1, config.md). */
  execCPUAffinity?: { initial: string };
}
export interface RuntimeMount {
  destination: string;
  type?: string;
  source?: string;
  options?: string[];
  uidMappings?: RuntimeIdMapping[];
  gidMappings?: RuntimeIdMapping[];
}
export interface RuntimeIdMapping {
  containerID: number;
  hostID: number;
  size: number;
}
export interface RuntimeHook {
  path: string;
  args?: string[];
  env?: string[];
  timeout?: number;
}
export interface RuntimeLinux {
  namespaces: { type: 'pid' | 'network' | 'mount' | 'ipc' | 'uts' | 'user' | 'cgroup'; path?: string }[];
  uidMappings?: RuntimeIdMapping[];
  gidMappings?: RuntimeIdMapping[];
  devices?: {
    type: string;
    path: string;
    major: number;
    minor: number;
    fileMode?: number;
    uid?: number;
    gid?: number;
  }[];
  cgroupsPath?: string;
  resources?: LinuxResources;
  rootfsPropagation?: string;
  seccomp?: LinuxSeccomp;
  maskedPaths?: string[];
  readonlyPaths?: string[];
  mountLabel?: string;
  sysctl?: Record<string, string>;
  intelRdt?: { closID?: string; l3CacheSchema?: string; memBwSchema?: string };
}
/** runtime-spec config-linux.md: seccomp. Argument values are unsigned 64-bit. */
export interface LinuxSeccomp {
  defaultAction: string;
  defaultErrnoRet?: number;
  architectures?: string[];
  flags?: string[];
  listenerPath?: string;
  listenerMetadata?: string;
  syscalls?: LinuxSyscall[];
}
export interface LinuxSyscall {
  names: string[];
  action: string;
  errnoRet?: number;
  args?: { index: number; value: number | bigint; valueTwo?: number | bigint; op: string }[];
}
/** runtime-spec config-linux.md: control groups. Numbers that may pass 2^53 are bigint. */
export interface LinuxResources {
  devices?: { allow: boolean; type?: string; major?: number; minor?: number; access?: string }[];
  memory?: { limit?: bigint; reservation?: bigint; swap?: bigint; checkBeforeUpdate?: boolean };
  cpu?: { shares?: bigint; quota?: bigint; period?: bigint; cpus?: string; mems?: string };
  pids?: { limit: bigint };
  hugepageLimits?: { pageSize: string; limit: bigint }[];
  unified?: Record<string, string>;
  blockIO?: {
    weight?: number;
    weightDevice?: { major: number; minor: number; weight: number }[];
    throttleReadBpsDevice?: RuntimeThrottle[];
    throttleWriteBpsDevice?: RuntimeThrottle[];
    throttleReadIOPSDevice?: RuntimeThrottle[];
    throttleWriteIOPSDevice?: RuntimeThrottle[];
  };
}

/** A bound for one block device, a second. */
export interface RuntimeThrottle {
  major: number;
  minor: number;
  rate: bigint;
}

/**
 * Everything that the mind needs from outside, as interfaces and settings: `cri/parts/world.ts` builds the real one,
 * tests build fakes.
 */
import type { Logger } from '../base/op.ts';
import type { Extensions } from './extensions.ts';
import type { ImageStore } from '../ports/image.ts';
import type { NetworkPlugin } from '../ports/network.ts';
import type { RootfsDriver } from '../ports/rootfs.ts';
import type {
  BlockedCalls,
  Cpus,
  Host,
  Monitor,
  Namespaces,
  OciRuntime,
  Processes,
  Profiles,
} from '../ports/runtime.ts';
import type { NodeFacts, SpecDefaults, Workload } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord, StateStore } from '../ports/state.ts';
import type { Workspace } from '../state/index.ts';

/** Of a record, by which runtime its containers are made. */
export type MadeBy = Pick<ContainerRecord | SandboxRecord, 'runtimeHandler' | 'runtime'>;

/** Everything that the mind needs from outside. `cri/parts/world.ts` builds the real one; tests build fakes. */
export interface World {
  readonly images: ImageStore;
  readonly rootfs: RootfsDriver;
  readonly monitor: Monitor;
  /** For new pods: the runtime of a handler; '' is the default. @throws InvalidArgument that lists those there are. */
  readonly runtimeFor: (handler: string) => OciRuntime;
  /** For what is there: the runtime that made it, also if no handler is called so any more. @throws as runtimeFor */
  readonly runtimeOf: (made: MadeBy) => OciRuntime;
  /** Every runtime that may have made something, for the sweep. */
  readonly runtimes: readonly OciRuntime[];
  readonly namespaces: Namespaces;
  readonly network: NetworkPlugin;
  readonly state: StateStore;
  readonly workspace: Workspace;
  readonly host: Host;
  readonly cpus: Cpus;
  readonly blockedCalls: BlockedCalls;
  readonly processes: Processes;
  readonly profiles: Profiles;
  /** Nanoseconds since the epoch. For what people read: anybody may set it. */
  readonly clock: () => bigint;
  /**
   * Milliseconds of the machine's monotonic clock, the same for every process since its boot (CLOCK_MONOTONIC). For
   * whatever is due.
   */
  readonly monotonicMs: () => number;
  /** Resolves after `ms` of that clock, or as soon as `signal` fires: the caller looks which. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly facts: NodeFacts;
  readonly settings: PodSettings;
  readonly extensions: Extensions;
  /** Undefined if kernel and file system can give roots to user namespaces, else the reason. */
  readonly whyNoUserNamespaces: string | undefined;
  readonly log: Logger;
}

/** What a runtime handler's table says about its containers. */
export interface HandlerSettings {
  /** Privileged containers get only the devices that they ask for. */
  readonly privilegedWithoutHostDevices: boolean;
  /** Smallest memory limit that a container can start with. */
  readonly minMemoryBytes: bigint;
  /** Annotations that take effect: names, or beginnings with a `*` behind. */
  readonly allowedAnnotations: readonly string[];
  /** Annotations that its containers have unless their pods bring others (`default_annotations`). */
  readonly defaultAnnotations: ReadonlyMap<string, string>;
  /** Commands in a container begin on its first processor, if it has some for itself (`exec_cpu_affinity`). */
  readonly execCpuAffinity: 'first' | '';
  /** Parsed seccomp profile for RuntimeDefault with this handler; undefined = that of `PodSettings.spec`. */
  readonly seccompProfile: unknown;
}

/** A line of `default_mounts_file`. */
export interface DefaultMount {
  readonly source: string;
  readonly containerPath: string;
}

/** What the configuration says about pods. */
export interface PodSettings {
  readonly spec: SpecDefaults;
  /** By name; '' is the default handler. */
  readonly handlers: ReadonlyMap<string, HandlerSettings>;
  /** Where logs go when the kubelet names no directory; absolute. */
  readonly logDir: string;
  /** Sources that must exist instead of being made as directories (`absent_mount_sources_to_reject`). */
  readonly absentMountSourcesToReject: readonly string[];
  readonly imageVolumes: 'mkdir' | 'bind' | 'ignore';
  /** Whether volumes may show OCI artifacts, beside images. */
  readonly artifactVolumes: boolean;
  /** `additional_devices` and the like, as CRI devices for every container. */
  readonly additionalDevices: readonly {
    readonly hostPath: string;
    readonly containerPath: string;
    readonly permissions: string;
  }[];
  /** The smallest ids of the node that an annotation may map (`minimum_mappable_uid` and `_gid`); -1 = not set. */
  readonly leastMappable: { readonly uid: number; readonly gid: number };
  /** Host paths that the devices annotation may ask for. */
  readonly allowedDevices: readonly string[];
  /** `default_mounts_file`: read-only, in every container. */
  readonly defaultMounts: readonly DefaultMount[];
  /** Size of a pod's /dev/shm in bytes, unless an allowed annotation says otherwise. */
  readonly shmBytes: bigint;
  /** Directory with our `pause`, the root of infra containers. */
  readonly pauseRoot: string;
  /** CPUs of infra containers (`infra_ctr_cpuset`); '' = all. */
  readonly infraCpuset: string;
  /** What comes before the source of every mount that a pod asks for (`bind_mount_prefix`); '' = nothing. */
  readonly bindMountPrefix: string;
  readonly workloads: readonly Workload[];
  /** Processors that containers with some for themselves may share (`shared_cpuset`); '' = none. */
  readonly sharedCpuset: string;
  /** The least GOMAXPROCS of containers without a CPU limit (`min_injected_gomaxprocs`); 0 = none is set. */
  readonly minGoMaxProcs: number;
  /** False: an infra container in every pod (`drop_infra_ctr`). */
  readonly dropInfra: boolean;
  /**
   * Who maps host ports: pkg/network (by a CNI plugin, else by itself), or somebody else (`disable_hostport_mapping`).
   */
  readonly hostPorts: 'network' | 'others';
  /** Host file for /etc/localtime (`timezone`); '' = the image's own. */
  readonly localtime: string;
  /** Labels of containers by the node's SELinux policy, without a level; null where SELinux is off. */
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string } | null;
  /** Whether pods on the network of the host have a label, too (`hostnetwork_disable_selinux`). */
  readonly selinuxOnHostNetwork: 'label' | 'none';
  /** Static helper for environment values that are not UTF-8; '' = none. */
  readonly envExec: string;
  /** Overlay mount options by config. */
  readonly overlayOptions: readonly string[];
}

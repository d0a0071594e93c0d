/**
 * The mind of Berth: sandboxes and containers, from the request to the last trace.
 *
 * It sees the world through `World`, a struct of interfaces, so it runs whole in a unit test, and it never touches the
 * kernel. Three rules hold everywhere in here: the record is saved before the first side effect and removed after the
 * last; `destroy` is the only clean-up; reads look at immutable records and never wait for a write.
 */
import type { ContainerConfig, ContainerStatus, LinuxContainerResources, PodSandboxConfig } from '../cri-api/types.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Logger, Op } from '../base/op.ts';
import type { ImageStore } from '../image/index.ts';
import type { NetworkPlugin } from '../network/index.ts';
import type { RootfsDriver } from '../rootfs/index.ts';
import type {
  AttachChannel,
  Connection,
  ExecStdio,
  ExitStatus,
  Host,
  Monitor,
  Namespaces,
  OciRuntime,
  Processes,
  TerminalSize,
} from '../runtime/index.ts';
import type { NodeFacts, SpecDefaults, Workload } from '../spec/index.ts';
import type { ContainerRecord, SandboxRecord, StateStore, Workspace } from '../state/index.ts';
import type { Extensions } from './extensions.ts';

export { type OpenPods, openPods } from './open.ts';
export { DirectoryExtensions, type Extensions } from './extensions.ts';
export * from './query.ts';
export type { PodEvent } from './books.ts';

/** Everything that the mind needs from outside. `cri/daemon.ts` builds the real one; tests build fakes. */
export interface World {
  readonly images: ImageStore;
  readonly rootfs: RootfsDriver;
  readonly monitor: Monitor;
  /** The runtime of a handler name; '' is the default. @throws InvalidArgument that lists the handlers there are. */
  readonly runtimeFor: (handler: string) => OciRuntime;
  /** Every configured runtime, for the sweep. */
  readonly runtimes: readonly OciRuntime[];
  readonly namespaces: Namespaces;
  readonly network: NetworkPlugin;
  readonly state: StateStore;
  readonly workspace: Workspace;
  readonly host: Host;
  readonly processes: Processes;
  /** Nanoseconds since the epoch. */
  readonly clock: () => bigint;
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
  /** `additional_devices` and the like, as CRI devices for every container. */
  readonly additionalDevices: readonly {
    readonly hostPath: string;
    readonly containerPath: string;
    readonly permissions: string;
  }[];
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

export interface Pods {
  /**
   * Makes a sandbox and returns its id; READY when it returns. Identical requests, in flight or finished, get the same
   * id.
   * @throws AlreadyExists for the same metadata with another config.
   */
  run(op: Op, config: PodSandboxConfig, handler: string): Promise<SandboxId>;
  /**
   * Ends all processes of the sandbox, then its network and namespaces. Content if stopped already. May be called again
   * after a failure.
   */
  stop(op: Op, id: SandboxId): Promise<void>;
  /** Stops and removes the sandbox with its containers. */
  remove(op: Op, id: SandboxId): Promise<void>;
  /** By id or unambiguous prefix. @throws NotFound; InvalidArgument if several match. */
  get(idOrPrefix: string): SandboxRecord;
  find(idOrPrefix: string): SandboxRecord | undefined;
  /** Those that exist for a client: not the ones still being made. */
  list(): readonly SandboxRecord[];
  /** Remembers what the kubelet made of the pod's own cgroup. */
  updateResources(
    op: Op,
    id: SandboxId,
    overhead: LinuxContainerResources | undefined,
    resources: LinuxContainerResources | undefined,
  ): Promise<void>;
}

export interface Containers {
  /** Makes a container in a READY sandbox; CREATED when it returns. Identical requests get the same id. */
  create(op: Op, pod: SandboxId, config: ContainerConfig): Promise<ContainerId>;
  start(op: Op, id: ContainerId): Promise<void>;
  /**
   * Stop signal, then SIGKILL after `graceMs`; 0 kills at once. A second call can only shorten the wait. Content if it
   * runs no more.
   */
  stop(op: Op, id: ContainerId, graceMs: number): Promise<void>;
  /** Kills it if it runs, then gives back everything. */
  remove(op: Op, id: ContainerId): Promise<void>;
  get(idOrPrefix: string): ContainerRecord;
  find(idOrPrefix: string): ContainerRecord | undefined;
  list(): readonly ContainerRecord[];
  /** All or nothing: when the runtime refuses, the record keeps the old values. */
  update(op: Op, id: ContainerId, resources: LinuxContainerResources): Promise<void>;
  reopenLog(op: Op, id: ContainerId): Promise<void>;
  status(record: ContainerRecord): ContainerStatus;
}

export interface Execs {
  /**
   * Runs argv to its end, once its turn to start has come; output is cut at limits.execOutputBytes per stream. Dispose
   * of the result when it has been passed on: there is room for a few large outputs at once, and other commands wait
   * for it. @throws DeadlineExceeded when the command has had `timeoutMs` (0 = no bound), with everything killed;
   * ResourceExhausted when the container has limits.execsPerContainerCount.
   */
  execSync(
    op: Op,
    id: ContainerId,
    argv: readonly string[],
    timeoutMs: number,
  ): Promise<Disposable & { readonly stdout: Uint8Array; readonly stderr: Uint8Array; readonly exitCode: number }>;
  /**
   * Runs argv with the caller's streams, once its turn to start has come. Ends with the container at the latest, also
   * where they share no PID namespace.
   */
  exec(op: Op, id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<ExitStatus>;
  /** The container's own stdio; the output ends when the container does. */
  attach(
    op: Op,
    id: ContainerId,
  ): Promise<AttachChannel & { resize(size: TerminalSize): Promise<void>; readonly tty: boolean }>;
  /**
   * A connection to a port of the loopback inside the pod's network (the host's, for a pod on it); closed when the pod
   * stops.
   */
  portForward(op: Op, id: SandboxId, port: number): Promise<Connection>;
}

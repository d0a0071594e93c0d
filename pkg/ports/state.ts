/**
 * What is known about each sandbox and container: the states of the two machines, the records, and the port of the
 * store that keeps them.
 */
import type { ChainId, ContainerId, ImageId, ProcessRef, SandboxId } from '../base/ids.ts';
import type { LinuxContainerResources, Signal } from '../cri-api/types.ts';
import type { NamedContainerConfig, SandboxConfig } from './requests.ts';
import type { IdMap } from './rootfs.ts';
import type { RuntimeRef } from './runtime.ts';
import type { NamespaceKind } from './runtime.ts';

/** Why a container is no longer running, in the words that the kubelet and its users know. */
export type ExitReason =
  | 'Completed'
  | 'Error'
  | 'OOMKilled'
  | 'seccomp killed'
  | 'StartError'
  | 'ContainerStatusUnknown';

/** How a container ended, or why it never ran. */
export interface ExitedState {
  readonly phase: 'exited';
  /** 0-255; 128 + signal when killed by one; 255 when nobody knows. */
  readonly exitCode: number;
  readonly reason: ExitReason;
  readonly message: string;
  /** Nanoseconds since the epoch; 0n if it never ran. */
  readonly startedAt: bigint;
  readonly finishedAt: bigint;
}

/** Between the record that says so and the runtime's answer: whether the program runs yet is what the runtime knows. */
export interface StartingState {
  readonly phase: 'starting';
  readonly process: ProcessRef;
  /** When the start began; when the program started, once it is known that it did. */
  readonly startedAt: bigint;
  /**
   * Whether the process had executed a program before its start (a runtime with a kernel of its own): then that it has
   * says nothing about the container's program.
   */
  readonly executed: boolean;
  /** Why the runtime's start failed, of a process that has ended since; '' if it did not. */
  readonly failure: string;
}

/** Where a container is in its life; see pkg/state/machine.ts. */
export type ContainerState =
  | { readonly phase: 'creating' }
  | { readonly phase: 'created'; readonly process: ProcessRef }
  | StartingState
  | { readonly phase: 'running'; readonly process: ProcessRef; readonly startedAt: bigint }
  | ExitedState
  | { readonly phase: 'unknown'; readonly why: string; readonly process: ProcessRef; readonly startedAt: bigint }
  | { readonly phase: 'removing'; readonly last: ExitedState | null };

/**
 * What can happen to a container. `starting` is before the runtime is told, `notStarted` after it turned out not to
 * have begun.
 */
export type ContainerEvent =
  | { readonly type: 'created'; readonly process: ProcessRef }
  | { readonly type: 'starting'; readonly at: bigint; readonly executed: boolean }
  | { readonly type: 'started' }
  | { readonly type: 'notStarted' }
  | { readonly type: 'startFailed'; readonly message: string }
  | {
      readonly type: 'exited';
      readonly exitCode: number;
      readonly oomKilled: boolean;
      /** The system calls for which we killed it; absent if we did not. */
      readonly forbiddenCalls?: string | undefined;
      readonly at: bigint;
    }
  | { readonly type: 'vanished'; readonly message: string; readonly at: bigint }
  | { readonly type: 'lost'; readonly why: string }
  | { readonly type: 'remove' };

/** Where a sandbox is in its life; the edges are in pkg/state/machine.ts. */
export type SandboxState =
  | { readonly phase: 'creating' }
  | { readonly phase: 'ready' }
  | { readonly phase: 'stopping' }
  | { readonly phase: 'stopped' }
  | { readonly phase: 'removing' };

/** What can happen to a sandbox. */
export type SandboxEvent = 'ran' | 'stop' | 'released' | 'remove';

/** Everything about one pod sandbox. */
export interface SandboxRecord {
  readonly kind: 'sandbox';
  readonly id: SandboxId;
  /** As the kubelet sent it, unchanged: labels and annotations go back bit for bit. */
  readonly config: SandboxConfig;
  /** As asked for; '' = default. */
  readonly runtimeHandler: string;
  /** What that was when the pod was made; null in the record of an older daemon, which did not say. */
  readonly runtime: RuntimeRef | null;
  /** Nanoseconds since the epoch. */
  readonly createdAt: bigint;
  readonly state: SandboxState;
  /** Pod addresses, primary first; empty for host network. */
  readonly ips: readonly string[];
  /** Path per pinned namespace kind. */
  readonly namespaces: Readonly<Partial<Record<NamespaceKind, string>>>;
  /** cgroup under which the pod's containers live (cgroupfs path or slice), resolved. */
  readonly cgroupParent: string;
  /** Where container logs go; absolute. */
  readonly logDirectory: string;
  /** Prepared resolv.conf, hostname file and /dev/shm on the host. */
  readonly files: {
    readonly resolvConf: string;
    readonly hostname: string;
    readonly hosts: string;
    readonly shm: string;
  };
  /** The infra container, only when the pod shares a PID namespace. */
  readonly infra: { readonly id: ContainerId; readonly process: ProcessRef | null } | null;
  /** Why it is not ready though nobody stopped it; '' if it is, or was stopped. */
  readonly lost: string;
  readonly idMap: IdMap | null;
  /** SELinux process and mount label of the pod; '' where SELinux is off. */
  readonly selinux: { readonly processLabel: string; readonly mountLabel: string };
  /** Pod-level resources as UpdatePodSandboxResources left them. */
  readonly overhead: LinuxContainerResources | undefined;
  readonly resources: LinuxContainerResources | undefined;
}

/** A stop as its record has it. */
export interface StopUnderWay {
  /** Nanoseconds since the epoch, for people: when StopContainer began. */
  readonly begunAt: bigint;
  /** The program has been sent its stop signal; until then whoever goes on with the stop sends it. */
  readonly signalled: boolean;
  /** The grace that was granted, from then on. */
  readonly graceMs: number;
  /** When the kill is due, in milliseconds of the machine's own clock (`World.monotonicMs`), which nobody can set. */
  readonly killAtMs: number;
  /** The system calls that it is stopped for; absent for who was asked to stop. */
  readonly forbiddenCalls?: string | undefined;
}

/** Everything about one container. */
export interface ContainerRecord {
  readonly kind: 'container';
  readonly id: ContainerId;
  readonly sandboxId: SandboxId;
  readonly config: NamedContainerConfig;
  /** Its pod's. */
  readonly runtimeHandler: string;
  readonly runtime: RuntimeRef | null;
  readonly createdAt: bigint;
  readonly state: ContainerState;
  readonly imageId: ImageId;
  /** Layers of its root, bottom first: not to be deleted under it. */
  readonly layers: readonly ChainId[];
  /** repo@digest, or the id if the image has none. */
  readonly imageRef: string;
  /** What the user wrote. */
  readonly imageName: string;
  /** Absolute; '' if none. */
  readonly logPath: string;
  readonly bundle: string;
  /** Absolute path of the cgroup's name in the runtime's spec (`cgroupsPath`). */
  readonly cgroupsPath: string;
  /** Effective signal number and its CRI name. */
  readonly stopSignal: { readonly number: number; readonly name: Signal };
  /** Effective identity at start, for ContainerStatus.user. */
  readonly user: { readonly uid: bigint; readonly gid: bigint; readonly supplementalGroups: readonly bigint[] };
  /** Effective resources, as created or last updated. */
  readonly resources: LinuxContainerResources | undefined;
  /** Images mounted as volumes: protected from removal. */
  readonly imageVolumes: readonly {
    readonly containerPath: string;
    readonly imageId: ImageId;
    readonly imageRef: string;
  }[];
  /** A stop under way: a restart of the daemon goes on with it (K5). */
  readonly stopping: StopUnderWay | null;
  /** The monitor process; null when unknown. */
  readonly monitor: ProcessRef | null;
  /**
   * Since when nobody has written down what the container prints or how it ends: its monitor is gone, and its process
   * is not. Null while it is watched.
   */
  readonly monitorLost: { readonly at: bigint; readonly message: string } | null;
}

/** A record file that could not be read: set aside under `path`; the object is destroyed by the id of its name. */
export interface Damaged {
  readonly kind: 'sandbox' | 'container';
  readonly id: string;
  readonly path: string;
  readonly why: string;
}

/**
 * The records on disk, one file for each object. What was saved is there after any crash; what is damaged costs one
 * object.
 */
export interface StateStore {
  load(): Promise<{
    readonly sandboxes: readonly SandboxRecord[];
    readonly containers: readonly ContainerRecord[];
    readonly damaged: readonly Damaged[];
  }>;
  /** Atomic replace; validates before writing. */
  save(record: SandboxRecord | ContainerRecord): Promise<void>;
  /** No error if absent. */
  remove(record: { readonly kind: 'sandbox' | 'container'; readonly id: SandboxId | ContainerId }): Promise<void>;
}

/**
 * The ports of sandboxes, containers and commands in them: what the services of CRI call.
 */
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { ContainerStatus, LinuxContainerResources } from '../cri-api/types.ts';
import type { NamedContainerConfig, SandboxConfig } from './requests.ts';
import type { AttachChannel, Connection, ExecStdio, ExitStatus, TerminalSize } from './runtime.ts';
import type { PodResources } from './spec.ts';
import type { ContainerRecord, SandboxRecord } from './state.ts';

/** What happened to an object, for event streams; a snapshot of the record after it. */
export interface PodEvent {
  readonly type: 'created' | 'started' | 'stopped' | 'deleted';
  readonly record: SandboxRecord | ContainerRecord;
  /** Nanoseconds since the epoch. */
  readonly at: bigint;
}

/**
 * The sandboxes of the node. Every change is on record before it is begun; whatever fails is given back, or tried
 * again.
 */
export interface Pods {
  /**
   * Makes a sandbox and returns its id; READY when it returns. Identical requests, in flight or finished, get the same
   * id.
   * @throws AlreadyExists for the same metadata with another config.
   */
  run(op: Op, config: SandboxConfig, handler: string): Promise<SandboxId>;
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
  /**
   * Limits the pod as a whole, where its cgroup is ours; remembers what the kubelet made of one that is its own.
   * @throws InvalidArgument; FailedPrecondition for less memory than is in use; nothing has changed then.
   */
  updateResources(op: Op, id: SandboxId, update: PodResources): Promise<void>;
}

/** The containers of the node. Identical requests join the one under way; whoever gives up waiting stops nothing. */
export interface Containers {
  /** Makes a container in a READY sandbox; CREATED when it returns. Identical requests get the same id. */
  create(op: Op, pod: SandboxId, config: NamedContainerConfig): Promise<ContainerId>;
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
  /**
   * Keeps the processes of a container from running until `unpause`, or until it is stopped. For people: CRI knows of
   * no such thing, and a kubelet takes it for a container that runs. @throws FailedPrecondition in CRI-O's words.
   */
  pause(op: Op, id: ContainerId): Promise<void>;
  /** Lets them run on. @throws FailedPrecondition in CRI-O's words. */
  unpause(op: Op, id: ContainerId): Promise<void>;
  status(record: ContainerRecord): ContainerStatus;
}

/** Commands in running containers, and connections into their pods. */
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

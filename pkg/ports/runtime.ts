/**
 * The ports of the OCI runtime, the monitor, the namespaces, and the processes and facts of the host.
 */
import type { ContainerId, ProcessRef, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { LinuxResources, RuntimeProcess } from '../oci/spec-types.ts';

/** A runtime handler of the configuration, resolved. */
export interface RuntimeHandler {
  readonly name: string;
  /** Absolute path of the runtime binary. */
  readonly path: string;
  /** `--root` of the runtime. */
  readonly root: string;
  /** Absolute path of the monitor binary. */
  readonly monitorPath: string;
  readonly monitorEnv: readonly string[];
  /** cgroup of the monitors (`monitor_cgroup`), '' for none. */
  readonly monitorCgroup: string;
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  /** Extra arguments before the runtime's subcommand (runsc: `--platform=ptrace`). */
  readonly runtimeArgs: readonly string[];
  readonly createTimeoutMs: number;
  readonly noPivot: boolean;
  readonly noSyncLog: boolean;
  /** Bytes after which the monitor begins a log anew and loses what was in it; negative = never. */
  readonly logSizeMaxBytes: number;
  /** Whether the journal gets the output, too. */
  readonly journal: 'copy' | 'none';
}

/** Of a runtime, what its containers need for as long as they are there, whatever the configuration says by then. */
export type RuntimeRef = Pick<RuntimeHandler, 'name' | 'path' | 'root' | 'runtimeArgs'>;

/** What one runtime binary can do, asked once at start (`features`, else by name and version). */
export interface RuntimeFeatures {
  /** runc, crun, runsc, … */
  readonly kind: string;
  readonly version: string;
  /** The highest ociVersion it accepts in config.json. */
  readonly ociVersion: string;
  readonly recursiveReadOnlyMounts: boolean;
  readonly idmappedMounts: boolean;
  readonly userNamespaces: boolean;
  readonly seccomp: boolean;
  readonly apparmor: boolean;
  /**
   * The capabilities that it knows by name (`CAP_CHOWN`); undefined if it does not say. One that it does not know fails
   * the whole container in some runtimes.
   */
  readonly capabilities: readonly string[] | undefined;
  /**
   * Each container runs on a kernel of its own (gVisor): PID namespaces are nobody else's, the host sees one process
   * where there are many, and what an exec started is not the host's to kill.
   */
  readonly ownKernel: boolean;
  /** What is publicly known against this release, for an operator; undefined if nothing is. */
  readonly vulnerable: string | undefined;
  /** Why the runtime cannot be used at all; undefined if it can. */
  readonly broken: string | undefined;
}

/**
 * A runtime with runc's command line. Every failure carries the runtime's own words; a call that takes too long is
 * ended.
 */
export interface OciRuntime {
  readonly handler: RuntimeHandler;
  /** Cached after the first call. */
  features(op: Op): Promise<RuntimeFeatures>;
  /** `runtime start`; the runtime's own error text in the message. */
  start(op: Op, id: ContainerId): Promise<void>;
  kill(op: Op, id: ContainerId, signal: number): Promise<void>;
  /** `runtime delete --force`; content if absent, and if the runtime itself is gone from the node. */
  delete(op: Op, id: ContainerId): Promise<void>;
  /** 'absent' is an answer, not an error. */
  status(op: Op, id: ContainerId): Promise<OciStatus>;
  /**
   * Resolves when no `start` of the container that a daemon before us began is under way any more: it does not die with
   * that daemon, and what `status` says before it has ended may be true no longer after it has.
   */
  startsEnded(op: Op, id: ContainerId): Promise<void>;
  update(op: Op, id: ContainerId, resources: LinuxResources): Promise<void>;
  pause(op: Op, id: ContainerId): Promise<void>;
  resume(op: Op, id: ContainerId): Promise<void>;
  /** Every id under `--root`, for the orphan sweep. */
  list(op: Op): Promise<readonly ContainerId[]>;
  /**
   * Runs a process in the container, without a monitor: one `runtime exec`, its stdio on our descriptors.
   * Resolves with how the process ended. @throws InvalidArgument with an `exitCode` when the program cannot be run.
   * When `op.signal` fires, the process and all its descendants in the exec are killed.
   */
  exec(op: Op, id: ContainerId, process: RuntimeProcess, stdio: ExecStdio): Promise<ExitStatus>;
  /**
   * Ends the processes of execs that a daemon before us began, when the deadlines that they had are over: nobody else
   * does. Those without one go on. Resolves when there are none, or when `op.signal` fires.
   */
  endLeftExecs(op: Op): Promise<void>;
}

/** What a runtime says of a container; `absent` is an answer. The pid is 0 where there is no process. */
export type OciStatus =
  | { readonly state: 'absent' }
  | { readonly state: 'creating' | 'created' | 'running' | 'stopped' | 'paused'; readonly pid: number };

/** How a command ended. */
export interface ExitStatus {
  /** 0-255; 128 + signal when killed by one. */
  readonly exitCode: number;
}

/**
 * The caller's side of an exec. `stdin` is read with back-pressure until it ends, and its `return` wakes a `next` that
 * waits; `stdout`/`stderr` get every byte in order, and the returned promise holds the reader back. With `tty`, stdout
 * carries both. `resize` is called by the runtime side with a function that sets the size.
 */
export interface ExecStdio {
  readonly tty: boolean;
  readonly stdin: AsyncIterable<Uint8Array> | null;
  readonly stdout: ((chunk: Uint8Array) => Promise<void> | void) | null;
  readonly stderr: ((chunk: Uint8Array) => Promise<void> | void) | null;
  /**
   * What becomes of output that is written after the command has ended, by what it started in the background: `cut`
   * within moments, so that nothing keeps a caller waiting who wants the exit code, or `follow`ed until nobody holds a
   * stream that is wanted here, or `op.signal` fires. The exit code is the same.
   */
  readonly lateOutput: 'cut' | 'follow';
  /** Called once with a setter, when there is a terminal to size. */
  readonly onTerminal?: (resize: (size: TerminalSize) => void) => void;
  /** Called once when the process runs: what is left is up to it. */
  readonly onStarted?: () => void;
}

/** Size of a terminal in characters; 0 in either is no size. */
export interface TerminalSize {
  readonly width: number;
  readonly height: number;
}

/** What a monitor needs to make a container. */
export interface CreateRequest {
  readonly id: ContainerId;
  readonly runtime: OciRuntime;
  /** Human name for `conmon -n` (`k8s_ctr_pod_ns_uid_attempt`). */
  readonly name: string;
  /** Directory with config.json; the monitor's own files (pidfile, ctl, attach, …) go here too. */
  readonly bundle: string;
  /** Absolute path of the log; '' = no log file. */
  readonly logPath: string;
  readonly tty: boolean;
  readonly stdin: boolean;
  /** Close the container's stdin when the first attached client leaves. */
  readonly stdinOnce: boolean;
  /**
   * Resolves when the runtime finds config.json and the root; the monitor starts meanwhile, and waits. If it rejects,
   * so does `create`, and the monitor has ended.
   */
  readonly ready: Promise<unknown>;
}

/** How a container ended, as its monitor wrote it down. */
export interface ExitRecord {
  readonly id: ContainerId;
  readonly exitCode: number;
  readonly oomKilled: boolean;
  /** Nanoseconds since the epoch, from the exit file's mtime. */
  readonly finishedAt: bigint;
}

/** An open attach session: packets from the container, bytes to its stdin. */
export interface AttachChannel {
  readonly output: AsyncIterable<{ readonly stream: 'stdout' | 'stderr'; readonly data: Uint8Array }>;
  /** Resolves when the kernel has taken the bytes (back-pressure). */
  write(data: Uint8Array): Promise<void>;
  /** Half-close: the container's stdin sees EOF if the monitor was told so. */
  closeInput(): void;
  close(): void;
}

/** The process that outlives us: it holds a container's stdio, writes its log, and writes down how it ended. */
export interface Monitor {
  /**
   * Runs `runtime create` under a new monitor and returns the container's init process. The monitor is in its own
   * cgroup before it forks anything.
   * @throws with the runtime's own error text. On any failure nothing of the container is left but what `destroy` and
   * `runtime.delete` clean.
   */
  create(
    op: Op,
    request: CreateRequest,
  ): Promise<{ readonly process: ProcessRef; readonly monitor: ProcessRef | null }>;
  attach(op: Op, id: ContainerId, bundle: string): Promise<AttachChannel>;
  resize(bundle: string, size: TerminalSize): Promise<void>;
  /** Returns when the monitor writes to a new file at the log path (bounded wait); @throws if it does not. */
  reopenLog(op: Op, bundle: string, logPath: string): Promise<void>;
  /** Writes a line of our own to the log of a container that has no monitor any more. @throws if there is no log. */
  noteInLog(logPath: string, line: string): Promise<void>;
  /**
   * Removes the log of a container that never came to be, if nobody wrote to it: a kubelet counts restarts by the logs
   * that it finds (kuberuntime_container.go, calcRestartCountByLogDir). Content if there is none.
   */
  dropEmptyLog(logPath: string): Promise<void>;
  /** Everything already on disk first, then live; every exit at least once. Ends when `signal` fires. */
  exits(signal: AbortSignal): AsyncIterable<ExitRecord>;
  /** The exit record on disk for `id` right now. */
  exitOf(id: ContainerId): Promise<ExitRecord | undefined>;
  /**
   * Containers that a monitor of ours serves, also those of which nothing else is left: the run root may have been
   * wiped under them. Looks at every process of the node.
   */
  served(): Promise<readonly ContainerId[]>;
  /**
   * Ends the monitor of `id` if it lives still, and removes its exit file; content if there is none. The bundle
   * directory is the caller's.
   */
  destroy(op: Op, id: ContainerId, bundle: string): Promise<void>;
}

/** The kinds of namespace that a pod may have of its own, by the names of /proc/<pid>/ns. */
export type NamespaceKind = 'net' | 'ipc' | 'uts' | 'user';

/** Namespaces held open by bind mounts, so that no process has to. */
export interface Namespaces {
  /** Where `pin` pins a namespace of a sandbox. */
  pathOf(id: SandboxId, kind: NamespaceKind): string;
  /** Makes and pins namespaces of a sandbox; sysctls are set inside them, and `lo` is up. Returns a path per kind. */
  pin(op: Op, id: SandboxId, request: PinRequest): Promise<ReadonlyMap<NamespaceKind, string>>;
  /** Unpins all; content if there is none. */
  destroy(op: Op, id: SandboxId): Promise<void>;
  /** Paths of what is pinned and still a namespace, for recovery. */
  pinned(id: SandboxId): Promise<ReadonlyMap<NamespaceKind, string>>;
  list(): Promise<readonly SandboxId[]>;
}

/** The namespaces that a pod gets, and what is set in them before anybody joins. */
export interface PinRequest {
  readonly kinds: readonly NamespaceKind[];
  /** Name → value, already validated; written literally through /proc/sys inside the namespaces. */
  readonly sysctls: ReadonlyMap<string, string>;
  /** Hostname for the uts namespace; '' leaves it. */
  readonly hostname: string;
  readonly idMap: {
    readonly uids: readonly { hostId: number; containerId: number; size: number }[];
    readonly gids: readonly { hostId: number; containerId: number; size: number }[];
  } | null;
}

/** A namespace that stays the same one for as long as it is held. */
export interface HeldNamespace extends Disposable {
  /** For whoever is to join it; of no use once it is let go. */
  readonly path: string;
}

/** Processes as the kernel knows them; the real one is in pkg/sys, by pidfd. */
export interface Processes {
  /** True while exactly this process (pid and start time) exists and is no zombie. */
  alive(process: ProcessRef): boolean;
  /** Signals exactly this process through a pidfd; false if it is gone. */
  signal(process: ProcessRef, signal: number): boolean;
  /**
   * False if the kernel would throw `signal` away now: the init of a PID namespace gets only what it has a handler for,
   * SIGKILL and SIGSTOP apart (pid_namespaces(7)). A program that has just been started may have none yet.
   */
  heeds(process: ProcessRef, signal: number): boolean;
  /**
   * True if this process has executed a program of its own since it was forked. What runc, crun and youki fork for a
   * container executes nothing until it becomes the container's program.
   */
  hasExecuted(process: ProcessRef): boolean;
  /**
   * Holds the PID namespace of exactly this process open: `path` leads to it, whoever has the pid later, until it is
   * disposed of. @throws FailedPrecondition if the process is gone.
   */
  holdPidNamespace(process: ProcessRef): HeldNamespace;
  /**
   * Resolves when this process is gone (pidfd becomes readable), or when `signal` fires. Works without being the
   * parent.
   */
  gone(process: ProcessRef, signal: AbortSignal): Promise<void>;
}

/** What a container with processors of its own changes of the node, for as long as it runs. */
export interface CpuTuning {
  /** Its own processors. */
  readonly cpus: readonly number[];
  /** Those of them that interrupts are led away from. */
  readonly withoutInterrupts: readonly number[];
  /** `pm_qos_resume_latency_us`; undefined leaves it. */
  readonly resumeLatency: string | undefined;
  readonly governor: string | undefined;
  /** Cgroup (as in the spec) whose processors the scheduler balances no load on; '' = none. */
  readonly isolatedCgroup: string;
  /** Cgroups, from the top, whose CPU quota is lifted, or raised by so many processors. */
  readonly quotaCgroups: readonly string[];
  readonly quotaBy: 'all' | number;
}

/**
 * Settings of the node's processors. `journal` is a file of the container's that says what was before: it is there
 * before the first change, and until everything is as it was, so a daemon that dies in between gives back nothing less.
 */
export interface Cpus {
  /** @throws FailedPrecondition for what this node has not; nothing is changed then. */
  tune(op: Op, journal: string, tuning: CpuTuning): Promise<void>;
  /** Content if there is no journal. What cannot be given back is a warning: the processor may be gone. */
  restore(op: Op, journal: string): Promise<void>;
  /** The processors that share a core with this one, itself among them. */
  siblings(cpu: number): Promise<readonly number[]>;
}

/**
 * System calls that the seccomp profile of a container tells of: each is answered with ENOSYS. While no daemon runs,
 * the kernel answers so.
 */
export interface BlockedCalls {
  /** Where the runtime of a container finds us (`linux.seccomp.listenerPath`). */
  pathOf(id: ContainerId): string;
  /** Listens for a container and for commands in it; content if it does so already. @throws if that cannot be. */
  listen(id: ContainerId): void;
  /** Content if nobody listens. */
  close(id: ContainerId): void;
  /** Calls `told` with the name of each call from now on. */
  follow(told: (id: ContainerId, call: string) => void): void;
}

/** `count` ids from `start` on. */
export interface IdRange {
  readonly start: number;
  readonly count: number;
}

/**
 * Facts about the host that a container's spec needs, and the few host directories that pods use. Every call that may
 * touch a volume is bounded by `op` and runs where a hung file system cannot block the daemon (K14 of
 * docs/RELIABILITY.md, containerd#13867).
 */
export interface Host {
  /**
   * Looks at the source of a bind mount. A missing one is made as a directory (0755), or refused as
   * NotFound.
   * @throws DeadlineExceeded naming the path when its file system does not answer.
   */
  mountSource(op: Op, path: string, absent: 'make' | 'refuse'): Promise<MountSource>;
  /**
   * Gives files, and directories with all that is in them, an SELinux label. May take long for a large volume. @throws
   * with chcon's words.
   */
  relabel(op: Op, paths: readonly string[], label: string): Promise<void>;
  /** The SELinux label of a file, not of where a link leads. @throws as relabel. */
  labelOf(op: Op, path: string): Promise<string>;
  /**
   * Device nodes at `path`: one for a device or a link to one, all below it for a directory. @throws InvalidArgument
   * for anything else.
   */
  devices(op: Op, path: string): Promise<readonly HostDevice[]>;
  /** Every device node of the host, for privileged containers (without ptys, shm, mqueue and console). */
  allDevices(op: Op): Promise<readonly HostDevice[]>;
  /**
   * Content for a pod without DNS settings: the host's resolv.conf (systemd-resolved's real one where the stub is
   * used).
   */
  resolvConf(): Promise<string>;
  /** Content of /etc/hosts for a pod on the host's network: the host's; undefined if it has none. */
  hosts(): Promise<string | undefined>;
  hostname(): string;
  /** What /etc/subuid and /etc/subgid give a user (subuid(5)), in the order of the files. */
  subordinateIds(user: string): Promise<{ readonly uids: readonly IdRange[]; readonly gids: readonly IdRange[] }>;
  /**
   * Mounts the pod's /dev/shm (tmpfs, nosuid,nodev,noexec,mode=1777) at `path` with a size in bytes, an owner (host
   * ids) and an SELinux label ('' = none); content if mounted.
   */
  mountShm(
    op: Op,
    path: string,
    sizeBytes: bigint,
    owner: { readonly uid: number; readonly gid: number },
    label: string,
  ): Promise<void>;
  /** Unmounts whatever is mounted at `path`, with all that is mounted on that (detached); content if nothing is. */
  unmount(op: Op, path: string): Promise<void>;
  /**
   * Deletes a directory tree under Berth's own directories through openat2(RESOLVE_BENEATH), never crossing a mount;
   * content if absent. @throws if `path` is not strictly below an own root.
   */
  removeTree(op: Op, path: string): Promise<void>;
  /** Processes in the cgroup `cgroupsPath` (cgroupfs path as in the spec) and below. */
  cgroupProcesses(cgroupsPath: string): Promise<readonly number[]>;
  /**
   * Makes a cgroup of ours above a pod's containers, or takes the one that is there, and limits it: in every hierarchy
   * that containers use, unless there is no limit, since a runtime makes it then; or with systemd as a slice, whose
   * limits are in systemd's own books. @throws as writeCgroup.
   */
  ensureCgroup(op: Op, cgroupsPath: string, limits: LinuxResources): Promise<void>;
  /** Makes a cgroup for show, in one hierarchy: nobody is to live in it. Content if it is there. */
  showCgroup(op: Op, cgroupsPath: string): Promise<void>;
  /**
   * The paths of all cgroups that `wanted` picks, parents first, each once. Walks every hierarchy: for a start after
   * something went wrong.
   */
  findCgroups(op: Op, wanted: (path: string) => boolean): Promise<readonly string[]>;
  /** Daemons of ours that run beside this one, whose run root is another: what they have made is theirs. */
  otherDaemons(): Promise<number>;
  /** Kills what is left in the cgroup, then removes it with its children in every hierarchy; content if absent. */
  destroyCgroup(op: Op, cgroupsPath: string): Promise<void>;
  /**
   * Sets the OOM score of every process in the cgroup and below; those that come later inherit it. @throws
   * PermissionDenied where it would be lowered without CAP_SYS_RESOURCE.
   */
  setOomScoreAdj(op: Op, cgroupsPath: string, value: number): Promise<void>;
  /** Bytes of memory that the cgroup uses now, page cache included; undefined without a memory controller. */
  memoryUsage(cgroupsPath: string): Promise<bigint | undefined>;
  /** True if the processes of a cgroup are kept from running, by `runtime pause` or by anybody else. */
  isFrozen(cgroupsPath: string): boolean;
  /**
   * How many processes the OOM killer has taken in a cgroup and below since it was made, or in the one above it;
   * undefined if it is gone, or of version 1.
   */
  oomKills(cgroupsPath: string, which: 'own' | 'above'): bigint | undefined;
  /**
   * Writes files of the cgroup, in order; for what runtimes do not write. @throws naming the file that the kernel
   * refuses.
   */
  writeCgroup(op: Op, cgroupsPath: string, values: readonly CgroupValue[]): Promise<void>;
  /**
   * Takes the limit of processor time away from a scope that systemd made, in systemd's own books; nothing where
   * somebody else makes cgroups. @throws NotFound if there is no such scope.
   */
  liftCpuQuota(op: Op, cgroupsPath: string): Promise<void>;
  /**
   * Connects to a TCP port of the loopback, 127.0.0.1 before ::1, in the network namespace pinned at `netns`; null is
   * the host's own. The caller closes. @throws Unavailable when nobody listens on either.
   */
  dial(op: Op, netns: string | null, port: number): Promise<Connection>;
}

/** One value of a cgroup that the OCI runtime cannot be asked for. */
/** The profiles of AppArmor that the kernel has. */
export interface Profiles {
  /**
   * Content if the profile is loaded; loads it if it is one of ours, which somebody may have unloaded since the start.
   * @throws FailedPrecondition naming the profile and what to do.
   */
  require(op: Op, name: string): Promise<void>;
}

/** One file of a cgroup, and what it says or is to say. */
export interface CgroupValue {
  /** The controller whose hierarchy has the file (`hugetlb`). */
  readonly controller: string;
  /** `hugetlb.2MB.limit_in_bytes` */
  readonly file: string;
  readonly value: string;
}

/** An open TCP connection: what arrives, in order, and a way to answer. */
export interface Connection extends AsyncIterable<Uint8Array> {
  /** Resolves when the kernel has taken the bytes (back-pressure). @throws once the peer reads no more. */
  write(data: Uint8Array): Promise<void>;
  /** Half-close, after the writes so far. */
  endWrite(): Promise<void>;
  /** Whoever iterates sees the end. May be called again. */
  close(): void;
}

/** What lies at the source of a mount, looked up once: what is mounted is what was looked at. */
export interface MountSource {
  /** Links of the host followed. */
  readonly realPath: string;
  readonly kind: 'directory' | 'file' | 'other';
  /**
   * Propagation of the mount that `realPath` is on: HOST_TO_CONTAINER wants shared or slave, BIDIRECTIONAL wants
   * shared.
   */
  readonly propagation: 'private' | 'slave' | 'shared';
  /** Mount flags of that mount (`nosuid`, `nodev`, `noexec`, `ro`) that an unprivileged remount must keep. */
  readonly flags: readonly string[];
}

/** A device node of the host. */
export interface HostDevice {
  readonly path: string;
  readonly type: 'c' | 'b' | 'p';
  readonly major: number;
  readonly minor: number;
  readonly fileMode: number;
  readonly uid: number;
  readonly gid: number;
}

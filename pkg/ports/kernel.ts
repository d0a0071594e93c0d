/**
 * What pkg/sys gives to the others and takes from them: the kernel's things as values. Descriptors are numbers that
 * their holder closes, unless a thing here says that it owns one.
 */
import type { Op } from '../base/op.ts';
import type { ProcessRef } from '../base/ids.ts';

// Processes

/** How a process ended. */
export type Ending =
  | { readonly kind: 'exited'; readonly code: number }
  | { readonly kind: 'signalled'; readonly signal: number };

/** A process that is ours to wait for. */
export interface Child {
  readonly pid: number;
  readonly ref: ProcessRef;
  /** Never rejects. The process is reaped when it resolves. */
  readonly exited: Promise<Ending>;
  /** Through the pidfd: exactly this process; false when it has ended. */
  kill(signal: number): boolean;
  /** Its process group (only for a child that leads one); false when the child itself has been reaped. */
  killGroup(signal: number): boolean;
}

/**
 * A thread of ours that lives in given cgroups; children spawned through it are born there at no cost. Holds the
 * cgroups busy until closed.
 */
export interface Launcher {
  readonly id: number;
  close(): Promise<void>;
}

/** What to run, and in which surroundings. */
export interface SpawnRequest {
  /** argv[0] is the binary: an absolute path, or a name that is looked up along PATH. */
  readonly argv: readonly [string, ...string[]];
  /**
   * `KEY=value`; undefined = our own environment without what is meant for us alone (NOTIFY_SOCKET, LISTEN_*, NODE_*).
   */
  readonly env?: readonly string[] | undefined;
  readonly cwd?: string | undefined;
  /**
   * Element i becomes the child's descriptor i; every other descriptor is closed in the child. Ours stay open and ours.
   * Default: three times null.
   */
  readonly fds?: readonly (number | 'null')[] | undefined;
  /**
   * Absolute cgroup directories that the child enters before it executes. Every move costs milliseconds of latency (the
   * kernel waits for a grace period); for many children in one cgroup use a `launcher`.
   */
  readonly cgroupDirs?: readonly string[] | undefined;
  readonly launcher?: Launcher | undefined;
  /** 'group': leader of a process group of its own (default); 'session': also of a session; 'inherit': ours. */
  readonly leads?: 'group' | 'session' | 'inherit' | undefined;
  /** Best effort: a value that the kernel refuses is left out. */
  readonly oomScoreAdj?: number | undefined;
}

/** A command to run to its end, and how much of what it says is kept. */
export interface CaptureRequest extends Omit<SpawnRequest, 'fds'> {
  /** Written to stdin, then closed; undefined = /dev/null. */
  readonly stdin?: Uint8Array | string | undefined;
  /** Most bytes kept of each stream; the rest is read and dropped. */
  readonly stdoutMax: number;
  readonly stderrMax: number;
  /**
   * Which end is kept when there is more. Default: head of stdout, tail of stderr (where tools say why they failed).
   */
  readonly stdoutKeep?: 'head' | 'tail' | undefined;
  readonly stderrKeep?: 'head' | 'tail' | undefined;
  /** What becomes of it when we die: it is killed with all that it has started (default), or goes on. */
  readonly withoutUs?: 'is killed' | 'goes on' | undefined;
  /** Descriptors 3, 4, … of the child. */
  readonly extraFds?: readonly number[] | undefined;
  /** Names the command in errors ("runc create"); default: the binary. */
  readonly what?: string | undefined;
}

/** How a command ended and what it said. */
export interface Captured {
  /** 0-255; 128 + signal when a signal ended it. */
  readonly exitCode: number;
  readonly signal: number | null;
  readonly stdout: Buffer;
  readonly stderr: Buffer;
  /** True if the stream had more bytes than are kept. */
  readonly stdoutCut: boolean;
  readonly stderrCut: boolean;
}

/** Somebody waits for an orphan that is about to become our child. */
export interface OrphanClaim {
  /**
   * The process `pid` as a Child: its exit is ours to learn. It may have ended already. undefined if there is no such
   * process, or it is a child of somebody else.
   */
  adopt(pid: number): Child | undefined;
  /** Over, with or without an orphan. May be called again. */
  close(): void;
}

// Descriptors

/**
 * Bytes (or, on a SOCK_SEQPACKET descriptor, packets) in and out, with the kernel's back-pressure. Owns its descriptor.
 */
export interface FdStream extends AsyncIterable<Buffer> {
  readonly fd: number;
  /**
   * The next bytes or the next packet; null at the end: EOF, EIO of a terminal whose other side is gone, or after
   * close(). One reader at a time.
   */
  read(): Promise<Buffer | null>;
  /**
   * Resolves when the kernel has taken every byte; writes queue in order. A packet goes out whole.
   * @throws FailedPrecondition (cause EPIPE) when nobody reads any more; Cancelled when the stream is closed meanwhile.
   */
  write(data: Uint8Array): Promise<void>;
  /** Half-close of a socket, after the writes so far: the peer sees EOF. Nothing on a pipe or terminal. */
  endWrite(): Promise<void>;
  /** Closes the descriptor; a waiting read gives null. May be called again. */
  close(): void;
}

/** Types of unix sockets, unix(7). */
export type SocketType = 'stream' | 'seqpacket' | 'datagram';

/** A listening unix socket. */
export interface UnixListener {
  /** The next connection as a descriptor; null once `signal` fires or the listener is closed. */
  accept(signal: AbortSignal): Promise<number | null>;
  /** Closes; the socket file stays. */
  close(): void;
}

/** Where a runtime sends a descriptor: of the terminal it made (`--console-socket`), of a seccomp listener. */
export interface DescriptorSocket {
  /**
   * The first descriptor of the next connection; null once `signal` fires or the socket is closed. @throws if that
   * one sends none.
   */
  receive(signal: AbortSignal): Promise<number | null>;
  close(): void;
}

/** System calls of a seccomp filter that are told of. */
export interface CallWatch {
  close(): void;
}

/** What happened in a watched directory. */
export type DirectoryEvent =
  /** A name appeared (made or moved here), or a file here was closed after writing: read it (again). */
  | { readonly kind: 'changed'; readonly name: string }
  | { readonly kind: 'removed'; readonly name: string }
  /** Events were lost: read the whole directory. */
  | { readonly kind: 'overflow' }
  /** The directory itself was removed, moved or unmounted; nothing more will come. */
  | { readonly kind: 'gone' };

/** An inotify watch; close it. */
export interface DirectoryWatch {
  close(): void;
}

/** A held lock; the kernel drops it when we die. */
export interface FileLock {
  release(): void;
}

// Files

/** What an object in a file system is. */
export type FileKind = 'file' | 'directory' | 'symlink' | 'character' | 'block' | 'fifo' | 'socket';

/** An object as it is, links not followed at the end. */
export interface Stat {
  readonly kind: FileKind;
  /** Permission bits with setuid, setgid, sticky (07777). */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  readonly size: bigint;
  readonly links: number;
  readonly inode: bigint;
  readonly device: bigint;
  /** Of a device node; major * 2^32 + minor is never packed by hand: use major and minor. */
  readonly major: number;
  readonly minor: number;
  /** Nanoseconds since the epoch. */
  readonly modifiedAt: bigint;
  readonly changedAt: bigint;
  readonly allocatedBytes: bigint;
  readonly mountId: bigint;
  readonly isMountRoot: boolean;
}

/** A string (UTF-8), or bytes taken literally: names in layers need not be UTF-8. A NUL inside is refused (EINVAL). */
export type Text = string | Uint8Array;

/**
 * 'strict': every link on the way is refused (ELOOP), `..` too, and no mount is crossed: for trees that must be exactly
 * what we made. 'chroot': links and `..` resolve as if the root were `/`; magic links are refused, mounts are not
 * crossed: for what runs as a container's root.
 */
export type Resolution = 'strict' | 'chroot';

/** What every entry of a layer has. */
export interface EntryMeta {
  /** Permission bits with setuid, setgid, sticky (07777). */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
  /** Modification time: whole seconds (may be negative) and nanoseconds 0..999999999. */
  readonly seconds: number;
  readonly nanoseconds: number;
  /** Name, value, name, value, …; values are binary. */
  readonly xattrs: readonly Text[];
}

/** An entry of a layer with its content, but for files too large to hold. */
export type Entry = EntryMeta &
  (
    | { readonly kind: 'file'; readonly content: Uint8Array }
    | { readonly kind: 'directory' | 'fifo' }
    | { readonly kind: 'symlink'; readonly target: Text }
    | { readonly kind: 'character' | 'block'; readonly major: number; readonly minor: number }
  );

/** A name in a directory. */
export interface ListedName {
  /** The bytes of the name. */
  readonly name: Buffer;
  /** undefined where the file system does not say without a stat. */
  readonly kind: FileKind | undefined;
}

/** A host path looked at on a thread of its own, so that a dead file system costs that thread, not the daemon. */
export interface ProbedPath {
  /** Links followed. */
  readonly realPath: string;
  readonly stat: Stat;
}

/** A device node or FIFO of the host. */
export interface DeviceNode {
  readonly path: string;
  readonly kind: Extract<FileKind, 'character' | 'block' | 'fifo'>;
  readonly major: number;
  readonly minor: number;
  /** Permission bits. */
  readonly mode: number;
  readonly uid: number;
  readonly gid: number;
}

/** Size and kind of a file system. */
export interface FileSystemStat {
  /** The kernel's magic number: 0xEF53 ext4, 0x58465342 xfs, 0x01021994 tmpfs, 0x6E736673 ns, … */
  readonly type: number;
  readonly blockBytes: bigint;
  readonly totalBytes: bigint;
  readonly freeBytes: bigint;
  /** What those without privilege may still use. */
  readonly availableBytes: bigint;
  readonly inodes: bigint;
  readonly inodesFree: bigint;
}

/**
 * Many small files as one text: the first is text[0, lengths[0]), and so on. A negative length is one that could not be
 * read.
 */
export interface KernelFiles {
  /** One character per byte. */
  readonly text: string;
  readonly lengths: Int32Array;
}

/** Files in one directory. */
export interface FilesIn {
  readonly directory: string;
  /** Separated by line feeds. */
  readonly names: string;
  /** Path of the network namespace in which the directory looks as it is wanted; for /proc/thread-self/net. */
  readonly netns?: string | undefined;
}

/** Files that belong together, as those of one cgroup: they are kept by the identity of this object. */
export interface FileGroup {
  /** Asked for when they are opened. */
  readonly files: () => readonly FilesIn[];
  /** How many they are. */
  readonly count: number;
}

// Mounts and namespaces

/** One line of /proc/<pid>/mountinfo (proc(5)), escapes undone. */
export interface MountEntry {
  readonly id: number;
  readonly parentId: number;
  readonly major: number;
  readonly minor: number;
  /** The directory of the file system that is the root of this mount. */
  readonly root: string;
  readonly mountPoint: string;
  /** Per mount: `ro`, `nosuid`, … */
  readonly options: readonly string[];
  /** Peer groups; undefined where the mount has no such tag. */
  readonly sharedWith: number | undefined;
  readonly slaveOf: number | undefined;
  readonly unbindable: boolean;
  readonly fsType: string;
  readonly source: string;
  /** Per superblock. */
  readonly superOptions: readonly string[];
}

/** Per-mount attributes, as mount(8) names them. */
export type MountAttribute =
  | 'ro'
  | 'nosuid'
  | 'nodev'
  | 'noexec'
  | 'noatime'
  | 'nodiratime'
  | 'nosymfollow'
  | 'strictatime'
  | 'relatime';

/** Mount propagation, mount_namespaces(7). */
export type Propagation = 'private' | 'slave' | 'shared' | 'unbindable';

/** An overlay to mount. */
export interface OverlayRequest {
  /** Absolute paths, topmost layer first (as overlayfs orders lowerdir); at most 128. */
  readonly lower: readonly string[];
  /** Upper and work directory, on one file system; null = read-only overlay. */
  readonly writable: { readonly upper: string; readonly work: string } | null;
  readonly target: string;
  /** `metacopy=on`, `volatile`, `index=off`, `ro`, `nodev`, … */
  readonly options: readonly string[];
  /** A user namespace (descriptor) whose maps the lower layers are mounted with; needs kernel 5.19. */
  readonly usernsFd?: number | undefined;
  /** 'classic': mount(2), as on kernels before 6.7, whatever this kernel has. Default: the best it has. */
  readonly method?: 'best' | 'classic';
}

/** A bind mount to make. */
export interface BindRequest {
  readonly source: string;
  readonly target: string;
  /**
   * 'one': the mount that source is on; 'tree': with everything mounted below it. Attributes and propagation apply to
   * the same extent.
   */
  readonly extent: 'one' | 'tree';
  /** Attributes added to those that the source has. */
  readonly attributes?: readonly MountAttribute[];
  readonly propagation?: Propagation;
  readonly usernsFd?: number | undefined;
}

/** Namespaces to make and pin. */
export interface NewNamespaces {
  /** By kind (`net`, `ipc`, `uts`), the file to pin it at, which is not there yet. */
  readonly paths: ReadonlyMap<string, string>;
  /** '' = the host's. */
  readonly hostname: string;
  readonly sysctls: ReadonlyMap<string, string>;
}

// Control groups

/** Which hierarchies a node mounts: version 1 only, both, or version 2 only. */
export type CgroupMode = 'v1' | 'hybrid' | 'v2';

/** One mounted hierarchy of control groups. */
export interface CgroupHierarchy {
  readonly version: 1 | 2;
  readonly mountPoint: string;
  /**
   * Controllers of this hierarchy (`memory`; v1 may have several), or `name=systemd` for a named one. On v2 those that
   * are available at its root.
   */
  readonly controllers: readonly string[];
}

/** All hierarchies of a node, found once: they do not change while it runs. */
export interface CgroupLayout {
  readonly mode: CgroupMode;
  readonly hierarchies: readonly CgroupHierarchy[];
  /**
   * The controllers that containers can be limited with, without named ones: on a hybrid node those of version 1, since
   * runtimes leave what is in the unified tree alone there.
   */
  readonly controllers: ReadonlySet<string>;
}

// The service manager

/** A property of a unit: its type as D-Bus writes it (`t`, `as`), and a value of that type. */
export interface UnitProperty {
  readonly type: string;
  readonly value: UnitValue;
}

/** What properties hold: 64-bit numbers are bigints. */
export type UnitValue = string | number | bigint | boolean | readonly UnitValue[] | UnitProperty;

/** Properties of a unit by name, as org.freedesktop.systemd1(5) has them. */
export type UnitProperties = Readonly<Record<string, UnitProperty>>;

/** systemd, as far as it makes cgroups for us. */
export interface ServiceManager {
  /**
   * A transient scope with these processes in it, or a slice with none; resolves when it is there. One of the same name
   * that has failed is forgotten first. @throws AlreadyExists if one runs; Unavailable if systemd does not answer.
   */
  start(op: Op, name: string, pids: readonly number[], properties: UnitProperties): Promise<void>;
  /** Stops a unit with all that is in it; resolves when it is gone. Content if there is none. */
  stop(op: Op, name: string): Promise<void>;
  /** Changes a unit until it ends. @throws NotFound if there is none; InvalidArgument with systemd's words. */
  setProperties(op: Op, name: string, properties: UnitProperties): Promise<void>;
}

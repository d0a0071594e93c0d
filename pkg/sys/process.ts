/**
 * Processes that are not our children, network namespaces entered for a moment, host paths looked at without risk, and
 * what this node and this daemon may do (NodeFacts).
 */
import { constants, readdirSync, readFileSync } from 'node:fs';
import { constants as os, machine, release } from 'node:os';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import type { ProcessRef } from '../base/ids.ts';
import { abortError, checkAlive, type Op } from '../base/op.ts';
import { abortable, Gate } from '../base/sync.ts';
import { addon, attempt, attemptAsync, errnoBehind, systemError } from './addon.ts';
import type { NodeFacts } from '../ports/spec.ts';
import { readCgroupLayoutSync, hasSwapAccounting } from './cgroup.ts';
import { closeFd } from './fd.ts';
import { toStat, type FileKind, type Stat } from './root.ts';

/**
 * PURE. The fields of /proc/<pid>/stat that identify a process; undefined if the text is none. The name in parentheses
 * may contain anything, also parentheses.
 */
export function parseProcStat(text: string):
  | {
      readonly pid: number;
      readonly state: string;
      readonly parentPid: number;
      readonly session: number;
      readonly startTicks: bigint;
    }
  | undefined {
  const fields = text.slice(text.lastIndexOf(')') + 2).split(' ');
  const pid = Number.parseInt(text, 10);
  const [state, parent, , session] = fields;
  // Field 22 of proc(5); the list here begins with field 3.
  const startTicks = fields[19];
  if (
    !Number.isInteger(pid) ||
    state === undefined ||
    parent === undefined ||
    session === undefined ||
    startTicks === undefined ||
    !/^\d+$/.test(startTicks)
  )
    return undefined;
  return { pid, state, parentPid: Number(parent), session: Number(session), startTicks: BigInt(startTicks) };
}

function procStat(pid: number): ReturnType<typeof parseProcStat> {
  try {
    return parseProcStat(readFileSync(`/proc/${pid}/stat`, 'latin1'));
  } catch (error) {
    if (['ENOENT', 'ESRCH'].includes(errnoOf(error) ?? '')) return undefined;
    throw error;
  }
}

/** The process that has this pid right now (a zombie too); undefined if none has. */
export function processRef(pid: number): ProcessRef | undefined {
  if (!Number.isInteger(pid) || pid <= 0) return undefined;
  const stat = procStat(pid);
  return stat === undefined ? undefined : { pid, startTicks: stat.startTicks };
}

/** True while exactly this process exists and is no zombie. */
export function isAlive(ref: ProcessRef): boolean {
  const stat = procStat(ref.pid);
  return stat !== undefined && stat.startTicks === ref.startTicks && stat.state !== 'Z' && stat.state !== 'X';
}

/**
 * Signals exactly this process, through a pidfd opened and then compared; false if it is gone. @throws InvalidArgument
 * for a bad signal, PermissionDenied.
 */
export function signalProcess(ref: ProcessRef, signal: number): boolean {
  const pidfd = openProcess(ref);
  if (pidfd === undefined) return false;
  try {
    attempt(`send signal ${signal} to process ${ref.pid}`, (native) => native.pidfdSignalSync(pidfd, signal));
    return true;
  } catch (error) {
    if (errnoBehind(error) === 'ESRCH') return false;
    throw error;
  } finally {
    closeFd(pidfd);
  }
}

/** False if the kernel would throw `signal` away now; see parseHeeds. True for a process that is gone. */
export function heedsSignal(ref: ProcessRef, signal: number): boolean {
  // In this order: handlers that are read after the program was seen to run are its own.
  const stat = text(`/proc/${ref.pid}/stat`);
  return parseHeeds(stat, text(`/proc/${ref.pid}/status`), signal);
}

/** The process was forked and has not called execve since (PF_FORKNOEXEC of linux/sched.h). */
const FORKED_ONLY = 0x40;

/**
 * PURE. Whether a signal from outside reaches the program of the process whose /proc/<pid>/stat and status, read in
 * this order, these are. Only the init of a PID namespace is deaf: to what it neither handles nor blocks (a blocked
 * signal is kept), except SIGKILL and SIGSTOP (pid_namespaces(7)). As long as an OCI runtime prepares the container, or
 * its execve is under way, the program does not run yet, and what the runtime handles (one in Go: everything) it drops.
 */
export function parseHeeds(stat: string, status: string, signal: number): boolean {
  const isInit = /^NSpid:.*\s1$/m.test(status);
  if (!isInit || signal === os.signals.SIGKILL || signal === os.signals.SIGSTOP) return true;
  // Fields 9 (flags) and 26 (startcode, 0 until execve has loaded the program) of proc_pid_stat(5); the list here
  // begins with field 3.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  if ((Number(fields[6]) & FORKED_ONLY) !== 0 || fields[23] === '0') return false;
  const bit = 1n << BigInt(signal - 1);
  return ['SigCgt', 'SigBlk'].some(
    (row) => (BigInt(`0x${new RegExp(`^${row}:\\s*([0-9a-f]+)$`, 'm').exec(status)?.[1] ?? '0'}`) & bit) !== 0n,
  );
}

/**
 * Resolves when this process has ended (it may still be a zombie), or when `signal` fires. Works for anybody's child.
 */
export async function waitGone(ref: ProcessRef, signal: AbortSignal): Promise<void> {
  const pidfd = openProcess(ref);
  if (pidfd === undefined) return;
  try {
    await untilReady(pidfd, 'readable', signal);
  } finally {
    closeFd(pidfd);
  }
}

/** Or until the signal fires. */
async function untilReady(fd: number, event: 'readable' | 'writable', signal: AbortSignal): Promise<void> {
  const { promise, resolve } = Promise.withResolvers<void>();
  const finish = (): void => resolve();
  const watch = addon().watch(fd, finish);
  try {
    addon().arm(watch, event === 'readable' ? 1 : 2);
    signal.addEventListener('abort', finish, { once: true });
    if (!signal.aborted) await promise;
  } finally {
    signal.removeEventListener('abort', finish);
    addon().unwatch(watch);
  }
}

/**
 * A pidfd of exactly this process: whoever has the pid when the descriptor exists keeps it, so comparing afterwards is
 * enough.
 */
function openProcess(ref: ProcessRef): number | undefined {
  let pidfd: number;
  try {
    pidfd = attempt(`open process ${ref.pid}`, (native) => native.pidfdOpenSync(ref.pid));
  } catch (error) {
    if (['ESRCH', 'EINVAL'].includes(errnoBehind(error) ?? '')) return undefined;
    throw error;
  }
  let exact = false;
  try {
    exact = isAlive(ref);
  } finally {
    if (!exact) closeFd(pidfd);
  }
  return exact ? pidfd : undefined;
}

/** Orphans among our descendants become our children instead of init's (prctl PR_SET_CHILD_SUBREAPER). */
export function becomeSubreaper(): void {
  attempt('become a subreaper', (native) => native.setSubreaperSync());
}

/**
 * Gives the event loop precedence over our other threads, which read, unpack and delete: it is what every call waits
 * for. Not over containers and their monitors, which the kernel weighs by cgroup; and nothing that we start inherits
 * it. @throws PermissionDenied without CAP_SYS_NICE.
 */
export function favourEventLoop(): void {
  attempt('favour the event loop', (native) => native.favourThreadSync(EVENT_LOOP_NICE));
}

/** Nine times the weight of a thread at 0 (sched(7), setpriority(2)). */
const EVENT_LOOP_NICE = -10;

export interface NewNamespaces {
  /** By kind (`net`, `ipc`, `uts`), the file to pin it at, which is not there yet. */
  readonly paths: ReadonlyMap<string, string>;
  /** '' = the host's. */
  readonly hostname: string;
  readonly sysctls: ReadonlyMap<string, string>;
}

/**
 * Makes namespaces on a thread of the addon's, which is in them for that moment, and pins them by bind mounts: all or
 * none. `lo` is up in a network namespace.
 * @throws InvalidArgument for a sysctl that the kernel does not take, or that is not of a namespace made here.
 */
export async function pinNamespaces({ paths, hostname, sysctls }: NewNamespaces): Promise<void> {
  const doing = "make the pod's namespaces";
  try {
    await addon().pinNamespaces(
      [...paths.keys()],
      [...paths.values()],
      hostname,
      [...sysctls.keys()],
      [...sysctls.values()],
    );
  } catch (error) {
    if (error instanceof Error && (error as { syscall?: unknown }).syscall === 'sysctl')
      throw new RuntimeError('InvalidArgument', `${doing}: ${error.message}`, { cause: error });
    throw systemError(error, doing);
  }
}

/**
 * A TCP connection made inside the network namespace at `netns`, as a descriptor for openStream. Addresses (literal
 * IPv4 or IPv6) are tried in order.
 * @throws Unavailable when nobody listens on any of them, or takes the connection within `timeoutMs`.
 */
export async function connectInNetns(
  op: Op,
  netns: string,
  addresses: readonly [string, ...string[]],
  port: number,
  timeoutMs = 10_000,
): Promise<number> {
  let failure: unknown;
  for (const address of addresses) {
    try {
      return await connectTo(op, netns, address, port, timeoutMs);
    } catch (error) {
      if (op.signal.aborted) throw error;
      failure ??= error;
    }
  }
  throw failure;
}

async function connectTo(op: Op, netns: string, address: string, port: number, timeoutMs: number): Promise<number> {
  const doing = `connect to ${address} port ${port} in ${netns}`;
  const fd = await attemptAsync(doing, (native) => native.connectInNetns(netns, address, port));
  try {
    await untilReady(fd, 'writable', AbortSignal.any([op.signal, AbortSignal.timeout(timeoutMs)]));
    checkAlive(op, doing);
    attempt(doing, (native) => native.connectOutcomeSync(fd));
    return fd;
  } catch (error) {
    closeFd(fd);
    throw error;
  }
}

/**
 * Open descriptors of these processes together, and how many of them are sockets; a process that is gone counts
 * nothing.
 */
export async function countFds(
  pids: readonly number[],
): Promise<{ readonly descriptors: number; readonly sockets: number }> {
  const [descriptors = 0n, sockets = 0n] = await attemptAsync('count open descriptors', (native) =>
    native.countFds(pids),
  );
  return { descriptors: Number(descriptors), sockets: Number(sockets) };
}

/** A host path looked at on a thread of its own, so that a dead file system costs that thread, not the daemon. */
export interface ProbedPath {
  /** Links followed. */
  readonly realPath: string;
  readonly stat: Stat;
}

/**
 * One pod may name hundreds of paths of a volume that is dead: each holds a thread for as long as it is, and other work
 * needs threads too.
 */
const probes = new Gate(16);

/**
 * Looks at a host path, links followed; with 'make', missing directories are made (0755). undefined if absent.
 * @throws DeadlineExceeded or Cancelled naming the path when its file system does not answer in time.
 */
export async function probePath(op: Op, path: string, absent: 'make' | 'report'): Promise<ProbedPath | undefined> {
  const doing = `stat ${path}`;
  op.stage(doing);
  const work = probes.run(() => attemptAsync(doing, (native) => native.probe(path, absent === 'make' ? 1 : 0)));
  const found = await abortable(work, op.signal, () =>
    abortError(op, `${doing}: its file system does not answer; check the volume behind it`),
  );
  return found === undefined ? undefined : { realPath: found[1].toString(), stat: toStat(found[0]) };
}

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

/**
 * Device nodes at `path` (a device, or a link to one: under the name given) or below it (a directory, links inside not
 * followed). @throws InvalidArgument for anything else, NotFound.
 */
export async function listDevices(op: Op, path: string): Promise<DeviceNode[]> {
  const probed = await probePath(op, path, 'report');
  if (probed === undefined) throw new RuntimeError('NotFound', `device ${path} does not exist on this node`);
  const { stat } = probed;
  if (stat.kind === 'character' || stat.kind === 'block')
    return [
      { path, kind: stat.kind, major: stat.major, minor: stat.minor, mode: stat.mode, uid: stat.uid, gid: stat.gid },
    ];
  if (stat.kind !== 'directory')
    throw new RuntimeError('InvalidArgument', `${path} is neither a device nor a directory of devices`);
  const [numbers, names] = await attemptAsync(`list devices in ${path}`, (native) => native.devices(probed.realPath));
  const kinds: ReadonlyMap<number, DeviceNode['kind']> = new Map([
    [constants.S_IFCHR, 'character'],
    [constants.S_IFBLK, 'block'],
    [constants.S_IFIFO, 'fifo'],
  ]);
  return names
    .toString()
    .split('\0')
    .slice(0, -1)
    .map((name, index) => {
      const [kind = 0, major = 0, minor = 0, mode = 0, uid = 0, gid = 0] = Array.from(
        numbers.subarray(index * 6, index * 6 + 6),
        Number,
      );
      return {
        path: probed.realPath === path ? name : path + name.slice(probed.realPath.length),
        kind: kinds.get(kind) ?? 'character',
        major,
        minor,
        mode,
        uid,
        gid,
      };
    });
}

/** Looks at the node once. Reads /proc and /sys only. */
export function nodeFacts(cgroupManager: 'cgroupfs' | 'systemd'): NodeFacts {
  const layout = readCgroupLayoutSync();
  const status = text('/proc/self/status');
  const capabilities = parseCapabilities(
    /^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0',
    Number.parseInt(text('/proc/sys/kernel/cap_last_cap'), 10),
  );
  const unlimited = capabilities.has('CAP_SYS_RESOURCE');
  return {
    cgroupMode: layout.mode,
    cgroupManager,
    controllers: layout.controllers,
    swapLimit: hasSwapAccounting(layout),
    capabilities,
    oomScoreAdjMin: unlimited ? -1000 : Number.parseInt(text('/proc/self/oom_score_adj'), 10) || 0,
    rlimitMax: unlimited ? new Map() : parseLimits(text('/proc/self/limits')),
    apparmor: text('/sys/module/apparmor/parameters/enabled').startsWith('Y'),
    selinux: text('/proc/filesystems').includes('\tselinuxfs\n') && text('/sys/fs/selinux/enforce') !== '',
    seccomp: /^Seccomp:/m.test(status) && text('/proc/sys/kernel/seccomp/actions_avail') !== '',
    machine: machine(),
    kernel: release(),
    hugepageSizes: hugepageSizes(names('/sys/kernel/mm/hugepages')),
    maskedPaths: maskedPaths(names('/sys/devices/system/cpu'), (path) => names(path).length > 0),
  };
}

/**
 * PURE. Host paths that no container may see beside the fixed ones: what a CPU tells of its throttling, which is a side
 * channel. `cpus` are the names in /sys/devices/system/cpu, `exists` tells whether a directory is there.
 */
export function maskedPaths(cpus: readonly string[], exists: (path: string) => boolean): string[] {
  return cpus
    .filter((name) => /^cpu\d+$/.test(name))
    .map((name) => `/sys/devices/system/cpu/${name}/thermal_throttle`)
    .filter(exists);
}

/** capability(7), in order of their numbers. */
const CAPABILITIES: readonly string[] = (
  'CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE ' +
  'NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW ' +
  'IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE SYS_PACCT SYS_ADMIN SYS_BOOT ' +
  'SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD ' +
  'LEASE AUDIT_WRITE AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM ' +
  'BLOCK_SUSPEND AUDIT_READ PERFMON BPF CHECKPOINT_RESTORE'
)
  .split(' ')
  .map((name) => `CAP_${name}`);

/** PURE. Names in a capability mask (hexadecimal, as in /proc/<pid>/status), up to the kernel's last one. */
export function parseCapabilities(mask: string, last: number): Set<string> {
  const bits = BigInt(`0x${mask}`);
  return new Set(CAPABILITIES.filter((_, number) => number <= last && ((bits >> BigInt(number)) & 1n) === 1n));
}

/** The rows of /proc/<pid>/limits by their RLIMIT name. */
const LIMIT_ROWS: readonly (readonly [row: string, name: string])[] = [
  ['Max cpu time', 'RLIMIT_CPU'],
  ['Max file size', 'RLIMIT_FSIZE'],
  ['Max data size', 'RLIMIT_DATA'],
  ['Max stack size', 'RLIMIT_STACK'],
  ['Max core file size', 'RLIMIT_CORE'],
  ['Max resident set', 'RLIMIT_RSS'],
  ['Max processes', 'RLIMIT_NPROC'],
  ['Max open files', 'RLIMIT_NOFILE'],
  ['Max locked memory', 'RLIMIT_MEMLOCK'],
  ['Max address space', 'RLIMIT_AS'],
  ['Max file locks', 'RLIMIT_LOCKS'],
  ['Max pending signals', 'RLIMIT_SIGPENDING'],
  ['Max msgqueue size', 'RLIMIT_MSGQUEUE'],
  ['Max nice priority', 'RLIMIT_NICE'],
  ['Max realtime priority', 'RLIMIT_RTPRIO'],
  ['Max realtime timeout', 'RLIMIT_RTTIME'],
];

/** PURE. Hard limits of /proc/<pid>/limits that are limits at all (unlimited ones are left out). */
export function parseLimits(limits: string): Map<string, bigint> {
  const found = new Map<string, bigint>();
  for (const line of limits.split('\n')) {
    const row = LIMIT_ROWS.find(([title]) => line.startsWith(`${title} `));
    const hard = row === undefined ? undefined : /^\S+\s+(\d+)\b/.exec(line.slice(row[0].length).trimStart())?.[1];
    if (row !== undefined && hard !== undefined) found.set(row[1], BigInt(hard));
  }
  return found;
}

/** PURE. `hugepages-2048kB` → `2MB`, as the hugetlb cgroup and CRI name sizes; ascending. */
export function hugepageSizes(directories: readonly string[]): string[] {
  const kilobytes = directories
    .flatMap((name) => /^hugepages-(\d+)kB$/.exec(name)?.[1] ?? [])
    .map(Number)
    .sort((a, b) => a - b);
  return kilobytes.map((kb) =>
    kb >= 1 << 20 ? `${kb / (1 << 20)}GB` : kb >= 1 << 10 ? `${kb / (1 << 10)}MB` : `${kb}KB`,
  );
}

/** A small kernel file; '' where the kernel does not have it. */
function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

function names(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

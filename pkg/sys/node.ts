/** What this node and this daemon may do (NodeFacts), looked up once. */
import { readdirSync, readFileSync } from 'node:fs';
import { machine, release } from 'node:os';
import type { NodeFacts } from '../ports/spec.ts';
import { attempt } from './addon.ts';
import { hasSwapAccounting, readLayoutSync } from './cgroups.ts';
import { ownService } from './systemd.ts';

/** Looks at the node once. Reads /proc and /sys only. */
export function nodeFacts(cgroupManager: 'cgroupfs' | 'systemd'): NodeFacts {
  const layout = readLayoutSync();
  const status = text('/proc/self/status');
  const capabilities = parseCapabilities(
    /^CapBnd:\s*([0-9a-f]+)$/m.exec(status)?.[1] ?? '0',
    Number.parseInt(text('/proc/sys/kernel/cap_last_cap'), 10),
  );
  const unlimited = capabilities.has('CAP_SYS_RESOURCE');
  return {
    cgroupMode: layout.mode,
    cgroupManager,
    ownService: ownService(),
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
    tellsFips: text('/proc/sys/crypto/fips_enabled') !== '',
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

function names(path: string): string[] {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
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

/** A small kernel file; '' where the kernel does not have it. */
function text(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

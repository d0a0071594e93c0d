/**
 * Seccomp: the built-in default profile as data, and the resolution of any profile (ours, a file's) for one container.
 * PURE.
 *
 * A profile is the JSON format that Docker, Podman and Kubernetes share: rules with conditions on capabilities,
 * architecture and kernel. The OCI spec has no conditions, so they are decided here, for the capabilities that this
 * container really gets.
 */
import type { LinuxSeccomp, LinuxSyscall } from '../oci/spec-types.ts';

/** A profile after parsing. Conditions: a rule holds when all of `includes` and none of `excludes` hold. */
export interface SeccompProfile {
  readonly defaultAction: string;
  readonly defaultErrnoRet?: number | undefined;
  readonly architectures?: readonly string[] | undefined;
  readonly archMap?:
    | readonly { readonly architecture: string; readonly subArchitectures: readonly string[] }[]
    | undefined;
  readonly flags?: readonly string[] | undefined;
  readonly listenerPath?: string | undefined;
  readonly listenerMetadata?: string | undefined;
  readonly syscalls: readonly SeccompRule[];
}
export interface SeccompRule {
  readonly names: readonly string[];
  readonly action: string;
  readonly errnoRet?: number | undefined;
  readonly args?: readonly SeccompArg[] | undefined;
  readonly includes?: SeccompCondition | undefined;
  readonly excludes?: SeccompCondition | undefined;
}
export interface SeccompArg {
  readonly index: number;
  readonly value: number | bigint;
  readonly valueTwo?: number | bigint | undefined;
  readonly op: string;
}
export interface SeccompCondition {
  readonly caps?: readonly string[] | undefined;
  readonly arches?: readonly string[] | undefined;
  /** `4.8` */
  readonly minKernel?: string | undefined;
}

// The default profile

const ALLOW = 'SCMP_ACT_ALLOW';
const ERRNO = 'SCMP_ACT_ERRNO';
const EPERM = 1;
const EINVAL = 22;
const ENOSYS = 38;

/**
 * clone(2) flags that make a namespace; NEWTIME shares its bit with the exit signal and is for unshare and clone3 only.
 */
const CLONE_NEW = {
  NS: 0x20000,
  CGROUP: 0x2000000,
  UTS: 0x4000000,
  IPC: 0x8000000,
  USER: 0x10000000,
  PID: 0x20000000,
  NET: 0x40000000,
};
const CLONE_NEW_ANY = Object.values(CLONE_NEW).reduce((mask, flag) => mask + flag, 0);

/**
 * What every container may call: everything that acts on the caller's own processes, memory, files and sockets. Grouped
 * for reading only.
 */
const ALWAYS: readonly string[] = [
  // files by path
  'access chdir chmod chown chown32 creat faccessat faccessat2 fchmodat fchmodat2 fchownat ' +
    'file_getattr file_setattr fstatat64 futimesat getcwd lchown lchown32 link linkat',
  'lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 ' +
    'readlink readlinkat rename renameat renameat2 rmdir stat stat64 statfs statfs64',
  'statx symlink symlinkat truncate truncate64 unlink unlinkat utime utimensat utimensat_time64 utimes',
  // extended attributes
  'fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr ' +
    'listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat',
  // open files
  'cachestat close close_range copy_file_range dup dup2 dup3 fadvise64 fadvise64_64 fallocate ' +
    'fchdir fchmod fchown fchown32 fcntl fcntl64 fdatasync flock fstat fstat64',
  'fstatfs fstatfs64 fsync ftruncate ftruncate64 getdents getdents64 ioctl _llseek lseek ' +
    'memfd_create memfd_secret pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read',
  'readahead readdir readv sendfile sendfile64 splice sync sync_file_range syncfs tee umask write writev',
  // waiting and notification
  'epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait ' +
    'epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1',
  'inotify_rm_watch _newselect poll ppoll ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4',
  // asynchronous I/O of the old kind; io_uring is left out on purpose: it goes round seccomp
  'io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit ioprio_get ioprio_set',
  // memory
  'brk get_mempolicy madvise map_shadow_stack mbind membarrier mincore mlock mlock2 mlockall ' +
    'mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free',
  'pkey_mprotect process_mrelease remap_file_pages set_mempolicy set_mempolicy_home_node',
  // processes and threads
  'execve execveat exit exit_group fork getcpu get_robust_list get_thread_area getpgid getpgrp ' +
    'getpid getppid getpriority getrlimit getrusage getsid gettid kill pause pidfd_getfd',
  'pidfd_open pidfd_send_signal prctl prlimit64 process_vm_readv process_vm_writev ptrace ' +
    'restart_syscall rseq sched_get_priority_max sched_get_priority_min sched_getaffinity',
  'sched_getattr sched_getparam sched_getscheduler sched_rr_get_interval ' +
    'sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam ' +
    'sched_setscheduler sched_yield',
  'set_robust_list set_thread_area set_tid_address setpgid setpriority setrlimit setsid ' +
    'syscall tgkill tkill ugetrlimit vfork wait4 waitid waitpid',
  // identity
  'capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 ' +
    'getresgid getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid',
  'setfsuid32 setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 ' +
    'setresuid setresuid32 setreuid setreuid32 setuid setuid32',
  // sandboxing oneself further
  'landlock_add_rule landlock_create_ruleset landlock_restrict_self lsm_get_self_attr lsm_list_modules seccomp',
  // signals
  'rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend ' +
    'rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaction sigaltstack signal ' +
    'sigpending',
  'sigprocmask sigreturn sigsuspend',
  // futexes
  'futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake',
  // time; setting a clock is refused by the kernel without CAP_SYS_TIME, the adjtime calls also read
  'adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime ' +
    'clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep',
  'setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 ' +
    'timer_settime timer_settime64 timerfd timerfd_create timerfd_gettime timerfd_gettime64',
  'timerfd_settime timerfd_settime64 times',
  // sockets; socket() itself has rules by family below, which socketcall() of 32-bit and s390 programs cannot be held
  // to
  'accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom ' +
    'recvmmsg recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown ' +
    'socketcall socketpair',
  // System V and POSIX IPC
  'ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend ' +
    'mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop',
  'semtimedop_time64 shmat shmctl shmdt shmget',
  // the machine
  'getrandom sysinfo uname',
].flatMap((line) => line.split(' '));

/** Calls that need a capability: allowed with any of those listed, EPERM without. */
const WITH_CAPABILITY: readonly (readonly [capabilities: readonly string[], names: string])[] = [
  [['CAP_DAC_READ_SEARCH'], 'open_by_handle_at'],
  [
    ['CAP_SYS_ADMIN'],
    'clone clone3 fanotify_init fsconfig fsmount fsopen fspick listmount lookup_dcookie ' +
      'lsm_set_self_attr mount mount_setattr move_mount open_tree open_tree_attr pivot_root ' +
      'quotactl quotactl_fd ' +
      'setdomainname sethostname setns statmount umount umount2 unshare',
  ],
  [['CAP_SYS_ADMIN', 'CAP_BPF'], 'bpf'],
  [['CAP_SYS_ADMIN', 'CAP_PERFMON'], 'perf_event_open'],
  [['CAP_SYS_ADMIN', 'CAP_SYSLOG'], 'syslog'],
  [['CAP_SYS_BOOT'], 'reboot'],
  [['CAP_SYS_CHROOT'], 'chroot'],
  [['CAP_SYS_MODULE'], 'delete_module finit_module init_module query_module'],
  [['CAP_SYS_NICE'], 'migrate_pages move_pages'],
  [['CAP_SYS_PACCT'], 'acct'],
  [['CAP_SYS_PTRACE'], 'kcmp process_madvise'],
  [['CAP_SYS_RAWIO'], 'ioperm iopl'],
  [['CAP_SYS_TIME'], 'clock_settime clock_settime64 settimeofday stime'],
  [['CAP_SYS_TTY_CONFIG'], 'vhangup'],
];

/**
 * Known and refused whatever the capabilities, with EPERM: programs treat ENOSYS as "old kernel" and try something
 * else.
 */
const NEVER =
  'add_key bdflush io_uring_enter io_uring_register io_uring_setup kexec_file_load kexec_load ' +
  'keyctl nfsservctl nice oldfstat oldlstat oldolduname oldstat olduname pciconfig_iobase ' +
  'pciconfig_read pciconfig_write request_key sgetmask ssetmask swapoff swapon sysfs _sysctl ' +
  'uselib userfaultfd ustat vm86 vm86old vmsplice';

const BY_ARCHITECTURE: readonly (readonly [arches: readonly string[], names: string])[] = [
  [['amd64', 'x32'], 'arch_prctl uretprobe'],
  [['amd64', 'x32', 'x86'], 'modify_ldt'],
  [['arm', 'arm64'], 'arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2'],
  [['ppc64le'], 'sync_file_range2 swapcontext'],
  [['riscv64'], 'riscv_flush_icache riscv_hwprobe'],
  [['s390', 's390x'], 's390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr'],
];

/** personality(2): query, Linux, Linux32, no randomisation, and both of the last. */
const PERSONALITIES = [0, 8, 0x20000, 0x20008, 0xffffffff];

const AF_NETLINK = 16;
const NETLINK_AUDIT = 9;
/**
 * Families of socket(2) as (mask, value) pairs: 0-63 without AF_ALG (38) and AF_VSOCK (40), which reach kernel crypto
 * and the hypervisor past every namespace. Masks of 32 bits, not comparisons: the kernel reads 32 of the 64 bits that a
 * filter sees, so "greater than 40" could be tricked.
 */
const FAMILIES: readonly (readonly [bits: number, value: number])[] = [
  [4, 0],
  [0, AF_NETLINK],
  [0, 17],
  [1, 18],
  [2, 20],
  [3, 24],
  [2, 32],
  [1, 36],
  [0, 39],
  [0, 41],
  [1, 42],
  [2, 44],
  [4, 48],
];

function defaultRules(): SeccompRule[] {
  const rules: SeccompRule[] = [
    { names: ALWAYS, action: ALLOW },
    { names: NEVER.split(' '), action: ERRNO, errnoRet: EPERM },
  ];
  for (const value of PERSONALITIES)
    rules.push({ names: ['personality'], action: ALLOW, args: [{ index: 0, value, op: 'SCMP_CMP_EQ' }] });
  for (const [arches, names] of BY_ARCHITECTURE)
    rules.push({ names: names.split(' '), action: ALLOW, includes: { arches } });
  for (const [capabilities, text] of WITH_CAPABILITY) {
    const names = text.split(' ');
    for (const [at, cap] of capabilities.entries()) {
      rules.push({
        names,
        action: ALLOW,
        includes: { caps: [cap] },
        ...(at === 0 ? {} : { excludes: { caps: capabilities.slice(0, at) } }),
      });
    }
    const refused = names.filter((name) => name !== 'clone' && name !== 'clone3');
    rules.push({ names: refused, action: ERRNO, errnoRet: EPERM, excludes: { caps: capabilities } });
  }
  return [...rules, ...cloneRules(), ...socketRules()];
}

/**
 * Threads and children without namespaces. clone3 hides its flags behind a pointer: ENOSYS makes libc fall back to
 * clone.
 */
function cloneRules(): SeccompRule[] {
  const admin = { caps: ['CAP_SYS_ADMIN'] };
  const rules: SeccompRule[] = [{ names: ['clone3'], action: ERRNO, errnoRet: ENOSYS, excludes: admin }];
  // s390 swaps the first two arguments.
  for (const [index, condition] of [
    [0, { excludes: { ...admin, arches: ['s390', 's390x'] } }],
    [1, { includes: { arches: ['s390', 's390x'] }, excludes: admin }],
  ] as const) {
    rules.push({
      names: ['clone'],
      action: ALLOW,
      args: [{ index, value: CLONE_NEW_ANY, valueTwo: 0, op: 'SCMP_CMP_MASKED_EQ' }],
      ...condition,
    });
    for (const flag of Object.values(CLONE_NEW)) {
      rules.push({
        names: ['clone'],
        action: ERRNO,
        errnoRet: EPERM,
        args: [{ index, value: flag, valueTwo: flag, op: 'SCMP_CMP_MASKED_EQ' }],
        ...condition,
      });
    }
  }
  return rules;
}

/** Without CAP_AUDIT_WRITE an audit socket says EINVAL, which PAM takes for "no audit here" instead of failing. */
function socketRules(): SeccompRule[] {
  const audit = { caps: ['CAP_AUDIT_WRITE'] };
  const family = (bits: number, value: number): SeccompArg =>
    bits === 0
      ? { index: 0, value, op: 'SCMP_CMP_EQ' }
      : { index: 0, value: 2 ** 32 - 2 ** bits, valueTwo: value, op: 'SCMP_CMP_MASKED_EQ' };
  const netlink = family(0, AF_NETLINK);
  const rules: SeccompRule[] = FAMILIES.filter(([, value]) => value !== AF_NETLINK).map(([bits, value]) => ({
    names: ['socket'],
    action: ALLOW,
    args: [family(bits, value)],
  }));
  rules.push({ names: ['socket'], action: ALLOW, args: [netlink], includes: audit });
  rules.push({
    names: ['socket'],
    action: ALLOW,
    args: [netlink, { index: 2, value: NETLINK_AUDIT, op: 'SCMP_CMP_NE' }],
    excludes: audit,
  });
  rules.push({
    names: ['socket'],
    action: ERRNO,
    errnoRet: EINVAL,
    args: [netlink, { index: 2, value: NETLINK_AUDIT, op: 'SCMP_CMP_EQ' }],
    excludes: audit,
  });
  for (const each of [38, 40])
    rules.push({ names: ['socket'], action: ERRNO, errnoRet: EPERM, args: [family(0, each)] });
  return rules;
}

/**
 * RuntimeDefault when the configuration names no file. Unknown calls answer ENOSYS, so that a libc newer than this list
 * falls back; known and refused ones answer EPERM.
 */
export const DEFAULT_PROFILE: SeccompProfile = {
  defaultAction: ERRNO,
  defaultErrnoRet: ENOSYS,
  archMap: [
    { architecture: 'SCMP_ARCH_X86_64', subArchitectures: ['SCMP_ARCH_X86', 'SCMP_ARCH_X32'] },
    { architecture: 'SCMP_ARCH_AARCH64', subArchitectures: ['SCMP_ARCH_ARM'] },
    { architecture: 'SCMP_ARCH_MIPS64', subArchitectures: ['SCMP_ARCH_MIPS', 'SCMP_ARCH_MIPS64N32'] },
    { architecture: 'SCMP_ARCH_MIPS64N32', subArchitectures: ['SCMP_ARCH_MIPS', 'SCMP_ARCH_MIPS64'] },
    { architecture: 'SCMP_ARCH_MIPSEL64', subArchitectures: ['SCMP_ARCH_MIPSEL', 'SCMP_ARCH_MIPSEL64N32'] },
    { architecture: 'SCMP_ARCH_MIPSEL64N32', subArchitectures: ['SCMP_ARCH_MIPSEL', 'SCMP_ARCH_MIPSEL64'] },
    { architecture: 'SCMP_ARCH_S390X', subArchitectures: ['SCMP_ARCH_S390'] },
  ],
  syscalls: defaultRules(),
};

// Resolution

/** What the conditions of a profile are decided by. */
export interface SeccompFacts {
  /** As uname says: `x86_64`. */
  readonly machine: string;
  /** Kernel release. */
  readonly kernel: string;
  /** The container's bounding set. */
  readonly capabilities: ReadonlySet<string>;
}

/** uname's machine → libseccomp's name, and Go's name that profiles use in their conditions. */
const MACHINES: Readonly<Record<string, readonly [scmp: string, arch: string]>> = {
  x86_64: ['SCMP_ARCH_X86_64', 'amd64'],
  i686: ['SCMP_ARCH_X86', 'x86'],
  aarch64: ['SCMP_ARCH_AARCH64', 'arm64'],
  armv7l: ['SCMP_ARCH_ARM', 'arm'],
  ppc64le: ['SCMP_ARCH_PPC64LE', 'ppc64le'],
  riscv64: ['SCMP_ARCH_RISCV64', 'riscv64'],
  s390x: ['SCMP_ARCH_S390X', 's390x'],
  mips64: ['SCMP_ARCH_MIPS64', 'mips64'],
  loongarch64: ['SCMP_ARCH_LOONGARCH64', 'loong64'],
};

/**
 * `linux.seccomp` for one container. Rules of the same action, errno and arguments stay as the profile has them; their
 * order means nothing.
 */
export function resolveSeccomp(profile: SeccompProfile, facts: SeccompFacts): LinuxSeccomp {
  const architectures = architecturesOf(profile, facts.machine);
  const syscalls: LinuxSyscall[] = [];
  for (const rule of profile.syscalls) {
    if (rule.names.length === 0 || !holds(rule, facts)) continue;
    syscalls.push({
      names: [...rule.names],
      action: rule.action,
      ...(rule.errnoRet === undefined ? {} : { errnoRet: rule.errnoRet }),
      ...(rule.args === undefined || rule.args.length === 0
        ? {}
        : {
            args: rule.args.map((arg) => ({
              index: arg.index,
              value: arg.value,
              ...(arg.valueTwo === undefined ? {} : { valueTwo: arg.valueTwo }),
              op: arg.op,
            })),
          }),
    });
  }
  return {
    defaultAction: profile.defaultAction,
    ...(profile.defaultErrnoRet === undefined ? {} : { defaultErrnoRet: profile.defaultErrnoRet }),
    ...(architectures.length === 0 ? {} : { architectures }),
    ...(profile.flags === undefined || profile.flags.length === 0 ? {} : { flags: [...profile.flags] }),
    ...(profile.listenerPath === undefined ? {} : { listenerPath: profile.listenerPath }),
    ...(profile.listenerMetadata === undefined ? {} : { listenerMetadata: profile.listenerMetadata }),
    syscalls,
  };
}

const NOTIFY = 'SCMP_ACT_NOTIFY';
const FORBIDDING = new Set([ERRNO, 'SCMP_ACT_KILL', 'SCMP_ACT_KILL_PROCESS', 'SCMP_ACT_KILL_THREAD']);

/**
 * The profile with `listenerPath`, where system calls that its rules forbid are told of. What its default forbids
 * cannot be (runtimes need calls of it themselves), nor write, which runc refuses. A rule that says ENOSYS is no
 * prohibition: it says that the kernel is too old, and every program with threads meets one (clone3). A profile with a
 * listener of its own keeps that; one without such rules stays as it is.
 */
export function toldTo(profile: LinuxSeccomp, listenerPath: string): LinuxSeccomp {
  const isTold = ({ action, errnoRet, names }: LinuxSyscall): boolean =>
    FORBIDDING.has(action) && errnoRet !== ENOSYS && !names.includes('write');
  if (profile.listenerPath !== undefined || !(profile.syscalls ?? []).some(isTold)) return profile;
  const syscalls = (profile.syscalls ?? []).map((rule): LinuxSyscall => {
    if (!isTold(rule)) return rule;
    const { errnoRet: _, ...told } = rule;
    return { ...told, action: NOTIFY };
  });
  return { ...profile, listenerPath, syscalls };
}

function architecturesOf(profile: SeccompProfile, machine: string): string[] {
  if (profile.architectures !== undefined && profile.architectures.length > 0) return [...profile.architectures];
  const native = MACHINES[machine]?.[0];
  const mapped = profile.archMap?.find((entry) => entry.architecture === native);
  if (mapped !== undefined) return [mapped.architecture, ...mapped.subArchitectures];
  return native === undefined || profile.archMap === undefined ? [] : [native];
}

function holds(rule: SeccompRule, facts: SeccompFacts): boolean {
  const arch = MACHINES[facts.machine]?.[1] ?? facts.machine;
  const { includes = {}, excludes = {} } = rule;
  if (includes.caps?.some((cap) => !facts.capabilities.has(cap))) return false;
  if (includes.arches !== undefined && includes.arches.length > 0 && !includes.arches.includes(arch)) return false;
  if (includes.minKernel !== undefined && !kernelAtLeast(facts.kernel, includes.minKernel)) return false;
  if (excludes.caps?.some((cap) => facts.capabilities.has(cap))) return false;
  if (excludes.arches?.includes(arch)) return false;
  return excludes.minKernel === undefined || !kernelAtLeast(facts.kernel, excludes.minKernel);
}

function kernelAtLeast(kernel: string, wanted: string): boolean {
  const [major = 0, minor = 0] = kernel.split(/[.-]/).map(Number);
  const [wantMajor = 0, wantMinor = 0] = wanted.split('.').map(Number);
  return major > wantMajor || (major === wantMajor && minor >= wantMinor);
}

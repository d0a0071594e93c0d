/**
 * Confinement: namespaces, seccomp and AppArmor choice, SELinux labels, masked paths, sysctls, annotations. PURE.
 */
import { posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type {
  LinuxContainerSecurityContext,
  LinuxSandboxSecurityContext,
  PodSandboxConfig,
  SecurityProfile,
  SELinuxOption,
} from '../cri-api/types.ts';
import type { LinuxSeccomp, RuntimeIdMapping, RuntimeLinux } from '../oci/spec-types.ts';
import { DEFAULT_PROFILE, resolveSeccomp } from './seccomp.ts';
import { parseSeccompProfile } from './seccomp-profile.ts';
import type { IdMap, IdMapping } from '../ports/rootfs.ts';
import type { ContainerSpecInput, NodeFacts, ProfileChoice, SpecDefaults, SysctlScope } from '../ports/spec.ts';

/** What a container may do to the node: everything, or what its config asks for within the defaults. */
export type Privilege = 'privileged' | 'confined';

/**
 * @throws InvalidArgument for a privileged container in a sandbox that is not (CRI:
 * LinuxSandboxSecurityContext.privileged).
 */
export function privilegeOf(security: LinuxContainerSecurityContext | undefined, pod: PodSandboxConfig): Privilege {
  if (security?.privileged !== true) return 'confined';
  if (pod.linux?.securityContext?.privileged === true) return 'privileged';
  throw invalid('no privileged container allowed in sandbox: its own security context is not privileged');
}

// Namespaces

/**
 * The namespaces of a container: a mount namespace of its own, the pod's pinned ones, its PID namespace. What is
 * missing is the host's.
 */
export function namespacesOf(
  input: Pick<ContainerSpecInput, 'namespaces' | 'pid' | 'facts'>,
  privilege: Privilege,
): RuntimeLinux['namespaces'] {
  const namespaces: RuntimeLinux['namespaces'] = [{ type: 'mount' }];
  for (const [kind, type] of [
    ['user', 'user'],
    ['net', 'network'],
    ['ipc', 'ipc'],
    ['uts', 'uts'],
  ] as const) {
    const path = input.namespaces.get(kind);
    if (path !== undefined) namespaces.push({ type, path });
  }
  if (input.pid.mode === 'private') namespaces.push({ type: 'pid' });
  if (input.pid.mode === 'join') namespaces.push({ type: 'pid', path: input.pid.path });
  // On v1 a cgroup namespace would hide the pod's path from tools that read /proc/self/cgroup; privileged containers
  // see the node's tree.
  if (input.facts.cgroupMode === 'v2' && privilege === 'confined') namespaces.push({ type: 'cgroup' });
  return namespaces;
}

/** Id mappings as OCI has them; empty without a user namespace. */
export function mappingsOf(idMap: IdMap | null): {
  uidMappings?: RuntimeIdMapping[];
  gidMappings?: RuntimeIdMapping[];
} {
  if (idMap === null) return {};
  const convert = (mappings: readonly IdMapping[]): RuntimeIdMapping[] =>
    mappings.map(({ containerId, hostId, size }) => ({ containerID: containerId, hostID: hostId, size }));
  return { uidMappings: convert(idMap.uids), gidMappings: convert(idMap.gids) };
}

/** @throws InvalidArgument if the pod's user namespace has no mapping for an id of the container's process. */
export function checkMapped(idMap: IdMap | null, user: { readonly uid: number; readonly gid: number }): void {
  if (idMap === null) return;
  const inside = (mappings: readonly IdMapping[], id: number): boolean =>
    mappings.some((each) => id >= each.containerId && id < each.containerId + each.size);
  if (!inside(idMap.uids, user.uid))
    throw invalid(
      `uid ${user.uid} is not mapped in the pod's user namespace; use a smaller id, or give the pod a longer mapping`,
    );
  if (!inside(idMap.gids, user.gid))
    throw invalid(
      `gid ${user.gid} is not mapped in the pod's user namespace; use a smaller id, or give the pod a longer mapping`,
    );
}

// Profiles

type AnySecurityContext = LinuxContainerSecurityContext | LinuxSandboxSecurityContext;

/**
 * Which seccomp profile a security context names; the message field wins over the deprecated string (`runtime/default`,
 * `docker/default`, `unconfined`, `localhost/<path>`). Read the file of a `localhost` before building the spec. @throws
 * InvalidArgument for a path that is not absolute and plain.
 */
export function seccompChoice(security: AnySecurityContext | undefined): ProfileChoice {
  const choice = choiceOf('seccomp', security?.seccomp, security?.seccompProfilePath ?? '');
  if (
    choice.kind === 'localhost' &&
    (!choice.ref.startsWith('/') || choice.ref.split('/').includes('..') || choice.ref.includes('\0'))
  ) {
    throw invalid(`seccomp: localhost profile ${quote(choice.ref)} must be an absolute path without ..`);
  }
  return choice;
}

/**
 * Which AppArmor profile a security context names, by the same rules. A `localhost/` in front of the name is no part of
 * it: clients write it into the new field, too (critest does), and CRI-O and containerd cut it off.
 */
export function apparmorChoice(security: AnySecurityContext | undefined): ProfileChoice {
  const deprecated = security !== undefined && 'apparmorProfile' in security ? security.apparmorProfile : '';
  const found = choiceOf('apparmor', security?.apparmor, deprecated);
  const choice = found.kind === 'localhost' ? { ...found, ref: found.ref.replace(/^localhost\//, '') } : found;
  if (choice.kind === 'localhost' && !/^[A-Za-z0-9][A-Za-z0-9_.:/+@-]{0,255}$/.test(choice.ref))
    throw invalid(`apparmor: ${quote(choice.ref)} is not a profile name`);
  return choice;
}

function choiceOf(what: string, profile: SecurityProfile | undefined, deprecated: string): ProfileChoice {
  if (profile !== undefined) {
    if (profile.profileType === 'RuntimeDefault') return { kind: 'runtimeDefault' };
    if (profile.profileType === 'Unconfined') return { kind: 'unconfined' };
    if (profile.profileType !== 'Localhost')
      throw invalid(`${what}: unknown profile type ${quote(String(profile.profileType))}`);
    if (profile.localhostRef === '') throw invalid(`${what}: profile type Localhost needs localhost_ref`);
    return { kind: 'localhost', ref: profile.localhostRef };
  }
  if (deprecated === '') return { kind: 'unset' };
  if (deprecated === 'unconfined') return { kind: 'unconfined' };
  if (deprecated === 'runtime/default' || deprecated === 'docker/default') return { kind: 'runtimeDefault' };
  if (deprecated.startsWith('localhost/') && deprecated.length > 'localhost/'.length)
    return { kind: 'localhost', ref: deprecated.slice('localhost/'.length) };
  throw invalid(`${what}: ${quote(deprecated)} is not a profile; want runtime/default, unconfined or localhost/<name>`);
}

/**
 * `linux.seccomp`, or nothing for unconfined: no profile at all (CRI: nil is unconfined), Unconfined, a privileged
 * container without a profile configured for those, or a kernel without seccomp. @throws InvalidArgument for a broken
 * profile; FailedPrecondition if one is asked for that cannot be.
 */
export function seccompOf(
  input: {
    readonly security: AnySecurityContext | undefined;
    readonly facts: NodeFacts;
    readonly defaults: SpecDefaults;
    readonly localhostSeccomp: unknown;
    /** Of an annotation: for who has no other. */
    readonly annotatedSeccomp?: unknown;
  },
  privilege: Privilege,
  boundingSet: readonly string[],
): LinuxSeccomp | undefined {
  const { facts, defaults } = input;
  const resolve = (profile: unknown): LinuxSeccomp =>
    resolveSeccomp(profile === undefined ? DEFAULT_PROFILE : parseSeccompProfile(profile), {
      machine: facts.machine,
      kernel: facts.kernel,
      capabilities: new Set(boundingSet),
    });
  if (privilege === 'privileged') {
    return defaults.privilegedSeccompProfile === undefined || !facts.seccomp
      ? undefined
      : resolve(defaults.privilegedSeccompProfile);
  }
  const choice = seccompChoice(input.security);
  if (choice.kind === 'unset' || choice.kind === 'unconfined') {
    if (input.annotatedSeccomp === undefined) return undefined;
    if (facts.seccomp) return resolve(input.annotatedSeccomp);
    throw new RuntimeError(
      'FailedPrecondition',
      'a seccomp profile is asked for by an annotation, but this kernel has no seccomp',
    );
  }
  if (choice.kind === 'runtimeDefault') return facts.seccomp ? resolve(defaults.seccompProfile) : undefined;
  if (!facts.seccomp)
    throw new RuntimeError(
      'FailedPrecondition',
      `seccomp profile ${quote(choice.ref)} is asked for, but this kernel has no seccomp`,
    );
  if (input.localhostSeccomp === undefined)
    throw new RuntimeError('Internal', `seccomp profile ${quote(choice.ref)} was not read before the spec was built`);
  return resolve(input.localhostSeccomp);
}

/**
 * `process.apparmorProfile`, or undefined for unconfined. Without a profile the default holds where AppArmor is on, as
 * Kubernetes documents.
 * @throws FailedPrecondition for a Localhost profile on a node without AppArmor.
 */
export function apparmorOf(
  security: AnySecurityContext | undefined,
  privilege: Privilege,
  facts: NodeFacts,
  defaults: SpecDefaults,
): string | undefined {
  if (privilege === 'privileged') return undefined;
  const choice = apparmorChoice(security);
  if (choice.kind === 'unconfined') return undefined;
  if (!facts.apparmor) {
    if (choice.kind !== 'localhost') return undefined;
    throw new RuntimeError(
      'FailedPrecondition',
      `AppArmor profile ${quote(choice.ref)} is asked for, but AppArmor is not enabled on this node`,
    );
  }
  if (choice.kind === 'localhost') return choice.ref;
  return defaults.apparmorProfile === '' ? undefined : defaults.apparmorProfile;
}

// SELinux

/** The parts of a context, `user:role:type:level`; the level may hold colons itself. */
const SELINUX_PART = /^[A-Za-z0-9_.-]{1,255}$/;
const SELINUX_LEVEL = /^s\d{1,3}(-s\d{1,3})?(:c\d{1,4}([.,]c\d{1,4})*(-s\d{1,3}:c\d{1,4}([.,]c\d{1,4})*)?)?$/;

/**
 * Labels of a container from its (else its pod's) SELinux options on top of the policy's default labels: each given
 * part replaces the default's, so a level alone is enough. `level` is the pod's own MCS level, used unless the options
 * name one. `spc_t` keeps its files' label as the policy has it.
 * @throws InvalidArgument for a part that no policy can hold.
 */
export function selinuxLabels(
  options: SELinuxOption | undefined,
  base: { readonly processLabel: string; readonly mountLabel: string; readonly level: string },
): { readonly processLabel: string; readonly mountLabel: string } {
  for (const field of ['user', 'role', 'type'] as const) {
    const value = options?.[field] ?? '';
    if (value !== '' && !SELINUX_PART.test(value))
      throw invalid(`selinux_options.${field} ${quote(value)} is not valid`);
  }
  const level = options?.level || base.level;
  if (level !== '' && !SELINUX_LEVEL.test(level))
    throw invalid(`selinux_options.level ${quote(level)} is not valid; want a level such as s0:c1,c2`);
  const [user = '', role = '', type = ''] = base.processLabel.split(':');
  const [, fileRole = '', fileType = ''] = base.mountLabel.split(':');
  const own = { user: options?.user || user, role: options?.role || role, type: options?.type || type };
  return {
    processLabel: `${own.user}:${own.role}:${own.type}:${level}`,
    mountLabel: `${own.user}:${fileRole}:${fileType}:${level}`,
  };
}

/** Directories whose content the node itself lives on; relabelling them, or a parent, breaks it. */
const NODE_DIRECTORIES = [
  '/bin',
  '/boot',
  '/dev',
  '/etc',
  '/home',
  '/lib',
  '/lib64',
  '/media',
  '/mnt',
  '/opt',
  '/proc',
  '/root',
  '/run',
  '/sbin',
  '/srv',
  '/sys',
  '/tmp',
  '/usr',
  '/var',
];
/** Those of which nothing below may be relabelled either (CVE-2021-43816: /etc/hosts by a hostPath). */
const NODE_TREES = ['/bin', '/boot', '/dev', '/etc', '/lib', '/lib64', '/proc', '/sbin', '/sys', '/usr'];

/**
 * Why a volume with selinux_relabel must not be relabelled; undefined if it may. `path` is the real path, links
 * followed.
 */
export function relabelRefusal(path: string): string | undefined {
  const clean = posix.resolve('/', path);
  const why =
    `relabelling ${quote(clean)} is refused: the node's own programs need its label; use another ` +
    'directory or leave selinux_relabel out';
  if (clean === '/' || NODE_DIRECTORIES.includes(clean)) return why;
  return NODE_TREES.some((tree) => clean.startsWith(`${tree}/`)) ? why : undefined;
}

// Masked and read-only paths

const MASKED_PATHS = [
  '/proc/acpi',
  '/proc/asound',
  '/proc/interrupts',
  '/proc/kcore',
  '/proc/keys',
  '/proc/latency_stats',
  '/proc/timer_list',
  '/proc/timer_stats',
  '/proc/sched_debug',
  '/proc/scsi',
  '/sys/firmware',
  '/sys/fs/selinux',
  '/sys/devices/virtual/powercap',
];

const READONLY_PATHS = ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'];

/**
 * Masked and read-only paths. An empty list is procMount Unmasked: nothing is masked; a list hides what it names and
 * our defaults too, so that an older kubelet's list does not leave open what was learned since. Without any security
 * context (the kubelet always sends one) the defaults hold. Privileged containers have neither.
 */
export function hiddenPaths(
  security: LinuxContainerSecurityContext | undefined,
  privilege: Privilege,
  facts: NodeFacts,
): { maskedPaths?: string[]; readonlyPaths?: string[] } {
  if (privilege === 'privileged') return {};
  const asked = security ?? { maskedPaths: MASKED_PATHS, readonlyPaths: READONLY_PATHS };
  const masked =
    asked.maskedPaths.length === 0
      ? []
      : [...new Set([...MASKED_PATHS, ...(facts.maskedPaths ?? []), ...asked.maskedPaths])];
  for (const path of [...masked, ...asked.readonlyPaths]) {
    if (!path.startsWith('/') || path.includes('\0'))
      throw invalid(`masked or read-only path ${quote(path)} is not absolute`);
  }
  return {
    ...(masked.length === 0 ? {} : { maskedPaths: masked }),
    ...(asked.readonlyPaths.length === 0 ? {} : { readonlyPaths: [...asked.readonlyPaths] }),
  };
}

// Sysctls

const IPC_SYSCTL = /^(kernel\.(shm[a-z_]*|msg[a-z_]*|sem|sem_next_id)|fs\.mqueue\.[a-z_]+)$/;
const NET_SYSCTL = /^net\.[A-Za-z0-9_-]+(\.[A-Za-z0-9_@:/-]+)+$/;
/**
 * Numbers, words, lists and ranges. No `+`, `=`, `|`, line ends or quotes: nothing that any transport could read as a
 * second setting (CVE-2022-0811).
 */
const SYSCTL_VALUE = /^[A-Za-z0-9_.,:/\t -]{0,1024}$/;

/**
 * The sysctls of a pod, checked: values that are one value; those of a namespace that is the node's are left out
 * (CVE-2022-0532; CRI-O skips them, too: server/sandbox_run_linux.go). Names come back in the form with dots, where a
 * slash stands for a dot within a name (`net.ipv4.conf.eth0/100.rp_filter`, sysctl(8)).
 * @throws InvalidArgument naming the sysctl and the reason.
 */
export function validateSysctls(
  sysctls: Readonly<Record<string, string>>,
  scope: SysctlScope,
): ReadonlyMap<string, string> {
  const checked = new Map<string, string>();
  for (const [given, value] of Object.entries(sysctls)) {
    const name = dotted(given);
    const why = refusal(name, value);
    if (why !== undefined) throw invalid(`sysctl ${quote(given)}: ${why}`);
    if (checked.has(name)) throw invalid(`sysctl ${quote(given)}: given twice`);
    checked.set(name, value.trim());
  }
  return new Map([...checked].filter(([name]) => sharedWithNode(name, scope) === undefined));
}

/** Sentences on the sysctls that `validateSysctls` leaves out. */
function skippedSysctls(sysctls: Readonly<Record<string, string>>, scope: SysctlScope): readonly string[] {
  return Object.keys(sysctls).flatMap((given) => {
    const shared = sharedWithNode(dotted(given), scope);
    return shared === undefined
      ? []
      : [`sysctl ${quote(given)}: the pod shares the ${shared} namespace of the node, whose settings are not a pod's`];
  });
}

/** The namespace of the node that a sysctl would be set in. */
function sharedWithNode(name: string, scope: SysctlScope): 'network' | 'IPC' | undefined {
  if (scope.network === 'host' && name.startsWith('net.')) return 'network';
  return scope.ipc === 'host' && IPC_SYSCTL.test(name) ? 'IPC' : undefined;
}

/**
 * All sysctls to set in a new pod: the configured defaults that apply to its namespaces, then the pod's own, never one
 * of a namespace that is the node's: `skipped` holds a sentence on each of the pod's that is not set, and on each of
 * the configured ones that no pod may set. In a user namespace ping_group_range ends at the last mapped group; an
 * unmapped one is refused by the kernel.
 */
export function podSysctls(
  config: PodSandboxConfig,
  scope: SysctlScope,
  defaults: SpecDefaults,
  idMap: IdMap | null,
): { readonly set: ReadonlyMap<string, string>; readonly skipped: readonly string[] } {
  const all = new Map<string, string>();
  const useless: string[] = [];
  for (const [given, value] of defaults.sysctls) {
    const name = dotted(given);
    if (sharedWithNode(name, scope) !== undefined) continue;
    const why = refusal(name, value);
    // What a pod did not ask for is no reason to refuse it.
    if (why !== undefined) useless.push(`default_sysctls: ${quote(given)}: ${why}`);
    else all.set(name, name === 'net.ipv4.ping_group_range' && idMap !== null ? pingRange(value, idMap) : value.trim());
  }
  const own = config.linux?.sysctls ?? {};
  for (const [name, value] of validateSysctls(own, scope)) all.set(name, value);
  return { set: all, skipped: [...useless, ...skippedSysctls(own, scope)] };
}

function pingRange(value: string, idMap: IdMap): string {
  const [low = 0, high = 0] = value.trim().split(/\s+/).map(Number);
  const last = Math.max(...idMap.gids.map((each) => each.containerId + each.size - 1));
  return `${Math.min(low, last)} ${Math.min(high, last)}`;
}

/** The first separator decides: `net/ipv4/conf/eth0.100/rp_filter` has its dots and slashes exchanged. */
function dotted(name: string): string {
  const first = /[./]/.exec(name)?.[0];
  return first === '/' ? name.replace(/[./]/g, (each) => (each === '/' ? '.' : '/')) : name;
}

function refusal(name: string, value: string): string | undefined {
  if (name.length > 255 || name.split(/[./]/).some((part) => part === '')) return 'not a sysctl name';
  if (!IPC_SYSCTL.test(name) && !NET_SYSCTL.test(name))
    return 'not namespaced; a pod may set kernel.shm*, kernel.msg*, kernel.sem, fs.mqueue.* and net.*';
  return SYSCTL_VALUE.test(value) ? undefined : `value ${quote(value)} holds characters that no sysctl value needs`;
}

function invalid(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', message);
}

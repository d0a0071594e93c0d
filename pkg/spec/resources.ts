/**
 * Control groups: CRI resources → OCI resources, merging of updates, cgroup paths, devices. PURE.
 *
 * Zero, '' and empty lists mean "leave as it is" everywhere (CRI: LinuxContainerResources), -1 means unlimited for
 * cpu_quota, memory and swap. OCI resources keep v1 units; the runtime converts them for cgroup v2.
 */
import { posix } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { containerScope, quote } from '../base/ids.ts';
import type { HugepageLimit, LinuxContainerResources } from '../cri-api/types.ts';
import type { LinuxResources, RuntimeLinux } from '../oci/spec-types.ts';
import type {
  DeviceRequest,
  FoundDevice,
  NodeFacts,
  ResolvedDevice,
  ResolvedUser,
  SpecDefaults,
} from '../ports/spec.ts';

const UNLIMITED = -1n;

/** cpu.cfs_period_us, kernel/sched/core.c: 1 ms to 1 s. */
const CPU_PERIOD_US = { min: 1_000n, max: 1_000_000n };
/** cpu.cfs_quota_us: at least 1 ms. */
const CPU_QUOTA_MIN_US = 1_000n;
/** Shares of a container without CPU request; also the least the kernel takes. */
const CPU_SHARES_MIN = 2n;

/** What a container without `linux.resources` has. */
export const NO_RESOURCES: LinuxContainerResources = {
  cpuPeriod: 0n,
  cpuQuota: 0n,
  cpuShares: 0n,
  memoryLimitInBytes: 0n,
  oomScoreAdj: 0n,
  cpusetCpus: '',
  cpusetMems: '',
  hugepageLimits: [],
  unified: {},
  memorySwapLimitInBytes: 0n,
};

/**
 * The document for `runtime update`: what the resources say, without devices and pids. Controllers that the node lacks
 * are left out, as both other runtimes do. On v2, where the kernel would rather kill than refuse, the runtime is told
 * to refuse a memory limit below the usage.
 * @throws InvalidArgument for values that the kernel would refuse or misread, naming the field; FailedPrecondition for
 * `unified` without v2.
 */
export function toLinuxResources(
  resources: LinuxContainerResources | undefined,
  facts: NodeFacts,
  minMemoryBytes = 0n,
): LinuxResources {
  const converted = convert(resources ?? NO_RESOURCES, facts, minMemoryBytes);
  if (converted.memory === undefined || facts.cgroupMode !== 'v2') return converted;
  return { ...converted, memory: { ...converted.memory, checkBeforeUpdate: true } };
}

function convert(resources: LinuxContainerResources, facts: NodeFacts, minMemoryBytes: bigint): LinuxResources {
  const cpu = toCpu(resources, facts);
  const memory = toMemory(resources, facts, minMemoryBytes);
  const hugepageLimits = toHugepages(resources.hugepageLimits, facts);
  const unified = toUnified(resources.unified, facts);
  return {
    ...(cpu === undefined ? {} : { cpu }),
    ...(memory === undefined ? {} : { memory }),
    ...(hugepageLimits.length === 0 ? {} : { hugepageLimits }),
    ...(unified === undefined ? {} : { unified }),
  };
}

/**
 * The cgroup part of a new container's spec. A quota of -1 is left out: a new cgroup has none, and crun 1.8 writes it
 * to a v1 cgroup as a huge unsigned number, which the kernel refuses. @throws as toLinuxResources.
 */
export function newResources(
  wanted: LinuxContainerResources | undefined,
  facts: NodeFacts,
  minMemoryBytes: bigint,
): LinuxResources {
  const resources = wanted ?? NO_RESOURCES;
  return convert(resources.cpuQuota === UNLIMITED ? { ...resources, cpuQuota: 0n } : resources, facts, minMemoryBytes);
}

/**
 * The resources that hold after an UpdateContainerResources: every field the update sets replaces the current one;
 * hugepage limits merge by page size and `unified` by key. The result is what ContainerStatus reports.
 */
export function mergeResources(
  before: LinuxContainerResources | undefined,
  update: LinuxContainerResources,
): LinuxContainerResources {
  const current = before ?? NO_RESOURCES;
  const bySize = new Map([...current.hugepageLimits, ...update.hugepageLimits].map((limit) => [limit.pageSize, limit]));
  const unified: Record<string, string> = Object.assign(Object.create(null), current.unified, update.unified);
  return {
    cpuPeriod: update.cpuPeriod || current.cpuPeriod,
    cpuQuota: update.cpuQuota || current.cpuQuota,
    cpuShares: update.cpuShares || current.cpuShares,
    memoryLimitInBytes: update.memoryLimitInBytes || current.memoryLimitInBytes,
    oomScoreAdj: update.oomScoreAdj || current.oomScoreAdj,
    cpusetCpus: update.cpusetCpus || current.cpusetCpus,
    cpusetMems: update.cpusetMems || current.cpusetMems,
    hugepageLimits: [...bySize.values()],
    unified,
    memorySwapLimitInBytes: mergeSwap(current, update),
  };
}

/**
 * A swap limit that was never below memory must not become so by raising memory alone: it falls back to "no swap" then.
 */
function mergeSwap(current: LinuxContainerResources, update: LinuxContainerResources): bigint {
  if (update.memorySwapLimitInBytes !== 0n) return update.memorySwapLimitInBytes;
  const memory = update.memoryLimitInBytes || current.memoryLimitInBytes;
  const swap = current.memorySwapLimitInBytes;
  return swap > 0n && (memory === UNLIMITED || memory > swap) ? 0n : swap;
}

function toCpu(resources: LinuxContainerResources, facts: NodeFacts): LinuxResources['cpu'] {
  const { cpuShares, cpuQuota, cpuPeriod, cpusetCpus, cpusetMems } = resources;
  if (cpuShares < 0n) throw invalid('cpu_shares', cpuShares, 'want 0 or more');
  if (cpuPeriod !== 0n && (cpuPeriod < CPU_PERIOD_US.min || cpuPeriod > CPU_PERIOD_US.max)) {
    throw invalid('cpu_period', cpuPeriod, `want ${CPU_PERIOD_US.min} to ${CPU_PERIOD_US.max} microseconds`);
  }
  if (cpuQuota < UNLIMITED || (cpuQuota > 0n && cpuQuota < CPU_QUOTA_MIN_US)) {
    throw invalid('cpu_quota', cpuQuota, `want -1 or at least ${CPU_QUOTA_MIN_US} microseconds`);
  }
  checkCpuset('cpuset_cpus', cpusetCpus);
  checkCpuset('cpuset_mems', cpusetMems);
  const cpu = {
    ...(cpuShares > 0n && facts.controllers.has('cpu')
      ? { shares: cpuShares < CPU_SHARES_MIN ? CPU_SHARES_MIN : cpuShares }
      : {}),
    ...(cpuQuota !== 0n && facts.controllers.has('cpu') ? { quota: cpuQuota } : {}),
    ...(cpuPeriod > 0n && facts.controllers.has('cpu') ? { period: cpuPeriod } : {}),
    ...(cpusetCpus !== '' && facts.controllers.has('cpuset') ? { cpus: cpusetCpus } : {}),
    ...(cpusetMems !== '' && facts.controllers.has('cpuset') ? { mems: cpusetMems } : {}),
  };
  return Object.keys(cpu).length === 0 ? undefined : cpu;
}

function checkCpuset(field: string, text: string): void {
  if (text !== '' && !/^\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*$/.test(text))
    throw invalid(field, text, 'want a list such as 0-3,7');
}

/** Swap is memory plus swap, as in OCI; without a given value it equals the memory limit, that is no swap at all. */
function toMemory(
  resources: LinuxContainerResources,
  facts: NodeFacts,
  minMemoryBytes: bigint,
): LinuxResources['memory'] {
  const limit = resources.memoryLimitInBytes;
  const swap = resources.memorySwapLimitInBytes;
  if (limit < UNLIMITED) throw invalid('memory_limit_in_bytes', limit, 'want -1 for unlimited, or 0 or more');
  if (limit > 0n && limit < minMemoryBytes) {
    throw invalid(
      'memory_limit_in_bytes',
      limit,
      `the runtime needs at least ${minMemoryBytes} bytes to start a container; raise the limit`,
    );
  }
  if (swap < UNLIMITED) throw invalid('memory_swap_limit_in_bytes', swap, 'want -1 for unlimited, or 0 or more');
  if (swap > 0n && (limit === UNLIMITED || swap < limit)) {
    throw invalid(
      'memory_swap_limit_in_bytes',
      swap,
      `it counts memory and swap together, so it cannot be below memory_limit_in_bytes (${limit})`,
    );
  }
  if (limit === 0n || !facts.controllers.has('memory')) return undefined;
  if (!facts.swapLimit) return { limit };
  return { limit, swap: swap === 0n ? limit : swap };
}

/**
 * The kubelet names every page size of the node, most with limit 0. What the node has not got cannot be used either:
 * limits of a size that it lacks, or without the controller, are left out, as both other runtimes do.
 */
function toHugepages(limits: readonly HugepageLimit[], facts: NodeFacts): { pageSize: string; limit: bigint }[] {
  for (const { pageSize } of limits) {
    if (!/^\d{1,7}[KMG]B$/.test(pageSize))
      throw invalid('hugepage_limits.page_size', pageSize, 'want a size such as 2MB');
  }
  if (!facts.controllers.has('hugetlb')) return [];
  return limits
    .filter(({ pageSize }) => facts.hugepageSizes.includes(pageSize))
    .map(({ pageSize, limit }) => ({ pageSize, limit }));
}

/** Keys become file names in the container's cgroup, so they are checked as such. */
function toUnified(unified: Readonly<Record<string, string>>, facts: NodeFacts): Record<string, string> | undefined {
  const entries = Object.entries(unified);
  if (entries.length === 0) return undefined;
  if (facts.cgroupMode !== 'v2') {
    throw new RuntimeError(
      'FailedPrecondition',
      `unified resources (${quote(entries[0]?.[0] ?? '')}) need cgroup v2; this node is ${facts.cgroupMode}`,
    );
  }
  const checked: Record<string, string> = Object.create(null);
  for (const [key, value] of entries) {
    if (!/^[a-z]+\.[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$/.test(key))
      throw invalid('unified', key, 'want the name of a cgroup v2 file such as memory.high');
    if (value.includes('\0')) throw invalid('unified', key, 'its value holds a NUL byte');
    checked[key] = value;
  }
  return checked;
}

/**
 * process.oomScoreAdj within what the daemon may set. Never left out: the daemon's own value (-999) would be inherited.
 */
export function oomScoreAdjOf(wanted: bigint, facts: NodeFacts): number {
  if (wanted < -1000n || wanted > 1000n) throw invalid('oom_score_adj', wanted, 'want -1000 to 1000');
  return Math.max(Number(wanted), facts.oomScoreAdjMin);
}

/** A `pids` entry, or nothing without limit or controller. */
export function pidsOf(defaults: SpecDefaults, facts: NodeFacts): Pick<LinuxResources, 'pids'> {
  return defaults.pidsLimit > 0n && facts.controllers.has('pids') ? { pids: { limit: defaults.pidsLimit } } : {};
}

// Cgroup paths

/** Of which systemd makes the name of the scope (containerScope). */
const CGROUP_PREFIX = 'crio';
/** Where cgroups go when the kubelet names no parent. */
const OWN_PLACE = { cgroupfs: '/berth', systemd: 'system.slice' } as const;

/**
 * `linux.cgroupsPath` of a container: `<slice>:crio:<id>` with systemd, which makes `crio-<id>.scope` of it, and
 * `<parent>/crio-<id>.scope` with cgroupfs too: of names with a dash the kubelet finds the id only in those of scopes.
 * An empty parent and `/` mean Berth's own place: no container lives in the root cgroup.
 * @throws InvalidArgument for `..`, NUL, and with systemd for anything but a slice.
 */
export function cgroupsPathFor(request: {
  readonly manager: 'cgroupfs' | 'systemd';
  readonly parent: string;
  readonly id: string;
}): string {
  const parent = checkedParent(request.parent, request.manager);
  if (request.manager === 'systemd') return `${parent}:${CGROUP_PREFIX}:${request.id}`;
  return posix.join('/', parent, containerScope(request.id));
}

/** The pod's cgroup parent as the manager wants it: an absolute path, or the last slice of it. */
export function checkedParent(parent: string, manager: 'cgroupfs' | 'systemd'): string {
  if (
    parent.length > 4096 ||
    /[\0\n]/.test(parent) ||
    parent.split('/').some((part) => part === '..' || part === '.')
  ) {
    throw invalid('cgroup_parent', parent, 'want a plain path without . and ..');
  }
  const clean = posix.normalize(`/${parent}`).replace(/\/$/, '');
  if (clean === '') return OWN_PLACE[manager];
  if (manager === 'cgroupfs') {
    if (clean.endsWith('.slice'))
      throw invalid(
        'cgroup_parent',
        parent,
        'it is a systemd slice, and cgroup_manager is cgroupfs; kubelet and runtime must use the same driver',
      );
    return clean;
  }
  const slice = posix.basename(clean);
  if (!/^[A-Za-z0-9:_.\\@-]+\.slice$/.test(slice) || slice.startsWith('-') || slice.includes('--')) {
    throw invalid(
      'cgroup_parent',
      parent,
      'cgroup_manager is systemd, so it must be a slice such as kubepods-pod1.slice',
    );
  }
  return slice;
}

// Devices

/**
 * Parses `host[:container[:permissions]]`, the form of additional_devices and of the devices annotation. @throws
 * InvalidArgument.
 */
export function parseDevice(text: string): DeviceRequest {
  const [hostPath = '', second = '', third = '', ...rest] = text.trim().split(':');
  if (hostPath === '' || rest.length > 0) throw invalid('device', text, 'want host[:container[:rwm]]');
  const request =
    second.startsWith('/') || third !== ''
      ? { hostPath, containerPath: second, permissions: third }
      : { hostPath, containerPath: '', permissions: second };
  checkDeviceRequest(request);
  return request;
}

/** @throws InvalidArgument unless paths are absolute and plain and permissions are a subset of rwm. */
export function checkDeviceRequest(request: DeviceRequest): void {
  for (const [field, path] of [
    ['device.host_path', request.hostPath],
    ['device.container_path', request.containerPath || request.hostPath],
  ] as const) {
    if (
      !path.startsWith('/') ||
      /[\0\n]/.test(path) ||
      path.split('/').includes('..') ||
      posix.normalize(path) === '/'
    ) {
      throw invalid(field, path, 'want an absolute path without ..');
    }
  }
  if (request.permissions.length > 3 || !/^(?!.*(.).*\1)[rwm]*$/.test(request.permissions))
    throw invalid('device.permissions', request.permissions, 'want a combination of r, w and m');
}

/**
 * The nodes that one request gives: `found` is what the host has at `hostPath`, one node or all below a directory.
 * A node keeps its place below the directory (`/dev/snd/timer` asked for as `/dev/snd` → `/dev/audio`).
 * @throws InvalidArgument for a bad request and when there is no device at all.
 */
export function resolveDevices(request: DeviceRequest, found: readonly FoundDevice[]): readonly ResolvedDevice[] {
  checkDeviceRequest(request);
  if (found.length === 0) throw invalid('device.host_path', request.hostPath, 'there is no device node');
  const from = posix.normalize(request.hostPath).replace(/\/$/, '');
  const to = posix.normalize(request.containerPath || request.hostPath).replace(/\/$/, '');
  const access = request.permissions || 'rwm';
  return found.map((device) => {
    const below = device.path.startsWith(`${from}/`) ? device.path.slice(from.length) : '';
    return { ...device, path: `${to}${below}`, access };
  });
}

type DevicePart = {
  readonly devices: NonNullable<RuntimeLinux['devices']>;
  readonly rules: NonNullable<LinuxResources['devices']>;
};

/**
 * Nodes and cgroup rules of a container. Nothing but the runtime's default devices is allowed unless listed here;
 * a privileged container with the host's devices may use them all. A device asked for wins over the host's at the same
 * path.
 */
export function deviceParts(input: {
  readonly devices: readonly ResolvedDevice[];
  readonly hostDevices: readonly ResolvedDevice[];
  readonly user: ResolvedUser;
  readonly defaults: SpecDefaults;
}): DevicePart {
  const asked = new Map(input.devices.map((device) => [device.path, device]));
  const all = [...input.hostDevices.filter((device) => !asked.has(device.path)), ...asked.values()];
  const owner =
    input.defaults.deviceOwner === 'containerUser' ? { uid: input.user.uid, gid: input.user.gid } : undefined;
  const devices = all.map((device) => ({
    type: device.type,
    path: device.path,
    major: device.major,
    minor: device.minor,
    fileMode: device.fileMode & 0o7777,
    uid: device.uid,
    gid: device.gid,
    ...(asked.has(device.path) ? owner : undefined),
  }));
  if (input.hostDevices.length > 0) return { devices, rules: [{ allow: true, access: 'rwm' }] };
  const rules = [...asked.values()]
    .filter((device) => device.type !== 'p')
    .map((device) => ({
      allow: true,
      type: device.type,
      major: device.major,
      minor: device.minor,
      access: device.access,
    }));
  return { devices, rules: [{ allow: false, access: 'rwm' }, ...rules] };
}

function invalid(field: string, value: string | bigint, remedy: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} ${typeof value === 'bigint' ? value : quote(value)}: ${remedy}`);
}

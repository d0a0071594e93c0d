/**
 * What a sandbox needs, decided from its config alone. Pure.
 */
import { posix } from 'node:path';
import type { DNSConfig, NamespaceOption, SELinuxOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { annotationSettings, checkedParent, passedAnnotations, selinuxLabels, workloadOf } from '../spec/index.ts';
import type { IdMap } from '../ports/rootfs.ts';
import type { PortMapping } from '../ports/network.ts';
import type { NamespaceKind, RuntimeFeatures } from '../ports/runtime.ts';
import type { NamedContainerConfig, SandboxConfig } from '../ports/requests.ts';
import type { SandboxRecord } from '../ports/state.ts';
import type { HandlerSettings, MadeBy, PodSettings } from './world.ts';

/** What is decided of a sandbox before anything of it is made. */
export interface SandboxPlan {
  /** Namespaces of its own, to be pinned; the others are the host's. */
  readonly kinds: readonly NamespaceKind[];
  readonly network: 'pod' | 'host';
  readonly ipc: 'pod' | 'host';
  /** `pod`: one PID namespace for all containers, with our pause as its init. */
  readonly pid: 'pod' | 'container' | 'host';
  readonly idMap: IdMap | null;
  readonly portMappings: readonly PortMapping[];
}

/** @throws InvalidArgument for a combination that CRI forbids. */
export function planSandbox(config: SandboxConfig): SandboxPlan {
  const options = config.linux?.securityContext?.namespaceOptions;
  // proto3: a sandbox without options has the first enum value, POD, for each.
  const network = modeOf(options, 'network') === 'NODE' ? 'host' : 'pod';
  const ipc = modeOf(options, 'ipc') === 'NODE' ? 'host' : 'pod';
  const idMap = idMapOf(options);
  const kinds: NamespaceKind[] = ['uts'];
  if (idMap !== null) kinds.unshift('user');
  if (network === 'pod') kinds.push('net');
  if (ipc === 'pod') kinds.push('ipc');
  // With the host's network the pod has the host's name, so that it sees what the node is called.
  return {
    kinds: network === 'host' ? kinds.filter((kind) => kind !== 'uts') : kinds,
    network,
    ipc,
    pid: pidMode(options),
    idMap,
    portMappings: network === 'host' ? [] : portMappings(config),
  };
}

function modeOf(options: NamespaceOption | undefined, kind: 'network' | 'ipc'): 'POD' | 'NODE' {
  const mode = options?.[kind] ?? 'POD';
  if (mode === 'POD' || mode === 'NODE') return mode;
  throw new RuntimeError(
    'InvalidArgument',
    `namespace_options.${kind} of a pod sandbox must be POD or NODE, got ${mode}`,
  );
}

function pidMode(options: NamespaceOption | undefined): SandboxPlan['pid'] {
  // Without any options CRI's default is a PID namespace per container (the kubelet always sends options).
  if (options === undefined) return 'container';
  switch (options.pid) {
    case 'POD':
      return 'pod';
    case 'CONTAINER':
      return 'container';
    case 'NODE':
      return 'host';
    case 'TARGET':
      throw new RuntimeError(
        'InvalidArgument',
        'namespace_options.pid = TARGET is for containers, not for a pod sandbox',
      );
  }
}

/** The namespaces that a sandbox has pinned, by kind: what its containers join. */
export function pinnedNamespaces({ namespaces }: SandboxRecord): ReadonlyMap<NamespaceKind, string> {
  const found = new Map<NamespaceKind, string>();
  for (const kind of ['net', 'ipc', 'uts', 'user'] as const) {
    const path = namespaces[kind];
    if (path !== undefined) found.set(kind, path);
  }
  return found;
}

/** KEP-127: mode POD with exactly one uid and one gid mapping that both contain id 0; NODE or nothing means none. */
function idMapOf(options: NamespaceOption | undefined): IdMap | null {
  const userns = options?.usernsOptions;
  if (userns === undefined || userns.mode === 'NODE') {
    if (userns !== undefined && (userns.uids.length > 0 || userns.gids.length > 0)) {
      throw new RuntimeError(
        'InvalidArgument',
        'userns_options has mode NODE and id mappings; use mode POD or leave the mappings out',
      );
    }
    return null;
  }
  if (userns.mode !== 'POD')
    throw new RuntimeError('InvalidArgument', `userns_options.mode must be POD or NODE, got ${userns.mode}`);
  const one = (name: 'uids' | 'gids'): { hostId: number; containerId: number; size: number } => {
    const [first, ...more] = userns[name];
    if (first === undefined || more.length > 0)
      throw new RuntimeError(
        'InvalidArgument',
        `userns_options.${name} must hold exactly one mapping, got ${userns[name].length}`,
      );
    if (first.length === 0)
      throw new RuntimeError('InvalidArgument', `userns_options.${name} has a mapping of length 0`);
    if (first.containerId !== 0)
      throw new RuntimeError(
        'InvalidArgument',
        `userns_options.${name} must map container id 0, but starts at ${first.containerId}`,
      );
    return { hostId: first.hostId, containerId: first.containerId, size: first.length };
  };
  const uid = one('uids');
  const gid = one('gids');
  if (uid.hostId !== gid.hostId || uid.size !== gid.size)
    throw new RuntimeError('InvalidArgument', 'userns_options.uids and gids must be the same mapping');
  return { uids: [uid], gids: [gid] };
}

/**
 * @throws FailedPrecondition for processes that are to see others, of a runtime whose containers each have a kernel of
 * their own.
 */
export function requireOwnPids(
  handler: string,
  { kind, ownKernel }: Pick<RuntimeFeatures, 'kind' | 'ownKernel'>,
  pid: NamespaceOption['pid'] | undefined,
): void {
  if (!ownKernel || pid === undefined || pid === 'CONTAINER') return;
  throw new RuntimeError(
    'FailedPrecondition',
    `namespace_options.pid is ${pid}, but with runtime handler ${handler} (${kind}) each ` +
      'container has a kernel of its own and cannot see the processes of another; leave ' +
      'shareProcessNamespace, hostPID and targets of debug containers out, or use another runtime ' +
      'handler',
  );
}

function portMappings(config: SandboxConfig): PortMapping[] {
  return config.portMappings
    .filter((mapping) => mapping.hostPort !== 0)
    .map((mapping) => ({
      protocol: mapping.protocol === 'UDP' ? 'udp' : mapping.protocol === 'SCTP' ? 'sctp' : 'tcp',
      containerPort: mapping.containerPort,
      hostPort: mapping.hostPort,
      hostIp: mapping.hostIp,
    }));
}

/** resolv.conf of a DNS config; undefined when there is nothing in it and the host's file is to be used. */
export function renderResolvConf(dns: DNSConfig | undefined): string | undefined {
  if (dns === undefined || (dns.servers.length === 0 && dns.searches.length === 0 && dns.options.length === 0))
    return undefined;
  const lines: string[] = [];
  if (dns.searches.length > 0) lines.push(`search ${dns.searches.join(' ')}`);
  for (const server of dns.servers) lines.push(`nameserver ${server}`);
  if (dns.options.length > 0) lines.push(`options ${dns.options.join(' ')}`);
  return `${lines.join('\n')}\n`;
}

/**
 * Under which cgroup a pod's containers live, and whether it is ours to remove. The kubelet names the pod's own cgroup
 * and owns it; crictl and critest often name none, and then the pod gets one below `/berth`, never relative to the
 * daemon's own.
 * @throws InvalidArgument for a parent that is no plain path, or with systemd no slice.
 */
export function podCgroupFor(
  manager: 'cgroupfs' | 'systemd',
  id: string,
  parent: string,
): { readonly parent: string; readonly own: boolean } {
  // The root of the hierarchies is nobody's pod.
  if (posix.normalize(`/${parent}`) !== '/') return { parent: checkedParent(parent, manager), own: false };
  // In system.slice, as a dash says: a slice of ours above all pods would be nobody's to stop.
  return { parent: manager === 'systemd' ? `system-berth_pod${id}.slice` : `/berth/${id}`, own: true };
}

/** The settings of a pod's handler; '' is the default's. @throws InvalidArgument if there is none. */
export function handlerSettings(settings: PodSettings, handler: string): HandlerSettings {
  const found = settings.handlers.get(handler);
  if (found === undefined) throw new RuntimeError('InvalidArgument', `no runtime handler is called ${quote(handler)}`);
  return found;
}

/** The handler whose settings hold for what is there: that of its making, whichever is the default by now. */
export function handlerOf({ runtime, runtimeHandler }: MadeBy): string {
  return runtime?.name ?? runtimeHandler;
}

/**
 * The annotations of a pod, and of one of its containers, that its handler or its workload allows, and over those the
 * handler's own.
 */
export function podAnnotations(
  settings: PodSettings,
  config: SandboxConfig,
  handler: string,
  container?: NamedContainerConfig,
): ReadonlyMap<string, string> {
  const { allowedAnnotations, defaultAnnotations } = handlerSettings(settings, handler);
  const allowed = [
    ...allowedAnnotations,
    ...(workloadOf(settings.workloads, config.annotations)?.allowedAnnotations ?? []),
  ];
  return new Map([
    ...defaultAnnotations,
    ...passedAnnotations(config.annotations, container?.annotations ?? {}, container?.metadata.name ?? '', allowed),
  ]);
}

/** Seccomp profile for RuntimeDefault and least memory of a handler's containers, over what holds for all. */
export function specDefaults(settings: PodSettings, handler: string): PodSettings['spec'] {
  const { seccompProfile, minMemoryBytes } = handlerSettings(settings, handler);
  return { ...settings.spec, minMemoryBytes, seccompProfile: seccompProfile ?? settings.spec.seccompProfile };
}

/**
 * SELinux labels of a new pod: none on the network of the host where the configuration says so. @throws as podLabels.
 */
export function sandboxLabels(
  settings: PodSettings,
  plan: Pick<SandboxPlan, 'network'>,
  ...rest: Tail<Parameters<typeof podLabels>>
): Labels {
  return plan.network === 'host' && settings.selinuxOnHostNetwork === 'none'
    ? NO_LABELS
    : podLabels(settings.selinux, ...rest);
}

type Tail<T extends readonly unknown[]> = T extends readonly [unknown, ...infer Rest] ? Rest : never;

/** Size of the pod's /dev/shm. @throws InvalidArgument for an annotation that is no size. */
export function shmBytesOf(settings: PodSettings, config: SandboxConfig, handler: string): bigint {
  return (
    annotationSettings(podAnnotations(settings, config, handler), settings.allowedDevices).shmBytes ?? settings.shmBytes
  );
}

/**
 * An owner inside a container as the host's file systems have it. An id that is not mapped stays: nothing in the
 * container could own it.
 */
export function ownerOnHost(
  idMap: IdMap | null,
  owner: { readonly uid: number; readonly gid: number },
): { readonly uid: number; readonly gid: number } {
  if (idMap === null) return { uid: owner.uid, gid: owner.gid };
  const mapped = (id: number, maps: IdMap['uids']): number => {
    const map = maps.find(({ containerId, size }) => id >= containerId && id < containerId + size);
    return map === undefined ? id : map.hostId + (id - map.containerId);
  };
  return { uid: mapped(owner.uid, idMap.uids), gid: mapped(owner.gid, idMap.gids) };
}

type Labels = SandboxRecord['selinux'];
const NO_LABELS: Labels = { processLabel: '', mountLabel: '' };
/** Categories of the MCS policies that distributions ship. */
const CATEGORIES_COUNT = 1024;

/**
 * SELinux labels of a pod: what its options name, else the policy's, with a pair of categories that no other pod has.
 * `draw` gives a random number from 0 to below its argument. @throws InvalidArgument for options that no policy can
 * hold; ResourceExhausted when no pair is found.
 */
export function podLabels(
  base: PodSettings['selinux'],
  options: SELinuxOption | undefined,
  others: Iterable<Labels>,
  draw: (below: number) => number,
): Labels {
  if (base === null) return NO_LABELS;
  const taken = new Set(Array.from(others, ({ processLabel }) => levelOf(processLabel)));
  // A node has some hundred pods, and there are half a million pairs.
  for (let attempt = 0; attempt < 1000; attempt++) {
    const [a, b] = [draw(CATEGORIES_COUNT), draw(CATEGORIES_COUNT)];
    const level = `s0:c${Math.min(a, b)},c${Math.max(a, b)}`;
    if (a !== b && !taken.has(level)) return selinuxLabels(options, { ...base, level });
  }
  throw new RuntimeError('ResourceExhausted', 'no free pair of SELinux categories was found for the pod');
}

/** Labels of a container: its own options on top of its pod's. @throws InvalidArgument as podLabels. */
export function containerLabels(pod: Labels, options: SELinuxOption | undefined): Labels {
  return pod.processLabel === '' ? NO_LABELS : selinuxLabels(options, { ...pod, level: levelOf(pod.processLabel) });
}

/**
 * The label that volumes get which ask for one; '' for none: SELinux is off, or the container's type may use everything
 * anyway.
 */
export function volumeLabel(labels: Labels): string {
  return labels.processLabel.split(':')[2] === 'spc_t' ? '' : labels.mountLabel;
}

function levelOf(label: string): string {
  return label.split(':').slice(3).join(':');
}

/**
 * Mode of a directory of ours that a container's files lie in: with a user namespace the runtime passes through it as
 * the mapped root.
 */
export function directoryMode(idMap: IdMap | null): number {
  return idMap === null ? 0o700 : 0o711;
}

/** /etc/hosts of a pod with a network of its own. */
export function renderHosts(hostname: string, ips: readonly string[]): string {
  const names = [
    '127.0.0.1\tlocalhost',
    '::1\tlocalhost ip6-localhost ip6-loopback',
    'ff02::1\tip6-allnodes',
    'ff02::2\tip6-allrouters',
  ];
  return `${[...names, ...(hostname === '' ? [] : ips.map((ip) => `${ip}\t${hostname}`))].join('\n')}\n`;
}

/** Which namespaces a sandbox has of its own, and what else its config alone decides. Pure. */
import type { NamespaceOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import type { IdMap } from '../ports/rootfs.ts';
import type { PortMapping } from '../ports/network.ts';
import type { NamespaceKind, RuntimeFeatures } from '../ports/runtime.ts';
import type { SandboxConfig } from '../ports/requests.ts';
import type { SandboxRecord } from '../ports/state.ts';
import { idMapOf } from './id-maps.ts';

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

/**
 * `annotated` is the user namespace of a pod whose options name none (`usernsModeOf`). @throws InvalidArgument for a
 * combination that CRI forbids.
 */
export function planSandbox(
  config: SandboxConfig,
  { ownKernel }: Pick<RuntimeFeatures, 'ownKernel'>,
  annotated: IdMap | null,
): SandboxPlan {
  const options = config.linux?.securityContext?.namespaceOptions;
  // proto3: a sandbox without options has the first enum value, POD, for each.
  const network = modeOf(options, 'network') === 'NODE' ? 'host' : 'pod';
  const ipc = modeOf(options, 'ipc') === 'NODE' ? 'host' : 'pod';
  const idMap = idMapOf(options) ?? annotated;
  const kinds: NamespaceKind[] = ['uts'];
  if (idMap !== null) kinds.unshift('user');
  if (network === 'pod') kinds.push('net');
  if (ipc === 'pod') kinds.push('ipc');
  // With the host's network the pod has the host's name, so that it sees what the node is called.
  return {
    kinds: network === 'host' ? kinds.filter((kind) => kind !== 'uts') : kinds,
    network,
    ipc,
    // Whoever asks for nothing gets of such a runtime what it can give.
    pid: options === undefined && ownKernel ? 'container' : pidMode(options),
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
  switch (options?.pid) {
    // The zero value of CRI's enumeration, as for the other kinds.
    case undefined:
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

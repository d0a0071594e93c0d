/**
 * berth.v1.Node: what people on the node ask for and CRI has no RPC for. Import is in image-service.ts.
 */
import { setTimeout as sleep } from 'node:timers/promises';
import { explain } from '../pkg/base/errors.ts';
import type { SandboxId } from '../pkg/base/ids.ts';
import type { Op } from '../pkg/base/op.ts';
import { Gate } from '../pkg/base/sync.ts';
import { limits } from '../pkg/base/limits.ts';
import type { NodeFact, Operation, PullProgressResponse } from '../pkg/cri-api/types.ts';
import type { FileImageStore } from '../pkg/image/index.ts';
import type { DiskState } from './disks.ts';
import { toJson } from './json.ts';
import type { Handlers } from './handler.ts';
import type { NetworkInUse, NetworkPlugin } from '../pkg/ports/network.ts';
import type { OciRuntime, RuntimeFeatures } from '../pkg/ports/runtime.ts';
import type { NodeFacts } from '../pkg/ports/spec.ts';

/** What it answers from. */
export interface NodeServiceOptions {
  readonly images: Pick<FileImageStore, 'check' | 'progress'>;
  /** All that is in flight, oldest first. */
  readonly operations: () => readonly Operation[];
  readonly disks: () => Promise<readonly DiskState[]>;
  readonly facts: NodeFacts;
  readonly network: Pick<NetworkPlugin, 'ready' | 'inUse' | 'check'>;
  /** Pods that are ready and have a network of their own. */
  readonly networkedPods: () => readonly { readonly id: SandboxId; readonly name: string }[];
  readonly runtimes: {
    readonly named: ReadonlyMap<string, { readonly features: RuntimeFeatures }>;
    /** What pods get that name none; undefined if that is not there. */
    readonly standard: { readonly runtime: Pick<OciRuntime, 'handler'> } | undefined;
    /** Why those pods cannot run; undefined if they can. */
    readonly trouble: string | undefined;
  };
  /** Undefined if pods can have user namespaces. */
  readonly whyNoUserNamespaces: string | undefined;
}

/** Handlers of Operations, Check and PullProgress. */
export type NodeService = ReturnType<typeof nodeService>;

/** Answers for the node as a whole. */
export function nodeService(options: NodeServiceOptions) {
  const { images } = options;
  return {
    operations: () => ({ operations: options.operations() }),
    async check(op, request) {
      const problems = await images.check(op, request.repair ? 'repair' : 'report');
      return {
        problems: problems.map(({ image, what, keptBy }) => ({ imageId: image, what, keptBy })),
        facts: [
          ...nodeFactList(options),
          ...diskFactList(await options.disks()),
          ...(await podNetworkFactList(op, options)),
        ],
      };
    },
    async *pullProgress(op) {
      let before = '';
      while (!op.signal.aborted) {
        const now: PullProgressResponse = { pulls: images.progress() };
        const key = toJson(now);
        if (key !== before) yield now;
        before = key;
        await sleep(limits.pullProgressEveryMs, undefined, { signal: op.signal, ref: false }).catch(() => {});
      }
    },
  } satisfies Handlers;
}

/** What the node has and lacks, for `berth check`. */
export function nodeFactList(
  options: Pick<NodeServiceOptions, 'facts' | 'network' | 'runtimes' | 'whyNoUserNamespaces'>,
): NodeFact[] {
  const rows = [...kernelRows(options), ...networkRows(options), ...runtimeRows(options)];
  return rows.map(([name, detail, advice]) => ({ name, ok: advice === '', detail, advice }));
}

/** `advice` is '' where all is well. */
type Row = readonly [name: string, detail: string, advice: string];

function kernelRows({ facts, whyNoUserNamespaces }: Pick<NodeServiceOptions, 'facts' | 'whyNoUserNamespaces'>): Row[] {
  const missing = ['cpu', 'memory', 'pids', 'cpuset'].filter((name) => !facts.controllers.has(name)).join(', ');
  return [
    ['kernel', `${facts.kernel} ${facts.machine}`, ''],
    [
      'cgroups',
      `${facts.cgroupMode}, ${facts.cgroupManager}, ${[...facts.controllers].sort().join(' ')}`,
      missing === ''
        ? ''
        : `limits of ${missing} have no effect; enable the controllers on the kernel's command line or ` +
          'in the parent cgroup',
    ],
    [
      'swap limit',
      facts.swapLimit ? 'yes' : 'no',
      facts.swapLimit ? '' : 'containers cannot be kept from swap; boot with swapaccount=1',
    ],
    [
      'capabilities',
      `${facts.capabilities.size} of the kernel's`,
      facts.capabilities.has('CAP_SYS_RESOURCE')
        ? ''
        : 'no CAP_SYS_RESOURCE: containers get only the capabilities that the daemon has, ' +
          'oom_score_adj and hard limits stay within its own; give it to the service',
    ],
    [
      'seccomp',
      facts.seccomp ? 'yes' : 'no',
      facts.seccomp ? '' : 'system calls are not filtered; use a kernel with CONFIG_SECCOMP_FILTER',
    ],
    ['apparmor', facts.apparmor ? 'enabled' : 'not enabled', ''],
    ['selinux', facts.selinux ? 'enabled' : 'not enabled', ''],
    ['user namespaces', whyNoUserNamespaces === undefined ? 'yes' : 'no', whyNoUserNamespaces ?? ''],
  ];
}

function networkRows({ network }: Pick<NodeServiceOptions, 'network'>): Row[] {
  const { ready, inUse } = network;
  const state: Row = ['network', `${ready.ok ? 'ready' : 'not ready'}${nameOf(inUse)}`, ready.ok ? '' : ready.why];
  if (inUse === undefined) return [state];
  const advice =
    inUse.hostPorts === 'nobody'
      ? 'pods with host ports cannot run: install the package nftables, or add portmap to the network'
      : '';
  return [state, ['host ports', HOST_PORTS[inUse.hostPorts], advice]];
}

function runtimeRows({ runtimes: { named, standard, trouble } }: Pick<NodeServiceOptions, 'runtimes'>): Row[] {
  const chosen = standard?.runtime.handler.name;
  const missing: readonly Row[] = standard === undefined ? [['default runtime', 'missing', trouble ?? '']] : [];
  const rows = [...named].map(
    ([name, { features }]): Row => [
      `runtime ${name}`,
      name === chosen ? 'the default' : 'usable',
      features.broken ?? features.vulnerable ?? '',
    ],
  );
  return [...missing, ...rows];
}

/**
 * What the plugins of pods find when they look at their own work (CNI CHECK): a line for all that are well, and one for
 * each that is not.
 */
export async function podNetworkFactList(
  op: Op,
  { network, networkedPods }: Pick<NodeServiceOptions, 'network' | 'networkedPods'>,
): Promise<NodeFact[]> {
  const gate = new Gate(limits.podChecksCount);
  const pods = networkedPods();
  const found = await Promise.all(
    pods.map(({ id, name }) =>
      gate.run(async (): Promise<NodeFact[]> => {
        try {
          await network.check(op, id);
          return [];
        } catch (error) {
          return [
            {
              name: `network of pod ${name}`,
              ok: false,
              detail: id,
              advice: `${explain(error)}; if it does not work, delete the pod`,
            },
          ];
        }
      }),
    ),
  );
  const faults = found.flat();
  return [
    {
      name: 'pod networks',
      ok: true,
      detail: `${pods.length - faults.length} of ${pods.length} as their plugins made them`,
      advice: '',
    },
    ...faults,
  ];
}

const HOST_PORTS: Readonly<Record<NetworkInUse['hostPorts'], string>> = {
  plugin: 'by a CNI plugin',
  berth: 'by nftables',
  nobody: 'no',
};

function nameOf(network: NetworkInUse | undefined): string {
  return network === undefined
    ? ''
    : `: ${network.name} (${network.plugins.join(', ')}; CNI ${network.cniVersion}) of ${network.file}`;
}

/** What is free where we keep things. */
export function diskFactList(disks: readonly DiskState[]): NodeFact[] {
  return disks.map(({ name, directory, availableBytes, totalBytes, inodes, inodesFree, reservedBytes }) => {
    const nearlyFull = availableBytes * 20n < totalBytes || (inodes > 0n && inodesFree * 20n < inodes);
    const advice =
      reservedBytes === 0
        ? 'full: there is not even room for the file that keeps deletions possible; free space'
        : nearlyFull
          ? 'less than a twentieth is free; remove images, or enlarge the file system'
          : '';
    return {
      name,
      ok: advice === '',
      detail: `${directory}: ${availableBytes >> 20n} of ${totalBytes >> 20n} MiB and ${inodesFree} inodes free`,
      advice,
    };
  });
}

/**
 * The reading half of RuntimeService: lists and statuses, straight from immutable records. Never waits for a write, never runs anything.
 */
import type { Container, PodSandbox, RuntimeCondition, RuntimeHandler } from '../pkg/cri-api/types.ts';
import { explain } from '../pkg/base/errors.ts';
import type { NetworkPlugin } from '../pkg/network/index.ts';
import { container, containerStatus, matchesContainer, matchesSandbox, type OpenPods, podSandbox, podSandboxStatus } from '../pkg/pod/index.ts';
import type { OciRuntime, RuntimeFeatures } from '../pkg/runtime/index.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/state/index.ts';
import { codecs, concatenate, type Encoded } from './codec.ts';
import type { Handlers } from './server.ts';
import { narrowId } from './validate.ts';

export interface ObserveOptions {
  readonly mind: OpenPods;
  readonly network: NetworkPlugin;
  readonly version: string;
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  /** Handlers by name; '' is the default. */
  readonly handlers: ReadonlyMap<string, { readonly runtime: OciRuntime; readonly features: RuntimeFeatures }>;
  readonly userNamespaces: boolean;
  /** Values of `Status.info` when verbose, JSON each. */
  readonly info: () => Readonly<Record<string, string>>;
  /** Containers with their statuses in PodSandboxStatus (evented PLEG). */
  readonly podEvents: boolean;
  readonly clock: () => bigint;
}

/** Handlers of the RPCs that only read. */
export function observeService(options: ObserveOptions): Handlers {
  const { mind, clock } = options;
  const sandboxItems = itemCache<SandboxRecord>((record) => codecs.PodSandbox.item(podSandbox(record) satisfies PodSandbox));
  const containerItems = itemCache<ContainerRecord>((record) => codecs.Container.item(container(record) satisfies Container));
  return {
    version: () => ({ version: '0.1.0', runtimeName: 'berth', runtimeVersion: options.version, runtimeApiVersion: 'v1' }),
    status: (_op, request) => ({
      status: { conditions: conditions(options) },
      info: request.verbose ? options.info() : {},
      runtimeHandlers: handlerList(options),
      features: { supplementalGroupsPolicy: true, userNamespacesHostNetwork: false, mountOptions: true },
    }),
    runtimeConfig: () => ({ linux: { cgroupDriver: options.cgroupManager === 'systemd' ? 'SYSTEMD' : 'CGROUPFS' } }),
    listPodSandbox: (_op, request): Encoded => concatenate(mind.pods.list().filter((record) => matchesSandbox(record, request.filter)).map(sandboxItems)),
    listContainers: (_op, request): Encoded => concatenate(mind.containers.list().filter((record) => matchesContainer(record, request.filter)).map(containerItems)),
    podSandboxStatus(_op, request) {
      const record = mind.pods.get(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      const own = options.podEvents ? mind.containers.list().filter((each) => each.sandboxId === record.id) : [];
      return {
        status: podSandboxStatus(record),
        info: request.verbose ? { info: inspect(record) } : {},
        containersStatuses: own.map(containerStatus),
        timestamp: options.podEvents ? clock() : 0n,
      };
    },
    containerStatus(_op, request) {
      const record = mind.containers.get(narrowId(request.containerId, 'container_id'));
      return { status: containerStatus(record), info: request.verbose ? { info: inspectContainer(record) } : {} };
    },
  };
}

/** Each record is immutable, so its bytes are made once: a list is a concatenation (DESIGN 13, point 5). */
function itemCache<R extends object>(encode: (record: R) => Buffer): (record: R) => Buffer {
  const cache = new WeakMap<R, Buffer>();
  return (record) => {
    const known = cache.get(record);
    if (known !== undefined) return known;
    const bytes = encode(record);
    cache.set(record, bytes);
    return bytes;
  };
}

function conditions({ network, handlers }: ObserveOptions): RuntimeCondition[] {
  const broken = handlers.get('')?.features.broken;
  return [
    { type: 'RuntimeReady', status: broken === undefined, reason: broken === undefined ? '' : 'RuntimeBroken', message: broken ?? '' },
    { type: 'NetworkReady', status: network.ready.ok, reason: network.ready.ok ? '' : 'NetworkPluginNotReady', message: network.ready.ok ? '' : network.ready.why },
  ];
}

function handlerList({ handlers, userNamespaces }: ObserveOptions): RuntimeHandler[] {
  return [...handlers].map(([name, { features }]) => ({
    name,
    features: { recursiveReadOnlyMounts: features.recursiveReadOnlyMounts, userNamespaces: userNamespaces && features.userNamespaces && features.idmappedMounts },
  }));
}

/** The record as JSON for `crictl inspectp`; bigints as numbers or strings, bytes as base64. */
function inspect(record: SandboxRecord | ContainerRecord): string {
  try {
    return JSON.stringify({ ...record, pid: pidOf(record) }, (_key, value: unknown) => {
      if (typeof value === 'bigint') return value <= BigInt(Number.MAX_SAFE_INTEGER) && value >= BigInt(Number.MIN_SAFE_INTEGER) ? Number(value) : value.toString();
      if (value instanceof Uint8Array) return Buffer.from(value).toString('base64');
      return value;
    });
  } catch (error) {
    return JSON.stringify({ error: explain(error) });
  }
}

/** Without the environment: it holds secrets, and `info` ends in bug reports. */
function inspectContainer(record: ContainerRecord): string {
  return inspect({ ...record, config: { ...record.config, envs: [] } });
}

function pidOf(record: SandboxRecord | ContainerRecord): number {
  if (record.kind === 'sandbox') return record.infra?.process?.pid ?? 0;
  return 'process' in record.state ? record.state.process.pid : 0;
}

/**
 * The reading half of RuntimeService: lists and statuses, straight from immutable records. Never waits for a write,
 * never runs anything.
 */
import type {
  Container,
  ContainerFilter,
  Operation,
  PodSandbox,
  PodSandboxFilter,
  RuntimeCondition,
  RuntimeHandler,
} from '../pkg/cri-api/types.ts';
import {
  container,
  containerStatus,
  matchesContainer,
  matchesSandbox,
  type OpenPods,
  podSandbox,
  podSandboxStatus,
} from '../pkg/pod/index.ts';
import { remembered } from '../pkg/base/remembered.ts';
import { chunksOf, codecs, concatenate, type Encoded } from './codec.ts';
import { toJson } from './json.ts';
import { containerInfo, podInfo } from './verbose.ts';
import type { Handlers } from './handler.ts';
import { containersOf } from './pod-containers.ts';
import { narrowId } from './validate.ts';
import type { NetworkPlugin } from '../pkg/ports/network.ts';
import type { RuntimeFeatures } from '../pkg/ports/runtime.ts';
import type { ContainerRecord, SandboxRecord } from '../pkg/ports/state.ts';

/** What it answers from. */
export interface ObserveOptions {
  readonly mind: OpenPods;
  readonly network: NetworkPlugin;
  readonly version: string;
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  readonly runtimes: {
    readonly named: ReadonlyMap<string, { readonly features: RuntimeFeatures }>;
    /** What pods get that name none; undefined if that is not there. */
    readonly standard: { readonly features: RuntimeFeatures } | undefined;
    /** Why those pods cannot run; undefined if they can. */
    readonly trouble: string | undefined;
  };
  readonly userNamespaces: boolean;
  /** Values of `Status.info` when verbose, JSON each. */
  readonly info: () => Readonly<Record<string, string>>;
  /** Calls in flight. */
  readonly operations: () => readonly Operation[];
  /** Containers with their statuses in PodSandboxStatus (evented PLEG). */
  readonly podEvents: boolean;
  readonly clock: () => bigint;
}

/** Handlers of the RPCs that only read. */
export type ObserveService = ReturnType<typeof observeService>;

/** Answers from what is in memory. */
export function observeService(options: ObserveOptions) {
  return { ...nodeRpcs(options), ...listRpcs(options), ...statusRpcs(options) };
}

function nodeRpcs(options: ObserveOptions) {
  return {
    version: () => ({
      version: '0.1.0',
      runtimeName: 'berth',
      runtimeVersion: options.version,
      runtimeApiVersion: 'v1',
    }),
    status(_op, request) {
      const runtimeHandlers = handlerList(options);
      return {
        status: { conditions: conditions(options) },
        info: request.verbose ? options.info() : {},
        runtimeHandlers,
        features: {
          supplementalGroupsPolicy: true,
          userNamespacesHostNetwork: runtimeHandlers.some(({ features }) => features?.userNamespaces === true),
          mountOptions: true,
        },
      };
    },
    runtimeConfig: () => ({ linux: { cgroupDriver: options.cgroupManager === 'systemd' ? 'SYSTEMD' : 'CGROUPFS' } }),
  } satisfies Handlers;
}

function listRpcs({ mind }: ObserveOptions) {
  const sandboxItems = remembered((record: SandboxRecord) =>
    codecs.PodSandbox.item(podSandbox(record) satisfies PodSandbox),
  );
  const containerItems = remembered((record: ContainerRecord) =>
    codecs.Container.item(container(record) satisfies Container),
  );
  const sandboxes = (filter: PodSandboxFilter | undefined): Buffer[] =>
    mind.pods
      .list()
      .filter((record) => matchesSandbox(record, filter))
      .map(sandboxItems);
  const containers = (filter: ContainerFilter | undefined): Buffer[] =>
    mind.containers
      .list()
      .filter((record) => matchesContainer(record, filter))
      .map(containerItems);
  return {
    listPodSandbox: (_op, request): Encoded => concatenate(sandboxes(request.filter)),
    listContainers: (_op, request): Encoded => concatenate(containers(request.filter)),
    async *streamPodSandboxes(_op, request) {
      yield* chunksOf(sandboxes(request.filter));
    },
    async *streamContainers(_op, request) {
      yield* chunksOf(containers(request.filter));
    },
  } satisfies Handlers;
}

function statusRpcs({ mind, clock, podEvents, operations }: ObserveOptions) {
  return {
    async podSandboxStatus(_op, request) {
      const record = mind.pods.get(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      const own = podEvents || request.verbose ? containersOf(mind.containers.list(), record.id) : [];
      // Of the instant at which they were looked at: by a later one a kubelet would take old for new.
      const at = clock();
      const about = (): string => toJson(operations().filter((each) => isAbout(each, record, own)));
      return {
        status: podSandboxStatus(record),
        info: request.verbose ? { info: podInfo(record, await mind.runtimeSpec(record)), operations: about() } : {},
        containersStatuses: podEvents ? own.map(containerStatus) : [],
        timestamp: podEvents ? at : 0n,
      };
    },
    async containerStatus(_op, request) {
      const record = mind.containers.get(narrowId(request.containerId, 'container_id'));
      const info = request.verbose ? { info: containerInfo(record, await mind.runtimeSpec(record)) } : {};
      return { status: containerStatus(record), info };
    },
  } satisfies Handlers;
}

/** True for an operation on the pod or one of its containers: where it is stuck, if it is. */
function isAbout({ ids }: Operation, { id, config }: SandboxRecord, own: readonly ContainerRecord[]): boolean {
  const isPod =
    ids['pod'] === config.metadata.name && ids['ns'] === config.metadata.namespace && ids['pod'] !== undefined;
  return isPod || isPrefix(ids['sandbox'], id) || own.some((each) => isPrefix(ids['container'], each.id));
}

/** Requests may name objects by the beginning of their ids. */
function isPrefix(given: string | undefined, id: string): boolean {
  return given !== undefined && given !== '' && id.startsWith(given);
}

function conditions({ network, runtimes: { standard, trouble } }: ObserveOptions): RuntimeCondition[] {
  return [
    {
      type: 'RuntimeReady',
      status: trouble === undefined,
      reason: trouble === undefined ? '' : standard === undefined ? 'RuntimeMissing' : 'RuntimeBroken',
      message: trouble ?? '',
    },
    {
      type: 'NetworkReady',
      status: network.ready.ok,
      reason: network.ready.ok ? '' : 'NetworkPluginNotReady',
      message: network.ready.ok ? '' : network.ready.why,
    },
  ];
}

/** The default one has no name. */
function handlerList({ runtimes: { named, standard }, userNamespaces }: ObserveOptions): RuntimeHandler[] {
  const all = standard === undefined ? [...named] : [['', standard] as const, ...named];
  return all.map(([name, { features }]) => ({
    name,
    features: {
      recursiveReadOnlyMounts: features.recursiveReadOnlyMounts,
      userNamespaces: userNamespaces && features.userNamespaces && features.idmappedMounts,
    },
  }));
}

/**
 * Records as CRI's messages. Pure: the reading half of the services is made of this.
 */
import type {
  Container,
  ContainerFilter,
  ContainerState,
  ContainerStatus,
  ImageSpec,
  Mount,
  PodSandbox,
  PodSandboxFilter,
  PodSandboxStatus,
  StringMap,
} from '../cri-api/types.ts';
import type { ContainerRecord, ExitedState, SandboxRecord } from '../ports/state.ts';

/** READY only from the moment everything stands until StopPodSandbox begins. */
function sandboxState(record: SandboxRecord): PodSandboxStatus['state'] {
  return record.state.phase === 'ready' ? 'SANDBOX_READY' : 'SANDBOX_NOTREADY';
}

/** A row of ListPodSandbox. */
export function podSandbox(record: SandboxRecord): PodSandbox {
  const { config } = record;
  return {
    id: record.id,
    metadata: config.metadata,
    state: sandboxState(record),
    createdAt: record.createdAt,
    labels: config.labels,
    annotations: config.annotations,
    runtimeHandler: record.runtimeHandler,
  };
}

/** What PodSandboxStatus tells, without what is verbose. */
export function podSandboxStatus(record: SandboxRecord): PodSandboxStatus {
  const [ip, ...more] = record.ips;
  const options = record.config.linux?.securityContext?.namespaceOptions;
  return {
    ...podSandbox(record),
    network: { ip: ip ?? '', additionalIps: more.map((each) => ({ ip: each })) },
    linux: {
      namespaces: {
        options: options ?? { network: 'POD', pid: 'POD', ipc: 'POD', targetId: '', usernsOptions: undefined },
      },
    },
  };
}

function containerState(record: ContainerRecord): ContainerState {
  switch (record.state.phase) {
    case 'creating':
    case 'created':
    // Until it is known that the program runs.
    case 'starting':
      return 'CONTAINER_CREATED';
    case 'running':
      return 'CONTAINER_RUNNING';
    case 'exited':
    case 'removing':
      return 'CONTAINER_EXITED';
    case 'unknown':
      return 'CONTAINER_UNKNOWN';
  }
}

/** A row of ListContainers. */
export function container(record: ContainerRecord): Container {
  const { config } = record;
  return {
    id: record.id,
    podSandboxId: record.sandboxId,
    metadata: config.metadata,
    image: imageSpec(record),
    imageRef: record.imageId,
    state: containerState(record),
    createdAt: record.createdAt,
    labels: config.labels,
    annotations: config.annotations,
    imageId: record.imageId,
  };
}

/** Whether commands run in it: also while it waits for its start, as with CRI-O (server/container_exec.go). */
export function takesCommands({ state }: Pick<ContainerRecord, 'state'>): boolean {
  return state.phase === 'running' || state.phase === 'created';
}

/** What ContainerStatus tells, without what is verbose. */
export function containerStatus(record: ContainerRecord): ContainerStatus {
  const { config, state } = record;
  const end = state.phase === 'exited' ? state : state.phase === 'removing' ? state.last : null;
  const isStarted = 'startedAt' in state && state.phase !== 'starting';
  const startedAt = isStarted ? state.startedAt : (end?.startedAt ?? 0n);
  return {
    id: record.id,
    metadata: config.metadata,
    state: containerState(record),
    createdAt: record.createdAt,
    startedAt,
    finishedAt: end?.finishedAt ?? 0n,
    exitCode: end?.exitCode ?? 0,
    image: imageSpec(record),
    imageRef: record.imageRef,
    ...reasonOf(record, end),
    labels: config.labels,
    annotations: config.annotations,
    mounts: config.mounts.map((mount) => mountStatus(record, mount)),
    logPath: record.logPath,
    resources: record.resources === undefined ? undefined : { linux: record.resources, windows: undefined },
    imageId: record.imageId,
    user: { linux: { uid: record.user.uid, gid: record.user.gid, supplementalGroups: record.user.supplementalGroups } },
    stopSignal: record.stopSignal.name,
  };
}

/** Why it is in its state: how it ended, or what is wrong with one that lives. */
function reasonOf(record: ContainerRecord, end: ExitedState | null): Pick<ContainerStatus, 'reason' | 'message'> {
  const { state, monitorLost } = record;
  if (end !== null) return { reason: end.reason, message: end.message };
  if (state.phase === 'unknown') return { reason: '', message: state.why };
  if (monitorLost !== null) return { reason: 'MonitorLost', message: monitorLost.message };
  return { reason: '', message: '' };
}

/** True if all that the filter names holds; ids by their beginning. */
export function matchesSandbox(record: SandboxRecord, filter: PodSandboxFilter | undefined): boolean {
  if (filter === undefined) return true;
  return (
    (filter.id === '' || record.id.startsWith(filter.id)) &&
    (filter.state === undefined || filter.state.state === sandboxState(record)) &&
    hasLabels(record.config.labels, filter.labelSelector)
  );
}

/** True if all that the filter names holds; ids by their beginning. */
export function matchesContainer(record: ContainerRecord, filter: ContainerFilter | undefined): boolean {
  if (filter === undefined) return true;
  return (
    (filter.id === '' || record.id.startsWith(filter.id)) &&
    (filter.podSandboxId === '' || record.sandboxId.startsWith(filter.podSandboxId)) &&
    (filter.state === undefined || filter.state.state === containerState(record)) &&
    hasLabels(record.config.labels, filter.labelSelector)
  );
}

/** CRI's label selector: every pair, exactly. */
function hasLabels(labels: StringMap, selector: StringMap): boolean {
  return Object.keys(selector).every((key) => Object.hasOwn(labels, key) && labels[key] === selector[key]);
}

function imageSpec(record: ContainerRecord): ImageSpec {
  const asked = record.config.image;
  return {
    image: record.imageName,
    annotations: asked?.annotations ?? {},
    userSpecifiedImage: asked?.userSpecifiedImage ?? '',
    runtimeHandler: asked?.runtimeHandler ?? '',
    imageRef: record.imageId,
  };
}

/**
 * The mount as asked for; an image volume says which image it is: by its id, which is what the kubelet keeps from its
 * garbage collection, and by its digest (KEP-4639).
 */
function mountStatus(record: ContainerRecord, mount: Mount): Mount {
  const volume = record.imageVolumes.find((each) => each.containerPath === mount.containerPath);
  if (volume === undefined || mount.image === undefined) return mount;
  return { ...mount, image: { ...mount.image, image: volume.imageId, imageRef: volume.imageRef } };
}

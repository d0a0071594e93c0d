/**
 * What CRI-O shows by HTTP on its socket, with its paths and its JSON (server/inspect.go, pkg/types): the kubelet's
 * cAdvisor asks for `/info` and `/containers/<id>`, and people use the rest. What a profile is, is ours.
 */
import type { Readable } from 'node:stream';
import { RuntimeError } from '../pkg/base/errors.ts';
import { type ContainerId, hexOf, quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type { Operation } from '../pkg/cri-api/types.ts';
import { containerName, type Inspected, podContainerName } from '../pkg/pod/index.ts';
import type { RootfsDriver } from '../pkg/ports/rootfs.ts';
import type { ContainerRecord } from '../pkg/ports/state.ts';
import { SAMPLE_US } from './cpu-profile.ts';
import type { Page, Pages } from './http.ts';
import { toJson } from './json.ts';

/** What is shown. */
export interface InspectOptions {
  readonly inspect: (idOrPrefix: string) => Inspected | undefined;
  readonly rootfs: Pick<RootfsDriver, 'rootOf' | 'podRoot' | 'containerRoot' | 'imageRoot'>;
  readonly cgroupManager: 'cgroupfs' | 'systemd';
  /** The configuration as TOML. */
  readonly config: () => string;
  readonly operations: () => readonly Operation[];
  /** A snapshot of the heap, for developer tools. */
  readonly heap: () => Readable;
  /** A profile of the processor's time over so many milliseconds, for developer tools. */
  readonly cpu: (ms: number, signal: AbortSignal) => Promise<string>;
  /** Pauses a container, or lets it go on. */
  readonly freeze: (what: 'pause' | 'unpause', id: ContainerId) => Promise<void>;
}

/** All ids that there are: containers have the host's unless their pods say otherwise. */
const ALL_IDS = [{ container_id: 0, host_id: 0, size: 2 ** 32 - 1 }];

/** The pages of a daemon. */
export function inspectPages(options: InspectOptions): Pages {
  const plain: Readonly<Record<string, () => Page>> = {
    '/info': () => json(info(options)),
    '/config': () => ({ type: 'application/toml', body: options.config() }),
    '/debug/goroutines': () => ({ type: 'text/plain', body: underWay(options.operations()) }),
    '/debug/heap': () => ({ type: 'application/octet-stream', body: options.heap() }),
    '/debug/pprof/': () => ({ type: 'text/plain', body: PPROF_INDEX }),
    '/debug/pprof/cmdline': () => ({ type: 'text/plain', body: process.argv.join('\0') }),
  };
  return (path, signal, query) => {
    if (path === '/debug/pprof/profile') return pprofProfile(options, query.get('seconds') ?? '30', signal);
    if (Object.hasOwn(plain, path)) return plain[path]?.();
    const [, verb = '', rest = ''] = /^\/(containers|pause|unpause|debug\/cpu)\/([^/]+)$/.exec(path) ?? [];
    if (verb === 'containers') return json(containerInfo(wanted(options, rest), options.rootfs));
    if (verb === 'pause' || verb === 'unpause') return frozen(options, verb, rest);
    return verb === 'debug/cpu' ? cpuProfile(options, rest, signal) : undefined;
  };
}

/** Pods are no containers here, as with CRI-O. */
async function frozen(options: InspectOptions, what: 'pause' | 'unpause', id: string): Promise<Page> {
  const { asked } = wanted(options, id);
  if (asked.kind !== 'container') throw notFound(id);
  await options.freeze(what, asked.id);
  return { type: 'text/html', body: '200 OK' };
}

const MS_PER_S = 1000;

const PPROF_INDEX = `Of what Go's pprof has there is here:
/debug/pprof/profile?seconds=30   CPU profile, for "go tool pprof"
/debug/pprof/cmdline              the command line
Beside it: /debug/heap, a heap snapshot for developer tools; /debug/goroutines, what goes on.
`;

async function pprofProfile(options: InspectOptions, seconds: string, signal: AbortSignal): Promise<Page> {
  const beganMs = Date.now();
  const profile = await profiled(options, seconds, signal);
  // For the few who ask.
  const { toPprof } = await import('./pprof.ts');
  return { type: 'application/octet-stream', body: toPprof(profile, beganMs, SAMPLE_US) };
}

async function cpuProfile(options: InspectOptions, seconds: string, signal: AbortSignal): Promise<Page> {
  return { type: 'application/octet-stream', body: await profiled(options, seconds, signal) };
}

async function profiled({ cpu }: InspectOptions, seconds: string, signal: AbortSignal): Promise<string> {
  const longest = limits.cpuProfileMs / MS_PER_S;
  if (!/^\d{1,3}$/.test(seconds) || Number(seconds) < 1 || Number(seconds) > longest)
    throw new RuntimeError('InvalidArgument', `a profile takes 1 to ${longest} seconds`);
  return await cpu(Number(seconds) * MS_PER_S, signal);
}

/** @throws NotFound in CRI-O's words; InvalidArgument if several have an id that begins so. */
function wanted({ inspect }: InspectOptions, id: string): Inspected {
  const found = /^[0-9a-f]{1,64}$/.test(id) ? inspect(id) : undefined;
  if (found === undefined) throw notFound(id);
  return found;
}

function notFound(id: string): RuntimeError {
  return new RuntimeError('NotFound', `can't find the container with id ${unquoted(id)}`);
}

function info({ rootfs, cgroupManager }: InspectOptions): object {
  return {
    storage_driver: 'overlay',
    // cAdvisor takes an image store for a file system of its own, and finds containers by the root alone then.
    storage_image: rootfs.imageRoot === rootfs.containerRoot ? '' : rootfs.imageRoot,
    storage_root: rootfs.containerRoot,
    cgroup_driver: cgroupManager,
    default_id_mappings: { uids: ALL_IDS, gids: ALL_IDS },
  };
}

/**
 * PURE. A container, or a pod as the container that CRI-O would run for it. cAdvisor counts the network of the latter
 * by `pid`: of any process in the pod, if it has none of its own; 0 has it ask again.
 */
function containerInfo({ asked, pod, containers }: Inspected, rootfs: InspectOptions['rootfs']): object {
  const common = {
    // To the 100 ns that a double has of it: whoever reads this wants a number.
    created_time: Number(asked.createdAt),
    annotations: asked.config.annotations,
    crio_annotations: {},
    sandbox: pod.id,
    ip_addresses: pod.ips,
    host_network: pod.config.linux?.securityContext?.namespaceOptions?.network === 'NODE',
  };
  if (asked.kind === 'sandbox')
    return {
      name: podContainerName(pod.config),
      pid: pod.infra?.process?.pid ?? containers.map(pidOf).find((pid) => pid !== 0) ?? 0,
      image: '',
      image_ref: '',
      labels: { ...asked.config.labels, 'io.kubernetes.container.name': 'POD' },
      log_path: '',
      root: rootfs.podRoot,
      ...common,
    };
  return {
    name: containerName(asked.config, pod.config),
    pid: pidOf(asked),
    image: asked.imageName,
    image_ref: hexOf(asked.imageId),
    labels: asked.config.labels,
    log_path: asked.logPath,
    root: rootfs.rootOf(asked.id),
    ...common,
  };
}

function pidOf({ state }: ContainerRecord): number {
  return 'process' in state ? state.process.pid : 0;
}

/** Who reads CRI-O's stacks wants to know what hangs: here the operations, and what the event loop waits for. */
function underWay(operations: readonly Operation[]): string {
  const waitsFor = Object.entries(Object.groupBy(process.getActiveResourcesInfo(), (kind) => kind));
  return [
    ...operations.map((each) => toJson(each)),
    '',
    ...waitsFor.map(([kind, all]) => `${all?.length ?? 0} ${kind}`).sort(),
    '',
  ].join('\n');
}

function json(value: object): Page {
  return { type: 'application/json', body: JSON.stringify(value) };
}

function unquoted(text: string): string {
  return quote(text).slice(1, -1);
}

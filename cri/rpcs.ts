/**
 * Every RPC, a line each: how loud it is, how long it may take, what it may be asked, and who answers it. Total: an RPC
 * of the .proto files without a line here does not compile, and one that nobody answers says so.
 */
import { limits } from '../pkg/base/limits.ts';
import type { Rpcs } from '../pkg/cri-api/types.ts';
import type { EventsService } from './events-service.ts';
import type { Handler } from './handler.ts';
import type { ImageService } from './image-service.ts';
import type { NodeService } from './node-service.ts';
import type { ObserveService } from './observe-service.ts';
import type { RuntimeService } from './runtime-service.ts';
import type { StatsService } from './stats-service.ts';
import type { StreamService } from './stream-service.ts';

/** Who answers. */
export interface Services {
  readonly runtime: RuntimeService;
  readonly observe: ObserveService;
  readonly stream: StreamService;
  readonly events: EventsService;
  readonly stats: StatsService;
  readonly image: ImageService;
  readonly node: NodeService;
}

/** How an RPC is treated, whoever answers it. */
export interface Treatment {
  /** Level of the line that says it went well: `debug` for what changes nothing, and for what probes call all day. */
  readonly loudness: 'info' | 'debug';
  /** `brisk`: a warning if it takes more than limits.slowRpcMs. `asked`: it takes as long as its caller asked for. */
  readonly patience: 'brisk' | 'asked';
  /**
   * When its caller gets an answer at the latest, in milliseconds, whatever deadline it has set. `callers`: only that
   * one; the work has bounds of its own and goes on for the retry.
   */
  readonly deadlineMs: number | 'callers';
  /** The largest request that is taken. */
  readonly requestBytes: number;
  /** `held`: something waits until the client has the answer, which is disposed of then. */
  readonly answer: 'plain' | 'held';
  /** How long our own client waits unless it is told otherwise, as the kubelet does; 0 = for ever. */
  readonly clientMs: number;
}

/** A line of the table. */
export interface Line<R extends keyof Rpcs> extends Treatment {
  /** `unimplemented` is answered with that status. */
  readonly handler: ((services: Services) => Handler<R>) | 'unimplemented';
}

/** The kubelet counts in these. */
const MINUTE_MS = 60_000;
const { grpcMessageBytes, smallRequestBytes, readRpcMs } = limits;

/** Reads what is in memory or a file away. */
const READ = {
  loudness: 'debug',
  patience: 'brisk',
  deadlineMs: readRpcMs,
  requestBytes: smallRequestBytes,
  answer: 'plain',
  clientMs: 2 * MINUTE_MS,
} as const satisfies Treatment;
/** Changes something, and would rather finish than be on time. */
const CHANGE = { ...READ, loudness: 'info', deadlineMs: 'callers' } as const satisfies Treatment;
/** Replies one after the other, to a client that may take its time. */
const STREAM = { ...READ, patience: 'asked', deadlineMs: 'callers' } as const satisfies Treatment;
/** Waits for what its caller asked for. */
const WAIT = { ...CHANGE, patience: 'asked' } as const satisfies Treatment;
const LARGE = { requestBytes: grpcMessageBytes } as const;
const FOR_EVER = { clientMs: 0 } as const;

/** The table. */
export const RPCS = {
  // runtime.v1.RuntimeService
  version: { ...READ, handler: ({ observe }) => observe.version },
  status: { ...READ, handler: ({ observe }) => observe.status },
  runtimeConfig: { ...READ, handler: ({ observe }) => observe.runtimeConfig },
  updateRuntimeConfig: { ...CHANGE, handler: ({ runtime }) => runtime.updateRuntimeConfig },
  runPodSandbox: { ...CHANGE, ...LARGE, clientMs: 4 * MINUTE_MS, handler: ({ runtime }) => runtime.runPodSandbox },
  stopPodSandbox: { ...WAIT, handler: ({ runtime }) => runtime.stopPodSandbox },
  removePodSandbox: { ...CHANGE, handler: ({ runtime }) => runtime.removePodSandbox },
  podSandboxStatus: { ...READ, handler: ({ observe }) => observe.podSandboxStatus },
  listPodSandbox: { ...READ, handler: ({ observe }) => observe.listPodSandbox },
  streamPodSandboxes: { ...STREAM, handler: ({ observe }) => observe.streamPodSandboxes },
  updatePodSandboxResources: { ...CHANGE, handler: ({ runtime }) => runtime.updatePodSandboxResources },
  createContainer: { ...CHANGE, ...LARGE, handler: ({ runtime }) => runtime.createContainer },
  startContainer: { ...CHANGE, handler: ({ runtime }) => runtime.startContainer },
  stopContainer: { ...WAIT, ...FOR_EVER, handler: ({ runtime }) => runtime.stopContainer },
  removeContainer: { ...CHANGE, handler: ({ runtime }) => runtime.removeContainer },
  containerStatus: { ...READ, handler: ({ observe }) => observe.containerStatus },
  listContainers: { ...READ, handler: ({ observe }) => observe.listContainers },
  streamContainers: { ...STREAM, handler: ({ observe }) => observe.streamContainers },
  updateContainerResources: { ...CHANGE, handler: ({ runtime }) => runtime.updateContainerResources },
  reopenContainerLog: { ...CHANGE, handler: ({ runtime }) => runtime.reopenContainerLog },
  execSync: {
    ...WAIT,
    ...LARGE,
    ...FOR_EVER,
    loudness: 'debug',
    answer: 'held',
    handler: ({ runtime }) => runtime.execSync,
  },
  exec: { ...CHANGE, ...LARGE, handler: ({ stream }) => stream.exec },
  attach: { ...CHANGE, handler: ({ stream }) => stream.attach },
  portForward: { ...CHANGE, handler: ({ stream }) => stream.portForward },
  getContainerEvents: { ...STREAM, ...FOR_EVER, handler: ({ events }) => events.getContainerEvents },
  containerStats: { ...READ, handler: ({ stats }) => stats.containerStats },
  listContainerStats: { ...READ, handler: ({ stats }) => stats.listContainerStats },
  streamContainerStats: { ...STREAM, handler: ({ stats }) => stats.streamContainerStats },
  podSandboxStats: { ...READ, handler: ({ stats }) => stats.podSandboxStats },
  listPodSandboxStats: { ...READ, handler: ({ stats }) => stats.listPodSandboxStats },
  streamPodSandboxStats: { ...STREAM, handler: ({ stats }) => stats.streamPodSandboxStats },
  listMetricDescriptors: { ...READ, handler: ({ stats }) => stats.listMetricDescriptors },
  listPodSandboxMetrics: { ...READ, handler: ({ stats }) => stats.listPodSandboxMetrics },
  streamPodSandboxMetrics: { ...STREAM, handler: ({ stats }) => stats.streamPodSandboxMetrics },
  checkpointContainer: { ...WAIT, handler: 'unimplemented' },
  checkpointPod: { ...WAIT, handler: 'unimplemented' },
  restorePod: { ...WAIT, ...LARGE, handler: 'unimplemented' },
  // runtime.v1.ImageService
  listImages: { ...READ, handler: ({ image }) => image.listImages },
  streamImages: { ...STREAM, handler: ({ image }) => image.streamImages },
  imageStatus: { ...READ, handler: ({ image }) => image.imageStatus },
  pullImage: { ...WAIT, ...LARGE, ...FOR_EVER, handler: ({ image }) => image.pullImage },
  removeImage: { ...CHANGE, handler: ({ image }) => image.removeImage },
  imageFsInfo: { ...READ, handler: ({ image }) => image.imageFsInfo },
  // berth.v1.Node
  import: { ...WAIT, ...FOR_EVER, handler: ({ image }) => image.import },
  operations: { ...READ, handler: ({ node }) => node.operations },
  pullProgress: { ...STREAM, ...FOR_EVER, handler: ({ node }) => node.pullProgress },
  check: { ...WAIT, ...FOR_EVER, handler: ({ node }) => node.check },
} as const satisfies { readonly [R in keyof Rpcs]: Line<R> };

/** A line of the table with the handler itself in it. */
export interface Answer<R extends keyof Rpcs> extends Treatment {
  readonly handler: Handler<R> | 'unimplemented';
}

/** What answers each RPC, and how it is treated. */
export type Answers = { readonly [R in keyof Rpcs]: Answer<R> };

/** The table, with the handlers of these services in it. */
export function answersOf(services: Services): Answers {
  const lines: { readonly [R in keyof Rpcs]: Line<R> } = RPCS;
  return Object.fromEntries(
    Object.entries(lines).map(([key, line]) => [
      key,
      { ...line, handler: line.handler === 'unimplemented' ? line.handler : line.handler(services) },
    ]),
  ) as Answers;
}

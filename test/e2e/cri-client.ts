/**
 * crictl's verbs for tests: the typed client of cri/client.ts, builders for the smallest configs that work, and waiting
 * for a state instead of for time.
 */
import { randomBytes } from 'node:crypto';
import { type CallOptions, type Client, connect, CriError } from '../../cri/client.ts';
import type {
  ContainerConfig,
  ContainerState,
  ContainerStatus,
  Input,
  PodSandboxConfig,
  PodSandboxState,
  PodSandboxStatus,
} from '../../pkg/cri-api/types.ts';

export { type CallOptions, type Client, CriError };

/** A pod and the config that it was made with, which CreateContainer wants to see again. */
export interface Pod {
  readonly id: string;
  readonly config: Input<PodSandboxConfig>;
}

/** What ExecSync printed, as text. */
export interface ExecResult {
  readonly stdout: string;
  readonly stderr: string;
  readonly exitCode: number;
}

export interface WaitOptions {
  /** Default 30 s. */
  readonly timeoutMs?: number;
  /** Default 10 ms: short beside any call that is waited for, and no load. */
  readonly intervalMs?: number;
}

/** A client with verbs on top. */
export interface CriClient {
  /** Every RPC as it is. */
  readonly rpc: Client;
  /** RunPodSandbox with `podConfig(overrides)`. */
  runPod(overrides?: Input<PodSandboxConfig>, options?: { readonly handler?: string } & CallOptions): Promise<Pod>;
  /** CreateContainer with `containerConfig(image, overrides)`; the id. */
  createContainer(pod: Pod, image: string, overrides?: Input<ContainerConfig>, options?: CallOptions): Promise<string>;
  /** Create and start; the id. */
  runContainer(pod: Pod, image: string, overrides?: Input<ContainerConfig>, options?: CallOptions): Promise<string>;
  /** ExecSync; a command that fails is a result, not an error. */
  exec(
    containerId: string,
    cmd: readonly string[],
    options?: { readonly timeoutSeconds?: number } & CallOptions,
  ): Promise<ExecResult>;
  pod(id: string): Promise<PodSandboxStatus>;
  container(id: string): Promise<ContainerStatus>;
  /** Waits until the container is in `state`. @throws with its last status when it takes too long. */
  waitForContainer(id: string, state: ContainerState, options?: WaitOptions): Promise<ContainerStatus>;
  /** Waits until the pod is in `state`. @throws with its last status when it takes too long. */
  waitForPod(id: string, state: PodSandboxState, options?: WaitOptions): Promise<PodSandboxStatus>;
  /** PullImage; the image id. */
  pull(image: string, options?: CallOptions): Promise<string>;
  /** Stops and removes the pod with all its containers; content if it is gone. */
  removePod(id: string, options?: CallOptions): Promise<void>;
  /** Removes every pod that the runtime has, several at once. */
  removeAllPods(options?: CallOptions): Promise<void>;
  close(): void;
}

/** A client with verbs for the socket at `path`. */
export function criClient(path: string): CriClient {
  const rpc = connect(path);
  const client: CriClient = {
    rpc,
    async runPod(overrides = {}, { handler = '', ...options } = {}) {
      const config = podConfig(overrides);
      const { podSandboxId } = await rpc.runPodSandbox({ config, runtimeHandler: handler }, options);
      return { id: podSandboxId, config };
    },
    async createContainer(pod, image, overrides = {}, options) {
      const { containerId } = await rpc.createContainer(
        { podSandboxId: pod.id, config: containerConfig(image, overrides), sandboxConfig: pod.config },
        options,
      );
      return containerId;
    },
    async runContainer(pod, image, overrides, options) {
      const containerId = await client.createContainer(pod, image, overrides, options);
      await rpc.startContainer({ containerId }, options);
      return containerId;
    },
    async exec(containerId, cmd, { timeoutSeconds = 0, ...options } = {}) {
      const { stdout, stderr, exitCode } = await rpc.execSync(
        { containerId, cmd, timeout: BigInt(timeoutSeconds) },
        options,
      );
      return { stdout: Buffer.from(stdout).toString(), stderr: Buffer.from(stderr).toString(), exitCode };
    },
    pod: async (id) => present((await rpc.podSandboxStatus({ podSandboxId: id })).status, `pod ${id}`),
    container: async (id) => present((await rpc.containerStatus({ containerId: id })).status, `container ${id}`),
    waitForContainer: (id, state, options) =>
      waitFor(
        () => client.container(id),
        (status) => status.state === state,
        `container ${id} to be ${state}`,
        options,
      ),
    waitForPod: (id, state, options) =>
      waitFor(
        () => client.pod(id),
        (status) => status.state === state,
        `pod ${id} to be ${state}`,
        options,
      ),
    pull: async (image, options) => (await rpc.pullImage({ image: { image } }, options)).imageRef,
    async removePod(id, options) {
      await rpc.stopPodSandbox({ podSandboxId: id }, options);
      await rpc.removePodSandbox({ podSandboxId: id }, options);
    },
    async removeAllPods(options) {
      const { items } = await rpc.listPodSandbox({}, options);
      await Promise.all(items.map((each) => client.removePod(each.id, options)));
    },
    close: () => rpc.close(),
  };
  return client;
}

/**
 * The smallest pod config: a name and uid of its own, everything private to the pod or container. Given fields win,
 * `metadata` field by field.
 */
export function podConfig(overrides: Input<PodSandboxConfig> = {}): Input<PodSandboxConfig> {
  const uid = randomBytes(8).toString('hex');
  return {
    linux: { securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } } },
    ...overrides,
    metadata: { name: `pod-${uid.slice(0, 6)}`, namespace: 'default', uid, attempt: 0, ...overrides.metadata },
  };
}

/**
 * The smallest container config for `image`: a name of its own, which names its log too. Given fields win, `metadata`
 * field by field.
 */
export function containerConfig(image: string, overrides: Input<ContainerConfig> = {}): Input<ContainerConfig> {
  const metadata = { name: `ctr-${randomBytes(3).toString('hex')}`, attempt: 0, ...overrides.metadata };
  return {
    image: { image, userSpecifiedImage: image },
    logPath: `${metadata.name}.${metadata.attempt}.log`,
    ...overrides,
    metadata,
  };
}

/**
 * Asks `probe` until `accepts` says yes, and returns what it was asked about. @throws when it takes too long, with the
 * last answer.
 */
export async function waitFor<T>(
  probe: () => T | Promise<T>,
  accepts: (value: T) => boolean,
  what: string,
  { timeoutMs = 30_000, intervalMs = 10 }: WaitOptions = {},
): Promise<T> {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (accepts(value)) return value;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms for ${what}; last: ${show(value)}`);
    await new Promise((resolve) => setTimeout(resolve, intervalMs));
  }
}

function show(value: unknown): string {
  return JSON.stringify(value, (_key, each: unknown) => (typeof each === 'bigint' ? `${each}` : each)) ?? String(value);
}

function present<T>(value: T | undefined, what: string): T {
  if (value === undefined) throw new Error(`the runtime answered without a status of ${what}`);
  return value;
}

/** Somebody who uses a cluster: a namespace of one's own, @kubernetes/client-node and kubectl. */
import {
  ApiException,
  AppsV1Api,
  BatchV1Api,
  CoreV1Api,
  Exec,
  KubeConfig,
  NodeV1Api,
  type V1Container,
  type V1ContainerStatus,
  type V1Pod,
  type V1PodSpec,
  type V1Status,
} from '@kubernetes/client-node';
import { execFile } from 'node:child_process';
import { rmSync, writeFileSync } from 'node:fs';
import { Writable } from 'node:stream';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from '../e2e/cri-client.ts';
import { type Back, forget, remember, type Triable } from '../e2e/tries.ts';
import type { Cluster } from './cluster.ts';

const run = promisify(execFile);
/** How long a pod may take to be as it is wanted: on a busy machine, with a pull. */
const WAIT = { timeoutMs: 60_000, intervalMs: 100 };

/** Whatever tests make; the last is the cluster's and not the namespace's. */
const KINDS = 'deployment,statefulset,daemonset,cronjob,job,pod,service,configmap,secret,runtimeclass';

const FIRST = { 'kubernetes.io/hostname': 'node-1' };

export interface Executed {
  readonly out: string;
  readonly err: string;
  readonly code: number;
}

export interface PodPlan {
  readonly name: string;
  /** The only container, or its command for a shell. */
  readonly run?: string | Partial<V1Container>;
  readonly spec?: Partial<V1PodSpec>;
  readonly labels?: Readonly<Record<string, string>>;
}

/** What kubectl tells of any object. */
interface Told {
  readonly kind: string;
  readonly metadata: { readonly name: string; readonly uid: string; readonly ownerReferences?: readonly object[] };
}

export class Tenant implements Triable {
  readonly namespace: string;
  readonly config = new KubeConfig();
  readonly core: CoreV1Api;
  readonly apps: AppsV1Api;
  readonly batch: BatchV1Api;
  readonly runtimes: NodeV1Api;
  readonly #kubectl: readonly [string, ...string[]];
  readonly #image: string;
  readonly #scratch: string;

  private constructor(cluster: Cluster, namespace: string, image: string) {
    this.namespace = namespace;
    this.config.loadFromFile(cluster.kubeconfig);
    this.core = this.config.makeApiClient(CoreV1Api);
    this.apps = this.config.makeApiClient(AppsV1Api);
    this.batch = this.config.makeApiClient(BatchV1Api);
    this.runtimes = this.config.makeApiClient(NodeV1Api);
    this.#kubectl = [cluster.kubectl, `--kubeconfig=${cluster.kubeconfig}`, `--namespace=${namespace}`];
    this.#image = image;
    this.#scratch = join(cluster.directory, `${namespace}.json`);
  }

  /** Makes the namespace, and waits until pods may be made in it. */
  static async of(cluster: Cluster, namespace: string, image: string): Promise<Tenant> {
    const tenant = new Tenant(cluster, namespace, image);
    await tenant.core.createNamespace({ body: { metadata: { name: namespace } } });
    await waitFor(
      () => orUndefined(tenant.core.readNamespacedServiceAccount({ namespace, name: 'default' })),
      (account) => account !== undefined,
      'the service account',
      WAIT,
    );
    remember(tenant);
    return tenant;
  }

  /** A container that runs a script in a shell. */
  box(script: string, more: Partial<V1Container> = {}): V1Container {
    return { name: 'box', image: this.#image, command: ['sh', '-c', script], ...more };
  }

  /** The spec of pods that end when they are told to; on the first node, whatever others there are. */
  spec(run: string | Partial<V1Container> = 'sleep 100000', more: Partial<V1PodSpec> = {}): V1PodSpec {
    const container = typeof run === 'string' ? this.box(run) : this.box('sleep 100000', run);
    return { terminationGracePeriodSeconds: 1, nodeSelector: FIRST, containers: [container], ...more };
  }

  async create({ name, run, spec, labels = {} }: PodPlan): Promise<V1Pod> {
    const body = { metadata: { name, labels: { ...labels } }, spec: this.spec(run, spec) };
    return await this.core.createNamespacedPod({ namespace: this.namespace, body });
  }

  async pod(name: string): Promise<V1Pod> {
    return await this.core.readNamespacedPod({ namespace: this.namespace, name });
  }

  async pods(labelSelector?: string): Promise<V1Pod[]> {
    const selected = labelSelector === undefined ? {} : { labelSelector };
    return (await this.core.listNamespacedPod({ namespace: this.namespace, ...selected })).items;
  }

  /** Waits until the pod is as `accepts` wants it. */
  async until(name: string, accepts: (pod: V1Pod) => boolean, what: string): Promise<V1Pod> {
    return await waitFor(() => this.pod(name), accepts, `pod ${name} to be ${what}`, WAIT);
  }

  /** Makes a pod and waits until it is Ready. */
  async ready(plan: PodPlan): Promise<V1Pod> {
    await this.create(plan);
    return await this.until(plan.name, isReady, 'ready');
  }

  /** Makes a pod and waits until it has ended, as Succeeded or Failed. */
  async ended(plan: PodPlan): Promise<V1Pod> {
    await this.create({ ...plan, spec: { restartPolicy: 'Never', ...plan.spec } });
    return await this.until(plan.name, ({ status }) => /Succeeded|Failed/.test(status?.phase ?? ''), 'over');
  }

  async remove(name: string): Promise<void> {
    await this.core.deleteNamespacedPod({ namespace: this.namespace, name });
    await this.gone(name);
  }

  async gone(name: string): Promise<void> {
    await waitFor(
      () => orUndefined(this.pod(name)),
      (pod) => pod === undefined,
      `pod ${name} to go`,
      WAIT,
    );
  }

  async logs(name: string, more: { container?: string; previous?: boolean; tailLines?: number } = {}): Promise<string> {
    return await this.core.readNamespacedPodLog({ namespace: this.namespace, name, ...more });
  }

  /** Runs a script in a container, the first unless it is named. */
  async exec(name: string, script: string, container = 'box'): Promise<Executed> {
    const [out, err] = [new Text(), new Text()];
    const { promise, resolve } = Promise.withResolvers<V1Status>();
    const command = ['sh', '-c', script];
    const exec = new Exec(this.config);
    const socket = await exec.exec(this.namespace, name, container, command, out, err, null, false, resolve);
    const status = await promise;
    socket.close();
    const code = status.details?.causes?.find(({ reason }) => reason === 'ExitCode')?.message;
    if (status.status !== 'Success' && code === undefined) throw new Error(`exec in ${name}: ${status.message}`);
    return { out: out.text, err: err.text, code: Number(code ?? 0) };
  }

  /** What kubectl prints. @throws with what it says if it fails. */
  async kubectl(...args: readonly string[]): Promise<string> {
    const [command, ...first] = this.#kubectl;
    return (await run(command, [...first, ...args], { timeout: WAIT.timeoutMs, maxBuffer: 1 << 26 })).stdout;
  }

  /** The command line of kubectl with these arguments, for somebody who runs it otherwise. */
  kubectlLine(...args: readonly string[]): [string, ...string[]] {
    return [...this.#kubectl, ...args];
  }

  /** Looks at what there is; back means that others are gone, and that what was taken away is made again. */
  async mark(): Promise<Back> {
    const before = await this.#objects();
    return async () => {
      const now = await this.#objects();
      const lacks = (some: readonly Told[], { metadata }: Told): boolean =>
        metadata.ownerReferences === undefined && !some.some((each) => each.metadata.uid === metadata.uid);
      const more = now.filter((each) => lacks(before, each)).map(({ kind, metadata }) => `${kind}/${metadata.name}`);
      if (more.length > 0) await this.kubectl('delete', '--cascade=foreground', '--ignore-not-found', ...more);
      await this.kubectl('uncordon', '--selector=kubernetes.io/hostname');
      const fewer = before.filter((each) => lacks(now, each));
      for (const each of fewer) await this.#remake(each);
      for (const { kind, metadata } of fewer)
        if (kind === 'Pod') await this.until(metadata.name, isReady, 'ready as before the try');
    };
  }

  async abandon(): Promise<void> {
    await this.leave();
  }

  async #objects(): Promise<readonly Told[]> {
    const { items } = JSON.parse(await this.kubectl('get', KINDS, '--output=json')) as { readonly items: Told[] };
    return items;
  }

  async #remake(object: Told): Promise<void> {
    const { uid: _uid, ...metadata } = { ...object.metadata, resourceVersion: undefined, creationTimestamp: undefined };
    writeFileSync(this.#scratch, JSON.stringify({ ...object, metadata, status: undefined }));
    await this.kubectl('create', '--filename', this.#scratch);
    rmSync(this.#scratch);
  }

  /** Removes the namespace with everything in it. */
  async leave(): Promise<void> {
    forget(this);
    await this.core.deleteNamespace({ name: this.namespace });
    await waitFor(
      () => orUndefined(this.core.readNamespace({ name: this.namespace })),
      (found) => found === undefined,
      `namespace ${this.namespace} to go`,
      { ...WAIT, timeoutMs: 120_000 },
    );
  }
}

/** Collects what is written to it. */
export class Text extends Writable {
  text = '';

  override _write(chunk: Buffer, _encoding: BufferEncoding, done: () => void): void {
    this.text += chunk.toString();
    done();
  }
}

export function isReady({ status }: V1Pod): boolean {
  return status?.conditions?.some(({ type, status: said }) => type === 'Ready' && said === 'True') === true;
}

/** The status of a container, by its name; undefined until the kubelet has told one. */
export function statusOf({ status }: V1Pod, container = 'box'): V1ContainerStatus | undefined {
  return [
    ...(status?.containerStatuses ?? []),
    ...(status?.initContainerStatuses ?? []),
    ...(status?.ephemeralContainerStatuses ?? []),
  ].find(({ name }) => name === container);
}

/** What an answer of 404 is. */
async function orUndefined<T>(asked: Promise<T>): Promise<T | undefined> {
  try {
    return await asked;
  } catch (error) {
    if (error instanceof ApiException && error.code === 404) return undefined;
    throw error;
  }
}

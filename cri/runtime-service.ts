/**
 * The changing half of RuntimeService: narrow the request, call the mind, reply. Idempotence of Stop and Remove is
 * decided here: CRI says that they "must not return an error if" the object is gone.
 */
import type { OpenPods } from '../pkg/pod/index.ts';
import type { Handlers } from './handler.ts';
import {
  narrowCreateContainer,
  narrowExecSync,
  narrowId,
  narrowPodRanges,
  narrowRunPodSandbox,
  narrowStopContainer,
  narrowUpdatePodResources,
  narrowUpdateResources,
} from './validate.ts';
import type { NetworkPlugin } from '../pkg/ports/network.ts';

/** Handlers of the RPCs that change sandboxes and containers. */
export type RuntimeService = ReturnType<typeof runtimeService>;

/** Answers from the mind, and from the network what concerns all pods. */
export function runtimeService(mind: OpenPods, network: Pick<NetworkPlugin, 'setPodRanges'>) {
  return {
    ...sandboxRpcs(mind),
    ...containerRpcs(mind),
    async execSync(op, request) {
      const { containerId, cmd, timeoutMs } = narrowExecSync(request);
      return await mind.execs.execSync(op, mind.containers.get(containerId).id, cmd, timeoutMs);
    },
    async updateRuntimeConfig(_op, request) {
      const subnets = narrowPodRanges(request);
      if (subnets.length > 0) await network.setPodRanges(subnets);
      return {};
    },
  } satisfies Handlers;
}

function sandboxRpcs({ pods }: OpenPods) {
  return {
    async runPodSandbox(op, request) {
      const { config, runtimeHandler } = narrowRunPodSandbox(request);
      return { podSandboxId: await pods.run(op, config, runtimeHandler) };
    },
    async stopPodSandbox(op, request) {
      const record = pods.find(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      if (record !== undefined) await pods.stop(op, record.id);
      return {};
    },
    async removePodSandbox(op, request) {
      const record = pods.find(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      if (record !== undefined) await pods.remove(op, record.id);
      return {};
    },
    async updatePodSandboxResources(op, request) {
      const { podSandboxId, overhead, resources } = narrowUpdatePodResources(request);
      await pods.updateResources(op, pods.get(podSandboxId).id, { overhead, resources });
      return {};
    },
  } satisfies Handlers;
}

function containerRpcs({ pods, containers }: OpenPods) {
  return {
    async createContainer(op, request) {
      const { podSandboxId, config } = narrowCreateContainer(request);
      return { containerId: await containers.create(op, pods.get(podSandboxId).id, config) };
    },
    async startContainer(op, request) {
      await containers.start(op, containers.get(narrowId(request.containerId, 'container_id')).id);
      return {};
    },
    async stopContainer(op, request) {
      const { containerId, graceMs } = narrowStopContainer(request);
      const record = containers.find(containerId);
      if (record !== undefined) await containers.stop(op, record.id, graceMs);
      return {};
    },
    async removeContainer(op, request) {
      const record = containers.find(narrowId(request.containerId, 'container_id'));
      if (record !== undefined) await containers.remove(op, record.id);
      return {};
    },
    async updateContainerResources(op, request) {
      const { containerId, resources } = narrowUpdateResources(request);
      const record = containers.get(containerId);
      if (resources !== undefined) await containers.update(op, record.id, resources);
      return {};
    },
    async reopenContainerLog(op, request) {
      await containers.reopenLog(op, containers.get(narrowId(request.containerId, 'container_id')).id);
      return {};
    },
  } satisfies Handlers;
}

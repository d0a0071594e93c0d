/**
 * The changing half of RuntimeService: narrow the request, call the mind, reply. Idempotence of Stop and Remove is
 * decided here: CRI says that they "must not return an error if" the object is gone.
 */
import type { OpenPods } from '../pkg/pod/index.ts';
import type { Handlers } from './server.ts';
import {
  narrowCreateContainer,
  narrowExecSync,
  narrowId,
  narrowPodRanges,
  narrowRunPodSandbox,
  narrowUpdateResources,
} from './validate.ts';
import type { NetworkPlugin } from '../pkg/ports/network.ts';

/** Handlers of the RPCs that change sandboxes and containers. */
export function runtimeService(mind: OpenPods, network: Pick<NetworkPlugin, 'setPodRanges'>): Handlers {
  const { pods, containers } = mind;
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
    async createContainer(op, request) {
      const { podSandboxId, config } = narrowCreateContainer(request);
      return { containerId: await containers.create(op, pods.get(podSandboxId).id, config) };
    },
    async startContainer(op, request) {
      await containers.start(op, containers.get(narrowId(request.containerId, 'container_id')).id);
      return {};
    },
    async stopContainer(op, request) {
      const record = containers.find(narrowId(request.containerId, 'container_id'));
      if (record !== undefined) await containers.stop(op, record.id, graceMs(request.timeout));
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
    async updatePodSandboxResources(op, request) {
      const record = pods.get(narrowId(request.podSandboxId, 'pod_sandbox_id'));
      await pods.updateResources(op, record.id, request.overhead, request.resources);
      return {};
    },
    async reopenContainerLog(op, request) {
      await containers.reopenLog(op, containers.get(narrowId(request.containerId, 'container_id')).id);
      return {};
    },
    async execSync(op, request) {
      const { containerId, cmd, timeoutMs } = narrowExecSync(request);
      return await mind.execs.execSync(op, containers.get(containerId).id, cmd, timeoutMs);
    },
    async updateRuntimeConfig(_op, request) {
      const subnets = narrowPodRanges(request);
      if (subnets.length > 0) await network.setPodRanges(subnets);
      return {};
    },
  };
}

/** Seconds of the request as milliseconds; negative means at once, and nobody waits longer than what a timer holds. */
function graceMs(seconds: bigint): number {
  if (seconds <= 0n) return 0;
  const most = 2_147_483_000;
  return seconds > BigInt(most / 1000) ? most : Number(seconds) * 1000;
}

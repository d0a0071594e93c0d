/** What pods and containers are called by those who know Docker's names: monitors, cAdvisor. Pure. */
import type { NamedContainerConfig, SandboxConfig } from '../ports/requests.ts';

/** `name_namespace_uid_attempt`, the kubelet's customary form. */
export function podName({ metadata }: SandboxConfig): string {
  return `${metadata.name}_${metadata.namespace}_${metadata.uid}_${metadata.attempt}`;
}

/** `k8s_container_pod_namespace_uid_attempt`; the attempt is the container's. */
export function containerName({ metadata }: NamedContainerConfig, pod: SandboxConfig): string {
  const { name, namespace, uid } = pod.metadata;
  return `k8s_${metadata.name}_${name}_${namespace}_${uid}_${metadata.attempt}`;
}

/** The same for what stands for the pod as a whole, whether or not it has a process. */
export function podContainerName(pod: SandboxConfig): string {
  return `k8s_POD_${podName(pod)}`;
}

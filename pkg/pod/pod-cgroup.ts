/** The cgroup above the containers of a pod. Pure. */
import { posix } from 'node:path';
import { checkedParent } from '../spec/index.ts';

/**
 * Under which cgroup a pod's containers live, and whether it is ours to remove. The kubelet names the pod's own cgroup
 * and owns it; crictl and critest often name none, and then the pod gets one below `/berth`, never relative to the
 * daemon's own.
 * @throws InvalidArgument for a parent that is no plain path, or with systemd no slice.
 */
export function podCgroupFor(
  manager: 'cgroupfs' | 'systemd',
  id: string,
  parent: string,
): { readonly parent: string; readonly own: boolean } {
  // The root of the hierarchies is nobody's pod.
  if (posix.normalize(`/${parent}`) !== '/') return { parent: checkedParent(parent, manager), own: false };
  // In system.slice, as a dash says: a slice of ours above all pods would be nobody's to stop.
  return { parent: manager === 'systemd' ? `system-berth_pod${id}.slice` : `/berth/${id}`, own: true };
}

/** Whose a cgroup is by its path: CRI-O gives the same, so that a container is ours only if its id is. */
export interface NamedCgroup {
  readonly kind: 'pod' | 'container';
  readonly id: string;
  /** The pod whose own cgroup it lies in; undefined if it lies in the kubelet's. */
  readonly pod: string | undefined;
}

/** Reads a path as podCgroupFor and cgroupsPathFor make them, or daemons before us did; undefined for any other. */
export function namedCgroup(path: string): NamedCgroup | undefined {
  const pod = /^\/(?:berth\/|system\.slice\/system-berth_pod)([0-9a-f]{64})(?:\.slice)?(?=\/|$)/.exec(path);
  if (pod?.[0] === path) return { kind: 'pod', id: pod[1] ?? '', pod: pod[1] };
  const id = /\/(?:crio|berth)-([0-9a-f]{64})(?:\.scope)?$/.exec(path)?.[1];
  return id === undefined ? undefined : { kind: 'container', id, pod: pod?.[1] };
}

import type { ContainerRecord } from '../pkg/ports/state.ts';

/**
 * The containers of a pod, the newest first. A kubelet that hears of pods by events takes the first of a name for the
 * present one, and does not put those of PodSandboxStatus in any order itself: shown the oldest, it starts a container
 * once more that runs already.
 */
export function containersOf(all: readonly ContainerRecord[], sandboxId: string): ContainerRecord[] {
  const own = all.filter((each) => each.sandboxId === sandboxId).toReversed();
  return own.sort((a, b) => Number(b.createdAt - a.createdAt));
}

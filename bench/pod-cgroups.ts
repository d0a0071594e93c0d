/**
 * The cgroups of pods, which the kubelet makes in all hierarchies before it asks for a pod: the runtime under measure
 * finds it, and pays for its containers' own only. One that a pod has left is the next one's.
 */
import { cgroups } from '../pkg/sys/index.ts';

export class PodCgroups {
  readonly #parent: string;
  readonly #free: string[] = [];
  readonly #used = new Map<string, string>();
  #made = 0;

  /** Below the cgroup `parent`, an absolute path. */
  constructor(parent: string) {
    this.#parent = parent;
  }

  /** Sees to it that so many are there to be taken. */
  prepare(count: number): void {
    while (this.#free.length < count) this.#free.push(this.#make());
  }

  /** One that nobody has. */
  take(): string {
    return this.#free.pop() ?? this.#make();
  }

  /** What was taken is the pod's now. */
  usedBy(pod: string, path: string): void {
    this.#used.set(pod, path);
  }

  /** The pod is gone. */
  giveBack(pod: string): void {
    const path = this.#used.get(pod);
    if (path === undefined) return;
    this.#used.delete(pod);
    this.#free.push(path);
  }

  #make(): string {
    const path = `${this.#parent}/pod${this.#made++}`;
    cgroups.create(cgroups.readLayoutSync(), path);
    return path;
  }
}

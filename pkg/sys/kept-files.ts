/**
 * Small files of the kernel that are read every few seconds, kept open: opening and closing one costs several times as
 * much as reading it, and a node has thousands of them. Bounded in number, since each holds a page of the kernel's
 * memory, and let go when nobody has asked for a while.
 */
import { limits } from '../base/limits.ts';
import { constants } from 'node:os';
import type { FileGroup, KernelFiles } from '../ports/kernel.ts';
import { attempt, attemptAsync } from './addon.ts';
import { columns, KERNEL_FILE_BYTES, readKernelFiles } from './kernel-files.ts';

interface Kept {
  readonly group: FileGroup;
  readonly fds: Int32Array;
  usedAt: number;
  /** Reads under way on other threads; a descriptor that is closed meanwhile could be another file's. */
  reads: number;
  dropped: boolean;
}

const OUT_OF_DESCRIPTORS: ReadonlySet<number> = new Set([constants.errno.EMFILE, constants.errno.ENFILE]);

/** Groups of kernel files, opened when they are first read and kept while somebody asks for them. */
export class KeptFiles {
  readonly #max: number;
  readonly #kept = new Map<FileGroup, Kept>();
  #count = 0;
  /** How many files of groups of so many there are at the most: a kernel may not have all. */
  readonly #most = new Map<number, number>();
  #sweep: NodeJS.Timeout | undefined;

  /** Keeps at most `max` files open; what is beyond is opened for each read. */
  constructor(max: number) {
    this.#max = max;
  }

  /** What the files say, group after group, as readKernelFiles. A group that is gone has negative lengths only. */
  async read(groups: readonly FileGroup[]): Promise<KernelFiles> {
    const known = groups.map((group) => this.#use(group));
    try {
      if (known.every((each) => each !== undefined)) return await this.#readKept(known);
      await this.#open(groups.filter((_, index) => known[index] === undefined));
      const all = groups.map((group, index) => known[index] ?? (known[index] = this.#use(group)));
      if (all.every((each) => each !== undefined)) return await this.#readKept(all);
      return await readKernelFiles(groups.flatMap((group) => group.files()));
    } finally {
      for (const each of known) if (each !== undefined) this.#release(each);
    }
  }

  /** Lets go of a group. */
  drop(group: FileGroup): void {
    const kept = this.#kept.get(group);
    if (kept === undefined) return;
    this.#kept.delete(group);
    kept.dropped = true;
    if (kept.reads === 0) this.#close(kept);
  }

  /** Lets go of all. */
  close(): void {
    clearTimeout(this.#sweep);
    for (const group of [...this.#kept.keys()]) this.drop(group);
  }

  #use(group: FileGroup): Kept | undefined {
    const kept = this.#kept.get(group);
    if (kept === undefined) return undefined;
    kept.reads++;
    kept.usedAt = performance.now();
    return kept;
  }

  #release(kept: Kept): void {
    if (--kept.reads === 0 && kept.dropped) this.#close(kept);
  }

  #close(kept: Kept): void {
    this.#count -= kept.fds.length;
    attempt('close kernel files', (native) => native.closeAllSync(kept.fds));
  }

  async #readKept(groups: readonly Kept[]): Promise<KernelFiles> {
    const all = new Int32Array(groups.reduce((sum, { fds }) => sum + fds.length, 0));
    let at = 0;
    for (const { fds } of groups) {
      all.set(fds, at);
      at += fds.length;
    }
    const [lengths, bytes] = await attemptAsync('read kernel files', (native) =>
      native.readOpenFiles(all, KERNEL_FILE_BYTES),
    );
    at = 0;
    for (const { group, fds } of groups) {
      let present = 0;
      for (const end = at + fds.length; at < end; at++) if ((lengths[at] ?? -1) >= 0) present++;
      const most = Math.max(present, this.#most.get(fds.length) ?? 0);
      this.#most.set(fds.length, most);
      // The cgroup is gone, or not all of its files are there yet: another time they may be, under the same name.
      if (present === 0 || present < most) this.drop(group);
    }
    return { text: bytes.toString('latin1'), lengths };
  }

  /** Opens what there is room for. */
  async #open(groups: readonly FileGroup[]): Promise<void> {
    const wanted = groups.reduce((sum, { count }) => sum + count, 0);
    if (this.#count + wanted > this.#max) return;
    this.#count += wanted;
    let fds = new Int32Array(0);
    try {
      fds = Int32Array.from(
        await attemptAsync('open kernel files', (native) =>
          native.openKernelFiles(...columns(groups.flatMap((group) => group.files()))),
        ),
        Number,
      );
    } finally {
      this.#count -= wanted;
    }
    if (fds.some((fd) => OUT_OF_DESCRIPTORS.has(-fd)))
      return attempt('close kernel files', (native) => native.closeAllSync(fds));
    let at = 0;
    for (const group of groups) {
      const own = fds.slice(at, (at += group.count));
      this.#count += own.length;
      const kept: Kept = { group, fds: own, usedAt: performance.now(), reads: 0, dropped: false };
      // Somebody else was faster.
      if (this.#kept.has(group)) this.#close(kept);
      else this.#kept.set(group, kept);
    }
    this.#sweep ??= setTimeout(() => this.#dropIdle(), limits.statsFileIdleMs).unref();
  }

  #dropIdle(): void {
    this.#sweep = undefined;
    const before = performance.now() - limits.statsFileIdleMs;
    for (const kept of [...this.#kept.values()]) if (kept.usedAt < before) this.drop(kept.group);
    if (this.#kept.size > 0) this.#sweep = setTimeout(() => this.#dropIdle(), limits.statsFileIdleMs).unref();
  }
}

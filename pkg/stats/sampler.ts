/** Samples of cgroups: many in a few native calls, on other threads, with the use of processors between one sample and the next. */
import { type CgroupLayout, type KernelFiles, KeptFiles, readKernelFiles } from '../sys/index.ts';
import { type Detail, DETAILS, type FileSet, fileSet, includes, type Reading } from './parse.ts';

export interface SamplerOptions {
  readonly layout: CgroupLayout;
  /** `2MB` and the like. */
  readonly hugepageSizes: readonly string[];
  /** Nanoseconds since the epoch. */
  readonly clock: () => bigint;
  /** A sample not older than this is given again; 0 = read for every request. */
  readonly periodMs: number;
  /** Files that may be kept open from one request to the next. */
  readonly keptFilesCount: number;
  /** Reads files; tests bring their own. Nothing is kept open then. */
  readonly read?: ReadFiles;
}

/** As readKernelFiles of pkg/sys. */
type ReadFiles = (directories: readonly string[], names: readonly string[]) => Promise<KernelFiles>;

/** A cgroup under the id of what lives in it. */
export interface Group {
  readonly id: string;
  /** Path from the root of the hierarchies. */
  readonly cgroup: string;
}

export interface Sample extends Reading {
  /** Use of processors in 1e-9 of one, since the sample before; undefined for the first. */
  readonly nanoCores: bigint | undefined;
}

interface History {
  /** What the next use of processors is counted from. */
  readonly base: { readonly at: bigint; readonly cpuNanos: bigint } | undefined;
  readonly nanoCores: bigint | undefined;
  /** Only where it may be given again: hundreds of objects that outlive every request would be work for the garbage collector. */
  readonly last: { readonly sample: Sample; readonly detail: Detail } | undefined;
}

/** Two samples closer than this say nothing: a tick of the kernel's accounting is 4 ms. */
const APART_NANOS = 100_000_000n;
/** Cgroups of one native call: it costs far less than reading so many, and what it has read is parsed while the next are read. */
const BATCH = 25;
/** Calls under way at once: more would only take the processors away from containers. */
const LANES = 4;

export class Sampler {
  readonly #options: SamplerOptions;
  readonly #sets: Readonly<Record<Detail, FileSet>>;
  readonly #read: ReadFiles;
  readonly #files: KeptFiles | undefined;
  readonly #history = new Map<string, History>();
  #reads = 0;
  /** Forgotten while something was read, which must not bring it back. */
  readonly #forgotten = new Set<string>();

  constructor(options: SamplerOptions) {
    const { layout, hugepageSizes } = options;
    this.#options = options;
    const set = (detail: Detail): FileSet => fileSet(layout, detail, hugepageSizes);
    this.#sets = { container: set('container'), pod: set('pod'), metrics: set('metrics') };
    this.#read = options.read ?? readKernelFiles;
    this.#files = options.read === undefined ? new KeptFiles(options.keptFilesCount) : undefined;
  }

  /** A sample of each; none where the cgroup is gone. Never fails for one of them. */
  async sample(groups: readonly Group[], detail: Detail): Promise<ReadonlyMap<string, Sample>> {
    const samples = new Map<string, Sample>();
    const due: Group[] = [];
    for (const group of groups) {
      const kept = this.#kept(group.id, detail);
      if (kept === undefined) due.push(group);
      else samples.set(group.id, kept);
    }
    const batches = Array.from({ length: Math.ceil(due.length / BATCH) }, (_, index) => due.slice(index * BATCH, (index + 1) * BATCH)).values();
    const lane = async (): Promise<void> => {
      for (const batch of batches) await this.#readBatch(batch, detail, samples);
    };
    this.#reads++;
    try {
      await Promise.all(Array.from({ length: LANES }, lane));
    } finally {
      if (--this.#reads === 0) this.#forgotten.clear();
    }
    return samples;
  }

  /** Drops what is remembered of a cgroup; for what is removed. */
  forget(id: string): void {
    for (const detail of DETAILS) this.#files?.drop(keyOf(id, detail));
    this.#history.delete(id);
    if (this.#reads > 0) this.#forgotten.add(id);
  }

  #kept(id: string, detail: Detail): Sample | undefined {
    const last = this.#history.get(id)?.last;
    if (last === undefined || !includes(last.detail, detail)) return undefined;
    const age = this.#options.clock() - last.sample.at;
    return age >= 0n && age < BigInt(this.#options.periodMs) * 1_000_000n ? last.sample : undefined;
  }

  async #readBatch(batch: readonly Group[], detail: Detail, samples: Map<string, Sample>): Promise<void> {
    const set = this.#sets[detail];
    const groups = batch.map(({ id, cgroup }) => ({ key: keyOf(id, detail), directories: () => set.directories(cgroup), names: set.names }));
    // Metrics are asked for less often, and have files that change their size.
    const files = this.#files !== undefined && detail !== 'metrics' ? await this.#files.read(groups) : await this.#read(groups.flatMap((each) => each.directories()), groups.flatMap((each) => each.names));
    set.parse(files, batch.length, this.#options.clock()).forEach((reading, index) => {
      const id = batch[index]?.id;
      if (reading !== undefined && id !== undefined) samples.set(id, this.#remember(id, reading, detail));
    });
  }

  #remember(id: string, reading: Reading, detail: Detail): Sample {
    const { at, cpuNanos } = reading;
    const known = this.#history.get(id);
    const base = known?.base;
    // The first, or a cgroup made anew under the same name.
    if (cpuNanos === undefined || base === undefined || cpuNanos < base.cpuNanos) return this.#keep(id, reading, detail, cpuNanos === undefined ? undefined : { at, cpuNanos }, undefined);
    const since = at - base.at;
    if (since < APART_NANOS) return this.#keep(id, reading, detail, base, known?.nanoCores);
    return this.#keep(id, reading, detail, { at, cpuNanos }, ((cpuNanos - base.cpuNanos) * 1_000_000_000n) / since);
  }

  #keep(id: string, reading: Reading, detail: Detail, base: History['base'], nanoCores: bigint | undefined): Sample {
    const sample: Sample = Object.assign(reading, { nanoCores });
    if (!this.#forgotten.has(id)) this.#history.set(id, { base, nanoCores, last: this.#options.periodMs > 0 ? { sample, detail } : undefined });
    return sample;
  }
}

function keyOf(id: string, detail: Detail): string {
  return `${detail} ${id}`;
}

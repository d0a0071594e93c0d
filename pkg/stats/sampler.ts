/**
 * Samples of cgroups: all that are asked for together in one native call, on another thread, with the use of processors
 * between one sample and the next.
 */
import type { CgroupLayout, FileGroup, FilesIn, KernelFiles } from '../ports/kernel.ts';
import { KeptFiles, readKernelFiles } from '../sys/index.ts';
import { type FileSet, fileSet, FilesRead, type Place } from './files.ts';
import { type Detail, DETAILS, includes, type Reading } from './reading.ts';

/** What a sampler reads, and how often. */
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
  readonly read?: (wanted: readonly FilesIn[]) => Promise<KernelFiles>;
}

/** A place under the id of what lives there, which never has another. */
export interface Group extends Place {
  readonly id: string;
  readonly detail: Detail;
}

/** What was read, and what follows from the sample before. */
export interface Sample extends Reading {
  /** Use of processors in 1e-9 of one, since the sample before; undefined for the first. */
  readonly nanoCores: bigint | undefined;
}

/** What is remembered of a cgroup. */
class Meter {
  readonly #files = new Map<Detail, FileGroup>();
  /** What the next use of processors is counted from. */
  #base: { readonly at: bigint; readonly cpuNanos: bigint } | undefined;
  #nanoCores: bigint | undefined;
  /**
   * Only where it may be given again: hundreds of objects that outlive every request would be work for the garbage
   * collector.
   */
  #last: { readonly sample: Sample; readonly detail: Detail } | undefined;

  /** The same object each time, by which its files are kept open. */
  files(set: FileSet, group: Group): FileGroup {
    const known = this.#files.get(group.detail);
    if (known !== undefined) return known;
    const made: FileGroup = { files: () => set.files(group), count: set.count(group) };
    this.#files.set(group.detail, made);
    return made;
  }

  /** All that were made. */
  allFiles(): Iterable<FileGroup> {
    return this.#files.values();
  }

  /** The last sample, if it is younger than `nanos` and has what is wanted. */
  last(detail: Detail, now: bigint, nanos: bigint): Sample | undefined {
    const last = this.#last;
    if (last === undefined || !includes(last.detail, detail)) return undefined;
    const age = now - last.sample.at;
    return age >= 0n && age < nanos ? last.sample : undefined;
  }

  /** What was read as a sample; `use` says whether it may be given again. */
  sampleOf(reading: Reading, detail: Detail, use: 'once' | 'again'): Sample {
    this.#count(reading);
    const sample: Sample = Object.assign(reading, { nanoCores: this.#nanoCores });
    this.#last = use === 'again' ? { sample, detail } : undefined;
    return sample;
  }

  #count({ at, cpuNanos }: Reading): void {
    if (cpuNanos === undefined) return;
    const base = this.#base;
    const since = base === undefined ? 0n : at - base.at;
    // The first, or a cgroup made anew under the same name.
    if (base === undefined || cpuNanos < base.cpuNanos) this.#nanoCores = undefined;
    else if (since < APART_NANOS) return;
    else this.#nanoCores = ((cpuNanos - base.cpuNanos) * 1_000_000_000n) / since;
    this.#base = { at, cpuNanos };
  }
}

/** Two samples closer than this say nothing: a tick of the kernel's accounting is 4 ms. */
const APART_NANOS = 100_000_000n;

/** Samples of cgroups, with what it takes to read them again quickly. */
export class Sampler {
  readonly #options: SamplerOptions;
  readonly #sets: Readonly<Record<Detail, FileSet>>;
  readonly #read: NonNullable<SamplerOptions['read']>;
  readonly #files: KeptFiles | undefined;
  readonly #meters = new Map<string, Meter>();

  constructor(options: SamplerOptions) {
    const { layout, hugepageSizes } = options;
    this.#options = options;
    this.#sets = Object.fromEntries(
      DETAILS.map((detail) => [detail, fileSet(layout, detail, hugepageSizes)]),
    ) as Record<Detail, FileSet>;
    this.#read = options.read ?? readKernelFiles;
    this.#files = options.read === undefined ? new KeptFiles(options.keptFilesCount) : undefined;
  }

  /** A sample of each by its id; none where the cgroup is gone. Never fails for one of them. */
  async sample(groups: readonly Group[]): Promise<ReadonlyMap<string, Sample>> {
    const { clock, periodMs } = this.#options;
    const samples = new Map<string, Sample>();
    const due: { readonly group: Group; readonly meter: Meter }[] = [];
    for (const group of groups) {
      const meter = this.#meter(group.id);
      const last = periodMs > 0 ? meter.last(group.detail, clock(), BigInt(periodMs) * 1_000_000n) : undefined;
      if (last === undefined) due.push({ group, meter });
      else samples.set(group.id, last);
    }
    if (due.length === 0) return samples;
    const files = due.map(({ group, meter }) => meter.files(this.#sets[group.detail], group));
    // Metrics are asked for less often, and are many more files.
    const keep = this.#files !== undefined && due.every(({ group }) => group.detail !== 'metrics');
    const next = new FilesRead(
      await (keep ? this.#files.read(files) : this.#read(files.flatMap((each) => each.files()))),
    );
    const at = clock();
    for (const { group, meter } of due) {
      const reading = this.#sets[group.detail].parse(next, group, at);
      if (reading !== undefined)
        samples.set(group.id, meter.sampleOf(reading, group.detail, periodMs > 0 ? 'again' : 'once'));
      // Nothing is left of it; it may be that nobody will say so any more.
      else this.forget(group.id);
      // Forgotten while it was read.
      if (this.#meters.get(group.id) !== meter) this.#drop(meter);
    }
    return samples;
  }

  /** Drops what is remembered of a cgroup and keeps its files open no longer; for what has ended. */
  forget(id: string): void {
    const meter = this.#meters.get(id);
    if (meter === undefined) return;
    this.#meters.delete(id);
    this.#drop(meter);
  }

  #meter(id: string): Meter {
    const known = this.#meters.get(id);
    if (known !== undefined) return known;
    const made = new Meter();
    this.#meters.set(id, made);
    return made;
  }

  #drop(meter: Meter): void {
    for (const files of meter.allFiles()) this.#files?.drop(files);
  }
}

/**
 * The values of series, and the text that Prometheus reads (text format 0.0.4). Nothing that a stranger chooses makes
 * it grow without end: each series has so many values of its labels, and what comes after them is counted as `other`.
 */
import { limits } from '../../pkg/base/limits.ts';
import { SERIES, type Series, type SeriesKey } from './series.ts';

/** What the type of an answer is called (Prometheus, exposition formats). */
export const TEXT_TYPE = 'text/plain; version=0.0.4; charset=utf-8';

/** One value of the labels of one series. */
interface Sample {
  readonly labels: readonly string[];
  value: number;
  /** Of histograms and summaries. */
  count: number;
  /** How many were within each bound, of histograms. */
  readonly within: number[];
  /** Of summaries: the last so many, with their times; the oldest is overwritten first. */
  readonly recent: { readonly at: number; readonly value: number }[];
}

/** The series that are asked for; the others cost a look-up. */
export class Registry {
  readonly #series = new Map<SeriesKey, Map<string, Sample>>();
  readonly #now: () => number;

  /** `now`: milliseconds that nobody sets. */
  constructor(keys: ReadonlySet<SeriesKey>, now: () => number = () => performance.now()) {
    this.#now = now;
    for (const key of keys) {
      this.#series.set(key, new Map());
      // Without labels there is one value, and it is 0 until something happens.
      if (SERIES[key].labels.length === 0) this.#sample(key, []);
    }
  }

  /** True if anybody wants to know. */
  has(key: SeriesKey): boolean {
    return this.#series.has(key);
  }

  /** Counts. */
  add(key: SeriesKey, labels: readonly string[] = [], more = 1): void {
    const sample = this.#sample(key, labels);
    if (sample !== undefined) sample.value += more;
  }

  /** What a gauge shows, or a counter that somebody else counts. */
  set(key: SeriesKey, labels: readonly string[], value: number): void {
    const sample = this.#sample(key, labels);
    if (sample !== undefined) sample.value = value;
  }

  /** One more value of a histogram or summary. */
  observe(key: SeriesKey, labels: readonly string[], value: number): void {
    const sample = this.#sample(key, labels);
    if (sample === undefined) return;
    const { buckets, quantiles } = SERIES[key];
    sample.value += value;
    buckets?.forEach((bound, index) => {
      if (value <= bound) sample.within[index] = (sample.within[index] ?? 0) + 1;
    });
    if (quantiles !== undefined) sample.recent[sample.count % limits.metricSamplesCount] = { at: this.#now(), value };
    sample.count++;
  }

  /** Forgets one value of the labels. */
  forget(key: SeriesKey, labels: readonly string[]): void {
    this.#series.get(key)?.delete(keyOf(labels));
  }

  /** Forgets all of a series that is told anew at each scrape. */
  clear(key: SeriesKey): void {
    this.#series.get(key)?.clear();
  }

  /** All of it, as Prometheus reads it. */
  text(): string {
    return [...this.#series].flatMap(([key, samples]) => this.#lines(SERIES[key], samples)).join('');
  }

  #sample(key: SeriesKey, given: readonly string[]): Sample | undefined {
    const samples = this.#series.get(key);
    if (samples === undefined) return undefined;
    // What is written alike must be counted as one: Prometheus refuses an answer that says a thing twice.
    let labels = given.map((each) => each.slice(0, limits.metricLabelChars).toWellFormed());
    let found = samples.get(keyOf(labels));
    if (found === undefined && samples.size >= limits.metricSeriesCount) {
      labels = labels.map(() => 'other');
      found = samples.get(keyOf(labels));
    }
    if (found !== undefined) return found;
    const within = SERIES[key].buckets?.map(() => 0) ?? [];
    const sample: Sample = { labels, value: 0, count: 0, within, recent: [] };
    samples.set(keyOf(labels), sample);
    return sample;
  }

  #lines(series: Series, samples: ReadonlyMap<string, Sample>): string[] {
    if (samples.size === 0) return [];
    const { name, type, help } = series;
    const head = `# HELP ${name} ${help}\n# TYPE ${name} ${type}\n`;
    return [head, ...[...samples.values()].flatMap((sample) => this.#values(series, sample))];
  }

  #values({ name, type, labels, buckets, quantiles }: Series, sample: Sample): string[] {
    const pairs = labels.map((label, index) => [label, sample.labels[index] ?? ''] as const);
    const line = (suffix: string, more: readonly (readonly [string, string])[], value: number): string =>
      `${name}${suffix}${labelText([...pairs, ...more])} ${goNumber(value)}\n`;
    if (type === 'counter' || type === 'gauge') return [line('', [], sample.value)];
    const parts = [
      ...(buckets ?? []).map((bound, index) => line('_bucket', [['le', goNumber(bound)]], sample.within[index] ?? 0)),
      ...(buckets === undefined ? [] : [line('_bucket', [['le', '+Inf']], sample.count)]),
      ...this.#quantiles(sample, quantiles ?? []).map(([at, value]) => line('', [['quantile', String(at)]], value)),
    ];
    return [...parts, line('_sum', [], sample.value), line('_count', [], sample.count)];
  }

  #quantiles({ recent }: Sample, quantiles: readonly number[]): (readonly [number, number])[] {
    const since = this.#now() - limits.metricSamplesMs;
    const values = recent.flatMap(({ at, value }) => (at >= since ? [value] : [])).sort((a, b) => a - b);
    return quantiles.map((each) => [each, values[Math.ceil(each * values.length) - 1] ?? Number.NaN]);
  }
}

function keyOf(labels: readonly string[]): string {
  return labels.join('\0');
}

function labelText(pairs: readonly (readonly [string, string])[]): string {
  return pairs.length === 0 ? '' : `{${pairs.map(([name, value]) => `${name}="${escaped(value)}"`).join(',')}}`;
}

/** What the text format wants of the value of a label. */
function escaped(value: string): string {
  return value.replace(/["\\\n]/g, (each) => (each === '\n' ? '\\n' : `\\${each}`));
}

/** Go writes numbers of seven digits and more with an exponent of two, and queries match bounds by their text. */
const GO_EXPONENT_FROM = 1e6;

/** A number as programs in Go write it. */
function goNumber(value: number): string {
  if (!Number.isFinite(value)) return Number.isNaN(value) ? 'NaN' : value > 0 ? '+Inf' : '-Inf';
  if (Math.abs(value) < GO_EXPONENT_FROM || Math.abs(value) % GO_EXPONENT_FROM !== 0) return String(value);
  return value.toExponential().replace(/e\+(\d)$/, 'e+0$1');
}

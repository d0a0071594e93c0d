/** Lists of processors, as cpuset(7) writes them. PURE. */
import { RuntimeError } from './errors.ts';
import { quote } from './ids.ts';

/** Kernels are built for 8192 at most (CONFIG_NR_CPUS). */
const CPUS_MAX = 8192;
/** The numbers in a list such as `0-3,7` (cpuset(7)), sorted, each once. @throws InvalidArgument */
export function parseCpus(text: string): readonly number[] {
  const found = new Set<number>();
  for (const part of text.trim() === '' ? [] : text.trim().split(',')) {
    const [, low, high] = /^(\d{1,5})(?:-(\d{1,5}))?$/.exec(part.trim()) ?? [];
    const [first, last] = [Number(low), Number(high ?? low)];
    if (low === undefined || last < first || last >= CPUS_MAX)
      throw new RuntimeError('InvalidArgument', `${quote(text)} is no list of CPUs such as 0-3,7`);
    for (let cpu = first; cpu <= last; cpu++) found.add(cpu);
  }
  return [...found].sort((a, b) => a - b);
}

/** Such a list of sorted numbers. */
export function showCpus(cpus: readonly number[]): string {
  const ranges: (readonly [number, number])[] = [];
  for (const cpu of cpus) {
    const last = ranges.at(-1);
    if (last !== undefined && last[1] === cpu - 1) ranges[ranges.length - 1] = [last[0], cpu];
    else ranges.push([cpu, cpu]);
  }
  return ranges.map(([low, high]) => (low === high ? `${low}` : `${low}-${high}`)).join(',');
}

/** `a` and what of `b` is not in it, sorted. */
export function unionOf(a: readonly number[], b: readonly number[]): readonly number[] {
  return [...new Set([...a, ...b])].sort((x, y) => x - y);
}

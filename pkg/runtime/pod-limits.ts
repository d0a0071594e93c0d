/** Limits of a cgroup of our own above a pod's containers, as files or as properties of a slice. PURE. */
import type { LinuxResources } from '../oci/spec-types.ts';
import type { UnitProperties } from '../ports/kernel.ts';
import type { CgroupValue } from '../ports/runtime.ts';

/** "No limit" in properties of units. */
export const UNLIMITED_PROPERTY = 0xffff_ffff_ffff_ffffn;
const UNLIMITED = -1n;
/** The kernel's own. */
const DEFAULT_PERIOD_US = 100_000n;
const SECOND_US = 1_000_000n;
/** systemd keeps a quota in whole per cents of a processor, and rounds down. */
const PER_CENT_US = SECOND_US / 100n;
/** Of `unified`, what systemd has properties for; it would write its own over a file. */
const PROPERTY_OF: ReadonlyMap<string, string> = new Map([
  ['memory.min', 'MemoryMin'],
  ['memory.low', 'MemoryLow'],
  ['memory.high', 'MemoryHigh'],
  ['memory.max', 'MemoryMax'],
]);

/** What is written to a cgroup that we made ourselves, in order. */
export function limitFiles({ cpu, memory, unified }: LinuxResources, version: 1 | 2): CgroupValue[] {
  const files: CgroupValue[] = [];
  const add = (controller: string, file: string, value: bigint | string): void =>
    void files.push({ controller, file: `${controller}.${file}`, value: String(value) });
  const quota = cpu?.quota ?? UNLIMITED;
  if (version === 1) {
    if (cpu?.shares !== undefined) add('cpu', 'shares', cpu.shares);
    if (cpu?.period !== undefined) add('cpu', 'cfs_period_us', cpu.period);
    if (cpu?.quota !== undefined) add('cpu', 'cfs_quota_us', cpu.quota);
    if (memory?.limit !== undefined) add('memory', 'limit_in_bytes', memory.limit);
    return files;
  }
  if (cpu?.shares !== undefined) add('cpu', 'weight', weightOf(cpu.shares));
  if (cpu?.quota !== undefined || cpu?.period !== undefined)
    add('cpu', 'max', `${quota === UNLIMITED ? 'max' : quota} ${cpu.period ?? DEFAULT_PERIOD_US}`);
  if (memory?.limit !== undefined) add('memory', 'max', memory.limit === UNLIMITED ? 'max' : memory.limit);
  return [...files, ...unifiedFiles(unified)];
}

/** The same for a slice: properties, and the files that systemd has no property for. */
export function limitProperties(
  { cpu, memory, unified = {} }: LinuxResources,
  version: 1 | 2,
): { readonly properties: UnitProperties; readonly files: readonly CgroupValue[] } {
  const properties: Record<string, UnitProperties[string]> = {};
  const set = (name: string, value: bigint): void =>
    void (properties[name] = { type: 't', value: value === UNLIMITED ? UNLIMITED_PROPERTY : value });
  if (cpu?.shares !== undefined)
    if (version === 1) set('CPUShares', cpu.shares);
    else set('CPUWeight', weightOf(cpu.shares));
  if (cpu?.period !== undefined) set('CPUQuotaPeriodUSec', cpu.period);
  if (cpu?.quota !== undefined) set('CPUQuotaPerSecUSec', quotaPerSecond(cpu.quota, cpu.period ?? DEFAULT_PERIOD_US));
  if (memory?.limit !== undefined) set(version === 1 ? 'MemoryLimit' : 'MemoryMax', memory.limit);
  const others: Record<string, string> = {};
  for (const [file, value] of Object.entries(unified)) {
    const property = PROPERTY_OF.get(file);
    if (property === undefined || !/^(max|\d+)$/.test(value)) others[file] = value;
    else set(property, value === 'max' ? UNLIMITED : BigInt(value));
  }
  return { properties, files: unifiedFiles(others) };
}

function unifiedFiles(unified: LinuxResources['unified'] = {}): CgroupValue[] {
  return Object.entries(unified).map(([file, value]) => ({
    controller: file.slice(0, file.indexOf('.')),
    file,
    value,
  }));
}

/** Up to the next per cent, so that containers within may have the quota that they were promised. */
function quotaPerSecond(quota: bigint, period: bigint): bigint {
  if (quota === UNLIMITED) return UNLIMITED;
  const exact = (quota * SECOND_US) / period;
  return ((exact + PER_CENT_US - 1n) / PER_CENT_US) * PER_CENT_US;
}

/** Shares of v1, 2 to 262144, as the weight of v2, 1 to 10000: as runtimes have it that know no other formula. */
function weightOf(shares: bigint): bigint {
  const clamped = shares < 2n ? 2n : shares > 262_144n ? 262_144n : shares;
  return 1n + ((clamped - 2n) * 9_999n) / 262_142n;
}

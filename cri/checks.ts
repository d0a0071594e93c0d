/**
 * What every field of its kind has to be, wherever it comes. Pure. Each refusal is InvalidArgument and names the field
 * as the .proto does, the value (shortened), and what is wanted.
 */
import { RuntimeError } from '../pkg/base/errors.ts';
import { quote } from '../pkg/base/ids.ts';
import { limits } from '../pkg/base/limits.ts';
import type { ImageSpec, Int64Value, LinuxContainerResources, StringMap } from '../pkg/cri-api/types.ts';

/**
 * Ours are 64 hex digits; others cannot exist here, which NotFound says better than a refusal. Not `.`, `..`, or a
 * path.
 */
const ID = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;
/**
 * Wider than Kubernetes' DNS names, since people write pods for crictl by hand; no `/`, `;`, `=`, space or control
 * character.
 */
const NAME = /^[A-Za-z0-9_][A-Za-z0-9_.:@-]*$/;
/** One word of a line: printable, no blanks. */
export const WORD = /^[\x21-\x7e]+$/;
/** setuid(2) and friends take 32 bits of which -1 means "unchanged"; everybody stops at 31 (CVE-2024-40635). */
const ID_MAX = 2n ** 31n - 1n;
/** Of 16 bits. */
const PORT_MAX = 65_535;

/** An id or the beginning of one, safe to look up. `field` is its name in the .proto. @throws InvalidArgument */
export function narrowId(id: string, field: string): string {
  if (id === '') throw missing(field, 'give the id that the create call returned');
  if (!ID.test(id)) throw invalid(field, id, 'want an id or the beginning of one');
  return id;
}

/** The same spec, which names an image: a reference or an id, not parsed yet. @throws InvalidArgument */
export function namedImage(spec: ImageSpec | undefined, field: string): ImageSpec {
  if (spec === undefined || spec.image === '')
    throw missing(`${field}.image`, 'name an image, such as registry.example/app:1.0, or give its id');
  if (spec.image.length > limits.nameBytes || !WORD.test(spec.image)) {
    throw invalid(
      `${field}.image`,
      spec.image,
      `want a reference or an id: printable ASCII without spaces, at most ${limits.nameBytes} characters`,
    );
  }
  checkEntries(`${field}.annotations`, spec.annotations);
  return spec;
}

type Identity = {
  readonly runAsUser?: Int64Value | undefined;
  readonly runAsGroup?: Int64Value | undefined;
  readonly supplementalGroups: readonly bigint[];
};

/** Users and groups that setuid(2) takes. @throws InvalidArgument */
export function checkIds(at: string, { runAsUser, runAsGroup, supplementalGroups }: Identity): void {
  const check = (field: string, id: bigint): void => {
    if (id < 0n || id > ID_MAX) throw invalid(`${at}.${field}`, String(id), `want 0 to ${ID_MAX}`);
  };
  if (runAsUser !== undefined) check('run_as_user', runAsUser.value);
  if (runAsGroup !== undefined) check('run_as_group', runAsGroup.value);
  checkCount(`${at}.supplemental_groups`, supplementalGroups, limits.groupsCount);
  supplementalGroups.forEach((id, i) => check(`supplemental_groups[${i}]`, id));
}

/** Signs and syntax; what the node can do is for pkg/spec to say. */
export function checkResources(field: string, resources: LinuxContainerResources): void {
  const least: readonly (readonly [name: string, value: bigint, least: bigint])[] = [
    ['cpu_period', resources.cpuPeriod, 0n],
    ['cpu_quota', resources.cpuQuota, -1n],
    ['cpu_shares', resources.cpuShares, 0n],
    ['memory_limit_in_bytes', resources.memoryLimitInBytes, -1n],
    ['memory_swap_limit_in_bytes', resources.memorySwapLimitInBytes, -1n],
  ];
  for (const [name, value, min] of least) {
    if (value < min)
      throw invalid(
        `${field}.${name}`,
        String(value),
        min < 0n ? 'want -1 for unlimited, 0 to leave it, or a limit' : 'want 0 to leave it, or a positive number',
      );
  }
  if (resources.oomScoreAdj < -1000n || resources.oomScoreAdj > 1000n)
    throw invalid(`${field}.oom_score_adj`, String(resources.oomScoreAdj), 'want -1000 to 1000');
  for (const [name, list] of [
    ['cpuset_cpus', resources.cpusetCpus],
    ['cpuset_mems', resources.cpusetMems],
  ] as const) {
    if (list.length > limits.nameBytes || !/^(\d+(-\d+)?(,\d+(-\d+)?)*)?$/.test(list))
      throw invalid(`${field}.${name}`, list, 'want a list such as 0-3,7');
  }
  for (const { pageSize } of resources.hugepageLimits)
    if (!/^\d{1,7}[KMG]B$/.test(pageSize))
      throw invalid(`${field}.hugepage_limits`, pageSize, 'want a page size such as 2MB');
  checkEntries(`${field}.unified`, resources.unified);
  // The key becomes the name of a file below /sys/fs/cgroup (GHSA-p4rx: never a path).
  for (const [key, value] of Object.entries(resources.unified)) {
    if (!/^[a-z]+(\.[A-Za-z0-9_]+)+$/.test(key))
      throw invalid(`${field}.unified`, key, 'want the name of a cgroup v2 file, such as memory.high');
    checkNoNul(`${field}.unified`, value);
  }
}

/** What tells one object from another. @throws InvalidArgument */
export function checkName(field: string, name: string): void {
  if (name === '') throw missing(field, 'it is part of what tells one from another');
  if (name.length > limits.nameBytes || !NAME.test(name))
    throw invalid(field, name, `want letters, digits, ".", "-", "_", ":" and "@", at most ${limits.nameBytes} of them`);
}

/** @throws InvalidArgument below `least` and above 65535 */
export function checkPort(field: string, port: number, least: number): void {
  if (port < least || port > PORT_MAX) throw invalid(field, String(port), `want ${least} to ${PORT_MAX}`);
}

/** A path that starts at the root, stays where it says and is one line. @throws InvalidArgument */
export function checkAbsolute(field: string, path: string): void {
  if (path.length > limits.nameBytes || !path.startsWith('/') || hasControl(path) || path.split('/').includes('..')) {
    throw invalid(field, path, 'want an absolute path without ".." and control characters');
  }
}

/** Labels or annotations of one object, all together. @throws InvalidArgument above limits.annotationsBytes */
export function checkEntries(field: string, entries: StringMap): void {
  let bytes = 0;
  for (const key of Object.keys(entries)) bytes += Buffer.byteLength(key) + Buffer.byteLength(entries[key] ?? '');
  if (bytes > limits.annotationsBytes)
    throw tooMuch(field, `${bytes} bytes`, `${limits.annotationsBytes} in keys and values together`);
}

/** @throws InvalidArgument for more than `max` */
export function checkCount(field: string, list: readonly unknown[], max: number): void {
  if (list.length > max) throw tooMuch(field, `${list.length} entries`, `${max}`);
}

/** @throws InvalidArgument for what execve(2) cannot pass on */
export function checkNoNul(field: string, text: string): void {
  if (text.includes('\0'))
    throw new RuntimeError('InvalidArgument', `${field} holds a NUL byte, which no program can receive`);
}

/** True for text that would end a line or move a cursor. */
export function hasControl(text: string): boolean {
  return /\p{Cc}/u.test(text);
}

/** The refusal of a field that is required. */
export function missing(field: string, remedy: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} is missing: ${remedy}`);
}

/** The refusal of a value, which is shortened. */
export function invalid(field: string, value: string, wanted: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} is ${quote(value)}: ${wanted}`);
}

/** The refusal of more than there may be. */
export function tooMuch(field: string, found: string, most: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${field} has ${found}: at most ${most}`);
}

/**
 * Control groups on v1, hybrid and v2 alike: which hierarchies there are, where a cgroup lies in each of them, making,
 * killing and removing it. What is inside (limits, statistics) is the business of runtimes and pkg/stats.
 *
 * A cgroup is named by its path from the root of the hierarchies (`/kubepods/pod1/x`), the same in all of them.
 */
import { existsSync, readdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf, RuntimeError } from '../base/errors.ts';
import { ensureDirInMemory } from '../base/files.ts';
import { type ProcessRef, quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError, withTimeout, type Op } from '../base/op.ts';
import type { CgroupHierarchy, CgroupLayout, CgroupMode, MountEntry } from '../ports/kernel.ts';
import { systemError } from './addon.ts';
import { readFiles } from './kernel-files.ts';
import { parseMountinfo } from './mountinfo.ts';
import { readStats, signal } from './processes.ts';

const V1_CONTROLLERS: ReadonlySet<string> = new Set(
  'cpuset cpu cpuacct blkio memory devices freezer net_cls perf_event net_prio hugetlb pids rdma misc'.split(' '),
);

/**
 * PURE. The layout by the mounts; `v2Controllers` gives the content of `cgroup.controllers` at a v2 mount point. A
 * hierarchy mounted more than once counts once, by its first mount. No cgroup mount at all: v2 without hierarchies.
 */
export function layoutOf(mounts: readonly MountEntry[], v2Controllers: (mountPoint: string) => string): CgroupLayout {
  const hierarchies: CgroupHierarchy[] = [];
  const seen = new Set<string>();
  for (const mount of mounts) {
    if (mount.fsType === 'cgroup') {
      const controllers = mount.superOptions.filter(
        (option) => V1_CONTROLLERS.has(option) || option.startsWith('name='),
      );
      const key = controllers.join(',');
      if (controllers.length > 0 && !seen.has(key))
        hierarchies.push({ version: 1, mountPoint: mount.mountPoint, controllers });
      seen.add(key);
    } else if (mount.fsType === 'cgroup2' && !seen.has('cgroup2')) {
      seen.add('cgroup2');
      hierarchies.push({
        version: 2,
        mountPoint: mount.mountPoint,
        controllers: v2Controllers(mount.mountPoint)
          .split(/\s+/)
          .filter((name) => name !== ''),
      });
    }
  }
  const mode = modeOf(hierarchies);
  const usable = mode === 'hybrid' ? hierarchies.filter(({ version }) => version === 1) : hierarchies;
  const controllers = new Set(usable.flatMap((each) => each.controllers).filter((name) => !name.startsWith('name=')));
  return { mode, hierarchies, controllers };
}

function modeOf(hierarchies: readonly CgroupHierarchy[]): CgroupMode {
  if (!hierarchies.some((each) => each.version === 1)) return 'v2';
  return hierarchies.some((each) => each.version === 2) ? 'hybrid' : 'v1';
}

/** The layout of this node, as it was when it was first asked for. */
export function readLayoutSync(): CgroupLayout {
  layout ??= layoutOf(parseMountinfo(readFileSync('/proc/self/mountinfo', 'utf8')), (mountPoint) =>
    textOf(join(mountPoint, 'cgroup.controllers')),
  );
  return layout;
}

/** As the process has one node. To ask again costs milliseconds: each pod adds a handful of mounts to read over. */
let layout: CgroupLayout | undefined;

/** True if swap can be limited per cgroup. */
export function hasSwapAccounting(layout: CgroupLayout): boolean {
  const memory = hierarchyOf(layout, 'memory');
  if (memory === undefined) return false;
  if (memory.version === 1) return textOf(join(memory.mountPoint, 'memory.memsw.limit_in_bytes')) !== '';
  // The root cgroup has no memory.swap.*; the kernel says in meminfo whether there is swap accounting to speak of.
  return textOf('/proc/meminfo').includes('SwapTotal:') && textOf('/proc/cmdline').includes('swapaccount=0') === false;
}

/** PURE. The hierarchy that has a controller. */
export function hierarchyOf(layout: CgroupLayout, controller: string): CgroupHierarchy | undefined {
  return layout.hierarchies.find((each) => each.controllers.includes(controller));
}

/**
 * PURE. A cgroup path made safe: absolute, no empty, `.` or `..` component. @throws InvalidArgument; also for the root
 * itself, which nobody may make, kill or remove.
 */
export function checkPath(path: string): string {
  const parts = path.split('/').filter((part) => part !== '');
  const bad =
    parts.length === 0 ||
    parts.some((part) => part === '.' || part === '..' || part.includes('\0') || part.length > 255);
  if (!path.startsWith('/') || bad)
    throw new RuntimeError('InvalidArgument', `not a cgroup path: ${quote(path)} (want /name/name…, not the root)`);
  return `/${parts.join('/')}`;
}

/** PURE. Where cgroup `path` lies in a hierarchy. */
export function directoryOf(hierarchy: CgroupHierarchy, path: string): string {
  return hierarchy.mountPoint + checkPath(path);
}

/**
 * PURE. The path of a systemd slice: `a-b.slice` lies in `a.slice` (systemd.slice(5)); `-.slice` is the root, ''.
 * @throws InvalidArgument.
 */
export function slicePath(slice: string): string {
  if (slice === '-.slice') return '';
  const name = /^([A-Za-z0-9:_.\\@]+(?:-[A-Za-z0-9:_.\\@]+)*)\.slice$/.exec(slice)?.[1];
  if (name === undefined)
    throw new RuntimeError(
      'InvalidArgument',
      `not a slice name: ${quote(slice)} (want name.slice, parts joined by single dashes)`,
    );
  const parts = name.split('-');
  return parts.map((_, index) => `/${parts.slice(0, index + 1).join('-')}.slice`).join('');
}

/**
 * PURE. The path behind a runtime spec's `cgroupsPath`: `/a/b` as it is, systemd's `slice:prefix:name` and `name.slice`
 * expanded.
 */
export function pathOf(cgroupsPath: string): string {
  if (/^[^/:]+\.slice$/.test(cgroupsPath)) return checkPath(slicePath(cgroupsPath));
  const [slice, prefix, name, ...more] = cgroupsPath.split(':');
  if (
    cgroupsPath.startsWith('/') ||
    slice === undefined ||
    prefix === undefined ||
    name === undefined ||
    more.length > 0
  )
    return checkPath(cgroupsPath);
  const unit = name.endsWith('.slice') ? name : `${prefix === '' ? '' : `${prefix}-`}${name}.scope`;
  return checkPath(`${slicePath(slice === '' ? 'system.slice' : slice)}/${unit}`);
}

/** What crun calls the cgroup that it makes below a scope on v2 (crun(1), run.oci.systemd.subgroup). */
const INNER = 'container';

/**
 * The cgroup, one name, in which the processes of scope `path` are, with the limits that systemd has no property for:
 * crun makes one and leaves the scope to systemd. Undefined where there is none.
 */
export function innerOf(layout: CgroupLayout, path: string): string | undefined {
  if (!path.endsWith('.scope')) return undefined;
  const unified = layout.hierarchies.find(({ version }) => version === 2);
  return unified !== undefined && existsSync(join(directoryOf(unified, path), INNER)) ? INNER : undefined;
}

/** PURE. /proc/<pid>/cgroup: path by controller name, '' for v2's. */
export function parseProcCgroup(text: string): Map<string, string> {
  const paths = new Map<string, string>();
  for (const line of text.split('\n')) {
    const match = /^\d+:([^:]*):(.*)$/.exec(line);
    if (match === null) continue;
    for (const controller of (match[1] ?? '').split(',')) paths.set(controller, match[2] ?? '');
  }
  return paths;
}

/** Makes cgroup `path` in every hierarchy; content where it is there. */
export function create(layout: CgroupLayout, path: string): void {
  for (const hierarchy of layout.hierarchies) {
    const directory = directoryOf(hierarchy, path);
    try {
      ensureDirInMemory(directory, 0o755);
      if (hierarchy.version === 1 && hierarchy.controllers.includes('cpuset'))
        inheritCpuset(hierarchy.mountPoint, directory);
    } catch (error) {
      throw systemError(error, `make cgroup ${directory}`);
    }
  }
}

/**
 * Lets cgroup `path` have these controllers on v2, where each level above has to pass them down; nothing on v1, nor for
 * a controller that the hierarchy lacks.
 */
export function enable(layout: CgroupLayout, path: string, controllers: ReadonlySet<string>): void {
  for (const { version, mountPoint, controllers: all } of layout.hierarchies) {
    const wanted = all.filter((each) => version === 2 && controllers.has(each));
    const parts = checkPath(path).split('/').slice(1, -1);
    for (const above of ['', ...parts.map((_, index) => `/${parts.slice(0, index + 1).join('/')}`)]) {
      const file = `${mountPoint}${above}/cgroup.subtree_control`;
      const missing = wanted.filter((each) => !textOf(file).split(/\s+/).includes(each));
      try {
        if (missing.length > 0) writeFileSync(file, missing.map((each) => `+${each}`).join(' '));
      } catch (error) {
        throw systemError(error, `enable ${missing.join(', ')} below cgroup ${above || '/'}`);
      }
    }
  }
}

/**
 * Makes cgroup `path` in one hierarchy, for those who look there for names; content if it is there. Of v1 it is that of
 * cpuacct, which every node has and which costs the kernel least.
 */
export function show(layout: CgroupLayout, path: string): void {
  const hierarchy = hierarchyOf(layout, 'cpuacct') ?? layout.hierarchies[0];
  if (hierarchy === undefined) return;
  const directory = directoryOf(hierarchy, path);
  try {
    ensureDirInMemory(directory, 0o755);
  } catch (error) {
    throw systemError(error, `make cgroup ${directory}`);
  }
}

/** A v1 cpuset starts empty and then refuses processes: each level takes what its parent has (cpusets(7)). */
function inheritCpuset(top: string, directory: string): void {
  if (directory === top) return;
  inheritCpuset(top, dirname(directory));
  for (const name of ['cpuset.cpus', 'cpuset.mems']) {
    const own = readFileSync(join(directory, name), 'utf8').trim();
    const parent = own === '' ? readFileSync(join(dirname(directory), name), 'utf8').trim() : '';
    if (parent !== '') writeFileSync(join(directory, name), parent);
  }
}

/**
 * Pids in cgroup `path` and below, in all hierarchies, each once, ascending; none where it does not exist. Synchronous:
 * kernfs answers from memory, faster than a thread pool.
 */
export function processesIn(layout: CgroupLayout, path: string): number[] {
  const directories = layout.hierarchies.flatMap((hierarchy) => subtree(directoryOf(hierarchy, path)));
  const pids = new Set<number>();
  for (const text of readFiles(
    directories.map((directory) => join(directory, 'cgroup.procs')),
    limits.cgroupProcsBytes,
  )) {
    for (const pid of parsePids(text?.toString('latin1') ?? '')) pids.add(pid);
  }
  return Array.from(pids).sort((a, b) => a - b);
}

/** The processes in cgroup `path` and below, by pid and start, to do something to. */
export function membersOf(layout: CgroupLayout, path: string): ProcessRef[] {
  return members(() => processesIn(layout, path), readStats);
}

/**
 * PURE. Who is listed, by pid and start. A number may have become another's between the list and the look at who has
 * it; whoever is listed once more belongs there.
 */
export function members(
  list: () => readonly number[],
  look: (pids: readonly number[]) => readonly ProcessRef[],
): ProcessRef[] {
  const found = look(list());
  const still = new Set(list());
  return found.filter(({ pid }) => still.has(pid)).map(({ pid, startTicks }) => ({ pid, startTicks }));
}

/**
 * PURE. The pids in (the beginning of) a `cgroup.procs`. Those of other pid namespaces read as 0, and signalling 0
 * would hit ourselves; what follows the last line feed is cut off, and may be the beginning of another process' pid.
 */
export function parsePids(text: string): number[] {
  return text
    .slice(0, text.lastIndexOf('\n') + 1)
    .split('\n')
    .map(Number)
    .filter((pid) => pid > 0);
}

/**
 * Kills everything in cgroup `path` and below, then removes it in every hierarchy; content if absent.
 * @throws FailedPrecondition if we are in it ourselves, DeadlineExceeded naming a pid that does not die.
 */
export async function destroy(op: Op, layout: CgroupLayout, path: string): Promise<void> {
  if (removeEmpty(layout, path)) return;
  const bounded = withTimeout(op, limits.killGraceMs);
  for (let waitMs = 1; ; waitMs = Math.min(2 * waitMs, 50)) {
    const pids = processesIn(layout, path);
    if (pids.includes(process.pid))
      throw new RuntimeError(
        'FailedPrecondition',
        `this daemon itself is in cgroup ${path}; give it a cgroup of its own`,
      );
    if (pids.length > 0) killAll(layout, path);
    else if (removeDirectories(layout, path)) return;
    if (bounded.signal.aborted) {
      const why = pids.length > 0 ? `process ${pids[0]} does not die (uninterruptible sleep?)` : 'it stays busy';
      throw abortError(bounded, `destroy cgroup ${path}: ${why}`);
    }
    await sleep(waitMs);
  }
}

/** The paths of all cgroups that `wanted` picks, parents first, each once. Synchronous, as processesIn. */
export function find(layout: CgroupLayout, wanted: (path: string) => boolean): string[] {
  const paths = layout.hierarchies.flatMap(({ mountPoint }) =>
    subtree(mountPoint)
      .map((directory) => directory.slice(mountPoint.length))
      .filter((path) => path !== '' && wanted(path)),
  );
  return Array.from(new Set(paths));
}

/** cgroup.kill where the kernel has it (5.14, v2): it cannot miss a fork. Else one by one, again and again. */
function killAll(layout: CgroupLayout, path: string): void {
  for (const hierarchy of layout.hierarchies) {
    if (hierarchy.version === 2) killWhole(directoryOf(hierarchy, path));
  }
  for (const ref of membersOf(layout, path)) signal(ref, constants.signals.SIGKILL);
}

function killWhole(directory: string): void {
  try {
    writeFileSync(join(directory, 'cgroup.kill'), '1');
  } catch {
    // An older kernel, or the cgroup is not in this hierarchy: the pids are killed one by one anyway.
  }
}

/**
 * True if nothing was in the cgroup nor below it, or there was none: then it is gone now. The kernel takes away only
 * what is empty, so that nobody has to look first, in a dozen hierarchies, for what is mostly not there any more.
 */
function removeEmpty(layout: CgroupLayout, path: string): boolean {
  return layout.hierarchies.every((hierarchy) => {
    const directory = directoryOf(hierarchy, path);
    if (!existsSync(directory)) return true;
    try {
      rmdirSync(directory);
      return true;
    } catch {
      // Whoever looks closer says why.
      return false;
    }
  });
}

/** False if a directory is still busy. */
function removeDirectories(layout: CgroupLayout, path: string): boolean {
  let gone = true;
  for (const directory of layout.hierarchies.flatMap((hierarchy) => subtree(directoryOf(hierarchy, path)).reverse())) {
    try {
      rmdirSync(directory);
    } catch (error) {
      const errno = errnoOf(error);
      if (errno === 'EBUSY') gone = false;
      else if (errno !== 'ENOENT') throw systemError(error, `remove cgroup ${directory}`);
    }
  }
  return gone;
}

/** A cgroup directory and all below it, parents first; empty where it does not exist. */
function subtree(directory: string): string[] {
  try {
    const below = readdirSync(directory, { withFileTypes: true }).filter((entry) => entry.isDirectory());
    return [directory, ...below.flatMap((entry) => subtree(`${directory}/${entry.name}`))];
  } catch (error) {
    if (['ENOENT', 'ENODEV'].includes(errnoOf(error) ?? '')) return [];
    throw error;
  }
}

function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

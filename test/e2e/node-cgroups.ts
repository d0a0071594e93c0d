/** Where a node's cgroups are, by what its daemon says of its driver, whatever version of cgroups the machine has. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, rmdirSync } from 'node:fs';
import { dirname, join } from 'node:path';

const TOP = '/sys/fs/cgroup';
/** The machine has version 2 and nothing else. */
export const V2 = existsSync(join(TOP, 'cgroup.controllers'));

/** Not on every kernel that runs in another: user-mode-linux has no cpusets. */
export const HAS_CPUSETS =
  !V2 || readFileSync(join(TOP, 'cgroup.controllers'), 'utf8').trim().split(' ').includes('cpuset');

export type CgroupDriver = 'cgroupfs' | 'systemd';

/** The cgroup of a pod for which the kubelet named none. */
export function podCgroup(driver: CgroupDriver, pod: string): string {
  return driver === 'systemd' ? `/system.slice/system-berth_pod${pod}.slice` : `/berth/${pod}`;
}

/** The cgroup of a container in such a pod; crun puts its processes a level below a scope. */
export function containerCgroup(driver: CgroupDriver, pod: string, id: string): string {
  return `${podCgroup(driver, pod)}/crio-${id}.scope`;
}

/** A `cgroup_parent` as a kubelet with this driver names it, below a parent of this name; removing it is his, too. */
export function cgroupOfKubelet(
  driver: CgroupDriver,
  name: string,
): { readonly parent: string; readonly remove: () => void } {
  // A slice lies where the dashes in its name say.
  const parent = driver === 'systemd' ? `/${name}.slice/${name}-kubelet.slice` : `/${name}/kubelet`;
  const remove = (): void => {
    if (driver === 'systemd') execFileSync('systemctl', ['stop', `${name}.slice`]);
    for (const hierarchy of V2 ? [''] : readdirSync(TOP))
      for (const each of [parent, dirname(parent)].map((path) => join(TOP, hierarchy, path)))
        if (existsSync(each)) rmdirSync(each);
  };
  return { parent, remove };
}

/** What a file of a cgroup says, which v1 and v2 call differently; '' where the node lacks it. */
export function cgroupFile(path: string, controller: string, v1: string, v2 = v1): string {
  const file = V2 ? join(TOP, path, v2) : join(TOP, controller, path, v1);
  return existsSync(file) ? readFileSync(file, 'utf8').trim() : '';
}

/** Cgroups of our own pods and monitors whose name holds an id that `isOurs`: other nodes may be under test. */
export function cgroupsLeft(isOurs: (id: string) => boolean): string[] {
  return (V2 ? [''] : readdirSync(TOP))
    .flatMap((hierarchy) => ['berth', 'system.slice'].map((each) => join(TOP, hierarchy, each)))
    .filter((directory) => existsSync(directory))
    .flatMap((directory) => readdirSync(directory).map((name) => join(directory, name)))
    .filter((path) => {
      const id = /[0-9a-f]{64}(?=(\.slice|\.scope)?$)/.exec(path)?.[0];
      return id !== undefined && isOurs(id);
    });
}

/**
 * What a start finds on the node that no record owns: the leftovers of a crash, of a boot before this one, or of a run
 * root that was wiped while pods ran. Only what is ours beyond doubt is killed.
 *
 * Ours beyond doubt is an id that our own directories have, or that a monitor of ours serves; never what the runtime
 * lists, since its root may be shared with podman, and ids look alike. A cgroup that is called by such an id is its.
 * One that is only called as we call a pod may be another daemon's: it goes when it is empty and no other daemon runs.
 */
import { explain } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { Surroundings } from './life-core.ts';
import { type NamedCgroup, namedCgroup } from './pod-cgroup.ts';

/** What is to go, by ids that no record has. */
export interface Strays {
  readonly containers: ReadonlySet<ContainerId>;
  readonly sandboxes: ReadonlySet<SandboxId>;
  /** Cgroup of a container, or of a pod's infra container, where one was found. */
  readonly cgroups: ReadonlyMap<string, string>;
  /** False if something could not be looked at, or was left alone: the next start has to look again. */
  readonly areAll: boolean;
}

/** Finds them. What cannot be listed is found by the next start. */
export async function findStrays(op: Op, around: Surroundings): Promise<Strays> {
  const { world, books } = around;
  const isSandbox = (id: string): boolean => books.sandbox(id as SandboxId) !== undefined;
  const isContainer = (id: string): boolean => books.container(id as ContainerId) !== undefined || isSandbox(id);
  let areAll = true;
  const look = <T>(what: string, work: Promise<readonly T[]>): Promise<readonly T[]> => {
    work.catch(() => (areAll = false));
    return answered(op, what, work, []);
  };
  const [bundles, sandboxDirs, roots, pins, networks] = await Promise.all([
    look('bundles', world.workspace.listContainers()),
    look('directories of sandboxes', world.workspace.listSandboxes()),
    look('root filesystems', world.rootfs.list()),
    look('pinned namespaces', world.namespaces.list()),
    look('networks', world.network.list()),
  ]);
  // Then nothing but the processes themselves may be left of what ran. To look at all that run, and at all cgroups,
  // costs a node with many of them more than the rest of the start.
  const isNew = world.workspace.isNew();
  const served = isNew ? await look('monitors', world.monitor.served()) : [];
  const containers = new Set([...bundles, ...roots, ...served].filter((id) => !isContainer(id)));
  const sandboxes = new Set([...sandboxDirs, ...pins, ...networks].filter((id) => !isSandbox(id)));
  const cgroups = new Map<string, string>();
  if (!isNew && containers.size === 0 && sandboxes.size === 0) return { containers, sandboxes, cgroups, areAll };
  const named = await look('cgroups', namedCgroups(op, around));
  for (const { path, kind, id, pod } of named) {
    if (kind === 'pod' || !(containers.has(id as ContainerId) || sandboxes.has(id as SandboxId))) continue;
    cgroups.set(id, path);
    if (pod !== undefined && !isSandbox(pod)) sandboxes.add(pod as SandboxId);
  }
  for (const each of named) {
    const id = each.id as SandboxId;
    if (each.kind !== 'pod' || isSandbox(id) || sandboxes.has(id)) continue;
    if (await isNobodys(op, around, each.path)) sandboxes.add(id);
    else areAll = false;
  }
  return { containers, sandboxes, cgroups, areAll };
}

async function namedCgroups(op: Op, { world }: Surroundings): Promise<readonly (NamedCgroup & { path: string })[]> {
  const paths = await world.host.findCgroups(op, (path) => namedCgroup(path) !== undefined);
  return paths.flatMap((path) => {
    const named = namedCgroup(path);
    return named === undefined ? [] : [{ ...named, path }];
  });
}

/** True of a pod's cgroup that nothing is in, while there is nobody else who may have made it just now. */
async function isNobodys(op: Op, { world: { host, log } }: Surroundings, path: string): Promise<boolean> {
  if ((await answered(op, 'other daemons', host.otherDaemons(), 1)) > 0) return false;
  const pids = await answered(op, path, host.cgroupProcesses(path), [0]);
  if (pids.length === 0) return true;
  log.warn('a cgroup is called as one of our pods, but nothing says that what runs in it is ours; leaving it alone', {
    cgroup: path,
    pid: pids[0],
  });
  return false;
}

/** What `work` says, or `otherwise`: one thing that cannot be looked at must not keep the node from starting. */
export async function answered<T>(op: Op, what: string, work: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    op.log.error('something cannot be looked at, going on without', { what, cause: explain(cause) });
    return otherwise;
  }
}

/**
 * What a new daemon makes of what an old one left: observe, decide (pure), apply, sweep.
 *
 * Runs before the socket opens. It never trusts a record about the living world, and never the world about what was
 * wanted.
 */
import { explain } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { INFRA_LOST } from './infra.ts';
import { limits } from '../base/limits.ts';
import { type Op, withTimeout } from '../base/op.ts';
import { next, nextSandbox } from '../state/index.ts';
import type { Books } from './books.ts';
import type { ContainerKeeper } from './containers.ts';
import { destroyContainer, destroySandbox } from './destroy.ts';
import { pinnedNamespaces } from './sandbox-plan.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import { remainsOf } from './pods.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { World } from './world.ts';

/** What is true of a container right now. */
export interface ContainerFacts {
  readonly processAlive: boolean;
  /** Also where no monitor is on record, so that nobody can tell. */
  readonly monitorAlive: boolean;
  readonly exit: ExitRecord | undefined;
}

/** What to do about a container's record; `ask`: the runtime, whether a start that was cut off has begun. */
export type ContainerVerdict =
  | { readonly action: 'keep' }
  | { readonly action: 'ask' }
  | { readonly action: 'destroy' }
  | { readonly action: 'save'; readonly state: ContainerRecord['state'] };

/** What becomes of a container, by its record and by what was found of it. `at` is now. */
function decideContainer(state: ContainerRecord['state'], facts: ContainerFacts, at: bigint): ContainerVerdict {
  switch (state.phase) {
    case 'creating':
    case 'removing':
      return { action: 'destroy' };
    case 'exited':
      return { action: 'keep' };
    case 'created':
    case 'starting':
    case 'running':
    case 'unknown': {
      if (facts.exit !== undefined) {
        return {
          action: 'save',
          state: next(state, {
            type: 'exited',
            exitCode: facts.exit.exitCode,
            oomKilled: facts.exit.oomKilled,
            at: facts.exit.finishedAt,
          }),
        };
      }
      // A monitor that lives drains the output yet, and then writes the exit file; whoever watches the process does not
      // wait for ever.
      if (!facts.processAlive && facts.monitorAlive) return { action: 'keep' };
      if (!facts.processAlive)
        return {
          action: 'save',
          state: next(state, {
            type: 'vanished',
            message: 'the process ended while the daemon was down and left no exit code',
            at,
          }),
        };
      // One whose monitor is gone runs on; whoever watches it says so.
      return { action: state.phase === 'starting' ? 'ask' : 'keep' };
    }
  }
}

/** Brings the books in line with the world; afterwards every record is true and nothing without a record is left. */
export async function recover(op: Op, world: World, books: Books, containers: ContainerKeeper): Promise<void> {
  op.stage('load records');
  const loaded = await world.state.load();
  for (const damaged of loaded.damaged) {
    op.log.error('a record is damaged and was set aside; its object is destroyed', {
      path: damaged.path,
      cause: damaged.why,
      [damaged.kind]: damaged.id,
    });
  }
  for (const record of [...loaded.sandboxes, ...loaded.containers]) books.adopt(record);
  op.stage('look at containers');
  await Promise.all(loaded.containers.map((record) => recoverContainer(op, world, books, containers, record)));
  op.stage('look at pod sandboxes');
  await Promise.all(loaded.sandboxes.map((record) => recoverSandbox(op, world, books, record)));
  op.stage('sweep');
  await sweep(op, world, books);
}

async function recoverContainer(
  op: Op,
  world: World,
  books: Books,
  containers: ContainerKeeper,
  record: ContainerRecord,
): Promise<void> {
  const life = containers.adopt(record);
  const facts = await observe(op, world, record);
  const verdict = decideContainer(record.state, facts, world.clock());
  const orphan = books.sandbox(record.sandboxId) === undefined;
  if (verdict.action === 'destroy' || orphan) {
    await retried(op, `container ${record.id}`, () => life.destroy(op, record));
    return;
  }
  let after = record;
  if (verdict.action === 'save') {
    after = { ...record, state: verdict.state };
    await kept(op, books, after);
  } else if (verdict.action === 'ask') {
    // The socket opens after this: a runtime that hangs is asked again in the background.
    after = await life.settleStart(withTimeout(op, limits.recoverStartMs), record);
  }
  if (after.state.phase !== record.state.phase)
    op.log.info('recovered a container', { container: record.id, from: record.state.phase, to: after.state.phase });
  if ('process' in after.state) {
    life.watch(after.state.process, after.monitor);
    life.resumeStop();
  }
}

async function observe(op: Op, world: World, record: ContainerRecord): Promise<ContainerFacts> {
  const { state } = record;
  return {
    processAlive: 'process' in state && world.processes.alive(state.process),
    monitorAlive: record.monitor === null || world.processes.alive(record.monitor),
    // Whoever watches the process reads it again.
    exit: await answered(op, `the exit file of ${record.id}`, world.monitor.exitOf(record.id), undefined),
  };
}

/** What `work` says, or `otherwise`: one thing that cannot be looked at must not keep the node from starting. */
async function answered<T>(op: Op, what: string, work: Promise<T>, otherwise: T): Promise<T> {
  try {
    return await work;
  } catch (cause) {
    op.log.error('something cannot be looked at, going on without', { what, cause: explain(cause) });
    return otherwise;
  }
}

async function recoverSandbox(op: Op, world: World, books: Books, record: SandboxRecord): Promise<void> {
  const { phase } = record.state;
  if (phase === 'creating' || phase === 'removing') {
    await retried(op, `pod sandbox ${record.id}`, async () => {
      await destroySandbox(op, world, remainsOf(world, record));
      books.forget(record);
    });
    return;
  }
  if (phase !== 'ready') return;
  const wanted = pinnedNamespaces(record);
  const pinned = await answered(op, `namespaces of ${record.id}`, world.namespaces.pinned(record.id), wanted);
  const lost = [...wanted.keys()].find((kind) => !pinned.has(kind));
  const infra = record.infra?.process ?? null;
  if (lost === undefined && (infra === null || world.processes.alive(infra))) return;
  // The kubelet sees NOTREADY, stops the sandbox (which gives everything back) and makes a new one.
  const why = lost === undefined ? INFRA_LOST : `its ${lost} namespace is not pinned any more`;
  op.log.warn('a pod sandbox lost a part of itself', { sandbox: record.id, cause: why });
  await kept(op, books, { ...record, state: nextSandbox(record.state, 'stop'), lost: why });
}

/**
 * Saves a record that is true; if it cannot be saved (a full disk), the books have it nevertheless, and the next start
 * finds out again.
 */
async function kept(op: Op, books: Books, record: ContainerRecord | SandboxRecord): Promise<void> {
  try {
    await books.save(record);
  } catch (cause) {
    op.log.error('a recovered record could not be saved, going on without', {
      [record.kind]: record.id,
      cause: explain(cause),
    });
    books.adopt(record);
  }
}

/**
 * Whatever exists under an id that no record has: the leftovers of a crash, or of a boot before this one. Only our own
 * directories are asked, never the runtime's list: its root may be shared with podman, whose ids look like ours. The
 * bundle goes after the runtime's state, so it shows it.
 */
async function sweep(op: Op, world: World, books: Books): Promise<void> {
  const sandboxes = new Set<SandboxId>();
  const containers = new Set<ContainerId>();
  const isSandbox = (id: string): boolean => books.sandbox(id as SandboxId) !== undefined;
  const isContainer = (id: string): boolean => books.container(id as ContainerId) !== undefined || isSandbox(id);
  // What cannot be listed is swept by the next start.
  const [bundles, sandboxDirs, roots, pins, networks] = await Promise.all([
    answered(op, 'bundles', world.workspace.listContainers(), []),
    answered(op, 'directories of sandboxes', world.workspace.listSandboxes(), []),
    answered(op, 'root filesystems', world.rootfs.list(), []),
    answered(op, 'pinned namespaces', world.namespaces.list(), []),
    answered(op, 'networks', world.network.list(), []),
  ]);
  for (const id of [...bundles, ...roots]) if (!isContainer(id)) containers.add(id);
  for (const id of [...sandboxDirs, ...pins, ...networks]) if (!isSandbox(id)) sandboxes.add(id);
  for (const id of containers)
    await retried(op, `container ${id}`, () =>
      destroyContainer(op, world, { id, made: undefined, cgroupsPath: '', process: 'cut' }),
    );
  for (const id of sandboxes)
    await retried(op, `pod sandbox ${id}`, () =>
      destroySandbox(op, world, {
        id,
        made: undefined,
        process: 'cut',
        ownCgroup: podCgroupFor(world.facts.cgroupManager, id, '').parent,
        infraCgroup: '',
      }),
    );
  await retried(op, 'networks', () =>
    world.network.gc(
      op,
      [...books.sandboxes()].map((record) => record.id),
    ),
  );
}

/**
 * A clean-up that fails must not keep the node from starting: the record (or the leftover) stays, and the next start or
 * Remove tries again.
 */
async function retried(op: Op, what: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (cause) {
    op.log.warn('clean-up failed, will retry at the next start or Remove', { what, cause: explain(cause) });
  }
}

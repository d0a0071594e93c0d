/**
 * What a new daemon makes of what an old one left: observe, decide (pure), apply, sweep.
 *
 * Runs before the socket opens. It never trusts a record about the living world, and never the world about what was
 * wanted.
 */
import { explain } from '../base/errors.ts';
import { INFRA_LOST } from './infra.ts';
import { limits } from '../base/limits.ts';
import { type Op, withTimeout } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import { next, nextSandbox } from '../state/index.ts';
import { type Books, saveOrAdopt } from './books.ts';
import type { CleanUp, CleanUps } from './clean-ups.ts';
import type { ContainerKeeper } from './containers.ts';
import { destroyContainer, destroySandbox } from './destroy.ts';
import { pinnedNamespaces } from './sandbox-plan.ts';
import { podCgroupFor } from './pod-cgroup.ts';
import { answered, findStrays } from './strays.ts';
import type { Surroundings } from './life-core.ts';
import { keepForCleanUp, remainsOf } from './pods.ts';
import type { ExitRecord } from '../ports/runtime.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { World } from './world.ts';

/** What is true of a container right now. */
export interface ContainerFacts {
  readonly processAlive: boolean;
  /** Also where no monitor is on record, so that nobody can tell. */
  readonly monitorAlive: boolean;
  readonly exit: ExitRecord | undefined;
  /** The system calls that it was being stopped for. */
  readonly forbiddenCalls?: string | undefined;
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
            forbiddenCalls: facts.forbiddenCalls,
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
export async function recover(op: Op, around: Surroundings, containers: ContainerKeeper): Promise<void> {
  const { world, books } = around;
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
  await sweep(op, around);
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
    await life.destroy(withTimeout(op, limits.recoverCleanUpMs), record).catch((cause: unknown) => {
      op.log.warn('clean-up failed, will retry', { container: record.id, cause: explain(cause) });
    });
    return;
  }
  let after = record;
  if (verdict.action === 'save') {
    after = { ...record, state: verdict.state };
    await saveOrAdopt(op, books, after);
  } else if (verdict.action === 'ask') {
    // The socket opens after this: a runtime that hangs is asked again in the background.
    after = await life.settleStart(withTimeout(op, limits.recoverStartMs), record);
  }
  if (after.state.phase !== record.state.phase)
    op.log.info('recovered a container', { container: record.id, from: record.state.phase, to: after.state.phase });
  if ('process' in after.state) {
    life.watch(after.state.process, after.monitor, limits.startSettleMs);
    life.resumeStop();
  }
}

async function observe(op: Op, world: World, record: ContainerRecord): Promise<ContainerFacts> {
  const { state } = record;
  return {
    processAlive: 'process' in state && world.processes.alive(state.process),
    monitorAlive: record.monitor === null || world.processes.alive(record.monitor),
    // Whoever watches the process reads it again.
    forbiddenCalls: record.stopping?.forbiddenCalls,
    exit: await answered(op, `the exit file of ${record.id}`, world.monitor.exitOf(record.id), undefined),
  };
}

async function recoverSandbox(op: Op, world: World, books: Books, record: SandboxRecord): Promise<void> {
  const { phase } = record.state;
  if (phase === 'creating' || phase === 'removing') {
    try {
      await destroySandbox(withTimeout(op, limits.recoverCleanUpMs), world, remainsOf(world, record));
      books.forget(record);
    } catch (cause) {
      op.log.warn('clean-up failed, will retry', { sandbox: record.id, cause: explain(cause) });
      const why = phase === 'creating' ? 'the daemon died while it was made' : 'it is being removed';
      await keepForCleanUp(op, books, record, why, cause);
    }
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
  await saveOrAdopt(op, books, { ...record, state: nextSandbox(record.state, 'stop'), lost: why });
}

/** Whatever exists that no record owns; see strays.ts. */
async function sweep(op: Op, around: Surroundings): Promise<void> {
  const { world, books, cleanUps } = around;
  const { containers, sandboxes, cgroups, areAll } = await findStrays(op, around);
  const gate = new Gate(limits.recoverCleanUpsAtOnceCount);
  const all = async <T>(ids: Iterable<T>, clean: (id: T) => Promise<boolean>): Promise<boolean> =>
    (await Promise.all(Array.from(ids, (id) => gate.run(() => clean(id))))).every(Boolean);
  const haveContainersGone = await all(containers, (id) =>
    orLater(op, cleanUps, { what: 'container without a record', ids: { container: id } }, (own) =>
      destroyContainer(own, world, {
        id,
        made: undefined,
        cgroupsPath: cgroups.get(id) ?? '',
        process: 'cut',
        log: '',
      }),
    ),
  );
  const haveSandboxesGone = await all(sandboxes, (id) =>
    orLater(op, cleanUps, { what: 'pod sandbox without a record', ids: { sandbox: id } }, (own) =>
      destroySandbox(own, world, {
        id,
        made: undefined,
        process: 'cut',
        ownCgroup: podCgroupFor(world.facts.cgroupManager, id, '').parent,
        cgroup: cgroups.get(id) ?? '',
        infra: 'process',
      }),
    ),
  );
  if (areAll && haveContainersGone && haveSandboxesGone) world.workspace.settle();
  const live = [...books.sandboxes()].map((record) => record.id);
  const bounded = withTimeout(op, limits.recoverCleanUpMs);
  await answered(op, 'networks of pods that are gone', world.network.gc(bounded, live), undefined);
}

/**
 * A clean-up that fails must not keep the node from starting; it is tried again, since nobody else sees it. True if it
 * has not failed.
 */
async function orLater(
  op: Op,
  cleanUps: CleanUps,
  about: Pick<CleanUp, 'what' | 'ids'>,
  run: CleanUp['run'],
): Promise<boolean> {
  try {
    await run(withTimeout(op, limits.recoverCleanUpMs));
    return true;
  } catch (cause) {
    op.log.warn('clean-up failed, will retry', { ...about.ids, what: about.what, cause: explain(cause) });
    cleanUps.later(Object.values(about.ids).join(), { ...about, isDue: () => true, run });
    return false;
  }
}

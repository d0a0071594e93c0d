/**
 * The only clean-up there is. A failed create, the Remove RPCs and crash recovery all end here.
 *
 * Every step finds its resource by `id` alone and is content when there is nothing to do, so this may run at any time,
 * after any crash, any number of times. Every step is tried even when an earlier one failed. The record goes last:
 * while it exists, somebody will call us again.
 */
import { codeOf, type ErrorCode, explain, RuntimeError, storageError } from '../base/errors.ts';
import { failpoint } from '../base/failpoint.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { OciRuntime } from '../ports/runtime.ts';
import { cpuJournal } from './wishes.ts';
import type { MadeBy, World } from './world.ts';

/** `passes`: codes of its failures that say what is wrong, where nothing else is. */
type Step = readonly [what: string, run: () => Promise<void>, passes?: readonly ErrorCode[]];

/** Programs of others: one is not there or set up wrongly, asks for patience, or hangs. */
const OF_PLUGINS: readonly ErrorCode[] = ['FailedPrecondition', 'Unavailable', 'DeadlineExceeded'];

/** What is known of an object that is to go. Without a record (the sweep) only its id is. */
export interface ContainerRemains {
  readonly id: ContainerId;
  /** undefined: ask every runtime. */
  readonly made: MadeBy | undefined;
  readonly cgroupsPath: string;
  readonly process: ProcessRemains;
  /** Of one that never came to be, if that is known; '' leaves it to the kubelet. */
  readonly log: string;
}
/**
 * What the runtime and the monitor may still have: `made` what a finished create left; `cut` what one left that was cut
 * off, which costs one more call of the runtime.
 */
export type ProcessRemains = 'made' | 'cut';

/** How the runtime's side of a container goes whose process has ended already. */
export interface Ended {
  /** Gives it back, or waits for whoever does. */
  retire(): Promise<void>;
  /** The root filesystem has been given back. */
  rootGone(): void;
}

/** What is known of a sandbox that is to go. */
export interface SandboxRemains {
  readonly id: SandboxId;
  readonly made: MadeBy | undefined;
  readonly process: 'made' | 'cut';
  /** A cgroup of our own above the pod's containers; '' if the kubelet owns the parent. */
  readonly ownCgroup: string;
  /** The sandbox's own, which an infra process lives in or which is for show; '' if there is none. */
  readonly cgroup: string;
  readonly infra: 'process' | 'none';
}

/**
 * Gives back everything that container `id` may hold, its record last. The process goes before its root; of one that
 * has `ended` already the root goes first, since the runtime may take its time. @throws AggregateError naming each step
 * that failed.
 */
export async function destroyContainer(op: Op, world: World, remains: ContainerRemains, ended?: Ended): Promise<void> {
  const { id } = remains;
  const root = (told = (): void => {}): Step => ['rootfs', () => world.rootfs.destroy(op, id).then(told)];
  await inOrder(
    op,
    `container ${id}`,
    ended === undefined
      ? [...processSteps(op, world, remains), root(), ['log', () => world.monitor.dropEmptyLog(remains.log)]]
      : [root(() => ended.rootGone()), ['process', () => ended.retire()]],
  );
  await failpoint('container.destroy.before-record');
  await world.state.remove({ kind: 'container', id });
  await failpoint('container.destroy.after-record');
  await world.host.removeTree(op, world.workspace.bundle(id));
}

/**
 * Ends the runtime's side of a container that has exited: its state directory, its cgroup, its monitor. The record,
 * rootfs and log stay.
 */
export async function retireContainer(op: Op, world: World, remains: ContainerRemains): Promise<void> {
  await inOrder(op, `container ${remains.id}`, processSteps(op, world, remains));
}

/** Gives back everything that sandbox `id` may hold, its record last; its containers are gone already. */
export async function destroySandbox(op: Op, world: World, remains: SandboxRemains): Promise<void> {
  await releaseSandbox(op, world, remains);
  await forgetSandbox(op, world, remains.id);
}

/** What is left to do for a sandbox that is stopped, which means released: its record, then its files. */
export async function forgetSandbox(op: Op, world: World, id: SandboxId): Promise<void> {
  await failpoint('sandbox.destroy.before-record');
  await world.state.remove({ kind: 'sandbox', id });
  await failpoint('sandbox.destroy.after-record');
  await world.host.removeTree(op, world.workspace.sandboxDir(id));
}

/**
 * What StopPodSandbox gives back: infra process, network, namespaces, mounts, cgroup. Order: processes, then network
 * (preStop and draining need it to the end), then namespaces.
 */
export async function releaseSandbox(op: Op, world: World, remains: SandboxRemains): Promise<void> {
  const { id } = remains;
  const infra = id as unknown as ContainerId;
  const files = world.workspace.sandboxFiles(id);
  await inOrder(op, `pod sandbox ${id}`, [
    ...(remains.infra === 'none' && remains.made !== undefined
      ? [cgroupStep(op, world, remains.cgroup)]
      : [
          ...processSteps(op, world, {
            id: infra,
            made: remains.made,
            cgroupsPath: remains.cgroup,
            process: remains.process,
          }),
          removeBundle(op, world, infra),
        ]),
    ['network', () => world.network.destroy(op, id), OF_PLUGINS],
    ['namespaces', () => world.namespaces.destroy(op, id)],
    ['shm', () => world.host.unmount(op, files.shm)],
    [
      'pod cgroup',
      () => (remains.ownCgroup === '' ? Promise.resolve() : world.host.destroyCgroup(op, remains.ownCgroup)),
    ],
  ]);
}

function processSteps(op: Op, world: World, remains: Omit<ContainerRemains, 'log'>): readonly Step[] {
  const { id, made, cgroupsPath } = remains;
  const processes = runtimesOf(op, world, made).map(
    (runtime): Step => [`process (${runtime.handler.name})`, () => runtime.delete(op, id)],
  );
  return [
    ...processes,
    ['monitor', () => world.monitor.destroy(op, id, world.workspace.bundle(id))],
    // A create that was cut off goes on under its monitor until that is ended; only then is there something to delete.
    ...(remains.process === 'cut' ? processes : []),
    cgroupStep(op, world, cgroupsPath),
    ['CPUs', () => world.cpus.restore(op, cpuJournal(world, id))],
    [
      'seccomp listener',
      async () => {
        world.blockedCalls.close(id);
      },
    ],
  ];
}

function cgroupStep(op: Op, world: World, cgroupsPath: string): Step {
  return ['cgroup', () => (cgroupsPath === '' ? Promise.resolve() : world.host.destroyCgroup(op, cgroupsPath))];
}

/** The runtime that made it; every one where that is not known, or cannot be had any more: the node has changed. */
function runtimesOf(op: Op, world: World, made: MadeBy | undefined): readonly OciRuntime[] {
  if (made === undefined) return world.runtimes;
  try {
    return [world.runtimeOf(made)];
  } catch (cause) {
    // What none of them deletes ends with its monitor and its cgroup; the runtime's own state stays in memory until the
    // next boot.
    op.log.warn('the runtime of what is to go cannot be had, asking every other', { cause: explain(cause) });
    return world.runtimes;
  }
}

function removeBundle(op: Op, world: World, id: ContainerId): Step {
  return ['bundle', () => world.host.removeTree(op, world.workspace.bundle(id))];
}

async function inOrder(op: Op, what: string, steps: readonly Step[]): Promise<void> {
  const failed: RuntimeError[] = [];
  for (const [step, run, passes = []] of steps) {
    op.stage(`destroy: ${step}`);
    try {
      await run();
    } catch (cause) {
      // Of steps within a step, each that failed is named for itself.
      if (cause instanceof RuntimeError && cause.cause instanceof AggregateError) failed.push(...cause.cause.errors);
      else
        failed.push(
          new RuntimeError(failureCode(cause, passes), `destroy ${step} of ${what}: ${explain(cause)}`, { cause }),
        );
    }
  }
  const [first] = failed;
  if (first === undefined) return;
  const codes = failed.map(({ code }) => code);
  throw new RuntimeError(
    codes.find((each) => each === 'ResourceExhausted') ??
      (codes.every((each) => each === first.code) ? first.code : 'Internal'),
    `${what} is not fully destroyed, will be tried again: ${failed.map((each) => each.message).join('; ')}`,
    { cause: new AggregateError(failed) },
  );
}

/**
 * A machine that is full stays one in the answer, and what `passes`. Other codes would be taken for those of the
 * object: a NotFound of some file, for a container that is gone; a FailedPrecondition of a mount that is busy, for
 * something that an administrator can put right.
 */
function failureCode(cause: unknown, passes: readonly ErrorCode[]): ErrorCode {
  const code = codeOf(storageError(cause, ''));
  return code === 'ResourceExhausted' || passes.includes(code) ? code : 'Internal';
}

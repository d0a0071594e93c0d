/** Which PID namespace a container gets: its own, the node's, its pod's, or that of another container. */
import type { NamespaceOption } from '../cri-api/types.ts';
import { RuntimeError, wrap } from '../base/errors.ts';
import { type ProcessRef, quote } from '../base/ids.ts';
import type { RuntimeFeatures } from '../ports/runtime.ts';
import type { ContainerSpecInput } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { Books } from './books.ts';
import type { World } from './world.ts';

/** The namespace options of a container: its own, else its pod's. */
export function namespaceOptionsOf(draft: ContainerRecord, sandbox: SandboxRecord): NamespaceOption | undefined {
  return (
    draft.config.linux?.securityContext?.namespaceOptions ?? sandbox.config.linux?.securityContext?.namespaceOptions
  );
}

/** The PID namespace of a container that is being made; what it joins is held until it is let go. */
export interface PidNamespace extends Disposable {
  readonly of: ContainerSpecInput['pid'];
}

/**
 * The PID namespace of a container. Another's is joined by a descriptor of ours, never by the number of a process,
 * which may be somebody else's by then, the node's own first of all. Without any options it is the pod's, the zero
 * value of CRI's enumeration, where the pod has one. @throws InvalidArgument for one that is not there;
 * FailedPrecondition for that of a container that does not run, or of a pod whose infra process is gone.
 */
export function pidNamespace(
  world: World,
  books: Books,
  draft: ContainerRecord,
  sandbox: SandboxRecord,
  { ownKernel }: Pick<RuntimeFeatures, 'ownKernel'>,
): PidNamespace {
  const options = namespaceOptionsOf(draft, sandbox);
  switch (options?.pid) {
    case undefined:
      if (!sandbox.infra?.process || ownKernel) return own('private');
      return joined(world, sandbox.infra.process, podGone(sandbox));
    case 'CONTAINER':
      return own('private');
    case 'NODE':
      return own('host');
    case 'POD': {
      const process = sandbox.infra?.process ?? null;
      if (process === null)
        throw new RuntimeError(
          'InvalidArgument',
          'namespace_options.pid is POD, but the pod sandbox was made without a shared PID namespace',
        );
      return joined(world, process, podGone(sandbox));
    }
    case 'TARGET': {
      const target = books.findContainer(options.targetId);
      if (target === undefined || target.sandboxId !== sandbox.id)
        throw new RuntimeError(
          'InvalidArgument',
          `namespace_options.target_id ${quote(options.targetId)} is no container of this pod`,
        );
      if (target.state.phase !== 'running')
        throw new RuntimeError(
          'FailedPrecondition',
          `target container ${target.id} is ${target.state.phase}; its PID namespace can be joined only while it runs`,
        );
      return joined(world, target.state.process, `target container ${target.id} has ended`);
    }
  }
}

function own(mode: 'private' | 'host'): PidNamespace {
  return { of: { mode }, [Symbol.dispose]: () => {} };
}

function joined(world: World, process: ProcessRef, gone: string): PidNamespace {
  try {
    const held = world.processes.holdPidNamespace(process);
    return { of: { mode: 'join', path: held.path }, [Symbol.dispose]: () => held[Symbol.dispose]() };
  } catch (cause) {
    throw wrap(gone, cause);
  }
}

function podGone({ id }: SandboxRecord): string {
  return `the infra process of pod sandbox ${id} is gone, and its PID namespace; stop the pod and run it anew`;
}

/** Which PID namespace a container gets: its own, the node's, its pod's, or that of another container. */
import type { NamespaceOption } from '../cri-api/types.ts';
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { ContainerSpecInput } from '../ports/spec.ts';
import type { ContainerRecord, SandboxRecord } from '../ports/state.ts';
import type { Books } from './books.ts';

/** The namespace options of a container: its own, else its pod's. */
export function namespaceOptionsOf(draft: ContainerRecord, sandbox: SandboxRecord): NamespaceOption | undefined {
  return (
    draft.config.linux?.securityContext?.namespaceOptions ?? sandbox.config.linux?.securityContext?.namespaceOptions
  );
}

/**
 * The PID namespace of a container. @throws InvalidArgument for one that is not there; FailedPrecondition for that of a
 * container that does not run.
 */
export function pidNamespace(books: Books, draft: ContainerRecord, sandbox: SandboxRecord): ContainerSpecInput['pid'] {
  const options = namespaceOptionsOf(draft, sandbox);
  switch (options?.pid) {
    case undefined:
    case 'CONTAINER':
      return { mode: 'private' };
    case 'NODE':
      return { mode: 'host' };
    case 'POD': {
      const process = sandbox.infra?.process ?? null;
      if (process === null)
        throw new RuntimeError(
          'InvalidArgument',
          'namespace_options.pid is POD, but the pod sandbox was made without a shared PID namespace',
        );
      return { mode: 'join', path: `/proc/${process.pid}/ns/pid` };
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
      return { mode: 'join', path: `/proc/${target.state.process.pid}/ns/pid` };
    }
  }
}

/**
 * Containers are made and started in ready sandboxes only.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote, type SandboxId } from '../base/ids.ts';
import type { SandboxRecord } from '../ports/state.ts';
import type { Books } from './books.ts';

/** The sandbox with this id. @throws NotFound; FailedPrecondition if it is not ready. */
export function readySandbox(books: Books, id: SandboxId): SandboxRecord {
  const sandbox = books.sandbox(id);
  if (sandbox === undefined) throw new RuntimeError('NotFound', `no pod sandbox has the id ${quote(id)}`);
  if (sandbox.state.phase !== 'ready')
    throw new RuntimeError(
      'FailedPrecondition',
      `pod sandbox ${id} is ${sandbox.state.phase}; containers are made and started only in a ready one` +
        (sandbox.lost === '' ? '' : ` (${sandbox.lost})`),
    );
  return sandbox;
}

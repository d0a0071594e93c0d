/** PURE. How an exec or attach ended, as clients of Kubernetes' remotecommand protocols read it. */
import type { Ending } from './client.ts';

/** The last message on the error stream. Since v4 a Status object of the API; before, text, and nothing for success. */
export function endingMessage(ending: Ending, form: 'status' | 'text'): Buffer {
  if (form === 'status') return Buffer.from(JSON.stringify(endingStatus(ending)));
  return Buffer.from(ending.kind === 'exited' && ending.exitCode === 0 ? '' : textOf(ending));
}

function endingStatus(ending: Ending): object {
  if (ending.kind === 'failed') {
    return {
      metadata: {},
      status: 'Failure',
      message: textOf(ending),
      reason: 'InternalError',
      details: { causes: [{ message: ending.message }] },
      code: 500,
    };
  }
  if (ending.exitCode === 0) return { metadata: {}, status: 'Success' };
  // What kubectl makes its own exit code of.
  const details = { causes: [{ reason: 'ExitCode', message: String(ending.exitCode) }] };
  return { metadata: {}, status: 'Failure', message: textOf(ending), reason: 'NonZeroExitCode', details };
}

function textOf(ending: Ending): string {
  if (ending.kind === 'exited' && ending.why !== undefined) return ending.why;
  return ending.kind === 'failed'
    ? ending.message
    : `command terminated with non-zero exit code: exit status ${ending.exitCode}`;
}

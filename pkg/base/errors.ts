/**
 * The one error type that crosses a module border.
 *
 * A `RuntimeError` says what kind of failure it is (`code`, a closed union that `cri/status.ts` maps to a gRPC
 * status in one table) and, for the few failures that the kubelet recognises by text, which constant it looks for
 * (`reason`). The message is written for an operator at 3 a.m.: what failed, on which object, why, and what to do.
 * The cause is kept in `cause` and printed in the message chain by `explain`.
 */

/** What kind of failure this is. One row of the table in docs/ERRORS.md each. */
export type ErrorCode =
  | 'InvalidArgument'
  | 'NotFound'
  | 'AlreadyExists'
  | 'FailedPrecondition'
  | 'PermissionDenied'
  | 'Unauthenticated'
  | 'ResourceExhausted'
  | 'Aborted'
  | 'Cancelled'
  | 'DeadlineExceeded'
  | 'Unavailable'
  | 'Unimplemented'
  | 'DataLoss'
  | 'Internal';

/**
 * Text constants that the kubelet matches as a message prefix (cri-api pkg/errors). An error with a reason leaves
 * the daemon with gRPC code Unknown for the pull reasons, because the kubelet strips the "rpc error" prefix only there.
 */
export type KubeletReason =
  | 'RegistryUnavailable'
  | 'SignatureValidationFailed'
  | 'RROUnsupported'
  | 'ImageVolumeMountFailed';

/** Everything that Berth throws on purpose. */
export class RuntimeError extends Error {
  readonly code: ErrorCode;
  readonly reason: KubeletReason | undefined;
  /**
   * For a command that could not be run, what a shell would exit with: 127 if there is no such program, 126 if it
   * cannot be executed.
   */
  readonly exitCode: number | undefined;

  constructor(
    code: ErrorCode,
    message: string,
    options: { readonly cause?: unknown; readonly reason?: KubeletReason; readonly exitCode?: number | undefined } = {},
  ) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'RuntimeError';
    this.code = code;
    this.reason = options.reason;
    this.exitCode = options.exitCode;
  }
}

/** True if `error` is a RuntimeError with this code. */
export function isCode(error: unknown, code: ErrorCode): boolean {
  return error instanceof RuntimeError && error.code === code;
}

/** The code of any thrown value: its own if it is ours, `Internal` otherwise. */
export function codeOf(error: unknown): ErrorCode {
  return error instanceof RuntimeError ? error.code : 'Internal';
}

/** The errno name (`ENOENT`, …) that Node or the addon put on a system error, if any. */
export function errnoOf(error: unknown): string | undefined {
  if (typeof error !== 'object' || error === null || !('code' in error)) return undefined;
  return typeof error.code === 'string' && /^E[A-Z0-9]+$/.test(error.code) ? error.code : undefined;
}

/** True if a full disk (or a used-up quota) is anywhere in the chain of causes. */
export function isDiskFull(error: unknown): boolean {
  return findErrno(error, (errno) => errno === 'ENOSPC' || errno === 'EDQUOT') !== undefined;
}

/** What of the machine is full, with the remedy, if that is anywhere in the chain of causes. */
export function whyFull(error: unknown): string | undefined {
  return FULL[findErrno(error, (errno) => errno in FULL) ?? ''];
}

function findErrno(error: unknown, accepts: (errno: string) => boolean, depth = 0): string | undefined {
  const errno = errnoOf(error);
  if (errno !== undefined && accepts(errno)) return errno;
  if (!(error instanceof Error) || depth > 8) return undefined;
  const causes: readonly unknown[] = error instanceof AggregateError ? [...error.errors, error.cause] : [error.cause];
  for (const each of causes) {
    const found = findErrno(each, accepts, depth + 1);
    if (found !== undefined) return found;
  }
  return undefined;
}

/**
 * A full disk and a read-only one are named as such, with the remedy; what is a RuntimeError, or no system error, stays
 * what it is.
 */
export function storageError(error: unknown, what: string): unknown {
  const errno = errnoOf(error);
  if (error instanceof RuntimeError || errno === undefined) return error;
  const why = FULL[errno];
  if (why !== undefined) return new RuntimeError('ResourceExhausted', `${what}: ${why}`, { cause: error });
  if (errno === 'EROFS')
    return new RuntimeError(
      'FailedPrecondition',
      `${what}: the file system is read-only; remount it or move our directory elsewhere`,
      { cause: error },
    );
  return new RuntimeError('Internal', `${what}: ${errno}`, { cause: error });
}

const FULL: Readonly<Record<string, string>> = {
  ENOSPC: 'the disk is full; remove images or enlarge the file system',
  EDQUOT: 'the disk quota is used up',
  EMFILE: 'too many open files; raise LimitNOFILE',
  ENFILE: 'too many open files on the node',
};

/**
 * The whole story in one line: the message, then each cause after ": ", aggregated errors joined by "; ".
 * Never throws, whatever was thrown, and never repeats a cause whose text the outer message already contains.
 */
export function explain(error: unknown, depth = 0): string {
  if (depth > 8) return '…';
  if (!(error instanceof Error)) return String(error);
  // Several errors without a word of their own are what they say.
  let text = error.message || (error instanceof AggregateError ? '' : error.name);
  const inner: string[] = [];
  if (error instanceof AggregateError) inner.push(error.errors.map((each) => explain(each, depth + 1)).join('; '));
  if (error.cause !== undefined) inner.push(explain(error.cause, depth + 1));
  for (const more of inner) if (more !== '' && !text.includes(more)) text += text === '' ? more : `: ${more}`;
  return text || error.name;
}

/** Wraps any thrown value, keeping the code of a RuntimeError (a `DeadlineExceeded` below stays one above). */
export function wrap(message: string, cause: unknown, fallback: ErrorCode = 'Internal'): RuntimeError {
  if (cause instanceof RuntimeError) {
    return new RuntimeError(
      cause.code,
      message,
      cause.reason === undefined ? { cause } : { cause, reason: cause.reason },
    );
  }
  return new RuntimeError(fallback, message, { cause });
}

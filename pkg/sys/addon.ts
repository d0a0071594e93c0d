/**
 * Loads the addon, and turns what the kernel says into a RuntimeError: the only table of errno in the product.
 *
 * The addon is loaded at the first call, not at import: pure parts of this module can be tested before anything is
 * built.
 */
import { createRequire } from 'node:module';
import { constants } from 'node:os';
import { dirname, join } from 'node:path';
import { existsSync } from 'node:fs';
import { errnoOf, RuntimeError, type ErrorCode } from '../base/errors.ts';
import type { Addon } from '../../native/index.d.ts';

/** Which errno becomes which code. What is not here is Internal. */
const CODES: ReadonlyMap<string, ErrorCode> = new Map<string, ErrorCode>([
  ['EINVAL', 'InvalidArgument'],
  ['ENAMETOOLONG', 'InvalidArgument'],
  ['ELOOP', 'InvalidArgument'],
  ['EXDEV', 'InvalidArgument'],
  ['ENOENT', 'NotFound'],
  ['ESRCH', 'NotFound'],
  ['ENODEV', 'NotFound'],
  ['ENXIO', 'NotFound'],
  ['EEXIST', 'AlreadyExists'],
  ['EBUSY', 'FailedPrecondition'],
  ['ENOTEMPTY', 'FailedPrecondition'],
  ['ENOTDIR', 'FailedPrecondition'],
  ['EISDIR', 'FailedPrecondition'],
  ['EFBIG', 'FailedPrecondition'],
  ['EPIPE', 'FailedPrecondition'],
  ['EROFS', 'FailedPrecondition'],
  ['EACCES', 'PermissionDenied'],
  ['EPERM', 'PermissionDenied'],
  ['ENOSPC', 'ResourceExhausted'],
  ['EDQUOT', 'ResourceExhausted'],
  ['ENOMEM', 'ResourceExhausted'],
  ['EMFILE', 'ResourceExhausted'],
  ['ENFILE', 'ResourceExhausted'],
  ['EMLINK', 'ResourceExhausted'],
  ['E2BIG', 'ResourceExhausted'],
  ['EAGAIN', 'Unavailable'],
  ['ECONNREFUSED', 'Unavailable'],
  ['ECONNRESET', 'Unavailable'],
  ['EHOSTUNREACH', 'Unavailable'],
  ['ENETUNREACH', 'Unavailable'],
  ['ETIMEDOUT', 'DeadlineExceeded'],
  ['ENOSYS', 'Unimplemented'],
  ['EOPNOTSUPP', 'Unimplemented'],
]);

/** Two numbers have two names each; these are the ones that nobody here speaks. */
const SYNONYMS = new Set(['EWOULDBLOCK', 'ENOTSUP']);
const NAMES: ReadonlyMap<number, string> = new Map(
  Object.entries(constants.errno)
    .filter(([name]) => !SYNONYMS.has(name))
    .map(([name, number]) => [number, name]),
);

/** The symbol of an error number (`ENOENT`); `E<n>` for one that Node does not know. */
export function errnoName(errno: number): string {
  return NAMES.get(errno) ?? `E${errno}`;
}

/** The code of an errno symbol, by the table above. */
export function codeOfErrno(name: string): ErrorCode {
  return CODES.get(name) ?? 'Internal';
}

/** The errno symbol behind any error: its own, or that of a cause below it; undefined if no system call failed. */
export function errnoBehind(error: unknown): string | undefined {
  for (let at = error, depth = 0; at instanceof Error && depth < 8; at = at.cause, depth++) {
    const name = errnoOf(at);
    if (name !== undefined) return name;
  }
  return undefined;
}

/** What an administrator can do about it, where the error's own text does not say. */
const REMEDIES: ReadonlyMap<string, string> = new Map([['EMFILE', 'raise LimitNOFILE']]);

/** What the addon throws. */
interface NativeError extends Error {
  readonly errno: number;
  readonly syscall: string;
}

/**
 * The RuntimeError for a failed system call: code by the table, message "<doing>: <call>: <text> (<ERRNO>)" and the
 * remedy, if there is one. The cause
 * carries `code` with the errno symbol. Anything that is no system error passes through unchanged.
 */
export function systemError(error: unknown, doing: string): unknown {
  if (error instanceof RuntimeError || !(error instanceof Error)) return error;
  const native = error as Partial<NativeError> & { code?: unknown };
  if (typeof native.errno !== 'number') return error;
  const name = errnoName(Math.abs(native.errno));
  native.code ??= name;
  const remedy = REMEDIES.get(name);
  const text = error.message.includes(name) ? error.message : `${error.message} (${name})`;
  return new RuntimeError(codeOfErrno(name), `${doing}: ${text}${remedy === undefined ? '' : `; ${remedy}`}`, {
    cause: error,
  });
}

/** Runs `work`; a system error leaves as RuntimeError that says what we were doing. */
export function attempt<T>(doing: string, work: (addon: Addon) => T): T {
  try {
    return work(addon());
  } catch (error) {
    throw systemError(error, doing);
  }
}

/** As attempt, for work on the addon's threads. */
export async function attemptAsync<T>(doing: string, work: (addon: Addon) => Promise<T>): Promise<T> {
  try {
    return await work(addon());
  } catch (error) {
    throw systemError(error, doing);
  }
}

/** A process can load it once. */
let loaded: { readonly addon: Addon; readonly path: string } | undefined;

/** The addon itself. @throws FailedPrecondition that says how to build it. */
export function addon(): Addon {
  loaded ??= load();
  return loaded.addon;
}

/** Path of a program that is built beside the addon. @throws as addon. */
export function programBeside(name: string): string {
  loaded ??= load();
  return join(dirname(loaded.path), name);
}

/** From source it is in build/bin, in the bundle it lies beside the code; BERTH_ADDON names another one. */
function load(): { readonly addon: Addon; readonly path: string } {
  const here = import.meta.dirname;
  const candidates = [
    process.env['BERTH_ADDON'] ?? '',
    join(here, 'addon.node'),
    join(here, 'bin/addon.node'),
    join(here, '../../build/bin/addon.node'),
  ];
  const path = candidates.find((candidate) => candidate !== '' && existsSync(candidate));
  if (path === undefined)
    throw new RuntimeError('FailedPrecondition', 'addon.node is not built: run `make -C native` (npm run build does)');
  return { addon: createRequire(import.meta.filename)(path) as Addon, path };
}

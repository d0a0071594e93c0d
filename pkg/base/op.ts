/**
 * The first argument of everything that has an effect: who is asking, how long they will wait, where to log.
 */
import { RuntimeError } from './errors.ts';
import { leftMs } from './time.ts';

/** Structured logging; `child` binds fields to all later lines. Values are plain; secrets never reach here. */
export interface Logger {
  debug(message: string, fields?: LogFields): void;
  info(message: string, fields?: LogFields): void;
  warn(message: string, fields?: LogFields): void;
  error(message: string, fields?: LogFields): void;
  child(fields: LogFields): Logger;
  /** True if lines at debug level are written: for what costs something to say. Absent where nobody can tell. */
  readonly debugging?: boolean;
}
export type LogFields = Readonly<Record<string, string | number | bigint | boolean | undefined>>;

/** One operation in flight. */
export interface Op {
  /** Fires on client cancel, deadline and shutdown. */
  readonly signal: AbortSignal;
  /** When the caller's patience ends, in milliseconds of `performance.now()`; `Infinity` when the caller set none. */
  readonly deadline: number;
  readonly log: Logger;
  /** Names what the operation is doing now ("cni add: bridge"); shown by `berth status` and in deadline errors. */
  stage(what: string): void;
  /**
   * Says that `work`, whose stages are told here, goes on even if the caller leaves: until it settles, the operation
   * stays in the table that `berth status` shows. Absent where nobody keeps a table.
   */
  readonly goesOn?: (work: Promise<unknown>) => void;
}

/** A logger that drops everything, for tests and tools. */
export const silent: Logger = { debug() {}, info() {}, warn() {}, error() {}, child: () => silent };

/** An operation that nobody cancels: recovery, sweeps, background retries. `deadlineMs` is relative; 0 = none. */
export function backgroundOp(log: Logger, deadlineMs = 0): Op {
  return {
    signal: deadlineMs > 0 ? AbortSignal.timeout(deadlineMs) : new AbortController().signal,
    deadline: deadlineMs > 0 ? performance.now() + deadlineMs : Number.POSITIVE_INFINITY,
    log,
    stage() {},
  };
}

/** The same operation with an earlier deadline, `ms` from now at the latest. */
export function withTimeout(op: Op, ms: number): Op {
  const deadline = Math.min(op.deadline, performance.now() + ms);
  return {
    ...op,
    deadline,
    signal: AbortSignal.any([op.signal, AbortSignal.timeout(Math.ceil(leftMs(deadline)))]),
    stage: (what) => op.stage(what),
  };
}

/** The same operation with fields bound to its log. */
export function withLog(op: Op, fields: LogFields): Op {
  return { ...op, log: op.log.child(fields), stage: (what) => op.stage(what) };
}

/**
 * The same operation, detached from the caller's patience: it ends only by its own bound of `ms`. For work that must
 * not be torn down half way.
 */
export function detached(op: Op, ms: number): Op {
  return { ...op, deadline: performance.now() + ms, signal: AbortSignal.timeout(ms), stage: (what) => op.stage(what) };
}

/** @throws DeadlineExceeded or Cancelled if the operation is already over; `doing` names the stage. */
export function checkAlive(op: Op, doing: string): void {
  if (!op.signal.aborted) return;
  throw abortError(op, doing);
}

/** A timer that was set for a deadline may fire a little before it: the event loop counts whole milliseconds. */
const TIMER_GRAIN_MS = 2;

/** True if an operation was aborted because its time is over, and not because its caller has left. */
export function isLate({ signal, deadline }: Pick<Op, 'signal' | 'deadline'>): boolean {
  return (signal.reason instanceof Error && signal.reason.name === 'TimeoutError') || leftMs(deadline) < TIMER_GRAIN_MS;
}

/** The error that an aborted operation ends with. */
export function abortError(op: Op, doing: string): RuntimeError {
  const late = isLate(op);
  return new RuntimeError(
    late ? 'DeadlineExceeded' : 'Cancelled',
    `${late ? 'deadline passed' : 'cancelled'} while: ${doing}`,
  );
}

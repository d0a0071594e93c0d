/**
 * What to do when a request to a registry comes to nothing: ask again, when, and in which form. The one place that
 * decides it, for manifests, blobs, tokens and signatures alike: `nextStep` is the decision, `Tries` the loop around
 * it.
 */
import { explain, RuntimeError } from '../../base/errors.ts';
import type { ErrorCode } from '../../base/errors.ts';
import { limits } from '../../base/limits.ts';
import { abortError } from '../../base/op.ts';
import type { Op } from '../../base/op.ts';

/** What went wrong, as far as it matters for what comes next. */
export type Trouble =
  /** An answer with a status that is not the one wanted; `retryAfterMs` if it says how long to wait. */
  | { readonly kind: 'status'; readonly status: number; readonly retryAfterMs: number | undefined }
  /** No answer, or one that broke off: the line, a proxy, time. */
  | { readonly kind: 'line' }
  /** A part was asked for, and what came is not that part. */
  | { readonly kind: 'part' }
  /** The other side cannot be trusted (TLS); asking again changes nothing. */
  | { readonly kind: 'trust' };

/** A failure of one request. The code and the reason are what it means if nothing more is tried. */
export class RequestError extends RuntimeError {
  readonly trouble: Trouble;

  constructor(code: ErrorCode, message: string, trouble: Trouble, cause?: unknown) {
    super(code, message, {
      ...(code === 'Unavailable' ? { reason: 'RegistryUnavailable' } : {}),
      ...(cause === undefined ? {} : { cause }),
    });
    this.trouble = trouble;
  }
}

/**
 * `ranged`: with the range that we chose to ask for, for speed or to go on where a connection broke. `plain`: with
 * nothing of our own, which every server must answer.
 */
export type Form = 'ranged' | 'plain';

/** What comes next. */
export type Step =
  | { readonly kind: 'again'; readonly form: Form; readonly waitMs: number }
  | { readonly kind: 'give up' };

/** Statuses by which a server asks for patience: it is busy, or counts requests. */
const BUSY: ReadonlySet<number> = new Set([425, 429, 503]);
/** Of the server's failures, those that are for good: not implemented, and no such version of HTTP. */
const FOR_GOOD: ReadonlySet<number> = new Set([501, 505]);

/**
 * The step after the `failures`-th failure in a row of at most `tries`.
 *
 * What only may have failed because of what we chose to add is asked for again without it, at once and without
 * counting: servers and what stands before them answer a range with 400, 403, 416, 501 or a wrong part of the content,
 * and some fail over it (containerd#11953, containerd#12291).
 */
export function nextStep(trouble: Trouble, form: Form, failures: number, tries: number): Step {
  if (form === 'ranged' && isOurDoing(trouble, failures)) return { kind: 'again', form: 'plain', waitMs: 0 };
  if (failures >= tries || !mayPass(trouble)) return { kind: 'give up' };
  const waitMs = waitAfter(trouble, failures);
  return waitMs > limits.registryRetryAfterMs ? { kind: 'give up' } : { kind: 'again', form, waitMs };
}

function isOurDoing(trouble: Trouble, failures: number): boolean {
  if (trouble.kind === 'part') return true;
  if (trouble.kind !== 'status') return false;
  const { status } = trouble;
  if (status >= 500) return FOR_GOOD.has(status) || (failures > 1 && !BUSY.has(status));
  return status >= 400 && status !== 401 && status !== 404 && status !== 408 && !BUSY.has(status);
}

function mayPass(trouble: Trouble): boolean {
  if (trouble.kind === 'line') return true;
  if (trouble.kind !== 'status') return false;
  const { status } = trouble;
  return status === 408 || BUSY.has(status) || (status >= 500 && !FOR_GOOD.has(status));
}

function waitAfter(trouble: Trouble, failures: number): number {
  const told = trouble.kind === 'status' ? trouble.retryAfterMs : undefined;
  if (told !== undefined) return told;
  return (trouble.kind === 'status' && BUSY.has(trouble.status) ? 1_000 : 250) * 2 ** (failures - 1);
}

/**
 * `Retry-After` in milliseconds: seconds, or a date, which is compared with the server's own `Date` where it sends one.
 * A number that can only be a time of day since 1970 is read as one; Docker Hub writes those. undefined for nothing,
 * and for nonsense. `nowMs` is since the epoch.
 */
export function parseRetryAfter(text: string | undefined, date: string | undefined, nowMs: number): number | undefined {
  const value = (text ?? '').trim();
  const serverNow = Date.parse(date ?? '');
  const now = Number.isNaN(serverNow) ? nowMs : serverNow;
  if (/^\d{10}$/.test(value)) return Math.max(0, Number(value) * 1000 - now);
  if (/^\d{1,9}(\.\d{1,9})?$/.test(value)) return Math.ceil(Number(value) * 1000);
  const until = /[a-z]/i.test(value) ? Date.parse(value) : Number.NaN;
  return Number.isNaN(until) ? undefined : Math.max(0, until - now);
}

/** What the tries of one thing need around them. */
export interface Patience {
  /** What is asked for and of whom, for messages: `manifest "v1" of reg.example/team/app`. */
  readonly what: string;
  /** Failures in a row after which it is given up. */
  readonly tries: number;
  readonly form: Form;
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
}

/** Everything that is tried to get one thing. */
export class Tries {
  readonly #op: Op;
  readonly #patience: Patience;
  #form: Form;
  #failures = 0;

  constructor(op: Op, patience: Patience) {
    this.#op = op;
    this.#patience = patience;
    this.#form = patience.form;
  }

  /** How to ask now. */
  get form(): Form {
    return this.#form;
  }

  /** The last try was worth it: failures count from the beginning. */
  progressed(): void {
    this.#failures = 0;
  }

  /**
   * Waits until the next try. `asked` is the form that the last one really had. @throws `error` with what was asked for
   * before it, where there is none.
   */
  async after(error: unknown, asked: Form = this.#form): Promise<void> {
    const { what, tries, pause } = this.#patience;
    const step: Step =
      error instanceof RequestError ? nextStep(error.trouble, asked, this.#failures + 1, tries) : { kind: 'give up' };
    if (this.#op.signal.aborted) throw abortError(this.#op, what);
    if (step.kind === 'give up') throw finalError(what, error);
    if (step.form === asked) this.#failures++;
    else this.#form = step.form;
    this.#op.log.debug('registry request failed, will ask again', {
      what,
      failures: this.#failures,
      form: this.#form,
      waitMs: step.waitMs,
      error: explain(error),
    });
    if (step.waitMs > 0) await pause(step.waitMs, this.#op.signal);
    if (this.#op.signal.aborted) throw abortError(this.#op, what);
  }

  /** `work` until it succeeds. @throws as `after`. */
  async run<T>(work: (form: Form) => Promise<T>): Promise<T> {
    for (;;) {
      try {
        return await work(this.#form);
      } catch (error) {
        await this.after(error);
      }
    }
  }
}

/**
 * What is thrown in the end is no RequestError: whoever asked for this on the way to something else shall not repeat.
 */
function finalError(what: string, error: unknown): unknown {
  if (!(error instanceof RuntimeError)) return error;
  const { code, reason, cause } = error;
  return new RuntimeError(code, `${what}: ${error.message}`, {
    ...(reason === undefined ? {} : { reason }),
    ...(cause === undefined ? {} : { cause }),
  });
}

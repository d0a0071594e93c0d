/** Calls in flight: what each is at, what it leaves behind when its client is gone, and the line it ends in the log. */
import { type ErrorCode, explain, wrap } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { abortError, type LogFields, type Logger, type Op } from '../pkg/base/op.ts';
import { leftMs, LONGEST_TIMER_MS } from '../pkg/base/time.ts';
import { Track } from '../pkg/base/track.ts';
import type { Operation } from '../pkg/cri-api/types.ts';
import type { Method } from './codec.ts';
import type { Treatment } from './rpcs.ts';
import { errorCode } from './status.ts';
import type { CallListener } from './watch.ts';

/** Failures that somebody must look at; all others are the caller's or the world's. */
const ALARMING: ReadonlySet<ErrorCode> = new Set(['Internal', 'DataLoss']);

/** What a call is, before it has begun. */
export interface CallStart {
  readonly method: Method;
  readonly treatment: Treatment;
  /** The request's own id, for the log. */
  readonly id: string;
  /** What it is about. */
  readonly ids: Readonly<Record<string, string>>;
  /** When the client stops waiting, in milliseconds of `performance.now()`. */
  readonly deadline: number;
  readonly log: Logger;
  /** Hears what becomes of it; undefined if nobody does. */
  readonly listener?: CallListener | undefined;
}

/** One call in flight, from its request to its line in the log. */
export class Call implements Op {
  readonly track: Track;
  readonly #abort = new AbortController();
  readonly signal: AbortSignal = this.#abort.signal;
  readonly deadline: number;
  /** When it is given up whatever its client has said, in milliseconds of `performance.now()`; Infinity = never. */
  readonly bound: number;
  readonly log: Logger;
  readonly streams: boolean;
  /** Own properties, since helpers of Op copy operations with a spread. */
  readonly stage: (what: string) => void;
  readonly goesOn = (work: Promise<unknown>): void => {
    this.#work.add(work);
    const settled = (): void => void this.#work.delete(work);
    work.then(settled, settled);
  };
  readonly #work = new Set<Promise<unknown>>();
  #giveUp: (() => void) | undefined;
  readonly #name: string;
  readonly #treatment: Treatment;
  readonly #listener: CallListener | undefined;

  constructor({ method, treatment, id, ids, deadline, log, listener }: CallStart) {
    const { deadlineMs } = treatment;
    this.#name = method.name;
    this.#treatment = treatment;
    this.track = new Track(method.name, ids, id);
    this.#listener = listener;
    this.stage = listener === undefined ? this.track.stage : this.#tellStage(listener);
    this.streams = method.streams;
    this.bound = deadlineMs === 'callers' ? Number.POSITIVE_INFINITY : performance.now() + deadlineMs;
    this.deadline = Math.min(deadline, this.bound);
    this.log = log.child({ rpc: method.name, req: id, ...ids });
  }

  /** The stage it is at; '' before the first. */
  get doing(): string {
    return this.track.doing;
  }

  /** What goes on for it; undefined if nothing does. */
  get unfinished(): Promise<unknown> | undefined {
    return this.#work.size === 0 ? undefined : Promise.allSettled(this.#work);
  }

  /** Nobody waits for its outcome any more, or will not for long: whoever works for it hears of it. */
  abort(): void {
    this.#abort.abort();
    this.#giveUp?.();
  }

  /** What `work` gives, or the error of a call that is aborted meanwhile; `work` stays in the table then to its end. */
  unlessAborted<T>(work: Promise<T>): Promise<T> {
    // No listener of the signal: to take one away again costs more than all else that a call costs before its handler.
    return new Promise((resolve, reject) => {
      this.#giveUp = (): void => {
        this.goesOn(work);
        reject(this.aborted());
      };
      if (this.signal.aborted) this.#giveUp();
      work.then(resolve, reject);
    });
  }

  /** The error that it ends with when it was aborted. */
  aborted(): Error {
    return abortError(this, this.doing === '' ? this.#name : this.doing);
  }

  /** Its line, when it went well. `ids` are those of what it has made. */
  succeeded(ids: LogFields): void {
    const { loudness, patience } = this.#treatment;
    const fields = { ms: this.#ms(), ...ids };
    this.#listener?.ended(undefined);
    if (this.signal.aborted) this.log.warn('ok, but the client was gone', fields);
    else if (fields.ms > limits.slowRpcMs && patience === 'brisk')
      this.log.warn('ok, but slow', { ...fields, stage: this.doing });
    else this.log[loudness]('ok', fields);
  }

  /** Its line, when it failed. */
  failed(error: unknown): void {
    const code = errorCode(error);
    const fields = { ms: this.#ms() };
    this.#listener?.ended({ error, code, stage: this.doing });
    const stage = this.doing === '' ? {} : { stage: this.doing };
    const all = { ...fields, code, ...stage, cause: explain(error) };
    if (ALARMING.has(code))
      this.log.error('failed', { ...all, stack: error instanceof Error ? error.stack : undefined });
    // A kubelet asks for objects that it has just removed, and for RPCs that it can do without.
    else if (code === 'Unimplemented' || (code === 'NotFound' && this.#treatment.loudness === 'debug'))
      this.log.debug('failed', all);
    else if (code === 'Cancelled' && this.streams) this.log.debug('ended by the client', fields);
    else this.log.warn('failed', all);
  }

  /** Its line, when the daemon ends before it does. */
  outlived(): void {
    this.log.warn('did not end before the daemon did', { stage: this.doing, ms: Math.round(this.#ms()) });
  }

  #tellStage(listener: CallListener): (what: string) => void {
    return (what) => {
      this.track.stage(what);
      listener.stage(what);
    };
  }

  #ms(): number {
    return Math.round((performance.now() - this.track.began) * 10) / 10;
  }
}

/** The same error; one of a call that was given up says at which stage that was. */
export function placed({ doing }: Call, error: unknown): unknown {
  const code = errorCode(error);
  if (doing === '' || (code !== 'DeadlineExceeded' && code !== 'Cancelled')) return error;
  return explain(error).includes(doing) ? error : wrap(`at stage ${JSON.stringify(doing)}`, error);
}

/**
 * Gives calls up whose bound has passed. One timer serves them all, and runs on when they have ended: to set one for
 * each and take it back costs more than most calls do.
 */
class Bounds {
  readonly #calls: ReadonlySet<Call>;
  #timer: NodeJS.Timeout | undefined;
  /** When it looks next. */
  #due = Number.POSITIVE_INFINITY;

  constructor(calls: ReadonlySet<Call>) {
    this.#calls = calls;
  }

  watch(bound: number): void {
    if (bound >= this.#due) return;
    clearTimeout(this.#timer);
    this.#due = bound;
    this.#timer = setTimeout(() => this.#look(), Math.min(leftMs(bound), LONGEST_TIMER_MS)).unref();
  }

  #look(): void {
    this.#due = Number.POSITIVE_INFINITY;
    let next = Number.POSITIVE_INFINITY;
    for (const call of this.#calls) {
      if (leftMs(call.bound) < 1) call.abort();
      else next = Math.min(next, call.bound);
    }
    this.watch(next);
  }
}

/** All calls in flight, those included that go on though their clients have left. */
export class Calls {
  readonly #others: () => readonly Operation[];
  readonly #calls = new Set<Call>();
  /** Calls that are over for their clients, but not done. */
  readonly #lingering = new Set<Call>();
  readonly #bounds = new Bounds(this.#calls);
  #wake: (() => void) | undefined;

  /** `others` are operations that are no calls: sessions, and work in the background. */
  constructor(others: () => readonly Operation[] = () => []) {
    this.#others = others;
  }

  /** Calls that somebody waits for. */
  get running(): ReadonlySet<Call> {
    return this.#calls;
  }

  /** Puts a call into the table, and sees to it that it ends by its bound. */
  begin(call: Call): void {
    this.#calls.add(call);
    this.#bounds.watch(call.bound);
  }

  /** Takes a call out of the table; one whose work goes on stays in it until that has settled. */
  end(call: Call): void {
    this.#calls.delete(call);
    if (this.#calls.size === 0) this.#wake?.();
    const { unfinished } = call;
    if (unfinished === undefined) return;
    call.track.clientGone = true;
    this.#lingering.add(call);
    void unfinished.then(() => this.#lingering.delete(call));
  }

  /** Resolves when nobody waits for any call. */
  async idle(): Promise<void> {
    if (this.#calls.size === 0) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#wake = resolve;
    await promise;
  }

  /** All that is in flight, oldest first: calls, what goes on for calls that are over, and what is no call. */
  operations(): Operation[] {
    const calls = [...this.#lingering, ...this.#calls].map(({ track }): Operation => track.row());
    return [...calls, ...this.#others()].sort((a, b) =>
      a.ageNanos === b.ageNanos ? 0 : a.ageNanos > b.ageNanos ? -1 : 1,
    );
  }
}

/** What a call is about, from the fields that CRI names alike everywhere; only ids and names, never content. */
export function idsOf(message: unknown): Readonly<Record<string, string>> {
  if (typeof message !== 'object' || message === null) return {};
  const { containerId, podSandboxId, image, config, path } = message as Readonly<Record<string, unknown>>;
  const metadata = field(config, 'metadata');
  const found: Record<string, string> = {};
  const put = (name: string, value: unknown): void => {
    if (typeof value !== 'string' || value === '') return;
    found[name] = value.length > limits.loggedIdChars ? `${value.slice(0, limits.loggedIdChars)}…` : value;
  };
  put('container', containerId);
  put('sandbox', podSandboxId);
  put('image', field(image, 'image') ?? field(field(config, 'image'), 'image'));
  put('ns', field(metadata, 'namespace'));
  put(field(metadata, 'namespace') === undefined ? 'name' : 'pod', field(metadata, 'name'));
  put('path', path);
  return found;
}

function field(value: unknown, name: string): unknown {
  return typeof value === 'object' && value !== null ? (value as Readonly<Record<string, unknown>>)[name] : undefined;
}

/** Calls in flight: what each is at, what it leaves behind when its client is gone, and the line it ends in the log. */
import { type ErrorCode, explain, wrap } from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';
import { abortError, type LogFields, type Logger, type Op } from '../pkg/base/op.ts';
import { Track } from '../pkg/base/track.ts';
import type { Operation } from '../pkg/cri-api/types.ts';
import type { Method } from './codec.ts';
import type { Treatment } from './rpcs.ts';
import { errorCode } from './status.ts';

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
}

/** One call in flight, from its request to its line in the log. */
export class Call implements Op {
  readonly track: Track;
  readonly abort = new AbortController();
  readonly signal: AbortSignal = this.abort.signal;
  readonly deadline: number;
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
  readonly #name: string;
  readonly #treatment: Treatment;

  constructor({ method, treatment, id, ids, deadline, log }: CallStart) {
    const { deadlineMs } = treatment;
    this.#name = method.name;
    this.#treatment = treatment;
    this.track = new Track(method.name, ids, id);
    this.stage = this.track.stage;
    this.streams = method.streams;
    this.deadline = deadlineMs === 'callers' ? deadline : Math.min(deadline, performance.now() + deadlineMs);
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

  /** The error that it ends with when it was aborted. */
  aborted(): Error {
    return abortError(this, this.doing === '' ? this.#name : this.doing);
  }

  /** Its line, when it went well. `ids` are those of what it has made. */
  succeeded(ids: LogFields): void {
    const { loudness, patience } = this.#treatment;
    const fields = { ms: this.#ms(), ...ids };
    if (this.signal.aborted) this.log.warn('ok, but the client was gone', fields);
    else if (fields.ms > limits.slowRpcMs && patience === 'brisk')
      this.log.warn('ok, but slow', { ...fields, stage: this.doing });
    else this.log[loudness]('ok', fields);
  }

  /** Its line, when it failed. */
  failed(error: unknown): void {
    const code = errorCode(error);
    const fields = { ms: this.#ms() };
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

/** All calls in flight, those included that go on though their clients have left. */
export class Calls {
  readonly #others: () => readonly Operation[];
  readonly #calls = new Set<Call>();
  /** Calls that are over for their clients, but not done. */
  readonly #lingering = new Set<Call>();
  #wake: (() => void) | undefined;

  /** `others` are operations that are no calls: sessions, and work in the background. */
  constructor(others: () => readonly Operation[] = () => []) {
    this.#others = others;
  }

  /** Calls that somebody waits for. */
  get running(): ReadonlySet<Call> {
    return this.#calls;
  }

  /** Puts a call into the table. */
  begin(call: Call): void {
    this.#calls.add(call);
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

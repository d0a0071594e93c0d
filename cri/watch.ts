/** Who hears of calls beside the log: metrics and traces. Where nobody does, a call costs a comparison more. */
import type { Metadata } from '@grpc/grpc-js';
import type { ErrorCode } from '../pkg/base/errors.ts';
import type { Method } from './codec.ts';

/** A call that begins. */
export interface WatchedCall {
  readonly method: Method;
  /** Its own, as in the log. */
  readonly id: string;
  /** What it is about, as in the log. */
  readonly ids: Readonly<Record<string, string>>;
  /** What its client sent beside the request. */
  readonly metadata: Pick<Metadata, 'get'>;
}

/** Why a call failed, and where it was then. */
export interface CallFailure {
  readonly error: unknown;
  readonly code: ErrorCode;
  /** '' before the first. */
  readonly stage: string;
}

/** Hears of one call. */
export interface CallListener {
  stage(what: string): void;
  /** It is over, well if there is no failure. Heard once. */
  ended(failure: CallFailure | undefined): void;
}

/** Called for each call that begins; undefined if nobody wants to hear of that one. */
export type CallWatch = (call: WatchedCall) => CallListener | undefined;

/** All of them as one; undefined if there are none. */
export function watchers(...all: readonly (CallWatch | undefined)[]): CallWatch | undefined {
  const present = all.filter((each) => each !== undefined);
  if (present.length < 2) return present[0];
  return (call) => {
    const listeners = present.flatMap((watch) => watch(call) ?? []);
    if (listeners.length < 2) return listeners[0];
    return {
      stage: (what) => listeners.forEach((each) => each.stage(what)),
      ended: (failure) => listeners.forEach((each) => each.ended(failure)),
    };
  };
}

/**
 * What a failed call looks like to the client: the one place that knows gRPC's codes (docs/ERRORS.md shows the table).
 *
 * The kubelet recognises a few failures by the beginning of their text, and its CRI client removes the decoration
 * "rpc error: code = …" only for code UNKNOWN (cri-client, remote_image.go). So an error with a `reason` leaves as
 * UNKNOWN with that constant in front, whatever its own code says; with a better code the kubelet would not see the
 * constant.
 */
import {
  type ErrorCode,
  codeOf,
  errnoOf,
  explain,
  type KubeletReason,
  RuntimeError,
  whyFull,
} from '../pkg/base/errors.ts';
import { limits } from '../pkg/base/limits.ts';

/** gRPC's status codes (grpc.io, statuscodes.md) by the names that Berth's errors have for them. */
export const grpcCodes: Readonly<Record<ErrorCode | 'Ok' | 'Unknown', number>> = {
  Ok: 0,
  Cancelled: 1,
  Unknown: 2,
  InvalidArgument: 3,
  DeadlineExceeded: 4,
  NotFound: 5,
  AlreadyExists: 6,
  PermissionDenied: 7,
  ResourceExhausted: 8,
  FailedPrecondition: 9,
  Aborted: 10,
  Unimplemented: 12,
  Internal: 13,
  Unavailable: 14,
  DataLoss: 15,
  Unauthenticated: 16,
};

/** Name of a gRPC code; `Code<n>` for the one that we never send (OUT_OF_RANGE) and for garbage. */
export function grpcCodeName(code: number): string {
  return Object.entries(grpcCodes).find(([, number]) => number === code)?.[0] ?? `Code${code}`;
}

/** What goes over the wire for a failed call. */
export interface GrpcStatus {
  readonly code: number;
  readonly details: string;
}

/**
 * System errors that say "the machine is full" wherever they come from; all others should have been explained below.
 */
const FULL = new Set(['ENOSPC', 'EDQUOT', 'ENOMEM', 'EMFILE', 'ENFILE']);

/**
 * The status of any thrown value. Never throws; `details` is well-formed, bounded, and tells the whole chain of causes.
 */
export function statusOf(error: unknown): GrpcStatus {
  const text = withRemedy(explain(error), whyFull(error));
  const reason = reasonOf(error);
  if (reason === undefined) return { code: grpcCodes[errorCode(error)], details: bounded(text) };
  return { code: grpcCodes.Unknown, details: bounded(text.startsWith(reason) ? text : `${reason}: ${text}`) };
}

/** Deep down nobody knows what an administrator could do about a full machine. */
function withRemedy(text: string, why: string | undefined): string {
  return why === undefined || text.includes(why.slice(why.indexOf(';') + 1)) ? text : `${text}: ${why}`;
}

/** The code of any thrown value, also of a system error that nobody wrapped. */
export function errorCode(error: unknown): ErrorCode {
  if (error instanceof RuntimeError)
    return error.code !== 'Internal' || whyFull(error) === undefined ? error.code : 'ResourceExhausted';
  return FULL.has(errnoOf(error) ?? '') ? 'ResourceExhausted' : codeOf(error);
}

/** The outermost reason in the chain of causes: callers add context without having to think of it. */
function reasonOf(error: unknown): KubeletReason | undefined {
  for (let each = error, depth = 0; each instanceof Error && depth < 8; each = each.cause, depth++) {
    if (each instanceof RuntimeError && each.reason !== undefined) return each.reason;
  }
  return undefined;
}

/** Both ends are kept: the beginning says what failed, and a runtime's stderr says why in its last line. */
function bounded(text: string): string {
  const max = limits.statusMessageChars;
  // A lone half of a surrogate pair would make grpc-js throw when it percent-encodes the header.
  if (text.length <= max) return text.toWellFormed();
  const tail = Math.floor(max / 3);
  return `${text.slice(0, max - tail)} … ${text.slice(-tail)}`.toWellFormed();
}

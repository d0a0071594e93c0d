/**
 * PURE. A request as one line of a log at debug level: what was asked, without what may be a secret. People read it who
 * look for what the kubelet wanted.
 */
import { REDACTED } from '../pkg/base/redact.ts';
import { toJson } from './json.ts';

/** Fields of CRI whose values are never shown: credentials, and what people put beside the configuration of pods. */
const HIDDEN = new Set(['auth', 'env', 'envs', 'annotations', 'stdin']);

/** The message as JSON, without what is not set. Of what is hidden the names stay. */
export function dumped(message: unknown): string {
  return toJson(shown(message) ?? {});
}

/** Undefined for what says nothing: absent, empty, zero, false. */
function shown(value: unknown): unknown {
  if (value === null || value === '' || value === false || value === 0 || value === 0n) return undefined;
  if (typeof value !== 'object' || value instanceof Uint8Array) return value;
  if (Array.isArray(value)) return value.length === 0 ? undefined : value.map((each) => shown(each) ?? null);
  const fields = Object.entries(value).flatMap(([name, each]: [string, unknown]) => {
    const kept = HIDDEN.has(name) ? hidden(each) : shown(each);
    return kept === undefined ? [] : [[name, kept] as const];
  });
  return fields.length === 0 ? undefined : Object.fromEntries(fields);
}

/** Names without values: of variables and annotations they tell what was asked, of credentials they tell nothing. */
function hidden(value: unknown): unknown {
  const set = shown(value);
  if (set === undefined) return undefined;
  if (Array.isArray(value)) return value.map((each) => (hasKey(each) ? each.key : REDACTED));
  return typeof set === 'object' ? Object.keys(set as object) : REDACTED;
}

function hasKey(value: unknown): value is { readonly key: string } {
  return typeof value === 'object' && value !== null && 'key' in value;
}

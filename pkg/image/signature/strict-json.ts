/**
 * JSON as policy.json and signed bodies have to be read: a member that is written twice, that nobody knows or that is
 * missing refuses the whole document. Two readers who resolve such a thing differently would disagree about what was
 * signed (containers-signature(5)).
 */
import { RuntimeError } from '../../base/errors.ts';
import { quote } from '../../base/ids.ts';
import { isObject } from '../../base/go.ts';
import { parseJson } from '../../base/json.ts';

/** An object whose members were checked by `members`. */
export type Members = Readonly<Record<string, unknown>>;

/**
 * The value in `bytes`, which the caller has bounded. @throws InvalidArgument that names `what`, for bad UTF-8, bad
 * JSON and a member given twice.
 */
export function parseStrictJson(bytes: Uint8Array, what: string): unknown {
  let text: string;
  let value: unknown;
  try {
    text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
    value = parseJson(text);
  } catch (cause) {
    throw new RuntimeError('InvalidArgument', `${what} is not valid JSON`, { cause });
  }
  const twice = memberGivenTwice(text);
  if (twice !== undefined) throw new RuntimeError('InvalidArgument', `${what} has ${quote(twice)} twice in one object`);
  return value;
}

/**
 * `value` as an object with no member but those of `required`, which must all be there, and of `optional`.
 * @throws InvalidArgument that names `what` and the member.
 */
export function members(
  value: unknown,
  what: string,
  required: readonly string[],
  optional: readonly string[] = [],
): Members {
  if (!isObject(value)) throw new RuntimeError('InvalidArgument', `${what} is not an object`);
  for (const key of Object.keys(value)) {
    if (!required.includes(key) && !optional.includes(key))
      throw new RuntimeError('InvalidArgument', `${what} has the member ${quote(key)}, which is not known here`);
  }
  for (const key of required)
    if (!Object.hasOwn(value, key)) throw new RuntimeError('InvalidArgument', `${what} has no ${quote(key)}`);
  return value;
}

/** The text under `key`, not empty. @throws InvalidArgument for anything else. */
export function textOf(from: Members, key: string, what: string): string {
  const value = from[key];
  if (typeof value !== 'string' || value === '')
    throw new RuntimeError('InvalidArgument', `${what}: ${quote(key)} must be text`);
  return value;
}

/** The first member that some object of `text`, which is valid JSON, has twice. One pass. */
function memberGivenTwice(text: string): string | undefined {
  const open: Set<string>[] = [];
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (c === '{' || c === '[') open.push(new Set());
    else if (c === '}' || c === ']') open.pop();
    if (c !== '"') continue;
    const start = i;
    i = endOfString(text, start);
    // In valid JSON only the name of a member is followed by a colon.
    if (!isBeforeColon(text, i + 1)) continue;
    const key = parseJson(text.slice(start, i + 1)) as string;
    if (open.at(-1)?.has(key) === true) return key;
    open.at(-1)?.add(key);
  }
  return undefined;
}

function endOfString(text: string, start: number): number {
  let i = start + 1;
  while (text[i] !== '"') i += text[i] === '\\' ? 2 : 1;
  return i;
}

function isBeforeColon(text: string, from: number): boolean {
  let i = from;
  while (text[i] === ' ' || text[i] === '\n' || text[i] === '\r' || text[i] === '\t') i++;
  return text[i] === ':';
}

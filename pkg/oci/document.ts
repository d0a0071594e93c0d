/**
 * The first step into any document of an image: bytes to an object, members to the types that they must have. Read as
 * Go reads it: names in any case, null and `""` for what is not set, null in a list or a map for the empty text.
 */
import { RuntimeError } from '../base/errors.ts';
import { GoObject, isObject } from '../base/go.ts';
import type { PlainObject } from '../base/go.ts';
import { quote } from '../base/ids.ts';
import { excessOf, parseJson } from '../base/json.ts';
import { limits } from '../base/limits.ts';

/** An object from at most `max` bytes of JSON. @throws InvalidArgument or ResourceExhausted that names `what`. */
export function parseObject(bytes: Uint8Array, max: number, what: string): GoObject {
  if (bytes.length > max)
    throw new RuntimeError('ResourceExhausted', `${what} has ${bytes.length} bytes, at most ${max} are read`);
  const bounds = { members: limits.documentMembersCount, values: limits.documentValuesCount };
  const excess = excessOf(bytes, bounds);
  if (excess !== undefined)
    throw new RuntimeError(
      'ResourceExhausted',
      `${what} has more than ${bounds[excess]} ${excess}, which no image needs; it must be built with fewer`,
    );
  let value: unknown;
  try {
    // Bytes that are no UTF-8 become U+FFFD, as in Go: a label in Latin-1 is no reason not to run an image.
    value = parseJson(new TextDecoder('utf-8').decode(bytes));
  } catch (cause) {
    throw new RuntimeError('InvalidArgument', bad(`${what} is not valid JSON`).message, { cause });
  }
  if (!isObject(value)) throw bad(`${what} is not a JSON object`);
  return new GoObject(value);
}

/** The text of a member, '' if it is not set. @throws InvalidArgument for anything but text. */
export function textOf(from: GoObject, key: string, what: string): string {
  const value = from.get(key) ?? '';
  if (typeof value !== 'string') throw bad(`${what} has ${quote(key)} that is not text`);
  return value;
}

/** The object under a member, undefined if it is not set. @throws InvalidArgument for anything but an object. */
export function objectOf(from: GoObject, key: string, what: string): PlainObject | undefined {
  const value = from.get(key);
  if (value === undefined) return undefined;
  if (!isObject(value)) throw bad(`${what} has ${quote(key)} that is not an object`);
  return value;
}

/** The list under a member, empty if it is not set. @throws InvalidArgument for anything but a list. */
export function listOf(from: GoObject, key: string, what: string): readonly unknown[] {
  const value = from.get(key) ?? [];
  if (!Array.isArray(value)) throw bad(`${what} has ${quote(key)} that is not a list`);
  return value;
}

/** As `listOf`, of text. */
export function textsOf(from: GoObject, key: string, what: string): string[] {
  return listOf(from, key, what).map((each) => {
    if (typeof (each ?? '') !== 'string') throw bad(`${what} has ${quote(key)} that is not a list of text`);
    return (each ?? '') as string;
  });
}

/** A map of texts, as a map without a prototype: `__proto__` is an ordinary label. @throws as `objectOf`. */
export function textMapOf(from: GoObject, key: string, what: string): Record<string, string> {
  const map = Object.create(null) as Record<string, string>;
  for (const [name, value] of Object.entries(objectOf(from, key, what) ?? {})) {
    if (typeof (value ?? '') !== 'string') throw bad(`${what} has ${quote(key)} with a value that is not text`);
    map[name] = (value ?? '') as string;
  }
  return map;
}

/** The error for a document that nobody can use. */
export function bad(message: string): RuntimeError {
  return new RuntimeError('InvalidArgument', `${message}; the image must be built or pushed again`);
}

/** Configuration in TOML, read as Go reads it, so that a mistake is named with its file and place. */
import { parse, TomlError } from 'smol-toml';
import { RuntimeError } from '../../base/errors.ts';
import { GoObject, isUnset } from '../../base/go.ts';
import { quote } from '../../base/ids.ts';

/** Makes the error for a mistake, with the file in front. */
export type Fail = (what: string) => RuntimeError;

/** @throws FailedPrecondition with line and column. */
export function readToml(text: string, path: string): GoObject {
  try {
    return new GoObject(parse(text));
  } catch (error) {
    // The parser's message draws a picture of the place over several lines; its first says what is wrong.
    const place =
      error instanceof TomlError
        ? `, line ${error.line}, column ${error.column}: ${error.message.split('\n', 1)[0]}`
        : '';
    throw new RuntimeError('FailedPrecondition', `${path} is not valid TOML${place}`);
  }
}

/** true or false; not set is false. @throws what `fail` makes, for anything else. */
export function flag(table: GoObject, key: string, fail: Fail): boolean {
  const value = table.get(key) ?? false;
  if (typeof value !== 'boolean') throw fail(`${key} must be true or false`);
  return value;
}

/** The text under a key, '' if it is not set. @throws as `flag`. */
export function textOf(table: GoObject, key: string, fail: Fail): string {
  const value = table.get(key) ?? '';
  if (typeof value !== 'string') throw fail(`${key} is not text`);
  return value;
}

/** One of `choices`; undefined if it is not set. @throws as `flag`. */
export function choiceOf<T extends string>(
  table: GoObject,
  key: string,
  choices: readonly T[],
  fail: Fail,
): T | undefined {
  const value = table.get(key);
  const found = choices.find((each) => each === value);
  if (value !== undefined && found === undefined) throw fail(`${key} must be one of ${choices.join(', ')}`);
  return found;
}

/** A list of text without those that are empty; undefined if it is not set. @throws as `flag`. */
export function texts(value: unknown, key: string, fail: Fail): readonly string[] | undefined {
  if (isUnset(value)) return undefined;
  if (!Array.isArray(value) || !value.every((each) => typeof each === 'string'))
    throw fail(`${key} must be a list of text`);
  return value.filter((each) => each !== '');
}

/** The tables of `[[key]]`, as they are written. @throws as `flag`. */
export function tablesOf(table: GoObject, key: string, written: string, fail: Fail): readonly GoObject[] {
  const value = table.get(key) ?? [];
  if (!Array.isArray(value)) throw fail(`"${key}" must be written as ${written}`);
  return value.map((each: unknown) => tableOf(each, `a ${written}`, fail));
}

/** @throws what `fail` makes, for what is no table. */
export function tableOf(value: unknown, what: string, fail: Fail): GoObject {
  const table = GoObject.of(value);
  if (table === undefined) throw fail(`${what} is not a table`);
  return table;
}

/** The tables of `[key.name]`, by name, in their order; none if nothing is set. @throws as `flag`. */
export function namedTables(table: GoObject, key: string, fail: Fail): readonly (readonly [string, unknown])[] {
  const value = table.get(key);
  if (value === undefined) return [];
  if (typeof value !== 'object' || value === null || Array.isArray(value)) throw fail(`${quote(key)} is not a table`);
  return Object.entries(value);
}

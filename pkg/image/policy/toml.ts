/** Configuration in TOML, read so that a mistake is named with its file and place. */
import { parse, TomlError } from 'smol-toml';
import { RuntimeError } from '../../base/errors.ts';

/** Makes the error for a mistake, with the file in front. */
export type Fail = (what: string) => RuntimeError;

/** @throws FailedPrecondition with line and column. */
export function readToml(text: string, path: string): Readonly<Record<string, unknown>> {
  try {
    return parse(text);
  } catch (error) {
    // The parser's message draws a picture of the place over several lines; its first says what is wrong.
    const place =
      error instanceof TomlError
        ? `, line ${error.line}, column ${error.column}: ${error.message.split('\n', 1)[0]}`
        : '';
    throw new RuntimeError('FailedPrecondition', `${path} is not valid TOML${place}`);
  }
}

/** true or false; absent is false. */
export function flag(table: Readonly<Record<string, unknown>>, key: string, fail: Fail): boolean {
  const value = table[key] ?? false;
  if (typeof value !== 'boolean') throw fail(`${key} must be true or false`);
  return value;
}

/** A list of text; undefined if absent. */
export function texts(value: unknown, key: string, fail: Fail): readonly string[] | undefined {
  if (value === undefined) return undefined;
  if (!Array.isArray(value) || !value.every((each) => typeof each === 'string'))
    throw fail(`${key} must be a list of text`);
  return value;
}

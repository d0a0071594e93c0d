/**
 * Reading of untyped JSON documents (seccomp profiles, CDI specs, hook files): every value is checked where it is read,
 * and an error names the document and the place. PURE.
 */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';

/** Checks of one document. All throw InvalidArgument `<document>: <place>: <why>`. Absent and null are the same. */
export interface Reader {
  object(value: unknown, at: string): Readonly<Record<string, unknown>>;
  /** An object with no other keys than these. */
  exactly(value: unknown, at: string, keys: readonly string[]): Readonly<Record<string, unknown>>;
  /** [] when absent. */
  list(value: unknown, at: string, max: number): readonly unknown[];
  strings(value: unknown, at: string): readonly string[] | undefined;
  string(value: unknown, at: string): string | undefined;
  matching(value: unknown, pattern: RegExp, at: string): string;
  /** An absolute path without NUL. */
  path(value: unknown, at: string): string;
  flag(value: unknown, at: string): boolean | undefined;
  /** Unsigned 64-bit: a number, or a bigint where the reader of the file keeps large ones exact. */
  unsigned(value: unknown, at: string): number | bigint;
  /** An unsigned integer up to `max`; undefined when absent. */
  number(value: unknown, at: string, max: number): number | undefined;
  /** String to string, without a prototype; empty when absent. */
  map(value: unknown, at: string): Readonly<Record<string, string>>;
  fail(at: string, why: string): RuntimeError;
}

/** A reader whose errors begin with `document`. */
export function readerOf(document: string): Reader {
  const fail = (at: string, why: string): RuntimeError =>
    new RuntimeError('InvalidArgument', `${document}: ${at}: ${why}`);
  const one = valuesOf(fail);
  const reader: Reader = {
    fail,
    ...one,
    object(value, at) {
      if (typeof value !== 'object' || value === null || Array.isArray(value)) throw fail(at, 'want an object');
      return value as Readonly<Record<string, unknown>>;
    },
    exactly(value, at, keys) {
      const object = reader.object(value, at);
      for (const key of Object.keys(object)) if (!keys.includes(key)) throw fail(at, `unknown field ${quote(key)}`);
      return object;
    },
    list(value, at, max) {
      if (value === undefined || value === null) return [];
      if (!Array.isArray(value)) throw fail(at, 'want a list');
      if (value.length > max) throw fail(at, `more than ${max} entries`);
      return value;
    },
    strings(value, at) {
      if (value === undefined || value === null) return undefined;
      return reader.list(value, at, limits.documentEntriesCount).map((each) => {
        if (typeof each !== 'string') throw fail(at, 'want a list of strings');
        return each;
      });
    },
    map(value, at) {
      const map: Record<string, string> = Object.create(null);
      if (value === undefined || value === null) return map;
      for (const [key, each] of Object.entries(reader.object(value, at)))
        map[key] = one.string(each, `${at}.${quote(key)}`) ?? '';
      return map;
    },
  };
  return reader;
}

type Values = Pick<Reader, 'string' | 'matching' | 'path' | 'flag' | 'unsigned' | 'number'>;

/** The checks of values that have no parts. */
function valuesOf(fail: Reader['fail']): Values {
  const one: Values = {
    string(value, at) {
      if (value === undefined || value === null) return undefined;
      if (typeof value !== 'string') throw fail(at, 'want a string');
      return value;
    },
    matching(value, pattern, at) {
      if (typeof value !== 'string' || value.length > 4096 || !pattern.test(value))
        throw fail(at, `want ${pattern.source.replace(/[\^$]/g, '')}, got ${quote(String(value))}`);
      return value;
    },
    path(value, at) {
      const path = one.string(value, at) ?? '';
      if (!path.startsWith('/') || path.includes('\0') || path.length > 4096)
        throw fail(at, `want an absolute path, got ${quote(path)}`);
      return path;
    },
    flag(value, at) {
      if (value === undefined || value === null) return undefined;
      if (typeof value !== 'boolean') throw fail(at, 'want true or false');
      return value;
    },
    unsigned(value, at) {
      if (typeof value === 'bigint' && value >= 0n && value < 1n << 64n) return value;
      if (typeof value === 'number' && Number.isInteger(value) && value >= 0 && value < 2 ** 64)
        return Number.isSafeInteger(value) ? value : BigInt(value);
      throw fail(at, 'want an unsigned 64-bit integer');
    },
    number(value, at, max) {
      if (value === undefined || value === null) return undefined;
      const number = one.unsigned(value, at);
      if (number > max) throw fail(at, `${number} is above ${max}`);
      return Number(number);
    },
  };
  return one;
}

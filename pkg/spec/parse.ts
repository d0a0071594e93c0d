/**
 * Reading of untyped documents (seccomp profiles, CDI specs, hook files) as the programs in Go read them that they are
 * written for: names of members in any case; a value that is null or "" is not set. Every value is checked where it is
 * read, and an error names the document and the place. PURE.
 */
import { RuntimeError } from '../base/errors.ts';
import { GoObject, isObject, isUnset } from '../base/go.ts';
import { quote } from '../base/ids.ts';

/** The characters of one pattern or path in a document: as many as a path of the kernel has. */
const TEXT_MAX_CHARS = 4096;
/** Strings in one list of a document: more is a mistake or an attack, and every known document has far fewer. */
const STRINGS_MAX = 10_000;

/** How a document is written: in YAML a string may look like a number. */
export type Notation = 'json' | 'yaml';

/** Checks of one document. All throw InvalidArgument `<document>: <place>: <why>`. */
export class Reader {
  readonly #document: string;
  readonly #notation: Notation;
  readonly #shows: boolean;

  /** `hides`: errors say where, and nothing of what is there, for a file that whoever makes a pod may name. */
  constructor(document: string, notation: Notation = 'json', values: 'shows' | 'hides' = 'shows') {
    this.#document = document;
    this.#notation = notation;
    this.#shows = values === 'shows';
  }

  /** `why` with what is there instead, as far as it may be shown. */
  unlike(at: string, why: string, got: string): RuntimeError {
    return this.fail(at, this.#shows ? `${why}, got ${quote(got)}` : why);
  }

  /** What to throw for `why` at a place. */
  fail(at: string, why: string): RuntimeError {
    return new RuntimeError('InvalidArgument', `${this.#document}: ${at}: ${why}`);
  }

  /** An object. */
  object(value: unknown, at: string): GoObject {
    if (!isObject(value)) throw this.fail(at, 'want an object');
    return new GoObject(value);
  }

  /** An object with no other members than these, in any case. */
  exactly(value: unknown, at: string, names: readonly string[]): GoObject {
    if (!isObject(value)) throw this.fail(at, 'want an object');
    const known = new Set(names.map((name) => name.toLowerCase()));
    for (const name of Object.keys(value))
      if (!known.has(name.toLowerCase())) throw this.fail(at, `unknown field ${quote(name)}`);
    return new GoObject(value);
  }

  /**
   * A member whose loss would open a hole: undefined if it is absent or null, as in Go; refused where it is "", since
   * somebody meant to write something there.
   */
  meant(object: GoObject, name: string, at: string): unknown {
    const value = object.get(name);
    if (value === undefined && object.has(name)) throw this.fail(`${at}.${name}`, 'is ""; write it, or remove it');
    return value;
  }

  /** [] when it is not set. */
  list(value: unknown, at: string, max: number): readonly unknown[] {
    if (isUnset(value)) return [];
    if (!Array.isArray(value)) throw this.fail(at, 'want a list');
    if (value.length > max) throw this.fail(at, `more than ${max} entries`);
    return value;
  }

  /** undefined when it is not set; entries that are null are left out. */
  strings(value: unknown, at: string): readonly string[] | undefined {
    if (isUnset(value)) return undefined;
    return this.list(value, at, STRINGS_MAX)
      .filter((each) => each !== null)
      .map((each) => this.#text(each) ?? fault(this.fail(at, 'want a list of strings')));
  }

  /** undefined when it is not set. */
  string(value: unknown, at: string): string | undefined {
    return isUnset(value) ? undefined : (this.#text(value) ?? fault(this.fail(at, 'want a string')));
  }

  /** A string that fits. */
  matching(value: unknown, pattern: RegExp, at: string): string {
    const text = this.#text(value);
    if (text === undefined || text.length > TEXT_MAX_CHARS || !pattern.test(text))
      throw this.unlike(at, `want ${pattern.source.replace(/[\^$]/g, '')}`, String(value));
    return text;
  }

  /** An absolute path without NUL. */
  path(value: unknown, at: string): string {
    const path = this.string(value, at) ?? '';
    if (!path.startsWith('/') || path.includes('\0') || path.length > TEXT_MAX_CHARS)
      throw this.unlike(at, 'want an absolute path', path);
    return path;
  }

  /** undefined when it is not set. */
  flag(value: unknown, at: string): boolean | undefined {
    if (isUnset(value)) return undefined;
    if (typeof value !== 'boolean') throw this.fail(at, 'want true or false');
    return value;
  }

  /** Unsigned 64-bit: a number, or a bigint where the reader of the file keeps large ones exact. 0 if it is not set. */
  unsigned(value: unknown, at: string): number | bigint {
    if (isUnset(value)) return 0;
    // YAML 1.1 in Go knows the younger notation of octal numbers, too.
    const number =
      this.#notation === 'yaml' && typeof value === 'string' && /^0o[0-7]+$/.test(value) ? Number(value) : value;
    if (typeof number === 'bigint' && number >= 0n && number < 1n << 64n) return number;
    if (typeof number === 'number' && Number.isInteger(number) && number >= 0 && number < 2 ** 64)
      return Number.isSafeInteger(number) ? number : BigInt(number);
    throw this.fail(at, 'want an unsigned 64-bit integer');
  }

  /** An unsigned integer up to `max`; undefined when it is not set. */
  number(value: unknown, at: string, max: number): number | undefined {
    if (isUnset(value)) return undefined;
    const number = this.unsigned(value, at);
    if (number > max) throw this.fail(at, `${number} is above ${max}`);
    return Number(number);
  }

  /** String to string, without a prototype; empty when it is not set. Names are people's own, and stay as they are. */
  map(value: unknown, at: string): Readonly<Record<string, string>> {
    const map: Record<string, string> = Object.create(null);
    if (isUnset(value)) return map;
    if (!isObject(value)) throw this.fail(at, 'want an object');
    for (const [key, each] of Object.entries(value)) map[key] = this.string(each, `${at}.${quote(key)}`) ?? '';
    return map;
  }

  /** A string, or in YAML what was not written as one and is meant so: `name: 0`. */
  #text(value: unknown): string | undefined {
    if (typeof value === 'string') return value;
    const scalar = typeof value === 'number' || typeof value === 'boolean' || typeof value === 'bigint';
    return this.#notation === 'yaml' && scalar ? String(value) : undefined;
  }
}

function fault(error: RuntimeError): never {
  throw error;
}

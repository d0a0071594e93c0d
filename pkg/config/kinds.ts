/**
 * What a configuration value may be: how it is read from TOML or from the text of a flag, and how it is written back.
 * PURE. A kind throws `BadValue` with a phrase that completes "<key> …"; the caller knows where the value came from.
 *
 * `""` never comes here as a whole value: programs in Go write it where nothing is set, and the caller takes the
 * default. Values with a grammar of their own are in formats.ts.
 */

/** The value is of the wrong type or means nothing; the message continues a sentence that begins with the key. */
export class BadValue extends Error {}

/** Hears what is odd about a value that is taken all the same, as a phrase that completes "<key> …". */
export type Remark = (what: string) => void;

/** How values of one type are read, taken from text, and shown. */
export interface Kind<T> {
  /** `none` is a switch, `list` may be given many times, `value` once. */
  readonly argument: 'none' | 'value' | 'list';
  /** From what TOML gave. @throws BadValue */
  parse(raw: unknown, remark?: Remark): T;
  /** From the text of a flag or of an environment variable, to what TOML would have given. @throws BadValue */
  fromText(text: string): unknown;
  /** As TOML text, which gives an equal value when it is read. */
  show(value: T): string;
  /** For tables: what two files give together, in what TOML gave; without it the later one wins whole. */
  combine?(earlier: unknown, later: unknown): unknown;
}

/** An entry of a list. `parse` gives undefined for one that is left out, having remarked on it. */
export interface Item<T> {
  parse(raw: unknown, remark?: Remark): T | undefined;
  show(value: T): string;
}

/** Any string. */
export const text: Kind<string> = {
  argument: 'value',
  parse: (raw) => string(raw),
  fromText: (given) => given,
  show: (value) => JSON.stringify(value),
};

/** An absolute path, normalised. Where Berth makes directories: what is relative would be made who knows where. */
export const path: Kind<string> = {
  ...text,
  parse(raw) {
    const value = string(raw);
    if (!value.startsWith('/')) throw new BadValue(`wants an absolute path, got ${JSON.stringify(value)}`);
    return normalized(value);
  },
};

/**
 * The path of something that is there already. A relative one is taken from the root directory, where a unit of systemd
 * begins, with a remark: CRI-O takes it from its working directory.
 */
export const file: Kind<string> = {
  ...text,
  parse(raw, remark) {
    const value = string(raw);
    if (value.startsWith('/')) return normalized(value);
    remark?.(`is relative (${JSON.stringify(value)}), and is taken from /; write the whole path`);
    return normalized(`/${value}`);
  },
};

/** A program by its absolute path, or by a name to look for in PATH. */
export const program: Kind<string> = {
  ...text,
  parse(raw, remark) {
    const value = string(raw);
    return value.includes('/') ? file.parse(value, remark) : value;
  },
};

function normalized(value: string): string {
  if (value.includes('\0')) throw new BadValue(`wants a path without NUL, got ${JSON.stringify(value)}`);
  const parts: string[] = [];
  for (const part of value.split('/')) {
    if (part === '..') parts.pop();
    else if (part !== '' && part !== '.') parts.push(part);
  }
  return `/${parts.join('/')}`;
}

/** The words of Go's strconv.ParseBool, by which CRI-O reads its flags and variables. */
const TRUE = new Set(['1', 't', 'T', 'TRUE', 'true', 'True']);
const FALSE = new Set(['0', 'f', 'F', 'FALSE', 'false', 'False']);

/** A switch. */
export const flag: Kind<boolean> = {
  argument: 'none',
  parse(raw) {
    if (typeof raw !== 'boolean') throw new BadValue(`wants true or false, got ${kindOf(raw)}`);
    return raw;
  },
  fromText(given) {
    if (TRUE.has(given)) return true;
    if (FALSE.has(given)) return false;
    throw new BadValue(`wants true or false, got ${JSON.stringify(given)}`);
  },
  show: (value) => String(value),
};

/** A whole number between `min` and `max`. */
export function integer(min: number, max = Number.MAX_SAFE_INTEGER): Kind<number> {
  return {
    argument: 'value',
    parse(raw) {
      if (typeof raw !== 'number' || !Number.isSafeInteger(raw))
        throw new BadValue(`wants a whole number, got ${kindOf(raw)}`);
      if (raw < min || raw > max) throw new BadValue(`wants a number from ${min} to ${max}, got ${raw}`);
      return raw;
    },
    fromText(given) {
      if (!/^[-+]?[0-9]{1,15}$/.test(given)) throw new BadValue(`wants a whole number, got ${JSON.stringify(given)}`);
      return Number(given);
    },
    show: (value) => String(value),
  };
}

/** A whole number, of which everything below zero means "no limit", as CRI-O has it: -1 here. */
export const integerOrNone: Kind<number> = {
  ...integer(-1),
  parse: (raw) => Math.max(-1, integer(-Number.MAX_SAFE_INTEGER).parse(raw)),
};

/** One of a few words. */
export function choice<const W extends string>(...words: readonly W[]): Kind<W> {
  return {
    argument: 'value',
    parse(raw) {
      const value = string(raw);
      const word = words.find((each) => each === value);
      if (word === undefined)
        throw new BadValue(
          `wants one of ${words.map((each) => JSON.stringify(each)).join(', ')}, got ${JSON.stringify(value)}`,
        );
      return word;
    },
    fromText: (given) => given,
    show: (value) => JSON.stringify(value),
  };
}

/** An array whose entries are read by `item`, which takes strings. Empty ones are left out without a word. */
export function list<T>(item: Item<T>): Kind<readonly T[]> {
  return {
    argument: 'list',
    parse(raw, remark) {
      if (!Array.isArray(raw)) throw new BadValue(`wants an array of strings, got ${kindOf(raw)}`);
      return raw.flatMap((each) => {
        const parsed = each === '' ? undefined : item.parse(each, remark);
        return parsed === undefined ? [] : [parsed];
      });
    },
    fromText: (given) =>
      given
        .split(',')
        .map((each) => each.trim())
        .filter((each) => each !== ''),
    show: (value) => `[${value.map((each) => item.show(each)).join(', ')}]`,
  };
}

/** Strings. */
export const texts = list(text);

/** Paths of directories that may be there. */
export const files = list(file);

/** A table of crio.conf whose inside Berth does not look at; what is false or empty in it says nothing. */
export const settings: Kind<unknown> = {
  argument: 'value',
  parse(raw) {
    if (typeof raw !== 'object' || raw === null || Array.isArray(raw))
      throw new BadValue(`wants a table, got ${kindOf(raw)}`);
    return Object.fromEntries(Object.entries(raw).filter(([, each]) => each !== false && String(each) !== ''));
  },
  fromText: (given) => given,
  show: (value) => JSON.stringify(value),
};

/** Text that a message may show: what type TOML gave. */
export function kindOf(raw: unknown): string {
  if (Array.isArray(raw)) return 'an array';
  if (raw instanceof Date) return 'a date';
  if (typeof raw === 'object') return 'a table';
  if (typeof raw === 'string') return `the string ${JSON.stringify(raw.slice(0, 80))}`;
  if (typeof raw === 'number' || typeof raw === 'bigint') return `the number ${raw}`;
  return typeof raw === 'boolean' ? `the boolean ${raw}` : 'nothing';
}

/** `raw`, if it is a string. @throws BadValue */
export function string(raw: unknown): string {
  if (typeof raw !== 'string') throw new BadValue(`wants a string, got ${kindOf(raw)}`);
  return raw;
}

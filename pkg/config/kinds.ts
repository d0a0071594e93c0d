/**
 * What a configuration value may be: how it is read from TOML or from the text of a flag, and how it is written back.
 * PURE. A kind throws `BadValue` with a phrase that completes "<key> …"; the caller knows where the value came from.
 */

/** The value is of the wrong type or means nothing; the message continues a sentence that begins with the key. */
export class BadValue extends Error {}

export interface Kind<T> {
  /** `none` is a switch, `list` may be given many times, `value` once. */
  readonly argument: 'none' | 'value' | 'list';
  /** From what TOML gave. @throws BadValue */
  parse(raw: unknown): T;
  /** From the text of a flag or of an environment variable, to what TOML would have given. @throws BadValue */
  fromText(text: string): unknown;
  /** As TOML text. */
  show(value: T): string;
  /** For tables: what two files give together, in what TOML gave; without it the later one wins whole. */
  combine?(earlier: unknown, later: unknown): unknown;
}

export const text: Kind<string> = {
  argument: 'value',
  parse: (raw) => string(raw),
  fromText: (given) => given,
  show: (value) => JSON.stringify(value),
};

/** An absolute path without `..`, or '' where an option says that it may be empty. */
export const path: Kind<string> = {
  ...text,
  parse(raw) {
    const value = string(raw);
    if (value === '') return '';
    if (!value.startsWith('/')) throw new BadValue(`wants an absolute path, got ${JSON.stringify(value)}`);
    if (value.split('/').includes('..') || value.includes('\0'))
      throw new BadValue(`wants a path without "..", got ${JSON.stringify(value)}`);
    return value.length > 1 ? value.replace(/\/+$/, '') || '/' : value;
  },
};

export const flag: Kind<boolean> = {
  argument: 'none',
  parse(raw) {
    if (typeof raw !== 'boolean') throw new BadValue(`wants true or false, got ${kindOf(raw)}`);
    return raw;
  },
  fromText(given) {
    if (given === 'true' || given === '1' || given === '') return true;
    if (given === 'false' || given === '0') return false;
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
      if (!/^-?[0-9]{1,15}$/.test(given)) throw new BadValue(`wants a whole number, got ${JSON.stringify(given)}`);
      return Number(given);
    },
    show: (value) => String(value),
  };
}

/** A TCP port that crio.conf writes as a string; "0" lets the kernel choose. */
export const portText: Kind<number> = {
  argument: 'value',
  parse(raw) {
    const value = string(raw);
    if (!/^[0-9]{1,5}$/.test(value) || Number(value) > 65_535)
      throw new BadValue(`wants a port as a string ("0" to "65535"), got ${JSON.stringify(value)}`);
    return Number(value);
  },
  fromText: (given) => given,
  show: (value) => JSON.stringify(String(value)),
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

/** Whole seconds in the file, milliseconds here. */
export function seconds(min = 0): Kind<number> {
  const inner = integer(min, 31_536_000);
  return { ...inner, parse: (raw) => inner.parse(raw) * 1000, show: (value) => inner.show(value / 1000) };
}

const DURATION_UNITS: ReadonlyMap<string, number> = new Map([
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
]);

/** A duration as Go writes it ("1m30s"); milliseconds here, '' is `whenEmpty`. */
export function duration(whenEmpty: number): Kind<number> {
  return {
    argument: 'value',
    parse(raw) {
      const value = string(raw);
      if (value === '') return whenEmpty;
      if (value === '0') return 0;
      if (value.length > 32 || !/^(?:[0-9]+(?:\.[0-9]+)?(?:h|ms|m|s))+$/.test(value))
        throw new BadValue(`wants a duration like "30s" or "1m30s", got ${JSON.stringify(value)}`);
      let ms = 0;
      for (const [, count, unit] of value.matchAll(/([0-9.]+)(h|ms|m|s)/g))
        ms += Number(count) * (DURATION_UNITS.get(unit ?? '') ?? 0);
      return Math.round(ms);
    },
    fromText: (given) => given,
    show: (value) => JSON.stringify(value % 1000 === 0 ? `${value / 1000}s` : `${value}ms`),
  };
}

/** An array whose items are read by `item`, which takes strings. */
export function list<T>(item: { parse(raw: unknown): T; show(value: T): string }): Kind<readonly T[]> {
  return {
    argument: 'list',
    parse(raw) {
      if (!Array.isArray(raw)) throw new BadValue(`wants an array of strings, got ${kindOf(raw)}`);
      return raw.map((each) => item.parse(each));
    },
    fromText: (given) =>
      given
        .split(',')
        .map((each) => each.trim())
        .filter((each) => each !== ''),
    show: (value) => `[${value.map((each) => item.show(each)).join(', ')}]`,
  };
}

/** `KEY=value`, for environments. */
export const environmentEntry = {
  parse(raw: unknown): string {
    const value = string(raw);
    if (!/^[^=\0]+=[^\0]*$/.test(value)) throw new BadValue(`wants NAME=value, got ${JSON.stringify(value)}`);
    return value;
  },
  show: (value: string): string => JSON.stringify(value),
};

/** A capability, with or without `CAP_`, in any case; `CAP_CHOWN` here. */
export const capability = {
  parse(raw: unknown): string {
    const value = string(raw).toUpperCase().replace(/^CAP_/, '');
    if (!/^[A-Z][A-Z0-9_]{1,30}$/.test(value))
      throw new BadValue(`wants capability names like "CHOWN", got ${JSON.stringify(raw)}`);
    return `CAP_${value}`;
  },
  show: (value: string): string => JSON.stringify(value.replace(/^CAP_/, '')),
};

/** A resource limit for every container. `infinity` is 2^64-1, as the kernel has it. */
export interface Ulimit {
  /** `nofile` in the file, `RLIMIT_NOFILE` here. */
  readonly name: string;
  readonly soft: bigint;
  readonly hard: bigint;
}

const RLIMITS = [
  'as',
  'core',
  'cpu',
  'data',
  'fsize',
  'locks',
  'memlock',
  'msgqueue',
  'nice',
  'nofile',
  'nproc',
  'rss',
  'rtprio',
  'rttime',
  'sigpending',
  'stack',
];

/** `name=soft[:hard]`; -1 is unlimited; the hard limit is the soft one if left out. */
export const ulimit = {
  parse(raw: unknown): Ulimit {
    const value = string(raw);
    const match = /^([a-z]+)=(-1|[0-9]{1,19})(?::(-1|[0-9]{1,19}))?$/.exec(value);
    const name = match?.[1] ?? '';
    if (match === null || !RLIMITS.includes(name))
      throw new BadValue(`wants "nofile=1024:2048" with one of ${RLIMITS.join(', ')}, got ${JSON.stringify(value)}`);
    const soft = BigInt.asUintN(64, BigInt(match[2] ?? ''));
    const hard = match[3] === undefined ? soft : BigInt.asUintN(64, BigInt(match[3]));
    if (soft > hard) throw new BadValue(`has a soft limit above the hard one: ${JSON.stringify(value)}`);
    return { name: `RLIMIT_${name.toUpperCase()}`, soft, hard };
  },
  show: ({ name, soft, hard }: Ulimit): string =>
    JSON.stringify(
      `${name.replace('RLIMIT_', '').toLowerCase()}=${BigInt.asIntN(64, soft)}:${BigInt.asIntN(64, hard)}`,
    ),
};

/**
 * `["name=value", …]` as a map. Whether a name is namespaced, and what its dots and slashes mean, is the sandbox's
 * question; here the entry must be one name and one value that can be written literally, so that none smuggles a second
 * one (CVE-2022-0811).
 */
export const sysctls: Kind<ReadonlyMap<string, string>> = {
  ...list(text),
  parse(raw) {
    if (!Array.isArray(raw)) throw new BadValue(`wants an array of "name=value", got ${kindOf(raw)}`);
    const map = new Map<string, string>();
    for (const each of raw as readonly unknown[]) {
      const match = /^\s*([a-z0-9_]+(?:[./][a-zA-Z0-9_-]+)+)\s*=\s*([^+=\n\r\0]+?)\s*$/.exec(string(each));
      if (match === null)
        throw new BadValue(
          `wants "name=value" without "+", "=" or a newline in the value, got ${JSON.stringify(each)}`,
        );
      map.set(match[1] ?? '', match[2] ?? '');
    }
    return map;
  },
  show: (value) => `[${[...value].map(([name, each]) => JSON.stringify(`${name}=${each}`)).join(', ')}]`,
};

/** A host device for every container. */
export interface AdditionalDevice {
  readonly hostPath: string;
  readonly containerPath: string;
  /** A subset of `rwm`. */
  readonly permissions: string;
}

/** `host[:container][:permissions]`. */
export const device = {
  parse(raw: unknown): AdditionalDevice {
    const value = string(raw);
    const parts = value.split(':');
    const last = parts.at(-1) ?? '';
    const permissions = parts.length > 1 && /^(?=.)r?w?m?$/.test(last) ? (parts.pop() ?? '') : 'rwm';
    const hostPath = parts[0] ?? '';
    const containerPath = parts[1] ?? hostPath;
    const bad =
      parts.length > 2 ||
      [hostPath, containerPath].some((each) => !/^\/dev\/[^\0]+$/.test(each) || each.split('/').includes('..'));
    if (bad) throw new BadValue(`wants "/dev/host[:/dev/container][:rwm]", got ${JSON.stringify(value)}`);
    return { hostPath, containerPath, permissions };
  },
  show: (value: AdditionalDevice): string =>
    JSON.stringify(`${value.hostPath}:${value.containerPath}:${value.permissions}`),
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

function string(raw: unknown): string {
  if (typeof raw !== 'string') throw new BadValue(`wants a string, got ${kindOf(raw)}`);
  return raw;
}

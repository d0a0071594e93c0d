/** Values of crio.conf that have a grammar of their own. PURE; they throw `BadValue` as the kinds do. */
import { BadValue, integer, type Item, type Kind, kindOf, list, string, text, texts } from './kinds.ts';

/** A TCP port that crio.conf writes as a string; "0" lets the kernel choose. */
export const portText: Kind<number> = {
  argument: 'value',
  parse(raw) {
    const value = typeof raw === 'number' ? String(raw) : string(raw);
    if (!/^[0-9]{1,5}$/.test(value) || Number(value) > 65_535)
      throw new BadValue(`wants a port as a string ("0" to "65535"), got ${JSON.stringify(value)}`);
    return Number(value);
  },
  fromText: (given) => given,
  show: (value) => JSON.stringify(String(value)),
};

/** Whole seconds in the file, milliseconds here; what is below `min` is `min`, with a remark. */
export function seconds(min: number): Kind<number> {
  const inner = integer(-Number.MAX_SAFE_INTEGER);
  return {
    ...inner,
    parse(raw, remark) {
      const value = inner.parse(raw);
      if (value < min) remark?.(`is below ${min} seconds, using ${min}`);
      return Math.min(Math.max(min, value), SECONDS_MAX) * 1000;
    },
    show: (value) => inner.show(value / 1000),
  };
}

/** A year: longer is "for ever", and timers of Node end at 24 days anyway. */
const SECONDS_MAX = 31_536_000;

const DURATION_UNITS: ReadonlyMap<string, number> = new Map([
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
  ['ms', 1],
  ['us', 1e-3],
  ['µs', 1e-3],
  ['μs', 1e-3],
  ['ns', 1e-6],
]);
const DURATION = /^[-+]?(?:(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:h|ms|m|s|us|µs|μs|ns))+$/;

/** A duration as Go writes it ("1m30s", or a number of nanoseconds); milliseconds here. Below zero is zero. */
export const duration: Kind<number> = {
  argument: 'value',
  parse(raw) {
    if (typeof raw === 'number' || typeof raw === 'bigint') return Math.max(0, Math.round(Number(raw) / 1e6));
    const value = string(raw);
    if (value === '0') return 0;
    if (value.length > 64 || !DURATION.test(value))
      throw new BadValue(`wants a duration like "30s" or "1m30s", got ${JSON.stringify(value)}`);
    let ms = 0;
    for (const [, count, unit] of value.matchAll(/([0-9.]+)(h|ms|m|s|us|µs|μs|ns)/g))
      ms += Number(count) * (DURATION_UNITS.get(unit ?? '') ?? 0);
    return value.startsWith('-') ? 0 : Math.round(ms);
  },
  fromText: (given) => given,
  show: (value) => JSON.stringify(value % 1000 === 0 ? `${value / 1000}s` : `${value}ms`),
};

/** The levels of logrus that CRI-O takes, in any case; `warning` is `warn`. */
const LOG_LEVELS = ['fatal', 'panic', 'error', 'warn', 'info', 'debug', 'trace'] as const;

/** One of the log levels. */
export const logLevel: Kind<(typeof LOG_LEVELS)[number]> = {
  argument: 'value',
  parse(raw) {
    const value = string(raw).toLowerCase().replace('warning', 'warn');
    const level = LOG_LEVELS.find((each) => each === value);
    if (level === undefined)
      throw new BadValue(
        `wants one of ${LOG_LEVELS.map((each) => `"${each}"`).join(', ')}, got ${JSON.stringify(raw)}`,
      );
    return level;
  },
  fromText: (given) => given,
  show: (value) => JSON.stringify(value),
};

/** There is one storage driver, whatever the file names: images and containers of others are not taken over anyway. */
export const storageDriver: Kind<'overlay'> = {
  ...text,
  parse(raw, remark) {
    const value = string(raw);
    if (value !== 'overlay' && value !== 'overlay2')
      remark?.(`names ${JSON.stringify(value)}, which is not here: "overlay" is used`);
    return 'overlay';
  },
};

/** Options of the driver. Files add to each other; of equal ones the last stays, as CRI-O has it. */
export const storageOptions: Kind<readonly string[]> = {
  ...texts,
  combine: (earlier, later) => [...new Set([...texts.parse(earlier), ...texts.parse(later)].reverse())].reverse(),
};

/** `KEY=value`, for environments. What is no assignment is left out with a remark, as no program would see it. */
export const environmentEntry: Item<string> = {
  parse(raw, remark) {
    const value = string(raw);
    if (/^[^=\0]+=[^\0]*$/.test(value)) return value;
    remark?.(`has ${JSON.stringify(value)}, which is not NAME=value: left out`);
    return undefined;
  },
  show: (value) => JSON.stringify(value),
};

/** A capability, with or without `CAP_`, in any case; `CAP_CHOWN` here. */
export const capability: Item<string> = {
  parse(raw) {
    const value = string(raw).toUpperCase().replace(/^CAP_/, '');
    if (!/^[A-Z][A-Z0-9_]{1,30}$/.test(value))
      throw new BadValue(`wants capability names like "CHOWN", got ${JSON.stringify(raw)}`);
    return `CAP_${value}`;
  },
  show: (value) => JSON.stringify(value.replace(/^CAP_/, '')),
};

/** A resource limit for every container. `infinity` is 2^64-1, as the kernel has it. */
export interface Ulimit {
  /** `nofile` in the file, `RLIMIT_NOFILE` here. */
  readonly name: string;
  readonly soft: bigint;
  readonly hard: bigint;
}

const RLIMITS =
  'as core cpu data fsize locks memlock msgqueue nice nofile nproc rss rtprio rttime sigpending stack'.split(' ');

/** `name=soft[:hard]`; -1 is unlimited; the hard limit is the soft one if left out. */
export const ulimit: Item<Ulimit> = {
  parse(raw) {
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
  show: ({ name, soft, hard }) =>
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
      if (each === '') continue;
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
export const device: Item<AdditionalDevice> = {
  parse(raw) {
    const value = string(raw);
    const parts = value.split(':');
    const last = parts.at(-1) ?? '';
    const permissions = parts.length > 1 && /^(?=.)r?w?m?$/.test(last) ? (parts.pop() ?? '') : 'rwm';
    const hostPath = parts[0] ?? '';
    const containerPath = parts[1] || hostPath;
    const bad =
      parts.length > 2 ||
      !hostPath.startsWith('/') ||
      !containerPath.startsWith('/dev/') ||
      [hostPath, containerPath].some((each) => each.includes('\0') || each.split('/').includes('..'));
    if (bad) throw new BadValue(`wants "/dev/host[:/dev/container][:rwm]", got ${JSON.stringify(value)}`);
    return { hostPath, containerPath, permissions };
  },
  show: (value) => JSON.stringify(`${value.hostPath}:${value.containerPath}:${value.permissions}`),
};

/** A list of CPUs as in cpuset(7), or ''. */
export const cpuset: Kind<string> = {
  ...text,
  parse(raw) {
    const value = string(raw);
    if (!/^(\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*)?$/.test(value))
      throw new BadValue(`wants a list of CPUs such as "0-3,7", got ${JSON.stringify(value)}`);
    return value;
  },
};

/** conmon reads 8 KiB at a time; a log that holds less could hold none of it. */
const LOG_SIZE_LEAST = 8192;

/** Bytes after which a log is begun anew; -1 is no limit. */
export const logSize: Kind<number> = {
  ...integer(-1),
  parse(raw) {
    const value = Math.max(-1, integer(-Number.MAX_SAFE_INTEGER).parse(raw));
    if (value >= 0 && value < LOG_SIZE_LEAST)
      throw new BadValue(`wants -1 for no limit, or at least ${LOG_SIZE_LEAST} bytes, got ${value}`);
    return value;
  },
};

const SHIFTS: ReadonlyMap<string, number> = new Map([
  ['', 0],
  ['k', 10],
  ['m', 20],
  ['g', 30],
  ['t', 40],
  ['p', 50],
]);

/**
 * "12MiB", "7.5m", "500KB" or bytes; every unit is a power of 1024, as CRI-O reads it. What is no size is 0 with a
 * remark, as CRI-O takes its default then.
 */
export const memory: Kind<bigint> = {
  ...text,
  parse(raw, remark) {
    const value = typeof raw === 'number' || typeof raw === 'bigint' ? String(raw) : string(raw);
    const match = /^([0-9]{1,15}(?:\.[0-9]{1,9})?)\s*([kmgtp]?)(?:i?b)?$/i.exec(value.trim());
    if (match === null) {
      remark?.(`wants a size like "12MiB", got ${JSON.stringify(value)}: the default is used`);
      return 0n;
    }
    return BigInt(Math.floor(Number(match[1]) * 2 ** (SHIFTS.get((match[2] ?? '').toLowerCase()) ?? 0)));
  },
  show: (value) => JSON.stringify(String(value)),
};

/** An IANA name, or `Local` in any case for that of the node. */
export const timezone: Kind<string> = {
  ...text,
  parse(raw) {
    const value = string(raw);
    return value.toLowerCase() === 'local' ? 'Local' : value;
  },
};

/** A name of an AppArmor profile. What CRI-O calls its own is ours. */
export const apparmorProfile: Kind<string> = {
  ...text,
  parse(raw) {
    const value = string(raw);
    if (!/^[^\s\0]{1,256}$/.test(value))
      throw new BadValue(`wants the name of a profile, got ${JSON.stringify(value)}`);
    return value;
  },
};

/** What Go calls secure, whose names crio.conf uses. */
const SECURE_SUITES = new Set([
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  ...['ECDSA', 'RSA'].flatMap((key) =>
    ['AES_128_CBC_SHA', 'AES_256_CBC_SHA', 'AES_128_GCM_SHA256', 'AES_256_GCM_SHA384', 'CHACHA20_POLY1305_SHA256'].map(
      (rest) => `TLS_ECDHE_${key}_WITH_${rest}`,
    ),
  ),
]);
/** What Go has beside them and calls insecure: no forward secrecy, RC4, 3DES, and CBC with SHA-256 (Lucky13). */
const INSECURE_SUITE = new RegExp(
  '^TLS_(RSA_WITH_(RC4_128_SHA|3DES_EDE_CBC_SHA|AES_(128|256)_CBC_SHA|AES_128_(CBC|GCM)_SHA256|AES_256_GCM_SHA384)|' +
    'ECDHE_(ECDSA|RSA)_WITH_(RC4_128_SHA|AES_128_CBC_SHA256)|ECDHE_RSA_WITH_3DES_EDE_CBC_SHA)$',
);

/** A cipher suite by its IANA name, or by one that Kubernetes takes, too; an insecure one is left out. */
export const cipherSuite: Item<string> = {
  parse(raw, remark) {
    const value = string(raw);
    const name = value.endsWith('_CHACHA20_POLY1305') ? `${value}_SHA256` : value;
    if (SECURE_SUITES.has(name)) return name;
    if (!INSECURE_SUITE.test(name))
      throw new BadValue(`wants names of cipher suites as Go has them, got ${JSON.stringify(value)}`);
    remark?.(`has ${value}, which is not secure: left out`);
    return undefined;
  },
  show: (value) => JSON.stringify(value),
};

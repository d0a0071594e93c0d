/** PURE. Texts of the kernel as numbers: what is not of the expected form is undefined, never an error. */
import type { DeviceIo, InterfaceCounters, Pressure, PressureLine } from './reading.ts';

/** Where a file lies in the text of all. */
export interface Span {
  readonly text: string;
  readonly from: number;
  readonly to: number;
}

/** A file that holds one number; undefined for `max` and anything else. */
export function number({ text, from, to }: Span): bigint | undefined {
  return digits(text, from, text[to - 1] === '\n' ? to - 1 : to);
}

/** The value of `name` in a file of `name value` lines. */
export function field(file: Span, name: string): bigint | undefined {
  return fields(file)(name);
}

/**
 * Values by name in a file of `name value` lines, looked for from where the last one was: quickest in the order of the
 * file, which may change.
 */
export function fields({ text, from, to }: Span): (name: string) => bigint | undefined {
  // Cut out, so that what is not there is not looked for in what follows.
  const file = `\n${text.slice(from, to)}`;
  let last = 0;
  return (name) => {
    const word = `\n${name} `;
    let line = file.indexOf(word, last);
    if (line < 0 && last > 0) line = file.indexOf(word);
    if (line < 0) return undefined;
    last = line;
    const at = line + word.length;
    const end = file.indexOf('\n', at);
    return digits(file, at, end < 0 ? file.length : end);
  };
}

/**
 * A whole number made of digits alone. Most have few, and a double is exact for those and several times as fast to
 * make.
 */
function digits(text: string, from: number, to: number): bigint | undefined {
  const length = to - from;
  if (length <= 0 || length > 20) return undefined;
  let value = 0;
  for (let i = from; i < to; i++) {
    const digit = text.charCodeAt(i) - 48;
    if (digit < 0 || digit > 9) return undefined;
    value = value * 10 + digit;
  }
  if (value === 0) return 0n;
  return length < 16 ? BigInt(value) : BigInt(text.slice(from, to));
}

/** v1 says "no limit" with the largest number of whole pages, which depends on the page size. */
export function limit(value: bigint | undefined): bigint | undefined {
  return value === undefined || value >= UNLIMITED ? undefined : value;
}
const UNLIMITED = 1n << 62n;

/** Microseconds as nanoseconds. */
export function micros(value: bigint | undefined): bigint | undefined {
  return value === undefined ? undefined : value * 1000n;
}

/** The smaller of two limits, of which either may be none. */
export function least(a: bigint | undefined, b: bigint | undefined): bigint | undefined {
  if (a === undefined || b === undefined) return a ?? b;
  return a < b ? a : b;
}

/** The larger one. */
export function most(a: bigint, b: bigint): bigint {
  return a > b ? a : b;
}

const NO_IO = { readBytes: 0n, writeBytes: 0n, reads: 0n, writes: 0n };
type IoField = keyof typeof NO_IO;

/** `8:0 Read 4096` lines; Sync, Async, Discard and Total are other views of the same. */
export function blkio(
  known: readonly DeviceIo[] | undefined,
  { text, from, to }: Span,
  read: IoField,
  write: IoField,
): DeviceIo[] {
  const devices = new Map((known ?? []).map((each) => [each.device, each]));
  for (const [, device = '', operation, value = '0'] of text
    .slice(from, to)
    .matchAll(/^(\d+:\d+) (Read|Write) (\d+)$/gm)) {
    devices.set(device, {
      device,
      ...NO_IO,
      ...devices.get(device),
      [operation === 'Read' ? read : write]: BigInt(value),
    });
  }
  return [...devices.values()];
}

/** `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6` lines; a device without a word yet has only its number. */
export function ioStat({ text, from, to }: Span): DeviceIo[] {
  const names: Readonly<Record<string, IoField>> = {
    rbytes: 'readBytes',
    wbytes: 'writeBytes',
    rios: 'reads',
    wios: 'writes',
  };
  return Array.from(text.slice(from, to).matchAll(/^(\d+:\d+)((?: \w+=\d+)+)$/gm), ([, device = '', words = '']) => {
    const found: { [K in IoField]: bigint } = { ...NO_IO };
    for (const [, name = '', value = '0'] of words.matchAll(/(\w+)=(\d+)/g)) {
      const to = Object.hasOwn(names, name) ? names[name] : undefined;
      if (to !== undefined) found[to] = BigInt(value);
    }
    return { device, ...found };
  });
}

/** `some avg10=0.00 avg60=0.00 avg300=0.00 total=0` and the same with `full`; microseconds become nanoseconds. */
export function pressure({ text, from, to }: Span): Pressure | undefined {
  const some = from < to ? pressureLine(text, from, 'some ') : undefined;
  const second = some === undefined ? from : lineAfter(text, from);
  const full = second < to ? pressureLine(text, second, 'full ') : undefined;
  return some === undefined && full === undefined ? undefined : { some, full };
}

function pressureLine(text: string, from: number, word: string): PressureLine | undefined {
  if (!text.startsWith(word, from)) return undefined;
  let at = from + word.length;
  if (text.startsWith(CALM, at)) return line(0, 0, 0, text, at + CALM.length);
  /** What follows `name` here, up to the next space or line feed. */
  const next = (name: string): string => {
    if (!text.startsWith(name, at)) return '';
    const start = at + name.length;
    at = start;
    for (let char = text.charCodeAt(at); char > SPACE; char = text.charCodeAt(at)) at++;
    const value = text.slice(start, at);
    if (text.charCodeAt(at) === SPACE) at++;
    return value;
  };
  const [avg10, avg60, avg300] = [Number(next('avg10=')), Number(next('avg60=')), Number(next('avg300='))];
  return text.startsWith('total=', at) ? line(avg10, avg60, avg300, text, at + 'total='.length) : undefined;
}

function line(avg10: number, avg60: number, avg300: number, text: string, totalAt: number): PressureLine | undefined {
  const end = text.indexOf('\n', totalAt);
  const micros = digits(text, totalAt, end < 0 ? text.length : end);
  return micros === undefined ? undefined : { totalNanos: micros * 1000n, avg10, avg60, avg300 };
}

const SPACE = 32;
/** Most cgroups wait for nothing. */
const CALM = 'avg10=0.00 avg60=0.00 avg300=0.00 total=';

/**
 * /proc/net/dev without the loopback, in the kernel's order. A name may touch its first counter (`eth0:1234`).
 */
export function parseNetDev({ text, from, to }: Span): InterfaceCounters[] {
  const found: InterfaceCounters[] = [];
  // Two lines of titles come first.
  for (let start = lineAfter(text, lineAfter(text, from)); start < to; start = lineAfter(text, start)) {
    const end = Math.min(lineAfter(text, start), to);
    const colon = text.lastIndexOf(':', end - 1);
    if (colon < start) continue;
    const name = text.slice(start, colon).trim();
    const counters = name === 'lo' ? undefined : numbersIn(text, colon + 1, end);
    if (counters === undefined || counters.length < 12) continue;
    const [
      rxBytes = 0n,
      rxPackets = 0n,
      rxErrors = 0n,
      rxDropped = 0n,
      ,
      ,
      ,
      ,
      txBytes = 0n,
      txPackets = 0n,
      txErrors = 0n,
      txDropped = 0n,
    ] = counters;
    found.push({ name, rxBytes, rxPackets, rxErrors, rxDropped, txBytes, txPackets, txErrors, txDropped });
  }
  return found;
}

/** Where the next line begins. */
function lineAfter(text: string, from: number): number {
  const end = text.indexOf('\n', from);
  return end < 0 ? text.length : end + 1;
}

/** Numbers with white space between them; undefined if there is anything else. */
function numbersIn(text: string, from: number, to: number): bigint[] | undefined {
  const found: bigint[] = [];
  for (let at = from; at < to; at++) {
    if (text.charCodeAt(at) <= SPACE) continue;
    const start = at;
    while (at < to && text.charCodeAt(at) > SPACE) at++;
    const value = digits(text, start, at);
    if (value === undefined) return undefined;
    found.push(value);
  }
  return found;
}

/** The soft limit of open files in /proc/<pid>/limits; -1n for unlimited. */
export function softFileLimit(limits: string): bigint | undefined {
  const soft = /^Max open files\s+(\d+|unlimited)\s/m.exec(limits)?.[1];
  if (soft === undefined) return undefined;
  return soft === 'unlimited' ? -1n : BigInt(soft);
}

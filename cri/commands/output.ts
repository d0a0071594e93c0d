/**
 * What commands print: tables, ages, sizes, colour where a person looks. Text that comes from containers and images may
 * hold control characters, which a terminal would obey; here they are shown.
 */
import { toJson } from '../json.ts';

/** How text looks where there is colour. */
export type Style = 'green' | 'red' | 'yellow' | 'dim' | 'bold';
const CODES: Readonly<Record<Style, string>> = { green: '32', red: '31', yellow: '33', dim: '2', bold: '1' };

/** Where output goes. */
export interface Screen {
  /** A person looks at it. */
  readonly isTerminal: boolean;
  /** The text in colour, if this screen has any. */
  paint(style: Style, text: string): string;
  write(text: string): void;
}

/** Colour only on terminals, and not where NO_COLOR is set or the terminal is dumb (no-color.org). */
export function screenOf(stream: NodeJS.WriteStream, env: NodeJS.ProcessEnv): Screen {
  const colours = stream.isTTY && (env['NO_COLOR'] ?? '') === '' && env['TERM'] !== 'dumb';
  return {
    isTerminal: stream.isTTY,
    paint: (style, text) => (colours ? `\x1b[${CODES[style]}m${text}\x1b[0m` : text),
    write: (text) => void stream.write(text),
  };
}

/** A cell: its text, and how it looks. */
export type Cell = string | { readonly text: string; readonly style: Style | undefined };

/** Columns as wide as their widest cell, two spaces apart; the last one ragged. One line per row, each ended. */
export function table(screen: Screen, header: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const all = [header.map((text): Cell => ({ text, style: 'bold' })), ...rows].map((row) =>
    row.map((cell) =>
      typeof cell === 'string' ? { text: plain(cell), style: undefined } : { ...cell, text: plain(cell.text) },
    ),
  );
  const widths = header.map((_, column) => Math.max(...all.map((row) => row[column]?.text.length ?? 0)));
  const line = (row: (typeof all)[number]): string =>
    row
      .map(({ text, style }, column) => {
        const padding = column === row.length - 1 ? '' : ' '.repeat((widths[column] ?? 0) - text.length + 2);
        return (style === undefined ? text : screen.paint(style, text)) + padding;
      })
      .join('')
      .trimEnd();
  return `${all.map(line).join('\n')}\n`;
}

/** Control characters, also those above ASCII, as `\x1b`. */
export function plain(text: string): string {
  // oxlint-disable-next-line no-control-regex -- control characters are what it looks for
  return text.replace(/[\x00-\x1f\x7f-\x9f]/g, (char) => `\\x${char.charCodeAt(0).toString(16).padStart(2, '0')}`);
}

/** JSON of a reply, for programs. */
export function printJson(screen: Screen, value: unknown): void {
  screen.write(`${toJson(value, 2)}\n`);
}

/** `3 hours ago`; '-' for 0. Nanoseconds since the epoch. */
export function ago(at: bigint, now: bigint): string {
  return at === 0n ? '-' : `${duration(now > at ? now - at : 0n)} ago`;
}

const UNITS: readonly (readonly [nanos: bigint, name: string])[] = [
  [86_400_000_000_000n, 'day'],
  [3_600_000_000_000n, 'hour'],
  [60_000_000_000n, 'minute'],
  [1_000_000_000n, 'second'],
];

/** The largest unit that fits: `2 minutes`. */
export function duration(nanos: bigint): string {
  const [size, name] = UNITS.find(([each]) => nanos >= each) ?? [1_000_000_000n, 'second'];
  const count = nanos / size;
  return `${count} ${name}${count === 1n ? '' : 's'}`;
}

/** `12.3MB`, in units of 1000 as crictl prints them; '-' for what is not known. */
export function bytes(count: bigint | undefined): string {
  if (count === undefined) return '-';
  let value = Number(count);
  let unit = 0;
  const units = ['B', 'kB', 'MB', 'GB', 'TB', 'PB'];
  for (; value >= 999.5 && unit < units.length - 1; unit++) value /= 1000;
  return unit === 0 ? `${value}B` : `${value < 99.95 ? value.toFixed(1) : Math.round(value)}${units[unit]}`;
}

/** The beginning of an id, as people read it out. */
export function shortId(id: string): string {
  return id.replace(/^sha256:/, '').slice(0, 13);
}

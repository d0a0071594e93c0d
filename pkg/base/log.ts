/**
 * The daemon's log: one line per entry on stderr, logfmt or JSON, with journald's `<N>` priority prefix where journald
 * reads.
 *
 * An entry's message is a constant; what varies is a field. Nothing that a container, an image or a registry says can
 * end a line or begin a new one (every control character is escaped), grow without bound, or show a credential (see
 * redact.ts). The sink is a winston logger, with its levels, a format of ours and its stream transport. It takes some
 * 30 ms to load, so `openSink` makes it once the daemon serves; until then the same format goes to stderr directly.
 */
import { writeSync } from 'node:fs';
import type { Writable } from 'node:stream';
import type { Logform } from 'winston';
import { RuntimeError } from './errors.ts';
import { quote } from './ids.ts';
import { limits } from './limits.ts';
import { logFilter, type LogFilter } from './log-filter.ts';
import type { LogFields, Logger } from './op.ts';
import { isSecretName, REDACTED, redact } from './redact.ts';

/** By severity: what `log_level` lets through is its own and all before it. */
export type LogLevel = 'error' | 'warn' | 'info' | 'debug';

/** How a line looks, and whether `<priority>` stands before it, for a journald that reads stderr. */
export interface LogLook {
  readonly format: 'logfmt' | 'json';
  readonly prefix: 'none' | 'priority';
}

/** What a log is made with. */
export interface LogOptions extends LogLook {
  readonly level: LogLevel;
  /** Only messages that this expression matches are written (`log_filter`); '' = all. */
  readonly filter: string;
}

/** One entry, as winston hands it from step to step. */
export interface LogEntry {
  readonly level: LogLevel;
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly message: string;
  readonly fields: LogFields;
}

/** The levels as winston and syslog count them, from which journald's prefix comes. */
const LEVELS: Readonly<Record<LogLevel, number>> = { error: 3, warn: 4, info: 6, debug: 7 };
/** Where winston looks for the finished line of an entry (the package triple-beam). */
const LINE = Symbol.for('message');
const STDERR_FD = 2;

/** Where entries go: a winston logger, or what does its work before it is there. */
interface LogSink {
  level: string;
  log(entry: LogEntry): unknown;
}

interface Shared {
  readonly look: LogLook;
  filter: LogFilter | undefined;
  sink: LogSink;
  /** Bytes that wait for the reader. */
  backlogBytes: () => number;
  droppedLines: number;
}

/**
 * A log whose level and filter may change while children exist, and hold for them at once. Lines go to stderr with a
 * system call each, or to `write`, until `openSink`. @throws InvalidArgument when the filter is no regular expression.
 */
export function openLog(options: LogOptions, write = (line: string): unknown => writeSync(STDERR_FD, line)): Log {
  const look = { format: options.format, prefix: options.prefix };
  const sink: LogSink = {
    level: options.level,
    log(entry) {
      try {
        write(`${renderEntry(entry, look)}\n`);
      } catch {
        // Nobody reads stderr, or it is full: a daemon must not die or wait for its log.
      }
    },
  };
  return new Log({ look, filter: logFilter(options.filter), sink, backlogBytes: () => 0, droppedLines: 0 }, {});
}

/** Logging never throws and never waits. Made by openLog. */
export class Log implements Logger {
  readonly #shared: Shared;
  readonly #bound: LogFields;

  constructor(shared: Shared, bound: LogFields) {
    this.#shared = shared;
    this.#bound = bound;
  }

  debug(message: string, fields?: LogFields): void {
    this.#log('debug', message, fields);
  }

  info(message: string, fields?: LogFields): void {
    this.#log('info', message, fields);
  }

  warn(message: string, fields?: LogFields): void {
    this.#log('warn', message, fields);
  }

  error(message: string, fields?: LogFields): void {
    this.#log('error', message, fields);
  }

  /** With fields for all its lines; of a name given twice the nearest wins. */
  child(fields: LogFields): Log {
    return new Log(this.#shared, { ...this.#bound, ...fields });
  }

  get debugging(): boolean {
    return this.#shared.sink.level === 'debug';
  }

  setLevel(level: LogLevel): void {
    this.#shared.sink.level = level;
  }

  /** @throws InvalidArgument as openLog; the old filter stays. */
  setFilter(filter: string): void {
    this.#shared.filter = logFilter(filter);
  }

  /**
   * Loads winston and sends all later lines through it to `stream`. When the reader falls behind by
   * `limits.logBacklogBytes`, lines are dropped, and their count is logged when it has caught up.
   */
  async openSink(stream: Writable = process.stderr): Promise<void> {
    const { createLogger, transports } = (await import('winston')).default;
    const { look, sink } = this.#shared;
    const transform = (entry: Logform.TransformableInfo): Logform.TransformableInfo =>
      Object.assign(entry, { [LINE]: renderEntry(entry as unknown as LogEntry, look) });
    const logger = createLogger({
      levels: LEVELS,
      level: sink.level,
      format: { transform },
      transports: [new transports.Stream({ stream, eol: '\n' })],
    });
    // As before: nobody reads any more.
    for (const each of [logger, stream]) each.on('error', () => {});
    this.#shared.sink = logger;
    this.#shared.backlogBytes = () => stream.writableLength;
  }

  #log(level: LogLevel, message: string, fields: LogFields | undefined): void {
    const shared = this.#shared;
    if (LEVELS[level] > LEVELS[shared.sink.level as LogLevel]) return;
    if (shared.filter?.(message) === false) return;
    if (shared.backlogBytes() > limits.logBacklogBytes) {
      shared.droppedLines++;
      return;
    }
    if (shared.droppedLines > 0) {
      const lines = shared.droppedLines;
      shared.droppedLines = 0;
      this.#write('warn', 'log lines dropped, the reader of stderr is too slow', { lines });
    }
    this.#write(level, message, fields === undefined ? this.#bound : { ...this.#bound, ...fields });
  }

  #write(level: LogLevel, message: string, fields: LogFields): void {
    this.#shared.sink.log({ level, time: Date.now(), message, fields });
  }
}

/**
 * A level as crio.conf spells it: fatal and panic are error here, trace is debug. @throws InvalidArgument for any other
 * word.
 */
export function parseLogLevel(text: string): LogLevel {
  switch (text) {
    case 'fatal':
    case 'panic':
    case 'error':
      return 'error';
    case 'warn':
    case 'warning':
      return 'warn';
    case 'info':
      return 'info';
    case 'debug':
    case 'trace':
      return 'debug';
    default:
      throw new RuntimeError(
        'InvalidArgument',
        `log level ${quote(text)} is unknown; want fatal, panic, error, warn, info, debug or trace`,
      );
  }
}

/** True if systemd connected stderr to the journal (systemd.exec: JOURNAL_STREAM). */
export function journaldReads(env: Readonly<Record<string, string | undefined>>): boolean {
  return (env['JOURNAL_STREAM'] ?? '') !== '';
}

/** One entry as one line, without its end: pure. */
export function renderEntry(entry: LogEntry, { format, prefix }: LogLook): string {
  const pairs: [string, string | number | boolean | bigint][] = [
    ['time', new Date(entry.time).toISOString()],
    ['level', entry.level],
    ['msg', redact(clip(entry.message))],
  ];
  for (const [key, value] of Object.entries(entry.fields)) {
    if (value === undefined) continue;
    const name = fieldName(key);
    pairs.push([name, isSecretName(name) ? REDACTED : typeof value === 'string' ? redact(clip(value)) : value]);
  }
  const before = prefix === 'priority' ? `<${LEVELS[entry.level]}>` : '';
  if (format === 'logfmt') return before + pairs.map(([key, value]) => `${key}=${logfmtValue(value)}`).join(' ');
  return `${before}{${pairs.map(([key, value]) => `${escape(key)}:${jsonValue(value)}`).join(',')}}`;
}

const RESERVED = new Set(['time', 'level', 'msg']);
/** C0, DEL, C1 and the two Unicode line ends: what could end a line or steer a terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it is about
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

function clip(text: string): string {
  return text.length <= limits.logValueChars
    ? text
    : `${text.slice(0, limits.logValueChars)}… (${text.length - limits.logValueChars} more)`;
}

function fieldName(key: string): string {
  const name = key.slice(0, 64).replace(/[^A-Za-z0-9_.-]/g, '_') || '_';
  return RESERVED.has(name) ? `_${name}` : name;
}

function escape(text: string): string {
  return JSON.stringify(text).replace(CONTROL, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
}

function logfmtValue(value: string | number | boolean | bigint): string {
  if (typeof value !== 'string') return String(value);
  return /^[A-Za-z0-9_./:@%+,*-]+$/.test(value) ? value : escape(value);
}

function jsonValue(value: string | number | boolean | bigint): string {
  if (typeof value === 'string') return escape(value);
  if (typeof value === 'number' && !Number.isFinite(value)) return `"${value}"`;
  return String(value); // A bigint's digits are a JSON number of any size.
}

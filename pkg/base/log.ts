/**
 * The daemon's log: one line per entry on stderr, logfmt or JSON, with journald's `<N>` priority prefix where journald
 * reads.
 *
 * An entry's message is a constant; what varies is a field. Nothing that a container, an image or a registry says can
 * end a line or begin a new one (every control character is escaped), grow without bound, or show a credential:
 * `redact` is the one place where secrets are taken out. winston is the sink. It takes some 50 ms to load, so it is
 * loaded by `openSink` once the daemon serves; lines before that go to stderr directly, at once.
 */
import { writeSync } from 'node:fs';
import { setFlagsFromString } from 'node:v8';
import { RuntimeError } from './errors.ts';
import { quote } from './ids.ts';
import { limits } from './limits.ts';
import type { LogFields, Logger } from './op.ts';

export type LogLevel = 'error' | 'warn' | 'info' | 'debug';
export type LogFormat = 'logfmt' | 'json';

export interface LogOptions {
  readonly level: LogLevel;
  readonly format: LogFormat;
  /** Only messages that this expression matches are written (`log_filter`); '' = all. */
  readonly filter: string;
  /** Prefix each line with `<priority>`: stderr is read by journald. See `journaldReads`. */
  readonly journald: boolean;
}

/** Where finished lines go. */
export interface LogSink {
  write(entry: LogEntry, line: string): void;
}

export interface LogEntry {
  readonly level: LogLevel;
  /** Milliseconds since the epoch. */
  readonly time: number;
  readonly message: string;
  readonly fields: LogFields;
}

/** A stream with what the sink needs of it: process.stderr, or a test's. */
export interface LogStream {
  write(text: string): unknown;
  readonly writableLength: number;
}

/** By severity; the number is syslog's priority, which journald reads from the prefix. */
const PRIORITY: Readonly<Record<LogLevel, number>> = { error: 3, warn: 4, info: 6, debug: 7 };
const STDERR_FD = 2;

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

/**
 * The root logger. Level and filter may change while children exist, and hold for them at once.
 * Logging never throws and never waits.
 */
export class Log implements Logger {
  readonly #shared: Shared;
  readonly #bound: LogFields;

  /** @throws InvalidArgument when the filter is no regular expression that runs in linear time. */
  constructor(options: LogOptions, sink: LogSink = directSink()) {
    this.#shared = {
      priority: PRIORITY[options.level],
      filter: compileFilter(options.filter),
      format: options.format,
      journald: options.journald,
      sink,
    };
    this.#bound = {};
  }

  debug(message: string, fields?: LogFields): void {
    emit(this.#shared, 'debug', message, this.#bound, fields);
  }

  info(message: string, fields?: LogFields): void {
    emit(this.#shared, 'info', message, this.#bound, fields);
  }

  warn(message: string, fields?: LogFields): void {
    emit(this.#shared, 'warn', message, this.#bound, fields);
  }

  error(message: string, fields?: LogFields): void {
    emit(this.#shared, 'error', message, this.#bound, fields);
  }

  child(fields: LogFields): Logger {
    return new Child(this.#shared, { ...this.#bound, ...fields });
  }

  setLevel(level: LogLevel): void {
    this.#shared.priority = PRIORITY[level];
  }

  /** @throws InvalidArgument as the constructor; the old filter stays. */
  setFilter(filter: string): void {
    this.#shared.filter = compileFilter(filter);
  }

  /** Loads winston and sends all later lines through it. Called once the daemon serves, off the start-up path. */
  async openSink(stream: LogStream = process.stderr): Promise<void> {
    this.#shared.sink = await winstonSink(stream);
  }
}

/** One entry as one line, without its end: pure. `journald` puts the priority first. */
export function renderEntry(entry: LogEntry, format: LogFormat, journald: boolean): string {
  const prefix = journald ? `<${PRIORITY[entry.level]}>` : '';
  const pairs: [string, string | number | boolean | bigint][] = [
    ['time', new Date(entry.time).toISOString()],
    ['level', entry.level],
    ['msg', redact(clip(entry.message))],
  ];
  for (const [key, value] of Object.entries(entry.fields)) {
    if (value === undefined) continue;
    const name = fieldName(key);
    pairs.push([name, SECRET_FIELD.test(name) ? REDACTED : typeof value === 'string' ? redact(clip(value)) : value]);
  }
  if (format === 'logfmt')
    return (
      prefix +
      pairs.map(([key, value]) => `${key}=${typeof value === 'string' ? logfmtValue(value) : String(value)}`).join(' ')
    );
  return `${prefix}{${pairs.map(([key, value]) => `${escape(key)}:${jsonValue(value)}`).join(',')}}`;
}

/**
 * Text without what nobody may read in a log: user info and query strings of URLs, Authorization values, and the values
 * of words that are named like secrets (`password=…`, `"token":"…"`). Every expression here runs in linear time on
 * bounded text.
 */
export function redact(text: string): string {
  if (!SUSPICIOUS.test(text)) return text;
  return text
    .replace(/(\b[a-z][a-z0-9+.-]{0,20}:\/\/)[^\s/@"']{1,512}@/gi, `$1${REDACTED}@`)
    .replace(/(\b[a-z][a-z0-9+.-]{0,20}:\/\/[^\s?"']{1,1024}\?)[^\s"']+/gi, `$1${REDACTED}`)
    .replace(/\b(basic|bearer)\s+[a-z0-9+/=._~-]{4,}/gi, `$1 ${REDACTED}`)
    .replace(
      /\b([a-z0-9_-]{0,40}(?:password|passwd|secret|token|credential))(\\?["']?\s{0,4}[=:]\s{0,4}\\?["']?)[^\s"',;&}\\]+/gi,
      `$1$2${REDACTED}`,
    );
}

/**
 * Lines written at once with a system call: before winston is there, and in tools. What stderr does not take is
 * dropped.
 */
export function directSink(write: (text: string) => void = (text) => void writeSync(STDERR_FD, text)): LogSink {
  return {
    write(_entry, line) {
      try {
        write(`${line}\n`);
      } catch {
        // Nobody reads stderr, or it is full: a daemon must not die or wait for its log.
      }
    },
  };
}

/**
 * winston writing to `stream`. When the reader falls behind by `limits.logBacklogBytes`, lines are dropped and counted;
 * the count is logged when it drains.
 */
export async function winstonSink(stream: LogStream): Promise<LogSink> {
  const { createLogger, format, transports } = (await import('winston')).default;
  const logger = createLogger({
    levels: { error: 0, warn: 1, info: 2, debug: 3 },
    level: 'debug', // The level is decided before a line is made.
    exitOnError: false,
    format: format.printf((info) => String(info['line'])),
    transports: [new transports.Stream({ stream: stream as unknown as NodeJS.WritableStream, eol: '\n' })],
  });
  logger.on('error', () => {}); // As in directSink.
  let dropped = 0;
  return {
    write(entry, line) {
      if (stream.writableLength > limits.logBacklogBytes) {
        dropped++;
        return;
      }
      if (dropped > 0)
        logger.log({
          level: 'warn',
          message: '',
          line: `level=warn msg="log lines dropped, the reader of stderr is too slow" lines=${dropped}`,
        });
      dropped = 0;
      logger.log({ level: entry.level, message: entry.message, fields: entry.fields, line });
    },
  };
}

interface Shared {
  priority: number;
  filter: RegExp | undefined;
  readonly format: LogFormat;
  readonly journald: boolean;
  sink: LogSink;
}

class Child implements Logger {
  readonly #shared: Shared;
  readonly #bound: LogFields;

  constructor(shared: Shared, bound: LogFields) {
    this.#shared = shared;
    this.#bound = bound;
  }

  debug(message: string, fields?: LogFields): void {
    emit(this.#shared, 'debug', message, this.#bound, fields);
  }

  info(message: string, fields?: LogFields): void {
    emit(this.#shared, 'info', message, this.#bound, fields);
  }

  warn(message: string, fields?: LogFields): void {
    emit(this.#shared, 'warn', message, this.#bound, fields);
  }

  error(message: string, fields?: LogFields): void {
    emit(this.#shared, 'error', message, this.#bound, fields);
  }

  child(fields: LogFields): Logger {
    return new Child(this.#shared, { ...this.#bound, ...fields });
  }
}

const REDACTED = '[redacted]';
/** Names of fields whose values are never shown (DESIGN: credentials, env values, annotations). */
const SECRET_FIELD = /password|passwd|secret|token|credential|authorization|^auth$|^env$|annotations/i;
/** Cheap test that spares most lines the replacements. */
const SUSPICIOUS = /:\/\/|basic|bearer|password|passwd|secret|token|credential/i;
const RESERVED = new Set(['time', 'level', 'msg']);
/** C0, DEL, C1 and the two Unicode line ends: what could end a line or steer a terminal. */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what it is about
const CONTROL = /[\u0000-\u001f\u007f-\u009f\u2028\u2029]/g;

function emit(shared: Shared, level: LogLevel, message: string, bound: LogFields, fields: LogFields | undefined): void {
  if (PRIORITY[level] > shared.priority) return;
  if (shared.filter !== undefined && !shared.filter.test(clip(message))) return;
  const entry: LogEntry = {
    level,
    time: Date.now(),
    message,
    fields: fields === undefined ? bound : { ...bound, ...fields },
  };
  shared.sink.write(entry, renderEntry(entry, shared.format, shared.journald));
}

/**
 * V8's automaton engine (flag `l`) matches in linear time and refuses look-around and back-references, as Go's regexp
 * does for crio.
 */
function compileFilter(filter: string): RegExp | undefined {
  if (filter === '') return undefined;
  setFlagsFromString('--enable-experimental-regexp-engine');
  try {
    return new RegExp(filter, 'l');
  } catch (cause) {
    throw new RuntimeError(
      'InvalidArgument',
      `log_filter ${quote(filter)} cannot be used: it must be a regular expression without ` +
        'look-around and back-references',
      { cause },
    );
  }
}

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

function logfmtValue(text: string): string {
  return /^[A-Za-z0-9_./:@%+,*-]+$/.test(text) ? text : escape(text);
}

function jsonValue(value: string | number | boolean | bigint): string {
  if (typeof value === 'string') return escape(value);
  if (typeof value === 'number' && !Number.isFinite(value)) return `"${value}"`;
  return String(value); // A bigint's digits are a JSON number of any size.
}

/** What every command is given, and the way to the daemon. */
import { type Command, InvalidArgumentError } from 'commander';
import { limits } from '../../pkg/base/limits.ts';
import { type Client, connect } from '../client.ts';
import type { Screen } from './output.ts';
import type { LoadedConfig } from '../../pkg/config/index.ts';

/** What every command is given. */
export interface CommandContext {
  readonly version: string;
  /** Where the unpack worker's script is; undefined when running from source. */
  readonly workerUrl: URL | undefined;
  /** The configuration as the daemon would read it with the same flags. */
  readonly load: () => Promise<LoadedConfig>;
  readonly screen: Screen;
  /**
   * `--timeout`: how long to wait for the daemon, and then for an answer; undefined = as long as each call usually
   * does.
   */
  readonly patienceMs: () => number | undefined;
}

/** A daemon that does not answer so soon, in milliseconds, is none, for who can do without. */
export const ABSENT_MS = 2_000;

/** The daemon's socket: `--socket` of the command, as CRI-O has it, or that of the configuration. */
export async function socketOf(command: Command, { load }: CommandContext): Promise<string> {
  const given = command.getOptionValue('socket');
  if (typeof given === 'string') return given.replace(/^unix:(\/\/)?/, '');
  return (await load()).config.api.listen;
}

/**
 * Runs `work` with a client of the daemon that serves, on `socket` if that is given. @throws CriError if none answers.
 */
export async function withClient<T>(
  context: CommandContext,
  work: (client: Client) => Promise<T>,
  socket?: string,
): Promise<T> {
  const patienceMs = context.patienceMs();
  const client = connect(socket ?? (await context.load()).config.api.listen, patienceMs);
  try {
    await client.waitForReady(patienceMs ?? limits.commandConnectMs);
    return await work(client);
  } finally {
    client.close();
  }
}

/** Nanoseconds since the epoch. */
export function now(): bigint {
  return BigInt(Date.now()) * 1_000_000n;
}

/** Parses `key=value`, once or more often. For commander. */
export function collectLabel(
  text: string,
  before: Readonly<Record<string, string>> = {},
): Readonly<Record<string, string>> {
  const at = text.indexOf('=');
  if (at <= 0) throw new InvalidArgumentError(`want key=value, got ${JSON.stringify(text)}`);
  return { ...before, [text.slice(0, at)]: text.slice(at + 1) };
}

/** For commander. */
export function wholeNumber(text: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new InvalidArgumentError(`want a whole number, got ${JSON.stringify(text)}`);
  return Number(text);
}

/** Fires when the user presses Ctrl-C; the command then ends by itself, and what it holds is given back. */
export function interrupted(): AbortSignal {
  const abort = new AbortController();
  process.once('SIGINT', () => abort.abort());
  process.once('SIGTERM', () => abort.abort());
  return abort.signal;
}

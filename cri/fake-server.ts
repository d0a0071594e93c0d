/** Ground for tests of the server: a socket in a directory of its own, a log that is kept, handlers for some RPCs. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import type { LogFields, Logger, Op } from '../pkg/base/op.ts';
import type { Operation, Rpcs } from '../pkg/cri-api/types.ts';
import { Calls } from './calls.ts';
import { type Client, connect, CriError } from './client.ts';
import type { Handlers } from './handler.ts';
import type { Pages } from './http.ts';
import { type Answers, RPCS, type Treatment } from './rpcs.ts';
import { type RunningServer, serve } from './server.ts';
import type { CallWatch } from './watch.ts';

/** A line of the log with its level. */
export interface Line extends Record<string, unknown> {
  readonly level: string;
  readonly message: string;
}

/** Keeps every line. */
export class FakeLogger implements Logger {
  readonly lines: Line[];
  debugging = false;
  readonly #bound: LogFields;
  constructor(lines: Line[] = [], bound: LogFields = {}) {
    this.lines = lines;
    this.#bound = bound;
  }
  debug(message: string, fields: LogFields = {}): void {
    this.#add('debug', message, fields);
  }
  info(message: string, fields: LogFields = {}): void {
    this.#add('info', message, fields);
  }
  warn(message: string, fields: LogFields = {}): void {
    this.#add('warn', message, fields);
  }
  error(message: string, fields: LogFields = {}): void {
    this.#add('error', message, fields);
  }
  child(fields: LogFields): Logger {
    const child = new FakeLogger(this.lines, { ...this.#bound, ...fields });
    child.debugging = this.debugging;
    return child;
  }
  #add(level: string, message: string, fields: LogFields): void {
    this.lines.push({ level, message, ...this.#bound, ...fields });
  }
}

/** The table with these handlers, and nobody behind the other RPCs; `changes` are of how they are treated. */
export function answersWith(handlers: Handlers, changes: Partial<Treatment> = {}): Answers {
  return Object.fromEntries(
    Object.entries(RPCS).map(([key, line]) => [
      key,
      { ...line, ...changes, handler: handlers[key as keyof Rpcs] ?? 'unimplemented' },
    ]),
  ) as unknown as Answers;
}

/** The server of a test, and what it has in flight. */
export interface StartedServer extends RunningServer {
  operations(): Operation[];
}

/** What a test has of its own. */
export interface Ground {
  readonly home: string;
  readonly socket: string;
  readonly log: FakeLogger;
  start(handlers: Handlers, options?: StartOptions): Promise<StartedServer>;
  client(): Client;
  /** Closed at the end of the test, the last first. */
  readonly open: { close(): unknown }[];
}

/** What a test changes about its server. */
export interface StartOptions {
  readonly otherOperations?: () => readonly Operation[];
  readonly treatment?: Partial<Treatment>;
  readonly pages?: Pages;
  readonly watch?: CallWatch;
}

/** Of a server with which nobody speaks HTTP/1. */
export const noPages: Pages = () => undefined;

/** A ground that is made anew before each test of the suite that asks, and swept after it. */
export function ground(): Ground {
  const at = { home: '', socket: '', log: new FakeLogger(), open: [] as { close(): unknown }[] };

  beforeEach(() => {
    at.home = mkdtempSync(join(tmpdir(), 'berth-server-'));
    at.socket = join(at.home, 'berth.sock');
    at.log = new FakeLogger();
  });

  afterEach(async () => {
    for (const each of at.open.splice(0).reverse()) await each.close();
    rmSync(at.home, { recursive: true, force: true });
  });

  return Object.assign(at, {
    async start(
      handlers: Handlers,
      { otherOperations, treatment, pages = noPages, watch }: StartOptions = {},
    ): Promise<StartedServer> {
      const calls = new Calls(otherOperations);
      const answers = answersWith({ operations: () => ({ operations: calls.operations() }), ...handlers }, treatment);
      const server = await serve({ socket: at.socket, log: at.log, answers, calls, pages, watch });
      at.open.push({ close: () => server.close(0) });
      return {
        listen: (path) => server.listen(path),
        close: (graceMs) => server.close(graceMs),
        operations: () => calls.operations(),
      };
    },
    client(): Client {
      const it = connect(at.socket);
      at.open.push(it);
      return it;
    },
  });
}

/** What a call failed with. */
export async function failure(work: Promise<unknown>): Promise<CriError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof CriError) return error;
    throw error;
  }
  return assert.fail('the call succeeded');
}

/** What we refuse with. */
export async function refusal(work: Promise<unknown>): Promise<RuntimeError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  return assert.fail('nothing was thrown');
}

/** Resolves when `op` is aborted. */
export function aborted(op: Op): Promise<void> {
  return new Promise((resolve) =>
    op.signal.aborted ? resolve() : op.signal.addEventListener('abort', () => resolve(), { once: true }),
  );
}

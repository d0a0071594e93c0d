/** For tests: a backend that runs a few words as commands, and a log that keeps its lines. */
import { createHash } from 'node:crypto';
import { RuntimeError } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { abortError, type LogFields, type Logger, type Op } from '../base/op.ts';
import { Inbox } from './inbox.ts';
import type { Connection, ExecStdio, TerminalSize } from '../ports/runtime.ts';
import type { StreamBackend } from '../ports/stream.ts';

export const CONTAINER = 'c'.repeat(64) as ContainerId;
export const POD = 'd'.repeat(64) as SandboxId;

/** A pod as a program: runs a few words as commands, echoes on port 7, says hello and goes on port 13. */
export class FakePod implements StreamBackend {
  /** What runs now: empty when nothing is left behind. */
  readonly running = new Set<string>();
  readonly sizes: TerminalSize[] = [];
  wrote = 0;
  lateOutput: ExecStdio['lateOutput'] | undefined;
  /** The container's own stdio. */
  readonly console = { output: new Inbox(), input: '', inputClosed: false, tty: false };

  async exec(op: Op, _id: ContainerId, argv: readonly string[], stdio: ExecStdio): Promise<{ exitCode: number }> {
    const name = argv.join(' ');
    op.stage(`exec ${argv[0] ?? ''}`);
    this.running.add(name);
    this.lateOutput = stdio.lateOutput;
    try {
      const aborted = new Promise<never>((_, reject) =>
        op.signal.addEventListener('abort', () => reject(abortError(op, `exec ${name}`)), { once: true }),
      );
      aborted.catch(() => {});
      return { exitCode: await Promise.race([this.#program(argv, stdio), aborted]) };
    } finally {
      this.running.delete(name);
    }
  }

  async #program([program = '', argument = '']: readonly string[], stdio: ExecStdio): Promise<number> {
    switch (program) {
      case 'cat':
        for await (const data of stdio.stdin ?? []) await stdio.stdout?.(data);
        return 0;
      case 'sum': {
        const hash = createHash('sha256');
        for await (const data of stdio.stdin ?? []) hash.update(data);
        await stdio.stdout?.(Buffer.from(hash.digest('hex')));
        return 0;
      }
      case 'both':
        await stdio.stdout?.(Buffer.from('out'));
        await stdio.stderr?.(Buffer.from('err'));
        return 0;
      case 'exit':
        return Number(argument);
      case 'yes':
        for (const chunk = Buffer.alloc(65_536, 'y'); ; this.wrote += chunk.length) await stdio.stdout?.(chunk);
      case 'sleep':
        return await new Promise<never>(() => {});
      case 'sizes':
        stdio.onTerminal?.((size) => this.sizes.push(size));
        for await (const _ of stdio.stdin ?? []);
        return 0;
      case 'broken':
        throw new RuntimeError('Internal', 'the runtime is broken');
      default:
        throw new RuntimeError('InvalidArgument', `exec: ${JSON.stringify(program)}: no such file or directory`, {
          exitCode: 127,
        });
    }
  }

  attach(): ReturnType<StreamBackend['attach']> {
    this.running.add('attach');
    const { console, running } = this;
    const inbox = (console.output = new Inbox());
    const output = (async function* () {
      for await (const data of inbox) yield { stream: 'stdout' as const, data };
    })();
    return Promise.resolve({
      output,
      write: (data: Uint8Array) => {
        console.input += Buffer.from(data).toString();
        return Promise.resolve();
      },
      closeInput: () => {
        console.inputClosed = true;
      },
      close: () => {
        running.delete('attach');
        inbox.end();
      },
      tty: console.tty,
      resize: async (size: TerminalSize) => void this.sizes.push(size),
    });
  }

  async portForward(_op: Op, _id: SandboxId, port: number): Promise<Connection> {
    if (port !== 7 && port !== 13) throw new RuntimeError('Unavailable', `nothing answers on port ${port}`);
    const inbox = new Inbox();
    const key = `connection ${port} ${Math.random()}`;
    this.running.add(key);
    if (port === 13) {
      await inbox.push(Buffer.from('hello'));
      inbox.end();
    }
    return {
      [Symbol.asyncIterator]: () => inbox[Symbol.asyncIterator](),
      write: (data) => inbox.push(data),
      endWrite: () => Promise.resolve(inbox.end()),
      close: () => {
        this.running.delete(key);
        inbox.end();
      },
    };
  }
}

export class Lines implements Logger {
  readonly lines: { readonly message: string; readonly fields: LogFields }[];
  readonly #bound: LogFields;
  constructor(lines: { message: string; fields: LogFields }[] = [], bound: LogFields = {}) {
    this.lines = lines;
    this.#bound = bound;
  }
  #add(message: string, fields: LogFields = {}): void {
    this.lines.push({ message, fields: { ...this.#bound, ...fields } });
  }
  debug = (message: string, fields?: LogFields): void => this.#add(message, fields);
  info = (message: string, fields?: LogFields): void => this.#add(message, fields);
  warn = (message: string, fields?: LogFields): void => this.#add(message, fields);
  error = (message: string, fields?: LogFields): void => this.#add(message, fields);
  child = (fields: LogFields): Logger => new Lines(this.lines, { ...this.#bound, ...fields });
}

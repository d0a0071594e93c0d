/** Commands as people run them: in a pipe, or typed at a terminal of their own. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync, readFileSync, readlinkSync } from 'node:fs';
import { waitFor } from './cri-client.ts';

export interface CommandOptions {
  readonly env?: NodeJS.ProcessEnv;
  /** Rows and columns of its terminal. */
  readonly size?: readonly [rows: number, columns: number];
}

/** A command that runs or has run. */
export class Command {
  /** What it has printed; on a terminal all is here. */
  out = '';
  err = '';
  readonly process: ChildProcess;
  readonly #ended: Promise<unknown[]>;

  private constructor(argv: readonly [string, ...string[]], env: NodeJS.ProcessEnv) {
    this.process = spawn(argv[0], argv.slice(1), {
      stdio: 'pipe',
      env: { ...process.env, TERM: 'xterm', NO_COLOR: '', ...env },
    });
    this.process.stdout?.setEncoding('utf8').on('data', (text: string) => (this.out += text));
    this.process.stderr?.setEncoding('utf8').on('data', (text: string) => (this.err += text));
    // It may end before it has read all that is written to it.
    this.process.stdin?.on('error', () => {});
    this.#ended = once(this.process, 'close');
  }

  /** With pipes for its three streams. */
  static inPipe(argv: readonly [string, ...string[]], { env = {} }: CommandOptions = {}): Command {
    return new Command(argv, env);
  }

  /** On a terminal of its own, made by script(1). */
  static onTerminal(
    argv: readonly [string, ...string[]],
    { env = {}, size: [rows, columns] = [40, 132] }: CommandOptions = {},
  ): Command {
    return new Command(
      [
        'script',
        '--quiet',
        '--return',
        '--flush',
        '--command',
        `stty rows ${rows} cols ${columns}; exec ${argv.map(quoted).join(' ')}`,
        '/dev/null',
      ],
      env,
    );
  }

  write(text: string | Buffer): void {
    this.process.stdin?.write(text);
  }

  /** No more input: what a terminal makes of it is up to its mode. */
  endInput(): void {
    this.process.stdin?.end();
  }

  /** Gives its terminal another size, which it hears of by SIGWINCH. */
  resize(rows: number, columns: number): void {
    execFileSync('stty', [
      '-F',
      readlinkSync(`/proc/${this.#onTerminal()}/fd/0`),
      'rows',
      String(rows),
      'cols',
      String(columns),
    ]);
  }

  /** Waits until it has printed something like this, and returns the match. */
  async says(pattern: RegExp): Promise<RegExpExecArray> {
    await waitFor(
      () => this.out + this.err,
      (text) => pattern.test(text) || this.hasEnded,
      `${this.process.spawnargs.at(-1)} to say ${pattern}`,
    );
    if (this.hasEnded) await this.#ended;
    const match = pattern.exec(this.out + this.err);
    if (match === null) throw new Error(`it ended without having said ${pattern}; it said: ${this.out}${this.err}`);
    return match;
  }

  get hasEnded(): boolean {
    return this.process.exitCode !== null || this.process.signalCode !== null;
  }

  /** Its exit code, or the signal that killed it. */
  async end(): Promise<number | string> {
    const [code, signal] = await this.#ended;
    return (code as number | null) ?? (signal as string);
  }

  /** The process that script(1) runs for us. */
  #onTerminal(): string {
    const child = readdirSync('/proc').find((pid) => /^\d+$/.test(pid) && parentOf(pid) === this.process.pid);
    if (child === undefined) throw new Error('nothing runs on the terminal any more');
    return child;
  }
}

/** The parent of a process; undefined if it is gone. */
export function parentOf(pid: string): number | undefined {
  try {
    // After the command's name, which may hold anything.
    return Number(readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ').at(-1)?.split(' ')[1]);
  } catch {
    return undefined;
  }
}

/** For a shell. */
function quoted(word: string): string {
  return `'${word.replaceAll("'", `'\\''`)}'`;
}

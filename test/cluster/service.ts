/** A program that runs until it is told otherwise, with what it says in a file. */
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';
import { waitFor } from '../e2e/cri-client.ts';

export interface ServiceOptions {
  readonly name: string;
  readonly argv: readonly string[];
  readonly logFile: string;
  readonly env?: NodeJS.ProcessEnv;
  /** The program is a child of what is started: something that enters namespaces first. */
  readonly below?: true;
}

export class Service {
  readonly name: string;
  readonly logFile: string;
  readonly #process: ChildProcess;
  readonly #below: boolean;

  private constructor({ name, argv, logFile, env = {}, below }: ServiceOptions) {
    const log = openSync(logFile, 'a');
    const [command = '', ...args] = argv;
    this.#process = spawn(command, args, { stdio: ['ignore', log, log], env: { ...process.env, ...env } });
    closeSync(log);
    this.name = name;
    this.logFile = logFile;
    this.#below = below === true;
  }

  /** Starts it, and does not wait until it is of use. */
  static start(options: ServiceOptions): Service {
    return new Service(options);
  }

  get running(): boolean {
    return this.#process.exitCode === null && this.#process.signalCode === null;
  }

  /** The program itself. @throws if it has ended. */
  async pid(): Promise<number> {
    const own = this.#process.pid;
    if (own === undefined || !this.running) throw new Error(`${this.name} does not run:\n${this.tail()}`);
    if (!this.#below) return own;
    const children = await waitFor(
      () => readFileSync(`/proc/${own}/task/${own}/children`, 'utf8').trim().split(' '),
      ([first]) => first !== '',
      `the process of ${this.name}`,
    );
    return Number(children[0]);
  }

  /** Signals it, and resolves when it has ended. */
  async end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    if (!this.running) return;
    const ended = once(this.#process, 'exit');
    process.kill(await this.pid(), signal);
    await ended;
  }

  log(): string {
    return readFileSync(this.logFile, 'utf8');
  }

  tail(): string {
    return this.log().slice(-3000);
  }

  /** Resolves when it has ended by itself, to its exit code. */
  async over(): Promise<number | null> {
    if (this.running) await once(this.#process, 'exit');
    return this.#process.exitCode;
  }

  /** Asks until the answer is yes. @throws with the end of its log if it dies, or takes too long. */
  async until(ask: () => Promise<boolean>, what: string, timeoutMs: number): Promise<void> {
    const outcome = await waitFor(
      async () => (this.running ? await ask().catch(() => false) : 'dead'),
      (answer) => answer !== false,
      `${this.name} to be ${what}`,
      { timeoutMs, intervalMs: 100 },
    ).catch((error: unknown) => {
      throw new Error(`${String(error)}\n${this.tail()}`, { cause: error });
    });
    if (outcome === 'dead') throw new Error(`${this.name} ended before it was ${what}:\n${this.tail()}`);
  }
}

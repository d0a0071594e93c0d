/** A process in memory, which understands a few words of a shell. */
import type { ProcessRef } from '../base/ids.ts';

/** A piece of what a process printed. */
export type Output = { readonly stream: 'stdout' | 'stderr'; readonly data: Uint8Array };

/** SIGKILL. */
export const SIGKILL = 9;
const SIGTERM = 15;

/**
 * A process that understands `true`, `false`, `sleep N`, `cat`, `echo TEXT`, and `sh -c` of those joined by `;`, with
 * `exit N`, `trap 'exit N' TERM`, `trap '' TERM`, `while` (for ever) and `>&2`. Real shells do the same with the same
 * words, which is how one conformance suite runs on both.
 */
export class FakeProcess {
  readonly ref: ProcessRef;
  readonly cgroup: string;
  readonly #listeners = new Set<(output: Output) => void>();
  readonly #ended = Promise.withResolvers<number>();
  #exitCode: number | undefined;
  #onTerm: number | 'ignored' = 128 + SIGTERM;
  #reading = false;
  #frozen = false;
  readonly #waiting: number[] = [];
  /**
   * It has no signal handlers yet, so that the kernel drops all but SIGKILL: the init of a PID namespace at its start.
   */
  deaf = false;
  /** It has executed a program since it was forked. */
  executed = false;

  constructor(ref: ProcessRef, cgroup: string) {
    this.ref = ref;
    this.cgroup = cgroup;
  }

  get alive(): boolean {
    return this.#exitCode === undefined;
  }

  /** Resolves with the exit code when the process ends. */
  get ended(): Promise<number> {
    return this.#ended.promise;
  }

  /** Begins to execute `args`; may end at once. */
  run(args: readonly string[]): void {
    this.executed = true;
    const script = args[0]?.endsWith('sh') === true && args[1] === '-c' ? (args[2] ?? '') : args.join(' ');
    for (const statement of script.split(';').map((each) => each.trim())) {
      if (!this.alive || this.#reading) return;
      if (/^(sleep|while)\b/.test(statement)) return;
      this.#execute(statement);
    }
    if (this.alive && !this.#reading) this.exit(0);
  }

  /** What the process writes from now on. Returns how to stop listening. */
  listen(listener: (output: Output) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** Bytes to its stdin; only `cat` reads them. */
  input(data: Uint8Array): void {
    if (this.#reading && this.alive) this.#emit('stdout', data);
  }

  closeInput(): void {
    if (this.#reading) this.exit(0);
  }

  /** Signals wait while it is frozen, SIGKILL too: so it is on cgroup v1. */
  freeze(to: 'frozen' | 'running'): void {
    this.#frozen = to === 'frozen';
    if (!this.#frozen) for (const each of this.#waiting.splice(0)) this.signal(each);
  }

  signal(signal: number): void {
    if (this.#frozen) return void this.#waiting.push(signal);
    if (this.deaf && signal !== SIGKILL) return;
    if (signal === SIGKILL) this.exit(128 + SIGKILL);
    else if (signal === SIGTERM && this.#onTerm !== 'ignored') this.exit(this.#onTerm);
    else if (signal !== 0 && signal !== SIGTERM) this.exit(128 + signal);
  }

  exit(code: number): void {
    if (this.#exitCode !== undefined) return;
    this.#exitCode = code;
    this.#ended.resolve(code);
  }

  #execute(statement: string): void {
    const [word = '', ...rest] = statement.split(/\s+/);
    if (word === 'exit') this.exit(Number(rest[0] ?? '0'));
    else if (word === 'false') this.exit(1);
    else if (word === 'cat') this.#reading = true;
    else if (word === 'trap')
      this.#onTerm = /'exit (\d+)'/.test(statement) ? Number(/'exit (\d+)'/.exec(statement)?.[1]) : 'ignored';
    else if (word === 'echo') {
      const toStderr = statement.endsWith('>&2');
      this.#emit(toStderr ? 'stderr' : 'stdout', Buffer.from(`${rest.filter((each) => each !== '>&2').join(' ')}\n`));
    }
  }

  #emit(stream: 'stdout' | 'stderr', data: Uint8Array): void {
    for (const listener of [...this.#listeners]) listener({ stream, data });
  }
}

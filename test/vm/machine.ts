/**
 * A virtual machine that runs: started, given commands, stopped. Nothing of the disk outlives it. Commands go through a
 * directory that both sides see, since the guest has no network and a console is no protocol.
 */
import { type ChildProcess, spawn } from 'node:child_process';
import { closeSync, existsSync, mkdirSync, openSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { CACHE, CannotHave } from './cache.ts';

/** How a machine is started. `work` below is where the guest's emulator sees the cache. */
export interface Emulator {
  /** What a person calls it. */
  readonly name: string;
  /** Root filesystem that the emulator itself runs in. */
  readonly root: string;
  /** How many times longer everything takes than on a machine: all patience is multiplied by it, on both sides. */
  readonly slowness: number;
  /** Command line, within that root; `/mnt` there is the cache. */
  command(kernelArguments: readonly string[]): readonly string[];
}

/** Where `share` of a running machine is, for what the host wants to bring along or fetch. */
export const SHARE = join(CACHE, 'run/share');

const RUN = join(CACHE, 'run');
const CONTROL = join(RUN, 'control');
const CONSOLE = join(RUN, 'console.log');
const POLL_MS = 50;
/** Times the slowness of the emulator, both of them. */
const BOOT_MS = 120_000;
const STOP_MS = 120_000;
/** What a command of our own to the machine may take, beside its suites. */
const KILL_MS = 10_000;
/** In the emulator's root, which is this machine's but for the libraries: the cache, devices, and room for memory. */
const ENTER = `
root=$1 cache=$2; shift 2
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount -t tmpfs -o mode=1777 tmpfs "$root/tmp"
mount --bind "$cache" "$root/mnt"
exec chroot "$root" setpriv --pdeathsig KILL env TMPDIR=/tmp HOME=/tmp "$@"
`;

export class Machine {
  readonly slowness: number;
  readonly #child: ChildProcess;
  #commands = 0;

  private constructor(child: ChildProcess, slowness: number) {
    this.#child = child;
    this.slowness = slowness;
  }

  /**
   * Boots it; resolves when it takes commands. Who calls it has the cache alone. @throws CannotHave with the end of its
   * console if it never does.
   */
  static async start(emulator: Emulator): Promise<Machine> {
    for (const each of [CONTROL, join(RUN, 'disk.cow')]) rmSync(each, { recursive: true, force: true });
    for (const each of [CONTROL, SHARE]) mkdirSync(each, { recursive: true });
    const args = emulator.command([
      'vm.control=/mnt/run/control',
      'vm.share=/mnt/run/share',
      'panic=-1',
      'quiet',
      'systemd.show_status=0',
    ]);
    const console = openSync(CONSOLE, 'w');
    const child = spawn(
      'unshare',
      ['--mount', '--propagation', 'private', 'sh', '-euc', ENTER, 'sh', emulator.root, CACHE, ...args],
      { stdio: ['ignore', console, console], detached: true },
    );
    closeSync(console);
    const machine = new Machine(child, emulator.slowness);
    const until = Date.now() + BOOT_MS * emulator.slowness;
    while (!existsSync(join(CONTROL, 'ready')) && machine.alive && Date.now() < until) await sleep(POLL_MS);
    if (existsSync(join(CONTROL, 'ready'))) return machine;
    machine.kill();
    throw new CannotHave(`${emulator.name} does not come up; its console ends with:\n${machine.console.slice(-2000)}`);
  }

  get alive(): boolean {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** What the kernel and PID 1 have said so far. */
  get console(): string {
    return readFileSync(CONSOLE, 'utf8');
  }

  /**
   * Runs a shell script in the guest; `onOutput` gets what it prints, as it comes. Resolves with its exit code; 124
   * when the time was up, which is this one multiplied by the slowness, and then it was killed; 125 when the machine
   * has ended.
   */
  async run(script: string, timeoutMs: number, onOutput: (text: string) => void): Promise<number> {
    const number = ++this.#commands;
    const at = (kind: string): string => join(CONTROL, `${kind}.${number}`);
    writeFileSync(at('new'), `${script}\n`);
    renameSync(at('new'), at('cmd'));
    let told = 0;
    const tell = (): void => {
      const output = existsSync(at('out')) ? readFileSync(at('out')) : Buffer.alloc(0);
      if (output.length > told) onOutput(output.toString('utf8', told));
      told = output.length;
    };
    const until = Date.now() + timeoutMs * this.slowness;
    for (;;) {
      const ended = existsSync(at('rc'));
      tell();
      if (ended) return Number(readFileSync(at('rc'), 'utf8'));
      if (!this.alive) return 125;
      if (Date.now() >= until) {
        // Of a machine that does not answer any more nothing can be asked.
        if (timeoutMs > KILL_MS) await this.run(`systemctl kill --signal=KILL vmcmd-${number}`, KILL_MS, () => {});
        return 124;
      }
      await sleep(POLL_MS);
    }
  }

  /** Shuts it down, or kills it if that takes too long. */
  async stop(): Promise<void> {
    if (this.alive) void this.run('systemctl poweroff --no-block', KILL_MS, () => {});
    const until = Date.now() + STOP_MS * this.slowness;
    while (this.alive && Date.now() < until) await sleep(POLL_MS);
    this.kill();
  }

  /** Power cut. */
  kill(): void {
    try {
      if (this.#child.pid !== undefined) process.kill(-this.#child.pid, 'SIGKILL');
    } catch {
      // It is gone.
    }
  }
}

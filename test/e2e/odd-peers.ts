/** Debian's containerd as a peer: a daemon of its own, below a directory, that only pulls. */
import { execFile, spawn } from 'node:child_process';
import type { ChildProcess } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from './cri-client.ts';

const run = promisify(execFile);

/** A running containerd. */
export class Containerd {
  readonly #child: ChildProcess;
  readonly #socket: string;

  private constructor(child: ChildProcess, socket: string) {
    this.#child = child;
    this.#socket = socket;
  }

  /** Starts it with its state in `directory`; resolves when it answers. */
  static async start(directory: string): Promise<Containerd> {
    await mkdir(directory, { recursive: true });
    const socket = join(directory, 'containerd.sock');
    const config = join(directory, 'config.toml');
    await writeFile(
      config,
      `version = 2\nroot = "${directory}/root"\nstate = "${directory}/state"\n` +
        'disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.internal.v1.opt"]\n' +
        `[grpc]\naddress = "${socket}"\n`,
    );
    const child = spawn('containerd', ['--config', config, '--log-level', 'error'], { stdio: 'ignore' });
    const made = new Containerd(child, socket);
    await waitFor(
      () =>
        made.#ctr('version').then(
          () => true,
          () => false,
        ),
      (answers) => answers,
      'containerd',
    );
    return made;
  }

  /** Whether it pulls the image. */
  async pulls(
    reference: string,
    login: { readonly username: string; readonly password: string } | undefined,
  ): Promise<boolean> {
    const user = login === undefined ? [] : ['--user', `${login.username}:${login.password}`];
    const pull = ['images', 'pull', '--plain-http', '--snapshotter', 'native', ...user, reference];
    const isPulled = await this.#ctr(...pull).then(
      () => true,
      () => false,
    );
    if (isPulled) await this.#ctr('images', 'rm', '--sync', reference);
    return isPulled;
  }

  async stop(): Promise<void> {
    this.#child.kill('SIGTERM');
    await once(this.#child, 'exit');
  }

  async #ctr(...args: readonly string[]): Promise<void> {
    await run('ctr', ['-a', this.#socket, ...args], { timeout: 60_000 });
  }
}

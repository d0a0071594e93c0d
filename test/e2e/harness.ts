/**
 * A node of one's own: a daemon in temporary directories with its own bridge, started, killed and restarted at will,
 * and a check at the end that it left nothing: processes, mounts, cgroups, links, leases, files.
 *
 * Run through scripts/e2e.ts, which gives the tests a mount namespace of their own.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { chmod, mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { defaultConflist, type DefaultConflistOptions } from '../../pkg/network/index.ts';
import { EMBEDDED_IMAGE } from '../../scripts/embedded-image.ts';
import { type CriClient, criClient, waitFor } from './cri-client.ts';

/** BERTH_BUILD: another build than the one beside the sources, for instance one that nobody rebuilds meanwhile. */
const BUILD = process.env['BERTH_BUILD'] ?? new URL('../../build/', import.meta.url).pathname;
export const IMAGE = EMBEDDED_IMAGE;
export const MONITORS = { ours: join(BUILD, 'bin/conmon'), debian: '/usr/bin/conmon' } as const;
export type RuntimeName = 'runc' | 'crun' | 'runsc';
export type MonitorName = keyof typeof MONITORS;

export interface NodeOptions {
  readonly runtime?: RuntimeName;
  readonly monitor?: MonitorName;
  /** The directory in which the node gets its own; default /tmp. */
  readonly parent?: string;
  /** More daemon flags. */
  readonly flags?: readonly string[];
  /** More environment, e.g. BERTH_FAILPOINTS. */
  readonly env?: Readonly<Record<string, string>>;
  /** How long the daemon's own work may hold up its event loop, in milliseconds of processor time. Default: 100. */
  readonly busyMaxMs?: number;
  /** Text of the CNI configuration, given what every node has of its own. Default: defaultConflist. */
  readonly conflist?: (own: Required<DefaultConflistOptions>) => string;
}

/**
 * Debian's gVisor, without /dev/kvm, on the network of the pod: on today's kernels it takes every network namespace for
 * the node's (see docs/RUNTIMES.md).
 */
const RUNSC = '[crio.runtime.runtimes.runsc]\nruntime_args = ["--platform=ptrace", "--network=host"]\n';

/** Nothing may run so long on the event loop at a stretch: every other call waits for it. */
const BUSY_MAX_MS = 100;
/** The daemon watches its loop for a minute after each question. */
const LOOK_MS = 30_000;

/** Numbers of this process' nodes, for bridge names and subnets that do not clash. */
let nodes = 0;

export class TestNode {
  readonly dir: string;
  readonly socket: string;
  readonly cri: CriClient;
  /** Daemon flags for the next start, beside those of the options. */
  moreFlags: readonly string[] = [];
  readonly #options: NodeOptions;
  readonly #bridge: string;
  #daemon: ChildProcess | undefined;
  #log = '';
  /** The longest that a daemon of this node has held up its event loop by its own work, in milliseconds. */
  #busyMaxMs = 0;
  #looking: NodeJS.Timeout | undefined;

  private constructor(dir: string, bridge: string, options: NodeOptions) {
    this.dir = dir;
    this.#bridge = bridge;
    this.#options = options;
    this.socket = join(dir, 'run/berth.sock');
    this.cri = criClient(this.socket);
  }

  /** A node with a daemon that serves and knows IMAGE. */
  static async boot(options: NodeOptions = {}): Promise<TestNode> {
    if (options.runtime === 'crun' || options.runtime === 'runsc') mountHugetlb();
    const dir = await mkdtemp(join(options.parent ?? '/tmp', 'berth-e2e-'));
    // As /run and /var/lib: with a user namespace, a container's root must be able to pass through to its rootfs.
    await chmod(dir, 0o711);
    const bridge = `bt${process.pid % 100_000}x${nodes++}`;
    const node = new TestNode(dir, bridge, options);
    for (const name of ['net.d', 'none']) await mkdir(join(dir, name));
    if (options.runtime === 'runsc') await writeFile(join(dir, 'none/00-runsc.conf'), RUNSC);
    const subnets = [`10.${200 + (nodes % 50)}.0.0/16`];
    await writeFile(
      join(dir, 'net.d/10-test.conflist'),
      (options.conflist ?? defaultConflist)({ dataDir: join(dir, 'ipam'), bridge, subnets }),
    );
    try {
      await node.start();
      await node.cri.rpc.import({ path: join(BUILD, 'embedded-image'), reference: '' });
      return node;
    } catch (error) {
      await node.discard();
      throw error;
    }
  }

  /** Starts the daemon and waits until it serves. @throws with its log if it dies first. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<void> {
    const daemon = spawn(join(BUILD, 'bin/berth'), this.flags(), {
      stdio: ['ignore', 'ignore', 'pipe'],
      env: { ...process.env, ...this.#options.env, ...env },
    });
    this.#daemon = daemon;
    daemon.stderr?.setEncoding('utf8').on('data', (text: string) => {
      this.#log = (this.#log + text).slice(-4_000_000);
    });
    const died = once(daemon, 'exit').then(([code, signal]) => {
      throw new Error(`the daemon ended (${String(signal ?? code)}) before it served:\n${this.#log}`);
    });
    await Promise.race([this.cri.rpc.waitForReady(30_000), died]);
    died.catch(() => {});
    await this.#look();
    this.#looking = setInterval(() => void this.#look(), LOOK_MS).unref();
  }

  /** Asks the daemon how late its event loop was since the last look; it goes on watching while it is asked. */
  async #look(): Promise<void> {
    const reply = await this.cri.rpc.status({ verbose: true }, { deadlineMs: 10_000 }).catch(() => undefined);
    const { busyMaxMs } = JSON.parse(reply?.info['eventLoop'] ?? '{}') as { readonly busyMaxMs?: number | null };
    this.#busyMaxMs = Math.max(this.#busyMaxMs, busyMaxMs ?? 0);
  }

  /** The daemon's command line; another one with the same flags is a second daemon for the same node. */
  flags(): string[] {
    const { runtime = 'runc', monitor = 'ours', flags = [] } = this.#options;
    const { dir } = this;
    return [
      '--config',
      '/dev/null',
      '--config-dir',
      join(dir, 'none'),
      '--root',
      join(dir, 'root'),
      '--runroot',
      join(dir, 'run'),
      '--listen',
      this.socket,
      '--log-dir',
      join(dir, 'logs'),
      '--log-level',
      'debug',
      '--cni-config-dir',
      join(dir, 'net.d'),
      '--namespaced-auth-dir',
      join(dir, 'auth'),
      '--cni-plugin-dir',
      '/usr/lib/cni',
      '--default-runtime',
      runtime,
      '--conmon',
      MONITORS[monitor],
      ...flags,
      ...this.moreFlags,
    ];
  }

  get pid(): number {
    const pid = this.#daemon?.pid;
    if (pid === undefined) throw new Error('no daemon runs');
    return pid;
  }

  /** What the running daemon has logged. */
  get log(): string {
    return this.#log;
  }

  /** SIGKILL, and gone on return. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** A clean stop. */
  async stop(): Promise<void> {
    if (this.#daemon?.exitCode === null && this.#daemon.signalCode === null) await this.#look();
    await this.#end('SIGTERM');
  }

  /** Resolves when the daemon has died by itself (a failpoint). */
  async died(): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    await once(daemon, 'exit');
  }

  /** Restarts after whatever ended the daemon. */
  async restart(env: Readonly<Record<string, string>> = {}): Promise<void> {
    await this.stop();
    await this.start(env);
  }

  /**
   * Removes all pods, stops the daemon and checks that nothing is left, and that its event loop was never held up for
   * long by what it did itself. @throws with a line per leak.
   */
  async close(): Promise<void> {
    await this.cri.removeAllPods();
    await this.stop();
    this.cri.close();
    await waitFor(
      () => this.leaks(),
      (found) => found.length === 0,
      'the node to be clean',
      { timeoutMs: 10_000, intervalMs: 50 },
    );
    await this.discard();
    const busyMaxMs = this.#options.busyMaxMs ?? BUSY_MAX_MS;
    if (this.#busyMaxMs >= busyMaxMs)
      throw new Error(`the daemon has held up its event loop for ${this.#busyMaxMs} ms; at most ${busyMaxMs} is right`);
  }

  /** Deletes the node's directories and links whatever is in them: after a failure that has been reported already. */
  async discard(): Promise<void> {
    await this.#end('SIGKILL');
    this.cri.close();
    run('ip', ['link', 'del', this.#bridge]);
    for (const mount of mountsBelow(this.dir).reverse()) run('umount', ['-l', mount]);
    await rm(this.dir, { recursive: true, force: true });
  }

  /** What this node holds that it should not once all pods are gone and the daemon has stopped, a line each. */
  leaks(): string[] {
    return [
      ...processesOf(this.dir).map((each) => `process ${each}`),
      ...mountsBelow(this.dir).map((each) => `mount ${each}`),
      ...cgroupsOf(this.#log).map((each) => `cgroup ${each}`),
      ...portsOf(this.#bridge).map((each) => `link ${each} on ${this.#bridge}`),
      ...['run/sandboxes', 'run/containers', 'run/exits', 'run/ns', 'run/damaged', 'root/rootfs', 'root/cni']
        .flatMap((each) => filesIn(join(this.dir, each)))
        .filter((each) => !each.endsWith('/pod-ranges.json')),
      ...filesIn(join(this.dir, 'ipam/berth')).filter((each) => !/\/(lock|last_reserved_ip\.\d+)$/.test(each)),
    ];
  }

  async #end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || daemon.exitCode !== null || daemon.signalCode !== null) return;
    clearInterval(this.#looking);
    const gone = once(daemon, 'exit');
    daemon.kill(signal);
    await gone;
  }
}

/**
 * Debian's crun refuses the hybrid cgroup layout while a controller sits in the v2 hierarchy; hugetlb as v1 frees it.
 * runsc makes its cgroups in a directory of that name even if nothing is mounted there, where others have left one.
 */
export function mountHugetlb(): void {
  const path = '/sys/fs/cgroup/hugetlb';
  if (
    existsSync('/sys/fs/cgroup/cgroup.controllers') ||
    readFileSync('/proc/self/mountinfo', 'utf8').includes(` ${path} `)
  )
    return;
  run('mkdir', ['-p', path]);
  run('mount', ['-t', 'cgroup', '-o', 'hugetlb', 'none', path]);
}

function run(command: string, args: readonly string[]): void {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
  } catch {
    // Cleaning up what may not be there.
  }
}

/** Processes that name the directory on their command line (daemon, monitors, plugins), as `pid comm`. */
export function processesOf(dir: string): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .filter(
      (pid) => readOr(`/proc/${pid}/cmdline`).includes(dir) && !/^State:\s+Z/m.test(readOr(`/proc/${pid}/status`)),
    )
    .map((pid) => `${pid} ${readOr(`/proc/${pid}/comm`).trim()}`);
}

/** Processes whose command line is exactly this. */
export function processes(commandLine: string): string[] {
  return readdirSync('/proc').filter(
    (pid) => /^\d+$/.test(pid) && readOr(`/proc/${pid}/cmdline`).replaceAll('\0', ' ').trim() === commandLine,
  );
}

export function mountsBelow(dir: string): string[] {
  return readFileSync('/proc/self/mountinfo', 'utf8')
    .split('\n')
    .map((line) => line.split(' ')[4] ?? '')
    .filter((path) => path.startsWith(`${dir}/`));
}

/**
 * cgroups below /berth whose name is an id that the daemon's log mentions: the hierarchies are the machine's, and other
 * nodes may be under test.
 */
function cgroupsOf(log: string): string[] {
  return readdirSync('/sys/fs/cgroup')
    .flatMap((hierarchy) => filesIn(join('/sys/fs/cgroup', hierarchy, 'berth')))
    .filter((path) => {
      const id = /[0-9a-f]{64}$/.exec(path)?.[0];
      return id !== undefined && log.includes(id);
    });
}

/**
 * Links that are still plugged into the bridge. Asked by netlink: /sys shows the network namespace that it was mounted
 * in.
 */
function portsOf(bridge: string): string[] {
  try {
    return execFileSync('ip', ['-o', 'link', 'show', 'master', bridge], {
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    })
      .split('\n')
      .filter((line) => line !== '');
  } catch {
    return []; // No such bridge.
  }
}

function filesIn(dir: string): string[] {
  return existsSync(dir) ? readdirSync(dir).map((name) => join(dir, name)) : [];
}

function readOr(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return '';
  }
}

/** The lines of a CRI log without time stamps: `stdout F text`. */
export async function logLines(path: string): Promise<string[]> {
  const text = await readFile(path, 'utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => line.slice(line.indexOf(' ') + 1));
}

/** Log lines with their pieces (P) put together: `stdout text`. Where a read ends is the kernel's business. */
export function whole(lines: readonly string[]): string[] {
  const open: Record<string, string> = {};
  const found: string[] = [];
  for (const line of lines) {
    const [stream = '', tag = ''] = line.split(' ', 2);
    const text = (open[stream] ?? '') + line.slice(stream.length + tag.length + 2);
    if (tag === 'P') open[stream] = text;
    else {
      found.push(`${stream} ${text}`);
      delete open[stream];
    }
  }
  return found;
}

/** Open descriptors of a process. */
export async function descriptorsOf(pid: number): Promise<number> {
  return (await readdir(`/proc/${pid}/fd`)).length;
}

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
import type { RuntimeConfigResponse } from '../../pkg/cri-api/types.ts';
import { type CriClient, criClient, CriError, waitFor } from './cri-client.ts';
import { type CgroupDriver, cgroupsLeft } from './node-cgroups.ts';
import { forget, hasFailed, isThrough, remember, type Triable } from './tries.ts';

/** BERTH_BUILD: another build than the one beside the sources, for instance one that nobody rebuilds meanwhile. */
export const BUILD = process.env['BERTH_BUILD'] ?? new URL('../../build/', import.meta.url).pathname;
export const BERTH = join(BUILD, 'bin/berth');
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
  /** How long the daemon's own work may hold up its event loop, in milliseconds of processor time. Default: 300. */
  readonly busyMaxMs?: number;
  /**
   * Writes the configuration of the node, where a daemon looks for it that is told nothing: it gets no flags but
   * `flags`. What `leaks` looks for must be below the node's directory.
   */
  readonly files?: (own: Pick<TestNode, 'dir' | 'socket'>) => Promise<void>;
  /** Text of the CNI configuration, given what every node has of its own. Default: defaultConflist. */
  readonly conflist?: (own: Required<DefaultConflistOptions>) => string;
}

/**
 * Debian's gVisor, without /dev/kvm, on the network of the pod: on today's kernels it takes every network namespace for
 * the node's (see docs/RUNTIMES.md).
 */
const RUNSC = '[crio.runtime.runtimes.runsc]\nruntime_args = ["--platform=ptrace", "--network=host"]\n';

/**
 * Nothing may run longer than 100 ms on the event loop at a stretch: every other call waits for it. A processor that is
 * shared with other machines counts as work what it takes from us: 46 ms of one day were 95 to 192 of another. So what
 * is more than right is said, and what no such day explains is a failure. An emulated machine says more.
 */
const RIGHT_BUSY_MS = 100;
const BUSY_MAX_MS = Number(process.env['BERTH_BUSY_MAX_MS'] ?? 3 * RIGHT_BUSY_MS);
/** What a daemon gets for the pods of a test that has failed: it may be what hangs. */
const ABANDON_MS = 15_000;
/** The daemon watches its loop for a minute after each question. */
const LOOK_MS = 30_000;

/** Numbers of this process' nodes, for bridge names and subnets that do not clash. */
let nodes = 0;

export class TestNode implements Triable {
  readonly dir: string;
  readonly socket: string;
  readonly cri: CriClient;
  /** Daemon flags for the next start, beside those of the options. */
  moreFlags: readonly string[] = [];
  /** The link that its pods are plugged into. */
  readonly bridge: string;
  readonly #options: NodeOptions;
  #daemon: ChildProcess | undefined;
  /** What its daemon was told beside the options. */
  #env: Readonly<Record<string, string>> = {};
  #log = '';
  #driver: CgroupDriver = 'cgroupfs';
  /** The longest that a daemon of this node has held up its event loop by its own work, in milliseconds. */
  #busyMaxMs = 0;
  #looking: NodeJS.Timeout | undefined;

  private constructor(dir: string, bridge: string, options: NodeOptions) {
    this.dir = dir;
    this.bridge = bridge;
    this.#options = options;
    this.socket = join(dir, 'run/berth.sock');
    this.cri = criClient(this.socket);
  }

  /** A node with a daemon that serves and knows IMAGE. */
  static async boot(options: NodeOptions = {}): Promise<TestNode> {
    const dir = await mkdtemp(join(options.parent ?? '/tmp', 'berth-e2e-'));
    // As /run and /var/lib: with a user namespace, a container's root must be able to pass through to its rootfs.
    await chmod(dir, 0o711);
    const bridge = `bt${process.pid % 100_000}x${nodes++}`;
    const node = new TestNode(dir, bridge, options);
    for (const name of ['net.d', 'none']) await mkdir(join(dir, name));
    if (options.runtime === 'runsc') await writeFile(join(dir, 'none/00-runsc.conf'), RUNSC);
    const subnets = [`10.${200 + (nodes % 50)}.0.0/16`];
    const conflist = (options.conflist ?? defaultConflist)({ dataDir: join(dir, 'ipam'), bridge, subnets });
    await writeFile(
      join(dir, 'net.d/10-test.conflist'),
      hasNat() ? conflist : conflist.replaceAll('"ipMasq": true', '"ipMasq": false'),
    );
    try {
      await options.files?.(node);
      await node.start();
      await node.cri.rpc.import({ path: join(BUILD, 'embedded-image'), reference: '' });
      remember(node);
      return node;
    } catch (error) {
      await node.discard();
      throw error;
    }
  }

  /** Starts the daemon and waits until it serves. @throws with its log if it dies first. */
  async start(env: Readonly<Record<string, string>> = {}): Promise<void> {
    this.#env = env;
    const daemon = spawn(BERTH, this.flags(), {
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
    const config = await Promise.race([this.#answer(), died]);
    died.catch(() => {});
    this.#driver = config?.linux?.cgroupDriver === 'SYSTEMD' ? 'systemd' : 'cgroupfs';
    await this.#look();
    this.#looking = setInterval(() => void this.#look(), LOOK_MS).unref();
  }

  /** Its first answer: for a moment a channel may believe that the daemon of before is still there. */
  async #answer(): Promise<RuntimeConfigResponse | undefined> {
    await this.cri.rpc.waitForReady(30_000);
    const ask = (): Promise<RuntimeConfigResponse | undefined> =>
      this.cri.rpc.runtimeConfig({}).catch((error: unknown) => {
        if (error instanceof CriError && error.codeName === 'Unavailable') return undefined;
        throw error;
      });
    return await waitFor(ask, (reply) => reply !== undefined, 'the daemon to answer');
  }

  /** What `work` gives, which holds up the event loop of the daemon by the test's doing: that does not count. */
  async uncounted<T>(work: () => Promise<T>): Promise<T> {
    await this.#look();
    const result = await work();
    await this.cri.rpc.status({ verbose: true });
    return result;
  }

  /** Asks the daemon how late its event loop was since the last look; it goes on watching while it is asked. */
  async #look(): Promise<void> {
    const reply = await this.cri.rpc.status({ verbose: true }, { deadlineMs: 10_000 }).catch(() => undefined);
    const { busyMaxMs } = JSON.parse(reply?.info['eventLoop'] ?? '{}') as { readonly busyMaxMs?: number | null };
    this.#busyMaxMs = Math.max(this.#busyMaxMs, busyMaxMs ?? 0);
  }

  /** The daemon's command line; another one with the same flags is a second daemon for the same node. */
  flags(): string[] {
    const { runtime = 'runc', monitor = 'ours', flags = [], files } = this.#options;
    const { dir } = this;
    if (files !== undefined) return [...flags, ...this.moreFlags];
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
      '--crio-socket',
      'none',
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

  /** Who makes cgroups on this node: systemd where it is PID 1. */
  get driver(): CgroupDriver {
    return this.#driver;
  }

  /** What the running daemon has logged. */
  get log(): string {
    return this.#log;
  }

  /** Everything that looks like an id in the log, but for what daemons say that they leave to others. */
  ids(): Set<string> {
    const own = this.#log.split('\n').filter((line) => !line.includes('leaving it alone'));
    return new Set(own.flatMap((line) => line.match(/\b[0-9a-f]{64}\b/g) ?? []));
  }

  /** SIGKILL, and gone on return. */
  async kill(): Promise<void> {
    await this.#end('SIGKILL');
  }

  /** A clean stop. */
  async stop(): Promise<void> {
    if (this.#isRunning) await this.#look();
    await this.#end('SIGTERM');
  }

  /** Resolves when the daemon has died by itself (a failpoint). */
  async died(): Promise<void> {
    if (this.#daemon !== undefined && this.#isRunning) await once(this.#daemon, 'exit');
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
    this.checkLoop();
  }

  /** @throws if its event loop was ever held up for long by what it did itself; for who cannot `close`. */
  checkLoop(): void {
    const busyMaxMs = this.#options.busyMaxMs ?? BUSY_MAX_MS;
    const held = `the daemon has held up its event loop for ${this.#busyMaxMs} ms`;
    if (this.#busyMaxMs >= busyMaxMs) throw new Error(`${held}; ${busyMaxMs} is too much on any machine`);
    if (this.#busyMaxMs >= RIGHT_BUSY_MS) console.log(`      ${held}; at most ${RIGHT_BUSY_MS} is right`);
  }

  /** In an afterEach, of a node that tests share: no pod is left to the next. A daemon that a test ended is started. */
  async clear(): Promise<void> {
    if (!this.#isRunning) await this.start();
    await this.cri.removeAllPods();
  }

  /** In an afterEach, of a node of each test's own: `close` after one that has passed, `abandon` after any other. */
  async closeAfter(test: Mocha.Test | undefined): Promise<void> {
    await (isThrough(test) ? this.close() : this.abandon());
  }

  /** In an after, of a node that the tests of a suite share. */
  async closeSuite(suite: Mocha.Suite | undefined): Promise<void> {
    await (hasFailed(suite) ? this.abandon() : this.close());
  }

  /** Away with it, and its containers if a daemon still can: after a failure that has been reported already. */
  async abandon(): Promise<void> {
    if (!this.#isRunning) await this.start().catch(() => {});
    await this.cri.removeAllPods({ deadlineMs: ABANDON_MS }).catch(() => {});
    await this.discard();
  }

  mark(): () => Promise<void> {
    const [began, ran, flags, env] = [BigInt(Date.now()) * 1_000_000n, this.#isRunning, this.moreFlags, this.#env];
    const dropIns = this.#dropIns();
    return async () => {
      // Whatever it does, and whatever it was told meanwhile.
      await this.kill();
      this.moreFlags = flags;
      for (const path of this.#dropIns().keys()) await rm(path, { recursive: true });
      for (const [path, text] of dropIns) await writeFile(path, text);
      if (!ran) return;
      await this.start(env);
      await this.#removeSince(began);
    };
  }

  /** The configuration of the node, by path. */
  #dropIns(): Map<string, string> {
    return new Map(filesIn(join(this.dir, 'none')).map((path) => [path, readOr(path)]));
  }

  /** Removes pods, and containers of older ones, that were made since then, in nanoseconds. */
  async #removeSince(began: bigint): Promise<void> {
    const pods = (await this.cri.rpc.listPodSandbox()).items.filter(({ createdAt }) => createdAt >= began);
    await Promise.all(pods.map(({ id }) => this.cri.removePod(id)));
    const containers = (await this.cri.rpc.listContainers()).containers.filter(({ createdAt }) => createdAt >= began);
    await Promise.all(containers.map(({ id }) => this.cri.rpc.removeContainer({ containerId: id })));
  }

  get #isRunning(): boolean {
    return this.#daemon?.exitCode === null && this.#daemon.signalCode === null;
  }

  /** Deletes the node's directories and links whatever is in them. */
  async discard(): Promise<void> {
    forget(this);
    await this.#end('SIGKILL');
    this.cri.close();
    run('ip', ['link', 'del', this.bridge]);
    for (const mount of mountsBelow(this.dir).reverse()) run('umount', ['-l', mount]);
    await rm(this.dir, { recursive: true, force: true });
  }

  /** What this node holds that it should not once all pods are gone and the daemon has stopped, a line each. */
  leaks(): string[] {
    const ids = this.ids();
    return [
      ...processesOf(this.dir).map((each) => `process ${each}`),
      ...mountsBelow(this.dir).map((each) => `mount ${each}`),
      ...cgroupsLeft((id) => ids.has(id)).map((each) => `cgroup ${each}`),
      ...portsOf(this.bridge).map((each) => `link ${each} on ${this.bridge}`),
      ...[
        'run/sandboxes',
        'run/containers',
        'run/exits',
        'run/seccomp',
        'run/ns',
        'run/damaged',
        'root/rootfs',
        'root/cni',
      ]
        .flatMap((each) => filesIn(join(this.dir, each)))
        .filter((each) => !each.endsWith('/pod-ranges.json')),
      ...filesIn(join(this.dir, 'ipam/berth')).filter((each) => !/\/(lock|last_reserved_ip\.\d+)$/.test(each)),
    ];
  }

  async #end(signal: 'SIGTERM' | 'SIGKILL'): Promise<void> {
    const daemon = this.#daemon;
    if (daemon === undefined || !this.#isRunning) return;
    clearInterval(this.#looking);
    const gone = once(daemon, 'exit');
    daemon.kill(signal);
    await gone;
  }
}

/** Whether the machine has it: a virtual one has no gVisor. */
export function hasRuntime(name: RuntimeName): boolean {
  return ['/usr/bin', '/usr/sbin'].some((each) => existsSync(join(each, name)));
}

/** Whether the kernel translates addresses: user-mode-linux does not, and a bridge that is to do it fails there. */
export function hasNat(): boolean {
  // Listing the table works there, too.
  nat ??= run('iptables', ['-w', '-t', 'nat', '-N', 'BERTH-TEST']);
  run('iptables', ['-w', '-t', 'nat', '-X', 'BERTH-TEST']);
  return nat;
}
let nat: boolean | undefined;

/** False if it failed: cleaning up what may not be there. */
function run(command: string, args: readonly string[]): boolean {
  try {
    execFileSync(command, args, { stdio: 'ignore' });
    return true;
  } catch {
    return false;
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

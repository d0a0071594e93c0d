/**
 * The runtimes that are measured: Berth, Debian's containerd in a root of its own, or whatever serves CRI on a socket.
 * All get the same OCI runtime, the same CNI chain on a bridge of their own, and the same image.
 */
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerConfig, Input } from '../pkg/cri-api/types.ts';
import { type CriClient, criClient, type Pod } from '../test/e2e/cri-client.ts';
import {
  CNI_PLUGINS,
  type Daemon,
  type Ground,
  memoryKb,
  type Network,
  processesOf,
  readOr,
  startDaemon,
} from './ground.ts';
import { containerdConfig } from './containerd-config.ts';
import { PodCgroups } from './pod-cgroups.ts';
import { countProcessorTime, processorMs } from './processor.ts';
import type { ContainerdProgram, RuntimeProgram } from './programs.ts';

export interface Target {
  readonly column: 'berth' | 'peer';
  readonly name: string;
  /** Path of its socket. */
  readonly socket: string;
  readonly cri: CriClient;
  /** Makes the cgroups of so many pods, so that nobody waits for that later. */
  prepare(count: number): void;
  /** RunPodSandbox, in a cgroup that is there already, as the kubelet makes it. */
  runPod(): Promise<Pod>;
  /** StopPodSandbox and RemovePodSandbox. */
  removePod(id: string): Promise<void>;
  /** The pod has been removed; another may have its cgroup. */
  gone(id: string): void;
  /** What only a target has that we started ourselves; undefined for a foreign socket. */
  readonly own: Own | undefined;
  /** Removes all its pods and images and ends it. */
  close(): Promise<void>;
}
export interface Own {
  readonly dir: string;
  /** Its CNI configuration, which `ground.configure` changes. */
  readonly network: Network;
  /** Name of the CNI network that new pods join, as it says itself. */
  networkInUse(): Promise<string>;
  readonly pid: number;
  /** kill -9, awaited. */
  kill(): Promise<void>;
  /** Starts the daemon again and returns as soon as the socket takes connections. */
  start(): Promise<void>;
  /** Memory of all its monitors (conmon, shims), PSS in kB. */
  monitorPssKb(): number;
  /** Processor time so far of the daemon and of all that it has started, in milliseconds. */
  processorMs(): number;
}

/** The container of every measurement: ends at once on TERM, and has a handler for it as soon as it can exec. */
export const SERVICE: Input<ContainerConfig> = {
  command: ['sh', '-c', "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"],
};

abstract class OwnTarget implements Target, Own {
  abstract readonly column: 'berth' | 'peer';
  abstract readonly name: string;
  readonly dir: string;
  readonly socket: string;
  readonly cri: CriClient;
  protected readonly ground: Ground;
  readonly network: Network;
  protected readonly runtime: RuntimeProgram;
  #daemon: Daemon | undefined;
  readonly #cgroup: string;
  readonly #cgroups: PodCgroups;

  constructor(ground: Ground, network: Network, runtime: RuntimeProgram, name: string) {
    this.ground = ground;
    this.network = network;
    this.runtime = runtime;
    this.dir = join(ground.dir, name);
    this.socket = join(this.dir, 'cri.sock');
    this.cri = criClient(this.socket);
    this.#cgroup = `${ground.cgroup}/${name}`;
    this.#cgroups = new PodCgroups(this.#cgroup);
  }

  get own(): Own {
    return this;
  }

  processorMs(): number {
    return processorMs(this.#cgroup);
  }

  get pid(): number {
    if (this.#daemon === undefined) throw new Error(`${this.name} does not run`);
    return this.#daemon.pid;
  }

  prepare(count: number): void {
    this.#cgroups.prepare(count);
  }

  async runPod(): Promise<Pod> {
    const cgroupParent = this.#cgroups.take();
    const pod = await this.cri.runPod({
      logDirectory: join(this.dir, 'logs'),
      linux: { cgroupParent, securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } } },
    });
    this.#cgroups.usedBy(pod.id, cgroupParent);
    return pod;
  }

  async removePod(id: string): Promise<void> {
    await this.cri.removePod(id);
    this.gone(id);
  }

  gone(id: string): void {
    this.#cgroups.giveBack(id);
  }

  async kill(): Promise<void> {
    await this.#daemon?.kill('SIGKILL');
    this.#daemon = undefined;
  }

  async start(): Promise<void> {
    await rm(this.socket, { force: true });
    const logFile = join(this.dir, 'daemon.log');
    const daemon = await startDaemon(this.command(), logFile, this.env());
    this.#daemon = daemon;
    await countProcessorTime(daemon.pid, this.#cgroup);
    const serves = new AbortController();
    const died = daemon.ended.then(() => {
      serves.abort();
      throw new Error(`${this.name} ended before it served:\n${readOr(logFile).slice(-4000)}`);
    });
    died.catch(() => {});
    await Promise.race([accepts(this.socket, serves.signal), died]);
  }

  async close(): Promise<void> {
    await this.cri.removeAllPods();
    await this.#daemon?.kill('SIGTERM');
    this.#daemon = undefined;
    this.cri.close();
  }

  monitorPssKb(): number {
    return processesOf(this.dir)
      .filter((pid) => this.isMonitor(readOr(`/proc/${pid}/comm`).trim()))
      .reduce((sum, pid) => sum + memoryKb(pid, 'smaps_rollup', 'Pss'), 0);
  }

  abstract networkInUse(): Promise<string>;
  protected abstract command(): readonly [string, ...string[]];
  protected abstract env(): Readonly<Record<string, string>>;
  protected abstract isMonitor(comm: string): boolean;
}

class Berth extends OwnTarget {
  readonly column = 'berth';
  readonly name = 'Berth';

  async networkInUse(): Promise<string> {
    const { info } = await this.cri.rpc.status({ verbose: true });
    return (JSON.parse(info['network'] ?? 'null') as { readonly name: string } | null)?.name ?? '';
  }

  protected command(): readonly [string, ...string[]] {
    const { dir } = this;
    return [
      this.ground.build('bin/berth'),
      '--config',
      '/dev/null',
      '--config-dir',
      join(dir, 'none'),
      '--root',
      join(dir, 'root'),
      '--runroot',
      join(this.ground.dir, 'run/berth'),
      '--listen',
      this.socket,
      '--crio-socket',
      'none',
      '--log-dir',
      join(dir, 'logs'),
      '--cni-config-dir',
      this.network.confDir,
      '--cni-plugin-dir',
      CNI_PLUGINS,
      '--runtimes',
      `${this.runtime.name}:${this.runtime.path}`,
      '--default-runtime',
      this.runtime.name,
    ];
  }

  protected env(): Readonly<Record<string, string>> {
    return { CONTAINERS_REGISTRIES_CONF: join(this.ground.dir, 'registries.conf') };
  }

  protected isMonitor(comm: string): boolean {
    return comm === 'conmon';
  }
}

class Containerd extends OwnTarget {
  readonly column = 'peer';
  readonly name: string;
  readonly #program: ContainerdProgram;

  constructor(ground: Ground, network: Network, runtime: RuntimeProgram, program: ContainerdProgram) {
    super(ground, network, runtime, 'containerd');
    this.#program = program;
    this.name = program.name;
  }

  async networkInUse(): Promise<string> {
    const { info } = await this.cri.rpc.status({ verbose: true });
    const { Networks: networks = [] } = JSON.parse(info['cniconfig'] ?? '{}') as {
      readonly Networks?: readonly { readonly IFName: string; readonly Config: { readonly Name: string } }[];
    };
    return networks.find(({ IFName: device }) => device === 'eth0')?.Config.Name ?? '';
  }

  async configure(): Promise<void> {
    const { dir, ground, network, runtime } = this;
    const { host } = ground.registry;
    const certs = join(dir, 'certs.d');
    await mkdir(join(certs, host), { recursive: true });
    await writeFile(join(certs, host, 'hosts.toml'), `server = "http://${host}"\n`);
    const place = { dir, run: join(ground.dir, 'run'), socket: this.socket, confDir: network.confDir, certs };
    const all = { ...place, runtime: runtime.path, pauseImage: ground.pauseImage };
    await writeFile(join(dir, 'config.toml'), containerdConfig(this.#program.generation, all));
  }

  protected command(): readonly [string, ...string[]] {
    return [this.#program.path, '--config', join(this.dir, 'config.toml')];
  }

  /** The shim is looked for along PATH. */
  protected env(): Readonly<Record<string, string>> {
    const { path } = this.#program;
    return path.includes('/') ? { PATH: `${dirname(path)}:${process.env['PATH'] ?? ''}` } : {};
  }

  protected isMonitor(comm: string): boolean {
    return comm.startsWith('containerd-shim');
  }
}

/** Resolves when the socket takes a connection, or nobody wants to know any more. */
async function accepts(path: string, signal: AbortSignal): Promise<void> {
  while (!signal.aborted) {
    const socket = connectSocket(path);
    try {
      await once(socket, 'connect');
      return;
    } catch {
      await sleep(1);
    } finally {
      socket.destroy();
    }
  }
}

function foreign(path: string): Target {
  const cri = criClient(path);
  const made: string[] = [];
  return {
    column: 'peer',
    name: path,
    socket: path,
    cri,
    own: undefined,
    prepare() {},
    async runPod() {
      const pod = await cri.runPod();
      made.push(pod.id);
      return pod;
    },
    removePod: (id) => cri.removePod(id),
    gone() {},
    // Only what the bench made is the bench's to remove.
    async close() {
      for (const id of made) await cri.removePod(id);
      cri.close();
    },
  };
}

/** Berth, and the peer: a containerd, or the URL of a socket. Each serves and has the image. */
export async function openTargets(
  ground: Ground,
  vs: ContainerdProgram | string | undefined,
  runtime: RuntimeProgram,
): Promise<readonly Target[]> {
  const targets: Target[] = [];
  const berth = new Berth(ground, await ground.network('berth'), runtime, 'berth');
  await mkdir(berth.dir);
  await berth.start();
  targets.push(berth);
  if (typeof vs === 'object') {
    const containerd = new Containerd(ground, await ground.network('containerd'), runtime, vs);
    await mkdir(containerd.dir);
    await containerd.configure();
    await containerd.start();
    targets.push(containerd);
  } else if (vs !== undefined) targets.push(foreign(vs.replace(/^unix:\/\//, '')));
  for (const { cri } of targets) {
    await cri.rpc.waitForReady(10_000);
    await cri.pull(ground.image);
  }
  return targets;
}

/**
 * The runtimes that are measured: Berth, Debian's containerd in a root of its own, or whatever serves CRI on a socket.
 * All get the same OCI runtime, the same CNI chain on a bridge of their own, and the same image.
 */
import { once } from 'node:events';
import { mkdir, rm, writeFile } from 'node:fs/promises';
import { connect as connectSocket } from 'node:net';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import type { ContainerConfig, Input } from '../pkg/cri-api/types.ts';
import { type CriClient, criClient, type Pod } from '../test/e2e/cri-client.ts';
import {
  CNI_PLUGINS,
  type Daemon,
  type Ground,
  makeCrunWork,
  memoryKb,
  type Network,
  processesOf,
  readOr,
  startDaemon,
} from './ground.ts';

export type RuntimeName = 'runc' | 'crun';
export const RUNTIMES: Readonly<Record<RuntimeName, string>> = { runc: '/usr/sbin/runc', crun: '/usr/bin/crun' };

export interface Target {
  readonly column: 'berth' | 'peer';
  readonly name: string;
  /** Path of its socket. */
  readonly socket: string;
  readonly cri: CriClient;
  /** RunPodSandbox, on the bench's cgroup where the target takes such names. */
  runPod(): Promise<Pod>;
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
  protected readonly runtime: RuntimeName;
  #daemon: Daemon | undefined;
  #pods = 0;

  constructor(ground: Ground, network: Network, runtime: RuntimeName, name: string) {
    this.ground = ground;
    this.network = network;
    this.runtime = runtime;
    this.dir = join(ground.dir, name);
    this.socket = join(this.dir, 'cri.sock');
    this.cri = criClient(this.socket);
  }

  get own(): Own {
    return this;
  }

  get pid(): number {
    if (this.#daemon === undefined) throw new Error(`${this.name} does not run`);
    return this.#daemon.pid;
  }

  /** Each in a cgroup of its own, as the kubelet does it. */
  runPod(): Promise<Pod> {
    return this.cri.runPod({
      logDirectory: join(this.dir, 'logs'),
      linux: {
        cgroupParent: `${this.ground.cgroup}/${this.column}/pod${this.#pods++}`,
        securityContext: { namespaceOptions: { network: 'POD', pid: 'CONTAINER', ipc: 'POD' } },
      },
    });
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
      '--log-dir',
      join(dir, 'logs'),
      '--cni-config-dir',
      this.network.confDir,
      '--cni-plugin-dir',
      CNI_PLUGINS,
      '--default-runtime',
      this.runtime,
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
  readonly name = 'containerd';

  async networkInUse(): Promise<string> {
    const { info } = await this.cri.rpc.status({ verbose: true });
    const { Networks: networks = [] } = JSON.parse(info['cniconfig'] ?? '{}') as {
      readonly Networks?: readonly { readonly IFName: string; readonly Config: { readonly Name: string } }[];
    };
    return networks.find(({ IFName: device }) => device === 'eth0')?.Config.Name ?? '';
  }

  async configure(): Promise<void> {
    const { dir } = this;
    const cri = 'plugins."io.containerd.grpc.v1.cri"';
    await writeFile(
      join(dir, 'config.toml'),
      `version = 2
root = "${dir}/root"
state = "${this.ground.dir}/run/containerd"
oom_score = 0
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
  "io.containerd.internal.v1.tracing",
  "io.containerd.tracing.processor.v1.otlp",
]
[grpc]
  address = "${this.socket}"
[ttrpc]
  address = "${dir}/ttrpc.sock"
[${cri}]
  sandbox_image = "${this.ground.pauseImage}"
  disable_apparmor = true
  # Without CAP_SYS_RESOURCE nobody lowers an oom_score_adj.
  restrict_oom_score_adj = true
  tolerate_missing_hugetlb_controller = true
[${cri}.cni]
  bin_dir = "${CNI_PLUGINS}"
  conf_dir = "${this.network.confDir}"
[${cri}.containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[${cri}.containerd.runtimes.runc.options]
  BinaryName = "${RUNTIMES[this.runtime]}"
  Root = "${this.ground.dir}/run/containerd-runtime"
`,
    );
  }

  protected command(): readonly [string, ...string[]] {
    return ['containerd', '--config', join(this.dir, 'config.toml')];
  }

  protected env(): Readonly<Record<string, string>> {
    return {};
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
    async runPod() {
      const pod = await cri.runPod();
      made.push(pod.id);
      return pod;
    },
    // Only what the bench made is the bench's to remove.
    async close() {
      for (const id of made) await cri.removePod(id);
      cri.close();
    },
  };
}

/** Berth, and the peer that `--vs` names; each serves and has the image. */
export async function openTargets(
  ground: Ground,
  vs: string | undefined,
  runtime: RuntimeName,
): Promise<readonly Target[]> {
  if (runtime === 'crun') await makeCrunWork();
  const targets: Target[] = [];
  const berth = new Berth(ground, await ground.network('berth'), runtime, 'berth');
  await mkdir(berth.dir);
  await berth.start();
  targets.push(berth);
  if (vs === 'containerd') {
    const containerd = new Containerd(ground, await ground.network('containerd'), runtime, 'containerd');
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

/**
 * A node of a cluster on this machine: PID, mount, network, UTS, IPC and cgroup namespaces of its own, with a Berth and
 * a kubelet in them. What a disk would keep is in its directory; /run is a tmpfs, and goes with the power.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { waitFor } from '../e2e/cri-client.ts';
import type { Back, Triable } from '../e2e/tries.ts';
import type { Authority } from './certificates.ts';
import { CgroupTree, hierarchies } from './cgroup-tree.ts';
import { DNS } from './control-plane.ts';
import { complaintsOf, goneBy } from './kubelet-log.ts';
import type { NodeRuntime } from './runtimes.ts';
import { Service } from './service.ts';

const BUILD = process.env['BERTH_BUILD'] ?? new URL('../../build/', import.meta.url).pathname;
export const CRIO_SOCKET = '/var/run/crio/crio.sock';
/** More than anybody asks a node for by default. */
const PODS_MAX = 120;

export interface NodePlan {
  /** From 1. */
  readonly number: number;
  /** Its directory, which is there. */
  readonly directory: string;
  /** The parent of its cgroups, below the top. */
  readonly cgroup: string;
  readonly kubelet: string;
  readonly runtime: NodeRuntime;
  /** A registry that speaks plain HTTP. */
  readonly registry: string;
  /** The API server, or nobody: the kubelet runs static pods only then. */
  readonly server?: { readonly url: string; readonly authority: Authority; readonly proxy: string };
  readonly registriesConf: string;
}

/** What a start of the kubelet may be told beside what it always is. */
export interface KubeletOptions {
  readonly endpoint?: typeof CRIO_SOCKET;
  readonly featureGates?: Readonly<Record<string, boolean>>;
  readonly config?: Readonly<Record<string, unknown>>;
}

export class ClusterNode implements Triable {
  readonly name: string;
  readonly address: string;
  /** The addresses of its pods. */
  readonly podSubnet: string;
  readonly directory: string;
  readonly #plan: NodePlan;
  readonly #cgroups: CgroupTree;
  readonly #switchedOn: Date[] = [];
  #init: Service | undefined;
  #runtime: Service | undefined;
  #kubelet: Service | undefined;
  #kubeletOptions: KubeletOptions = {};
  #proxy: Service | undefined;

  constructor(plan: NodePlan) {
    this.#plan = plan;
    this.name = `node-${plan.number}`;
    this.address = `10.60.0.${10 + plan.number}`;
    this.podSubnet = `10.61.${plan.number}.0/24`;
    this.directory = plan.directory;
    this.#cgroups = new CgroupTree(`${plan.cgroup}/${this.name}`);
    for (const name of ['berth', 'kubelet', 'log', 'pods', 'net.d', 'none', 'plugins', 'manifests'])
      mkdirSync(join(this.directory, name), { recursive: true });
    writeFileSync(join(this.directory, 'net.d/10-cluster.conflist'), this.#conflist());
  }

  /** Switches the power on, and waits until all that a node runs is of use. */
  async start(): Promise<void> {
    await this.boot();
    await this.startRuntime();
    await this.startKubelet();
    await this.startProxy();
  }

  /** Switches the power on; nothing of ours runs yet. */
  async boot(): Promise<void> {
    this.#cgroups.make();
    this.#switchedOn.push(new Date());
    const views = hierarchies().flatMap(({ type, name, options }) => [type, name, options]);
    const own = ['--mount', '--pid', '--net', '--uts', '--ipc', '--cgroup', '--fork', '--kill-child'];
    const script = join(import.meta.dirname, 'node-init.sh');
    const init = ['sh', script, this.name, this.directory, join(BUILD, 'bin/pause'), ...views];
    this.#init = Service.start({
      name: `${this.name}: init`,
      argv: [...this.#inCgroup(), 'unshare', ...own, ...init],
      logFile: join(this.directory, 'init.log'),
      below: true,
    });
    await this.#init.until(
      async () => readFileSync(`/proc/${await this.#initPid()}/comm`, 'utf8') === 'pause\n',
      'up',
      10_000,
    );
    await this.#plugIn();
  }

  /** Starts what serves CRI, and waits until it does. */
  async startRuntime(): Promise<void> {
    const { runtime, registry } = this.#plan;
    const { directory } = this;
    this.#runtime = await this.run(runtime.name, runtime.command({ directory, registry }));
    await this.#runtime.until(async () => await answers(await this.path(runtime.socket)), 'serving', 30_000);
  }

  /** Starts the kubelet, and waits until it says that it is healthy. */
  async startKubelet(options: KubeletOptions = {}): Promise<void> {
    this.#kubeletOptions = options;
    const file = join(this.directory, 'kubelet.json');
    writeFileSync(file, JSON.stringify(this.#kubeletConfig(options), undefined, 2));
    this.#kubelet = await this.run('kubelet', [
      this.#plan.kubelet,
      `--config=${file}`,
      `--hostname-override=${this.name}`,
      `--node-ip=${this.address}`,
      `--root-dir=${join(this.directory, 'kubelet')}`,
      `--cert-dir=${join(this.directory, 'kubelet/pki')}`,
      '--v=2',
      ...this.#identity(),
    ]);
    const healthy = async (): Promise<boolean> => {
      await this.inside(['busybox', 'wget', '-q', '-O-', 'http://127.0.0.1:10248/healthz']);
      return true;
    };
    await this.#kubelet.until(healthy, 'healthy', 60_000);
  }

  /** Ends the kubelet in peace, and starts it with other options. */
  async restartKubelet(options: KubeletOptions = {}): Promise<void> {
    await this.kubelet.end('SIGTERM');
    await this.startKubelet(options);
  }

  /** Has services reached from here, by rules of nftables. */
  async startProxy(): Promise<void> {
    const { server } = this.#plan;
    if (server === undefined) return;
    const file = join(this.directory, 'proxy.json');
    const name = `proxy-${this.name}`;
    const identity = server.authority.sign({ name, commonName: 'system:kube-proxy' });
    const config = {
      apiVersion: 'kubeproxy.config.k8s.io/v1alpha1',
      kind: 'KubeProxyConfiguration',
      mode: 'nftables',
      clientConnection: { kubeconfig: server.authority.kubeconfig(name, server.url, identity) },
      hostnameOverride: this.name,
      clusterCIDR: '10.61.0.0/16',
      // 0 leaves the machine's table of connections as it is.
      conntrack: { maxPerCore: 0, min: 0, tcpEstablishedTimeout: '0s', tcpCloseWaitTimeout: '0s' },
    };
    writeFileSync(file, JSON.stringify(config, undefined, 2));
    this.#proxy = await this.run('kube-proxy', [server.proxy, `--config=${file}`]);
  }

  get runtime(): Service {
    return present(this.#runtime, `${this.name} has no runtime yet`);
  }

  get kubelet(): Service {
    return present(this.#kubelet, `${this.name} has no kubelet yet`);
  }

  /** Processor time of all that ever ran on it, in seconds. */
  get cpuSeconds(): number {
    const counter = this.#cgroups.directories.map((each) => join(each, 'cpuacct.usage')).find(existsSync);
    return Number(readFileSync(present(counter, 'the hierarchy of cpuacct is not mounted'), 'utf8')) / 1e9;
  }

  mark(): Back {
    const options = this.#kubeletOptions;
    const directory = join(this.directory, 'manifests');
    const manifests = new Map(filesIn(directory).map((file) => [file, readFileSync(file, 'utf8')]));
    return async () => {
      for (const file of filesIn(directory)) if (!manifests.has(file)) rmSync(file);
      for (const [file, text] of manifests) writeFileSync(file, text);
      if (this.#init?.running !== true) {
        await this.powerOff();
        await this.boot();
      }
      if (!this.runtime.running) await this.startRuntime();
      if (!this.kubelet.running || !isDeepStrictEqual(this.#kubeletOptions, options))
        await this.restartKubelet(options);
      if (this.#proxy?.running === false) await this.startProxy();
    };
  }

  async abandon(): Promise<void> {
    await this.powerOff();
  }

  /** All that runs on it ends at once, and /run is empty. */
  async powerOff(): Promise<void> {
    await this.#init?.end('SIGKILL');
    for (const service of [this.#runtime, this.#kubelet, this.#proxy])
      if (service !== undefined)
        await waitFor(
          () => service.running,
          (running) => !running,
          `${service.name} to go`,
        );
    await this.#cgroups.remove();
  }

  /** Runs a program on the node, and returns what it printed. @throws if it fails. */
  async inside(argv: readonly string[]): Promise<string> {
    const [command = '', ...args] = await this.#entering(argv);
    return execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'], timeout: 30_000 });
  }

  /** Where a path of the node is for us. */
  async path(path: string): Promise<string> {
    return `/proc/${await this.#initPid()}/root${path}`;
  }

  /** Starts a program on the node that goes on. */
  async run(name: string, argv: readonly string[]): Promise<Service> {
    return Service.start({
      name: `${this.name}: ${name}`,
      argv: await this.#entering(argv),
      logFile: join(this.directory, `${name}.log`),
      env: { CONTAINERS_REGISTRIES_CONF: this.#plan.registriesConf },
      below: true,
    });
  }

  /** What its kubelet complains of without an explanation, in what it has said since its log was `from` long. */
  complaints(from = 0): string[] {
    return complaintsOf(this.kubelet.log().slice(from), goneBy(this.runtime.log(), this.#switchedOn));
  }

  /** What is left once all its pods are gone, a line each. */
  async leaks(): Promise<string[]> {
    const run = await this.path('/run/berth');
    const ours = ['sandboxes', 'containers', 'exits', 'ns', 'damaged'].map((each) => join(run, each));
    const kept = ['rootfs', 'cni'].map((each) => join(this.directory, 'berth', each));
    const files = [...ours, ...kept].flatMap(filesIn).filter((each) => !each.endsWith('/pod-ranges.json'));
    const leases = filesIn(join(this.directory, 'ipam/berth'));
    const links = await this.inside(['ip', '-o', 'link', 'show', 'type', 'veth', 'master', 'pods']).catch(() => '');
    return [
      ...files,
      ...leases.filter((each) => !/\/(lock|last_reserved_ip\.\d+)$/.test(each)),
      ...links.split('\n').filter((each) => each !== ''),
      ...this.#cgroups.below(/[0-9a-f]{64}/).map((each) => `cgroup ${each}`),
    ];
  }

  async #initPid(): Promise<number> {
    return await present(this.#init, `${this.name} is switched off`).pid();
  }

  async #entering(argv: readonly string[]): Promise<string[]> {
    const namespaces = ['--mount', '--pid', '--net', '--uts', '--ipc', '--cgroup'];
    return [...this.#inCgroup(), 'nsenter', `--target=${await this.#initPid()}`, ...namespaces, '--', ...argv];
  }

  /** What runs a command in the node's cgroups. */
  #inCgroup(): string[] {
    const script = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"';
    return ['sh', '-c', script, 'sh', ...this.#cgroups.directories, '--'];
  }

  /** A cable to the cluster's network. */
  async #plugIn(): Promise<void> {
    const pid = String(await this.#initPid());
    const ip = (...args: readonly string[]): string => execFileSync('ip', args, { encoding: 'utf8' });
    ip('link', 'add', this.name, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', pid);
    ip('link', 'set', this.name, 'master', 'cluster', 'up');
    await this.inside(['ip', 'address', 'add', `${this.address}/24`, 'dev', 'eth0']);
    await this.inside(['ip', 'link', 'set', 'eth0', 'up']);
    await this.inside(['ip', 'route', 'add', 'default', 'via', '10.60.0.1']);
  }

  #conflist(): string {
    const ranges = [[{ subnet: this.podSubnet }]];
    const ipam = { type: 'host-local', dataDir: join(this.directory, 'ipam'), ranges, routes: [{ dst: '0.0.0.0/0' }] };
    return JSON.stringify({
      cniVersion: '1.0.0',
      name: 'berth',
      plugins: [
        // Pods are seen by their own addresses everywhere: the nodes have routes.
        { type: 'bridge', bridge: 'pods', isGateway: true, ipMasq: false, hairpinMode: true, ipam },
        { type: 'portmap', capabilities: { portMappings: true }, snat: true },
      ],
    });
  }

  #kubeletConfig({ endpoint, featureGates = {}, config = {} }: KubeletOptions): object {
    const { server } = this.#plan;
    return {
      apiVersion: 'kubelet.config.k8s.io/v1beta1',
      kind: 'KubeletConfiguration',
      containerRuntimeEndpoint: `unix://${endpoint ?? this.#plan.runtime.socket}`,
      podLogsDir: join(this.directory, 'pods'),
      volumePluginDir: join(this.directory, 'plugins'),
      staticPodPath: join(this.directory, 'manifests'),
      failCgroupV1: false,
      failSwapOn: false,
      enforceNodeAllocatable: [],
      // Less than ours takes CAP_SYS_RESOURCE.
      oomScoreAdj: 0,
      maxPods: PODS_MAX,
      clusterDNS: [DNS],
      clusterDomain: 'cluster.local',
      // The machine's disk is not the node's, and may be full.
      evictionHard: { 'nodefs.available': '1%', 'imagefs.available': '1%', 'memory.available': '50Mi' },
      imageGCHighThresholdPercent: 100,
      featureGates,
      ...(server === undefined
        ? {
            authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
            authorization: { mode: 'AlwaysAllow' },
            readOnlyPort: 10_255,
          }
        : {
            authentication: {
              anonymous: { enabled: false },
              webhook: { enabled: true },
              x509: { clientCAFile: server.authority.caFile },
            },
            authorization: { mode: 'Webhook' },
          }),
      ...config,
    };
  }

  /** How it is known to the API server, and shows itself. */
  #identity(): string[] {
    const { server } = this.#plan;
    if (server === undefined) return [];
    const who = { commonName: `system:node:${this.name}`, organization: 'system:nodes' };
    const identity = server.authority.sign({ name: this.name, ...who, addresses: [this.address], names: [this.name] });
    const kubeconfig = server.authority.kubeconfig(this.name, server.url, identity);
    return [
      `--kubeconfig=${kubeconfig}`,
      `--tls-cert-file=${identity.certFile}`,
      `--tls-private-key-file=${identity.keyFile}`,
    ];
  }
}

/** Whether somebody listens: the socket of one that was killed is still there. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const connection = connect(path);
    connection.once('error', () => resolve(false));
    connection.once('connect', () => resolve(true));
    connection.once('connect', () => connection.destroy());
  });
}

function filesIn(directory: string): string[] {
  return existsSync(directory) ? readdirSync(directory).map((name) => join(directory, name)) : [];
}

function present<T>(value: T | undefined, otherwise: string): T {
  if (value === undefined) throw new Error(otherwise);
  return value;
}

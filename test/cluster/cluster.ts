/**
 * A cluster on this machine: a control plane, one or two nodes and a registry, in the mount, network and PID namespaces
 * of scripts/cluster.ts. What it changes of the machine beyond them are cgroups and three sysctls, which are put back.
 */
import { execFileSync } from 'node:child_process';
import { appendFileSync, chmodSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import { mountsBelow, processesOf } from '../e2e/harness.ts';
import { type RunningRegistry, startRegistry } from '../e2e/registry.ts';
import { Authority } from './certificates.ts';
import { CgroupTree, hierarchies } from './cgroup-tree.ts';
import { ControlPlane } from './control-plane.ts';
import { makeDirectory, removeDirectory, sweepLeftovers } from './leftovers.ts';
import { ClusterNode } from './node.ts';
import { type KubernetesName, programOf, say } from './programs.ts';
import { berth, type NodeRuntime } from './runtimes.ts';

/** The address of everything that is not on a node. */
const ADDRESS = '10.60.0.1';

export interface ClusterOptions {
  readonly kubernetes: KubernetesName;
  /** How many; 'static' is one whose kubelet knows no API server, and no control plane. */
  readonly nodes: number | 'static';
  /** What serves CRI on each node; Berth unless it is said. */
  readonly runtimes?: readonly NodeRuntime[];
}

export class Cluster {
  readonly directory: string;
  readonly kubernetes: KubernetesName;
  readonly nodes: ClusterNode[] = [];
  readonly registry: RunningRegistry;
  readonly #control: ControlPlane | undefined;
  readonly #cgroups: CgroupTree;

  private constructor({ kubernetes, nodes }: ClusterOptions, directory: string, registry: RunningRegistry) {
    this.kubernetes = kubernetes;
    this.directory = directory;
    this.registry = registry;
    this.#cgroups = new CgroupTree(basename(directory));
    if (nodes !== 'static') this.#control = new ControlPlane(kubernetes, directory, new Authority(directory), ADDRESS);
  }

  /** A cluster whose nodes are Ready. */
  static async up(options: ClusterOptions): Promise<Cluster> {
    if (!hierarchies().some(({ type }) => type === 'cgroup'))
      throw new Error('this machine has cgroup v2 alone, and a node here needs v1; see npm run vm for the other');
    const left = await sweepLeftovers();
    if (left.length > 0) say(`gave back what a cluster that was killed had left: ${left.join(', ')}`);
    const directory = makeDirectory();
    // A container's root in a user namespace must be able to pass through to its rootfs.
    chmodSync(directory, 0o711);
    execFileSync('ip', ['link', 'add', 'cluster', 'type', 'bridge']);
    execFileSync('ip', ['address', 'add', `${ADDRESS}/24`, 'dev', 'cluster']);
    execFileSync('ip', ['link', 'set', 'cluster', 'up']);
    writeFileSync('/proc/sys/net/ipv4/ip_forward', '1');
    const registry = await startRegistry(directory, { address: ADDRESS });
    const cluster = new Cluster(options, directory, registry);
    cluster.trust(registry.host);
    try {
      await cluster.#control?.start(ADDRESS);
      const nodes = options.nodes === 'static' ? 1 : options.nodes;
      for (let number = 1; number <= nodes; number++)
        await cluster.#join(number, options.runtimes?.[number - 1] ?? berth());
      return cluster;
    } catch (error) {
      await cluster.down().catch(() => {});
      throw error;
    }
  }

  get address(): string {
    return ADDRESS;
  }

  get #registriesConf(): string {
    return join(this.directory, 'registries.conf');
  }

  get kubeconfig(): string {
    if (this.#control === undefined) throw new Error('this cluster has no API server');
    return this.#control.kubeconfig;
  }

  get kubectl(): string {
    return programOf(this.kubernetes, 'kubectl');
  }

  node(number: number): ClusterNode {
    const found = this.nodes[number - 1];
    if (found === undefined) throw new Error(`there is no node ${number}`);
    return found;
  }

  /** Has the nodes speak plain HTTP with another registry. */
  trust(host: string): void {
    this.configure(`[[registry]]\nlocation = "${host}"\ninsecure = true\n`);
  }

  /** Adds to what the nodes know of registries; Berth reads such a change by itself. */
  configure(registries: string): void {
    appendFileSync(this.#registriesConf, `${registries}\n`);
  }

  /** Ends everything, and leaves nothing. @throws naming what is left, and what had ended before. */
  async down(): Promise<void> {
    const dead = this.#control?.dead() ?? [];
    for (const node of this.nodes) await node.powerOff();
    await this.#control?.stop();
    await this.registry.stop();
    await this.#cgroups.remove();
    execFileSync('ip', ['link', 'del', 'cluster']);
    const left = await waitFor(
      () => [...mountsBelow(this.directory), ...processesOf(this.directory)],
      (found) => found.length === 0,
      'the cluster to be gone',
    );
    this.#keepLogs();
    removeDirectory(this.directory);
    if (dead.length + left.length > 0) throw new Error([...dead, ...left].join('\n'));
  }

  async #join(number: number, runtime: NodeRuntime): Promise<void> {
    const directory = join(this.directory, `node-${number}`);
    mkdirSync(directory);
    const node = new ClusterNode({
      number,
      directory,
      cgroup: basename(this.directory),
      kubelet: programOf(this.kubernetes, 'kubelet'),
      runtime,
      registry: this.registry.host,
      ...(this.#control === undefined ? {} : { server: this.#control }),
      registriesConf: this.#registriesConf,
    });
    this.nodes.push(node);
    execFileSync('ip', ['route', 'add', node.podSubnet, 'via', node.address]);
    await node.start();
  }

  /** What everybody said, in build/cluster. */
  #keepLogs(): void {
    const kept = new URL('../../build/cluster/', import.meta.url).pathname;
    rmSync(kept, { recursive: true, force: true });
    mkdirSync(kept, { recursive: true });
    for (const name of readdirSync(this.directory, { recursive: true, encoding: 'utf8' }))
      if (/^(node-\d+\/)?[^/]+\.log$/.test(name))
        writeFileSync(join(kept, name.replace('/', '-')), readFileSync(join(this.directory, name)));
  }
}

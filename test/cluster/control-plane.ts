/** etcd, the API server, the controllers, the scheduler and CoreDNS, where this process is. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { request } from 'node:https';
import { join } from 'node:path';
import type { Authority } from './certificates.ts';
import { coreDns, etcd, type KubernetesName, programOf } from './programs.ts';
import { Service } from './service.ts';

const ETCD = 'http://127.0.0.1:2379';
/** Where services have their addresses; the first is the API server's. */
const SERVICES = '10.96.0.0/16';
/** Where pods ask for names. */
export const DNS = '10.96.0.10';
/** Nothing is to wait for the control plane: by default it makes 20 pods a second. */
const HASTE = ['--kube-api-qps=400', '--kube-api-burst=800'];
/** How long a node may be silent before it is NotReady: half of the default, since tests wait for it. */
const NODE_SILENT = '24s';

export class ControlPlane {
  readonly url: string;
  readonly authority: Authority;
  readonly kubeconfig: string;
  /** The program that a node needs for services. */
  readonly proxy: string;
  readonly #directory: string;
  readonly #kubernetes: KubernetesName;
  readonly #services: Service[] = [];

  constructor(kubernetes: KubernetesName, directory: string, authority: Authority, address: string) {
    this.#kubernetes = kubernetes;
    this.#directory = directory;
    this.authority = authority;
    this.proxy = programOf(kubernetes, 'kube-proxy');
    this.url = `https://${address}:6443`;
    const admin = authority.sign({ name: 'admin', commonName: 'admin', organization: 'system:masters' });
    this.kubeconfig = authority.kubeconfig('admin', this.url, admin);
  }

  async start(address: string): Promise<void> {
    await this.#startEtcd();
    await this.#startApiServer(address);
    this.#startController();
    const scheduler = this.#client('system:kube-scheduler');
    this.#run('kube-scheduler', [`--kubeconfig=${scheduler}`, '--leader-elect=false', ...HASTE]);
    await this.#startDns(address);
  }

  /** What has ended by itself, with its last words. */
  dead(): string[] {
    return this.#services.filter(({ running }) => !running).map((each) => `${each.name} has ended:\n${each.tail()}`);
  }

  async stop(): Promise<void> {
    for (const service of this.#services.splice(0).reverse()) await service.end('SIGKILL');
    execFileSync('umount', [this.#etcdDirectory]);
  }

  get #etcdDirectory(): string {
    return join(this.#directory, 'etcd');
  }

  async #startEtcd(): Promise<void> {
    mkdirSync(this.#etcdDirectory);
    // What it syncs to a disk would be for nothing here.
    execFileSync('mount', ['-t', 'tmpfs', 'etcd', this.#etcdDirectory]);
    const flags = [
      `--data-dir=${this.#etcdDirectory}/data`,
      `--listen-client-urls=${ETCD}`,
      `--advertise-client-urls=${ETCD}`,
    ];
    const service = this.#add('etcd', [etcd(), ...flags, '--listen-peer-urls=http://127.0.0.1:2380']);
    await service.until(async () => (await fetch(`${ETCD}/health`)).ok, 'healthy', 30_000);
  }

  async #startApiServer(address: string): Promise<void> {
    const { authority } = this;
    const sign = (name: string, organization: string, more: object = {}) =>
      authority.sign({ name, commonName: name, organization, ...more });
    const names = ['kubernetes', 'kubernetes.default', 'kubernetes.default.svc', 'localhost'];
    const serving = sign('kube-apiserver', 'servers', { addresses: [address, '10.96.0.1', '127.0.0.1'], names });
    const kubelet = sign('kube-apiserver-kubelet-client', 'system:masters');
    const accounts = sign('service-accounts', 'keys');
    const service = this.#run('kube-apiserver', [
      `--etcd-servers=${ETCD}`,
      `--advertise-address=${address}`,
      `--service-cluster-ip-range=${SERVICES}`,
      `--client-ca-file=${authority.caFile}`,
      `--tls-cert-file=${serving.certFile}`,
      `--tls-private-key-file=${serving.keyFile}`,
      `--kubelet-certificate-authority=${authority.caFile}`,
      `--kubelet-client-certificate=${kubelet.certFile}`,
      `--kubelet-client-key=${kubelet.keyFile}`,
      '--kubelet-preferred-address-types=InternalIP',
      `--service-account-key-file=${accounts.certFile}`,
      `--service-account-signing-key-file=${accounts.keyFile}`,
      '--service-account-issuer=https://kubernetes.default.svc',
      '--authorization-mode=Node,RBAC',
      '--enable-admission-plugins=NodeRestriction',
      '--allow-privileged=true',
    ]);
    await service.until(() => this.#ready(), 'ready', 90_000);
  }

  #startController(): void {
    const controllers = this.#client('system:kube-controller-manager');
    this.#run('kube-controller-manager', [
      `--kubeconfig=${controllers}`,
      '--leader-elect=false',
      ...HASTE,
      '--use-service-account-credentials',
      `--service-account-private-key-file=${join(this.#directory, 'service-accounts.key')}`,
      `--root-ca-file=${this.authority.caFile}`,
      `--node-monitor-grace-period=${NODE_SILENT}`,
    ]);
  }

  /** CoreDNS here, and a service at the address that every pod is told to ask. */
  async #startDns(address: string): Promise<void> {
    const file = join(this.#directory, 'Corefile');
    const plugins = [`bind ${address}`, 'errors', 'ready 127.0.0.1:8181', 'cache 5'];
    const kubernetes = `kubernetes cluster.local {\n kubeconfig ${this.kubeconfig}\n }`;
    writeFileSync(file, `cluster.local:53 {\n ${[...plugins, kubernetes].join('\n ')}\n}\n`);
    const service = this.#add('coredns', [coreDns(), '-conf', file]);
    const ports = (['UDP', 'TCP'] as const).map((protocol) => ({ name: protocol.toLowerCase(), protocol, port: 53 }));
    const metadata = { name: 'kube-dns', namespace: 'kube-system' };
    const slice = {
      apiVersion: 'discovery.k8s.io/v1',
      kind: 'EndpointSlice',
      metadata: { ...metadata, labels: { 'kubernetes.io/service-name': metadata.name } },
      addressType: 'IPv4',
      ports,
      endpoints: [{ addresses: [address], conditions: { ready: true } }],
    };
    const items = [{ apiVersion: 'v1', kind: 'Service', metadata, spec: { clusterIP: DNS, ports } }, slice];
    const kubectl = [`--kubeconfig=${this.kubeconfig}`, 'apply', '-f', '-'];
    const input = JSON.stringify({ apiVersion: 'v1', kind: 'List', items });
    execFileSync(programOf(this.#kubernetes, 'kubectl'), kubectl, { input, stdio: ['pipe', 'ignore', 'inherit'] });
    await service.until(async () => (await fetch('http://127.0.0.1:8181/ready')).ok, 'ready', 30_000);
  }

  /** The kubeconfig of a part of the control plane. */
  #client(commonName: string): string {
    const name = commonName.replace('system:', '');
    return this.authority.kubeconfig(name, this.url, this.authority.sign({ name, commonName }));
  }

  #ready(): Promise<boolean> {
    return new Promise((resolve) => {
      const asked = request(`${this.url}/readyz`, { ca: readFileSync(this.authority.caFile) }, (response) => {
        response.resume();
        resolve(response.statusCode === 200);
      });
      asked.once('error', () => resolve(false)).end();
    });
  }

  #run(name: Parameters<typeof programOf>[1], flags: readonly string[]): Service {
    return this.#add(name, [programOf(this.#kubernetes, name), ...flags]);
  }

  #add(name: string, argv: readonly string[]): Service {
    const service = Service.start({ name, argv, logFile: join(this.#directory, `${name}.log`) });
    this.#services.push(service);
    return service;
  }
}

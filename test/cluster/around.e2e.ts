/** What Berth is surrounded by goes away or becomes slow, and comes back: the registry, CNI's plugins, etcd. */
import { assert } from 'chai';
import { once } from 'node:events';
import { readdirSync, readFileSync, renameSync } from 'node:fs';
import { type AddressInfo, connect, createServer, type Server, type Socket } from 'node:net';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import { asking } from './cri.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 120_000, intervalMs: 250 };
/** Where Debian has CNI's plugins. */
const PLUGINS = '/usr/lib/cni';

/** A way to a registry that can be closed, at an address that stays. */
class Way {
  readonly #to: string;
  readonly #address: string;
  readonly #open = new Set<Socket>();
  #server: Server | undefined;
  #port = 0;

  constructor(to: string) {
    this.#to = to;
    this.#address = to.split(':')[0] ?? '';
  }

  get host(): string {
    return `${this.#address}:${this.#port}`;
  }

  async open(): Promise<void> {
    const [host = '', port = ''] = this.#to.split(':');
    const server = createServer((socket) => {
      const onward = connect(Number(port), host);
      for (const each of [socket, onward]) {
        this.#open.add(each);
        each.on('error', () => each.destroy());
        each.on('close', () => this.#open.delete(each));
      }
      socket.pipe(onward).pipe(socket);
    });
    server.listen(this.#port, this.#address);
    await once(server, 'listening');
    this.#port = (server.address() as AddressInfo).port;
    this.#server = server;
  }

  async close(): Promise<void> {
    const closed = this.#server?.listening === true ? once(this.#server, 'close') : undefined;
    this.#server?.close();
    for (const each of this.#open) each.destroy();
    await closed;
  }
}

describe('what is around Berth, away and back', function () {
  this.timeout(300_000);
  let tenant: Tenant;
  let node: ClusterNode;
  before(async () => {
    const { cluster, images } = ground();
    node = cluster.node(1);
    tenant = await Tenant.of(cluster, 'around', images.box);
    await tenant.ready({ name: 'witness', run: 'exec httpd -f -p 8080 -h /www' });
  });
  after(async () => {
    const witness = await tenant.pod('witness');
    await tenant.leave();
    assert.equal(statusOf(witness)?.restartCount, 0);
  });

  async function events(name: string, reason: string): Promise<string[]> {
    const fieldSelector = `involvedObject.name=${name},reason=${reason}`;
    const { items } = await tenant.core.listNamespacedEvent({ namespace: tenant.namespace, fieldSelector });
    return items.map(({ message }) => message ?? '');
  }

  async function said(name: string, reason: string, wanted: RegExp): Promise<string> {
    const found = await waitFor(
      () => events(name, reason),
      (messages) => messages.some((each) => wanted.test(each)),
      `${reason} of ${name} with ${wanted}`,
      WAIT,
    );
    return found.find((each) => wanted.test(each)) ?? '';
  }

  it('pulls once a registry is back, and starts meanwhile what needs no pull', async () => {
    const { cluster, images } = ground();
    const way = new Way(cluster.registry.host);
    await way.open();
    try {
      cluster.trust(way.host);
      const image = (of: string): string => of.replace(cluster.registry.host, way.host);
      await tenant.ready({ name: 'before', run: { image: image(images.box) } });
      await way.close();
      await tenant.create({ name: 'waits', run: { image: image(images.boxTwo) } });
      // Whoever reads the event knows which registry, and that nobody listens there.
      await said('waits', 'Failed', new RegExp(`${way.host}.*refused`, 'i'));
      await tenant.ready({ name: 'there', run: { image: image(images.box), imagePullPolicy: 'IfNotPresent' } });
      await way.open();
      await tenant.until('waits', isReady, 'ready once the registry is back');
      assert.equal((await tenant.exec('waits', 'cat /version')).out, '2');
      await Promise.all(['before', 'waits', 'there'].map((name) => tenant.remove(name)));
    } finally {
      await way.close();
    }
  });

  /** What the node says of being ready. */
  async function readiness(): Promise<string> {
    const { status } = await tenant.core.readNode({ name: node.name });
    const condition = status?.conditions?.find(({ type }) => type === 'Ready');
    return `${condition?.status}: ${condition?.message}`;
  }

  async function readinessIs(wanted: RegExp): Promise<void> {
    await waitFor(readiness, (text) => wanted.test(text), `the node to be ready as in ${wanted}`, WAIT);
  }

  it('waits for CNI plugins that are away, with what comes and with what goes', async () => {
    await tenant.ready({ name: 'goes' });
    // Nobody is scheduled to a node that is not ready.
    const here = { nodeName: node.name };
    await node.inside(['mount', '-t', 'tmpfs', 'none', PLUGINS]);
    try {
      await readinessIs(/^False: .*CNI plugin bridge.*install it/);
      await tenant.create({ name: 'comes', spec: here });
      await said('comes', 'NetworkNotReady', /CNI plugin bridge/);
      await tenant.core.deleteNamespacedPod({ namespace: tenant.namespace, name: 'goes' });
      await said('goes', 'FailedKillPod', /FailedPrecondition.*CNI plugin \S+ of network berth is not in .*install it/);
      await tenant.ready({ name: 'host', spec: { ...here, hostNetwork: true } });
      await tenant.remove('host');
    } finally {
      await node.inside(['umount', PLUGINS]);
    }
    await tenant.until('comes', isReady, 'ready once the plugins are back');
    await tenant.gone('goes');
    await tenant.remove('comes');
    await readinessIs(/^True/);
  });

  it('says that the network is not ready without a configuration, and goes on once there is one', async () => {
    const [from = '', to = ''] = ['conflist', 'away'].map((name) => join(node.directory, `net.d/10-cluster.${name}`));
    renameSync(from, to);
    try {
      await readinessIs(/^False: .*network/i);
      const { status } = await tenant.pod('witness');
      assert.equal(await (await fetch(`http://${status?.podIP}:8080/`)).text(), '1');
    } finally {
      renameSync(to, from);
    }
    await readinessIs(/^True/);
    await tenant.ready({ name: 'after' });
    await tenant.remove('after');
  });

  it('makes pods while etcd is slow, and keeps them while it stands still', async () => {
    const pid = processNamed('etcd');
    const slowly = setInterval(() => {
      process.kill(pid, 'SIGSTOP');
      setTimeout(() => process.kill(pid, 'SIGCONT'), 200);
    }, 300);
    try {
      const template = { metadata: { labels: { app: 'slow' } }, spec: tenant.spec() };
      const spec = { replicas: 5, selector: { matchLabels: { app: 'slow' } }, template };
      const body = { metadata: { name: 'slow' }, spec };
      await tenant.apps.createNamespacedDeployment({ namespace: tenant.namespace, body });
      const ready = async (): Promise<number> => (await tenant.pods('app=slow')).filter(isReady).length;
      await waitFor(ready, (count) => count === 5, 'five pods to be ready', WAIT);
    } finally {
      clearInterval(slowly);
    }
    const faces = async (): Promise<string[]> =>
      (await tenant.pods('app=slow')).map((pod) => `${statusOf(pod)?.containerID} ${statusOf(pod)?.restartCount}`);
    const before = await faces();
    const mark = node.kubelet.log().length;
    process.kill(pid, 'SIGSTOP');
    try {
      // The kubelet writes its lease every ten seconds.
      await waitFor(
        () => node.kubelet.log().slice(mark),
        (log) => /Failed to (update|ensure) lease|Error updating node status/.test(log),
        'the kubelet to miss the API server',
        WAIT,
      );
      const { status } = await fetch(`http://${(await witnessAddress()) ?? ''}:8080/`);
      assert.equal(status, 200);
    } finally {
      process.kill(pid, 'SIGCONT');
    }
    await tenant.ready({ name: 'after-etcd' });
    assert.sameMembers(await faces(), before);
    await tenant.kubectl('delete', 'deployment/slow', 'pod/after-etcd');
  });

  /** By CRI: the API server is of no use while etcd stands still. */
  async function witnessAddress(): Promise<string | undefined> {
    const labelSelector = { 'io.kubernetes.pod.name': 'witness' };
    return await asking(node, async ({ rpc, pod }) => {
      const { items } = await rpc.listPodSandbox({ filter: { labelSelector } });
      return (await pod(items[0]?.id ?? '')).network?.ip;
    });
  }
});

/** The process of this PID namespace that has this name. */
function processNamed(name: string): number {
  const found = readdirSync('/proc').find((pid) => {
    try {
      return /^\d+$/.test(pid) && readFileSync(`/proc/${pid}/comm`, 'utf8') === `${name}\n`;
    } catch {
      return false; // It has ended meanwhile.
    }
  });
  if (found === undefined) throw new Error(`no process is called ${name}`);
  return Number(found);
}

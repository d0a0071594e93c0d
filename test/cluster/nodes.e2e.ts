/** What takes two nodes: pods and services that reach each other across them, and a node that is given up. */
import type { V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { ground } from './shared.ts';
import { isReady, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 120_000, intervalMs: 250 };
const LABELS = { app: 'pair' };

describe('two nodes', function () {
  this.timeout(240_000);
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'nodes', images.box);
    const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 };
    // Who asks is told the address that it asked from.
    const cgi = 'printf "#!/bin/sh\\necho; echo \\$REMOTE_ADDR on $NODE\\n" >/www/cgi-bin/who';
    const script = `mkdir -p /www/cgi-bin; ${cgi}; chmod +x /www/cgi-bin/who; exec httpd -f -p 8080 -h /www`;
    const env = [{ name: 'NODE', valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } } }];
    const spec = tenant.spec(undefined, {
      nodeSelector: {},
      containers: [tenant.box(script, { readinessProbe, env })],
    });
    const template = { metadata: { labels: LABELS }, spec };
    const daemon = { metadata: { name: 'pair' }, spec: { selector: { matchLabels: LABELS }, template } };
    await tenant.apps.createNamespacedDaemonSet({ namespace: tenant.namespace, body: daemon });
    await pairReady();
  });
  after(async () => await tenant.leave());

  async function pairReady(): Promise<V1Pod[]> {
    const pods = await waitFor(
      () => tenant.pods('app=pair'),
      (found) => found.length === 2 && found.every(isReady),
      'a pod on each node',
      WAIT,
    );
    return pods.sort((a, b) => ((a.spec?.nodeName ?? '') < (b.spec?.nodeName ?? '') ? -1 : 1));
  }

  async function ask(pod: V1Pod | undefined, url: string): Promise<string> {
    const { out, err, code } = await tenant.exec(pod?.metadata?.name ?? '', `wget -q -O- ${url}`);
    // busybox' httpd calls everybody by an address of IPv6.
    return code === 0 ? out.trim().replace(/^\[::ffff:([\d.]+)\]/, '$1') : `exit code ${code}: ${err}`;
  }

  it('carry packets between pods, who see each other by their own addresses', async () => {
    const [one, two] = await pairReady();
    const url = (pod: V1Pod | undefined): string => `http://${pod?.status?.podIP}:8080/cgi-bin/who`;
    assert.equal(await ask(one, url(two)), `${one?.status?.podIP} on node-2`);
    assert.equal(await ask(two, url(one)), `${two?.status?.podIP} on node-1`);
  });

  it('have a service found by its name, which leads to pods of both', async () => {
    const { core, namespace } = tenant;
    const spec = { selector: LABELS, ports: [{ port: 80, targetPort: 8080 }] };
    await core.createNamespacedService({ namespace, body: { metadata: { name: 'pair' }, spec } });
    for (const pod of await pairReady()) {
      const seen = new Set<string>();
      await waitFor(
        async () => {
          seen.add((await ask(pod, 'http://pair.nodes.svc.cluster.local/cgi-bin/who')).replace(/.* on /, ''));
          return [...seen];
        },
        (nodes) => nodes.includes('node-1') && nodes.includes('node-2'),
        'both nodes to answer',
        WAIT,
      );
    }
  });

  it('give up one that is drained, and take it back', async () => {
    const labels = { app: 'moved' };
    const template = { metadata: { labels }, spec: tenant.spec(undefined, { nodeSelector: {} }) };
    const spec = { replicas: 4, selector: { matchLabels: labels }, template };
    await tenant.apps.createNamespacedDeployment({
      namespace: tenant.namespace,
      body: { metadata: { name: 'moved' }, spec },
    });
    await tenant.kubectl('rollout', 'status', 'deployment/moved', '--timeout=60s');
    await tenant.kubectl('drain', 'node-2', '--ignore-daemonsets', '--delete-emptydir-data', '--timeout=60s');
    await tenant.kubectl('rollout', 'status', 'deployment/moved', '--timeout=60s');
    const where = (await tenant.pods('app=moved')).map((pod) => pod.spec?.nodeName);
    assert.deepEqual(new Set(where), new Set(['node-1']));
    await tenant.kubectl('uncordon', 'node-2');
    await tenant.kubectl('delete', 'deployment/moved');
  });

  it('come back after a power cut of one, while the other goes on', async () => {
    const node = ground().cluster.node(2);
    const [one] = await pairReady();
    await node.powerOff();
    assert.equal(await ask(one, `http://${one?.status?.podIP}:8080/`), '1');
    await node.start();
    const pods = await waitFor(
      () => tenant.pods('app=pair'),
      (found) =>
        found.length === 2 && found.every((pod) => isReady(pod) && (pod.spec?.nodeName === 'node-1' || again(pod))),
      'the pod to run again',
      WAIT,
    );
    assert.equal(pods.find((pod) => pod.spec?.nodeName === 'node-1')?.status?.containerStatuses?.[0]?.restartCount, 0);
  });
});

function again({ status }: V1Pod): boolean {
  return (status?.containerStatuses?.[0]?.restartCount ?? 0) > 0;
}

/** Kubelets that hear of pods by events, or by looking; and that take statistics from CRI, or from cAdvisor. */
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 90_000, intervalMs: 500 };
/** Both off is how every other suite runs, and both on is one of `stats`. */
const WAYS = [
  { EventedPLEG: true, PodAndContainerStatsFromCRI: false },
  { EventedPLEG: false, PodAndContainerStatsFromCRI: true },
];

interface Summary {
  readonly pods: readonly {
    readonly podRef: { readonly name: string };
    readonly containers?: readonly { readonly memory?: { readonly workingSetBytes?: number } }[];
    readonly network?: { readonly rxBytes?: number };
  }[];
}

for (const featureGates of WAYS)
  describe(`a kubelet with ${JSON.stringify(featureGates)}`, function () {
    this.timeout(240_000);
    let tenant: Tenant;
    let node: ClusterNode;
    before(async () => {
      const { cluster, images } = ground();
      node = cluster.node(1);
      await node.restartKubelet({ featureGates });
      tenant = await Tenant.of(cluster, 'gates', images.box);
    });
    after(async () => {
      await tenant.leave();
      await node.restartKubelet();
    });

    async function asked(path: string): Promise<string> {
      return await tenant.kubectl('get', '--raw', `/api/v1/nodes/node-1/proxy/${path}`);
    }

    it('sees pods become ready, end, start again and go', async () => {
      const liveness = {
        exec: { command: ['test', '-e', '/tmp/alive'] },
        periodSeconds: 1,
        timeoutSeconds: 10,
        failureThreshold: 1,
      };
      const box = tenant.box('touch /tmp/alive; exec sleep 100000', { livenessProbe: liveness });
      await tenant.ready({ name: 'lives', spec: { containers: [box] } });
      const ended = await tenant.ended({ name: 'ends', run: 'exit 3' });
      assert.equal(statusOf(ended)?.state?.terminated?.exitCode, 3);
      await tenant.exec('lives', 'rm /tmp/alive');
      await tenant.until('lives', (pod) => statusOf(pod)?.restartCount === 1 && isReady(pod), 'started again');
      // What ends by itself is heard of by nobody but the runtime.
      await tenant.create({ name: 'brief', run: 'sleep 2; exit 4', spec: { restartPolicy: 'Never' } });
      const brief = await tenant.until('brief', ({ status }) => status?.phase === 'Failed', 'over');
      assert.equal(statusOf(brief)?.state?.terminated?.exitCode, 4);
      await Promise.all(['lives', 'ends', 'brief'].map((name) => tenant.remove(name)));
    });

    it('hears of them the way it was told to', async () => {
      const metrics = await asked('metrics');
      const heard = /^kubelet_evented_pleg_connection_success_count (\d+)$/m.exec(metrics)?.[1] ?? '0';
      assert.equal(Number(heard) > 0, featureGates.EventedPLEG, `connections: ${heard}`);
    });

    it('measures them', async () => {
      await tenant.ready({ name: 'measured', run: 'exec httpd -f -p 8080 -h /www' });
      await waitFor(
        async () => {
          const summary = JSON.parse(await asked('stats/summary')) as Summary;
          return summary.pods.find(({ podRef }) => podRef.name === 'measured');
        },
        (pod) => (pod?.containers?.[0]?.memory?.workingSetBytes ?? 0) > 0 && pod?.network?.rxBytes !== undefined,
        'the figures of the pod',
        WAIT,
      );
      await tenant.remove('measured');
    });
  });

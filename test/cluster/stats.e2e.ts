/**
 * What a kubelet measures of Berth's pods, read as metrics-server, Prometheus and `kubectl top` read it, at either of
 * the two paths at which Berth serves, and with its feature gates off and on.
 */
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { CRIO_SOCKET, type KubeletOptions } from './node.ts';
import { ground } from './shared.ts';
import { Tenant } from './tenant.ts';

/** cAdvisor looks for new containers, and measures them, every ten to fifteen seconds. */
const WAIT = { timeoutMs: 90_000, intervalMs: 1000 };
const POD = 'measured';

interface PodStats {
  readonly podRef: { readonly name: string; readonly namespace: string };
  readonly containers?: readonly ContainerStats[];
  readonly network?: { readonly name?: string; readonly rxBytes?: number; readonly txBytes?: number };
  readonly process_stats?: { readonly process_count?: number };
  readonly memory?: { readonly workingSetBytes?: number };
}
interface ContainerStats {
  readonly name: string;
  readonly cpu?: { readonly usageCoreNanoSeconds?: number };
  readonly memory?: { readonly workingSetBytes?: number };
  readonly rootfs?: { readonly usedBytes?: number };
  readonly logs?: { readonly usedBytes?: number };
}
interface Summary {
  readonly node: {
    readonly fs?: { readonly capacityBytes?: number };
    readonly runtime?: { readonly imageFs?: { readonly capacityBytes?: number; readonly usedBytes?: number } };
  };
  readonly pods: readonly PodStats[];
}

const WAYS: readonly { readonly title: string; readonly options: KubeletOptions }[] = [
  { title: "at Berth's own path", options: {} },
  { title: "at CRI-O's path", options: { endpoint: CRIO_SOCKET } },
  {
    title: 'by CRI (PodAndContainerStatsFromCRI), and events by CRI (EventedPLEG)',
    options: { featureGates: { PodAndContainerStatsFromCRI: true, EventedPLEG: true } },
  },
];

describe('what a kubelet measures of pods', function () {
  this.timeout(240_000);
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'stats', images.box);
    await tenant.ready({
      name: POD,
      run: 'dd if=/dev/zero of=/tmp/file bs=1M count=3; httpd -p 8080 -h /www; sleep 100000',
    });
  });
  after(async () => {
    await ground().cluster.node(1).restartKubelet();
    await tenant.leave();
  });

  for (const { title, options } of WAYS)
    describe(title, () => {
      let said = 0;
      before(async () => {
        const { kubelet } = ground().cluster.node(1);
        said = kubelet.log().length;
        // The first way is how the kubelet runs already.
        if (Object.keys(options).length > 0) await ground().cluster.node(1).restartKubelet(options);
        const { status } = await tenant.pod(POD);
        assert.equal(await (await fetch(`http://${status?.podIP}:8080/`)).text(), '1');
      });

      it('knows processors, memory, files, processes and the network of a pod in its summary', async () => {
        const summary = await waitFor(() => summaryOf(tenant), complete, 'the summary of the pod', WAIT);
        const pod = found(summary);
        const [box] = pod?.containers ?? [];
        assert.equal(box?.name, 'box');
        assert.isAbove(box?.cpu?.usageCoreNanoSeconds ?? 0, 0);
        assert.isAbove(box?.rootfs?.usedBytes ?? 0, 3_000_000);
        assert.isBelow(box?.rootfs?.usedBytes ?? 0, 6_000_000);
        assert.equal(pod?.network?.name, 'eth0');
        assert.isAbove(pod?.network?.rxBytes ?? 0, 100);
        assert.isAtLeast(pod?.process_stats?.process_count ?? 0, 2);
        assert.isAbove(summary.node.runtime?.imageFs?.capacityBytes ?? 0, 0);
      });

      it('gives Prometheus series with the names of container, pod and namespace', async () => {
        const labels = `container="box",[^}]*namespace="${tenant.namespace}",pod="${POD}"`;
        const net = `interface="eth0",[^}]*namespace="${tenant.namespace}",pod="${POD}"`;
        const wanted = [
          new RegExp(`^container_cpu_usage_seconds_total\\{${labels}[^}]*\\}`, 'm'),
          new RegExp(`^container_memory_working_set_bytes\\{${labels}[^}]*\\}`, 'm'),
          new RegExp(`^container_network_receive_bytes_total\\{[^}]*${net}[^}]*\\}`, 'm'),
        ];
        await waitFor(
          () => raw(tenant, 'metrics/cadvisor'),
          (text) => wanted.every((each) => each.test(text)),
          'the series of the pod',
          WAIT,
        ).catch((error: unknown) => {
          // The whole of the text would hide what is wrong.
          throw new Error(String(error).slice(0, 300), { cause: error });
        });
      });

      it('gives metrics-server what a pod uses', async () => {
        const series = new RegExp(
          `^container_memory_working_set_bytes\\{container="box",[^}]*pod="${POD}"\\} [\\d.e+]+`,
          'm',
        );
        await waitFor(
          () => raw(tenant, 'metrics/resource'),
          (text) => series.test(text) && text.includes(`pod_cpu_usage_seconds_total{namespace="stats",pod="${POD}"}`),
          'the series of the pod',
          WAIT,
        );
      });

      it('finds room on its disks without a complaint of the eviction manager', () => {
        const complaints = ground().cluster.node(1).complaints(said);
        assert.deepEqual(
          complaints.filter((line) => /eviction|stats|crio-images|cadvisor/i.test(line)),
          [],
        );
      });
    });
});

async function raw(tenant: Tenant, path: string): Promise<string> {
  return await tenant.kubectl('get', '--raw', `/api/v1/nodes/node-1/proxy/${path}`);
}

async function summaryOf(tenant: Tenant): Promise<Summary> {
  return JSON.parse(await raw(tenant, 'stats/summary').catch(() => '{"node":{},"pods":[]}')) as Summary;
}

function found({ pods }: Summary): PodStats | undefined {
  return pods.find(({ podRef }) => podRef.name === POD && podRef.namespace === 'stats');
}

/** Everything that is looked at later has been measured. */
function complete(summary: Summary): boolean {
  const pod = found(summary);
  const [box] = pod?.containers ?? [];
  return (
    (box?.memory?.workingSetBytes ?? 0) > 0 &&
    (box?.rootfs?.usedBytes ?? 0) > 0 &&
    pod?.network?.rxBytes !== undefined &&
    pod.process_stats?.process_count !== undefined &&
    summary.node.runtime?.imageFs?.capacityBytes !== undefined
  );
}

/** A kubelet alone with Berth: static pods, from files to nothing left. CI can afford it where nothing is built yet. */
import type { V1Container, V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf } from './tenant.ts';

const COUNT = 5;
const POD = 'pod-0-node-1';

interface Summary {
  readonly pods: readonly {
    readonly podRef: { readonly name: string };
    readonly network?: { readonly rxBytes?: number };
    readonly process_stats?: object;
  }[];
}

const WAIT = { timeoutMs: 60_000, intervalMs: 200 };
/** The kubelet gives up what is left of pods once a minute. */
const GARBAGE = { timeoutMs: 150_000, intervalMs: 500 };
/** The kubelet tells cAdvisor's figures every ten to fifteen seconds. */
const STATS = { timeoutMs: 90_000, intervalMs: 1000 };

describe('static pods of a kubelet without a control plane', function () {
  this.timeout(180_000);
  let node: ClusterNode;
  before(() => {
    node = ground().cluster.node(1);
  });

  function write(name: string, containers: readonly V1Container[], more: object = {}): void {
    const spec = { terminationGracePeriodSeconds: 1, containers, ...more };
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name, namespace: 'default' }, spec };
    writeFileSync(join(node.directory, 'manifests', `${name}.json`), JSON.stringify(pod));
  }

  function box(script: string, more: Partial<V1Container> = {}): V1Container {
    return { name: 'box', image: ground().images.box, command: ['sh', '-c', script], ...more };
  }

  async function asked(path: string): Promise<string> {
    return await (await fetch(`http://${node.address}:10255/${path}`)).text();
  }

  async function pods(): Promise<V1Pod[]> {
    // A kubelet without pods says null.
    return (JSON.parse(await asked('pods').catch(() => '{}')) as { readonly items?: V1Pod[] | null }).items ?? [];
  }

  async function allReady(): Promise<V1Pod[]> {
    const ready = (found: readonly V1Pod[]): boolean => found.length === COUNT && found.every(isReady);
    return await waitFor(pods, ready, `${COUNT} pods to be ready`, WAIT);
  }

  const ids = (found: readonly V1Pod[]): (string | undefined)[] =>
    found.map((pod) => `${statusOf(pod)?.containerID} ${pod.status?.podIP}`).sort();

  it('run, with init containers, hooks, probes and volumes', async () => {
    const volumes = [{ name: 'work', emptyDir: {} }];
    const volumeMounts = [{ name: 'work', mountPath: '/work' }];
    const hook = { exec: { command: ['sh', '-c', 'echo hooked >>/work/steps'] } };
    for (let i = 0; i < COUNT; i++) {
      const first = box('echo first >/work/steps', { name: 'first', volumeMounts });
      const serving = box('exec httpd -f -p 8080 -h /work', {
        volumeMounts,
        lifecycle: { postStart: hook },
        readinessProbe: { httpGet: { path: '/steps', port: 8080 }, periodSeconds: 1 },
        livenessProbe: { exec: { command: ['test', '-e', '/work/steps'] }, periodSeconds: 1, timeoutSeconds: 10 },
      });
      write(`pod-${i}`, [serving], { initContainers: [first], volumes });
    }
    for (const pod of await allReady())
      assert.equal(await (await fetch(`http://${pod.status?.podIP}:8080/steps`)).text(), 'first\nhooked\n');
  });

  it('have what they say in the files that the kubelet wants', async () => {
    write('talker', [box('echo one; echo two >&2; exec sleep 1000')]);
    const link = '/var/log/containers';
    const lines = await waitFor(
      async () => {
        const names = (await node.inside(['ls', link])).split('\n').filter((name) => name.startsWith('talker'));
        return names.length === 0 ? '' : await node.inside(['cat', `${link}/${names[0]}`]);
      },
      (text) => text.includes('two'),
      'the log',
      WAIT,
    );
    assert.match(lines, /^\d{4}-\S+ stdout F one\n\d{4}-\S+ stderr F two\n$/);
    rmSync(join(node.directory, 'manifests/talker.json'));
    await allReady();
  });

  it('are measured by cAdvisor with their names and their network', async () => {
    const series = /^container_network_receive_bytes_total\{[^}]*interface="eth0",[^}]*pod="pod-0-node-1"\} [1-9]/m;
    const memory = /^container_memory_working_set_bytes\{container="box",[^}]*pod="pod-0-node-1"\}/m;
    const whole = (text: string): boolean => series.test(text) && memory.test(text);
    const text = await waitFor(async () => whole(await asked('metrics/cadvisor')), Boolean, 'the series', STATS);
    assert.isTrue(text);
    const pod = await waitFor(
      async () => (JSON.parse(await asked('stats/summary')) as Summary).pods.find(({ podRef }) => podRef.name === POD),
      (found) => (found?.network?.rxBytes ?? 0) > 0 && found?.process_stats !== undefined,
      'the summary of the pod',
      STATS,
    );
    assert.exists(pod);
  });

  it('stay as they are when Berth and the kubelet are killed', async () => {
    const before = ids(await allReady());
    await node.runtime.end('SIGKILL');
    await node.kubelet.end('SIGKILL');
    await node.startRuntime();
    await node.startKubelet();
    assert.deepEqual(ids(await allReady()), before);
  });

  it('go with their files, and leave nothing', async () => {
    for (let i = 0; i < COUNT; i++) rmSync(join(node.directory, 'manifests', `pod-${i}.json`));
    await waitFor(
      () => node.leaks(),
      (left) => left.length === 0,
      'the node to be clean',
      GARBAGE,
    );
  });
});

/** What is left of pods when Berth, the kubelet or the whole node goes away without a word, and comes back. */
import type { V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const COUNT = 10;
const YOUNG = 20;
const SELECTOR = 'app=crowd';
const WAIT = { timeoutMs: 120_000, intervalMs: 250 };

describe('faults under a kubelet', function () {
  this.timeout(300_000);
  let tenant: Tenant;
  let node: ClusterNode;
  before(async () => {
    const { cluster, images } = ground();
    node = cluster.node(1);
    tenant = await Tenant.of(cluster, 'faults', images.box);
    const { namespace, apps } = tenant;
    const labels = { app: 'crowd' };
    const template = { metadata: { labels }, spec: tenant.spec('httpd -p 8080 -h /www; sleep 100000') };
    const spec = { replicas: COUNT, selector: { matchLabels: labels }, template };
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'crowd' }, spec } });
    await allReady();
  });
  after(async () => await tenant.leave());

  async function allReady(): Promise<V1Pod[]> {
    return await waitFor(
      () => tenant.pods(SELECTOR),
      (pods) => pods.length === COUNT && pods.every(isReady),
      `${COUNT} pods to be ready`,
      WAIT,
    );
  }

  /** What a pod must keep. */
  function faces(pods: readonly V1Pod[]): string[] {
    return pods
      .map((pod) =>
        [pod.metadata?.uid, pod.status?.podIP, statusOf(pod)?.containerID, statusOf(pod)?.restartCount].join(' '),
      )
      .sort();
  }

  async function nodeReady(wanted: 'True' | 'False'): Promise<void> {
    await waitFor(
      async () =>
        (await tenant.core.readNode({ name: node.name })).status?.conditions?.find(({ type }) => type === 'Ready'),
      (condition) => (condition?.status === 'True') === (wanted === 'True'),
      `the node to be ${wanted === 'True' ? '' : 'not '}ready`,
      WAIT,
    );
  }

  async function serveAll(): Promise<void> {
    for (const { status } of await tenant.pods(SELECTOR))
      assert.equal(await (await fetch(`http://${status?.podIP}:8080/`)).text(), '1');
  }

  it('keeps every pod as it is when Berth is killed', async () => {
    const before = faces(await allReady());
    await node.runtime.end('SIGKILL');
    await node.startRuntime();
    await tenant.ready({ name: 'after-berth' });
    assert.deepEqual(faces(await allReady()), before);
    await serveAll();
    await tenant.remove('after-berth');
  });

  it('runs pods that were being made when Berth was killed, and counts no restart of what never was', async () => {
    const { namespace, apps } = tenant;
    const labels = { app: 'young' };
    const spec = {
      replicas: YOUNG,
      selector: { matchLabels: labels },
      template: { metadata: { labels }, spec: tenant.spec() },
    };
    const pods = (): Promise<V1Pod[]> => tenant.pods('app=young');
    const ready = (found: readonly V1Pod[]): number => found.filter(isReady).length;
    const containers = await node.path('/run/berth/containers');
    const before = readdirSync(containers).length;
    await apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'young' }, spec } });
    await waitFor(
      () => readdirSync(containers).length - before,
      (making) => making >= YOUNG / 2,
      'half of the containers to be begun',
      { ...WAIT, intervalMs: 5 },
    );
    await node.runtime.end('SIGKILL');
    const made = recordsIn(containers);
    await node.startRuntime();
    const found = await waitFor(pods, (all) => ready(all) === YOUNG, `${YOUNG} pods to be ready`, WAIT);
    const unmade = found.filter((pod) => made.get(pod.metadata?.name ?? '') === 'creating');
    assert.isNotEmpty(unmade);
    for (const pod of unmade) assert.equal(statusOf(pod)?.restartCount, 0);
    await tenant.kubectl('delete', 'deployment/young', '--wait');
    await waitFor(pods, (all) => all.length === 0, 'the young pods to go', WAIT);
  });

  it('keeps every pod as it is when the kubelet is killed', async () => {
    const before = faces(await allReady());
    await node.kubelet.end('SIGKILL');
    await node.startKubelet();
    await tenant.ready({ name: 'after-kubelet' });
    assert.deepEqual(faces(await allReady()), before);
    await tenant.remove('after-kubelet');
  });

  it('is not ready while Berth is away, and has the same pods afterwards, with the end of one meanwhile', async () => {
    await tenant.create({ name: 'brief', run: 'sleep 20; exit 9', spec: { restartPolicy: 'Never' } });
    await tenant.until('brief', (pod) => statusOf(pod)?.state?.running !== undefined, 'running');
    const before = faces(await allReady());
    await node.runtime.end('SIGKILL');
    await nodeReady('False');
    await serveAll();
    await node.startRuntime();
    await nodeReady('True');
    assert.deepEqual(faces(await allReady()), before);
    const pod = await tenant.until('brief', ({ status }) => status?.phase === 'Failed', 'over');
    const terminated = statusOf(pod)?.state?.terminated;
    assert.equal(terminated?.exitCode, 9);
    const ran = Number(terminated?.finishedAt) - Number(terminated?.startedAt);
    assert.isTrue(ran >= 19_000 && ran < 25_000, `ran for ${ran} ms`);
    await tenant.remove('brief');
  });

  it('brings every pod up again after a power cut, and nothing of before is left', async () => {
    const before = await allReady();
    await node.powerOff();
    await node.start();
    const restarted = await waitFor(
      () => tenant.pods(SELECTOR),
      (pods) => pods.length === COUNT && pods.every((pod) => isReady(pod) && (statusOf(pod)?.restartCount ?? 0) > 0),
      'every pod to run again',
      WAIT,
    );
    assert.sameMembers(
      restarted.map(({ metadata }) => metadata?.uid),
      before.map(({ metadata }) => metadata?.uid),
    );
    await serveAll();
  });

  it('has nothing left of pods once they are gone', async () => {
    await tenant.kubectl('delete', 'deployment/crowd', '--wait');
    await waitFor(
      () => tenant.pods(),
      (pods) => pods.length === 0,
      'the pods to go',
      WAIT,
    );
    await waitFor(
      () => node.leaks(),
      (left) => left.length === 0,
      'the node to be clean',
      WAIT,
    );
  });
});

/** What has become of containers, by the names of their pods, on record below a directory. */
function recordsIn(directory: string): ReadonlyMap<string, string> {
  const files = readdirSync(directory).map((id) => join(directory, id, 'record.json'));
  const texts = files.filter((file) => existsSync(file)).map((file) => readFileSync(file, 'utf8'));
  const word = (text: string, pattern: RegExp): string => pattern.exec(text)?.[1] ?? '';
  return new Map(
    texts.map((text) => [
      word(text, /"io\.kubernetes\.pod\.name":"([^"]+)"/),
      word(text, /"state":\{"phase":"([a-z]+)"/),
    ]),
  );
}

/** What a kubelet tidies up while pods run: their logs, and their dead containers. */
import { assert } from 'chai';
import { globSync, readFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { gunzipSync } from 'node:zlib';
import { waitFor } from '../e2e/cri-client.ts';
import { asking } from './cri.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 90_000, intervalMs: 250 };
const LINES = 4000;

describe('what a kubelet tidies up', function () {
  this.timeout(240_000);
  let tenant: Tenant;
  let node: ClusterNode;
  before(async () => {
    const { cluster, images } = ground();
    node = cluster.node(1);
    tenant = await Tenant.of(cluster, 'tidy', images.box);
    await node.restartKubelet({
      config: {
        containerLogMaxSize: '16Ki',
        containerLogMaxFiles: 60,
        containerLogMonitorInterval: '3s',
        crashLoopBackOff: { maxContainerRestartPeriod: '1s' },
      },
    });
  });
  after(async () => {
    await tenant.leave();
    await node.restartKubelet();
  });

  /** The logs of the pod's container, the oldest first. */
  function logsOf(pod: string): string[] {
    const files = globSync(join(node.directory, 'pods', `${tenant.namespace}_${pod}_*`, 'box', '*.log*'));
    // What is written to has the shortest name; the others have when they were put aside.
    const current = (name: string): boolean => name.endsWith('.log');
    return files.sort((a, b) => (current(a) === current(b) ? (a < b ? -1 : 1) : current(a) ? 1 : -1));
  }

  function linesOf(file: string): string[] {
    const raw = readFileSync(file);
    const text = (file.endsWith('.gz') ? gunzipSync(raw) : raw).toString();
    return text.split('\n').filter((line) => line !== '');
  }

  it('turns logs over while a container writes, and no line is lost or told twice', async () => {
    const loop = `i=0; while [ $i -lt ${LINES} ]; do echo line $i; i=$((i+1)); usleep 3000; done; touch /tmp/done`;
    await tenant.ready({ name: 'writer', run: `${loop}; exec sleep 100000` });
    await waitFor(
      async () => (await tenant.exec('writer', 'ls /tmp')).out,
      (out) => out.includes('done'),
      'the last line',
      WAIT,
    );
    // The kubelet packs a log only at the next turn, and gives each its name while it does.
    const lines = await waitFor(
      () => logsOf('writer').flatMap(linesOf),
      (found) => found.length >= LINES,
      'all lines to be in files',
      WAIT,
    );
    const names = logsOf('writer').map((each) => basename(each));
    assert.isAtLeast(names.length, 3, names.join(' '));
    assert.deepEqual(
      lines.map((line) => line.split(' ').slice(1).join(' ')),
      Array.from({ length: LINES }, (_, i) => `stdout F line ${i}`),
    );
    assert.include(await tenant.logs('writer', { tailLines: 1 }), `line ${LINES - 1}`);
    await tenant.remove('writer');
  });

  it('keeps the last dead container of a pod, and its log, and no older one', async () => {
    await tenant.create({ name: 'crash', run: 'echo crashed; exit 3' });
    await tenant.until('crash', (pod) => (statusOf(pod)?.restartCount ?? 0) >= 4, 'restarted four times');
    const labelSelector = { 'io.kubernetes.pod.namespace': tenant.namespace, 'io.kubernetes.pod.name': 'crash' };
    await waitFor(
      () => asking(node, ({ rpc }) => rpc.listContainers({ filter: { labelSelector } })),
      ({ containers }) => containers.length <= 2,
      'the dead containers to go',
      WAIT,
    );
    assert.isAtMost(logsOf('crash').length, 2);
    // It ends every second: who asks may be told of one that is gone by then.
    await waitFor(
      () => tenant.logs('crash', { previous: true }).catch(String),
      (text) => text === 'crashed\n',
      'what the last one said',
      WAIT,
    );
    await tenant.remove('crash');
    await tenant.ready({ name: 'still' });
    assert.isTrue(isReady(await tenant.pod('still')));
  });
});

/** Static pods of a node whose kubelet tells an API server of them. */
import type { V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 60_000, intervalMs: 200 };
const MIRROR = 'fixed-node-1';

describe('static pods beside an API server', function () {
  this.timeout(180_000);
  let tenant: Tenant;
  let node: ClusterNode;
  before(async () => {
    const { cluster, images } = ground();
    node = cluster.node(1);
    tenant = await Tenant.of(cluster, 'mirror', images.box);
  });
  after(async () => {
    rmSync(file(), { force: true });
    await tenant.gone(MIRROR);
    await tenant.leave();
  });

  const file = (): string => join(node.directory, 'manifests/fixed.json');

  function write(script: string): void {
    const spec = { terminationGracePeriodSeconds: 1, containers: [tenant.box(script)] };
    const pod = { apiVersion: 'v1', kind: 'Pod', metadata: { name: 'fixed', namespace: tenant.namespace }, spec };
    writeFileSync(file(), JSON.stringify(pod));
  }

  async function mirror(accepts: (pod: V1Pod) => boolean, what: string): Promise<V1Pod> {
    const found = await waitFor(
      async () => (await tenant.pods()).find(({ metadata }) => metadata?.name === MIRROR),
      (pod) => pod !== undefined && accepts(pod),
      `the mirror pod to be ${what}`,
      WAIT,
    );
    assert.exists(found);
    return found as V1Pod;
  }

  it('are seen there, with their logs, and can be entered', async () => {
    write('echo first; exec sleep 100000');
    const pod = await mirror(isReady, 'ready');
    assert.equal(pod.metadata?.annotations?.['kubernetes.io/config.source'], 'file');
    assert.equal(await tenant.logs(MIRROR), 'first\n');
    assert.equal((await tenant.exec(MIRROR, 'hostname')).out, `${MIRROR}\n`);
  });

  it('go on when somebody deletes them there, and when the kubelet and Berth are killed', async () => {
    const before = statusOf(await mirror(isReady, 'ready'))?.containerID;
    await tenant.core.deleteNamespacedPod({ namespace: tenant.namespace, name: MIRROR });
    const again = await mirror(isReady, 'told of again');
    assert.equal(statusOf(again)?.containerID, before);
    await node.runtime.end('SIGKILL');
    await node.kubelet.end('SIGKILL');
    await node.startRuntime();
    await node.startKubelet();
    await tenant.ready({ name: 'after' });
    assert.equal(statusOf(await mirror(isReady, 'ready'))?.containerID, before);
    await tenant.remove('after');
  });

  it('become what their file becomes, and go with it', async () => {
    const before = statusOf(await mirror(isReady, 'ready'))?.containerID;
    write('echo second; exec sleep 100000');
    await mirror((pod) => isReady(pod) && statusOf(pod)?.containerID !== before, 'another');
    assert.equal(await tenant.logs(MIRROR), 'second\n');
    rmSync(file());
    await tenant.gone(MIRROR);
    const of = (name: string): boolean => name.includes('fixed');
    assert.isFalse((await node.inside(['ls', '/var/log/containers'])).split('\n').some(of));
  });
});

/** A test that is tried again begins as the first try did: what a tenant and a node can be brought back to. */
import { assert } from 'chai';
import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { ClusterNode } from './node.ts';
import { ground } from './shared.ts';
import { isReady, Tenant } from './tenant.ts';

describe('what a try has left', function () {
  this.timeout(180_000);
  let tenant: Tenant;
  let node: ClusterNode;
  before(async () => {
    const { cluster, images } = ground();
    node = cluster.node(1);
    tenant = await Tenant.of(cluster, 'tries', images.box);
  });
  after(async () => await tenant.leave());

  const names = async (): Promise<string[]> => (await tenant.pods()).map(({ metadata }) => metadata?.name ?? '').sort();

  it('is gone from a namespace, and what it took away is there again', async () => {
    const { namespace } = tenant;
    await Promise.all(['kept', 'taken'].map((name) => tenant.ready({ name })));
    const before = await tenant.pod('kept');
    const back = await tenant.mark();
    const labels = { app: 'left' };
    const template = { metadata: { labels }, spec: tenant.spec() };
    const spec = { replicas: 2, selector: { matchLabels: labels }, template };
    await tenant.apps.createNamespacedDeployment({ namespace, body: { metadata: { name: 'left' }, spec } });
    await tenant.core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'map' }, data: { key: 'x' } } });
    await tenant.runtimes.createRuntimeClass({ body: { metadata: { name: 'left' }, handler: 'runc' } });
    await tenant.ready({ name: 'stray' });
    await tenant.remove('taken');
    await tenant.kubectl('cordon', node.name);
    await back();
    assert.deepEqual(await names(), ['kept', 'taken']);
    assert.equal((await tenant.pod('kept')).metadata?.uid, before.metadata?.uid);
    assert.isTrue(isReady(await tenant.pod('taken')));
    const left = await tenant.kubectl('get', 'configmap,runtimeclass', '--output=name');
    assert.equal(left, 'configmap/kube-root-ca.crt\n');
    assert.notEqual((await tenant.core.readNode({ name: node.name })).spec?.unschedulable, true);
    await Promise.all(['kept', 'taken'].map((name) => tenant.remove(name)));
  });

  it('is gone from a node, which is on again with its runtime and its kubelet', async () => {
    const manifest = join(node.directory, 'manifests/left.json');
    const back = node.mark();
    writeFileSync(manifest, '{}');
    await node.restartKubelet({ config: { maxPods: 0 } });
    await node.runtime.end('SIGKILL');
    await back();
    assert.isFalse(existsSync(manifest));
    await tenant.ready({ name: 'after-runtime' });
    const again = node.mark();
    await node.powerOff();
    await again();
    await tenant.ready({ name: 'after-power' });
    await Promise.all(['after-runtime', 'after-power'].map((name) => tenant.remove(name)));
  });
});

/** What pods see of objects that change while they run: configuration, secrets, and the pod itself. */
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { ground } from './shared.ts';
import { Tenant } from './tenant.ts';

/** The kubelet looks after each pod within a minute and a half. */
const WAIT = { timeoutMs: 120_000, intervalMs: 500 };

describe('pods under a kubelet: volumes that change', function () {
  this.timeout(240_000);
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'updates', images.box);
    const { core, namespace } = tenant;
    const body = { metadata: { name: 'conf' }, data: { key: 'one', gone: 'soon' } };
    await core.createNamespacedConfigMap({ namespace, body });
    await core.createNamespacedSecret({ namespace, body: { metadata: { name: 'secret' }, stringData: { key: 'a' } } });
    const pod = (path: string, fieldPath: string) => ({ path, fieldRef: { fieldPath } });
    const items = [pod('label', "metadata.labels['colour']"), pod('annotations', 'metadata.annotations')];
    const projected = {
      sources: [
        { configMap: { name: 'conf' } },
        { downwardAPI: { items } },
        { serviceAccountToken: { path: 'token' } },
      ],
    };
    const volumes = [
      { name: 'conf', configMap: { name: 'conf' } },
      { name: 'secret', secret: { secretName: 'secret' } },
      { name: 'later', configMap: { name: 'later', optional: true } },
      { name: 'pod', downwardAPI: { items } },
      { name: 'all', projected },
    ];
    const volumeMounts = [
      ...volumes.map(({ name }) => ({ name, mountPath: `/${name}` })),
      { name: 'conf', mountPath: '/fixed', subPath: 'key' },
    ];
    await tenant.ready({ name: 'sees', run: { volumeMounts }, spec: { volumes }, labels: { colour: 'red' } });
  });
  after(async () => await tenant.leave());

  async function sees(path: string, wanted: string | RegExp): Promise<void> {
    const matches = (text: string): boolean => (typeof wanted === 'string' ? text === wanted : wanted.test(text));
    await waitFor(async () => (await tenant.exec('sees', `cat ${path}`)).out, matches, `${path} to be ${wanted}`, WAIT);
  }

  /** A change of the pod has the kubelet look at its volumes at once. */
  async function nudge(mark: string): Promise<void> {
    await tenant.kubectl('annotate', 'pod', 'sees', '--overwrite', `mark=${mark}`);
  }

  it('shows configuration and secrets as they become, at once and whole', async () => {
    assert.equal((await tenant.exec('sees', 'cat /conf/key /secret/key /all/key /fixed')).out, 'oneaoneone');
    await tenant.kubectl('patch', 'configmap', 'conf', '-p', '{"data":{"key":"two","gone":null,"more":"here"}}');
    await tenant.kubectl('patch', 'secret', 'secret', '-p', '{"stringData":{"key":"b"}}');
    await nudge('one');
    await sees('/conf/key', 'two');
    await sees('/all/key', 'two');
    await sees('/secret/key', 'b');
    assert.equal((await tenant.exec('sees', 'ls /conf')).out, 'key\nmore\n');
    // A mounted part of a volume stays the file that it was.
    assert.equal((await tenant.exec('sees', 'cat /fixed')).out, 'one');
  });

  it('shows labels and annotations of the pod as they become', async () => {
    await tenant.kubectl('label', 'pod', 'sees', '--overwrite', 'colour=blue');
    await nudge('two');
    await sees('/pod/label', 'blue');
    await sees('/all/label', 'blue');
    await sees('/pod/annotations', /^mark="two"$/m);
  });

  it('shows an optional map that comes later', async () => {
    assert.equal((await tenant.exec('sees', 'ls /later')).out, '');
    const body = { metadata: { name: 'later' }, data: { key: 'came' } };
    await tenant.core.createNamespacedConfigMap({ namespace: tenant.namespace, body });
    await nudge('three');
    await sees('/later/key', 'came');
  });

  it('keeps showing what becomes after Berth was killed', async () => {
    const node = ground().cluster.node(1);
    await node.runtime.end('SIGKILL');
    await node.startRuntime();
    await tenant.kubectl('patch', 'configmap', 'conf', '-p', '{"data":{"key":"three"}}');
    await nudge('four');
    await sees('/conf/key', 'three');
    await sees('/all/token', /^ey/);
  });
});

/** Volumes of pods under a kubelet. */
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { publishImages } from './images.ts';
import { startRegistry } from '../e2e/registry.ts';
import { ground } from './shared.ts';
import { Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 60_000, intervalMs: 200 };

describe('pods under a kubelet: volumes and images', () => {
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'volumes', images.box);
  });
  after(async () => await tenant.leave());

  it('shows secrets, configuration and the pod itself, and what becomes of them', async () => {
    const { namespace, core } = tenant;
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'conf' }, data: { key: 'one' } } });
    await core.createNamespacedSecret({
      namespace,
      body: { metadata: { name: 'secret' }, stringData: { word: 'sesame' } },
    });
    const label = { path: 'label', fieldRef: { fieldPath: "metadata.labels['colour']" } };
    const limit = { path: 'limit', resourceFieldRef: { containerName: 'box', resource: 'limits.memory' } };
    const volumes = [
      { name: 'conf', configMap: { name: 'conf' } },
      { name: 'secret', secret: { secretName: 'secret', defaultMode: 0o400 } },
      { name: 'pod', downwardAPI: { items: [label, limit] } },
    ];
    const volumeMounts = volumes.map(({ name }) => ({ name, mountPath: `/${name}` }));
    const env = [
      { name: 'WORD', valueFrom: { secretKeyRef: { name: 'secret', key: 'word' } } },
      { name: 'IP', valueFrom: { fieldRef: { fieldPath: 'status.podIP' } } },
    ];
    const run = { volumeMounts, env, resources: { limits: { memory: '64Mi' } } };
    const pod = await tenant.ready({ name: 'shown', run, spec: { volumes }, labels: { colour: 'red' } });
    const seen = 'cat /conf/key /secret/word /pod/label /pod/limit; echo " $WORD $IP"; stat -Lc %a /secret/word';
    const { out } = await tenant.exec('shown', seen);
    assert.equal(out, `onesesamered67108864 sesame ${pod.status?.podIP}\n400\n`);

    await tenant.kubectl('patch', 'configmap', 'conf', '-p', '{"data":{"key":"two"}}');
    // A change of the pod has the kubelet look at once instead of within a minute.
    await tenant.kubectl('label', 'pod', 'shown', '--overwrite', 'colour=blue');
    await waitFor(
      async () => (await tenant.exec('shown', 'cat /pod/label')).out,
      (text) => text === 'blue',
      'the label to change',
      WAIT,
    );
    await tenant.remove('shown');
  });

  it('mounts directories of memory, of the node and of a part of a volume', async () => {
    const volumes = [
      { name: 'memory', emptyDir: { medium: 'Memory', sizeLimit: '8Mi' } },
      { name: 'disk', emptyDir: {} },
      { name: 'node', hostPath: { path: ground().cluster.node(1).directory, type: 'Directory' } },
    ];
    const volumeMounts = [
      { name: 'memory', mountPath: '/memory' },
      { name: 'disk', mountPath: '/disk' },
      { name: 'disk', mountPath: '/part', subPath: 'a/b' },
      { name: 'node', mountPath: '/node', readOnly: true },
    ];
    await tenant.ready({ name: 'mounts', run: { volumeMounts }, spec: { volumes } });
    const { out, code } = await tenant.exec(
      'mounts',
      'echo x >/part/file && cat /disk/a/b/file; grep " /memory " /proc/mounts; ls /node',
    );
    assert.equal(code, 0);
    assert.match(out, /^x\ntmpfs \/memory tmpfs rw,.*size=8192k/);
    assert.include(out, 'kubelet.json');
    assert.notEqual((await tenant.exec('mounts', 'touch /node/x')).code, 0);
    await tenant.remove('mounts');
  });

  it('mounts an image', async () => {
    const volumes = [{ name: 'data', image: { reference: ground().images.data, pullPolicy: 'IfNotPresent' } }];
    const volumeMounts = [
      { name: 'data', mountPath: '/image' },
      { name: 'data', mountPath: '/part', subPath: 'data' },
    ];
    await tenant.ready({ name: 'image', run: { volumeMounts }, spec: { volumes } });
    assert.equal((await tenant.exec('image', 'cat /image/data/hello')).out, 'hello from an image');
    assert.equal((await tenant.exec('image', 'cat /part/hello')).out, 'hello from an image');
    assert.notEqual((await tenant.exec('image', 'touch /image/x')).code, 0);
    await tenant.remove('image');
  });

  it('pulls from a registry that asks for a password, with the secret of the pod and not without', async () => {
    const { cluster } = ground();
    const login = { user: 'harbour', password: 'master' };
    const registry = await startRegistry(cluster.directory, { address: cluster.address, login });
    try {
      const credentials = `${login.user}:${login.password}`;
      const { box } = await publishImages(`${cluster.directory}/private`, registry.host, credentials);
      cluster.trust(registry.host);
      const server = `--docker-server=${registry.host}`;
      const who = [`--docker-username=${login.user}`, `--docker-password=${login.password}`];
      await tenant.kubectl('create', 'secret', 'docker-registry', 'key', server, ...who);
      await tenant.create({ name: 'without', run: { image: box } });
      await tenant.until(
        'without',
        (pod) => /ImagePull|ErrImage/.test(pod.status?.containerStatuses?.[0]?.state?.waiting?.reason ?? ''),
        'refused',
      );
      await tenant.ready({ name: 'with', run: { image: box }, spec: { imagePullSecrets: [{ name: 'key' }] } });
      await Promise.all(['with', 'without'].map((name) => tenant.remove(name)));
    } finally {
      await registry.stop();
    }
  });
});

/** Pods in user namespaces of their own (`hostUsers: false`) under a kubelet. */
import { assert } from 'chai';
import { ground } from './shared.ts';
import { Tenant } from './tenant.ts';

/** How many users a pod has, by the kubelet's default. */
const USERS = 65_536;
const HANDLER = 'crun';

describe('pods under a kubelet: users of their own', function () {
  this.timeout(120_000);
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'users', images.box);
    // Debian's runc has no idmapped mounts yet.
    await tenant.runtimes.createRuntimeClass({ body: { metadata: { name: 'users' }, handler: HANDLER } });
  });
  after(async () => {
    await tenant.leave();
    await tenant.runtimes.deleteRuntimeClass({ name: 'users' });
  });

  /** Where the users of a pod begin on the node. */
  async function firstUser(name: string): Promise<number> {
    const { out } = await tenant.exec(name, 'cat /proc/self/uid_map');
    const [inside, first, count] = out.trim().split(/\s+/).map(Number);
    assert.deepEqual([inside, count], [0, USERS]);
    return first ?? 0;
  }

  it('have root within, who is nobody on the node, and nobody else does', async () => {
    const spec = { runtimeClassName: 'users', hostUsers: false };
    const marks = ['one', 'two'];
    await Promise.all(marks.map((name) => tenant.ready({ name, run: 'exec sleep 98765', spec })));
    const [one = 0, two = 0] = await Promise.all(marks.map(firstUser));
    assert.isAtLeast(Math.min(one, two), USERS);
    assert.isAtLeast(Math.abs(one - two), USERS);
    const of = "case $(tr '\\0' ' ' <$p/cmdline) in 'sleep 98765 ') stat -c %u $p;; esac";
    const script = `for p in /proc/[0-9]*; do ${of}; done 2>/dev/null`;
    const users = (await ground().cluster.node(1).inside(['sh', '-c', script])).trim().split('\n');
    assert.sameMembers(users.map(Number), [one, two]);
    await Promise.all(marks.map((name) => tenant.remove(name)));
  });

  it('own their volumes, with what they write into them', async () => {
    const { namespace, core } = tenant;
    await core.createNamespacedSecret({
      namespace,
      body: { metadata: { name: 'word' }, stringData: { word: 'sesame' } },
    });
    await core.createNamespacedConfigMap({ namespace, body: { metadata: { name: 'conf' }, data: { key: 'one' } } });
    const volumes = [
      { name: 'disk', emptyDir: {} },
      { name: 'memory', emptyDir: { medium: 'Memory' } },
      { name: 'word', secret: { secretName: 'word', defaultMode: 0o400 } },
      { name: 'conf', configMap: { name: 'conf' } },
    ];
    const volumeMounts = volumes.map(({ name }) => ({ name, mountPath: `/${name}` }));
    const pod = await tenant.ready({
      name: 'owner',
      run: { volumeMounts },
      spec: { runtimeClassName: 'users', hostUsers: false, volumes },
    });
    const { out } = await tenant.exec(
      'owner',
      'touch /disk/x /memory/x; stat -c %u /disk /disk/x /memory/x /conf/key; cat /word/word',
    );
    assert.equal(out, '0\n0\n0\n0\nsesame');
    const node = ground().cluster.node(1);
    const file = `${node.directory}/kubelet/pods/${pod.metadata?.uid}/volumes/kubernetes.io~empty-dir/disk/x`;
    // Volumes are mounted idmapped: root of the pod writes as root of the node, into what is its own alone.
    assert.equal(await node.inside(['stat', '-c', '%u', file]), '0\n');
    await tenant.remove('owner');
  });

  it('outlive Berth, who still lets others in', async () => {
    await tenant.ready({ name: 'stays', spec: { runtimeClassName: 'users', hostUsers: false } });
    const before = await firstUser('stays');
    const { runtime } = ground().cluster.node(1);
    await runtime.end('SIGKILL');
    await ground().cluster.node(1).startRuntime();
    // By then the kubelet has found it again.
    await tenant.ready({ name: 'after' });
    assert.equal(await firstUser('stays'), before);
    await Promise.all(['stays', 'after'].map((name) => tenant.remove(name)));
  });
});

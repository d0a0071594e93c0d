/** Resources, identities and endings of pods under a kubelet. */
import { assert } from 'chai';
import { ground } from './shared.ts';
import { statusOf, Tenant } from './tenant.ts';

/** What a shell in a container asks its own cgroups. */
const MEMORY = 'cat /sys/fs/cgroup/memory/memory.limit_in_bytes';
const CPU = 'cat /sys/fs/cgroup/cpu/cpu.cfs_quota_us';
const MIB = 1 << 20;

describe('pods under a kubelet: limits and endings', () => {
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'limits', images.box);
  });
  after(async () => await tenant.leave());

  it('resizes processors and memory of a running container, up and down', async () => {
    const resources = (cpu: string, memory: string) => ({ requests: { cpu, memory }, limits: { cpu, memory } });
    const resizePolicy = ['cpu', 'memory'].map((resourceName) => ({ resourceName, restartPolicy: 'NotRequired' }));
    await tenant.ready({ name: 'resized', run: { resources: resources('100m', '64Mi'), resizePolicy } });
    const now = async (): Promise<number[]> => {
      const { out } = await tenant.exec('resized', `${CPU}; ${MEMORY}`);
      return out.trim().split('\n').map(Number);
    };
    assert.deepEqual(await now(), [10_000, 64 * MIB]);
    for (const [cpu, memory, wanted] of [
      ['200m', '128Mi', [20_000, 128 * MIB]],
      ['50m', '96Mi', [5000, 96 * MIB]],
    ] as const) {
      const patch = { spec: { containers: [{ name: 'box', resources: resources(cpu, memory) }] } };
      await tenant.kubectl('patch', 'pod', 'resized', '--subresource=resize', '-p', JSON.stringify(patch));
      const pod = await tenant.until(
        'resized',
        (each) =>
          statusOf(each)?.resources?.limits?.['memory'] === memory &&
          statusOf(each)?.resources?.limits?.['cpu'] === cpu,
        `resized to ${cpu}, ${memory}`,
      );
      assert.equal(statusOf(pod)?.restartCount, 0);
      assert.deepEqual(await now(), [...wanted]);
    }
    await tenant.remove('resized');
  });

  it('tells of a container that ran out of memory', async () => {
    const resources = { limits: { memory: '32Mi' } };
    const pod = await tenant.ended({ name: 'oom', run: { command: ['tail', '/dev/zero'], resources } });
    const terminated = statusOf(pod)?.state?.terminated;
    assert.deepEqual([terminated?.reason, terminated?.exitCode], ['OOMKilled', 137]);
    await tenant.remove('oom');
  });

  it('takes the termination message from a file, or from the log of what failed', async () => {
    const said = await tenant.ended({ name: 'said', run: 'echo last words >/dev/termination-log' });
    assert.equal(statusOf(said)?.state?.terminated?.message, 'last words\n');
    const logged = await tenant.ended({
      name: 'logged',
      run: { command: ['sh', '-c', 'echo from the log; exit 1'], terminationMessagePolicy: 'FallbackToLogsOnError' },
    });
    assert.equal(statusOf(logged)?.state?.terminated?.message, 'from the log\n');
    await Promise.all(['said', 'logged'].map((name) => tenant.remove(name)));
  });

  it('gives each class of service its score, and processors by request', async () => {
    const request = { cpu: '100m', memory: '32Mi' };
    await tenant.ready({ name: 'best' });
    await tenant.ready({ name: 'burst', run: { resources: { requests: request, limits: { memory: '64Mi' } } } });
    const facts = 'cat /proc/self/oom_score_adj /sys/fs/cgroup/cpu/cpu.shares';
    const numbers = async (name: string): Promise<number[]> =>
      (await tenant.exec(name, facts)).out.trim().split('\n').map(Number);
    assert.deepEqual(await numbers('best'), [1000, 2]);
    const [score = 0, shares] = await numbers('burst');
    assert.isTrue(score >= 2 && score < 1000, `score ${score}`);
    assert.equal(shares, 102);
    assert.equal((await tenant.pod('burst')).status?.qosClass, 'Burstable');
    await Promise.all(['best', 'burst'].map((name) => tenant.remove(name)));
  });

  it('is who the pod says, on a root that cannot be written to', async () => {
    const securityContext = { runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567] };
    const own = { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } };
    await tenant.ready({ name: 'identity', run: { securityContext: own }, spec: { securityContext } });
    const { out } = await tenant.exec(
      'identity',
      'id -u; id -g; id -G; touch /x; grep -E "NoNewPrivs|CapEff" /proc/self/status',
    );
    const [uid, gid, groups = '', ...status] = out.trim().split('\n');
    assert.deepEqual([uid, gid], ['1234', '2345']);
    assert.sameMembers(groups.split(' '), ['2345', '3456', '4567']);
    assert.deepEqual(
      status.map((line) => line.split('\t')[1]),
      ['0000000000000000', '1'],
    );
    assert.match((await tenant.exec('identity', 'touch /x')).err, /Read-only file system/);
    await tenant.remove('identity');
  });

  it('lets a host port be reached at the node', async () => {
    const ports = [{ containerPort: 8080, hostPort: 18_080 }];
    const pod = await tenant.ready({
      name: 'port',
      run: { command: ['httpd', '-f', '-p', '8080', '-h', '/www'], ports },
    });
    const response = await fetch(`http://${pod.status?.hostIP}:18080/`);
    assert.equal(await response.text(), '1');
    await tenant.remove('port');
  });
});

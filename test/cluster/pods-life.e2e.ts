/** How pods come, change and go under a kubelet: what people write into manifests, and what becomes of it. */
import type { V1Pod } from '@kubernetes/client-node';
import { assert } from 'chai';
import { waitFor } from '../e2e/cri-client.ts';
import { ground } from './shared.ts';
import { isReady, statusOf, Tenant } from './tenant.ts';

const WAIT = { timeoutMs: 60_000, intervalMs: 100 };
/** Says its version to everybody. */
const SERVE = 'exec httpd -f -p 8080 -h /www';

describe('pods under a kubelet: lives', () => {
  let tenant: Tenant;
  before(async () => {
    const { cluster, images } = ground();
    tenant = await Tenant.of(cluster, 'lives', images.box);
  });
  after(async () => await tenant.leave());

  it('rolls a Deployment out to another image, and leaves nothing of the former', async () => {
    const { namespace, apps } = tenant;
    const metadata = { name: 'web', labels: { app: 'web' } };
    const readinessProbe = { httpGet: { path: '/', port: 8080 }, periodSeconds: 1 };
    const spec = tenant.spec(undefined, { containers: [tenant.box(SERVE, { readinessProbe })] });
    const template = { metadata: { labels: { app: 'web' } }, spec };
    const selector = { matchLabels: { app: 'web' } };
    await apps.createNamespacedDeployment({ namespace, body: { metadata, spec: { replicas: 3, selector, template } } });
    await tenant.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
    const before = await tenant.pods('app=web');
    assert.lengthOf(before, 3);
    assert.equal(await served(before[0]), '1');
    await tenant.kubectl('set', 'image', 'deployment/web', `box=${ground().images.boxTwo}`);
    await tenant.kubectl('rollout', 'status', 'deployment/web', '--timeout=60s');
    const after = await waitFor(
      () => tenant.pods('app=web'),
      (pods) => pods.length === 3,
      'the former pods to go',
      WAIT,
    );
    for (const pod of after) assert.equal(await served(pod), '2');
    await tenant.kubectl('delete', 'deployment/web', '--wait');
  });

  it('runs a Job to its completions, and gives one up that fails', async () => {
    const { namespace, batch } = tenant;
    const job = async (name: string, script: string, completions: number): Promise<void> => {
      const template = { spec: tenant.spec(script, { restartPolicy: 'Never' }) };
      const spec = { completions, parallelism: 2, backoffLimit: 0, template };
      await batch.createNamespacedJob({ namespace, body: { metadata: { name }, spec } });
    };
    await job('good', 'echo done', 3);
    await job('bad', 'exit 7', 1);
    await tenant.kubectl('wait', '--for=condition=complete', 'job/good', '--timeout=60s');
    await tenant.kubectl('wait', '--for=condition=failed', 'job/bad', '--timeout=60s');
    const good = await tenant.pods('job-name=good');
    assert.deepEqual(
      good.map(({ status }) => status?.phase),
      ['Succeeded', 'Succeeded', 'Succeeded'],
    );
    const [bad] = await tenant.pods('job-name=bad');
    assert.equal(bad && statusOf(bad)?.state?.terminated?.exitCode, 7);
    await tenant.kubectl('delete', 'job', 'good', 'bad');
  });

  it('runs a CronJob, a DaemonSet and a StatefulSet whose pods keep their names', async () => {
    const { namespace, apps, batch } = tenant;
    const labels = { app: 'set' };
    const template = { metadata: { labels }, spec: tenant.spec() };
    const selector = { matchLabels: labels };
    const set = { metadata: { name: 'set' }, spec: { replicas: 2, serviceName: 'set', selector, template } };
    await apps.createNamespacedStatefulSet({ namespace, body: set });
    await tenant.kubectl('rollout', 'status', 'statefulset/set', '--timeout=60s');
    const before = await tenant.pod('set-0');
    await tenant.core.deleteNamespacedPod({ namespace, name: 'set-0' });
    const again = await tenant.until(
      'set-0',
      (pod) => pod.metadata?.uid !== before.metadata?.uid && isReady(pod),
      'again',
    );
    assert.equal((await tenant.exec('set-0', 'hostname')).out, 'set-0\n');
    assert.notEqual(again.status?.podIP, undefined);

    const anywhere = tenant.spec(undefined, { nodeSelector: {} });
    const daemon = { metadata: { labels: { app: 'daemon' } }, spec: anywhere };
    const everywhere = { selector: { matchLabels: { app: 'daemon' } }, template: daemon };
    await apps.createNamespacedDaemonSet({ namespace, body: { metadata: { name: 'daemon' }, spec: everywhere } });
    await tenant.kubectl('rollout', 'status', 'daemonset/daemon', '--timeout=60s');
    assert.lengthOf(await tenant.pods('app=daemon'), ground().cluster.nodes.length);

    const jobTemplate = { spec: { template: { spec: tenant.spec('echo tick', { restartPolicy: 'Never' }) } } };
    const cron = { metadata: { name: 'cron' }, spec: { schedule: '0 0 1 1 *', jobTemplate } };
    await batch.createNamespacedCronJob({ namespace, body: cron });
    await tenant.kubectl('create', 'job', 'tick', '--from=cronjob/cron');
    await tenant.kubectl('wait', '--for=condition=complete', 'job/tick', '--timeout=60s');
    assert.equal(await tenant.kubectl('logs', 'job/tick'), 'tick\n');
    await tenant.kubectl('delete', 'statefulset/set', 'daemonset/daemon', 'cronjob/cron');
  });

  it('asks by exec, HTTP and TCP whether a container has started, is ready and lives', async () => {
    const exec = (command: string) => ({
      exec: { command: ['sh', '-c', command] },
      periodSeconds: 1,
      timeoutSeconds: 10,
    });
    const box = tenant.box(`touch /tmp/alive; (sleep 2; touch /tmp/started) & ${SERVE}`, {
      startupProbe: { ...exec('test -e /tmp/started'), failureThreshold: 60 },
      readinessProbe: { httpGet: { path: '/index.html', port: 8080 }, periodSeconds: 1 },
      livenessProbe: { ...exec('test -e /tmp/alive'), failureThreshold: 1 },
    });
    const tcp = tenant.box(SERVE.replace('8080', '8081'), {
      name: 'tcp',
      readinessProbe: { tcpSocket: { port: 8081 }, periodSeconds: 1 },
    });
    const pod = await tenant.ready({ name: 'probes', spec: { containers: [box, tcp] } });
    assert.equal(statusOf(pod)?.started, true);
    await tenant.exec('probes', 'mv /www/index.html /www/other');
    await tenant.until('probes', (each) => !isReady(each), 'not ready');
    await tenant.exec('probes', 'mv /www/other /www/index.html');
    await tenant.until('probes', isReady, 'ready again');
    await tenant.exec('probes', 'rm /tmp/alive');
    const after = await tenant.until('probes', (each) => statusOf(each)?.restartCount === 1, 'restarted');
    assert.equal(statusOf(after, 'tcp')?.restartCount, 0);
    await tenant.until('probes', isReady, 'ready after the restart');
    await tenant.remove('probes');
  });

  it('runs hooks after the start and before the stop, and waits for the latter', async () => {
    const hook = (script: string) => ({ exec: { command: ['sh', '-c', script] } });
    const lifecycle = {
      postStart: hook('echo hooked >/tmp/hooked'),
      preStop: hook('sleep 1; echo stopping >/keep/said'),
    };
    const volumes = [
      { name: 'keep', hostPath: { path: `${ground().cluster.node(1).directory}/keep`, type: 'DirectoryOrCreate' } },
    ];
    const volumeMounts = [{ name: 'keep', mountPath: '/keep' }];
    const box = tenant.box("trap 'echo over >>/keep/said; exit 0' TERM; while :; do sleep 0.1; done", {
      lifecycle,
      volumeMounts,
    });
    await tenant.ready({ name: 'hooks', spec: { containers: [box], volumes, terminationGracePeriodSeconds: 20 } });
    assert.equal((await tenant.exec('hooks', 'cat /tmp/hooked')).out, 'hooked\n');
    const asked = Date.now();
    await tenant.remove('hooks');
    assert.isBelow(Date.now() - asked, 15_000);
    assert.equal(
      await ground()
        .cluster.node(1)
        .inside(['cat', `${ground().cluster.node(1).directory}/keep/said`]),
      'stopping\nover\n',
    );
  });

  it('runs init containers one after the other, and a sidecar beside the rest for as long as it lasts', async () => {
    const volumeMounts = [{ name: 'work', mountPath: '/work' }];
    const step = (name: string, script: string, more: object = {}) =>
      tenant.box(script, { name, volumeMounts, ...more });
    const initContainers = [
      step('one', 'echo one >>/work/steps'),
      step('side', 'echo side >>/work/steps; trap "exit 0" TERM; while :; do sleep 0.1; done', {
        restartPolicy: 'Always',
      }),
      step('two', 'echo two >>/work/steps'),
    ];
    const containers = [step('box', 'cat /work/steps')];
    const pod = await tenant.ended({
      name: 'inits',
      spec: { initContainers, containers, volumes: [{ name: 'work', emptyDir: {} }] },
    });
    assert.equal(pod.status?.phase, 'Succeeded');
    const steps = (await tenant.logs('inits', { container: 'box' })).trim().split('\n');
    assert.sameMembers(steps, ['one', 'side', 'two']);
    assert.isBelow(steps.indexOf('one'), steps.indexOf('two'));
    const over = await tenant.until('inits', (each) => statusOf(each, 'side')?.state?.terminated !== undefined, 'over');
    assert.equal(statusOf(over, 'side')?.state?.terminated?.exitCode, 0);
    await tenant.remove('inits');
  });

  it('puts a debugger beside a container, which sees its processes', async () => {
    await tenant.ready({ name: 'target', run: 'sleep 54321' });
    const image = ground().images.box;
    await tenant.kubectl('debug', 'target', `--image=${image}`, '--target=box', '-c', 'tool', '--', 'sleep', '1000');
    await tenant.until('target', (pod) => statusOf(pod, 'tool')?.state?.running !== undefined, 'debugged');
    const seen = await tenant.exec('target', 'ps -o args', 'tool');
    assert.include(seen.out, 'sleep 54321');
    await tenant.remove('target');
  });

  it('shares processes, and the namespaces of the host, where a pod asks for them', async () => {
    const containers = [tenant.box('sleep 11111'), tenant.box('sleep 22222', { name: 'other' })];
    await tenant.ready({ name: 'shared', spec: { containers, shareProcessNamespace: true } });
    assert.include((await tenant.exec('shared', 'ps -o args')).out, 'sleep 22222');
    const pod = await tenant.ready({ name: 'host', spec: { hostNetwork: true, hostPID: true, hostIPC: true } });
    assert.equal(pod.status?.podIP, pod.status?.hostIP);
    assert.include((await tenant.exec('host', 'ps -o args')).out, 'berth');
    await Promise.all(['shared', 'host'].map((name) => tenant.remove(name)));
  });

  it('runs each handler that a RuntimeClass names', async () => {
    for (const handler of ['runc', 'crun']) {
      await tenant.runtimes.createRuntimeClass({ body: { metadata: { name: handler }, handler } });
      await tenant.ready({ name: `by-${handler}`, spec: { runtimeClassName: handler } });
      const { out } = await tenant.exec(`by-${handler}`, 'echo here');
      assert.equal(out, 'here\n');
      await tenant.remove(`by-${handler}`);
      await tenant.runtimes.deleteRuntimeClass({ name: handler });
    }
  });

  it('backs off from an image that is not there, and from a container that ends at once', async () => {
    const missing = `${ground().cluster.registry.host}/nothing:1`;
    await tenant.create({ name: 'missing', run: { image: missing } });
    await tenant.create({ name: 'crash', run: 'echo crashed; exit 3' });
    await tenant.until('missing', waits('ImagePullBackOff'), 'in ImagePullBackOff');
    const pod = await tenant.until('crash', waits('CrashLoopBackOff'), 'in CrashLoopBackOff');
    assert.equal(statusOf(pod)?.lastState?.terminated?.exitCode, 3);
    assert.equal(await tenant.logs('crash', { previous: true }), 'crashed\n');
    await tenant.kubectl('delete', 'pod', 'missing', 'crash', '--force', '--grace-period=0');
  });
});

const waits =
  (reason: string) =>
  (pod: V1Pod): boolean =>
    pod.status?.containerStatuses?.[0]?.state?.waiting?.reason === reason;

/** What the pod serves to somebody outside of its node. */
async function served(pod: V1Pod | undefined): Promise<string> {
  const response = await fetch(`http://${pod?.status?.podIP}:8080/`);
  return (await response.text()).trim();
}

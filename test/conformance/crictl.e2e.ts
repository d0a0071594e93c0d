/**
 * The verbs that people type, through crictl itself: what each prints and leaves, from pull to rmi. Run by scripts/conformance.ts, which
 * builds crictl and tells us about it in CONFORMANCE_* variables.
 */
import { assert } from 'chai';
import { execFile, type ExecFileException } from 'node:child_process';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from '../e2e/cri-client.ts';
import { type NodeOptions, TestNode } from '../e2e/harness.ts';

const run = promisify(execFile);
const BUSYBOX = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';
/** As the kubelet sets them; crictl ps shows the pod from these. */
const KUBELET_LABELS = { 'io.kubernetes.pod.name': 'web', 'io.kubernetes.pod.namespace': 'shop' };
const ID = /^[0-9a-f]{64}$/;

describe('crictl', function () {
  this.timeout(120_000);
  let node: TestNode;
  let config: string;
  let podFile: string;

  before(async () => {
    const options = JSON.parse(variable('CONFORMANCE_NODE')) as NodeOptions;
    node = await TestNode.boot({ ...options, env: { CONTAINERS_REGISTRIES_CONF: variable('CONFORMANCE_REGISTRIES_CONF') } });
    config = await put('crictl.yaml', `runtime-endpoint: unix://${node.socket}\nimage-endpoint: unix://${node.socket}\ntimeout: 30\n`);
    podFile = await put('pod.json', {
      metadata: { name: 'web', namespace: 'shop', uid: 'uid-1', attempt: 1 },
      hostname: 'web-0',
      log_directory: join(node.dir, 'podlogs'),
      labels: { app: 'web' },
      annotations: { note: 'kept as it is' },
      linux: { security_context: { namespace_options: { network: 0, pid: 1, ipc: 0 } } },
    });
  });
  after(() => node.close());

  /** Writes a file that crictl reads; its path. */
  async function put(name: string, content: unknown): Promise<string> {
    const path = join(node.dir, name);
    await writeFile(path, typeof content === 'string' ? content : JSON.stringify(content));
    return path;
  }

  /** What `crictl args` prints, without the last line end. @throws when it fails. */
  async function crictl(...args: string[]): Promise<string> {
    const { stdout } = await run(variable('CONFORMANCE_CRICTL'), ['--config', config, ...args]);
    return stdout.replace(/\n$/, '');
  }

  /** What `crictl args` complains about. */
  async function complaint(...args: string[]): Promise<{ readonly code: unknown; readonly stderr: string }> {
    return crictl(...args).then(
      (stdout) => assert.fail(`crictl ${args.join(' ')} succeeded: ${stdout}`),
      (error: ExecFileException) => ({ code: error.code, stderr: error.stderr ?? '' }),
    );
  }

  async function json(...args: string[]): Promise<Json> {
    return JSON.parse(await crictl(...args)) as Json;
  }

  /** A pod of its own, and a container in it with `command`, started. */
  async function started(name: string, command: readonly string[]): Promise<{ readonly pod: string; readonly id: string }> {
    const pod = await put(`${name}.pod.json`, { metadata: { name, namespace: 'default', uid: `uid-${name}`, attempt: 0 }, log_directory: join(node.dir, 'podlogs', name) });
    const container = await put(`${name}.json`, { metadata: { name }, image: { image: BUSYBOX }, command, log_path: `${name}.log` });
    await crictl('pull', BUSYBOX);
    const podId = await crictl('runp', pod);
    const id = await crictl('create', podId, container, pod);
    await crictl('start', id);
    return { pod: podId, id };
  }

  it('says who answers, and that it is ready', async () => {
    assert.match(await crictl('version'), /^Version:\s+0\.1\.0\nRuntimeName:\s+berth\nRuntimeVersion:\s+\S+\nRuntimeApiVersion:\s+v1$/);
    const info = await json('info');
    const conditions = list(get(info, 'status', 'conditions')).map((each) => [get(each, 'type'), get(each, 'status')]);
    assert.deepInclude(conditions, ['RuntimeReady', true]);
    assert.deepInclude(conditions, ['NetworkReady', true]);
    // The default handler's name is empty, which JSON leaves out.
    assert.include(list(get(info, 'runtimeHandlers')).map((each) => get(each, 'name') ?? ''), '');
    assert.match(await crictl('runtime-config'), /^cgroup driver: +CGROUPFS$/m);
  });

  it('pulls, lists, inspects and removes an image', async () => {
    assert.match(await crictl('pull', BUSYBOX), /^Image is up to date for sha256:[0-9a-f]{64}$/);
    const images = list(get(await json('images', '-o', 'json'), 'images'));
    const image = images.find((each) => list(get(each, 'repoTags')).includes(BUSYBOX));
    assert.isDefined(image);
    assert.match(String(get(image, 'id')), /^sha256:[0-9a-f]{64}$/);
    assert.isAbove(Number(get(image, 'size')), 100_000);
    assert.strictEqual(get(await json('inspecti', BUSYBOX), 'status', 'id'), get(image, 'id'));
    assert.match(await crictl('images'), /e2e-test-images\/busybox\s+1\.29-2\s+[0-9a-f]{13}\s+\S+B/);
    const usage = get(await json('imagefsinfo'), 'status', 'imageFilesystems');
    assert.isAbove(Number(get(list(usage)[0], 'usedBytes', 'value')), 0);
    assert.include(await crictl('rmi', BUSYBOX), `Deleted: ${BUSYBOX}`);
    assert.match((await complaint('inspecti', BUSYBOX)).stderr, /no such image/);
    assert.strictEqual((await complaint('rmi', BUSYBOX)).code, 1);
  });

  it('takes a pod with a container through its life', async () => {
    await crictl('pull', BUSYBOX);
    const pod = await crictl('runp', podFile);
    assert.match(pod, ID);
    assert.strictEqual(await crictl('pods', '--quiet', '--label', 'app=web', '--state', 'ready'), pod);
    const sandbox = get(await json('inspectp', pod), 'status');
    assert.deepEqual([get(sandbox, 'state'), get(sandbox, 'metadata', 'name'), get(sandbox, 'annotations', 'note')], ['SANDBOX_READY', 'web', 'kept as it is']);
    assert.match(String(get(sandbox, 'network', 'ip')), /^\d+\.\d+\.\d+\.\d+$/);

    const command = ['sh', '-c', 'echo "hello from $(hostname), $GREETING"; echo wrong >&2; trap "exit 5" TERM; while :; do sleep 0.1; done'];
    const containerFile = await put('container.json', { metadata: { name: 'main' }, image: { image: BUSYBOX }, command, envs: [{ key: 'GREETING', value: 'good day' }], labels: KUBELET_LABELS, log_path: 'main.log' });
    const id = await crictl('create', pod, containerFile, podFile);
    assert.match(id, ID);
    assert.strictEqual(await crictl('ps', '--quiet', '--state', 'created'), id);
    assert.strictEqual(await crictl('start', id), id);
    assert.match(await crictl('ps'), new RegExp(`^${id.slice(0, 13)}\\s.*\\sRunning\\s+main\\s+0\\s+${pod.slice(0, 13)}\\s+web\\s+shop$`, 'm'));

    const status = get(await json('inspect', id), 'status');
    assert.deepEqual([get(status, 'state'), get(status, 'metadata', 'name'), get(status, 'image', 'userSpecifiedImage')], ['CONTAINER_RUNNING', 'main', BUSYBOX]);
    assert.strictEqual(get(status, 'logPath'), join(node.dir, 'podlogs/main.log'));
    assert.isAbove(Number(get(await json('inspect', id), 'info', 'pid')), 1);

    const logs = await waitFor(() => crictl('logs', id), (text) => text !== '', 'the log');
    assert.strictEqual(logs, 'hello from web-0, good day');
    assert.include(await readFile(join(node.dir, 'podlogs/main.log'), 'utf8'), 'stderr F wrong');
    assert.strictEqual((await crictl('exec', '--sync', id, 'sh', '-c', 'echo $((6 * 7))')).trim(), '42');
    const failure = await complaint('exec', '--sync', id, 'sh', '-c', 'echo no >&2; exit 9');
    assert.match(failure.stderr, /no/);
    assert.notStrictEqual(failure.code, 0);

    assert.strictEqual(await crictl('stop', '--timeout', '30', id), id);
    const ended = get(await json('inspect', id), 'status');
    assert.deepEqual([get(ended, 'state'), get(ended, 'exitCode'), get(ended, 'reason')], ['CONTAINER_EXITED', 5, 'Error']);
    assert.strictEqual(await crictl('rm', id), id);
    assert.match((await complaint('inspect', id)).stderr, /NotFound/);
    assert.strictEqual(await crictl('stopp', pod), `Stopped sandbox ${pod}`);
    assert.strictEqual(get(await json('inspectp', pod), 'status', 'state'), 'SANDBOX_NOTREADY');
    assert.strictEqual(await crictl('rmp', pod), `Removed sandbox ${pod}`);
    assert.strictEqual(await crictl('pods', '--quiet'), '');
    assert.strictEqual(await crictl('ps', '--all', '--quiet'), '');
  });

  it('runs a command over a stream, with both protocols', async () => {
    const { id } = await started('streams', ['sleep', '1000']);
    for (const transport of ['spdy', 'websocket']) {
      assert.strictEqual(await crictl('exec', '--transport', transport, id, 'echo', `over ${transport}`), `over ${transport}`);
    }
  });

  it('changes the resources of a running container', async () => {
    const { id } = await started('resources', ['sleep', '1000']);
    await crictl('update', '--cpu-share', '512', id);
    assert.strictEqual(Number(get(await json('inspect', id), 'status', 'resources', 'linux', 'cpuShares')), 512);
  });

  it('finds by prefix, and says so when there is nothing', async () => {
    const { pod, id } = await started('prefix', ['sleep', '1000']);
    assert.strictEqual(get(await json('inspect', id.slice(0, 13)), 'status', 'id'), id);
    assert.strictEqual(get(await json('inspectp', pod.slice(0, 13)), 'status', 'id'), pod);
    assert.match((await complaint('inspect', 'f'.repeat(64))).stderr, /NotFound/);
    assert.match((await complaint('exec', '--sync', 'f'.repeat(64), 'true')).stderr, /NotFound/);
    await crictl('stop', 'f'.repeat(64));
    await crictl('rmp', '--all', '--force');
    assert.strictEqual(await crictl('pods', '--quiet'), '');
  });
});

type Json = { readonly [key: string]: unknown };

function get(value: unknown, ...path: readonly string[]): unknown {
  return path.reduce<unknown>((at, key) => (at as Json | undefined)?.[key], value);
}

function list(value: unknown): readonly unknown[] {
  return Array.isArray(value) ? value : assert.fail(`want a list, found ${JSON.stringify(value)}`);
}

function variable(name: string): string {
  return process.env[name] ?? assert.fail(`${name} is not set; this is run by npm run conformance`);
}

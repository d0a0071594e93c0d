/**
 * The verbs that people type, through crictl itself: what each prints and leaves, from pull to rmi. Run by
 * scripts/conformance.ts.
 */
import { assert } from 'chai';
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { waitFor } from '../e2e/cri-client.ts';
import { BUSYBOX, CrictlNode, get, KUBELET_LABELS, list, TRANSPORTS } from './crictl.ts';

const ID = /^[0-9a-f]{64}$/;

describe('crictl', function () {
  this.timeout(120_000);
  let node: CrictlNode;
  let podFile: string;

  before(async () => {
    node = await CrictlNode.boot();
    podFile = await node.put('pod.json', {
      metadata: { name: 'web', namespace: 'shop', uid: 'uid-1', attempt: 1 },
      hostname: 'web-0',
      log_directory: join(node.dir, 'podlogs'),
      labels: { app: 'web' },
      annotations: { note: 'kept as it is' },
      linux: { security_context: { namespace_options: { network: 0, pid: 1, ipc: 0 } } },
    });
  });
  after(() => node.close());

  /** A container that greets on both of its outputs and ends with 5 when it is told to. */
  async function webContainer(): Promise<string> {
    const command = [
      'sh',
      '-c',
      'echo "hello from $(hostname), $GREETING"; echo wrong >&2; trap "exit 5" TERM; while :; do sleep 0.1; done',
    ];
    return await node.put('container.json', {
      metadata: { name: 'main' },
      image: { image: BUSYBOX },
      command,
      envs: [{ key: 'GREETING', value: 'good day' }],
      labels: KUBELET_LABELS,
      log_path: 'main.log',
    });
  }

  it('says who answers, and that it is ready', async () => {
    assert.match(
      await node.crictl('version'),
      /^Version:\s+0\.1\.0\nRuntimeName:\s+berth\nRuntimeVersion:\s+\S+\nRuntimeApiVersion:\s+v1$/,
    );
    const info = await node.json('info');
    const conditions = list(get(info, 'status', 'conditions')).map((each) => [get(each, 'type'), get(each, 'status')]);
    assert.deepInclude(conditions, ['RuntimeReady', true]);
    assert.deepInclude(conditions, ['NetworkReady', true]);
    // The default handler's name is empty, which JSON leaves out.
    assert.include(
      list(get(info, 'runtimeHandlers')).map((each) => get(each, 'name') ?? ''),
      '',
    );
    assert.match(await node.crictl('runtime-config'), /^cgroup driver: +CGROUPFS$/m);
  });

  it('pulls, lists, inspects and removes an image', async () => {
    assert.match(await node.crictl('pull', BUSYBOX), /^Image is up to date for sha256:[0-9a-f]{64}$/);
    const images = list(get(await node.json('images', '-o', 'json'), 'images'));
    const image = images.find((each) => list(get(each, 'repoTags')).includes(BUSYBOX));
    assert.isDefined(image);
    assert.match(String(get(image, 'id')), /^sha256:[0-9a-f]{64}$/);
    assert.isAbove(Number(get(image, 'size')), 100_000);
    assert.strictEqual(get(await node.json('inspecti', BUSYBOX), 'status', 'id'), get(image, 'id'));
    assert.match(await node.crictl('images'), /e2e-test-images\/busybox\s+1\.29-2\s+[0-9a-f]{13}\s+\S+B/);
    const usage = get(await node.json('imagefsinfo'), 'status', 'imageFilesystems');
    assert.isAbove(Number(get(list(usage)[0], 'usedBytes', 'value')), 0);
    assert.include(await node.crictl('rmi', BUSYBOX), `Deleted: ${BUSYBOX}`);
    assert.match((await node.complaint('inspecti', BUSYBOX)).stderr, /no such image/);
    assert.strictEqual((await node.complaint('rmi', BUSYBOX)).code, 1);
  });

  it('takes a pod with a container through its life', async () => {
    await node.crictl('pull', BUSYBOX);
    const pod = await node.crictl('runp', podFile);
    assert.match(pod, ID);
    assert.strictEqual(await node.crictl('pods', '--quiet', '--label', 'app=web', '--state', 'ready'), pod);
    const sandbox = get(await node.json('inspectp', pod), 'status');
    assert.deepEqual(
      [get(sandbox, 'state'), get(sandbox, 'metadata', 'name'), get(sandbox, 'annotations', 'note')],
      ['SANDBOX_READY', 'web', 'kept as it is'],
    );
    assert.match(String(get(sandbox, 'network', 'ip')), /^\d+\.\d+\.\d+\.\d+$/);

    const containerFile = await webContainer();
    const id = await node.crictl('create', pod, containerFile, podFile);
    assert.match(id, ID);
    assert.strictEqual(await node.crictl('ps', '--quiet', '--state', 'created'), id);
    assert.strictEqual(await node.crictl('start', id), id);
    assert.match(
      await node.crictl('ps'),
      new RegExp(`^${id.slice(0, 13)}\\s.*\\sRunning\\s+main\\s+0\\s+${pod.slice(0, 13)}\\s+web\\s+shop$`, 'm'),
    );

    const status = get(await node.json('inspect', id), 'status');
    assert.deepEqual(
      [get(status, 'state'), get(status, 'metadata', 'name'), get(status, 'image', 'userSpecifiedImage')],
      ['CONTAINER_RUNNING', 'main', BUSYBOX],
    );
    assert.strictEqual(get(status, 'logPath'), join(node.dir, 'podlogs/main.log'));
    assert.isAbove(Number(get(await node.json('inspect', id), 'info', 'pid')), 1);

    const logs = await waitFor(
      () => node.crictl('logs', id),
      (text) => text !== '',
      'the log',
    );
    assert.strictEqual(logs, 'hello from web-0, good day');
    assert.include(await readFile(join(node.dir, 'podlogs/main.log'), 'utf8'), 'stderr F wrong');
    assert.strictEqual((await node.crictl('exec', '--sync', id, 'sh', '-c', 'echo $((6 * 7))')).trim(), '42');
    const failure = await node.complaint('exec', '--sync', id, 'sh', '-c', 'echo no >&2; exit 9');
    assert.match(failure.stderr, /no/);
    assert.notStrictEqual(failure.code, 0);

    assert.strictEqual(await node.crictl('stop', '--timeout', '30', id), id);
    const ended = get(await node.json('inspect', id), 'status');
    assert.deepEqual(
      [get(ended, 'state'), get(ended, 'exitCode'), get(ended, 'reason')],
      ['CONTAINER_EXITED', 5, 'Error'],
    );
    assert.strictEqual(await node.crictl('rm', id), id);
    assert.match((await node.complaint('inspect', id)).stderr, /NotFound/);
    assert.strictEqual(await node.crictl('stopp', pod), `Stopped sandbox ${pod}`);
    assert.strictEqual(get(await node.json('inspectp', pod), 'status', 'state'), 'SANDBOX_NOTREADY');
    assert.strictEqual(await node.crictl('rmp', pod), `Removed sandbox ${pod}`);
    assert.strictEqual(await node.crictl('pods', '--quiet'), '');
    assert.strictEqual(await node.crictl('ps', '--all', '--quiet'), '');
  });

  it('runs a command over a stream, with both protocols', async () => {
    const { id } = await node.started('streams', ['sleep', '1000']);
    for (const transport of TRANSPORTS) {
      assert.strictEqual(
        await node.crictl('exec', '--transport', transport, id, 'echo', `over ${transport}`),
        `over ${transport}`,
      );
    }
  });

  it('changes the resources of a running container', async () => {
    const { id } = await node.started('resources', ['sleep', '1000']);
    await node.crictl('update', '--cpu-share', '512', id);
    assert.strictEqual(Number(get(await node.json('inspect', id), 'status', 'resources', 'linux', 'cpuShares')), 512);
  });

  it('finds by prefix, and says so when there is nothing', async () => {
    const { pod, id } = await node.started('prefix', ['sleep', '1000']);
    assert.strictEqual(get(await node.json('inspect', id.slice(0, 13)), 'status', 'id'), id);
    assert.strictEqual(get(await node.json('inspectp', pod.slice(0, 13)), 'status', 'id'), pod);
    assert.match((await node.complaint('inspect', 'f'.repeat(64))).stderr, /NotFound/);
    assert.match((await node.complaint('exec', '--sync', 'f'.repeat(64), 'true')).stderr, /NotFound/);
    await node.crictl('stop', 'f'.repeat(64));
    await node.crictl('rmp', '--all', '--force');
    assert.strictEqual(await node.crictl('pods', '--quiet'), '');
  });
});

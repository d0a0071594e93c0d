/** What a daemon tells of itself: metrics that are scraped from it after a pod's life, and traces that it sends. */
import { execFile } from 'node:child_process';
import { readFileSync, statSync } from 'node:fs';
import { mkdir, stat, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { request as requestTls } from 'node:https';
import { join } from 'node:path';
import { buffer as bufferOf, text as textOf } from 'node:stream/consumers';
import { promisify } from 'node:util';
import { gunzipSync } from 'node:zlib';
import { Client, credentials, Metadata } from '@grpc/grpc-js';
import { assert } from 'chai';
import { codecs, methods } from '../../cri/codec.ts';
import { sizeLabel } from '../../cri/metrics/labels.ts';
import { SERIES } from '../../cri/metrics/series.ts';
import { FakeCollector } from '../../cri/traces/fake-collector.ts';
import { podConfig, waitFor } from './cri-client.ts';
import { IMAGE, TestNode } from './harness.ts';
import { buildImage, dir, file } from './images.ts';
import { type ScriptedRegistry, startScriptedRegistry } from './registry.ts';

const run = promisify(execFile);
const BERTH = new URL('../../build/bin/berth', import.meta.url).pathname;

/** What CRI-O 1.36 gives after a pod's life in which an image was pulled twice, and one could not be: by its tables. */
const EXPECTED = [
  'containers_events_dropped_total',
  'containers_oom_total',
  'default_runtime{runtime}',
  'image_layer_reuse_total{name}',
  'image_pulls_bytes_total{mediatype,size}',
  'image_pulls_failure_total{error}',
  'image_pulls_layer_size_bucket{le}',
  'image_pulls_layer_size_count',
  'image_pulls_layer_size_sum',
  'image_pulls_skipped_bytes_total{size}',
  'image_pulls_success_total',
  'operations_errors_total{operation}',
  'operations_latency_seconds_total_count{operation}',
  'operations_latency_seconds_total_sum{operation}',
  'operations_latency_seconds_total{operation,quantile}',
  'operations_latency_seconds{operation}',
  'operations_total{operation}',
  'processes_defunct',
];

/** Names and labels of the values in an answer. */
function shapes(text: string): string[] {
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  const shape = (line: string): string => {
    const [, name = '', labels = ''] = /^([a-z_]+)(?:\{(.*)\})? [^ ]+$/.exec(line) ?? assert.fail(`no value: ${line}`);
    const names = Array.from(labels.matchAll(/([a-z]+)="(?:[^"\\]|\\.)*"/g), ([, label]) => label);
    return names.length === 0 ? name : `${name}{${names.join(',')}}`;
  };
  return [...new Set(lines.map(shape))].sort();
}

describe('what a daemon tells of itself', function () {
  this.timeout(60_000);

  describe('metrics', () => {
    let node: TestNode;
    let registry: ScriptedRegistry;
    const restart = (env: Readonly<Record<string, string>> = {}): Promise<void> =>
      node.restart({ CONTAINERS_REGISTRIES_CONF: join(node.dir, 'registries.conf'), ...env });
    const scrape = async (path = '/metrics'): Promise<string> => {
      const socketPath = join(node.dir, 'metrics.sock');
      return await new Promise((resolve, reject) => {
        const asked = request({ socketPath, path, agent: false }, (response) => {
          textOf(response).then(resolve, reject);
        });
        asked.on('error', reject).end();
      });
    };
    const metric = (text: string, line: string): number | undefined => {
      const found = text.split('\n').find((each) => each.startsWith(`container_runtime_crio_${line} `));
      return found === undefined ? undefined : Number(found.split(' ').at(-1));
    };

    before(async () => {
      registry = await startScriptedRegistry();
      node = await TestNode.boot();
      await writeFile(
        join(node.dir, 'registries.conf'),
        `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`,
      );
      node.moreFlags = [
        ...['--enable-metrics', '--metrics-port', '0', '--metrics-socket', join(node.dir, 'metrics.sock')],
        '--enable-pod-events',
      ];
      await restart();
    });
    after(async () => {
      await registry.stop();
      await node.close();
    });

    it('are CRI-O’s after a pod’s life: names, labels, and what they say', async () => {
      const files = [dir('etc'), file('etc/passwd', 'root:x:0:0:root:/root:/bin/sh\n')];
      const image = await buildImage({ directory: join(node.dir, 'layout'), name: 'app', layers: [{ files }] });
      await registry.serve(image, 'app', 'one');
      await registry.serve(image, 'other', 'two');
      await node.cri.pull(`${registry.host}/app:one`);
      await node.cri.pull(`${registry.host}/other:two`);
      await node.cri.pull(`${registry.host}/app:none`).then(
        () => assert.fail('there is no such image'),
        () => {},
      );
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
      await node.cri.exec(id, ['true']);
      await node.cri.removePod(pod.id);

      const text = await scrape();
      const crio = shapes(text).filter((each) => each.startsWith('container_runtime_crio_'));
      assert.deepEqual(crio, EXPECTED.map((each) => `container_runtime_crio_${each}`).sort());
      for (const { name, type } of Object.values(SERIES)) {
        const declared = text.split('\n').filter((line) => line.startsWith(`# TYPE ${name} `));
        if (declared.length > 0) assert.deepEqual(declared, [`# TYPE ${name} ${type}`]);
      }
      for (const rpc of ['RunPodSandbox', 'CreateContainer', 'StartContainer', 'ExecSync', 'StopPodSandbox'])
        assert.equal(metric(text, `operations_total{operation="${rpc}"}`), 1, rpc);
      assert.equal(metric(text, 'operations_errors_total{operation="PullImage"}'), 1);
      assert.equal(metric(text, 'image_pulls_success_total'), 2);
      assert.equal(metric(text, 'image_pulls_failure_total{error="MANIFEST_UNKNOWN"}'), 1);
      // The second image is the same one, of which nothing is pulled again.
      const layer = image.images[0]?.layers[0] ?? '';
      const { size } = await stat(join(image.layout, 'blobs', layer.replace(':', '/')));
      const type = 'application/vnd.oci.image.layer.v1.tar+gzip';
      assert.equal(metric(text, 'image_pulls_layer_size_count'), 1);
      assert.equal(metric(text, 'image_pulls_layer_size_sum'), size);
      assert.equal(metric(text, `image_pulls_bytes_total{mediatype="${type}",size="${sizeLabel(size)}"}`), size);
      assert.equal(metric(text, `image_pulls_skipped_bytes_total{size="${sizeLabel(size)}"}`), size);
      const reused = `${registry.host}/other:two@${layer}`;
      assert.equal(metric(text, `image_layer_reuse_total{name="${reused}"}`), 1, text);
      assert.equal(metric(text, 'default_runtime{runtime="runc"}'), 1);
      for (const what of ['network_setup_pod', 'network_setup_overall'])
        assert.isAbove(metric(text, `operations_latency_seconds{operation="${what}"}`) ?? 0, 0.001);
    });

    it('tell of a call that hangs, and of what Berth is', async () => {
      const own = shapes(await scrape()).filter((each) => !each.startsWith('container_runtime_'));
      assert.includeMembers(own, [
        'berth_build_info{version}',
        'berth_clean_ups_pending',
        'berth_network_turns_waiting',
        'process_open_fds',
        'process_resident_memory_bytes',
      ]);
      const leave = new AbortController();
      const events = node.cri.rpc.getContainerEvents({}, { signal: leave.signal })[Symbol.asyncIterator]();
      const first = events.next().catch(() => undefined);
      await waitFor(
        () => scrape(),
        (text) => text.includes('berth_operations_in_flight{operation="GetContainerEvents",stage=""} 1'),
        'the call to be told of',
      );
      leave.abort();
      await first;
    });

    it('tell of a pod that is not made in time, each time that its client gives up', async () => {
      await restart({ BERTH_FAILPOINTS: 'cni.add.after=hang' });
      const metadata = { name: 'stalls', uid: 'u', namespace: 'default', attempt: 0 };
      for (let each = 1; each <= 2; each++) {
        await node.cri.runPod({ metadata }, { deadlineMs: 1_000 }).then(
          () => assert.fail('the pod was made'),
          () => {},
        );
        const stalled = metric(await scrape(), 'resources_stalled_at_stage{stage="sandbox network creation"}');
        assert.equal(stalled, each);
      }
      await node.kill();
      await node.start({ CONTAINERS_REGISTRIES_CONF: join(node.dir, 'registries.conf') });
    });

    it('tell of containers without a monitor', async () => {
      const pod = await node.cri.runPod();
      const id = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '1000'] });
      const record = readFileSync(join(node.dir, 'run/containers', id, 'record.json'), 'utf8');
      const pid = /"monitor":\{"pid":(\d+)/.exec(record)?.[1] ?? assert.fail(`no monitor in ${record}`);
      process.kill(Number(pid), 'SIGKILL');
      const lost = /containers_stopped_monitor_count\{name="k8s_[^"]+"\} 1/;
      await waitFor(
        () => scrape(),
        (text) => lost.test(text),
        'the loss to be told of',
      );
      await node.cri.removePod(pod.id);
      await waitFor(
        () => scrape(),
        (text) => !lost.test(text),
        'its series to go with it',
      );
    });

    it('are given at metrics_host and metrics_port, at /metrics and nowhere else', async () => {
      const before = node.moreFlags;
      node.moreFlags = ['--enable-metrics', '--metrics-host', '127.0.0.3', '--metrics-port', '19537'];
      await restart();
      const ask = async (host: string, path: string): Promise<string> => {
        const { status } = await fetch(`http://${host}:19537${path}`).catch(() => ({ status: 0 }));
        return String(status);
      };
      assert.equal(await ask('127.0.0.3', '/metrics'), '200');
      assert.equal(await ask('127.0.0.3', '/'), '404');
      assert.equal(await ask('127.0.0.1', '/metrics'), '0');
      node.moreFlags = before;
      await restart();
    });

    it('are given by TLS, with a certificate that is made for it, and only what is asked for', async () => {
      const before = node.moreFlags;
      await mkdir(join(node.dir, 'tls'), { recursive: true });
      node.moreFlags = [
        ...before,
        ...['--metrics-cert', join(node.dir, 'tls/m.crt'), '--metrics-key', join(node.dir, 'tls/m.key')],
        ...['--metrics-collectors', 'container_runtime_crio_operations_total,crio_default_runtime'],
      ];
      await restart();
      const text = await new Promise<string>((resolve, reject) => {
        const asked = requestTls(
          { socketPath: join(node.dir, 'metrics.sock'), path: '/metrics', rejectUnauthorized: false, agent: false },
          (response) => void textOf(response).then(resolve, reject),
        );
        asked.on('error', reject).end();
      });
      const crio = shapes(text).filter((each) => each.startsWith('container_runtime_crio_'));
      assert.deepEqual(crio, [
        'container_runtime_crio_default_runtime{runtime}',
        'container_runtime_crio_operations_total{operation}',
      ]);
      node.moreFlags = before;
      await restart();
    });
  });

  describe('profiles', () => {
    let node: TestNode;
    before(async () => {
      // While the heap is looked at, nothing else is done.
      node = await TestNode.boot({ busyMaxMs: 10_000 });
    });
    after(() => node.close());
    const debug = async (...args: string[]): Promise<string> => {
      const none = ['--config', '/dev/null', '--config-dir', join(node.dir, 'none')];
      const { stderr } = await run(BERTH, [...none, 'debug', '--socket', node.socket, ...args]);
      return stderr;
    };

    it('of the processor and of the heap are written where the operator wants them, for their owner only', async () => {
      const profile = join(node.dir, 'cpu');
      assert.equal(await debug('cpu', '-t', '1', '-f', profile), `Wrote CPU profile to: ${profile}\n`);
      const { nodes } = JSON.parse(readFileSync(profile, 'utf8')) as { readonly nodes: unknown[] };
      assert.isNotEmpty(nodes);
      const heap = join(node.dir, 'heap');
      assert.equal(await debug('heap', '-f', heap), `Wrote heap dump to: ${heap}\n`);
      assert.include(readFileSync(heap, 'latin1').slice(0, 100), '"snapshot"');
      for (const file of [profile, heap]) assert.equal(statSync(file).mode & 0o777, 0o600);
      const refused = await debug('cpu', '-t', '46').catch((error: unknown) => String(error));
      assert.include(refused, 'a profile takes 1 to 45 seconds');
    });
  });

  describe('profiles by HTTP', () => {
    let node: TestNode;
    before(async () => {
      node = await TestNode.boot({ busyMaxMs: 10_000 });
    });
    after(() => node.close());

    it('of the processor are given to pprof, too, as CRI-O gives them', async () => {
      const page = (path: string): Promise<{ readonly status: number; readonly body: Buffer }> =>
        new Promise((resolve, reject) => {
          const asked = request({ socketPath: node.socket, path, agent: false }, (response) => {
            bufferOf(response).then((body) => resolve({ status: response.statusCode ?? 0, body }), reject);
          });
          asked.on('error', reject).end();
        });
      const { status, body } = await page('/debug/pprof/profile?seconds=1');
      assert.equal(status, 200);
      const profile = gunzipSync(body).toString('latin1');
      for (const text of ['nanoseconds', '(program)']) assert.include(profile, text);
      assert.equal((await page('/debug/pprof/profile?seconds=x')).status, 400);
      assert.include((await page('/debug/pprof/cmdline')).body.toString(), '--runroot\0');
      assert.include((await page('/debug/pprof/')).body.toString(), '/debug/pprof/profile');
      assert.equal((await page('/debug/pprof/trace')).status, 404);
    });
  });

  describe('traces', () => {
    let node: TestNode;
    let collector: FakeCollector;
    let endpoint: string;
    before(async () => {
      collector = new FakeCollector();
      endpoint = await collector.listen();
      node = await TestNode.boot();
      node.moreFlags = ['--enable-tracing', '--tracing-endpoint', endpoint];
      await node.restart();
    });
    after(async () => {
      await node.close();
      collector.close();
    });

    it('of calls that their client wants traced, with their stages, and of no others', async () => {
      const grpc = new Client(`unix:${node.socket}`, credentials.createInsecure());
      const metadata = new Metadata();
      metadata.set('traceparent', '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01');
      const same = (bytes: Buffer): Buffer => bytes;
      const body = codecs.RunPodSandboxRequest.encode({ config: podConfig(), runtimeHandler: '' });
      const reply = await new Promise<Buffer>((resolve, reject) => {
        grpc.makeUnaryRequest(methods.runPodSandbox.path, same, same, body, metadata, (error, bytes) =>
          error === null && bytes !== undefined ? resolve(bytes) : reject(error ?? new Error('no reply')),
        );
      });
      grpc.close();
      const { podSandboxId } = codecs.RunPodSandboxResponse.decode(reply);
      await node.cri.removePod(podSandboxId);
      await node.stop();
      const names = new Set(collector.spans.map(({ name }) => name));
      assert.includeMembers([...names], ['runtime.v1.RuntimeService/RunPodSandbox', 'save record']);
      assert.isTrue([...names].some((name) => name.startsWith('cni add: ')));
      assert.isFalse([...names].some((name) => name.includes('RemovePodSandbox')));
      const root = collector.spans.find(({ kind }) => kind === 2) ?? assert.fail('no span of the call');
      assert.include(root, { traceId: '0af7651916cd43dd8448eb211c80319c', parentId: 'b7ad6b7169203331', code: 0 });
      assert.equal(root.resource['service.name'], 'berth');
      for (const { parentId, start, end, kind, traceId } of collector.spans) {
        assert.equal(traceId, root.traceId);
        if (kind !== 2) assert.equal(parentId, root.spanId);
        assert.isTrue(root.start <= start && start <= end && end <= root.end);
      }
    });

    it('of all calls, where tracing_sampling_rate_per_million is a million', async () => {
      const before = node.moreFlags;
      const names = (): readonly string[] => collector.spans.map(({ name }) => name);
      node.moreFlags = [...before, '--tracing-sampling-rate-per-million', '1000000'];
      await node.start();
      collector.spans.length = 0;
      await node.cri.rpc.version({ version: '' });
      await node.stop();
      assert.include(names(), 'runtime.v1.RuntimeService/Version');
      node.moreFlags = before;
      await node.start();
      collector.spans.length = 0;
      await node.cri.rpc.version({ version: '' });
      await node.stop();
      assert.notInclude(names(), 'runtime.v1.RuntimeService/Version');
    });

    it('cost nothing but a line where there is no collector', async () => {
      node.moreFlags = [
        ...['--enable-tracing', '--tracing-endpoint', '127.0.0.1:1', '--tracing-sampling-rate-per-million', '1000000'],
      ];
      await node.start();
      const pod = await node.cri.runPod();
      await node.cri.removePod(pod.id);
      await node.stop();
      const lines = node.log.split('\n').filter((line) => line.includes('traces cannot be sent'));
      assert.lengthOf(lines, 1);
      node.moreFlags = [];
      await node.start();
    });
  });
});

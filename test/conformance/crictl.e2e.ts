/**
 * The verbs that people type, through crictl itself: what each prints and leaves, from pull to rmi. Run by
 * scripts/conformance.ts, which builds crictl and tells us about it in CONFORMANCE_* variables.
 */
import { assert } from 'chai';
import { execFile, type ExecFileException } from 'node:child_process';
import { readFile, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { waitFor } from '../e2e/cri-client.ts';
import { type NodeOptions, processes, TestNode } from '../e2e/harness.ts';
import { Command } from '../e2e/terminal.ts';

const run = promisify(execFile);
const BUSYBOX = 'registry.k8s.io/e2e-test-images/busybox:1.29-2';
/** The transports that crictl can use for exec, attach and port-forward. */
const TRANSPORTS = ['spdy', 'websocket'] as const;
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
    node = await TestNode.boot({
      ...options,
      env: { CONTAINERS_REGISTRIES_CONF: variable('CONFORMANCE_REGISTRIES_CONF') },
    });
    config = await put(
      'crictl.yaml',
      `runtime-endpoint: unix://${node.socket}\nimage-endpoint: unix://${node.socket}\ntimeout: 30\n`,
    );
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
  async function started(
    name: string,
    command: readonly string[],
    more: Json = {},
  ): Promise<{ readonly pod: string; readonly id: string }> {
    const pod = await put(`${name}.pod.json`, {
      metadata: { name, namespace: 'default', uid: `uid-${name}`, attempt: 0 },
      log_directory: join(node.dir, 'podlogs', name),
    });
    const container = await put(`${name}.json`, {
      metadata: { name },
      image: { image: BUSYBOX },
      command,
      log_path: `${name}.log`,
      labels: KUBELET_LABELS,
      ...more,
    });
    await crictl('pull', BUSYBOX);
    const podId = await crictl('runp', pod);
    const id = await crictl('create', podId, container, pod);
    await crictl('start', id);
    return { pod: podId, id };
  }

  it('says who answers, and that it is ready', async () => {
    assert.match(
      await crictl('version'),
      /^Version:\s+0\.1\.0\nRuntimeName:\s+berth\nRuntimeVersion:\s+\S+\nRuntimeApiVersion:\s+v1$/,
    );
    const info = await json('info');
    const conditions = list(get(info, 'status', 'conditions')).map((each) => [get(each, 'type'), get(each, 'status')]);
    assert.deepInclude(conditions, ['RuntimeReady', true]);
    assert.deepInclude(conditions, ['NetworkReady', true]);
    // The default handler's name is empty, which JSON leaves out.
    assert.include(
      list(get(info, 'runtimeHandlers')).map((each) => get(each, 'name') ?? ''),
      '',
    );
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
    assert.deepEqual(
      [get(sandbox, 'state'), get(sandbox, 'metadata', 'name'), get(sandbox, 'annotations', 'note')],
      ['SANDBOX_READY', 'web', 'kept as it is'],
    );
    assert.match(String(get(sandbox, 'network', 'ip')), /^\d+\.\d+\.\d+\.\d+$/);

    const command = [
      'sh',
      '-c',
      'echo "hello from $(hostname), $GREETING"; echo wrong >&2; trap "exit 5" TERM; while :; do sleep 0.1; done',
    ];
    const containerFile = await put('container.json', {
      metadata: { name: 'main' },
      image: { image: BUSYBOX },
      command,
      envs: [{ key: 'GREETING', value: 'good day' }],
      labels: KUBELET_LABELS,
      log_path: 'main.log',
    });
    const id = await crictl('create', pod, containerFile, podFile);
    assert.match(id, ID);
    assert.strictEqual(await crictl('ps', '--quiet', '--state', 'created'), id);
    assert.strictEqual(await crictl('start', id), id);
    assert.match(
      await crictl('ps'),
      new RegExp(`^${id.slice(0, 13)}\\s.*\\sRunning\\s+main\\s+0\\s+${pod.slice(0, 13)}\\s+web\\s+shop$`, 'm'),
    );

    const status = get(await json('inspect', id), 'status');
    assert.deepEqual(
      [get(status, 'state'), get(status, 'metadata', 'name'), get(status, 'image', 'userSpecifiedImage')],
      ['CONTAINER_RUNNING', 'main', BUSYBOX],
    );
    assert.strictEqual(get(status, 'logPath'), join(node.dir, 'podlogs/main.log'));
    assert.isAbove(Number(get(await json('inspect', id), 'info', 'pid')), 1);

    const logs = await waitFor(
      () => crictl('logs', id),
      (text) => text !== '',
      'the log',
    );
    assert.strictEqual(logs, 'hello from web-0, good day');
    assert.include(await readFile(join(node.dir, 'podlogs/main.log'), 'utf8'), 'stderr F wrong');
    assert.strictEqual((await crictl('exec', '--sync', id, 'sh', '-c', 'echo $((6 * 7))')).trim(), '42');
    const failure = await complaint('exec', '--sync', id, 'sh', '-c', 'echo no >&2; exit 9');
    assert.match(failure.stderr, /no/);
    assert.notStrictEqual(failure.code, 0);

    assert.strictEqual(await crictl('stop', '--timeout', '30', id), id);
    const ended = get(await json('inspect', id), 'status');
    assert.deepEqual(
      [get(ended, 'state'), get(ended, 'exitCode'), get(ended, 'reason')],
      ['CONTAINER_EXITED', 5, 'Error'],
    );
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
    for (const transport of TRANSPORTS) {
      assert.strictEqual(
        await crictl('exec', '--transport', transport, id, 'echo', `over ${transport}`),
        `over ${transport}`,
      );
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

  describe('at a terminal', () => {
    const type = (...args: string[]): Command =>
      Command.onTerminal([variable('CONFORMANCE_CRICTL'), '--config', config, ...args], { size: [40, 132] });
    /** Waits in the shell for a size of its terminal, then says `word`. The line itself does not hold it. */
    const whenSized = (rows: number, columns: number, word: string): string =>
      `until [ "$(stty size)" = "${rows} ${columns}" ]; do sleep 0.05; done; echo ${word[0]}""${word.slice(1)}\r`;

    for (const transport of TRANSPORTS) {
      describe(`over ${transport}`, () => {
        it('exec -it: types, resizes, interrupts, and tells the exit code', async () => {
          const { id } = await started(`exec-${transport}`, ['sleep', '1000']);
          const shell = type('exec', '-it', '--transport', transport, id, 'sh');
          await shell.says(/# /);
          shell.write(whenSized(40, 132, 'sized'));
          await shell.says(/sized/);
          shell.resize(31, 97);
          shell.write(whenSized(31, 97, 'resized'));
          await shell.says(/resized/);
          shell.write('sleep 31415\r');
          await waitFor(
            () => processes('sleep 31415'),
            (found) => found.length === 1,
            'the command to run',
          );
          shell.write('\x03');
          await waitFor(
            () => processes('sleep 31415'),
            (found) => found.length === 0,
            'the command to be interrupted',
          );
          shell.write('echo "it ended with $?"\r');
          await shell.says(/it ended with 130/);
          shell.write('exit 7\r');
          assert.notStrictEqual(await shell.end(), 0);
          assert.match(shell.out, /exit code 7/);
        });

        it('attach -it: finds the same shell again after detaching, and ends with it', async () => {
          const { id } = await started(`attach-${transport}`, ['sh'], { stdin: true, tty: true });
          const first = type('attach', '-it', '--transport', transport, id);
          first.write('here=me\r');
          await first.says(/# /);
          first.write('\x10\x11');
          assert.strictEqual(await first.end(), 0, first.out);
          assert.strictEqual(get(await json('inspect', id), 'status', 'state'), 'CONTAINER_RUNNING');
          const second = type('attach', '-it', '--transport', transport, id);
          second.write('echo "still $here"\r');
          await second.says(/still me/);
          second.resize(29, 91);
          second.write(whenSized(29, 91, 'resized'));
          await second.says(/resized/);
          second.write('exit 3\r');
          assert.strictEqual(await second.end(), 0, second.out);
          await waitFor(
            () => json('inspect', id),
            (found) => get(found, 'status', 'exitCode') === 3,
            'the container to end',
          );
        });

        it('attach -i: hands lines over, and the end of input where the container waits for it', async () => {
          const { id } = await started(`lines-${transport}`, ['sh', '-c', 'cat; echo the end'], {
            stdin: true,
            stdin_once: true,
          });
          const lines = type('attach', '-i', '--transport', transport, id);
          lines.write('hello\r');
          await lines.says(/hello\r\nhello/);
          lines.write('\x04');
          assert.strictEqual(await lines.end(), 0, lines.out);
          assert.include(lines.out, 'the end');
        });

        it(
          'port-forward: reaches 127.0.0.1 and [::1] of the pod, ends by Ctrl-C, and names a port ' +
            'where nobody listens',
          async () => {
            const { pod, id } = await started(`forward-${transport}`, [
              'sh',
              '-c',
              'echo yes > /index.html; httpd -p 127.0.0.1:5001; httpd -f -p [::1]:5002',
            ]);
            await waitFor(
              () => crictl('exec', '--sync', id, 'netstat', '-ltn'),
              (text) => text.includes(':5001') && text.includes(':5002'),
              'the servers',
            );
            const forward = type('port-forward', '--transport', transport, pod, ':5001', ':5002', ':5999');
            const local = async (port: number): Promise<string> =>
              `http://127.0.0.1:${(await forward.says(new RegExp(`127\\.0\\.0\\.1:(\\d+) -> ${port}`)))[1]}/`;
            for (const port of [5001, 5002]) {
              const address = await local(port);
              const answers = await Promise.all(Array.from({ length: 20 }, async () => (await fetch(address)).text()));
              assert.deepEqual(new Set(answers), new Set(['yes\n']));
            }
            await fetch(await local(5999)).then(
              () => assert.fail('nobody listens there'),
              () => {},
            );
            await forward.says(/error forwarding port 5999: .*nothing answers/);
            await forward.end();
            const other = type('port-forward', '--transport', transport, pod, ':5001');
            await other.says(/-> 5001/);
            other.write('\x03');
            assert.strictEqual(await other.end(), 0, other.out);
          },
        );
      });
    }

    it('logs -f: follows through a rotation to the end of the container', async () => {
      const { id } = await started('logs', [
        'sh',
        '-c',
        'i=0; while [ $i -lt 40 ]; do echo line $i; i=$((i+1)); sleep 0.05; done; echo over >&2; exit 4',
      ]);
      const following = type('logs', '-f', id);
      await following.says(/line 5\r\n/);
      const path = join(node.dir, 'podlogs/logs/logs.log');
      await rename(path, `${path}.1`);
      await crictl('logs', '--reopen', '--tail', '0', id);
      assert.strictEqual(await following.end(), 0, following.out);
      assert.deepEqual(following.out.trimEnd().split('\r\n'), [
        ...Array.from({ length: 40 }, (_, i) => `line ${i}`),
        'over',
      ]);
    });

    it('stats and statsp: tell what a busy container and its pod use', async () => {
      const { pod, id } = await started('busy', ['sh', '-c', 'head -c 100000 /dev/zero > /file; while :; do :; done']);
      const quiet = await started('quiet', ['sleep', '1000']);
      const table = type('stats');
      assert.strictEqual(await table.end(), 0, table.out);
      const [head = '', ...rows] = table.out.trimEnd().split('\r\n');
      assert.match(head.slice(head.indexOf('CONTAINER')), /^CONTAINER +NAME +CPU % +MEM +DISK +INODES +SWAP$/);
      const row = (id: string): string[] =>
        rows
          .find((each) => each.startsWith(id.slice(0, 13)))
          ?.trim()
          .split(/ {2,}/) ?? [];
      const [, name, cpu, memory, disk, inodes] = row(id);
      assert.strictEqual(name, 'busy');
      assert.isTrue(Number(cpu) > 1 && Number(cpu) < 110, `${cpu} % of a processor, by one thread`);
      assert.isBelow(Number(row(quiet.id)[2]), 1, 'percent of a container that sleeps');
      assert.match(memory ?? '', /^[\d.]+[kM]?B$/);
      assert.match(disk ?? '', /^1\d\d(\.\d+)?kB$/, 'a file of 100 kB');
      assert.isAtLeast(Number(inodes), 1);

      const [stats] = list(get(await json('stats', '--output', 'json', id), 'stats'));
      assert.deepEqual([get(stats, 'attributes', 'id'), get(stats, 'attributes', 'metadata', 'name')], [id, 'busy']);
      const known = (...path: string[]): number => Number(get(stats, ...path, 'value'));
      assert.isAbove(known('cpu', 'usageCoreNanoSeconds'), 0);
      assert.isTrue(known('memory', 'workingSetBytes') > 10_000 && known('memory', 'workingSetBytes') < 50_000_000);
      assert.isAbove(known('writableLayer', 'usedBytes'), 99_999);

      const pods = type('statsp', '--id', pod);
      assert.strictEqual(await pods.end(), 0, pods.out);
      assert.match(
        pods.out,
        new RegExp(`POD +POD ID +CPU % +MEM\\s+busy +${pod.slice(0, 13)} +[\\d.]+ +[\\d.]+[kM]?B`),
      );
      const [podStats, ...more] = list(get(await json('statsp', '--output', 'json', pod), 'stats'));
      assert.deepEqual([get(podStats, 'attributes', 'id'), more], [pod, []]);
      assert.deepEqual(
        list(get(podStats, 'linux', 'containers')).map((each) => get(each, 'attributes', 'id')),
        [id],
      );
      assert.strictEqual(get(podStats, 'linux', 'network', 'defaultInterface', 'name'), 'eth0');
      assert.isAtLeast(Number(get(podStats, 'linux', 'process', 'processCount', 'value')), 1);

      const watching = type('stats', '--watch', '--seconds', '1', id);
      await watching.says(new RegExp(`${id.slice(0, 13)}[^]*${id.slice(0, 13)}`));
      watching.write('\x03');
      assert.strictEqual(await watching.end(), 0);
    });

    it('metricsp: has numbers of each running pod and container', async () => {
      const { pod, id } = await started('metrics', ['sh', '-c', 'while :; do :; done']);
      const look = async (): Promise<{ readonly ofPod: unknown; readonly ofContainer: unknown }> => {
        const printed = type('metricsp');
        assert.strictEqual(await printed.end(), 0, printed.out);
        const own = list(get(JSON.parse(printed.out) as unknown, 'podMetrics')).find(
          (each) => get(each, 'podSandboxId') === pod,
        );
        const containers = list(get(own, 'containerMetrics'));
        assert.deepEqual(
          containers.map((each) => get(each, 'containerId')),
          [id],
        );
        return { ofPod: get(own, 'metrics'), ofContainer: get(containers[0], 'metrics') };
      };
      const values = (metrics: unknown, name: string): number[] =>
        list(metrics)
          .filter((each) => get(each, 'name') === name)
          .map((each) => Number(get(each, 'value', 'value')));
      // Whole seconds, which is all that the messages of CRI can say.
      const { ofPod, ofContainer } = await waitFor(
        look,
        (found) => (values(found.ofContainer, 'container_cpu_usage_seconds_total')[0] ?? 0) >= 1,
        'a second on a processor',
      );
      assert.isAbove(values(ofContainer, 'container_memory_working_set_bytes')[0] ?? 0, 10_000);
      assert.isAbove(values(ofPod, 'container_network_receive_packets_total').length, 0);
    });

    it('events: tells the whole life of a pod and its container, until Ctrl-C', async () => {
      const template = type(
        'events',
        '--output',
        'go-template',
        '--template',
        '{{.containerEventType}} {{.containerId}} {{.podSandboxStatus.state}}',
      );
      const whole = type('events');
      const { pod, id } = await started('events', ['sh', '-c', 'exit 3']);
      await waitFor(
        () => json('inspect', id),
        (found) => get(found, 'status', 'state') === 'CONTAINER_EXITED',
        'the end of the container',
      );
      await crictl('rm', id);
      await crictl('stopp', pod);
      await crictl('rmp', pod);
      await template.says(new RegExp(`CONTAINER_DELETED_EVENT ${pod}`));
      await whole.says(
        new RegExp(
          `"containerEventType": "CONTAINER_DELETED_EVENT",\\s+[^{}]*"containerId": ` +
            `"${pod}"|"containerId": "${pod}",\\s+"containerEventType": "CONTAINER_DELETED_EVENT"`,
        ),
      );
      for (const each of [template, whole]) {
        each.write('\x03');
        await each.end();
      }
      const told = (of: string): string[] =>
        template.out
          .split('\r\n')
          .filter((line) => line.includes(of))
          .map((line) =>
            line
              .split(' ')
              .filter((word) => word !== of)
              .join(' '),
          );
      assert.deepEqual(told(id), [
        'CONTAINER_CREATED_EVENT SANDBOX_READY',
        'CONTAINER_STARTED_EVENT SANDBOX_READY',
        'CONTAINER_STOPPED_EVENT SANDBOX_READY',
        'CONTAINER_DELETED_EVENT SANDBOX_READY',
      ]);
      assert.deepEqual(told(pod), [
        'CONTAINER_CREATED_EVENT SANDBOX_READY',
        'CONTAINER_STARTED_EVENT SANDBOX_READY',
        'CONTAINER_STOPPED_EVENT SANDBOX_NOTREADY',
        'CONTAINER_DELETED_EVENT SANDBOX_NOTREADY',
      ]);
      assert.include(whole.out, '"exitCode": 3');
    });
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

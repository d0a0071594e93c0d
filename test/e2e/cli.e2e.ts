/** The commands of `berth` as people use them: in pipes, in scripts, and on a terminal. */
import { assert } from 'chai';
import { readdir, rename, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { ContainerEventResponse } from '../../pkg/cri-api/types.ts';
import { type Pod, waitFor } from './cri-client.ts';
import { IMAGE, processes, TestNode } from './harness.ts';
import { type BuiltImage, buildImage, busybox, file } from './images.ts';
import { type ScriptedRegistry, startScriptedRegistry } from './registry.ts';
import { Command } from './terminal.ts';

const BERTH = new URL('../../build/bin/berth', import.meta.url).pathname;
const ESCAPE = '\x1b[';

describe('the command line', function () {
  this.timeout(120_000);
  let node: TestNode;
  let pod: Pod;
  let container: string;
  let registry: ScriptedRegistry;

  before(async () => {
    registry = await startScriptedRegistry();
    node = await TestNode.boot({ env: { CONTAINERS_REGISTRIES_CONF: '/tmp/none' } });
    const conf = join(node.dir, 'registries.conf');
    await writeFile(conf, `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`);
    await node.restart({ CONTAINERS_REGISTRIES_CONF: conf });
    pod = await node.cri.runPod({ labels: { app: 'web' } });
    container = await node.cri.runContainer(pod, IMAGE, {
      metadata: { name: 'main', attempt: 2 },
      command: ['sh', '-c', 'echo one; echo two >&2; sleep 100000'],
      labels: { tier: 'front' },
    });
  });
  after(async () => {
    await registry.stop();
    await node.close();
  });

  const argv = (args: readonly string[]): [string, ...string[]] => [
    BERTH,
    '--config',
    '/dev/null',
    '--config-dir',
    '/none',
    '--listen',
    node.socket,
    ...args,
  ];
  const start = (...args: string[]): Command => Command.inPipe(argv(args));
  const onTerminal = (args: readonly string[], env: NodeJS.ProcessEnv = {}): Command =>
    Command.onTerminal(argv(args), { env });
  /** Output of a command that must succeed. */
  async function ok(...args: string[]): Promise<string> {
    const command = start(...args);
    command.process.stdin?.end();
    assert.strictEqual(await command.end(), 0, command.err);
    return command.out;
  }
  async function failure(...args: string[]): Promise<string> {
    const command = start(...args);
    command.process.stdin?.end();
    assert.notStrictEqual(await command.end(), 0, command.out);
    assert.match(command.err, /^berth: /);
    return command.err;
  }

  it('lists containers, pods and images in tables without colour in a pipe', async () => {
    const [head, row] = (await ok('ps')).split('\n');
    assert.match(head ?? '', /^CONTAINER +IMAGE +CREATED +STATE +NAME +ATTEMPT +POD ID +POD +NAMESPACE$/);
    assert.match(
      row ?? '',
      new RegExp(
        `^${container.slice(0, 13)} +${IMAGE.replaceAll('.', '\\.')} +\\d+ \\w+ ago +Running +main ` +
          `+2 +${pod.id.slice(0, 13)} +${pod.config.metadata?.name} +default$`,
      ),
    );
    assert.include(await ok('pods'), pod.id.slice(0, 13));
    assert.match(await ok('images'), /^IMAGE +TAG +IMAGE ID +SIZE +PINNED\n\S+busybox +latest +[0-9a-f]{13} +\d/);
    for (const list of ['ps', 'pods', 'images']) assert.notInclude(await ok(list), ESCAPE);
  });

  it('has colour on a terminal, and none where it is not wanted', async () => {
    const coloured = onTerminal(['ps']);
    assert.strictEqual(await coloured.end(), 0);
    assert.include(coloured.out, `${ESCAPE}32mRunning`);
    for (const env of [{ NO_COLOR: '1' }, { TERM: 'dumb' }]) {
      const plain = onTerminal(['ps'], env);
      await plain.end();
      assert.include(plain.out, 'Running');
      assert.notInclude(plain.out, ESCAPE);
    }
  });

  it('filters, and prints ids and JSON for scripts', async () => {
    assert.strictEqual(await ok('ps', '-q'), `${container}\n`);
    assert.strictEqual(await ok('ps', '-q', '--label', 'tier=back'), '');
    assert.strictEqual(await ok('ps', '-q', '--label', 'tier=front', '--pod', pod.id.slice(0, 8)), `${container}\n`);
    assert.strictEqual(await ok('ps', '-q', '--state', 'exited'), '');
    assert.strictEqual(await ok('pods', '-q', '--state', 'ready', '--label', 'app=web'), `${pod.id}\n`);
    const { containers } = JSON.parse(await ok('ps', '--json')) as {
      readonly containers: readonly { readonly id: string }[];
    };
    assert.deepEqual(
      containers.map((each) => each.id),
      [container],
    );
    assert.include(await failure('ps', '--state', 'nonsense').catch(() => 'refused'), 'refused');
  });

  it('shows all about one object', async () => {
    const inspected = JSON.parse(await ok('inspect', container.slice(0, 13))) as {
      readonly status: { readonly id: string; readonly state: string };
      readonly info: { readonly pid: number };
    };
    assert.deepEqual([inspected.status.id, inspected.status.state], [container, 'CONTAINER_RUNNING']);
    assert.isAbove(inspected.info.pid, 1);
    assert.strictEqual(
      (JSON.parse(await ok('inspectp', pod.id)) as { readonly status: { readonly id: string } }).status.id,
      pod.id,
    );
    assert.include(
      (JSON.parse(await ok('inspecti', IMAGE)) as { readonly status: { readonly repoTags: readonly string[] } }).status
        .repoTags,
      IMAGE,
    );
    assert.include(await failure('inspect', 'f'.repeat(64)), 'f'.repeat(64));
    assert.include(await failure('inspecti', 'no.such/image:1'), 'no.such/image:1');
  });

  describe('exec', () => {
    it('has the streams and the exit code of the command, options and all', async () => {
      const command = start('exec', container, 'sh', '-c', 'echo out; echo err >&2; exit 7');
      assert.deepEqual([await command.end(), command.out, command.err], [7, 'out\n', 'err\n']);
      assert.strictEqual(await ok('exec', '--sync', container, 'echo', '-n', '--json'), '--json');
      const absent = start('exec', container, '/no/such/program');
      assert.strictEqual(await absent.end(), 127);
      assert.include(absent.err, '/no/such/program');
      assert.include(await failure('exec', '--sync', container, '/no/such/program'), '/no/such/program');
      assert.include(await failure('exec', '--sync', '--timeout', '1', container, 'sleep', '60'), 'deadline passed');
    });

    it('passes megabytes of input on, and the end of it', async () => {
      const command = start('exec', '-i', container, 'sh', '-c', 'busybox wc -c');
      command.process.stdin?.end(Buffer.alloc(5_000_000, 'x'));
      assert.deepEqual([await command.end(), command.out.trim()], [0, '5000000']);
    });

    it('takes a file for its input', async () => {
      const input = join(node.dir, 'input');
      await writeFile(input, 'from a file\n');
      for (const [file, said] of [
        [input, 'from a file\n'],
        ['/dev/null', ''],
      ] as const) {
        const command = Command.inPipe(
          ['sh', '-c', 'exec "$0" "$@" <"$INPUT"', ...argv(['exec', '-i', container, 'sh', '-c', 'cat; exit 3'])],
          { env: { INPUT: file } },
        );
        assert.deepEqual([await command.end(), command.out, command.err], [3, said, '']);
      }
    });

    it('gives a terminal of the size of ours, and ours back', async () => {
      const command = onTerminal([
        'exec',
        '-it',
        container,
        'sh',
        '-c',
        'until [ "$(busybox stty size 2>/dev/null)" = "40 132" ]; do sleep 0.1; done; echo sized; ' +
          'read answer; echo "got $answer"; exit 5',
      ]);
      await command.says(/sized/);
      command.write('hello\r');
      assert.strictEqual(await command.end(), 5);
      assert.include(command.out, 'got hello');
    });

    it('refuses a terminal that we do not have', async () => {
      assert.include(await failure('exec', '-it', container, 'true'), 'terminal');
    });
  });

  describe('logs', () => {
    it('prints both streams, the last lines, and times', async () => {
      const both = start('logs', container);
      await both.end();
      assert.deepEqual([both.out, both.err], ['one\n', 'two\n']);
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'echo one; echo two; printf thr; sleep 0.1; echo ee'],
      });
      await node.cri.waitForContainer(id, 'CONTAINER_EXITED');
      assert.strictEqual(await ok('logs', '--tail', '1', id), 'three\n');
      assert.match(await ok('logs', '--timestamps', '--tail', '1', id), /^\d{4}-\d\d-\d\dT\S+ three\n$/);
      assert.strictEqual(await ok('logs', '--since', '1h', '--tail', '1', id), 'three\n');
    });

    it('follows through a rotation until the container ends', async () => {
      const id = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'i=0; while [ $i -lt 30 ]; do echo line $i; i=$((i+1)); sleep 0.05; done'],
      });
      const command = start('logs', '-f', id);
      await command.says(/line 5\n/);
      const { logPath } = await node.cri.container(id);
      await rename(logPath, `${logPath}.1`);
      await node.cri.rpc.reopenContainerLog({ containerId: id });
      assert.strictEqual(await command.end(), 0);
      assert.deepEqual(
        command.out.trimEnd().split('\n'),
        Array.from({ length: 30 }, (_, index) => `line ${index}`),
      );
    });
  });

  it('shows what containers and pods use', async () => {
    assert.match(
      await ok('stats'),
      new RegExp(`^CONTAINER +NAME +CPU.*\n${container.slice(0, 13)} +main +\\d+m +\\d+`, 'm'),
    );
    assert.match(await ok('stats', '--pods'), new RegExp(`^${pod.id.slice(0, 13)} +\\S+ +default +\\d+m`, 'm'));
    const { stats } = JSON.parse(await ok('stats', '--json', container)) as {
      readonly stats: readonly { readonly cpu: { readonly usageNanoCores?: object } }[];
    };
    assert.isDefined(stats[0]?.cpu.usageNanoCores);
  });

  it('follows events until it is interrupted', async () => {
    const [people, programs] = [start('events'), start('events', '--json')];
    await Promise.all([people.says(/started container/), programs.says(/STARTED/)]);
    assert.deepInclude(JSON.parse(await ok('status', '--json')), { events: { subscribers: 2, dropped: 0 } });
    const id = await node.cri.runContainer(pod, IMAGE, {
      metadata: { name: 'brief' },
      command: ['sh', '-c', 'exit 3'],
    });
    await people.says(
      new RegExp(`stopped container ${id.slice(0, 13)} brief of default/${pod.config.metadata?.name} \\(Error 3\\)`),
    );
    await waitFor(
      () => programs.out,
      (text) => text.includes('CONTAINER_STOPPED_EVENT'),
      'the end',
    );
    for (const each of [people, programs]) {
      each.process.kill('SIGINT');
      assert.strictEqual(await each.end(), 0);
    }
    const events = programs.out
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as ContainerEventResponse);
    assert.includeMembers(
      events.filter((each) => each.containerId === id).map((each) => each.containerEventType),
      ['CONTAINER_CREATED_EVENT', 'CONTAINER_STARTED_EVENT', 'CONTAINER_STOPPED_EVENT'],
    );
  });

  it('says what the daemon is doing, and where it is stuck', async () => {
    assert.match(await ok('status'), /^RuntimeReady +yes\nNetworkReady +yes\n/);
    const stubborn = await node.cri.runContainer(pod, IMAGE, {
      command: ['sh', '-c', 'trap "" TERM; while :; do sleep 0.1; done'],
    });
    const stopping = node.cri.rpc.stopContainer({ containerId: stubborn, timeout: 60n });
    await waitFor(
      () => ok('status'),
      (text) => new RegExp(`StopContainer +container=${stubborn} +\\S`).test(text),
      'the stop to be shown',
    );
    await node.cri.rpc.stopContainer({ containerId: stubborn, timeout: 0n });
    await stopping;
    const { conditions } = JSON.parse(await ok('status', '--json')) as {
      readonly conditions: readonly { readonly type: string }[];
    };
    assert.deepEqual(
      conditions.map((each) => each.type),
      ['RuntimeReady', 'NetworkReady'],
    );
  });

  it('says what goes on though its client has left, and which sessions there are', async () => {
    await node.restart({ BERTH_FAILPOINTS: 'sandbox.record.after=hang' });
    const left = await node.cri.runPod({ metadata: { name: 'stuck' } }, { deadlineMs: 300 }).then(
      () => undefined,
      (error: unknown) => error,
    );
    assert.match(String(left), /Deadline/);
    assert.match(await ok('status'), /RunPodSandbox +ns=default pod=stuck +save record +\d+\.\ds +gone$/m);
    const session = start('exec', '-i', container, 'cat');
    await waitFor(
      () => ok('status'),
      (text) =>
        new RegExp(`exec session +peer=127\\.0\\.0\\.1:\\d+ container=${container} +exec cat .*waits$`, 'm').test(text),
      'the session to be shown',
    );
    session.process.stdin?.end();
    assert.strictEqual(await session.end(), 0);
    await node.kill();
    await node.start({ CONTAINERS_REGISTRIES_CONF: join(node.dir, 'registries.conf') });
    assert.notInclude(await ok('status'), 'stuck');
  });

  it('says its version, and the configuration in force', async () => {
    assert.match(await ok('version'), /^berth \S+\ndaemon: berth \S+, CRI v1, on \//);
    assert.include(await ok('config'), `listen = "${node.socket}"`);
    assert.notInclude(await ok('config', '--default'), node.socket);
  });

  it("shows what CRI-O's status shows, by the socket that is named, and wipes nothing unforced", async () => {
    const asked = (...args: string[]): Promise<string> => ok('status', '--socket', `unix://${node.socket}`, ...args);
    assert.match(await asked('info'), /^cgroup driver: (cgroupfs|systemd)\nstorage driver: overlay\nstorage graph/);
    assert.include(await asked('config'), `listen = "${node.socket}"`);
    const shown = JSON.parse(await asked('s', '--json', '-i', container)) as { readonly sandbox: string };
    assert.strictEqual(shown.sandbox, pod.id);
    assert.match(await asked('containers', '--id', container), new RegExp(`^sandbox: ${pod.id}$`, 'm'));
    assert.include(await failure('status', 'containers', '--id', ''), 'id');
    assert.include(await failure('status', 'containers', '--id', 'f00'), 'f00');
    assert.include(await asked('goroutines'), 'PipeWrap');
    assert.equal(await asked('c'), await asked('config'));
    assert.include(await ok('wipe'), 'nothing to wipe');
    assert.include(await ok('ps'), container.slice(0, 13));
  });

  describe('on a terminal', () => {
    const shown: readonly (readonly [args: readonly string[], says: () => string, colour: string])[] = [
      [['ps'], () => container.slice(0, 13), '32mRunning'],
      [['pods'], () => pod.id.slice(0, 13), '32mReady'],
      [['images'], () => IMAGE.split(':')[0] ?? '', '1mIMAGE'],
      [['stats'], () => container.slice(0, 13), '1mCONTAINER'],
      [['stats', '--pods'], () => pod.id.slice(0, 13), '1mPOD'],
      [['status'], () => 'RuntimeReady', '32myes'],
      [['version'], () => 'daemon: berth', ''],
      [['inspect', 'main'], () => '"CONTAINER_RUNNING"', ''],
      [['logs', 'main'], () => 'one\r\n', ''],
    ];
    const resolved = (args: readonly string[]): string[] => args.map((each) => (each === 'main' ? container : each));

    for (const [args, says, colour] of shown) {
      it(`${args.join(' ')} is for people, and the same without colour in a pipe`, async () => {
        const seen = onTerminal(resolved(args));
        assert.strictEqual(await seen.end(), 0, seen.out);
        assert.include(seen.out, says());
        if (colour === '') assert.notInclude(seen.out, ESCAPE);
        else assert.include(seen.out, ESCAPE + colour);
        const piped = start(...resolved(args));
        piped.endInput();
        assert.strictEqual(await piped.end(), 0, piped.err);
        assert.include(piped.out, says().replace('\r', ''));
        assert.notInclude(piped.out, ESCAPE);
      });
    }

    it('--json is JSON, without colour', async () => {
      for (const args of [['ps'], ['pods'], ['images'], ['stats'], ['stats', '--pods'], ['status'], ['version']]) {
        const seen = onTerminal([...args, '--json']);
        assert.strictEqual(await seen.end(), 0, seen.out);
        assert.isObject(JSON.parse(seen.out), args.join(' '));
      }
    });

    it('logs -f, events and stats --watch go on until Ctrl-C', async () => {
      const following = [
        [onTerminal(['logs', '-f', container]), /one\r\n/],
        [onTerminal(['events']), /started\S* container/],
        [onTerminal(['stats', '--watch']), /\x1b\[H\x1b\[2J[^]*main/],
      ] as const;
      for (const [command, pattern] of following) {
        await command.says(pattern);
        command.write('\x03');
        await command.end();
      }
      const session = onTerminal(['exec', '-it', container, 'sh']);
      await session.says(/# /);
      session.resize(33, 99);
      session.write('until [ "$(busybox stty size)" = "33 99" ]; do sleep 0.1; done; echo re""sized\r');
      await session.says(/resized/);
      session.write('sleep 27183\r');
      await waitFor(
        () => processes('sleep 27183'),
        (found) => found.length === 1,
        'the command to run',
      );
      session.write('\x03');
      await waitFor(
        () => processes('sleep 27183'),
        (found) => found.length === 0,
        'the command to be interrupted',
      );
      session.write('exit 4\r');
      assert.strictEqual(await session.end(), 4, session.out);
    });
  });

  it('says so when no daemon answers', async () => {
    const command = Command.inPipe([
      BERTH,
      '--config',
      '/dev/null',
      '--config-dir',
      '/none',
      '--listen',
      join(node.dir, 'nobody.sock'),
      'ps',
    ]);
    assert.strictEqual(await command.end(), 1);
    assert.match(command.err, /^berth: nobody answers on /);
  });

  describe('images', () => {
    let image: BuiltImage;
    before(async () => {
      image = await buildImage({
        directory: join(node.dir, 'built'),
        name: 'v1',
        layers: [
          { files: await busybox() },
          { files: [file('data', Buffer.alloc(20_000_000, 'x'))], compression: 'none' },
        ],
      });
      await registry.serve(image, 'app', 'v1');
    });

    it('are pulled with a bar for each layer on a terminal, and taken away', async () => {
      const slow = image.images[0]?.layers[1] ?? '';
      let release = (): void => {};
      const gate = new Promise<void>((resolve) => (release = resolve));
      registry.on(
        `/v2/app/blobs/${slow}`,
        (_request, response, normal) => {
          response.writeHead(normal.status, { ...normal.headers, 'content-length': normal.body.length });
          let at = 0;
          const timer = setInterval(() => response.write(normal.body.subarray(at, (at += 30_000))), 20);
          void gate.then(() => {
            clearInterval(timer);
            response.end(normal.body.subarray(at));
          });
        },
        1,
      );
      const name = `${registry.host}/app:v1`;
      const pulling = onTerminal(['pull', name]);
      await pulling.says(/\[=+ *\] downloading +\d/);
      const status = await ok('status');
      assert.match(status, /^Pull +\S+app:v1: downloading$/m);
      assert.match(status, new RegExp(`^  ${slow.slice(7, 20)} \\[=+ *\\] downloading +\\d.* / 20`, 'm'));
      release();
      assert.strictEqual(await pulling.end(), 0, pulling.out);
      assert.include(pulling.out, image.images[0]?.id ?? 'nothing');
      assert.strictEqual((await ok('pull', name)).trim(), image.images[0]?.id);
      assert.match(await ok('rmi', name), /^removed sha256:[0-9a-f]{64} /);
      assert.include(await failure('rmi', name), name);
      assert.include(await failure('pull', `${registry.host}/none:1`), 'none');
    });

    it('are checked, and those that are broken removed on demand', async () => {
      assert.match(await ok('check'), /ok all images are whole\n$/);
      await ok('pull', `${registry.host}/app:v1`);
      const config = (image.images[0]?.id ?? '').slice('sha256:'.length);
      const blobs = join(node.dir, 'root/blobs/sha256');
      assert.include(await readdir(blobs), config);
      await writeFile(join(blobs, config), 'bit rot');
      const command = start('check');
      assert.strictEqual(await command.end(), 1);
      assert.match(command.out, new RegExp(`broken sha256:${config}: `));
      assert.include(await ok('check', '--repair'), 'removed, pull it again');
      assert.match(await ok('check'), /ok all images are whole\n$/);
      assert.include(await failure('inspecti', `${registry.host}/app:v1`), 'no image');
      await ok('pull', `${registry.host}/app:v1`);
      await ok('rmi', `${registry.host}/app:v1`);
    });

    it('are checked without a daemon, too, which repairs nothing below containers that may run', async () => {
      const own = ['--root', join(node.dir, 'root'), '--runroot', join(node.dir, 'run')];
      await node.kill();
      try {
        const command = start(...own, 'check');
        assert.strictEqual(await command.end(), 0);
        assert.match(command.out, /none answers on .*systemctl start berth/);
        // Files of the kernel have no size, and are read all the same.
        assert.match(command.out, /^module overlay +ok +loaded$/m);
        assert.match(command.out, /ok all images are whole\n$/);
        const repair = start(...own, 'check', '-r', '--force', '--age', '24h');
        assert.strictEqual(await repair.end(), 1);
        assert.match(repair.out, /^images +wrong +not read +there are containers in /m);
      } finally {
        await node.start({ CONTAINERS_REGISTRIES_CONF: join(node.dir, 'registries.conf') });
      }
    });

    it('are loaded from files', async () => {
      assert.include(await ok('import', image.layout, 'localhost/imported:1'), 'localhost/imported:1');
      await ok('rmi', 'localhost/imported:1');
    });
  });
});

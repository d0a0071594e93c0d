/** Exec, attach and port-forward, as kubectl (SPDY) and newer clients (WebSocket) use them, against real containers. */
import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { createHash, randomBytes, X509Certificate } from 'node:crypto';
import { once } from 'node:events';
import { readFileSync, renameSync } from 'node:fs';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { request } from 'node:http';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { TLSSocket } from 'node:tls';
import { type ClientOptions, WebSocket } from 'ws';
import type { AttachRequest, ExecRequest, Input } from '../../pkg/cri-api/types.ts';
import { SpdyClient, type SpdyClientStream } from '../../pkg/stream/fake-client.ts';
import { CriError, criClient, type Pod, waitFor } from './cri-client.ts';
import { IMAGE, type MonitorName, processes, type RuntimeName, TestNode } from './harness.ts';
import { heldBy, INSPECTABLE } from './held.ts';

/** Sessions of each kind in the soak; SOAK=1000 is the promise, and takes a minute or two. */
const SOAK = Number(process.env['SOAK'] ?? 100);
/** Bytes of output in the test of back-pressure. */
const FLOOD = Number(process.env['FLOOD'] ?? 60_000_000);
const COMBINATIONS: readonly (readonly [RuntimeName, MonitorName])[] = [
  ['runc', 'ours'],
  ['crun', 'debian'],
  ['runsc', 'ours'],
];

function spdy(url: string, protocol: string): Promise<SpdyClient> {
  return new Promise((resolve, reject) => {
    const dial = request(url, {
      method: 'POST',
      agent: false,
      headers: { Connection: 'Upgrade', Upgrade: 'SPDY/3.1', 'X-Stream-Protocol-Version': protocol },
    });
    dial.on('error', reject).on('response', (response) => reject(new Error(`HTTP ${response.statusCode}`)));
    dial.on('upgrade', (_response, socket, head) => resolve(new SpdyClient(socket, head)));
    dial.end();
  });
}

interface Session {
  readonly client: SpdyClient;
  readonly stream: Readonly<Record<'error' | 'stdin' | 'stdout' | 'stderr' | 'resize', SpdyClientStream>>;
  /** The Status that the session ended with. */
  readonly status: Promise<{
    readonly status: string;
    readonly message?: string;
    readonly details?: { readonly causes: readonly { readonly message: string }[] };
  }>;
}

/** Dials with every stream that was asked for. */
async function dial(
  url: string,
  wanted: { readonly stdin?: boolean; readonly stderr?: boolean; readonly tty?: boolean },
): Promise<Session> {
  const client = await spdy(url, 'v4.channel.k8s.io');
  const names = [
    'error',
    'stdout',
    ...(['stdin', 'stderr'] as const).filter((name) => wanted[name] === true),
    ...(wanted.tty === true ? ['resize'] : []),
  ];
  const streams: Record<string, SpdyClientStream> = {};
  for (const streamType of names) streams[streamType] = await client.open({ streamType });
  const stream = streams as Session['stream'];
  const status = stream.error
    .all()
    .then((text) => JSON.parse(text === '' ? '{"status":"none"}' : text) as Awaited<Session['status']>);
  status.catch(() => {});
  return { client, stream, status };
}

/** What a WebSocket session said, by channel, once it is closed. */
async function overWebSocket(url: string, protocol: string, input: readonly Buffer[]): Promise<string[]> {
  const ws = new WebSocket(url.replace('http', 'ws'), protocol);
  const got = ['', '', '', ''];
  ws.on('message', (message: Buffer) => {
    got[message[0] ?? 0] += message.subarray(1).toString();
  });
  ws.once('open', () => {
    for (const each of input) ws.send(each);
  });
  await once(ws, 'close');
  return got;
}

function residentBytes(pid: number): number {
  return Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024;
}

for (const [runtime, monitor] of COMBINATIONS) {
  describe(`streams with ${runtime} and ${monitor === 'ours' ? 'our' : "Debian's"} conmon`, function () {
    this.timeout(120_000);
    let node: TestNode;
    let pod: Pod;
    let container: string;
    before(async () => {
      node = await TestNode.boot({ runtime, monitor, env: INSPECTABLE });
      pod = await node.cri.runPod();
      container = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    });
    after(() => node.close());

    async function execUrl(cmd: readonly string[], options: Input<ExecRequest> = {}): Promise<string> {
      return (
        await node.cri.rpc.exec({
          containerId: container,
          cmd,
          stdout: true,
          stderr: options.tty !== true,
          stdin: false,
          tty: false,
          ...options,
        })
      ).url;
    }
    async function attachUrl(containerId: string, options: Input<AttachRequest> = {}): Promise<string> {
      return (
        await node.cri.rpc.attach({
          containerId,
          stdin: true,
          stdout: true,
          stderr: options.tty !== true,
          tty: false,
          ...options,
        })
      ).url;
    }
    /** Processes of a container whose command line is exactly this. */
    async function commands(id: string, commandLine: string): Promise<readonly string[]> {
      // The host does not see what runs on a kernel of its own.
      if (runtime !== 'runsc') return processes(commandLine);
      return (await node.cri.exec(id, ['ps', '-o', 'args'])).stdout
        .split('\n')
        .filter((line) => line.trim() === commandLine);
    }
    async function fails(work: Promise<unknown>): Promise<CriError> {
      const error = await work.then(
        () => undefined,
        (cause: unknown) => cause,
      );
      if (!(error instanceof CriError)) throw new Error(`it did not fail as it should: ${String(error)}`);
      return error;
    }

    it('runs a command with its streams apart, and tells its exit code', async () => {
      const { stream, status } = await dial(await execUrl(['sh', '-c', 'echo out; echo err >&2; exit 7']), {
        stderr: true,
      });
      assert.deepEqual([await stream.stdout.all(), await stream.stderr.all()], ['out\n', 'err\n']);
      assert.deepEqual(
        (await status).details?.causes.map((each) => each.message),
        ['7'],
      );
      const [, out, err, end] = await overWebSocket(
        await execUrl(['sh', '-c', 'echo out; echo err >&2; exit 7']),
        'v4.channel.k8s.io',
        [],
      );
      assert.deepEqual([out, err], ['out\n', 'err\n']);
      assert.include(end, '"message":"7"');
    });

    it('delivers megabytes to stdin whole, however slowly they are read', async () => {
      const content = randomBytes(5_000_000);
      const sum = createHash('sha256').update(content).digest('hex');
      const { stream } = await dial(await execUrl(['sh', '-c', 'sleep 0.3; sha256sum'], { stdin: true }), {
        stdin: true,
        stderr: true,
      });
      void stream.stdin.write(content).then(() => stream.stdin.end());
      assert.include(await stream.stdout.all(), sum);
      const parts = Array.from({ length: 50 }, (_, i) =>
        Buffer.concat([Buffer.of(0), content.subarray(i * 100_000, (i + 1) * 100_000)]),
      );
      const [, out] = await overWebSocket(
        await execUrl(['sh', '-c', 'sleep 0.3; sha256sum'], { stdin: true }),
        'v5.channel.k8s.io',
        [...parts, Buffer.of(255, 0)],
      );
      assert.include(out, sum);
    });

    it(
      'names the program that is not there, or cannot be executed, with the exit code that a shell ' + 'has for it',
      async () => {
        for (const [program, code] of [
          ['/no/such/program', '127'],
          ['no-such-program', '127'],
          ['/etc/passwd', '126'],
          ['/etc', '126'],
        ] as const) {
          const { stream, status } = await dial(await execUrl([program]), { stderr: true });
          assert.deepEqual(
            (await status).details?.causes.map((each) => each.message),
            [code],
            `${program}: ${(await status).message}`,
          );
          assert.include(await stream.stderr.all(), program);
          const [, out, err] = await overWebSocket(await execUrl([program]), 'v5.channel.k8s.io', []);
          assert.deepEqual([out, err?.includes(program)], ['', true]);
        }
        const refused = await fails(node.cri.exec(container, ['/no/such/program']));
        assert.deepEqual(
          [refused.codeName, refused.message.includes('/no/such/program')],
          ['InvalidArgument', true],
          'ExecSync has no stderr to say it on',
        );
      },
    );

    it('leaves a line for each session: who, where, what by hash, how it ended, how much', async () => {
      const { client } = await dial(await execUrl(['sh', '-c', 'echo secret; exit 7']), { stderr: true });
      await client.closed;
      const hash = createHash('sha256').update('sh\0-c\0echo secret; exit 7').digest('hex').slice(0, 16);
      const line = await waitFor(
        () => node.log.split('\n').find((each) => each.includes(hash)),
        (found) => found !== undefined,
        'the line',
      );
      for (const part of [
        /level=info/,
        /peer=127\.0\.0\.1:\d+/,
        new RegExp(`container=${container}`),
        /exit=7/,
        /inBytes=0/,
        /outBytes=7/,
      ])
        assert.match(line ?? '', part);
      assert.notInclude(line ?? '', 'secret');
    });

    it('gives a terminal of the right size, and resizes it', async () => {
      const { stream, status } = await dial(await execUrl(['sh'], { stdin: true, tty: true }), {
        stdin: true,
        tty: true,
      });
      await stream.resize.write('{"Width":97,"Height":31}');
      await waitFor(
        () => stream.stdout.text,
        (text) => text.includes('#'),
        'a prompt',
      );
      await stream.stdin.write('until [ "$(stty size)" = "31 97" ]; do sleep 0.01; done; echo si""zed\n');
      await waitFor(
        () => stream.stdout.text,
        (text) => text.includes('sized'),
        'the size',
      );
      await stream.resize.write(
        Array.from({ length: 2_000 }, (_, i) => `{"Width":${100 + (i % 50)},"Height":40}`).join('\n'),
      );
      await stream.stdin.write('until [ "$(stty size)" = "40 149" ]; do sleep 0.01; done; tty; exit 3\n');
      assert.deepEqual(
        (await status).details?.causes.map((each) => each.message),
        ['3'],
      );
      // gVisor knows no name of a terminal that is the host's.
      if (runtime !== 'runsc') assert.include(stream.stdout.text, '/dev/pts/');
    });

    it('kills the command when the client leaves', async () => {
      const { client } = await dial(await execUrl(['sleep', '31415']), { stderr: true });
      await waitFor(
        () => commands(container, 'sleep 31415'),
        (found) => found.length === 1,
        'the command to run',
      );
      client.close();
      await waitFor(
        () => commands(container, 'sleep 31415'),
        (found) => found.length === 0,
        'the command to be killed',
      );
    });

    it('ends a session with its container', async () => {
      const other = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
      const { status, client } = await dial(
        (
          await node.cri.rpc.exec({
            containerId: other,
            cmd: ['sleep', '27182'],
            stdout: true,
            stderr: true,
            stdin: false,
            tty: false,
          })
        ).url,
        { stderr: true },
      );
      const attached = await dial(await attachUrl(other, { stdin: false }), { stderr: true });
      await waitFor(
        () => commands(other, 'sleep 27182'),
        (found) => found.length === 1,
        'the command to run',
      );
      await node.cri.rpc.stopContainer({ containerId: other, timeout: 0n });
      assert.strictEqual((await status).status, 'Failure');
      assert.strictEqual((await attached.status).status, 'Success');
      await Promise.all([client.closed, attached.client.closed]);
    });

    /** A second of any clock, which is a thousand times what a daemon needs to read what it should not. */
    async function everyChance(): Promise<void> {
      const began = process.hrtime.bigint();
      await waitFor(
        () => process.hrtime.bigint() - began,
        (passed) => passed > 1_000_000_000n,
        'a second to pass',
      );
    }

    it(`does not grow when a client stops reading, and then delivers the rest of ${FLOOD / 1e6} MB`, async function () {
      this.timeout(600_000);
      const command = ['sh', '-c', `head -c ${FLOOD} /dev/zero`];
      const { client, stream, status } = await dial(await execUrl(command), { stderr: true });
      let overWs = 0;
      const ws = new WebSocket((await execUrl(command)).replace('http', 'ws'), 'v5.channel.k8s.io');
      ws.on('message', (message: Buffer) => {
        if (message[0] === 1) overWs += message.length - 1;
      });
      const closed = once(ws, 'close');
      await waitFor(
        () => Math.min(stream.stdout.bytes, overWs),
        (bytes) => bytes > FLOOD / 10,
        'output',
      );
      const before = residentBytes(node.pid);
      client.pause();
      ws.pause();
      await everyChance();
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
      assert.isBelow(Math.max(stream.stdout.bytes, overWs), FLOOD);
      client.resume();
      ws.resume();
      assert.strictEqual((await status).status, 'Success');
      await closed;
      assert.deepEqual([stream.stdout.bytes, overWs], [FLOOD, FLOOD]);
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
    });

    it('does not grow with what a client has sent', async () => {
      const half = 80_000_000;
      const { stream, status } = await dial(
        await execUrl(
          ['sh', '-c', `head -c ${half} >/dev/null; echo half; head -c ${half} >/dev/null; echo all; read rest`],
          { stdin: true },
        ),
        { stdin: true, stderr: true },
      );
      const send = async (said: RegExp): Promise<number> => {
        for (let sent = 0; sent < half; sent += 1_000_000) await stream.stdin.write(Buffer.alloc(1_000_000, 'x'));
        await waitFor(
          () => stream.stdout.text,
          (text) => said.test(text),
          `the command to have read ${half} bytes`,
        );
        return residentBytes(node.pid);
      };
      const before = await send(/half/);
      assert.isBelow((await send(/all/)) - before, 40_000_000);
      stream.stdin.end();
      await status;
    });

    it('kills a command whose client stops reading and leaves', async () => {
      const { client, stream } = await dial(await execUrl(['cat', '/dev/zero']), { stderr: true });
      await waitFor(
        () => stream.stdout.bytes,
        (bytes) => bytes > 1_000_000,
        'output',
      );
      client.pause();
      client.close();
      await waitFor(
        () => processes('cat /dev/zero'),
        (found) => found.length === 0,
        'the command to be killed',
      );
    });

    it('does not grow when an attached client stops reading', async () => {
      const loud = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'read go; head -c 50000000 /dev/zero'],
        stdin: true,
      });
      const { client, stream } = await dial(await attachUrl(loud), { stdin: true, stderr: true });
      client.pause();
      const before = residentBytes(node.pid);
      await stream.stdin.write('go\n');
      // Our monitor gives such a client up; the distribution's waits for it.
      if (monitor === 'ours') await node.cri.waitForContainer(loud, 'CONTAINER_EXITED');
      else await everyChance();
      assert.isBelow(residentBytes(node.pid) - before, 40_000_000);
      client.close();
      assert.strictEqual((await node.cri.waitForContainer(loud, 'CONTAINER_EXITED')).exitCode, 0);
    });

    it('attaches several clients at once, and closes stdin after the first where that is wanted', async () => {
      const cat = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'cat; echo the end'],
        stdin: true,
        stdinOnce: true,
      });
      const watching = await dial(await attachUrl(cat, { stdin: false }), { stderr: true });
      const typing = await dial(await attachUrl(cat), { stdin: true, stderr: true });
      await typing.stream.stdin.write('hello\n');
      for (const each of [watching, typing])
        await waitFor(
          () => each.stream.stdout.text,
          (text) => text === 'hello\n',
          'the echo',
        );
      typing.stream.stdin.end();
      assert.include(await watching.stream.stdout.all(), 'the end');
      assert.strictEqual((await watching.status).status, 'Success');
      await node.cri.waitForContainer(cat, 'CONTAINER_EXITED');
    });

    it('attaches to a terminal again and again', async () => {
      const shell = await node.cri.runContainer(pod, IMAGE, { command: ['sh'], stdin: true, tty: true });
      for (let i = 0; i < 3; i++) {
        const { client, stream } = await dial(await attachUrl(shell, { tty: true }), { stdin: true, tty: true });
        await stream.resize.write(`{"Width":${90 + i},"Height":20}`);
        await stream.stdin.write(`until [ "$(stty size)" = "20 ${90 + i}" ]; do sleep 0.01; done; echo again""${i}\n`);
        await waitFor(
          () => stream.stdout.text,
          (text) => text.includes(`again${i}`),
          'the shell',
        );
        client.close();
      }
      assert.strictEqual((await node.cri.container(shell)).state, 'CONTAINER_RUNNING');
    });

    it('refuses what cannot work, with the right code', async () => {
      const streams = { stdin: false, stdout: true, stderr: true, tty: false };
      assert.strictEqual(
        (await fails(node.cri.rpc.exec({ containerId: 'f'.repeat(64), cmd: ['true'], ...streams }))).codeName,
        'NotFound',
      );
      assert.strictEqual(
        (await fails(node.cri.rpc.attach({ containerId: 'f'.repeat(64), ...streams }))).codeName,
        'NotFound',
      );
      assert.strictEqual(
        (await fails(node.cri.rpc.portForward({ podSandboxId: 'f'.repeat(64), port: [80] }))).codeName,
        'NotFound',
      );
      assert.strictEqual(
        (await fails(node.cri.rpc.exec({ containerId: container, cmd: ['true'], ...streams, tty: true }))).codeName,
        'InvalidArgument',
      );
      assert.strictEqual(
        (await fails(node.cri.rpc.attach({ containerId: container, ...streams, stderr: false, tty: true }))).codeName,
        'InvalidArgument',
      );
      const created = await node.cri.createContainer(pod, IMAGE, {});
      assert.strictEqual(
        (await fails(node.cri.rpc.exec({ containerId: created, cmd: ['true'], ...streams }))).codeName,
        'FailedPrecondition',
      );
    });

    async function forward(
      client: SpdyClient,
      port: number,
      requestID: number,
    ): Promise<{ readonly data: SpdyClientStream; readonly error: SpdyClientStream }> {
      const headers = { port: String(port), requestID: String(requestID) };
      const error = await client.open({ ...headers, streamType: 'error' }, { fin: true });
      return { error, data: await client.open({ ...headers, streamType: 'data' }) };
    }

    it('reaches the loopback of the pod, over IPv4 and IPv6, and says what does not answer', async () => {
      for (const address of ['127.0.0.1:5001', '[::1]:5002'])
        await node.cri.runContainer(pod, IMAGE, { command: ['sh', '-c', `httpd -f -p ${address}`] });
      const { url } = await node.cri.rpc.portForward({ podSandboxId: pod.id, port: [] });
      const client = await spdy(url, 'portforward.k8s.io');
      let requests = 0;
      const ask = async (port: number): Promise<string> => {
        const { data } = await forward(client, port, ++requests);
        await data.write('GET / HTTP/1.0\r\n\r\n');
        return await data.all();
      };
      for (const port of [5001, 5002])
        await waitFor(
          () => ask(port),
          (text) => text.startsWith('HTTP/1.'),
          `port ${port}`,
        );
      assert.include(await (await forward(client, 5999, ++requests)).error.all(), 'port 5999');
      client.close();
    });

    it("reaches the host's loopback for a pod on the host's network, and nothing once the pod is stopped", async () => {
      const listener = createServer((socket: Socket) => socket.on('error', () => {}).pipe(socket));
      listener.listen(0, '127.0.0.1');
      await once(listener, 'listening');
      const { port } = listener.address() as AddressInfo;
      const host = await node.cri.runPod({
        linux: { securityContext: { namespaceOptions: { network: 'NODE', pid: 'CONTAINER', ipc: 'POD' } } },
      });
      const client = await spdy(
        (await node.cri.rpc.portForward({ podSandboxId: host.id, port: [port] })).url,
        'portforward.k8s.io',
      );
      const { data } = await forward(client, port, 1);
      await data.write('echo');
      await waitFor(
        () => data.text,
        (text) => text === 'echo',
        'the echo',
      );
      await node.cri.rpc.stopPodSandbox({ podSandboxId: host.id });
      await data.ended;
      assert.include(await (await forward(client, port, 2)).error.all(), 'ready');
      await client.closed;
      listener.close();
      assert.strictEqual(
        (await fails(node.cri.rpc.portForward({ podSandboxId: host.id, port: [port] }))).codeName,
        'FailedPrecondition',
      );
    });

    it('works once: a second use of a URL is refused, and so is a browser', async () => {
      const url = await execUrl(['true']);
      await (await dial(url, { stderr: true })).client.closed;
      const answer = await new Promise<string>((resolve) => {
        const socket = connect(Number(new URL(url).port), '127.0.0.1', () => {
          socket.end(`GET ${new URL(url).pathname} HTTP/1.1\r\nHost: x\r\n\r\n`);
        });
        let text = '';
        socket.on('data', (data: Buffer) => (text += data.toString())).on('close', () => resolve(text));
      });
      assert.match(answer, /^HTTP\/1\.1 404 /);
    });

    it(
      `CVE-2022-23471, CVE-2025-64329: leaves nothing behind after ${SOAK} execs and ${SOAK} ` + 'attaches',
      async function () {
        this.timeout(1_800_000);
        const cat = await node.cri.runContainer(pod, IMAGE, { command: ['cat'], stdin: true });
        const command = ['sh', '-c', 'echo x; cat >/dev/null'];
        const execs = [
          async () => {
            const { stream, client } = await dial(await execUrl(command, { stdin: true }), {
              stdin: true,
              stderr: true,
            });
            stream.stdin.end();
            await client.closed;
          },
          async () => {
            const { client } = await dial(await execUrl(command, { stdin: true }), { stdin: true, stderr: true });
            client.close();
            await client.closed;
          },
          async () => {
            const { stream, client } = await dial(await execUrl(command, { stdin: true, tty: true }), {
              stdin: true,
              tty: true,
            });
            await stream.resize.write('{"Width":80,"Height":25}');
            await waitFor(
              () => stream.stdout.text,
              (text) => text.includes('x'),
              'the command',
            );
            await stream.stdin.write('\x04');
            await client.closed;
          },
          async () => {
            const { stream, client, status } = await dial(
              await execUrl(['/no/such/program'], { stdin: true, tty: true }),
              { stdin: true, tty: true },
            );
            // It may be over.
            for (let i = 0; i < 20; i++) await stream.resize.write(`{"Width":${80 + i},"Height":25}`).catch(() => {});
            assert.strictEqual((await status).status, 'Failure');
            await client.closed;
          },
          async () =>
            assert.include(
              (
                await overWebSocket(await execUrl(command, { stdin: true }), 'v5.channel.k8s.io', [Buffer.of(255, 0)])
              ).join('|'),
              '|x\n|',
            ),
        ];
        const attach = async (i: number): Promise<void> => {
          const { stream, client } = await dial(await attachUrl(cat), { stdin: true, stderr: true });
          await stream.stdin.write(`${i}\n`);
          await waitFor(
            () => stream.stdout.text,
            (text) => text.includes(`${i}\n`),
            'the echo',
          );
          client.close();
          await client.closed;
        };
        const round = async (count: number): Promise<void> => {
          for (let i = 0; i < count; i += 8)
            await Promise.all(
              Array.from({ length: Math.min(8, count - i) }, (_, j) =>
                Promise.all([execs[(i + j) % execs.length]?.(), attach(i + j)]),
              ),
            );
          await waitFor(
            () => processes(command.join(' ')),
            (found) => found.length === 0,
            'the commands to end',
          );
          await waitFor(
            () => node.cri.rpc.operations(),
            ({ operations }) => operations.length === 1,
            'the sessions to end',
          );
        };
        // Some to begin with: code that is compiled and tables that grow once are no leak.
        await round(Math.min(SOAK, 100));
        const before = await heldBy(node);
        await round(SOAK);
        const after = await waitFor(
          () => heldBy(node),
          (now) => now.descriptors <= before.descriptors && now.processes <= before.processes,
          `as much as before: ${JSON.stringify(before)}`,
          { intervalMs: 200 },
        );
        if (process.env['SOAK'] !== undefined)
          console.log(`      ${SOAK} execs and attaches: ${JSON.stringify({ before, after })}`);
        assert.isBelow(after.bytes - before.bytes, 5_000_000);
      },
    );
  });
}

describe('a thousand commands at once in one container', function () {
  this.timeout(600_000);
  let node: TestNode;
  before(async () => {
    node = await TestNode.boot({ runtime: 'crun', env: INSPECTABLE });
  });
  after(() => node.close());

  it('all run, hold up no probe, cost little memory, and leave nothing', async () => {
    const pod = await node.cri.runPod();
    const busy = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    const quiet = await node.cri.runContainer(pod, IMAGE, { command: ['sleep', '100000'] });
    let ended = 0;
    const outcome = async (run: Promise<string>): Promise<string> => run.catch(String).finally(() => ended++);
    const sync = async (i: number): Promise<string> => {
      const { exitCode, stdout } = await node.cri.exec(busy, ['sh', '-c', `echo ${i}; exit 3`], { timeoutSeconds: 60 });
      return `${exitCode} ${stdout === `${i}\n` ? 'complete' : stdout}`;
    };
    const streamed = async (i: number): Promise<string> => {
      const { url } = await node.cri.rpc.exec({
        containerId: busy,
        cmd: ['sh', '-c', `echo ${i}; exit 3`],
        stdout: true,
        stderr: true,
        stdin: false,
        tty: false,
      });
      const { stream, status } = await dial(url, { stderr: true });
      return `${(await status).details?.causes[0]?.message} ${(await stream.stdout.all()) === `${i}\n` ? 'complete' : stream.stdout.text}`;
    };
    // Code that is compiled once is no leak.
    for (let i = 0; i < 20; i++) await Promise.all([sync(i), streamed(i)]);
    const before = await heldBy(node);
    const resident = residentBytes(node.pid);
    const flood = Promise.all(Array.from({ length: 1_000 }, (_, i) => outcome(i % 2 === 0 ? sync(i) : streamed(i))));
    // A kubelet has a connection of its own.
    const kubelet = criClient(node.socket);
    await waitFor(
      () => kubelet.rpc.operations(),
      ({ operations }) => operations.filter(({ stage }) => stage.startsWith('wait for a turn')).length > 300,
      'a line',
    );
    // In line like everybody in this container; the probe of the other one is not.
    const inLine = kubelet.exec(busy, ['true']);
    for (let i = 0; i < 3; i++)
      assert.strictEqual((await kubelet.exec(quiet, ['true'], { timeoutSeconds: 60 })).exitCode, 0);
    assert.isBelow(ended, 500, 'commands that the other container had to wait for');
    let peak = 0;
    await waitFor(
      () => {
        peak = Math.max(peak, residentBytes(node.pid) - resident);
        return ended;
      },
      (count) => count === 1_000,
      'all to end',
      { timeoutMs: 500_000, intervalMs: 50 },
    );
    assert.deepEqual([...new Set(await flood)], ['3 complete']);
    assert.strictEqual((await inLine).exitCode, 0);
    kubelet.close();
    assert.isBelow(peak, 150_000_000);
    const after = await waitFor(
      () => heldBy(node),
      (now) => now.descriptors <= before.descriptors && now.processes <= before.processes,
      `as much as before: ${JSON.stringify(before)}`,
      { intervalMs: 200 },
    );
    assert.isBelow(after.bytes - before.bytes, 5_000_000);
  });
});

describe('streams over TLS', function () {
  this.timeout(60_000);
  let node: TestNode;
  let files: string;
  let container: string;

  /** A self-signed certificate, in place of what was there. */
  function certify(name: string): string {
    const [key, certificate] = [join(files, `${name}.key`), join(files, `${name}.crt`)];
    execFileSync(
      'openssl',
      [
        'req',
        '-x509',
        '-newkey',
        'ec',
        '-pkeyopt',
        'ec_paramgen_curve:prime256v1',
        '-nodes',
        '-days',
        '2',
        '-subj',
        `/CN=${name}`,
        '-keyout',
        `${key}.new`,
        '-out',
        `${certificate}.new`,
      ],
      { stdio: 'ignore' },
    );
    renameSync(`${key}.new`, key);
    renameSync(`${certificate}.new`, certificate);
    return new X509Certificate(readFileSync(certificate)).fingerprint256;
  }

  before(async () => {
    files = await mkdtemp(join(tmpdir(), 'berth-tls-'));
    certify('server');
    certify('client');
    const flags = [
      '--stream-enable-tls',
      '--stream-tls-cert',
      join(files, 'server.crt'),
      '--stream-tls-key',
      join(files, 'server.key'),
      '--stream-tls-ca',
      join(files, 'client.crt'),
    ];
    node = await TestNode.boot({ flags });
    container = await node.cri.runContainer(await node.cri.runPod(), IMAGE, { command: ['sleep', '100000'] });
  });
  after(async () => {
    await node.close();
    await rm(files, { recursive: true, force: true });
  });

  const url = async (): Promise<string> =>
    (
      await node.cri.rpc.exec({
        containerId: container,
        cmd: ['echo', 'over TLS'],
        stdout: true,
        stderr: true,
        stdin: false,
        tty: false,
      })
    ).url;
  const client = (): ClientOptions => ({
    cert: readFileSync(join(files, 'client.crt')),
    key: readFileSync(join(files, 'client.key')),
    rejectUnauthorized: false,
  });

  /** The server's certificate and what the command said. */
  async function run(options: ClientOptions): Promise<{ readonly fingerprint: string; readonly out: string }> {
    const address = await url();
    assert.match(address, /^https:/);
    const ws = new WebSocket(address.replace('https', 'wss'), 'v4.channel.k8s.io', options);
    let [fingerprint, out] = ['', ''];
    ws.on('upgrade', (response) => {
      fingerprint = (response.socket as TLSSocket).getPeerCertificate().fingerprint256;
    });
    ws.on('message', (message: Buffer) => {
      if (message[0] === 1) out += message.subarray(1).toString();
    });
    await new Promise((resolve, reject) => ws.once('close', resolve).once('error', reject));
    return { fingerprint, out };
  }

  it('asks for a client certificate, and serves a renewed one of its own at once', async () => {
    const first = await run(client());
    assert.strictEqual(first.out, 'over TLS\n');
    const stranger = await run({ rejectUnauthorized: false }).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.instanceOf(stranger, Error);
    const renewed = certify('server');
    const second = await run(client());
    assert.deepEqual(second, { fingerprint: renewed, out: 'over TLS\n' });
    assert.notStrictEqual(first.fingerprint, renewed);
  });

  it('speaks no older version, and uses no other suite, than it was told', async () => {
    const failed = (options: ClientOptions): Promise<string> =>
      run({ ...client(), ...options }).then(
        ({ out }) => out,
        () => 'no connection',
      );
    const restart = async (...flags: string[]): Promise<void> => {
      node.moreFlags = flags;
      await node.restart();
    };
    await restart('--tls-cipher-suites', 'TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384');
    assert.strictEqual(await failed({ maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES256-GCM-SHA384' }), 'over TLS\n');
    assert.strictEqual(
      await failed({ maxVersion: 'TLSv1.2', ciphers: 'ECDHE-ECDSA-AES128-GCM-SHA256' }),
      'no connection',
    );
    assert.strictEqual(await failed({ minVersion: 'TLSv1.3' }), 'over TLS\n');
    await restart('--tls-min-version', 'VersionTLS13');
    assert.strictEqual(await failed({ maxVersion: 'TLSv1.2' }), 'no connection');
    assert.strictEqual(await failed({}), 'over TLS\n');
    await restart();
  });

  it('goes on with the old certificate while the new one cannot be read', async () => {
    const { fingerprint } = await run(client());
    await writeFile(join(files, 'server.crt'), 'half a certif');
    assert.deepEqual(await run(client()), { fingerprint, out: 'over TLS\n' });
    const renewed = certify('server');
    assert.strictEqual((await run(client())).fingerprint, renewed);
  });
});

/** Exec, attach and port-forward, as kubectl (SPDY) and newer clients (WebSocket) use them, against real containers. */
import { assert } from 'chai';
import { createHash, randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { type AddressInfo, connect, createServer, type Socket } from 'node:net';
import { type SpdyClient, type SpdyClientStream } from '../../pkg/stream/fake-client.ts';
import { type Pod, waitFor } from './cri-client.ts';
import { IMAGE, type TestNode } from './harness.ts';
import { COMBINATIONS, dial, fails, overWebSocket, spdy, StreamGround } from './stream-ground.ts';

for (const [runtime, monitor] of COMBINATIONS) {
  describe(`streams with ${runtime} and ${monitor === 'ours' ? 'our' : "Debian's"} conmon`, function () {
    this.timeout(120_000);
    let ground: StreamGround;
    let node: TestNode;
    let pod: Pod;
    let container: string;
    before(async () => {
      ground = await StreamGround.boot(runtime, monitor);
      ({ node, pod, container } = ground);
    });
    after(() => node.close());

    it('runs a command with its streams apart, and tells its exit code', async () => {
      const { stream, status } = await dial(await ground.execUrl(['sh', '-c', 'echo out; echo err >&2; exit 7']), {
        stderr: true,
      });
      assert.deepEqual([await stream.stdout.all(), await stream.stderr.all()], ['out\n', 'err\n']);
      assert.deepEqual(
        (await status).details?.causes.map((each) => each.message),
        ['7'],
      );
      const [, out, err, end] = await overWebSocket(
        await ground.execUrl(['sh', '-c', 'echo out; echo err >&2; exit 7']),
        'v4.channel.k8s.io',
        [],
      );
      assert.deepEqual([out, err], ['out\n', 'err\n']);
      assert.include(end, '"message":"7"');
    });

    it('delivers megabytes to stdin whole, however slowly they are read', async () => {
      const content = randomBytes(5_000_000);
      const sum = createHash('sha256').update(content).digest('hex');
      const { stream } = await dial(await ground.execUrl(['sh', '-c', 'sleep 0.3; sha256sum'], { stdin: true }), {
        stdin: true,
        stderr: true,
      });
      void stream.stdin.write(content).then(() => stream.stdin.end());
      assert.include(await stream.stdout.all(), sum);
      const parts = Array.from({ length: 50 }, (_, i) =>
        Buffer.concat([Buffer.of(0), content.subarray(i * 100_000, (i + 1) * 100_000)]),
      );
      const [, out] = await overWebSocket(
        await ground.execUrl(['sh', '-c', 'sleep 0.3; sha256sum'], { stdin: true }),
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
          const { stream, status } = await dial(await ground.execUrl([program]), { stderr: true });
          assert.deepEqual(
            (await status).details?.causes.map((each) => each.message),
            [code],
            `${program}: ${(await status).message}`,
          );
          assert.include(await stream.stderr.all(), program);
          const [, out, err] = await overWebSocket(await ground.execUrl([program]), 'v5.channel.k8s.io', []);
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
      const { client } = await dial(await ground.execUrl(['sh', '-c', 'echo secret; exit 7']), { stderr: true });
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
      const { stream, status } = await dial(await ground.execUrl(['sh'], { stdin: true, tty: true }), {
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
      const { client } = await dial(await ground.execUrl(['sleep', '31415']), { stderr: true });
      await waitFor(
        () => ground.commands(container, 'sleep 31415'),
        (found) => found.length === 1,
        'the command to run',
      );
      client.close();
      await waitFor(
        () => ground.commands(container, 'sleep 31415'),
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
      const attached = await dial(await ground.attachUrl(other, { stdin: false }), { stderr: true });
      await waitFor(
        () => ground.commands(other, 'sleep 27182'),
        (found) => found.length === 1,
        'the command to run',
      );
      await node.cri.rpc.stopContainer({ containerId: other, timeout: 0n });
      assert.strictEqual((await status).status, 'Failure');
      assert.strictEqual((await attached.status).status, 'Success');
      await Promise.all([client.closed, attached.client.closed]);
    });

    it('attaches several clients at once, and closes stdin after the first where that is wanted', async () => {
      const cat = await node.cri.runContainer(pod, IMAGE, {
        command: ['sh', '-c', 'cat; echo the end'],
        stdin: true,
        stdinOnce: true,
      });
      const watching = await dial(await ground.attachUrl(cat, { stdin: false }), { stderr: true });
      const typing = await dial(await ground.attachUrl(cat), { stdin: true, stderr: true });
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
        const { client, stream } = await dial(await ground.attachUrl(shell, { tty: true }), { stdin: true, tty: true });
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
        (await fails(node.cri.rpc.attach({ containerId: created, ...streams }))).codeName,
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
      const url = await ground.execUrl(['true']);
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
  });
}

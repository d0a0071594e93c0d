import { assert } from 'chai';
import type { IncomingMessage } from 'node:http';
import { mock } from 'node:test';
import { SpdyClient, type SpdyClientStream } from './fake-client.ts';
import { ask, channels, opened, spdy, stdio, streamGround, STREAMS, tunnel, until } from './fake-ground.ts';
import { CONTAINER, POD } from './fake-pod.ts';

/** As until, while time passes for the server. */
async function tickUntil(condition: () => boolean, what: string): Promise<void> {
  await until(() => {
    mock.timers.tick(100);
    return condition();
  }, what);
}

describe('the stream server', () => {
  const ground = streamGround();

  describe('attach', () => {
    const attach = (changes: object = {}): Promise<string> => ground.server.urlForAttach({ ...STREAMS, ...changes });

    it('joins the client to the container until the container ends', async () => {
      const { client, stdin, stdout, error } = await stdio(await attach());
      await stdin.write('in');
      await until(() => ground.pod.running.has('attach'), 'the session');
      await ground.pod.console.output.push(Buffer.from('out'));
      await until(() => ground.pod.console.input === 'in' && stdout.text === 'out', 'both directions');
      stdin.end();
      await until(() => ground.pod.console.inputClosed, 'the half-close');
      ground.pod.console.output.end();
      assert.include(await error.all(), 'Success');
      await client.closed;
    });

    it('is in the audit log, too', async () => {
      const { client, stdin, stdout } = await stdio(await attach());
      await stdin.write('12345');
      await until(() => ground.pod.console.input === '12345', 'the input');
      await ground.pod.console.output.push(Buffer.from('abc'));
      await until(() => stdout.text === 'abc', 'the output');
      client.close();
      await until(() => ground.log.lines.some(({ message }) => message === 'attach ended'), 'the line');
      const { peer, container, inBytes, outBytes, cause } =
        ground.log.lines.find(({ message }) => message === 'attach ended')?.fields ?? {};
      assert.deepEqual(
        { container, inBytes, outBytes, cause },
        { container: CONTAINER, inBytes: 5, outBytes: 3, cause: 'the client hung up' },
      );
      assert.match(String(peer), /^127\.0\.0\.1:\d+$/);
    });

    it('detaches when the client leaves', async () => {
      const { client } = await stdio(await attach());
      await until(() => ground.pod.running.has('attach'), 'the session');
      client.close();
      await until(() => ground.pod.running.size === 0, 'the end');
    });

    it(
      'ends at the end of input from a terminal, which is how people detach, and elsewhere only ' +
        'says so to the container',
      async () => {
        const lines = await stdio(await ground.server.urlForAttach(STREAMS));
        lines.stdin.end();
        await until(() => ground.pod.console.inputClosed, 'the end of input');
        assert.strictEqual(ground.server.sessionsCount, 1);
        lines.client.close();
        await until(() => ground.server.sessionsCount === 0, 'the session to end');
        ground.pod.console.tty = true;
        ground.pod.console.inputClosed = false;
        const client = await spdy(await ground.server.urlForAttach({ ...STREAMS, stderr: false, tty: true }));
        const error = await client.open({ streamType: 'error' });
        const stdin = await client.open({ streamType: 'stdin' });
        for (const streamType of ['stdout', 'resize']) await client.open({ streamType });
        await stdin.write('typed');
        stdin.end();
        assert.strictEqual((JSON.parse(await error.all()) as { readonly status: string }).status, 'Success');
        assert.deepEqual([ground.pod.console.input, ground.pod.console.inputClosed], ['typed', false]);
      },
    );

    it('sizes the terminal of the container, and wants none where there is none', async () => {
      const refused = channels(await attach({ tty: true, stderr: false }), 'v4.channel.k8s.io');
      await refused.closed;
      assert.include(refused.text(3), 'attach without tty');
      ground.pod.console.tty = true;
      const { ws } = channels(await attach({ tty: true, stderr: false }), 'v4.channel.k8s.io');
      await opened(ws);
      ws.send(Buffer.concat([Buffer.of(4), Buffer.from('{"Width":100,"Height":50}')]));
      await until(() => ground.pod.sizes.length === 1, 'the size');
      assert.deepEqual(ground.pod.sizes, [{ width: 100, height: 50 }]);
      ws.terminate();
      await until(() => ground.pod.running.size === 0, 'the end');
    });
  });

  describe('port-forward over SPDY', () => {
    const PORTS = 'portforward.k8s.io';
    async function pair(
      client: SpdyClient,
      port: number,
      requestId: string,
    ): Promise<{ data: SpdyClientStream; error: SpdyClientStream }> {
      const error = await client.open({ streamType: 'error', port: String(port), requestID: requestId }, { fin: true });
      return { error, data: await client.open({ streamType: 'data', port: String(port), requestID: requestId }) };
    }
    const url = (port: number[] = []): Promise<string> => ground.server.urlForPortForward({ podSandboxId: POD, port });

    it('carries many connections at once, and their half-closes', async () => {
      const client = await spdy(await url(), PORTS);
      const pairs = [];
      for (let i = 0; i < 20; i++) pairs.push(await pair(client, 7, String(i)));
      await Promise.all(
        pairs.map(async ({ data, error }, i) => {
          await data.write(`message ${i}`);
          data.end();
          assert.deepEqual([await data.all(), await error.all()], [`message ${i}`, '']);
        }),
      );
      client.close();
      await until(() => ground.server.sessionsCount === 0, 'the end');
    });

    it('says what is wrong on the error stream, and goes on', async () => {
      const client = await spdy(await url(), PORTS);
      const closed = await pair(client, 81, '1');
      assert.include(await closed.error.all(), 'nothing answers on port 81');
      const fine = await pair(client, 13, '2');
      assert.strictEqual(await fine.data.all(), 'hello');
      client.close();
    });

    it('forwards only the ports that were asked for, where any were', async () => {
      const client = await spdy(await url([13]), PORTS);
      assert.include(await (await pair(client, 7, '1')).error.all(), 'was not asked for');
      assert.strictEqual(await (await pair(client, 13, '2')).data.all(), 'hello');
      client.close();
    });

    it('closes a connection that the client gives up', async () => {
      const client = await spdy(await url(), PORTS);
      const { data, error } = await pair(client, 7, '1');
      await data.write('x');
      await until(() => data.text === 'x', 'the echo');
      data.reset();
      await error.ended;
      assert.strictEqual(ground.pod.running.size, 0);
      client.close();
    });

    it('gives up the streams of a connection that is over, although the client ends none', async () => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const client = await spdy(await url(), PORTS);
        const error = await client.open({ streamType: 'error', port: '13', requestID: '1' });
        const data = await client.open({ streamType: 'data', port: '13', requestID: '1' });
        assert.strictEqual(await data.all(), 'hello');
        // First the pod is given time for what the client may say yet, then the client for ending its part.
        await tickUntil(() => client.seen.some((each) => each === `3:${data.id}`), 'the data stream to be given up');
        await tickUntil(() => client.seen.some((each) => each === `3:${error.id}`), 'the error stream to be given up');
        assert.strictEqual(await error.all(), '', 'its end came first');
        client.close();
      } finally {
        mock.timers.reset();
      }
    });

    it('takes a port by its digits alone', async () => {
      const client = await spdy(await url(), PORTS);
      for (const port of ['1e1', '0x7', ' 7', '+7', '7.0', '', '000007'])
        assert.strictEqual(
          await (await client.open({ streamType: 'data', port, requestID: port })).ended,
          'reset',
          port,
        );
      client.close();
    });

    it('refuses streams that are no pair, and pairs the unnumbered ones of the oldest clients', async () => {
      const client = await spdy(await url(), PORTS);
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '0', requestID: '1' })).ended, 'reset');
      assert.strictEqual(await (await client.open({ streamType: 'stdin', port: '7', requestID: '1' })).ended, 'reset');
      await client.open({ streamType: 'data', port: '7', requestID: '5' });
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '7', requestID: '5' })).ended, 'reset');
      await client.open({ streamType: 'error', port: '13' });
      assert.strictEqual(await (await client.open({ streamType: 'data', port: '13' })).all(), 'hello');
      client.close();
    });
  });

  describe('port-forward over WebSocket', () => {
    it('gives each port two channels', async () => {
      const { ws, got, text } = channels(
        await ground.server.urlForPortForward({ podSandboxId: POD, port: [7, 81] }),
        'v4.channel.k8s.io',
      );
      await opened(ws);
      ws.send(Buffer.concat([Buffer.of(0), Buffer.from('ping')]));
      await until(() => text(0).length === 6 && text(3).length > 2, 'answers');
      assert.deepEqual([...(got.get(0) ?? [])], [7, 0, ...Buffer.from('ping')]);
      assert.deepEqual([...(got.get(1) ?? [])], [7, 0]);
      assert.deepEqual([...(got.get(2) ?? [])], [81, 0]);
      assert.include(text(3), 'nothing answers on port 81');
      ws.close();
    });

    it('wants to know the ports', async () => {
      const { closed, ws } = channels(
        await ground.server.urlForPortForward({ podSandboxId: POD, port: [] }),
        'v4.channel.k8s.io',
      );
      const status = new Promise((resolve) =>
        ws.once('unexpected-response', (_request, response: IncomingMessage) => resolve(response.statusCode)),
      );
      assert.strictEqual(await status, 400);
      ws.terminate();
      await closed;
    });

    it('tunnels SPDY', async () => {
      const url = await ground.server.urlForPortForward({ podSandboxId: POD, port: [] });
      const protocol = 'SPDY/3.1+portforward.k8s.io';
      const headers = {
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Version': '13',
        'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
        'Sec-WebSocket-Protocol': protocol,
      };
      const answer = await ask(url, { method: 'GET', headers });
      assert.deepEqual([answer.status, answer.headers['sec-websocket-protocol']], [101, protocol]);
      if (answer.socket === undefined) throw new Error('no socket');
      const client = new SpdyClient(tunnel(answer.socket));
      const error = await client.open({ streamType: 'error', port: '7', requestID: '0' }, { fin: true });
      const data = await client.open({ streamType: 'data', port: '7', requestID: '0' });
      await data.write('through the tunnel');
      data.end();
      assert.deepEqual([await data.all(), await error.all()], ['through the tunnel', '']);
      client.close();
      await until(() => ground.server.sessionsCount === 0, 'the end');
    });
  });
});

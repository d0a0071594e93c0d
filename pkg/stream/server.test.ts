import { assert } from 'chai';
import { connect } from 'node:net';
import { mock } from 'node:test';
import type { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { ask, channels, spdy, SPDY, stdio, streamGround, until } from './fake-ground.ts';

describe('the stream server', () => {
  const ground = streamGround();
  const { listen, exec } = ground;

  describe('tokens', () => {
    it('are good once', async () => {
      const url = await exec('exit', '0');
      const { client, error } = await stdio(url);
      assert.deepEqual(JSON.parse(await error.all()), { metadata: {}, status: 'Success' });
      await client.closed;
      assert.strictEqual((await ask(url, { headers: SPDY })).status, 404);
    });

    it('are good for a minute', async () => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const [early, late] = [await exec('exit', '0'), await exec('exit', '0')];
        mock.timers.tick(limits.streamTokenMs - 1);
        const { socket, status } = await ask(early, { headers: SPDY });
        assert.strictEqual(status, 101);
        socket?.destroy();
        mock.timers.tick(1);
        assert.strictEqual((await ask(late, { headers: SPDY })).status, 404);
        // Their place is free again.
        for (let i = 0; i < limits.streamTokensCount; i++) await exec('sleep');
      } finally {
        mock.timers.reset();
      }
    });

    it('are good for their kind of session only, and used up by any request', async () => {
      const url = await exec('sleep');
      assert.strictEqual((await ask(url.replace('/exec/', '/attach/'), { headers: SPDY })).status, 404);
      assert.strictEqual((await ask(url, { headers: SPDY })).status, 404);
      const plain = await exec('sleep');
      assert.strictEqual((await ask(plain)).status, 400);
      assert.strictEqual((await ask(plain, { headers: SPDY })).status, 404);
    });

    it('are refused beyond the limit, with a code that the kubelet retries', async () => {
      for (let i = 0; i < limits.streamTokensCount; i++) await exec('sleep');
      const error = await exec('sleep').then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.strictEqual((error as RuntimeError).code, 'ResourceExhausted');
    });

    it('cannot be guessed by path', async () => {
      const url = await exec('sleep');
      const { origin } = new URL(url);
      const token = url.slice(url.lastIndexOf('/') + 1);
      assert.match(token, /^[A-Za-z0-9_-]{22}$/);
      for (const path of [
        '/',
        '/exec',
        '/exec/',
        `/exec/${'A'.repeat(22)}`,
        `/exec/${token}/`,
        `/exec/../exec/${token}`,
        `/exec/%2e%2e/${token}`,
        `//exec/${token}`,
        `/debug/${token}`,
        `/exec/${token}?x`,
      ]) {
        const answer = await new Promise<string>((resolve) => {
          const socket = connect(Number(new URL(url).port), '127.0.0.1');
          let text = '';
          socket.on('data', (data) => (text += data.toString())).on('close', () => resolve(text));
          socket.end(`POST ${path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\r\n`);
        });
        assert.match(answer, /^HTTP\/1\.1 404 /, `${origin}${path}`);
      }
    });
  });

  describe('requests', () => {
    it('from browsers are refused, but not those that the kubelet hands on', async () => {
      const direct = await ask(await exec('exit', '0'), { headers: { ...SPDY, Origin: 'http://evil.example' } });
      assert.strictEqual(direct.status, 403);
      const proxied = await ask(await exec('exit', '0'), {
        headers: { ...SPDY, Origin: 'http://console.example', 'X-Forwarded-For': '10.0.0.1' },
      });
      assert.strictEqual(proxied.status, 101);
      proxied.socket?.destroy();
    });

    it('must not smuggle a body, have huge headers, or use other methods', async () => {
      assert.strictEqual(
        (await ask(await exec('sleep'), { headers: { ...SPDY, 'Content-Length': '5' } }).catch(() => ({ status: 400 })))
          .status,
        400,
      );
      assert.strictEqual(
        (await ask(await exec('sleep'), { headers: { ...SPDY, 'X-Long': 'x'.repeat(20_000) } })).status,
        431,
      );
      assert.strictEqual((await ask(await exec('sleep'), { method: 'PUT', headers: SPDY })).status, 405);
      assert.strictEqual((await ask(await exec('sleep'), { headers: { ...SPDY, Upgrade: 'h2c' } })).status, 400);
    });

    it('that have no protocol in common hear which there are', async () => {
      const answer = await ask(await exec('sleep'), {
        headers: { ...SPDY, 'X-Stream-Protocol-Version': 'v9.channel.k8s.io' },
      });
      assert.strictEqual(answer.status, 403);
      assert.include(answer.headers['x-accepted-stream-protocol-versions'], 'v4.channel.k8s.io');
    });
  });

  it('lists its sessions with whom they serve and where they are', async () => {
    const started = (): string[] =>
      ground.server
        .operations()
        .map(
          ({ rpc, ids, stage, clientGone }) =>
            `${rpc} ${ids['container']?.slice(0, 1)} ${ids['peer']?.split(':')[0]}: ` +
            `${stage}${clientGone ? ', gone' : ''}`,
        );
    const half = await spdy(await exec('cat'));
    await until(() => started().length === 1, 'the first session');
    assert.deepEqual(started(), ['exec session c 127.0.0.1: wait for the streams of the client']);
    half.close();
    const { client } = await stdio(await exec('cat', 'secret'));
    await until(() => ground.pod.running.size === 1 && started().length === 1, 'the second session alone');
    assert.deepEqual(started(), ['exec session c 127.0.0.1: exec cat']);
    client.close();
    await until(() => started().length === 0, 'no session');
  });

  describe('clients that open half a session', () => {
    it('are given up when they have opened no streams for a while', async () => {
      mock.timers.enable({ apis: ['setTimeout'] });
      try {
        const client = await spdy(await exec('cat'));
        const error = await client.open({ streamType: 'error' });
        await until(
          () => ground.server.sessionsCount === 1 && client.seen.some((each) => each.startsWith('2:')),
          'the stream to be open',
        );
        mock.timers.tick(limits.streamCreationMs);
        assert.strictEqual(await error.ended, 'closed');
        await client.closed;
        await until(() => ground.log.lines.some(({ message }) => message === 'exec refused'), 'the line');
        assert.match(
          String(ground.log.lines.find(({ message }) => message === 'exec refused')?.fields['cause']),
          /opened only "error" of error stdin stdout stderr/,
        );
      } finally {
        mock.timers.reset();
      }
    });

    it('are gone when they close their half of the connection', async () => {
      const { client } = await stdio(await exec('sleep'));
      await until(() => ground.pod.running.size === 1, 'the process');
      client.endConnection();
      await client.closed;
      await until(() => ground.pod.running.size === 0 && ground.server.sessionsCount === 0, 'the end');
    });
  });

  describe('the end of a session', () => {
    it('comes when only pings have passed for the idle time', async () => {
      await ground.server.close();
      await listen({ idleTimeoutMs: 60 });
      const { client, error } = await stdio(await exec('sleep'));
      let pinging = true;
      void (async () => {
        while (pinging)
          await Promise.race([client.ping(), client.closed]).then(
            () => new Promise((resolve) => setImmediate(resolve)),
          );
      })();
      assert.include(await error.all(), 'stream_idle_timeout');
      pinging = false;
      await client.closed;
      const { ws, closed } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      ws.once('open', () => ws.ping());
      await closed;
    });

    it('comes when the server closes, with the reason', async () => {
      const { error } = await stdio(await exec('sleep'));
      await until(() => ground.pod.running.size === 1, 'the process');
      await ground.server.close();
      assert.include(await error.all(), 'the runtime is stopping');
    });

    it('leaves nothing, however many there were', async function () {
      this.timeout(60_000);
      const round = async (count: number): Promise<void> => {
        for (let i = 0; i < count; i++) {
          if (i % 2 === 0) {
            const { stdin, client } = await stdio(await exec('cat'));
            await stdin.write('x');
            if (i % 4 === 0) stdin.end();
            else client.close();
            await client.closed;
          } else {
            const { ws, closed } = channels(await exec(i % 3 === 0 ? 'both' : 'sleep'), 'v5.channel.k8s.io');
            if (i % 3 !== 0) ws.once('open', () => ws.terminate());
            await closed;
          }
        }
        await until(() => ground.pod.running.size === 0 && ground.server.sessionsCount === 0, 'the sessions to end');
      };
      const resources = (): number =>
        process.getActiveResourcesInfo().filter((each) => each !== 'Immediate' && each !== 'CloseReq').length;
      await round(50);
      await until(() => resources() < 40, 'sockets to be closed');
      const before = resources();
      await round(300);
      await until(() => resources() <= before + 2, 'no handle to be left');
    });
  });
});

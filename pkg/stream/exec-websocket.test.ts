import { assert } from 'chai';
import { createHash } from 'node:crypto';
import { limits } from '../base/limits.ts';
import { ask, channels, opened, streamGround, STREAMS, until } from './fake-ground.ts';

describe('the stream server', () => {
  const ground = streamGround();
  const { listen, exec } = ground;

  describe('exec over WebSocket', () => {
    for (const protocol of [
      'v5.channel.k8s.io',
      'v4.channel.k8s.io',
      'v4.base64.channel.k8s.io',
      'channel.k8s.io',
      'base64.channel.k8s.io',
      undefined,
    ]) {
      it(`carries streams apart and reports the end: ${protocol ?? 'no protocol named'}`, async () => {
        const hasStatus = /^v[45]/.test(protocol ?? '');
        const both = channels(await exec('both'), protocol);
        assert.strictEqual(await both.closed, 1000);
        assert.strictEqual(both.ws.protocol, protocol ?? '');
        assert.deepEqual([both.text(1), both.text(2)], ['out', 'err']);
        assert.strictEqual(both.text(3), hasStatus ? '{"metadata":{},"status":"Success"}' : '');
        const failing = channels(await exec('exit', '7'), protocol);
        await failing.closed;
        assert.include(failing.text(3), hasStatus ? '"causes":[{"reason":"ExitCode","message":"7"}]' : 'exit status 7');
      });
    }

    it('ends stdin by the close channel of v5, after all of it', async () => {
      const { ws, text, closed } = channels(await exec('sum'), 'v5.channel.k8s.io');
      await opened(ws);
      const hash = createHash('sha256');
      for (let i = 0; i < 40; i++) {
        const part = Buffer.alloc(50_000 + i, i);
        hash.update(part);
        ws.send(Buffer.concat([Buffer.of(0), part]));
      }
      ws.send(Buffer.of(255, 0));
      await closed;
      assert.strictEqual(text(1), hash.digest('hex'));
    });

    it('holds the client back when the process does not read, and keeps its pings answered', async () => {
      const { ws } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      await opened(ws);
      const chunk = Buffer.alloc(65_536);
      let sent = 0;
      const pump = (): void =>
        ws.send(chunk, (error) => {
          if (error !== undefined && error !== null) return;
          sent += chunk.length;
          pump();
        });
      pump();
      let before = -1;
      await until(() => {
        const still = sent === before && sent > 0;
        before = sent;
        return still;
      }, 'the client to be held');
      ws.terminate();
      // Nothing is read from the connection, so only the next beat shows that it is gone.
      await ground.server.close();
      assert.strictEqual(ground.pod.running.size, 0);
      await listen();
    });

    it('kills the process of a client that does not read and leaves', async () => {
      const { ws, got } = channels(await exec('yes'), 'v4.channel.k8s.io');
      await until(() => (got.get(1)?.length ?? 0) > 100_000, 'output');
      ws.pause();
      ws.terminate();
      await until(() => ground.pod.running.size === 0, 'the process to be killed');
    });

    it('answers pings, and ends a session whose messages are too large or malformed', async () => {
      const { ws, closed } = channels(await exec('sleep'), 'v5.channel.k8s.io');
      await opened(ws);
      const pong = new Promise((resolve) => ws.once('pong', resolve));
      ws.ping('are you there');
      assert.strictEqual(String(await pong), 'are you there');
      ws.send(Buffer.alloc(limits.webSocketMessageBytes + 1));
      assert.strictEqual(await closed, 1009);
      await until(() => ground.pod.running.size === 0, 'the end');
    });
  });

  it('survives whatever arrives on a WebSocket: a session ends or goes on, and leaves nothing', async () => {
    let state = Number(process.env['SEED'] ?? 1);
    const random = (below: number): number =>
      ((state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fff_ffff) >>> 8) % below;
    const headers = {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Version': '13',
      'Sec-WebSocket-Key': Buffer.alloc(16).toString('base64'),
    };
    for (let round = 0; round < 100; round++) {
      const protocol = ['v5.channel.k8s.io', 'v4.base64.channel.k8s.io'][round % 2] ?? '';
      const url = await ground.server.urlForExec({
        ...STREAMS,
        tty: true,
        stderr: false,
        cmd: [round % 3 === 0 ? 'sizes' : 'cat'],
      });
      const { socket } = await ask(url, { method: 'GET', headers: { ...headers, 'Sec-WebSocket-Protocol': protocol } });
      if (socket === undefined) throw new Error('no socket');
      socket.on('error', () => {}).resume();
      const gone = new Promise((resolve) => socket.once('close', resolve));
      for (let i = 0; i < 20; i++) {
        const content = Buffer.from(
          Array.from({ length: random(40) }, () => (random(2) === 0 ? random(6) : random(256))),
        );
        // Mostly a well-formed frame with strange content, so that more than the library's checks is reached.
        const noise = random(10) === 0;
        const frame = Buffer.concat([
          Buffer.of(0x80 | (random(8) === 0 ? random(16) : 2), 0x80 | content.length, 0, 0, 0, 0),
          content,
        ]);
        socket.write(noise ? content : frame);
      }
      socket.end();
      await Promise.race([gone, until(() => ground.server.sessionsCount === 0, 'the session to end')]);
      socket.destroy();
    }
    await until(() => ground.server.sessionsCount === 0 && ground.pod.running.size === 0, 'the sessions to end');
  });
});

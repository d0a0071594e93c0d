import { assert } from 'chai';
import { createHash } from 'node:crypto';
import { spdy, stdio, streamGround, STREAMS, until } from './fake-ground.ts';
import { CONTAINER } from './fake-pod.ts';

describe('the stream server', () => {
  const ground = streamGround();
  const { exec } = ground;

  describe('exec over SPDY', () => {
    it('keeps stdout and stderr apart, and reports success', async () => {
      const { stdout, stderr, error, client } = await stdio(await exec('both'));
      assert.deepEqual([await stdout.all(), await stderr.all()], ['out', 'err']);
      assert.deepEqual(JSON.parse(await error.all()), { metadata: {}, status: 'Success' });
      assert.deepEqual(await Promise.all([stdout.ended, stderr.ended, error.ended]), ['fin', 'fin', 'fin']);
      await client.closed;
    });

    it('has output followed after the end of a command, but not of a terminal', async () => {
      await (await stdio(await exec('both'))).client.closed;
      assert.strictEqual(ground.pod.lateOutput, 'follow');
      const client = await spdy(
        await ground.server.urlForExec({ ...STREAMS, stdin: false, stderr: false, tty: true, cmd: ['exit', '0'] }),
      );
      for (const streamType of ['error', 'stdout', 'resize']) await client.open({ streamType });
      await client.closed;
      assert.strictEqual(ground.pod.lateOutput, 'cut');
    });

    it('reports the exit code as kubectl reads it', async () => {
      const { error } = await stdio(await exec('exit', '42'));
      const status = JSON.parse(await error.all()) as { reason: string; details: object };
      assert.deepEqual(
        [status.reason, status.details],
        ['NonZeroExitCode', { causes: [{ reason: 'ExitCode', message: '42' }] }],
      );
    });

    it('names what cannot be run, on stderr and with an exit code as a shell does', async () => {
      const { error, stderr } = await stdio(await exec('/no/such/program'));
      assert.strictEqual(await stderr.all(), 'exec: "/no/such/program": no such file or directory\n');
      const status = JSON.parse(await error.all()) as { reason: string; message: string; details: object };
      assert.deepEqual(
        [status.reason, status.details],
        ['NonZeroExitCode', { causes: [{ reason: 'ExitCode', message: '127' }] }],
      );
      assert.include(status.message, '/no/such/program');
      const client = await spdy(
        await ground.server.urlForExec({
          ...STREAMS,
          stdin: false,
          stderr: false,
          tty: true,
          cmd: ['/no/such/program'],
        }),
      );
      const [, stdout] = [
        await client.open({ streamType: 'error' }),
        await client.open({ streamType: 'stdout' }),
        await client.open({ streamType: 'resize' }),
      ];
      assert.strictEqual(await stdout.all(), 'exec: "/no/such/program": no such file or directory\r\n');
    });

    it('tells a failure of ours from one of the command', async () => {
      const { error, stderr } = await stdio(await exec('broken'));
      const status = JSON.parse(await error.all()) as { reason: string; message: string; code: number };
      assert.deepEqual(
        [status.reason, status.code, status.message, await stderr.all()],
        ['InternalError', 500, 'the runtime is broken', ''],
      );
    });

    it('speaks text to clients older than v4', async () => {
      for (const protocol of ['channel.k8s.io', 'v2.channel.k8s.io', 'v3.channel.k8s.io']) {
        const failing = await stdio(await exec('exit', '3'), protocol);
        assert.strictEqual(await failing.error.all(), 'command terminated with non-zero exit code: exit status 3');
        const fine = await stdio(await exec('exit', '0'), protocol);
        assert.strictEqual(await fine.error.all(), '');
      }
    });

    it('delivers every byte of stdin before its end (containerd#13934)', async () => {
      const { stdin, stdout, client } = await stdio(await exec('sum'));
      const hash = createHash('sha256');
      for (let i = 0; i < 40; i++) {
        const part = Buffer.alloc(50_000 + i, i);
        hash.update(part);
        await stdin.write(part);
      }
      stdin.end();
      assert.strictEqual(await stdout.all(), hash.digest('hex'));
      await client.closed;
      assert.isTrue(
        client.seen.some((frame) => frame === `9:${stdin.id}`),
        'the window of the stream is opened',
      );
      assert.include(client.seen, '9:0', 'the window of the session is opened');
    });

    it('holds a process back whose client does not read, and kills it when the client leaves', async () => {
      const { client, stdout } = await stdio(await exec('yes'));
      await until(() => stdout.bytes > 1_000_000, 'output');
      client.pause();
      let before = -1;
      await until(() => {
        const still = ground.pod.wrote === before;
        before = ground.pod.wrote;
        return still;
      }, 'the process to be held');
      for (let turn = 0; turn < 50; turn++) await new Promise((resolve) => setImmediate(resolve));
      assert.isBelow(ground.pod.wrote - stdout.bytes, 32 * 1024 * 1024, 'no more is on its way than the kernel holds');
      client.close();
      await until(() => ground.pod.running.size === 0, 'the process to be killed');
    });

    it('answers pings while the process does nothing', async () => {
      const { client } = await stdio(await exec('sleep'));
      for (let i = 0; i < 3; i++) await client.ping();
      client.close();
      await until(() => ground.pod.running.size === 0, 'the end');
    });

    it('sets terminal sizes, of a flood only the last', async () => {
      const client = await spdy(
        await ground.server.urlForExec({ ...STREAMS, stderr: false, tty: true, cmd: ['sizes'] }),
      );
      const [error, stdin, , resize] = [
        await client.open({ streamType: 'error' }),
        await client.open({ streamType: 'stdin' }),
        await client.open({ streamType: 'stdout' }),
        await client.open({ streamType: 'resize' }),
      ];
      for (const size of [
        '{"Width":80,"Height":24}\n',
        'nonsense}',
        '{"Width":-1,"Height":1}',
        '{"Width":70000,"Height":1}',
        'x'.repeat(5_000),
      ])
        await resize.write(size);
      await until(() => ground.pod.sizes.length > 0, 'the first size');
      await resize.write('}');
      await resize.write(Array.from({ length: 3_000 }, (_, i) => `{"Width":${i + 1},"Height":9}`).join(''));
      await until(() => ground.pod.sizes.at(-1)?.width === 3_000, 'the last size');
      assert.deepEqual(ground.pod.sizes[0], { width: 80, height: 24 });
      assert.isBelow(ground.pod.sizes.length, 50);
      stdin.end();
      assert.include(await error.all(), 'Success');
    });

    it('refuses streams that were not asked for', async () => {
      const client = await spdy(
        await ground.server.urlForExec({ ...STREAMS, stdin: false, stderr: false, cmd: ['exit', '0'] }),
      );
      assert.strictEqual(await (await client.open({ streamType: 'stdin' })).ended, 'reset');
      assert.strictEqual(await (await client.open({ streamType: 'whatever' })).ended, 'reset');
      const error = await client.open({ streamType: 'error' });
      assert.strictEqual(await (await client.open({ streamType: 'error' })).ended, 'reset');
      await client.open({ streamType: 'stdout' });
      assert.include(await error.all(), 'Success');
    });

    it('writes one audit line: who, where, what by hash, and how it ended', async () => {
      const { stdin, client } = await stdio(await exec('cat', 'secret'));
      await stdin.write('12345');
      stdin.end();
      await client.closed;
      const line = ground.log.lines.find(({ message }) => message === 'exec ended');
      assert.match(String(line?.fields['peer']), /^127\.0\.0\.1:\d+$/);
      const { container, argvHash, exit, inBytes, outBytes } = line?.fields ?? {};
      assert.deepEqual(
        { container, argvHash, exit, inBytes, outBytes },
        {
          container: CONTAINER,
          argvHash: createHash('sha256').update('cat\0secret').digest('hex').slice(0, 16),
          exit: 0,
          inBytes: 5,
          outBytes: 5,
        },
      );
      assert.notInclude(JSON.stringify(ground.log.lines), 'secret');
    });
  });
});

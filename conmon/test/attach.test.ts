/**
 * Who attaches to the monitor, and who tells it something by its FIFOs. Cases with a real
 * runtime, a mount or a journal need root.
 */
import { existsSync, mkdirSync, readdirSync, readlinkSync, renameSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import { contentOf, readIf, tool, until } from './harness.ts';
import { fdCount, rssKb, ctl, untilFile, go, socketCount, describeMonitors } from './ground.ts';

describeMonitors(({ check }) => {
  describe('attach', () => {
    const echo = 'while read l; do echo "got $l"; done; echo eof';

    check('sends output with its stream to every client, and takes input from any', async (c) => {
      await c.start({ program: `${echo}; echo bad >&2; exit 3`, args: ['-i'] }).created();
      const conmon = await c.pidIn('conmon.pid');
      const before = socketCount(conmon);
      const clients = [c.attach(), c.attach(), c.attach()];
      await until('all are attached', () => socketCount(conmon) === before + 3);
      clients[0]!.write('a\n');
      await until('all hear', () => clients.every((x) => x.received(2) === 'got a\n'));
      clients[2]!.write('b\n');
      await until('all hear', () => clients.every((x) => x.received(2) === 'got a\ngot b\n'));
      clients[1]!.end();
      assert.equal(await c.exit(), '3');
      for (const client of clients) {
        await client.ended;
        assert.equal(client.received(2), 'got a\ngot b\neof\n');
        assert.equal(client.received(3), 'bad\n');
        assert.isAtMost(Math.max(...client.messages.map((m) => m.length)), 8193);
      }
    });

    check('keeps stdin open with --leave-stdin-open', async (c) => {
      await c.start({ program: echo, args: ['-i', '--leave-stdin-open'] }).created();
      const first = c.attach();
      first.write('one\n');
      await until('an answer', () => first.received(2) === 'got one\n');
      first.process.kill('SIGKILL');
      await first.ended;
      const second = c.attach();
      second.write('two\n');
      await until('an answer', () => second.received(2) === 'got two\n');
      assert.isUndefined(readIf(c.path('exits', c.id)));
    });

    check('closes stdin when a client vanishes', async (c) => {
      await c.start({ program: echo, args: ['-i'] }).created();
      const client = c.attach();
      client.write('one\n');
      await until('an answer', () => client.received(2) === 'got one\n');
      client.process.kill('SIGKILL');
      assert.equal(await c.exit(), '0');
      assert.include(contentOf(c.lines(), 'stdout'), 'eof');
    });

    check('passes all input on before the end of it', async (c) => {
      await c.start({ program: 'sleep 0.3; wc -c', args: ['-i'] }).created();
      const client = c.attach();
      client.write('x'.repeat(1_000_000));
      client.end();
      await c.exit(20_000);
      assert.equal(contentOf(c.lines(), 'stdout').trim(), '1000000');
    });

    check('passes on what a client sent that has left', async (c) => {
      await c.start({ program: `${untilFile(c)}; wc -c`, args: ['-i'] }).created();
      // More than the pipe and the monitor hold: most of it waits in the socket when the client goes.
      assert.equal(await c.help(tool, ['leave', join(c.bundle, 'attach'), '150000']).ended, 0);
      go(c);
      await c.exit();
      assert.equal(contentOf(c.lines(), 'stdout').trim(), '150000');
    });

    check('says why the runtime failed though a client has come and gone', async (c) => {
      const run = c.start({ program: '', env: { RUNTIME_PRELUDE: `${untilFile(c)}; exit 3` } });
      await until('the socket is there', () => existsSync(join(c.bundle, 'attach')));
      assert.equal(await c.help(tool, ['cycles', join(c.bundle, 'attach'), '5']).ended, 0);
      const conmon = await c.pidIn('conmon.pid');
      await until('all are closed', () => socketCount(conmon) <= 3);
      go(c);
      assert.match(String((await run.report())['message']), /runtime create .* 3$/);
      await c.gone();
    });

    check('survives input to a container that has closed its stdin, or never had one', async (c) => {
      for (const args of [['-i'], []]) {
        rmSync(c.path('go'), { force: true });
        await c.start({ program: `exec <&-; ${untilFile(c)}; echo out`, args }).created();
        const conmon = await c.pidIn('conmon.pid');
        const before = socketCount(conmon);
        const client = c.attach();
        client.write('x'.repeat(300_000));
        client.end();
        await until('it is attached', () => socketCount(conmon) > before);
        go(c);
        assert.equal(await c.exit(), '0');
        await client.ended;
        assert.equal(client.received(2), 'out\n');
        await c.gone();
        rmSync(c.path('exits', c.id));
      }
    });

    check('gives a slow client all of the output', async (c) => {
      await c.start({ program: `${untilFile(c)}; seq 1 300000` }).created();
      const conmon = await c.pidIn('conmon.pid');
      const before = socketCount(conmon);
      const client = c.attach();
      client.process.stdout!.pause();
      await until('it is attached', () => socketCount(conmon) === before + 1);
      go(c);
      await new Promise((done) => setTimeout(done, 300));
      client.process.stdout!.resume();
      await c.exit(20_000);
      await client.ended;
      assert.equal(client.received(2), Array.from({ length: 300_000 }, (_, i) => `${i + 1}\n`).join(''));
    });

    check('is not blocked by a client that never reads', async (c) => {
      await c.start({ program: `${untilFile(c)}; seq 1 300000; exit 3` }).created();
      const conmon = await c.pidIn('conmon.pid');
      const before = socketCount(conmon);
      c.attach('deaf');
      const reader = c.attach();
      await until('both are attached', () => socketCount(conmon) === before + 2);
      go(c);
      assert.equal(await c.exit(20_000), '3');
      const expected = Array.from({ length: 300_000 }, (_, i) => `${i + 1}\n`).join('');
      assert.isTrue(contentOf(c.lines(), 'stdout') === expected);
      await reader.ended;
      assert.isTrue(reader.received(2) === expected, 'the client that does read has it all');
    });

    check('leaks nothing over 10 000 rapid attaches', async (c) => {
      await c.start({ program: untilFile(c), args: ['-i', '--leave-stdin-open'] }).created();
      const conmon = await c.pidIn('conmon.pid');
      const attachPath = join(c.bundle, 'attach');
      // Sockets, since right after the create the monitor may still be opening other things.
      const sockets = socketCount(conmon);
      await c.help(tool, ['cycles', attachPath, '500']).ended;
      await until('settled', () => socketCount(conmon) <= sockets);
      const [fds, rss] = [fdCount(conmon), rssKb(conmon)];
      assert.equal(await c.help(tool, ['cycles', attachPath, '10000']).ended, 0);
      await until('all are closed', () => fdCount(conmon) <= fds);
      assert.isAtMost(rssKb(conmon), rss + 64);
      go(c);
      assert.equal(await c.exit(), '0');
    });

    check('turns away more clients than it can hold, and keeps those it has', async (c) => {
      await c.start({ program: `${untilFile(c)}; echo hello` }).created();
      const clients = Array.from({ length: 140 }, () => c.attach());
      await until(
        'twelve are turned away',
        () => clients.filter((x) => x.process.exitCode !== null).length === 12,
        20_000,
      );
      go(c);
      await c.exit();
      await Promise.all(clients.map((x) => x.ended));
      assert.equal(clients.filter((x) => x.received(2) === 'hello\n').length, 128);
    });

    check('links the bundle into the socket directory, however long the path, and cleans up', async (c) => {
      for (const length of [20, 80, 107 - c.id.length - c.path().length - 2, 200]) {
        const dir = c.path('d'.repeat(Math.max(1, length)));
        mkdirSync(dir);
        rmSync(c.path('go'), { force: true });
        await c.start({ program: untilFile(c), args: ['--socket-dir-path', dir] }).created();
        assert.equal(readlinkSync(join(dir, readdirSync(dir)[0]!)), c.bundle);
        const client = c.attach();
        go(c);
        await c.exit();
        await client.ended;
        await c.gone();
        assert.deepEqual(readdirSync(dir), []);
        rmSync(c.path('exits', c.id));
      }
    });

    check('makes no link with --full-attach', async (c) => {
      await c.start({ program: untilFile(c), args: ['--full-attach', '--socket-dir-path', c.path('none')] }).created();
      assert.equal(statSync(join(c.bundle, 'attach')).mode & 0o777, 0o700);
      go(c);
      await c.exit();
    });
  });

  describe('control', () => {
    check('survives garbage and obeys the next line', async (c) => {
      await c.start({ program: `echo one; ${untilFile(c)}; echo two`, args: ['--log-level', 'debug'] }).created();
      await until('the first line', () => readIf(c.log)?.includes('one'));
      for (const junk of [
        '-1 -1 -1\n',
        '1 -5 80\n',
        '99999999999 1 1\n',
        '1 99999999999999999999 1\n',
        '0x2 0 0\n',
        '2.0 0 0\n',
        '1e3 0 0\n',
        'x\n',
        '\n',
        '\0\0\0\n',
        '3 0 0\n',
        '1 2\n',
        '%s%n %s %s\n',
        `${' '.repeat(150)}\n`,
      ])
        await ctl(c, junk);
      const conmon = await c.pidIn('conmon.pid');
      const rss = rssKb(conmon);
      await ctl(c, 'y'.repeat(1 << 20));
      await ctl(c, '\n');
      await ctl(c, 'junk\n-1 5\n', 'winsz');
      renameSync(c.log, `${c.log}.old`);
      await ctl(c, '2 0 0\n');
      await until('the log is reopened', () => existsSync(c.log));
      assert.isAtMost(rssKb(conmon), rss + 64);
      go(c);
      assert.equal(await c.exit(), '0');
      assert.equal(contentOf(c.lines(), 'stdout'), 'two\n');
    });

    check('takes a line with more than three numbers for the first three', async (c) => {
      await c.start({ program: `echo one; ${untilFile(c)}; echo two` }).created();
      await until('the first line', () => readIf(c.log)?.includes('one'));
      for (const line of ['2 0 0 7\n', '2 0 0 and more\n']) {
        rmSync(`${c.log}.old`, { force: true });
        renameSync(c.log, `${c.log}.old`);
        await ctl(c, line);
        await until('the log is reopened', () => existsSync(c.log));
      }
      go(c);
      await c.exit();
      assert.equal(contentOf(c.lines(), 'stdout'), 'two\n');
    });

    check('takes lines that come in pieces', async (c) => {
      await c.start({ program: `echo one; ${untilFile(c)}; echo two` }).created();
      await until('the first line', () => readIf(c.log)?.includes('one'));
      renameSync(c.log, `${c.log}.old`);
      for (const piece of ['2', ' 0', ' 0\n']) await ctl(c, piece);
      await until('the log is reopened', () => existsSync(c.log));
    });
  });
});

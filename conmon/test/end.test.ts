/**
 * How the monitor ends, execs, notifies, and does all of it with real runtimes. Cases with a real
 * runtime, a mount or a journal need root.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  mkdirSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
  writeSync,
} from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import { Case, contentOf, isAlive, readIf, realBundle, realRuntimes, runCommand, tool, until } from './harness.ts';
import { ctl, untilFile, go, OWN_SYSLOG, socketCount, holds, describeMonitors } from './ground.ts';

/** Mounts a small file system on `directory`, and gives `body` a way to use it up. */
async function onFullFileSystem(directory: string, body: (fill: () => void) => Promise<void>): Promise<void> {
  assert.equal((await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', directory])).status, 0);
  try {
    await body(() => {
      const filler = openSync(join(directory, 'filler'), 'w');
      try {
        for (;;) writeSync(filler, Buffer.alloc(4096));
      } catch (error) {
        assert.include(String(error), 'ENOSPC');
      } finally {
        closeSync(filler);
      }
    });
  } finally {
    await runCommand('umount', ['-l', directory]);
  }
}

describeMonitors(({ check }) => {
  describe('the end', () => {
    check('runs the exit command with its arguments after the exit file, and waits for it', async (c) => {
      const script = c.path('cleanup');
      writeFileSync(
        script,
        `#!/bin/sh\n{ printf '%s,' "$@"; cat ${c.path('exits', c.id)}; ls /proc/$$/fd; } > ` +
          `${c.path('ran')}.tmp\nmv ${c.path('ran')}.tmp ${c.path('ran')}\nexit 9\n`,
      );
      chmodSync(script, 0o755);
      const run = c.start({
        program: 'exit 5',
        args: ['--sync', '--exit-command', script, '--exit-command-arg', 'a b', '--exit-command-arg', '--c'],
      });
      assert.equal(await run.started, 9, 'its status is ours');
      const [first, ...fds] = readFileSync(c.path('ran'), 'utf8').trim().split('\n');
      assert.equal(first, 'a b,--c,50');
      assert.notInclude(
        fds.filter((f) => Number(f) > 2 && f !== '10' && f !== '255'),
        '4',
      );
    });

    check('waits for --exit-delay before the exit command', async (c) => {
      const run = c.start({
        program: 'exit 0',
        args: ['--sync', '--exit-delay', '1', '--exit-command', '/bin/touch', '--exit-command-arg', c.path('ran')],
      });
      await c.exit();
      assert.isFalse(existsSync(c.path('ran')));
      await run.started;
      assert.isAbove(statSync(c.path('ran')).mtimeMs - statSync(c.path('exits', c.id)).mtimeMs, 900);
    });

    check('runs the exit command after a failed create', async (c) => {
      c.start({
        program: '',
        env: { RUNTIME_PRELUDE: 'exit 1' },
        args: ['--exit-command', '/bin/touch', '--exit-command-arg', c.path('ran')],
      });
      await until('it ran', () => existsSync(c.path('ran')));
    });

    check('does not wait for what the container left behind', async (c) => {
      const run = c.start({ program: 'sleep 1000 & exit 0', args: ['--sync', '--exit-command', '/bin/true'] });
      assert.equal(await run.started, 0);
    });

    check('reports a container it lost as 255 or as it was, never as success', async (c) => {
      const stranger = spawn('sleep', ['1000']);
      const run = c.start({ program: '', env: { RUNTIME_ADOPT: String(stranger.pid) } });
      assert.equal(await run.created(), stranger.pid);
      stranger.kill('SIGKILL');
      const status = await c.exit();
      assert.include(['137', '255'], status);
      await c.gone();
    });

    check('reports a container that was gone before it could look as 255, never as success', async (c) => {
      const stranger = spawn('true');
      await new Promise((done) => stranger.once('exit', done));
      c.start({ program: '', env: { RUNTIME_ADOPT: String(stranger.pid) } });
      assert.equal(await c.exit(), '255');
      await c.gone();
    });

    check('kills the container after --timeout', async (c) => {
      const start = Date.now();
      const run = c.start({ program: 'trap "" TERM; sleep 1000; sleep 1000', args: ['-T', '1'] });
      const pid = await run.created();
      assert.equal(await c.exit(), '-1');
      assert.isBelow(Date.now() - start, 5000);
      assert.isFalse(isAlive(pid));
    });

    check('does not let --timeout change the status of a container that was in time', async (c) => {
      c.start({ program: 'exit 3', args: ['-T', '1'] });
      assert.equal(await c.exit(), '3');
    });

    check('passes signals on to the container', async (c) => {
      const run = c.start({ program: `trap "exit 33" TERM; touch ${c.path('ready')}; while :; do sleep 0.02; done` });
      await run.created();
      await until('the trap is set', () => existsSync(c.path('ready')));
      process.kill(await c.pidIn('conmon.pid'), 'SIGTERM');
      assert.equal(await c.exit(), '33');
    });

    check('lets go of what it was given to hold before it announces the exit', async (c) => {
      const held = openSync(c.path('held'), 'w+');
      const run = c.start({
        program: untilFile(c),
        extraFds: [held],
        args: ['--exit-command', '/bin/sleep', '--exit-command-arg', '1000'],
      });
      await run.created();
      closeSync(held);
      const conmon = await c.pidIn('conmon.pid');
      assert.isTrue(holds(conmon, c.path('held')), 'held while the container lives');
      go(c);
      await c.exit();
      assert.isFalse(holds(conmon, c.path('held')));
    });

    check('writes the exit file by rename, so that no reader sees half of it', async (c) => {
      linkSync(join(import.meta.dirname, 'runtime.sh'), c.path('x'));
      rmSync(c.path('x'));
      writeFileSync(c.path('exits', c.id), 'an old and much longer exit file');
      c.start({ program: 'exit 12' });
      assert.match(
        await until('replaced', () => {
          const t = readIf(c.path('exits', c.id));
          return t?.startsWith('an') ? undefined : t;
        }),
        /^12$/,
      );
    });

    check('loses no exit code on a file system that has become full', async (c) => {
      const exits = c.path('exits');
      await onFullFileSystem(exits, async (fill) => {
        await c.start({ program: `${untilFile(c)}; exit 7` }).created();
        assert.isFalse(existsSync(c.path('exits', c.id)), 'the name that is watched appears at the end only');
        fill();
        go(c);
        assert.equal(await c.exit(), '7');
        await c.gone();
        assert.sameMembers(readdirSync(exits), [c.id, 'filler'], 'nothing else stays');
      });
    });

    check('refuses to begin where its exit could not be told: the file system is full already', async (c) => {
      const exits = c.path('exits');
      await onFullFileSystem(exits, async (fill) => {
        fill();
        const { pid, message } = await c.start({ program: 'exit 7' }).report();
        assert.equal(pid, -1);
        assert.match(String(message), /cannot reserve the exit file .*: No space left on device$/);
        await c.gone();
        assert.deepEqual(readdirSync(exits), ['filler']);
      });
    });

    check('keeps no place for an exit file when there was nothing to end', async (c) => {
      const run = c.start({ program: '', env: { RUNTIME_PRELUDE: 'exit 1' } });
      assert.equal((await run.report())['pid'], -1);
      await c.gone();
      assert.deepEqual([...readdirSync(c.path('exits')), ...readdirSync(c.path('persist'))], []);
    });

    check('tells its exit also when what it had reserved is gone', async (c) => {
      await c.start({ program: `${untilFile(c)}; exit 7` }).created();
      for (const directory of ['exits', 'persist']) {
        rmSync(c.path(directory), { recursive: true });
        mkdirSync(c.path(directory));
      }
      go(c);
      assert.equal(await c.exit(), '7');
      assert.equal(readIf(c.path('persist/exit')), '7');
      assert.deepEqual(readdirSync(c.path('exits')), [c.id]);
    });

    check('still writes the other exit file when one cannot be written', async (c) => {
      rmSync(c.path('persist'), { recursive: true });
      c.start({ program: 'exit 12' });
      assert.equal(await c.exit(), '12');
    });

    check('tells syslog when an exit file cannot be written: nobody else listens by then', async (c) => {
      const syslog = c.help(tool, ['dgram', c.path('syslog')]);
      await until('syslog listens', () => syslog.messages.length > 0);
      rmSync(c.path('persist'), { recursive: true });
      mkdirSync(c.path('dev'));
      c.start({
        program: 'exit 12',
        args: ['--syslog'],
        under: ['unshare', '-m', '/bin/sh', '-c', OWN_SYSLOG, 'sh', c.path('dev'), c.path('syslog')],
      });
      assert.equal(await c.exit(), '12');
      await until('the message', () =>
        syslog.messages.some((each) => each.includes('exit') && each.includes(c.path('persist'))),
      );
    });
  });

  describe('exec', () => {
    check('reports the exit code alone in the old protocol', async (c) => {
      const run = c.start({ mode: 'exec', program: 'echo x; exit 8', args: ['--sync'] });
      assert.equal(await run.started, 8);
      assert.deepEqual(run.reports, [{ exit_code: 8 }]);
      assert.equal(contentOf(c.lines(), 'stdout'), 'x\n');
    });

    check('reports pid and exit code with --api-version', async (c) => {
      const run = c.start({ mode: 'exec', program: 'exit 8', args: ['--api-version'] });
      assert.isAbove(Number((await run.report(0))['data']), 0);
      assert.deepEqual(await run.report(1), { data: 8 });
    });

    check('gives the runtime the command line of exec', async (c) => {
      c.start({
        mode: 'exec',
        program: 'exit 0',
        env: { RUNTIME_TRACE: c.path('trace') },
        args: ['-s', '--runtime-opt', '--preserve-fds', '--runtime-opt', '0'],
      });
      await c.exit();
      assert.deepEqual(readFileSync(c.path('trace'), 'utf8').trim().split('\n'), [
        'exec',
        '--pid-file',
        c.path('pidfile'),
        '--process',
        join(c.bundle, 'program'),
        '--detach',
        '--preserve-fds',
        '0',
        c.id,
      ]);
    });

    check('passes on why an exec failed', async (c) => {
      const run = c.start({
        mode: 'exec',
        program: '',
        args: ['--api-version'],
        env: { RUNTIME_PRELUDE: 'echo no such command >&2; exit 255' },
      });
      const report = await run.report();
      assert.equal(report['data'], -1);
      assert.include(String(report['message']), 'no such command');
      await c.gone();
    });

    check('reports a timeout', async (c) => {
      const run = c.start({ mode: 'exec', program: 'sleep 1000', args: ['--sync', '-T', '1'] });
      await run.started;
      assert.deepEqual(await run.report(), { exit_code: -1, message: 'command timed out' });
    });

    check('holds the command back until the caller is attached with --exec-attach', async (c) => {
      const run = c.start({
        mode: 'exec',
        program: 'read l; echo "got $l"; exit 4',
        args: ['--api-version', '--exec-attach', '-i'],
      });
      await until('the attach pipe says the socket is there', () => run.attachPipe !== '');
      assert.deepEqual(JSON.parse(run.attachPipe), { data: 0 });
      const client = await c.attach().connected();
      client.write('me\n');
      assert.equal(run.reports.length, 0);
      run.release();
      assert.deepEqual(await run.report(1), { data: 4 });
      await client.ended;
      assert.equal(client.received(2), 'got me\n');
    });

    check('is not held back by a process the command left in the background', async (c) => {
      const run = c.start({ mode: 'exec', program: 'sleep 1000 & echo said; exit 0', args: ['--sync'] });
      assert.equal(await run.started, 0);
      assert.deepEqual(await run.report(), { exit_code: 0 });
      assert.equal(contentOf(c.lines(), 'stdout'), 'said\n');
    });
  });

  describe('sd-notify', () => {
    check('relays what a service may say, and no more', async (c) => {
      const host = c.help(tool, ['dgram', c.path('host.sock')]);
      await until('the host listens', () => host.messages.length > 0);
      mkdirSync(join(c.bundle, 'notify'));
      await c.start({ program: untilFile(c), args: ['--sdnotify-socket', c.path('host.sock')] }).created();
      const sender = c.help(tool, ['send', join(c.bundle, 'notify/notify.sock')]);
      sender.write('READY=1\nMAINPID=1\nFDSTORE=1\nSTATUS=fine\nREADY=12\nWATCHDOG=1\n');
      sender.end();
      await until('the message', () => host.messages.length > 1);
      assert.equal(host.messages[1]!.toString(), 'READY=1\nSTATUS=fine\nWATCHDOG=1');
    });
  });

  describe('with a real runtime', () => {
    for (const runtime of realRuntimes) {
      const name = runtime.split('/').at(-1)!;
      const real = (c: Case): readonly string[] => ['--runtime-arg', `--root=${c.path('state')}`];
      const command = async (c: Case, ...args: string[]): Promise<void> => {
        const { status, output } = await runCommand(runtime, ['--root', c.path('state'), ...args]);
        assert.equal(status, 0, output);
      };
      const remove = (c: Case) => runCommand(runtime, ['--root', c.path('state'), 'delete', '-f', c.id]);

      check(`runs a container (${name})`, async (c) => {
        realBundle(c, 'echo out; echo err >&2; exit 7');
        await c.start({ runtime, args: real(c) }).created();
        await command(c, 'start', c.id);
        assert.equal(await c.exit(), '7');
        assert.equal(contentOf(c.lines(), 'stdout'), 'out\n');
        assert.equal(contentOf(c.lines(), 'stderr'), 'err\n');
        await remove(c);
      });

      check(`passes on why a container cannot be created (${name})`, async (c) => {
        realBundle(c, '');
        rmSync(join(c.bundle, 'rootfs'), { recursive: true });
        const { pid, message } = await c.start({ runtime, args: real(c) }).report();
        assert.equal(pid, -1);
        assert.include(String(message), 'rootfs');
        await remove(c);
      });

      check(`gives it a terminal, resizes it, and attaches (${name})`, async (c) => {
        realBundle(c, 'busybox stty size; read l; echo "got $l"; read l; busybox stty size; exit 3', {
          terminal: true,
        });
        await c.start({ runtime, args: [...real(c), '-t'] }).created();
        await ctl(c, '1 24 80\n');
        const conmon = await c.pidIn('conmon.pid');
        const before = socketCount(conmon);
        const client = c.attach();
        await until('attached', () => socketCount(conmon) === before + 1);
        await command(c, 'start', c.id);
        await until('the size', () => readIf(c.log)?.includes('24 80\r'));
        client.write('hello\n');
        await until('an answer', () => client.received(2).includes('got hello\r\n'));
        await ctl(c, '1 50 1320 7\n');
        await new Promise((done) => setTimeout(done, 50));
        client.write('\n');
        assert.equal(await c.exit(), '3');
        await client.ended;
        assert.include(client.received(2), '50 1320\r\n');
        assert.include(contentOf(c.lines(), 'stdout'), '50 1320\r\n');
        await remove(c);
      });

      check(`has all a terminal was sent before it announces the exit (${name})`, async (c) => {
        realBundle(c, 'busybox seq 1 3000', { terminal: true });
        await c.start({ runtime, args: [...real(c), '-t'] }).created();
        await command(c, 'start', c.id);
        await c.exit();
        assert.include(contentOf(c.lines(), 'stdout'), '2999\r\n3000\r\n');
        await remove(c);
      });

      check(`notices the OOM killer (${name})`, async (c) => {
        realBundle(c, '/bin/tool eat 200000000; echo "ate $?"; exit 0', { memory: 32 << 20 });
        await c.start({ runtime, args: real(c) }).created();
        await command(c, 'start', c.id);
        await c.exit(20_000);
        assert.include(contentOf(c.lines(), 'stdout'), 'ate 137');
        assert.isTrue(existsSync(join(c.bundle, 'oom')));
        assert.isTrue(existsSync(c.path('persist/oom')));
        await remove(c);
      });

      check(`does not cry OOM without one (${name})`, async (c) => {
        realBundle(c, 'kill -9 $$', { memory: 32 << 20 });
        await c.start({ runtime, args: real(c) }).created();
        await command(c, 'start', c.id);
        await c.exit();
        await c.gone();
        assert.isFalse(existsSync(join(c.bundle, 'oom')));
        await remove(c);
      });

      check(`runs a command in a container (${name})`, async (c) => {
        realBundle(c, 'sleep 1000');
        await c.start({ runtime, args: real(c) }).created();
        await command(c, 'start', c.id);
        const other = new Case(c.subject);
        try {
          for (const [terminal, args, expected] of [
            [false, [], 'in\n'],
            [true, ['-t'], 'in\r\n'],
          ] as const) {
            writeFileSync(
              other.path('spec'),
              JSON.stringify({
                terminal,
                user: { uid: 0, gid: 0 },
                cwd: '/',
                env: ['PATH=/bin'],
                args: ['/bin/busybox', 'sh', '-c', 'echo in; exit 6'],
              }),
            );
            rmSync(other.log, { force: true });
            const run = other.startRaw([
              '-c',
              c.id,
              '-n',
              'name',
              '-r',
              runtime,
              '-p',
              other.path('pidfile'),
              '-e',
              '-l',
              other.log,
              '--sync',
              '--exec-process-spec',
              other.path('spec'),
              '--runtime-arg',
              `--root=${c.path('state')}`,
              ...args,
            ]);
            assert.equal(await run.started, 6);
            assert.deepEqual(run.reports, [{ exit_code: 6 }]);
            assert.equal(contentOf(other.lines(), 'stdout'), expected);
          }
        } finally {
          await other.close();
          await remove(c);
        }
      });
    }
  });
});

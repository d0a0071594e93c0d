/**
 * The monitor's command line, and how it creates a container. Cases with a real
 * runtime, a mount or a journal need root.
 */
import { spawn } from 'node:child_process';
import { readFileSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import { contentOf, isAlive, readIf, runCommand, until } from './harness.ts';
import { untilFile, go, describeMonitors } from './ground.ts';

describeMonitors(({ check, ours }) => {
  describe('command line', () => {
    check('prints a version that callers can parse', async (c) => {
      const { status, output } = await runCommand(c.subject.path, ['--version']);
      assert.equal(status, 0);
      assert.match(output, /^conmon version \d+\.\d+\.\d+\n/);
    });

    check('refuses an unknown option by name', async (c) => {
      for (const [option, name] of [
        ['--no-such', 'no-such'],
        ['--bundl', 'bundl'],
        ['-Z', 'Z'],
      ] as const) {
        const { status, output } = await runCommand(c.subject.path, ['-c', c.id, option]);
        assert.equal(status, 1, option);
        assert.include(output, name);
      }
    });

    check('refuses an option without its value', async (c) => {
      const { status, output } = await runCommand(c.subject.path, ['--cid']);
      assert.equal(status, 1);
      assert.include(output, 'cid');
    });

    check('refuses numbers that are none', async (c) => {
      for (const value of ['x', '', '1x', '99999999999999999999']) {
        const { status } = await runCommand(c.subject.path, ['-c', c.id, '--timeout', value]);
        assert.equal(status, 1, value);
      }
    });

    check('refuses what it does not implement by name', async (c) => {
      const { status, output } = await runCommand(c.subject.path, ['-c', c.id, '--seccomp-notify-socket', '/x']);
      assert.equal(status, 1);
      assert.include(output, 'seccomp-notify-socket');
    });

    check('says what is missing', async (c) => {
      const base = ['-r', '/bin/true', '-l', 'none'];
      for (const [args, word] of [
        [base, '--cid'],
        [['-c', c.id, ...base], '--cuuid'],
        [['-c', c.id, '-u', c.id, '-l', 'none'], '--runtime'],
        [['-c', c.id, '-u', c.id, '-r', '/bin/true'], '--log-path'],
        [['-c', c.id, '-u', c.id, '-r', c.path('none'), '-l', 'none'], 'not valid'],
        [['-c', c.id, '-u', c.id, ...base, '-e'], '--exec-process-spec'],
        [['-c', c.id, '-u', c.id, ...base, '--log-level', 'loud'], 'loud'],
      ] as const) {
        const { status, output } = await runCommand(c.subject.path, args);
        assert.equal(status, 1, args.join(' '));
        assert.include(output, word);
      }
    });

    check('tells the sync pipe about a wrong command line', async (c) => {
      const run = c.startRaw(['-c', c.id, '-u', c.id, '-r', '/bin/true', '-l', 'nosuchdriver:']);
      const { pid, message } = await run.report();
      assert.equal(pid, -1);
      assert.include(String(message), 'nosuchdriver');
      assert.equal(await run.started, 1);
    });

    check('refuses an id that is no file name', async (c) => {
      for (const id of ['a/b', '../x', '..', '.', '', 'x'.repeat(256)]) {
        const run = c.startRaw(['-c', id, '-u', id, '-r', '/bin/true', '-l', 'none', '--exit-dir', c.path('exits')]);
        assert.equal(await run.started, 1, id);
        assert.equal((await run.report())['pid'], -1);
      }
      assert.deepEqual(readdirSync(c.path('exits')), []);
      assert.deepEqual(readdirSync(c.dir).sort(), ['bundle', 'exits', 'persist', 'sock', 'tmp']);
    });

    check(
      'takes values after = and flags in clusters, and passes over the value podman gives --api-version',
      async (c) => {
        writeFileSync(join(c.bundle, 'program'), 'exit 3');
        const run = c.startRaw([
          `--cid=${c.id}`,
          `--cuuid=${c.id}`,
          '--api-version',
          '1',
          `--runtime=${join(import.meta.dirname, 'runtime.sh')}`,
          '-ib',
          c.bundle,
          '-p',
          c.path('pidfile'),
          `--log-path=k8s-file:${c.log}`,
          `--exit-dir=${c.path('exits')}`,
          '--full-attach',
          '-P',
          c.path('conmon.pid'),
        ]);
        assert.isAbove(Number((await run.report())['data']), 0);
        assert.equal(await c.exit(), '3');
      },
    );
  });

  describe('create', () => {
    check('waits for the start byte, reports the pid, and writes every file', async (c) => {
      const run = c.start({ program: `${untilFile(c)}; exit 7`, holdStart: true });
      assert.isUndefined(await Promise.race([run.started, new Promise((r) => setTimeout(r, 100))]), 'must wait');
      run.release();
      const pid = await run.created();
      assert.equal(await run.started, 0);
      assert.equal(pid, await c.pidIn('pidfile'));
      const conmon = await c.pidIn('conmon.pid');
      assert.isTrue(isAlive(conmon));
      assert.equal(readIf(c.path('exits', c.id)), undefined);
      go(c);
      assert.equal(await c.exit(), '7');
      assert.equal(readIf(c.path('persist/exit')), '7');
      await c.gone();
      assert.deepEqual(readdirSync(c.path('exits')), [c.id]);
    });

    check('has the pid file written before anything is said', async (c) => {
      for (let i = 0; i < 10; i++) {
        rmSync(c.path('conmon.pid'), { force: true });
        const run = c.start({ program: 'exit 0' });
        await run.started;
        assert.match(readIf(c.path('conmon.pid')) ?? '', /^\d+$/);
        await run.created();
        await c.exit();
        await c.gone();
        rmSync(c.path('exits', c.id));
      }
    });

    check('reports a death by signal as 128 + signal', async (c) => {
      c.start({ program: 'kill -9 $$' });
      assert.equal(await c.exit(), '137');
    });

    check('stays the child of its caller with --sync and ends as the container did', async (c) => {
      const run = c.start({ program: 'exit 42', args: ['--sync'] });
      assert.equal(await run.started, 42);
      assert.equal(await c.exit(), '42');
    });

    check('gives the runtime the command line of create', async (c) => {
      c.start({
        program: 'exit 0',
        env: { RUNTIME_TRACE: c.path('trace') },
        args: [
          '-s',
          '--no-pivot',
          '--no-new-keyring',
          '--runtime-arg',
          '--root=/r',
          '--runtime-arg',
          '--debug',
          '--runtime-opt',
          '--opt',
        ],
      });
      await c.exit();
      assert.deepEqual(readFileSync(c.path('trace'), 'utf8').trim().split('\n'), [
        '--systemd-cgroup',
        '--root=/r',
        '--debug',
        'create',
        '--bundle',
        c.bundle,
        '--pid-file',
        c.path('pidfile'),
        '--no-pivot',
        '--no-new-keyring',
        '--opt',
        c.id,
      ]);
    });

    check('gives the runtime the command line of restore', async (c) => {
      c.start({
        program: 'exit 0',
        env: { RUNTIME_TRACE: c.path('trace') },
        args: ['--restore', '/ckpt', '--runtime-opt', '--tcp-established', '--restore-arg', '--x'],
      });
      await c.exit();
      assert.deepEqual(readFileSync(c.path('trace'), 'utf8').trim().split('\n'), [
        'restore',
        '--bundle',
        c.bundle,
        '--pid-file',
        c.path('pidfile'),
        '--detach',
        '--image-path',
        '/ckpt',
        '--work-path',
        c.bundle,
        '--tcp-established',
        '--x',
        c.id,
      ]);
    });

    check('passes on what the runtime says when it fails', async (c) => {
      const run = c.start({
        program: '',
        env: { RUNTIME_PRELUDE: 'printf "no \\"such\\" thing\\n\\tat all\\001" >&2; exit 3' },
      });
      const { pid, message } = await run.report();
      assert.equal(pid, -1);
      assert.match(String(message), /^no "such" thing\n\tat all\u0001/);
      await c.gone();
      assert.isUndefined(readIf(c.path('exits', c.id)));
    });

    check('says how a runtime died that said nothing', async (c) => {
      for (const [prelude, word] of [
        ['exit 3', '3'],
        ['kill -9 $$', '9'],
      ] as const) {
        const run = c.start({ program: '', env: { RUNTIME_PRELUDE: prelude } });
        const { pid, message } = await run.report();
        assert.equal(pid, -1);
        assert.include(String(message), word);
        await c.gone();
      }
    });

    check('refuses a runtime that succeeds without a pid', async (c) => {
      // Only to ours: what upstream would do to process -1, that is to everybody, is not for this machine to find
      // out.
      const minusOne = ours ? ['printf %s -1 > "$pidfile"; exit 0'] : [];
      for (const prelude of ['exit 0', 'printf garbage > "$pidfile"; exit 0', ': > "$pidfile"; exit 0', ...minusOne]) {
        const run = c.start({ program: '', env: { RUNTIME_PRELUDE: prelude } });
        const { pid, message } = await run.report();
        assert.equal(pid, -1, prelude);
        assert.include(String(message), 'pidfile');
        await c.gone();
      }
    });

    check('is not taken in by the pid file of an earlier run', async (c) => {
      const stranger = spawn('sleep', ['1000']);
      try {
        writeFileSync(c.path('pidfile'), String(stranger.pid));
        const run = c.start({ program: '', env: { RUNTIME_PRELUDE: 'exit 0' } });
        assert.equal((await run.report())['pid'], -1);
        await c.gone();
      } finally {
        stranger.kill('SIGKILL');
      }
    });

    check('takes 10 MB of error from a runtime without blocking', async (c) => {
      const run = c.start({ program: '', env: { RUNTIME_PRELUDE: 'seq 1 1500000 >&2; exit 1' } });
      const { pid, message } = await run.report(0, 20_000);
      assert.equal(pid, -1);
      assert.match(String(message), /^1\n2\n3\n/);
      assert.isBelow(JSON.stringify(run.reports[0]).length, 8192);
      await c.gone();
    });

    check('loses nothing of what a talkative runtime writes before it succeeds', async (c) => {
      c.start({ program: 'echo done', env: { RUNTIME_PRELUDE: 'seq 1 100000 >&2' } });
      await c.exit(20_000);
      const expected = Array.from({ length: 100_000 }, (_, i) => `${i + 1}\n`).join('');
      assert.isTrue(contentOf(c.lines(), 'stderr') === expected);
      assert.equal(contentOf(c.lines(), 'stdout'), 'done\n');
    });

    check('ends a runtime that hangs when told to end', async (c) => {
      const run = c.start({ program: '', env: { RUNTIME_PRELUDE: `echo $$ > ${c.path('rt')}; exec sleep 1000` } });
      const runtime = Number(await until('the runtime runs', () => readIf(c.path('rt')) || undefined));
      process.kill(await c.pidIn('conmon.pid'), 'SIGTERM');
      const { pid, message } = await run.report();
      assert.equal(pid, -1);
      assert.include(String(message), '15');
      await c.gone();
      assert.isFalse(isAlive(runtime));
    });

    check('takes its runtime with it when it is killed', async (c) => {
      c.start({ program: '', env: { RUNTIME_PRELUDE: `echo $$ > ${c.path('rt')}; exec sleep 1000` } });
      const runtime = Number(await until('the runtime runs', () => readIf(c.path('rt')) || undefined));
      process.kill(await c.pidIn('conmon.pid'), 'SIGKILL');
      await until('the runtime ends', () => !isAlive(runtime));
    });

    check('gives a container without -i an empty stdin, and none of its descriptors', async (c) => {
      c.start({ program: 'cat; for f in /proc/$$/fd/*; do readlink $f; done; echo end' });
      await c.exit();
      const text = contentOf(c.lines(), 'stdout');
      assert.notMatch(text, /socket:|eventpoll|signalfd|ctl|log/);
      assert.include(text, '/dev/null');
      assert.include(text, 'end');
    });

    check('gives the container no ignored or blocked signals', async (c) => {
      c.start({ program: 'grep -E "Sig(Blk|Ign)" /proc/self/status' });
      await c.exit();
      const text = contentOf(c.lines(), 'stdout');
      assert.match(text, /SigBlk:\t0+\n/);
      // A shell ignores SIGINT and SIGQUIT for what it runs in the background.
      assert.match(text, /SigIgn:\t0+[06]\n/);
    });

    check('reaps what the container orphans', async (c) => {
      const run = c.start({ program: `(sleep 0.01 & sleep 0.02 &) ; (true &); ${untilFile(c)}` });
      await run.created();
      const conmon = await c.pidIn('conmon.pid');
      const children = (): string[] => (readIf(`/proc/${conmon}/task/${conmon}/children`) ?? '').trim().split(' ');
      await until('only the container is left', () => children().length === 1);
      go(c);
      assert.equal(await c.exit(), '0');
    });

    check('sets LISTEN_PID to the runtime with --replace-listen-pid', async (c) => {
      c.start({
        program: '',
        args: ['--replace-listen-pid'],
        env: { LISTEN_PID: '1', RUNTIME_PRELUDE: `echo $LISTEN_PID $$ > ${c.path('lp')}; exit 1` },
      });
      const [listen, self] = (await until('written', () => readIf(c.path('lp')) || undefined)).trim().split(' ');
      assert.equal(listen, self);
      await c.gone();
    });
  });
});

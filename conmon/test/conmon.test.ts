/**
 * What a monitor promises, as podman, CRI-O and our own daemon rely on it. One suite, two monitors:
 * ours must pass every case, the distribution's (conmon 2.1.6) all but those listed in
 * upstream.ts, each with the reason. CONMON names another build of ours (the ASan one);
 * CONMON_SUBJECT=ours|upstream picks one; CONMON_KNOWN=1 shows that upstream fails what is listed.
 *
 * Cases with a real runtime, a mount or a journal need root.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  linkSync,
  lstatSync,
  mkdirSync,
  openSync,
  closeSync,
  readFileSync,
  readdirSync,
  readlinkSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import { assert } from 'chai';
import {
  Case,
  type Helper,
  contentOf,
  isAlive,
  parseLog,
  readIf,
  realBundle,
  realRuntimes,
  runCommand,
  subjects,
  tool,
  until,
} from './harness.ts';
import { upstreamFails, upstreamUnsteady } from './upstream.ts';

const longMs = 60_000;
const only = process.env['CONMON_SUBJECT'];
const proveKnown = process.env['CONMON_KNOWN'] === '1';

type Body = (c: Case) => Promise<void>;

function fdCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length;
}

function rssKb(pid: number): number {
  return Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]);
}

/** Writes to a FIFO of the monitor from another process, for a monitor may never read it. */
async function ctl(c: Case, text: string, fifo: 'ctl' | 'winsz' = 'ctl'): Promise<void> {
  const writer = c.help('sh', ['-c', 'exec cat > "$1"', '-', join(c.bundle, fifo)]);
  writer.write(text);
  writer.end();
  await until(`${fifo} takes ${text.length} bytes`, () => writer.process.exitCode !== null);
}

/** A container that goes on until its stdin, or a file, tells it to end. */
const untilFile = (c: Case): string => `while [ ! -e ${c.path('go')} ]; do sleep 0.02; done`;
const go = (c: Case): void => writeFileSync(c.path('go'), '');

/**
 * Executes what follows the first two arguments, with a /dev that is mounted on the first and has nothing but null and,
 * as log, the second.
 */
const OWN_SYSLOG =
  'set -e; mount -t tmpfs none "$1"; touch "$1/null" "$1/log"; mount --bind /dev/null ' +
  '"$1/null"; mount --bind "$2" "$1/log"; mount --rbind "$1" /dev; shift 2; exec "$@"';

for (const subject of subjects) {
  if (only !== undefined && only !== subject.name) continue;

  describe(`conmon (${subject.name})`, function () {
    this.timeout(longMs);
    const ours = subject.name === 'ours';

    function check(title: string, body: Body): void {
      const known = ours ? undefined : upstreamFails[title];
      const run = async (): Promise<void> => {
        const c = new Case(subject);
        let leaks: string[] = [];
        try {
          await body(c);
        } finally {
          leaks = await c.close();
        }
        assert.deepEqual(leaks, [], 'left behind');
      };
      if (known === undefined) {
        it(title, run);
      } else if (proveKnown && !upstreamUnsteady.has(title)) {
        it(`fails: ${title} (${known})`, async () => {
          const c = new Case(subject);
          let timer: NodeJS.Timeout | undefined;
          const late = new Promise<never>((_, no) => {
            timer = setTimeout(no, longMs - 20_000, new Error('too late'));
          });
          const failed = await Promise.race([body(c), late]).then(
            () => false,
            () => true,
          );
          clearTimeout(timer);
          await c.close();
          assert.isTrue(failed, 'upstream passes this case now: take it off the list');
        });
      }
    }

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
        for (const prelude of [
          'exit 0',
          'printf garbage > "$pidfile"; exit 0',
          ': > "$pidfile"; exit 0',
          ...minusOne,
        ]) {
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

    describe('k8s-file log', () => {
      check('writes whole lines, pieces and empty lines of both streams', async (c) => {
        c.start({ program: 'printf "a\\n\\nb"; printf "e\\n" >&2' });
        await c.exit();
        const lines = c.lines();
        assert.deepEqual(
          lines.filter((l) => l.stream === 'stdout').map((l) => [l.tag, l.text]),
          [
            ['F', 'a'],
            ['F', ''],
            ['P', 'b'],
          ],
        );
        assert.deepEqual(
          lines.filter((l) => l.stream === 'stderr').map((l) => [l.tag, l.text]),
          [['F', 'e']],
        );
      });

      check('stamps lines with the present time', async (c) => {
        const before = Date.now();
        c.start({ program: 'echo x' });
        await c.exit();
        const at = Date.parse(c.lines()[0]!.at.replace(/(\.\d{3})\d{6}/, '$1'));
        assert.isAtLeast(at, before - 1);
        assert.isAtMost(at, Date.now());
      });

      check('keeps every byte of binary output and long lines', async (c) => {
        const data = Buffer.alloc(100_000);
        for (let i = 0; i < data.length; i++) data[i] = (i * 7919 + (i >> 8)) & 0xff;
        writeFileSync(c.path('data'), data);
        c.start({ program: `cat ${c.path('data')}; head -c 50000 /dev/zero` });
        await c.exit();
        const expected = Buffer.concat([data, Buffer.alloc(50_000)]).toString('latin1');
        assert.isTrue(contentOf(c.lines(), 'stdout') === expected);
        assert.isAtMost(Math.max(...c.lines().map((l) => l.text.length)), 8192);
      });

      check('has all that was written before it announces the exit', async (c) => {
        for (let i = 0; i < 10; i++) {
          rmSync(c.log, { force: true });
          c.start({ program: 'seq 1 9000; seq 1 9000 >&2' });
          await c.exit();
          const lines = c.lines();
          for (const stream of ['stdout', 'stderr']) {
            const got = lines.filter((l) => l.stream === stream && l.tag === 'F').length;
            const pieces = lines.filter((l) => l.stream === stream && l.tag === 'P').length;
            assert.isAtLeast(got, 9000 - pieces, stream);
            assert.isTrue(contentOf(lines, stream).endsWith('\n8999\n9000\n'), stream);
          }
          await c.gone();
          rmSync(c.path('exits', c.id));
        }
      });

      check('is not held back by a grandchild that keeps the pipe', async (c) => {
        const start = Date.now();
        const run = c.start({ program: 'sleep 1000 & echo said; exit 4' });
        await run.created();
        assert.equal(await c.exit(), '4');
        assert.isBelow(Date.now() - start, 3000);
        assert.equal(contentOf(c.lines(), 'stdout'), 'said\n');
        await c.gone();
      });

      check('is not held back by a grandchild that writes for ever', async (c) => {
        c.start({ program: 'yes & exit 4' });
        assert.equal(await c.exit(), '4');
        await c.gone();
      });

      check('makes the log private', async (c) => {
        c.start({ program: 'echo x' });
        await c.exit();
        assert.equal(statSync(c.log).mode & 0o777, 0o600);
      });

      check('goes on in an existing log', async (c) => {
        writeFileSync(c.log, '2026-01-01T00:00:00.000000000+00:00 stdout F before\n');
        c.start({ program: 'echo after' });
        await c.exit();
        assert.equal(contentOf(c.lines(), 'stdout'), 'before\nafter\n');
      });

      check('replaces a link at the end of the path, dangling or not', async (c) => {
        writeFileSync(c.path('victim'), 'precious\n');
        for (const target of [c.path('nowhere'), c.path('victim')]) {
          rmSync(c.log, { force: true });
          rmSync(c.path('exits', c.id), { force: true });
          symlinkSync(target, c.log);
          c.start({ program: 'echo x' });
          await c.exit();
          await c.gone();
          assert.isTrue(lstatSync(c.log).isFile());
          assert.equal(contentOf(c.lines(), 'stdout'), 'x\n');
        }
        assert.isFalse(existsSync(c.path('nowhere')));
        assert.equal(readFileSync(c.path('victim'), 'utf8'), 'precious\n');
      });

      check('refuses a log that cannot be one, with a message', async (c) => {
        mkdirSync(c.path('directory'));
        await runCommand('mkfifo', [c.path('fifo')]);
        for (const path of [c.path('directory'), c.path('no/such/file'), c.path('fifo')]) {
          const run = c.start({ program: 'exit 0', logs: [`k8s-file:${path}`] });
          assert.equal(await run.started, 1, path);
          const { pid, message } = await run.report();
          assert.equal(pid, -1);
          assert.include(String(message), path);
        }
      });

      check('writes to a character device without changing it', async (c) => {
        const mode = statSync('/dev/null').mode;
        c.start({ program: 'echo x', logs: ['k8s-file:/dev/null'] });
        await c.exit();
        assert.equal(statSync('/dev/null').mode, mode);
      });

      check('reopens after a rename without losing or repeating a line', async (c) => {
        c.start({ program: `echo one; ${untilFile(c)}; echo two` });
        await until('the first line', () => readIf(c.log)?.includes('one'));
        renameSync(c.log, `${c.log}.old`);
        await ctl(c, '2 0 0\n');
        await until('the new file', () => existsSync(c.log));
        go(c);
        await c.exit();
        assert.equal(contentOf(parseLog(readFileSync(`${c.log}.old`, 'latin1')), 'stdout'), 'one\n');
        assert.equal(contentOf(c.lines(), 'stdout'), 'two\n');
      });

      check('loses nothing when told to reopen a log that was not renamed', async (c) => {
        c.start({ program: `echo one; ${untilFile(c)}; echo two` });
        await until('the first line', () => readIf(c.log)?.includes('one'));
        const ctime = statSync(c.log).ctimeMs;
        await ctl(c, '2 0 0\n2 0 0\n');
        await until('the reopen shows', () => statSync(c.log).ctimeMs !== ctime);
        go(c);
        await c.exit();
        assert.equal(contentOf(c.lines(), 'stdout'), 'one\ntwo\n');
      });

      check('goes on in the old file when there can be no new one', async (c) => {
        mkdirSync(c.path('logs'));
        const log = c.path('logs/l');
        c.start({ program: `echo one; ${untilFile(c)}; echo two`, logs: [`k8s-file:${log}`] });
        await until('the first line', () => readIf(log)?.includes('one'));
        renameSync(c.path('logs'), c.path('moved'));
        await ctl(c, '2 0 0\n');
        go(c);
        assert.equal(await c.exit(), '0');
        assert.equal(contentOf(parseLog(readFileSync(c.path('moved/l'), 'latin1')), 'stdout'), 'one\ntwo\n');
      });

      check('drops lines on a full disk, goes on, and writes again when there is room', async (c) => {
        mkdirSync(c.path('small'));
        assert.equal(
          (await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', c.path('small')])).status,
          0,
        );
        try {
          const log = c.path('small/l');
          c.start({
            program: `seq 1 200000; touch ${c.path('written')}; ${untilFile(c)}; echo again`,
            logs: [`k8s-file:${log}`],
          });
          await until('the container was not blocked', () => existsSync(c.path('written')), 20_000);
          // The last lines may still be in the pipe: half a line that did not fit is there for a moment before it is
          // taken back.
          await until('the log ends in a whole line', () => readFileSync(log, 'latin1').endsWith('\n'));
          const before = parseLog(readFileSync(log, 'latin1'));
          assert.isAbove(before.length, 1000);
          renameSync(log, c.path('small/full'));
          await ctl(c, '2 0 0\n');
          await until('reopened', () => existsSync(log));
          rmSync(c.path('small/full'));
          go(c);
          assert.equal(await c.exit(), '0');
          assert.equal(contentOf(parseLog(readFileSync(log, 'latin1')), 'stdout'), 'again\n');
          await c.gone();
        } finally {
          await runCommand('umount', ['-l', c.path('small')]);
        }
      });

      check('survives the limit on file sizes', async (c) => {
        writeFileSync(c.path('limited'), `#!/bin/sh\nulimit -f 64\nexec ${c.subject.path} "$@"\n`);
        chmodSync(c.path('limited'), 0o755);
        const limited = new Case({ name: c.subject.name, path: c.path('limited') });
        try {
          limited.start({ program: 'seq 1 100000; exit 5' });
          assert.equal(await limited.exit(20_000), '5');
          limited.lines();
        } finally {
          await limited.close();
        }
      });

      check('starts a full log anew with --log-size-max', async (c) => {
        c.start({ program: 'seq 1 2000', args: ['--log-size-max', '4096'] });
        await c.exit();
        assert.isAtMost(statSync(c.log).size, 4096);
        const lines = c.lines();
        assert.equal(lines.at(-1)?.text, '2000');
        assert.deepEqual(
          readdirSync(c.dir).filter((f) => f.startsWith('ctr.log')),
          ['ctr.log'],
        );
      });

      check('keeps full logs with --log-rotate, every line once and in order', async (c) => {
        c.start({ program: 'seq 1 150', args: ['--log-size-max', '4096', '--log-rotate', '--log-max-files', '3'] });
        await c.exit();
        const files = ['.3', '.2', '.1', ''].map((s) => `${c.log}${s}`).filter((f) => existsSync(f));
        const text = files.map((f) => contentOf(parseLog(readFileSync(f, 'latin1')), 'stdout')).join('');
        assert.equal(text, Array.from({ length: 150 }, (_, i) => `${i + 1}\n`).join(''));
        for (const f of files) assert.isAtMost(statSync(f).size, 4096);
        assert.isAbove(files.length, 1);
      });

      check('lets the oldest log fall off with --log-max-files', async (c) => {
        c.start({ program: 'seq 1 2000', args: ['--log-size-max', '4096', '--log-rotate', '--log-max-files', '2'] });
        await c.exit();
        assert.deepEqual(
          readdirSync(c.dir)
            .filter((f) => f.startsWith('ctr.log'))
            .sort(),
          ['ctr.log', 'ctr.log.1', 'ctr.log.2'],
        );
        assert.equal(c.lines().at(-1)?.text, '2000');
      });

      check('stops at --log-global-size-max and goes on reading', async (c) => {
        c.start({ program: 'seq 1 100000; exit 6', args: ['--log-global-size-max', '8192'] });
        assert.equal(await c.exit(20_000), '6');
        assert.isAtMost(statSync(c.log).size, 8192 + 100);
        assert.isAtLeast(statSync(c.log).size, 8192);
        c.lines();
      });

      check('refuses nonsensical rotation', async (c) => {
        for (const args of [
          ['--log-max-files', '-1'],
          ['--log-rotate', '--log-max-files', '0'],
          ['--log-max-files', '2147483648'],
        ]) {
          const run = c.start({ program: '', args });
          assert.equal(await run.started, 1);
          assert.include(String((await run.report())['message']), 'log-max-files');
        }
      });

      check('writes only below the directories it may', async (c) => {
        mkdirSync(c.path('allowed/sub'), { recursive: true });
        mkdirSync(c.path('allowed-not'));
        symlinkSync(c.path('allowed-not'), c.path('allowed/link'));
        const args = ['--log-allowlist-dir', c.path('nowhere'), '--log-allowlist-dir', c.path('allowed')];
        for (const path of ['allowed-not/l', 'allowed/link/l', 'allowed/../l']) {
          const run = c.start({ program: 'echo x', logs: [`k8s-file:${c.path()}/${path}`], args });
          assert.equal(await run.started, 1, path);
          assert.include(String((await run.report())['message']), 'allowlist');
        }
        assert.deepEqual(readdirSync(c.path('allowed-not')), []);
        c.start({ program: 'echo x', logs: [`k8s-file:${c.path('allowed/sub/l')}`], args });
        await c.exit();
        assert.equal(contentOf(parseLog(readFileSync(c.path('allowed/sub/l'), 'latin1')), 'stdout'), 'x\n');
      });
    });

    describe('log drivers', () => {
      check('none, off and null write nothing, and drain', async (c) => {
        for (const driver of ['none', 'off', 'null', 'none:']) {
          c.start({ program: 'seq 1 100000; exit 2', logs: [driver] });
          assert.equal(await c.exit(20_000), '2', driver);
          await c.gone();
          rmSync(c.path('exits', c.id));
        }
        assert.isFalse(existsSync(c.log));
      });

      check('takes a bare path, and several drivers at once', async (c) => {
        c.start({ program: 'echo x', logs: ['none', c.log] });
        await c.exit();
        assert.equal(contentOf(c.lines(), 'stdout'), 'x\n');
      });

      check('refuses what it does not know or cannot use', async (c) => {
        for (const [logs, args, word] of [
          [['nosuch:x'], [], 'nosuch'],
          [[''], [], 'empty'],
          [['k8s-file'], [], 'filename'],
          [['json-file:/x'], [], 'json-file'],
          [[`k8s-file:${c.log}`], ['--log-tag', 't'], 'log-tag'],
        ] as const) {
          const run = c.start({ program: '', logs, args });
          assert.equal(await run.started, 1, logs.join());
          assert.include(run.stderr + JSON.stringify(run.reports), word);
        }
      });

      check('passthrough gives the container its own stdio', async (c) => {
        writeFileSync(join(c.bundle, 'program'), 'echo through; exit 3');
        const child = spawn(
          'sh',
          [
            '-c',
            `exec ${c.subject.path} -c ${c.id} -u ${c.id} -b ${c.bundle} -r ` +
              `${join(import.meta.dirname, 'runtime.sh')} ` +
              `-p ${c.path('pidfile')} -P ${c.path('conmon.pid')} -l passthrough --exit-dir ` +
              `${c.path('exits')} > ${c.path('out')}`,
          ],
          { cwd: c.bundle },
        );
        await new Promise((done) => child.once('exit', done));
        assert.equal(await c.exit(), '3');
        assert.equal(readFileSync(c.path('out'), 'utf8'), 'through\n');
        assert.isFalse(existsSync(join(c.bundle, 'attach')));
      });

      const journal = '/run/systemd/journal/socket';
      const journalCheck = (title: string, body: (c: Case, journal: Helper) => Promise<void>): void =>
        check(title, async (c) => {
          assert.isFalse(existsSync(journal), 'this machine has a journal: run the suite in a container');
          const had = existsSync('/run/systemd');
          mkdirSync('/run/systemd/journal', { recursive: true });
          const helper = c.help(tool, ['dgram', journal]);
          try {
            await until('the journal listens', () => helper.messages.length > 0);
            await body(c, helper);
          } finally {
            rmSync(had ? '/run/systemd/journal' : '/run/systemd', { recursive: true });
          }
        });

      journalCheck('journald gets entries with all fields', async (c, helper) => {
        c.start({
          program: 'echo "out line"; echo err >&2; printf tail',
          logs: ['journald:', `k8s-file:${c.log}`],
          args: ['--log-tag', 'my tag'],
        });
        await c.exit();
        await until('three entries', () => helper.messages.length >= 4);
        const entries = helper.messages.slice(1).map(parseJournal);
        const line = entries.find((e) => e.get('MESSAGE')?.trimEnd() === 'out line')!;
        assert.equal(line.get('PRIORITY'), '6');
        assert.equal(line.get('CONTAINER_ID_FULL'), c.id);
        assert.equal(line.get('CONTAINER_ID'), c.id.slice(0, 12));
        assert.equal(line.get('CONTAINER_NAME'), 'name');
        assert.equal(line.get('CONTAINER_TAG'), 'my tag');
        assert.equal(line.get('SYSLOG_IDENTIFIER'), 'my tag');
        assert.isFalse(line.has('CONTAINER_PARTIAL_MESSAGE'));
        assert.equal(entries.find((e) => e.get('MESSAGE')?.trimEnd() === 'err')?.get('PRIORITY'), '3');
        assert.equal(entries.find((e) => e.get('MESSAGE') === 'tail')?.get('CONTAINER_PARTIAL_MESSAGE'), 'true');
        assert.equal(contentOf(c.lines(), 'stdout'), 'out line\ntail');
      });

      journalCheck('journald gets labels and priorities', async (c, helper) => {
        c.start({ program: 'echo "<4>careful"', logs: ['journald'], args: ['--log-label', 'A_1=b c'] });
        await c.exit();
        await until('the entry', () => helper.messages.length >= 2);
        const entry = parseJournal(helper.messages[1]!);
        assert.equal(entry.get('A_1'), 'b c');
        assert.equal(entry.get('PRIORITY'), '4');
        assert.equal(entry.get('MESSAGE'), 'careful');
      });

      journalCheck('journald entries are whole lines, without a newline at the end', async (c, helper) => {
        c.start({
          program: 'printf one; sleep 0.1; printf "two\\n"; head -c 20000 /dev/zero | tr "\\0" x',
          logs: ['journald'],
        });
        await c.exit();
        await until('all entries', () => helper.messages.length >= 5);
        const entries = helper.messages.slice(1).map(parseJournal);
        assert.equal(entries[0]!.get('MESSAGE'), 'onetwo');
        assert.isFalse(entries[0]!.has('CONTAINER_PARTIAL_MESSAGE'));
        assert.equal(
          entries
            .slice(1)
            .map((e) => e.get('MESSAGE'))
            .join(''),
          'x'.repeat(20_000),
        );
        assert.isTrue(entries.slice(1).every((e) => e.get('CONTAINER_PARTIAL_MESSAGE') === 'true'));
      });

      check('goes on without a journal', async (c) => {
        c.start({ program: 'seq 1 20000; exit 3', logs: ['journald'] });
        assert.equal(await c.exit(20_000), '3');
      });

      check('refuses labels that are none', async (c) => {
        for (const label of ['=x', 'a=b', 'A', 'A=b=c', 'A B=c']) {
          const run = c.start({ program: '', logs: ['journald'], args: ['--log-label', label] });
          assert.equal(await run.started, 1, label);
          assert.include(String((await run.report())['message']), label);
        }
      });
    });

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
        await c
          .start({ program: untilFile(c), args: ['--full-attach', '--socket-dir-path', c.path('none')] })
          .created();
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
          '1 2 3 4\n',
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

      check('takes lines that come in pieces', async (c) => {
        await c.start({ program: `echo one; ${untilFile(c)}; echo two` }).created();
        await until('the first line', () => readIf(c.log)?.includes('one'));
        renameSync(c.log, `${c.log}.old`);
        for (const piece of ['2', ' 0', ' 0\n']) await ctl(c, piece);
        await until('the log is reopened', () => existsSync(c.log));
      });
    });

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
          await ctl(c, '1 50 132\n');
          await new Promise((done) => setTimeout(done, 50));
          client.write('\n');
          assert.equal(await c.exit(), '3');
          await client.ended;
          assert.include(client.received(2), '50 132\r\n');
          assert.include(contentOf(c.lines(), 'stdout'), '50 132\r\n');
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
          const other = new Case(subject);
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
}

function socketCount(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).filter((fd) => (linkOf(pid, fd) ?? '').startsWith('socket:')).length;
}

function linkOf(pid: number, fd: string): string | undefined {
  try {
    return readlinkSync(`/proc/${pid}/fd/${fd}`);
  } catch {
    return undefined;
  }
}

function holds(pid: number, path: string): boolean {
  return readdirSync(`/proc/${pid}/fd`).some((fd) => linkOf(pid, fd) === path);
}

/** The fields of one entry of journald's native protocol. */
function parseJournal(data: Buffer): Map<string, string> {
  const fields = new Map<string, string>();
  for (let at = 0; at < data.length; ) {
    const end = data.indexOf(10, at);
    const line = data.subarray(at, end).toString('latin1');
    const equals = line.indexOf('=');
    if (equals >= 0) {
      fields.set(line.slice(0, equals), line.slice(equals + 1));
      at = end + 1;
    } else {
      const len = Number(data.readBigUInt64LE(end + 1));
      fields.set(line, data.subarray(end + 9, end + 9 + len).toString('latin1'));
      at = end + 9 + len + 1;
    }
  }
  return fields;
}

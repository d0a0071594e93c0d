/**
 * What the monitor writes of the output: the log of the kubelet, its limits, and the other drivers. Cases with a real
 * runtime, a mount or a journal need root.
 */
import { spawn } from 'node:child_process';
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, join } from 'node:path';
import { assert } from 'chai';
import { Case, type Helper, contentOf, parseLog, readIf, runCommand, tool, until } from './harness.ts';
import { ctl, untilFile, go, parseJournal, describeMonitors } from './ground.ts';

describeMonitors(({ check }) => {
  describe('k8s-file log', () => {
    check('writes whole lines, pieces and empty lines of both streams', async (c) => {
      c.start({ program: 'printf "a\\n\\nb\\n"; printf "e\\n" >&2' });
      await c.exit();
      const lines = c.lines();
      assert.deepEqual(
        lines.filter((l) => l.stream === 'stdout').map((l) => [l.tag, l.text]),
        [
          ['F', 'a'],
          ['F', ''],
          ['F', 'b'],
        ],
      );
      assert.deepEqual(
        lines.filter((l) => l.stream === 'stderr').map((l) => [l.tag, l.text]),
        [['F', 'e']],
      );
    });

    check('ends the last line of each stream, though it has no newline, as one', async (c) => {
      for (const program of ['printf "a\\nlast"; printf e >&2', 'printf e >&2; sleep 0.02; printf "a\\nlast"']) {
        rmSync(c.log, { force: true });
        rmSync(c.path('exits', c.id), { force: true });
        c.start({ program });
        await c.exit();
        await c.gone();
        const of = (stream: string): string[] =>
          c
            .lines()
            .filter((l) => l.stream === stream)
            .map((l) => `${l.tag} ${l.text}`);
        assert.deepEqual([of('stdout'), of('stderr')], [['F a', 'F last'], ['F e']], program);
      }
    });

    check('shows a prompt while it waits, and ends the line when the stream ends', async (c) => {
      c.start({ program: `printf "password: "; ${untilFile(c)}` });
      await until('the prompt is in the log', () => existsSync(c.log) && c.lines().length === 1);
      go(c);
      await c.exit();
      await c.gone();
      assert.deepEqual(
        c.lines().map((l) => [l.stream, l.tag, l.text]),
        [
          ['stdout', 'P', 'password: '],
          ['stdout', 'F', ''],
        ],
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
      // Ours ends the last line.
      assert.isTrue(contentOf(c.lines(), 'stdout').replace(/\n$/, '') === expected);
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

    check('makes a log that its group may read, and nobody else', async (c) => {
      c.start({ program: 'echo x' });
      await c.exit();
      assert.equal(statSync(c.log).mode & 0o777, 0o640);
    });

    check('leaves a log as private as it was', async (c) => {
      writeFileSync(c.log, '', { mode: 0o600 });
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
        if (path.includes('no/such')) assert.include(String(message), 'Failed to open log file');
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

    check('lets who watches the directory see that it has reopened, as CRI-O wants to', async (c) => {
      await c.start({ program: `${untilFile(c)}; echo one` }).created();
      await until('the log', () => existsSync(c.log));
      const watcher = c.help(tool, ['changes', c.dir, basename(c.log)]);
      const seen = (): string => watcher.output.toString();
      await until('it watches', () => seen().includes('ready'));
      for (let each = 1; each <= 2; each++) {
        await ctl(c, '2 0 0\n');
        await until('a write is seen of a log that was not renamed', () => seen().split('written').length > each);
      }
      renameSync(c.log, `${c.log}.old`);
      await ctl(c, '2 0 0\n');
      await until('the new file is seen', () => seen().includes('made'));
      assert.equal(statSync(c.log).size, 0);
      go(c);
      await c.exit();
      assert.equal(contentOf(c.lines(), 'stdout'), 'one\n');
      assert.equal(statSync(`${c.log}.old`).size, 0);
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
      assert.equal((await runCommand('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'none', c.path('small')])).status, 0);
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
      assert.equal(contentOf(c.lines(), 'stdout').trimEnd(), 'out line\ntail');
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
      const format = 'Container labels must be in format LABEL=VALUE';
      const names = 'Container label names must contain only uppercase letters, numbers and underscore';
      for (const [label, message] of [
        ['=x', `${format} (no LABEL present in '=x')`],
        ['a=b', `${names} (in 'a=b')`],
        ['A', `${format} (none or more than one '=' present in 'A')`],
        ['A=b=c', `${format} (none or more than one '=' present in 'A=b=c')`],
        ['A B=c', `${names} (in 'A B=c')`],
      ] as const) {
        const run = c.start({ program: '', logs: ['journald'], args: ['--log-label', label] });
        assert.equal(await run.started, 1, label);
        assert.include(String((await run.report())['message']), message);
      }
    });

    check('says what has no effect without the journal', async (c) => {
      const run = c.start({ program: '', args: ['--no-container-partial-message'] });
      await c.exit();
      await until('the warning', () => run.stderr.includes('has no effect without journald log driver'));
    });
  });
});

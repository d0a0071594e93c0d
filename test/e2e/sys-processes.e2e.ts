/**
 * Processes of our own and of others against a real kernel: spawn, capture, pidfds, orphans, pause. Needs root and
 * built binaries.
 */
import { assert } from 'chai';
import { execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { LinuxProcesses } from '../../pkg/runtime/index.ts';
import * as sys from '../../pkg/sys/index.ts';
import type { NodeFacts } from '../../pkg/ports/spec.ts';
import { processes } from './harness.ts';
import {
  PAUSE,
  SIGTERM,
  SIGKILL,
  op,
  run,
  openFds,
  fresh,
  refusal,
  bytesOf,
  eventually,
  useSysGround,
} from './sys-ground.ts';

describe('sys spawn', () => {
  useSysGround();

  it('gives the child exactly the descriptors it was given', async () => {
    const leak = openSync('/dev/null', 'r');
    const { read, write } = sys.descriptors.pipe();
    const child = await sys.spawn({ argv: ['/bin/ls', '/proc/self/fd'], fds: ['null', write, 'null', write] });
    sys.descriptors.close(write);
    const stream = sys.descriptors.openStream(read);
    const output = (await bytesOf(stream)).toString();
    stream.close();
    closeSync(leak);
    // 4 is the directory that ls reads.
    assert.deepEqual(output.trim().split(/\s+/), ['0', '1', '2', '3', '4']);
    assert.deepEqual(await child.exited, { kind: 'exited', code: 0 });
  });

  it("maps descriptors that stand in each other's way", async () => {
    const [a, b] = [sys.descriptors.pipe(), sys.descriptors.pipe()];
    const child = await sys.spawn({
      argv: ['/bin/sh', '-c', 'echo first >&0; echo second >&1'],
      fds: [Math.max(a.write, b.write), Math.min(a.write, b.write)],
    });
    const streams = [b, a].map((each) => {
      sys.descriptors.close(each.write);
      return sys.descriptors.openStream(each.read);
    });
    const texts = await Promise.all(streams.map(async (stream) => (await bytesOf(stream)).toString()));
    for (const stream of streams) stream.close();
    assert.deepEqual(texts, ['first\n', 'second\n']);
    await child.exited;
  });

  it('starts with a clean signal state in a group of its own', async () => {
    const { stdout } = await run('/bin/sh', '-c', 'cat /proc/self/status; ps -o pgid= -p $$; echo $$');
    const text = stdout.toString();
    for (const field of ['SigBlk', 'SigIgn', 'SigPnd'])
      assert.match(text, new RegExp(`^${field}:\\s+0{16}$`, 'm'), field);
    const [group, pid] = text
      .trim()
      .split('\n')
      .slice(-2)
      .map((each) => each.trim());
    assert.equal(group, pid);
  });

  it('makes a session, a directory, an environment, an oom score', async () => {
    const directory = fresh('cwd');
    const { stdout } = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'pwd; echo $A; ps -o sid= -p $$; echo $$; cat /proc/self/oom_score_adj'],
      cwd: directory,
      env: ['A=b c', 'PATH=/bin'],
      leads: 'session',
      oomScoreAdj: 321,
      stdoutMax: 1000,
      stderrMax: 100,
    });
    const [pwd, a, session, pid, score] = stdout
      .toString()
      .trim()
      .split('\n')
      .map((each) => each.trim());
    assert.deepEqual([pwd, a, session, score], [directory, 'b c', pid, '321']);
  });

  it('says what is wrong with a program', async () => {
    const notRunnable = join(fresh('bad'), 'data');
    writeFileSync(notRunnable, 'x', { mode: 0o644 });
    assert.match(
      (await refusal(() => sys.spawn({ argv: ['/bin/no-such'] }), 'NotFound')).message,
      /\/bin\/no-such.*install it/,
    );
    await refusal(() => sys.spawn({ argv: ['no-such-program-anywhere'] }), 'NotFound');
    await refusal(() => sys.spawn({ argv: [notRunnable] }), 'PermissionDenied');
    await refusal(() => sys.spawn({ argv: ['/bin/true'], cwd: '/no/such' }), 'NotFound');
    await refusal(() => sys.spawn({ argv: ['/bin/true\0'] }), 'InvalidArgument');
  });

  it('reports exits and signals, and never a wrong one', async () => {
    assert.deepEqual(await (await sys.spawn({ argv: ['/bin/sh', '-c', 'exit 77'] })).exited, {
      kind: 'exited',
      code: 77,
    });
    const child = await sys.spawn({ argv: ['/bin/sleep', '100'] });
    assert.isTrue(sys.processes.isAlive(child.ref));
    assert.isTrue(child.kill(SIGTERM));
    assert.deepEqual(await child.exited, { kind: 'signalled', signal: SIGTERM });
    assert.isFalse(child.kill(SIGTERM));
    assert.isFalse(child.killGroup(SIGTERM));
    assert.isFalse(sys.processes.isAlive(child.ref));
  });

  it('runs a hundred at once and loses none', async () => {
    const before = openFds();
    const codes = await Promise.all(
      Array.from({ length: 100 }, async (_, index) =>
        sys.exitCodeOf(await (await sys.spawn({ argv: ['/bin/sh', '-c', `exit ${index}`] })).exited),
      ),
    );
    assert.deepEqual(
      codes,
      Array.from({ length: 100 }, (_, index) => index),
    );
    assert.equal(openFds(), before);
  });

  it('puts the child into cgroups before it runs, by itself or by a launcher', async () => {
    const layout = sys.cgroups.readLayoutSync();
    const path = `/berth-sys-${randomBytes(4).toString('hex')}`;
    const hierarchies = layout.hierarchies.filter(
      (each) => each.version === 2 || each.controllers.some((name) => ['pids', 'freezer'].includes(name)),
    );
    const directories = hierarchies.map((each) => sys.cgroups.directoryOf(each, path));
    for (const directory of directories) mkdirSync(directory);
    const launcher = await sys.openLauncher(directories);
    try {
      for (const how of [{ cgroupDirs: directories }, { launcher }]) {
        const { stdout } = await sys.capture(op(), {
          argv: ['/bin/cat', '/proc/self/cgroup'],
          ...how,
          stdoutMax: 4096,
          stderrMax: 100,
        });
        const lines = stdout.toString().split('\n');
        for (const hierarchy of hierarchies) {
          const named = hierarchy.version === 2 ? '' : (hierarchy.controllers[0] ?? '');
          assert.isTrue(
            lines.some((line) => {
              const [, controllers = '', at] = line.split(':');
              return controllers.split(',').includes(named) && at === path;
            }),
            `${named} in ${lines.join()}`,
          );
        }
      }
    } finally {
      await launcher.close();
      await sys.cgroups.destroy(op(), layout, path);
    }
  });
});

describe('sys spawn beside reapOrphans', () => {
  useSysGround();

  it('never loses the exit of a child that ends before anybody could wait for it', async () => {
    let on = true;
    const reaping = (async () => {
      while (on) {
        sys.orphans.reap();
        await new Promise((resolve) => setImmediate(resolve));
      }
    })();
    const codes = await Promise.all(
      Array.from({ length: 300 }, async () => (await run('/bin/sh', '-c', 'exit 3')).exitCode),
    );
    on = false;
    await reaping;
    assert.deepEqual(
      codes.filter((code) => code !== 3),
      [],
    );
  });
});

describe('sys reaping', () => {
  useSysGround();

  /** A shell that leaves us a child of its own, and says its number. */
  const orphan = async (does: string): Promise<number> => {
    const { stdout } = await run('/bin/sh', '-c', `(exec ${does}) >/dev/null 2>&1 & echo $!`);
    return Number(stdout.toString());
  };
  const state = (pid: number): string => sys.processes.readStats([pid])[0]?.state ?? 'gone';

  it('takes those that have ended, and leaves the living and those that somebody waits for', async () => {
    sys.orphans.becomeSubreaper();
    const living = await Promise.all(Array.from({ length: 20 }, () => orphan('sleep 1000')));
    const ended = await Promise.all(Array.from({ length: 20 }, () => orphan('true')));
    try {
      await eventually('all have ended', () => ended.every((pid) => state(pid) === 'Z' || state(pid) === 'gone'));
      const gate = sys.descriptors.pipe();
      const awaited = await sys.spawn({ argv: ['/bin/cat'], fds: [gate.read, 'null', 'null'] });
      for (const fd of [gate.read, gate.write]) sys.descriptors.close(fd);
      // In one turn of the event loop: in the next, whoever waits for it takes it.
      const patience = Date.now() + 10_000;
      while (state(awaited.pid) !== 'Z' && Date.now() < patience);
      assert.strictEqual(state(awaited.pid), 'Z');
      assert.strictEqual(sys.orphans.reap(), 0);
      assert.deepEqual([...new Set(ended.map(state))], ['gone']);
      assert.deepEqual(await awaited.exited, { kind: 'exited', code: 0 });
      assert.deepEqual([...new Set(living.map(state))], ['S']);
    } finally {
      for (const pid of living) process.kill(pid, 'SIGKILL');
      await eventually('all are gone', () => sys.orphans.reap() === 0 && living.every((pid) => state(pid) === 'gone'));
    }
  });

  it('at once looks once for each child that ends, however many want it', async () => {
    const before = process.listenerCount('SIGCHLD');
    const gate = Promise.withResolvers<void>();
    const all = Array.from({ length: 100 }, () => sys.orphans.whileReaping(() => gate.promise));
    try {
      assert.strictEqual(process.listenerCount('SIGCHLD'), before + 1);
      const pid = await orphan('true');
      await eventually('it is taken without being asked for', () => state(pid) === 'gone');
    } finally {
      gate.resolve();
      await Promise.all(all);
    }
    assert.strictEqual(process.listenerCount('SIGCHLD'), before);
  });
});

describe('sys capture', () => {
  useSysGround();

  it('feeds, reads, cuts', async () => {
    const input = 'x'.repeat(300_000);
    const all = await sys.capture(op(), { argv: ['/bin/cat'], stdin: input, stdoutMax: 1 << 20, stderrMax: 10 });
    assert.isTrue(all.stdout.toString() === input && !all.stdoutCut);
    const cut = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'seq 1 100000; seq 1 100000 >&2; exit 3'],
      stdoutMax: 8,
      stderrMax: 7,
    });
    assert.deepEqual(
      [cut.stdout.toString(), cut.stdoutCut, cut.stderr.toString(), cut.stderrCut, cut.exitCode],
      ['1\n2\n3\n4\n', true, '100000\n', true, 3],
    );
  });

  it('does not mind a command that leaves its input unread', async () => {
    assert.equal(
      (await sys.capture(op(), { argv: ['/bin/true'], stdin: Buffer.alloc(1 << 20), stdoutMax: 1, stderrMax: 1 }))
        .exitCode,
      0,
    );
  });

  it('kills the whole group at the deadline', async () => {
    const marker = join(fresh('deadline'), 'pid');
    const error = await refusal(
      () =>
        sys.capture(op(300), {
          argv: ['/bin/sh', '-c', `sleep 1000 & echo $! > ${marker}; wait`],
          stdoutMax: 1,
          stderrMax: 1,
          what: 'the sleeper',
        }),
      'DeadlineExceeded',
    );
    assert.include(error.message, 'the sleeper');
    const orphan = Number(readFileSync(marker, 'utf8'));
    await eventually("the sleeper's child is gone", () => {
      const ref = sys.processes.refOf(orphan);
      return ref === undefined || !sys.processes.isAlive(ref);
    });
  });

  /** A command whose descendants leave their family in every way that there is; each sleeps `mark` and a digit. */
  /** Seconds that nobody waits for: what ends by itself proves nothing. */
  const UNIQUE = `900.${process.pid}`;
  afterEach(() => {
    for (const end of ['11', '12', '13', '14', '21', '22', '23', '24', '35'])
      for (const pid of processes(`sleep ${UNIQUE}${end}`)) process.kill(Number(pid), 'SIGKILL');
  });
  const SCATTERED = (mark: string): string =>
    `sleep ${mark}1 & setsid env -i sleep ${mark}2 & (setsid sh -c 'sleep ${mark}3 & exit' &) ; sleep ${mark}4`;
  const sleeping = (mark: string): number =>
    [1, 2, 3, 4].filter((each) => processes(`sleep ${mark}${each}`).length > 0).length;

  it('ends all that the command has started at the deadline, whatever that has done to leave it', async () => {
    const mark = `${UNIQUE}1`;
    const running = refusal(
      () => sys.capture(op(2_000), { argv: ['/bin/sh', '-c', SCATTERED(mark)], stdoutMax: 1, stderrMax: 1 }),
      'DeadlineExceeded',
    );
    await eventually('all of them sleep', () => sleeping(mark) === 4);
    await running;
    await eventually('none of them is left', () => sleeping(mark) === 0);
  });

  it('ends all that the command has started when we are killed, unless it is to go on', async () => {
    const mark = `${UNIQUE}2`;
    const last = `${UNIQUE}35`;
    const code = `
      import { capture } from ${JSON.stringify(new URL('../../pkg/sys/index.ts', import.meta.url).href)};
      import { backgroundOp, silent } from ${JSON.stringify(new URL('../../pkg/base/op.ts', import.meta.url).href)};
      const run = (text, withoutUs) => capture(backgroundOp(silent), {
        argv: ['/bin/sh', '-c', text], stdoutMax: 1, stderrMax: 1, withoutUs });
      await Promise.all([run(${JSON.stringify(SCATTERED(mark))}), run('sleep ${last}; true', 'goes on')]);`;
    const daemon = spawn(process.execPath, ['--input-type=module', '-e', code], { stdio: 'inherit' });
    await eventually('all of them sleep', () => sleeping(mark) === 4 && processes(`sleep ${last}`).length === 1);
    daemon.kill('SIGKILL');
    await eventually('none of them is left', () => sleeping(mark) === 0);
    const [left = ''] = processes(`sleep ${last}`);
    assert.notEqual(left, '', 'what is to go on does');
    process.kill(Number(left), 'SIGKILL');
  });

  it('does not wait for a descendant that keeps the pipe (GHSA-7jxh-36q5-gcqv)', async () => {
    const started = Date.now();
    const { exitCode, stdout } = await sys.capture(op(), {
      argv: ['/bin/sh', '-c', 'sleep 5 & echo $!; exit 4'],
      stdoutMax: 100,
      stderrMax: 1,
    });
    assert.equal(exitCode, 4);
    assert.isBelow(Date.now() - started, 2_000);
    process.kill(Number(stdout.toString()), 'SIGKILL');
  });

  it('leaves no descriptor open, however it ends', async () => {
    await run('/bin/true');
    const before = openFds();
    for (let i = 0; i < 20; i++) {
      await run('/bin/echo', 'x');
      await refusal(() => run('/bin/no-such'), 'NotFound');
    }
    assert.equal(openFds(), before);
  });
});

describe('sys processes', () => {
  useSysGround();

  it('signals and awaits exactly one process', async () => {
    const processes = new LinuxProcesses();
    const child = await sys.spawn({ argv: ['/bin/sleep', '1000'] });
    const other = { ...child.ref, startTicks: child.ref.startTicks + 1n };
    assert.deepEqual(sys.processes.refOf(child.pid), child.ref);
    assert.deepEqual([processes.alive(child.ref), processes.alive(other)], [true, false]);
    assert.isFalse(processes.signal(other, SIGKILL));
    await processes.gone(other, op().signal);
    await processes.gone(child.ref, AbortSignal.timeout(10));
    assert.isTrue(processes.alive(child.ref));
    const gone = processes.gone(child.ref, op().signal);
    assert.isTrue(processes.signal(child.ref, SIGTERM));
    await gone;
    await child.exited;
    assert.isFalse(processes.signal(child.ref, SIGTERM));
    assert.isUndefined(sys.processes.refOf(child.pid));
  });

  it('looks at the node', () => {
    const facts: NodeFacts = sys.nodeFacts('cgroupfs');
    assert.isTrue(facts.capabilities.has('CAP_CHOWN'));
    assert.isNotEmpty(facts.kernel);
    assert.equal(facts.rlimitMax.size === 0, facts.capabilities.has('CAP_SYS_RESOURCE'));
  });

  it('reads many kernel files at once', () => {
    const [stat, absent, cut] = sys.readFiles(['/proc/self/stat', '/proc/no-such', '/proc/self/status'], 10);
    assert.deepEqual([stat?.length, absent, cut?.toString().slice(0, 5)], [10, null, 'Name:']);
  });
});

describe('pause', () => {
  useSysGround();

  it('ends on TERM at once, and says its version', async () => {
    const child = await sys.spawn({ argv: [PAUSE] });
    child.kill(SIGTERM);
    const ending = await child.exited;
    // A signal that comes before its first instruction finds the default action.
    assert.include([0, 128 + SIGTERM], sys.exitCodeOf(ending));
    assert.match((await run(PAUSE, '--version')).stdout.toString(), /^pause \(berth\) version \d/);
  });

  it('reaps as PID 1', async () => {
    const child = await sys.spawn({
      argv: ['/usr/bin/unshare', '--pid', '--fork', '--kill-child', '--mount-proc', PAUSE],
      leads: 'group',
    });
    const pausePid = (): number => Number(readFileSync(`/proc/${child.pid}/task/${child.pid}/children`, 'utf8').trim());
    await eventually('pause runs', () => pausePid() > 0 && readlinkSync(`/proc/${pausePid()}/exe`) === PAUSE);
    const pid = pausePid();
    execFileSync('nsenter', ['-t', String(pid), '-p', '-m', 'sh', '-c', '(true &) ; true']);
    await eventually(
      'no zombies are left',
      () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim() === '',
    );
    process.kill(pid, 'SIGTERM');
    assert.deepEqual(await child.exited, { kind: 'exited', code: 0 });
  });
});

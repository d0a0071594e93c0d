/**
 * pkg/runtime on real things: runc, crun and runsc, each under the distribution's conmon and ours. The conformance
 * suite first, then what only real processes can do wrong. Needs root, busybox-static, runc, crun, runsc and conmon;
 * leaves nothing behind, which is checked.
 */
import { assert } from 'chai';
import { execa } from 'execa';
import { existsSync } from 'node:fs';
import { link, readFile, rename, rm, symlink, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import {
  capture,
  createContainer,
  destroyContainer,
  eventually,
  exitOf,
  refusal,
  runContainer,
  runtimeConformance,
  testOp,
} from '../../pkg/runtime/conformance.ts';
import { processes as kernel } from '../../pkg/sys/index.ts';
import {
  RUNTIMES,
  MONITORS,
  CGROUP_PARENT,
  SIGKILL,
  Ground,
  type RealSubject,
  logLines,
  textOf,
  cgroupValue,
} from './runtime-ground.ts';

describe('pkg/runtime on this node', function () {
  this.timeout(60_000);
  let ground: Ground;
  before(async () => {
    ground = await Ground.make();
  });
  after(() => ground.remove());

  for (const runtime of Object.keys(RUNTIMES)) {
    // What is particular to runsc has nothing to do with the monitor, and takes long.
    for (const monitor of runtime === 'runsc' ? ['our conmon'] : Object.keys(MONITORS)) {
      runtimeConformance(`${runtime} under ${monitor}: conformance`, () =>
        ground.subject(ground.handler(runtime, monitor)),
      );
      describeMonitor(`${runtime} under ${monitor}`, () => ground.subject(ground.handler(runtime, monitor)));
      describeSurvival(`${runtime} under ${monitor}`, () => ground, runtime, monitor);
    }
  }
});

function describeMonitor(title: string, open: () => Promise<RealSubject>): void {
  describe(title, () => {
    let subject: RealSubject;
    beforeEach(async () => {
      subject = await open();
    });
    afterEach(() => subject.close());

    it('writes the CRI log format: time stamps, whole and partial lines, every byte', async () => {
      const container = await runContainer(subject, [
        'sh',
        '-c',
        "head -c 20000 /dev/zero | tr '\\0' 'x'; echo; echo short; head -c 9000 /dev/zero | tr '\\0' 'y'",
      ]);
      await exitOf(subject, container.id);
      const lines = await logLines(container.logPath);
      for (const line of lines) assert.match(line.time, /^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}(Z|[+-]\d\d:\d\d)$/);
      assert.strictEqual(textOf(lines).replace(/\n$/, ''), `${'x'.repeat(20_000)}\nshort\n${'y'.repeat(9_000)}`);
      assert.isAbove(lines.filter((line) => line.tag === 'P').length, 2);
      await destroyContainer(subject, container);
    });

    it('replaces what somebody put at the log path', async () => {
      for (const put of [symlink, link]) {
        const prepared = await subject.prepare(['echo', 'to the log'], { tty: false });
        const victim = `${prepared.logPath}.victim`;
        await writeFile(victim, 'precious');
        await put(victim, prepared.logPath);
        await subject.monitor.create(testOp(), {
          ...prepared,
          runtime: subject.runtime,
          name: 'x',
          tty: false,
          stdin: false,
          stdinOnce: false,
          ready: Promise.resolve(),
        });
        await subject.runtime.start(testOp(), prepared.id);
        await exitOf(subject, prepared.id);
        assert.strictEqual(await readFile(victim, 'utf8'), 'precious');
        assert.deepEqual(await subject.readLog(prepared.logPath), ['stdout F to the log']);
        await destroyContainer(subject, prepared);
      }
    });

    it('loses no line while the log is reopened again and again', async () => {
      const container = await runContainer(subject, ['sh', '-c', 'seq 1 20000; exec sleep 100000']);
      const moved: string[] = [];
      for (let round = 0; round < 5; round++) {
        moved.push(`${container.logPath}.${round}`);
        await rename(container.logPath, `${container.logPath}.${round}`);
        await subject.monitor.reopenLog(testOp(), container.bundle, container.logPath);
        assert.isTrue(existsSync(container.logPath));
      }
      const all = async (): Promise<string> =>
        textOf((await Promise.all([...moved, container.logPath].map(logLines))).flat());
      await eventually('the last number is logged', async () => (await all()).endsWith('\n20000\n'));
      assert.strictEqual(await all(), Array.from({ length: 20_000 }, (_, index) => `${index + 1}\n`).join(''));
      await destroyContainer(subject, container);
    });

    it('gives a terminal that can be sized and attached to', async () => {
      const container = await runContainer(subject, ['sh', '-c', 'read line; stty size; echo done'], {
        tty: true,
        stdin: true,
      });
      await subject.monitor.resize(container.bundle, { width: 123, height: 45 });
      const channel = await subject.monitor.attach(testOp(), container.id, container.bundle);
      await channel.write(Buffer.from('go\n'));
      let text = '';
      for await (const { data } of channel.output) text += Buffer.from(data).toString('utf8');
      assert.include(text, '45 123\r\ndone\r\n');
      await exitOf(subject, container.id);
      assert.include(textOf(await logLines(container.logPath)), '45 123\r\ndone\r\n');
      await destroyContainer(subject, container);
    });

    it('serves several attached clients, and a late one', async () => {
      const container = await runContainer(subject, ['cat'], { stdin: true });
      const first = await subject.monitor.attach(testOp(), container.id, container.bundle);
      const second = await subject.monitor.attach(testOp(), container.id, container.bundle);
      await first.write(Buffer.from('hello\n'));
      for (const channel of [first, second]) {
        for await (const { data } of channel.output) {
          assert.strictEqual(Buffer.from(data).toString('utf8'), 'hello\n');
          break;
        }
      }
      const late = await subject.monitor.attach(testOp(), container.id, container.bundle);
      await late.write(Buffer.from('again\n'));
      await eventually(
        'input of a later client arrives',
        async () => (await subject.readLog(container.logPath)).length === 2,
      );
      assert.isTrue(subject.processes.alive(container.process), 'stdin stays open when clients leave');
      late.close();
      await destroyContainer(subject, container);
    });

    it('tells that the kernel ran out of memory for the container', async () => {
      const prepared = await subject.prepare(['dd', 'if=/dev/zero', 'of=/dev/null', 'bs=64M', 'count=1'], {
        tty: false,
        resources: { memory: { limit: 16_777_216n } },
      });
      const made = await subject.monitor.create(testOp(), {
        ...prepared,
        runtime: subject.runtime,
        name: 'x',
        tty: false,
        stdin: false,
        stdinOnce: false,
        ready: Promise.resolve(),
      });
      await subject.runtime.start(testOp(), prepared.id);
      const record = await exitOf(subject, prepared.id);
      assert.deepInclude(record, { exitCode: 137, oomKilled: true });
      assert.isFalse(subject.processes.alive(made.process));
      await destroyContainer(subject, prepared);
    });

    it('says what the runtime said when there is no such program, and leaves nothing', async () => {
      const prepared = await subject.prepare(['/no/such/program'], { tty: false });
      const error = await refusal(
        (async () => {
          await subject.monitor.create(testOp(), {
            ...prepared,
            runtime: subject.runtime,
            name: 'x',
            tty: false,
            stdin: false,
            stdinOnce: false,
            ready: Promise.resolve(),
          });
          // A runtime with a kernel of its own looks for the program when that has started.
          await subject.runtime.start(testOp(), prepared.id);
        })(),
      );
      assert.strictEqual(error.code, 'InvalidArgument', error.message);
      assert.include(error.message, '/no/such/program');
      assert.notInclude(error.message, 'level=error');
      await destroyContainer(subject, prepared);
    });

    it('ends the monitor of a container that was being created when the daemon died', async () => {
      const container = await createContainer(subject, ['true']);
      // As if runtime.delete had come too early: the container is there, the monitor waits for it.
      await subject.monitor.destroy(testOp(), container.id, container.bundle);
      assert.isTrue(container.monitor !== null && !subject.processes.alive(container.monitor));
      await eventually('its container went with it', () => !subject.processes.alive(container.process));
      await subject.runtime.delete(testOp(), container.id);
      assert.deepEqual(await subject.runtime.status(testOp(), container.id), { state: 'absent' });
    });

    it('updates limits exactly', async () => {
      const container = await runContainer(subject, ['sleep', '100000']);
      if (subject.runtime.handler.path === RUNTIMES['runsc']) {
        assert.strictEqual(
          (await refusal(subject.runtime.update(testOp(), container.id, { cpu: { shares: 512n } }))).code,
          'Unimplemented',
        );
        await destroyContainer(subject, container);
        return;
      }
      await subject.runtime.update(testOp(), container.id, {
        memory: { limit: 67_108_864n, swap: 134_217_728n },
        cpu: { shares: 512n },
      });
      assert.strictEqual(await cgroupValue(container.process, 'memory', 'memory.limit_in_bytes'), '67108864');
      assert.strictEqual(await cgroupValue(container.process, 'cpu', 'cpu.shares'), '512');
      await destroyContainer(subject, container);
    });
  });
}

/** What happens to containers when a daemon, a monitor or a directory is gone. */
function describeSurvival(title: string, ground: () => Ground, runtime: string, monitor: string): void {
  describe(`${title}: survival`, () => {
    it('goes on when the daemon is killed: log, exit code, and what the next daemon can do', async () => {
      const handler = ground().handler(runtime, monitor);
      const subject = await ground().subject(handler);
      const prepared = await subject.prepare(['sh', '-c', 'while read line; do echo "got $line"; done; exit 33'], {
        tty: false,
      });
      const pkg = join(import.meta.dirname, '../../pkg');
      const exitsDir = join(dirname(handler.root), 'exits');
      const code = `
        const [pkg, handler, prepared, exitsDir] = ${JSON.stringify([pkg, handler, prepared, exitsDir])};
        const { ConmonMonitor, OciCli } = await import(pkg + '/runtime/index.ts');
        const { testOp } = await import(pkg + '/runtime/conformance.ts');
        const runtime = new OciCli(handler);
        const request = { ...prepared, runtime, name: 'x', tty: false, stdin: true, stdinOnce: true };
        const made = await new ConmonMonitor({ exitsDir }).create(testOp(), request);
        await runtime.start(testOp(), prepared.id);
        console.log(JSON.stringify({ container: made.process.pid, monitor: made.monitor.pid }));
        process.kill(process.pid, 'SIGKILL');`;
      const daemon = await execa(process.execPath, ['--input-type=module', '-e', code], { reject: false });
      assert.strictEqual(daemon.signal, 'SIGKILL', daemon.stderr);
      const pids = JSON.parse(daemon.stdout) as { readonly container: number; readonly monitor: number };
      assert.isTrue(existsSync(`/proc/${pids.container}`) && existsSync(`/proc/${pids.monitor}`));
      const channel = await subject.monitor.attach(testOp(), prepared.id, prepared.bundle);
      await channel.write(Buffer.from('one\n'));
      await eventually('it logs', async () => (await subject.readLog(prepared.logPath)).includes('stdout F got one'));
      await rename(prepared.logPath, `${prepared.logPath}.1`);
      await subject.monitor.reopenLog(testOp(), prepared.bundle, prepared.logPath);
      channel.close();
      assert.strictEqual((await exitOf(subject, prepared.id)).exitCode, 33);
      await destroyContainer(subject, prepared);
      await subject.close();
    });

    it('knows no exit of a container whose monitor was killed, and refuses what needs one', async () => {
      const subject = await ground().subject(ground().handler(runtime, monitor));
      const container = await runContainer(subject, ['sleep', '100000']);
      const pid = container.monitor?.pid ?? 0;
      process.kill(pid, SIGKILL);
      await eventually('the monitor is gone', () => container.monitor !== null && !kernel.isAlive(container.monitor));
      assert.isTrue(subject.processes.alive(container.process), 'the container goes on');
      assert.strictEqual(
        (await refusal(subject.monitor.attach(testOp(), container.id, container.bundle))).code,
        'FailedPrecondition',
      );
      assert.strictEqual(
        (await refusal(subject.monitor.resize(container.bundle, { width: 1, height: 1 }))).code,
        'FailedPrecondition',
      );
      await rename(container.logPath, `${container.logPath}.1`);
      assert.strictEqual(
        (await refusal(subject.monitor.reopenLog(testOp(), container.bundle, container.logPath))).code,
        'FailedPrecondition',
      );
      assert.isFalse(existsSync(container.logPath));
      await subject.runtime.kill(testOp(), container.id, SIGKILL);
      await subject.processes.gone(container.process, AbortSignal.timeout(10_000));
      assert.isUndefined(await subject.monitor.exitOf(container.id));
      assert.deepEqual(await subject.runtime.status(testOp(), container.id), { state: 'stopped', pid: 0 });
      await destroyContainer(subject, container);
      await subject.close();
    });

    it('makes the exit directory again when it is taken away', async () => {
      const handler = ground().handler(runtime, monitor);
      const subject = await ground().subject(handler);
      const end = new AbortController();
      const seen: string[] = [];
      const first = await runContainer(subject, ['true']);
      const reading = (async () => {
        for await (const record of subject.monitor.exits(end.signal)) seen.push(record.id);
      })();
      await eventually('the first exit is reported', () => seen.includes(first.id));
      const exits = join(dirname(handler.root), 'exits');
      await rm(exits, { recursive: true });
      await eventually('it is there again', () => existsSync(exits));
      const second = await runContainer(subject, ['true']);
      await eventually('the second exit is reported', () => seen.includes(second.id));
      end.abort();
      await reading;
      for (const each of [first, second]) await destroyContainer(subject, each);
      await subject.close();
    });

    it('serves bundles whose paths are longer than a socket address, and containers without a log', async () => {
      const subject = await ground().subject(ground().handler(runtime, monitor, {}, 'long-'.repeat(30)));
      const prepared = await subject.prepare(['cat'], { tty: true });
      await subject.monitor.create(testOp(), {
        ...prepared,
        logPath: '',
        runtime: subject.runtime,
        name: 'x',
        tty: true,
        stdin: true,
        stdinOnce: false,
        ready: Promise.resolve(),
      });
      await subject.runtime.start(testOp(), prepared.id);
      const channel = await subject.monitor.attach(testOp(), prepared.id, prepared.bundle);
      await channel.write(Buffer.from('hello\n'));
      for await (const { data } of channel.output) {
        assert.include(Buffer.from(data).toString('utf8'), 'hello');
        break;
      }
      const stdio = capture({ tty: true });
      await subject.runtime.exec(
        testOp(),
        prepared.id,
        subject.process(['echo', 'on a terminal'], { tty: true }),
        stdio,
      );
      assert.strictEqual(stdio.text('out'), 'on a terminal\r\n');
      assert.isFalse(existsSync(prepared.logPath));
      await destroyContainer(subject, prepared);
      await subject.close();
    });

    it('puts monitors into their cgroup before they start anything', async () => {
      const subject = await ground().subject(
        ground().handler(runtime, monitor, { monitorCgroup: `${CGROUP_PARENT}/monitors` }),
      );
      const container = await runContainer(subject, ['sleep', '100000']);
      const text = await readFile(`/proc/${container.monitor?.pid}/cgroup`, 'utf8');
      const lines = text.split('\n').filter((line) => /^\d+:(memory|pids|cpu):/.test(line));
      assert.lengthOf(lines, 3);
      for (const line of lines) assert.include(line, `/${CGROUP_PARENT}/monitors/berth-monitors`);
      await destroyContainer(subject, container);
      await subject.close();
    });
  });
}

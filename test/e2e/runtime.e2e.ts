/**
 * pkg/runtime on real things: runc, crun and runsc, each under the distribution's conmon and ours. The conformance
 * suite first, then what only real processes can do wrong. Needs root, busybox-static, runc, crun, runsc and conmon;
 * leaves nothing behind, which is checked.
 */
import { assert } from 'chai';
import { mountHugetlb } from './harness.ts';
import { execa } from 'execa';
import { existsSync } from 'node:fs';
import {
  chmod,
  cp,
  link,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rename,
  rm,
  rmdir,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { newContainerId, type ProcessRef } from '../../pkg/base/ids.ts';
import { backgroundOp, type Op, silent } from '../../pkg/base/op.ts';
import type { LinuxResources, RuntimeProcess, RuntimeSpec } from '../../pkg/oci/spec-types.ts';
import {
  capture,
  createContainer,
  destroyContainer,
  eventually,
  exitOf,
  type Prepared,
  refusal,
  runContainer,
  runtimeConformance,
  type Subject,
  testOp,
} from '../../pkg/runtime/conformance.ts';
import { ConmonMonitor, OciCli } from '../../pkg/runtime/index.ts';
import { orphans, processes as kernel } from '../../pkg/sys/index.ts';
import type { ExecStdio, Processes, RuntimeHandler } from '../../pkg/ports/runtime.ts';

const RUNTIMES: Readonly<Record<string, string>> = {
  runc: '/usr/sbin/runc',
  crun: '/usr/bin/crun',
  runsc: '/usr/bin/runsc',
};
const MONITORS: Readonly<Record<string, string>> = {
  "Debian's conmon": '/usr/bin/conmon',
  'our conmon': join(import.meta.dirname, '../../build/bin/conmon'),
};
const BUSYBOX = ['/bin/busybox', '/usr/bin/busybox'].find((path) => existsSync(path)) ?? '/bin/busybox';
const COMMANDS = [
  'sh',
  'sleep',
  'true',
  'false',
  'cat',
  'echo',
  'head',
  'tr',
  'seq',
  'kill',
  'stty',
  'dd',
  'setsid',
  'ps',
  'id',
  'tail',
];
/**
 * ptrace wants no hardware; a network stack of its own wants another way to tell the node's namespace than Debian's
 * runsc has: see docs/RUNTIMES.md.
 */
const RUNSC_ARGS = ['--platform=ptrace', '--network=host'];
const CGROUP_PARENT = `berth-runtime-test-${process.pid}`;
const SIGKILL = 9;

const processes: Processes = {
  alive: kernel.isAlive,
  signal: kernel.signal,
  heeds: kernel.heeds,
  hasExecuted: kernel.hasExecuted,
  gone: kernel.waitGone,
};

/** A directory of our own with a root file system, and subjects on it. */
class Ground {
  readonly dir: string;
  #handlers = 0;

  constructor(dir: string) {
    this.dir = dir;
  }

  static async make(): Promise<Ground> {
    orphans.becomeSubreaper();
    mountHugetlb();
    const ground = new Ground(await mkdtemp(join(tmpdir(), 'brt-')));
    const root = join(ground.dir, 'rootfs');
    for (const each of ['bin', 'proc', 'dev', 'sys', 'tmp']) await mkdir(join(root, each), { recursive: true });
    await cp(BUSYBOX, join(root, 'bin/busybox'));
    for (const each of COMMANDS) await symlink('busybox', join(root, 'bin', each));
    return ground;
  }

  /** Each handler has a directory of its own, so that one failed test does not fail the next. */
  handler(runtime: string, monitor: string, more: Partial<RuntimeHandler> = {}, name = ''): RuntimeHandler {
    const dir = join(this.dir, `${name}${this.#handlers++}`);
    return {
      name: 'test',
      path: RUNTIMES[runtime] ?? runtime,
      root: join(dir, 'rt'),
      monitorPath: MONITORS[monitor] ?? monitor,
      monitorEnv: [],
      monitorCgroup: '',
      cgroupManager: 'cgroupfs',
      runtimeArgs: runtime === 'runsc' ? RUNSC_ARGS : [],
      createTimeoutMs: 30_000,
      noPivot: false,
      noSyncLog: true,
      logSizeMaxBytes: -1,
      journal: 'none',
      ...more,
    };
  }

  /** A subject that checks on close that its containers left nothing. */
  async subject(handler: RuntimeHandler): Promise<RealSubject> {
    const dir = dirname(handler.root);
    const cgroup = join(CGROUP_PARENT, basename(dir));
    const root = join(this.dir, 'rootfs');
    for (const name of ['containers', 'logs']) await mkdir(join(dir, name), { recursive: true });
    const descriptors = await openDescriptors();
    const monitor = new ConmonMonitor({ exitsDir: join(dir, 'exits') });
    const runtime = new OciCli(handler);
    return {
      monitor,
      runtime,
      processes,
      prepare: async (args, { tty, resources }) => {
        const id = newContainerId();
        const prepared = { id, bundle: join(dir, 'containers', id), logPath: join(dir, 'logs', id) };
        await mkdir(prepared.bundle);
        await writeFile(
          join(prepared.bundle, 'config.json'),
          JSON.stringify(spec(args, tty, root, `/${cgroup}/${id}`, resources ?? {}), (_key, value: unknown) =>
            typeof value === 'bigint' ? Number(value) : value,
          ),
        );
        return prepared;
      },
      process: (args, { tty }) => processOf(args, tty),
      readLog: async (path) => (await logLines(path)).map(({ stream, tag, text }) => `${stream} ${tag} ${text}`),
      moveLog: (from, to) =>
        rename(from, to).catch((error: NodeJS.ErrnoException) => assert.strictEqual(error.code, 'ENOENT')),
      close: async () => {
        await monitor.close();
        await rm(join(dir, 'containers'), { recursive: true });
        await rm(join(dir, 'logs'), { recursive: true });
        await assertNothingLeft(dir, cgroup, descriptors);
      },
    };
  }

  async remove(): Promise<void> {
    for (const path of await cgroupDirectories(CGROUP_PARENT)) await removeCgroup(path);
    await rm(this.dir, { recursive: true });
  }
}

interface RealSubject extends Subject {
  prepare(
    args: readonly string[],
    options: { readonly tty: boolean; readonly resources?: LinuxResources },
  ): Promise<Prepared>;
}

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
    describeExec(`${runtime} exec`, () => ground.subject(ground.handler(runtime, 'our conmon')));
  }
  for (const monitor of Object.keys(MONITORS))
    describeBadRuntimes(`bad runtimes under ${monitor}`, monitor, () => ground);
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

function describeExec(title: string, open: () => Promise<RealSubject>): void {
  describe(title, () => {
    let subject: RealSubject;
    let container: Awaited<ReturnType<typeof runContainer>>;
    beforeEach(async () => {
      subject = await open();
      container = await runContainer(subject, ['sleep', '100000']);
    });
    afterEach(async () => {
      await destroyContainer(subject, container);
      await subject.close();
    });
    const exec = (script: string, stdio: ExecStdio, op: Op = testOp()): Promise<{ readonly exitCode: number }> =>
      subject.runtime.exec(op, container.id, subject.process(['sh', '-c', script], { tty: stdio.tty }), stdio);
    /** Processes in the container beside its first. */
    const others = async (): Promise<number> => {
      if (subject.runtime.handler.path !== RUNTIMES['runsc'])
        return (await cgroupMembers(container.process)).filter((pid) => pid !== container.process.pid).length;
      // The host sees one sandbox; inside there are the first process and the one that asks, and what its first process
      // does not reap.
      const stdio = capture();
      await exec('exec ps -o pid,stat', stdio);
      return (
        stdio
          .text('out')
          .trim()
          .split('\n')
          .filter((line) => !/Z|STAT/.test(line)).length - 2
      );
    };

    it('passes 10 MB of output, with back-pressure', async () => {
      let bytes = 0;
      const stdio: ExecStdio = {
        ...capture(),
        stdout: async (chunk) => {
          bytes += chunk.length;
          await new Promise((resolve) => setImmediate(resolve));
        },
      };
      assert.deepEqual(await exec('head -c 10000000 /dev/zero', stdio), { exitCode: 0 });
      assert.strictEqual(bytes, 10_000_000);
    });

    it('feeds 1 MB of stdin whole', async () => {
      async function* megabyte(): AsyncGenerator<Uint8Array> {
        for (let part = 0; part < 16; part++) yield Buffer.alloc(65_536, 'z');
      }
      let bytes = 0;
      const stdio: ExecStdio = { ...capture({ stdin: megabyte() }), stdout: (chunk) => void (bytes += chunk.length) };
      assert.deepEqual(await exec('cat', stdio), { exitCode: 0 });
      assert.strictEqual(bytes, 1_048_576);
    });

    it('does not care for input that the process does not read', async () => {
      async function* endless(): AsyncGenerator<Uint8Array> {
        for (;;) yield Buffer.alloc(65_536);
      }
      assert.deepEqual(await exec('exit 3', capture({ stdin: endless() })), { exitCode: 3 });
      assert.deepEqual(
        await exec(
          'exit 4',
          capture({ stdin: { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) } }),
        ),
        { exitCode: 4 },
      );
    });

    it('reports 128 + signal', async () => {
      assert.deepEqual(await exec('kill -9 $$', capture()), { exitCode: 137 });
    });

    it('returns when the process has ended, though a grandchild holds the pipes', async () => {
      const stdio = capture();
      const started = performance.now();
      assert.deepEqual(await exec('echo all of it; (sleep 100000 &)', stdio), { exitCode: 0 });
      assert.strictEqual(stdio.text('out'), 'all of it\n');
      assert.isBelow(performance.now() - started, 3_000);
      assert.strictEqual(await others(), 1, 'the grandchild lives on');
    });

    it('returns though a grandchild writes without end', async () => {
      let bytes = 0;
      const stdio: ExecStdio = { ...capture(), stdout: (chunk) => void (bytes += chunk.length) };
      assert.deepEqual(await exec('(while true; do echo again; done &)', stdio), { exitCode: 0 });
      assert.isBelow(bytes, 64 * 1_048_576);
    });

    it('kills the process with all that descends from it, and nothing else', async () => {
      const cancel = new AbortController();
      const stdio = capture();
      // What has lost its parent is found by its session, which a runtime with a kernel of its own does not tell.
      const orphan = subject.runtime.handler.path === RUNTIMES['runsc'] ? 'sleep 100001 &' : '(sleep 100001 &);';
      const running = refusal(
        exec(`${orphan} setsid sleep 100002 & sh -c "sleep 100003 & echo up; wait"`, stdio, {
          ...testOp(),
          signal: cancel.signal,
        }),
      );
      await eventually('all of it runs', async () => stdio.text('out') === 'up\n' && (await others()) >= 4);
      cancel.abort();
      assert.strictEqual((await running).code, 'Cancelled');
      await eventually('all of it is gone', async () => (await others()) === 0);
      assert.isTrue(subject.processes.alive(container.process));
    });

    it('says DeadlineExceeded when the time is up', async () => {
      const error = await refusal(exec('sleep 100000', capture(), backgroundOp(silent, 300)));
      assert.strictEqual(error.code, 'DeadlineExceeded');
      await eventually('it is gone', async () => (await others()) === 0);
    });

    it('refuses what cannot be executed, by name, and puts none of it into stderr', async () => {
      for (const [args, cwd] of [
        [['/dev/null'], '/'],
        [['/bin/none'], '/'],
        [['true'], '/no/such/dir'],
      ] as const) {
        const stdio = capture();
        const error = await refusal(
          subject.runtime.exec(testOp(), container.id, { ...subject.process(args, { tty: false }), cwd }, stdio),
        );
        assert.strictEqual(error.code, 'InvalidArgument', error.message);
        assert.strictEqual(stdio.text('err'), '');
      }
    });

    it('runs as another user who may write to its stdio by name', async () => {
      const stdio = capture();
      const given: RuntimeProcess = {
        ...subject.process(['sh', '-c', 'id -u; echo named > /dev/stderr'], { tty: false }),
        user: { uid: 1234, gid: 1234 },
      };
      assert.deepEqual(await subject.runtime.exec(testOp(), container.id, given, stdio), { exitCode: 0 });
      assert.strictEqual(stdio.text('out') + stdio.text('err'), '1234\nnamed\n');
    });

    it('gives a terminal: size, input, one stream', async () => {
      const stdio = {
        ...capture({ tty: true, stdin: lines('go\n') }),
        onTerminal: (resize: (size: { width: number; height: number }) => void) => resize({ width: 99, height: 33 }),
      };
      assert.deepEqual(await exec('read line; stty size; echo err >&2; exit 6', stdio), { exitCode: 6 });
      assert.include(stdio.text('out'), '33 99\r\nerr\r\n');
    });

    it('refuses with a terminal too, and kills with one too', async () => {
      const missing = subject.process(['/bin/none'], { tty: true });
      assert.strictEqual(
        (await refusal(subject.runtime.exec(testOp(), container.id, missing, capture({ tty: true })))).code,
        'InvalidArgument',
      );
      const cancel = new AbortController();
      const stdio = capture({ tty: true });
      const running = refusal(exec('echo up; sleep 100000', stdio, { ...testOp(), signal: cancel.signal }));
      await eventually('it runs', () => stdio.text('out') === 'up\r\n');
      cancel.abort();
      assert.strictEqual((await running).code, 'Cancelled');
      await eventually('it is gone', async () => (await others()) === 0);
    });

    it('runs twenty at once', async () => {
      const results = await Promise.all(
        Array.from({ length: 20 }, async (_, index) => {
          const stdio = capture();
          const { exitCode } = await exec(`echo ${index}; exit ${index}`, stdio);
          return `${exitCode} ${stdio.text('out')}`;
        }),
      );
      assert.deepEqual(
        results,
        Array.from({ length: 20 }, (_, index) => `${index} ${index}\n`),
      );
    });
  });
}

function describeBadRuntimes(title: string, monitor: string, ground: () => Ground): void {
  describe(title, () => {
    const program = async (name: string, script: string): Promise<string> => {
      const path = join(ground().dir, name);
      await writeFile(path, `#!/bin/sh\n${script}\n`);
      await chmod(path, 0o755);
      return path;
    };
    const create = async (path: string, more: Partial<RuntimeHandler> = {}): Promise<void> => {
      const subject = await ground().subject(ground().handler(path, monitor, more));
      try {
        const prepared = await subject.prepare(['true'], { tty: false });
        await subject.monitor.create(testOp(), {
          ...prepared,
          runtime: subject.runtime,
          name: 'x',
          tty: false,
          stdin: false,
          stdinOnce: false,
          ready: Promise.resolve(),
        });
      } finally {
        await subject.close();
      }
    };

    it('missing: an error that names it', async () => {
      const error = await refusal(create('/no/such/runtime'));
      assert.include(error.message, '/no/such/runtime');
      const features = await (await ground().subject(ground().handler('/no/such/runtime', monitor))).runtime.features(
        testOp(),
      );
      assert.include(features.broken, '/no/such/runtime');
    });

    it('missing monitor: an error that names it and the remedy', async () => {
      const error = await refusal(create('crun', { monitorPath: '/no/such/conmon' }));
      assert.strictEqual(error.code, 'NotFound');
      assert.match(error.message, /\/no\/such\/conmon.*configuration/);
    });

    it('failing: its words in the error', async () => {
      const error = await refusal(create(await program('failing', 'echo the flux capacitor is empty >&2; exit 1')));
      assert.include(error.message, 'the flux capacitor is empty');
    });

    it('failing with 10 MB of words: ends, with a short error', async () => {
      const path = await program('loud', "head -c 10000000 /dev/zero | tr '\\0' 'x' >&2; exit 1");
      const error = await refusal(create(path, { createTimeoutMs: 3_000 }));
      assert.isBelow(error.message.length, 9_000);
      assert.include(error.message, path);
    });

    it('hanging: killed with all it started, and the stage in the error', async () => {
      const path = await program('hanging', 'sleep 100000 & setsid sleep 100000 & sleep 100000');
      const error = await refusal(create(path, { createTimeoutMs: 700 }));
      assert.strictEqual(error.code, 'DeadlineExceeded');
      assert.include(error.message, `${path} create`);
    });

    it('lying: exit 0 without a container', async () => {
      const error = await refusal(create(await program('lying', 'exit 0'), { createTimeoutMs: 3_000 }));
      assert.match(error.message, /monitor|pid/);
    });

    it('hanging in other commands: bounded by the operation', async () => {
      const subject = await ground().subject(ground().handler(await program('slow', 'sleep 100000'), monitor));
      const id = newContainerId();
      const calls: ((op: Op) => Promise<unknown>)[] = [
        (op) => subject.runtime.start(op, id),
        (op) => subject.runtime.delete(op, id),
        (op) => subject.runtime.exec(op, id, subject.process(['true'], { tty: false }), capture()),
        (op) => subject.runtime.exec(op, id, subject.process(['true'], { tty: true }), capture({ tty: true })),
      ];
      for (const call of calls)
        assert.strictEqual((await refusal(call(backgroundOp(silent, 200)))).code, 'DeadlineExceeded');
      await subject.prepare(['true'], { tty: false });
      await subject.close();
    });
  });
}

/** A container's config.json: all namespaces new, a few capabilities that every test ground has. */
function spec(
  args: readonly string[],
  tty: boolean,
  root: string,
  cgroupsPath: string,
  resources: LinuxResources,
): RuntimeSpec {
  return {
    ociVersion: '1.0.2',
    process: processOf(args, tty),
    root: { path: root, readonly: true },
    hostname: 'test',
    mounts: [
      { destination: '/proc', type: 'proc', source: 'proc' },
      { destination: '/dev', type: 'tmpfs', source: 'tmpfs', options: ['nosuid', 'mode=755', 'size=65536k'] },
      {
        destination: '/dev/pts',
        type: 'devpts',
        source: 'devpts',
        options: ['newinstance', 'ptmxmode=0666', 'mode=0620'],
      },
      { destination: '/tmp', type: 'tmpfs', source: 'tmpfs' },
    ],
    linux: {
      namespaces: [{ type: 'pid' }, { type: 'mount' }, { type: 'ipc' }, { type: 'uts' }, { type: 'network' }],
      cgroupsPath,
      resources: { devices: [{ allow: false, access: 'rwm' }], ...resources },
    },
  };
}

function processOf(args: readonly string[], tty: boolean): RuntimeProcess {
  const capabilities = ['CAP_CHOWN', 'CAP_KILL', 'CAP_SETUID', 'CAP_SETGID'];
  return {
    terminal: tty,
    user: { uid: 0, gid: 0 },
    args: [...args],
    env: ['PATH=/bin', 'TERM=xterm'],
    cwd: '/',
    capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
    noNewPrivileges: true,
  };
}

interface LogLine {
  readonly time: string;
  readonly stream: string;
  readonly tag: string;
  readonly text: string;
}

/** The lines of a CRI log; none if it is absent. Throws on a line that is none. */
async function logLines(path: string): Promise<LogLine[]> {
  const text = await readFile(path, 'utf8').catch(() => '');
  return text
    .split('\n')
    .slice(0, -1)
    .map((line) => {
      const match = /^(\S+) (stdout|stderr) ([FP]) (.*)$/s.exec(line);
      if (match === null) throw new Error(`no line of a CRI log: ${JSON.stringify(line.slice(0, 200))}`);
      return { time: match[1] ?? '', stream: match[2] ?? '', tag: match[3] ?? '', text: match[4] ?? '' };
    });
}

/** What the container wrote: partial lines joined. */
function textOf(lines: readonly LogLine[]): string {
  return lines.map((line) => line.text + (line.tag === 'F' ? '\n' : '')).join('');
}

async function* lines(...texts: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

/** The cgroup directories of `path` in all hierarchies that have it. */
async function cgroupDirectories(path: string): Promise<string[]> {
  const names = await readdir('/sys/fs/cgroup');
  return names.map((name) => join('/sys/fs/cgroup', name, path)).filter((each) => existsSync(each));
}

async function subdirectories(path: string): Promise<string[]> {
  const entries = await readdir(path, { withFileTypes: true });
  return entries.filter((entry) => entry.isDirectory()).map((entry) => join(path, entry.name));
}

/** After a failed test there may be containers; they are ours alone, since the parent is named for this process. */
async function removeCgroup(path: string): Promise<void> {
  for (const each of await subdirectories(path)) await removeCgroup(each);
  const procs = await readFile(join(path, 'cgroup.procs'), 'utf8');
  for (const pid of procs.split('\n').filter((line) => line !== '')) process.kill(Number(pid), 'SIGKILL');
  await eventually(`${path} is removed`, () =>
    rmdir(path).then(
      () => true,
      () => false,
    ),
  );
}

async function cgroupPath(ref: ProcessRef, controller: string): Promise<string> {
  const text = await readFile(`/proc/${ref.pid}/cgroup`, 'utf8');
  const line = text.split('\n').find((each) => each.split(':')[1]?.split(',').includes(controller));
  return join('/sys/fs/cgroup', controller, line?.split(':')[2] ?? '');
}

async function cgroupValue(ref: ProcessRef, controller: string, file: string): Promise<string> {
  return (await readFile(join(await cgroupPath(ref, controller), file), 'utf8')).trim();
}

async function cgroupMembers(ref: ProcessRef): Promise<number[]> {
  const text = await readFile(join(await cgroupPath(ref, 'pids'), 'cgroup.procs'), 'utf8');
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map(Number);
}

async function openDescriptors(): Promise<string[]> {
  const names = await readdir('/proc/self/fd');
  const targets = await Promise.all(names.map(async (name) => readlink(`/proc/self/fd/${name}`).catch(() => '')));
  return targets.filter(
    (target) => /^(pipe|socket|anon_inode:\[(pidfd|inotify)\]|\/dev\/ptmx)/.test(target) || target.includes('/brt-'),
  );
}

/** Descriptors, processes, zombies, cgroups, runtime state, exit files, scratch files. */
async function assertNothingLeft(dir: string, cgroup: string, descriptorsBefore: readonly string[]): Promise<void> {
  await eventually('strays are reaped', () => orphans.reap() === 0);
  await eventually(
    'every descriptor is closed',
    async () => (await openDescriptors()).length <= descriptorsBefore.length,
  );
  for (const name of await readdir('/proc')) {
    if (!/^\d+$/.test(name) || Number(name) === process.pid) continue;
    const command = await readFile(`/proc/${name}/cmdline`, 'utf8').catch(() => '');
    assert.notInclude(command, dir, `process ${name} is left`);
  }
  for (const each of ['rt', 'rt.exec', 'exits'])
    assert.deepEqual(await readdir(join(dir, each)).catch(() => []), [], `${each} is not empty`);
  for (const each of await cgroupDirectories(cgroup))
    assert.deepEqual(await subdirectories(each), [], 'a cgroup is left');
}

/** Execs by real runtimes, and runtimes that are none, hang, or lie. */
import { assert } from 'chai';
import type { ExecStdio, RuntimeHandler } from '../../pkg/ports/runtime.ts';
import { chmod, readdir, writeFile } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { newContainerId } from '../../pkg/base/ids.ts';
import { backgroundOp, type Op, silent } from '../../pkg/base/op.ts';
import type { RuntimeProcess } from '../../pkg/oci/spec-types.ts';
import { capture, destroyContainer, eventually, refusal, runContainer, testOp } from '../../pkg/runtime/conformance.ts';
import { RUNTIMES, MONITORS, Ground, type RealSubject, lines, cgroupMembers } from './runtime-ground.ts';

describe('pkg/runtime: exec, and bad runtimes', function () {
  this.timeout(60_000);
  let ground: Ground;
  before(async () => {
    ground = await Ground.make();
  });
  after(() => ground.remove());

  for (const runtime of Object.keys(RUNTIMES))
    describeExec(`${runtime} exec`, () => ground.subject(ground.handler(runtime, 'our conmon')));
  for (const monitor of Object.keys(MONITORS))
    describeBadRuntimes(`bad runtimes under ${monitor}`, monitor, () => ground);
});

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

    it('follows what a grandchild writes late, until it ends or the operation does', async () => {
      const stdio = capture({ lateOutput: 'follow' });
      const stages: string[] = [];
      const cancel = new AbortController();
      const op = { ...testOp(), signal: cancel.signal, stage: (what: string) => void stages.push(what) };
      const followed = (): boolean => stages.at(-1)?.includes('has ended') === true;
      const whole = exec('(sleep 0.5; echo late) & echo early; exit 3', stdio, op);
      assert.deepEqual(await whole, { exitCode: 3 });
      assert.strictEqual(stdio.text('out'), 'early\nlate\n');
      stages.length = 0;
      const held = exec('(sleep 100000 &); exit 4', capture({ lateOutput: 'follow' }), op);
      await eventually('the command has ended', followed);
      cancel.abort();
      assert.deepEqual(await held, { exitCode: 4 });
      assert.strictEqual(await others(), 1, 'the grandchild lives on');
    });

    it('does not wait for output that nobody wants', async () => {
      const stdio: ExecStdio = { ...capture({ lateOutput: 'follow' }), stderr: null };
      assert.deepEqual(await exec('(sleep 100000 > /dev/null &); exit 5', stdio), { exitCode: 5 });
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

    it('hanging: killed with all it started, and the stage in the error (K13)', async () => {
      const path = await program('hanging', 'sleep 100000 & setsid sleep 100000 & sleep 100000');
      const error = await refusal(create(path, { createTimeoutMs: 700 }));
      assert.strictEqual(error.code, 'DeadlineExceeded');
      assert.include(error.message, `${path} create`);
    });

    it('lying: exit 0 without a container (K13)', async () => {
      const error = await refusal(create(await program('lying', 'exit 0'), { createTimeoutMs: 3_000 }));
      assert.match(error.message, /monitor|pid/);
    });

    it('killed in the middle of its pid file, which runc renames when it is whole: nothing stays', async () => {
      const draft = 'while [ $# -gt 0 ]; do [ "$1" != --pid-file ] || : >"${2%/*}/.${2##*/}"; shift; done';
      const path = await program(
        'drafting',
        `case " $* " in *" exec "*) ${draft}; exec sleep 1000;; esac; exec crun "$@"`,
      );
      const subject = await ground().subject(ground().handler(path, monitor));
      const scratch = join(dirname(subject.runtime.handler.root), 'rt.exec');
      const over = new AbortController();
      const stdio = capture();
      const exec = refusal(
        subject.runtime.exec(
          { ...testOp(), signal: over.signal },
          newContainerId(),
          subject.process(['true'], { tty: false }),
          stdio,
        ),
      );
      const files = async (): Promise<string[]> => await readdir(scratch).catch(() => []);
      await eventually('the runtime is at its pid file', async () => (await files()).includes('.0.pid'));
      over.abort();
      await exec;
      assert.deepEqual(await files(), []);
      await subject.prepare(['true'], { tty: false });
      await subject.close();
    });

    it('hanging in other commands: bounded by the operation (K13)', async () => {
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

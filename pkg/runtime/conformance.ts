/**
 * What every Monitor and OciRuntime must do, as one mocha suite: run on the fakes by fake.test.ts, and on runc and crun
 * under both conmons by test/e2e/runtime.e2e.ts. Programs are few words of shell that busybox and FakeProcess both
 * know.
 */
import { assert } from 'chai';
import { isCode, RuntimeError } from '../base/errors.ts';
import type { ContainerId, ProcessRef } from '../base/ids.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import type { RuntimeProcess } from '../oci/spec-types.ts';
import type { ExecStdio, ExitRecord, Monitor, OciRuntime, Processes } from '../ports/runtime.ts';

/** One pair under test, and the ground it stands on. */
export interface Subject {
  readonly monitor: Monitor;
  readonly runtime: OciRuntime;
  readonly processes: Processes;
  /** A new bundle whose first process executes `args`. */
  prepare(args: readonly string[], options: { readonly tty: boolean }): Promise<Prepared>;
  /** A process for exec, with what else the runtime wants in it. */
  process(args: readonly string[], options: { readonly tty: boolean }): RuntimeProcess;
  /** The log without its time stamps: `stdout F text` per line. */
  readLog(path: string): Promise<readonly string[]>;
  /** What the kubelet does before ReopenContainerLog. */
  moveLog(from: string, to: string): Promise<void>;
  /** Gives everything back, and fails if a container left something. */
  close(): Promise<void>;
}

export interface Prepared {
  readonly id: ContainerId;
  readonly bundle: string;
  readonly logPath: string;
}

const SIGTERM = 15;
const SIGKILL = 9;
const RUNS_FOREVER = ['sleep', '100000'];
/** Ends on TERM with 5; the shell has to be first process and to wait for its child to see the signal. */
const HANDLES_TERM = ['sh', '-c', "trap 'exit 5' TERM; echo ready; while true; do sleep 0.01; done"];

/** Declares the suite `name`; `open` makes a fresh subject for each test. */
export function runtimeConformance(name: string, open: () => Promise<Subject>): void {
  describe(name, () => {
    let subject: Subject;
    beforeEach(async () => {
      subject = await open();
    });
    afterEach(() => subject.close());
    describeLife(() => subject);
    describeExits(() => subject);
    describeLogs(() => subject);
    describeExec(() => subject);
  });
}

/** An operation of a test: it ends after 30 s, so that a hang is a failure with a name. */
export function testOp(): Op {
  return backgroundOp(silent, 30_000);
}

/** Creates a container that executes `args` under `subject`. */
export async function createContainer(
  subject: Subject,
  args: readonly string[],
  options: { readonly tty?: boolean; readonly stdin?: boolean; readonly stdinOnce?: boolean } = {},
): Promise<Prepared & { readonly process: ProcessRef; readonly monitor: ProcessRef | null }> {
  const tty = options.tty ?? false;
  const prepared = await subject.prepare(args, { tty });
  const made = await subject.monitor.create(testOp(), {
    id: prepared.id,
    runtime: subject.runtime,
    name: `test-${prepared.id.slice(0, 8)}`,
    bundle: prepared.bundle,
    logPath: prepared.logPath,
    tty,
    stdin: options.stdin ?? false,
    stdinOnce: options.stdinOnce ?? false,
    ready: Promise.resolve(),
  });
  return { ...prepared, ...made };
}

/** Creates and starts. */
export async function runContainer(
  subject: Subject,
  args: readonly string[],
  options: { readonly tty?: boolean; readonly stdin?: boolean; readonly stdinOnce?: boolean } = {},
): ReturnType<typeof createContainer> {
  const container = await createContainer(subject, args, options);
  await subject.runtime.start(testOp(), container.id);
  return container;
}

/** What destroy does with a container: the runtime's part, then the monitor's. */
export async function destroyContainer(subject: Subject, container: Prepared): Promise<void> {
  await subject.runtime.delete(testOp(), container.id);
  await subject.monitor.destroy(testOp(), container.id, container.bundle);
}

/** The next exit of `id`. */
export async function exitOf(subject: Subject, id: ContainerId): Promise<ExitRecord> {
  const end = new AbortController();
  const deadline = AbortSignal.any([end.signal, AbortSignal.timeout(20_000)]);
  try {
    for await (const record of subject.monitor.exits(deadline)) if (record.id === id) return record;
  } finally {
    end.abort();
  }
  throw new RuntimeError('DeadlineExceeded', `no exit of ${id} was reported`);
}

/** Collects what an exec writes. */
export function capture(
  options: Partial<Pick<ExecStdio, 'tty' | 'stdin' | 'lateOutput'>> = {},
): ExecStdio & { text(stream: 'out' | 'err'): string } {
  const parts = { out: [] as Uint8Array[], err: [] as Uint8Array[] };
  return {
    tty: options.tty ?? false,
    stdin: options.stdin ?? null,
    lateOutput: options.lateOutput ?? 'cut',
    stdout: (chunk) => void parts.out.push(Uint8Array.from(chunk)),
    stderr: options.tty === true ? null : (chunk) => void parts.err.push(Uint8Array.from(chunk)),
    text: (stream) => Buffer.concat(parts[stream]).toString('utf8'),
  };
}

/** The error that `work` rejects with. */
export async function refusal(work: Promise<unknown>): Promise<RuntimeError> {
  try {
    await work;
  } catch (error) {
    if (error instanceof RuntimeError) return error;
    throw error;
  }
  throw new Error('it did not fail');
}

/** Polls without a clock of its own: yields to the event loop until `holds`, or the suite's time is up. */
export async function eventually(what: string, holds: () => Promise<boolean> | boolean): Promise<void> {
  const end = Date.now() + 15_000;
  while (!(await holds())) {
    if (Date.now() > end) throw new Error(`did not come true: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

function describeLife(of: () => Subject): void {
  it('creates when the bundle is ready, and not at all if it never is', async () => {
    const subject = of();
    const [first, second] = await Promise.all([
      subject.prepare(RUNS_FOREVER, { tty: false }),
      subject.prepare(RUNS_FOREVER, { tty: false }),
    ]);
    const request = { runtime: subject.runtime, name: 'test', tty: false, stdin: false, stdinOnce: false };
    const ready = Promise.withResolvers<void>();
    const creating = subject.monitor.create(testOp(), { ...first, ...request, ready: ready.promise });
    const why = await refusal(
      subject.monitor.create(testOp(), {
        ...second,
        ...request,
        ready: Promise.reject(new RuntimeError('ResourceExhausted', 'no room for a root')),
      }),
    );
    assert.strictEqual(why.message, 'no room for a root');
    for (const { id } of [first, second])
      assert.strictEqual((await subject.runtime.status(testOp(), id)).state, 'absent');
    ready.resolve();
    const { process } = await creating;
    assert.deepEqual(await subject.runtime.status(testOp(), first.id), { state: 'created', pid: process.pid });
    for (const each of [first, second]) await destroyContainer(subject, each);
  });

  it('creates, starts, kills and deletes', async () => {
    const subject = of();
    const container = await createContainer(subject, RUNS_FOREVER);
    assert.isTrue(subject.processes.alive(container.process));
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), {
      state: 'created',
      pid: container.process.pid,
    });
    await subject.runtime.start(testOp(), container.id);
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), {
      state: 'running',
      pid: container.process.pid,
    });
    assert.include(await subject.runtime.list(testOp()), container.id);
    await subject.runtime.kill(testOp(), container.id, SIGKILL);
    await subject.processes.gone(container.process, AbortSignal.timeout(10_000));
    assert.isFalse(subject.processes.alive(container.process));
    await destroyContainer(subject, container);
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), { state: 'absent' });
    assert.notInclude(await subject.runtime.list(testOp()), container.id);
  });

  it('deletes what runs, and is content when there is nothing', async () => {
    const subject = of();
    const container = await runContainer(subject, RUNS_FOREVER);
    await destroyContainer(subject, container);
    assert.isFalse(subject.processes.alive(container.process));
    if (container.monitor !== null) assert.isFalse(subject.processes.alive(container.monitor));
    assert.isUndefined(await subject.monitor.exitOf(container.id));
    await destroyContainer(subject, container);
  });

  it('refuses what the state does not allow', async () => {
    const subject = of();
    const container = await runContainer(subject, RUNS_FOREVER);
    assert.strictEqual((await refusal(subject.runtime.start(testOp(), container.id))).code, 'FailedPrecondition');
    await destroyContainer(subject, container);
    assert.strictEqual((await refusal(subject.runtime.start(testOp(), container.id))).code, 'NotFound');
    assert.strictEqual((await refusal(subject.runtime.kill(testOp(), container.id, SIGTERM))).code, 'NotFound');
  });

  it('pauses and resumes', async () => {
    const subject = of();
    const container = await runContainer(subject, RUNS_FOREVER);
    await subject.runtime.pause(testOp(), container.id);
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), {
      state: 'paused',
      pid: container.process.pid,
    });
    await subject.runtime.resume(testOp(), container.id);
    assert.deepEqual(await subject.runtime.status(testOp(), container.id), {
      state: 'running',
      pid: container.process.pid,
    });
    await destroyContainer(subject, container);
  });
}

function describeExits(of: () => Subject): void {
  it('reports the exit code', async () => {
    const subject = of();
    const container = await runContainer(subject, ['sh', '-c', 'exit 42']);
    const record = await exitOf(subject, container.id);
    assert.deepInclude(record, { id: container.id, exitCode: 42, oomKilled: false });
    assert.deepEqual(await subject.monitor.exitOf(container.id), record);
    await destroyContainer(subject, container);
  });

  it('reports 128 + signal, and what a handler of the signal says', async () => {
    const subject = of();
    const killed = await runContainer(subject, RUNS_FOREVER);
    await subject.runtime.kill(testOp(), killed.id, SIGKILL);
    assert.strictEqual((await exitOf(subject, killed.id)).exitCode, 137);
    await destroyContainer(subject, killed);
    const polite = await runContainer(subject, HANDLES_TERM);
    await eventually('the trap is set', async () => (await subject.readLog(polite.logPath)).length > 0);
    await subject.runtime.kill(testOp(), polite.id, SIGTERM);
    assert.strictEqual((await exitOf(subject, polite.id)).exitCode, 5);
    await destroyContainer(subject, polite);
  });

  it('reports exits that came before it was asked, and then the live ones', async () => {
    const subject = of();
    const early = await runContainer(subject, ['sh', '-c', 'exit 1']);
    await eventually('the first exit is on disk', async () => (await subject.monitor.exitOf(early.id)) !== undefined);
    const end = new AbortController();
    const seen: ExitRecord[] = [];
    const reading = (async () => {
      for await (const record of subject.monitor.exits(end.signal)) seen.push(record);
    })();
    await eventually('the early exit is reported', () => seen.some((each) => each.id === early.id));
    const late = await runContainer(subject, ['sh', '-c', 'exit 2']);
    await eventually('the late exit is reported', () =>
      seen.some((each) => each.id === late.id && each.exitCode === 2),
    );
    end.abort();
    await reading;
    await destroyContainer(subject, early);
    await destroyContainer(subject, late);
  });

  it('knows no exit of a container that runs', async () => {
    const subject = of();
    const container = await runContainer(subject, RUNS_FOREVER);
    assert.isUndefined(await subject.monitor.exitOf(container.id));
    await destroyContainer(subject, container);
  });
}

function describeLogs(of: () => Subject): void {
  it('logs both streams', async () => {
    const subject = of();
    const container = await runContainer(subject, ['sh', '-c', 'echo to-out; echo to-err >&2']);
    await exitOf(subject, container.id);
    assert.sameMembers([...(await subject.readLog(container.logPath))], ['stdout F to-out', 'stderr F to-err']);
    await destroyContainer(subject, container);
  });

  it('reopens a log that was moved away', async () => {
    const subject = of();
    const container = await runContainer(subject, ['cat'], { stdin: true });
    const channel = await subject.monitor.attach(testOp(), container.id, container.bundle);
    await channel.write(Buffer.from('before\n'));
    await eventually('the first line is logged', async () => (await subject.readLog(container.logPath)).length === 1);
    const old = `${container.logPath}.1`;
    await subject.moveLog(container.logPath, old);
    await subject.monitor.reopenLog(testOp(), container.bundle, container.logPath);
    await channel.write(Buffer.from('after\n'));
    await eventually('the second line is logged', async () => (await subject.readLog(container.logPath)).length === 1);
    assert.deepEqual(await subject.readLog(old), ['stdout F before']);
    assert.deepEqual(await subject.readLog(container.logPath), ['stdout F after']);
    channel.close();
    await destroyContainer(subject, container);
  });

  it('drops the log of a container that says nothing, and keeps one with a line', async () => {
    const subject = of();
    const container = await runContainer(subject, ['echo', 'said']);
    await exitOf(subject, container.id);
    await subject.monitor.dropEmptyLog(container.logPath);
    assert.deepEqual(await subject.readLog(container.logPath), ['stdout F said']);
    await subject.monitor.dropEmptyLog(`${container.logPath}.none`);
    await destroyContainer(subject, container);
    const silent = await runContainer(subject, ['true']);
    await exitOf(subject, silent.id);
    await subject.monitor.dropEmptyLog(silent.logPath);
    const error = await subject.monitor.noteInLog(silent.logPath, 'more').then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.isDefined(error, 'there is no log any more');
    await destroyContainer(subject, silent);
  });

  it('refuses to reopen the log of a container that has ended, and makes no file', async () => {
    const subject = of();
    const container = await runContainer(subject, ['true']);
    await exitOf(subject, container.id);
    if (container.monitor !== null) await subject.processes.gone(container.monitor, AbortSignal.timeout(10_000));
    await subject.moveLog(container.logPath, `${container.logPath}.1`);
    const error = await refusal(subject.monitor.reopenLog(testOp(), container.bundle, container.logPath));
    assert.strictEqual(error.code, 'FailedPrecondition');
    assert.deepEqual(await subject.readLog(container.logPath), []);
    await destroyContainer(subject, container);
  });

  it('attaches to stdin and stdout', async () => {
    const subject = of();
    const container = await runContainer(subject, ['cat'], { stdin: true, stdinOnce: true });
    const channel = await subject.monitor.attach(testOp(), container.id, container.bundle);
    await channel.write(Buffer.from('hello\n'));
    let text = '';
    for await (const { stream, data } of channel.output) {
      assert.strictEqual(stream, 'stdout');
      text += Buffer.from(data).toString('utf8');
      if (text.endsWith('\n')) break;
    }
    assert.strictEqual(text, 'hello\n');
    channel.close();
    assert.strictEqual((await exitOf(subject, container.id)).exitCode, 0, 'stdinOnce: cat saw the end of its input');
    await destroyContainer(subject, container);
  });
}

function describeExec(of: () => Subject): void {
  const withContainer = async (work: (subject: Subject, id: ContainerId) => Promise<void>): Promise<void> => {
    const subject = of();
    const container = await runContainer(subject, RUNS_FOREVER);
    await work(subject, container.id);
    await destroyContainer(subject, container);
  };

  it('executes: exit code and both streams apart', () =>
    withContainer(async (subject, id) => {
      const stdio = capture();
      const process = subject.process(['sh', '-c', 'echo one; echo two >&2; exit 7'], { tty: false });
      assert.deepEqual(await subject.runtime.exec(testOp(), id, process, stdio), { exitCode: 7 });
      assert.strictEqual(stdio.text('out'), 'one\n');
      assert.strictEqual(stdio.text('err'), 'two\n');
    }));

  it('feeds stdin to its end', () =>
    withContainer(async (subject, id) => {
      const stdio = capture({ stdin: chunks('abc\n', 'def\n') });
      assert.deepEqual(await subject.runtime.exec(testOp(), id, subject.process(['cat'], { tty: false }), stdio), {
        exitCode: 0,
      });
      assert.strictEqual(stdio.text('out'), 'abc\ndef\n');
    }));

  it('names a program that is not there', () =>
    withContainer(async (subject, id) => {
      const error = await refusal(
        subject.runtime.exec(testOp(), id, subject.process(['no-such-program'], { tty: false }), capture()),
      );
      assert.include(error.message, 'no-such-program');
      assert.strictEqual(error.code, 'InvalidArgument');
    }));

  it('kills the process when the operation is over', () =>
    withContainer(async (subject, id) => {
      const cancel = new AbortController();
      const op: Op = { ...testOp(), signal: cancel.signal };
      const stdio = capture();
      const running = refusal(
        subject.runtime.exec(op, id, subject.process(['sh', '-c', 'echo up; sleep 100000'], { tty: false }), stdio),
      );
      await eventually('it runs', () => stdio.text('out') === 'up\n');
      cancel.abort();
      assert.isTrue(isCode(await running, 'Cancelled'));
    }));

  it('executes in a container that waits for its start, with a terminal and without', async () => {
    const subject = of();
    const container = await createContainer(subject, RUNS_FOREVER);
    const { ownKernel } = await subject.runtime.features(testOp());
    for (const tty of [false, true]) {
      const output = capture();
      const process = subject.process(['echo', 'early'], { tty });
      if (ownKernel) {
        // Nothing is in such a container before its start.
        const refused = await refusal(subject.runtime.exec(testOp(), container.id, process, { ...output, tty }));
        assert.strictEqual(refused.code, 'FailedPrecondition');
        continue;
      }
      assert.deepEqual(await subject.runtime.exec(testOp(), container.id, process, { ...output, tty }), {
        exitCode: 0,
      });
      assert.strictEqual(output.text('out').trimEnd(), 'early');
    }
    await destroyContainer(subject, container);
  });

  it('executes nothing in a container that does not run', async () => {
    const subject = of();
    const container = await runContainer(subject, ['true']);
    await exitOf(subject, container.id);
    const process = subject.process(['true'], { tty: false });
    assert.strictEqual(
      (await refusal(subject.runtime.exec(testOp(), container.id, process, capture()))).code,
      'FailedPrecondition',
    );
    await destroyContainer(subject, container);
    assert.strictEqual(
      (await refusal(subject.runtime.exec(testOp(), container.id, process, capture()))).code,
      'NotFound',
    );
  });
}

async function* chunks(...texts: readonly string[]): AsyncGenerator<Uint8Array> {
  for (const text of texts) yield Buffer.from(text);
}

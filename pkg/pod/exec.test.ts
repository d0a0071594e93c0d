import { assert } from 'chai';
import { codeOf } from '../base/errors.ts';
import type { ContainerId, SandboxId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { FakeSurroundings, fakeContainer, fakePod } from './fake-world.ts';
import type { OpenPods } from './index.ts';

const op = (): Op => backgroundOp(silent);
const text = (bytes: Uint8Array): string => Buffer.from(bytes).toString();

describe('ways into a running container', () => {
  let node: FakeSurroundings;
  let mind: OpenPods;
  let pod: SandboxId;
  let id: ContainerId;

  beforeEach(async () => {
    node = await FakeSurroundings.make();
    mind = await node.boot();
    pod = await mind.pods.run(op(), fakePod(), '');
    id = await mind.containers.create(op(), pod, fakeContainer());
    await mind.containers.start(op(), id);
  });
  afterEach(async () => {
    mind.close();
    await node.dispose();
  });

  it('runs a probe beside as many commands as a container may have, and refuses one more', async () => {
    const patience = new AbortController();
    const long = { ...op(), signal: patience.signal };
    const stdio = { tty: false, stdin: null, stdout: null, stderr: null, lateOutput: 'cut' as const };
    const others = Array.from({ length: limits.execsPerContainerCount - 1 }, () =>
      mind.execs.exec(long, id, ['sleep', '1000'], stdio).then(() => 'ended', codeOf),
    );
    assert.strictEqual((await mind.execs.execSync(op(), id, ['true'], 0)).exitCode, 0);
    others.push(mind.execs.exec(long, id, ['sleep', '1000'], stdio).then(() => 'ended', codeOf));
    const refused = await mind.execs.execSync(op(), id, ['true'], 0).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.strictEqual(codeOf(refused), 'ResourceExhausted');
    assert.match(String(refused), new RegExp(`${id} has ${limits.execsPerContainerCount} commands`));
    patience.abort();
    assert.deepEqual(new Set(await Promise.all(others)), new Set(['Cancelled']));
    assert.strictEqual((await mind.execs.execSync(op(), id, ['true'], 0)).exitCode, 0);
  });

  it('gives ExecSync the terminal that the container has', async () => {
    const said = async (container: ContainerId): Promise<readonly string[]> => {
      const { stdout, stderr } = await mind.execs.execSync(op(), container, ['sh', '-c', 'echo err >&2'], 0);
      return [text(stdout), text(stderr)];
    };
    assert.deepEqual(await said(id), ['', 'err\n']);
    const terminal = await mind.containers.create(op(), pod, { ...fakeContainer('terminal'), tty: true });
    await mind.containers.start(op(), terminal);
    assert.deepEqual(await said(terminal), ['err\n', '']);
  });

  it('runs commands in a container that waits for its start, and none in one that has ended', async () => {
    const stdio = { tty: false, stdin: null, stdout: null, stderr: null, lateOutput: 'cut' as const };
    const created = await mind.containers.create(op(), pod, fakeContainer('created'));
    assert.strictEqual((await mind.execs.execSync(op(), created, ['true'], 0)).exitCode, 0);
    assert.deepEqual(await mind.execs.exec(op(), created, ['false'], stdio), { exitCode: 1 });
    await mind.containers.stop(op(), created, 0);
    assert.strictEqual(
      await mind.execs.exec(op(), created, ['true'], stdio).then(() => 'Ok', codeOf),
      'FailedPrecondition',
    );
  });

  it('ends an attach session when the container ends, and refuses one after that', async () => {
    const channel = await mind.execs.attach(op(), id);
    const seen: string[] = [];
    const reading = (async () => {
      for await (const packet of channel.output) seen.push(text(packet.data));
    })();
    await mind.containers.stop(op(), id, 0);
    await reading;
    channel.close();
    const codes = [mind.execs.attach(op(), id), mind.execs.execSync(op(), id, ['true'], 0)].map(
      (work: Promise<unknown>) => work.then(() => 'Ok', codeOf),
    );
    assert.deepEqual(await Promise.all(codes), ['FailedPrecondition', 'NotFound']);
  });

  it('carries bytes to a port of the pod and back, until the pod stops', async () => {
    const connection = await mind.execs.portForward(op(), pod, 7);
    const reader = connection[Symbol.asyncIterator]();
    const answer = reader.next();
    await connection.write(Buffer.from('hello'));
    assert.strictEqual(text((await answer).value as Uint8Array), 'hello');
    const end = reader.next();
    await mind.pods.stop(op(), pod);
    assert.isTrue((await end).done);
    connection.close();
  });

  it('says which port nobody listens on', async () => {
    const error = await mind.execs.portForward(op(), pod, 81).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.strictEqual(codeOf(error), 'Unavailable');
    assert.match(String(error), /port 81/);
  });

  it('forwards nothing into a pod that is stopped or was never there', async () => {
    await mind.pods.stop(op(), pod);
    const stopped = await mind.execs.portForward(op(), pod, 7).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.strictEqual(codeOf(stopped), 'FailedPrecondition');
    await mind.pods.remove(op(), pod);
    const gone = await mind.execs.portForward(op(), pod, 7).then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.strictEqual(codeOf(gone), 'NotFound');
  });
});

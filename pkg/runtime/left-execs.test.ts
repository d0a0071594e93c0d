import { assert } from 'chai';
import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import type { ContainerId, ProcessRef } from '../base/ids.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { monotonicMs } from '../base/time.ts';
import { processes } from '../sys/index.ts';
import { fakeHandler } from './fake-runtime.ts';
import { parseDue } from './left-execs.ts';
import { OciCli } from './oci-cli.ts';
import { ExecScratch } from './scratch.ts';

const ID = 'ab'.repeat(32) as ContainerId;

describe('commands that a dead daemon began', () => {
  let directory: string;
  let child: ChildProcess;
  let ref: ProcessRef;
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'berth-left-'));
    child = spawn('sleep', ['1000'], { stdio: 'ignore', detached: true });
    const found = processes.refOf(child.pid ?? 0);
    assert.isDefined(found);
    ref = found;
  });
  afterEach(async () => {
    const gone = child.exitCode === null && child.signalCode === null ? once(child, 'exit') : undefined;
    child.kill('SIGKILL');
    await gone;
    rmSync(directory, { recursive: true });
  });
  const left = (name: string, inMs: number, startTicks?: bigint): void =>
    writeFileSync(
      join(directory, name),
      `${ID} ${Math.ceil(monotonicMs() + inMs)}${startTicks === undefined ? '' : ` ${ref.pid} ${startTicks}`}`,
    );
  const runtime = (scratch = new ExecScratch(directory)): OciCli =>
    new OciCli({ ...fakeHandler('runc'), path: join(directory, 'absent'), root: directory }, scratch);
  const end = (op: Op = backgroundOp(silent)): Promise<void> => runtime().endLeftExecs(op);

  it('are ended when their time is over, and not before', async () => {
    const began = performance.now();
    left('7.due', 60, ref.startTicks);
    const gone = once(child, 'exit');
    await end();
    assert.deepEqual(await gone, [null, 'SIGKILL']);
    assert.isAtLeast(performance.now() - began, 60);
    assert.deepEqual(readdirSync(directory), []);
  });

  it('that have ended are not taken for who has their number now', async () => {
    left('7.due', -1, ref.startTicks - 1n);
    await end();
    assert.isTrue(processes.isAlive(ref));
    assert.deepEqual(readdirSync(directory), []);
  });

  it('are not taken for who is in no cgroup of their container, when their daemon died as they began', async () => {
    left('7.due', -1);
    writeFileSync(join(directory, '7.pid'), String(ref.pid));
    await end();
    assert.isTrue(processes.isAlive(ref));
    assert.deepEqual(readdirSync(directory), []);
  });

  it('that a runtime does not come to begin are ended with it in time', async () => {
    const json = join(directory, '7.json');
    const runtime = spawn('sh', ['-c', 'while :; do sleep 1; done', 'exec', '--process', json], { detached: true });
    left('7.due', 60);
    writeFileSync(json, '{}');
    const gone = once(runtime, 'exit');
    await end();
    assert.deepEqual(await gone, [null, 'SIGKILL']);
    assert.deepEqual(readdirSync(directory), []);
  });

  it('keep their time when the daemon stops again before it is over', async () => {
    left('7.due', 600_000, ref.startTicks);
    const stop = new AbortController();
    const ending = end({ ...backgroundOp(silent), signal: stop.signal });
    stop.abort();
    await ending;
    assert.isTrue(processes.isAlive(ref));
    assert.deepEqual(readdirSync(directory), ['7.due']);
  });

  it('leave nothing else behind, and nobody else gets the name of what stays', async () => {
    left('7.due', 600_000, ref.startTicks);
    for (const name of ['1.json', '2.pid', '3.due', 'x']) writeFileSync(join(directory, name), 'torn');
    const scratch = new ExecScratch(directory);
    assert.strictEqual(basename(await scratch.take()), '8');
    assert.deepEqual(readdirSync(directory), ['7.due']);
    assert.lengthOf(await scratch.takeLeft(), 1);
    assert.lengthOf(await scratch.takeLeft(), 0);
  });

  it('are read only if they were written whole', () => {
    assert.deepEqual(parseDue(`${ID} 10`), { id: ID, dueMs: 10, process: undefined });
    assert.deepEqual(parseDue(`${ID} 10 7 8`), { id: ID, dueMs: 10, process: { pid: 7, startTicks: 8n } });
    for (const text of ['', ID, `${ID} `, `${ID} 10 7`, `${ID} 10 7 `, `${ID} 10 7 8 9`, `${ID} -10 7 8`])
      assert.isUndefined(parseDue(text), text);
  });
});

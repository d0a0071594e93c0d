import { assert } from 'chai';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { OutputRoom } from './capture.ts';

const op = (signal?: AbortSignal): Op => (signal === undefined ? backgroundOp(silent) : { ...backgroundOp(silent), signal });
const large = Buffer.alloc(limits.execSmallOutputBytes + 1, 'x');

/** Whether a promise settles within a few turns of the loop. */
async function settles(work: Promise<unknown>): Promise<boolean> {
  let settled = false;
  work.then(() => (settled = true), () => (settled = true));
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve));
  return settled;
}

describe('captured output', () => {
  it('is what was written, copied, stream by stream', async () => {
    const output = new OutputRoom().open(op());
    const chunk = Buffer.from('one ');
    await output.stdout.add(chunk);
    chunk.fill('?');
    await output.stdout.add(Buffer.from('two'));
    await output.stderr.add(large);
    assert.equal(Buffer.from(output.stdout.bytes()).toString(), 'one two');
    assert.equal(output.stderr.bytes().length, large.length);
  });

  it('keeps the first 16 MiB of a stream', async () => {
    const { stdout } = new OutputRoom().open(op());
    const mebibyte = Buffer.alloc(1 << 20);
    for (let i = 0; i < 20; i++) await stdout.add(mebibyte.fill(i));
    assert.equal(stdout.bytes().length, limits.execOutputBytes);
    assert.deepEqual([stdout.bytes()[0], stdout.bytes().at(-1)], [0, 15]);
  });

  it('is large for a few commands at once; the others are held back until one has ended', async () => {
    const room = new OutputRoom();
    const first = Array.from({ length: limits.execLargeOutputsCount }, () => room.open(op()));
    for (const each of first) await each.stdout.add(large);
    const late = room.open(op());
    await late.stdout.add(Buffer.from('a small output needs no place'));
    const waiting = late.stdout.add(large);
    assert.isFalse(await settles(waiting));
    first[0]?.release();
    await waiting;
    assert.isTrue(await settles(late.stderr.add(large)), 'one place serves both streams');
  });

  it('is waited for no longer than by its own caller, whose place goes to the next', async () => {
    const room = new OutputRoom();
    const first = Array.from({ length: limits.execLargeOutputsCount }, () => room.open(op()));
    for (const each of first) await each.stdout.add(large);
    const gone = new AbortController();
    const leaving = room.open(op(gone.signal));
    const wait = leaving.stdout.add(large);
    const next = room.open(op()).stdout.add(large);
    gone.abort();
    await wait.then(() => assert.fail('it got a place'), () => {});
    leaving.release();
    first[0]?.release();
    assert.isTrue(await settles(next));
  });
});

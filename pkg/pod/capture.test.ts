import { assert } from 'chai';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { OutputRoom } from './capture.ts';

const op = (signal?: AbortSignal): Op => (signal === undefined ? backgroundOp(silent) : { ...backgroundOp(silent), signal });
const large = Buffer.alloc(limits.execSmallOutputBytes + 1, 'x');

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

  it('takes from the node only what is more than everybody may have, and gives it back', async () => {
    const room = new OutputRoom(large.length * 8, 0);
    for (let i = 0; i < 20; i++) {
      const output = room.open(op());
      for (let j = 0; j < 3; j++) await output.stdout.add(large);
      await output.stderr.add(Buffer.from('short'));
      assert.equal(output.stdout.bytes().length, 3 * large.length);
      output.release();
    }
  });

  it('is dropped from where the node has no room left, and no other command stands still for it', async () => {
    const room = new OutputRoom(2 * large.length - limits.execSmallOutputBytes, 0);
    const [first, second] = [room.open(op()), room.open(op())];
    await first.stdout.add(Buffer.concat([large, large]));
    assert.equal(first.stdout.bytes().length, 2 * large.length);
    await second.stdout.add(Buffer.from('a small output needs no room'));
    await second.stdout.add(large);
    await second.stdout.add(Buffer.from('nothing comes after a gap'));
    await second.stderr.add(Buffer.from('nor does this need any'));
    assert.deepEqual([second.stdout, second.stderr].map((each) => Buffer.from(each.bytes()).toString()), ['a small output needs no room', 'nor does this need any']);
  });

  it('waits a moment for room that others leave', async () => {
    const room = new OutputRoom(2 * large.length, 3_600_000);
    const [first, second] = [room.open(op()), room.open(op())];
    await first.stdout.add(Buffer.concat([large, large]));
    const waiting = second.stdout.add(Buffer.concat([large, large]));
    first.release();
    await waiting;
    assert.equal(second.stdout.bytes().length, 2 * large.length);
  });

  it('is waited for no longer than by its own caller', async () => {
    const room = new OutputRoom(large.length, 3_600_000);
    const gone = new AbortController();
    const leaving = room.open(op(gone.signal));
    const wait = leaving.stdout.add(Buffer.concat([large, large, large]));
    gone.abort();
    await wait;
    assert.equal(leaving.stdout.bytes().length, 0);
  });

  it('leaves its room also where it was released while it waited', async () => {
    const room = new OutputRoom(2 * large.length, 3_600_000);
    const [first, second, third] = [room.open(op()), room.open(op()), room.open(op())];
    await first.stdout.add(Buffer.concat([large, large]));
    const waiting = second.stdout.add(Buffer.concat([large, large]));
    second.release();
    first.release();
    await waiting;
    await third.stdout.add(Buffer.concat([large, large]));
    assert.deepEqual([second, third].map(({ stdout }) => stdout.bytes().length), [0, 2 * large.length]);
  });
});

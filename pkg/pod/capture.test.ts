import { assert } from 'chai';
import { limits } from '../base/limits.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { type CapturedOutput, OutputRoom } from './capture.ts';

const op = (signal?: AbortSignal): Op =>
  signal === undefined ? backgroundOp(silent) : { ...backgroundOp(silent), signal };
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

  /** A room whose places are all taken, and what took them. */
  async function full(
    patienceMs?: number,
  ): Promise<{ readonly room: OutputRoom; readonly holders: readonly CapturedOutput[] }> {
    const room = new OutputRoom(patienceMs);
    const holders = Array.from({ length: limits.execLargeOutputsCount }, () => room.open(op()));
    for (const each of holders) await each.stdout.add(large);
    return { room, holders };
  }

  it('is large for a few commands at once; the others are held back until one has ended, in their order', async () => {
    const { room, holders } = await full();
    const [late, later] = [room.open(op()), room.open(op())];
    await late.stdout.add(Buffer.from('a small output needs no place'));
    const order: string[] = [];
    const waiting = [
      late.stdout.add(large).then(() => order.push('late')),
      later.stdout.add(large).then(() => order.push('later')),
    ];
    assert.deepEqual(order, []);
    holders[0]?.release();
    await waiting[0];
    await late.stderr.add(large);
    assert.equal(late.stderr.bytes().length, large.length, 'one place serves both streams');
    assert.deepEqual(order, ['late']);
    late.release();
    await Promise.all(waiting);
    assert.deepEqual(order, ['late', 'later']);
  });

  it('is waited for no longer than by its own caller, whose place goes to the next', async () => {
    const { room, holders } = await full();
    const gone = new AbortController();
    const leaving = room.open(op(gone.signal));
    const wait = leaving.stdout.add(large);
    const next = room.open(op());
    const waiting = next.stdout.add(large);
    gone.abort();
    await wait;
    leaving.release();
    holders[0]?.release();
    await waiting;
    assert.deepEqual(
      [leaving, next].map(({ stdout }) => stdout.bytes().length),
      [0, large.length],
    );
  });

  it('ends where no place comes free, and the command goes on', async () => {
    const { room, holders } = await full(1);
    const output = room.open(op());
    await output.stdout.add(Buffer.from('kept'));
    await output.stdout.add(large);
    await output.stdout.add(Buffer.from('nothing comes after a gap'));
    await output.stderr.add(Buffer.from('kept, too'));
    assert.deepEqual(
      [output.stdout, output.stderr].map((each) => Buffer.from(each.bytes()).toString()),
      ['kept', 'kept, too'],
    );
    output.release();
    for (const each of holders) each.release();
    const after = Array.from({ length: limits.execLargeOutputsCount + 1 }, () => room.open(op()));
    for (const each of after) await each.stdout.add(large);
    assert.deepEqual(
      after.map(({ stdout }) => stdout.bytes().length),
      [...holders.map(() => large.length), 0],
      'who waited in vain gives nothing back',
    );
  });

  it('waits for half of the time that its command has', async () => {
    const { room } = await full();
    const output = room.open({ ...op(), deadline: performance.now() + 20 });
    await output.stdout.add(large);
    assert.equal(output.stdout.bytes().length, 0);
  });

  it('gives its place back also where it was released while it waited', async () => {
    const { room, holders } = await full();
    const [second, third] = [room.open(op()), room.open(op())];
    const waiting = [second.stdout.add(large), third.stdout.add(large)];
    second.release();
    holders[0]?.release();
    await Promise.all(waiting);
    assert.deepEqual(
      [second, third].map(({ stdout }) => stdout.bytes().length),
      [0, large.length],
    );
  });
});

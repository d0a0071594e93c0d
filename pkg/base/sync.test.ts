import { assert } from 'chai';
import { codeOf } from './errors.ts';
import { abortable, Gate, KeyedMutex, SingleFlight, together } from './sync.ts';

/** Work that ends when the test says so. */
function work(log: string[], name: string): { readonly run: () => Promise<string>; readonly end: () => void } {
  const { promise, resolve } = Promise.withResolvers<void>();
  return {
    run: async () => {
      log.push(`${name} begins`);
      await promise;
      log.push(`${name} ends`);
      return name;
    },
    end: resolve,
  };
}

async function failure(outcome: Promise<unknown>): Promise<unknown> {
  return await outcome.then(
    () => assert.fail('it succeeded'),
    (error: unknown) => error,
  );
}

describe('a lock per key', () => {
  it('lets in one after the other, in order, whatever becomes of them, and other keys at once', async () => {
    const mutex = new KeyedMutex<string>();
    const log: string[] = [];
    const [first, third, other] = [work(log, 'first'), work(log, 'third'), work(log, 'other')];
    const all = [mutex.run('a', first.run), mutex.run('a', () => Promise.reject(new Error('second fails')))] as const;
    const last = mutex.run('a', third.run);
    const beside = mutex.run('b', other.run);
    assert.isTrue(mutex.busy('a'));
    other.end();
    await beside;
    assert.deepEqual(log, ['first begins', 'other begins', 'other ends']);
    first.end();
    third.end();
    assert.equal(await all[0], 'first');
    assert.match(String(await failure(all[1])), /second fails/);
    assert.equal(await last, 'third');
    assert.isFalse(mutex.busy('a'), 'a key that nobody holds costs nothing');
  });
});

describe('a single flight', () => {
  it('is joined while it lasts, and begun anew afterwards, also when it failed', async () => {
    const flights = new SingleFlight<string, string>();
    const log: string[] = [];
    const { run, end } = work(log, 'work');
    const both = [flights.run('a', run), flights.run('a', () => assert.fail('it is under way'))];
    assert.strictEqual(flights.get('a'), both[0]);
    end();
    assert.deepEqual(await Promise.all(both), ['work', 'work']);
    assert.isUndefined(flights.get('a'));
    await failure(flights.run('a', () => Promise.reject(new Error('no'))));
    assert.equal(await flights.run('a', async () => 'again'), 'again');
  });
});

describe('a gate', () => {
  it('has so many places, and hands them on in order', async () => {
    const gate = new Gate(2);
    const log: string[] = [];
    const all = ['a', 'b', 'c', 'd'].map((name) => work(log, name));
    const outcomes = all.map(({ run }) => gate.run(run));
    assert.deepEqual(log, ['a begins', 'b begins']);
    all[1]?.end();
    assert.equal(await outcomes[1], 'b');
    await Promise.resolve();
    assert.deepEqual(log.slice(2), ['b ends', 'c begins']);
    for (const { end } of all) end();
    assert.deepEqual(await Promise.all(outcomes), ['a', 'b', 'c', 'd']);
  });

  it('lets so many wait, and refuses more; a failure gives its place back', async () => {
    const gate = new Gate(1, 1);
    const { run, end } = work([], 'work');
    const [first, second] = [gate.run(run), gate.run(() => Promise.reject(new Error('no')))];
    assert.equal(codeOf(await failure(gate.run(run))), 'ResourceExhausted');
    end();
    await first;
    await failure(second);
    assert.equal(await gate.run(async () => 'free'), 'free');
  });
});

describe('waiting that can be given up', () => {
  it('ends with the work, or when the signal fires; the work goes on', async () => {
    const stop = new AbortController();
    const log: string[] = [];
    const { run, end } = work(log, 'work');
    const going = run();
    const left = failure(abortable(going, stop.signal, () => new Error('left')));
    stop.abort();
    assert.match(String(await left), /left/);
    end();
    assert.equal(await going, 'work');
    assert.equal(await abortable(Promise.resolve(1), new AbortController().signal, () => new Error()), 1);
    const failed = Promise.reject(new Error('nobody hears'));
    assert.match(String(await failure(abortable(failed, stop.signal, () => new Error('left')))), /left/);
  });
});

describe('all together', () => {
  it('are waited for, also when one fails; the first failure is told', async () => {
    const log: string[] = [];
    const { run, end } = work(log, 'slow');
    const all = together([run(), Promise.reject(new Error('first')), Promise.reject(new Error('second'))]);
    let isOver = false;
    const over = failure(all).then((error) => {
      isOver = true;
      return error;
    });
    await new Promise((resolve) => setImmediate(resolve));
    assert.isFalse(isOver);
    end();
    assert.match(String(await over), /first/);
    assert.deepEqual(await together([Promise.resolve(1), Promise.resolve('a')]), [1, 'a']);
  });
});

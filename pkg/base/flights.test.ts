import { assert } from 'chai';
import { codeOf, RuntimeError } from './errors.ts';
import { Flights } from './flights.ts';
import { backgroundOp, type Op, silent } from './op.ts';
import { fired } from './time.ts';

/** A caller that can leave, and what it hears. */
class Caller {
  readonly stages: string[] = [];
  readonly goesOn: Promise<unknown>[] = [];
  readonly #patience = new AbortController();
  readonly op: Op = {
    ...backgroundOp(silent),
    signal: this.#patience.signal,
    stage: (what) => void this.stages.push(what),
    goesOn: (work) => void this.goesOn.push(work),
  };

  leave(): void {
    this.#patience.abort();
  }
}

/** Work that goes from stage to stage as the test says. */
function work(): {
  readonly begin: (op: Op) => Promise<string>;
  readonly op: Promise<Op>;
  readonly end: (result: string) => void;
} {
  const begun = Promise.withResolvers<Op>();
  const ended = Promise.withResolvers<string>();
  return {
    begin: (op) => {
      begun.resolve(op);
      return ended.promise;
    },
    op: begun.promise,
    end: ended.resolve,
  };
}

async function failure(outcome: Promise<unknown>): Promise<unknown> {
  return await outcome.then(
    () => assert.fail('it succeeded'),
    (error: unknown) => error,
  );
}

describe('a flight', () => {
  for (const abandoned of ['goes on', 'ends'] as const) {
    it(`that ${abandoned}: tells its stages to all who wait, and where it is to those who come late`, async () => {
      const flights = new Flights<string, string>(abandoned, 60_000);
      const [first, second] = [new Caller(), new Caller()];
      const { begin, op, end } = work();
      const one = flights.run(first.op, 'key', begin);
      (await op).stage('cni add');
      const two = flights.run(second.op, 'key', () => assert.fail('it is under way'));
      (await op).stage('save record');
      end('done');
      assert.deepEqual(await Promise.all([one, two]), ['done', 'done']);
      assert.deepEqual(first.stages, ['starting', 'cni add', 'save record']);
      assert.deepEqual(second.stages, ['cni add', 'save record']);
    });

    it(`that ${abandoned}: fails for all who wait, and the next one begins anew`, async () => {
      const flights = new Flights<string, string>(abandoned);
      const fails = async (): Promise<string> => Promise.reject(new RuntimeError('Unavailable', 'no room'));
      const both = [flights.run(new Caller().op, 'key', fails), flights.run(new Caller().op, 'key', fails)];
      for (const error of await Promise.all(both.map(failure))) assert.equal(codeOf(error), 'Unavailable');
      assert.equal(await flights.run(new Caller().op, 'key', async () => 'done'), 'done');
    });

    it(`that ${abandoned}: may take as long as it was given`, async () => {
      const flights = new Flights<string, string>(abandoned, 0);
      await flights.run(new Caller().op, 'key', async (own) => {
        await fired(own.signal);
        return '';
      });
    });
  }

  it('goes on for whoever began it after he has left, and says so to the table of operations', async () => {
    const flights = new Flights<string, string>('goes on', 60_000);
    const [first, second] = [new Caller(), new Caller()];
    const { begin, op, end } = work();
    const one = flights.run(first.op, 'key', begin);
    const two = flights.run(second.op, 'key', begin);
    (await op).stage('cni add');
    first.leave();
    second.leave();
    for (const each of [one, two]) {
      const error = await failure(each);
      assert.strictEqual(codeOf(error), 'Cancelled');
      assert.match(String(error), /at: cni add; it goes on/);
    }
    assert.isFalse((await op).signal.aborted);
    (await op).stage('save record');
    assert.deepEqual(first.stages.at(-1), 'save record', 'its row in the table');
    assert.deepEqual(second.stages.at(-1), 'cni add', 'it has no row any more');
    assert.deepEqual([first.goesOn.length, second.goesOn.length], [1, 0]);
    end('done');
    assert.strictEqual(await first.goesOn[0], 'done');
    await flights.settled('key');
  });

  it('ends when the last one has left, if nobody is to be served by it; the next one waits for that', async () => {
    const flights = new Flights<string, string>('ends');
    const [first, second, third] = [new Caller(), new Caller(), new Caller()];
    const { begin, op, end } = work();
    const one = failure(flights.run(first.op, 'key', begin));
    const two = failure(flights.run(second.op, 'key', begin));
    const own = await op;
    own.stage('fetching');
    first.leave();
    const error = await one;
    assert.match(String(error), /client left while the operation was at: fetching$/);
    assert.isFalse(own.signal.aborted);
    second.leave();
    await two;
    assert.isTrue(own.signal.aborted);
    let begun = 0;
    const three = flights.run(third.op, 'key', async () => `${++begun}`);
    const four = flights.run(new Caller().op, 'key', () => assert.fail('joins the third'));
    await flights.settled('other');
    assert.equal(begun, 0, 'the one that was given up puts things down still');
    end('too late');
    assert.deepEqual(await Promise.all([three, four]), ['1', '1']);
    assert.deepEqual([first.goesOn, second.goesOn], [[], []]);
  });
});

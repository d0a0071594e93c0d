import { assert } from 'chai';
import { codeOf } from '../base/errors.ts';
import { backgroundOp, type Op, silent } from '../base/op.ts';
import { Background } from './background.ts';
import { Flights } from './flights.ts';

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

describe('a flight', () => {
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

  it('tells its stages to all who wait, and where it is to those who come late', async () => {
    const flights = new Flights<string>();
    const [first, second] = [new Caller(), new Caller()];
    const { begin, op, end } = work();
    const one = flights.run(first.op, 'key', 60_000, begin);
    (await op).stage('cni add');
    const two = flights.run(second.op, 'key', 60_000, () => assert.fail('it is under way'));
    (await op).stage('save record');
    end('done');
    assert.deepEqual(await Promise.all([one, two]), ['done', 'done']);
    assert.deepEqual(first.stages, ['starting', 'cni add', 'save record']);
    assert.deepEqual(second.stages, ['cni add', 'save record']);
  });

  it('goes on for whoever asked first after he has left, and says so to the table of operations', async () => {
    const flights = new Flights<string>();
    const [first, second] = [new Caller(), new Caller()];
    const { begin, op, end } = work();
    const one = flights.run(first.op, 'key', 60_000, begin);
    const two = flights.run(second.op, 'key', 60_000, begin);
    (await op).stage('cni add');
    first.leave();
    second.leave();
    for (const each of [one, two]) {
      const error = await each.then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.strictEqual(codeOf(error), 'Cancelled');
      assert.match(String(error), /at: cni add/);
    }
    (await op).stage('save record');
    assert.deepEqual(first.stages.at(-1), 'save record', 'its row in the table');
    assert.deepEqual(second.stages.at(-1), 'cni add', 'it has no row any more');
    assert.deepEqual([first.goesOn.length, second.goesOn.length], [1, 0]);
    end('done');
    assert.strictEqual(await first.goesOn[0], 'done');
    await flights.settled('key');
  });
});

describe('work in the background', () => {
  it('is listed from when it goes on until it is done', async () => {
    const background = new Background(silent);
    const op = background.begin('clean-up', { container: 'c1' });
    assert.deepEqual(background.operations(), []);
    const { promise, resolve } = Promise.withResolvers<void>();
    const other = Promise.reject(new Error('failed, which is not our concern'));
    op.goesOn?.(promise);
    op.goesOn?.(other);
    op.stage('runtime delete');
    await other.catch(() => {});
    const [row] = background.operations();
    assert.deepInclude(row, { rpc: 'clean-up', ids: { container: 'c1' }, stage: 'runtime delete', clientGone: true });
    resolve();
    await promise;
    assert.deepEqual(background.operations(), []);
  });
});

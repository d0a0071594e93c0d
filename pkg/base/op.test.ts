import { assert } from 'chai';
import { abortError, backgroundOp, detached, isLate, type Op, silent, withTimeout } from './op.ts';
import { fired } from './time.ts';

const HOUR_MS = 3_600_000;
const op = (part: Partial<Op>): Op => ({ ...backgroundOp(silent), ...part });

describe('an aborted operation', () => {
  it('is late when a timer of its own says so, or that of the operation it is a part of', async () => {
    const bounded = withTimeout(op({}), 0);
    await fired(bounded.signal);
    assert.equal(abortError(bounded, 'exec').code, 'DeadlineExceeded');
    assert.equal(abortError(withTimeout(bounded, HOUR_MS), 'exec').code, 'DeadlineExceeded');
    assert.equal(abortError({ ...bounded, deadline: Number.POSITIVE_INFINITY }, 'exec').code, 'DeadlineExceeded');
  });

  it('is late when its deadline has passed, and else cancelled', () => {
    const signal = AbortSignal.abort();
    assert.equal(abortError(op({ signal, deadline: performance.now() - 1 }), 'exec').code, 'DeadlineExceeded');
    assert.equal(abortError(op({ signal, deadline: performance.now() + HOUR_MS }), 'exec').code, 'Cancelled');
  });
});

describe('a deadline', () => {
  const real = Date.now;
  afterEach(() => (Date.now = real));

  for (const [how, jumpMs] of [
    ['forward', 9_600 * HOUR_MS],
    ['back', -9_600 * HOUR_MS],
  ] as const)
    it(`is where it was when somebody sets the clock (K18) ${how}`, () => {
      const all = [backgroundOp(silent, HOUR_MS), withTimeout(op({}), HOUR_MS), detached(op({}), HOUR_MS)];
      const over = [op({ deadline: performance.now() - 1 })];
      Date.now = () => real() + jumpMs;
      assert.deepEqual([...all, ...over].map(isLate), [false, false, false, true]);
      for (const each of all)
        assert.closeTo(withTimeout(each, 2 * HOUR_MS).deadline - performance.now(), HOUR_MS, 5_000);
    });
});

import { assert } from 'chai';
import { codeOf } from './errors.ts';
import { limits } from './limits.ts';
import { logFilter } from './log-filter.ts';

describe('log_filter', () => {
  const wanted = (pattern: string, ...messages: string[]): boolean[] => {
    const filter = logFilter(pattern, 9_000);
    return messages.flatMap((message) => (filter === undefined ? [] : [filter(message), filter(message)]));
  };

  it('is none when it is empty', () => {
    assert.isUndefined(logFilter(''));
  });

  it('judges messages, the second time as the first', () => {
    assert.deepEqual(wanted('^pod (up|down)', 'pod up', 'image pulled'), [true, true, false, false]);
    assert.deepEqual(wanted('(?i)^POD', 'pod up', 'a pod'), [true, true, false, false]);
    assert.deepEqual(wanted('(a)\\1', 'aa', 'ab'), [true, true, false, false]);
  });

  it('gives an expression that runs away its time for a message, and writes that', () => {
    const filter = logFilter('^(a+)+$', 5);
    const message = `${'a'.repeat(limits.logValueChars)}b`;
    const began = performance.now();
    assert.isTrue(filter?.(message));
    for (let again = 0; again < 1_000; again++) filter?.(message);
    // Backtracking would take years: any bound tells.
    assert.isBelow(performance.now() - began, 5_000);
  });

  it('says of one that is none that it is', () => {
    for (const bad of ['(', '[z-a]', '(?i)*'])
      try {
        logFilter(bad);
        assert.fail(`took ${bad}`);
      } catch (error) {
        assert.equal(codeOf(error), 'InvalidArgument');
        assert.include(String(error), 'log_filter');
      }
  });
});

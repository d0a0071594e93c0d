import { assert } from 'chai';
import { codeOf } from './errors.ts';
import { logFilter } from './log-filter.ts';

describe('log_filter', () => {
  const wanted = (pattern: string, ...messages: string[]): boolean[] => {
    const filter = logFilter(pattern);
    return messages.flatMap((message) => (filter === undefined ? [] : [filter(message), filter(message)]));
  };

  it('is none when it is empty', () => {
    assert.isUndefined(logFilter(''));
  });

  it('judges messages, the second time as the first', () => {
    assert.deepEqual(wanted('^pod (up|down)', 'pod up', 'image pulled'), [true, true, false, false]);
    assert.deepEqual(wanted('(?i)^POD', 'pod up', 'a pod'), [true, true, false, false]);
  });

  it('reads what Go reads, and no more', () => {
    assert.deepEqual(wanted('pod (?i)UP|DOWN', 'pod up', 'pod'), [true, true, false, false]);
    assert.deepEqual(wanted('^[[:alpha:]]+\\z', 'pod', 'pod 1'), [true, true, false, false]);
    assert.deepEqual(wanted('(?P<what>pod|image) \\Q(x)\\E', 'pod (x)', 'pod x'), [true, true, false, false]);
    for (const other of ['(a)\\1', 'a(?=b)', '(?<!a)b']) assert.throws(() => logFilter(other), /log_filter .* of Go's/);
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

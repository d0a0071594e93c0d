import { assert } from 'chai';
import { judge } from '../test/cluster/conformance.ts';
import type { GinkgoReport } from '../test/conformance/critest.ts';

const WHOLE = { update: false, minutes: 60 };

function report(specs: Readonly<Record<string, string>>, ...reasons: readonly string[]): GinkgoReport[] {
  const spec = ([name, State]: readonly [string, string]) => ({
    ContainerHierarchyTexts: [],
    LeafNodeType: 'It',
    LeafNodeText: name,
    State,
    RunTime: 1e9,
    ...(State === 'passed' || State === 'skipped' ? {} : { Failure: { Message: `it ${State}` } }),
  });
  return [{ SpecialSuiteFailureReasons: reasons, SpecReports: Object.entries(specs).map(spec) }];
}

describe('a run of node conformance', () => {
  it('is held to what passed once, and holds what passes', () => {
    const specs = { good: 'passed', fresh: 'passed', bad: 'failed', other: 'skipped' };
    const { lines, failed, list } = judge(report(specs), ['bad', 'gone', 'good'], WHOLE);
    assert.isTrue(failed);
    assert.includeMembers(
      [...lines],
      [
        'not held yet: fresh',
        'failed: bad: passed once and is held to it, and failed: it failed',
        'failed: gone: passed once and is held to it, and was not run',
        '2 passed, 2 failed, 0 skipped',
      ],
    );
    assert.deepEqual(list, ['fresh', 'good']);
  });

  it('that was cut off is a fault, keeps what it found, and says nothing of what had no turn', () => {
    const specs = { good: 'passed', fresh: 'passed', at: 'timedout', beside: 'interrupted', later: 'skipped' };
    const held = ['at', 'beside', 'good', 'later'];
    const { lines, failed, list } = judge(report(specs, 'Suite Timeout Elapsed'), held, { ...WHOLE, update: true });
    assert.isTrue(failed);
    assert.deepEqual(lines.slice(2), [
      'failed: the run itself: cut off after 60 minutes; 3 held specs had no turn',
      '2 passed, 1 failed, 0 skipped',
    ]);
    assert.deepEqual(list, ['at', 'beside', 'fresh', 'good', 'later']);
  });

  it('of a spec that took too long itself has that one failed', () => {
    const { lines } = judge(report({ good: 'passed', slow: 'timedout' }), ['slow'], { ...WHOLE, focus: 'x' });
    assert.include(lines, 'failed: slow: passed once and is held to it, and failed: it timedout');
  });
});

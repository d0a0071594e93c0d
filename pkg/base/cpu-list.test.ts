import { assert } from 'chai';
import { parseCpus, showCpus, unionOf } from './cpu-list.ts';
import { RuntimeError } from './errors.ts';

describe('lists of CPUs', () => {
  it('are read and written as cpuset(7) has them', () => {
    for (const [text, cpus, again] of [
      ['', [], ''],
      ['\n', [], ''],
      ['3', [3], '3'],
      ['0-3,7', [0, 1, 2, 3, 7], '0-3,7'],
      ['7,1-2,2', [1, 2, 7], '1-2,7'],
      ['8191', [8191], '8191'],
    ] as const) {
      assert.deepEqual(parseCpus(text), cpus);
      assert.strictEqual(showCpus(parseCpus(text)), again);
    }
    assert.deepEqual(unionOf([1, 5], [0, 1]), [0, 1, 5]);
  });

  it('are refused if they are none', () => {
    for (const text of ['x', '3-1', '1,', '8192', '0-99999', '-1'])
      assert.throws(() => parseCpus(text), RuntimeError, undefined, text);
  });
});

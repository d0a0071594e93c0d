import { assert } from 'chai';
import { stringifyExact } from './json.ts';

describe('stringifyExact', () => {
  it('writes every digit of a 64-bit integer', () => {
    assert.strictEqual(
      stringifyExact({
        memory: { limit: 9_223_372_036_854_775_807n, swap: -1n },
        cpu: { shares: 2n, quota: undefined },
      }),
      '{"memory":{"limit":9223372036854775807,"swap":-1},"cpu":{"shares":2}}',
    );
  });
});

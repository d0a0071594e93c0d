import { assert } from 'chai';
import { toJson } from './json.ts';

describe('toJson', () => {
  it('keeps what JSON has no word for', () => {
    assert.equal(
      toJson({ small: 5n, large: 2n ** 63n, low: -(2n ** 63n) }),
      '{"small":5,"large":"9223372036854775808","low":"-9223372036854775808"}',
    );
    assert.equal(
      toJson({ bytes: Uint8Array.of(0, 255), set: new Set([1]), map: new Map([['', { a: 1 }]]) }),
      '{"bytes":"AP8=","set":[1],"map":{"":{"a":1}}}',
    );
  });

  it('leaves out what is not there', () => {
    assert.equal(toJson({ a: undefined, b: null }), '{"b":null}');
  });
});

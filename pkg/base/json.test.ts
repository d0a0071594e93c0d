import { assert } from 'chai';
import { excessOf, parseJson, stringifyExact } from './json.ts';

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

describe('parseJson', () => {
  it('says where, and nothing of what it cannot read', () => {
    for (const text of [
      'root:x:0:0',
      '{"key": hunter2}',
      '["hunter2',
      '{"a":1}hunter2',
      'hunter2'.repeat(40),
      '',
      '{',
    ]) {
      const failure = ((): unknown => {
        try {
          return parseJson(text);
        } catch (error) {
          return error;
        }
      })();
      assert.match(String(failure), /^SyntaxError: it (ends too early|has a character that is out of place)/);
      assert.notMatch(String(failure), /hunter2|root/);
    }
    assert.deepEqual(parseJson('{"a":[1]}'), { a: [1] });
  });
});

describe('excessOf', () => {
  const excess = (text: string, members: number, values: number): string | undefined =>
    excessOf(Buffer.from(text), { members, values });

  it('counts members and values, and nothing that is text', () => {
    const document = JSON.stringify({ a: [1, 2, '[{:,'], 'b"\\:,': { c: '\\\\', d: '\\":,' } });
    assert.isUndefined(excess(document, 4, 7));
    assert.equal(excess(document, 3, 7), 'members');
    assert.equal(excess(document, 4, 5), 'values');
    assert.isUndefined(excess('"', 0, 0), 'a string without end');
    assert.isUndefined(excess('"\\', 0, 0));
    assert.isUndefined(excess('', 0, 0));
  });
});

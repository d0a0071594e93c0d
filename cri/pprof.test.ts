import { assert } from 'chai';
import { gunzipSync } from 'node:zlib';
import { toPprof } from './pprof.ts';

interface Field {
  readonly field: number;
  readonly value: bigint | Buffer;
}

/** The fields of a message of protobuf, in order. */
function fieldsOf(message: Buffer): Field[] {
  let at = 0;
  const varint = (): bigint => {
    for (let value = 0n, shift = 0n; ; shift += 7n) {
      const byte = message[at++] ?? assert.fail('it is cut off');
      value |= BigInt(byte & 0x7f) << shift;
      if (byte < 0x80) return value;
    }
  };
  const found: Field[] = [];
  while (at < message.length) {
    const key = Number(varint());
    const value = varint();
    if (key % 8 === 0) found.push({ field: key >> 3, value });
    else found.push({ field: key >> 3, value: message.subarray(at, (at += Number(value))) });
  }
  return found;
}
const all = (fields: readonly Field[], field: number): readonly Field['value'][] =>
  fields.filter((each) => each.field === field).map(({ value }) => value);
const numbers = (message: Field['value'] | undefined, field: number): readonly number[] =>
  all(fieldsOf(message as Buffer), field).map(Number);

describe('a CPU profile for pprof', () => {
  const frame = (functionName: string, lineNumber: number): object => ({ functionName, url: 'a.ts', lineNumber });
  const json = JSON.stringify({
    nodes: [
      { id: 1, callFrame: frame('(root)', -1), children: [2, 3] },
      { id: 2, callFrame: frame('outer', 9), children: [4] },
      { id: 3, callFrame: frame('(idle)', -1) },
      { id: 4, callFrame: frame('', 19) },
    ],
    startTime: 1_000,
    endTime: 2_000,
    samples: [4, 4, 3, 2],
    timeDeltas: [5, 100, 200, 300],
  });
  const fields = fieldsOf(gunzipSync(toPprof(json, 1_700_000_000_000, 200)));
  const texts = all(fields, 6).map(String);
  const textAt = (place: number | undefined): string => texts[place ?? -1] ?? assert.fail('no such text');

  it('has stacks from the leaf up, with how often and how long', () => {
    const samples = all(fields, 2).map((sample) => [numbers(sample, 1), numbers(sample, 2)]);
    assert.deepEqual(samples, [
      [
        [4, 2, 1],
        [2, 300_000],
      ],
      [
        [3, 1],
        [1, 300_000],
      ],
      [
        [2, 1],
        [1, 0],
      ],
    ]);
    const units = all(fields, 1).map((unit) => [...numbers(unit, 1), ...numbers(unit, 2)].map(textAt));
    assert.deepEqual(units, [
      ['samples', 'count'],
      ['cpu', 'nanoseconds'],
    ]);
  });

  it('has a function with name, file and line for each place', () => {
    const functions = new Map(
      all(fields, 5).map((each) => [
        numbers(each, 1)[0],
        `${textAt(numbers(each, 2)[0])} ${textAt(numbers(each, 4)[0])}:${numbers(each, 5)[0]}`,
      ]),
    );
    const places = all(fields, 4).map((location) => {
      const [line] = all(fieldsOf(location as Buffer), 4);
      return [numbers(location, 1)[0], functions.get(numbers(line, 1)[0])];
    });
    assert.deepEqual(places, [
      [1, '(root) a.ts:0'],
      [2, 'outer a.ts:10'],
      [3, '(idle) a.ts:0'],
      [4, '(anonymous) a.ts:20'],
    ]);
  });

  it('says when it was taken, and for how long', () => {
    assert.deepEqual(all(fields, 9), [1_700_000_000_000_000_000n]);
    assert.deepEqual(all(fields, 10), [1_000_000n]);
    assert.deepEqual(all(fields, 12), [200_000n]);
    assert.equal(texts[0], '');
  });
});

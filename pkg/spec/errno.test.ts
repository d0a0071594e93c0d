import { assert } from 'chai';
import { constants } from 'node:os';
import { ERRNOS } from './errno.ts';

describe('the names of errors', () => {
  it('have the numbers that this kernel gives them', () => {
    const mine = Object.entries(constants.errno).map(([name]) => [name, ERRNOS.get(name)]);
    assert.isAbove(mine.length, 70);
    assert.deepEqual(Object.fromEntries(mine), constants.errno);
    assert.deepEqual([ERRNOS.get('ENOMEDIUM'), ERRNOS.get('EHWPOISON'), ERRNOS.get('-')], [123, 133, undefined]);
  });
});

import { assert } from 'chai';
import { Leftovers } from './leftovers.ts';

describe('directories on their way out', () => {
  const failing = new Set<string>();
  let gone: string[];
  let leftovers: Leftovers;
  beforeEach(() => {
    failing.clear();
    gone = [];
    leftovers = new Leftovers((name) => {
      if (failing.has(name)) return Promise.reject(new Error(`EMFILE ${name}`));
      gone.push(name);
      return Promise.resolve();
    });
  });
  const fails = async (name: string): Promise<void> => {
    const error = await leftovers.remove(name).catch((cause: unknown) => cause);
    assert.strictEqual((error as Error).message, `EMFILE ${name}`);
  };

  it('that could not be deleted go with the next one, once', async () => {
    failing.add('a').add('b');
    await fails('a');
    await fails('b');
    failing.clear();
    await leftovers.remove('c');
    await leftovers.remove('d');
    assert.deepEqual(gone, ['c', 'a', 'b', 'd']);
  });

  it('that still cannot be deleted harm nobody, and are tried again', async () => {
    failing.add('a');
    await fails('a');
    await leftovers.remove('b');
    failing.clear();
    await leftovers.remove('c');
    assert.deepEqual(gone, ['b', 'c', 'a']);
  });
});

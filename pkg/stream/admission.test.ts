import { assert } from 'chai';
import { Admission } from './admission.ts';

describe('admission to the stream server', () => {
  let now: number;
  let admission: Admission;
  let closed: string[];
  beforeEach(() => {
    now = 0;
    closed = [];
    admission = new Admission(4, 1_000, () => now);
  });
  const comes = (address: string, port: number): string => {
    now += 1;
    return admission.admit({ address, port, close: () => void closed.push(`${address}:${port}`) });
  };
  const all = (address: string, ...ports: readonly number[]): void => {
    for (const port of ports) assert.equal(comes(address, port), 'admitted');
  };

  it('is for so many', () => {
    all('a', 1, 2, 3, 4);
    assert.equal(comes('a', 5), 'refused');
    admission.left({ address: 'a', port: 3 });
    all('a', 5);
    assert.deepEqual(closed, []);
  });

  it('comes at the cost of the oldest connection of the peer that has the most and says nothing', () => {
    all('a', 1, 2, 3);
    all('b', 1);
    all('c', 1);
    all('b', 2);
    assert.deepEqual(closed, ['a:1', 'a:2']);
  });

  it('costs a peer of its own only what had time to speak', () => {
    all('a', 1, 2, 3, 4);
    now += 1_000;
    all('a', 5);
    assert.deepEqual(closed, ['a:1']);
    now += 1;
    admission = new Admission(4, 1_000, () => now);
    all('a', 1, 2, 3, 4);
    now += 900;
    assert.equal(comes('a', 5), 'refused');
  });

  it('costs nobody a session', () => {
    all('a', 1, 2, 3, 4);
    for (const port of [1, 2, 3]) admission.settled({ address: 'a', port });
    all('b', 1);
    assert.deepEqual(closed, ['a:4']);
    admission.settled({ address: 'b', port: 1 });
    now += 3_600_000;
    assert.equal(comes('c', 1), 'refused');
    admission.left({ address: 'a', port: 2 });
    all('c', 1);
  });

  it('counts nobody twice, whatever order things are said in', () => {
    all('a', 1);
    for (let round = 0; round < 3; round++) {
      admission.settled({ address: 'a', port: 1 });
      admission.left({ address: 'a', port: 1 });
      admission.left({ address: 'z', port: 9 });
      admission.settled({ address: 'z', port: 9 });
    }
    all('a', 1, 2, 3, 4);
    assert.equal(comes('a', 5), 'refused');
  });
});

import { assert } from 'chai';
import { holdsEntry, treeMembers } from './process-tree.ts';
import type { ProcessStat } from './processes.ts';

const ROOT = { pid: 10, startTicks: 5n };
const table = (
  rows: readonly (readonly [pid: number, parent: number, session: number, state?: string])[],
): ProcessStat[] =>
  rows.map(([pid, parentPid, session, state = 'S']) => ({
    pid,
    parentPid,
    session,
    state,
    startTicks: pid === 10 ? 5n : BigInt(pid),
  }));
const pids = (found: readonly ProcessStat[]): number[] => found.map((each) => each.pid).sort((a, b) => a - b);

describe('treeMembers', () => {
  it('finds descendants, and orphans by their session', () => {
    const processes = table([
      [1, 0, 1],
      [2, 1, 2],
      [10, 2, 10],
      [11, 10, 10],
      [12, 11, 12],
      [13, 12, 12],
      [14, 1, 10],
      [15, 14, 15],
      [16, 1, 1],
    ]);
    assert.deepEqual(pids(treeMembers(ROOT, processes, 2)), [10, 11, 12, 13, 14, 15]);
  });

  it('never takes our own session for the tree', () => {
    assert.deepEqual(
      pids(
        treeMembers(
          ROOT,
          table([
            [2, 1, 2],
            [10, 2, 2],
            [11, 10, 2],
            [12, 2, 2],
          ]),
          2,
        ),
      ),
      [10, 11],
    );
  });

  it('leaves out the dead, but not their living children', () => {
    assert.deepEqual(
      pids(
        treeMembers(
          ROOT,
          table([
            [10, 2, 10, 'Z'],
            [11, 10, 11],
            [12, 11, 11, 'X'],
          ]),
          2,
        ),
      ),
      [11],
    );
  });

  it('finds nothing when the pid is another process by now', () => {
    assert.deepEqual(
      treeMembers(
        { pid: 10, startTicks: 4n },
        table([
          [10, 2, 10],
          [11, 10, 10],
        ]),
        2,
      ),
      [],
    );
  });
});

describe('holdsEntry', () => {
  const environ = Buffer.from('PATH=/bin\0CNI_CONTAINERID=abc\0HOME=/\0');
  it('finds an entry wherever it stands, whole', () => {
    for (const entry of ['PATH=/bin', 'CNI_CONTAINERID=abc', 'HOME=/'])
      assert.isTrue(holdsEntry(environ, entry), entry);
    for (const entry of ['CNI_CONTAINERID=ab', 'ERID=abc', 'CNI_CONTAINERID=abcd', 'CNI_CONTAINERID='])
      assert.isFalse(holdsEntry(environ, entry), entry);
  });
});

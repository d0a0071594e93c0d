import { assert } from 'chai';
import type { ContainerId } from '../base/ids.ts';
import { descendants, killInside, parsePs } from './inside.ts';

const HEADER = 'UID       PID       PPID      C         TTY       STIME     TIME      CMD';
const table = (...rows: readonly string[]): string => [HEADER, ...rows].join('\n');
const row = (pid: number, parent: number, command = 'sleep'): string =>
  `0         ${pid}         ${parent}         0         ?         12:14     10ms      ${command}`;
const ID = 'a'.repeat(64) as ContainerId;

/** A runtime that has these processes, kills what it is told to, and remembers what it was told. */
function sandbox(processes: Map<number, number>): {
  readonly run: (args: readonly string[]) => Promise<string>;
  readonly told: string[];
} {
  const told: string[] = [];
  return {
    told,
    run: async (args) => {
      if (args[0] === 'ps') return table(...[...processes].map(([pid, parent]) => row(pid, parent)));
      const [verb, , pidText, id, signal] = args;
      assert.deepEqual([verb, id], ['kill', ID]);
      const pid = Number(pidText);
      told.push(`${pid} ${signal === '9' ? 'kill' : 'stop'}`);
      if (signal === '19') return '';
      if (!processes.delete(pid)) throw new Error('no such process');
      for (const [child, parent] of processes) if (parent === pid) processes.set(child, 1);
      return '';
    },
  };
}

describe('processes inside a sandbox', () => {
  it('are read from the table that runsc prints', () => {
    assert.deepEqual(parsePs(table(row(1, 0, 'sh'), row(7, 1))), [
      { pid: 1, parentPid: 0 },
      { pid: 7, parentPid: 1 },
    ]);
    assert.deepEqual(parsePs(table('nonsense', '')), []);
    assert.deepEqual(parsePs('something else\n1 2 3'), []);
    assert.deepEqual(parsePs(''), []);
  });

  it('descend from others, parents first', () => {
    const processes = [
      { pid: 1, parentPid: 0 },
      { pid: 9, parentPid: 3 },
      { pid: 3, parentPid: 2 },
      { pid: 2, parentPid: 1 },
      { pid: 5, parentPid: 1 },
    ];
    assert.deepEqual(descendants(processes, 2), [2, 3, 9]);
    assert.deepEqual(descendants(processes, 8), []);
    assert.deepEqual(descendants(processes, 1), [], 'the container itself is not an exec');
  });

  it('are killed with their descendants, none of which forks away meanwhile; others live', async () => {
    const processes = new Map([
      [1, 0],
      [2, 1],
      [3, 2],
      [4, 3],
      [5, 1],
    ]);
    const { run, told } = sandbox(processes);
    await killInside(
      async (args) => {
        // 4 forks at the last moment.
        if (args[2] === '4' && args.at(-1) === '19') processes.set(6, 4);
        return await run(args);
      },
      ID,
      2,
    );
    assert.deepEqual([...processes.keys()], [1, 5]);
    assert.deepEqual(told, [...[2, 3, 4, 6].map((pid) => `${pid} stop`), ...[2, 3, 4, 6].map((pid) => `${pid} kill`)]);
  });

  it('may have ended', async () => {
    const { run, told } = sandbox(new Map([[1, 0]]));
    await killInside(run, ID, 2);
    assert.deepEqual(told, []);
  });
});

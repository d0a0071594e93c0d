import { assert } from 'chai';
import { codeOf } from './errors.ts';
import { backgroundOp, type Op, silent } from './op.ts';
import { Turns } from './turns.ts';

const HOUR = 3_600_000;
const op = (): Op => backgroundOp(silent);
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

describe('turns', () => {
  it('come at once while there are places, then in order', async () => {
    const turns = new Turns(2, HOUR, 'wait for a turn to start the command');
    const came: string[] = [];
    const [first] = await Promise.all([turns.take(op(), 'a'), turns.take(op(), 'a')]);
    const stages: string[] = [];
    void turns.take({ ...op(), stage: (what) => void stages.push(what) }, 'a').then(() => came.push('third'));
    void turns.take(op(), 'a').then(() => came.push('fourth'));
    await settled();
    assert.deepEqual([came, stages], [[], ['wait for a turn to start the command']]);
    first?.();
    first?.();
    await settled();
    assert.deepEqual(came, ['third'], 'one place, however often it is given back');
  });

  it('go from lane to lane, so that a long line in one keeps no other waiting', async () => {
    const turns = new Turns(1, HOUR, 'wait for a turn to start the command');
    const came: string[] = [];
    let current = await turns.take(op(), 'flood');
    for (const name of ['flood 1', 'flood 2', 'flood 3', 'probe 1', 'probe 2', 'other 1']) {
      void turns.take(op(), name.split(' ')[0] ?? '').then((turn) => {
        came.push(name);
        current = turn;
      });
    }
    for (let i = 0; i < 6; i++) {
      current();
      await settled();
    }
    assert.deepEqual(came, ['flood 1', 'probe 1', 'other 1', 'flood 2', 'probe 2', 'flood 3']);
  });

  it('are given on by those who leave the line, and not used up', async () => {
    const turns = new Turns(1, HOUR, 'wait for a turn to start the command');
    const held = await turns.take(op(), 'a');
    const patience = new AbortController();
    const impatient = { ...op(), signal: patience.signal };
    const left = turns.take(impatient, 'b').then(
      () => undefined,
      (cause: unknown) => cause,
    );
    const last = turns.take(op(), 'b');
    patience.abort();
    const error = await left;
    assert.strictEqual(codeOf(error), 'Cancelled');
    assert.match(String(error), /wait for a turn/);
    held();
    (await last)();
    (await turns.take(op(), 'c'))();
    const dead = await turns.take(impatient, 'b').then(
      () => undefined,
      (cause: unknown) => cause,
    );
    assert.strictEqual(codeOf(dead), 'Cancelled', 'who has left already does not get in line');
  });

  it('are not lost when one comes in the moment that its owner leaves', async () => {
    const turns = new Turns(1, HOUR, 'wait for a turn to start the command');
    const held = await turns.take(op(), 'a');
    const patience = new AbortController();
    const waiting = turns.take({ ...op(), signal: patience.signal }, 'a');
    held();
    patience.abort();
    (await waiting)();
    (await turns.take(op(), 'a'))();
  });

  it('are taken from those who hold them too long: they wait for something else than a processor', async () => {
    const turns = new Turns(1, 5, 'wait for a turn to start the command');
    await turns.take(op(), 'stuck');
    await turns.take(op(), 'stuck');
    (await turns.take(op(), 'other'))();
  });
});

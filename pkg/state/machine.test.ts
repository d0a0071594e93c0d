import { assert } from 'chai';
import { next, nextSandbox } from './machine.ts';
import type { ContainerEvent, ContainerState, SandboxEvent, SandboxState } from '../ports/state.ts';

const process = { pid: 7, startTicks: 42n };
const exitedState: ContainerState = {
  phase: 'exited',
  exitCode: 3,
  reason: 'Error',
  message: '',
  startedAt: 10n,
  finishedAt: 20n,
};
const states: readonly ContainerState[] = [
  { phase: 'creating' },
  { phase: 'created', process },
  { phase: 'starting', process, startedAt: 10n, executed: false, failure: '' },
  { phase: 'running', process, startedAt: 10n },
  exitedState,
  { phase: 'unknown', why: 'monitor gone', process, startedAt: 10n },
  { phase: 'removing', last: null },
];
const events: readonly ContainerEvent[] = [
  { type: 'created', process },
  { type: 'starting', at: 10n, executed: false },
  { type: 'started' },
  { type: 'notStarted' },
  { type: 'startFailed', message: 'no such file' },
  { type: 'exited', exitCode: 0, oomKilled: false, at: 20n },
  { type: 'vanished', message: 'gone', at: 20n },
  { type: 'lost', why: 'monitor gone' },
  { type: 'remove' },
];

function row(state: ContainerState): string {
  return [state.phase, ...events.map((event) => attempt(() => next(state, event).phase))].join(' ');
}
function attempt(apply: () => string): string {
  try {
    return apply();
  } catch {
    return '-';
  }
}

describe('container state machine', () => {
  it('has exactly these edges', () => {
    assert.deepEqual(states.map(row), [
      //  created starting started notStarted startFailed exited vanished lost remove
      'creating created - - - - - - - removing',
      'created - starting - - - exited exited - -',
      'starting - - running created starting exited exited unknown -',
      'running - - - - - exited exited - -',
      'exited - - - - - exited exited - removing',
      'unknown - - - - - exited exited - -',
      'removing - - - - - removing removing - removing',
    ]);
  });

  it('names the reason of an exit', () => {
    const running: ContainerState = { phase: 'running', process, startedAt: 10n };
    const reasonAfter = (event: ContainerEvent): unknown => {
      const state = next(running, event);
      return state.phase === 'exited' ? [state.exitCode, state.reason] : state.phase;
    };
    assert.deepEqual(reasonAfter({ type: 'exited', exitCode: 0, oomKilled: false, at: 20n }), [0, 'Completed']);
    assert.deepEqual(reasonAfter({ type: 'exited', exitCode: 2, oomKilled: false, at: 20n }), [2, 'Error']);
    assert.deepEqual(reasonAfter({ type: 'exited', exitCode: 137, oomKilled: true, at: 20n }), [137, 'OOMKilled']);
    assert.deepEqual(reasonAfter({ type: 'vanished', message: '', at: 20n }), [255, 'ContainerStatusUnknown']);
  });

  it('keeps the start of a program through the time when nobody knew of it', () => {
    const created: ContainerState = { phase: 'created', process };
    const starting = next(created, { type: 'starting', at: 30n, executed: false });
    assert.deepEqual(next(starting, { type: 'started' }), { phase: 'running', process, startedAt: 30n });
    assert.deepEqual(next(starting, { type: 'notStarted' }), created);
  });

  it('says why a start failed with the exit code that is known, else with 128', () => {
    const starting = next({ phase: 'created', process }, { type: 'starting', at: 30n, executed: false });
    const failed = next(starting, { type: 'startFailed', message: 'no such file' });
    assert.deepInclude(next(failed, { type: 'exited', exitCode: 3, oomKilled: false, at: 40n }), {
      exitCode: 3,
      reason: 'Error',
      message: 'no such file',
      startedAt: 30n,
    });
    assert.deepInclude(next(failed, { type: 'vanished', message: 'gone', at: 40n }), {
      exitCode: 128,
      reason: 'StartError',
      message: 'no such file',
      startedAt: 0n,
    });
    assert.deepInclude(next(starting, { type: 'vanished', message: 'gone', at: 40n }), {
      exitCode: 255,
      reason: 'ContainerStatusUnknown',
      message: 'gone',
    });
  });

  it('keeps the first of two reports of one exit', () => {
    assert.strictEqual(next(exitedState, { type: 'vanished', message: 'late', at: 99n }), exitedState);
  });

  it('never finishes before it started', () => {
    const state = next(
      { phase: 'running', process, startedAt: 50n },
      { type: 'exited', exitCode: 0, oomKilled: false, at: 20n },
    );
    assert.propertyVal(state, 'finishedAt', 50n);
  });

  it('remembers the exit while removing', () => {
    assert.deepEqual(next(exitedState, { type: 'remove' }), { phase: 'removing', last: exitedState });
  });
});

describe('sandbox state machine', () => {
  it('has exactly these edges', () => {
    const phases: readonly SandboxState['phase'][] = ['creating', 'ready', 'stopping', 'stopped', 'removing'];
    const all: readonly SandboxEvent[] = ['ran', 'stop', 'released', 'remove'];
    const table = phases.map((phase) =>
      [phase, ...all.map((event) => attempt(() => nextSandbox({ phase }, event).phase))].join(' '),
    );
    assert.deepEqual(table, [
      //  ran stop released remove
      'creating ready stopping - removing',
      'ready - stopping - -',
      'stopping - stopping stopped -',
      'stopped - stopped stopped removing',
      'removing - removing - removing',
    ]);
  });
});

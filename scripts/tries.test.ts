import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';

const ROOT = join(import.meta.dirname, '..');
/** Tests whose first tries fail, and something that they change, with others around them. */
const SUITE = `
import assert from 'node:assert';
import { hasFailed, isThrough, remember } from '${ROOT}/test/e2e/tries.ts';
const told = [];
const thing = { state: 'made', mark() { const { state } = this; return async () => { this.state = state; }; } };
const abandoned = [];
remember(thing);
const later = { state: 'made', async mark() { const { state } = this; return async () => { this.state = state; }; } };
remember(later);
remember({ mark: async () => { throw new Error('cannot look'); }, abandon: async () => { abandoned.push('blind'); } });
describe('a suite', () => {
  let tries = 0;
  afterEach(function () { told.push(isThrough(this.currentTest)); });
  after(function () {
    console.log('TOLD ' + JSON.stringify([told, abandoned, hasFailed(this.test.parent)]));
  });
  it('changes', () => { thing.state = later.state = 'changed'; });
  it('tried twice', () => {
    assert.deepEqual([thing.state, later.state], ['changed', 'changed']);
    thing.state = later.state = 'spoilt';
    remember({ mark: () => async () => {}, abandon: async () => { abandoned.push(tries); } });
    if (tries++ === 0) throw new Error('the first\\nreason');
  });
  it('fails twice', () => { throw new Error('reason ' + tries++); });
});
describe('another suite', () => {
  after(function () { console.log('SOUND ' + !hasFailed(this.test.parent)); });
  it('passes', () => {});
});
`;

describe('a test that is tried again', () => {
  let scratch: string;
  let said: string;
  let outcome: Record<string, unknown>;
  before(function () {
    this.timeout(60_000);
    scratch = mkdtempSync(join(tmpdir(), 'berth-tries-'));
    const [suite, report] = [join(scratch, 'suite.mjs'), join(scratch, 'report.json')];
    writeFileSync(suite, SUITE);
    const args = [`${ROOT}/node_modules/mocha/bin/mocha.js`, '--no-config', '--retries', '1', suite];
    const reporter = ['--reporter', `${ROOT}/scripts/reporter.cjs`, '--reporter-option', `file=${report}`];
    const { stdout, stderr } = spawnSync(process.execPath, [...args, ...reporter], { encoding: 'utf8', cwd: scratch });
    said = stdout + stderr;
    outcome = JSON.parse(readFileSync(report, 'utf8')) as Record<string, unknown>;
  });
  after(() => rmSync(scratch, { recursive: true }));

  it('finds what it found the first time, and what a failed try has made is abandoned', () => {
    assert.include(said, 'TOLD [[true,false,true,false,false],[1],true]');
    assert.include(said, 'SOUND true');
    assert.include(said, 'between two tries: Error: how it was is not known: Error: cannot look');
  });

  it('is reported with the error of each try, in one line', () => {
    assert.deepInclude(outcome, { passed: 3, skipped: [], retried: ['a suite tried twice: the first reason'] });
    assert.deepEqual(outcome['failed'], ['a suite fails twice: reason 3 (the try before: reason 2)']);
    assert.match(said, /tried again: a suite tried twice\n +Error: the first/);
  });
});

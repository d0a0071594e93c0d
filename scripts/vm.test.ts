import { type ChildProcess, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';
import { merged } from '../test/vm/second-try.ts';
import type { Result } from '../test/vm/suites.ts';

const CACHE_TS = join(import.meta.dirname, '../test/vm/cache.ts');

describe('a suite of the machine that is tried again', () => {
  const passed = (title: string, why = ''): Result => ({ title, state: 'passed', why });
  const failed = (title: string, why: string): Result => ({ title, state: 'failed', why });

  it('tells how failed what passes then', () => {
    assert.deepEqual(merged([passed('a'), failed('b', 'late')], [passed('a'), passed('b')]), [
      passed('a'),
      passed('b', 'late'),
    ]);
  });

  it('has both reasons of what fails twice', () => {
    const [result] = merged([failed('a', 'late')], [failed('a', 'later')]);
    assert.equal(result?.state, 'failed');
    assert.match(result?.why ?? '', /^later\n.*late\)$/s);
  });

  it('fails by what failed the second time only', () => {
    assert.deepEqual(merged([failed('a', 'late'), passed('b')], [passed('a'), failed('b', 'new')]), [
      passed('a', 'late'),
      failed('b', 'new'),
    ]);
  });

  it('keeps what was not tried again', () => {
    const skipped: Result = { title: 's', state: 'skipped', why: 'no NAT' };
    assert.deepEqual(merged([passed('a'), skipped, failed('b', 'late')], [passed('b')]), [
      passed('a'),
      skipped,
      passed('b', 'late'),
    ]);
  });

  it('takes a failure that is not told of again for passed where all else has, only', () => {
    const first = [passed('a'), failed('the suite itself', 'it broke off')];
    assert.deepInclude(merged(first, [passed('a'), passed('b')]), passed('the suite itself', 'it broke off'));
    for (const second of [[], [failed('a', 'late')]])
      assert.deepInclude(merged(first, second), failed('the suite itself', 'it broke off'));
  });

  it('tells results of one title apart by their order', () => {
    const merger = merged([passed('a'), failed('a', 'late')], [passed('a'), passed('a')]);
    assert.deepEqual(merger, [passed('a'), passed('a', 'late')]);
  });
});

describe('the cache of the machine', () => {
  let cache: string;
  const children: ChildProcess[] = [];
  beforeEach(() => {
    cache = mkdtempSync(join(tmpdir(), 'berth-vm-'));
  });
  afterEach(() => {
    for (const child of children.splice(0)) child.kill('SIGKILL');
    rmSync(cache, { recursive: true });
  });

  /** A process that has the cache alone until its input ends, and says so. */
  function user() {
    const script = `
      import { once } from 'node:events';
      import { alone } from '${CACHE_TS}';
      await alone(async () => { console.log('alone'); process.stdin.resume(); await once(process.stdin, 'end'); });
      console.log('through');`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, BERTH_VM_CACHE: cache },
    });
    children.push(child);
    let said = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      said += text;
    });
    const says = async (part: string): Promise<void> => {
      while (!said.includes(part)) await once(child.stdout, 'data');
    };
    return { child, says, heard: () => said };
  }

  it('is for one at a time, and free again when that one is killed', async () => {
    const first = user();
    await first.says('alone');
    const second = user();
    await second.says('waiting');
    first.child.kill('SIGKILL');
    await second.says('alone');
    const third = user();
    await third.says('waiting');
    assert.notInclude(third.heard(), 'alone');
    second.child.stdin.end();
    await second.says('through');
    await third.says('alone');
    third.child.stdin.end();
    await once(third.child, 'exit');
  });
});

import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { assert } from 'chai';

const CACHE_TS = join(import.meta.dirname, '../test/vm/cache.ts');

describe('the cache of the machine', () => {
  let cache: string;
  beforeEach(() => {
    cache = mkdtempSync(join(tmpdir(), 'berth-vm-'));
  });
  afterEach(() => rmSync(cache, { recursive: true }));

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

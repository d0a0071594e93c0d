import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { mkdir, mkdtemp, readFile, readdir, rm, stat, symlink, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isCode } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { copyFollowed, hasLinks } from './copy.ts';

const owner = { uid: process.getuid?.() ?? 0, gid: process.getgid?.() ?? 0 };

describe('state/copy', () => {
  let dir: string;
  const at = (...names: readonly string[]): string => join(dir, ...names);
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-copy-'));
    await mkdir(at('from/sub'), { recursive: true });
    await mkdir(at('elsewhere'));
    await writeFile(at('elsewhere/key'), 'KEY', { mode: 0o640 });
    await writeFile(at('from/sub/plain'), 'plain');
  });
  afterEach(() => rm(dir, { recursive: true }));
  const copy = (): Promise<void> => copyFollowed(at('from'), at('to'), owner);

  it('knows whether a link is in a directory, however deep', async () => {
    assert.isFalse(await hasLinks(at('from')));
    await symlink('/none', at('from/sub/link'));
    assert.isTrue(await hasLinks(at('from')));
  });

  it('has what links lead to in their place, with modes', async () => {
    await symlink('../elsewhere', at('from/directory'));
    await symlink(at('elsewhere/key'), at('from/sub/file'));
    await copy();
    assert.isFalse(await hasLinks(at('to')));
    const file = await stat(at('to/sub/file'));
    assert.deepEqual(
      [await readFile(at('to/directory/key'), 'utf8'), await readFile(at('to/sub/plain'), 'utf8'), file.mode & 0o777],
      ['KEY', 'plain', 0o640],
    );
  });

  it('leaves out links that lead nowhere or in a circle, and what is no file', async () => {
    await symlink('/none', at('from/nowhere'));
    await symlink('loop', at('from/loop'));
    await symlink('..', at('from/sub/up'));
    execFileSync('mkfifo', [at('from/fifo')]);
    await copy();
    assert.deepEqual([(await readdir(at('to'))).sort(), await readdir(at('to/sub'))], [['sub'], ['plain']]);
  });

  it('refuses to copy more than a bound', async () => {
    await writeFile(at('from/large'), '');
    await truncate(at('from/large'), limits.defaultMountBytes + 1);
    const error: unknown = await copy().catch((cause: unknown) => cause);
    assert.isTrue(isCode(error, 'ResourceExhausted'));
  });
});

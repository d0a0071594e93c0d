import { assert } from 'chai';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { RuntimeError } from './errors.ts';
import { type Durability, ensureDirInMemory, isTemporaryName, listInMemory, readBounded, readInMemory, removeInMemory, replaceFile } from './files.ts';

describe('small files', () => {
  let dir = '';
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-files-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  for (const durability of ['memory', 'volatile', 'durable'] satisfies Durability[]) {
    describe(`replaced, ${durability}`, () => {
      it('are new or old as a whole, with their mode, and nothing else is left', async () => {
        const path = join(dir, 'file');
        await replaceFile(path, 'old and longer', durability);
        await replaceFile(path, Buffer.from('new'), durability, 0o644);
        assert.equal(readFileSync(path, 'utf8'), 'new');
        assert.equal(statSync(path).mode & 0o777, 0o644);
        assert.deepEqual(readdirSync(dir), ['file']);
      });

      it('leave nothing behind when the rename is impossible', async () => {
        mkdirSync(join(dir, 'file'));
        const failure = await replaceFile(join(dir, 'file'), 'x', durability).catch((error: unknown) => error);
        assert.instanceOf(failure, Error);
        assert.deepEqual(readdirSync(dir).filter(isTemporaryName), []);
      });
    });
  }

  const readers: readonly (readonly [string, (path: string, max: number) => Promise<Buffer>])[] = [['readBounded', readBounded], ['readInMemory', async (path, max) => readInMemory(path, max)]];
  for (const [name, read] of readers) {
    describe(name, () => {
      it('reads what is at most as long as allowed, also nothing', async () => {
        writeFileSync(join(dir, 'file'), 'abc');
        writeFileSync(join(dir, 'empty'), '');
        assert.equal((await read(join(dir, 'file'), 3)).toString(), 'abc');
        assert.equal((await read(join(dir, 'empty'), 0)).length, 0);
      });

      it('refuses what is longer, and what is no file', async () => {
        writeFileSync(join(dir, 'file'), 'abcd');
        for (const path of [join(dir, 'file'), dir]) {
          const failure = await read(path, 3).catch((error: unknown) => error);
          assert.equal((failure as RuntimeError).code, 'FailedPrecondition');
        }
      });

      it('passes on that there is nothing', async () => {
        const failure = await read(join(dir, 'absent'), 3).catch((error: unknown) => error);
        assert.equal((failure as NodeJS.ErrnoException).code, 'ENOENT');
      });
    });
  }

  it('are listed in order, made and removed on the spot, whatever is there already', () => {
    const path = join(dir, 'a/b');
    assert.deepEqual(listInMemory(path), []);
    for (let i = 0; i < 2; i++) ensureDirInMemory(path);
    assert.equal(statSync(path).mode & 0o777, 0o700);
    for (const name of ['2', '1']) writeFileSync(join(path, name), '');
    assert.deepEqual(listInMemory(path), ['1', '2']);
    for (let i = 0; i < 2; i++) removeInMemory(join(path, '1'));
    assert.deepEqual(listInMemory(path), ['2']);
  });
});

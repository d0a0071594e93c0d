import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { mkdir, mkdtemp, readdir, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf, type RuntimeError } from './errors.ts';
import {
  type Durability,
  ensureDir,
  ensureDirBelow,
  ensureDirInMemory,
  isTemporaryName,
  listInMemory,
  readBounded,
  readInMemory,
  removeInMemory,
  replaceFile,
} from './files.ts';

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

  const readers: readonly (readonly [string, (path: string, max: number) => Promise<Buffer>])[] = [
    ['readBounded', readBounded],
    ['readInMemory', async (path, max) => readInMemory(path, max)],
  ];
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

      it('is not held up by what is no file, and takes nothing out of it', async () => {
        const [fifo, socket] = [join(dir, 'fifo'), join(dir, 'socket')];
        execFileSync('mkfifo', [fifo]);
        const listening = createServer().listen(socket);
        await once(listening, 'listening');
        for (const path of [fifo, socket, '/dev/null', '/dev/stdin']) {
          const failure = await read(path, 3).catch((error: unknown) => error);
          assert.match(String(failure), new RegExp(`${path} is not a regular file`));
        }
        listening.close();
        // What the kernel makes up (/proc/kmsg waits, and takes away) claims to be empty, and is so here.
        assert.equal((await read('/proc/version', 1_000)).length, 0);
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

describe('our directories', () => {
  it('are closed to others, whatever way they are made', async () => {
    const dir = mkdtempSync(join(tmpdir(), 'berth-files-'));
    const umask = process.umask(0);
    try {
      await ensureDir(join(dir, 'a/b'));
      ensureDirInMemory(join(dir, 'c/d'));
      for (const each of ['a', 'a/b', 'c', 'c/d']) assert.equal(statSync(join(dir, each)).mode & 0o777, 0o700, each);
      await ensureDir(join(dir, 'open'), 0o755);
      assert.equal(statSync(join(dir, 'open')).mode & 0o777, 0o755);
    } finally {
      process.umask(umask);
      rmSync(dir, { recursive: true });
    }
  });
});

describe('making directories', () => {
  it('ends where a file system has no place for them, which a recursive mkdir of Node never does', async () => {
    for (const path of ['/proc/x', '/proc/x/y', '/proc/self/x']) {
      assert.throws(() => ensureDirInMemory(path), 'ENOENT', path);
      const error: unknown = await ensureDir(path).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.match(String(error), /ENOENT/, path);
    }
  });

  it('takes what is there, and says what is in the way', async () => {
    const dir = await mkdtemp(join(tmpdir(), 'berth-dirs-'));
    try {
      for (const make of [ensureDir, async (path: string): Promise<void> => ensureDirInMemory(path)]) {
        await Promise.all(Array.from({ length: 20 }, () => make(join(dir, 'a/b/c'))));
        await make(`${dir}/a/b/`);
        await make('/');
        await writeFile(join(dir, 'file'), '');
        for (const path of ['file', 'file/x', 'file/x/y'])
          assert.match(String(await make(join(dir, path)).catch((error: unknown) => error)), /EEXIST|ENOTDIR/, path);
      }
    } finally {
      await rm(dir, { recursive: true });
    }
  });
});

describe('ensureDirBelow', () => {
  let base: string;
  beforeEach(async () => {
    base = await mkdtemp(join(tmpdir(), 'berth-files-'));
  });
  afterEach(() => rm(base, { recursive: true }));

  it('makes what is missing, the base too, and is content with what is there', async () => {
    const late = join(base, 'late');
    for (let i = 0; i < 2; i++) await ensureDirBelow(late, 'a/./b//c', 0o755);
    assert.isTrue((await stat(join(late, 'a/b/c'))).isDirectory());
    await ensureDirBelow(join(base, 'plain'), '.', 0o755);
    assert.isTrue((await stat(join(base, 'plain'))).isDirectory());
  });

  it('follows no link below the base, and says what is in the way', async () => {
    await mkdir(join(base, 'elsewhere'));
    await symlink(join(base, 'elsewhere'), join(base, 'link'));
    await writeFile(join(base, 'file'), '');
    for (const below of ['link/x', 'link', 'file', 'file/x']) {
      const error = await ensureDirBelow(base, below, 0o755).then(
        () => undefined,
        (cause: unknown) => cause,
      );
      assert.equal(codeOf(error), 'FailedPrecondition', below);
      assert.match(String(error), /\/(link|file) is no directory/);
    }
    assert.deepEqual(await readdir(join(base, 'elsewhere')), []);
    await symlink(join(base, 'elsewhere'), join(base, 'own'));
    await ensureDirBelow(join(base, 'own'), 'x', 0o755);
    assert.deepEqual(await readdir(join(base, 'elsewhere')), ['x'], 'where the base lies is for whoever named it');
  });
});

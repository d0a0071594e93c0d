import { assert } from 'chai';
import { mkdtempSync, rmSync } from 'node:fs';
import { rm, stat, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { isDiskFull, RuntimeError, storageError, wrap } from './errors.ts';
import { silent } from './op.ts';
import { DiskReserve } from './reserve.ts';

const full = (): Error => Object.assign(new Error('no space left on device'), { code: 'ENOSPC' });

describe('base/reserve', () => {
  let directory = '';
  let path = '';
  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'berth-reserve-'));
    path = join(directory, 'reserve');
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  const size = async (): Promise<number | undefined> => (await stat(path).catch(() => undefined))?.size;
  async function opened(bytes = 100_000): Promise<DiskReserve> {
    const reserve = new DiskReserve({ path, bytes, log: silent, retryMs: 1_000_000 });
    await reserve.open();
    await reserve.settled();
    return reserve;
  }
  /** Work that meets a full disk the first `times` times. */
  const failing = (times: number, error: () => unknown = full): (() => Promise<number>) => {
    let tries = 0;
    return async () => {
      if (++tries <= times) throw error();
      return tries;
    };
  };

  it('is made once, again when a power cut damaged it, and stays when the daemon goes', async () => {
    let reserve = await opened();
    assert.equal(await size(), 100_000);
    await reserve.close();
    const { mtimeMs } = await stat(path);
    reserve = await opened();
    await reserve.close();
    assert.equal((await stat(path)).mtimeMs, mtimeMs);
    for (const damage of [
      () => truncate(path, 5),
      async () => {
        await writeFile(path, '');
        await truncate(path, 100_000);
      },
    ]) {
      await damage();
      reserve = await opened();
      await reserve.close();
      const { size: bytes, blocks } = await stat(path);
      assert.deepEqual([bytes, blocks * 512 >= 100_000], [100_000, true]);
    }
  });

  it('is given up when the disk is full, and made anew at once', async () => {
    const reserve = await opened();
    const sizes: (number | undefined)[] = [];
    const work = failing(1);
    assert.equal(
      await reserve.freeing(async () => {
        sizes.push(await size());
        return await work();
      }),
      2,
    );
    await reserve.settled();
    assert.deepEqual([...sizes, await size()], [100_000, undefined, 100_000]);
    await reserve.close();
  });

  it('work is tried twice and not oftener, and other failures are not its business', async () => {
    const reserve = await opened();
    const error: unknown = await reserve.freeing(failing(2)).catch((each: unknown) => each);
    assert.equal((error as { code?: string }).code, 'ENOSPC');
    await reserve.settled();
    const { ino } = await stat(path);
    const denied: unknown = await reserve
      .freeing(failing(1, () => new RuntimeError('PermissionDenied', 'no')))
      .catch((each: unknown) => each);
    assert.equal((denied as RuntimeError).code, 'PermissionDenied');
    assert.equal((await stat(path)).ino, ino);
    await reserve.close();
    await rm(path);
    const empty = await opened(0);
    assert.equal(
      await empty.freeing(failing(1)),
      2,
      'also with nothing to give up: somebody else may have freed something',
    );
    await empty.close();
  });

  it('a disk without room for it is no failure', async () => {
    const reserve = new DiskReserve({ path: join(directory, 'missing', 'reserve'), bytes: 1, log: silent });
    await reserve.open();
    await reserve.settled();
    assert.equal(await reserve.freeing(failing(0)), 1);
    await reserve.close();
  });

  it('a full disk is seen behind any wrapping', () => {
    const quota = Object.assign(new Error('x'), { code: 'EDQUOT' });
    for (const error of [
      full(),
      quota,
      storageError(full(), 'x'),
      wrap('remove', storageError(full(), 'x')),
      new AggregateError([new Error('y'), wrap('z', full())]),
    ])
      assert.isTrue(isDiskFull(error));
    for (const error of [
      new Error('ENOSPC'),
      undefined,
      new RuntimeError('ResourceExhausted', 'memory'),
      Object.assign(new Error('x'), { code: 'EROFS' }),
    ])
      assert.isFalse(isDiskFull(error));
  });
});

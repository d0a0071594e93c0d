import { assert } from 'chai';
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf } from '../../pkg/base/errors.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { type Config, loadConfig, noFiles } from '../../pkg/config/index.ts';
import { checkImagesOffline, wipeImagesOffline } from './offline-images.ts';

describe('images without a daemon', () => {
  const op = backgroundOp(silent);
  let dir: string;
  let config: Config;
  beforeEach(async () => {
    dir = await mkdtemp(join(tmpdir(), 'berth-offline-'));
    const flags = { root: join(dir, 'root'), runroot: join(dir, 'run') };
    ({ config } = await loadConfig({ flags, node: { systemdCgroups: false }, files: noFiles }));
  });
  afterEach(() => rm(dir, { recursive: true }));

  async function refusal(work: Promise<unknown>): Promise<string> {
    return await work.then(
      () => assert.fail('was not refused'),
      (error: unknown) => {
        assert.equal(codeOf(error), 'FailedPrecondition');
        return (error as Error).message;
      },
    );
  }

  it('are none where there has never been one', async () => {
    assert.deepEqual(await wipeImagesOffline(op, config, undefined), []);
    assert.deepEqual(await checkImagesOffline(op, config, 'repair', undefined), []);
  });

  it('are not wiped under pods, nor repaired under containers: only a daemon knows what they use', async () => {
    await mkdir(join(dir, 'root'));
    for (const kind of ['containers', 'sandboxes']) {
      await mkdir(join(dir, 'run', kind), { recursive: true });
      await writeFile(join(dir, 'run', kind, 'one'), '');
      assert.match(
        await refusal(wipeImagesOffline(op, config, undefined)),
        new RegExp(`there are ${kind} in .*: start the daemon and wipe then`),
      );
      if (kind === 'containers')
        assert.match(await refusal(checkImagesOffline(op, config, 'repair', undefined)), /and repair then/);
      await rm(join(dir, 'run', kind), { recursive: true });
    }
  });
});

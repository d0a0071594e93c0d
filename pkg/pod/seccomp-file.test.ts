import { assert } from 'chai';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { codeOf, explain } from '../base/errors.ts';
import { backgroundOp, silent } from '../base/op.ts';
import { localhostSeccomp } from './sources.ts';

describe('a seccomp profile that a pod names', () => {
  let dir = '';
  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-profile-'));
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  const read = (localhostRef: string): Promise<unknown> =>
    localhostSeccomp(backgroundOp(silent), {
      seccomp: { profileType: 'Localhost', localhostRef },
    } as Parameters<typeof localhostSeccomp>[1]);
  const refusal = async (path: string): Promise<unknown> =>
    await read(path).then(
      () => assert.fail(`${path} was read`),
      (error: unknown) => error,
    );

  it('is read, if it is one', async () => {
    writeFileSync(join(dir, 'profile.json'), '{"defaultAction":"SCMP_ACT_ALLOW"}');
    assert.deepEqual(await read(join(dir, 'profile.json')), { defaultAction: 'SCMP_ACT_ALLOW' });
  });

  it('keeps nobody waiting if it is a FIFO, a device or what the kernel says while it is read', async () => {
    execFileSync('mkfifo', [join(dir, 'fifo')]);
    for (const path of [join(dir, 'fifo'), '/dev/null', dir, '/proc/kmsg'])
      assert.strictEqual(codeOf(await refusal(path)), 'FailedPrecondition', path);
  });

  it('tells nothing of a file that is something else', async () => {
    writeFileSync(join(dir, 'shadow'), 'root:$6$secret:19000:0:99999:7:::\n');
    const said = explain(await refusal(join(dir, 'shadow')));
    assert.notMatch(said, /root|secret/);
    assert.match(said, /seccomp profile ".*shadow" cannot be used.*is not valid JSON/);
  });
});

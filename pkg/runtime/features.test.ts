import { assert } from 'chai';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Answers, remembered } from './features.ts';

describe('what runtimes answered', () => {
  let dir = '';
  let asked = 0;
  const answer = (stdout: string, exitCode = 0, stderr = ''): Answers['version'] => ({
    exitCode,
    stdout: Buffer.from(stdout),
    stderr: Buffer.from(stderr),
  });
  const ask =
    (version = answer('crun version 1'), features = answer('', 1, 'unknown command features')) =>
    async (): Promise<Answers> => {
      asked++;
      return { version, features };
    };
  const about = (binary: string, ...answers: Parameters<typeof ask>): Promise<Answers> =>
    remembered(join(dir, binary), join(dir, 'features'), ask(...answers));

  beforeEach(() => {
    dir = mkdtempSync(join(tmpdir(), 'berth-features-'));
    asked = 0;
    writeFileSync(join(dir, 'program'), '\x7fELF and so on');
  });
  afterEach(() => rmSync(dir, { recursive: true }));

  it('is asked once for a binary', async () => {
    assert.deepEqual(await about('program'), await about('program'));
    assert.equal(asked, 1);
  });

  it('is asked again when the binary was replaced, or is another', async () => {
    await about('program');
    writeFileSync(join(dir, 'program'), '\x7fELF and so on, newer');
    await about('program');
    assert.equal(asked, 2);
    copyFileSync(join(dir, 'program'), join(dir, 'other'));
    await about('other');
    assert.equal(asked, 3);
  });

  it('is asked each time of a script, of what is not there, and of what failed', async () => {
    writeFileSync(join(dir, 'script'), '#!/bin/sh');
    for (let i = 0; i < 2; i++) {
      await about('script');
      await about('absent');
      await about('program', answer('', 127));
    }
    assert.equal(asked, 6);
  });

  it('is asked again after a failure that may pass, but not when there is no such command', async () => {
    for (const failure of [
      answer('', 137),
      answer('', 1, 'fork/exec: resource temporarily unavailable'),
      answer('', 1),
    ]) {
      rmSync(join(dir, 'features'), { force: true });
      asked = 0;
      await about('program', undefined, failure);
      await about('program', undefined, failure);
      assert.equal(asked, 2, String(failure.stderr));
    }
    const refusals = [
      answer('', 3, 'time="now" level=error msg="No help topic for \'features\'\\n"'),
      answer('', 2, "error: unrecognized subcommand 'features'"),
      answer('Usage: runsc <flags> <subcommand> <subcommand args>', 128),
    ];
    for (const refusal of refusals) {
      rmSync(join(dir, 'features'), { force: true });
      asked = 0;
      await about('program', undefined, refusal);
      await about('program', undefined, refusal);
      assert.equal(asked, 1, String(refusal.stderr));
    }
  });

  it('is asked again when the note of it is damaged', async () => {
    await about('program');
    for (const text of ['', '{', '[]', '{"identity":7}']) {
      writeFileSync(join(dir, 'features'), text);
      await about('program');
    }
    assert.equal(asked, 5);
  });

  it('is an answer also when nothing can be noted', async () => {
    const answers = await remembered(join(dir, 'program'), join(dir, 'no/such/directory'), ask());
    assert.equal(answers.version.stdout.toString(), 'crun version 1');
  });
});

import { assert } from 'chai';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { RuntimeError } from '../base/errors.ts';
import { readPending, writePending } from './pending-file.ts';

describe('rootfs/pending-file', () => {
  let directory = '';
  before(() => (directory = mkdtempSync(join(tmpdir(), 'pending-'))));
  after(() => rmSync(directory, { recursive: true }));

  it('gives back what was written, any bytes, however much', () => {
    const path = join(directory, 'pending');
    const implicit = Array.from({ length: 3_000 }, (_, index) => `d${index}/${'\xff\n"'.repeat(index % 30)}`);
    const links = implicit.map((each, index) => [each, `target of ${index}`] as const);
    const pending = { implicit: () => implicit, links: () => links };
    assert.equal(writePending(path, pending), 'something');
    const read = readPending(path);
    for (let round = 0; round < 2; round++) {
      assert.deepEqual([...read.implicit()], implicit);
      assert.deepEqual([...read.links()], links);
    }
  });

  it('is no file when there is nothing', () => {
    const path = join(directory, 'none');
    assert.equal(writePending(path, { implicit: () => [], links: () => [] }), 'nothing');
    assert.isFalse(existsSync(path));
  });

  it('says that it is damaged', () => {
    const path = join(directory, 'damaged');
    for (const text of ['x a\0', 'd a', 'h a\0', '\0', 'h a\0b']) {
      writeFileSync(path, text);
      assert.throws(() => [...readPending(path).links()], RuntimeError, 'is damaged', text);
    }
    assert.equal(readFileSync(path, 'latin1'), 'h a\0b');
  });
});

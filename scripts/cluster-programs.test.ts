import { assert } from 'chai';
import { existsSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { forgetTheDead } from '../test/cluster/programs.ts';

/** Larger than any process's. */
const DEAD = 4_194_305;

describe('the cache of what a cluster is made of', () => {
  let cache: string;
  const at = (name: string): string => join(cache, name);
  beforeEach(() => {
    cache = mkdtempSync(join(tmpdir(), 'berth-cache-'));
  });
  afterEach(() => rmSync(cache, { recursive: true }));

  it('forgets the drafts of builds that were killed, and nothing that is made', () => {
    for (const name of ['coredns-1', `source.${DEAD}.new`, 'kubernetes-1']) mkdirSync(at(name));
    for (const name of [`etcd.${DEAD}.new`, `coredns-1/coredns.${DEAD}.new`, `source.${DEAD}.new/x`, 'etcd'])
      writeFileSync(at(name), '');
    forgetTheDead(cache);
    for (const name of ['coredns-1', 'kubernetes-1', 'etcd']) assert.isTrue(existsSync(at(name)), name);
    for (const name of [`source.${DEAD}.new`, `etcd.${DEAD}.new`, `coredns-1/coredns.${DEAD}.new`])
      assert.isFalse(existsSync(at(name)), name);
  });

  it('leaves alone what another builder is at, and does not look into it', () => {
    const theirs = `source.${process.pid}.new`;
    mkdirSync(at(theirs));
    // Whatever a source calls its files; and they come and go while that builder works.
    writeFileSync(at(`${theirs}/notes.${DEAD}.new`), '');
    forgetTheDead(cache);
    assert.isTrue(existsSync(at(`${theirs}/notes.${DEAD}.new`)));
  });
});

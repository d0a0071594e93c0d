/** A cluster that is killed cannot tidy up; the next one does it, and `npm run cluster -- down`. */
import { assert } from 'chai';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import { CgroupTree, cgroupsNamed } from './cgroup-tree.ts';
import { makeDirectory, sweepLeftovers } from './leftovers.ts';
import { ground } from './shared.ts';

const PANIC = '/proc/sys/kernel/panic';

describe('what a cluster that was killed has left', () => {
  it('is given back by the next one: cgroups, sysctls, files; and nothing of a cluster that is up', async () => {
    const own = basename(ground().cluster.directory);
    const now = readFileSync(PANIC, 'utf8').trim();
    const directory = makeDirectory();
    const name = basename(directory);
    const tree = new CgroupTree(`${name}/node-1`);
    tree.make();
    new CgroupTree(`${name}/node-1/kubepods/besteffort`).make();
    try {
      // As a kubelet does.
      writeFileSync(PANIC, String(Number(now) + 1));
      assert.deepEqual(await sweepLeftovers([own]), [name]);
      assert.equal(readFileSync(PANIC, 'utf8').trim(), now);
    } finally {
      writeFileSync(PANIC, now);
    }
    assert.isFalse(existsSync(directory));
    assert.deepEqual(cgroupsNamed(new RegExp(`^${name}$`)), []);
    assert.isTrue(existsSync(join(ground().cluster.directory, 'node-1')));
    assert.deepEqual(cgroupsNamed(new RegExp(`^${own}$`)), [own]);
  });

  it('is nothing where no other cluster was', async () => {
    assert.deepEqual(await sweepLeftovers([basename(ground().cluster.directory)]), []);
  });
});

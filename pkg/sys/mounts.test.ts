import { assert } from 'chai';
import type { MountEntry } from '../ports/kernel.ts';
import { isAtOrBelow, mountOf, mountPointsIn, parseMountinfo, propagationOf } from './mountinfo.ts';
import { splitMountOptions } from './mounts.ts';

const LINES = [
  '27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard',
  '30 27 0:27 / /run rw,nosuid shared:5 master:2 - tmpfs tmpfs rw,size=10k',
  '31 30 0:4 net:[4026532] /run/with\\040space\\011tab\\134slash rw master:7 propagate_from:2 - nsfs nsfs rw',
  '32 30 0:28 /sub/dir /run/b ro unbindable - overlay none#1 rw,lowerdir=/a\\054b:/c',
  '33 27 0:29 / /runner rw - fuse.sshfs user@host:/ rw',
];
const entries = (): MountEntry[] => parseMountinfo(`${LINES.join('\n')}\n`);

describe('parseMountinfo', () => {
  it('reads every field, with and without tags, and undoes escapes', () => {
    const [root, run, nsfs, overlay] = entries();
    assert.deepEqual(root, {
      id: 27,
      parentId: 1,
      major: 254,
      minor: 0,
      root: '/',
      mountPoint: '/',
      options: ['rw', 'relatime'],
      sharedWith: undefined,
      slaveOf: undefined,
      unbindable: false,
      fsType: 'ext4',
      source: '/dev/vda',
      superOptions: ['rw', 'discard'],
    });
    assert.deepEqual([run?.sharedWith, run?.slaveOf, nsfs?.slaveOf, overlay?.unbindable], [5, 2, 7, true]);
    assert.equal(nsfs?.mountPoint, '/run/with space\ttab\\slash');
    assert.deepEqual(overlay?.superOptions, ['rw', 'lowerdir=/a,b:/c']);
  });

  it('leaves out what has not the shape', () => {
    assert.deepEqual(
      parseMountinfo('\nnonsense\n27 1 254:0 / / rw,relatime ext4 /dev/vda rw\n27 1 x / / rw - ext4 a rw\n'),
      [],
    );
  });
});

describe('mount questions', () => {
  it('compares paths by components', () => {
    assert.deepEqual(
      [
        isAtOrBelow('/run', '/run'),
        isAtOrBelow('/run/x', '/run'),
        isAtOrBelow('/runner', '/run'),
        isAtOrBelow('/x', '/'),
      ],
      [true, true, false, true],
    );
  });

  it('finds the mount of a path: the longest, and the last of equals', () => {
    const over = parseMountinfo('40 30 0:40 / /run/b rw - tmpfs over rw');
    assert.equal(mountOf(entries(), '/run/b/file')?.id, 32);
    assert.equal(mountOf([...entries(), ...over], '/run/b/file')?.id, 40);
    assert.equal(mountOf(entries(), '/runner')?.id, 33);
    assert.equal(mountOf(entries(), '/etc')?.id, 27);
    assert.isUndefined(mountOf([], '/etc'));
  });

  it('unmounts deepest first, over-mounts as often as they are there', () => {
    const over = parseMountinfo('40 30 0:40 / /run/b rw - tmpfs over rw');
    assert.deepEqual(mountPointsIn([...entries(), ...over], '/run'), [
      '/run/with space\ttab\\slash',
      '/run/b',
      '/run/b',
      '/run',
    ]);
    assert.deepEqual(mountPointsIn(entries(), '/runner'), ['/runner']);
  });

  it('calls shared what is both shared and slave', () => {
    assert.deepEqual(entries().map(propagationOf), ['private', 'shared', 'slave', 'private', 'private']);
  });
});

describe('splitMountOptions', () => {
  it('separates mount attributes from file system options', () => {
    assert.deepEqual(
      splitMountOptions(['ro', 'nosuid', 'nodev', 'noexec', 'size=1m', 'metacopy=on', 'volatile', 'rw', 'defaults']),
      { attributes: 0xf, fsOptions: ['size=1m', 'metacopy=on', 'volatile'] },
    );
    assert.deepEqual(splitMountOptions([]), { attributes: 0, fsOptions: [] });
  });
});

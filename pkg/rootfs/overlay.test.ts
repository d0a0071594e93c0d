import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { checkSubPath, hostIdOf } from './mounting.ts';
import { checkMountOptions } from './overlay.ts';

describe('rootfs/overlay', () => {
  it('takes mount options that say how, never ones that say where', () => {
    const good = ['metacopy=on', 'redirect_dir=nofollow', 'index=off', 'volatile', 'nodev', 'xino=auto'];
    assert.deepEqual(checkMountOptions(good), good);
    for (const bad of [
      'lowerdir=/',
      'upperdir=/x',
      'workdir=/x',
      'datadir+=/x',
      'nodev,suid',
      'metacopy',
      'ro',
      '',
      'METACOPY=on',
      'metacopy=on\n',
    ]) {
      assert.throws(() => checkMountOptions([bad]), RuntimeError, 'not allowed', bad);
    }
  });

  it('maps owners into a user namespace', () => {
    const maps = [
      { containerId: 0, hostId: 100_000, size: 10 },
      { containerId: 10, hostId: 500_000, size: 5 },
    ];
    assert.deepEqual(
      [0, 9, 10, 14].map((id) => hostIdOf(id, maps)),
      [100_000, 100_009, 500_000, 500_004],
    );
    assert.throws(() => hostIdOf(15, maps), RuntimeError, 'not in the id map');
  });

  it('sub paths are relative and go down', () => {
    for (const good of ['', 'a', 'a/b/', './a', '..a', 'a..b/c']) checkSubPath(good);
    for (const bad of ['/', '/a', '..', 'a/..', 'a/../b', '../../etc', 'a\0b'])
      assert.throws(() => checkSubPath(bad), RuntimeError, 'relative and without', bad);
  });
});

import { assert } from 'chai';
import { RuntimeError } from '../pkg/base/errors.ts';
import { checkApart } from './disks.ts';

describe('cri/disks', () => {
  it('images may lie below or above the root, but not where something else of ours is swept', () => {
    const verdict = (imagestore: string): string => {
      try {
        checkApart(imagestore, '/var/lib/berth', '/run/berth');
        return 'fine';
      } catch (error) {
        return error instanceof RuntimeError ? error.code : String(error);
      }
    };
    for (const path of [
      '/var/lib/berth',
      '/var/lib/berth/imagestore',
      '/images',
      '/var/lib',
      '/var/lib/berth2',
      '/run/berth2',
    ])
      assert.equal(verdict(path), 'fine', path);
    for (const path of [
      '/var/lib/berth/rootfs',
      '/var/lib/berth/layers/x',
      '/var/lib/berth/cni',
      '/run/berth',
      '/run/berth/images',
    ])
      assert.equal(verdict(path), 'InvalidArgument', path);
    assert.throws(() => checkApart('/data', '/data/layers/root', '/run/berth'), /lie in each other/);
  });
});

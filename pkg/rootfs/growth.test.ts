import { assert } from 'chai';
import { RuntimeError } from '../base/errors.ts';
import { Growth } from './growth.ts';

describe('rootfs/growth: how far a file is', () => {
  const cancelled = (work: () => void): void => {
    try {
      work();
    } catch (error) {
      assert.isTrue(error instanceof RuntimeError && error.code === 'Cancelled', String(error));
      return;
    }
    assert.fail('it went on');
  };

  it('is the same on both sides', () => {
    const ours = new Growth();
    const theirs = new Growth(ours.shared);
    theirs.await(0);
    ours.reach(10n);
    theirs.await(10);
    ours.reach(11n);
    theirs.await(11);
  });

  it('holds nobody up once it is given up, whatever comes then', () => {
    const ours = new Growth();
    ours.reach(10n);
    ours.giveUp();
    cancelled(() => new Growth(ours.shared).await(5));
    ours.reach(100n);
    cancelled(() => new Growth(ours.shared).await(50));
  });
});

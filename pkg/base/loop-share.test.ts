import { assert } from 'chai';
import { LoopShare } from './loop-share.ts';

describe('a share of the event loop', () => {
  const turn = (): Promise<void> => new Promise((resolve) => void setImmediate(resolve));

  it('lets so many begin in a turn, at once if they are the first, and all in their order', async () => {
    const share = new LoopShare(3);
    const begun: number[] = [];
    const waits = Array.from({ length: 8 }, (_, index) => {
      const wait = share.enter();
      if (wait === undefined) begun.push(index);
      return wait?.then(() => void begun.push(index));
    });
    assert.deepEqual(begun, [0, 1, 2]);
    await turn();
    assert.deepEqual(begun, [0, 1, 2, 3, 4, 5]);
    const late = share.enter();
    assert.isDefined(late, 'nobody overtakes who waits');
    await turn();
    assert.deepEqual(begun, [0, 1, 2, 3, 4, 5, 6, 7]);
    await Promise.all([...waits, late]);
  });

  it('keeps nobody waiting who comes alone', async () => {
    const share = new LoopShare(1);
    for (let i = 0; i < 3; i++) {
      assert.isUndefined(share.enter());
      await turn();
    }
  });
});

import { expect } from 'chai';
import { mock } from 'node:test';
import type { Op } from '../pkg/base/op.ts';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import { limits } from '../pkg/base/limits.ts';
import { sweepImages } from './image-sweep.ts';

describe('cri/image-sweep', () => {
  const warnings: string[] = [];
  const op: Op = backgroundOp({ ...silent, warn: (message) => void warnings.push(message) });
  beforeEach(() => {
    warnings.length = 0;
    mock.timers.enable({ apis: ['setInterval'] });
  });
  afterEach(() => mock.timers.reset());
  const hour = async (): Promise<void> => {
    mock.timers.tick(limits.imageSweepMs);
    await new Promise(setImmediate);
  };

  it('sweeps at once and then every hour, also after a failure, until it is stopped', async () => {
    let sweeps = 0;
    const stop = sweepImages(op, {
      sweep: async () => {
        if (++sweeps === 2) throw new Error('disk');
      },
    });
    expect(sweeps).to.equal(1);
    await new Promise(setImmediate);
    await hour();
    await hour();
    expect([sweeps, warnings]).to.deep.equal([3, ['the sweep of the image store failed, will retry in an hour']]);
    stop();
    await hour();
    expect(sweeps).to.equal(3);
  });

  it('begins no sweep while one is under way', async () => {
    const first = Promise.withResolvers<void>();
    let sweeps = 0;
    const stop = sweepImages(op, { sweep: () => (++sweeps === 1 ? first.promise : Promise.resolve()) });
    await hour();
    expect(sweeps).to.equal(1);
    first.resolve();
    await new Promise(setImmediate);
    await hour();
    expect(sweeps).to.equal(2);
    stop();
  });
});

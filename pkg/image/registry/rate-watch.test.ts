import { expect } from 'chai';
import { RateWatch } from './rate-watch.ts';

describe('image/registry/rate-watch', () => {
  it('wants enough bytes in every window', () => {
    const watch = new RateWatch(60_000, 1000, 0);
    expect(watch.stalled(59_999)).to.equal(false);
    expect(watch.stalled(60_000)).to.equal(true);
    watch.add(999, 50_000);
    expect(watch.stalled(60_000)).to.equal(true);
    watch.add(1, 59_000);
    expect(watch.stalled(118_000)).to.equal(false);
    expect(watch.stalled(119_000)).to.equal(true);
  });

  it('a trickle of a byte per second is not progress', () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let stalledAt = 0;
    for (let now = 0; now <= 120_000 && stalledAt === 0; now += 1000) {
      watch.add(1, now);
      if (watch.stalled(now)) stalledAt = now;
    }
    expect(stalledAt).to.equal(60_000);
  });

  it('does not count the time in which a request waits for its answer', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 10_000;
    const { promise, resolve } = Promise.withResolvers<void>();
    const waiting = watch.waiting(
      () => now,
      () => promise,
    );
    expect(watch.stalled(400_000)).to.equal(false);
    now = 510_000;
    resolve();
    await waiting;
    expect(watch.stalled(559_999)).to.equal(false);
    expect(watch.stalled(560_000)).to.equal(true);
  });

  it('counts the time between, so that a few bytes from each of many connections are no progress', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 0;
    let connections = 0;
    for (; connections < 1000 && !watch.stalled(now); connections++) {
      await watch.waiting(
        () => now,
        async () => void (now += 5_000),
      );
      now += 600;
      watch.add(5, now);
    }
    expect(connections).to.equal(100);
  });

  it('stands still as long as any of several requests waits', async () => {
    const watch = new RateWatch(60_000, 1000, 0);
    let now = 20_000;
    const [one, two] = [Promise.withResolvers<void>(), Promise.withResolvers<void>()];
    const waiting = [one, two].map(({ promise }) =>
      watch.waiting(
        () => now,
        () => promise,
      ),
    );
    now = 100_000;
    one.resolve();
    await waiting[0];
    watch.add(1000, 110_000);
    now = 200_000;
    two.resolve();
    await waiting[1];
    expect([watch.stalled(259_999), watch.stalled(260_000)]).to.deep.equal([false, true]);
  });

  it('zero turns it off', () => {
    expect(new RateWatch(0, 1000, 0).stalled(1e12)).to.equal(false);
  });
});

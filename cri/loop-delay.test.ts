import { assert } from 'chai';
import { type LoopClock, LoopDelay } from './loop-delay.ts';

const NOTHING = { p50Ms: null, p99Ms: null, maxMs: null, busyMaxMs: null };

/** A clock that the test moves. */
class FakeClock implements LoopClock {
  watches = 0;
  tick: (() => void) | undefined;
  expire: (() => void) | undefined;
  #now = 0;
  #worked = 0;
  readonly now = (): number => this.#now;
  readonly worked = (): number => this.#worked;
  readonly every = (_ms: number, tick: () => void): (() => void) => {
    this.watches++;
    this.tick = tick;
    return () => (this.tick = undefined);
  };
  readonly after = (_ms: number, done: () => void): (() => void) => {
    this.expire = done;
    return () => (this.expire = undefined);
  };

  /** The timer fires after `ms`, of which the thread has worked so many. */
  pass(ms: number, worked = 0): void {
    this.#now += ms;
    this.#worked += worked;
    this.tick?.();
  }
}

describe('LoopDelay', () => {
  it('begins with the first question', () => {
    const clock = new FakeClock();
    const delay = new LoopDelay(clock);
    assert.equal(clock.watches, 0);
    assert.deepEqual([delay.read(), delay.read()], [NOTHING, NOTHING]);
    assert.equal(clock.watches, 1);
  });

  it('tells what was seen since the question before, less what lies between two timers that are on time', () => {
    const clock = new FakeClock();
    const delay = new LoopDelay(clock);
    delay.read();
    for (const ms of [10, 10, 11, 40]) clock.pass(ms);
    assert.deepEqual(delay.read(), { p50Ms: 0, p99Ms: 30, maxMs: 30, busyMaxMs: 0 });
    for (const ms of [9, 9, 12]) clock.pass(ms);
    assert.deepEqual(delay.read(), { p50Ms: 0, p99Ms: 2, maxMs: 2, busyMaxMs: 0 });
  });

  it('tells its own work from waiting for a processor', () => {
    const clock = new FakeClock();
    const delay = new LoopDelay(clock);
    delay.read();
    clock.pass(410, 10);
    clock.pass(130, 129);
    clock.pass(10, 10);
    const { maxMs, busyMaxMs } = delay.read();
    assert.deepEqual([maxMs, busyMaxMs], [400, 120]);
    clock.pass(10);
    assert.equal(delay.read().busyMaxMs, 0);
  });

  it('stops when nobody asks, and begins again', () => {
    const clock = new FakeClock();
    const delay = new LoopDelay(clock);
    delay.read();
    clock.pass(50);
    clock.expire?.();
    assert.isUndefined(clock.tick);
    assert.deepEqual(delay.read(), NOTHING);
    assert.equal(clock.watches, 2);
  });

  it('sees a real loop that is held up', async () => {
    const delay = new LoopDelay();
    delay.read();
    const end = process.threadCpuUsage().user + 20_000;
    while (process.threadCpuUsage().user < end);
    await new Promise<void>((resolve) => {
      const look = (): void => {
        const { busyMaxMs } = delay.read();
        if (busyMaxMs === null) setTimeout(look, 5);
        else {
          assert.isAtLeast(busyMaxMs, 10);
          resolve();
        }
      };
      setTimeout(look, 5);
    });
  });
});

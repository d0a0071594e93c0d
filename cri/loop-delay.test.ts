import { expect } from 'chai';
import { LoopDelay, type LoopHistogram } from './loop-delay.ts';

const NOTHING = { p50Ms: null, p99Ms: null, maxMs: null };
const HOUR_MS = 3_600_000;

/** A histogram that the test fills. */
class FakeHistogram implements LoopHistogram {
  seenMs: number[] = [];
  readonly disabled = Promise.withResolvers<void>();

  get count(): number {
    return this.seenMs.length;
  }

  get max(): number {
    return Math.max(...this.seenMs) * 1e6;
  }

  percentile(percent: number): number {
    return (this.seenMs.toSorted((a, b) => a - b)[Math.ceil((percent / 100) * this.count) - 1] ?? 0) * 1e6;
  }

  reset(): void {
    this.seenMs = [];
  }

  enable(): void {}

  disable(): void {
    this.disabled.resolve();
  }
}

describe('LoopDelay', () => {
  it('begins with the first question', () => {
    const started: number[] = [];
    const delay = new LoopDelay(HOUR_MS, (resolutionMs) => {
      started.push(resolutionMs);
      return new FakeHistogram();
    });
    expect(started).to.deep.equal([]);
    expect([delay.read(), delay.read()]).to.deep.equal([NOTHING, NOTHING]);
    expect(started).to.deep.equal([5]);
  });

  it('tells what was seen since the question before, less what lies between two timers that are on time', () => {
    const histogram = new FakeHistogram();
    const delay = new LoopDelay(HOUR_MS, () => histogram);
    delay.read();
    histogram.seenMs = [5, 5, 6, 35];
    expect(delay.read()).to.deep.equal({ p50Ms: 0, p99Ms: 30, maxMs: 30 });
    histogram.seenMs = [4, 4, 7];
    expect(delay.read()).to.deep.equal({ p50Ms: 0, p99Ms: 2, maxMs: 2 });
  });

  it('stops when nobody asks, and begins again', async () => {
    const histograms: FakeHistogram[] = [];
    const delay = new LoopDelay(0, () => {
      const histogram = new FakeHistogram();
      histograms.push(histogram);
      return histogram;
    });
    const alive = setInterval(() => {}, HOUR_MS); // The timer of LoopDelay keeps no process alive.
    delay.read();
    await histograms[0]?.disabled.promise;
    clearInterval(alive);
    delay.read();
    expect(histograms).to.have.length(2);
  });
});

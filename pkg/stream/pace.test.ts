import { assert } from 'chai';
import { Pace } from './pace.ts';

describe('the pace of a client', () => {
  it("lets a second's worth through at once, then as much as time passes", () => {
    let now = 0;
    const pace = new Pace(1_000, () => now);
    const through = (): number => {
      for (let count = 0; ; count++) if (pace.take(0) > 0) return count;
    };
    assert.equal(through(), 1_100, 'and a debt that is not worth waiting for');
    now += 500;
    assert.approximately(through(), 500, 2);
    now += 3_600_000;
    assert.approximately(through(), 1_100, 2, 'nobody saves for more than a second');
  });

  it('says how long to wait until there is room again', () => {
    let now = 0;
    const pace = new Pace(1_000, () => now);
    let wait = 0;
    while (wait === 0) wait = pace.take(0);
    assert.approximately(wait, 101, 1);
    now += wait;
    assert.equal(pace.take(0), 0);
  });

  it('costs nothing where a frame carries enough, and little where it carries something', () => {
    const pace = new Pace(100, () => 0);
    for (let i = 0; i < 10_000; i++) assert.equal(pace.take(4_096), 0);
    let short = 0;
    while (pace.take(2_048) === 0) short++;
    assert.approximately(short, 2_200, 1, 'a twentieth each');
  });
});

import { assert } from 'chai';
import { fired, LONGEST_TIMER_MS, leftMs, pause, within, withinGrace } from './time.ts';

const never = new Promise<never>(() => {});
const HOUR_MS = 3_600_000;

/** Lets the event loop go round until what is ready has been done. */
async function rounds(): Promise<void> {
  for (let round = 0; round < 5; round++) await new Promise((resolve) => setImmediate(resolve));
}

describe('work within a time', () => {
  it('gives what it gives, also undefined', async () => {
    assert.equal(await within(HOUR_MS, Promise.resolve(1)), 1);
    assert.equal(await within(HOUR_MS, Promise.resolve(undefined)), undefined);
  });

  it('is late after it', async () => {
    assert.equal(await within(0, never), 'late');
  });

  it('may take longer than a timer can', async () => {
    const work = Promise.withResolvers<string>();
    const outcome = within(2 * LONGEST_TIMER_MS, work.promise);
    await rounds();
    work.resolve('in time');
    assert.equal(await outcome, 'in time');
  });

  it('throws what the work throws', async () => {
    const broken = within(HOUR_MS, Promise.reject(new Error('broken')));
    assert.equal(await broken.catch((error: unknown) => String(error)), 'Error: broken');
  });

  it('is not late when the loop was blocked, and the outcome waits to be heard', async () => {
    const { port1, port2 } = new MessageChannel();
    const heard = new Promise<string>((resolve) => port1.addEventListener('message', () => resolve('heard')));
    port1.start();
    port2.postMessage('done');
    const outcome = within(0, heard);
    const end = performance.now() + 5;
    while (performance.now() < end);
    assert.equal(await outcome, 'heard');
    port1.close();
  });
});

describe('a time of grace', () => {
  it('begins when the signal fires', async () => {
    const stop = new AbortController();
    const outcome = withinGrace(stop.signal, 0, never);
    let isOver = false;
    void outcome.then(() => (isOver = true));
    await rounds();
    assert.isFalse(isOver);
    stop.abort();
    assert.equal(await outcome, 'late');
  });

  it('gives what the work gives, before the signal and after it', async () => {
    assert.equal(await withinGrace(new AbortController().signal, 0, Promise.resolve(1)), 1);
    const work = Promise.withResolvers<number>();
    const outcome = withinGrace(AbortSignal.abort(), HOUR_MS, work.promise);
    await rounds();
    work.resolve(2);
    assert.equal(await outcome, 2);
  });
});

describe('a pause', () => {
  it('ends after its time, or when the signal fires', async () => {
    await pause(0, new AbortController().signal);
    await pause(HOUR_MS, AbortSignal.abort());
    const stop = new AbortController();
    const paused = pause(HOUR_MS, stop.signal);
    stop.abort();
    await paused;
  });
});

describe('a signal', () => {
  it('has fired, or will', async () => {
    await fired(AbortSignal.abort());
    const stop = new AbortController();
    const waiting = fired(stop.signal);
    stop.abort();
    await waiting;
  });
});

describe('the time left', () => {
  it('is never less than none', () => {
    assert.equal(leftMs(performance.now() - 10), 0);
    assert.closeTo(leftMs(performance.now() + HOUR_MS), HOUR_MS, 5_000);
    assert.equal(leftMs(Number.POSITIVE_INFINITY), Number.POSITIVE_INFINITY);
  });
});

import { assert } from 'chai';
import { backgroundOp, type Logger, silent } from '../../pkg/base/op.ts';
import { keepWatch, tellStart, watchdogMs } from './service-manager.ts';

/** Waits for the next thing that is told. */
function ear(): { readonly told: string[]; readonly notify: (state: string) => boolean; next(): Promise<string> } {
  const told: string[] = [];
  let wake = (): void => {};
  return {
    told,
    notify(state) {
      told.push(state);
      wake();
      return true;
    },
    async next() {
      if (told.length === 0) await new Promise<void>((resolve) => (wake = resolve));
      return told.shift() ?? '';
    },
  };
}

describe('the service manager hears', () => {
  it('the stages of a start, with more time as long as there are new ones', async () => {
    const { notify, next, told } = ear();
    const seen: string[] = [];
    const start = tellStart({ ...backgroundOp(silent), stage: (what) => void seen.push(what) }, notify, 1);
    start.op.stage('look at containers');
    assert.match(await next(), /^STATUS=starting: look at containers\nEXTEND_TIMEOUT_USEC=\d+000$/);
    await new Promise((resolve) => setImmediate(resolve));
    assert.deepEqual(told, [], 'nothing new');
    start.op.stage('sweep');
    assert.match(await next(), /^STATUS=starting: sweep\n/);
    start.done();
    assert.deepEqual(seen, ['look at containers', 'sweep']);
  });

  it('of a daemon that answers itself, as often as it wants to', async () => {
    const { notify, next } = ear();
    let probes = 0;
    const health = {
      probe: async (signal: AbortSignal) => void (signal.aborted || probes++),
      status: () => `probe ${probes}`,
    };
    using _ = keepWatch({ WATCHDOG_USEC: '50000' }, health, notify, silent);
    assert.equal(await next(), 'STATUS=probe 0', 'at once, and nobody was asked');
    assert.equal(await next(), 'WATCHDOG=1\nSTATUS=probe 1');
    assert.equal(await next(), 'WATCHDOG=1\nSTATUS=probe 2');
  });

  it('no sign of one that does not, and the log says why', async () => {
    const { notify, told } = ear();
    const { promise: said, resolve } = Promise.withResolvers<string>();
    const log: Logger = { ...silent, error: (_message, fields) => resolve(String(fields?.['cause'])) };
    const health = {
      probe: (signal: AbortSignal) =>
        new Promise((_, reject) => signal.addEventListener('abort', () => reject(new Error('no answer')))),
      status: () => 'serving',
    };
    using _ = keepWatch({ WATCHDOG_USEC: '30000' }, health, notify, log);
    assert.equal(await said, 'no answer');
    assert.deepEqual(told, ['STATUS=serving']);
  });

  it('a status at once, without being asked for signs of life', async () => {
    const { notify, next } = ear();
    using _ = keepWatch({}, { probe: async () => {}, status: () => 'serving' }, notify, silent);
    assert.equal(await next(), 'STATUS=serving');
  });

  it('signs of life only if they are meant for this process', () => {
    assert.equal(watchdogMs({ WATCHDOG_USEC: '60000000', WATCHDOG_PID: '7' }, 7), 60_000);
    assert.equal(watchdogMs({ WATCHDOG_USEC: '60000000' }, 7), 60_000);
    for (const env of [
      {},
      { WATCHDOG_USEC: '60000000', WATCHDOG_PID: '8' },
      { WATCHDOG_USEC: 'x' },
      { WATCHDOG_USEC: '0' },
    ])
      assert.isUndefined(watchdogMs(env, 7), JSON.stringify(env));
  });
});

import { assert } from 'chai';
import { abortError, backgroundOp, type Op, silent, withTimeout } from './op.ts';

const op = (part: Partial<Op>): Op => ({ ...backgroundOp(silent), ...part });

async function fired(signal: AbortSignal): Promise<void> {
  if (!signal.aborted) await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
}

describe('an aborted operation', () => {
  it('is late when its own timer says so, also where the clock was set back since', async () => {
    const bounded = withTimeout(op({}), 0);
    await fired(bounded.signal);
    assert.equal(abortError({ ...bounded, deadline: Date.now() + 3_600_000 }, 'exec').code, 'DeadlineExceeded');
    assert.equal(
      abortError(withTimeout({ ...bounded, deadline: Date.now() + 3_600_000 }, 3_600_000), 'exec').code,
      'DeadlineExceeded',
      'or that of the operation it is a part of',
    );
  });

  it('is late when its deadline has passed, and else cancelled', () => {
    const signal = AbortSignal.abort();
    assert.equal(abortError(op({ signal, deadline: Date.now() - 1 }), 'exec').code, 'DeadlineExceeded');
    assert.equal(abortError(op({ signal, deadline: Date.now() + 3_600_000 }), 'exec').code, 'Cancelled');
  });
});

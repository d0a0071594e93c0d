import { assert } from 'chai';
import { backgroundOp, silent } from '../pkg/base/op.ts';
import type { StatusResponse } from '../pkg/cri-api/types.ts';
import { type ObserveOptions, observeService } from './observe-service.ts';

const FEATURES = { recursiveReadOnlyMounts: true, userNamespaces: true, idmappedMounts: true };

function statusOf(runtimes: object): Pick<StatusResponse, 'runtimeHandlers'> & { readonly ready: unknown } {
  const options = {
    mind: {},
    network: { ready: { ok: true, why: '' } },
    version: '1',
    cgroupManager: 'cgroupfs',
    runtimes,
    userNamespaces: true,
    info: () => ({}),
    operations: () => [],
    podEvents: false,
    clock: () => 1n,
  } as unknown as ObserveOptions;
  const { status, runtimeHandlers } = observeService(options).status(backgroundOp(silent), { verbose: false });
  return { ready: status.conditions.find(({ type }) => type === 'RuntimeReady'), runtimeHandlers };
}

describe('Status', () => {
  it('is ready, and lists the default handler without a name', () => {
    const runc = { features: FEATURES };
    const { ready, runtimeHandlers } = statusOf({
      named: new Map([['runc', runc]]),
      standard: runc,
      trouble: undefined,
    });
    assert.deepEqual(ready, { type: 'RuntimeReady', status: true, reason: '', message: '' });
    assert.deepEqual(
      runtimeHandlers.map(({ name, features }) => [name, features?.userNamespaces]),
      [
        ['', true],
        ['runc', true],
      ],
    );
  });

  it('says that the default runtime is missing, and lists those that are there', () => {
    const { ready, runtimeHandlers } = statusOf({
      named: new Map([['runc', { features: FEATURES }]]),
      standard: undefined,
      trouble: 'the default runtime handler "kata" is not there',
    });
    assert.deepEqual(ready, {
      type: 'RuntimeReady',
      status: false,
      reason: 'RuntimeMissing',
      message: 'the default runtime handler "kata" is not there',
    });
    assert.deepEqual(
      runtimeHandlers.map(({ name }) => name),
      ['runc'],
    );
  });

  it('says that the default runtime is broken', () => {
    const runc = { features: FEATURES };
    const { ready } = statusOf({ named: new Map([['runc', runc]]), standard: runc, trouble: 'no libc' });
    assert.deepEqual(ready, { type: 'RuntimeReady', status: false, reason: 'RuntimeBroken', message: 'no libc' });
  });
});

import { assert } from 'chai';
import { silent } from '../base/op.ts';
import { Background } from './background.ts';

describe('work in the background', () => {
  it('is listed from when it goes on until it is done', async () => {
    const background = new Background(silent);
    const op = background.begin('clean-up', { container: 'c1' });
    assert.deepEqual(background.operations(), []);
    const { promise, resolve } = Promise.withResolvers<void>();
    const other = Promise.reject(new Error('failed, which is not our concern'));
    op.goesOn?.(promise);
    op.goesOn?.(other);
    op.stage('runtime delete');
    await other.catch(() => {});
    const [row] = background.operations();
    assert.deepInclude(row, { rpc: 'clean-up', ids: { container: 'c1' }, stage: 'runtime delete', clientGone: true });
    resolve();
    await promise;
    assert.deepEqual(background.operations(), []);
  });
});

import { assert } from 'chai';
import { bannedCpus, isWhole, withBannedCpus, withCpus } from './cpu-masks.ts';

describe('masks of CPUs', () => {
  it('lose and get back processors, in words of 32, and know their inverse', () => {
    assert.deepEqual(withCpus('ff\n', [1, 4], 'take'), { mask: '000000ed', banned: '00000012' });
    assert.deepEqual(withCpus('000000ed', [1, 4], 'put'), { mask: '000000ff', banned: 'ffffff00' });
    assert.deepEqual(withCpus('ffffffff,ffffffff', [0, 33], 'take'), {
      mask: 'fffffffd,fffffffe',
      banned: '00000002,00000001',
    });
    assert.throws(() => withCpus('no', [1], 'put'), /no mask/);
  });

  it('are whole after a boot', () => {
    for (const [mask, whole] of [
      ['ff', true],
      ['0000000f,ffffffff', true],
      ['ed', false],
    ] as const)
      assert.strictEqual(isWhole(mask), whole, mask);
  });

  it('go into the configuration of irqbalance, and everything else stays', () => {
    const text = '# own\nIRQBALANCE_BANNED_CPUS="0"\nOPTIONS=""';
    assert.strictEqual(bannedCpus(text), '0');
    assert.strictEqual(withBannedCpus(text, '12'), '# own\nIRQBALANCE_BANNED_CPUS="12"\nOPTIONS=""');
    assert.strictEqual(withBannedCpus('# own', '12'), '# own\nIRQBALANCE_BANNED_CPUS="12"\n');
    assert.strictEqual(bannedCpus('# own'), '');
  });
});

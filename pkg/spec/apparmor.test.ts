import { assert } from 'chai';
import { codeOf } from '../base/errors.ts';
import { apparmorProfileText } from './apparmor.ts';

describe('apparmorProfileText', () => {
  it('names the profile and its own kind', () => {
    const text = apparmorProfileText('berth-default');
    assert.match(text, /^profile berth-default flags=\(attach_disconnected,mediate_deleted\) \{\n/);
    assert.include(text, 'signal (send, receive) peer=berth-default,');
    assert.notInclude(text, '#include', 'it needs no file of the distribution');
  });

  it('keeps settings of the node and the memory of the kernel from containers', () => {
    const text = apparmorProfileText('x');
    for (const rule of [
      'deny mount,',
      'deny /proc/* w,',
      '{kcore,kmem,mem,sysrq-trigger} rwklx',
      'deny /sys/kernel/security/** rwklx',
      'deny /sys/devices/virtual/powercap/** rwklx',
    ])
      assert.include(text, rule);
  });

  for (const name of ['', 'a b', 'x {\n}', 'a,b', '-x', '../x']) {
    it(`refuses the name ${JSON.stringify(name)}`, () => {
      try {
        apparmorProfileText(name);
      } catch (error) {
        assert.equal(codeOf(error), 'InvalidArgument');
        return;
      }
      assert.fail('it was taken');
    });
  }
});

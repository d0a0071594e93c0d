import { assert } from 'chai';
import { buildGolden } from './golden/request.ts';
import { violations } from './golden/shape.ts';
import { loadHooks, matchHooks, withHooks } from './hooks.ts';
import type { HookSubject, ConfigFile } from '../ports/extensions.ts';

const file = (path: string, over: object = {}, directory = 0): ConfigFile => ({
  path,
  directory,
  notation: 'json',
  value: {
    version: '1.0.0',
    hook: { path: '/usr/libexec/hook', args: ['hook', 'go'], env: ['A=1'], timeout: 5 },
    when: { always: true },
    stages: ['prestart'],
    ...over,
  },
});
const subject: HookSubject = {
  annotations: new Map([
    ['com.example.dept', 'fluid-dynamics'],
    ['other', 'x'],
  ]),
  command: '/usr/bin/nvidia-smi',
  hasBindMounts: true,
};
const selected = (when: object, over: Partial<HookSubject> = {}): boolean => {
  const { hooks, damaged } = loadHooks([file('/h/a.json', { when })]);
  assert.deepEqual(damaged, []);
  return matchHooks(hooks, { ...subject, ...over }).length === 1;
};

describe('OCI hooks', () => {
  const cases: readonly (readonly [when: object, over: Partial<HookSubject>, selected: boolean])[] = [
    [{ always: true }, {}, true],
    [{ always: false }, {}, false],
    [{}, {}, false],
    [{ hasBindMounts: true }, {}, true],
    [{ hasBindMounts: true }, { hasBindMounts: false }, false],
    [{ hasBindMounts: false }, {}, false],
    [{ commands: ['nvidia'] }, {}, true],
    [{ commands: ['^nvidia', 'smi$'] }, {}, true],
    [{ commands: ['^nvidia'] }, {}, false],
    [{ commands: ['(?i)NVIDIA'] }, {}, true],
    [{ annotations: { '^com\\.example\\.': 'fluid' } }, {}, true],
    [{ annotations: { '^com\\.example\\.': '^x$' } }, {}, false],
    [{ annotations: { '^com\\.example\\.': 'fluid', '^none$': '.*' } }, {}, false],
    [{ always: true, commands: ['^none$'] }, {}, false],
    [{ always: true, hasBindMounts: true, annotations: { other: 'x' }, commands: ['smi'] }, {}, true],
    [{ annotations: { '.': 'a$' } }, { annotations: new Map([['k', 'a'.repeat(5000)]]) }, true],
  ];
  for (const [when, over, expected] of cases)
    it(`${JSON.stringify(when)} ${expected ? 'holds' : 'does not hold'}`, () =>
      assert.equal(selected(when, over), expected));

  it('run in the order of file names whatever their case, as with CRI-O', () => {
    const { hooks } = loadHooks(['/h/B.json', '/h/a.json', '/h/c.json', '/h/A.json'].map((path) => file(path)));
    assert.deepEqual(
      hooks.map(({ path }) => path),
      ['/h/A.json', '/h/a.json', '/h/B.json', '/h/c.json'],
    );
  });

  it('run in the order of file names, and a later directory hides an earlier file of the same name', () => {
    const { hooks } = loadHooks([
      file('/etc/b.json', { hook: { path: '/etc/hook' } }, 1),
      file('/usr/b.json'),
      file('/usr/a.json'),
      file('/etc/c.json', {}, 1),
    ]);
    assert.deepEqual(
      hooks.map((each) => [each.path, each.hook.path]),
      [
        ['/usr/a.json', '/usr/libexec/hook'],
        ['/etc/b.json', '/etc/hook'],
        ['/etc/c.json', '/usr/libexec/hook'],
      ],
    );
  });
  it('that are broken are told and leave the others alone', () => {
    const broken: readonly (readonly [over: object, why: RegExp])[] = [
      [{ version: '2.0.0' }, /version: want 1.0.0 or 0.1.0/],
      [{ stages: [] }, /stages: none/],
      [{ stages: ['precreate'] }, /unknown stage "precreate"/],
      [{ stages: ['constructor'] }, /unknown stage/],
      [{ hook: { path: 'relative' } }, /hook.path: want an absolute path/],
      [{ hook: { path: '/x', timeout: 0 } }, /hook.timeout/],
      [{ hook: { path: '/x', args: [1] } }, /hook.args/],
      [{ hook: null }, /hook: want an object/],
      [{ when: [] }, /when: want an object/],
      [{ when: { always: 'yes' } }, /when.always/],
      [{ when: { commands: ['('] } }, /when.commands: pattern "\(" is not valid/],
      [{ when: { annotations: { '[': 'x' } } }, /when.annotations: pattern/],
    ];
    for (const [over, why] of broken) {
      const { hooks, damaged } = loadHooks([file('/h/bad.json', over), file('/h/good.json')]);
      assert.deepEqual(
        hooks.map((each) => each.path),
        ['/h/good.json'],
        why.source,
      );
      assert.match(
        damaged.map((each) => `${each.path} ${each.why}`).join(),
        new RegExp(`^/h/bad.json hook /h/bad.json: .*${why.source}`),
      );
    }
  });
  it('are added at each of their stages, behind what is there', () => {
    const plain = buildGolden({ about: '' });
    const { hooks } = loadHooks([
      file('/h/a.json', { stages: ['prestart', 'poststop'] }),
      file('/h/b.json', { hook: { path: '/b' } }),
    ]);
    const spec = withHooks(withHooks(plain, hooks, subject), hooks.slice(1), subject);
    const first = { path: '/usr/libexec/hook', args: ['hook', 'go'], env: ['A=1'], timeout: 5 };
    assert.deepEqual(spec.hooks, { prestart: [first, { path: '/b' }, { path: '/b' }], poststop: [first] });
    assert.deepEqual(violations(spec), []);
    assert.strictEqual(withHooks(plain, [], subject), plain);
    assert.isUndefined(plain.hooks);
  });
  it('take no longer than the text that a pod brings, whatever their patterns are', () => {
    const { hooks } = loadHooks([
      file('/h/a.json', { when: { annotations: { '.*': '^(a+)+$' } } }),
      file('/h/b.json', { when: { annotations: { '.*key.*x.*y': '.*' } } }),
    ]);
    const hostile = new Map([
      ['v', `${'a'.repeat(31)}b`],
      ['w', `${'a'.repeat(100_000)}b`],
      ['key'.repeat(20_000), 'v'],
    ]);
    const began = performance.now();
    assert.deepEqual(matchHooks(hooks, { ...subject, annotations: hostile }), []);
    assert.isBelow(performance.now() - began, 5_000);
  });
  it('of format 0.1.0 run where one condition holds, and need no version', () => {
    const old = { hook: '/old', arguments: ['x'], stage: ['prestart'], cmd: ['^none$'], annotations: ['fluid', 'y'] };
    for (const version of [{}, { version: '' }, { version: null }, { version: '0.1.0' }]) {
      const { hooks, damaged } = loadHooks([{ ...file('/h/old.json'), value: { ...old, ...version } }]);
      assert.deepEqual(damaged, []);
      assert.deepEqual(hooks[0]?.hook, { path: '/old', args: ['/old', 'x'] });
      assert.lengthOf(matchHooks(hooks, subject), 1);
      assert.lengthOf(matchHooks(hooks, { ...subject, annotations: new Map([['a', 'z']]) }), 0);
    }
  });
});

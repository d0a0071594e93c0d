import { assert } from 'chai';
import { goPattern } from './go-pattern.ts';

/** What a pattern matches, and what it does not. */
const cases: readonly (readonly [pattern: string, matches: readonly string[], others: readonly string[]])[] = [
  ['nvidia', ['/usr/bin/nvidia-smi'], ['nvidi']],
  ['^(a|b)+$', ['abba'], ['abc']],
  ['(?i)NVIDIA', ['nvidia'], ['x']],
  ['a(?i)b', ['aB', 'ab'], ['AB']],
  ['a(?i)b|c', ['aB', 'C'], ['A']],
  ['(a(?i)b)c', ['aBc'], ['aBC']],
  ['(?i:b)c', ['Bc'], ['BC']],
  ['(?i)(?-i:b)c', ['bC'], ['BC']],
  ['(?s)a.b', ['a\nb'], []],
  ['(?m)^b$', ['a\nb'], ['ab']],
  ['(?P<x>a)b', ['ab'], []],
  ['\\Aab\\z', ['ab'], ['xab', 'ab\n']],
  ['io\\.kubernetes\\.cri\\-o\\_x\\/y\\"', ['io.kubernetes.cri-o_x/y"'], ['ioXkubernetes']],
  ['\\Qa.b*\\E+', ['a.b**'], ['axb']],
  ['[[:alpha:]]{2}', ['ab'], ['a1']],
  ['^[^[:digit:]_-]+$', ['abc'], ['a1', 'a-']],
  ['[]a]', [']', 'a'], ['b']],
  ['[^]a]', ['b'], [']', 'a']],
  ['[[a]', ['[', 'a'], ['b']],
  ['[\\-\\s\\.]', ['-', ' ', '.'], ['\v', 'a']],
  ['^\\S+$', ['a\v'], ['a b']],
  ['\\pL\\p{Greek}\\P{L}', ['aα1'], ['aα b'.slice(0, 2)]],
  ['\\p{^Lu}', ['a'], ['A']],
  ['\\x{1F600}\\x41\\101\\07', ['\u{1F600}AA\u0007'], []],
  ['a{2}', ['aa'], ['a{2}']],
  ['a{2,}', ['aaa'], ['a']],
  ['a{x}]', ['a{x}]'], ['ax']],
  ['{"k": 1}', ['{"k": 1}'], ['k']],
  ['\\é', ['é'], []],
];

describe('patterns as Go reads them', () => {
  for (const [pattern, matches, others] of cases) {
    it(pattern, () => {
      const expression = goPattern(pattern);
      for (const text of matches) assert.isTrue(expression.test(text), `matches ${JSON.stringify(text)}`);
      for (const text of others) assert.isFalse(expression.test(text), `does not match ${JSON.stringify(text)}`);
    });
  }

  // Backtracking would take seconds for the first and years for the others.
  for (const [pattern, text] of [
    ['.*foo.*bar', 'foo'.repeat(80_000)],
    ['^(a+)+$', `${'a'.repeat(250_000)}b`],
    ['(x+x+)+y', 'x'.repeat(250_000)],
    ['(a?){500}a{500}b', 'a'.repeat(1_000)],
  ] as const)
    it(`takes time by the length of the text: ${pattern}`, () => {
      const began = performance.now();
      assert.isFalse(goPattern(pattern).test(text));
      assert.isBelow(performance.now() - began, 5_000);
    });

  it('agrees with JavaScript where both read the same', () => {
    let seed = 7;
    const pick = (below: number): number => {
      seed = (Math.imul(seed, 1_664_525) + 1_013_904_223) >>> 0;
      return Math.floor((seed / 2 ** 32) * below);
    };
    const one = (depth: number): string => {
      const inner = (): string => (depth > 3 ? 'a' : some(depth + 1));
      const atoms = [() => 'a', () => 'b', () => '[^b]', () => '[ab]', () => '\\b', () => '^', () => '$'];
      const ways = [...atoms, () => `(${inner()})`, () => `(?:${inner()}|${inner()})`];
      const atom = ways[pick(ways.length)]?.() ?? '';
      const often = ['', '', '*', '+', '?', '{2}', '{1,3}', '*?'][pick(8)] ?? '';
      return /^(?:\\b|\^|\$)$/.test(atom) ? atom : atom + often;
    };
    const some = (depth: number): string => Array.from({ length: 1 + pick(3) }, () => one(depth)).join('');
    for (let round = 0; round < 3_000; round++) {
      const pattern = some(0);
      const text = Array.from({ length: pick(8) }, () => ['a', 'b', ' ', '\n'][pick(4)]).join('');
      const [ours, theirs] = [goPattern(pattern).test(text), new RegExp(pattern, 'u').test(text)];
      assert.strictEqual(ours, theirs, `${pattern} on ${JSON.stringify(text)}`);
    }
  });

  for (const pattern of [
    '(',
    ')',
    '[',
    'a**',
    '(?z)a',
    '\\p{Nonsense}',
    '\\',
    '*a',
    '(?=a)',
    '(?<!a)b',
    '(a)\\1',
    '(?<x>a)\\k<x>',
    '\\u{61}',
    '\\cA',
    '\\x4',
    'a{1001}',
    'a{2,1}',
    '(a{1000}){100}',
    '((a{1000}){1000}){1000}',
    '('.repeat(100_000),
  ])
    it(`refuses ${pattern.slice(0, 40)}`, () => assert.throws(() => goPattern(pattern), SyntaxError));
});

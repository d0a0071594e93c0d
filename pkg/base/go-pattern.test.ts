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
      for (const text of matches) assert.isTrue(expression.test(text), `${expression.source} matches ${text}`);
      for (const text of others) assert.isFalse(expression.test(text), `${expression.source} does not match ${text}`);
    });
  }

  for (const pattern of ['(', ')', '[', 'a**', '(?z)a', '\\p{Nonsense}', '\\', '*a'])
    it(`refuses ${pattern}`, () => assert.throws(() => goPattern(pattern), SyntaxError));
});

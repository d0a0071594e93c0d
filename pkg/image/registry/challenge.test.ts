import { expect } from 'chai';
import { parseChallenges } from './challenge.ts';

describe('image/registry/challenge', () => {
  const read = (...lines: string[]): unknown =>
    parseChallenges(lines).map(({ scheme, parameters }) => [scheme, Object.fromEntries(parameters)]);

  it('reads them in every spelling', () => {
    expect(read('Bearer realm="https://a/t",service="s, x",scope="repository:a:pull"')).to.deep.equal([
      ['bearer', { realm: 'https://a/t', service: 's, x', scope: 'repository:a:pull' }],
    ]);
    expect(read('BASIC Realm = "x"')).to.deep.equal([['basic', { realm: 'x' }]]);
    expect(read('Negotiate, Basic realm=plain, charset="UTF-8"', 'Bearer realm="y\\"z"')).to.deep.equal([
      ['negotiate', {}],
      ['basic', { realm: 'plain', charset: 'UTF-8' }],
      ['bearer', { realm: 'y"z' }],
    ]);
  });

  it('reads on behind a token that another scheme has in the place of parameters (RFC 9110 11.2)', () => {
    expect(read('Negotiate YIIJvwYGKw/+BQUCo-._~==, Basic realm="x"')).to.deep.equal([
      ['negotiate', {}],
      ['basic', { realm: 'x' }],
    ]);
    expect(read('NTLM TlRMTVNTUAACAAAA, Bearer realm="https://a/t"')).to.deep.equal([
      ['ntlm', {}],
      ['bearer', { realm: 'https://a/t' }],
    ]);
    expect(read('Negotiate abc=')).to.deep.equal([['negotiate', {}]]);
  });

  it('survives nonsense in linear time', () => {
    expect(read('')).to.deep.equal([]);
    expect(read('=')).to.deep.equal([]);
    expect(read('Bearer realm="open')).to.deep.equal([['bearer', {}]]);
    expect(read('Bearer realm=,')).to.deep.equal([['bearer', { realm: '' }]]);
    expect(parseChallenges([`Bearer ${'a="b",'.repeat(100_000)}`])[0]?.parameters.get('a')).to.equal('b');
    expect(read(',='.repeat(10_000))).to.deep.equal([]);
  });
});

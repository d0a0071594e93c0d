import { expect } from 'chai';
import { limits } from '../base/limits.ts';
import { withNames } from './name-list.ts';

const many = (registry: string, count: number): string[] =>
  Array.from({ length: count }, (_, i) => `${registry}/app:${i}`);

describe('image/name-list', () => {
  it('keeps the order in which names came, each once', () => {
    expect(withNames(['z/x:1', 'b/x:1'], ['c/x:1', 'b/x:1', 'a/x:1', 'a/x:1'])).to.deep.equal([
      'z/x:1',
      'b/x:1',
      'c/x:1',
      'a/x:1',
    ]);
  });

  it('who has most names gives the oldest of them', () => {
    const max = limits.imageNamesCount;
    const full = ['victim.example/x:1', ...many('evil.example', max - 1)];
    const next = withNames(full, ['evil.example/new:1']);
    expect(next).to.have.length(max);
    expect(next).to.include.members(['victim.example/x:1', 'evil.example/new:1', 'evil.example/app:1']);
    expect(next).to.not.include('evil.example/app:0');
    const late = withNames(full, ['late.example/x:1']);
    expect(late).to.include.members(['victim.example/x:1', 'late.example/x:1']);
    expect(late).to.not.include('evil.example/app:0');
    const flood = withNames(full, many('other.example', 5000));
    expect(flood).to.have.length(max);
    expect(flood).to.include.members(['victim.example/x:1', 'other.example/app:4999']);
  });

  it('long names count by their bytes', () => {
    const long = Array.from({ length: 1000 }, (_, i) => `evil.example/${'x'.repeat(500)}:${i}`);
    const next = withNames([...many('victim.example', 100)], long);
    expect(next.join('').length).to.be.at.most(limits.imageNamesBytes);
    expect(next).to.include.members(many('victim.example', 100));
    expect(next).to.include(long.at(-1));
  });
});

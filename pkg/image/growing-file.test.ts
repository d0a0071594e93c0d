import { expect } from 'chai';
import { GrowingFile } from './growing-file.ts';

describe('image/growing-file: a download as its readers see it', () => {
  it('tells those who follow how far it is, at once and as it grows', () => {
    const file = new GrowingFile('/x');
    file.grow(3n);
    const heard: bigint[] = [];
    file.follow((present) => heard.push(present));
    file.grow(5n);
    expect(heard).to.deep.equal([3n, 5n]);
  });

  it('has its first bytes when so many are there, or all of it, and never if it fails', async () => {
    const file = new GrowingFile('/x');
    const first = file.has(6);
    file.grow(6n);
    await first;
    await file.has(2);
    const short = file.has(100);
    file.pass();
    await short;
    await file.whole;
    const broken = new GrowingFile('/y');
    const outcome = broken.has(6).catch((error: unknown) => error);
    broken.fail(new Error('cut'));
    expect(String(await outcome)).to.equal('Error: cut');
    expect(String(await broken.whole.catch((error: unknown) => error))).to.equal('Error: cut');
  });
});

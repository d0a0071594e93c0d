import { expect } from 'chai';
import { parseDigest } from '../base/ids.ts';
import { chainIds, checkDigest, digestOf, verified, Verifier } from './digest.ts';

const bytes = Buffer.from('hello');
const HELLO = parseDigest('sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824');

async function* chunks(...parts: string[]): AsyncGenerator<Uint8Array> {
  for (const part of parts) yield Buffer.from(part);
}
async function drain(source: AsyncIterable<Uint8Array>): Promise<string> {
  const parts: Uint8Array[] = [];
  for await (const part of source) parts.push(part);
  return Buffer.concat(parts).toString();
}

describe('oci/digest', () => {
  it('computes and checks', () => {
    expect(digestOf(bytes)).to.equal(HELLO);
    expect(digestOf(bytes, 'sha512')).to.match(/^sha512:9b71d224bd62f378/);
    checkDigest(bytes, HELLO, 'x');
    checkDigest(bytes, digestOf(bytes, 'sha512'), 'x');
    expect(() => checkDigest(Buffer.from('hellO'), HELLO, 'the manifest'))
      .to.throw(/^the manifest: content has digest/)
      .with.property('code', 'DataLoss');
  });

  it('passes good content through and refuses short, long and wrong content', async () => {
    expect(await drain(verified(chunks('he', '', 'llo'), HELLO, 5n, 'layer'))).to.equal('hello');
    expect(await drain(verified(chunks('hello'), HELLO, undefined, 'layer'))).to.equal('hello');
    for (const [source, why] of [
      [chunks('hell'), /got 4 bytes of the 5/],
      [chunks('hello', '!'), /more than the 5/],
      [chunks('HELLO'), /digest/],
    ] as const) {
      const error: unknown = await drain(verified(source, HELLO, 5n, 'layer')).catch((e: unknown) => e);
      expect(error).to.have.property('code', 'DataLoss');
      expect(error).to.have.property('message').that.matches(why);
    }
  });

  it('refuses the first byte too many, without waiting for the end', () => {
    const verifier = new Verifier(HELLO, 5n, 'layer');
    verifier.update(bytes);
    expect(verifier.seenBytes).to.equal(5n);
    expect(() => verifier.update(Buffer.from('x'))).to.throw(/more than/);
  });

  it('chains diff ids as image-spec says', () => {
    const a = digestOf('a');
    const b = digestOf('b');
    const c = digestOf('c');
    const ab = digestOf(`${a} ${b}`);
    expect(chainIds([a, b, c]) as readonly string[]).to.deep.equal([a, ab, digestOf(`${ab} ${c}`)]);
    expect(chainIds([])).to.deep.equal([]);
    expect(() => chainIds([digestOf('a', 'sha512')])).to.throw(/sha256/);
  });
});

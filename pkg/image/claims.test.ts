import { expect } from 'chai';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { digestOf } from '../oci/digest.ts';
import type { ChainId, Digest } from '../base/ids.ts';
import { Claims } from './claims.ts';
import type { Claim } from './claims.ts';

describe('image/claims', () => {
  let directory: string;
  let now = 1_000_000;
  beforeEach(async () => (directory = await mkdtemp(join(tmpdir(), 'claims-'))));
  afterEach(() => rm(directory, { recursive: true }));
  const made = async (): Promise<Claims> => {
    const claims = new Claims(directory, 1000, () => now);
    await claims.load();
    return claims;
  };
  const [a, b] = [digestOf('a'), digestOf('b')];
  const layer = digestOf('layer') as string as ChainId;

  const onBlob = (claims: Claims, digest: Digest, asking?: Claim): readonly string[] =>
    claims.on(({ blobs }) => blobs.includes(digest), asking);
  const onLayer = (claims: Claims): readonly string[] => claims.on(({ layers }) => layers.includes(layer));

  it('protects while a pull lasts, and no longer when it is finished', async () => {
    const claims = await made();
    const claim = await claims.take('x', { blobs: [a], layers: [layer] });
    const other = await claims.take('y', { blobs: [a, b], layers: [] });
    expect([onBlob(claims, a), onLayer(claims), onBlob(claims, digestOf('c'))]).to.deep.equal([['pull'], ['pull'], []]);
    expect([onBlob(claims, a, claim), onBlob(claims, b, claim), onBlob(claims, b, other)]).to.deep.equal([
      ['pull'],
      ['pull'],
      [],
    ]);
    await claim.finish();
    expect([onBlob(claims, a), onLayer(claims)]).to.deep.equal([['pull'], []]);
    await other.finish();
    expect(onBlob(claims, a)).to.deep.equal([]);
    expect(await readdir(directory)).to.deep.equal([]);
  });

  it('remembers a broken pull for a while, across restarts', async () => {
    (await (await made()).take('x', { blobs: [a], layers: [layer] })).abandon();
    const claims = await made();
    expect([onBlob(claims, a), onLayer(claims)]).to.deep.equal([['unfinished'], ['unfinished']]);
    now += 1001;
    expect(onBlob(await made(), a)).to.deep.equal([]);
    expect(await readdir(directory)).to.deep.equal([]);
  });

  it('a later try of the same pull replaces the memory of the first', async () => {
    const claims = await made();
    (await claims.take('x', { blobs: [a], layers: [] })).abandon();
    await (await claims.take('x', { blobs: [b], layers: [] })).finish();
    expect([onBlob(claims, a), onBlob(claims, b)]).to.deep.equal([[], []]);
  });

  it('drops files that are damaged or not its own', async () => {
    await writeFile(join(directory, 'x.json'), '{');
    await writeFile(join(directory, 'y.json'), '{"blobs":["../../x"],"layers":[],"sinceMs":1000000}');
    await writeFile(join(directory, 'z.tmp'), '');
    now = 1_000_000;
    await made();
    expect(await readdir(directory)).to.deep.equal(['y.json']);
  });
});

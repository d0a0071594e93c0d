import { expect } from 'chai';
import { mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { ImageId } from '../../base/ids.ts';
import { limits } from '../../base/limits.ts';
import { digestOf } from '../../oci/digest.ts';
import { failure, RecordingLog, testOp } from '../fakes.ts';
import { KeptSignatures } from './kept.ts';
import type { KeptManifest } from './kept.ts';
import type { Signature } from './sources.ts';

const ID = digestOf('config') as string as ImageId;
const OTHER = digestOf('other config') as string as ImageId;
const sigstore: Signature = {
  kind: 'sigstore',
  from: 'attachment 1',
  payload: Buffer.from('payload'),
  signature: 'AAAA',
};
const keyless: Signature = {
  ...sigstore,
  proof: { entry: '{"Payload":{}}\u0001', certificate: '-----BEGIN\n', chain: '' },
};
const openpgp: Signature = { kind: 'openpgp', from: 'file:///s/signature-1', message: Buffer.from([0xa3, 0, 255]) };
const of = (manifest: string, ...signatures: Signature[]): KeptManifest => ({
  manifest: digestOf(manifest),
  signatures,
});

describe('image/signature/kept', () => {
  let directory: string;
  let kept: KeptSignatures;
  beforeEach(async () => {
    directory = await mkdtemp(join(tmpdir(), 'kept-'));
    kept = new KeptSignatures(join(directory, 'signatures'));
  });
  afterEach(() => rm(directory, { recursive: true }));
  const names = (): Promise<string[]> => readdir(join(directory, 'signatures'));

  it('keeps what came with an image, manifest by manifest, the latest first', async () => {
    expect(await kept.read(ID)).to.deep.equal([]);
    await kept.put(testOp(), ID, of('a', sigstore, openpgp), undefined);
    await kept.put(testOp(), ID, of('b', openpgp), undefined);
    expect(await kept.read(ID)).to.deep.equal([of('b', openpgp), of('a', sigstore, openpgp)]);
    await kept.put(testOp(), ID, of('a', openpgp), undefined);
    expect(await kept.read(ID)).to.deep.equal([of('a', openpgp), of('b', openpgp)]);
    for (const more of ['c', 'd', 'e', 'f']) await kept.put(testOp(), ID, of(more, sigstore), undefined);
    expect((await kept.read(ID)).map(({ manifest }) => manifest)).to.deep.equal(
      ['f', 'e', 'd', 'c'].map((each) => digestOf(each)),
    );
  });

  it('keeps what came with a signature, so that it can be checked without the registry', async () => {
    await kept.put(testOp(), ID, of('a', keyless, sigstore), undefined);
    expect(await kept.read(ID)).to.deep.equal([of('a', keyless, sigstore)]);
  });

  it('keeps those of the manifest by which the image came, whatever others add', async () => {
    const first = digestOf('first');
    await kept.put(testOp(), ID, of('first', sigstore), undefined);
    for (const more of ['a', 'b', 'c', 'd', 'e']) {
      await kept.put(testOp(), ID, of(more, openpgp), first);
      expect(await kept.read(ID), more).to.deep.include(of('first', sigstore));
    }
    expect((await kept.read(ID)).map(({ manifest }) => manifest)).to.deep.equal(
      ['e', 'd', 'c', 'first'].map((each) => digestOf(each)),
    );
  });

  it('forgets signatures that were withdrawn, and makes no file for images without', async () => {
    await kept.put(testOp(), ID, of('a'), undefined);
    expect(await readdir(directory)).to.deep.equal([]);
    await kept.put(testOp(), ID, of('a', sigstore), undefined);
    await kept.put(testOp(), ID, of('a'), undefined);
    expect(await names()).to.deep.equal([]);
  });

  it('goes with its image, or by the sweep', async () => {
    await kept.put(testOp(), ID, of('a', sigstore), undefined);
    await kept.put(testOp(), OTHER, of('a', sigstore), undefined);
    await writeFile(join(directory, 'signatures/junk'), '');
    await kept.sweep((id) => id === OTHER);
    expect(await names()).to.deep.equal([`${OTHER.slice(7)}.json`]);
    await kept.remove(OTHER);
    await kept.remove(OTHER);
    expect(await names()).to.deep.equal([]);
  });

  it('says that a file is damaged; the next pull replaces it', async () => {
    await kept.put(testOp(), ID, of('a', sigstore), undefined);
    const path = join(directory, 'signatures', `${ID.slice(7)}.json`);
    const rows = [
      '',
      '{}',
      '{"version":1,"manifests":[{"manifest":"x","signatures":[]}]}',
      `{"version":1,"manifests":[{"manifest":"${ID}","signatures":[{"kind":"x","from":""}]}]}`,
      `{"version":1,"manifests":[{"manifest":"${ID}","signatures":[{"kind":"sigstore","from":"","payload":"AA=="}]}]}`,
    ];
    for (const text of rows) {
      await writeFile(path, text);
      expect((await failure(kept.read(ID))).code, text).to.equal('DataLoss');
    }
    const log = new RecordingLog();
    await kept.put(testOp(log), ID, of('b', openpgp), undefined);
    expect([await kept.read(ID), log.lines]).to.deep.equal([
      [of('b', openpgp)],
      ['warn kept signatures are damaged, those of this pull replace them'],
    ]);
  });

  it('fits into what is read again, at the largest', async () => {
    const large: Signature = { ...openpgp, message: Buffer.alloc(limits.signatureBytes, 1) };
    const most = Array.from({ length: limits.signaturesBytes / limits.signatureBytes + 1 }, () => large);
    for (const manifest of ['a', 'b', 'c', 'd']) await kept.put(testOp(), ID, of(manifest, ...most), undefined);
    expect(await kept.read(ID)).to.have.length(4);
  });
});

/** Signed images in cosign's format, end to end. */
import { expect } from 'chai';
import { sign } from 'node:crypto';
import { join } from 'node:path';
import {
  alternativeNames,
  authorityExtension,
  codeSigning,
  entryOf,
  issuerEncoded,
  makeCertificate,
} from '../../pkg/image/signature/fake-authority.ts';
import { makeKey } from '../../pkg/image/signature/fakes.ts';
import { buildIndex, file, sha256 } from './images.ts';
import { attachment, body, SigningGround } from './signing.ts';
import type { Attachment, Key } from './signing.ts';

const REMAPPED = (prefix: string): unknown => ({ type: 'remapIdentity', prefix, signedPrefix: 'vendor.example/app' });

/** Names that a cosign signature gives an image, what the policy wants, and why it is refused ('' = it is taken). */
function namings(
  g: SigningGround,
  key: Key,
  repository: string,
): readonly (readonly [string, Attachment, identity: unknown, RegExp])[] {
  const called = (name: string): Attachment => attachment(key, g.image.digest, name);
  const exactly = { type: 'exactReference', dockerReference: 'vendor.example/app:v7' };
  const exactRepository = { type: 'exactRepository', dockerRepository: 'vendor.example/app' };
  return [
    ['another repository', called(`${repository}x`), { type: 'matchRepository' }, /it calls the image/],
    ['no tag', called(repository), { type: 'matchRepoDigestOrExact' }, /matchRepository"} accepts/],
    ['another tag', called(`${repository}:v2`), { type: 'matchExact' }, /it calls the image/],
    ['the very tag', called(`${repository}:v1`), { type: 'matchExact' }, /^$/],
    ['a remapped name', called('vendor.example/app:v1'), REMAPPED(repository), /^$/],
    ['a remapped name, another', called('vendor.example/other:v1'), REMAPPED(repository), /it calls the image/],
    ['an exact repository', called('vendor.example/app'), exactRepository, /^$/],
    ['an exact reference', called('vendor.example/app:v7'), exactly, /^$/],
  ];
}

/** Signatures that are nearly right, for the repository, and why each is refused. */
function nearlyRight(
  g: SigningGround,
  key: Key,
  repository: string,
): readonly (readonly [string, Attachment, RegExp])[] {
  const { digest } = g.image;
  const right = attachment(key, digest, repository);
  const signed = (payload: Buffer): Attachment => ({
    payload,
    signature: sign('sha256', payload, key.privateKey).toString('base64'),
  });
  return [
    ['for another digest', attachment(key, sha256('other'), repository), /it is for the manifest/],
    [
      'a changed payload',
      { ...right, payload: body('cosign', digest, `${repository}:v1`) },
      /made by another key, or changed/,
    ],
    ['no signature at all', { ...right, signature: '' }, /it has no annotation/],
    ['garbage', signed(Buffer.from('garbage')), /not valid JSON/],
    ['simple signing’s text', signed(body('atomic', digest, `${repository}:v1`)), /is of type "atomic/],
  ];
}

describe('signatures, end to end: in cosign’s format', function () {
  this.timeout(120_000);
  let g: SigningGround;
  let key: Key;
  before(async () => {
    g = await SigningGround.make();
    key = await g.makeKey();
  });
  after(() => g.remove());
  const signedBy = (by: Key, identity: unknown = { type: 'matchRepository' }): unknown =>
    g.policyOf({ type: 'sigstoreSigned', keyPath: by.file, signedIdentity: identity });

  it('an image is taken by the right key only', async () => {
    const repository = await g.publish();
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.match(/there is no signature of that kind/);
    await g.attach(repository, g.image.digest, [attachment(await g.makeKey(), g.image.digest, repository)]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.match(/made by another key/);
    await g.attach(repository, g.image.digest, [
      attachment(await g.makeKey(), g.image.digest, repository),
      attachment(key, g.image.digest, repository),
    ]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.equal('');
    expect(await g.outcome(`${repository}@${g.image.digest}`, signedBy(key))).to.equal('');
    expect(await g.outcome(`${repository}:v1`, { default: [{ type: 'reject' }] })).to.match(/"default": reject/);
  });

  it('a signature for another digest or another reference does not count', async () => {
    const repository = await g.publish();
    for (const [what, each, why] of nearlyRight(g, key, repository)) {
      await g.attach(repository, g.image.digest, [each]);
      expect(await g.outcome(`${repository}:v1`, signedBy(key)), what).to.match(why);
    }
    for (const [what, each, identity, why] of namings(g, key, repository)) {
      await g.attach(repository, g.image.digest, [each]);
      expect(await g.outcome(`${repository}:v1`, signedBy(key, identity)), what).to.match(why);
    }
  });

  it('one without a key counts by its certificate and the entry of the log', async () => {
    const repository = await g.publish();
    const day = (ago: number): Date => new Date(Date.now() - ago * 86_400_000);
    const authority = makeCertificate({ name: 'ca', extensions: [authorityExtension()], from: day(30) });
    const log = makeKey();
    const names = [codeSigning, alternativeNames([0x81, 'dev@example.org']), issuerEncoded('https://idp.example')];
    const leaf = makeCertificate({ by: authority, from: day(10), until: day(9), extensions: names });
    const signed = attachment({ ...leaf.key, file: '' }, g.image.digest, repository);
    const beside = {
      'dev.sigstore.cosign/certificate': leaf.pem,
      'dev.sigstore.cosign/bundle': entryOf({ ...signed, by: leaf.pem, log, at: day(9.5) }),
    };
    const late = { ...beside, 'dev.sigstore.cosign/bundle': entryOf({ ...signed, by: leaf.pem, log, at: day(8) }) };
    const caPath = await g.put('ca.pem', authority.pem);
    const rekorPublicKeyPath = await g.put('rekor.pub', log.pem);
    const signedIdentity = { type: 'matchRepository' };
    const by = (subjectEmail: string): unknown =>
      g.policyOf({
        type: 'sigstoreSigned',
        fulcio: { caPath, oidcIssuer: 'https://idp.example', subjectEmail },
        rekorPublicKeyPath,
        signedIdentity,
      });
    const outcome = async (more: object, email = 'dev@example.org'): Promise<string> => {
      await g.attach(repository, g.image.digest, [{ ...signed, ...more }]);
      return await g.outcome(`${repository}:v1`, by(email));
    };
    expect(await outcome({ beside })).to.equal('');
    expect(await outcome({ beside }, 'eve@example.org')).to.match(/is of "dev@example\.org"; want subjectEmail/);
    expect(await outcome({ beside: late })).to.match(/its certificate had expired/);
    expect(await outcome({})).to.match(/no certificate came with it/);
  });

  it('of an index, the manifest that is pulled must be signed, not the list', async () => {
    const index = await buildIndex({
      directory: join(g.directory, 'index'),
      name: 'v1',
      images: [
        { layers: [{ files: [file('a', 'a')] }] },
        { layers: [{ files: [file('b', 'b')] }], platform: { os: 'linux', architecture: 'arm64' } },
      ],
    });
    const repository = await g.publish(index);
    const own = index.images[process.arch === 'arm64' ? 1 : 0]?.manifest ?? '';
    await g.attach(repository, index.digest, [attachment(key, index.digest, repository)]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.match(/with --recursive/);
    await g.attach(repository, own, [attachment(key, own, repository)]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.equal('');
    expect(await g.outcome(`${repository}@${index.digest}`, signedBy(key))).to.equal('');
  });

  it('ten thousand signatures, and huge ones, cost no more than they may', async () => {
    const repository = await g.publish();
    const bad = attachment(await g.makeKey(), g.image.digest, repository);
    const good = attachment(key, g.image.digest, repository);
    await g.attach(
      repository,
      g.image.digest,
      Array.from({ length: 10_000 }, () => bad),
    );
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.match(
      /none of 127 signatures counts .* and 122 more; .*of the 10000 attachments .* the first 127 were looked at/,
    );
    const huge = { ...good, payload: Buffer.alloc(8_000_000, ' ') };
    await g.attach(repository, g.image.digest, [huge, { ...huge, size: 100 }, good]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.equal('');
    await g.attach(repository, g.image.digest, [huge, { ...huge, size: 100 }]);
    expect(await g.outcome(`${repository}:v1`, signedBy(key))).to.match(
      /has 80000\d\d bytes, at most 65536 are read.*attachment 2 .* bytes where the manifest promises 100/,
    );
  });
});

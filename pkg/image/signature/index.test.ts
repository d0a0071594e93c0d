/** Signatures on the way of a pull: the image store, registries in memory, signatures made here. */
import { expect } from 'chai';
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import { FakeRegistry } from '../fakes.ts';
import { image, TrustGround } from './fake-ground.ts';
import { attachmentManifest, bodyOf, fakeMessage, makeKey, payloadOf, signatureOver, signatureTag } from './fakes.ts';

const { digest } = image.manifest;
const head = '"reg.example/team/app:v1" is refused by ';

describe('image/signature at a pull', () => {
  let ground: TrustGround;
  beforeEach(async () => (ground = await TrustGround.make()));
  afterEach(() => ground.remove());

  it('takes an image that is signed by the right key, and asks for nothing of it before', async () => {
    await ground.demand(ground.sigstore());
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    expect((await ground.pull()).id).to.equal(image.id);
    const paths = ground.network.requests.map(({ url }) => url.pathname.replace('/v2/team/app/', ''));
    expect(paths.slice(0, 3)).to.deep.equal([
      'manifests/v1',
      `manifests/${signatureTag(digest)}`,
      `blobs/${digestOf(payloadOf(digest, 'reg.example/team/app'))}`,
    ]);
    // The next pull verifies again: keys and policies change.
    await ground.put('key.pub', makeKey().pem);
    expect(await ground.refusal()).to.match(/made by another key/);
  });

  it('refuses every other image, says why, and leaves nothing', async () => {
    await ground.demand(ground.sigstore());
    const where = `${head}${join(ground.root, 'policy.json')}, docker "reg.example": sigstoreSigned: `;
    const from = `attachment 1 of reg.example/team/app:${signatureTag(digest)}`;
    expect(await ground.refusal()).to.equal(
      `${where}there is no signature of that kind (there is no ` +
        `file://${ground.root}/lookaside/team/app@sha256=${digest.slice(7)}/signature-1; there is no ` +
        `reg.example/team/app:${signatureTag(digest)}; "cosign sign" makes it, for the manifests in ` +
        'an index with --recursive)',
    );
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: makeKey() }]);
    expect(await ground.refusal()).to.match(
      new RegExp(
        (
          `^${where}the only signature does not count \\(${from}: it was made by another key, or ` +
          'changed; there is no file'
        ).replaceAll(/[.()]/g, (c) => (c === '.' ? '\\.' : c)),
      ),
    );
    ground.attach([{ payload: payloadOf(digestOf('other'), 'reg.example/team/app'), by: ground.own }]);
    expect(await ground.refusal()).to.include(
      `${from}: it is for the manifest ${digestOf('other')}, not for ${digest}`,
    );
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/other'), by: ground.own }]);
    expect(await ground.refusal()).to.include(
      `${from}: it calls the image "reg.example/team/other", and the policy wants matchRepository ` +
        'of "reg.example/team/app:v1"',
    );
    ground.attach([{ payload: Buffer.from('garbage'), by: ground.own }]);
    expect(await ground.refusal()).to.include(`${from}: the signed text is not valid JSON`);
    ground.attach([
      { payload: bodyOf('atomic container signature', digest, 'reg.example/team/app:v1'), by: ground.own },
    ]);
    expect(await ground.refusal()).to.include('the signed text is of type "atomic container signature"');
    expect(ground.store.list()).to.deep.equal([]);
    expect(await readdir(join(ground.root, 'store/blobs/sha256'))).to.deep.equal([]);
  });

  it('needs one good signature among many, and names the others shortly', async () => {
    await ground.demand(ground.sigstore());
    const bad = Array.from({ length: 20 }, () => ({
      payload: payloadOf(digest, 'reg.example/team/app'),
      by: makeKey('ed25519'),
    }));
    ground.attach(bad);
    expect(await ground.refusal()).to.match(
      /none of 20 signatures counts \(attachment 1 .*attachment 5 .*another key, or changed; and 15 more; /,
    );
    ground.attach([...bad, { payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    await ground.pull();
  });

  it('wants every requirement met, each by a signature of its own if need be', async () => {
    const second = makeKey('ed25519');
    await ground.put('second.pub', second.pem);
    await ground.demand(
      ground.sigstore(),
      { type: 'insecureAcceptAnything' },
      ground.sigstore({ keyPath: join(ground.root, 'second.pub') }),
      ground.openPgp(),
    );
    const payload = payloadOf(digest, 'reg.example/team/app');
    ground.attach([{ payload, by: ground.own }]);
    expect(await ground.refusal()).to.match(/sigstoreSigned: the only signature does not count/);
    ground.attach([
      { payload, by: ground.own },
      { payload, by: second },
    ]);
    expect(await ground.refusal()).to.match(/signedBy: there is no signature of that kind/);
    await ground.lay(
      1,
      fakeMessage('K1', bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} })),
    );
    await ground.pull();
  });

  it('takes keys from the policy itself, and any of several', async () => {
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    const data = (pem: string): string => Buffer.from(pem).toString('base64');
    await ground.demand({
      type: 'sigstoreSigned',
      keyDatas: [data(makeKey().pem), data(ground.own.pem)],
      signedIdentity: { type: 'matchRepository' },
    });
    await ground.pull();
    await ground.demand({
      type: 'sigstoreSigned',
      keyData: data(makeKey().pem),
      signedIdentity: { type: 'matchRepository' },
    });
    await ground.refusal();
    await ground.demand({
      type: 'sigstoreSigned',
      keyPaths: [await ground.put('another.pub', makeKey().pem), join(ground.root, 'key.pub')],
      signedIdentity: { type: 'matchRepository' },
    });
    await ground.pull();
    // A spare key that is broken is a mistake to be found before it is needed.
    await ground.demand({
      type: 'sigstoreSigned',
      keyPaths: [join(ground.root, 'key.pub'), await ground.put('broken.pub', 'x')],
      signedIdentity: { type: 'matchRepository' },
    });
    expect(await ground.refusal()).to.match(/broken\.pub" is not a public key in PEM/);
  });

  it('compares names as the policy says, exactly unless told otherwise', async () => {
    await ground.demand(ground.sigstore({ signedIdentity: { type: 'matchRepoDigestOrExact' } }));
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    expect(await ground.refusal()).to.match(/matchRepository"} accepts/);
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app:v1'), by: ground.own }]);
    await ground.pull();
    ground.registry.add('team/app', 'v2', image);
    expect(await ground.refusal(ground.pull('reg.example/team/app:v2'))).to.match(
      /calls the image "reg\.example\/team\/app:v1"/,
    );
    await ground.pull(`reg.example/team/app@${digest}`);
  });

  it('wants the signature on the manifest that is pulled, not on the index around it', async () => {
    const index = Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: mediaTypes.ociIndex,
        manifests: [
          {
            mediaType: mediaTypes.ociManifest,
            digest,
            size: image.manifest.bytes.length,
            platform: { os: 'linux', architecture: 'amd64' },
          },
        ],
      }),
    );
    ground.registry.put('/v2/team/app/manifests/multi', index, mediaTypes.ociIndex);
    await ground.demand(ground.sigstore());
    ground.attach([{ payload: payloadOf(digestOf(index), 'reg.example/team/app'), by: ground.own }], digestOf(index));
    expect(await ground.refusal(ground.pull('reg.example/team/app:multi')))
      .to.include(`there is no reg.example/team/app:${signatureTag(digest)}`)
      .and.to.include('--recursive');
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    expect((await ground.pull('reg.example/team/app:multi')).repoDigests).to.deep.equal([
      `reg.example/team/app@${digestOf(index)}`,
    ]);
  });

  it('looks beside the mirror that gave the image, and compares with the name that was asked for', async () => {
    const mirror = new FakeRegistry().add('hub/team/app', 'v1', image);
    ground.network.hosts.set('https://mirror.example:5000', mirror.host);
    const mirrored = await ground.open(
      {},
      '[[registry]]\nlocation = "reg.example"\n[[registry.mirror]]\nlocation = "mirror.example:5000/hub"\n',
    );
    await ground.put('registries.d/all.yaml', 'docker:\n  reg.example: {use-sigstore-attachments: true}\n');
    await ground.demand(ground.sigstore());
    const payload = payloadOf(digest, 'reg.example/team/app');
    ground.attach([{ payload, by: ground.own }]);
    expect(await ground.refusal(ground.pull(undefined, mirrored))).to.match(
      /does not say "use-sigstore-attachments: true" for mirror\.example:5000\/hub\/team\/app/,
    );
    await ground.put(
      'registries.d/mirror.yaml',
      'docker:\n  mirror.example:5000/hub: {use-sigstore-attachments: true}\n',
    );
    await ground.refusal(ground.pull(undefined, mirrored));
    mirror
      .put(
        `/v2/hub/team/app/manifests/${signatureTag(digest)}`,
        attachmentManifest([{ payload, signature: signatureOver(payload, ground.own) }]),
        mediaTypes.ociManifest,
      )
      .put(`/v2/hub/team/app/blobs/${digestOf(payload)}`, payload);
    await ground.pull(undefined, mirrored);
  });
});

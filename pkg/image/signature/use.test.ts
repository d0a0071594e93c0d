/** Signatures when an image that is here already is used. */
import { expect } from 'chai';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import type { Image } from '../../ports/image.ts';
import { FakeRegistry, testOp } from '../fakes.ts';
import { image, TrustGround } from './fake-ground.ts';
import {
  alternativeNames,
  authorityExtension,
  codeSigning,
  entryOf,
  issuerEncoded,
  makeCertificate,
} from './fake-authority.ts';
import { attachmentManifest, bodyOf, fakeMessage, makeKey, payloadOf, signatureOver, signatureTag } from './fakes.ts';

const { digest } = image.manifest;

describe('image/signature at a use', () => {
  let ground: TrustGround;
  beforeEach(async () => (ground = await TrustGround.make()));
  afterEach(() => ground.remove());

  const use = (
    pulled: Image,
    namespace: string,
    name = 'reg.example/team/app:v1',
    using = ground.store,
  ): Promise<void> => using.checkUse(testOp(), pulled.id, { name, namespace });
  const payload = payloadOf(digest, 'reg.example/team/app');

  it('asks nothing where no policy is named for it', async () => {
    const pulled = await ground.pull();
    await ground.demand({ type: 'reject' });
    await use(pulled, 'prod');
    await use(pulled, 'prod', '');
  });

  it('asks the namespace’s policy, from the signatures that came with the image', async () => {
    ground.attach([{ payload, by: ground.own }]);
    await ground.lay(
      1,
      fakeMessage('K1', bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} })),
    );
    const pulled = await ground.pull();
    expect(await ground.kept()).to.have.length(1);
    await ground.put('policies/prod.json', ground.policyOf(ground.sigstore(), ground.openPgp()));
    const before = ground.network.requests.length;
    await use(pulled, 'prod');
    await use(pulled, 'prod', 'reg.example/team/app:v1', await ground.open());
    expect(ground.network.requests).to.have.length(before);
    await use(pulled, 'dev');
    expect(await ground.refusal(use(pulled, 'prod', 'reg.example/team/app:v2'))).to.match(
      /app:v2" is refused by .*policies\/prod\.json, docker "reg\.example": signedBy: the only signature does not/,
    );
    expect(await ground.refusal(use(pulled, 'prod', 'elsewhere.example/app:v1'))).to.match(/"default": reject/);
    await ground.put('policies/prod.json', ground.policyOf({ type: 'reject' }));
    expect(await ground.refusal(use(pulled, 'prod'))).to.match(/: reject: /);
    await ground.put(
      'policies/prod.json',
      ground.policyOf(ground.sigstore({ keyData: Buffer.from(makeKey().pem).toString('base64'), keyPath: undefined })),
    );
    expect(await ground.refusal(use(pulled, 'prod'))).to.match(
      /made by another key.*if it was signed since, pull it again/,
    );
  });

  it('takes a keyless signature, also from what was kept, when its certificate is over', async () => {
    const day = (ago: number): Date => new Date(Date.now() - ago * 86_400_000);
    const root = makeCertificate({ name: 'root', extensions: [authorityExtension()], from: day(9) });
    const log = makeKey();
    const leaf = makeCertificate({
      by: root,
      from: day(2),
      until: day(1),
      extensions: [codeSigning, alternativeNames([0x81, 'dev@example.org']), issuerEncoded('https://idp.example')],
    });
    const signature = signatureOver(payload, leaf.key);
    const entry = entryOf({ payload, signature, by: leaf.pem, log, at: day(1.5) });
    const beside = { 'dev.sigstore.cosign/bundle': entry, 'dev.sigstore.cosign/certificate': leaf.pem };
    ground.registry
      .put(
        `/v2/team/app/manifests/${signatureTag(digest)}`,
        attachmentManifest([{ payload, signature, beside }]),
        mediaTypes.ociManifest,
      )
      .put(`/v2/team/app/blobs/${digestOf(payload)}`, payload);
    const fulcio = async (subjectEmail: string): Promise<unknown> => ({
      type: 'sigstoreSigned',
      fulcio: { caPath: await ground.put('ca.pem', root.pem), oidcIssuer: 'https://idp.example', subjectEmail },
      rekorPublicKeyPath: await ground.put('rekor.pub', log.pem),
      signedIdentity: { type: 'matchRepository' },
    });
    await ground.demand(await fulcio('eve@example.org'));
    expect(await ground.refusal()).to.match(
      /sigstoreSigned: the only signature does not count .*: its certificate is of "dev@example\.org"; want/,
    );
    await ground.demand(await fulcio('dev@example.org'));
    const pulled = await ground.pull();
    await ground.put('policies/prod.json', ground.policyOf(await fulcio('dev@example.org')));
    await ground.put('policies/test.json', ground.policyOf(await fulcio('eve@example.org')));
    await use(pulled, 'prod', undefined, await ground.open());
    expect(await ground.refusal(use(pulled, 'test'))).to.match(/want subjectEmail "eve@example\.org"/);
  });

  it('refuses an image that came without signatures, and one that nobody can name', async () => {
    const pulled = await ground.pull();
    expect(await ground.kept()).to.deep.equal([]);
    ground.attach([{ payload, by: ground.own }]);
    await ground.put('policies/prod.json', ground.policyOf(ground.sigstore()));
    expect(await ground.refusal(use(pulled, 'prod'))).to.match(
      /there is no signature of that kind \(these are the signatures that came with the image/,
    );
    expect(await ground.refusal(use(pulled, 'prod', ''))).to.match(
      /does not say what the user calls the image \(user_specified_image\)/,
    );
    expect(await ground.refusal(use(pulled, 'prod', pulled.id.slice(7)))).to.match(/is no image name/);
    // A pull for that namespace brings them.
    await ground.pull(undefined, ground.store, 'prod');
    await use(pulled, 'prod');
  });

  it('takes no id, nor the start of one, for a name', async () => {
    const pulled = await ground.pull();
    await ground.put(
      'policies/prod.json',
      JSON.stringify({
        default: [{ type: 'reject' }],
        transports: { docker: { 'docker.io': [{ type: 'insecureAcceptAnything' }] } },
      }),
    );
    for (const name of [pulled.id, pulled.id.slice(7), pulled.id.slice(0, 20), pulled.id.slice(7, 20)]) {
      expect(ground.store.find(name)?.id, name).to.equal(pulled.id);
      expect(await ground.refusal(use(pulled, 'prod', name)), name).to.match(
        /no signature policy can be looked up for it; name the image in the pod by its repository/,
      );
    }
  });

  it(
    'asks for a short name where no registry is searched: the policy of the name it was found ' +
      'by, and none without one',
    async () => {
      const unsearched = await ground.open({}, 'unqualified-search-registries = []\n');
      ground.network.hosts.set('https://registry-1.docker.io', new FakeRegistry().add('library/app', 'v1', image).host);
      const pulled = await ground.pull('docker.io/library/app:v1', unsearched);
      expect(unsearched.find('app:v1')?.id).to.equal(pulled.id);
      await ground.put(
        'policies/prod.json',
        JSON.stringify({
          default: [{ type: 'reject' }],
          transports: { docker: { 'docker.io/library/app': [{ type: 'insecureAcceptAnything' }] } },
        }),
      );
      await use(pulled, 'prod', 'app:v1', unsearched);
      expect(await ground.refusal(use(pulled, 'prod', 'app:v2', unsearched))).to.match(/"app:v2" names no registry/);
      await ground.put('policies/prod.json', JSON.stringify({ default: [{ type: 'reject' }] }));
      expect(await ground.refusal(use(pulled, 'prod', 'app:v1', unsearched))).to.match(/"default": reject/);
    },
  );

  it('asks signature_policy, too, where the node names one', async () => {
    const pulled = await ground.pull();
    const named = await ground.open({
      signaturePolicy: await ground.put('named.json', ground.policyOf(ground.sigstore())),
    });
    await ground.refusal(use(pulled, 'anywhere', undefined, named));
    await ground.put('named.json', ground.policyOf({ type: 'insecureAcceptAnything' }));
    await use(pulled, 'anywhere', undefined, named);
  });

  it('knows by which meaning of a short name the image came', async () => {
    const searching = await ground.open(
      {},
      'unqualified-search-registries = ["nowhere.example", "reg.example"]\nshort-name-mode = "permissive"\n',
    );
    ground.network.hosts.set('https://nowhere.example', () => ({ status: 404 }));
    const pulled = await ground.pull('team/app:v1', searching);
    await ground.put('policies/prod.json', ground.policyOf({ type: 'insecureAcceptAnything' }));
    await use(pulled, 'prod', 'team/app:v1', searching);
    await ground.refusal(use(pulled, 'prod', 'team/app:v2', searching));
  });

  it('remembers signatures of every manifest of an image, and forgets them with it', async () => {
    ground.attach([{ payload, by: ground.own }]);
    await ground.pull();
    // The same image in a manifest of its own, unsigned, pulled later.
    const annotated = Buffer.from(
      JSON.stringify({ ...(JSON.parse(image.manifest.bytes.toString()) as object), annotations: { other: 'yes' } }),
    );
    ground.registry.put('/v2/team/app/manifests/v3', annotated, mediaTypes.ociManifest);
    const again = await ground.pull('reg.example/team/app:v3');
    expect([again.id, again.manifestDigest]).to.deep.equal([image.id, image.manifest.digest]);
    await ground.put('policies/prod.json', ground.policyOf(ground.sigstore()));
    await use(again, 'prod');
    expect(await ground.kept()).to.have.length(1);
    await writeFile(join(ground.root, 'store/images/signatures', `${'f'.repeat(64)}.json`), '{}');
    await ground.store.sweep(testOp());
    expect(await ground.kept()).to.have.length(1);
    await ground.store.remove(testOp(), 'reg.example/team/app:v1');
    expect(await ground.kept()).to.deep.equal([]);
  });
});

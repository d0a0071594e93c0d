/** OpenPGP signatures by a double of gpgv, lookaside servers, and what of a policy cannot be met. */
import { expect } from 'chai';
import { mkdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { RuntimeError } from '../../base/errors.ts';
import { digestOf } from '../../oci/digest.ts';
import { failure, RecordingLog, testOp } from '../fakes.ts';
import { image, TrustGround } from './fake-ground.ts';
import { bodyOf, fakeKeyring, fakeMessage, payloadOf } from './fakes.ts';
import { defaultTrustOptions } from './index.ts';

const { digest } = image.manifest;

describe('image/signature at a pull: OpenPGP and policies', () => {
  let ground: TrustGround;
  beforeEach(async () => (ground = await TrustGround.make()));
  afterEach(() => ground.remove());

  it('checks OpenPGP signatures from the lookaside', async () => {
    await ground.demand(ground.openPgp());
    const body = (of: string = digest, name = 'reg.example/team/app:v1'): Buffer =>
      bodyOf('atomic container signature', of, name, { optional: { creator: 'test' } });
    await ground.lay(1, fakeMessage('K2', body()));
    expect(await ground.refusal()).to.match(
      /the only signature does not count \(file:.*\/signature-1: it was made by a key that the policy does not/,
    );
    await ground.lay(2, fakeMessage('K1', body(digestOf('other'))));
    await ground.lay(3, fakeMessage('K1', body(digest, 'reg.example/team/app:v2')));
    await ground.lay(4, Buffer.from('garbage'));
    expect(await ground.refusal()).to.match(
      /none of 4 .*-2: it is for the manifest .*-3: it calls .*signature-4: it is not an OpenPGP signed message/,
    );
    await ground.lay(5, fakeMessage('K1', body()));
    await ground.pull();
    await ground.demand(ground.openPgp({ keyPath: await ground.put('other.gpg', fakeKeyring('K3')) }));
    await ground.refusal();
    await ground.demand(
      ground.openPgp({ keyPath: undefined, keyPaths: [join(ground.root, 'other.gpg'), join(ground.root, 'ring.gpg')] }),
    );
    await ground.pull();
  });

  it('reads lookaside servers through the network of pulls, without credentials', async () => {
    const message = fakeMessage(
      'K1',
      bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} }),
    );
    const base = `/all/team/app@sha256=${digest.slice(7)}/`;
    ground.network.hosts.set('https://signatures.example', ({ url }) =>
      url.pathname === `${base}signature-1`
        ? { body: message }
        : url.pathname === `${base}signature-2`
          ? { status: 404 }
          : { status: 500 },
    );
    await ground.put('registries.d/all.yaml', 'default-docker: {lookaside: "https://signatures.example/all"}\n');
    await ground.demand(ground.openPgp());
    await ground.store.pull(testOp(), 'reg.example/team/app:v1', {
      auth: { username: 'u', password: 'p', auth: '', serverAddress: '', identityToken: '', registryToken: '' },
    });
    const asked = ground.network.requests.filter(({ url }) => url.host === 'signatures.example');
    expect(asked.map(({ url, headers }) => [url.pathname, headers['authorization']])).to.deep.equal([
      [`${base}signature-1`, undefined],
      [`${base}signature-2`, undefined],
    ]);
  });

  it('keeps apart what is not signed and what cannot be asked', async () => {
    await ground.put('registries.d/all.yaml', 'default-docker: {lookaside: "https://signatures.example"}\n');
    await ground.demand(ground.openPgp());
    const gone = await failure(ground.pull());
    expect([gone.code, gone.reason], gone.message).to.deep.equal(['Unavailable', 'RegistryUnavailable']);
    ground.network.hosts.set('https://signatures.example', () => ({ status: 503 }));
    expect((await failure(ground.pull())).code).to.equal('Unavailable');
    ground.network.hosts.set('https://signatures.example', () => ({ status: 403 }));
    expect(await ground.refusal()).to.match(
      /signatures\.example answers 403.*want the signature, or 404, of https:\/\/signatures\.example\/team\/app@/,
    );
    await ground.put('registries.d/all.yaml', 'default-docker: {lookaside: 1}\n');
    expect(await ground.refusal()).to.match(
      /signedBy: there is no signature of that kind \(left out: .*all\.yaml: lookaside of "default-docker" is not text/,
    );
    // Whoever needs no signature is not kept from pulling by any of that.
    await ground.put('registries.d/all.yaml', 'default-docker: {lookaside: "https://signatures.example"}\n');
    await ground.demand({ type: 'insecureAcceptAnything' });
    const log = new RecordingLog();
    await ground.store.pull(testOp(log), 'reg.example/team/app:v1', {});
    expect(log.lines).to.include(
      'warn signatures cannot be read; none is needed for this pull, but a namespace that wants ' +
        'one will refuse the image',
    );
  });

  it('refuses requirements that cannot be checked here, with what to do', async () => {
    ground.attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: ground.own }]);
    const rows: readonly (readonly [unknown, RegExp])[] = [
      [{ type: 'signedBaseLayer', baseLayerIdentity: {} }, /signedBaseLayer: nobody implements it/],
      [
        ground.openPgp({ keyType: 'X509Certificates' }),
        /nobody implements the keyType "X509Certificates"; use GPGKeys/,
      ],
      [ground.openPgp({ keyPath: '/none/ring.gpg' }), /the key "\/none\/ring\.gpg" cannot be read/],
    ];
    for (const [requirement, why] of rows) {
      await ground.demand(requirement);
      expect(await ground.refusal(), JSON.stringify(requirement)).to.match(why);
    }
    await ground.demand(ground.openPgp());
    await ground.lay(1, fakeMessage('K1', 'x'));
    expect(await ground.refusal(ground.pull(undefined, await ground.open({ runGpgv: undefined })))).to.match(
      /nothing here can check OpenPGP signatures/,
    );
    const missing = await ground.open({
      runGpgv: async () =>
        Promise.reject(new RuntimeError('Unimplemented', 'this node has no gpgv; apt-get install gpgv')),
    });
    expect(await ground.refusal(ground.pull(undefined, missing))).to.match(
      /signedBy: this node has no gpgv; apt-get install gpgv$/,
    );
  });

  it('looks for policies where they are, and never takes a broken one for none', async () => {
    const rejecting = ground.policyOf({ type: 'reject' });
    // No policy at all: everything is accepted.
    await ground.pull();
    await ground.put('policy.json', '{');
    expect(await ground.refusal()).to.match(/policy\.json is not a signature policy, so no image is accepted$/);
    await rm(join(ground.root, 'policy.json'));
    await mkdir(join(ground.root, 'policy.json'));
    expect(await ground.refusal()).to.match(/policy\.json cannot be read, so no image is accepted/);
    await rm(join(ground.root, 'policy.json'), { recursive: true });
    await ground.put('policy.json', rejecting);
    expect(await ground.refusal()).to.match(/: reject: images of this scope are not accepted$/);
    await ground.put('policies/lenient.json', ground.policyOf({ type: 'insecureAcceptAnything' }));
    await ground.pull(undefined, ground.store, 'lenient');
    await ground.refusal(ground.pull(undefined, ground.store, '../policies/lenient'));
    await ground.refusal(ground.pull(undefined, ground.store, 'other'));
    const named = await ground.open({ signaturePolicy: join(ground.root, 'named.json') });
    expect(await ground.refusal(ground.pull(undefined, named))).to.match(
      /named\.json, which signature_policy names, does not exist/,
    );
    await ground.put('named.json', ground.policyOf({ type: 'insecureAcceptAnything' }));
    await ground.pull(undefined, named);
    const ordered = await ground.open({
      defaultPolicies: [
        join(ground.root, 'none.json'),
        join(ground.root, 'named.json'),
        join(ground.root, 'policy.json'),
      ],
    });
    await ground.pull(undefined, ordered);
    expect(defaultTrustOptions({ HOME: '/home/x' })).to.deep.include({
      defaultPolicies: ['/home/x/.config/containers/policy.json', '/etc/containers/policy.json'],
      registriesDirs: ['/home/x/.config/containers/registries.d', '/etc/containers/registries.d'],
    });
  });

  it('ends when its caller leaves', async () => {
    await ground.demand(ground.openPgp());
    await ground.lay(1, fakeMessage('K1', 'x'));
    const leaving = new AbortController();
    const stuck = await ground.open({
      runGpgv: async (op) => {
        leaving.abort();
        return await new Promise((_resolve, reject) =>
          op.signal.addEventListener('abort', () => reject(new RuntimeError('Cancelled', 'gpgv was killed'))),
        );
      },
    });
    const error = await failure(
      stuck.pull({ ...testOp(), signal: leaving.signal, stage() {} }, 'reg.example/team/app:v1', {}),
    );
    expect([error.code, error.reason]).to.deep.equal(['Cancelled', undefined]);
  });
});

/**
 * Signatures on the way of a pull and of a use: the image store, registries in memory, signatures made here; OpenPGP by
 * a double of gpgv.
 */
import { expect } from 'chai';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { RuntimeError } from '../../base/errors.ts';
import type { Digest } from '../../base/ids.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import { fakeImage, FakeNetwork, FakeRegistry, FakeUnpacker, failure, RecordingLog, testOp } from '../fakes.ts';
import { RegistryPolicy } from '../policy/policy.ts';
import { FileImageStore } from '../store.ts';
import {
  attachmentManifest,
  bodyOf,
  fakeGpgv,
  fakeKeyring,
  fakeMessage,
  makeKey,
  payloadOf,
  signatureOver,
  signatureTag,
} from './fakes.ts';
import type { TestKey } from './fakes.ts';
import { defaultTrustOptions, ImageTrust } from './index.ts';
import type { TrustOptions } from './index.ts';
import type { Image } from '../../ports/image.ts';

const ORIGIN = 'https://reg.example';

describe('image/signature', () => {
  let root: string;
  let network: FakeNetwork;
  let registry: FakeRegistry;
  let store: FileImageStore;
  const own = makeKey();
  const image = fakeImage(['one', 'two']);
  const { digest } = image.manifest;

  beforeEach(async () => {
    root = await mkdtemp(join(tmpdir(), 'signature-'));
    network = new FakeNetwork();
    registry = new FakeRegistry().add('team/app', 'v1', image);
    network.hosts.set(ORIGIN, registry.host);
    await put('key.pub', own.pem);
    await put('ring.gpg', fakeKeyring('K1'));
    await put(
      'registries.d/all.yaml',
      `default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://${root}/lookaside\n`,
    );
    store = await open();
  });
  afterEach(() => rm(root, { recursive: true }));

  async function open(trust: Partial<TrustOptions> = {}, registriesConf = ''): Promise<FileImageStore> {
    await put('registries.conf', registriesConf);
    const made = new FileImageStore({
      root: join(root, 'store'),
      unpacker: new FakeUnpacker(),
      transport: network,
      pause: async () => {},
      platform: { os: 'linux', architecture: 'amd64' },
      policy: new RegistryPolicy({
        registriesConf: join(root, 'registries.conf'),
        registriesConfDir: '',
        certsDirs: [],
        hostsDirs: [],
      }),
      trust: new ImageTrust({
        defaultPolicies: [join(root, 'policy.json')],
        signaturePolicyDir: join(root, 'policies'),
        registriesDirs: [join(root, 'registries.d')],
        runGpgv: fakeGpgv,
        ...trust,
      }),
    });
    await made.load(testOp());
    return made;
  }
  async function put(name: string, content: string | Buffer): Promise<string> {
    const path = join(root, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    return path;
  }
  const policyOf = (...requirements: readonly unknown[]): string =>
    JSON.stringify({
      default: [{ type: 'reject' }],
      transports: { docker: { 'reg.example': requirements, 'other.example': [{ type: 'insecureAcceptAnything' }] } },
    });
  const demand = (...requirements: readonly unknown[]): Promise<string> =>
    put('policy.json', policyOf(...requirements));
  const sigstore = (more: Readonly<Record<string, unknown>> = {}): unknown => ({
    type: 'sigstoreSigned',
    keyPath: join(root, 'key.pub'),
    signedIdentity: { type: 'matchRepository' },
    ...more,
  });
  const openPgp = (more: Readonly<Record<string, unknown>> = {}): unknown => ({
    type: 'signedBy',
    keyType: 'GPGKeys',
    keyPath: join(root, 'ring.gpg'),
    ...more,
  });
  /** Puts signatures beside a manifest, as cosign does. */
  const attach = (
    signatures: readonly { readonly payload: Buffer; readonly by: TestKey }[],
    to = digest,
    repository = 'team/app',
  ): void => {
    registry.put(
      `/v2/${repository}/manifests/${signatureTag(to)}`,
      attachmentManifest(signatures.map(({ payload, by }) => ({ payload, signature: signatureOver(payload, by) }))),
      mediaTypes.ociManifest,
    );
    for (const { payload } of signatures) registry.put(`/v2/${repository}/blobs/${digestOf(payload)}`, payload);
  };
  const lay = (number: number, message: Buffer, of: Digest = digest): Promise<string> =>
    put(`lookaside/team/app@sha256=${of.slice(7)}/signature-${number}`, message);
  const pull = (reference = 'reg.example/team/app:v1', using = store, namespace = ''): Promise<Image> =>
    using.pull(testOp(), reference, { namespace });
  const refusal = async (work: Promise<unknown> = pull()): Promise<string> => {
    const error = await failure(work);
    expect([error.code, error.reason], error.message).to.deep.equal([
      'FailedPrecondition',
      'SignatureValidationFailed',
    ]);
    return error.message;
  };
  const head = '"reg.example/team/app:v1" is refused by ';
  const kept = (): Promise<string[]> => readdir(join(root, 'store/images/signatures')).catch(() => []);

  describe('at a pull', () => {
    it('takes an image that is signed by the right key, and asks for nothing of it before', async () => {
      await demand(sigstore());
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      expect((await pull()).id).to.equal(image.id);
      const paths = network.requests.map(({ url }) => url.pathname.replace('/v2/team/app/', ''));
      expect(paths.slice(0, 3)).to.deep.equal([
        'manifests/v1',
        `manifests/${signatureTag(digest)}`,
        `blobs/${digestOf(payloadOf(digest, 'reg.example/team/app'))}`,
      ]);
      // The next pull verifies again: keys and policies change.
      await put('key.pub', makeKey().pem);
      expect(await refusal()).to.match(/made by another key/);
    });

    it('refuses every other image, says why, and leaves nothing', async () => {
      await demand(sigstore());
      const where = `${head}${join(root, 'policy.json')}, docker "reg.example": sigstoreSigned: `;
      const from = `attachment 1 of reg.example/team/app:${signatureTag(digest)}`;
      expect(await refusal()).to.equal(
        `${where}there is no signature of that kind (there is no ` +
          `file://${root}/lookaside/team/app@sha256=${digest.slice(7)}/signature-1; there is no ` +
          `reg.example/team/app:${signatureTag(digest)}; "cosign sign" makes it, for the manifests in ` +
          'an index with --recursive)',
      );
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: makeKey() }]);
      expect(await refusal()).to.match(
        new RegExp(
          (
            `^${where}the only signature does not count \\(${from}: it was made by another key, or ` +
            'changed; there is no file'
          ).replaceAll(/[.()]/g, (c) => (c === '.' ? '\\.' : c)),
        ),
      );
      attach([{ payload: payloadOf(digestOf('other'), 'reg.example/team/app'), by: own }]);
      expect(await refusal()).to.include(`${from}: it is for the manifest ${digestOf('other')}, not for ${digest}`);
      attach([{ payload: payloadOf(digest, 'reg.example/team/other'), by: own }]);
      expect(await refusal()).to.include(
        `${from}: it calls the image "reg.example/team/other", and the policy wants matchRepository ` +
          'of "reg.example/team/app:v1"',
      );
      attach([{ payload: Buffer.from('garbage'), by: own }]);
      expect(await refusal()).to.include(`${from}: the signed text is not valid JSON`);
      attach([{ payload: bodyOf('atomic container signature', digest, 'reg.example/team/app:v1'), by: own }]);
      expect(await refusal()).to.include('the signed text is of type "atomic container signature"');
      expect(store.list()).to.deep.equal([]);
      expect(await readdir(join(root, 'store/blobs/sha256'))).to.deep.equal([]);
    });

    it('needs one good signature among many, and names the others shortly', async () => {
      await demand(sigstore());
      const bad = Array.from({ length: 20 }, () => ({
        payload: payloadOf(digest, 'reg.example/team/app'),
        by: makeKey('ed25519'),
      }));
      attach(bad);
      expect(await refusal()).to.match(
        /none of 20 signatures counts \(attachment 1 .*attachment 5 .*another key, or changed; and 15 more; /,
      );
      attach([...bad, { payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      await pull();
    });

    it('wants every requirement met, each by a signature of its own if need be', async () => {
      const second = makeKey('ed25519');
      await put('second.pub', second.pem);
      await demand(
        sigstore(),
        { type: 'insecureAcceptAnything' },
        sigstore({ keyPath: join(root, 'second.pub') }),
        openPgp(),
      );
      const payload = payloadOf(digest, 'reg.example/team/app');
      attach([{ payload, by: own }]);
      expect(await refusal()).to.match(/sigstoreSigned: the only signature does not count/);
      attach([
        { payload, by: own },
        { payload, by: second },
      ]);
      expect(await refusal()).to.match(/signedBy: there is no signature of that kind/);
      await lay(
        1,
        fakeMessage('K1', bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} })),
      );
      await pull();
    });

    it('takes keys from the policy itself, and any of several', async () => {
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      const data = (pem: string): string => Buffer.from(pem).toString('base64');
      await demand({
        type: 'sigstoreSigned',
        keyDatas: [data(makeKey().pem), data(own.pem)],
        signedIdentity: { type: 'matchRepository' },
      });
      await pull();
      await demand({
        type: 'sigstoreSigned',
        keyData: data(makeKey().pem),
        signedIdentity: { type: 'matchRepository' },
      });
      await refusal();
      await demand({
        type: 'sigstoreSigned',
        keyPaths: [await put('another.pub', makeKey().pem), join(root, 'key.pub')],
        signedIdentity: { type: 'matchRepository' },
      });
      await pull();
      // A spare key that is broken is a mistake to be found before it is needed.
      await demand({
        type: 'sigstoreSigned',
        keyPaths: [join(root, 'key.pub'), await put('broken.pub', 'x')],
        signedIdentity: { type: 'matchRepository' },
      });
      expect(await refusal()).to.match(/broken\.pub" is not a public key in PEM/);
    });

    it('compares names as the policy says, exactly unless told otherwise', async () => {
      await demand(sigstore({ signedIdentity: { type: 'matchRepoDigestOrExact' } }));
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      expect(await refusal()).to.match(/matchRepository"} accepts/);
      attach([{ payload: payloadOf(digest, 'reg.example/team/app:v1'), by: own }]);
      await pull();
      registry.add('team/app', 'v2', image);
      expect(await refusal(pull('reg.example/team/app:v2'))).to.match(/calls the image "reg\.example\/team\/app:v1"/);
      await pull(`reg.example/team/app@${digest}`);
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
      registry.put('/v2/team/app/manifests/multi', index, mediaTypes.ociIndex);
      await demand(sigstore());
      attach([{ payload: payloadOf(digestOf(index), 'reg.example/team/app'), by: own }], digestOf(index));
      expect(await refusal(pull('reg.example/team/app:multi')))
        .to.include(`there is no reg.example/team/app:${signatureTag(digest)}`)
        .and.to.include('--recursive');
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      expect((await pull('reg.example/team/app:multi')).repoDigests).to.deep.equal([
        `reg.example/team/app@${digestOf(index)}`,
      ]);
    });

    it('looks beside the mirror that gave the image, and compares with the name that was asked for', async () => {
      const mirror = new FakeRegistry().add('hub/team/app', 'v1', image);
      network.hosts.set('https://mirror.example:5000', mirror.host);
      const mirrored = await open(
        {},
        '[[registry]]\nlocation = "reg.example"\n[[registry.mirror]]\nlocation = "mirror.example:5000/hub"\n',
      );
      await put('registries.d/all.yaml', 'docker:\n  reg.example: {use-sigstore-attachments: true}\n');
      await demand(sigstore());
      const payload = payloadOf(digest, 'reg.example/team/app');
      attach([{ payload, by: own }]);
      expect(await refusal(pull(undefined, mirrored))).to.match(
        /does not say "use-sigstore-attachments: true" for mirror\.example:5000\/hub\/team\/app/,
      );
      await put('registries.d/mirror.yaml', 'docker:\n  mirror.example:5000/hub: {use-sigstore-attachments: true}\n');
      await refusal(pull(undefined, mirrored));
      mirror
        .put(
          `/v2/hub/team/app/manifests/${signatureTag(digest)}`,
          attachmentManifest([{ payload, signature: signatureOver(payload, own) }]),
          mediaTypes.ociManifest,
        )
        .put(`/v2/hub/team/app/blobs/${digestOf(payload)}`, payload);
      await pull(undefined, mirrored);
    });

    it('checks OpenPGP signatures from the lookaside', async () => {
      await demand(openPgp());
      const body = (of: string = digest, name = 'reg.example/team/app:v1'): Buffer =>
        bodyOf('atomic container signature', of, name, { optional: { creator: 'test' } });
      await lay(1, fakeMessage('K2', body()));
      expect(await refusal()).to.match(
        /signedBy: the only signature does not count \(file:\/\/.*\/signature-1: it was made by a key that the policy does not name/,
      );
      await lay(2, fakeMessage('K1', body(digestOf('other'))));
      await lay(3, fakeMessage('K1', body(digest, 'reg.example/team/app:v2')));
      await lay(4, Buffer.from('garbage'));
      expect(await refusal()).to.match(
        /none of 4 signatures counts .*signature-2: it is for the manifest .*signature-3: it calls the image .*signature-4: it is not an OpenPGP signed message/,
      );
      await lay(5, fakeMessage('K1', body()));
      await pull();
      await demand(openPgp({ keyPath: await put('other.gpg', fakeKeyring('K3')) }));
      await refusal();
      await demand(openPgp({ keyPath: undefined, keyPaths: [join(root, 'other.gpg'), join(root, 'ring.gpg')] }));
      await pull();
    });

    it('reads lookaside servers through the network of pulls, without credentials', async () => {
      const message = fakeMessage(
        'K1',
        bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} }),
      );
      const base = `/all/team/app@sha256=${digest.slice(7)}/`;
      network.hosts.set('https://signatures.example', ({ url }) =>
        url.pathname === `${base}signature-1`
          ? { body: message }
          : url.pathname === `${base}signature-2`
            ? { status: 404 }
            : { status: 500 },
      );
      await put('registries.d/all.yaml', 'default-docker: {lookaside: "https://signatures.example/all"}\n');
      await demand(openPgp());
      await store.pull(testOp(), 'reg.example/team/app:v1', {
        auth: { username: 'u', password: 'p', auth: '', serverAddress: '', identityToken: '', registryToken: '' },
      });
      const asked = network.requests.filter(({ url }) => url.host === 'signatures.example');
      expect(asked.map(({ url, headers }) => [url.pathname, headers['authorization']])).to.deep.equal([
        [`${base}signature-1`, undefined],
        [`${base}signature-2`, undefined],
      ]);
    });

    it('keeps apart what is not signed and what cannot be asked', async () => {
      await put('registries.d/all.yaml', 'default-docker: {lookaside: "https://signatures.example"}\n');
      await demand(openPgp());
      const gone = await failure(pull());
      expect([gone.code, gone.reason], gone.message).to.deep.equal(['Unavailable', 'RegistryUnavailable']);
      network.hosts.set('https://signatures.example', () => ({ status: 503 }));
      expect((await failure(pull())).code).to.equal('Unavailable');
      network.hosts.set('https://signatures.example', () => ({ status: 403 }));
      expect(await refusal()).to.match(
        /answers 403 for https:\/\/signatures\.example\/team\/app@sha256=.*want the signature, or 404/,
      );
      await put('registries.d/all.yaml', 'default-docker: {lookaside: 1}\n');
      expect(await refusal()).to.match(/signedBy: .*all\.yaml: lookaside of "default-docker" is not text/);
      // Whoever needs no signature is not kept from pulling by that.
      await demand({ type: 'insecureAcceptAnything' });
      const log = new RecordingLog();
      await store.pull(testOp(log), 'reg.example/team/app:v1', {});
      expect(log.lines).to.include(
        'warn signatures cannot be read; none is needed for this pull, but a namespace that wants ' +
          'one will refuse the image',
      );
    });

    it('refuses requirements that cannot be checked here, with what to do', async () => {
      attach([{ payload: payloadOf(digest, 'reg.example/team/app'), by: own }]);
      const rows: readonly (readonly [unknown, RegExp])[] = [
        [
          sigstore({
            keyPath: undefined,
            fulcio: { caPath: '/c', oidcIssuer: 'i', subjectEmail: 's' },
            rekorPublicKeyPath: '/r',
          }),
          /fulcio and rekorPublicKeyPath cannot be checked by this node.*name its public half in keyPath/,
        ],
        [sigstore({ rekorPublicKeyPath: '/r' }), /rekorPublicKeyPath cannot be checked/],
        [sigstore({ keyPath: undefined, pki: {} }), /pki cannot be checked/],
        [{ type: 'signedBaseLayer', baseLayerIdentity: {} }, /signedBaseLayer: nobody implements it/],
        [openPgp({ keyType: 'X509Certificates' }), /nobody implements the keyType "X509Certificates"; use GPGKeys/],
        [openPgp({ keyPath: '/none/ring.gpg' }), /the key "\/none\/ring\.gpg" cannot be read/],
      ];
      for (const [requirement, why] of rows) {
        await demand(requirement);
        expect(await refusal(), JSON.stringify(requirement)).to.match(why);
      }
      await demand(openPgp());
      await lay(1, fakeMessage('K1', 'x'));
      expect(await refusal(pull(undefined, await open({ runGpgv: undefined })))).to.match(
        /nothing here can check OpenPGP signatures/,
      );
      const missing = await open({
        runGpgv: async () =>
          Promise.reject(new RuntimeError('Unimplemented', 'this node has no gpgv; apt-get install gpgv')),
      });
      expect(await refusal(pull(undefined, missing))).to.match(
        /signedBy: this node has no gpgv; apt-get install gpgv$/,
      );
    });

    it('looks for policies where they are, and never takes a broken one for none', async () => {
      const rejecting = policyOf({ type: 'reject' });
      // No policy at all: everything is accepted.
      await pull();
      await put('policy.json', '{');
      expect(await refusal()).to.match(/policy\.json is not a signature policy, so no image is accepted$/);
      await rm(join(root, 'policy.json'));
      await mkdir(join(root, 'policy.json'));
      expect(await refusal()).to.match(/policy\.json cannot be read, so no image is accepted/);
      await rm(join(root, 'policy.json'), { recursive: true });
      await put('policy.json', rejecting);
      expect(await refusal()).to.match(/: reject: images of this scope are not accepted$/);
      await put('policies/lenient.json', policyOf({ type: 'insecureAcceptAnything' }));
      await pull(undefined, store, 'lenient');
      await refusal(pull(undefined, store, '../policies/lenient'));
      await refusal(pull(undefined, store, 'other'));
      const named = await open({ signaturePolicy: join(root, 'named.json') });
      expect(await refusal(pull(undefined, named))).to.match(
        /named\.json, which signature_policy names, does not exist/,
      );
      await put('named.json', policyOf({ type: 'insecureAcceptAnything' }));
      await pull(undefined, named);
      const ordered = await open({
        defaultPolicies: [join(root, 'none.json'), join(root, 'named.json'), join(root, 'policy.json')],
      });
      await pull(undefined, ordered);
      expect(defaultTrustOptions({ HOME: '/home/x' })).to.deep.include({
        defaultPolicies: ['/home/x/.config/containers/policy.json', '/etc/containers/policy.json'],
        registriesDirs: ['/home/x/.config/containers/registries.d', '/etc/containers/registries.d'],
      });
    });

    it('ends when its caller leaves', async () => {
      await demand(openPgp());
      await lay(1, fakeMessage('K1', 'x'));
      const leaving = new AbortController();
      const stuck = await open({
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

  describe('at a use', () => {
    const use = (pulled: Image, namespace: string, name = 'reg.example/team/app:v1', using = store): Promise<void> =>
      using.checkUse(testOp(), pulled.id, { name, namespace });
    const payload = payloadOf(digest, 'reg.example/team/app');

    it('asks nothing where no policy is named for it', async () => {
      const pulled = await pull();
      await demand({ type: 'reject' });
      await use(pulled, 'prod');
      await use(pulled, 'prod', '');
    });

    it('asks the namespace’s policy, from the signatures that came with the image', async () => {
      attach([{ payload, by: own }]);
      await lay(
        1,
        fakeMessage('K1', bodyOf('atomic container signature', digest, 'reg.example/team/app:v1', { optional: {} })),
      );
      const pulled = await pull();
      expect(await kept()).to.have.length(1);
      await put('policies/prod.json', policyOf(sigstore(), openPgp()));
      const before = network.requests.length;
      await use(pulled, 'prod');
      await use(pulled, 'prod', 'reg.example/team/app:v1', await open());
      expect(network.requests).to.have.length(before);
      await use(pulled, 'dev');
      expect(await refusal(use(pulled, 'prod', 'reg.example/team/app:v2'))).to.match(
        /"reg\.example\/team\/app:v2" is refused by .*policies\/prod\.json, docker "reg\.example": signedBy: the only signature does not count/,
      );
      expect(await refusal(use(pulled, 'prod', 'elsewhere.example/app:v1'))).to.match(/"default": reject/);
      await put('policies/prod.json', policyOf({ type: 'reject' }));
      expect(await refusal(use(pulled, 'prod'))).to.match(/: reject: /);
      await put(
        'policies/prod.json',
        policyOf(sigstore({ keyData: Buffer.from(makeKey().pem).toString('base64'), keyPath: undefined })),
      );
      expect(await refusal(use(pulled, 'prod'))).to.match(/made by another key.*if it was signed since, pull it again/);
    });

    it('refuses an image that came without signatures, and one that nobody can name', async () => {
      const pulled = await pull();
      expect(await kept()).to.deep.equal([]);
      attach([{ payload, by: own }]);
      await put('policies/prod.json', policyOf(sigstore()));
      expect(await refusal(use(pulled, 'prod'))).to.match(
        /there is no signature of that kind \(these are the signatures that came with the image/,
      );
      expect(await refusal(use(pulled, 'prod', ''))).to.match(
        /does not say what the user calls the image \(user_specified_image\)/,
      );
      expect(await refusal(use(pulled, 'prod', pulled.id.slice(7)))).to.match(/is no image name/);
      // A pull for that namespace brings them.
      await pull(undefined, store, 'prod');
      await use(pulled, 'prod');
    });

    it('takes no id, nor the start of one, for a name', async () => {
      const pulled = await pull();
      await put(
        'policies/prod.json',
        JSON.stringify({
          default: [{ type: 'reject' }],
          transports: { docker: { 'docker.io': [{ type: 'insecureAcceptAnything' }] } },
        }),
      );
      for (const name of [pulled.id, pulled.id.slice(7), pulled.id.slice(0, 20), pulled.id.slice(7, 20)]) {
        expect(store.find(name)?.id, name).to.equal(pulled.id);
        expect(await refusal(use(pulled, 'prod', name)), name).to.match(
          /no signature policy can be looked up for it; name the image in the pod by its repository/,
        );
      }
    });

    it(
      'asks for a short name where no registry is searched: the policy of the name it was found ' +
        'by, and none without one',
      async () => {
        const unsearched = await open({}, 'unqualified-search-registries = []\n');
        network.hosts.set('https://registry-1.docker.io', new FakeRegistry().add('library/app', 'v1', image).host);
        const pulled = await pull('docker.io/library/app:v1', unsearched);
        expect(unsearched.find('app:v1')?.id).to.equal(pulled.id);
        await put(
          'policies/prod.json',
          JSON.stringify({
            default: [{ type: 'reject' }],
            transports: { docker: { 'docker.io/library/app': [{ type: 'insecureAcceptAnything' }] } },
          }),
        );
        await use(pulled, 'prod', 'app:v1', unsearched);
        expect(await refusal(use(pulled, 'prod', 'app:v2', unsearched))).to.match(/"app:v2" names no registry/);
        await put('policies/prod.json', JSON.stringify({ default: [{ type: 'reject' }] }));
        expect(await refusal(use(pulled, 'prod', 'app:v1', unsearched))).to.match(/"default": reject/);
      },
    );

    it('asks signature_policy, too, where the node names one', async () => {
      const pulled = await pull();
      const named = await open({ signaturePolicy: await put('named.json', policyOf(sigstore())) });
      await refusal(use(pulled, 'anywhere', undefined, named));
      await put('named.json', policyOf({ type: 'insecureAcceptAnything' }));
      await use(pulled, 'anywhere', undefined, named);
    });

    it('knows by which meaning of a short name the image came', async () => {
      const searching = await open(
        {},
        'unqualified-search-registries = ["nowhere.example", "reg.example"]\nshort-name-mode = "permissive"\n',
      );
      network.hosts.set('https://nowhere.example', () => ({ status: 404 }));
      const pulled = await pull('team/app:v1', searching);
      await put('policies/prod.json', policyOf({ type: 'insecureAcceptAnything' }));
      await use(pulled, 'prod', 'team/app:v1', searching);
      await refusal(use(pulled, 'prod', 'team/app:v2', searching));
    });

    it('remembers signatures of every manifest of an image, and forgets them with it', async () => {
      attach([{ payload, by: own }]);
      await pull();
      // The same image in a manifest of its own, unsigned, pulled later.
      const annotated = Buffer.from(
        JSON.stringify({ ...(JSON.parse(image.manifest.bytes.toString()) as object), annotations: { other: 'yes' } }),
      );
      registry.put('/v2/team/app/manifests/v3', annotated, mediaTypes.ociManifest);
      const again = await pull('reg.example/team/app:v3');
      expect([again.id, again.manifestDigest]).to.deep.equal([image.id, image.manifest.digest]);
      await put('policies/prod.json', policyOf(sigstore()));
      await use(again, 'prod');
      expect(await kept()).to.have.length(1);
      await writeFile(join(root, 'store/images/signatures', `${'f'.repeat(64)}.json`), '{}');
      await store.sweep(testOp());
      expect(await kept()).to.have.length(1);
      await store.remove(testOp(), 'reg.example/team/app:v1');
      expect(await kept()).to.deep.equal([]);
    });
  });
});

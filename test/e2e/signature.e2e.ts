/**
 * Signed images with real parts: Debian's docker-registry, signatures by gpg and skopeo in a lookaside, cosign's format
 * made here, gpgv as the daemon runs it. Where OpenPGP is concerned, skopeo is asked, too: it is the container tools'
 * own reading of policy.json, and both must agree. (Debian builds it without sigstore.)
 */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { generateKeyPairSync, sign } from 'node:crypto';
import type { KeyObject } from 'node:crypto';
import { mkdir, mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { gpgvIn } from '../../cri/gpgv.ts';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { FileImageStore, ImageTrust, RegistryPolicy } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/overlay.ts';
import { CriError } from './cri-client.ts';
import { TestNode } from './harness.ts';
import { buildImage, buildIndex, busybox, file, push, sha256 } from './images.ts';
import type { BuiltImage } from './images.ts';
import { startRegistry } from './registry.ts';
import type { RunningRegistry } from './registry.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';

interface Key {
  readonly privateKey: KeyObject;
  readonly file: string;
}
interface Attachment {
  readonly payload: Buffer;
  readonly signature: string;
  /** As the manifest says; default: the payload's. */
  readonly size?: number;
}

describe('signatures, end to end', function () {
  this.timeout(120_000);
  let ground: string;
  let registry: RunningRegistry;
  let image: BuiltImage;
  let count = 0;
  /** Fingerprints of the keys in our own GNUPGHOME, by name. */
  const gpgKeys = new Map<string, string>();
  const gpgEnv = (): NodeJS.ProcessEnv => ({ ...process.env, GNUPGHOME: join(ground, 'gpg'), LC_ALL: 'C' });
  const gpg = (...args: readonly string[]): ReturnType<typeof run> =>
    run('gpg', ['--batch', '--quiet', '--yes', '--no-tty', ...args], { env: gpgEnv() });

  before(async () => {
    ground = await mkdtemp(join(tmpdir(), 'berth-sign-'));
    registry = await startRegistry(ground);
    image = await buildImage({
      directory: join(ground, 'image'),
      name: 'v1',
      layers: [{ files: [file('hello', 'hello')] }],
    });
    await put(
      'home/.config/containers/registries.d/all.yaml',
      `default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://${ground}/lookaside\n`,
    );
    await put('registries.conf', `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`);
    await mkdir(join(ground, 'gpg'), { mode: 0o700 });
    for (const [name, born, expiry] of [
      ['owner', '20240101T000000', 'never'],
      ['stranger', '20240101T000000', 'never'],
      ['old', '20240101T000000', '30d'],
    ] as const) {
      await gpg(
        '--faked-system-time',
        `${born}!`,
        '--passphrase',
        '',
        '--quick-gen-key',
        `${name} <${name}@example.invalid>`,
        'ed25519',
        'sign',
        expiry,
      );
      const { stdout } = await gpg('--with-colons', '--list-keys', `${name}@example.invalid`);
      gpgKeys.set(name, /^fpr:+([0-9A-F]{40}):/m.exec(String(stdout))?.[1] ?? '');
      await gpg('--output', join(ground, `${name}.gpg`), '--export', `${name}@example.invalid`);
      await gpg('--output', join(ground, `${name}.asc`), '--armor', '--export', `${name}@example.invalid`);
    }
  });
  after(async () => {
    await run('gpgconf', ['--kill', 'all'], { env: gpgEnv() });
    await registry.stop();
    await rm(ground, { recursive: true });
  });

  const put = async (name: string, content: string | Buffer): Promise<string> => {
    const path = join(ground, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    return path;
  };
  const makeKey = async (): Promise<Key> => {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    return {
      privateKey,
      file: await put(`key-${count++}.pub`, publicKey.export({ type: 'spki', format: 'pem' }) as string),
    };
  };
  const body = (type: 'atomic' | 'cosign', digest: string, reference: string): Buffer =>
    Buffer.from(
      JSON.stringify({
        critical: {
          identity: { 'docker-reference': reference },
          image: { 'docker-manifest-digest': digest },
          type: type === 'atomic' ? 'atomic container signature' : 'cosign container image signature',
        },
        optional: type === 'atomic' ? {} : null,
      }),
    );
  const attachment = (key: Key, digest: string, reference: string): Attachment => {
    const payload = body('cosign', digest, reference);
    return { payload, signature: sign('sha256', payload, key.privateKey).toString('base64') };
  };

  /** A repository of its own with the image, called `v1`. */
  async function publish(what = image): Promise<string> {
    const repository = `${registry.host}/signed-${count++}`;
    await push(what, `${repository}:v1`);
    return repository;
  }

  /** Pushes signatures as cosign does. */
  async function attach(repository: string, digest: string, attachments: readonly Attachment[]): Promise<void> {
    const api = `http://${repository.replace('/', '/v2/')}`;
    const upload = async (bytes: Buffer): Promise<void> => {
      const started = await fetch(`${api}/blobs/uploads/`, { method: 'POST' });
      const location = new URL(started.headers.get('location') ?? '', api);
      location.searchParams.set('digest', sha256(bytes));
      const done = await fetch(location, {
        method: 'PUT',
        body: new Uint8Array(bytes),
        headers: { 'content-type': 'application/octet-stream' },
      });
      if (done.status !== 201) throw new Error(`blob: ${done.status} ${await done.text()}`);
    };
    const config = Buffer.from('{}');
    for (const blob of new Map(
      [config, ...attachments.map(({ payload }) => payload)].map((bytes) => [sha256(bytes), bytes]),
    ).values())
      await upload(blob);
    const layers = attachments.map(({ payload, signature, size }) => ({
      mediaType: SIMPLE_SIGNING,
      digest: sha256(payload),
      size: size ?? payload.length,
      annotations: { 'dev.cosignproject.cosign/signature': signature },
    }));
    const manifest = JSON.stringify({
      schemaVersion: 2,
      mediaType: 'application/vnd.oci.image.manifest.v1+json',
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: sha256(config), size: config.length },
      layers,
    });
    const done = await fetch(`${api}/manifests/${digest.replace(':', '-')}.sig`, {
      method: 'PUT',
      body: manifest,
      headers: { 'content-type': 'application/vnd.oci.image.manifest.v1+json' },
    });
    if (done.status !== 201) throw new Error(`manifest: ${done.status} ${await done.text()}`);
  }

  /** registries.d for everything here: attachments, and a lookaside below the ground. */
  const registriesD = (): string => join(ground, 'home/.config/containers/registries.d');
  const lay = (repository: string, digest: string, number: number, message: Buffer): Promise<string> =>
    put(
      `lookaside/${repository.slice(repository.indexOf('/') + 1)}@${digest.replace(':', '=')}/signature-${number}`,
      message,
    );

  async function openStore(policy: unknown): Promise<{ readonly store: FileImageStore; readonly directory: string }> {
    const directory = join(ground, `store-${count++}`);
    const rootfs = new OverlayRootfs({ root: directory });
    await rootfs.sweepLayers(op);
    const store = new FileImageStore({
      root: directory,
      unpacker: rootfs,
      policy: new RegistryPolicy({
        registriesConf: join(ground, 'registries.conf'),
        registriesConfDir: '',
        hostsDirs: [],
        certsDirs: [],
      }),
      trust: new ImageTrust({
        signaturePolicy: await put(`policy-${count++}.json`, JSON.stringify(policy)),
        signaturePolicyDir: '',
        registriesDirs: [registriesD()],
        runGpgv: gpgvIn(ground),
      }),
    });
    await store.load(op);
    return { store, directory };
  }
  const policyOf = (...requirements: readonly unknown[]): unknown => ({
    default: [{ type: 'reject' }],
    transports: { docker: { [registry.host]: requirements } },
  });

  /** '' if the store takes the image, else why not. A refusal leaves nothing of the image. */
  async function outcome(reference: string, policy: unknown): Promise<string> {
    const { store, directory } = await openStore(policy);
    try {
      await store.pull(op, reference, {});
      return '';
    } catch (error) {
      if (!(error instanceof RuntimeError) || error.reason !== 'SignatureValidationFailed') throw error;
      expect([
        store.list(),
        await readdir(join(directory, 'blobs/sha256')),
        await readdir(join(directory, 'layers')),
      ]).to.deep.equal([[], [], []]);
      return error.message;
    } finally {
      await store.close();
    }
  }

  /** Whether skopeo takes it. */
  async function skopeo(reference: string, policy: unknown): Promise<boolean> {
    const target = join(ground, `copy-${count++}`);
    const args = [
      '--policy',
      await put(`policy-${count++}.json`, JSON.stringify(policy)),
      '--registries.d',
      registriesD(),
      'copy',
      '--src-tls-verify=false',
      `docker://${reference}`,
      `dir:${target}`,
    ];
    return await run('skopeo', args).then(
      () => true,
      () => false,
    );
  }

  /** Both opinions. */
  async function agree(reference: string, policy: unknown): Promise<string> {
    const [why, taken] = await Promise.all([outcome(reference, policy), skopeo(reference, policy)]);
    expect(taken, `skopeo about ${reference}, where we say ${why || 'yes'}`).to.equal(why === '');
    return why;
  }

  describe('in cosign’s format', () => {
    let key: Key;
    before(async () => (key = await makeKey()));
    const signedBy = (by: Key, identity: unknown = { type: 'matchRepository' }): unknown =>
      policyOf({ type: 'sigstoreSigned', keyPath: by.file, signedIdentity: identity });

    it('an image is taken by the right key only', async () => {
      const repository = await publish();
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.match(/there is no signature of that kind/);
      await attach(repository, image.digest, [attachment(await makeKey(), image.digest, repository)]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.match(/made by another key/);
      await attach(repository, image.digest, [
        attachment(await makeKey(), image.digest, repository),
        attachment(key, image.digest, repository),
      ]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.equal('');
      expect(await outcome(`${repository}@${image.digest}`, signedBy(key))).to.equal('');
      expect(await outcome(`${repository}:v1`, { default: [{ type: 'reject' }] })).to.match(/"default": reject/);
    });

    it('a signature for another digest or another reference does not count', async () => {
      const repository = await publish();
      const rows: readonly (readonly [string, Attachment, identity: unknown, RegExp])[] = [
        [
          'another digest',
          attachment(key, sha256('other'), repository),
          { type: 'matchRepository' },
          /it is for the manifest/,
        ],
        [
          'another repository',
          attachment(key, image.digest, `${repository}x`),
          { type: 'matchRepository' },
          /it calls the image/,
        ],
        [
          'no tag',
          attachment(key, image.digest, repository),
          { type: 'matchRepoDigestOrExact' },
          /matchRepository"} accepts/,
        ],
        [
          'another tag',
          attachment(key, image.digest, `${repository}:v2`),
          { type: 'matchExact' },
          /it calls the image/,
        ],
        ['the very tag', attachment(key, image.digest, `${repository}:v1`), { type: 'matchExact' }, /^$/],
        [
          'a remapped name',
          attachment(key, image.digest, 'vendor.example/app:v1'),
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' },
          /^$/,
        ],
        [
          'a remapped name that is another',
          attachment(key, image.digest, 'vendor.example/other:v1'),
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' },
          /it calls the image/,
        ],
        [
          'an exact repository',
          attachment(key, image.digest, 'vendor.example/app'),
          { type: 'exactRepository', dockerRepository: 'vendor.example/app' },
          /^$/,
        ],
        [
          'an exact reference',
          attachment(key, image.digest, 'vendor.example/app:v7'),
          { type: 'exactReference', dockerReference: 'vendor.example/app:v7' },
          /^$/,
        ],
        [
          'a changed payload',
          { ...attachment(key, image.digest, repository), payload: body('cosign', image.digest, `${repository}:v1`) },
          { type: 'matchRepository' },
          /made by another key, or changed/,
        ],
        [
          'no signature at all',
          { ...attachment(key, image.digest, repository), signature: '' },
          { type: 'matchRepository' },
          /made by another key, or changed/,
        ],
        [
          'garbage',
          {
            payload: Buffer.from('garbage'),
            signature: sign('sha256', Buffer.from('garbage'), key.privateKey).toString('base64'),
          },
          { type: 'matchRepository' },
          /not valid JSON/,
        ],
        [
          'simple signing’s text',
          {
            payload: body('atomic', image.digest, `${repository}:v1`),
            signature: sign('sha256', body('atomic', image.digest, `${repository}:v1`), key.privateKey).toString(
              'base64',
            ),
          },
          { type: 'matchRepository' },
          /is of type "atomic/,
        ],
      ];
      for (const [what, each, identity, why] of rows) {
        await attach(repository, image.digest, [each]);
        expect(await outcome(`${repository}:v1`, signedBy(key, identity)), what).to.match(why);
      }
    });

    it('of an index, the manifest that is pulled must be signed, not the list', async () => {
      const index = await buildIndex({
        directory: join(ground, 'index'),
        name: 'v1',
        images: [
          { layers: [{ files: [file('a', 'a')] }] },
          { layers: [{ files: [file('b', 'b')] }], platform: { os: 'linux', architecture: 'arm64' } },
        ],
      });
      const repository = await publish(index);
      const own = index.images[process.arch === 'arm64' ? 1 : 0]?.manifest ?? '';
      await attach(repository, index.digest, [attachment(key, index.digest, repository)]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.match(/with --recursive/);
      await attach(repository, own, [attachment(key, own, repository)]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.equal('');
      expect(await outcome(`${repository}@${index.digest}`, signedBy(key))).to.equal('');
    });

    it('ten thousand signatures, and huge ones, cost no more than they may', async () => {
      const repository = await publish();
      const bad = attachment(await makeKey(), image.digest, repository);
      const good = attachment(key, image.digest, repository);
      await attach(
        repository,
        image.digest,
        Array.from({ length: 10_000 }, () => bad),
      );
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.match(
        /none of 127 signatures counts .* and 122 more; .*of the 10000 attachments .* the first 127 were looked at/,
      );
      const huge = { ...good, payload: Buffer.alloc(8_000_000, ' ') };
      await attach(repository, image.digest, [huge, { ...huge, size: 100 }, good]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.equal('');
      await attach(repository, image.digest, [huge, { ...huge, size: 100 }]);
      expect(await outcome(`${repository}:v1`, signedBy(key))).to.match(
        /it has 80000\d\d bytes, at most 65536 are read.*attachment 2 .* is not taken: .*more bytes than the manifest promises/,
      );
    });
  });

  describe('by OpenPGP', () => {
    const signedBy = (name: string, more: Readonly<Record<string, unknown>> = {}): unknown =>
      policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(ground, name), ...more });
    /** A message by gpg, as simple signing has them, made with these options. */
    async function message(by: string, text: Buffer, ...options: readonly string[]): Promise<Buffer> {
      const out = join(ground, `message-${count++}`);
      await gpg(
        '--local-user',
        gpgKeys.get(by) ?? '',
        ...options,
        '--output',
        out,
        ...(options.includes('--clearsign') || options.includes('--detach-sign') || options.includes('--store')
          ? []
          : ['--sign']),
        await put(`text-${count++}`, text),
      );
      return await readFile(out);
    }

    it('what skopeo signed is taken by the right keyring only, binary or armored', async () => {
      const repository = `${registry.host}/signed-${count++}`;
      const { stderr } = await run(
        'skopeo',
        [
          '--insecure-policy',
          '--registries.d',
          registriesD(),
          'copy',
          '--dest-tls-verify=false',
          '--sign-by',
          gpgKeys.get('owner') ?? '',
          `oci:${image.layout}:${image.name}`,
          `docker://${repository}:v1`,
        ],
        { env: gpgEnv() },
      );
      expect(String(stderr)).to.equal('');
      expect(await agree(`${repository}:v1`, signedBy('owner.gpg'))).to.equal('');
      expect(await agree(`${repository}:v1`, signedBy('owner.asc'))).to.equal('');
      expect(await agree(`${repository}@${image.digest}`, signedBy('owner.gpg'))).to.equal('');
      expect(
        await agree(`${repository}@${image.digest}`, signedBy('owner.gpg', { signedIdentity: { type: 'matchExact' } })),
      ).to.match(/it calls the image/);
      expect(await agree(`${repository}:v1`, signedBy('stranger.gpg'))).to.match(
        /by a key that the policy does not name/,
      );
      const both = await put(
        'both.asc',
        `${await readFile(join(ground, 'stranger.asc'), 'utf8')}\n${await readFile(join(ground, 'owner.asc'), 'utf8')}`,
      );
      expect(
        await outcome(`${repository}:v1`, policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: both })),
      ).to.equal('');
      expect(
        await outcome(
          `${repository}:v1`,
          policyOf({
            type: 'signedBy',
            keyType: 'GPGKeys',
            keyPaths: [join(ground, 'stranger.gpg'), join(ground, 'owner.asc')],
          }),
        ),
      ).to.equal('');
      expect(
        await agree(
          `${repository}:v1`,
          policyOf({
            type: 'signedBy',
            keyType: 'GPGKeys',
            keyData: (await readFile(join(ground, 'owner.gpg'))).toString('base64'),
          }),
        ),
      ).to.equal('');
      // The same image under another name was signed by nobody.
      const copy = await publish();
      expect(await agree(`${copy}:v1`, signedBy('owner.gpg'))).to.match(/there is no signature of that kind/);
    });

    it('a name counts as the policy says', async () => {
      const repository = await publish();
      const [tagged, pinned] = [`${repository}:v1`, `${repository}@${image.digest}`];
      const rows: readonly (readonly [reference: string, signed: string, identity: unknown, isTaken: boolean])[] = [
        [tagged, tagged, { type: 'matchExact' }, true],
        [tagged, repository, { type: 'matchExact' }, false],
        [pinned, tagged, { type: 'matchExact' }, false],
        [pinned, pinned, { type: 'matchExact' }, true],
        [tagged, `${repository}:v2`, undefined, false],
        [tagged, pinned, undefined, false],
        [pinned, `${repository}:v2`, undefined, true],
        [pinned, repository, undefined, false],
        [pinned, `${repository}x:v1`, undefined, false],
        [tagged, repository, { type: 'matchRepository' }, true],
        [tagged, `${repository}:v9`, { type: 'matchRepository' }, true],
        [tagged, `${repository}/deeper:v1`, { type: 'matchRepository' }, false],
        [tagged, 'vendor.example/app:v7', { type: 'exactReference', dockerReference: 'vendor.example/app:v7' }, true],
        [tagged, 'vendor.example/app:v8', { type: 'exactReference', dockerReference: 'vendor.example/app:v7' }, false],
        [tagged, 'busybox:v7', { type: 'exactReference', dockerReference: 'docker.io/library/busybox:v7' }, true],
        [tagged, 'vendor.example/app:v8', { type: 'exactRepository', dockerRepository: 'vendor.example/app' }, true],
        [tagged, 'vendor.example/app', { type: 'exactRepository', dockerRepository: 'vendor.example/app' }, true],
        [tagged, 'vendor.example/other:v8', { type: 'exactRepository', dockerRepository: 'vendor.example/app' }, false],
        [
          tagged,
          'vendor.example/app:v1',
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' },
          true,
        ],
        [
          tagged,
          `vendor.example/${repository.split('/')[1]}:v1`,
          { type: 'remapIdentity', prefix: registry.host, signedPrefix: 'vendor.example' },
          true,
        ],
        [
          pinned,
          'vendor.example/app:v5',
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' },
          true,
        ],
        [
          tagged,
          'vendor.example/app:v5',
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' },
          false,
        ],
        [tagged, tagged, { type: 'remapIdentity', prefix: repository, signedPrefix: 'vendor.example/app' }, false],
        [tagged, tagged, { type: 'remapIdentity', prefix: 'other.example', signedPrefix: 'vendor.example' }, true],
        [
          tagged,
          'busybox:v1',
          { type: 'remapIdentity', prefix: repository, signedPrefix: 'docker.io/library/busybox' },
          true,
        ],
      ];
      for (const [reference, signed, identity, isTaken] of rows) {
        await lay(repository, image.digest, 1, await message('owner', body('atomic', image.digest, signed)));
        const why = await agree(
          reference,
          signedBy('owner.gpg', identity === undefined ? {} : { signedIdentity: identity }),
        );
        expect(why === '', `${reference} signed as ${signed}, ${JSON.stringify(identity)}: ${why}`).to.equal(isTaken);
      }
    });

    it('the most specific scope decides, and a policy with a mistake accepts nothing', async () => {
      const repository = await publish();
      await push(image, `${repository}:v2`);
      const accept = [{ type: 'insecureAcceptAnything' }];
      const reject = [{ type: 'reject' }];
      const rows: readonly (readonly [
        docker: Readonly<Record<string, unknown>>,
        isTaken: boolean,
        rest?: Readonly<Record<string, unknown>>,
      ])[] = [
        [{ [`${repository}:v1`]: accept, [repository]: reject }, true],
        [{ [`${repository}:v2`]: accept, [repository]: reject }, false],
        [{ [repository]: accept, [registry.host]: reject }, true],
        [{ [`${repository}x`]: accept }, false],
        [{ [registry.host]: accept, '*.0.0.1': reject }, true],
        [{ '*.0.0.1': accept, '*.1': reject }, true],
        [{ '*.1': accept, '': reject }, true],
        [{ '127.0.0.1': accept }, false],
        [{ '': accept }, true],
        [{ '': [...accept, ...reject] }, false],
        [{ '': [] }, false],
        [{ '': accept, 'unused.example': [{ type: 'sometimes' }] }, false],
        [{ '': accept, 'unused.example': [{ type: 'signedBy', keyType: 'GPGKeys' }] }, false],
        [{ '': accept }, false, { more: {} }],
        [{ '': accept }, false, { default: [] }],
      ];
      for (const [docker, isTaken, rest = {}] of rows) {
        const policy = { default: reject, transports: { docker }, ...rest };
        expect((await agree(`${repository}:v1`, policy)) === '', JSON.stringify(policy)).to.equal(isTaken);
      }
    });

    it('expired, changed, ambiguous and foreign messages do not count', async () => {
      const repository = await publish();
      const name = `${repository}:v1`;
      const good = body('atomic', image.digest, name);
      const fine = await message('owner', good);
      const damaged = Buffer.from(await message('owner', good, '-z0'));
      damaged.write('X', damaged.indexOf('"critical"') + 1);
      const expiring = ['--faked-system-time', '20240102T000000!', '--default-sig-expire', '1d'];
      const rows: readonly (readonly [string, Buffer, RegExp, ring?: string])[] = [
        ['good', fine, /^$/],
        ['good, uncompressed', await message('owner', good, '-z0'), /^$/],
        ['expired', await message('owner', good, ...expiring), /the signature has expired/],
        [
          'by a key that has expired',
          await message('old', good, '--faked-system-time', '20240102T000000!'),
          /the key has expired/,
          'old.gpg',
        ],
        ['changed', damaged, /was changed|not an OpenPGP|does not vouch/],
        ['by another key', await message('stranger', good), /by a key that the policy does not name/],
        [
          'by two keys at once',
          await message('owner', good, '--local-user', gpgKeys.get('stranger') ?? ''),
          /2 signatures in one/,
        ],
        ['for another digest', await message('owner', body('atomic', sha256('other'), name)), /it is for the manifest/],
        [
          'for another reference',
          await message('owner', body('atomic', image.digest, `${repository}:v2`)),
          /it calls the image/,
        ],
        [
          'cosign’s text',
          await message('owner', body('cosign', image.digest, name)),
          /is of type "cosign|"optional" is not an object/,
        ],
        ['no JSON', await message('owner', Buffer.from('hello')), /not valid JSON/],
        ['cleartext', await message('owner', good, '--clearsign'), /not an OpenPGP signed message/],
        ['detached', await message('owner', good, '--detach-sign'), /not an OpenPGP signed message/],
        ['armored', await message('owner', good, '--armor'), /not an OpenPGP signed message/],
        ['unsigned', await message('owner', good, '--store'), /not an OpenPGP signed message/],
        [
          'an unsigned message before a signed one',
          Buffer.concat([await message('owner', good, '--store', '-z0'), await message('owner', good, '-z0')]),
          /not an OpenPGP signed message/,
        ],
        ['garbage', Buffer.from('garbage'), /not an OpenPGP signed message/],
        [
          'a packet of garbage',
          Buffer.concat([Buffer.from([0xa3]), Buffer.from('garbage')]),
          /not an OpenPGP signed message/,
        ],
      ];
      for (const [what, each, why, ring = 'owner.gpg'] of rows) {
        await lay(repository, image.digest, 1, each);
        expect(await agree(name, signedBy(ring)), what).to.match(why);
      }
      // A good one after bad ones is found.
      await lay(repository, image.digest, 2, Buffer.alloc(limits.signatureBytes + 1, 0xa3));
      await lay(repository, image.digest, 3, await message('owner', Buffer.alloc(20_000_000)));
      await lay(repository, image.digest, 4, fine);
      expect(await outcome(name, signedBy('owner.gpg'))).to.equal('');
      await rm(await lay(repository, image.digest, 4, fine));
      expect(await outcome(name, signedBy('owner.gpg'))).to.match(
        /none of 2 signatures counts .*signature-3: the signed text has more than 65536 bytes; .*signature-2 is not taken: .* larger than 65536 bytes/,
      );
    });

    it('a node without gpgv says which package to install, and leaves no descriptor open', async () => {
      const repository = await publish();
      await lay(repository, image.digest, 1, await message('owner', body('atomic', image.digest, `${repository}:v1`)));
      const { store } = await openStore(signedBy('owner.gpg'));
      const path = process.env['PATH'];
      const keyrings = async (): Promise<number> =>
        (
          await Promise.all(
            (
              await readdir('/proc/self/fd')
            ).map((fd) =>
              run('readlink', [`/proc/${process.pid}/fd/${fd}`]).then(
                ({ stdout }) => String(stdout),
                () => '',
              ),
            ),
          )
        ).filter((each) => each.includes(`${ground}/#`)).length;
      process.env['PATH'] = join(ground, 'nothing');
      try {
        const error: unknown = await store.pull(op, `${repository}:v1`, {}).catch((each: unknown) => each);
        expect(error)
          .to.be.instanceOf(RuntimeError)
          .with.property('message')
          .that.matches(/signedBy: this node has no gpgv, .*apt-get install gpgv/);
      } finally {
        process.env['PATH'] = path;
      }
      await store.pull(op, `${repository}:v1`, {});
      expect(await keyrings()).to.equal(0);
      await store.close();
    });
  });

  describe('over CRI', () => {
    let node: TestNode;
    let key: Key;
    let repository: string;
    before(async () => {
      key = await makeKey();
      const app = await buildImage({
        directory: join(ground, 'app'),
        name: 'v1',
        layers: [{ files: await busybox() }],
        config: { Cmd: ['sleep', '1000'] },
      });
      repository = await publish(app);
      await push(app, `${repository}:unsigned`);
      await attach(repository, app.digest, [attachment(key, app.digest, `${repository}:v1`)]);
      const home = join(ground, 'home');
      await put(
        'home/.config/containers/policy.json',
        JSON.stringify({
          default: [{ type: 'insecureAcceptAnything' }],
          transports: { docker: { [`${registry.host}/forbidden`]: [{ type: 'reject' }] } },
        }),
      );
      await put('policies/prod.json', JSON.stringify(policyOf({ type: 'sigstoreSigned', keyPath: key.file })));
      await put(
        'policies/strict.json',
        JSON.stringify(policyOf({ type: 'sigstoreSigned', keyPath: (await makeKey()).file })),
      );
      await put(
        'policies/gpg.json',
        JSON.stringify(policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(ground, 'owner.gpg') })),
      );
      node = await TestNode.boot({
        flags: ['--signature-policy-dir', join(ground, 'policies')],
        env: { HOME: home, CONTAINERS_REGISTRIES_CONF: join(ground, 'registries.conf') },
      });
    });
    after(() => node.close());

    const pull = async (name: string, namespace: string): Promise<string> =>
      (
        await node.cri.rpc.pullImage({
          image: { image: name, userSpecifiedImage: name },
          sandboxConfig: { metadata: { name: 'x', uid: 'x', namespace, attempt: 0 } },
        })
      ).imageRef;
    /** The status' text; it must begin with what the kubelet looks for, and its code be UNKNOWN. */
    const refusal = async (work: Promise<unknown>): Promise<string> => {
      const error: unknown = await work.then(
        () => 'no error',
        (each: unknown) => each,
      );
      if (!(error instanceof CriError)) throw new Error(`want a CriError, got ${String(error)}`);
      expect([error.code, error.message.startsWith('SignatureValidationFailed: ')], error.message).to.deep.equal([
        2,
        true,
      ]);
      return error.message;
    };
    const create = async (id: string, name: string, namespace: string): Promise<void> => {
      const pod = await node.cri.runPod({ metadata: { name: `p${count}`, uid: `u${count++}`, namespace, attempt: 0 } });
      try {
        await node.cri.runContainer(pod, id, { image: { image: id, userSpecifiedImage: name } });
      } finally {
        await node.cri.removePod(pod.id);
      }
    };

    it('a pull is decided by the namespace’s policy, else by the node’s', async () => {
      await pull(`${repository}:v1`, 'prod');
      expect(await refusal(pull(`${repository}:unsigned`, 'prod'))).to.match(
        /is refused by .*\/policies\/prod\.json, docker "127\.0\.0\.1:\d+": sigstoreSigned: .*it calls the image/,
      );
      expect(await refusal(pull(`${repository}:v1`, 'strict'))).to.match(/strict\.json.*made by another key/);
      expect(await refusal(pull(`${repository}:v1`, 'gpg'))).to.match(
        /gpg\.json.*signedBy: there is no signature of that kind/,
      );
      await pull(`${repository}:unsigned`, 'default');
      expect(await refusal(pull(`${registry.host}/forbidden:v1`, 'default'))).to.match(
        /home\/\.config\/containers\/policy\.json, docker "127\.0\.0\.1:\d+\/forbidden": reject/,
      );
    });

    it('and a container again, for an image that is here, also after a restart and by gpgv', async () => {
      const id = await pull(`${repository}:unsigned`, 'default');
      await pull(`${repository}:v1`, 'default');
      for (const again of [false, true]) {
        if (again) await node.restart();
        await create(id, `${repository}:v1`, 'prod');
        await create(id, `${repository}:unsigned`, 'default');
        expect(await refusal(create(id, `${repository}:unsigned`, 'prod'))).to.match(/prod\.json.*it calls the image/);
        expect(await refusal(create(id, `${repository}:v1`, 'strict'))).to.match(/strict\.json.*made by another key/);
        expect(await refusal(create(id, '', 'prod'))).to.match(/user_specified_image/);
      }
      const manifest =
        (
          await fetch(`http://${repository.replace('/', '/v2/')}/manifests/v1`, {
            headers: { accept: 'application/vnd.oci.image.manifest.v1+json' },
          })
        ).headers.get('docker-content-digest') ?? '';
      const text = await put('crio-text', body('atomic', manifest, `${repository}:v1`));
      await gpg('--local-user', gpgKeys.get('owner') ?? '', '--output', join(ground, 'crio-message'), '--sign', text);
      await lay(repository, manifest, 1, await readFile(join(ground, 'crio-message')));
      await pull(`${repository}:v1`, 'gpg');
      await create(id, `${repository}:v1`, 'gpg');
      // Signatures went with the pull, and go with the image.
      expect(await readdir(join(node.dir, 'root/images/signatures'))).to.have.length(1);
      await node.cri.rpc.removeImage({ image: { image: id } });
      expect(await readdir(join(node.dir, 'root/images/signatures'))).to.deep.equal([]);
    });
  });
});

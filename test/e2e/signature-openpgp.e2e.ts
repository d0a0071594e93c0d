/** Images signed by OpenPGP, end to end: gpg and skopeo sign, gpgv checks, and skopeo must agree. */
import { expect } from 'chai';
import { execFile } from 'node:child_process';
import { readdir, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { limits } from '../../pkg/base/limits.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { push, sha256 } from './images.ts';
import { body, SigningGround } from './signing.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);

/** What is pulled, what the signature calls it, what the policy wants, and whether that is content. */
function namings(
  g: SigningGround,
  repository: string,
): readonly (readonly [reference: string, signed: string, identity: unknown, isTaken: boolean])[] {
  const [tagged, pinned] = [`${repository}:v1`, `${repository}@${g.image.digest}`];
  return [
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
      { type: 'remapIdentity', prefix: g.registry.host, signedPrefix: 'vendor.example' },
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
}

/** Messages, and why each does not count; one that does has no reason. */
async function messages(
  g: SigningGround,
  repository: string,
): Promise<readonly (readonly [string, Buffer, RegExp, ring?: string])[]> {
  const name = `${repository}:v1`;
  const good = body('atomic', g.image.digest, name);
  const fine = await g.message('owner', good);
  const damaged = Buffer.from(await g.message('owner', good, '-z0'));
  damaged.write('X', damaged.indexOf('"critical"') + 1);
  const expiring = ['--faked-system-time', '20240102T000000!', '--default-sig-expire', '1d'];
  return [
    ['good', fine, /^$/],
    ['good, uncompressed', await g.message('owner', good, '-z0'), /^$/],
    ['expired', await g.message('owner', good, ...expiring), /the signature has expired/],
    [
      'by a key that has expired',
      await g.message('old', good, '--faked-system-time', '20240102T000000!'),
      /the key has expired/,
      'old.gpg',
    ],
    ['changed', damaged, /was changed|not an OpenPGP|does not vouch/],
    ['by another key', await g.message('stranger', good), /by a key that the policy does not name/],
    [
      'by two keys at once',
      await g.message('owner', good, '--local-user', g.gpgKeys.get('stranger') ?? ''),
      /2 signatures in one/,
    ],
    ['for another digest', await g.message('owner', body('atomic', sha256('other'), name)), /it is for the manifest/],
    [
      'for another reference',
      await g.message('owner', body('atomic', g.image.digest, `${repository}:v2`)),
      /it calls the image/,
    ],
    [
      'cosign’s text',
      await g.message('owner', body('cosign', g.image.digest, name)),
      /is of type "cosign|"optional" is not an object/,
    ],
    ['no JSON', await g.message('owner', Buffer.from('hello')), /not valid JSON/],
    ['cleartext', await g.message('owner', good, '--clearsign'), /not an OpenPGP signed message/],
    ['detached', await g.message('owner', good, '--detach-sign'), /not an OpenPGP signed message/],
    ['armored', await g.message('owner', good, '--armor'), /not an OpenPGP signed message/],
    ['unsigned', await g.message('owner', good, '--store'), /not an OpenPGP signed message/],
    [
      'an unsigned message before a signed one',
      Buffer.concat([await g.message('owner', good, '--store', '-z0'), await g.message('owner', good, '-z0')]),
      /not an OpenPGP signed message/,
    ],
    ['garbage', Buffer.from('garbage'), /not an OpenPGP signed message/],
    [
      'a packet of garbage',
      Buffer.concat([Buffer.from([0xa3]), Buffer.from('garbage')]),
      /not an OpenPGP signed message/,
    ],
  ];
}

describe('signatures, end to end: by OpenPGP', function () {
  this.timeout(120_000);
  let g: SigningGround;
  before(async () => (g = await SigningGround.make()));
  after(() => g.remove());
  const signedBy = (name: string, more: Readonly<Record<string, unknown>> = {}): unknown =>
    g.policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: join(g.directory, name), ...more });

  it('what skopeo signed is taken by the right keyring only, binary or armored', async () => {
    const repository = `${g.registry.host}/signed-${g.next()}`;
    const { stderr } = await run(
      'skopeo',
      [
        '--insecure-policy',
        '--registries.d',
        g.registriesD(),
        'copy',
        '--dest-tls-verify=false',
        '--sign-by',
        g.gpgKeys.get('owner') ?? '',
        `oci:${g.image.layout}:${g.image.name}`,
        `docker://${repository}:v1`,
      ],
      { env: g.gpgEnv() },
    );
    expect(String(stderr)).to.equal('');
    expect(await g.agree(`${repository}:v1`, signedBy('owner.gpg'))).to.equal('');
    expect(await g.agree(`${repository}:v1`, signedBy('owner.asc'))).to.equal('');
    expect(await g.agree(`${repository}@${g.image.digest}`, signedBy('owner.gpg'))).to.equal('');
    const exact = signedBy('owner.gpg', { signedIdentity: { type: 'matchExact' } });
    expect(await g.agree(`${repository}@${g.image.digest}`, exact)).to.match(/it calls the image/);
    expect(await g.agree(`${repository}:v1`, signedBy('stranger.gpg'))).to.match(
      /by a key that the policy does not name/,
    );
    const both = await g.put(
      'both.asc',
      `${String(await g.read('stranger.asc'))}\n${String(await g.read('owner.asc'))}`,
    );
    expect(
      await g.outcome(`${repository}:v1`, g.policyOf({ type: 'signedBy', keyType: 'GPGKeys', keyPath: both })),
    ).to.equal('');
    expect(
      await g.outcome(
        `${repository}:v1`,
        g.policyOf({
          type: 'signedBy',
          keyType: 'GPGKeys',
          keyPaths: [join(g.directory, 'stranger.gpg'), join(g.directory, 'owner.asc')],
        }),
      ),
    ).to.equal('');
    expect(
      await g.agree(
        `${repository}:v1`,
        g.policyOf({
          type: 'signedBy',
          keyType: 'GPGKeys',
          keyData: (await g.read('owner.gpg')).toString('base64'),
        }),
      ),
    ).to.equal('');
    // The same image under another name was signed by nobody.
    const copy = await g.publish();
    expect(await g.agree(`${copy}:v1`, signedBy('owner.gpg'))).to.match(/there is no signature of that kind/);
  });

  it('a name counts as the policy says', async () => {
    const repository = await g.publish();
    for (const [reference, signed, identity, isTaken] of namings(g, repository)) {
      await g.lay(repository, g.image.digest, 1, await g.message('owner', body('atomic', g.image.digest, signed)));
      const why = await g.agree(
        reference,
        signedBy('owner.gpg', identity === undefined ? {} : { signedIdentity: identity }),
      );
      expect(why === '', `${reference} signed as ${signed}, ${JSON.stringify(identity)}: ${why}`).to.equal(isTaken);
    }
  });

  it('the most specific scope decides, and a policy with a mistake accepts nothing', async () => {
    const repository = await g.publish();
    await push(g.image, `${repository}:v2`);
    const accept = [{ type: 'insecureAcceptAnything' }];
    const reject = [{ type: 'reject' }];
    const rows: readonly (readonly [
      docker: Readonly<Record<string, unknown>>,
      isTaken: boolean,
      rest?: Readonly<Record<string, unknown>>,
    ])[] = [
      [{ [`${repository}:v1`]: accept, [repository]: reject }, true],
      [{ [`${repository}:v2`]: accept, [repository]: reject }, false],
      [{ [repository]: accept, [g.registry.host]: reject }, true],
      [{ [`${repository}x`]: accept }, false],
      [{ [g.registry.host]: accept, '*.0.0.1': reject }, true],
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
      expect((await g.agree(`${repository}:v1`, policy)) === '', JSON.stringify(policy)).to.equal(isTaken);
    }
  });

  it('expired, changed, ambiguous and foreign messages do not count', async () => {
    const repository = await g.publish();
    const name = `${repository}:v1`;
    const fine = await g.message('owner', body('atomic', g.image.digest, name));
    for (const [what, each, why, ring = 'owner.gpg'] of await messages(g, repository)) {
      await g.lay(repository, g.image.digest, 1, each);
      expect(await g.agree(name, signedBy(ring)), what).to.match(why);
    }
    // A good one after bad ones is found.
    await g.lay(repository, g.image.digest, 2, Buffer.alloc(limits.signatureBytes + 1, 0xa3));
    await g.lay(repository, g.image.digest, 3, await g.message('owner', Buffer.alloc(20_000_000)));
    await g.lay(repository, g.image.digest, 4, fine);
    expect(await g.outcome(name, signedBy('owner.gpg'))).to.equal('');
    await rm(await g.lay(repository, g.image.digest, 4, fine));
    expect(await g.outcome(name, signedBy('owner.gpg'))).to.match(
      /none of 2 .*-3: the signed text has more than 65536 bytes; .*-2 is not taken: .* larger than 65536 bytes/,
    );
  });

  it('a node without gpgv says which package to install, and leaves no descriptor open', async () => {
    const repository = await g.publish();
    await g.lay(
      repository,
      g.image.digest,
      1,
      await g.message('owner', body('atomic', g.image.digest, `${repository}:v1`)),
    );
    const { store } = await g.openStore(signedBy('owner.gpg'));
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
      ).filter((each) => each.includes(`${g.directory}/#`)).length;
    process.env['PATH'] = join(g.directory, 'nothing');
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

/**
 * Ground for tests of signed images with real parts: Debian's docker-registry, signatures by gpg and skopeo in a
 * lookaside, cosign's format made here, gpgv as the daemon runs it.
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
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { FileImageStore, ImageTrust, RegistryPolicy } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/overlay.ts';
import { buildImage, file, push, sha256 } from './images.ts';
import type { BuiltImage } from './images.ts';
import { pushRaw } from './raw-push.ts';
import { startRegistry } from './registry.ts';
import type { RunningRegistry } from './registry.ts';

const run = promisify(execFile);
const op = backgroundOp(silent);
const SIMPLE_SIGNING = 'application/vnd.dev.cosign.simplesigning.v1+json';

/** A key pair; the public half is in the file. */
export interface Key {
  readonly privateKey: KeyObject;
  readonly file: string;
}
/** One signature in cosign's format. */
export interface Attachment {
  readonly payload: Buffer;
  readonly signature: string;
  /** As the manifest says; default: the payload's. */
  readonly size?: number;
  /** More annotations. */
  readonly beside?: Readonly<Record<string, string>>;
}

/** The text that is signed. */
export function body(type: 'atomic' | 'cosign', digest: string, reference: string): Buffer {
  return Buffer.from(
    JSON.stringify({
      critical: {
        identity: { 'docker-reference': reference },
        image: { 'docker-manifest-digest': digest },
        type: type === 'atomic' ? 'atomic container signature' : 'cosign container image signature',
      },
      optional: type === 'atomic' ? {} : null,
    }),
  );
}

/** A signature by `key`, as cosign makes it. */
export function attachment(key: Key, digest: string, reference: string): Attachment {
  const payload = body('cosign', digest, reference);
  return { payload, signature: sign('sha256', payload, key.privateKey).toString('base64') };
}

/** A registry with an image, keys of gpg called owner, stranger and old, and stores over them. */
export class SigningGround {
  readonly directory: string;
  readonly registry: RunningRegistry;
  readonly image: BuiltImage;
  /** Fingerprints of the keys in our own GNUPGHOME, by name. */
  readonly gpgKeys = new Map<string, string>();
  #count = 0;

  private constructor(directory: string, registry: RunningRegistry, image: BuiltImage) {
    this.directory = directory;
    this.registry = registry;
    this.image = image;
  }

  static async make(): Promise<SigningGround> {
    const directory = await mkdtemp(join(tmpdir(), 'berth-sign-'));
    const registry = await startRegistry(directory);
    const image = await buildImage({
      directory: join(directory, 'image'),
      name: 'v1',
      layers: [{ files: [file('hello', 'hello')] }],
    });
    const ground = new SigningGround(directory, registry, image);
    await ground.put(
      'home/.config/containers/registries.d/all.yaml',
      `default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://${directory}/lookaside\n`,
    );
    await ground.put('registries.conf', `[[registry]]\nlocation = "${registry.host}"\ninsecure = true\n`);
    await mkdir(join(directory, 'gpg'), { mode: 0o700 });
    for (const [name, expiry] of [
      ['owner', 'never'],
      ['stranger', 'never'],
      ['old', '30d'],
    ] as const)
      await ground.#makeGpgKey(name, expiry);
    return ground;
  }

  async #makeGpgKey(name: string, expiry: string): Promise<void> {
    const who = `${name}@example.invalid`;
    const born = ['--faked-system-time', '20240101T000000!', '--passphrase', ''];
    await this.gpg(...born, '--quick-gen-key', `${name} <${who}>`, 'ed25519', 'sign', expiry);
    const { stdout } = await this.gpg('--with-colons', '--list-keys', who);
    this.gpgKeys.set(name, /^fpr:+([0-9A-F]{40}):/m.exec(String(stdout))?.[1] ?? '');
    await this.gpg('--output', join(this.directory, `${name}.gpg`), '--export', who);
    await this.gpg('--output', join(this.directory, `${name}.asc`), '--armor', '--export', who);
  }

  async remove(): Promise<void> {
    await run('gpgconf', ['--kill', 'all'], { env: this.gpgEnv() });
    await this.registry.stop();
    await rm(this.directory, { recursive: true });
  }

  /** Another number each time. */
  next(): number {
    return this.#count++;
  }

  gpgEnv(): NodeJS.ProcessEnv {
    return { ...process.env, GNUPGHOME: join(this.directory, 'gpg'), LC_ALL: 'C' };
  }

  gpg(...args: readonly string[]): ReturnType<typeof run> {
    return run('gpg', ['--batch', '--quiet', '--yes', '--no-tty', ...args], { env: this.gpgEnv() });
  }

  /** A message by gpg, as simple signing has them, made with these options. */
  async message(by: string, text: Buffer, ...options: readonly string[]): Promise<Buffer> {
    const out = join(this.directory, `message-${this.next()}`);
    const isOther = ['--clearsign', '--detach-sign', '--store'].some((each) => options.includes(each));
    const source = await this.put(`text-${this.next()}`, text);
    const key = this.gpgKeys.get(by) ?? '';
    await this.gpg('--local-user', key, ...options, '--output', out, ...(isOther ? [] : ['--sign']), source);
    return await readFile(out);
  }

  async put(name: string, content: string | Buffer): Promise<string> {
    const path = join(this.directory, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    return path;
  }

  /** A file of the directory. */
  async read(name: string): Promise<Buffer> {
    return await readFile(join(this.directory, name));
  }

  async makeKey(): Promise<Key> {
    const { publicKey, privateKey } = generateKeyPairSync('ec', { namedCurve: 'P-256' });
    const pem = publicKey.export({ type: 'spki', format: 'pem' }) as string;
    return { privateKey, file: await this.put(`key-${this.next()}.pub`, pem) };
  }

  /** A repository of its own with the image, called `v1`. */
  async publish(what = this.image): Promise<string> {
    const repository = `${this.registry.host}/signed-${this.next()}`;
    await push(what, `${repository}:v1`);
    return repository;
  }

  /** Pushes signatures as cosign does. */
  async attach(repository: string, digest: string, attachments: readonly Attachment[]): Promise<void> {
    const config = Buffer.from('{}');
    const layers = attachments.map(({ payload, signature, size, beside }) => ({
      mediaType: SIMPLE_SIGNING,
      digest: sha256(payload),
      size: size ?? payload.length,
      annotations: { 'dev.cosignproject.cosign/signature': signature, ...beside },
    }));
    await pushRaw(`${repository}:${digest.replace(':', '-')}.sig`, {
      blobs: [config, ...attachments.map(({ payload }) => payload)],
      manifest: {
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: sha256(config), size: config.length },
        layers,
      },
    });
  }

  /** registries.d for everything here: attachments, and a lookaside below the ground. */
  registriesD(): string {
    return join(this.directory, 'home/.config/containers/registries.d');
  }

  /** Puts an OpenPGP signature into the lookaside. */
  async lay(repository: string, digest: string, number: number, message: Buffer): Promise<string> {
    const name = repository.slice(repository.indexOf('/') + 1);
    return await this.put(`lookaside/${name}@${digest.replace(':', '=')}/signature-${number}`, message);
  }

  async openStore(policy: unknown): Promise<{ readonly store: FileImageStore; readonly directory: string }> {
    const directory = join(this.directory, `store-${this.next()}`);
    const rootfs = new OverlayRootfs({ root: directory });
    await rootfs.sweepLayers(op);
    const store = new FileImageStore({
      root: directory,
      unpacker: rootfs,
      policy: new RegistryPolicy({
        registriesConf: join(this.directory, 'registries.conf'),
        registriesConfDir: '',
        hostsDirs: [],
        certsDirs: [],
      }),
      trust: new ImageTrust({
        signaturePolicy: await this.put(`policy-${this.next()}.json`, JSON.stringify(policy)),
        signaturePolicyDir: '',
        registriesDirs: [this.registriesD()],
        runGpgv: gpgvIn(this.directory),
      }),
    });
    await store.load(op);
    return { store, directory };
  }

  policyOf(...requirements: readonly unknown[]): unknown {
    return { default: [{ type: 'reject' }], transports: { docker: { [this.registry.host]: requirements } } };
  }

  /** '' if the store takes the image, else why not. A refusal leaves nothing of the image. */
  async outcome(reference: string, policy: unknown): Promise<string> {
    const { store, directory } = await this.openStore(policy);
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

  /**
   * The same, asked of skopeo, too: it is the container tools' own reading of policy.json, and both must agree. (Debian
   * builds it without sigstore.)
   */
  async agree(reference: string, policy: unknown): Promise<string> {
    const [why, taken] = await Promise.all([this.outcome(reference, policy), this.#skopeo(reference, policy)]);
    expect(taken, `skopeo about ${reference}, where we say ${why || 'yes'}`).to.equal(why === '');
    return why;
  }

  async #skopeo(reference: string, policy: unknown): Promise<boolean> {
    const target = join(this.directory, `copy-${this.next()}`);
    const file = await this.put(`policy-${this.next()}.json`, JSON.stringify(policy));
    const from = ['copy', '--src-tls-verify=false', `docker://${reference}`, `dir:${target}`];
    return await run('skopeo', ['--policy', file, '--registries.d', this.registriesD(), ...from]).then(
      () => true,
      () => false,
    );
  }
}

/** For tests: a node with an image store, policies, keys and a registry, all in memory but for the files. */
import { expect } from 'chai';
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Digest } from '../../base/ids.ts';
import { digestOf } from '../../oci/digest.ts';
import { mediaTypes } from '../../oci/media-types.ts';
import type { Image } from '../../ports/image.ts';
import { failure, fakeImage, FakeNetwork, FakeRegistry, FakeUnpacker, testOp } from '../fakes.ts';
import { RegistryPolicy } from '../policy/policy.ts';
import { FileImageStore } from '../store.ts';
import { attachmentManifest, fakeGpgv, fakeKeyring, makeKey, signatureOver, signatureTag } from './fakes.ts';
import type { TestKey } from './fakes.ts';
import { ImageTrust } from './index.ts';
import type { TrustOptions } from './index.ts';

/** The image `reg.example/team/app:v1`. */
export const image = fakeImage(['one', 'two']);
const { digest } = image.manifest;

/** A node of its own for each test. */
export class TrustGround {
  readonly root: string;
  readonly network = new FakeNetwork();
  readonly registry = new FakeRegistry().add('team/app', 'v1', image);
  /** Its public half is in `key.pub`. */
  readonly own = makeKey();
  #store: FileImageStore | undefined;

  readonly #unpacker = new FakeUnpacker();

  private constructor(root: string) {
    this.root = root;
  }

  static async make(): Promise<TrustGround> {
    const ground = new TrustGround(await mkdtemp(join(tmpdir(), 'signature-')));
    ground.network.hosts.set('https://reg.example', ground.registry.host);
    await ground.put('key.pub', ground.own.pem);
    await ground.put('ring.gpg', fakeKeyring('K1'));
    await ground.put(
      'registries.d/all.yaml',
      `default-docker:\n  use-sigstore-attachments: true\n  lookaside: file://${ground.root}/lookaside\n`,
    );
    ground.#store = await ground.open();
    return ground;
  }

  get store(): FileImageStore {
    if (this.#store === undefined) throw new Error('not made yet');
    return this.#store;
  }

  async remove(): Promise<void> {
    await rm(this.root, { recursive: true });
  }

  /** Another store over the same files. */
  async open(trust: Partial<TrustOptions> = {}, registriesConf = ''): Promise<FileImageStore> {
    const { root } = this;
    await this.put('registries.conf', registriesConf);
    const made = new FileImageStore({
      root: join(root, 'store'),
      unpacker: this.#unpacker,
      transport: this.network,
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

  async put(name: string, content: string | Buffer): Promise<string> {
    const path = join(this.root, name);
    await mkdir(dirname(path), { recursive: true });
    await writeFile(path, content);
    return path;
  }

  policyOf(...requirements: readonly unknown[]): string {
    return JSON.stringify({
      default: [{ type: 'reject' }],
      transports: { docker: { 'reg.example': requirements, 'other.example': [{ type: 'insecureAcceptAnything' }] } },
    });
  }

  async demand(...requirements: readonly unknown[]): Promise<string> {
    return await this.put('policy.json', this.policyOf(...requirements));
  }

  sigstore(more: Readonly<Record<string, unknown>> = {}): unknown {
    return {
      type: 'sigstoreSigned',
      keyPath: join(this.root, 'key.pub'),
      signedIdentity: { type: 'matchRepository' },
      ...more,
    };
  }

  openPgp(more: Readonly<Record<string, unknown>> = {}): unknown {
    return { type: 'signedBy', keyType: 'GPGKeys', keyPath: join(this.root, 'ring.gpg'), ...more };
  }

  /** Puts signatures beside a manifest, as cosign does. */
  attach(
    signatures: readonly { readonly payload: Buffer; readonly by: TestKey }[],
    to: Digest = digest,
    repository = 'team/app',
  ): void {
    this.registry.put(
      `/v2/${repository}/manifests/${signatureTag(to)}`,
      attachmentManifest(signatures.map(({ payload, by }) => ({ payload, signature: signatureOver(payload, by) }))),
      mediaTypes.ociManifest,
    );
    for (const { payload } of signatures) this.registry.put(`/v2/${repository}/blobs/${digestOf(payload)}`, payload);
  }

  /** Puts an OpenPGP signature into the lookaside directory. */
  async lay(number: number, message: Buffer, of: Digest = digest): Promise<string> {
    return await this.put(`lookaside/team/app@sha256=${of.slice(7)}/signature-${number}`, message);
  }

  async pull(reference = 'reg.example/team/app:v1', using = this.store, namespace = ''): Promise<Image> {
    return await using.pull(testOp(), reference, { namespace });
  }

  /** The message with which `work`, a pull unless given, is refused for its signatures. */
  async refusal(work: Promise<unknown> = this.pull()): Promise<string> {
    const error = await failure(work);
    expect([error.code, error.reason], error.message).to.deep.equal([
      'FailedPrecondition',
      'SignatureValidationFailed',
    ]);
    return error.message;
  }

  /** Files of signatures that are kept. */
  async kept(): Promise<string[]> {
    return await readdir(join(this.root, 'store/images/signatures')).catch(() => []);
  }
}

/** A whole store on a directory of its own, for the tests of what is behind its door: fake registries, fake layers. */
import { mkdir, mkdtemp, readdir, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Digest } from '../base/ids.ts';
import type { AuthConfig } from '../cri-api/types.ts';
import { mediaTypes } from '../oci/media-types.ts';
import { fakeImage, FakeNetwork, FakeRegistry, FakeUnpacker, testOp } from './fakes.ts';
import type { FakeImage } from './fakes.ts';
import type { FileImageStoreOptions } from './options.ts';
import { RegistryPolicy } from './policy/policy.ts';
import { ImageTrust } from './signature/index.ts';
import { FileImageStore } from './store.ts';
import type { Image } from '../ports/image.ts';

/** Where `StoreGround.registry` is. */
export const ORIGIN = 'https://reg.example';

/** Credentials that say nothing. */
export const noAuth: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};

/** Two images that have their lowest layer in common. */
export const image = fakeImage(['base', 'middle', 'top'], { User: '1000', Env: ['A=b'] });
export const sibling = fakeImage(['base', 'other']);

/** The id, as text. */
export const id = (of: FakeImage): string => of.id;

/** A descriptor without its type. */
export interface Named {
  readonly digest: Digest;
  readonly size: number;
}

/** A manifest that a stranger has written. */
export function manifestOf(config: Named, layers: readonly Named[]): Buffer {
  return Buffer.from(
    JSON.stringify({
      schemaVersion: 2,
      mediaType: mediaTypes.ociManifest,
      config: { mediaType: mediaTypes.ociConfig, ...config },
      layers: layers.map((each) => ({ mediaType: mediaTypes.ociLayerGzip, ...each })),
    }),
  );
}

/** A directory, a network with one registry, and a store on them. */
export class StoreGround {
  readonly root: string;
  readonly network = new FakeNetwork();
  readonly registry = new FakeRegistry();
  readonly unpacker = new FakeUnpacker();
  store!: FileImageStore;

  private constructor(root: string) {
    this.root = root;
    this.network.hosts.set(ORIGIN, this.registry.host);
  }

  static async make(): Promise<StoreGround> {
    const ground = new StoreGround(await mkdtemp(join(tmpdir(), 'images-')));
    ground.store = await ground.open();
    return ground;
  }

  async remove(): Promise<void> {
    await rm(this.root, { recursive: true });
  }

  /** Another life of the store, on the same directory. */
  async open(options: Partial<FileImageStoreOptions> = {}, op = testOp()): Promise<FileImageStore> {
    const made = new FileImageStore({
      root: join(this.root, 'store'),
      unpacker: this.unpacker,
      transport: this.network,
      pause: async () => {},
      platform: { os: 'linux', architecture: 'amd64' },
      policy: new RegistryPolicy({
        registriesConf: join(this.root, 'registries.conf'),
        registriesConfDir: '',
        certsDirs: [],
        hostsDirs: [],
      }),
      trust: new ImageTrust({
        defaultPolicies: [join(this.root, 'policy.json')],
        signaturePolicyDir: join(this.root, 'policies'),
        registriesDirs: [join(this.root, 'registries.d')],
      }),
      ...options,
    });
    await made.load(op);
    return made;
  }

  pull(reference: string, using = this.store): Promise<Image> {
    return using.pull(testOp(), reference, {});
  }

  /** All names of all images. */
  names(using = this.store): string[] {
    return using
      .list()
      .flatMap(({ repoTags, repoDigests }) => [...repoTags, ...repoDigests])
      .sort();
  }

  blobsOnDisk(): Promise<string[]> {
    return readdir(join(this.root, 'store/blobs/sha256'));
  }

  /** An OCI layout whose index names the image once for each of these annotations. */
  async layoutOf(of: FakeImage, entries: readonly Readonly<Record<string, string>>[]): Promise<string> {
    const directory = join(this.root, 'layout');
    await mkdir(join(directory, 'blobs/sha256'), { recursive: true });
    await writeFile(join(directory, 'oci-layout'), '{}');
    const { bytes, digest, type: mediaType } = of.manifest;
    const manifests = entries.map((annotations) => ({ mediaType, digest, size: 1, annotations }));
    await writeFile(join(directory, 'index.json'), JSON.stringify({ schemaVersion: 2, manifests }));
    const blobs = [[digest, bytes], [of.id, of.config], ...of.layers.map((each) => [each.digest, each.bytes] as const)];
    for (const [name, content] of blobs as readonly (readonly [string, Buffer])[])
      await writeFile(join(directory, 'blobs', name.replace(':', '/')), content);
    return directory;
  }
}

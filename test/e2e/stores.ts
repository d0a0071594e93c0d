/** Image stores on real directories, without a daemon around them. */
import { mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { AuthConfig } from '../../pkg/cri-api/types.ts';
import { RuntimeError } from '../../pkg/base/errors.ts';
import { hexOf } from '../../pkg/base/ids.ts';
import { backgroundOp, silent } from '../../pkg/base/op.ts';
import { FileImageStore, RegistryPolicy } from '../../pkg/image/index.ts';
import type { FileImageStoreOptions, PolicyOptions } from '../../pkg/image/index.ts';
import { OverlayRootfs } from '../../pkg/rootfs/overlay.ts';
import { buildImage } from './images.ts';
import type { BuiltImage, LayerPlan } from './images.ts';
import type { Image } from '../../pkg/ports/image.ts';

export interface OpenStore {
  readonly store: FileImageStore;
  readonly rootfs: OverlayRootfs;
  readonly directory: string;
  readonly close: () => Promise<void>;
}

/** A directory for the stores and images of one test file. */
export class StoreGround {
  readonly directory: string;
  #count = 0;

  private constructor(directory: string) {
    this.directory = directory;
  }

  static async make(): Promise<StoreGround> {
    return new StoreGround(await mkdtemp(join(tmpdir(), 'berth-image-')));
  }

  async remove(): Promise<void> {
    await rm(this.directory, { recursive: true });
  }

  /** A path that nothing is at. */
  fresh(what: string): string {
    return join(this.directory, `${what}-${this.#count++}`);
  }

  build(layers: readonly LayerPlan[], config: Readonly<Record<string, unknown>> = {}): Promise<BuiltImage> {
    return buildImage({ directory: this.fresh('image'), name: 'v1', layers, config });
  }

  /**
   * A store whose configuration is `registries`, a registries.conf, and whatever a test puts into `<directory>/certs.d`
   * and `<directory>/hosts`.
   */
  async open(
    registries: string,
    options: Partial<FileImageStoreOptions> = {},
    directory = this.fresh('store'),
    policy: Partial<PolicyOptions> = {},
  ): Promise<OpenStore> {
    await mkdir(directory, { recursive: true });
    await writeFile(join(directory, 'registries.conf'), registries);
    const rootfs = new OverlayRootfs({ root: directory });
    await rootfs.sweepLayers(backgroundOp(silent));
    const own = {
      registriesConf: join(directory, 'registries.conf'),
      registriesConfDir: '',
      hostsDirs: [join(directory, 'hosts')],
      certsDirs: [join(directory, 'certs.d')],
    };
    const store = new FileImageStore({
      root: directory,
      unpacker: rootfs,
      policy: new RegistryPolicy({ ...own, ...policy }),
      ...options,
    });
    await store.load(backgroundOp(silent));
    return { store, rootfs, directory, close: () => store.close() };
  }
}

/** Credentials that say nothing. */
export const noAuth: AuthConfig = {
  username: '',
  password: '',
  auth: '',
  serverAddress: '',
  identityToken: '',
  registryToken: '',
};

/** A registries.conf that lets these hosts speak plain http. */
export const insecure = (...hosts: string[]): string =>
  hosts.map((host) => `[[registry]]\nlocation = "${host}"\ninsecure = true\n`).join('');

/** How a call ends: `undefined` if well, else the code of its error with the kubelet's reason. */
export async function outcome(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (each: unknown) => each,
  );
  return error instanceof RuntimeError
    ? `${error.code}${error.reason === undefined ? '' : ` ${error.reason}`}`
    : String(error);
}

/** Where a layer of an image is unpacked. */
export const layerTree = (directory: string, image: Image, index: number): string =>
  join(directory, 'layers', hexOf(image.layers[index]!.chainId), 'fs');

/** The image store with everything that the configuration says about registries, credentials and signatures. */
import type { ChainId } from '../../pkg/base/ids.ts';
import { limits } from '../../pkg/base/limits.ts';
import { type Op, withTimeout } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import {
  defaultAuthFiles,
  defaultTrustOptions,
  FileImageStore,
  ImageTrust,
  NodeCredentials,
  type PolicyOptions,
  RegistryPolicy,
} from '../../pkg/image/index.ts';
import type { RootfsDriver } from '../../pkg/ports/rootfs.ts';
import { capture, inheritedEnv } from '../../pkg/sys/index.ts';
import type { Disk } from '../disks.ts';
import { gpgvIn } from '../gpgv.ts';
import { pinnedBy } from './live.ts';

/** Who has need of images and layers that nobody else names. */
export interface ImageUse {
  readonly images: (imageId: string) => readonly string[];
  readonly layers: () => Iterable<ChainId>;
}

/** The store on this disk, not yet loaded. `rootfs` unpacks its layers. */
export function makeImages(config: Config, rootfs: RootfsDriver, disk: Disk, use: ImageUse): FileImageStore {
  const { image, storage } = config;
  return new FileImageStore({
    root: disk.directory,
    unpacker: rootfs,
    reserve: disk.reserve,
    inUse: use.images,
    layersInUse: use.layers,
    policy: new RegistryPolicy(registriesBy(config)),
    trust: new ImageTrust({
      ...defaultTrustOptions(process.env),
      signaturePolicy: image.signaturePolicy,
      signaturePolicyDir: image.signaturePolicyDir,
      runGpgv: gpgvIn(storage.runroot),
    }),
    credentials: new NodeCredentials({
      globalAuthFile: image.globalAuthFile || undefined,
      authFiles: defaultAuthFiles(process.env),
      namespacedAuthDir: image.namespacedAuthDir || undefined,
      runHelper,
    }),
    pinnedImages: pinnedBy(config),
    pullProgressTimeoutMs: image.pullProgressTimeoutMs,
  });
}

/** Where registries.conf is: a path that the configuration names wins over the one of the environment. */
function registriesBy({ image }: Config): Partial<PolicyOptions> {
  const { registriesConf, registriesConfDir } = image;
  return {
    shortNames: image.shortNameMode,
    environment: registriesConf === '' ? process.env : { ...process.env, CONTAINERS_REGISTRIES_CONF: '' },
    ...(registriesConf === '' ? {} : { registriesConf }),
    ...(registriesConfDir === '' ? {} : { registriesConfDir }),
  };
}

async function runHelper(
  op: Op,
  helper: string,
  argument: string,
  input: string,
): Promise<{ readonly exitCode: number; readonly stdout: string }> {
  const { exitCode, stdout } = await capture(withTimeout(op, limits.runtimeCommandMs), {
    argv: [helper, argument],
    env: inheritedEnv(),
    stdin: input,
    stdoutMax: limits.configFileBytes,
    stderrMax: limits.commandErrorBytes,
  });
  return { exitCode, stdout: stdout.toString('utf8') };
}

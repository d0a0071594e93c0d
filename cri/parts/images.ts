/** The image store, with what pods have of it. */
import type { ChainId } from '../../pkg/base/ids.ts';
import type { Config } from '../../pkg/config/index.ts';
import { FileImageStore } from '../../pkg/image/index.ts';
import type { PullListener } from '../../pkg/ports/image.ts';
import type { RootfsDriver } from '../../pkg/ports/rootfs.ts';
import type { Disk } from '../disks.ts';
import type { ImageSources } from './image-sources.ts';

/** Who has need of images and layers that nobody else names. */
export interface ImageUse {
  readonly images: (imageId: string) => readonly string[];
  readonly layers: () => Iterable<ChainId>;
}

/** What a store is made of. */
export interface ImageParts {
  readonly rootfs: RootfsDriver;
  readonly disk: Disk;
  readonly use: ImageUse;
  /** Hears of pulls. */
  readonly listener: PullListener | undefined;
}

/** The store on this disk, not yet loaded. `rootfs` unpacks its layers. */
export function makeImages(
  config: Config,
  sources: ImageSources,
  { rootfs, disk, use, listener }: ImageParts,
): FileImageStore {
  return new FileImageStore({
    root: disk.directory,
    unpacker: rootfs,
    reserve: disk.reserve,
    inUse: use.images,
    layersInUse: use.layers,
    policy: sources.registries,
    trust: sources.trust,
    credentials: sources.credentials,
    pinnedImages: pinnedBy(config),
    listener,
    artifactStores: config.runtime.additionalArtifactStores,
    pullProgressTimeoutMs: config.image.pullProgressTimeoutMs,
  });
}

/** Images that the kubelet is not to collect. */
export function pinnedBy({ image }: Config): readonly string[] {
  return image.pauseImage === '' ? image.pinnedImages : [...image.pinnedImages, image.pauseImage];
}

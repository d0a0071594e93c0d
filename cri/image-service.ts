/** ImageService: thin over the image store. */
import type { Image as CriImage, ImageFilter, ImageSpec } from '../pkg/cri-api/types.ts';
import type { Image, ImageStore } from '../pkg/image/index.ts';
import type { RootfsDriver } from '../pkg/rootfs/index.ts';
import { chunksOf, codecs, concatenate, remembered } from './codec.ts';
import type { Handlers } from './server.ts';
import { narrowImageReference, narrowImport } from './validate.ts';

export interface ImageServiceOptions {
  readonly images: ImageStore;
  readonly rootfs: RootfsDriver;
  /** Containers' writable layers lie on another file system than images. */
  readonly splitDisks: boolean;
  readonly clock: () => bigint;
}

/** Handlers of ImageService, and Import of berth.v1.Node, which is the same store by another door. */
export function imageService({ images, rootfs, splitDisks, clock }: ImageServiceOptions): Handlers {
  const item = remembered<Image>((image) => codecs.Image.item(criImage(image)));
  const items = (filter: ImageFilter | undefined): Buffer[] => {
    const wanted = filter?.image?.image ?? '';
    return (wanted === '' ? images.list() : one(images.find(wanted))).map(item);
  };
  return {
    listImages: (_op, request) => concatenate(items(request.filter)),
    async *streamImages(_op, request) {
      yield* chunksOf(items(request.filter));
    },
    imageStatus(_op, request) {
      const image = images.find(request.image?.image ?? '');
      if (image === undefined) return {};
      return { image: criImage(image), info: request.verbose ? { info: JSON.stringify({ chainID: image.top ?? '', imageSpec: ociConfig(image) }) } : {} };
    },
    async pullImage(op, request) {
      const reference = narrowImageReference(request.image);
      const image = await images.pull(op, reference, { auth: request.auth, namespace: request.sandboxConfig?.metadata?.namespace });
      return { imageRef: image.id };
    },
    async removeImage(op, request) {
      await images.remove(op, narrowImageReference(request.image));
      return {};
    },
    async imageFsInfo(op) {
      const usage = await images.usage(op);
      const of = (mountpoint: string) => ({ timestamp: clock(), fsId: { mountpoint }, usedBytes: { value: usage.usedBytes }, inodesUsed: { value: usage.inodesUsed } });
      return { imageFilesystems: [of(rootfs.imageRoot)], containerFilesystems: [of(splitDisks ? rootfs.containerRoot : rootfs.imageRoot)] };
    },
    async import(op, request) {
      const { path, reference } = narrowImport(request);
      const loaded = await images.import(op, path, reference);
      return { images: loaded.map((image) => ({ imageId: image.id, references: [...image.repoTags, ...image.repoDigests] })) };
    },
  };
}

/** An image as CRI describes it. uid and username exclude each other: a numeric USER is a uid. */
export function criImage(image: Image): CriImage {
  const user = image.config.user.split(':')[0] ?? '';
  const numeric = /^[0-9]{1,19}$/.test(user);
  return {
    id: image.id,
    repoTags: image.repoTags,
    repoDigests: image.repoDigests,
    size: image.sizeBytes,
    uid: numeric ? { value: BigInt(user) } : undefined,
    username: numeric ? '' : user,
    spec: imageSpec(image),
    pinned: image.pinned,
  };
}

function imageSpec(image: Image): ImageSpec {
  return { image: image.id, annotations: image.annotations, userSpecifiedImage: '', runtimeHandler: '', imageRef: '' };
}

function one<T>(value: T | undefined): readonly T[] {
  return value === undefined ? [] : [value];
}

/** The image config in the words of image-spec, for `crictl inspecti`. */
function ociConfig(image: Image): unknown {
  const { config } = image;
  return {
    architecture: config.architecture,
    os: config.os,
    config: {
      User: config.user,
      Env: config.env,
      Entrypoint: config.entrypoint,
      Cmd: config.cmd,
      WorkingDir: config.workingDir,
      Labels: config.labels,
      StopSignal: config.stopSignal,
      Volumes: Object.fromEntries(config.volumes.map((each) => [each, {}])),
      ExposedPorts: Object.fromEntries(config.exposedPorts.map((each) => [each, {}])),
    },
    rootfs: { type: 'layers', diff_ids: config.diffIds },
  };
}

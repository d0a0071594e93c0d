/** ImageService: thin over the image store. */
import type { FilesystemUsage, Image as CriImage, ImageFilter, ImageSpec } from '../pkg/cri-api/types.ts';
import type { Stats } from '../pkg/stats/index.ts';
import { remembered } from '../pkg/base/remembered.ts';
import { chunksOf, codecs, concatenate } from './codec.ts';
import type { Handlers } from './handler.ts';
import { narrowImageReference, narrowImport, narrowPullImage } from './validate.ts';
import type { Artifact, FsUsage, Image, ImageStore } from '../pkg/ports/image.ts';
import type { RootfsDriver } from '../pkg/ports/rootfs.ts';

/** What it answers from. */
export interface ImageServiceOptions {
  readonly images: ImageStore;
  readonly rootfs: RootfsDriver;
  /** Knows the sizes of what containers have written. */
  readonly stats: Pick<Stats, 'layerSizes'>;
  readonly clock: () => bigint;
}

/** Handlers of ImageService, and Import of berth.v1.Node, which is the same store by another door. */
export type ImageService = ReturnType<typeof imageService>;

/** Answers from the image store. */
export function imageService({ images, rootfs, stats, clock }: ImageServiceOptions) {
  const item = remembered((image: Image) => codecs.Image.item(criImage(image)));
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
      if (image.artifact !== undefined)
        return {
          image: criImage(image),
          info: request.verbose ? { info: JSON.stringify({ artifact: shown(image.artifact) }) } : {},
        };
      return {
        image: criImage(image),
        info: request.verbose
          ? { info: JSON.stringify({ chainID: image.top ?? '', imageSpec: ociConfig(image) }) }
          : {},
      };
    },
    async pullImage(op, request) {
      const { reference, auth, namespace } = narrowPullImage(request);
      const image = await images.pull(op, reference, { auth, namespace });
      return { imageRef: image.id };
    },
    async removeImage(op, request) {
      await images.remove(op, narrowImageReference(request.image));
      return {};
    },
    async imageFsInfo(op) {
      const image = fileSystem(rootfs.imageRoot, clock(), await images.usage(op));
      // On one disk both are the same, as with CRI-O and containerd; the kubelet tells by the mount point whether they
      // are two (KEP-4191).
      if (rootfs.containerRoot === rootfs.imageRoot)
        return { imageFilesystems: [image], containerFilesystems: [image] };
      const written = [...(await stats.layerSizes(await rootfs.list())).values()];
      return {
        imageFilesystems: [image],
        containerFilesystems: [fileSystem(rootfs.containerRoot, clock(), sum(written))],
      };
    },
    async import(op, request) {
      const { path, reference } = narrowImport(request);
      const loaded = await images.import(op, path, reference);
      return {
        images: loaded.map((image) => ({ imageId: image.id, references: [...image.repoTags, ...image.repoDigests] })),
      };
    },
  } satisfies Handlers;
}

/** Of protobuf's int64. */
const INT64_MAX = 2n ** 63n - 1n;

/**
 * An image as CRI describes it. uid and username exclude each other: a numeric USER is a uid, unless it is more than
 * CRI's int64 can say.
 */
export function criImage(image: Image): CriImage {
  const user = image.config.user.split(':')[0] ?? '';
  const numeric = /^[0-9]{1,19}$/.test(user) && BigInt(user) <= INT64_MAX;
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

function fileSystem(mountpoint: string, timestamp: bigint, { usedBytes, inodesUsed }: FsUsage): FilesystemUsage {
  return { timestamp, fsId: { mountpoint }, usedBytes: { value: usedBytes }, inodesUsed: { value: inodesUsed } };
}

function sum(usages: readonly FsUsage[]): FsUsage {
  return {
    usedBytes: usages.reduce((total, each) => total + each.usedBytes, 0n),
    inodesUsed: usages.reduce((total, each) => total + each.inodesUsed, 0n),
  };
}

function one<T>(value: T | undefined): readonly T[] {
  return value === undefined ? [] : [value];
}

/** What is in an artifact, for `crictl inspecti`. */
function shown({ type, files }: Artifact): unknown {
  return { artifactType: type, files: files.flatMap(({ name }) => name ?? []) };
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

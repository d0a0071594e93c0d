/**
 * The port of the image store: what an image is, what is pulled and kept, and what the store needs of those who unpack.
 */
import type { ChainId, Digest, ImageId } from '../base/ids.ts';
import type { Op } from '../base/op.ts';
import type { AuthConfig } from '../cri-api/types.ts';
import type { ImageConfig } from '../oci/spec-types.ts';

/** One image as the node holds it. Immutable: a change of names makes a new value. */
export interface Image {
  /**
   * Digest of the config blob, of an artifact that of its manifest: the image id of CRI (the same string in
   * PullImageResponse.image_ref and Container.image_id).
   */
  readonly id: ImageId;
  /** `docker.io/library/busybox:latest`; sorted. */
  readonly repoTags: readonly string[];
  /** `docker.io/library/busybox@sha256:…`; sorted. */
  readonly repoDigests: readonly string[];
  /** Digest of the manifest that was pulled last for this image. */
  readonly manifestDigest: Digest;
  /** Bytes: manifest, config and compressed layers as the registry has them; never 0 (the kubelet refuses 0). */
  readonly sizeBytes: bigint;
  /**
   * The parsed OCI image config (User, Env, Entrypoint, Cmd, Volumes, …), and the bytes it was parsed from are in the
   * blob store.
   */
  readonly config: ImageConfig;
  /** Bottom first. */
  readonly layers: readonly ImageLayer[];
  /** Chain id of the top layer; null for an image with no layer. */
  readonly top: ChainId | null;
  readonly pinned: boolean;
  /** What an OCI artifact has in it; undefined for a container image, and containers are made of no other. */
  readonly artifact?: Artifact | undefined;
  /** Annotations of the manifest. */
  readonly annotations: Readonly<Record<string, string>>;
  /** Nanoseconds since the epoch. */
  readonly pulledAt: bigint;
}

/** Files that are kept as they came, for volumes: an image without a file system. */
export interface Artifact {
  /** What it says that it is, a media type. */
  readonly type: string;
  /** Its config and its files, each once. */
  readonly blobs: readonly Digest[];
  /** In the order of the manifest. */
  readonly files: readonly ArtifactFile[];
}

/** One file of an artifact. */
export interface ArtifactFile {
  /** As the manifest has it: anything at all, from a stranger. undefined = it has none, and is in no volume. */
  readonly name: string | undefined;
  /** Where its content is on this node; the last part is the hex digits of its digest. */
  readonly path: string;
}

/** A layer of an image: the blob that it comes in, and the directory that it becomes. */
export interface ImageLayer {
  /** Of the blob, as the manifest names it. */
  readonly digest: Digest;
  /** Of the uncompressed tar. */
  readonly diffId: Digest;
  readonly chainId: ChainId;
  readonly mediaType: string;
  /** Compressed, as in the manifest. */
  readonly sizeBytes: bigint;
}

/** A verified blob on disk, to be unpacked. */
export interface LayerSource {
  /** Path of the blob, content verified against its digest. */
  readonly path: string;
  readonly digest: Digest;
  /** Digest of the uncompressed tar, as the image config promises it; unpacking checks it. */
  readonly diffId: Digest;
  /** The name that the layer gets: chain id of parent and diff id. */
  readonly chainId: ChainId;
  readonly mediaType: string;
  readonly sizeBytes: bigint;
  /** Called a few times a second while something moves: blob bytes read and tar bytes written so far. */
  readonly onProgress: (readBytes: number, writtenBytes: number) => void;
}

/** A blob on its way: a file that grows from its beginning. Nothing of it is verified before `whole` resolves. */
export interface ArrivingBlob {
  /** Where it is as long as it arrives; then it gets its own name. */
  readonly path: string;
  /** Resolves when the first `bytes` are there, or all of it; rejects as `whole`. */
  has(bytes: number): Promise<void>;
  /** Calls `heard` with how many bytes can be read, at once and whenever there are more. */
  follow(heard: (presentBytes: bigint) => void): void;
  /** Resolves when all of it is there and has its digest; rejects when this file will not become the blob. */
  readonly whole: Promise<void>;
}

/** A layer that is unpacked and not to be seen yet. Whoever has it calls `drop` at last, which is idempotent. */
export interface StagedLayer {
  /** Makes it durable and then visible; content if the layer is complete already. */
  keep(): Promise<void>;
  /** Takes away what was not kept. */
  drop(): Promise<void>;
}

/** The blob that a layer on disk came in. */
export type LayerOrigin = Pick<LayerSource, 'digest' | 'sizeBytes'>;

/** What the image store needs of `pkg/rootfs`; the composition root passes it. */
export interface LayerUnpacker {
  /**
   * Idempotent by chain id: content if the layer is complete already. Returns only when the layer is durable. The store
   * calls it for all layers of an image at once; whoever unpacks bounds the work and calls `layer.onProgress`, by which
   * the store's watchdog tells slow from stuck.
   */
  unpack(op: Op, layer: LayerSource): Promise<void>;
  /**
   * Unpacks a layer while its blob arrives; resolves when the diff id was found right, which says nothing about the
   * blob's digest: whoever calls waits for that before the layer is kept. undefined if `unpack` has to do it, since
   * nobody came to it before the blob was there, or because of how it is packed. What is wrong with a layer is only
   * known once its blob is `whole`.
   */
  unpackEarly(op: Op, layer: LayerSource, blob: ArrivingBlob): Promise<StagedLayer | undefined>;
  /**
   * Reads the blob of a layer that is here already and came in another one; writes nothing.
   * @throws DataLoss unless it unpacks to `layer.diffId`.
   */
  prove(op: Op, layer: LayerSource): Promise<void>;
  /** The blob that a layer was unpacked from; undefined if that is not known, or the layer not complete on disk. */
  origin(chainId: ChainId): Promise<LayerOrigin | undefined>;
  /**
   * Ties complete layers (bottom first, a whole image) to those below them where they lean on them: parent directories
   * that a layer does not describe, hard links into a lower layer. Mounting does the same; content if there is nothing
   * to do. @throws DataLoss (and the layer is gone) if a layer does not fit.
   */
  settle(op: Op, layers: readonly ChainId[]): Promise<void>;
  /** True if the layer is complete on disk. */
  has(chainId: ChainId): Promise<boolean>;
  /** Removes a layer that no image uses; content if absent. */
  removeLayer(op: Op, chainId: ChainId): Promise<void>;
  listLayers(): Promise<readonly ChainId[]>;
  /** Bytes and inodes of all layers; cached, no walk. */
  layersUsage(op: Op): Promise<FsUsage>;
  /** What is wrong with a layer on disk, for `check`: it is read again and compared; empty = whole. */
  verifyLayer(op: Op, chainId: ChainId): Promise<readonly string[]>;
}

/** One part of what is pulled: a layer, or a file of an artifact. */
export type PulledBlob = Pick<ImageLayer, 'digest' | 'mediaType' | 'sizeBytes'>;

/** Hears of what pulls do, for those who count. */
export interface PullListener {
  /** A layer of the image `reference` was downloaded, or was here already. */
  layer(layer: PulledBlob, how: 'downloaded' | 'reused', reference: string): void;
  /** A pull has ended, well if there is no error. */
  ended(error?: unknown): void;
}

/** What something takes of a file system. */
export interface FsUsage {
  readonly usedBytes: bigint;
  readonly inodesUsed: bigint;
}

/** The images of this node: pulled, imported, kept, found and removed. */
export interface ImageStore {
  /**
   * Reads all records; damaged ones are set aside, and images of which a layer is gone are forgotten, with an error in
   * the log. Call once before anything else.
   */
  load(op: Op): Promise<void>;
  /**
   * Makes the image of `reference` (as the user wrote it) available. One flight per (reference, credentials,
   * namespace); each caller may give up by its own `op.signal`, the flight ends when the last one did. Returns only
   * when every layer is verified, unpacked and durable.
   * @throws with reason RegistryUnavailable or SignatureValidationFailed as the kubelet wants; NotFound;
   * Unauthenticated; DataLoss (digest or size); InvalidArgument (reference).
   */
  pull(op: Op, reference: string, options: PullOptions): Promise<Image>;
  /** Loads an OCI layout directory, or an OCI/docker archive (tar), through the same code that handles pulled blobs. */
  import(op: Op, path: string, reference?: string): Promise<readonly Image[]>;
  /**
   * By id, id prefix (≥ limits.idPrefixChars), name, name:tag, name@digest, short name; undefined if not here. Never
   * throws for odd text.
   */
  find(reference: string): Image | undefined;
  list(): readonly Image[];
  /**
   * How the status of a container tells its image, which was asked for as `asked`. Names that others give the image
   * later change nothing of it.
   */
  called(image: ImageId, asked: string): Called;
  /**
   * Removes the image that `reference` finds with all its names (CRI: removing one tag removes the image); content if
   * absent. @throws FailedPrecondition if `inUse` says so.
   */
  remove(op: Op, reference: string): Promise<void>;
  /**
   * Asks once more before an image that is here is used by a pod of `namespace`, under the name that the pod gives it:
   * CRI-O does, where the namespace has a policy of its own or `signature_policy` is set. Decided from the signatures
   * that came with the image; no registry is asked.
   * @throws with reason SignatureValidationFailed if that policy does not accept it.
   */
  checkUse(op: Op, image: ImageId, use: { readonly name: string; readonly namespace: string }): Promise<void>;
  /**
   * For whoever could not use an image that is here: looks whether all its layers still are. If one is gone, the image
   * stops being present, pinned or not, so that the next pull brings it back; an error in the log says so.
   * @throws NotFound then, and if the image is not here at all; content if nothing is missing.
   */
  confirm(op: Op, image: ImageId): Promise<void>;
  /** Blobs and layers together. Cached, no walk. */
  usage(op: Op): Promise<FsUsage>;
  /**
   * Drops blobs and layers that no image refers to. What a broken pull left behind stays for a day, so that the next
   * try can go on from there.
   */
  sweep(op: Op): Promise<void>;
  /** Pulls in flight, for Status and `berth pull`. */
  progress(): readonly PullProgress[];
}

/** An image in the status of a container. */
export interface Called {
  /** As asked; the first name that it came by if it was asked for by its id. */
  readonly name: string;
  /** CRI's image_ref: `repository@digest` in the repository of that name, the image's id if it has none there. */
  readonly ref: string;
}

/** What a pull needs beside the name. */
export interface PullOptions {
  /** Of the request; they win over what the node has for that registry. */
  readonly auth?: AuthConfig | undefined;
  /** Kubernetes namespace of the pod the image is for; selects per-namespace auth files and policy. */
  readonly namespace?: string | undefined;
}

/** How far a pull is. */
export interface PullProgress {
  /** As it was asked for. */
  readonly reference: string;
  readonly stage: 'resolving' | 'downloading' | 'unpacking' | 'committing';
  /** Bottom first; empty until the manifest is known. Bytes are those of the blob, as the manifest has them. */
  readonly layers: readonly {
    readonly digest: string;
    readonly stage: 'waiting' | 'downloading' | 'unpacking' | 'done';
    readonly bytesDone: bigint;
    readonly bytesTotal: bigint;
  }[];
  /** Nanoseconds since the epoch. */
  readonly startedAt: bigint;
}

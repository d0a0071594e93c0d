/**
 * OCI artifacts: files that a registry keeps and that are no container image. They are images of this node like others,
 * with names, a size and an owner of blobs, but for two things: their id is the digest of the manifest, as with CRI-O,
 * since the config of many is the same two bytes; and their blobs stay as they are, since a volume shows them. Pure.
 */
import { parseImageId } from '../base/ids.ts';
import type { Digest } from '../base/ids.ts';
import { RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { digestOf } from '../oci/digest.ts';
import type { ArtifactManifest } from '../oci/manifest.ts';
import type { Descriptor, ImageConfig } from '../oci/spec-types.ts';
import type { Image } from '../ports/image.ts';

/** What programs would see that ask an artifact what to run: nothing. */
const NO_CONFIG: ImageConfig = {
  os: '',
  architecture: '',
  user: '',
  env: [],
  entrypoint: [],
  cmd: [],
  workingDir: '',
  labels: {},
  stopSignal: '',
  volumes: [],
  exposedPorts: [],
  diffIds: [],
};

/** Where the name of a file is: as OCI has it, and as the model specification of CNCF has it. */
const NAMES = ['org.opencontainers.image.title', 'org.cncf.model.filepath'] as const;

/** A manifest as it was read, and what it was read from. */
export interface ReadArtifact {
  readonly digest: Digest;
  readonly bytes: Uint8Array;
  readonly manifest: ArtifactManifest;
}

/**
 * The facts about an artifact that follow from its manifest. `pathOf` says where a blob is on this node.
 * @throws ResourceExhausted for one of more than `limits.artifactBytes`.
 */
export function describeArtifact(
  { digest, bytes, manifest }: ReadArtifact,
  pathOf: (digest: Digest) => string,
): Omit<Image, 'pinned' | 'repoTags' | 'repoDigests' | 'pulledAt'> {
  const blobs = [manifest.config, ...manifest.layers];
  const total = sizeOfBlobs(blobs);
  if (total > BigInt(limits.artifactBytes))
    throw new RuntimeError(
      'ResourceExhausted',
      `the artifact has ${total} bytes, at most ${limits.artifactBytes} are kept of one`,
    );
  return {
    id: parseImageId(digestOf(bytes)),
    manifestDigest: digest,
    sizeBytes: total + BigInt(bytes.length),
    config: NO_CONFIG,
    layers: [],
    top: null,
    annotations: manifest.annotations,
    artifact: {
      type: manifest.type,
      blobs: [...new Set(blobs.map((each) => each.digest))],
      files: manifest.layers.map((layer) => ({ name: nameOf(layer), path: pathOf(layer.digest) })),
    },
  };
}

/** Each blob once: several files may be the same. */
function sizeOfBlobs(blobs: readonly Descriptor[]): bigint {
  const sizes = new Map(blobs.map(({ digest, size }) => [digest, size]));
  return [...sizes.values()].reduce((sum, size) => sum + size, 0n);
}

function nameOf({ annotations = {} }: Descriptor): string | undefined {
  const key = NAMES.find((each) => Object.hasOwn(annotations, each));
  return key === undefined ? undefined : annotations[key];
}

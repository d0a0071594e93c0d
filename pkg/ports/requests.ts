/**
 * Requests as they are behind the door: cri/validate.ts has narrowed them once, so that nobody after it asks again
 * whether a required field is there.
 */
import type {
  ContainerConfig,
  ContainerMetadata,
  ImageSpec,
  Mount,
  PodSandboxConfig,
  PodSandboxMetadata,
} from '../cri-api/types.ts';

/** A pod's config that has its name, namespace and uid. */
export interface SandboxConfig extends PodSandboxConfig {
  readonly metadata: PodSandboxMetadata;
}

/** A container's config that has a name and an image, and whose mounts each have one source. */
export interface NamedContainerConfig extends ContainerConfig {
  readonly metadata: ContainerMetadata;
  /** `image.image` is not empty. */
  readonly image: ImageSpec;
  readonly mounts: readonly (HostMount | ImageMount)[];
}

/** A mount of a file or directory of the node: `hostPath` is absolute. */
export interface HostMount extends Mount {
  readonly image?: undefined;
}

/** A mount of an image: `image.image` is not empty and `hostPath` is. */
export interface ImageMount extends Mount {
  readonly image: ImageSpec;
}

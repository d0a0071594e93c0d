/**
 * From text to image: what a name may mean, and which image here has it. Pure: it decides from the images and from the
 * reading of short names that it is given.
 */
import type { Digest, ImageId } from '../base/ids.ts';
import { quote } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import {
  complete,
  DOCKER_DOMAIN,
  formatReference,
  parseName,
  repositoryName,
  withDefaultTag,
} from '../oci/reference.ts';
import type { ParsedName, Reference } from '../oci/reference.ts';
import type { Called } from '../ports/image.ts';
import type { ImageRecords, Names, StoredImage } from './records.ts';
import type { RegistryPolicy } from './policy/policy.ts';

/** The images of this node under their names. */
export class ImageNames {
  readonly #images: Pick<ImageRecords, 'get' | 'byName' | 'all'>;
  readonly #registries: Pick<RegistryPolicy, 'candidates'>;

  /** `registries` says what a short name may mean. */
  constructor(images: Pick<ImageRecords, 'get' | 'byName' | 'all'>, registries: Pick<RegistryPolicy, 'candidates'>) {
    this.#images = images;
    this.#registries = registries;
  }

  /** By id, name, short name or the start of an id, in this order; undefined if no image is meant. Never throws. */
  find(text: string): StoredImage | undefined {
    if (text.length === 0 || text.length > limits.nameBytes) return undefined;
    const byId = this.#byId(text);
    if (byId !== undefined) return byId;
    const name = parsedName(text);
    return (name === undefined ? undefined : this.#byName(name)) ?? this.#byPrefix(text);
  }

  /** By name or short name alone, as a pull means it; never throws. */
  named(text: string): StoredImage | undefined {
    const name = text.length > limits.nameBytes ? undefined : parsedName(text);
    return name === undefined ? undefined : this.#byName(name);
  }

  /**
   * How the status of a container tells its image: `name` as asked, or the first name that the image came by if it was
   * asked for by its id; `ref` the digest in the repository of that name, the image's id if it has none there.
   */
  called(image: StoredImage, asked: string): Called {
    const written = parsedName(asked);
    const isName = written !== undefined && this.#byName(written)?.id === image.id;
    const isId = image.id.startsWith(asked) || image.id.startsWith(`sha256:${asked}`);
    const name = isId && !isName ? (image.repoTags[0] ?? image.repoDigests[0] ?? asked) : asked;
    return { name, ref: this.#refOf(image, name) ?? image.id };
  }

  #refOf({ repoDigests }: StoredImage, text: string): string | undefined {
    const name = parsedName(text);
    if (name === undefined) return undefined;
    const meanings = [...this.#registries.candidates(name), ...onThisNode(name)];
    for (const meaning of meanings) {
      const own = repoDigests.filter((each) => each.startsWith(`${repositoryName(meaning)}@`));
      const exact = own.find((each) => each.endsWith(`@${meaning.digest}`));
      if (own.length > 0) return exact ?? own[0];
    }
    return undefined;
  }

  /**
   * What `name` means for an image that is here: of several meanings those that it was pulled by, else all; never an
   * empty list. Text, if no policy can be looked up by that name: why.
   */
  meanings(name: string, { repoTags, repoDigests }: StoredImage): readonly Reference[] | string {
    if (name === '')
      return (
        'this namespace has a signature policy, and the request does not say what the user calls the ' +
        'image (user_specified_image)'
      );
    const written = parsedName(name);
    if (written === undefined || this.#isFoundById(name, written))
      return (
        `${quote(name)} is no image name, so no signature policy can be looked up for it; name the ` +
        'image in the pod by its repository'
      );
    const all = this.#registries.candidates(written);
    const pulled = (meanings: readonly Reference[]): readonly Reference[] =>
      meanings.filter(
        (each) =>
          repoTags.includes(formatReference(each)) ||
          repoDigests.includes(formatReference({ ...each, tag: undefined })),
      );
    for (const meant of [pulled(all), pulled(onThisNode(written)), all]) if (meant.length > 0) return meant;
    return (
      `${quote(name)} names no registry, and registries.conf searches none, so no signature policy ` +
      'can be looked up for it; name the image in the pod by its registry'
    );
  }

  /**
   * True if `text` leads to an image as its id or the start of one, although it could be read as a name (`sha256:<hex>`
   * as a tag): whose policy that name has says nothing of the image.
   */
  #isFoundById(text: string, name: ParsedName): boolean {
    return this.#byId(text) !== undefined || (this.#byName(name) === undefined && this.#byPrefix(text) !== undefined);
  }

  #byId(text: string): StoredImage | undefined {
    return this.#images.get((text.includes(':') ? text : `sha256:${text}`) as ImageId);
  }

  #byName(name: ParsedName): StoredImage | undefined {
    for (const meaning of [...this.#registries.candidates(name), ...onThisNode(name)]) {
      const found =
        meaning.digest === undefined
          ? this.#images.byName(formatReference(meaning))
          : this.#byDigest(meaning, meaning.digest);
      if (found !== undefined) return found;
    }
    return undefined;
  }

  /** `repository@digest` of the index or of this platform's manifest; a tag before the digest says nothing. */
  #byDigest(reference: Reference, digest: Digest): StoredImage | undefined {
    const repository = repositoryName(reference);
    const named = this.#images.byName(`${repository}@${digest}`);
    return (
      named ??
      this.#images
        .all()
        .find(
          (image) =>
            image.manifestDigest === digest &&
            [...image.repoTags, ...image.repoDigests].some((each) => isOf(each, repository)),
        )
    );
  }

  #byPrefix(text: string): StoredImage | undefined {
    const prefix = text.startsWith('sha256:') ? text : `sha256:${text}`;
    if (prefix.length - 'sha256:'.length < limits.idPrefixChars || !/^sha256:[0-9a-f]{1,64}$/.test(prefix))
      return undefined;
    const found = this.#images.all().filter(({ id }) => id.startsWith(prefix));
    return found.length === 1 ? found[0] : undefined;
  }
}

/** What was written, read as a name; undefined if it is none. */
export function parsedName(text: string): ParsedName | undefined {
  try {
    return parseName(text);
  } catch {
    return undefined;
  }
}

/**
 * The names that an image has when `reference` was pulled and `digest` is what it led to. critest and
 * containers/storage: a pull by digest gives no tag, even when a tag was written before the digest.
 */
export function namesOf(reference: Reference, digest: Digest): Names {
  return {
    repoTags: reference.digest === undefined ? [formatReference(reference)] : [],
    repoDigests: [`${repositoryName(reference)}@${reference.digest ?? digest}`],
  };
}

/** In full, with docker's meaning for a short name: as images of archives and pins are called. */
export function dockerName(name: ParsedName): string {
  return formatReference(withDefaultTag(complete(name, DOCKER_DOMAIN)));
}

/**
 * What a short name may mean of images that are here, whatever registries are searched: docker's own, or one that was
 * built on this node.
 */
function onThisNode(name: ParsedName): readonly Reference[] {
  return name.domain === undefined
    ? [DOCKER_DOMAIN, 'localhost'].map((domain) => withDefaultTag(complete(name, domain)))
    : [];
}

function isOf(name: string, repository: string): boolean {
  return name.startsWith(`${repository}:`) || name.startsWith(`${repository}@`);
}

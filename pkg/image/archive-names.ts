/** Which images of an archive are meant, and what they are called here. Pure. */
import { RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import { parseName } from '../oci/reference.ts';
import type { Platform } from '../oci/spec-types.ts';
import type { ArchivedImage } from './archive.ts';
import { dockerName, parsedName } from './names.ts';
import type { Names } from './records.ts';

/**
 * The images of an archive that are meant: those for `reference` if it names any, else the only one, else all that fit
 * this platform.
 * @throws NotFound if none fits; InvalidArgument if `reference` fits several or none of several.
 */
export function chosenImages(
  images: readonly ArchivedImage[],
  reference: string | undefined,
  platform: Platform,
  path: string,
): readonly ArchivedImage[] {
  const fitting = images.filter(
    ({ platform: own }) => own === undefined || (own.os === platform.os && own.architecture === platform.architecture),
  );
  if (fitting.length === 0)
    throw new RuntimeError('NotFound', `${path} has no image for ${platform.os}/${platform.architecture}`);
  if (reference === undefined || fitting.length === 1) return fitting;
  const wanted = dockerName(parseName(reference));
  const named = fitting.filter(({ names }) => names.some((name) => archiveName(name) === wanted));
  if (named.length === 1) return named;
  throw new RuntimeError(
    'InvalidArgument',
    `${path} has ${fitting.length} images, and ${named.length} of them are called ` +
      `${quote(reference)}; it has ${quote(fitting.flatMap(({ names }) => names).join(', '), 500)}`,
  );
}

/** What an image of an archive is called here: `reference` if one was given, else what the archive calls it. */
export function namesInArchive(image: ArchivedImage, reference: string | undefined): Names {
  const tags =
    reference === undefined
      ? image.names.map(archiveName).filter((name) => name !== undefined)
      : [dockerName(parseName(reference))];
  const repositories = new Set(tags.map((tag) => tag.slice(0, tag.lastIndexOf(':'))));
  return {
    repoTags: [...new Set(tags)],
    repoDigests: image.hasRegistryDigest
      ? [...repositories].map((repository) => `${repository}@${image.root.digest}`)
      : [],
  };
}

/** In a layout a name may be a bare tag, which names nothing. */
function archiveName(text: string): string | undefined {
  const name = parsedName(text);
  if (
    name === undefined ||
    name.digest !== undefined ||
    (name.domain === undefined && name.tag === undefined && !name.path.includes('/'))
  )
    return undefined;
  return dockerName(name);
}

/** What others see of a record: the image without the store's own bookkeeping, and whether it is pinned. */
import { dockerName, parsedName } from './names.ts';
import type { StoredImage } from './records.ts';
import type { Image } from '../ports/image.ts';

/** One view for each record, so that who sees the same image sees the same object. */
export class ImageViews {
  #views = new WeakMap<StoredImage, Image>();
  readonly #isFixed: (image: StoredImage) => boolean;
  #pinned: readonly string[];

  /** `pinned`: exact names, `part*`, `*part*` (CRI-O's pinned_images). What `isFixed` is pinned by nature. */
  constructor(pinned: readonly string[], isFixed: (image: StoredImage) => boolean = () => false) {
    this.#pinned = pinned;
    this.#isFixed = isFixed;
  }

  /** Other patterns, in force for whatever is asked from now on. */
  pin(patterns: readonly string[]): void {
    this.#pinned = patterns;
    this.#views = new WeakMap();
  }

  /** The image as the port shows it. */
  of(stored: StoredImage): Image {
    const known = this.#views.get(stored);
    if (known !== undefined) return known;
    const { generation: _generation, ...image } = stored;
    const view: Image = {
      ...image,
      repoTags: stored.repoTags.toSorted(),
      repoDigests: stored.repoDigests.toSorted(),
      pinned: this.#isFixed(stored) || this.#pinned.some((pattern) => pins(pattern, stored)),
    };
    this.#views.set(stored, view);
    return view;
  }
}

/**
 * CRI-O's patterns, in whatever case and matched in linear time: exact, `part*` and `*part*`. A part may be anywhere in
 * a name, which begins with a registry that nobody writes (CRI-O: CompileRegexpsForPinnedImages); an empty one pins
 * nothing.
 */
function pins(written: string, image: StoredImage): boolean {
  const pattern = written.toLowerCase();
  const names = [...image.repoTags, ...image.repoDigests, image.id].map((each) => each.toLowerCase());
  if (pattern.endsWith('*')) {
    const part = pattern.slice(pattern.startsWith('*') ? 1 : 0, -1);
    return part !== '' && names.some((name) => name.includes(part));
  }
  const name = parsedName(written);
  return names.includes(pattern) || names.includes(name === undefined ? pattern : dockerName(name).toLowerCase());
}

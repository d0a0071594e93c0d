/** What others see of a record: the image without the store's own bookkeeping, and whether it is pinned. */
import { dockerName, parsedName } from './names.ts';
import type { StoredImage } from './records.ts';
import type { Image } from '../ports/image.ts';

/** One view for each record, so that who sees the same image sees the same object. */
export class ImageViews {
  #views = new WeakMap<StoredImage, Image>();
  readonly #isFixed: (image: StoredImage) => boolean;
  #pinned: readonly string[];

  /** `pinned`: exact names, `prefix*`, `*part*` (CRI-O's pinned_images). What `isFixed` is pinned by nature. */
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

/** CRI-O's three kinds of pattern, matched in linear time: exact, `prefix*`, `*part*`. */
function pins(pattern: string, image: StoredImage): boolean {
  const names = [...image.repoTags, ...image.repoDigests, image.id];
  if (pattern.length > 2 && pattern.startsWith('*') && pattern.endsWith('*'))
    return names.some((name) => name.includes(pattern.slice(1, -1)));
  if (pattern.endsWith('*')) return pattern.length > 1 && names.some((name) => name.startsWith(pattern.slice(0, -1)));
  const name = parsedName(pattern);
  return names.includes(pattern) || names.includes(name === undefined ? pattern : dockerName(name));
}

/**
 * Artifacts that lie ready in directories of the administrator's (`additional_artifact_stores`): OCI layouts below
 * `<directory>/artifacts`, on the node's own disk or on one of many nodes. They are read, never written, never removed,
 * and are always pinned; one of them is meant before one of our own. Their manifests are judged by their digests; their
 * files are believed, as whoever may write there may do more than that.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, explain, RuntimeError } from '../base/errors.ts';
import { hexOf } from '../base/ids.ts';
import type { Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { algorithmOf } from '../oci/digest.ts';
import { parseManifest } from '../oci/manifest.ts';
import { namesInArchive } from './archive-names.ts';
import { openArchive } from './archive.ts';
import { describeArtifact } from './artifact.ts';
import { withNames } from './name-list.ts';
import type { ImageRecords, StoredImage } from './records.ts';

/** Images to be looked at. */
export type Images = Pick<ImageRecords, 'get' | 'byName' | 'all'>;

/** What is in the stores, as of the last look. */
export class ArtifactStores implements Images {
  readonly #directories: readonly string[];
  /** When the index of each was written that was read last. */
  readonly #seen = new Map<string, number>();
  #byId: ReadonlyMap<ImageId, StoredImage> = new Map();
  #byName: ReadonlyMap<string, StoredImage> = new Map();

  /** Of several the first that has a name is meant. */
  constructor(directories: readonly string[]) {
    this.#directories = directories.map((each) => join(each, 'artifacts'));
  }

  /** Looks again where an index has changed. One that cannot be read is left out, with a warning, as by CRI-O. */
  async refresh(op: Op): Promise<void> {
    const times = await Promise.all(this.#directories.map(async (each) => [each, await writtenAt(each)] as const));
    if (times.every(([directory, at]) => this.#seen.get(directory) === at)) return;
    const found = new Map<ImageId, StoredImage>();
    for (const [directory, at] of times) {
      this.#seen.set(directory, at);
      try {
        for (const each of await readStore(directory)) found.set(each.id, merged(found.get(each.id), each));
      } catch (error) {
        op.log.warn('an additional artifact store is left out', { path: directory, error: explain(error) });
      }
    }
    const names = new Map<string, StoredImage>();
    for (const image of [...found.values()].reverse())
      for (const name of [...image.repoTags, ...image.repoDigests]) names.set(name, image);
    this.#byId = found;
    this.#byName = names;
  }

  get(id: ImageId): StoredImage | undefined {
    return this.#byId.get(id);
  }

  byName(name: string): StoredImage | undefined {
    return this.#byName.get(name);
  }

  all(): readonly StoredImage[] {
    return [...this.#byId.values()];
  }

  /** @throws NotFound that names a file of it that is gone; content if all are there. */
  async confirm({ id, artifact }: StoredImage): Promise<void> {
    for (const { path } of artifact?.files ?? [])
      await stat(path).catch((cause: unknown) => {
        throw new RuntimeError('NotFound', `artifact ${id} is not whole in its additional store: ${path}`, { cause });
      });
  }
}

/**
 * What is in `first`, then what is in `second`. In lists an artifact of the second has no tag that one of the first
 * has, and is left out if it has no other (CRI-O: internal/ociartifact, List); who asks by its digest finds it as it
 * is.
 */
export function preferring(first: Images, second: Images): Images {
  return {
    get: (id) => first.get(id) ?? second.get(id),
    byName: (name) => first.byName(name) ?? second.byName(name),
    all: () => {
      const ready = first.all();
      if (ready.length === 0) return second.all();
      return [...ready, ...second.all().flatMap((image) => shownBeside(first, image))];
    },
  };
}

function shownBeside(first: Images, image: StoredImage): readonly StoredImage[] {
  if (first.get(image.id) !== undefined) return [];
  if (image.artifact === undefined || image.repoTags.length === 0) return [image];
  const repoTags = image.repoTags.filter((tag) => first.byName(tag) === undefined);
  if (repoTags.length === image.repoTags.length) return [image];
  return repoTags.length === 0 ? [] : [{ ...image, repoTags }];
}

async function readStore(directory: string): Promise<readonly StoredImage[]> {
  const found: StoredImage[] = [];
  const pathOf = (digest: Digest): string => join(directory, 'blobs', algorithmOf(digest), hexOf(digest));
  const archived = await openArchive(directory);
  for (const each of archived.slice(0, limits.artifactStoreEntriesCount)) {
    const { digest, bytes, contentType } = each.root;
    const manifest = parseManifest(bytes, contentType);
    // An image lies here by mistake, and an index says nothing of this node.
    if (manifest.kind !== 'artifact') continue;
    const facts = describeArtifact({ digest, bytes, manifest }, pathOf);
    found.push({ ...facts, ...namesInArchive(each, undefined), pulledAt: 0n, generation: 0 });
  }
  return found;
}

/** The same artifact in two stores is the one in the first, by the names of both. */
function merged(first: StoredImage | undefined, second: StoredImage): StoredImage {
  if (first === undefined) return second;
  return {
    ...first,
    repoTags: withNames(first.repoTags, second.repoTags),
    repoDigests: withNames(first.repoDigests, second.repoDigests),
  };
}

/** Milliseconds; -1 for what is not there. */
async function writtenAt(directory: string): Promise<number> {
  try {
    return (await stat(join(directory, 'index.json'))).mtimeMs;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return -1;
    return -2;
  }
}

/**
 * From a manifest to an image on disk: the one path that pulled and imported images take.
 *
 * In order: manifest for this platform → signatures → config → layers → record. Whoever sees the record may use the
 * image; a crash before it leaves nothing that is visible. Nothing that a source gives is trusted.
 */
import { explain, isCode, RuntimeError, wrap } from '../base/errors.ts';
import { parseImageId, quote } from '../base/ids.ts';
import type { Digest, ImageId } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import type { Op } from '../base/op.ts';
import { checkDigest } from '../oci/digest.ts';
import { parseImageConfig } from '../oci/image-config.ts';
import { INDEX_DEPTH_MAX, parseManifest } from '../oci/manifest.ts';
import type { ArtifactManifest, ImageManifest } from '../oci/manifest.ts';
import { selectPlatform } from '../oci/platform.ts';
import type { Descriptor, Platform } from '../oci/spec-types.ts';
import { describeArtifact } from './artifact.ts';
import type { Claim } from './claims.ts';
import { installFiles } from './install-files.ts';
import { LayersInstall } from './install-layers.ts';
import type { LayersWorld } from './install-layers.ts';
import type { PullTracker } from './progress.ts';
import { describeImage } from './records.ts';
import type { ImageFacts, Names, StoredImage } from './records.ts';
import type { ManifestAnswer } from './registry/repository.ts';
import type { KeptManifest } from './signature/index.ts';
import { fetchSmall, measured } from './source.ts';
import type { PullSource } from './source.ts';

/** What installing needs around it. */
export interface InstallWorld extends LayersWorld {
  readonly platform: Platform;
}

/** One image on its way. */
export interface Arrival {
  readonly source: PullSource;
  /** Its manifest, or an index that leads to it. */
  readonly root: ManifestAnswer;
  /** Names this pull among others, so that a later try finds what it left. */
  readonly key: string;
  /** What the image will be called. */
  readonly names: Names;
  readonly track: PullTracker;
  /**
   * Called when the manifest for this platform is known, before anything else of the image is read: the signatures to
   * keep with it, if any. Throws to refuse it.
   */
  readonly vouch: (manifest: ManifestAnswer) => Promise<KeptManifest | undefined>;
}

/** Brings everything of the image to disk, the record last. What a failure leaves is gone when this throws. */
export async function install(op: Op, world: InstallWorld, arrival: Arrival): Promise<StoredImage> {
  const { kept } = world;
  try {
    const { stored, blobs } = await new Install(op, world, arrival).run();
    await kept.settle(op, stored.id, blobs);
    return stored;
  } catch (error) {
    if (!isWorthResuming(error)) await kept.tidy(op, error);
    throw error;
  }
}

/** True for failures of the line or of patience, after which the same bytes are wanted again. */
function isWorthResuming(error: unknown): boolean {
  return (
    isCode(error, 'Unavailable') ||
    isCode(error, 'Cancelled') ||
    isCode(error, 'DeadlineExceeded') ||
    isCode(error, 'Unauthenticated')
  );
}

/** What `work` makes of an answer. @throws as `work`, with what it was about and where that is from. */
function readingOf<T>({ describe, contentType }: ManifestAnswer, work: () => T): T {
  try {
    return work();
  } catch (error) {
    // A page for people comes from a login, a proxy or a portal, and says nothing about the image.
    const isPage = /^text\/html\b/i.test(contentType)
      ? ' (a web page: something answers in its place; look at what stands before it, a login or proxy)'
      : '';
    throw wrap(`${describe}${isPage}: ${explain(error)}`, error);
  }
}

class Install {
  readonly #op: Op;
  readonly #world: InstallWorld;
  readonly #arrival: Arrival;

  constructor(op: Op, world: InstallWorld, arrival: Arrival) {
    this.#op = op;
    this.#world = world;
    this.#arrival = arrival;
  }

  async run(): Promise<{ readonly stored: StoredImage; readonly blobs: readonly Digest[] }> {
    const { kept } = this.#world;
    const { key, names, track, vouch } = this.#arrival;
    const { answer, manifest } = await this.#descend();
    const signed = await vouch(answer);
    const blobs = [answer.digest, manifest.config.digest, ...manifest.layers.map(({ digest }) => digest)];
    const first = await kept.claim(key, { blobs, layers: [] });
    let claim: Claim = first;
    try {
      await kept.blobs.put(this.#op, answer.digest, answer.bytes);
      const facts =
        manifest.kind === 'artifact'
          ? await this.#files(answer, manifest)
          : await this.#layers(answer, manifest, async ({ layers }) => {
              claim = await kept.claim(key, { blobs, layers: layers.map(({ chainId }) => chainId) });
              first.abandon();
              return claim;
            });
      track.stage('committing');
      const stored = await kept.commit(this.#op, facts, names, signed);
      await claim.finish();
      return { stored, blobs };
    } catch (error) {
      first.abandon();
      // A later try can use what is here, unless the image itself is bad or the disk is what is missing.
      if (isWorthResuming(error)) claim.abandon();
      else await claim.finish();
      throw error;
    }
  }

  /** Brings the layers of an image, under the claim on them that `claimed` takes. */
  async #layers(
    answer: ManifestAnswer,
    manifest: ImageManifest,
    claimed: (facts: ImageFacts) => Promise<Claim>,
  ): Promise<ImageFacts> {
    const { source, track } = this.#arrival;
    const facts = await this.#facts(answer, manifest);
    track.plan(facts.layers);
    const claim = await claimed(facts);
    track.stage('downloading');
    const proof = this.#isKnown(facts.id, answer.digest) ? 'given' : 'wanted';
    await new LayersInstall(this.#world, { source, claim, track, proof }).run(this.#op, facts.layers);
    return facts;
  }

  /** Brings the blobs of an artifact, which stay as they are. */
  async #files({ digest, bytes }: ManifestAnswer, manifest: ArtifactManifest): Promise<ImageFacts> {
    const { source, track } = this.#arrival;
    const facts = describeArtifact({ digest, bytes, manifest }, (each) => this.#world.kept.blobs.path(each));
    const blobs = [...new Map([manifest.config, ...manifest.layers].map((each) => [each.digest, each])).values()];
    track.plan(blobs.map((each) => ({ digest: each.digest, mediaType: each.mediaType, sizeBytes: each.size })));
    track.stage('downloading');
    const proof = this.#isKnown(facts.id, digest) ? 'given' : 'wanted';
    await installFiles(this.#op, this.#world, { source, track, proof }, blobs);
    return facts;
  }

  /** From an index down to the manifest for this platform; each step is checked against its digest. */
  async #descend(): Promise<{ readonly answer: ManifestAnswer; readonly manifest: ImageManifest | ArtifactManifest }> {
    const { source, root } = this.#arrival;
    let answer = root;
    for (let depth = 0; depth < INDEX_DEPTH_MAX; depth++) {
      const { bytes, contentType } = answer;
      const document = readingOf(answer, () => parseManifest(bytes, contentType));
      if (document.kind !== 'index') return { answer, manifest: await measured(this.#op, source, document) };
      const entry = readingOf(answer, () => selectPlatform(document, this.#world.platform));
      answer = await source.manifest(this.#op, entry.digest);
      checkDigest(answer.bytes, entry.digest, answer.describe);
      // The index says what it is; a server that says otherwise is refused by parseManifest.
      if (answer.contentType === '') answer = { ...answer, contentType: entry.mediaType };
    }
    throw new RuntimeError(
      'InvalidArgument',
      `${source.describe}: more than ${INDEX_DEPTH_MAX} indexes inside each other; the image must be pushed again`,
    );
  }

  async #facts(answer: ManifestAnswer, manifest: ImageManifest): Promise<ImageFacts> {
    const { source } = this.#arrival;
    const { platform } = this.#world;
    const id = parseImageId(manifest.config.digest);
    const bytes = await this.#config(id, answer.digest, manifest.config);
    const config = readingOf(answer, () => parseImageConfig(bytes));
    if (config.os === 'windows')
      throw new RuntimeError(
        'FailedPrecondition',
        `${source.describe} is an image for ${quote(config.os)}, this node runs linux; choose another image`,
      );
    const { os, architecture } = config;
    if ((os !== '' && os !== 'linux') || (architecture !== '' && architecture !== platform.architecture)) {
      // People run foreign images under binfmt, and tools write where they ran (darwin); CRI-O lets them, too.
      const node = `linux/${platform.architecture}`;
      this.#op.log.warn('image is for another platform, or says so', { image: id, os, architecture, node });
    }
    return readingOf(answer, () => describeImage(id, answer.digest, BigInt(answer.bytes.length), manifest, config));
  }

  /** True if the image is here and came by this manifest: there is nothing that whoever asks has still to show. */
  #isKnown(id: ImageId, manifest: Digest): boolean {
    return this.#world.kept.cameBy(id, [manifest, this.#arrival.root.digest]);
  }

  /**
   * The config, on disk. One that is here is taken only for a manifest by which the image came: any other one may name
   * it without knowing what is in it, so the source has to show that it has it.
   */
  async #config(id: ImageId, manifest: Digest, want: Descriptor): Promise<Buffer> {
    const { kept } = this.#world;
    const { source } = this.#arrival;
    if (this.#isKnown(id, manifest)) {
      const here = await kept.blobs.read(want.digest, limits.imageConfigBytes).catch((error: unknown) => {
        if (!isCode(error, 'DataLoss')) throw error;
        this.#op.log.warn('config on disk is damaged, it is brought again', { image: id });
        return undefined;
      });
      if (here !== undefined) return here;
    }
    const bytes = await fetchSmall(this.#op, source, want, limits.imageConfigBytes);
    await kept.blobs.put(this.#op, want.digest, bytes);
    return bytes;
  }
}

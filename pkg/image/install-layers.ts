/**
 * The layers of one image: several at a time are downloaded, and each is unpacked while it arrives, if there is a
 * thread for it; what is unpacked is kept once the blob has its digest. When one fails, the others are stopped and
 * waited for before the failure is reported: after that nothing of this pull moves any more.
 */
import { explain, isCode, RuntimeError } from '../base/errors.ts';
import { quote } from '../base/ids.ts';
import type { ChainId, Digest } from '../base/ids.ts';
import { limits } from '../base/limits.ts';
import { abortError } from '../base/op.ts';
import type { Op } from '../base/op.ts';
import { Gate } from '../base/sync.ts';
import { isForeignType } from '../oci/media-types.ts';
import type { Claim } from './claims.ts';
import { EarlyLayer } from './early-layer.ts';
import type { PullTracker } from './progress.ts';
import type { Retention } from './retention.ts';
import { allOrNone, SilenceWatch } from './silence.ts';
import { download } from './source.ts';
import type { PullSource } from './source.ts';
import type { ArrivingBlob, ImageLayer, LayerSource } from '../ports/image.ts';

/** What bringing layers needs around it. */
export interface LayersWorld {
  readonly kept: Retention;
  /** Called whenever any pull unpacks something, for those whose layers wait for their turn. */
  readonly awaiting: Set<() => void>;
  /** A pull in which nothing at all moved for so long is given up. */
  readonly silentMs: number;
}

/** Whose layers they are. */
export interface LayersOf {
  readonly source: PullSource;
  /** Protects them until the record does. */
  readonly claim: Claim;
  readonly track: PullTracker;
  /** Whether a layer that is here has still to be shown before it is shared: not if the image came by this manifest. */
  readonly proof: 'given' | 'wanted';
}

/** Brings the layers of one image. */
export class LayersInstall {
  readonly #world: LayersWorld;
  readonly #source: PullSource;
  readonly #claim: Claim;
  readonly #track: PullTracker;
  readonly #proof: LayersOf['proof'];
  readonly #watch: SilenceWatch;
  readonly #downloads = new Gate(limits.pullLayersCount);
  /** Layers of this image that have the same blob (an empty layer, often) and are not unpacked yet. */
  readonly #waiting = new Map<Digest, number>();

  constructor(world: LayersWorld, { source, claim, track, proof }: LayersOf) {
    this.#world = world;
    this.#source = source;
    this.#claim = claim;
    this.#track = track;
    this.#proof = proof;
    this.#watch = new SilenceWatch(world.silentMs);
  }

  /** Every layer is unpacked, tied to those below and durable when this returns. Call once. */
  async run(op: Op, layers: readonly ImageLayer[]): Promise<void> {
    const { kept } = this.#world;
    const onProgress = (): void => this.#watch.heard();
    const chain = layers.map(({ chainId }) => chainId);
    await allOrNone(op, this.#watch, this.#source.describe, {
      parts: layers.map(
        (layer, index) => (inner) =>
          this.#bring(inner, { ...layer, path: kept.blobs.path(layer.digest), onProgress }, index),
      ),
      last: (inner) => kept.layers.settle(inner, chain),
    });
  }

  async #bring(op: Op, layer: LayerSource, index: number): Promise<void> {
    const onProgress = (): void => this.#moved();
    const early = new EarlyLayer(op, this.#world.kept.layers, { ...layer, onProgress });
    try {
      if ((await this.#downloads.run(() => this.#fetch(op, layer, index, early))) === 'unpacked')
        return this.#track.layer(index, 'done');
      this.#track.layer(index, 'unpacking');
      await this.#unpack(op, layer, early);
    } finally {
      await early.end();
    }
    this.#track.layer(index, 'done');
    const { digest } = layer;
    await this.#world.kept.discard(digest, this.#claim, () => (this.#waiting.get(digest) ?? 0) > 0);
  }

  async #fetch(op: Op, layer: LayerSource, index: number, early: EarlyLayer): Promise<'unpacked' | 'downloaded'> {
    if (op.signal.aborted) throw abortError(op, `downloading ${layer.digest}`);
    const { digest, chainId, sizeBytes: size } = layer;
    const here = await this.#inTurn(chainId, async () => {
      const found = await this.#here(layer);
      if (found === 'absent') await this.#world.kept.layerIsGone(op, chainId);
      return found;
    });
    if (here === 'shared') {
      this.#track.reused(index);
      return 'unpacked';
    }
    this.#waiting.set(digest, (this.#waiting.get(digest) ?? 0) + 1);
    let before: bigint | undefined;
    const onBytes = (present: bigint): void => {
      this.#watch.heard();
      this.#track.downloadedBytes += present > (before ?? present) ? present - (before ?? present) : 0n;
      before = present;
      this.#track.layer(index, 'downloading', present);
    };
    const onOthers = (present: bigint): void => {
      this.#watch.heard();
      this.#track.layer(index, 'downloading', present);
    };
    // One that is here from another blob is only compared.
    const onFile = (file: ArrivingBlob): void => (here === 'absent' ? early.begin(file) : undefined);
    const watch = { onBytes, onOthers, onFile };
    await download(op, this.#world.kept.blobs, { source: this.#source, want: { digest, size }, watch }).catch(
      (error: unknown) => {
        throw isForeignType(layer.mediaType) && isCode(error, 'NotFound') ? notHere(layer, error) : error;
      },
    );
    return 'downloaded';
  }

  /**
   * Makes the layer of its blob; one that is here already, from another blob, is compared with this one. What was
   * unpacked on the way has been read and compared.
   */
  async #unpack(op: Op, layer: LayerSource, early: EarlyLayer): Promise<void> {
    const { digest, chainId } = layer;
    const { layers } = this.#world.kept;
    try {
      const staged = await early.staged();
      await this.#inTurn(chainId, async (moved) => {
        if (op.signal.aborted) throw abortError(op, `unpacking ${digest}`);
        const own = { ...layer, onProgress: moved };
        const here = await this.#here(layer);
        if (here === 'absent') await (staged?.keep() ?? layers.unpack(op, own));
        else if (here === 'unproven' && staged === undefined) await layers.prove(op, own);
        moved();
      });
    } finally {
      this.#waiting.set(digest, (this.#waiting.get(digest) ?? 1) - 1);
    }
  }

  async #here(layer: ImageLayer): Promise<'shared' | 'unproven' | 'absent'> {
    const here = await this.#world.kept.layerFor(layer);
    return here === 'unproven' && this.#proof === 'given' ? 'shared' : here;
  }

  /**
   * Does `work` when nobody else works on the layer. Until something of it has `moved`, whatever is unpacked on this
   * node keeps the watch quiet: a pull that waits behind others is not stuck as long as they are not.
   */
  async #inTurn<T>(chainId: ChainId, work: (moved: () => void) => Promise<T>): Promise<T> {
    const { kept, awaiting } = this.#world;
    const heard = (): void => this.#watch.heard();
    const moved = (): void => {
      awaiting.delete(heard);
      this.#moved();
    };
    awaiting.add(heard);
    try {
      return await kept.layerLocks.run(chainId, () => work(moved));
    } finally {
      awaiting.delete(heard);
    }
  }

  #moved(): void {
    this.#watch.heard();
    for (const each of this.#world.awaiting) each();
  }
}

function notHere({ digest, mediaType }: ImageLayer, cause: unknown): RuntimeError {
  return new RuntimeError(
    'Unimplemented',
    `layer ${digest} is foreign (${quote(mediaType)}), and is not where the image is (${explain(cause)}); the server ` +
      'that the image names is not asked (CVE-2020-15157); the image must be pushed again with all of its layers',
    { cause },
  );
}

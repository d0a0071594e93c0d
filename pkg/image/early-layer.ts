/**
 * A layer that is unpacked while its blob arrives. Nothing that is read so counts before the blob has its digest: what
 * goes wrong meanwhile may be the line's or a mirror's fault, and is forgotten with the file that it was read from.
 */
import type { Op } from '../base/op.ts';
import type { ArrivingBlob, LayerSource, LayerUnpacker, StagedLayer } from '../ports/image.ts';

interface Attempt {
  readonly stop: AbortController;
  readonly outcome: Promise<StagedLayer | undefined>;
}

/** One layer of one pull. Whoever makes one calls `end`. */
export class EarlyLayer {
  readonly #op: Op;
  readonly #unpacker: LayerUnpacker;
  readonly #layer: LayerSource;
  #attempt: Attempt | undefined;

  constructor(op: Op, unpacker: LayerUnpacker, layer: LayerSource) {
    this.#op = op;
    this.#unpacker = unpacker;
    this.#layer = layer;
  }

  /** The blob arrives in this file now; if it did in another one before, that was in vain. */
  begin(blob: ArrivingBlob): void {
    const before = this.end();
    const stop = new AbortController();
    blob.whole.catch(() => stop.abort());
    // The stage that is told is the download's.
    const op = { ...this.#op, signal: AbortSignal.any([this.#op.signal, stop.signal]), stage: () => {} };
    const outcome = before.then(() => this.#unpacker.unpackEarly(op, this.#layer, blob));
    outcome.catch(() => {});
    this.#attempt = { stop, outcome };
  }

  /**
   * What came of it, once the blob is whole; undefined if the layer has to be unpacked from the blob. @throws what is
   * wrong with the layer.
   */
  async staged(): Promise<StagedLayer | undefined> {
    return await this.#attempt?.outcome;
  }

  /** Nothing moves, and nothing is left that was not kept, when this resolves. */
  async end(): Promise<void> {
    const attempt = this.#attempt;
    this.#attempt = undefined;
    attempt?.stop.abort();
    const staged = await attempt?.outcome.catch(() => undefined);
    await staged?.drop();
  }
}

/**
 * How large writable layers are, without ever making a list wait for a walk: the last known size is given at once, and
 * a new walk goes on in the background. Only a layer that was never measured, or that alone is asked for, is waited
 * for, and that not for long.
 */
import { Gate } from '../base/sync.ts';
import { within } from '../base/time.ts';
import { limits } from '../base/limits.ts';

/** As RootfsDriver.usage tells it. */
export interface LayerSize {
  readonly usedBytes: bigint;
  readonly inodesUsed: bigint;
}

/** A size that was true once. */
export interface MeasuredLayer extends LayerSize {
  /** When it was measured, in nanoseconds since the epoch. */
  readonly at: bigint;
}

/** How sizes are found. */
export interface WritableLayersOptions<Id extends string> {
  /** Walks the layer. May fail, also for one that is gone. */
  readonly measure: (id: Id) => Promise<LayerSize>;
  readonly clock: () => bigint;
  /** How long all layers together that were never measured may hold up a request, in milliseconds. */
  readonly patienceMs: number;
}

/** Sizes of writable layers, by the ids of their containers. */
export class WritableLayers<Id extends string> {
  readonly #options: WritableLayersOptions<Id>;
  readonly #known = new Map<Id, MeasuredLayer>();
  readonly #walks = new Map<Id, Promise<void>>();
  readonly #gate = new Gate(limits.layerWalksCount);

  constructor(options: WritableLayersOptions<Id>) {
    this.#options = options;
  }

  /**
   * The latest sizes, or those of `now` as far as the patience goes; none for a layer that is gone or takes longer than
   * that.
   */
  async sizes(ids: readonly Id[], which: 'last known' | 'now' = 'last known'): Promise<ReadonlyMap<Id, MeasuredLayer>> {
    const now = this.#options.clock();
    const first: Promise<void>[] = [];
    for (const id of ids) {
      const known = this.#known.get(id);
      const isYoung = known !== undefined && now - known.at < BigInt(limits.layerSizeAgeMs) * 1_000_000n;
      if (isYoung && which === 'last known') continue;
      const walk = this.#walk(id);
      if (known === undefined || which === 'now') first.push(walk);
    }
    if (first.length > 0) await within(this.#options.patienceMs, Promise.all(first));
    return new Map(
      ids.flatMap((id) => {
        const found = this.#known.get(id);
        return found === undefined ? [] : [[id, found]];
      }),
    );
  }

  /** Drops what is known of a layer; for what is removed. */
  forget(id: Id): void {
    this.#known.delete(id);
    this.#walks.delete(id);
  }

  /** Never rejects. */
  #walk(id: Id): Promise<void> {
    const going = this.#walks.get(id);
    if (going !== undefined) return going;
    const { measure, clock } = this.#options;
    const walk = this.#gate
      .run(() => measure(id))
      .then(
        (size) => {
          if (this.#walks.get(id) === walk) this.#known.set(id, { ...size, at: clock() });
        },
        // A layer that cannot be measured is one that nothing is known about.
        () => void this.#known.delete(id),
      )
      .finally(() => {
        if (this.#walks.get(id) === walk) this.#walks.delete(id);
      });
    this.#walks.set(id, walk);
    return walk;
  }
}

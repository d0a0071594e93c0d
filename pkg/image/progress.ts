/** How a pull is getting on: for Status, `berth pull`, the log and the counters. */
import type { Digest } from '../base/ids.ts';
import type { LogFields, Op } from '../base/op.ts';
import type { PulledBlob, PullListener, PullProgress } from '../ports/image.ts';

/** Where a pull as a whole is. */
export type PullStage = PullProgress['stage'];
type LayerStage = PullProgress['layers'][number]['stage'];

/** Milliseconds that pulls have spent in each stage. */
export type StageTimes = Readonly<Record<PullStage, number>>;

/** Before anything has begun. */
export const NO_TIME: StageTimes = { resolving: 0, downloading: 0, unpacking: 0, committing: 0 };

/** Two sums of times as one. */
export function sumOfTimes(times: StageTimes, more: StageTimes): StageTimes {
  return {
    resolving: times.resolving + more.resolving,
    downloading: times.downloading + more.downloading,
    unpacking: times.unpacking + more.unpacking,
    committing: times.committing + more.committing,
  };
}

/** One pull. Its stages go to the log and to whoever waits as they begin. */
export class PullTracker {
  readonly reference: string;
  readonly startedAt: bigint;
  readonly #op: Pick<Op, 'log' | 'stage'>;
  readonly #now: () => number;
  readonly #times: Record<PullStage, number> = { ...NO_TIME };
  #stage: PullStage = 'resolving';
  #since: number;
  readonly #listener: PullListener | undefined;
  #planned: readonly PulledBlob[] = [];
  #layers: { readonly digest: Digest; stage: LayerStage; bytesDone: bigint; readonly bytesTotal: bigint }[] = [];
  downloadedBytes = 0n;
  reusedLayers = 0;

  /** `now`: milliseconds since the epoch. */
  constructor(op: Pick<Op, 'log' | 'stage'>, reference: string, now: () => number, listener?: PullListener) {
    this.#op = op;
    this.#now = now;
    this.#since = now();
    this.reference = reference;
    this.#listener = listener;
    this.startedAt = BigInt(Math.trunc(this.#since)) * 1_000_000n;
  }

  stage(stage: PullStage): void {
    this.#op.stage(`image: ${stage}`);
    this.#enter(stage);
  }

  /** What is to be brought. */
  plan(layers: readonly PulledBlob[]): void {
    this.#planned = layers;
    this.#layers = layers.map(({ digest, sizeBytes }) => ({
      digest,
      stage: 'waiting',
      bytesDone: 0n,
      bytesTotal: sizeBytes,
    }));
  }

  layer(index: number, stage: LayerStage, bytesDone?: bigint): void {
    const layer = this.#layers[index];
    if (layer === undefined) return;
    if (layer.stage !== stage) {
      this.#op.stage(`image: layer ${layer.digest} ${stage}`);
      this.#op.log.debug('layer of a pull', { stage, digest: layer.digest, bytes: layer.bytesTotal });
      // Files of artifacts are not unpacked.
      if (stage === 'unpacking' || (stage === 'done' && layer.stage === 'downloading')) this.#tell(index, 'downloaded');
    }
    layer.stage = stage;
    layer.bytesDone = stage === 'done' ? layer.bytesTotal : (bytesDone ?? layer.bytesDone);
    // The pull as a whole unpacks when there is nothing left to download.
    if (
      this.#stage === 'downloading' &&
      this.#layers.every((each) => each.stage === 'unpacking' || each.stage === 'done')
    )
      this.#enter('unpacking');
  }

  /** A layer that need not be brought. */
  reused(index: number): void {
    this.reusedLayers++;
    this.#tell(index, 'reused');
  }

  snapshot(): PullProgress {
    return {
      reference: this.reference,
      stage: this.#stage,
      startedAt: this.startedAt,
      layers: this.#layers.map((each) => ({ ...each })),
    };
  }

  /** The same for a line of the log. */
  fields(): LogFields {
    const sum = (of: (layer: { readonly bytesDone: bigint; readonly bytesTotal: bigint }) => bigint): bigint =>
      this.#layers.reduce((total, layer) => total + of(layer), 0n);
    return {
      stage: this.#stage,
      bytes: sum(({ bytesDone }) => bytesDone),
      totalBytes: sum(({ bytesTotal }) => bytesTotal),
      layers: this.#layers.filter(({ stage }) => stage === 'done').length,
      totalLayers: this.#layers.length,
      ms: Math.round(this.#now() - Number(this.startedAt / 1_000_000n)),
    };
  }

  /** So far, the current stage included. */
  times(): StageTimes {
    return { ...this.#times, [this.#stage]: this.#times[this.#stage] + this.#now() - this.#since };
  }

  #tell(index: number, how: 'downloaded' | 'reused'): void {
    const layer = this.#planned[index];
    if (layer !== undefined) this.#listener?.layer(layer, how, this.reference);
  }

  #enter(stage: PullStage): void {
    const now = this.#now();
    this.#times[this.#stage] += now - this.#since;
    this.#since = now;
    this.#stage = stage;
    this.#op.log.debug('pull', { stage });
  }
}

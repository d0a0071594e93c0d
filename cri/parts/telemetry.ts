/**
 * What is told of a daemon to those who watch many of them: metrics, and traces of calls. Both are off unless they are
 * asked for, and cost nothing then: not even their modules are loaded.
 */
import type { Logger } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import type { OpenPods } from '../../pkg/pod/index.ts';
import type { PullListener } from '../../pkg/ports/image.ts';
import type { NetworkPlugin } from '../../pkg/ports/network.ts';
import type { Operation } from '../../pkg/cri-api/types.ts';
import { type CallWatch, watchers } from '../watch.ts';
import type { Runtimes } from './runtimes.ts';

/** The network, with how many of its chains wait. */
export type WatchedNetwork = NetworkPlugin & { readonly turnsWaitingCount: number };

/** What is asked when metrics are. */
export interface Watched {
  readonly mind: OpenPods;
  readonly runtimes: Runtimes;
  readonly operations: () => readonly Operation[];
  readonly eventsDropped: () => number;
}

/** Metrics, as others need them. */
export interface Metrics {
  readonly watch: CallWatch;
  readonly pulls: PullListener;
  /** The same network, watched. */
  network(network: WatchedNetwork): NetworkPlugin;
  /** Serves them. @throws FailedPrecondition that names the keys to change. */
  serve(watched: Watched): Promise<void>;
  close(): Promise<void>;
}

/** Traces, as others need them. */
export interface Traces {
  readonly watch: CallWatch;
  readonly droppedCount: number;
  close(): Promise<void>;
}

/** Both, as far as they are asked for. */
export class Telemetry {
  readonly #metrics: Metrics | undefined;
  readonly #traces: Traces | undefined;
  /** Hears of calls; undefined if nobody does. */
  readonly watch: CallWatch | undefined;

  private constructor(metrics: Metrics | undefined, traces: Traces | undefined) {
    this.#metrics = metrics;
    this.#traces = traces;
    this.watch = watchers(metrics?.watch, traces?.watch);
  }

  /** What a configuration asks for. Nothing is sent or served yet. */
  static async open(config: Config, log: Logger, version: string): Promise<Telemetry> {
    const traces = config.tracing.enableTracing
      ? (await import('./traces.ts')).openTraces(config, log, version)
      : undefined;
    const metrics = config.metrics.enableMetrics
      ? (await import('./metrics.ts')).openMetrics(config, log, {
          version,
          spansDropped: () => traces?.droppedCount ?? 0,
        })
      : undefined;
    return new Telemetry(metrics, traces);
  }

  /** Hears of pulls; undefined if nobody does. */
  get pulls(): PullListener | undefined {
    return this.#metrics?.pulls;
  }

  /** The network as others are to have it. */
  network(network: WatchedNetwork): NetworkPlugin {
    return this.#metrics?.network(network) ?? network;
  }

  /** @throws as Metrics.serve. */
  async serve(watched: Watched): Promise<void> {
    await this.#metrics?.serve(watched);
  }

  /** Sends what is left to send, within bounds. */
  async close(): Promise<void> {
    await Promise.all([this.#metrics?.close(), this.#traces?.close()]);
  }
}

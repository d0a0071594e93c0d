/** The metrics of a daemon, put together. Loaded only where they are asked for. */
import type { Logger } from '../../pkg/base/op.ts';
import { limits } from '../../pkg/base/limits.ts';
import type { Config } from '../../pkg/config/index.ts';
import { processes } from '../../pkg/sys/index.ts';
import { LoopDelay } from '../loop-delay.ts';
import { countBlockedCalls, countCalls, countEnds, countPulls, timeNetwork } from '../metrics/counting.ts';
import { MetricsListener } from '../metrics/listener.ts';
import { Registry } from '../metrics/registry.ts';
import { scrape, type ScrapeSources } from '../metrics/scrape.ts';
import { seriesOf } from '../metrics/series.ts';
import type { Metrics, Watched, WatchedNetwork } from './telemetry.ts';

/** What metrics tell that is known from the start. */
export interface KnownEarly {
  readonly version: string;
  readonly spansDropped: () => number;
}

/** Counts from now on. */
export function openMetrics(config: Config, log: Logger, early: KnownEarly): Metrics {
  const registry = new Registry(seriesOf(config.metrics.metricsCollectors));
  let listener: MetricsListener | undefined;
  let network: WatchedNetwork | undefined;
  return {
    watch: countCalls(registry),
    pulls: countPulls(registry),
    network(given) {
      network = given;
      return timeNetwork(given, registry);
    },
    async serve(watched) {
      const sources = sourcesOf(watched, early, () => network?.turnsWaitingCount ?? 0);
      watched.mind.subscribe(countEnds(registry, sources.podOf));
      watched.mind.followBlockedCalls(countBlockedCalls(registry, sources.podOf));
      listener = await MetricsListener.open({
        ...placeOf(config),
        log,
        text: remembered(() => scrape(registry, sources)),
      });
    },
    async close() {
      await listener?.close();
    },
  };
}

function placeOf({ metrics, api }: Config): Pick<MetricsPlace, 'host' | 'port' | 'socket' | 'tls'> {
  const { metricsHost, metricsPort, metricsSocket, metricsCert, metricsKey } = metrics;
  return {
    host: metricsHost,
    port: metricsPort,
    socket: metricsSocket,
    // CRI-O has no TLS unless both are named.
    tls:
      metricsCert === '' || metricsKey === ''
        ? undefined
        : { cert: metricsCert, key: metricsKey, minVersion: api.tlsMinVersion, cipherSuites: api.tlsCipherSuites },
  };
}

type MetricsPlace = Parameters<typeof MetricsListener.open>[0];

function sourcesOf({ mind, runtimes, ...watched }: Watched, early: KnownEarly, turns: () => number): ScrapeSources {
  const loop = new LoopDelay();
  return {
    ...early,
    ...watched,
    containers: () => mind.containers.list(),
    podOf: (id) => mind.pods.find(id),
    networkTurns: turns,
    cleanUps: () => mind.cleanUpsPending(),
    defaultRuntime: () => runtimes.standard?.runtime.handler.name,
    defunctProcesses,
    loopDelay: () => loop.read(),
  };
}

async function defunctProcesses(): Promise<number> {
  let count = 0;
  for await (const some of processes.statsInTurns(processes.listPids()))
    count += some.filter(({ state }) => state === 'Z').length;
  return count;
}

/** The same text for those who ask at the same time, or one right after the other: it costs a look at all processes. */
function remembered(read: () => Promise<string>): () => Promise<string> {
  let last: { readonly at: number; readonly text: Promise<string> } | undefined;
  return () => {
    const now = performance.now();
    if (last === undefined || now - last.at > limits.metricTextMs) last = { at: now, text: read() };
    return last.text;
  };
}

/** The traces of a daemon, put together. Loaded only where they are asked for. */
import { hostname } from 'node:os';
import type { Logger } from '../../pkg/base/op.ts';
import type { Config } from '../../pkg/config/index.ts';
import { Exporter } from '../traces/exporter.ts';
import { traceCalls } from '../traces/tracer.ts';
import type { Traces } from './telemetry.ts';

/** Traces calls from now on. */
export function openTraces({ tracing }: Config, log: Logger, version: string): Traces {
  const exporter = new Exporter({
    endpoint: tracing.tracingEndpoint,
    sender: {
      resource: {
        'service.name': 'berth',
        'service.version': version,
        'host.name': hostname(),
        'process.pid': process.pid,
      },
      name: 'berth',
      version,
    },
    log,
  });
  return {
    watch: traceCalls({ perMillion: tracing.tracingSamplingPerMillion, take: exporter.take }),
    get droppedCount() {
      return exporter.droppedCount;
    },
    close: () => exporter.close(),
  };
}

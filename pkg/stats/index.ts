/**
 * What containers and pods use: cgroups of v1, v2 and both, interfaces of network namespaces, writable layers; and the
 * same as CRI's statistics and metrics.
 *
 *   reader.ts     what a request asks for, read together
 *   sampler.ts    many cgroups in one native call; use of processors between two samples
 *   layers.ts     sizes of writable layers, measured in the background
 *   files.ts      which kernel files, and what they say (pure)
 *   parse.ts      texts of the kernel as numbers (pure)
 *   messages.ts   CRI's statistics (pure)
 *   metrics.ts    CRI's metrics (pure)
 *
 * Nobody waits for a walk of a file system here, and one container that vanishes is one entry less, never an error.
 */
import { StatsReader, type StatsOptions } from './reader.ts';

export type { StatsOptions } from './reader.ts';

/** Statistics and metrics of what lives. */
export type Stats = Pick<
  StatsReader,
  'live' | 'ready' | 'lives' | 'isReady' | 'containers' | 'pods' | 'metrics' | 'layerSizes' | 'descriptors'
>;

/** Begins to measure on demand; what ends is forgotten by the events that `options` subscribes to. */
export function openStats(options: StatsOptions): Stats {
  return new StatsReader(options);
}

/**
 * What containers and pods use: cgroups of v1, v2 and both, interfaces of network namespaces, writable layers; and the
 * same as CRI's statistics and metrics.
 *
 *   parse.ts      which kernel files, and what they say (pure)
 *   sampler.ts    many cgroups in one native call; use of processors between two samples
 *   layers.ts     sizes of writable layers, measured in the background
 *   messages.ts   CRI's statistics (pure)
 *   metrics.ts    CRI's metrics (pure)
 *
 * Nobody waits for a walk of a file system here, and one container that vanishes is one entry less, never an error.
 */
export {
  type Detail,
  FilesRead,
  interfacesIn,
  NET_DEV,
  softFileLimit,
  type InterfaceCounters,
  type Reading,
} from './parse.ts';
export { Sampler, type Group, type Sample, type SamplerOptions } from './sampler.ts';
export { WritableLayers, type LayerSize, type MeasuredLayer } from './layers.ts';
export { layerUsage, podUsages, usages } from './messages.ts';
export { containerMetrics, metricDescriptors, podMetrics, type MetricLabels } from './metrics.ts';

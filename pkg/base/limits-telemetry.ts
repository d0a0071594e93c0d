/** The limits of what is told about the daemon: metrics, traces, profiles. Part of limits.ts, and used by that name. */

/** All of them. */
export const telemetryLimits = {
  /**
   * Values of the labels of one series that strangers choose (names of images and containers); what comes after is
   * counted together as `other`. A node has some hundred images and containers in its life.
   */
  metricSeriesCount: 1_000,
  /** One value of a label; names of images are longer only for fun. */
  metricLabelChars: 512,
  /** Durations of one RPC that quantiles are made of: the last so many. */
  metricSamplesCount: 512,
  /** How old those may be, as Go's client has it (DefMaxAge), which CRI-O uses. */
  metricSamplesMs: 10 * 60_000,
  /** Connections to the metrics at once; a node has one or two Prometheuses, each with one. */
  metricConnectionsCount: 64,
  /** From a connection to the end of the headers of a request on it. */
  metricHeadersMs: 10_000,
  /** How long a connection may be idle between two scrapes: longer than the usual half a minute. */
  metricIdleMs: 90_000,
  /** How old a text may be that is given: who asks more often learns nothing more. */
  metricTextMs: 500,
  /** Spans that wait to be sent, some 300 bytes each; beyond, new ones are dropped and counted. */
  spansQueuedCount: 2_048,
  /** Spans sent at once, as OpenTelemetry's SDKs have it. */
  spansSentCount: 512,
  /** How long a span waits for others to be sent with. */
  spansWaitMs: 5_000,
  /** How long a collector may take to accept them. */
  spansSendMs: 10_000,
  /** Stages of one call that become spans; a pull of a large image has some hundred. */
  spansPerCallCount: 256,
  /**
   * How long a profile of the processor may be taken at most; it is in memory until it ends, and has to be answered
   * within httpAnswerMs.
   */
  cpuProfileMs: 45_000,
} as const;

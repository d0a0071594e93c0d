/**
 * Every limit in the product, with its reason. A limit that is hit ends in an error that names it.
 * Units are in the names: Bytes, Ms, Count.
 */
const KiB = 1024;
const MiB = 1024 * KiB;

export const limits = {
  /** gRPC request and reply; the kubelet itself receives at most 16 MiB (cri-client maxMsgSize). */
  grpcMessageBytes: 16 * MiB,
  /** A manifest or index; the registries' own customary bound (CVE-2023-25153: never read unbounded JSON). */
  manifestBytes: 4 * MiB,
  /** An image config; real ones are a few KiB, generated ones with long histories reach some 100 KiB. */
  imageConfigBytes: 8 * MiB,
  /** What overlay mounts take through the new mount API. */
  layersCount: 128,
  /** PATH_MAX. */
  tarPathBytes: 4096,
  /** As the kernel's own MAXSYMLINKS. */
  symlinkDepth: 40,
  /** Entries in one layer; the largest real images have some 600 000. */
  tarEntriesCount: 4_000_000,
  /** Unpacked bytes of one layer (CUDA images reach 10 GiB); a bomb ends here at the latest. */
  layerUnpackedBytes: 64 * 1024 * MiB,
  /** A PAX header or GNU long name record (a legitimate one holds a few xattrs of at most 64 KiB each). */
  tarHeaderRecordBytes: 1 * MiB,
  /** PullImage flights at once on the node, and layers at once in one pull. */
  pullsCount: 3,
  pullLayersCount: 3,
  /** ExecSync output kept per stream; the rest is read and dropped (CVE-2022-1708). */
  execOutputBytes: 16 * MiB,
  execsPerContainerCount: 64,
  /** The whole plugin chain of one ADD; slow IPAM over a network takes minutes. */
  cniAddMs: 4 * 60_000,
  cniDelMs: 60_000,
  cniResultBytes: 1 * MiB,
  /** `runtime create` (CRI-O's container_create_timeout). */
  runtimeCreateMs: 240_000,
  runtimeCommandMs: 30_000,
  /** Text of a failed command kept for its error message. */
  commandErrorBytes: 8 * KiB,
  /** How long a process may take to vanish after SIGKILL before StopContainer gives up (D state). */
  killGraceMs: 10_000,
  recordBytes: 1 * MiB,
  eventQueueCount: 1_000,
  streamTokenMs: 60_000,
  streamTokensCount: 1_000,
  idPrefixChars: 4,
  /** Sum of keys and values of labels or annotations of one object; 256 KiB is Kubernetes' own bound for annotations. */
  annotationsBytes: 256 * KiB,
  nameBytes: 4096,
  hostnameBytes: 64,
  mountsCount: 4096,
  /** /etc/passwd and /etc/group of an image (CVE-2025-4437: never whole and unbounded). */
  passwdBytes: 8 * MiB,
  configFileBytes: 1 * MiB,
  /** One value in a log line; a runtime's whole kept error text (commandErrorBytes) fits. */
  logValueChars: 10_000,
  /** Lines waiting for a slow reader of stderr; beyond, lines are dropped and counted. */
  logBacklogBytes: 4 * MiB,
} as const;

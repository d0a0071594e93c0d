/**
 * Every limit in the product, with its reason. A limit that is hit ends in an error that names it.
 * Units are in the names: Bytes, Ms, Count.
 */
import { imageLimits } from './limits-images.ts';
import { telemetryLimits } from './limits-telemetry.ts';

const KiB = 1024;
const MiB = 1024 * KiB;

/** All of them, by what they limit. */
export const limits = {
  /** gRPC request and reply; the kubelet itself receives at most 16 MiB (cri-client maxMsgSize). */
  grpcMessageBytes: 16 * MiB,
  /**
   * Replies may be larger than the kubelet takes: crictl takes 16 MiB too, but `berth` and other tools ask for more;
   * ExecSync alone may reach 32 MiB.
   */
  grpcReplyBytes: 64 * MiB,
  /**
   * A request that names things rather than describing them: an id, a filter, a spec of an image with as many
   * annotations as there may be, and room beside.
   */
  smallRequestBytes: 1 * MiB,
  /**
   * Fields of one request, with those of messages in it and entries of lists; a number in a list is half a one, an
   * entry of a map seven. What reading it takes depends on them and not on its bytes, and it holds the event loop, for
   * some 15 ms, or three times that the first time. They are 26 000 variables (about what Linux executes a program
   * with; each service of a namespace is seven), all groups that there may be, or 11 000 annotations.
   */
  requestFieldsCount: 80_000,
  /** Calls at once on one connection; a kubelet has some tens in flight, with probes some hundred. */
  grpcCallsCount: 1_000,
  /** Calls that begin in one turn of the event loop: a read of a connection may bring some hundred at once. */
  callsPerTurnCount: 32,
  /**
   * Text of a failed call. It travels percent-encoded in an HTTP/2 header, up to nine bytes per character, and 64 KiB
   * is what Node sends.
   */
  statusMessageChars: 4_096,
  /** A call that is not waiting by its nature and takes longer is logged as a warning. */
  slowRpcMs: 2_000,
  /** One of the ids that a log line names; a longer one would be somebody's joke. */
  loggedIdChars: 256,
  /**
   * When a call that only reads is answered at the latest: the kubelet's own patience (--runtime-request-timeout), for
   * clients that have set none.
   */
  readRpcMs: 2 * 60_000,
  /**
   * How long calls in flight may go on when the daemon is told to stop; after that their clients see UNAVAILABLE and
   * retry with the next daemon.
   */
  shutdownGraceMs: 2_000,
  /** From the last aborted call to the end of all connections: time for replies that are on their way. */
  replyFlushMs: 500,
  /** How long a daemon on our socket may take to answer before it counts as hung; one that is gone refuses at once. */
  socketTestMs: 1_000,
  /** Connections at once on our sockets that have said nothing yet; clients of gRPC and of HTTP speak first. */
  silentConnectionsCount: 256,
  /** From a connection to what it is to be, and from there to the end of an HTTP request's headers. */
  connectionSilentMs: 10_000,
  /** HTTP requests at once; cAdvisor asks a few at a time, and whoever asks more is told to come again. */
  httpRequestsCount: 64,
  /** Request line and headers of one; cAdvisor's have some 100 bytes. */
  httpHeaderBytes: 8 * KiB,
  /** From an HTTP request to the end of its answer, which may be a snapshot of the heap for a slow disk. */
  httpAnswerMs: 60_000,
  /** From SIGCHLD to the look for strays: time for those who wait for a child of theirs to take it. */
  reapAfterMs: 250,
  /** Without a question for so long, the delay of the event loop is not measured: who watches asks more often. */
  loopDelayUnaskedMs: 60_000,
  /** A manifest or index; the registries' own customary bound (CVE-2023-25153: never read unbounded JSON). */
  manifestBytes: 4 * MiB,
  /** An image config: CRI-O's bound; real ones are a few KiB, generated ones with long histories some 100 KiB. */
  imageConfigBytes: 4 * MiB,
  /**
   * Members of objects, and values in all, of a manifest or config: what JSON.parse takes does not depend on the bytes
   * but on these, and it holds the event loop. Images that expose a whole range of ports have some 16 000, and layouts
   * of 10 000 images are known.
   */
  documentMembersCount: 64_000,
  documentValuesCount: 200_000,
  /** VOLUMEs of an image: each is a directory to make in every container, or a mount. Real images have below ten. */
  imageVolumesCount: 1_024,
  /** ExposedPorts of an image: every port once. They are only shown. */
  imagePortsCount: 65_536,
  /**
   * Env, Entrypoint and Cmd of an image together, and how many they are: what Linux executes under the usual limit of
   * the stack (execve(2)). They are in memory for every image, and in the spec of every container.
   */
  imageProcessBytes: 2 * MiB,
  imageProcessCount: 16_384,
  /** Labels of an image; buildpacks put documents of some 100 KiB there. */
  imageLabelsBytes: 1 * MiB,
  /**
   * USER of an image, `name:group`: glibc has 256 characters for each (LOGIN_NAME_MAX), and each goes into every list
   * of images, of which the kubelet takes 16 MiB.
   */
  imageUserBytes: 1 * KiB,
  /** What overlay mounts take through the new mount API. */
  layersCount: 128,
  /** PATH_MAX. */
  tarPathBytes: 4096,
  /** As the kernel's own MAXSYMLINKS. */
  symlinkDepth: 40,
  /** Entries in one layer; the largest real images have some 600 000. */
  tarEntriesCount: 4_000_000,
  /**
   * Unpacked bytes of one layer, holes included, and once more what its hard links copy from lower layers (CUDA images
   * reach 10 GiB); a bomb ends here at the latest.
   */
  layerUnpackedBytes: 64 * 1024 * MiB,
  /** A PAX header or GNU long name record (a legitimate one holds a few xattrs of at most 64 KiB each). */
  tarHeaderRecordBytes: 1 * MiB,
  /** Parts of one sparse file; a map is claimed by a header and kept in memory (CVE-2025-58183). */
  tarSparsePartsCount: 65_536,
  /** Unpacked bytes per blob byte, looked at above the grace: gzip cannot exceed 1032, real layers stay below 20. */
  layerRatio: 250,
  layerRatioGraceBytes: 2 * 1024 * MiB,
  /** log2 of the largest zstd window: 128 MiB, what `zstd --long` writes and what the decoder allocates at once. */
  zstdWindowLog: 27,
  /** Threads that unpack layers; each takes some 15 MB, and more than disks can take in helps nobody. */
  unpackWorkersCount: 3,
  /**
   * Threads beside them, for layers that are unpacked while they arrive: as many as one pull downloads at once. They
   * wait for the line most of the time, and one that waits must not hold up layers that are here.
   */
  earlyLayersCount: 3,
  /** How long a worker without work is kept: the next layer of the same pull comes within that. */
  unpackWorkerIdleMs: 10_000,
  /** A worker that does not see its flag for so long is stuck in the kernel; it is given up, with its descriptors. */
  unpackCancelMs: 30_000,
  /** How often a worker tells how far it is. */
  unpackProgressMs: 200,
  /** Directories of a layer that something else replaces; each is moved away and deleted, and real layers have none. */
  layerReplacedDirsCount: 1_000,
  /** What is known of a layer, beside its files: some digests. */
  layerRecordBytes: 64 * KiB,
  /**
   * What unpacking one layer may keep in memory: names of directories and links, attributes, and the decoder's window,
   * which alone may be 128 MiB. The 100 000 directories of the largest images take some 30.
   */
  layerMemoryBytes: 152 * MiB,
  /** What is wrong with a layer that is checked, worst first: more than anybody reads. */
  layerProblemsCount: 20,
  /** PullImage flights at once on the node, and layers at once in one pull. */
  pullsCount: 3,
  pullLayersCount: 3,
  /** ExecSync output kept per stream; the rest is read and dropped (CVE-2022-1708). */
  execOutputBytes: 16 * MiB,
  /** Output of a command that is kept without asking; probes and hooks print less. */
  execSmallOutputBytes: 64 * KiB,
  /**
   * Commands at once whose larger output is kept until the client has it: each takes up to 32 MiB, and twice that on
   * its way.
   */
  execLargeOutputsCount: 2,
  /** How long a command waits for such a place while none is given back, before the rest of its output is dropped. */
  execOutputRoomMs: 30_000,
  /**
   * Commands in one container at once, those included that wait to be started. CRI-O and containerd have no limit, and
   * a probe must not fail because of what others run; this only keeps a flood from taking all the daemon's descriptors
   * (up to five each). The container's own bound is its pids limit.
   */
  execsPerContainerCount: 2_048,
  /**
   * Commands being started at once, per processor: each costs one for some ten milliseconds, and some ten megabytes as
   * long as it starts.
   */
  execStartsPerProcessorCount: 2,
  /** A command that takes longer to start waits for something else than a processor, and keeps nobody waiting. */
  execStartMs: 1_000,
  /** How long a runtime that has ended well may take to have sent the terminal of a command. */
  consoleMs: 5_000,
  /** stderr of a command held back until it is known that the words are the command's and not the runtime's. */
  execHeldBytes: 64 * KiB,
  /** After a command's end: how long a pipe that a grandchild holds may be silent before it is closed, unfollowed. */
  execDrainIdleMs: 50,
  /** And what is read from it at most: the largest pipe. */
  execDrainBytes: 1 * MiB,
  /** What a container's end leaves to its commands: dying with their PID namespace, they have an exit code to tell. */
  execAfterContainerMs: 2_000,
  /** The whole plugin chain of one ADD; slow IPAM over a network takes minutes. */
  cniAddMs: 4 * 60_000,
  /** The chain's DEL, CHECK, or one plugin's GC. */
  cniDelMs: 60_000,
  /**
   * Chains of plugins of one network at once. The rules of the packet filter are changed by one at a time, and with all
   * chains of 100 pods at once plugins may mostly try again: 56 s were seen until the pods were gone. On two busy
   * processors 8, 16, 32 and all were the same within the noise (7 to 9 s); 2 and 4 made 50 pods take twice as long.
   */
  cniChainsCount: 16,
  /** A chain that takes longer is waiting for something else than its turn: an API server, an address, a lock. */
  cniTurnMs: 5_000,
  cniResultBytes: 1 * MiB,
  /** The nat table as iptables-save prints it; kube-proxy with 10 000 services makes some 10 MiB. */
  natRulesBytes: 32 * MiB,
  /** One change of the table of host ports; nft takes milliseconds, and waits for other changes of the ruleset. */
  nftMs: 30_000,
  /** Ends of UDP flows that are forgotten for one pod, a port on an address each; IPVS has one for each service. */
  udpFlowEndsCount: 65_536,
  /** The file that names the devices to which `route_localnet` was given: bridges, or a device for each pod. */
  hostPortsFileBytes: 1 * MiB,
  /** CNI STATUS (1.1): readiness must not wait long for a plugin. */
  cniStatusMs: 10_000,
  /** How old an answer of STATUS may be when somebody asks for readiness. */
  cniStatusAgeMs: 10_000,
  /** Networks of pods that `berth check` looks at at once: a plugin takes some milliseconds of a core. */
  podChecksCount: 4,
  /** The file that remembers a pod's network: the intent and the result, each escaped. */
  cniCacheFileBytes: 4 * MiB,
  /** Configuration files of one directory; nodes have one to three. */
  cniConfFilesCount: 256,
  /** How often directories of configuration that cannot be watched are read when somebody asks. */
  cniConfUnwatchedMs: 5_000,
  /** Of what a plugin says on stderr, what an operator reads. */
  cniComplaintChars: 1_024,
  /** Plugins in one chain; real ones have three to six. */
  cniPluginsCount: 32,
  /** Addresses of one pod that a CNI result may name; they go into every status of the pod. */
  podIpsCount: 64,
  /**
   * The whole of RunPodSandbox; above the plugin chain's own bound, and above the kubelet's four minutes, so that its
   * retry finds the work going on.
   */
  podRunMs: 5 * 60_000,
  /** The whole of CreateContainer. */
  containerCreateMs: 5 * 60_000,
  /** StopPodSandbox and RemovePodSandbox: kills, then CNI DEL. */
  podStopMs: 4 * 60_000,
  /**
   * Pods whose containers are being ended at once. That takes processors, and what follows, the network, waits for the
   * kernel mostly: of a hundred pods that leave at once, the first are at their network while the last are ended.
   */
  podStopsCount: 8,
  /** Containers that take longer to end wait for something else than a processor: a device, a disk. */
  podStopTurnMs: 1_000,
  /** Before a clean-up that failed is tried again: what was busy for a moment is free then. Doubled each time. */
  cleanUpFirstPauseMs: 1_000,
  /** The longest such pause: who has mended a plugin should not wait longer, and a try costs a process or two. */
  cleanUpLongestPauseMs: 60_000,
  /** Such tries at once: while the plugin of all pods is out of order they are many, each with its processes. */
  cleanUpsAtOnceCount: 4,
  /** `runtime create` (CRI-O's container_create_timeout). */
  runtimeCreateMs: 240_000,
  runtimeCommandMs: 30_000,
  /** A start, and two questions after one that failed, each as long as a command of the runtime. */
  containerStartMs: 90_000,
  /** The longest pause before a runtime is asked again that does not say what became of a start. */
  askRuntimeAgainMs: 60_000,
  /** After a start clients ask for everything at once; what nobody waits for lets them go first. */
  startSettleMs: 1_000,
  /** A child of a daemon that was killed executes its program as soon as the kernel has let it into its cgroup. */
  lockLeftMs: 5_000,
  /** How often the service manager hears of the stages of a start, at the most. */
  startTellMs: 250,
  /** How much more time a start that goes on asks for each time: longer than any one of its stages may take. */
  startExtensionMs: 120_000,
  /** How often the service manager hears what the daemon holds. */
  statusTellMs: 30_000,
  /** How long a command waits for the daemon to accept calls; a start with many pods takes some seconds. */
  commandConnectMs: 10_000,
  /** For how long the connection to systemd stays open unused: meanwhile it hears every signal of every unit. */
  systemdIdleMs: 1_000,
  /**
   * How long a daemon that starts waits for a runtime to say what became of a start that was cut off; an answer takes
   * milliseconds, and one that hangs must not keep the node from being served.
   */
  recoverStartMs: 5_000,
  /**
   * How long the clean-up of one object may keep a daemon that starts: a plugin that hangs must not keep the node from
   * being served. What takes longer is done after that.
   */
  recoverCleanUpMs: 15_000,
  /** Objects without a record that a start cleans up at once: after a reboot, a plugin chain for each pod there was. */
  recoverCleanUpsAtOnceCount: 8,
  /** A command line that is looked at: longer ones are not ours. */
  commandLineBytes: 128 * KiB,
  /** Text of a failed command kept for its error message. */
  commandErrorBytes: 8 * KiB,
  /** How long output is awaited after a command has ended while a descendant holds its pipe (GHSA-7jxh-36q5-gcqv). */
  commandDrainMs: 200,
  /** How long a process may take to vanish after SIGKILL before the caller gets its error anyway (D state). */
  processKilledMs: 2_000,
  /** Rounds of stopping or killing the members of a tree; one that forks meanwhile needs a few more than one. */
  killRoundsCount: 64,
  /** `state`, `features` and `list` answers of a runtime; a config's annotations are in the first. */
  runtimeAnswerBytes: 4 * MiB,
  /** Of a runtime's error text, what an operator reads; the rest is noise of the same kind. */
  runtimeMessageChars: 2_000,
  /** The monitor's answer carries the runtime's stderr, escaped; upstream reads 8 KiB of it. */
  monitorAnswerBytes: 256 * KiB,
  /** A monitor whose container is gone drains the log, syncs it, and ends by itself; after this it is killed. */
  monitorGraceMs: 2_000,
  /** How long a monitor may take to open a log again after a rotation; the kubelet waits for two minutes. */
  logReopenMs: 10_000,
  /** How often the directory of exit files is read while it cannot be watched. */
  exitsUnwatchedMs: 1_000,
  /** How long a process may take to vanish after SIGKILL before StopContainer gives up (D state). */
  killGraceMs: 10_000,
  /** Block devices that one pattern of a class of block I/O means. */
  blockIoDevicesCount: 1_024,
  /** Names of blocked system calls that are told apart for one container; the rest is `other`. */
  blockedCallNamesCount: 64,
  /**
   * How long after the process is gone its monitor may take to drain the output and write the exit file: well above
   * FINISH_MS in conmon/conmon.h.
   */
  exitFileMs: 30_000,
  recordBytes: 1 * MiB,
  /** How often a file that keeps room for deletions is made anew while there is none for it. */
  reserveRetryMs: 10_000,
  /**
   * Kept on the disk of images and of containers for the day it is full: directory blocks and an image record for a
   * deletion on most file systems, and what copy-on-write ones need to delete at all.
   */
  diskReserveBytes: 4 * MiB,
  /** The same on the run root: memory, where that is a tmpfs. A record of the largest size. */
  runReserveBytes: 1 * MiB,
  eventQueueCount: 1_000,
  /**
   * Kernel files kept open for statistics: enough for 512 pods of one container. Each is a page of kernel memory; those
   * of pods beyond are opened for each reading, which takes several times as long.
   */
  statsFilesCount: 8_192,
  /** How long one that nobody reads is kept open: six rounds of the kubelet's. */
  statsFileIdleMs: 60_000,
  /** Pods read together: enough to share a native call, few enough that reading them holds up no other request. */
  statsSliceCount: 32,
  /** Slices under way at once: one is read while another is encoded; more would take processors from containers. */
  statsLanesCount: 4,
  /** How old the size of a writable layer may be when statistics are told; the kubelet looks every ten seconds. */
  layerSizeAgeMs: 10_000,
  /** What a request may be held up for by writable layers that were never measured. */
  layerSizesMs: 500,
  /** Walks over writable layers at once: a disk gains nothing from more, and small files must not keep all threads. */
  layerWalksCount: 4,
  /** One read of cgroup.procs; a cgroup with more processes than this holds is emptied in several rounds. */
  cgroupProcsBytes: 1 * MiB,
  /** /proc/self/mountinfo: fs.mount-max is 100 000 mounts by default. */
  mountinfoBytes: 64 * MiB,
  /** Of the environment of a process, what is looked at: far above what we give to anybody. */
  environBytes: 256 * KiB,
  /**
   * Clients that read events at once: the kubelet, and whoever watches beside it. A full queue of each is some
   * megabytes.
   */
  eventSubscribersCount: 32,
  streamTokenMs: 60_000,
  streamTokensCount: 1_000,
  /**
   * Connections to the stream server at once; a node's pods see some hundred at the most, and each is two descriptors
   * or more.
   */
  streamConnectionsCount: 4_096,
  /** Request line and headers of a stream request; a kubelet that proxies sends some 1 KiB. */
  streamHeaderBytes: 16 * KiB,
  /**
   * From the connection to the last header, and from the upgrade until all streams are there (the kubelet's
   * StreamCreationTimeout).
   */
  streamHeadersMs: 10_000,
  streamCreationMs: 30_000,
  /** Input of one stream that nobody has taken yet; what SPDY/3.1 lets a client send before it hears back. */
  streamInputBytes: 64 * KiB,
  /** One SPDY control frame, and its headers unpacked; real ones take some 100 bytes. */
  spdyControlBytes: 16 * KiB,
  spdyHeadersBytes: 64 * KiB,
  /** Names and values in one block of headers; each is counted with 32 bits, and more than this is not a request. */
  spdyHeadersCount: 256,
  /**
   * Frames and messages of one connection that carry nothing (pings, openings, ends), and ten times as many that carry
   * little: a forwarded connection is some six of them, and each costs the event loop some ten microseconds.
   */
  streamFramesPerSecond: 2_000,
  /** Streams open at once in one connection: two for each forwarded connection. */
  spdyStreamsCount: 1_024,
  /** Answers to pings and the like that the client has not read yet; beyond, it is not listened to. */
  streamControlBytes: 64 * KiB,
  /** One WebSocket message; some clients send a whole file in one. */
  webSocketMessageBytes: 16 * MiB,
  /** How often a connection shows that it lives: less than what clients (60 s) and middle boxes wait for. */
  streamHeartbeatMs: 15_000,
  /** How long the end of a session may take to reach a client, and how long after that a client may take to hang up. */
  streamFlushMs: 30_000,
  streamLingerMs: 5_000,
  /** One terminal size, as JSON. */
  terminalSizeBytes: 256,
  /** How many of those that arrive together are looked at, from the newest, for one that is well-formed. */
  terminalSizesCount: 16,
  /** How long sessions may take to end when the daemon stops. */
  streamCloseMs: 3_000,
  idPrefixChars: 4,
  /**
   * Sum of keys and values of labels or annotations of one object; 256 KiB is Kubernetes' own bound for annotations.
   */
  annotationsBytes: 256 * KiB,
  nameBytes: 4096,
  hostnameBytes: 64,
  mountsCount: 4096,
  /** Device nodes of a container in all: each is made, and has a rule. Nodes with many disks have some ten thousand. */
  containerDevicesCount: 16_384,
  /** Every port once, in each protocol, would be three times as many; real pods have some ten. */
  portMappingsCount: 4_096,
  /** What resolv.conf is made of; the resolver itself reads a few KiB. */
  dnsConfigBytes: 64 * KiB,
  /** The kernel's NGROUPS_MAX. */
  groupsCount: 65_536,
  /**
   * /etc/passwd and /etc/group of an image (CVE-2025-4437: never whole and unbounded): some 15 000 accounts. They are
   * read on the event loop, and a container whose user is not among them has a copy of its own in memory.
   */
  passwdBytes: 1 * MiB,
  configFileBytes: 1 * MiB,
  /** The kernel's list of AppArmor profiles: some ten thousand names, where a node has some hundred. */
  profileListBytes: 1 * MiB,
  /** CDI specs, OCI hooks, or drop-ins of the configuration, that are read; a node has a handful. */
  extensionFilesCount: 1_000,
  /** A directory of `default_mounts_file` with links is copied for each container, to memory; secrets are small. */
  defaultMountEntriesCount: 1_000,
  defaultMountBytes: 8 * MiB,
  /** Entries of one list in a CDI spec, a hook or a seccomp profile; the largest known ones have some thousand. */
  documentEntriesCount: 10_000,
  /** Files of a cgroup that one annotation sets: the kernel has some eighty. */
  unifiedEntriesCount: 256,
  /** Devices that one annotation asks for. */
  annotationDevicesCount: 256,
  /** One value in a log line; a runtime's whole kept error text (commandErrorBytes) fits. */
  logValueChars: 10_000,
  /** Lines waiting for a slow reader of stderr; beyond, lines are dropped and counted. */
  logBacklogBytes: 4 * MiB,
  ...imageLimits,
  ...telemetryLimits,
} as const;

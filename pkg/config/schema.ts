/**
 * Every table and key of a crio.conf, in one place: what Berth reads (`Option`), and what it knows but does not do
 * (`Unsupported`: its type is checked, setting it is a warning). The types of `Config`, the flags, the environment
 * variables and the rendered berth.conf all follow from these tables. PURE.
 *
 * To make Berth do what a row under `unsupported` asks for, move the row to the options of its table.
 */
import {
  BadValue,
  capability,
  choice,
  device,
  duration,
  environmentEntry,
  flag,
  integer,
  list,
  path,
  portText,
  seconds,
  sysctls,
  text,
  ulimit,
} from './kinds.ts';
import type { Kind } from './kinds.ts';
import { stringTable, workloads } from './workloads.ts';

/** One key that Berth reads. The name of the row is the name of the field in `Config`, with the unit at its end. */
export interface Option<T> {
  /** The key in the file. */
  readonly key: string;
  readonly kind: Kind<T>;
  readonly fallback: T;
  /** One or two sentences for berth.conf and --help. */
  readonly doc: string;
  /** Takes effect on SIGHUP; everything else on restart. */
  readonly reload: boolean;
  /** crio's flag where it is not the key with dashes; '' = no flag. */
  readonly flag: string;
  /** crio's one-letter flag. */
  readonly short: string;
  /**
   * Nothing reads the field yet: a value other than the default is a warning. Whoever makes it work removes the mark
   * from the row.
   */
  readonly pending: boolean;
}

/** A key of crio.conf that has no effect here: the reason, and the type it would have. */
export interface Unsupported {
  readonly kind: Kind<unknown>;
  readonly why: string;
}

interface Extra {
  readonly reload?: boolean;
  readonly flag?: string;
  readonly short?: string;
  readonly pending?: boolean;
}

/** The value types of a table of options. */
export type Values<T> = { readonly [K in keyof T]: T[K] extends Option<infer V> ? V : never };

function option<T>(key: string, kind: Kind<T>, fallback: T, doc: string, extra: Extra = {}): Option<T> {
  return {
    key,
    kind,
    fallback,
    doc,
    reload: extra.reload ?? false,
    flag: extra.flag ?? key.replaceAll('_', '-'),
    short: extra.short ?? '',
    pending: extra.pending ?? false,
  };
}

const texts = list(text);
const paths = list(path);
const NOT_YET = 'is not implemented';
const NO_CRIU =
  'is not implemented: containers are not checkpointed, and requests for it are answered with Unimplemented';
const NO_HARDWARE_CLASSES = 'is not implemented: containers belong to no class of cache, memory bandwidth or block I/O';
const NO_POLICED_CPUS = "is not implemented: CPUs and their interrupts are left to the kubelet's CPU manager";
const NO_VM = 'has no effect: it is for runtimes of type "vm" or "pod", and only "oci" is supported';
const CRASH_ONLY =
  'has no effect: Berth recovers from its records after any crash and after a reboot, and needs no such file or step';
const OWN_FILES = 'has no effect: Berth keeps these files under runroot';
const OWN_PAUSE =
  'has no effect: Berth brings its own pause program and runs it only where a pod shares its PID namespace';

function unsupported(why: string, kinds: Readonly<Record<string, Kind<unknown>>>): ReadonlyMap<string, Unsupported> {
  return new Map(Object.entries(kinds).map(([key, kind]) => [key, { kind, why }]));
}

function merge(...maps: readonly ReadonlyMap<string, Unsupported>[]): ReadonlyMap<string, Unsupported> {
  return new Map(maps.flatMap((map) => [...map]));
}

/** Any TOML value: for tables of crio.conf whose inside Berth does not look at. */
const anything: Kind<unknown> = { argument: 'value', parse: (raw) => raw, fromText: (given) => given, show: () => '' };

const number = integer(-1);

/** A list of CPUs as in cpuset(7), or ''. */
const cpuset: Kind<string> = {
  ...text,
  parse(raw) {
    const value = text.parse(raw);
    if (!/^(\d{1,5}(-\d{1,5})?(,\d{1,5}(-\d{1,5})?)*)?$/.test(value))
      throw new BadValue(`wants a list of CPUs such as "0-3,7", got ${JSON.stringify(value)}`);
    return value;
  },
};

/** conmon reads 8 KiB at a time; a log that holds less could hold none of it. */
const LOG_SIZE_LEAST = 8192;
const logSize: Kind<number> = {
  ...integer(-1),
  parse(raw) {
    const value = integer(-1).parse(raw);
    if (value >= 0 && value < LOG_SIZE_LEAST)
      throw new BadValue(`wants -1 for no limit, or at least ${LOG_SIZE_LEAST} bytes, got ${value}`);
    return value;
  },
};

// ---- [crio] ----------------------------------------------------------------------------------------------------

export const storage = {
  root: option('root', path, '/var/lib/berth', 'Images and containers, on disk. Must survive a reboot.', {
    short: 'r',
  }),
  runroot: option(
    'runroot',
    path,
    '/run/berth',
    'Records, sockets, pinned namespaces. Must not survive a reboot: put it on a tmpfs.',
  ),
  imagestore: option(
    'imagestore',
    path,
    '',
    'Images and their layers, where they are to lie on another file system than the writable ' +
      'layers of containers. "" keeps them under root. What is under root from before is not used ' +
      'any more.',
  ),
  storageDriver: option(
    'storage_driver',
    choice('overlay'),
    'overlay',
    'How the root filesystems of containers are put together. There is one driver.',
    { short: 's' },
  ),
  storageOptions: option(
    'storage_option',
    texts,
    [],
    'Options of the driver: "overlay.mountopt=metacopy=on,volatile". Others are ignored with a warning.',
    { flag: 'storage-opt' },
  ),
  logDir: option(
    'log_dir',
    path,
    '/var/log/berth/pods',
    'Container logs of pods for which the kubelet names no log directory.',
  ),
} as const;

const storageUnsupported = unsupported(CRASH_ONLY, {
  version_file: text,
  version_file_persist: text,
  internal_wipe: flag,
  internal_repair: flag,
  clean_shutdown_file: text,
});

/** What Go calls secure, whose names crio.conf uses. */
const CIPHER_SUITES = [
  'TLS_AES_128_GCM_SHA256',
  'TLS_AES_256_GCM_SHA384',
  'TLS_CHACHA20_POLY1305_SHA256',
  ...['ECDSA', 'RSA'].flatMap((key) =>
    ['AES_128_CBC_SHA', 'AES_256_CBC_SHA', 'AES_128_GCM_SHA256', 'AES_256_GCM_SHA384', 'CHACHA20_POLY1305_SHA256'].map(
      (rest) => `TLS_ECDHE_${key}_WITH_${rest}`,
    ),
  ),
];

// ---- [crio.api] ------------------------------------------------------------------------------------------------

export const api = {
  listen: option('listen', path, '/run/berth/berth.sock', 'The CRI socket, mode 0660.'),
  streamAddress: option(
    'stream_address',
    text,
    '127.0.0.1',
    'Address of the server for exec, attach and port-forward.',
  ),
  streamPort: option('stream_port', portText, 0, 'Port of that server; "0" lets the kernel choose.'),
  streamEnableTls: option('stream_enable_tls', flag, false, 'Serve exec, attach and port-forward over TLS.'),
  streamTlsCert: option('stream_tls_cert', path, '', 'Certificate (PEM). Read again when it changes.'),
  streamTlsKey: option('stream_tls_key', path, '', 'Private key (PEM). Read again when it changes.'),
  streamTlsCa: option(
    'stream_tls_ca',
    path,
    '',
    'CA (PEM) that clients must have a certificate from; "" asks for none.',
  ),
  tlsMinVersion: option(
    'tls_min_version',
    choice('VersionTLS12', 'VersionTLS13'),
    'VersionTLS12',
    'The oldest TLS that clients of streams may speak.',
  ),
  tlsCipherSuites: option(
    'tls_cipher_suites',
    list(choice(...CIPHER_SUITES)),
    [],
    'Cipher suites that they may use, by their IANA names; [] leaves the choice to OpenSSL. ' +
      'Those of TLS 1.3 are always allowed unless one of them is named.',
  ),
  streamIdleTimeoutMs: option(
    'stream_idle_timeout',
    duration(14_400_000),
    14_400_000,
    'Ends a stream after this long without data; pings do not count. "" is 4h, "0s" is never.',
  ),
  grpcMaxSendBytes: option(
    'grpc_max_send_msg_size',
    integer(1024 * 1024),
    16 * 1024 * 1024,
    'Largest reply in bytes. The kubelet itself takes 16 MiB.',
    { pending: true },
  ),
  grpcMaxReceiveBytes: option(
    'grpc_max_recv_msg_size',
    integer(1024 * 1024),
    16 * 1024 * 1024,
    'Largest request in bytes.',
    { pending: true },
  ),
} as const;

// ---- [crio.runtime] --------------------------------------------------------------------------------------------

const DEFAULT_CAPABILITIES = [
  'CHOWN',
  'DAC_OVERRIDE',
  'FSETID',
  'FOWNER',
  'SETGID',
  'SETUID',
  'SETPCAP',
  'NET_BIND_SERVICE',
  'KILL',
].map((name) => `CAP_${name}`);

export const runtime = {
  defaultRuntime: option(
    'default_runtime',
    text,
    '',
    'The handler of pods that name none. "" chooses crun where it is installed and works on this node, else runc.',
    { reload: true },
  ),
  cgroupManager: option(
    'cgroup_manager',
    choice('cgroupfs', 'systemd'),
    'cgroupfs',
    'Who makes cgroups. The default is systemd where systemd is PID 1 and manages the hierarchy, ' +
      'else cgroupfs. The kubelet asks for it.',
  ),
  conmon: option(
    'conmon',
    path,
    '',
    'The monitor for handlers without monitor_path. "" is the one that came with Berth.',
  ),
  conmonCgroup: option(
    'conmon_cgroup',
    text,
    '',
    'cgroup of monitors for handlers without monitor_cgroup: a *.slice, "pod", or "" for one outside the pods.',
  ),
  conmonEnv: option(
    'conmon_env',
    list(environmentEntry),
    [],
    'Environment of monitors for handlers without monitor_env.',
  ),
  pinnsPath: option('pinns_path', path, '', 'The program that pins namespaces. "" is the one that came with Berth.'),
  defaultUlimits: option(
    'default_ulimits',
    list(ulimit),
    [],
    'Resource limits of containers, "nofile=1024:2048". What is not named is inherited from the daemon.',
  ),
  defaultEnv: option('default_env', list(environmentEntry), [], 'Environment of every container; image and pod win.'),
  defaultCapabilities: option(
    'default_capabilities',
    list(capability),
    DEFAULT_CAPABILITIES,
    'Capabilities of containers before add and drop of the pod.',
  ),
  addInheritableCapabilities: option(
    'add_inheritable_capabilities',
    flag,
    false,
    'Also put them in the inheritable set. Leave it off: CVE-2022-27652.',
  ),
  defaultSysctls: option(
    'default_sysctls',
    sysctls,
    new Map<string, string>(),
    'Sysctls of every pod, "net.ipv4.ping_group_range=0 2147483647"; those of host namespaces are left out.',
  ),
  seccompProfile: option('seccomp_profile', path, '', 'JSON profile for RuntimeDefault. "" is the built-in one.', {
    reload: true,
  }),
  privilegedSeccompProfile: option(
    'privileged_seccomp_profile',
    path,
    '',
    'JSON profile for privileged containers. "" is none.',
    { reload: true },
  ),
  apparmorProfile: option(
    'apparmor_profile',
    text,
    'berth-default',
    'AppArmor profile for RuntimeDefault; loaded at start if it is the default.',
    { reload: true },
  ),
  cdiSpecDirs: option(
    'cdi_spec_dirs',
    paths,
    ['/etc/cdi', '/var/run/cdi'],
    'Directories of CDI specifications; later ones win.',
    { reload: true },
  ),
  allowedDevices: option(
    'allowed_devices',
    paths,
    ['/dev/fuse', '/dev/net/tun'],
    'Devices that the devices.crio.io annotation may ask for.',
  ),
  additionalDevices: option(
    'additional_devices',
    list(device),
    [],
    'Devices of every container, "/dev/host:/dev/container:rwm".',
  ),
  hooksDir: option(
    'hooks_dir',
    paths,
    ['/usr/share/containers/oci/hooks.d'],
    'Directories of OCI hooks (1.0.0); later ones win.',
  ),
  defaultMountsFile: option(
    'default_mounts_file',
    path,
    '',
    'File with a "/source:/destination" per line that is mounted into every container. "" looks ' +
      'at /etc/containers/mounts.conf, then /usr/share/containers/mounts.conf.',
  ),
  absentMountSourcesToReject: option(
    'absent_mount_sources_to_reject',
    paths,
    [],
    'Mount sources that must exist; others are made as directories.',
  ),
  deviceOwnershipFromSecurityContext: option(
    'device_ownership_from_security_context',
    flag,
    false,
    'Give devices to the user and group of the container.',
  ),
  infraCtrCpuset: option(
    'infra_ctr_cpuset',
    cpuset,
    '',
    'CPUs of infra containers, "0-1,4"; "" is all. The CPUs that the kubelet reserves, to leave the others to pods.',
  ),
  hostnetworkDisableSelinux: option(
    'hostnetwork_disable_selinux',
    flag,
    true,
    'Give pods on the network of the host no SELinux label of their own.',
  ),
  bindMountPrefix: option(
    'bind_mount_prefix',
    path,
    '',
    'Put before the source of every mount that a pod asks for: where the root of the host is, if ' +
      'Berth runs in a container itself.',
  ),
  workloads: option(
    'workloads',
    workloads,
    [],
    'Pods that an annotation marks get other CPU shares and sets, and more allowed annotations: ' +
      'a table [crio.runtime.workloads.<name>] with activation_annotation, annotation_prefix, ' +
      'allowed_annotations, and resources with cpushares, cpuquota, cpuperiod, cpuset, cpulimit.',
    { flag: '' },
  ),
  readOnly: option(
    'read_only',
    flag,
    false,
    'Mount all root filesystems read-only, with a tmpfs on /run, /tmp and /var/tmp.',
  ),
  pidsLimit: option('pids_limit', integer(-1), -1, 'Processes per container; -1 leaves it to the kubelet.'),
  noPivot: option(
    'no_pivot',
    flag,
    false,
    'Let the runtime use MS_MOVE in place of pivot_root: only for a host that runs from an initramfs.',
    { flag: '' },
  ),
  dropInfraCtr: option('drop_infra_ctr', flag, true, 'Run no pause process unless the pod shares its PID namespace.'),
  enablePodEvents: option(
    'enable_pod_events',
    flag,
    true,
    'Serve GetContainerEvents, and answer PodSandboxStatus with the statuses of containers.',
  ),
  disableHostportMapping: option(
    'disable_hostport_mapping',
    flag,
    false,
    'Leave host ports to others: neither map them nor pass them to CNI plugins.',
  ),
  timezone: option('timezone', text, '', 'An IANA name, or "Local" for that of the node; "" leaves it to the image.'),
  logLevel: option(
    'log_level',
    choice('fatal', 'panic', 'error', 'warn', 'info', 'debug', 'trace'),
    'info',
    'How much is logged.',
    { reload: true, short: 'l' },
  ),
  logFilter: option('log_filter', text, '', 'Log only messages that this regular expression matches; "" is all.', {
    reload: true,
  }),
  logSizeMaxBytes: option(
    'log_size_max',
    logSize,
    -1,
    'Bytes after which the log of a container is cut and begun anew; at least 8192, -1 is no ' +
      'limit. What was in it is lost: better let the kubelet rotate logs.',
  ),
  logToJournald: option('log_to_journald', flag, false, 'Send the output of containers to the journal, too.'),
  logFormat: option(
    'log_format',
    choice('text', 'json'),
    'text',
    'logfmt or one JSON object per line. (In a crio setup this is a flag only.)',
  ),
} as const;

const runtimeUnsupported = merge(
  unsupported(OWN_FILES, { container_exits_dir: text, container_attach_socket_dir: text, namespaces_dir: text }),
  unsupported('has no effect: it is detected', { selinux: flag }),
  unsupported('is not implemented: Go programs see the CPU limit of their cgroup by themselves since Go 1.25', {
    min_injected_gomaxprocs: number,
  }),
  unsupported('is not implemented: encrypted images are refused', { decryption_keys_path: text }),
  unsupported('is not implemented: volumes come from images, not from other artifacts', {
    additional_artifact_stores: texts,
  }),
  unsupported(NO_HARDWARE_CLASSES, { blockio_config_file: text, blockio_reload: flag, rdt_config_file: text }),
  unsupported(NO_POLICED_CPUS, {
    irqbalance_config_file: text,
    irqbalance_config_restore_file: text,
    shared_cpuset: text,
  }),
  unsupported('has no effect: pods ask for user namespaces themselves (hostUsers: false)', {
    uid_mappings: text,
    gid_mappings: text,
    minimum_mappable_uid: number,
    minimum_mappable_gid: number,
  }),
  unsupported(
    'has no effect: the grace period of a pod is what its StopContainer says, and SIGKILL is sent until it works',
    { ctr_stop_timeout: number },
  ),
  unsupported('has no effect: write them in the default_mounts_file', { default_mounts: texts }),
  unsupported(NO_CRIU, { enable_criu_support: flag }),
);

// ---- [crio.runtime.runtimes.<name>] ----------------------------------------------------------------------------

export const handler = {
  runtimePath: option('runtime_path', path, '', 'The runtime; "" looks for the handler\'s name in PATH.'),
  runtimeRoot: option(
    'runtime_root',
    path,
    '',
    'Where the runtime keeps its state; "" is a directory under runroot. Share it with nobody.',
  ),
  runtimeType: option('runtime_type', choice('oci', 'vm', 'pod', ''), 'oci', 'Only "oci" is supported.'),
  runtimeArgs: option(
    'runtime_args',
    texts,
    [],
    'Arguments before the runtime\'s subcommand. (Berth\'s own key: runsc wants "--platform=ptrace" on some nodes.)',
  ),
  inheritDefaultRuntime: option(
    'inherit_default_runtime',
    flag,
    false,
    'Take runtime_path, runtime_root, runtime_type and runtime_args from the default handler.',
  ),
  privilegedWithoutHostDevices: option(
    'privileged_without_host_devices',
    flag,
    false,
    'Privileged containers get only the devices that they ask for.',
  ),
  allowedAnnotations: option(
    'allowed_annotations',
    texts,
    [],
    'Annotations of pods that take effect and reach the runtime, by name or with a trailing "*": ' +
      '"umask.crio.io", "devices.crio.io".',
  ),
  containerMinMemoryBytes: option(
    'container_min_memory',
    { ...text, parse: memory, show: (value: bigint) => JSON.stringify(String(value)) },
    0n,
    'Smallest memory limit that a container can start with; a smaller one is refused. "0" is ' +
      'what the runtime itself needs: 500KiB for crun, 12MiB for others.',
  ),
  createTimeoutMs: option(
    'container_create_timeout',
    seconds(),
    240_000,
    'Seconds that the runtime may take to create a container; at least 30.',
  ),
  monitorPath: option('monitor_path', path, '', 'The monitor (conmon). "" is the option conmon.'),
  monitorCgroup: option('monitor_cgroup', text, '', 'A *.slice, "pod", or "" for the option conmon_cgroup.'),
  monitorEnv: option(
    'monitor_env',
    list(environmentEntry),
    [],
    'Environment of the monitor; empty for the option conmon_env.',
  ),
  defaultAnnotations: option(
    'default_annotations',
    stringTable,
    new Map<string, string>(),
    'Annotations of every container of this handler, { "key" = "value" }, as if its pod had them ' +
      'and they were allowed; those that pods bring win.',
  ),
  seccompProfile: option(
    'seccomp_profile',
    path,
    '',
    'JSON profile for RuntimeDefault with this handler. "" is that of [crio.runtime].',
  ),
  noSyncLog: option('no_sync_log', flag, false, 'Do not sync the log to disk when a container ends.'),
} as const;

const handlerUnsupported = merge(
  unsupported(NO_VM, { runtime_config_path: text, stream_websockets: flag, runtime_pull_image: flag }),
  unsupported('has no effect: commands run without a monitor, in the cgroup of their container', {
    monitor_exec_cgroup: text,
  }),
  unsupported(NO_POLICED_CPUS, { exec_cpu_affinity: text }),
  unsupported('is not implemented: a handler has one runtime_path; make a handler for each', {
    platform_runtime_paths: anything,
  }),
);

// ---- [crio.image] ----------------------------------------------------------------------------------------------

export const image = {
  globalAuthFile: option(
    'global_auth_file',
    path,
    '',
    "Registry credentials in the format of docker's config.json, for pulls that bring none.",
  ),
  namespacedAuthDir: option(
    'namespaced_auth_dir',
    path,
    '/etc/crio/auth',
    'Credentials per namespace and image, written by a credential provider.',
  ),
  pinnedImages: option(
    'pinned_images',
    texts,
    [],
    'Images that the kubelet must not collect: exact, "prefix*" or "*keyword*".',
    { reload: true },
  ),
  imageVolumes: option(
    'image_volumes',
    choice('mkdir', 'bind', 'ignore'),
    'mkdir',
    'What to do with the VOLUMEs of an image: make the directory, mount an anonymous volume, nothing.',
  ),
  pullProgressTimeoutMs: option(
    'pull_progress_timeout',
    duration(60_000),
    60_000,
    'Ends a pull in which nothing moved (network, inflate, disk) for this long; "0s" is never.',
  ),
  signaturePolicy: option(
    'signature_policy',
    path,
    '',
    'Who must have signed which images (containers-policy.json). "" is policy.json in ' +
      '/root/.config/containers or /etc/containers, and without either anything is accepted; a ' +
      'file that is named here must exist, and is asked again when a container is made.',
  ),
  signaturePolicyDir: option(
    'signature_policy_dir',
    path,
    '/etc/crio/policies',
    'A <namespace>.json in here wins over signature_policy for the pods of that namespace, at a ' +
      'pull and when a container is made.',
  ),
  shortNameMode: option(
    'short_name_mode',
    choice('enforcing', 'permissive', 'disabled'),
    'enforcing',
    'Whether a name without a registry may be ambiguous: an error, or the first registry that has it.',
  ),
} as const;

const imageUnsupported = merge(
  unsupported(OWN_PAUSE, { pause_image: text, pause_image_auth_file: text, pause_command: text }),
  unsupported('has no effect: write it in registries.conf', { insecure_registries: texts, registries: texts }),
  unsupported('has no effect: changes of registries.conf are seen at once', { auto_reload_registries: flag }),
  unsupported('has no effect: images come from registries and archives only', { default_transport: text }),
  unsupported('has no effect: unfinished downloads lie beside the images', { big_files_temporary_dir: text }),
  unsupported('is not implemented: pulls run in the cgroup of the daemon', { separate_pull_cgroup: text }),
  unsupported('is not implemented: volumes come from images, not from other artifacts', {
    oci_artifact_mount_support: flag,
  }),
);

// ---- the rest --------------------------------------------------------------------------------------------------

export const network = {
  cniDefaultNetwork: option(
    'cni_default_network',
    text,
    '',
    'Name of the network that pods join. "" is that of the first file in network_dir.',
  ),
  networkDir: option('network_dir', path, '/etc/cni/net.d', 'Directory of CNI configurations; watched.', {
    flag: 'cni-config-dir',
  }),
  statusGraceMs: option(
    'cni_status_grace_period',
    duration(0),
    0,
    'For how long CNI STATUS of a network that was ready may fail before the node counts as not ready.',
  ),
  pluginDirs: option(
    'plugin_dirs',
    paths,
    ['/opt/cni/bin', '/usr/lib/cni', '/usr/libexec/cni'],
    'Directories of CNI plugins; the first that has a plugin wins.',
    { flag: 'cni-plugin-dir' },
  ),
} as const;

export const stats = {
  collectionPeriodMs: option(
    'collection_period',
    seconds(),
    0,
    'Seconds for which statistics are kept; 0 reads them at each request.',
    { flag: 'stats-collection-period' },
  ),
} as const;

/** What a table may contain. */
export interface Table {
  /** `crio.runtime` */
  readonly name: string;
  /** One sentence for berth.conf. */
  readonly doc: string;
  readonly options: Readonly<Record<string, Option<unknown>>>;
  readonly unsupported: ReadonlyMap<string, Unsupported>;
}

/** The tables by the name of their field in `Config`, in the order of crio.conf. */
export const tables = {
  storage: { name: 'crio', doc: 'Where things are kept.', options: storage, unsupported: storageUnsupported },
  api: { name: 'crio.api', doc: 'The sockets.', options: api, unsupported: unsupported(NOT_YET, {}) },
  runtime: { name: 'crio.runtime', doc: 'How containers are run.', options: runtime, unsupported: runtimeUnsupported },
  image: { name: 'crio.image', doc: 'Pulling images.', options: image, unsupported: imageUnsupported },
  network: { name: 'crio.network', doc: 'Pod networks (CNI).', options: network, unsupported: new Map() },
  stats: {
    name: 'crio.stats',
    doc: 'Resource statistics.',
    options: stats,
    unsupported: unsupported(NOT_YET, { stats_collection_period: number, included_pod_metrics: texts }),
  },
} as const satisfies Readonly<Record<string, Table>>;

/** `[crio.runtime.runtimes.<name>]` */
export const handlerTable: Table = {
  name: 'crio.runtime.runtimes',
  doc: 'A runtime handler.',
  options: handler,
  unsupported: handlerUnsupported,
};

/** Whole tables of crio.conf without effect: their keys, for the warning's spelling check. */
export const unsupportedTables: ReadonlyMap<string, ReadonlyMap<string, Unsupported>> = new Map([
  [
    'crio.metrics',
    unsupported(NOT_YET, {
      enable_metrics: flag,
      metrics_collectors: texts,
      metrics_host: text,
      metrics_port: number,
      metrics_socket: text,
      metrics_cert: text,
      metrics_key: text,
    }),
  ],
  [
    'crio.tracing',
    unsupported(NOT_YET, { enable_tracing: flag, tracing_endpoint: text, tracing_sampling_rate_per_million: number }),
  ],
  ['crio.checkpoint_restore', unsupported(NO_CRIU, { container_level_enabled: text })],
  [
    'crio.nri',
    unsupported(NOT_YET, {
      enable_nri: flag,
      nri_plugin_dir: text,
      nri_plugin_config_dir: text,
      nri_listen: text,
      nri_disable_connections: flag,
      nri_plugin_registration_timeout: text,
      nri_plugin_request_timeout: text,
      default_validator: anything,
    }),
  ],
]);

/** An option with where it belongs. */
export interface OptionRow {
  /** Its table's member of `Config`. */
  readonly section: string;
  readonly field: string;
  readonly table: Table;
  readonly option: Option<unknown>;
}

/** Every option of every table, in the order of the file. */
export const everyOption: readonly OptionRow[] = Object.entries<Table>(tables).flatMap(([section, table]) =>
  Object.entries(table.options).map(([field, option]) => ({ section, field, table, option })),
);

/** A command-line flag of the daemon. */
export interface Flag {
  /** `log-level` */
  readonly name: string;
  /** One letter, or ''. */
  readonly short: string;
  /** `list` may be given many times and takes commas. */
  readonly argument: 'none' | 'value' | 'list';
  readonly description: string;
  /**
   * `-l, --log-level <value>`, as commander reads it. Lists want a collecting parser: commander's own `<value...>`
   * would eat the subcommand. Switches that are on by default take a word, `--drop-infra-ctr=false`.
   */
  readonly syntax: string;
  /** The key in `opts()`: `logLevel`. */
  readonly attribute: string;
  /** `CONTAINER_LOG_LEVEL`: the same by environment, as with crio. */
  readonly env: string;
}

export const DEFAULT_CONFIG_FILE = '/etc/berth/berth.conf';
export const DEFAULT_CONFIG_DIR = '/etc/berth/berth.conf.d';

/** Every flag: the files, one per option, and `--runtimes`. crio's own names. */
export const flags: readonly Flag[] = [
  makeFlag('config', 'c', 'value', `Configuration file (default ${DEFAULT_CONFIG_FILE}, which may be absent).`),
  makeFlag(
    'config-dir',
    'd',
    'value',
    `Directory of drop-in files, read recursively in lexical order after the file (default ${DEFAULT_CONFIG_DIR}).`,
  ),
  makeFlag(
    'runtimes',
    '',
    'list',
    'A runtime handler as name:path[:root[:type[:privileged_without_host_devices]]]; may be repeated.',
  ),
  ...everyOption
    .filter(({ option }) => option.flag !== '')
    .map(({ option }) =>
      makeFlag(option.flag, option.short, option.kind.argument, option.doc, option.fallback === true),
    ),
];

/** Keys that take effect on SIGHUP, as `crio.runtime.log_level`; `crio.runtime.runtimes` stands for all handlers. */
export const reloadableKeys: readonly string[] = [
  ...everyOption.filter(({ option }) => option.reload).map(({ table, option }) => `${table.name}.${option.key}`),
  'crio.runtime.runtimes',
];

function makeFlag(
  name: string,
  short: string,
  argument: Flag['argument'],
  description: string,
  onByDefault = false,
): Flag {
  const value = argument !== 'none' ? ' <value>' : onByDefault ? ' [bool]' : '';
  return {
    name,
    short,
    argument,
    description,
    syntax: `${short === '' ? '' : `-${short}, `}--${name}${value}`,
    attribute: name.replaceAll(/-([a-z0-9])/g, (_, letter: string) => letter.toUpperCase()),
    env: `CONTAINER_${name.toUpperCase().replaceAll('-', '_')}`,
  };
}

/** "12MiB", "500KiB" or bytes. */
function memory(raw: unknown): bigint {
  const value = text.parse(raw);
  const match = /^([0-9]{1,15})\s*(|[KMG]i?B?|B)$/i.exec(value.trim());
  if (match === null) throw new BadValue(`wants a size like "12MiB", got ${JSON.stringify(value)}`);
  const unit = (match[2] ?? '').charAt(0).toUpperCase();
  const shift = unit === 'K' ? 10n : unit === 'M' ? 20n : unit === 'G' ? 30n : 0n;
  return BigInt(match[1] ?? '') << shift;
}

/**
 * What CRI-O 1.36 has, as facts of its command line, its sockets and its sources: what docs/CRIO.md has a row for, and
 * what tests feed us with. Its keys are in crio-1.36.conf.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'smol-toml';

/** A crio.conf with every key at its default. */
export const CRIO_CONF = readFileSync(join(import.meta.dirname, 'crio-1.36.conf'), 'utf8');

/** How Go's flags read the word behind a flag, and a variable. */
export type FlagKind = 'text' | 'list' | 'switch' | 'number' | 'duration';

/** A flag of `crio`. */
export interface CrioFlag {
  readonly name: string;
  readonly kind: FlagKind;
  /** One letter, or another name. */
  readonly aliases: readonly string[];
  readonly variables: readonly string[];
}

/** Name, kind, aliases, variables. */
const FLAGS = `
config text c CONTAINER_CONFIG
config-dir text d CONTAINER_CONFIG_DIR
conmon text - CONTAINER_CONMON
conmon-cgroup text - CONTAINER_CONMON_CGROUP
listen text - CONTAINER_LISTEN
stream-address text - CONTAINER_STREAM_ADDRESS
stream-port text - CONTAINER_STREAM_PORT
log text - CONTAINER_LOG
log-format text - CONTAINER_LOG_FORMAT
log-level text l CONTAINER_LOG_LEVEL
log-filter text - CONTAINER_LOG_FILTER
log-dir text - CONTAINER_LOG_DIR
pause-command text - CONTAINER_PAUSE_COMMAND
pause-image text - CONTAINER_PAUSE_IMAGE
pause-image-auth-file text - CONTAINER_PAUSE_IMAGE_AUTH_FILE
separate-pull-cgroup text - PULL_IN_A_CGROUP
global-auth-file text - CONTAINER_GLOBAL_AUTH_FILE
namespaced-auth-dir text - CONTAINER_NAMESPACED_AUTH_DIR
signature-policy text - CONTAINER_SIGNATURE_POLICY
signature-policy-dir text - CONTAINER_SIGNATURE_POLICY_DIR
root text r CONTAINER_ROOT
runroot text - CONTAINER_RUNROOT
imagestore text - CONTAINER_IMAGESTORE
storage-driver text s CONTAINER_STORAGE_DRIVER
storage-opt list - CONTAINER_STORAGE_OPT
insecure-registry list - CONTAINER_INSECURE_REGISTRY
default-transport text - CONTAINER_DEFAULT_TRANSPORT
decryption-keys-path text - -
additional-artifact-stores list - -
default-runtime text - CONTAINER_DEFAULT_RUNTIME
runtimes list - CONTAINER_RUNTIMES
seccomp-profile text - CONTAINER_SECCOMP_PROFILE
privileged-seccomp-profile text - CONTAINER_PRIVILEGED_SECCOMP_PROFILE
apparmor-profile text - CONTAINER_APPARMOR_PROFILE
blockio-config-file text - -
blockio-reload switch - -
irqbalance-config-file text - -
rdt-config-file text - -
selinux switch - CONTAINER_SELINUX
cgroup-manager text - CONTAINER_CGROUP_MANAGER
pids-limit number - CONTAINER_PIDS_LIMIT
log-size-max number - CONTAINER_LOG_SIZE_MAX
log-journald switch - CONTAINER_LOG_JOURNALD
cni-default-network text - CONTAINER_CNI_DEFAULT_NETWORK
cni-config-dir text - CONTAINER_CNI_CONFIG_DIR
cni-plugin-dir list - CONTAINER_CNI_PLUGIN_DIR
cni-status-grace-period duration - CNI_STATUS_GRACE_PERIOD
image-volumes text - CONTAINER_IMAGE_VOLUMES
hooks-dir list - CONTAINER_HOOKS_DIR
default-mounts-file text - CONTAINER_DEFAULT_MOUNTS_FILE
default-capabilities list - CONTAINER_DEFAULT_CAPABILITIES
add-inheritable-capabilities switch - CONTAINER_ADD_INHERITABLE_CAPABILITIES
default-sysctls list - CONTAINER_DEFAULT_SYSCTLS
default-ulimits list - CONTAINER_DEFAULT_ULIMITS
profile switch - CONTAINER_PROFILE
profile-cpu text - CONTAINER_PROFILE_CPU
profile-mem text - CONTAINER_PROFILE_MEM
profile-port number - CONTAINER_PROFILE_PORT
enable-profile-unix-socket switch - ENABLE_PROFILE_UNIX_SOCKET
enable-metrics switch - CONTAINER_ENABLE_METRICS
metrics-host text - CONTAINER_METRICS_HOST
metrics-port number - CONTAINER_METRICS_PORT
metrics-socket text - CONTAINER_METRICS_SOCKET
metrics-cert text - CONTAINER_METRICS_CERT
metrics-key text - CONTAINER_METRICS_KEY
metrics-collectors list - CONTAINER_METRICS_COLLECTORS
enable-tracing switch - CONTAINER_ENABLE_TRACING
tracing-sampling-rate-per-million number - CONTAINER_TRACING_SAMPLING_RATE_PER_MILLION
tracing-endpoint text - CONTAINER_TRACING_ENDPOINT
enable-nri switch - -
nri-listen text - -
nri-plugin-dir text - -
nri-plugin-config-dir text - -
nri-disable-connections switch - -
nri-plugin-registration-timeout duration - -
nri-plugin-request-timeout duration - -
nri-enable-default-validator switch - -
nri-validator-reject-oci-hook-adjustment switch - -
nri-validator-reject-runtime-default-seccomp-adjustment switch - -
nri-validator-reject-unconfined-seccomp-adjustment switch - -
nri-validator-reject-custom-seccomp-adjustment switch - -
nri-validator-reject-namespace-adjustment switch - -
nri-validator-required-plugins list - -
nri-validator-tolerate-missing-plugins-annotation text - -
big-files-temporary-dir text - CONTAINER_BIG_FILES_TEMPORARY_DIR
auto-reload-registries switch - AUTO_RELOAD_REGISTRIES
pull-progress-timeout duration - CONTAINER_PULL_PROGRESS_TIMEOUT
read-only switch - CONTAINER_READ_ONLY
bind-mount-prefix text - CONTAINER_BIND_MOUNT_PREFIX
uid-mappings text - CONTAINER_UID_MAPPINGS
gid-mappings text - CONTAINER_GID_MAPPINGS
minimum-mappable-uid number - CONTAINER_MINIMUM_MAPPABLE_UID
minimum-mappable-gid number - CONTAINER_MINIMUM_MAPPABLE_GID
allowed-devices list - CONTAINER_ALLOWED_DEVICES
additional-devices list - CONTAINER_ADDITIONAL_DEVICES
cdi-spec-dirs list - CONTAINER_CDI_SPEC_DIRS
device-ownership-from-security-context switch - -
conmon-env list - CONTAINER_CONMON_ENV
default-env list - CONTAINER_DEFAULT_ENV
min-injected-gomaxprocs number - CONTAINER_INJECT_GOMAXPROCS
container-attach-socket-dir text - CONTAINER_ATTACH_SOCKET_DIR
container-exits-dir text - CONTAINER_EXITS_DIR
ctr-stop-timeout number - CONTAINER_STOP_TIMEOUT
grpc-max-recv-msg-size number - CONTAINER_GRPC_MAX_RECV_MSG_SIZE
grpc-max-send-msg-size number - CONTAINER_GRPC_MAX_SEND_MSG_SIZE
drop-infra-ctr switch - CONTAINER_DROP_INFRA_CTR
pinns-path text - CONTAINER_PINNS_PATH
namespaces-dir text - CONTAINER_NAMESPACES_DIR
no-pivot switch - CONTAINER_NO_PIVOT
stream-enable-tls switch - CONTAINER_ENABLE_TLS
stream-tls-ca text - CONTAINER_TLS_CA
tls-min-version text - CONTAINER_TLS_MIN_VERSION
tls-cipher-suites list - CONTAINER_TLS_CIPHER_SUITES
stream-tls-cert text - CONTAINER_TLS_CERT
stream-tls-key text - CONTAINER_TLS_KEY
stream-idle-timeout text - STREAM_IDLE_TIMEOUT
registries-conf text - CONTAINER_REGISTRIES_CONF
registries-conf-dir text - CONTAINER_REGISTRIES_CONF_DIR
address text - -
version-file text - CONTAINER_VERSION_FILE
version-file-persist text - CONTAINER_VERSION_FILE_PERSIST
internal-wipe switch - CONTAINER_INTERNAL_WIPE
internal-repair switch - CONTAINER_INTERNAL_REPAIR
oci-artifact-mount-support switch - CONTAINER_OCI_ARTIFACT_SUPPORT
infra-ctr-cpuset text - CONTAINER_INFRA_CTR_CPUSET
shared-cpuset text - CONTAINER_SHARED_CPUSET
clean-shutdown-file text - CONTAINER_CLEAN_SHUTDOWN_FILE
absent-mount-sources-to-reject list - CONTAINER_ABSENT_MOUNT_SOURCES_TO_REJECT
stats-collection-period number - CONTAINER_STATS_COLLECTION_PERIOD
collection-period number - COLLECTION_PERIOD
included-pod-metrics list - CONTAINER_INCLUDED_POD_METRCIS CONTAINER_INCLUDED_POD_METRICS
enable-criu-support switch - CONTAINER_ENABLE_CRIU_SUPPORT
enable-pod-events switch - ENABLE_POD_EVENTS
irqbalance-config-restore-file text - -
hostnetwork-disable-selinux switch - CONTAINER_HOSTNETWORK_DISABLE_SELINUX
pinned-images list - CONTAINER_PINNED_IMAGES
disable-hostport-mapping switch - DISABLE_HOSTPORT_MAPPING
timezone text tz CONTAINER_TIME_ZONE
short-name-mode text - CONTAINER_SHORT_NAME_MODE
`;

/** Every flag, in the order of the sources. */
export const crioFlags: readonly CrioFlag[] = linesOf(FLAGS).map((line) => {
  const [name = '', kind, aliases = '-', ...variables] = line.split(' ');
  return {
    name,
    kind: kind as FlagKind,
    aliases: aliases === '-' ? [] : aliases.split(','),
    variables: variables.filter((each) => each !== '-'),
  };
});

/** The variables that are no flag's. */
export const crioVariables = ['KUBENSMNT', 'GOTRACEBACK', 'NOTIFY_SOCKET', 'WATCHDOG_USEC'] as const;

/** A key with its table: of handlers `crio.runtime.runtimes`, of whichever of them. */
export interface CrioKey {
  readonly table: string;
  readonly key: string;
  /** What it is where nobody sets it, as TOML gives it; '' for nothing in particular. */
  readonly usual: unknown;
}

const WORKLOAD_KEYS =
  'activation_annotation annotation_prefix allowed_annotations resources.cpushares resources.cpuquota ' +
  'resources.cpuperiod resources.cpuset resources.cpulimit';

/** Every key, in the order of crio-1.36.conf. */
export const crioKeys: readonly CrioKey[] = keysBelow('crio', parse(CRIO_CONF)['crio']);

function keysBelow(table: string, value: unknown): CrioKey[] {
  return Object.entries(value as object).flatMap(([key, inner]: [string, unknown]): CrioKey[] => {
    const path = `${table}.${key}`;
    if (path === 'crio.runtime.workloads')
      return WORKLOAD_KEYS.split(' ').map((each) => ({ table: path, key: each, usual: '' }));
    if (path === 'crio.runtime.runtimes')
      return Object.values(inner as object).flatMap((handler) => keysBelow(path, handler));
    const isTable = typeof inner === 'object' && !Array.isArray(inner) && Object.keys(inner as object).length > 0;
    return isTable ? keysBelow(path, inner) : [{ table, key, usual: inner }];
  });
}

/** A command, its other names, and its flags. */
export interface CrioCommand {
  readonly name: string;
  readonly aliases: readonly string[];
  readonly flags: readonly string[];
}

/** Every command: its words, the last with its other names, and its flags. */
export const crioCommands: readonly CrioCommand[] = linesOf(`
check --age -a --force -f --repair -r --quick -q --wipe -w
complete|completion
config --default
help
man
markdown|md
status --socket -s
status config|c
status containers|container|cs|s --id -i
status info|i
status goroutines|g
status heap|hp --file -f
version --json -j --verbose -v
wipe --force -f
`).map((line) => {
  const all = line.split(' ');
  const [name = '', ...aliases] = all
    .filter((word) => !word.startsWith('-'))
    .join(' ')
    .split('|');
  return { name, aliases, flags: all.filter((word) => word.startsWith('-')) };
});

/** What is shown by HTTP on the CRI socket; the last ones only with --enable-profile-unix-socket. */
export const crioPaths: readonly string[] = linesOf(`
/config
/info
/containers/{id}
/pause/{id}
/unpause/{id}
/debug/goroutines
/debug/heap
/debug/pprof/
/debug/pprof/cmdline
/debug/pprof/profile
/debug/pprof/symbol
/debug/pprof/trace
`);

/** An annotation of pods or containers. */
export interface CrioAnnotation {
  readonly name: string;
  /** The older name, which is accepted still; '' for none. */
  readonly first: string;
}

/** In the order of the sources; those that are prefixes end in a dot or a star. */
export const crioAnnotations: readonly CrioAnnotation[] = linesOf(`
cgroup2-mount-hierarchy-rw.crio.io io.kubernetes.cri-o.cgroup2-mount-hierarchy-rw
cpu-c-states.crio.io
cpu-freq-governor.crio.io
cpu-load-balancing.crio.io
cpu-quota.crio.io
cpu-shared.crio.io
devices.crio.io io.kubernetes.cri-o.Devices
disable-fips.crio.io io.kubernetes.cri-o.DisableFIPS
irq-load-balancing.crio.io
link-logs.crio.io io.kubernetes.cri-o.LinkLogs
io.containers.trace-syscall
platform-runtime-path.crio.io io.kubernetes.cri-o.PlatformRuntimePath
pod-linux-overhead.crio.io io.kubernetes.cri-o.PodLinuxOverhead
pod-linux-resources.crio.io io.kubernetes.cri-o.PodLinuxResources
seccomp-notifier-action.crio.io io.kubernetes.cri-o.seccompNotifierAction
seccomp-profile.crio.io seccomp-profile.kubernetes.cri-o.io
shm-size.crio.io io.kubernetes.cri-o.ShmSize
skip-gomaxprocs.crio.io
spoofed.crio.io io.kubernetes.cri-o.Spoofed
org.opencontainers.image.stopSignal
try-skip-volume-selinux-label.crio.io io.kubernetes.cri-o.TrySkipVolumeSELinuxLabel
umask.crio.io io.kubernetes.cri-o.umask
unified-cgroup.crio.io io.kubernetes.cri-o.UnifiedCgroup
userns-mode.crio.io io.kubernetes.cri-o.userns-mode
io.kubernetes.cri.rdt-class
bundle
org.systemd.property.
org.criu.config
module.wasm.image/variant
io.kubernetes.cri.container-type
run.oci.
`).map((line) => {
  const [name = '', first = ''] = line.split(' ');
  return { name, first };
});

/** Metrics, without `container_runtime_crio_` before them. */
export const crioMetrics: readonly string[] = Array.from(
  CRIO_CONF.match(/^metrics_collectors = .*$/m)?.[0].matchAll(/"([a-z_]+)"/g) ?? [],
  ([, name = '']) => name,
);

function linesOf(text: string): string[] {
  return text
    .split('\n')
    .map((line) => line.trim())
    .filter((line) => line !== '');
}

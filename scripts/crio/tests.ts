/** Which tests show what a key of crio.conf does, by titles or parts of them. */
import type { Ground } from './proofs.ts';

const DEFAULTS =
  'has defaults of the administrator: mounts, time zone, environment, limits, devices, sysctls, capabilities';
const WORKLOAD = 'has what its workload and its handler add: CPUs, annotations, a seccomp profile';
const MONITOR = 'is watched by the conmon that is named, in its environment (conmon_env), outside the pod';
const OWN_MONITOR = 'is its own, unless one is named for all, as with CRI-O';
const HANDLER_MONITOR = 'watches containers of a handler with its monitor (monitor_path) and environment (monitor_env)';
const QUOTAS = 'gives a workload its quota, period and limit of processors';
const LEAST = 'maps no ids below minimum_mappable_uid and minimum_mappable_gid';
const STREAMS = 'serves streams at stream_address and stream_port';
const TLS = 'asks for a client certificate, and serves a renewed one of its own at once';
const OLD_TLS = 'speaks no older version, and uses no other suite, than it was told';
const PROFILES = 'changes seccomp profiles: by name, and by content; a broken one is not taken';
const ANNOTATIONS = 'follows only the annotations that its handler allows';
const PINNED = 'changes which images are pinned, the pause image among them';
const POLICIES = 'a pull is decided by the namespace’s policy, else by the node’s';
const AUTH = 'files: the namespace’s for this image, then the global one; they work once and always';
const NETWORK = 'joins the cni_default_network of network_dir, by plugins of plugin_dirs and plugin_dir';
const RUNTIME = 'runs the runtime_path that is named, with its runtime_root, also where it is inherited';
const LOG_CUT = 'has a log that is cut, an infra container on CPUs of its own, and mounts from where the host is';
const PLACES = 'has its data at root, its records at runroot, and logs of nameless directories at log_dir';
const STORAGE = 'has storage_option in its mounts, and one storage_driver';
const HOOKS = 'runs hooks of hooks_dir, mounts /etc/containers/mounts.conf, and gives pods their workload';
const GOMAXPROCS = 'has GOMAXPROCS of min_injected_gomaxprocs where its pod has no limit, unless that skips it';
const TUNED = 'changes their idle states, governor and interrupts from its start to its end, and irqbalance';
const SHARED = 'shares those of shared_cpuset where cpu-shared says so, and begins commands there';
const METRICS_PLACE = 'are given at metrics_host and metrics_port, at /metrics and nowhere else';
const METRICS_TLS = 'are given by TLS, with a certificate that is made for it, and only what is asked for';
const TABLES = 'takes tables of handlers whole, and goes on without those that CRI-O drops, as it does';
const NO_PIVOT = 'is told no_pivot, and a handler of its own no_sync_log';

/** Keys that only a unit test shows, and why. */
export const GROUNDED: Readonly<Record<string, Ground>> = {};

/** By the full name of the key. */
export const TESTS: Readonly<Record<string, readonly string[]>> = {
  'crio.runtime.additional_artifact_stores': [
    'lie ready in additional stores, and can be switched off',
    'that lie ready hide a pulled one of the same tag from lists, as long as their store is there',
  ],
  'crio.image.oci_artifact_mount_support': ['lie ready in additional stores, and can be switched off'],
  'crio.root': [PLACES],
  'crio.runroot': [PLACES],
  'crio.imagestore': ['lie there with their layers, and both disks are reported for what is on them'],
  'crio.storage_driver': [STORAGE],
  'crio.storage_option': [STORAGE, 'adds the storage options of drop-ins to those of the file, each once'],
  'crio.log_dir': [PLACES],
  'crio.api.listen': ['is read where Berth has no configuration of its own, and that is said'],
  'crio.api.stream_address': [STREAMS],
  'crio.api.stream_port': [STREAMS],
  'crio.api.stream_enable_tls': [TLS],
  'crio.api.stream_tls_cert': [TLS],
  'crio.api.stream_tls_key': [TLS],
  'crio.api.stream_tls_ca': [TLS],
  'crio.api.stream_idle_timeout': [
    'ends a stream without data after stream_idle_timeout',
    'the idle time of a session',
  ],
  'crio.api.tls_min_version': [OLD_TLS],
  'crio.api.tls_cipher_suites': [OLD_TLS],
  'crio.runtime.no_pivot': [NO_PIVOT],
  'crio.runtime.selinux': [
    'selinux = false, a container has no label of containers',
    'have labels of SELinux where the kernel has it, unless selinux is false',
  ],
  'crio.runtime.log_to_journald': ['log_to_journald, the journal has what the container says'],
  'crio.runtime.drop_infra_ctr': ['keeps an infra container in every pod (drop_infra_ctr = false)'],
  'crio.runtime.read_only': ['has a read-only root with places for scratch (read_only)'],
  'crio.runtime.conmon': [MONITOR, OWN_MONITOR],
  'crio.runtime.conmon_cgroup': [MONITOR, 'conmon_cgroup, the monitor is in that slice, whatever its handler says'],
  'crio.runtime.conmon_env': [MONITOR, OWN_MONITOR],
  'crio.runtime.hooks_dir': [HOOKS, 'runs the OCI hooks that match it'],
  'crio.runtime.default_capabilities': [DEFAULTS],
  'crio.runtime.add_inheritable_capabilities': [
    'has inheritable capabilities where add_inheritable_capabilities says so',
  ],
  'crio.runtime.default_env': [DEFAULTS],
  'crio.runtime.default_sysctls': [DEFAULTS],
  'crio.runtime.default_ulimits': [DEFAULTS],
  'crio.runtime.allowed_devices': [ANNOTATIONS],
  'crio.runtime.additional_devices': [DEFAULTS],
  'crio.runtime.cdi_spec_dirs': [
    'gets CDI devices, by field and annotation, from specs as they are now',
    'changes the directories of CDI specs',
  ],
  'crio.runtime.device_ownership_from_security_context': ['owns its devices where the configuration says so'],
  'crio.runtime.default_runtime': [
    'changes the default runtime for new pods; those that are there keep theirs, over a restart',
  ],
  'crio.runtime.seccomp_profile': [PROFILES],
  'crio.runtime.privileged_seccomp_profile': [
    'is privileged without the devices of the node, and with a profile, where the handler says so',
  ],
  'crio.runtime.apparmor_profile': ['changes the AppArmor profile, where there is AppArmor'],
  'crio.runtime.cgroup_manager': ['makes cgroups as cgroup_manager says, and tells the kubelet'],
  'crio.runtime.default_mounts_file': [DEFAULTS, HOOKS],
  'crio.runtime.bind_mount_prefix': [LOG_CUT],
  'crio.runtime.log_level': ['changes the level of the log, and says so whichever way'],
  'crio.runtime.log_filter': ['shows only what log_filter lets through, from a reload on'],
  'crio.runtime.pinns_path': ['pins user namespaces by the program of pinns_path'],
  'crio.runtime.pids_limit': ['has the processes of pids_limit at most'],
  'crio.runtime.log_size_max': [LOG_CUT],
  'crio.runtime.infra_ctr_cpuset': [LOG_CUT],
  'crio.runtime.shared_cpuset': [SHARED],
  'crio.runtime.blockio_config_file': ['has the rates of its class of block I/O (blockio_config_file)'],
  'crio.runtime.irqbalance_config_file': [TUNED],
  'crio.runtime.irqbalance_config_restore_file': [TUNED],
  'crio.runtime.min_injected_gomaxprocs': [GOMAXPROCS],
  'crio.runtime.runtimes.exec_cpu_affinity': [SHARED],
  'crio.runtime.absent_mount_sources_to_reject': [
    'make a missing source, or refuse it where the configuration says so',
  ],
  'crio.runtime.enable_pod_events': ['tells no events of containers where enable_pod_events is off'],
  'crio.runtime.hostnetwork_disable_selinux': [
    'hostnetwork_disable_selinux, a pod on the network of the host has no label of containers',
    'hostnetwork_disable_selinux = false, it has one',
  ],
  'crio.runtime.minimum_mappable_uid': [LEAST, 'is refused as CRI-O refuses it'],
  'crio.runtime.minimum_mappable_gid': [LEAST, 'is refused as CRI-O refuses it'],
  'crio.runtime.disable_hostport_mapping': ['leaves host ports to others (disable_hostport_mapping)'],
  'crio.runtime.timezone': [DEFAULTS],
  'crio.runtime.runtimes.runtime_path': [RUNTIME],
  'crio.runtime.runtimes.runtime_root': [RUNTIME],
  'crio.runtime.runtimes.inherit_default_runtime': [RUNTIME],
  'crio.runtime.runtimes.runtime_type': ['leaves out a handler whose runtime_type it has not, and says so', TABLES],
  'crio.runtime.runtimes.privileged_without_host_devices': [
    'is privileged without the devices of the node, and with a profile, where the handler says so',
  ],
  'crio.runtime.runtimes.allowed_annotations': [ANNOTATIONS, TABLES],
  'crio.runtime.runtimes.monitor_path': [HANDLER_MONITOR, OWN_MONITOR],
  'crio.runtime.runtimes.monitor_cgroup': ['monitor_cgroup, the monitor is in that slice', OWN_MONITOR],
  'crio.runtime.runtimes.monitor_env': [HANDLER_MONITOR, OWN_MONITOR],
  'crio.runtime.runtimes.container_min_memory': [
    'have a least memory by handler (container_min_memory)',
    'refuses what has less than container_min_memory, a fraction of MiB',
  ],
  'crio.runtime.runtimes.no_sync_log': [NO_PIVOT],
  'crio.runtime.runtimes.default_annotations': [WORKLOAD],
  'crio.runtime.runtimes.seccomp_profile': [WORKLOAD],
  'crio.runtime.runtimes.container_create_timeout': [
    'hanging: killed with all it started, and the stage in the error (K13)',
  ],
  'crio.runtime.workloads.activation_annotation': [WORKLOAD],
  'crio.runtime.workloads.annotation_prefix': [WORKLOAD],
  'crio.runtime.workloads.allowed_annotations': [WORKLOAD],
  'crio.runtime.workloads.resources.cpushares': [WORKLOAD, HOOKS],
  'crio.runtime.workloads.resources.cpuquota': [QUOTAS, 'by one resource, which wins'],
  'crio.runtime.workloads.resources.cpuperiod': [QUOTAS, 'by a limit and a period'],
  'crio.runtime.workloads.resources.cpuset': [WORKLOAD],
  'crio.runtime.workloads.resources.cpulimit': [QUOTAS, 'by a limit in thousandths of a CPU'],
  'crio.image.global_auth_file': [
    AUTH,
    'come by the mirrors of registries.conf.d, with the credentials of global_auth_file',
  ],
  'crio.image.namespaced_auth_dir': [
    AUTH,
    'come with the credentials of their namespace in namespaced_auth_dir, which CRI-O makes, and once',
  ],
  'crio.image.pause_image': [PINNED],
  'crio.image.pinned_images': [PINNED],
  'crio.image.signature_policy': [POLICIES],
  'crio.image.signature_policy_dir': [POLICIES],
  'crio.image.image_volumes': [
    'gets volumes of its own for the VOLUMEs of its image, with what the image has there (image_volumes = bind)',
  ],
  'crio.image.pull_progress_timeout': [
    'are given up where nothing moves for pull_progress_timeout',
    'stalls: the next mirror goes on where it stopped',
  ],
  'crio.image.short_name_mode': ['by a short name are ambiguous (short_name_mode), unless that is disabled'],
  'crio.network.cni_default_network': [NETWORK],
  'crio.network.network_dir': [NETWORK],
  'crio.network.plugin_dir': [NETWORK],
  'crio.network.plugin_dirs': [NETWORK],
  'crio.network.cni_status_grace_period': [
    'is ready within cni_status_grace_period, and the log says when it fails and when it is well',
    'may fail for a while, if the network was ready before',
  ],
  'crio.stats.included_pod_metrics': [
    'are those of the groups that included_pod_metrics has, beside what is of none',
    'gives the metrics of included_pod_metrics',
  ],
  'crio.stats.collection_period': ['are not read again within it'],
  'crio.metrics.enable_metrics': ['are CRI-O’s after a pod’s life: names, labels, and what they say'],
  'crio.metrics.metrics_collectors': [METRICS_TLS],
  'crio.metrics.metrics_host': [METRICS_PLACE],
  'crio.metrics.metrics_port': [METRICS_PLACE],
  'crio.metrics.metrics_socket': ['are CRI-O’s after a pod’s life: names, labels, and what they say'],
  'crio.metrics.metrics_cert': [METRICS_TLS, 'serves a certificate that was renewed to the second client after that'],
  'crio.metrics.metrics_key': [METRICS_TLS, 'makes a certificate where there is none, and keeps one that is there'],
  'crio.tracing.enable_tracing': ['of calls that their client wants traced, with their stages, and of no others'],
  'crio.tracing.tracing_endpoint': ['cost nothing but a line where there is no collector'],
  'crio.tracing.tracing_sampling_rate_per_million': [
    'of all calls, where tracing_sampling_rate_per_million is a million',
  ],
};

import { assert } from 'chai';
import { handlerTable, ignoredTables, tables } from './schema.ts';
import type { Table } from './option.ts';

/** crio.conf(5) of 2026, by table. */
const KEYS: Readonly<Record<string, string>> = {
  crio:
    'root runroot storage_driver storage_option imagestore log_dir version_file ' +
    'version_file_persist internal_wipe internal_repair clean_shutdown_file',
  'crio.api':
    'listen stream_address stream_port stream_enable_tls stream_tls_cert stream_tls_key ' +
    'stream_tls_ca stream_idle_timeout tls_min_version tls_cipher_suites grpc_max_send_msg_size ' +
    'grpc_max_recv_msg_size',
  'crio.runtime':
    'default_runtime default_ulimits no_pivot decryption_keys_path additional_artifact_stores ' +
    'conmon conmon_cgroup conmon_env default_env min_injected_gomaxprocs selinux seccomp_profile ' +
    'privileged_seccomp_profile ' +
    'apparmor_profile blockio_config_file blockio_reload rdt_config_file cdi_spec_dirs ' +
    'irqbalance_config_file irqbalance_config_restore_file cgroup_manager default_capabilities ' +
    'add_inheritable_capabilities default_sysctls ' +
    'allowed_devices additional_devices hooks_dir default_mounts default_mounts_file pids_limit ' +
    'log_level log_filter log_size_max log_to_journald container_exits_dir ' +
    'container_attach_socket_dir bind_mount_prefix read_only ' +
    'uid_mappings gid_mappings minimum_mappable_uid minimum_mappable_gid ctr_stop_timeout ' +
    'drop_infra_ctr infra_ctr_cpuset shared_cpuset namespaces_dir pinns_path ' +
    'absent_mount_sources_to_reject ' +
    'device_ownership_from_security_context enable_criu_support enable_pod_events ' +
    'hostnetwork_disable_selinux disable_hostport_mapping timezone workloads',
  'crio.runtime.runtimes':
    'runtime_path runtime_root runtime_type inherit_default_runtime runtime_config_path ' +
    'privileged_without_host_devices allowed_annotations container_min_memory ' +
    'platform_runtime_paths no_sync_log ' +
    'default_annotations stream_websockets seccomp_profile container_create_timeout monitor_path ' +
    'monitor_cgroup monitor_env monitor_exec_cgroup runtime_pull_image exec_cpu_affinity',
  'crio.image':
    'default_transport global_auth_file namespaced_auth_dir pause_image pause_image_auth_file ' +
    'pause_command pinned_images signature_policy signature_policy_dir image_volumes ' +
    'insecure_registries registries ' +
    'big_files_temporary_dir separate_pull_cgroup auto_reload_registries pull_progress_timeout ' +
    'oci_artifact_mount_support short_name_mode',
  'crio.network': 'cni_default_network network_dir plugin_dir plugin_dirs cni_status_grace_period',
  'crio.metrics': 'enable_metrics metrics_collectors metrics_host metrics_port metrics_socket metrics_cert metrics_key',
  'crio.tracing': 'enable_tracing tracing_endpoint tracing_sampling_rate_per_million',
  'crio.stats': 'stats_collection_period collection_period included_pod_metrics',
  'crio.nri':
    'enable_nri nri_plugin_dir nri_plugin_config_dir nri_listen nri_disable_connections ' +
    'nri_plugin_registration_timeout nri_plugin_request_timeout default_validator',
  'crio.checkpoint_restore': 'container_level_enabled',
};

describe('the keys of crio.conf', () => {
  it('knows every key of crio.conf: each does something, or is a warning that says why not', async () => {
    const known = new Map(
      [...Object.values<Table>(tables), handlerTable].map((table) => [
        table.name,
        new Map([
          ...[...table.ignored].map(([key, { why }]) => [key, why] as const),
          ...Object.values(table.options).map(({ key }) => [key, ''] as const),
        ]),
      ]),
    );
    for (const [table, rows] of ignoredTables) known.set(table, new Map([...rows].map(([key, { why }]) => [key, why])));
    for (const [table, words] of Object.entries(KEYS)) {
      for (const key of words.split(' ')) {
        const why = known.get(table)?.get(key);
        assert.isDefined(why, `${table}.${key}`);
        assert.match(why ?? '', /^(has no effect: .|is not implemented|puts every container|$)/, `${table}.${key}`);
      }
    }
  });
});

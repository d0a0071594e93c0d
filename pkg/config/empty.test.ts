/** `""` and absence for every key of crio.conf, and for every variable; the world's own files. */
import { assert } from 'chai';
import { stringify } from 'smol-toml';
import { describeEmptiness, type Rule } from '../base/fake-emptiness.ts';
import { load, MAIN, refusal } from './fake.ts';
import { flags } from './flags.ts';
import { type Config, loadConfig } from './index.ts';
import type { Table } from './option.ts';
import { handlerTable, ignoredTables, tables } from './schema.ts';

/** Every key with something else than its default, by table. */
const SAMPLE = {
  crio: {
    root: '/r',
    runroot: '/rr',
    imagestore: '/i',
    storage_driver: 'vfs',
    storage_option: ['overlay.mountopt=volatile'],
    log_dir: '/l',
    version_file: '/v',
    version_file_persist: '/v',
    internal_wipe: false,
    internal_repair: false,
    clean_shutdown_file: '/c',
    api: {
      listen: '/s.sock',
      crio_socket: '/c.sock',
      stream_address: '::1',
      stream_port: '10010',
      stream_enable_tls: true,
      stream_tls_cert: '/c.pem',
      stream_tls_key: '/k.pem',
      stream_tls_ca: '/ca.pem',
      tls_min_version: 'VersionTLS13',
      tls_cipher_suites: ['TLS_AES_128_GCM_SHA256'],
      stream_idle_timeout: '1h',
      grpc_max_send_msg_size: 1048576,
      grpc_max_recv_msg_size: 1048576,
    },
    runtime: {
      default_runtime: 'crun',
      cgroup_manager: 'systemd',
      conmon: '/conmon',
      conmon_cgroup: 'x.slice',
      conmon_env: ['A=1'],
      pinns_path: '/pinns',
      default_ulimits: ['nofile=1:2'],
      default_env: ['A=1'],
      default_capabilities: ['CHOWN'],
      add_inheritable_capabilities: true,
      default_sysctls: ['net.core.somaxconn=1'],
      seccomp_profile: '/s.json',
      privileged_seccomp_profile: '/p.json',
      apparmor_profile: 'mine',
      cdi_spec_dirs: ['/cdi'],
      allowed_devices: ['/dev/kvm'],
      additional_devices: ['/dev/fuse'],
      hooks_dir: ['/hooks'],
      default_mounts_file: '/m',
      absent_mount_sources_to_reject: ['/etc/hostname'],
      device_ownership_from_security_context: true,
      infra_ctr_cpuset: '0-1',
      hostnetwork_disable_selinux: false,
      bind_mount_prefix: '/host',
      read_only: true,
      pids_limit: 100,
      no_pivot: true,
      drop_infra_ctr: false,
      enable_pod_events: false,
      disable_hostport_mapping: true,
      timezone: 'Local',
      log_level: 'debug',
      log_filter: 'x',
      log_size_max: 8192,
      log_to_journald: true,
      log_format: 'json',
      container_exits_dir: '/e',
      container_attach_socket_dir: '/a',
      namespaces_dir: '/n',
      selinux: false,
      separate_pull_cgroup: 'pod',
      min_injected_gomaxprocs: 2,
      decryption_keys_path: '/k',
      additional_artifact_stores: ['/a'],
      blockio_config_file: '/b',
      blockio_reload: true,
      rdt_config_file: '/r',
      irqbalance_config_file: '/q',
      irqbalance_config_restore_file: '/q',
      shared_cpuset: '2',
      minimum_mappable_uid: 1000,
      minimum_mappable_gid: 1000,
      ctr_stop_timeout: 60,
      default_mounts: ['/a:/b'],
      enable_criu_support: false,
      workloads: {
        w: {
          activation_annotation: 'a',
          annotation_prefix: 'p',
          allowed_annotations: ['umask.crio.io'],
          resources: { cpushares: 1, cpuquota: 1, cpuperiod: 1000, cpuset: '0', cpulimit: 1 },
        },
      },
      runtimes: {
        h: {
          runtime_path: '/h',
          runtime_root: '/run/h',
          runtime_args: ['--x'],
          privileged_without_host_devices: true,
          allowed_annotations: ['umask.crio.io'],
          container_min_memory: '7.5MiB',
          container_create_timeout: 60,
          monitor_path: '/conmon',
          monitor_cgroup: 'pod',
          monitor_env: ['A=1'],
          default_annotations: { a: '1' },
          seccomp_profile: '/s.json',
          no_sync_log: true,
          runtime_config_path: '/c',
          stream_websockets: true,
          runtime_pull_image: true,
          monitor_exec_cgroup: 'container',
          exec_cpu_affinity: 'first',
          platform_runtime_paths: { 'linux/arm64': '/h' },
        },
        vm: { runtime_type: 'vm' },
        heir: { inherit_default_runtime: true },
      },
    },
    image: {
      global_auth_file: '/a.json',
      namespaced_auth_dir: '/ns',
      pinned_images: ['a*'],
      pause_image: 'pause:1',
      image_volumes: 'bind',
      pull_progress_timeout: '5s',
      signature_policy: '/p.json',
      signature_policy_dir: '/policies',
      registries_conf: '/r.conf',
      registries_conf_dir: '/r.d',
      short_name_mode: 'disabled',
      pause_image_auth_file: '/a.json',
      pause_command: '/p',
      insecure_registries: ['x'],
      registries: ['x'],
      auto_reload_registries: true,
      default_transport: 'dir:',
      big_files_temporary_dir: '/tmp',
      oci_artifact_mount_support: false,
    },
    network: {
      cni_default_network: 'n',
      network_dir: '/net.d',
      cni_status_grace_period: '1m',
      plugin_dirs: ['/cni'],
      plugin_dir: '/old',
    },
    stats: { collection_period: 10, stats_collection_period: 10, included_pod_metrics: ['cpu'] },
    metrics: {
      enable_metrics: true,
      metrics_collectors: ['operations'],
      metrics_host: '::1',
      metrics_port: 1,
      metrics_socket: '/m.sock',
      metrics_cert: '/c',
      metrics_key: '/k',
    },
    tracing: { enable_tracing: true, tracing_endpoint: 'x:1', tracing_sampling_rate_per_million: 1 },
    checkpoint_restore: { container_level_enabled: 'none' },
    nri: {
      enable_nri: false,
      nri_plugin_dir: '/p',
      nri_plugin_config_dir: '/c',
      nri_listen: '/n.sock',
      nri_disable_connections: true,
      nri_plugin_registration_timeout: '1s',
      nri_plugin_request_timeout: '1s',
      default_validator: { nri_enable_default_validator: true },
    },
  },
};

/** Refused when they are set, so no sample can have them. */
const REFUSED = ['crio.runtime.uid_mappings', 'crio.runtime.gid_mappings'];

/** What is not simply unset. */
const RULES: Readonly<Record<string, Rule>> = {
  'crio.runtime.workloads.*.activation_annotation': 'needed',
  'crio.runtime.runtimes.*.default_annotations.*': {
    absent: 'unset',
    empty: 'own',
    why: 'an annotation may have an empty value',
  },
};

const NAMES = [
  'crio.runtime.workloads',
  'crio.runtime.runtimes',
  'crio.runtime.runtimes.*.default_annotations',
  'crio.runtime.runtimes.*.platform_runtime_paths',
];

function pathsIn(value: unknown, path: string): string[] {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return [];
  return Object.entries(value).flatMap(([key, inner]) => {
    const own = `${path === '' ? '' : `${path}.`}${NAMES.includes(path) ? '*' : key}`;
    return [own, ...pathsIn(inner, own)];
  });
}

/** What a file comes to: the configuration, and what is said about it but for the places. */
async function outcome(text: string): Promise<{ readonly config: Config; readonly warnings: readonly string[] }> {
  const { config, warnings } = await load(text);
  return { config, warnings: warnings.map((each) => each.replace(/^\S+: /, '')).sort() };
}

describeEmptiness({
  name: 'crio.conf',
  notation: 'toml',
  samples: [SAMPLE],
  read: (document) => outcome(stringify(document)),
  names: NAMES,
  keys: Object.fromEntries([...new Set(pathsIn(SAMPLE, ''))].map((path) => [path, RULES[path] ?? 'unset'])),
});

describe('empty values of the configuration', () => {
  it('are tried for every key that there is', () => {
    const tried = new Set(pathsIn(SAMPLE, ''));
    const under = [...Object.values<Table>(tables), { ...handlerTable, name: `${handlerTable.name}.*` }];
    const keys = [
      ...under.flatMap(({ name, options, ignored }) =>
        [...Object.values(options).map(({ key }) => key), ...ignored.keys()].map((key) => `${name}.${key}`),
      ),
      ...[...ignoredTables].flatMap(([name, rows]) => [...rows.keys()].map((key) => `${name}.${key}`)),
    ];
    assert.deepEqual(
      keys.filter((key) => !tried.has(key)),
      REFUSED,
    );
  });

  it('of a later file take a key back to its default, but for the storage, as CRI-O has it', async () => {
    const { config } = await load({
      [MAIN]: '[crio]\nroot = "/r"\nlog_dir = "/l"\n[crio.runtime]\nlog_level = "debug"\ndefault_env = ["A=1"]',
      '/etc/berth/berth.conf.d/1': '[crio]\nroot = ""\nlog_dir = ""\n[crio.runtime]\nlog_level = ""\ndefault_env = ""',
    });
    assert.deepEqual([config.storage.root, config.storage.logDir], ['/r', '/var/log/berth/pods']);
    assert.deepEqual([config.runtime.logLevel, config.runtime.defaultEnv], ['info', []]);
  });

  it('of lists are no entries', async () => {
    const { config } = await load(
      '[crio.runtime]\nhooks_dir = ["", "/h"]\ndefault_capabilities = [""]\ndefault_sysctls = [""]\n' +
        'default_ulimits = [""]\nadditional_devices = [""]\ndefault_env = [""]',
    );
    const { hooksDir, defaultCapabilities, defaultSysctls, defaultUlimits, additionalDevices, defaultEnv } =
      config.runtime;
    assert.deepEqual(hooksDir, ['/h']);
    assert.deepEqual([defaultCapabilities, defaultUlimits, additionalDevices, defaultEnv], [[], [], [], []]);
    assert.equal(defaultSysctls.size, 0);
  });

  it('of variables and flags say nothing, each of them', async () => {
    const text = stringify(SAMPLE);
    const plain = await load(text);
    const variables = flags.flatMap((flag) => flag.variables);
    for (const variable of variables)
      assert.deepEqual(await load(text, { env: { [variable]: '' } }), plain, `${variable}=""`);
    const others = flags.filter(({ sets }) => sets.kind !== 'files');
    for (const { attribute } of others)
      assert.deepEqual(await load(text, { flags: { [attribute]: '' } }), plain, `--${attribute}=""`);
    assert.isAbove(variables.length + others.length, 280);
  });

  it('of --config and --config-dir are no file, of their variables nothing', async () => {
    const files = { [MAIN]: '[crio]\nroot = "/main"', '/etc/berth/berth.conf.d/1': '[crio]\nroot = "/drop"' };
    const rootOf = async (more: Parameters<typeof load>[1]): Promise<string> =>
      (await load(files, more)).config.storage.root;
    assert.equal(await rootOf({}), '/drop');
    assert.equal(await rootOf({ flags: { configDir: '' } }), '/main');
    assert.equal(await rootOf({ flags: { config: '', configDir: '' } }), '/var/lib/berth');
    assert.equal(await rootOf({ env: { CONTAINER_CONFIG: '', CONTAINER_CONFIG_DIR: '' } }), '/drop');
  });

  it('as CRI-O nodes have them leave the defaults', async () => {
    const text = [
      '[crio]\nstorage_driver = ""',
      '[crio.runtime.runtimes.runc]\nruntime_path = "/usr/sbin/runc"\ncontainer_min_memory = ""',
      '[crio.tracing]\ntracing_sampling_rate_per_million = ""',
    ].join('\n\n');
    const { config, warnings } = await load(text);
    assert.equal(config.storage.storageDriver, 'overlay');
    assert.equal(config.runtimes.get('runc')?.containerMinMemoryBytes, 0n);
    assert.deepEqual(warnings, []);
  });

  it('of what would be refused are nothing', async () => {
    const { warnings } = await load('[crio.runtime]\nuid_mappings = ""\ngid_mappings = ""');
    assert.deepEqual(warnings, []);
    for (const key of ['uid_mappings', 'gid_mappings'])
      assert.match(
        await refusal(load(`[crio.runtime]\n${key} = "0:100000:65536"`)),
        new RegExp(`berth\\.conf:2:1: crio\\.runtime\\.${key} puts every container into a user namespace.*Remove it`),
      );
  });

  it('leave nothing of the files out of place: the defaults are the defaults', async () => {
    const { config } = await loadConfig({
      node: { systemdCgroups: false },
      files: { read: async () => '', list: async () => [] },
    });
    assert.deepEqual(config, (await load()).config);
  });
});

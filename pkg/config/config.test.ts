import { assert } from 'chai';
import { mkdir, mkdtemp, readFile, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explain, isCode, RuntimeError } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { diskFiles, flags, loadConfig, reload, reloadableKeys, renderConfig } from './index.ts';
import { handlerTable, type Table, tables, unsupportedTables } from './schema.ts';
import { parseToml } from './toml.ts';
import type { ConfigFiles, LoadOptions, LoadedConfig } from './types.ts';

const MAIN = '/etc/berth/berth.conf';
const DROP_INS = '/etc/berth/berth.conf.d';

/** Files of a map from path to text. */
function filesOf(texts: Readonly<Record<string, string>>): ConfigFiles {
  return {
    read: (path) => Promise.resolve(texts[path]),
    list(path) {
      const below = Object.keys(texts)
        .filter((each) => each.startsWith(`${path}/`))
        .map((each) => each.slice(path.length + 1));
      const names = [...new Set(below.map((each) => each.split('/')[0] ?? ''))].reverse();
      return Promise.resolve(
        names.map((name) => ({ name, kind: below.includes(name) ? ('file' as const) : ('directory' as const) })),
      );
    },
  };
}

function load(
  texts: Readonly<Record<string, string>> | string = {},
  more: Partial<LoadOptions> = {},
): Promise<LoadedConfig> {
  const files = filesOf(typeof texts === 'string' ? { [MAIN]: texts } : texts);
  return loadConfig({ node: { systemdCgroups: false }, files, ...more });
}

async function refusal(work: Promise<unknown>): Promise<string> {
  try {
    await work;
  } catch (error) {
    assert.instanceOf(error, RuntimeError);
    assert.isTrue(isCode(error, 'InvalidArgument') || isCode(error, 'NotFound'));
    return (error as Error).message;
  }
  return assert.fail('was not refused');
}

describe('config', () => {
  it('has defaults without any file', async () => {
    const { config, warnings, sources } = await load();
    assert.equal(config.api.listen, '/run/berth/berth.sock');
    assert.equal(config.storage.root, '/var/lib/berth');
    assert.equal(config.storage.runroot, '/run/berth');
    assert.equal(config.runtime.defaultRuntime, '');
    assert.equal(config.runtime.cgroupManager, 'cgroupfs');
    assert.equal(config.network.networkDir, '/etc/cni/net.d');
    assert.lengthOf(config.runtime.defaultCapabilities, 9);
    assert.deepEqual([...config.runtimes.keys()], ['crun', 'runc', 'runsc']);
    assert.equal(config.runtimes.get('runc')?.runtimeRoot, '/run/berth/runtimes/runc');
    assert.equal(config.runtimes.get('runc')?.createTimeoutMs, 240_000);
    assert.deepEqual([warnings, sources], [[], []]);
  });

  it(
    'takes the files of a node as they are: hidden names and dead links are no configuration, ' + 'and none is endless',
    async () => {
      const directory = await mkdtemp(join(tmpdir(), 'berth-config-'));
      try {
        await writeFile(join(directory, '.hidden'), '');
        await symlink('/nowhere/at/all', join(directory, 'dead'));
        await mkdir(join(directory, 'below'));
        await writeFile(join(directory, 'plain'), 'text');
        await writeFile(join(directory, 'large'), Buffer.alloc(limits.configFileBytes + 1));
        const found = await diskFiles.list(directory);
        assert.sameDeepMembers(
          [...(found ?? [])],
          [
            { name: 'below', kind: 'directory' },
            { name: 'dead', kind: 'other' },
            { name: 'large', kind: 'file' },
            { name: 'plain', kind: 'file' },
          ],
        );
        assert.equal(await diskFiles.read(join(directory, 'plain')), 'text');
        assert.equal(await diskFiles.read('/dev/null'), '');
        assert.deepEqual(
          [await diskFiles.read(join(directory, 'absent')), await diskFiles.list(join(directory, 'absent'))],
          [undefined, undefined],
        );
        assert.match(await diskFiles.read(join(directory, 'large')).then(() => '', explain), /larger than/);
      } finally {
        await rm(directory, { recursive: true });
      }
    },
  );

  it('leaves the dots and slashes of a sysctl to who knows what they mean', async () => {
    const { config } = await load(
      '[crio.runtime]\ndefault_sysctls = ["net/ipv4/conf/eth0.100/rp_filter=0", "net.ipv4.conf.eth0/100.rp_filter=1"]',
    );
    assert.deepEqual(
      [...config.runtime.defaultSysctls],
      [
        ['net/ipv4/conf/eth0.100/rp_filter', '0'],
        ['net.ipv4.conf.eth0/100.rp_filter', '1'],
      ],
    );
  });

  it('takes systemd for cgroup_manager where the node has it, unless told otherwise', async () => {
    const node = { systemdCgroups: true };
    assert.equal((await load({}, { node })).config.runtime.cgroupManager, 'systemd');
    assert.equal(
      (await load('[crio.runtime]\ncgroup_manager = "cgroupfs"', { node })).config.runtime.cgroupManager,
      'cgroupfs',
    );
  });

  it('lets drop-ins win in lexical order, the environment over them, flags over all', async () => {
    const texts = {
      [MAIN]:
        '[crio.runtime]\nlog_level = "error"\ntimezone = "main"\n[crio.api]\nstream_port = ' +
        '"1"\nstream_address = "main"\n[crio.network]\nplugin_dirs = ["/main"]',
      [`${DROP_INS}/20-b.conf`]: '[crio.runtime]\ntimezone = "b"\n[crio.api]\nstream_port = "2"',
      [`${DROP_INS}/10-a/x.conf`]: '[crio.runtime]\ntimezone = "a"\n[crio.network]\nplugin_dirs = ["/a", "/aa"]',
      [`${DROP_INS}/.hidden`]: '[crio.runtime]\ntimezone = "hidden"',
      [`${DROP_INS}/30.conf~`]: '[crio.runtime]\ntimezone = "backup"',
    };
    const env = { CONTAINER_STREAM_PORT: '3', CONTAINER_LOG_LEVEL: 'warn', PATH: '/bin' };
    const { config, sources } = await load(texts, { env, flags: { logLevel: 'debug', streamEnableTls: true } });
    assert.deepEqual(sources, [MAIN, `${DROP_INS}/10-a/x.conf`, `${DROP_INS}/20-b.conf`]);
    assert.equal(config.runtime.timezone, 'b');
    assert.deepEqual(config.network.pluginDirs, ['/a', '/aa']);
    assert.equal(config.api.streamAddress, 'main');
    assert.equal(config.api.streamPort, 3);
    assert.equal(config.runtime.logLevel, 'debug');
    assert.isTrue(config.api.streamEnableTls);
  });

  it('reads the file and the directory that flags name, and wants them there', async () => {
    const texts = {
      '/x/a.conf': '[crio]\nroot = "/x/root"',
      '/x/d/b.conf': '[crio]\nrunroot = "/x/run"',
      [MAIN]: '[crio]\nroot = "/not/this"',
    };
    const { config } = await load(texts, { flags: { config: '/x/a.conf' }, env: { CONTAINER_CONFIG_DIR: '/x/d' } });
    assert.deepEqual([config.storage.root, config.storage.runroot], ['/x/root', '/x/run']);
    assert.match(await refusal(load(texts, { flags: { config: '/x/none' } })), /\/x\/none does not exist/);
  });

  const refused: readonly (readonly [what: string, text: string, message: RegExp])[] = [
    ['broken TOML', '[crio.runtime\nx = 1', /^\/etc\/berth\/berth\.conf:1:\d+: not valid TOML/],
    [
      'a number for a string',
      '[crio]\n\n[crio.runtime]\n  log_level = 3',
      /berth\.conf:4:3: crio\.runtime\.log_level wants a string, got the number 3/,
    ],
    [
      'a string for a switch',
      '[crio.api]\nstream_enable_tls = "yes"',
      /berth\.conf:2:1: crio\.api\.stream_enable_tls wants true or false, got the string "yes"/,
    ],
    [
      'a string for an array',
      '[crio.network]\nplugin_dirs = "/opt"',
      /:2:1: crio\.network\.plugin_dirs wants an array/,
    ],
    ['an array with a number', '[crio.network]\nplugin_dirs = ["/opt", 1]', /:2:1: .*wants a string, got the number 1/],
    ['a value for a table', '[crio]\nruntime = 3', /:2:1: crio\.runtime wants a table/],
    [
      'an unknown word',
      '[crio.runtime]\ncgroup_manager = "openrc"',
      /:2:1: .*wants one of "cgroupfs", "systemd", got "openrc"/,
    ],
    ['a relative path', '[crio]\nroot = "var"', /:2:1: crio\.root wants an absolute path/],
    ['a path that climbs', '[crio]\nroot = "/var/../etc"', /without "\.\."/],
    ['a port out of range', '[crio.api]\nstream_port = "70000"', /wants a port/],
    [
      'a smuggled sysctl (CVE-2022-0811)',
      '[crio.runtime]\ndefault_sysctls = ["kernel.shm_rmid_forced=1+kernel.core_pattern=x"]',
      /:2:1: .*default_sysctls wants "name=value"/,
    ],
    [
      'a wrong type of an unsupported key',
      '[crio.metrics]\nmetrics_port = "x"',
      /:2:1: crio\.metrics\.metrics_port wants a whole number/,
    ],
    [
      'a wrong type in a handler',
      '[crio.runtime.runtimes.runc]\nruntime_path = true',
      /:2:1: crio\.runtime\.runtimes\.runc\.runtime_path wants a string, got the boolean true/,
    ],
    [
      'a handler that is a path',
      '[crio.runtime.runtimes."../../bin/sh"]\nruntime_path = "/bin/sh"',
      /:1:1: .*cannot be the name of a runtime handler/,
    ],
    [
      'a default handler without a table',
      '[crio.runtime]\ndefault_runtime = "kata"',
      /default_runtime is "kata", but there is no/,
    ],
    [
      'a default handler of a type that is not there',
      '[crio.runtime]\ndefault_runtime = "kata"\n[crio.runtime.runtimes.kata]\nruntime_type = "vm"',
      /default runtime handler kata cannot be used: runtime_type "vm"/,
    ],
    ['a bad ulimit', '[crio.runtime]\ndefault_ulimits = ["files=1"]', /wants "nofile=1024:2048"/],
    ['a ulimit upside down', '[crio.runtime]\ndefault_ulimits = ["nofile=2:1"]', /soft limit above the hard/],
    ['a device that is none', '[crio.runtime]\nadditional_devices = ["/etc/passwd"]', /wants "\/dev\/host/],
  ];
  for (const [what, text, message] of refused) {
    it(`refuses ${what} with its place`, async () => {
      assert.match(await refusal(load(text)), message);
    });
  }

  it('refuses a bad flag and a bad variable by name', async () => {
    assert.match(
      await refusal(load({}, { flags: { logLevel: 'loud' } })),
      /^--log-level: crio\.runtime\.log_level wants one of/,
    );
    assert.match(
      await refusal(load({}, { env: { CONTAINER_READ_ONLY: 'maybe' } })),
      /^CONTAINER_READ_ONLY: read-only wants true or false/,
    );
    assert.match(await refusal(load({}, { flags: { runtimes: ['kata'] } })), /^--runtimes: "kata" is not name:path/);
  });

  it('warns about what it does not know and what has no effect, with place and a guess', async () => {
    const text = [
      '[crio.runtime]',
      'log_levle = "info"',
      'uid_mappings = "0:1:2"',
      '[crio.metrics]',
      'enable_metrics = true',
      '[crio.zzz]',
      'a = 1',
      '[other]',
      '[crio.nri.default_validator]',
      'x = 1',
    ].join('\n');
    const { warnings } = await load(text);
    assert.deepEqual(warnings, [
      `${MAIN}:2:1: unknown key crio.runtime.log_levle, ignoring (did you mean log_level?)`,
      `${MAIN}:3:1: crio.runtime.uid_mappings has no effect: pods ask for user namespaces ` +
        'themselves (hostUsers: false)',
      `${MAIN}:5:1: crio.metrics.enable_metrics is not implemented`,
      `${MAIN}:6:1: unknown key crio.zzz, ignoring`,
      `${MAIN}:9:1: crio.nri.default_validator is not implemented`,
      `${MAIN}:8:1: unknown key other, ignoring: all keys of crio.conf are under [crio]`,
    ]);
  });

  it('warns about what Berth will do but does not do yet, unless it is the default', async () => {
    const text =
      '[crio.stats]\ncollection_period = 10\n[crio.api]\ngrpc_max_recv_msg_size = ' +
      '33554432\ngrpc_max_send_msg_size = 16777216';
    const { config, warnings } = await load(text);
    assert.deepEqual(warnings, [`${MAIN}:4:1: crio.api.grpc_max_recv_msg_size is not implemented yet`]);
    assert.equal(config.stats.collectionPeriodMs, 10_000);
  });

  it('is not shaken by keys that objects have anyway', async () => {
    const { config, warnings } = await load(
      '[crio]\n"__proto__" = { root = "/evil" }\n"constructor" = ' +
        '1\n[crio.runtime.runtimes."constructor"]\nruntime_path = "/bin/true"',
    );
    assert.equal(config.storage.root, '/var/lib/berth');
    assert.lengthOf(warnings, 2);
    assert.equal(config.runtimes.get('constructor')?.runtimePath, '/bin/true');
  });

  it('parses what has a grammar of its own', async () => {
    const { config } = await load(
      [
        '[crio.runtime]',
        'default_ulimits = ["nofile=1024:2048", "core=-1"]',
        'default_sysctls = ["net.ipv4.ping_group_range = 0 2147483647"]',
        'additional_devices = ["/dev/fuse", "/dev/a:/dev/b:rw", "/dev/c:r"]',
        'default_capabilities = ["chown", "CAP_KILL"]',
        '[crio.image]',
        'pull_progress_timeout = "1m30.5s"',
        '[crio.api]',
        'stream_idle_timeout = ""',
      ].join('\n'),
    );
    assert.deepEqual(config.runtime.defaultUlimits, [
      { name: 'RLIMIT_NOFILE', soft: 1024n, hard: 2048n },
      { name: 'RLIMIT_CORE', soft: 2n ** 64n - 1n, hard: 2n ** 64n - 1n },
    ]);
    assert.deepEqual([...config.runtime.defaultSysctls], [['net.ipv4.ping_group_range', '0 2147483647']]);
    assert.deepEqual(
      config.runtime.additionalDevices.map((each) => `${each.hostPath} ${each.containerPath} ${each.permissions}`),
      ['/dev/fuse /dev/fuse rwm', '/dev/a /dev/b rw', '/dev/c /dev/c r'],
    );
    assert.deepEqual(config.runtime.defaultCapabilities, ['CAP_CHOWN', 'CAP_KILL']);
    assert.equal(config.image.pullProgressTimeoutMs, 90_500);
    assert.equal(config.api.streamIdleTimeoutMs, 14_400_000);
  });

  it('puts workloads and annotations of several files together', async () => {
    const texts = {
      [MAIN]:
        '[crio.runtime.workloads.a]\nactivation_annotation = ' +
        '"mark/a"\n[crio.runtime.workloads.a.resources]\ncpushares = 5\ncpulimit = ' +
        '"1500"\n[crio.runtime.runtimes.kata]\ndefault_annotations = { x = "1", y = "1" }',
      [`${DROP_INS}/1`]:
        '[crio.runtime.workloads.b]\nactivation_annotation = "mark/b"\nallowed_annotations = ' +
        '["umask.crio.io"]\nannotation_prefix = "p"\n[crio.runtime.workloads.b.resources]\ncpuset = ' +
        '"0-1"\n[crio.runtime.runtimes.kata]\ndefault_annotations = { y = "2" }',
    };
    const { config, warnings } = await load(texts);
    const none = { cpuShares: 0n, cpuQuota: 0n, cpuPeriod: 0n, cpuset: '', cpuLimit: 0n };
    assert.deepEqual(config.runtime.workloads, [
      {
        name: 'a',
        activationAnnotation: 'mark/a',
        annotationPrefix: '',
        allowedAnnotations: [],
        resources: { ...none, cpuShares: 5n, cpuLimit: 1500n },
      },
      {
        name: 'b',
        activationAnnotation: 'mark/b',
        annotationPrefix: 'p',
        allowedAnnotations: ['umask.crio.io'],
        resources: { ...none, cpuset: '0-1' },
      },
    ]);
    assert.deepEqual(
      [...(config.runtimes.get('kata')?.defaultAnnotations ?? [])],
      [
        ['x', '1'],
        ['y', '2'],
      ],
    );
    assert.deepEqual(warnings, []);
    const again = await load(renderConfig(config, { comment: 'none', docs: 'without' }));
    assert.deepEqual([again.config, again.warnings], [config, []]);
  });

  const badTables: readonly (readonly [text: string, message: RegExp])[] = [
    [
      '[crio.runtime]\nworkloads = 5',
      /berth\.conf:2:1: crio\.runtime\.workloads wants a table of workloads, got the number 5/,
    ],
    ['[crio.runtime.workloads.a]\nannotation_prefix = "p"', /workloads needs an activation_annotation in a/],
    [
      '[crio.runtime.workloads.a]\nactivation_annotation = "m"\nallowed = []',
      /workloads has the unknown key allowed in a; there are activation_annotation/,
    ],
    [
      '[crio.runtime.workloads.a]\nactivation_annotation = "m"\nresources = { cpus = 1 }',
      /unknown key cpus in a\.resources/,
    ],
    [
      '[crio.runtime.workloads.a]\nactivation_annotation = "m"\nresources = { cpushares = -1 }',
      /wants a whole number in a\.resources\.cpushares/,
    ],
    [
      '[crio.runtime.workloads.a]\nactivation_annotation = "m"\nresources = { cpuset = "all" }',
      /wants a list such as 0-3,7 in a\.resources\.cpuset/,
    ],
    [
      '[crio.runtime.runtimes.x]\ndefault_annotations = { a = 1 }',
      /default_annotations wants a string, got the number 1/,
    ],
    ['[crio.runtime]\nlog_size_max = 4096', /log_size_max wants -1 for no limit, or at least 8192 bytes, got 4096/],
    ['[crio.runtime]\ninfra_ctr_cpuset = "0..3"', /infra_ctr_cpuset wants a list of CPUs such as "0-3,7"/],
  ];
  for (const [text, message] of badTables)
    it(`refuses ${text.split('\n').slice(1).join(' ')}`, async () => assert.match(await refusal(load(text)), message));

  it('knows every key of crio.conf: each does something, or is a warning that says why not', async () => {
    // crio.conf(5) of 2026, by table.
    const keys: Readonly<Record<string, string>> = {
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
      'crio.network': 'cni_default_network network_dir plugin_dirs cni_status_grace_period',
      'crio.metrics':
        'enable_metrics metrics_collectors metrics_host metrics_port metrics_socket metrics_cert metrics_key',
      'crio.tracing': 'enable_tracing tracing_endpoint tracing_sampling_rate_per_million',
      'crio.stats': 'stats_collection_period collection_period included_pod_metrics',
      'crio.nri':
        'enable_nri nri_plugin_dir nri_plugin_config_dir nri_listen nri_disable_connections ' +
        'nri_plugin_registration_timeout nri_plugin_request_timeout default_validator',
      'crio.checkpoint_restore': 'container_level_enabled',
    };
    const known = new Map(
      [...Object.values<Table>(tables), handlerTable].map((table) => [
        table.name,
        new Map([
          ...[...table.unsupported].map(([key, { why }]) => [key, why] as const),
          ...Object.values(table.options).map(({ key }) => [key, ''] as const),
        ]),
      ]),
    );
    for (const [table, rows] of unsupportedTables)
      known.set(table, new Map([...rows].map(([key, { why }]) => [key, why])));
    for (const [table, words] of Object.entries(keys)) {
      for (const key of words.split(' ')) {
        const why = known.get(table)?.get(key);
        assert.isDefined(why, `${table}.${key}`);
        assert.match(why ?? '', /^(has no effect: .|is not implemented|$)/, `${table}.${key}`);
      }
    }
  });

  it('is frozen', async () => {
    const { config } = await load();
    assert.isTrue(Object.isFrozen(config));
    assert.isTrue(Object.isFrozen(config.api));
    assert.isTrue(Object.isFrozen(config.network.pluginDirs));
  });

  describe('runtime handlers', () => {
    const installed = new Map([
      ['crun', '/usr/bin/crun'],
      ['kata', '/usr/bin/kata'],
      ['/opt/kata', '/opt/kata'],
      ['/usr/bin/conmon', '/usr/bin/conmon'],
    ]);
    const node = { systemdCgroups: false, findExecutable: (name: string) => installed.get(name) };

    it('drops what is not there: silently if built in, with a warning if somebody named it', async () => {
      const { config, warnings } = await load(
        '[crio.runtime.runtimes.gone]\nruntime_path = ' +
          '"/opt/gone"\n[crio.runtime.runtimes.vm]\nruntime_type = ' +
          '"vm"\n[crio.runtime.runtimes.mon]\nruntime_path = "/opt/kata"\nmonitor_path = "/no/conmon"',
        { node },
      );
      assert.deepEqual(
        [...config.runtimes].map(([name, each]) => `${name} ${each.runtimePath}`),
        ['crun /usr/bin/crun'],
      );
      assert.deepEqual(warnings, [
        'runtime handler gone is left out: runtime_path /opt/gone is not an executable file',
        'runtime handler mon is left out: monitor_path /no/conmon is not an executable file',
        'runtime handler vm is left out: runtime_type "vm" is not supported, only "oci"',
      ]);
    });

    it('refuses to start when the default one is bad', async () => {
      assert.match(
        await refusal(load('[crio.runtime]\ndefault_runtime = "runc"', { node })),
        /default runtime handler runc cannot be used: .*no runc in PATH/,
      );
    });

    it('merges tables of drop-ins by key and takes --runtimes', async () => {
      const texts = {
        [MAIN]: '[crio.runtime.runtimes.kata]\nruntime_path = "/opt/kata"\nno_sync_log = true',
        [`${DROP_INS}/1`]: '[crio.runtime.runtimes.kata]\nmonitor_cgroup = "x.slice"',
      };
      const { config } = await load(texts, {
        node,
        flags: { runtimes: ['k2:/opt/kata:/run/k2:oci:true', 'k3:kata'].slice(0, 1) },
      });
      const kata = config.runtimes.get('kata');
      assert.deepEqual([kata?.runtimePath, kata?.noSyncLog, kata?.monitorCgroup], ['/opt/kata', true, 'x.slice']);
      const k2 = config.runtimes.get('k2');
      assert.deepEqual(
        [k2?.runtimePath, k2?.runtimeRoot, k2?.privilegedWithoutHostDevices],
        ['/opt/kata', '/run/k2', true],
      );
    });

    it('inherits from the default one, and raises a short create timeout', async () => {
      const text =
        '[crio.runtime]\ndefault_runtime = "kata"\n[crio.runtime.runtimes.kata]\nruntime_path = ' +
        '"/opt/kata"\nruntime_root = ' +
        '"/run/kata"\n[crio.runtime.runtimes.high]\ninherit_default_runtime = ' +
        'true\ncontainer_create_timeout = 5\ncontainer_min_memory = "500KiB"';
      const { config, warnings } = await load(text, { node });
      const high = config.runtimes.get('high');
      assert.deepEqual(
        [high?.runtimePath, high?.runtimeRoot, high?.createTimeoutMs, high?.containerMinMemoryBytes],
        ['/opt/kata', '/run/kata', 30_000, 512_000n],
      );
      assert.match(
        warnings.join('\n'),
        /berth\.conf:8:1: container_create_timeout of runtime handler high is below 30 seconds, using 30/,
      );
    });
  });

  describe('render', () => {
    const text = [
      '[crio]',
      'storage_option = ["overlay.mountopt=metacopy=on"]',
      '[crio.runtime]',
      'default_ulimits = ["nofile=1:2"]',
      'default_sysctls = ["net.core.somaxconn=1"]',
      'additional_devices = ["/dev/fuse"]',
      'log_level = "debug"',
      '[crio.image]',
      'pull_progress_timeout = "1500ms"',
      '[crio.api]',
      'listen = "/run/x.sock"',
      '[crio.runtime.runtimes."a.b"]',
      'runtime_path = "/opt/\\"x\\""',
      'runtime_args = ["--x"]',
    ].join('\n');

    for (const docs of ['with', 'without'] as const) {
      for (const comment of ['none', 'defaults'] as const) {
        it(`can be read again (docs ${docs}, commented ${comment})`, async () => {
          const { config } = await load(text);
          const again = await load(renderConfig(config, { comment, docs }));
          assert.deepEqual(again.warnings, []);
          assert.deepEqual(again.config, config);
        });
      }
    }

    it('comments out what is the default', async () => {
      const shown = renderConfig((await load(text)).config, { comment: 'defaults', docs: 'without' });
      assert.match(shown, /^log_level = "debug"$/m);
      assert.match(shown, /^# log_format = "text"$/m);
    });

    it('is what contrib/systemd/berth.conf holds', async () => {
      const shown = renderConfig((await load()).config, { comment: 'defaults', docs: 'with' });
      const file = new URL('../../contrib/systemd/berth.conf', import.meta.url);
      if (process.env['UPDATE_GOLDEN'] === '1') await writeFile(file, shown);
      assert.equal(await readFile(file, 'utf8'), shown, 'the file is out of date; run this test with UPDATE_GOLDEN=1');
    });
  });

  describe('reload', () => {
    it('takes what may change, and names what must wait', async () => {
      const before = (await load('[crio.runtime]\nlog_level = "info"\n[crio]\nroot = "/a"')).config;
      const after = (
        await load(
          '[crio.runtime]\nlog_level = "debug"\n[crio]\nroot = "/b"\n[crio.runtime.runtimes.x]\nruntime_path = "/x"',
        )
      ).config;
      const { config, applied, needRestart } = reload(before, after);
      assert.deepEqual([applied, needRestart], [['crio.runtime.log_level', 'crio.runtime.runtimes'], ['crio.root']]);
      assert.deepEqual([config.runtime.logLevel, config.storage.root, config.runtimes.has('x')], ['debug', '/a', true]);
      assert.equal(before.runtime.logLevel, 'info');
      assert.includeMembers(
        [...reloadableKeys],
        ['crio.runtime.log_level', 'crio.image.pinned_images', 'crio.runtime.cdi_spec_dirs'],
      );
    });
  });

  it("has crio's flags", () => {
    const byName = new Map(flags.map((each) => [each.name, each]));
    const asked = [
      'config',
      'config-dir',
      'root',
      'runroot',
      'listen',
      'cni-config-dir',
      'cni-plugin-dir',
      'cgroup-manager',
      'default-runtime',
      'runtimes',
      'conmon',
      'pinns-path',
      'stream-address',
      'stream-port',
      'log-level',
    ];
    assert.deepEqual(
      asked.filter((name) => !byName.has(name)),
      [],
    );
    assert.equal(byName.get('log-level')?.syntax, '-l, --log-level <value>');
    assert.equal(byName.get('cni-config-dir')?.attribute, 'cniConfigDir');
    assert.equal(byName.get('drop-infra-ctr')?.syntax, '--drop-infra-ctr [bool]');
    assert.equal(new Set(flags.map((each) => each.name)).size, flags.length);
    assert.isTrue(
      flags.every((each) => !each.name.startsWith('no-')),
      'commander turns --no-x into x=false',
    );
  });
});

describe('toml places', () => {
  const text = [
    '# [not.a.table]',
    'top = """a',
    '[b]',
    '"""',
    '[a."b.c"]',
    '  x = { y = 1, z = [\'#\', "]"] } # k = 1',
    'list = [',
    '  "one", # ] k = 2',
    '  [2]',
    ']',
    "s = '''",
    'k = 3',
    "'''",
    'd.e = 1',
    '[[rows]]',
    '"k\\u0065y" = 1',
  ].join('\r\n');

  const found: readonly (readonly [path: readonly string[], line: number, column: number])[] = [
    [['top'], 2, 1],
    [['a', 'b.c'], 5, 1],
    [['a', 'b.c', 'x'], 6, 3],
    [['a', 'b.c', 'x', 'y'], 6, 3],
    [['a', 'b.c', 'list'], 7, 1],
    [['a', 'b.c', 's'], 11, 1],
    [['a', 'b.c', 'd', 'e'], 14, 1],
    [['rows'], 15, 1],
    [['rows', 'key'], 16, 1],
  ];
  for (const [path, line, column] of found) {
    it(`finds ${path.join('/')}`, () => {
      assert.deepEqual(parseToml(text, 'f').where(path), { line, column });
    });
  }

  it('does not find what is inside strings, arrays and comments', () => {
    const document = parseToml(text, 'f');
    assert.deepEqual(
      [document.where(['b']), document.where(['k']), document.where(['not'])],
      [undefined, undefined, undefined],
    );
  });
});

import { assert } from 'chai';
import { mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { explain } from '../base/errors.ts';
import { limits } from '../base/limits.ts';
import { DROP_INS, load, MAIN, refusal } from './fake.ts';
import { diskFiles, renderConfig } from './index.ts';

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

  it('adds the storage options of drop-ins to those of the file, each once, as CRI-O does', async () => {
    const texts = {
      [MAIN]: '[crio]\nstorage_option = ["overlay.mountopt=volatile", "overlay.mountopt=metacopy=on"]',
      [`${DROP_INS}/1`]: '[crio]\nstorage_option = ["overlay.mountopt=volatile"]',
    };
    const both = ['overlay.mountopt=metacopy=on', 'overlay.mountopt=volatile'];
    assert.deepEqual((await load(texts)).config.storage.storageOptions, both);
    const { config } = await load(texts, { flags: { storageOpt: ['overlay.mountopt=xino=off'] } });
    assert.deepEqual(config.storage.storageOptions, ['overlay.mountopt=xino=off']);
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

  it('takes collectors of metrics with the prefixes of their series, and leaves out unknown ones', async () => {
    const { config, warnings } = await load(
      '[crio.metrics]\nmetrics_collectors = ["operations_total", "crio_default_runtime", ' +
        '"container_runtime_crio_processes_defunct", "gone"]',
    );
    assert.deepEqual(config.metrics.metricsCollectors, ['operations_total', 'default_runtime', 'processes_defunct']);
    assert.deepEqual(warnings, [
      `${MAIN}:2:1: crio.metrics.metrics_collectors has no collector "gone", which is left out`,
    ]);
  });

  it('takes any rate of sampling, of which more than all is all', async () => {
    for (const [written, rate] of [
      [2_000_000, 1_000_000],
      [-1, 0],
      [5, 5],
    ] as const) {
      const { config } = await load(`[crio.tracing]\ntracing_sampling_rate_per_million = ${written}`);
      assert.equal(config.tracing.tracingSamplingPerMillion, rate);
    }
  });

  it('warns about what it does not know and what has no effect, with place and a guess', async () => {
    const text = [
      '[crio.runtime]',
      'log_levle = "info"',
      'rdt_config_file = "/etc/rdt"',
      '[crio.checkpoint_restore]',
      'container_level_enabled = "none"',
      '[crio.zzz]',
      'a = 1',
      '[other]',
      '[crio.nri.default_validator]',
      'x = 1',
    ].join('\n');
    const { warnings } = await load(text);
    assert.deepEqual(warnings, [
      `${MAIN}:2:1: unknown key crio.runtime.log_levle, ignoring (did you mean log_level?)`,
      `${MAIN}:3:1: crio.runtime.rdt_config_file is not implemented: there are no classes of cache and memory ` +
        'bandwidth, and a container that names one is refused',
      `${MAIN}:5:1: crio.checkpoint_restore.container_level_enabled is not implemented: containers are not ` +
        'checkpointed, and requests for it are answered with Unimplemented',
      `${MAIN}:6:1: unknown key crio.zzz, ignoring`,
      `${MAIN}:9:1: crio.nri.default_validator is not implemented: NRI plugins are not connected; CDI ` +
        'specifications and OCI hooks are there',
      `${MAIN}:8:1: unknown key other, ignoring: all keys of crio.conf are under [crio]`,
    ]);
  });

  it('warns of sizes that it does not set, unless they are the usual ones', async () => {
    const text =
      '[crio.stats]\ncollection_period = 10\n[crio.api]\ngrpc_max_recv_msg_size = ' +
      '33554432\ngrpc_max_send_msg_size = 83886080';
    const { config, warnings } = await load(text);
    assert.deepEqual(warnings, [
      `${MAIN}:4:1: crio.api.grpc_max_recv_msg_size has no effect: a request may have 16 MiB and a reply 64 MiB, ` +
        'and the kubelet itself takes 16 MiB',
    ]);
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

  it('puts workloads of several files together', async () => {
    const texts = {
      [MAIN]:
        '[crio.runtime.workloads.a]\nactivation_annotation = ' +
        '"mark/a"\n[crio.runtime.workloads.a.resources]\ncpushares = 5\ncpulimit = ' +
        '"1500"',
      [`${DROP_INS}/1`]:
        '[crio.runtime.workloads.b]\nactivation_annotation = "mark/b"\nallowed_annotations = ' +
        '["umask.crio.io"]\nannotation_prefix = "p"\n[crio.runtime.workloads.b.resources]\ncpuset = ' +
        '"0-1"\n[crio.runtime.runtimes.kata]\ndefault_annotations = { x = "1", y = "2" }',
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
    ['[crio.runtime]\nshared_cpuset = "all"', /shared_cpuset wants a list of CPUs such as "0-3,7"/],
    [
      '[crio.runtime.workloads.w]\nactivation_annotation = "a"\nresources = { cpushares = 5, cpuquota = 4 }',
      /cpuquota 4 cannot be less than cpushares 5/,
    ],
    [
      '[crio.runtime.workloads.w]\nactivation_annotation = "a"\nresources = { cpuperiod = 5 }',
      /cpuperiod 5 cannot be less than 1000 microseconds/,
    ],
    ['[crio.runtime]\ninfra_ctr_cpuset = "0..3"', /infra_ctr_cpuset wants a list of CPUs such as "0-3,7"/],
  ];
  for (const [text, message] of badTables)
    it(`refuses ${text.split('\n').slice(1).join(' ')}`, async () => assert.match(await refusal(load(text)), message));

  it('is frozen', async () => {
    const { config } = await load();
    assert.isTrue(Object.isFrozen(config));
    assert.isTrue(Object.isFrozen(config.api));
    assert.isTrue(Object.isFrozen(config.network.pluginDirs));
  });
});

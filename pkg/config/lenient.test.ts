/** As strict as CRI-O, and no stricter: what it starts with, Berth starts with. */
import { assert } from 'chai';
import { DROP_INS, load, MAIN, refusal } from './fake.ts';
import { CRIO_CONFIG_DIR, CRIO_CONFIG_FILE } from './flags.ts';
import { renderConfig } from './render.ts';
import type { Config } from './index.ts';

const PLACE = `${MAIN}:2:1: crio.runtime`;

/** Of a line under [crio.runtime]: what comes of it, and what is said. */
const taken: readonly (readonly [
  line: string,
  read: (config: Config) => unknown,
  value: unknown,
  warnings: readonly string[],
])[] = [
  ['log_level = "WARNING"', ({ runtime }) => runtime.logLevel, 'warn', []],
  ['timezone = "local"', ({ runtime }) => runtime.timezone, 'Local', []],
  ['timezone = "Europe/Berlin"', ({ runtime }) => runtime.timezone, 'Europe/Berlin', []],
  ['pids_limit = -5', ({ runtime }) => runtime.pidsLimit, -1, []],
  ['log_size_max = -7', ({ runtime }) => runtime.logSizeMaxBytes, -1, []],
  ['bind_mount_prefix = "/host/../x//"', ({ runtime }) => runtime.bindMountPrefix, '/x', []],
  [
    'seccomp_profile = "seccomp.json"',
    ({ runtime }) => runtime.seccompProfile,
    '/seccomp.json',
    [`${PLACE}.seccomp_profile is relative ("seccomp.json"), and is taken from /; write the whole path`],
  ],
  [
    'privileged_seccomp_profile = "p/../q.json"',
    ({ runtime }) => runtime.privilegedSeccompProfile,
    '/q.json',
    [`${PLACE}.privileged_seccomp_profile is relative ("p/../q.json"), and is taken from /; write the whole path`],
  ],
  [
    'default_env = ["A=1", "B"]',
    ({ runtime }) => runtime.defaultEnv,
    ['A=1'],
    [`${PLACE}.default_env has "B", which is not NAME=value: left out`],
  ],
  ['Log_Level = "debug"\nLOG_FILTER = "x"', ({ runtime }) => [runtime.logLevel, runtime.logFilter], ['debug', 'x'], []],
];

const memories: readonly (readonly [given: string, bytes: bigint])[] = [
  ['7.5MiB', 7_864_320n],
  ['12MB', 12_582_912n],
  ['500k', 512_000n],
  ['1 GiB', 1_073_741_824n],
  ['1024', 1024n],
];

describe('a configuration that CRI-O takes', () => {
  for (const [line, read, value, warnings] of taken) {
    it(`is taken: ${line}`, async () => {
      const loaded = await load(`[crio.runtime]\n${line}`);
      assert.deepEqual([read(loaded.config), loaded.warnings], [value, warnings]);
    });
  }

  for (const [given, bytes] of memories) {
    it(`reads ${given} as ${bytes} bytes`, async () => {
      const { config } = await load(`[crio.runtime.runtimes.k]\ncontainer_min_memory = "${given}"`);
      assert.equal(config.runtimes.get('k')?.containerMinMemoryBytes, bytes);
    });
  }

  it('has the default for a size that is none, and says so', async () => {
    const { config, warnings } = await load('[crio.runtime.runtimes.k]\ncontainer_min_memory = "much"');
    assert.equal(config.runtimes.get('k')?.containerMinMemoryBytes, 0n);
    assert.match(warnings.join(), /container_min_memory wants a size like "12MiB", got "much": the default is used/);
  });

  it("has durations of Go's, also as nanoseconds", async () => {
    const { config } = await load(
      '[crio.image]\npull_progress_timeout = 5000000000\n[crio.network]\ncni_status_grace_period = "1.5m"',
    );
    assert.deepEqual([config.image.pullProgressTimeoutMs, config.network.statusGraceMs], [5000, 90_000]);
  });

  it('may have a handler that is a path, which is left out', async () => {
    const { config, warnings } = await load('[crio.runtime.runtimes."../../bin/sh"]\nruntime_path = "/bin/sh"');
    assert.notInclude([...config.runtimes.keys()], '../../bin/sh');
    assert.deepEqual(warnings, [
      `${MAIN}:1:1: runtime handler "../../bin/sh" is left out: its name wants letters, digits, "-", "_" and "."`,
    ]);
  });

  it('may name devices where the root of the host is', async () => {
    const { config } = await load('[crio.runtime]\nadditional_devices = ["/host/dev/fuse:/dev/fuse:rw"]');
    assert.deepEqual(config.runtime.additionalDevices, [
      { hostPath: '/host/dev/fuse', containerPath: '/dev/fuse', permissions: 'rw' },
    ]);
    for (const bad of ['/host/fuse', '/host/../dev/x:/dev/x', '/x:/etc/x'])
      assert.match(
        await refusal(load(`[crio.runtime]\nadditional_devices = ["${bad}"]`)),
        /additional_devices wants "\/dev\/host/,
      );
  });

  it('may name cipher suites by Kubernetes’ names, and insecure ones, which are left out', async () => {
    const names = ['TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305', 'TLS_RSA_WITH_AES_128_CBC_SHA'];
    const { config, warnings } = await load(`[crio.api]\ntls_cipher_suites = ${JSON.stringify(names)}`);
    assert.deepEqual(config.api.tlsCipherSuites, ['TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256']);
    assert.deepEqual(warnings, [
      `${MAIN}:2:1: crio.api.tls_cipher_suites has TLS_RSA_WITH_AES_128_CBC_SHA, which is not secure: left out`,
    ]);
    assert.match(
      await refusal(load('[crio.api]\ntls_cipher_suites = ["TLS_NONE"]')),
      /tls_cipher_suites wants names of cipher suites as Go has them, got "TLS_NONE"/,
    );
  });

  it('may name another storage driver: it is told that there is one', async () => {
    const { config, warnings } = await load('[crio]\nstorage_driver = "vfs"');
    assert.equal(config.storage.storageDriver, 'overlay');
    assert.match(warnings.join(), /crio\.storage_driver names "vfs", which is not here: "overlay" is used/);
    assert.deepEqual((await load('[crio]\nstorage_driver = "overlay2"')).warnings, []);
  });

  it('may have programs by name, which are looked for in PATH', async () => {
    const node = {
      systemdCgroups: false,
      findExecutable: (name: string) => (name.startsWith('/') ? name : `/bin/${name}`),
    };
    const { config } = await load(
      '[crio.runtime]\nconmon = "conmon"\n[crio.runtime.runtimes.k]\nruntime_path = "crun"',
      {
        node,
      },
    );
    assert.deepEqual([config.runtime.conmon, config.runtimes.get('k')?.runtimePath], ['/bin/conmon', '/bin/crun']);
  });

  it('may have the old plugin_dir beside plugin_dirs', async () => {
    const { config } = await load('[crio.network]\nplugin_dirs = ["/a"]\nplugin_dir = "/b"');
    assert.deepEqual(config.network.pluginDirs, ['/a', '/b']);
  });

  it("is silent about what is CRI-O's default anyway, as crio config --default prints it", async () => {
    const { warnings } = await load(
      '[crio]\nversion_file = "/var/run/crio/version"\ninternal_wipe = true\n[crio.runtime]\nctr_stop_timeout = 30\n' +
        'uid_mappings = ""\nminimum_mappable_uid = -1\n[crio.image]\npause_command = "/pause"\n[crio.nri]\n' +
        'enable_nri = true\nnri_plugin_request_timeout = "2s"\n[crio.nri.default_validator]\n' +
        'nri_enable_default_validator = false\n[crio.metrics]\nmetrics_port = 9090',
    );
    assert.deepEqual(warnings, []);
  });

  it('is read from /etc/crio where nothing is set in /etc/berth, and that is said', async () => {
    const crio = { [CRIO_CONFIG_FILE]: '[crio]\nroot = "/c"', [`${CRIO_CONFIG_DIR}/1`]: '[crio]\nrunroot = "/d"' };
    const { config, notes, sources } = await load(crio);
    assert.deepEqual([config.storage.root, config.storage.runroot], ['/c', '/d']);
    assert.deepEqual(sources, Object.keys(crio));
    assert.deepEqual(notes, ["/etc/berth sets nothing: reading CRI-O's /etc/crio/crio.conf and /etc/crio/crio.conf.d"]);
    const untouched = renderConfig(config, { comment: 'defaults', docs: 'with' }).replaceAll(/^[^#[\n].*$/gm, '# $&');
    assert.deepEqual((await load({ ...crio, [MAIN]: untouched })).sources, Object.keys(crio));
    const own = await load({ ...crio, [`${DROP_INS}/1`]: '[crio]\nroot = "/b"' });
    assert.deepEqual([own.config.storage.root, own.notes], ['/b', []]);
    assert.deepEqual((await load(crio, { flags: { config: '' } })).sources, []);
  });

  it('says who set a key', async () => {
    const { places } = await load('[crio.runtime.runtimes.k]\nseccomp_profile = "/s"', {
      env: { CONTAINER_SECCOMP_PROFILE: '/t' },
    });
    assert.equal(places.get('crio.runtime.runtimes.k.seccomp_profile'), `${MAIN}:2:1`);
    assert.equal(places.get('crio.runtime.seccomp_profile'), 'CONTAINER_SECCOMP_PROFILE');
  });

  it('is refused where it would be refused there, too', async () => {
    assert.match(await refusal(load('[crio]\nlog_dir = "logs"')), /log_dir wants an absolute path/);
    assert.match(await refusal(load('[crio.api]\nstream_idle_timeout = "soon"')), /wants a duration/);
  });
});

import { assert } from 'chai';
import { load, refusal } from './fake.ts';
import { argumentsOf, flags, readFlags } from './flags.ts';

/** `crio --help` of 1.36, without what is about its help; the words in brackets are its other names. */
const CRIO_FLAGS =
  'config(c) config-dir(d) conmon conmon-cgroup listen stream-address stream-port log log-format log-level(l) ' +
  'log-filter log-dir pause-command pause-image pause-image-auth-file separate-pull-cgroup global-auth-file ' +
  'namespaced-auth-dir signature-policy signature-policy-dir root(r) runroot imagestore storage-driver(s) ' +
  'storage-opt ' +
  'insecure-registry default-transport decryption-keys-path additional-artifact-stores default-runtime runtimes ' +
  'seccomp-profile privileged-seccomp-profile apparmor-profile blockio-config-file blockio-reload ' +
  'irqbalance-config-file rdt-config-file selinux cgroup-manager pids-limit log-size-max log-journald ' +
  'cni-default-network cni-config-dir cni-plugin-dir cni-status-grace-period image-volumes hooks-dir ' +
  'default-mounts-file default-capabilities add-inheritable-capabilities default-sysctls default-ulimits profile ' +
  'profile-cpu profile-mem profile-port enable-profile-unix-socket enable-metrics metrics-host metrics-port ' +
  'metrics-socket metrics-cert metrics-key metrics-collectors enable-tracing tracing-sampling-rate-per-million ' +
  'tracing-endpoint enable-nri nri-listen nri-plugin-dir nri-plugin-config-dir nri-disable-connections ' +
  'nri-plugin-registration-timeout nri-plugin-request-timeout nri-enable-default-validator ' +
  'nri-validator-reject-oci-hook-adjustment nri-validator-reject-runtime-default-seccomp-adjustment ' +
  'nri-validator-reject-unconfined-seccomp-adjustment nri-validator-reject-custom-seccomp-adjustment ' +
  'nri-validator-reject-namespace-adjustment nri-validator-required-plugins ' +
  'nri-validator-tolerate-missing-plugins-annotation big-files-temporary-dir auto-reload-registries ' +
  'pull-progress-timeout read-only bind-mount-prefix uid-mappings gid-mappings minimum-mappable-uid ' +
  'minimum-mappable-gid allowed-devices additional-devices cdi-spec-dirs device-ownership-from-security-context ' +
  'conmon-env default-env min-injected-gomaxprocs container-attach-socket-dir container-exits-dir ' +
  'ctr-stop-timeout ' +
  'grpc-max-recv-msg-size grpc-max-send-msg-size drop-infra-ctr pinns-path namespaces-dir no-pivot ' +
  'stream-enable-tls ' +
  'stream-tls-ca tls-min-version tls-cipher-suites stream-tls-cert stream-tls-key stream-idle-timeout ' +
  'registries-conf ' +
  'registries-conf-dir address version-file version-file-persist internal-wipe internal-repair ' +
  'oci-artifact-mount-support infra-ctr-cpuset shared-cpuset clean-shutdown-file absent-mount-sources-to-reject ' +
  'stats-collection-period collection-period included-pod-metrics enable-criu-support ' +
  'checkpoint-restore-container-level-enabled enable-pod-events irqbalance-config-restore-file ' +
  'hostnetwork-disable-selinux pinned-images disable-hostport-mapping timezone(tz) short-name-mode';

/** Variables of CRI-O that are not CONTAINER_ and the flag's name, with their flags. */
const CRIO_VARIABLES: Readonly<Record<string, string>> = {
  CONTAINER_ENABLE_TLS: 'stream-enable-tls',
  CONTAINER_TLS_CERT: 'stream-tls-cert',
  CONTAINER_TLS_KEY: 'stream-tls-key',
  CONTAINER_TLS_CA: 'stream-tls-ca',
  CONTAINER_TIME_ZONE: 'timezone',
  CONTAINER_EXITS_DIR: 'container-exits-dir',
  CONTAINER_ATTACH_SOCKET_DIR: 'container-attach-socket-dir',
  CONTAINER_STOP_TIMEOUT: 'ctr-stop-timeout',
  CONTAINER_INJECT_GOMAXPROCS: 'min-injected-gomaxprocs',
  CONTAINER_OCI_ARTIFACT_SUPPORT: 'oci-artifact-mount-support',
  CONTAINER_INCLUDED_POD_METRCIS: 'included-pod-metrics',
  STREAM_IDLE_TIMEOUT: 'stream-idle-timeout',
  ENABLE_POD_EVENTS: 'enable-pod-events',
  ENABLE_PROFILE_UNIX_SOCKET: 'enable-profile-unix-socket',
  DISABLE_HOSTPORT_MAPPING: 'disable-hostport-mapping',
  CNI_STATUS_GRACE_PERIOD: 'cni-status-grace-period',
  COLLECTION_PERIOD: 'collection-period',
  PULL_IN_A_CGROUP: 'separate-pull-cgroup',
  AUTO_RELOAD_REGISTRIES: 'auto-reload-registries',
};

describe('flags', () => {
  const byName = new Map(flags.map((each) => [each.name, each]));

  it("has every one of crio's, by all of its names", () => {
    const missing = CRIO_FLAGS.split(' ').filter((word) => {
      const [, name = '', other = ''] = /^([a-z-]+)(?:\(([a-z]+)\))?$/.exec(word) ?? [];
      return !byName.has(name) || (other !== '' && byName.get(name)?.short !== other && !byName.has(other));
    });
    assert.deepEqual(missing, []);
  });

  it("reads every variable of crio's", () => {
    for (const [variable, flag] of Object.entries(CRIO_VARIABLES))
      assert.include(byName.get(flag)?.variables ?? [], variable, flag);
  });

  it('is what commander can take', () => {
    assert.equal(byName.get('log-level')?.syntax, '-l, --log-level <value>');
    assert.equal(byName.get('cni-config-dir')?.attribute, 'cniConfigDir');
    assert.equal(byName.get('drop-infra-ctr')?.syntax, '--drop-infra-ctr [bool]');
    assert.equal(new Set(flags.map((each) => each.name)).size, flags.length);
    assert.equal(new Set(flags.map((each) => each.attribute)).size, flags.length);
    assert.isTrue(
      flags.every((each) => !each.syntax.includes('--no-')),
      'commander turns --no-x into x=false',
    );
  });

  it('starts with what a crio unit passes, and says what has no effect', async () => {
    const { config, warnings } = await load(
      {},
      {
        flags: {
          containerExitsDir: '/var/run/crio/exits',
          irqbalanceConfigFile: '/x',
          withNoPivot: 'true',
          profile: 'true',
          uidMappings: '',
        },
        env: { CONTAINER_TIME_ZONE: 'local', CONTAINER_METRICS_PORT: '9537', DISABLE_HOSTPORT_MAPPING: 'T' },
      },
    );
    assert.isTrue(config.runtime.noPivot);
    assert.isTrue(config.runtime.disableHostportMapping);
    assert.equal(config.runtime.timezone, 'Local');
    assert.equal(config.metrics.metricsPort, 9537);
    assert.deepEqual(warnings, [
      '--profile: --profile has no effect: /debug/pprof/profile on the CRI socket is there anyway, and `berth debug ' +
        'cpu` and `debug heap`',
    ]);
    assert.match(await refusal(load({}, { flags: { uidMappings: '0:1:2' } })), /^--uid-mappings: .*Remove it/);
  });

  it('warns about variables that nobody reads, with a guess, and leaves those of others alone', async () => {
    const env = {
      CONTAINER_LOG_LEVLE: 'debug',
      CONTAINER_HOST: 'x',
      CONTAINER_RUNTIME_ENDPOINT: 'x',
      CONTAINERS_CONF: 'x',
      CONTAINER_FROBNICATE: '',
    };
    assert.deepEqual((await load({}, { env })).warnings, [
      'unknown variable CONTAINER_FROBNICATE, ignoring',
      'unknown variable CONTAINER_LOG_LEVLE, ignoring (did you mean CONTAINER_LOG_LEVEL?)',
    ]);
  });

  it('takes whole handlers by --runtimes, as crio writes them', async () => {
    const runtimes = ['k:/opt/k:/run/k:oci:true::7.5MiB', 'j:/opt/j'];
    const { config } = await load({}, { flags: { runtimes } });
    const k = config.runtimes.get('k');
    assert.deepEqual(
      [k?.runtimePath, k?.runtimeRoot, k?.privilegedWithoutHostDevices, k?.containerMinMemoryBytes],
      ['/opt/k', '/run/k', true, 7_864_320n],
    );
    assert.equal(config.runtimes.get('j')?.runtimePath, '/opt/j');
  });

  const lines: readonly (readonly [given: string, seen: string])[] = [
    ['--log-level debug', '--log-level debug'],
    ['-l debug -c x', '--log-level debug --config x'],
    ['-log-level debug', '--log-level debug'],
    ['--drop-infra-ctr', '--drop-infra-ctr=true'],
    ['--drop-infra-ctr=false', '--drop-infra-ctr=false'],
    ['--drop-infra-ctr config --default', '--drop-infra-ctr=true config --default'],
    ['--root= ps -q', '--root= ps -q'],
    ['--root ps ps --log-level', '--root ps ps --log-level'],
    ['--no-pivot', '--with-no-pivot=true'],
    ['-no-pivot=false', '--with-no-pivot=false'],
    ['--nonsense x', '--nonsense x'],
    ['--help', '--help'],
    ['-v', '-v'],
    ['--root', '--root'],
  ];
  for (const [given, seen] of lines)
    it(`reads ${given}`, () => assert.deepEqual(argumentsOf(given.split(' ')), seen.split(' ')));

  const alone: readonly (readonly [given: string, values: object | undefined])[] = [
    ['', {}],
    ['-l debug --root=/x --root /y', { logLevel: 'debug', root: '/y' }],
    ['--root --config', { root: '--config' }],
    ['--drop-infra-ctr --no-pivot=false', { dropInfraCtr: 'true', withNoPivot: 'false' }],
    ['--hooks-dir /a,/b --hooks-dir=/c', { hooksDir: ['/a', '/b', '/c'] }],
    ['--log-level debug ps', undefined],
    ['--root', undefined],
    ['--nonsense x', undefined],
    ['--help', undefined],
    ['-v', undefined],
    ['--', undefined],
  ];
  for (const [given, values] of alone) {
    const what = values === undefined ? 'leaves to commander' : 'needs no commander for';
    it(`${what} ${given === '' ? 'no word' : given}`, () =>
      assert.deepEqual(readFlags(given.split(' ').filter((word) => word !== '')), values));
  }
});

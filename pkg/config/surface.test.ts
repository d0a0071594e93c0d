/** What CRI-O 1.36 has, all of it, given to Berth as CRI-O would be given it. */
import { assert } from 'chai';
import { CRIO_CONF, crioFlags, type CrioFlag, crioKeys, type FlagKind } from '../../scripts/crio/surface.ts';
import { load, MAIN } from './fake.ts';
import { argumentsOf, flags, readFlags } from './flags.ts';
import { handlerTable, ignoredTables, tables } from './schema.ts';
import type { FlagValues } from './index.ts';
import type { Table } from './option.ts';

/** Values of flags that take only some; others take what is usual for their kind. */
const SAMPLES: Readonly<Record<string, readonly string[]>> = {
  'additional-devices': ['/dev/null:/dev/other:rw', '/dev/zero'],
  'cgroup-manager': ['cgroupfs'],
  config: [''],
  'config-dir': [''],
  'default-capabilities': ['CHOWN', 'kill'],
  'default-env': ['A=1', 'B=2'],
  'conmon-env': ['A=1', 'B=2'],
  'default-runtime': ['runc'],
  'default-sysctls': ['net.ipv4.ping_group_range=0 2147483647', 'kernel.msgmax=1'],
  'default-ulimits': ['nofile=1024:2048', 'core=-1'],
  'image-volumes': ['bind'],
  'infra-ctr-cpuset': ['0-1'],
  'included-pod-metrics': ['cpu', 'diskIO'],
  'shared-cpuset': ['0-1'],
  listen: ['/run/x.sock'],
  'log-format': ['json'],
  'log-level': ['debug'],
  'log-size-max': ['65536'],
  'gid-mappings': [''],
  'uid-mappings': [''],
  runtimes: ['runc:/usr/bin/runc:/run/runc', 'x:/bin/x::oci:true::7.5MiB'],
  'short-name-mode': ['disabled'],
  'stream-idle-timeout': ['1h'],
  'stream-port': ['10010'],
  'storage-driver': ['overlay'],
  timezone: ['local'],
  'tls-cipher-suites': ['TLS_AES_128_GCM_SHA256'],
  'tls-min-version': ['VersionTLS13'],
};
const USUAL: Readonly<Record<FlagKind, readonly string[]>> = {
  text: ['/some/thing'],
  list: ['/some/a', '/some/b'],
  switch: ['false'],
  number: ['31'],
  duration: ['1m30s'],
};

function valuesOf({ name, kind }: CrioFlag): readonly string[] {
  return SAMPLES[name] ?? USUAL[kind];
}

/** The ways in which Go's flags take a value. */
function spellings({ name, kind, aliases }: CrioFlag, values: readonly string[]): readonly (readonly string[])[] {
  const names = [name, ...aliases].flatMap((each) => [`--${each}`, `-${each}`]);
  return names.flatMap((word): (readonly string[])[] => {
    if (kind === 'switch') return [[word], [`${word}=true`], [`${word}=false`], [`${word}=0`], [`${word}=T`]];
    const joined = values.join(',');
    const one = [[word, joined], [`${word}=${joined}`]];
    return kind === 'list' ? [...one, values.flatMap((value) => [word, value])] : one;
  });
}

describe('the surface of CRI-O 1.36', () => {
  it('has keys that are all known: each does something, or is a warning that says why not', () => {
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
    assert.isAbove(crioKeys.length, 150);
    for (const { table, key } of crioKeys) {
      // What is in these is read, or ignored, as one.
      if (/^crio\.(runtime\.workloads|nri\.default_validator)$/.test(table)) continue;
      const why = known.get(table)?.get(key);
      assert.isDefined(why, `${table}.${key}`);
      assert.match(why ?? '', /^(has no effect: .|is not implemented|puts every container|$)/, `${table}.${key}`);
    }
  });

  it('loads whole from a file that has every key, without a warning, since nothing is asked for', async () => {
    const { warnings, config, places } = await load(CRIO_CONF);
    assert.deepEqual(
      warnings.filter((each) => !each.includes('metrics_collectors')),
      [],
    );
    assert.equal(config.storage.root, '/var/lib/containers/storage');
    assert.equal(places.get('crio.image.pause_image'), `${MAIN}:${lineOf('pause_image =')}:1`);
  });

  it('loads from a file that has no key, table by table, and one where all of them are ""', async () => {
    for (const table of Object.values<Table>(tables)) await load(`[${table.name}]`);
    const empty = CRIO_CONF.replaceAll(/^([a-z_]+) = .*$/gm, '$1 = ""');
    const { config, warnings } = await load(empty);
    assert.deepEqual(warnings, []);
    const { config: builtIn } = await load('');
    for (const section of Object.keys(tables) as (keyof typeof tables)[])
      assert.deepEqual(config[section], builtIn[section], section);
  });

  for (const flag of crioFlags) {
    it(`has --${flag.name}, which is taken in all the ways that Go takes it`, async () => {
      const values = valuesOf(flag);
      for (const argv of spellings(flag, values)) {
        const given = readFlags(argv);
        assert.isDefined(given, argv.join(' '));
        await start(given ?? {}, {}, argv.join(' '));
        // What follows is not eaten.
        assert.deepEqual(argumentsOf([...argv, 'version']).at(-1), 'version', argv.join(' '));
      }
      for (const variable of flag.variables) {
        const { warnings } = await start({}, { [variable]: values.join(',') }, variable);
        assert.notInclude(warnings.join('\n'), 'unknown', variable);
      }
    });
  }

  it('has flags whose values arrive, from the command line and by variable', async () => {
    const given = readFlags(['--default-env', 'A=1,B=2', '-default-env=C=3', '--drop-infra-ctr=false', '-tz', 'local']);
    const { config } = await start(given ?? {}, { STREAM_IDLE_TIMEOUT: '2m', CONTAINER_READ_ONLY: '1' }, '');
    assert.deepEqual(
      [
        config.runtime.defaultEnv,
        config.runtime.dropInfraCtr,
        config.runtime.timezone,
        config.api.streamIdleTimeoutMs,
        config.runtime.readOnly,
      ],
      [['A=1', 'B=2', 'C=3'], false, 'Local', 120_000, true],
    );
  });

  it('is told of variables that nobody knows, with the one that was meant', async () => {
    const { warnings } = await start({}, { CONTAINER_LOG_LEVL: 'debug', CONTAINER_HOST: 'x' }, '');
    assert.deepEqual(warnings, ['unknown variable CONTAINER_LOG_LEVL, ignoring (did you mean CONTAINER_LOG_LEVEL?)']);
  });

  it('has one flag for each name', () => {
    assert.deepEqual(
      [...new Set(flags.map(({ name }) => name))],
      flags.map(({ name }) => name),
    );
  });
});

async function start(given: FlagValues, env: Readonly<Record<string, string>>, what: string): ReturnType<typeof load> {
  try {
    return await load('', { flags: given, env });
  } catch (error) {
    return assert.fail(`${what}: ${String(error)}`);
  }
}

function lineOf(beginning: string): number {
  return CRIO_CONF.split('\n').findIndex((line) => line.startsWith(beginning)) + 1;
}

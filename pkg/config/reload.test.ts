import { assert } from 'chai';
import { load } from './fake.ts';
import { type Config, planReload, renderConfig, withPart } from './index.ts';
import { reloadableKeys } from './reload.ts';
import { everyOption } from './schema.ts';

async function configOf(text: string): Promise<Config> {
  return (await load(text)).config;
}

describe('reload', () => {
  it('takes what may change by parts, and names what must wait, with old and new values', async () => {
    const before = await configOf('[crio.runtime]\nlog_level = "info"\n[crio]\nroot = "/a"');
    const after = await configOf(
      '[crio.runtime]\nlog_level = "debug"\nlog_filter = "x"\nseccomp_profile = "/s.json"\n[crio]\nroot = "/b"\n' +
        '[crio.image]\npinned_images = ["a"]',
    );
    const { parts, waiting } = planReload(before, after);
    assert.deepEqual(Object.fromEntries(parts), {
      log: [
        { key: 'crio.runtime.log_level', before: '"info"', after: '"debug"' },
        { key: 'crio.runtime.log_filter', before: '""', after: '"x"' },
      ],
      seccomp: [{ key: 'crio.runtime.seccomp_profile', before: '""', after: '"/s.json"' }],
      pinned: [{ key: 'crio.image.pinned_images', before: '[]', after: '["a"]' }],
    });
    assert.deepEqual(waiting, [{ key: 'crio.root', before: '"/a"', after: '"/b"' }]);
  });

  it('finds nothing to do for an equal configuration', async () => {
    const text = '[crio.runtime]\ndefault_env = ["A=1"]\n[crio.runtime.runtimes.k]\nruntime_path = "/k"';
    const { parts, waiting } = planReload(await configOf(text), await configOf(text));
    assert.deepEqual([parts.size, waiting], [0, []]);
  });

  it('takes the keys of one part and no other, and leaves both configurations as they are', async () => {
    const before = await configOf('');
    const after = await configOf(
      '[crio.runtime]\nlog_level = "debug"\nseccomp_profile = "/s.json"\ndefault_env = ["A=1"]\n' +
        '[crio.runtime.runtimes.k]\nruntime_path = "/k"',
    );
    const next = withPart(before, after, 'seccomp');
    assert.equal(next.runtime.seccompProfile, '/s.json');
    assert.deepEqual([next.runtime.logLevel, next.runtime.defaultEnv, next.runtimes.has('k')], ['info', [], false]);
    assert.equal(before.runtime.seccompProfile, '');
    assert.isTrue(Object.isFrozen(next) && Object.isFrozen(next.runtime));
  });

  it('remembers what waits: it is found again, until it is in force', async () => {
    const atStart = await configOf('[crio]\nroot = "/a"');
    const first = await configOf('[crio]\nroot = "/b"\n[crio.runtime]\nlog_level = "debug"');
    const inForce = withPart(atStart, first, 'log');
    const second = await configOf('[crio]\nroot = "/b"\n[crio.runtime]\nlog_level = "warn"');
    const plan = planReload(inForce, second);
    assert.deepEqual(
      plan.waiting.map(({ key }) => key),
      ['crio.root'],
    );
    assert.deepEqual(plan.parts.get('log'), [{ key: 'crio.runtime.log_level', before: '"debug"', after: '"warn"' }]);
    assert.deepEqual(planReload(inForce, await configOf('[crio]\nroot = "/a"')).waiting, []);
  });

  it('takes handlers whole: added, removed and changed, with the default one', async () => {
    const before = await configOf(
      '[crio.runtime.runtimes.gone]\nruntime_path = "/g"\n[crio.runtime.runtimes.k]\nruntime_path = "/k"',
    );
    const after = await configOf(
      '[crio.runtime]\ndefault_runtime = "new"\n[crio.runtime.runtimes.new]\nruntime_path = "/n"\n' +
        '[crio.runtime.runtimes.k]\nruntime_path = "/k"\nno_sync_log = true\ncontainer_create_timeout = 60',
    );
    const changes = planReload(before, after).parts.get('runtimes') ?? [];
    assert.deepEqual(
      changes.map(({ key }) => key.replace('crio.runtime.', '')),
      ['default_runtime', 'runtimes.gone', 'runtimes.k', 'runtimes.new'],
    );
    assert.deepEqual(changes[2], {
      key: 'crio.runtime.runtimes.k',
      before: '{ container_create_timeout = 240, no_sync_log = false }',
      after: '{ container_create_timeout = 60, no_sync_log = true }',
    });
    assert.match(changes[1]?.before ?? '', /^\{ runtime_path = "\/g", /);
    assert.equal(changes[1]?.after, 'none');
    const next = withPart(before, after, 'runtimes');
    assert.deepEqual([next.runtime.defaultRuntime, [...next.runtimes.keys()]], ['new', [...after.runtimes.keys()]]);
  });

  it('moves no state of runtimes along with a runroot that waits', async () => {
    const before = await configOf('[crio]\nrunroot = "/a"');
    const after = await configOf('[crio]\nrunroot = "/b"\n[crio.runtime.runtimes.k]\nruntime_path = "/k"');
    const plan = planReload(before, after);
    assert.deepEqual(
      plan.parts.get('runtimes')?.map(({ key }) => key),
      ['crio.runtime.runtimes.k'],
    );
    assert.equal(withPart(before, after, 'runtimes').runtimes.get('k')?.runtimeRoot, '/a/runtimes/k');
  });

  it('is what the printed configuration says of each key', async () => {
    const printed = renderConfig(await configOf(''), { comment: 'none', docs: 'with' }).split('\n\n');
    for (const { table, option } of everyOption) {
      const paragraph = printed.find((each) => each.includes(`\n${option.key} = `)) ?? assert.fail(option.key);
      assert.equal(
        paragraph.replaceAll('\n# ', ' ').includes('Reloads on SIGHUP.'),
        reloadableKeys.includes(`${table.name}.${option.key}`),
        option.key,
      );
    }
  });
});

import { assert } from 'chai';
import { DROP_INS, load, MAIN, refusal } from './fake.ts';

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

  it('drops one with a word that nobody knows, where CRI-O drops it, unless it is the default one', async () => {
    for (const [text, said] of [
      ['runtime_type = "shim"', 'runtime_type "shim" is not supported, only "oci"'],
      [
        'runtime_path = "/opt/kata"\nexec_cpu_affinity = "second"',
        'exec_cpu_affinity "second" is neither "first" nor ""',
      ],
    ] as const) {
      const table = `[crio.runtime.runtimes.odd]\n${text}`;
      const { config, warnings } = await load(table, { node });
      assert.deepEqual([...config.runtimes.keys()], ['crun']);
      assert.deepEqual(warnings, [`runtime handler odd is left out: ${said}`]);
      const refused = await refusal(load(`${table}\n[crio.runtime]\ndefault_runtime = "odd"`, { node }));
      assert.include(refused, `the default runtime handler odd cannot be used: ${said}`);
    }
  });

  it('goes on without the default one when its program is missing: others are needed', async () => {
    const { config, warnings } = await load('[crio.runtime]\ndefault_runtime = "runc"', { node });
    assert.deepEqual([...config.runtimes.keys()], ['crun']);
    assert.equal(config.runtime.defaultRuntime, 'runc');
    assert.deepEqual(warnings, [
      'the default runtime handler runc is left out: runtime_path is not set and there is no runc in PATH',
    ]);
  });

  it('refuses to start when the default one is none that there could be', async () => {
    const text = '[crio.runtime]\ndefault_runtime = "kata"\n[crio.runtime.runtimes.kata]\nmonitor_cgroup = "x"';
    assert.match(
      await refusal(load(text, { node })),
      /default runtime handler kata cannot be used: monitor_cgroup "x"/,
    );
  });

  it('takes the table of a later file whole, as CRI-O does, and says what is gone with the earlier one', async () => {
    const texts = {
      [MAIN]:
        '[crio.runtime.runtimes.kata]\nruntime_path = "/opt/kata"\nallowed_annotations = ["devices.crio.io"]\n' +
        'default_annotations = { "a" = "1" }',
      [`${DROP_INS}/1`]: '[crio.runtime.runtimes.kata]\nruntime_path = "/opt/kata"\nmonitor_cgroup = "x.slice"',
    };
    const { config, warnings } = await load(texts, { node });
    const kata = config.runtimes.get('kata');
    assert.deepEqual(
      [kata?.runtimePath, kata?.allowedAnnotations, kata?.defaultAnnotations.size, kata?.monitorCgroup],
      ['/opt/kata', [], 0, 'x.slice'],
      'what an administrator took away by writing the table anew is not allowed any more',
    );
    assert.match(
      warnings.join('\n'),
      /1:1:1: crio\.runtime\.runtimes\.kata .*allowed_annotations, default_annotations/,
    );
  });

  it('takes --runtimes in place of the table of that name, and beside the others', async () => {
    const { config } = await load(
      '[crio.runtime.runtimes.kata]\nruntime_path = "/opt/kata"\nallowed_annotations = ["devices.crio.io"]\n' +
        '[crio.runtime.runtimes.k3]\nruntime_path = "/opt/kata"\nallowed_annotations = ["devices.crio.io"]',
      { node, flags: { runtimes: ['k2:/opt/kata:/run/k2:oci:true', 'kata:/opt/kata:/run/k'] } },
    );
    const k2 = config.runtimes.get('k2');
    assert.deepEqual(
      [k2?.runtimePath, k2?.runtimeRoot, k2?.privilegedWithoutHostDevices],
      ['/opt/kata', '/run/k2', true],
    );
    const allowed = ['kata', 'k3'].map((name) => config.runtimes.get(name)?.allowedAnnotations);
    assert.deepEqual(allowed, [[], ['devices.crio.io']]);
  });

  it('inherits from crun where nobody names a default one, as with CRI-O, or from what would be used', async () => {
    const table = '[crio.runtime.runtimes.high]\ninherit_default_runtime = true';
    const { config, warnings } = await load(table, { node });
    assert.deepEqual([config.runtimes.get('high')?.runtimePath, warnings], ['/usr/bin/crun', []]);
    const runcOnly = { ...node, findExecutable: (name: string) => (name === 'runc' ? '/sbin/runc' : undefined) };
    assert.equal((await load(table, { node: runcOnly })).config.runtimes.get('high')?.runtimePath, '/sbin/runc');
    const bare = await load(table, { node: { ...node, findExecutable: () => undefined } });
    assert.deepEqual(bare.warnings, [
      'runtime handler high is left out: inherit_default_runtime needs a default_runtime, or crun or runc in PATH',
    ]);
  });

  it('takes a handler of conmon-rs as one of conmon, which watches it, even the default one', async () => {
    const text =
      '[crio.runtime]\ndefault_runtime = "kata"\n[crio.runtime.runtimes.kata]\nruntime_path = "/opt/kata"\n' +
      'runtime_type = "pod"\nmonitor_path = "/no/conmonrs"';
    const { config, warnings } = await load(text, { node });
    const kata = config.runtimes.get('kata');
    assert.deepEqual([kata?.runtimePath, kata?.monitorPath], ['/opt/kata', '']);
    assert.deepEqual(warnings, ['runtime handler kata is watched by conmon: its runtime_type "pod" is conmon-rs\'s']);
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
      /berth\.conf:8:1: crio\.runtime\.runtimes\.high\.container_create_timeout is below 30 seconds, using 30/,
    );
  });
});

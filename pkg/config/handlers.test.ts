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
      /berth\.conf:8:1: crio\.runtime\.runtimes\.high\.container_create_timeout is below 30 seconds, using 30/,
    );
  });
});

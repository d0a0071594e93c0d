import { assert } from 'chai';
import { runtimeAsCrio } from './as-crio.ts';
import { load } from './fake.ts';

describe('The configuration as CRI-O shows it', () => {
  it('has the names of its fields, also of handlers, and the values of a file', async () => {
    const { config } = await load(
      [
        '[crio.runtime]',
        'cgroup_manager = "cgroupfs"',
        'infra_ctr_cpuset = "0-1"',
        'cdi_spec_dirs = ["/etc/cdi"]',
        'default_ulimits = ["nofile=1:2"]',
        'pids_limit = 512',
        '[crio.runtime.runtimes.kata-x]',
        'runtime_path = "/usr/bin/kata"',
      ].join('\n'),
    );
    const shown = runtimeAsCrio(config);
    assert.deepInclude(shown, {
      CgroupManagerName: 'cgroupfs',
      InfraCtrCPUSet: '0-1',
      CDISpecDirs: ['/etc/cdi'],
      DefaultUlimits: ['nofile=1:2'],
      PidsLimit: 512,
      HostNetworkDisableSELinux: true,
    });
    assert.deepInclude((shown['Runtimes'] as Record<string, object>)['kata-x'], { RuntimePath: '/usr/bin/kata' });
    assert.hasAllKeys(shown['Runtimes'], ['kata-x', ...config.runtimes.keys()]);
    assert.doesNotThrow(() => JSON.stringify(shown));
  });
});

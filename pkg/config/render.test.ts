import { assert } from 'chai';
import { readFile, writeFile } from 'node:fs/promises';
import { load } from './fake.ts';
import { renderConfig } from './index.ts';

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
